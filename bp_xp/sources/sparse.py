"""Inputs of which only the entries other than zero are kept: SciPy's sparse matrices.

A library that multiplies with sparse rows is given sparse rows; any other one is given dense
arrays, a mini-batch or a block of rows at a time.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement
from bp_xp.math.rows import row_blocks

__all__ = ["SparseInputs", "blocks_of", "cut_rows", "entries_of_row", "is_sparse", "take_rows"]

# What a block of rows may take where no step follows, if they are dense there.
_BYTES_AT_ONCE = 1 << 25
_BYTES_OF_A_NUMBER = 8


def is_sparse(x: Any) -> bool:
    """Return whether something is a sparse matrix, in whatever form SciPy has it."""
    return hasattr(x, "tocsr")


class SparseInputs:
    """Inputs, shape (N, I), in a sparse matrix on the host.

    Args:
        matrix: SciPy's, in any form of its own; it is never changed.
        placement: library and device of what steps are given.
        dtype: the network's dtype.

    Attributes:
        shape: (N, I).
        dtype: the network's dtype, as NumPy's object.
        row_entries: how many numbers steps are given of a row, on average.
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
        """How many rows there is memory for at once."""
        entries = _BYTES_AT_ONCE // _BYTES_OF_A_NUMBER
        return max(1, int(entries // max(self.row_entries, 1.0)))

    @property
    def parts(self) -> list[np.ndarray]:
        """Arrays on the host that tell the inputs apart from others."""
        matrix = self._matrix.copy()
        matrix.sum_duplicates()  # which sorts the columns of a row as well
        matrix.eliminate_zeros()
        return [matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data]

    def batches(self, rows: slice | np.ndarray, *axes: int) -> Array:
        """Return some rows as mini-batches, shape (*axes, batch, I), for steps to take."""
        every = rows == slice(0, self.shape[0]) if isinstance(rows, slice) else False
        matrix = self._matrix if every else self._matrix[rows]
        return self._placement.library.sparse_batches(matrix, axes, self._placement.device)

    def __getitem__(self, key: Sequence[Any]) -> Array:
        """Return ``x[rows, ...]``, some rows for steps to take; of the columns, all."""
        return self.batches(key[0], 1)[0, ...]

    def take(self, rows: np.ndarray) -> "SparseInputs":
        """Return the inputs of the rows with these numbers."""
        return SparseInputs(self._matrix[rows], self._placement, self.dtype.name)


def entries_of_row(x: Array | SparseInputs) -> int:
    """Return how many numbers a row of inputs holds where steps are given it."""
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
    """Return the blocks of at most so many rows that inputs are cut into where no step follows.

    With a share (r, R), those of one of R parts of the rows.
    """
    if isinstance(x, SparseInputs):
        most = min(most, x.rows_at_once)
    return list(row_blocks(x.shape[0], most, share))
