"""What every loader of a whole data set returns."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Dataset", "scaled_rows"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set in its parts, as NumPy arrays on the host, or objects that are sliced by rows.

    Samples are rows. The parts are ``train`` (N rows), ``validation`` (to choose between settings;
    None if the set has no such part) and ``test`` (to be used last).

    Attributes:
        name: the name of the set.
        x_train: the inputs, shape (N, features), float32; in [0, 1] for images.
        y_train: class labels from 0 up, shape (N,), int64; or targets, shape (N, K), float32.
        x_test: the inputs to test on, shaped as x_train except for the number of rows.
        y_test: their labels or targets, as y_train.
        x_validation: the inputs to validate on, or None.
        y_validation: their labels or targets, or None.

    Examples:
        >>> from bp_xp.datasets import load_digits
        >>> digits = load_digits()
        >>> digits
        <Dataset 'digits': 1437 train, 0 validation, 360 test; 64 features, 10 outputs>
        >>> digits.x_train.shape, digits.y_train.shape
        ((1437, 64), (1437,))
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    x_validation: np.ndarray | None = None
    y_validation: np.ndarray | None = None

    @property
    def n_features(self) -> int:
        """The number of inputs that a network for this set takes."""
        return self.x_train.shape[1]

    @property
    def n_outputs(self) -> int:
        """The number of outputs it gives: one per class, or one per column of the targets."""
        if self.y_train.ndim == 2:
            return self.y_train.shape[1]
        parts = (self.y_train, self.y_validation, self.y_test)
        return 1 + max(int(y.max()) for y in parts if y is not None and y.size)

    def __repr__(self) -> str:
        n_validation = 0 if self.x_validation is None else len(self.x_validation)
        return (
            f"<Dataset {self.name!r}: {len(self.x_train)} train, {n_validation} validation, "
            f"{len(self.x_test)} test; {self.n_features} features, {self.n_outputs} outputs>"
        )


def scaled_rows(images: np.ndarray, white: int) -> np.ndarray:
    """Return images of small integers as rows of float32 in [0, 1].

    Args:
        images: shape (N, ...), unsigned bytes.
        white: the largest value that a pixel can take.

    Returns:
        images / white, shape (N, features), float32.
    """
    # NumPy would divide bytes in float16 or float64; the dtype keeps the single copy in float32.
    rows = images.reshape(len(images), -1)
    return np.divide(rows, white, dtype=np.float32)
