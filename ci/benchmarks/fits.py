"""What a user of scikit-learn runs: a whole fit of its MLPClassifier, and of ours in its place.

The network [784, 100, 100, 10] with ReLU learns the 60,000 images of MNIST for some epochs, in
mini-batches of 200, by SGD with momentum and by Adam; each contestant from the same random_state,
which gives all of them the same weights and the same order.

scikit-learn computes in the dtype of its samples, and ours in that which is asked for.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

EPOCHS = 5
SOLVERS = {
    "sgd": {"solver": "sgd", "learning_rate_init": 0.2, "momentum": 0.9},
    "adam": {"solver": "adam", "learning_rate_init": 0.001},
}


class Images(NamedTuple):
    """MNIST as scikit-learn's users have it: float64, from 0 to 1."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_images() -> Images:
    """Return all 60,000 training images, and the 10,000 test images."""
    from bp_xp.datasets import load_mnist

    data: Any = load_mnist()
    x = np.concatenate([data.x_train, data.x_validation]).astype(np.float64)
    y = np.concatenate([data.y_train, data.y_validation])
    return Images(x, y, data.x_test.astype(np.float64), data.y_test)


Fit = Callable[[], Any]
"""Fits a new classifier to the training images, and returns it."""


def sklearn_fit(images: Images, solver: str, *, dtype: str = "float64") -> Fit:
    """Return scikit-learn's own, on samples of a dtype."""
    from sklearn.neural_network import MLPClassifier

    return _fit(MLPClassifier, images._replace(x=images.x.astype(dtype)), solver)


def our_fit(
    images: Images, solver: str, *, backend: str, dtype: str | None = None, samples: str = "float64"
) -> Fit:
    """Return ours, by the same words, on samples of a dtype."""
    from bp_xp.backends import place
    from bp_xp.estimators import MLPClassifier

    place(backend=backend)  # ImportError if it is not installed
    estimator = functools.partial(MLPClassifier, backend=backend, dtype=dtype)
    return _fit(estimator, images._replace(x=images.x.astype(samples)), solver)


def _fit(estimator: Any, images: Images, solver: str) -> Fit:
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
            ).fit(images.x, images.y)

    return fit


FITS: dict[str, Callable[..., Fit]] = {
    "scikit-learn": sklearn_fit,
    "bp_xp, NumPy": functools.partial(our_fit, backend="numpy"),
    "bp_xp, NumPy, float32": functools.partial(our_fit, backend="numpy", dtype="float32"),
    "bp_xp, PyTorch, float32": functools.partial(our_fit, backend="torch", dtype="float32"),
    "bp_xp, JAX, float32": functools.partial(our_fit, backend="jax", dtype="float32"),
    "float32 samples: scikit-learn": functools.partial(sklearn_fit, dtype="float32"),
    "float32 samples: bp_xp, NumPy": functools.partial(our_fit, backend="numpy", samples="float32"),
}
