"""The largest entry of each of many short rows: found by comparing whole columns.

In NumPy, the overhead of a row takes longer than ten numbers. Unlike in a sum, the order of the
comparisons in a maximum does not change any bits.
"""

from typing import Any

import numpy as np

__all__ = ["OVER_ROWS", "are_short_rows"]

_MANY_ROWS = 32  # from which on it is worthwhile


def are_short_rows(array: Any, axis: Any) -> bool:
    """Return whether a reduction is one of many short rows, by its array and ``axis``."""
    if not isinstance(array, np.ndarray) or array.ndim < 2 or axis not in (-1, array.ndim - 1):
        return False
    columns = array.shape[-1]
    return array.size >= max(_MANY_ROWS, 2 * columns) * columns > 0


class _OverRows:
    """NumPy's functions, of which ``max`` is made for many short rows."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def max(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """Return what ``numpy.max`` does."""
        if not are_short_rows(x, axis):
            return np.max(x, axis=axis, keepdims=keepdims)
        largest = np.maximum.reduce(np.moveaxis(x, -1, 0).copy("C"), axis=0)
        return largest[..., None] if keepdims else largest


OVER_ROWS = _OverRows()
"""The namespace that the engine passes to functions of the rows of a chunk."""
