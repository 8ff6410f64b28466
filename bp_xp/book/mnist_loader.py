"""MNIST in the book's formats: the functions of its module ``mnist_loader``."""

import os
from typing import Any

import numpy as np

from bp_xp.book._functions import vectorized_result
from bp_xp.datasets import load_mnist
from bp_xp.errors import DataFormatError

__all__ = ["load_data", "load_data_wrapper", "vectorized_result"]


def load_data(
    folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return MNIST as arrays.

    Args:
        folder: where the archives are, as for :func:`bp_xp.datasets.load_mnist`.
        download: False to use only existing files.

    Returns:
        ``(training_data, validation_data, test_data)`` of 50,000, 10,000 and 10,000 samples, each
        a pair of arrays: pixels of shape (N, 784), float32, each byte / 256 as in the book's file,
        and the digits, integers of shape (N,).

    Raises:
        DownloadError: an archive must be downloaded and is not available.
        FileNotFoundError: an archive is missing.
        DataFormatError: a file is damaged, or a label is not a digit.
    """
    mnist = load_mnist(folder, download=download)
    if mnist.x_validation is None or mnist.y_validation is None:
        raise AssertionError("MNIST has a validation part")
    if mnist.n_outputs > 10:
        raise DataFormatError(
            f"labels go up to {mnist.n_outputs - 1}, and a digit is 0 to 9: load_mnist reads it."
        )
    return (
        (_pixels(mnist.x_train), mnist.y_train),
        (_pixels(mnist.x_validation), mnist.y_validation),
        (_pixels(mnist.x_test), mnist.y_test),
    )


def load_data_wrapper(
    folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[list[tuple[Any, Any]], list[tuple[Any, int]], list[tuple[Any, int]]]:
    """Return MNIST as pairs of columns, the form that the networks take.

    Args:
        folder: where the archives are, as for :func:`bp_xp.datasets.load_mnist`.
        download: False to use only existing files.

    Returns:
        ``(training_data, validation_data, test_data)``: lists of 50,000, 10,000 and 10,000 pairs
        (x, y). x is a column of 784 pixels as in :func:`load_data`; y is a column of shape (10, 1)
        with 1.0 for the digit in the training data, and the digit itself, an integer, in the other
        two.

    Raises:
        DownloadError: an archive must be downloaded and is not available.
        FileNotFoundError: an archive is missing.
        DataFormatError: a file is damaged, or a label is not a digit.
    """
    (x, y), *labeled = load_data(folder, download=download)
    training_data = list(zip(x[:, :, None], np.eye(10)[y][:, :, None], strict=True))
    validation_data, test_data = (
        list(zip(x[:, :, None], y.tolist(), strict=True)) for x, y in labeled
    )
    return training_data, validation_data, test_data


def _pixels(x: np.ndarray) -> np.ndarray:
    """Return bytes / 255 as bytes / 256, exactly."""
    return np.rint(x * np.float32(255)) * np.float32(1 / 256)
