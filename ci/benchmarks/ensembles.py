"""Many networks at once, compared with the same networks one after the other and alternatives.

    python -m pip install -e ".[bench]"
    python ci/benchmarks/ensembles.py [SECTION ...] [--rounds 5] [--share 1.0] [--json FILE]

Each section has one shape and batch size, and stacks of 8 or of 8, 32 and 128 networks with sigmoid
neurons, softmax and the cross-entropy. Every contestant gets the same samples, learning rate, dtype
(float32) and number of epochs, and shuffles in each epoch; what is timed is the whole of its
training: ``Ensemble.fit`` with its checks, orders, costs and accuracies.

- Stacks of bp_xp on NumPy, PyTorch and JAX, with an order for each network or one for all, and
  the same networks one after the other.
- vmap and scan written by hand in JAX: samples on the device, an epoch is one program, which
  gathers the mini-batches, and is given the orders; parameters are donated.
- A stack written by hand in NumPy, every result in memory allocated once, without costs.
- scikit-learn's MLPClassifier in two processes of joblib.

The rounds of all contestants alternate in one process. If networks run one after the other, eight
of them do, or sixteen of scikit-learn: the time of more is proportional. The script prints medians
as two Markdown tables: microseconds per network and step, with the speed relative to the same
engine one after the other; and the additional seconds of the first fit, for compiling, recording or
starting processes. It takes about six minutes on two cores; with ``--share 0.05 --rounds 1``, it
only shows that everything works.
"""

import argparse
import functools
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from peers import RATE, Run, Workload, jax_step, numpy_step, sklearn_model
from run import machine, prepare, race, read_arguments, run_sections

SHAPES: dict[str, tuple[list[int], int, int, int, tuple[int, ...]]] = {
    "digits": ([64, 30, 10], 10, 300, 3, (8, 32, 128)),
    "mnist": ([784, 30, 10], 10, 300, 2, (8, 32, 128)),
    "digits_wide": ([64, 256, 10], 128, 60, 3, (8,)),
    "mnist_wide": ([784, 512, 10], 128, 20, 2, (8,)),
}
"""Sizes, batch size, mini-batches of an epoch, epochs, numbers of networks."""

SAMPLES = "sigmoid", "categorical_cross_entropy"
ENGINES = {"NumPy": "numpy", "PyTorch": "torch", "JAX": "jax"}
ALONE = "one after the other"

Figures = dict[str, dict[str, float]]
"""By contestant: ``"step"``, µs a network and step, and ``"first"``, seconds of the first fit more
than of a later one."""


# ---------------------------------------------------------------------------------------------
# bp_xp


def our_networks(work: Workload, n: int, epochs: int, backend: str) -> tuple[Any, dict[str, Any]]:
    """Return an ensemble, and what its ``fit`` is given."""
    from bp_xp import SGD, Ensemble

    ensemble = Ensemble(
        work.sizes,
        members=n,
        activation=work.activation,
        cost=work.cost,
        backend=backend,
        device="cpu",
        seed=0,
    )
    return ensemble, {
        "x": ensemble.placement.asarray(work.x),
        "y": ensemble.placement.asarray(work.y),
        "epochs": epochs,
        "batch_size": work.batch,
        "optimizer": SGD(RATE),
        "progress": False,
    }


def stack(work: Workload, n: int, epochs: int, *, backend: str, shared: bool = False) -> Run:
    """Return the training of a stack."""
    ensemble, given = our_networks(work, n, epochs, backend)
    return lambda: ensemble.fit(**given, shared_order=shared)


def one_after_the_other(work: Workload, n: int, epochs: int, *, backend: str) -> Run:
    """Return the training of the members of the same stack, each alone."""
    ensemble, given = our_networks(work, n, epochs, backend)
    networks = list(ensemble)
    return lambda: [network.fit(**given) for network in networks]


# ---------------------------------------------------------------------------------------------
# What else there is


