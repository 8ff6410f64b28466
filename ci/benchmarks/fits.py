"""What a user of scikit-learn runs: a whole fit of its MLPClassifier, and of ours in its place.

The network [784, 100, 100, 10] with ReLU learns the 60,000 images of MNIST for some epochs, in
mini-batches of 200, by SGD with momentum and by Adam; each contestant from the same random_state,
which gives all of them the same weights and the same order.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

EPOCHS = 5
SOLVERS = {
    "sgd": {"solver": "sgd", "learning_rate_init": 0.2, "momentum": 0.9},
    "adam": {"solver": "adam", "learning_rate_init": 0.001},
}

Fit = Callable[[], Any]
"""Fits a new classifier to the training images, and returns it."""


def sklearn_fit(data: Any, solver: str) -> Fit:
    """Return scikit-learn's own."""
    from sklearn.neural_network import MLPClassifier

    return _fit(MLPClassifier, data, solver)


def our_fit(data: Any, solver: str, backend: str) -> Fit:
    """Return ours, by the same words."""
    from bp_xp.estimators import MLPClassifier

    from bp_xp.arrays import place

    place(backend=backend)  # ImportError where it is not installed
    return _fit(functools.partial(MLPClassifier, backend=backend), data, solver)


def _fit(estimator: Any, data: Any, solver: str) -> Fit:
    def fit() -> Any:
        # They stop before they converge, and say so.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return estimator(
                hidden_layer_sizes=(100, 100),
                batch_size=200,
                max_iter=EPOCHS,
                n_iter_no_change=EPOCHS,
                random_state=0,
                **SOLVERS[solver],
            ).fit(data.x_train, data.y_train)

    return fit


FITS: dict[str, Callable[..., Fit]] = {
    "scikit-learn": sklearn_fit,
    "bp_xp, NumPy": functools.partial(our_fit, backend="numpy"),
    "bp_xp, PyTorch": functools.partial(our_fit, backend="torch"),
    "bp_xp, JAX": functools.partial(our_fit, backend="jax"),
}
