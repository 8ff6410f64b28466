"""Sparse inputs: SciPy's sparse matrices, which store only the nonzero entries.

A library that can multiply by sparse rows gets sparse rows; any other library gets dense arrays, a
mini-batch or a block of rows at a time.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement
from bp_xp.math.rows import row_blocks

__all__ = ["SparseInputs", "blocks_of", "cut_rows", "entries_of_row", "is_sparse", "take_rows"]

# The size limit of a block of rows outside of training steps, if it is dense there.
_BYTES_AT_ONCE = 1 << 25
_BYTES_OF_A_NUMBER = 8


def is_sparse(x: Any) -> bool:
    """Return whether a value is a sparse matrix, in any of SciPy's formats."""
    return hasattr(x, "tocsr")


class SparseInputs:
    """Inputs, shape (N, I), in a sparse matrix on the host.

    Args:
        matrix: a SciPy matrix in any format; it is never changed.
        placement: library and device of the arrays for the steps.
        dtype: the network's dtype.

    Attributes:
        shape: (N, I).
        dtype: the network's dtype, as a NumPy object.
        row_entries: the average number of values per row that steps get.
    """

    ndim = 2

    def __init__(self, matrix: Any, placement: Placement, dtype: str) -> None:
        matrix = matrix.tocsr()
        self._matrix, self._placement = matrix.astype(dtype, copy=False), placement
        self.shape: tuple[int, int] = tuple(matrix.shape)
        self.dtype = np.dtype(dtype)
        self.row_entries = placement.library.sparse_row_entries(matrix)

    @property
    def rows_at_once(self) -> int:
        """The number of rows that fit in memory at a time."""
        entries = _BYTES_AT_ONCE // _BYTES_OF_A_NUMBER
        return max(1, int(entries // max(self.row_entries, 1.0)))

    @property
    def parts(self) -> list[np.ndarray]:
        """Host arrays that identify the inputs."""
        matrix = self._matrix.copy()
        matrix.sum_duplicates()  # this also sorts the columns of each row
        matrix.eliminate_zeros()
        return [matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data]

    def batches(self, rows: slice | np.ndarray, *axes: int) -> Array:
        """Return some rows as mini-batches for the steps, shape (*axes, batch, I)."""
        every = rows == slice(0, self.shape[0]) if isinstance(rows, slice) else False
        matrix = self._matrix if every else self._matrix[rows]
        return self._placement.library.sparse_batches(matrix, axes, self._placement.device)

    def __getitem__(self, key: Sequence[Any]) -> Array:
        """Return ``x[rows, ...]``, some rows for the steps, with all columns."""
        return self.batches(key[0], 1)[0, ...]

    def take(self, rows: np.ndarray) -> "SparseInputs":
        """Return the inputs of the rows with these numbers."""
        return SparseInputs(self._matrix[rows], self._placement, self.dtype.name)


def entries_of_row(x: Array | SparseInputs) -> int:
    """Return the number of values in a row of inputs as steps get it."""
    return math.ceil(x.row_entries) if isinstance(x, SparseInputs) else x.shape[1]


def take_rows(arrays: Sequence[Any], rows: np.ndarray, placement: Placement) -> list[Any]:
    """Return the rows of inputs, targets and weights that have these numbers, on the host."""
    dense = [values for values in arrays if not isinstance(values, SparseInputs)]
    taken = iter(placement.engine.compile(_take, placement.xp)(placement.asarray(rows), *dense))
    return [v.take(rows) if isinstance(v, SparseInputs) else next(taken) for v in arrays]


def _take(xp: Namespace, rows: Array, *arrays: Array) -> list[Array]:
    return [xp.take(values, rows, axis=0) for values in arrays]


def cut_rows(values: Any, rows: slice, placement: Placement) -> Array:
    """Return some rows of inputs, targets or weights for steps to take, at least one."""
    if isinstance(values, SparseInputs):
        return values[rows, ...]
    return placement.library.cut(values, rows)


def blocks_of(x: Any, most: int, share: tuple[int, int] = (0, 1)) -> Sequence[slice]:
    """Return the blocks of at most so many rows for passes outside of training steps.

    With a share (r, R), return those of one of R parts of the rows.
    """
    if isinstance(x, SparseInputs):
        most = min(most, x.rows_at_once)
    return list(row_blocks(x.shape[0], most, share))
