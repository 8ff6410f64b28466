"""The small set of handwritten digits that comes with the library."""

from pathlib import Path

import numpy as np

from bp_xp.datasets.dataset import Dataset, scaled_rows
from bp_xp.datasets.npy import load_npz

__all__ = ["load_digits"]

_FILE = Path(__file__).with_name("data") / "digits.npz"


def load_digits() -> Dataset:
    """The 1,797 handwritten digits of 8 x 8 pixels from the UCI repository; needs no network.

    The split is always the same: the images are ordered by digit, and within a digit as in the
    original file; every fifth one is for testing, including the first. So each digit has one fifth
    of its images in the test part, and both parts keep the original order.

    Returns:
        A :class:`Dataset` of 1,437 training and 360 test images. x has shape (N, 64), the pixels
        row by row, 0 (white paper) to 1 (all ink); y is the digit, shape (N,).

    Examples:
        >>> digits = load_digits()
        >>> print(digits.x_train.dtype, digits.x_train.max(), digits.y_train[:5])
        float32 1.0 [1 3 5 6 7]

    References:
        E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine
        Learning Repository, 1998, doi:10.24432/C50P49 (CC BY 4.0).
    """
    arrays = load_npz(_FILE)
    x = scaled_rows(arrays["images"], white=16)
    y = arrays["labels"].astype(np.int64)
    is_test = np.zeros(len(y), dtype=bool)
    is_test[np.argsort(y, kind="stable")[::5]] = True
    return Dataset("digits", x[~is_test], y[~is_test], x[is_test], y[is_test])
