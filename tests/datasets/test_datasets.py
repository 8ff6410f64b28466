import numpy as np
import pytest

from bp_xp.datasets import Dataset, load_digits


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_digits_are_float32_rows_between_white_and_black_with_integer_labels(digits):
    assert digits.x_train.shape == (1437, 64)
    assert digits.x_test.shape == (360, 64)
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.dtype == np.float32
        assert (x.min(), x.max()) == (0, 1)
        assert y.dtype == np.int64
        assert y.shape == (len(x),)
    assert digits.x_validation is None
    assert digits.y_validation is None


def test_digits_hold_each_pixel_count_of_the_original(digits):
    counts = 16 * np.concatenate([digits.x_train, digits.x_test])
    assert np.array_equal(counts, np.round(counts))
    # Sums over the published file: every pixel, and images by digit.
    assert counts.sum() == 561_718
    labels = np.concatenate([digits.y_train, digits.y_test])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_test_part_has_a_fifth_of_every_digit(digits):
    n_test, n_train = np.bincount(digits.y_test), np.bincount(digits.y_train)
    assert np.all(np.abs(n_test - (n_test + n_train) / 5) < 1)


def test_digits_are_the_same_on_every_call_and_not_shared(digits):
    again = load_digits()
    assert np.array_equal(again.x_test, digits.x_test)
    again.x_test[:] = 0
    assert load_digits().x_test.any()


def test_digits_can_be_told_apart_by_the_nearest_training_image(digits):
    # Labels that had come apart from their images would give one in ten.
    products = digits.x_test @ digits.x_train.T
    distances = np.sum(digits.x_train**2, axis=1) - 2 * products
    nearest = digits.y_train[np.argmin(distances, axis=1)]
    assert np.mean(nearest == digits.y_test) > 0.97


def test_dataset_counts_outputs_over_all_parts():
    x = np.zeros((2, 3), np.float32)
    labels = Dataset("d", x, np.array([0, 1]), x, np.array([2, 0]), x, np.array([4, 0]))
    assert (labels.n_features, labels.n_outputs) == (3, 5)
    targets = Dataset("d", x, np.zeros((2, 7)), x, np.zeros((2, 7)))
    assert targets.n_outputs == 7


def test_dataset_shows_its_sizes_instead_of_its_numbers():
    x, y = np.zeros((2, 3), np.float32), np.array([0, 1])
    assert repr(Dataset("d", x, y, x[:1], y[:1], x, y)) == (
        "<Dataset 'd': 2 train, 2 validation, 1 test; 3 features, 2 outputs>"
    )
