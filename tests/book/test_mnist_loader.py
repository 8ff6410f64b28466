import numpy as np
import pytest

from bp_xp import book
from bp_xp.datasets import Dataset
from bp_xp.errors import DataFormatError


def test_the_loader_returns_the_books_formats(monkeypatch):
    pixels = np.arange(4, dtype=np.uint8)[:, None] + np.array([0, 252], dtype=np.uint8)
    x = np.divide(pixels, 255, dtype=np.float32)
    y = np.array([3, 0, 9, 3])
    mnist = Dataset("mnist", x, y, x[:2], y[:2], x[2:], y[2:])
    monkeypatch.setattr(book.mnist_loader, "load_mnist", lambda folder, *, download: mnist)
    for (pixels, digits), given in zip(
        book.mnist_loader.load_data(), (y, y[2:], y[:2]), strict=True
    ):
        assert (pixels.shape, pixels.dtype) == ((len(given), 2), np.float32)
        np.testing.assert_array_equal(digits, given)
    training, validation, test = book.load_data_wrapper()
    assert [len(part) for part in (training, validation, test)] == [4, 2, 2]
    column, target = training[3]
    np.testing.assert_array_equal(column, [[3 / 256], [255 / 256]])
    assert (column.dtype, target.shape, int(target.argmax())) == (np.float32, (10, 1), 3)
    target[:] = 7.0
    assert training[0][1].max() == 1.0  # no two samples share their memory
    assert validation[0][1] == 9
    assert isinstance(test[0][1], int)
    assert test[0][0].shape == (2, 1)


def test_labels_that_are_no_digits_are_refused(monkeypatch):
    x, y = np.zeros((4, 2), np.float32), np.array([3, 0, 20, 3])
    letters = Dataset("mnist", x, y, x, y, x, y)
    monkeypatch.setattr(book.mnist_loader, "load_mnist", lambda folder, *, download: letters)
    with pytest.raises(DataFormatError, match=r"labels go up to 20, .* 0 to 9: load_mnist reads"):
        book.load_data_wrapper()


def test_a_digit_becomes_a_column_of_ten():
    np.testing.assert_array_equal(book.network2.vectorized_result(3), np.eye(10)[:, [3]])
    for j, error in ((10, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="j must be"):
            book.mnist_loader.vectorized_result(j)
