import cupy_like
import numpy as np
import pytest
from helpers import assert_agrees

from bp_xp import to_numpy
from bp_xp.math.rows import row_blocks, sum_rows


@pytest.mark.parametrize("n", [1, 255, 256, 257, 512, 5000, 70000])
def test_rows_are_summed_in_blocks_without_losing_any(where, dtype, rng, n):
    host = rng.standard_normal((n, 3)).astype(dtype)

    total = to_numpy(sum_rows(where.asarray(host), xp=where.xp))

    # Roundings of sums that grow to a few hundred.
    tolerance = 1e-3 if dtype == "float32" else 1e-11
    assert np.allclose(total, host.astype(np.float64).sum(axis=0), rtol=0, atol=tolerance)


def test_sums_of_rows_keep_leading_axes(where, rng):
    host = rng.standard_normal((2, 4100, 3))

    assert_agrees(sum_rows(where.asarray(host), xp=where.xp), host.sum(axis=1), where)


@pytest.mark.parametrize(("n", "launches"), [(256, 1), (512, 2), (1000, 2), (257, 4), (9973, 4)])
def test_a_sum_takes_as_few_launches_as_it_can(n, launches):
    values = cupy_like.asarray(np.ones((n, 3)))
    with cupy_like.counted_launches() as launched:
        total = sum_rows(values, xp=cupy_like)
    assert np.array_equal(total.get(), [n] * 3)
    assert len(launched) == launches


def test_row_blocks_cover_each_row_once():
    rows = [row for block in row_blocks(10, 4) for row in range(10)[block]]

    assert rows == list(range(10))
