"""Sparse samples: fits and predictions of scikit-learn's MLPClassifier, and of ours in its place.

    python ci/benchmarks/sparse.py [--rounds 5] [--columns 2000 20000 100000] [--solvers adam sgd]

2,000 samples of 80 entries each, in a CSR matrix; a hidden layer of 100, mini-batches of 200, 3
epochs. Printed are medians of rounds in which the two take turns, in seconds, and of the rounds'
ratios of ours to scikit-learn's, with the least and the greatest one. Ours predicts as it was
fitted, and once more after a pickle, which has left its arrays in another form.
"""

import argparse
import pickle
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.neural_network import MLPClassifier as ScikitClassifier

from bp_xp.estimators import MLPClassifier

ROWS, ENTRIES, HIDDEN, BATCH, EPOCHS = 2_000, 80, 100, 200, 3


def make_samples(columns: int, dtype: str) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Return samples in random columns, shape (2,000, columns), and their classes."""
    random = np.random.default_rng(0)
    indices = np.concatenate(
        [np.sort(random.choice(columns, ENTRIES, replace=False)) for _ in range(ROWS)]
    )
    values = random.random(len(indices)).astype(dtype)
    starts = np.arange(0, len(indices) + 1, ENTRIES)
    x = scipy.sparse.csr_matrix((values, indices, starts), shape=(ROWS, columns))
    return x, random.integers(0, 5, ROWS)


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call takes, and its result."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def measure(columns: int, dtype: str, solver: str, rounds: int) -> None:
    """Print the times of one kind of samples."""
    x, y = make_samples(columns, dtype)
    settings: Any = {
        "hidden_layer_sizes": (HIDDEN,),
        "solver": solver,
        "batch_size": BATCH,
        "max_iter": EPOCHS,
        "n_iter_no_change": EPOCHS,
        "random_state": 0,
    }
    times: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):
        each: dict[str, list[float]] = {}
        makers = [ScikitClassifier, MLPClassifier]
        for make in makers if turn % 2 else reversed(makers):
            spent = {}
            spent["fit"], fitted = seconds(lambda make=make: make(**settings).fit(x, y))
            spent["predict"] = statistics.median(
                seconds(lambda fitted=fitted: fitted.predict(x))[0] for _ in range(5)
            )
            again = pickle.loads(pickle.dumps(fitted))
            spent["first predict"], _ = seconds(lambda again=again: again.predict(x))
            for what, took in spent.items():
                each.setdefault(what, []).insert(0 if make is MLPClassifier else 1, took)
            del fitted, again
        if turn:  # the first one warms up
            for what, (ours, theirs) in each.items():
                times.setdefault(what, []).append((ours, theirs))
    for what, pairs in times.items():
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{columns:7,} columns  {dtype}  {solver:5} {what:13}  ours {ours:8.4f}  "
            f"scikit-learn {theirs:8.4f}  ratio {statistics.median(ratios):5.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="See the top of this file.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--columns", type=int, nargs="+", default=[2_000, 20_000, 100_000])
    parser.add_argument("--solvers", nargs="+", default=["adam", "sgd"])
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # three epochs do not converge
    for columns in options.columns:
        for dtype in options.dtypes:
            for solver in options.solvers:
                measure(columns, dtype, solver, options.rounds)


if __name__ == "__main__":
    main()
