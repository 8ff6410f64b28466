"""Time a training step of bp_xp against what a user would otherwise run.

    python -m pip install -e ".[bench]"
    python ci/benchmarks/run.py [--workloads small medium large] [--json FILE]

Rounds of all contestants take turns in one process, so that a machine that slows down slows all of
them; medians of the rounds are printed, in microseconds a step, and their ratios to ours. A library
that is not installed is left out by name. Every contestant gets the same data, batch, dtype
(float32) and number of threads.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from peers import PEERS, Workload

WORKLOADS = {
    "small": ([784, 30, 10], "sigmoid", "quadratic", 10, 100),
    "medium": ([784, 512, 512, 10], "relu", "categorical_cross_entropy", 128, 8),
    "large": ([784, 2048, 2048, 2048, 10], "relu", "categorical_cross_entropy", 512, 1),
}


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


def measure(work: Workload, seconds: float, only: list[str]) -> dict[str, float]:
    """Return the median time of a step of each contestant, in microseconds."""
    runs = {}
    for name, make in PEERS.items():
        if only and not any(part in name for part in only):
            continue
        try:
            run = make(work)
            if run is None:
                continue
            for _ in range(2):  # compile, warm up
                run()
            runs[name] = run
        except ImportError as error:
            print(f"  left out: {name} ({error})")
        except Exception as error:  # a contestant that fails does not end the race
            print(f"  left out: {name} ({type(error).__name__}: {str(error).splitlines()[0]})")
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            time.sleep(0.05)  # the threads of the one before wait for more work by spinning
            run()  # brings data and code back to the caches
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(each) / work.steps for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each workload")
    parser.add_argument("--only", nargs="+", default=[], help="contestants with this in their name")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    results = {}
    for name in args.workloads:
        work = Workload(name, *WORKLOADS[name])
        print(f"\n{name}: {work.sizes} {work.activation}, {work.cost}, batch {work.batch}")
        figures = results[name] = measure(work, args.seconds, args.only)
        base = next(iter(figures.values()))
        for contestant, microseconds in figures.items():
            print(f"  {contestant:22} {microseconds:12,.1f} µs a step {microseconds / base:8.2f}")
    facts = machine()
    print("\n" + "\n".join(f"{key}: {value}" for key, value in facts.items()))
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "microseconds": results}, indent=2))


if __name__ == "__main__":
    main()
