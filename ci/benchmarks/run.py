"""Time bp_xp against what a user would otherwise run.

    python -m pip install -e ".[bench]"
    python ci/benchmarks/run.py [SECTION ...] [--json FILE]

- small, medium, large, full_batch: a training step, in microseconds.
- sweep: the medium network with mini-batches of 1 to 4096, in microseconds a sample.
- epoch: 50,000 samples shuffled, in mini-batches of 10, and an evaluation of 10,000.
- memory: megabytes that a run needs.
- fits: scikit-learn's classifier and ours in its place, on MNIST, in seconds.

Rounds of all contestants take turns in one process, in another order each time, so that a machine
that slows down slows all of them; medians of the rounds are printed, and their ratios to the first.
A library that is not installed is left out by name. Every contestant gets the same data, batch,
dtype (float32) and number of threads.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from epochs import EPOCHS
from fits import FITS, SOLVERS, load_images
from peers import PEERS, Run, Workload

WORKLOADS = {
    "small": ([784, 30, 10], "sigmoid", "quadratic", 10, 100),
    "medium": ([784, 512, 512, 10], "relu", "categorical_cross_entropy", 128, 8),
    "large": ([784, 2048, 2048, 2048, 10], "relu", "categorical_cross_entropy", 512, 1),
    "full_batch": ([12288, 20, 7, 5, 1], "relu", "binary_cross_entropy", 200, 4),
}
"""Sizes, activation of the hidden layers, cost, batch size, steps in a round."""

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
SWEPT = (
    "bp_xp, NumPy",
    "bp_xp, PyTorch",
    "bp_xp, JAX",
    "NumPy by hand",
    "PyTorch eager",
    "JAX jit + scan",
    "scikit-learn",
    "matrix products alone",
)

Contestants = Mapping[str, Callable[[Workload], Run | None]]
Sections = Mapping[str, Callable[[argparse.Namespace], Any]]


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "numpy": np.__version__,
    }
    avx512 = False
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts["processor"] = next(li for li in lines if "model name" in li).partition(": ")[2]
        avx512 = any("avx512f" in li for li in lines)
    for name in ("torch", "jax", "sklearn", "keras"):
        if name in sys.modules:
            facts[name] = sys.modules[name].__version__
    try:
        import threadpoolctl
    except ImportError:
        facts["blas"] = "unknown: threadpoolctl is not installed"
        return facts
    pools = threadpoolctl.threadpool_info()
    facts["blas"] = [
        f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture', '')} "
        f"{pool['num_threads']} thread(s)"
        for pool in pools
    ]
    narrow = [p for p in pools if p.get("architecture") in ("Haswell", "Zen", "Sandybridge")]
    if avx512 and narrow:
        facts["warning"] = (
            "the processor has AVX-512, but the BLAS runs narrower kernels "
            f"({narrow[0]['architecture']}): is OPENBLAS_CORETYPE set in the environment?"
        )
    return facts


def measure(
    contestants: Contestants, work: Workload, *, seconds: float, rounds: int, only: list[str]
) -> dict[str, float]:
    """Return the median time of a step of each contestant, in microseconds."""
    runs = prepare(contestants, work, only=only, warm_ups=2)
    medians = race(runs, seconds=seconds, rounds=rounds, warm_ups=1)
    return {name: 1e6 * median / work.steps for name, median in medians.items()}


def prepare(
    contestants: Mapping[str, Callable[..., Any]], *given: Any, only: list[str], warm_ups: int = 0
) -> dict[str, Callable[[], Any]]:
    """Return what each contestant runs, by its name; those that can't are left out by name."""
    runs = {}
    for name, make in contestants.items():
        if only and not any(part in name for part in only):
            continue
        try:
            run = make(*given)
            if run is None:
                continue
            for _ in range(warm_ups):  # compile, warm up
                run()
            runs[name] = run
        except ImportError as error:
            print(f"  left out: {name} ({error})")
        except Exception as error:  # a contestant that fails does not end the race
            print(f"  left out: {name} ({type(error).__name__}: {str(error).splitlines()[0]})")
    return runs


def race(
    runs: Mapping[str, Callable[[], Any]], *, seconds: float, rounds: int, warm_ups: int = 0
) -> dict[str, float]:
    """Let all run in turns, for so long and so many rounds at least; return medians in seconds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, turns = list(runs), random.Random(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < rounds:
        turns.shuffle(order)  # what ran before leaves its mark: it is another each time
        for name in order:
            run = runs[name]
            time.sleep(0.05)  # the threads of the one before wait for more work by spinning
            for _ in range(warm_ups):
                run()  # brings data and code back to the caches
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def print_table(figures: dict[str, float], unit: str) -> None:
    first = next(iter(figures.values()))
    for contestant, value in figures.items():
        print(f"  {contestant:24} {value:12,.1f} {unit} {value / first:8.2f}")


def steps(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Time a step of one of the workloads."""
    work = Workload(name, *WORKLOADS[name])
    print(f"\n{name}: {work.sizes} {work.activation}, {work.cost}, batch {work.batch}")
    figures = measure(PEERS, work, seconds=args.seconds, rounds=5, only=args.only)
    print_table(figures, "µs a step")
    return figures


