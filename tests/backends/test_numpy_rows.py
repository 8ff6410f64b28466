"""The largest entry of many short rows, on NumPy."""

import numpy as np
import pytest

from bp_xp.backends.numpy.engine import ENGINE
from bp_xp.backends.numpy.rows import OVER_ROWS, are_short_rows
from bp_xp.engines.report import Report


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape", [(4, 8, 10), (32, 3), (3, 2), (2, 300)])
def test_the_largest_of_each_row_is_numpys_to_the_bit(rng, shape, keepdims):
    x = rng.standard_normal(shape).astype("float32")
    x[0, ..., 0] = np.nan
    found = OVER_ROWS.max(x, axis=-1, keepdims=keepdims)
    np.testing.assert_array_equal(found, np.max(x, axis=-1, keepdims=keepdims))
    np.testing.assert_array_equal(OVER_ROWS.max(x), np.nan)


def test_few_rows_and_other_axes_are_left_to_numpy():
    assert are_short_rows(np.ones((8, 8, 10)), 2)
    assert not are_short_rows(np.ones((2, 8, 10)), -1)
    assert not are_short_rows(np.ones((8, 8, 10)), 1)
    assert not are_short_rows(np.ones((40, 0)), -1)


@pytest.mark.parametrize("keepdims", [False, True])
def test_a_recorded_maximum_of_short_rows_goes_over_columns(rng, keepdims):
    def step(state, x, *, xp):
        largest = xp.max(x * 2.0, axis=-1, keepdims=keepdims)
        return [state[0] + xp.sum(largest)], largest

    batches = rng.standard_normal((40, 8, 6, 5))
    report = Report("numpy", "")
    _, found = ENGINE.new_loop(report)(step, [np.zeros(1)], [batches], xp=np)
    np.testing.assert_array_equal(found, np.max(batches * 2.0, axis=-1, keepdims=keepdims))
    assert "0, None" in report.program
