"""``fit`` on JAX compared with the same training written by hand.

    python ci/benchmarks/scan.py [--rounds 15]

By hand: a shuffled epoch is cut into chunks of 64 mini-batches, and one compiled function gathers a
chunk and scans over it with jax.grad; each epoch ends with its mean cost. ``fit`` also reports the
accuracy, and checks the samples first. Both train for EPOCHS epochs. The script prints medians of a
step in microseconds, and the ratio to the training by hand with its 95 % interval; the training by
hand runs twice, which shows the variation of the machine itself.
"""

import argparse
import random
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from peers import RATE, Run, Workload, jax_step
from versions import interval

from bp_xp import SGD, Network

EPOCHS, CHUNK = 10, 64
WORKLOADS = {
    "small": Workload("small", [784, 30, 10], "sigmoid", "quadratic", 10, 5000),
    "medium": Workload(
        "medium", [784, 512, 512, 10], "relu", "categorical_cross_entropy", 128, 100
    ),
}


def by_hand(work: Workload) -> Run:
    """Return the training as a user of JAX would write it."""
    step = jax_step(work)

    def chunk(parameters, x, y, rows):
        batches = jnp.take(x, rows, axis=0), jnp.take(y, rows, axis=0)
        return jax.lax.scan(step, parameters, batches)

    program = jax.jit(chunk, donate_argnums=0)
    x, y = jnp.asarray(work.x), jnp.asarray(work.y)
    parameters = [(jnp.asarray(w), jnp.asarray(b)) for w, b in work.parameters()]
    state, rng = {"parameters": parameters}, np.random.default_rng(0)

    def run() -> None:
        for _ in range(EPOCHS):
            order = rng.permutation(len(x)).reshape(work.steps, work.batch)
            costs = []
            for first in range(0, work.steps, CHUNK):
                rows = jnp.asarray(order[first : first + CHUNK])
                state["parameters"], values = program(state["parameters"], x, y, rows)
                costs.append(values)
            float(jnp.concatenate(costs).mean())

    return run


def fit(work: Workload) -> Run:
    """Return ours."""
    network = Network.from_layers(
        work.parameters(), activation=work.activation, cost=work.cost, backend="jax"
    )
    x, y = network.asarray(work.x), network.asarray(work.y)
    settings = {"epochs": EPOCHS, "batch_size": work.batch, "optimizer": SGD(RATE)}
    return lambda: network.fit(x, y, **settings, progress=False)


def main() -> None:
    """Race."""
    parser = argparse.ArgumentParser(description="Race fit on JAX against a scan by hand")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    given = parser.parse_args()
    for name in given.workloads.split(","):
        work = WORKLOADS[name]
        runs = {"by hand": by_hand(work), "by hand again": by_hand(work), "fit": fit(work)}
        for run in runs.values():
            run()  # compiles
        times: dict[str, list[float]] = {contestant: [] for contestant in runs}
        for _ in range(given.rounds):
            for contestant in random.sample(list(runs), len(runs)):
                begun = time.perf_counter()
                runs[contestant]()
                seconds = time.perf_counter() - begun
                times[contestant].append(seconds / (work.steps * EPOCHS))
        for contestant, seconds in times.items():
            ratios = [a / b for a, b in zip(seconds, times["by hand"], strict=True)]
            median, low, high = interval(ratios)
            print(
                f"{name:8} {contestant:14} {statistics.median(seconds) * 1e6:8.1f} µs: "
                f"{median:.3f} [{low:.3f}, {high:.3f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