def stacked_parameters(work: Workload, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return parameters of n networks, shapes (n, O, I) and (n, O)."""
    rng = np.random.default_rng(1)
    return [
        (
            (rng.standard_normal((n, n_out, n_in)) / np.sqrt(n_in)).astype(np.float32),
            np.zeros((n, n_out), np.float32),
        )
        for n_in, n_out in itertools.pairwise(work.sizes)
    ]


def draw_orders(work: Workload, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of an epoch's mini-batches, in an order for each network.

    Their shape is (steps, n, batch).
    """
    orders = [rng.permutation(len(work.x)).reshape(work.steps, work.batch) for _ in range(n)]
    return np.stack(orders, axis=1)


def jax_by_hand(work: Workload, n: int, epochs: int) -> Run:
    """Return vmap of a step by jax.grad, in a scan over the epoch."""
    import jax

    step = jax.vmap(jax_step(work))

    def epoch(parameters: Any, x: Any, y: Any, orders: Any) -> Any:
        return jax.lax.scan(lambda p, rows: step(p, (x[rows], y[rows])), parameters, orders)

    program = jax.jit(epoch, donate_argnums=0)
    x, y = jax.device_put(work.x), jax.device_put(work.y)
    state = {"parameters": jax.device_put(stacked_parameters(work, n))}
    rng = np.random.default_rng(0)

    def run() -> None:
        for _ in range(epochs):
            orders = draw_orders(work, n, rng)
            state["parameters"], costs = program(state["parameters"], x, y, orders)
            np.asarray(costs.mean(axis=0))

    return run


def numpy_by_hand(work: Workload, n: int, epochs: int) -> Run:
    """Return the products over a leading axis, with mini-batches gathered into one memory."""
    step = numpy_step(work, stacked_parameters(work, n))
    x, y, rng = work.x, work.y, np.random.default_rng(0)
    x_batch, y_batch = (np.empty((n, work.batch, one.shape[1]), np.float32) for one in (x, y))

    def run() -> None:
        for _ in range(epochs):
            for rows in draw_orders(work, n, rng):
                # Anything but mode="raise" writes to the memory at once.
                np.take(x, rows, axis=0, out=x_batch, mode="clip")
                np.take(y, rows, axis=0, out=y_batch, mode="clip")
                step(x_batch, y_batch)

    return run


def _fit_silently(model: Any, x: np.ndarray, labels: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops before it converges
        model.fit(x, labels)


def joblib_and_scikit_learn(work: Workload, n: int, epochs: int) -> Run:
    """Return fits of MLPClassifier in two processes."""
    import joblib

    x, labels = work.x, work.labels()
    models = [
        sklearn_model(work, shuffle=True).set_params(
            max_iter=epochs, n_iter_no_change=epochs, random_state=k
        )
        for k in range(n)
    ]
    fits = [joblib.delayed(_fit_silently)(model, x, labels) for model in models]
    return lambda: joblib.Parallel(n_jobs=2)(fits)


CONTESTANTS: dict[str, tuple[Callable[..., Run], int | None]] = {
    **{
        f"{library}, {kind}": (functools.partial(make, backend=backend, **options), at_most)
        for library, backend in ENGINES.items()
        for kind, make, options, at_most in (
            ("own orders", stack, {}, None),
            ("shared order", stack, {"shared": True}, None),
            (ALONE, one_after_the_other, {}, 8),
        )
    },
    "JAX, vmap and scan by hand": (jax_by_hand, None),
    "NumPy, stack by hand": (numpy_by_hand, None),
    "joblib and scikit-learn": (joblib_and_scikit_learn, 16),
}
"""What makes the run of each, and how many networks it takes at most."""


# ---------------------------------------------------------------------------------------------
# The race


def measure(work: Workload, members: int, epochs: int, args: argparse.Namespace) -> Figures:
    """Return the figures of all contestants for stacks of so many networks."""
    n_of = {name: min(members, most or members) for name, (_, most) in CONTESTANTS.items()}
    makers = {
        name: functools.partial(make, work, n_of[name], epochs)
        for name, (make, _) in CONTESTANTS.items()
    }
    runs, first = prepare(makers, only=args.only), {}
    for name, run in runs.items():
        begun = time.perf_counter()
        run()
        first[name] = time.perf_counter() - begun
    seconds = race(runs, seconds=args.seconds, rounds=args.rounds)
    return {
        name: {
            "step": 1e6 * median / (n_of[name] * work.steps * epochs),
            "first": max(0.0, first[name] - median),
        }
        for name, median in seconds.items()
    }


def section(name: str, args: argparse.Namespace) -> dict[str, Figures]:
    """Measure stacks of one shape, by their number of networks."""
    sizes, batch, steps, epochs, stacks = SHAPES[name]
    work = Workload(name, sizes, *SAMPLES, batch, max(2, round(args.share * steps)))
    found = {}
    for members in stacks:
        print(f"{name}: {sizes}, batch {batch}, {members} networks", flush=True)
        found[str(members)] = measure(work, members, epochs, args)
    print_tables(name, found)
    return found


def print_tables(name: str, found: dict[str, Figures]) -> None:
    """Print the two tables of a section."""
    sizes, batch, *_ = SHAPES[name]
    columns = list(found)
    for title, cell in (("µs a network and step", step_cell), ("first fit, s more", first_cell)):
        print(f"\n| {sizes}, batch {batch}: {title} | {' | '.join(columns)} |")
        print("|---" * (1 + len(columns)) + "|")
        for contestant in found[columns[0]]:
            cells = [cell(found[column], contestant) for column in columns]
            print(f"| {contestant} | {' | '.join(cells)} |")
    print(flush=True)


def step_cell(figures: Figures, contestant: str) -> str:
    """Return µs a network and step, and how often that goes into those one after the other."""
    step = figures[contestant]["step"]
    alone = figures.get(f"{contestant.partition(',')[0]}, {ALONE}")
    return f"{step:,.1f}" + (f" ({alone['step'] / step:.2f} ×)" if alone else "")


def first_cell(figures: Figures, contestant: str) -> str:
    """Return how much longer the first fit took."""
    return f"{figures[contestant]['first']:.2f}"


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each contestant, at least")
    parser.add_argument("--share", type=float, default=1.0, help="of the mini-batches of an epoch")
    sections = {name: functools.partial(section, name) for name in SHAPES}
    args = read_arguments(parser, sections, seconds=0.0)
    run_sections(sections, args, machine)


if __name__ == "__main__":
    main()