def sweep(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time the medium network with mini-batches of many sizes, in microseconds a sample."""
    sizes, activation, cost, *_ = WORKLOADS["medium"]
    contestants = {name: PEERS[name] for name in SWEPT}
    table: dict[str, dict[str, float]] = {}
    for batch in BATCHES:
        work = Workload("sweep", sizes, activation, cost, batch, max(1, 256 // batch))
        figures = measure(contestants, work, seconds=args.seconds / 4, rounds=5, only=args.only)
        table[str(batch)] = {name: value / batch for name, value in figures.items()}
    print(f"\nsweep: {sizes} {activation}, {cost}, µs a sample by batch size")
    print(" " * 24 + "".join(f"{batch:>10,}" for batch in BATCHES))
    for name in next(iter(table.values())):
        print(
            f"  {name:22}"
            + "".join(f"{row.get(name, float('nan')):10.2f}" for row in table.values())
        )
    return table


def epoch(args: argparse.Namespace) -> dict[str, float]:
    """Time an epoch of the small network, in seconds."""
    sizes, activation, cost, batch, _ = WORKLOADS["small"]
    work = Workload("epoch", sizes, activation, cost, batch, 50_000 // batch)
    print(f"\nepoch: {sizes} {activation}, {cost}, batch {batch}, 50,000 samples, 10,000 evaluated")
    figures = measure(EPOCHS, work, seconds=args.seconds, rounds=3, only=args.only)
    seconds = {name: value * work.steps / 1e6 for name, value in figures.items()}
    print_table({name: 1e3 * value for name, value in seconds.items()}, "ms an epoch")
    return seconds


def memory(_: argparse.Namespace) -> dict[str, float]:
    """Measure a run on NumPy in a separate process, in megabytes."""
    program = Path(__file__).with_name("memory.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    print("\nmemory: " + ", ".join(f"{name} {value:,} MB" for name, value in figures.items()))
    return figures


def fits(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Time whole fits of the estimators, in seconds, and tell their errors on the test images."""
    table: dict[str, dict[str, list[float]]] = {}
    images = load_images()
    for solver in SOLVERS:
        runs = prepare(FITS, images, solver, only=args.only)
        medians = race(runs, seconds=0.0, rounds=5)
        # The same random_state gives the same network each time.
        scores = {name: run().score(images.x_test, images.y_test) for name, run in runs.items()}
        errors = {name: 1.0 - float(score) for name, score in scores.items()}
        print(
            f"\nfits: [784, 100, 100, 10] relu, {solver}, MNIST, and the error on its test images"
        )
        first = next(iter(medians.values()))
        for name, seconds in medians.items():
            print(f"  {name:30} {seconds:8.2f} s {seconds / first:8.2f} {errors[name]:9.2%}")
        table[solver] = {name: [medians[name], errors[name]] for name in runs}
    return table


SECTIONS: Sections = {
    **{name: functools.partial(steps, name) for name in WORKLOADS},
    "sweep": sweep,
    "epoch": epoch,
    "memory": memory,
    "fits": fits,
}


def read_arguments(
    parser: argparse.ArgumentParser, sections: Sections, *, seconds: float
) -> argparse.Namespace:
    """Return the arguments of a benchmark of some sections."""
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections)}")
    parser.add_argument("--seconds", type=float, default=seconds, help="of each section")
    parser.add_argument("--only", nargs="+", default=[], help="contestants with this in their name")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    if unknown := set(args.sections) - set(sections):
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(sections)}")
    return args


def run_sections(
    sections: Sections, args: argparse.Namespace, facts_now: Callable[[], dict[str, Any]]
) -> None:
    """Run the sections that were asked for, or all; print and write what the figures depend on."""
    warnings.simplefilter("ignore")
    results = {name: sections[name](args) for name in args.sections or sections}
    facts = facts_now()
    print("\n" + "\n".join(f"{key}: {value}" for key, value in facts.items()))
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    args = read_arguments(parser, SECTIONS, seconds=20.0)
    if warning := machine().get("warning"):
        print(f"warning: {warning}")
    run_sections(SECTIONS, args, machine)


if __name__ == "__main__":
    main()
