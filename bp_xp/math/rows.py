"""Rows of samples: summed block by block, and cut into blocks."""

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
    whole = n - n % _ROWS_SUMMED_AT_ONCE
    if n <= _ROWS_SUMMED_AT_ONCE:
        return xp.sum(values, axis=-2)
    shape = (*values.shape[:-2], -1, _ROWS_SUMMED_AT_ONCE, values.shape[-1])
    blocks = xp.sum(xp.reshape(values[..., :whole, :], shape), axis=-2)
    return sum_rows(blocks, xp=xp) + xp.sum(values[..., whole:, :], axis=-2)


def row_blocks(n: int, size: int) -> Iterator[slice]:
    """Cut n rows into blocks of ``size``, the last one shorter.

    Examples:
        >>> list(row_blocks(5, 3))
        [slice(0, 3, None), slice(3, 5, None)]
    """
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))
