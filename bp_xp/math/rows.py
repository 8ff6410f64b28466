"""Rows of samples: summed block by block, and cut into blocks."""

import functools
from collections.abc import Iterator

from bp_xp._typing import Array, Namespace

__all__ = ["row_blocks", "sum_rows"]

_ROWS_SUMMED_AT_ONCE = 256


def sum_rows(values: Array, *, xp: Namespace) -> Array:
    """Sum over the rows, block by block.

    A running float32 sum of 5 million rows is 4 % off, since the sum outgrows its summands. The
    sums of short blocks do not, nor do the sums of blocks of those.

    Args:
        values: shape (..., N, K).
        xp: their namespace.

    Returns:
        The sums, shape (..., K).
    """
    n = values.shape[-2]
    if n <= _ROWS_SUMMED_AT_ONCE:
        return xp.sum(values, axis=-2)
    rows = _rows_of_a_block(n, _ROWS_SUMMED_AT_ONCE)
    whole = n - n % rows
    shape = (*values.shape[:-2], -1, rows, values.shape[-1])
    blocks = xp.sum(xp.reshape(values[..., :whole, :], shape), axis=-2)
    total = sum_rows(blocks, xp=xp)
    return total if whole == n else total + xp.sum(values[..., whole:, :], axis=-2)


@functools.cache
def _rows_of_a_block(n: int, most: int) -> int:
    """Return how many rows to sum at once, so that none are left over if that is possible.

    Each sum is a launch on a GPU, and adding up what is left over takes two more.

    Examples:
        >>> _rows_of_a_block(1000, 256), _rows_of_a_block(257, 256)
        (250, 256)
    """
    divisors = (rows for rows in range(most, max(most // 8, 1), -1) if n % rows == 0)
    return next(divisors, most)


def row_blocks(n: int, size: int, share: tuple[int, int] = (0, 1)) -> Iterator[slice]:
    """Cut n rows into blocks of ``size``, the last one shorter.

    Args:
        n: number of rows.
        size: rows of a block.
        share: (r, R): of R parts of the rows, as equal as can be, the blocks of part r alone.

    Examples:
        >>> list(row_blocks(5, 3))
        [slice(0, 3, None), slice(3, 5, None)]
        >>> list(row_blocks(5, 3, (1, 2)))
        [slice(2, 5, None)]
    """
    rank, ranks = share
    end = (rank + 1) * n // ranks
    for first in range(rank * n // ranks, end, size):
        yield slice(first, min(first + size, end))
