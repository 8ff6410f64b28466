"""Race two versions of bp_xp: is a step of one slower than of the other?

    python ci/benchmarks/versions.py FOLDER_OF_THE_OTHER [--rounds 15] [--json FILE]

Three processes take turns: this version, the other version, and this version again, which shows the
variation of the machine itself. In each round, each of them calls ``fit`` once on every workload,
in random order. The script prints medians in microseconds per step, and the ratio this / other (and
this / this) with its 95 % interval, by resampling the rounds.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WORKLOADS = {
    "small": ([784, 30, 10], "sigmoid", "quadratic", 10, 2000),
    "medium": ([784, 512, 512, 10], "relu", "categorical_cross_entropy", 128, 60),
    "large": ([784, 2048, 2048, 2048, 10], "relu", "categorical_cross_entropy", 512, 3),
    "full_batch": ([12288, 20, 7, 5, 1], "relu", "binary_cross_entropy", 200, 1),
}
"""Sizes, activation of the hidden layers, cost, batch size, steps of an epoch."""

EPOCHS = {"full_batch": 60}
_RESAMPLED = 4000


# ---------------------------------------------------------------------------------------------
# A version, in a process of its own


def serve() -> None:
    """Answer lines of [workload, backend] with the seconds that a step took in one fit."""
    from bp_xp import SGD, Network

    made: dict[tuple[str, str], Any] = {}
    for line in sys.stdin:
        name, backend = json.loads(line)
        sizes, activation, cost, batch, steps = WORKLOADS[name]
        epochs = EPOCHS.get(name, 1)
        if (name, backend) not in made:
            rng = np.random.default_rng(0)
            network = Network(sizes, activation=activation, cost=cost, backend=backend, seed=0)
            x = network.asarray(rng.standard_normal((batch * steps, sizes[0]), dtype=np.float32))
            y = rng.integers(max(sizes[-1], 2), size=batch * steps)
            made[name, backend] = network, x, y
        network, x, y = made[name, backend]
        begun = time.perf_counter()
        network.fit(x, y, epochs=epochs, batch_size=batch, optimizer=SGD(1e-3), progress=False)
        print(json.dumps((time.perf_counter() - begun) / (steps * epochs)), flush=True)


class Version:
    """A process that serves a version."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(folder)}
        command = [sys.executable, __file__, "--serve"]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def time(self, workload: str, backend: str) -> float:
        """Return the seconds of a step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([workload, backend]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


# ---------------------------------------------------------------------------------------------
# The race


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the median of some ratios, and its 95 % interval."""
    rng = np.random.default_rng(0)
    draws = rng.choice(ratios, (_RESAMPLED, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return statistics.median(ratios), float(low), float(high)


def main() -> None:
    """Race."""
    parser = argparse.ArgumentParser(description="Race two versions of bp_xp")
    parser.add_argument("other", type=Path, nargs="?", help="the folder of the other version")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--backends", default="numpy,torch,jax")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    if given.other is None:
        parser.error("name the folder of the other version")
    here = Path(__file__).resolve().parents[2]
    versions = {
        "this": Version(here),
        "other": Version(given.other.resolve()),
        "again": Version(here),
    }
    pairs = list(itertools.product(given.workloads.split(","), given.backends.split(",")))
    for pair in pairs:  # compiles, and loads what is loaded at first use
        for version in versions.values():
            version.time(*pair)
            version.time(*pair)
    seconds: dict[tuple[str, str], dict[str, list[float]]] = {
        pair: {name: [] for name in versions} for pair in pairs
    }
    shuffled = random.Random(0)
    for _ in range(given.rounds):
        for pair in shuffled.sample(pairs, len(pairs)):
            for name in shuffled.sample(list(versions), len(versions)):
                seconds[pair][name].append(versions[name].time(*pair))
    rows = []
    for (workload, backend), times in seconds.items():
        row: dict[str, Any] = {"workload": workload, "backend": backend}
        row |= {f"{name} µs": statistics.median(ts) * 1e6 for name, ts in times.items()}
        for name, against in (("this / other", "other"), ("this / this", "again")):
            ratios = [a / b for a, b in zip(times["this"], times[against], strict=True)]
            row[name] = interval(ratios)
        rows.append(row)
        median, low, high = row["this / other"]
        same, same_low, same_high = row["this / this"]
        print(
            f"{workload:10} {backend:6} {row['this µs']:10.1f} µs against "
            f"{row['other µs']:10.1f}: {median:.3f} [{low:.3f}, {high:.3f}]; by itself "
            f"{same:.3f} [{same_low:.3f}, {same_high:.3f}]",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
