import numpy as np
import pytest

from bp_xp.tables import statistics
from bp_xp.tables.columns import Coded, coded, count_labels, labels_of
from bp_xp.tables.statistics import Values

COLUMNS = {
    "spread": lambda draw: draw.standard_cauchy(5000),
    "ties": lambda draw: draw.integers(-3, 4, 5001) * 0.5,
    "signs": lambda draw: np.where(draw.random(4000) < 0.5, -0.0, draw.normal(size=4000)),
    "extremes": lambda draw: draw.choice([-1e308, -5e-324, 0.0, 5e-324, 1e308], 3000),
}


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
def test_figures_of_blocks_are_those_of_numpy(make, monkeypatch):
    values = make(np.random.default_rng(0))
    monkeypatch.setattr(statistics, "_SORTED_AT_ONCE", 50)  # so that places are found by bits
    monkeypatch.setattr("bp_xp.tables.columns.ROWS_AT_ONCE", 700)
    monkeypatch.setattr(statistics, "ROWS_AT_ONCE", 700)
    holes = np.insert(values, [0, 900, 901], np.nan)
    rows = np.random.default_rng(1).permutation(len(holes))
    found, unit = Values(holes, "x", rows), float(np.abs(values).max())
    assert (found.n, found.lowest, found.highest) == (len(values), values.min(), values.max())
    order = np.sort(values)
    np.testing.assert_array_equal(found.in_order(range(0, found.n, 250)), order[::250])
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_array_equal(found.quantiles(shares, unit), np.quantile(values / unit, shares))
    assert found.median == np.median(values)
    mean, deviation = found.mean_and_deviation(unit)
    # Sums of blocks round otherwise than the sum of all.
    np.testing.assert_allclose([mean, deviation], [(values / unit).mean(), (values / unit).std()])
    distinct = found.distinct()
    known, counts = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(distinct.values, known)
    np.testing.assert_array_equal(distinct.counts, counts)
    assert distinct.whole == (not (values % 1).any())


def test_figures_of_one_block_are_numpys_to_the_last_bit():
    values = np.random.default_rng(0).normal(size=999)
    found = Values(values, "x", np.arange(999)).mean_and_deviation(1.0)
    assert found == (values.mean(), values.std())


@pytest.mark.parametrize(
    ("values", "numbered"),
    [
        (np.arange(50.0)[::-1], True),
        (np.arange(50.0)[::-1] + 0.5, False),
        (np.append(np.arange(50.0), 3.0), False),
        (np.arange(50.0) * 3, False),
        (np.array([-1e308, 1e308]), False),
    ],
)
def test_numbers_of_rows_are_whole_dense_and_all_different(values, numbered):
    assert Values(values, "x", np.arange(len(values))).number_the_rows() == numbered


def test_coded_text_is_what_text_is():
    words = np.array(["2.0", "a", "2", "True"], object)
    column = Coded(np.array([3, 1, -1, 0, 2, 1]), words)
    plain = np.array(["True", "a", None, "2.0", "2", "a"], object)
    assert column.tolist() == plain.tolist()
    assert labels_of(column) == labels_of(plain)
    assert coded(column)[0].tolist() == [2, 1, -1, 0, 0, 1]
    assert count_labels(column, range(6)) == count_labels(plain, range(6))
    assert column[2:4].tolist() == [None, "2.0"]
