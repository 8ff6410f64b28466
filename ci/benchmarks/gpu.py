"""Time bp_xp on a GPU against what a user would otherwise run there, and against the CPU.

    python ci/benchmarks/gpu.py [SECTION ...] [--json FILE] [--plot FILE] [--device cuda]

- small, medium, huge: a training step, in microseconds.
- crossover: networks [784, width, 10] by width and batch, on the GPU and on the CPU: from which
  size a GPU is faster.

The race is that of run.py. All products are of float32 numbers with all their digits: no library
rounds them to TF32. ``--device cpu`` rehearses with what runs on a CPU, and times nothing of note.
"""

import argparse
import functools
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from peers import Run, Workload, jax_by_hand, ours, torch_by_hand, torch_eager, torch_waited
from run import WORKLOADS as ON_A_CPU
from run import (
    Contestants,
    Sections,
    machine,
    measure,
    print_table,
    read_arguments,
    run_sections,
)

WORKLOADS = {
    "small": (*ON_A_CPU["small"][:-1], 512),
    "medium": (*ON_A_CPU["medium"][:-1], 64),
    "huge": ([4096, 4096, 4096, 4096], "relu", "categorical_cross_entropy", 4096, 4),
}
"""Sizes, activation of the hidden layers, cost, batch size, steps in a round."""

WIDTHS, BATCHES = (16, 64, 256, 1024, 4096), (1, 10, 100, 1000)


def products_alone(work: Workload, *, device: str) -> Run:
    """Return the matrix products of a step, by PyTorch: the floor where arithmetic dominates."""
    import torch

    W = [torch.asarray(w, device=device) for w, _ in work.parameters()]
    A = [torch.ones(work.batch, n, device=device) for n in work.sizes]

    def steps() -> None:
        for _ in range(work.steps):
            for l, w in enumerate(W):  # noqa: E741
                torch.mm(A[l], w.T)
                torch.mm(A[l + 1].T, A[l])
                if l:
                    torch.mm(A[l + 1], w)

    return torch_waited(steps, device)


def contestants_on(device: str) -> Contestants:
    """Return what races on a device; on a CPU, NumPy replaces CuPy."""
    own = "cupy" if device == "cuda" else "numpy"
    on = functools.partial
    race: Contestants = {
        f"bp_xp, {own}": on(ours, backend=own, device=device),
        f"bp_xp, {own}, plain loop": on(ours, backend=own, device=device, engine="plain"),
        "bp_xp, PyTorch": on(ours, backend="torch", device=device),
        "bp_xp, JAX": on(ours, backend="jax", device=device),
        "PyTorch eager": on(torch_eager, device=device),
        "torch.compile": on(torch_eager, compiled=True, device=device),
        "PyTorch by hand": on(torch_by_hand, device=device),
        "JAX jit + scan": on(jax_by_hand, scan=True, device=device),
        "matrix products alone": on(products_alone, device=device),
    }
    if device == "cuda":
        race["PyTorch, CUDA graph"] = on(torch_eager, graphed=True, device=device)
        race["by hand, CUDA graph"] = on(torch_by_hand, graphed=True, device=device)
    return race


def steps(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Time a step of one of the workloads."""
    sizes, activation, cost, batch, n_steps = WORKLOADS[name]
    if args.device == "cpu":  # a rehearsal
        sizes, batch, n_steps = [min(n, 64) for n in sizes], min(batch, 8), min(n_steps, 8)
    work = Workload(name, sizes, activation, cost, batch, n_steps)
    print(f"\n{name}: {work.sizes} {work.activation}, {work.cost}, batch {work.batch}", flush=True)
    figures = measure(
        contestants_on(args.device), work, seconds=args.seconds, rounds=5, only=args.only
    )
    print_table(figures, "µs a step")
    return figures


def crossover(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time networks of many widths and mini-batches on the GPU and on the CPU."""
    libraries = ["cupy", "torch", "jax"] if args.device == "cuda" else ["torch", "jax"]
    race: Contestants = {
        "numpy cpu": functools.partial(ours, backend="numpy"),
        **{
            f"{name} {args.device}": functools.partial(ours, backend=name, device=args.device)
            for name in libraries
        },
    }
    print("\ncrossover: [784, width, 10] sigmoid, quadratic, µs a step")
    print(f"{'width':>6}{'batch':>6}" + "".join(f"{name:>14}" for name in race), flush=True)
    rows = []
    for width in WIDTHS[:2] if args.device == "cpu" else WIDTHS:
        for batch in BATCHES[:2] if args.device == "cpu" else BATCHES:
            n_steps = max(8, 256 // batch)
            work = Workload("", [784, width, 10], "sigmoid", "quadratic", batch, n_steps)
            figures = measure(race, work, seconds=args.seconds / 20, rounds=3, only=[])
            cells = "".join(f"{figures.get(name, float('nan')):14,.1f}" for name in race)
            print(f"{width:6}{batch:6}{cells}", flush=True)
            rows.append({"width": width, "batch": batch, "microseconds": figures})
    if args.plot:
        plot_crossover(rows, args.plot)
    return rows


def plot_crossover(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw how many times as fast as the CPU each GPU library is: 1 is the crossover."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    widths = sorted({row["width"] for row in rows})
    cpu, *others = rows[0]["microseconds"]
    figure, panels = plt.subplots(
        1, len(others), figsize=(4.5 * len(others), 4.0), sharey=True, squeeze=False
    )
    for axes, name in zip(panels[0], others, strict=True):
        for batch in sorted({row["batch"] for row in rows}):
            chosen = [r for r in rows if r["batch"] == batch and name in r["microseconds"]]
            speeds = [r["microseconds"][cpu] / r["microseconds"][name] for r in chosen]
            axes.plot([r["width"] for r in chosen], speeds, "o-", label=f"batch {batch}")
        axes.axhline(1.0, color="0.5", linewidth=1.0)
        axes.set(xscale="log", yscale="log", title=f"bp_xp, {name}", xlabel="hidden neurons")
        axes.set_xticks(widths, [f"{width:,}" for width in widths])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0][0].set_ylabel(f"times as fast as {cpu}")
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def facts_on(device: str) -> dict[str, Any]:
    """Return what the figures depend on, and name, driver and memory of the GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        gpu = f"none: {error}"
    facts = {"gpu": gpu, **machine()}
    if device == "cuda":
        import cupy

        facts["cupy"] = cupy.__version__
    return facts


SECTIONS: Sections = {
    **{name: functools.partial(steps, name) for name in WORKLOADS},
    "crossover": crossover,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--plot", type=Path, help="draw the crossover to this file")
    args = read_arguments(parser, SECTIONS, seconds=10.0)
    try:
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    except ImportError:
        print("JAX is not installed")

    run_sections(SECTIONS, args, functools.partial(facts_on, args.device))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
