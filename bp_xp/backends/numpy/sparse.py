"""Rows of a sparse matrix in the place of an array of inputs.

The entries that are zero are neither stored nor multiplied: of the first layer's products, a A Wᵀ
and Δᵀ A, each entry other than zero costs a row of W or Δ. The products are those of the matrix
itself, which is one of SciPy's; nothing here imports it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bp_xp._trees import map_leaves

__all__ = ["SparseBatches", "SparseRows", "lay_out"]


class SparseRows:
    """Inputs, shape (N, I), that a step multiplies as it multiplies arrays.

    Args:
        matrix: SciPy's, in CSR form.
    """

    __array_ufunc__ = None  # an array leaves its product with these rows to them
    ndim = 2

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def __matmul__(self, weights: np.ndarray) -> np.ndarray:
        return self.matrix @ weights

    def __rmatmul__(self, delta: np.ndarray) -> np.ndarray:
        return (self.matrix.T @ delta.T).T

    def __mul__(self, mask: np.ndarray) -> "SparseRows":
        return SparseRows(self.matrix.multiply(mask).tocsr())

    def copy(self) -> "SparseRows":
        """Return a copy."""
        return SparseRows(self.matrix.copy())


class SparseBatches:
    """Mini-batches of one size, shape (steps, batch, I), whose rows are sparse.

    Args:
        matrix: SciPy's, in CSR form: the rows of one mini-batch after those of the other.
        steps: how many there are.
    """

    ndim = 3

    def __init__(self, matrix: Any, steps: int) -> None:
        self._matrix, self.dtype = matrix, matrix.dtype
        self.shape = (steps, matrix.shape[0] // steps, matrix.shape[1])

    def __iter__(self) -> Iterator[SparseRows]:
        return (self[k, ...] for k in range(self.shape[0]))

    def __getitem__(self, key: tuple[Any, Any]) -> Any:
        steps, size, _ = self.shape
        first = key[0]  # the rest of the key takes all
        if isinstance(first, int):
            rows = slice(first * size, (first + 1) * size)
            return SparseRows(self._matrix if steps == 1 else self._matrix[rows])
        start, stop, _ = first.indices(steps)
        return SparseBatches(self._matrix[start * size : stop * size], stop - start)


def lay_out(tree: Any, x: Any) -> Any:
    """Return a nesting of arrays with the matrices that belong to the inputs laid out by columns.

    An entry of the inputs meets a column of W: what belongs to one input lies together.

    Args:
        tree: parameters, or all that steps carry on.
        x: the inputs, shape (..., I): with an array of them, nothing changes its place.
    """
    if isinstance(x, np.ndarray):
        return tree
    columns = x.shape[-1]

    def by_columns(leaf: Any) -> Any:
        belongs = getattr(leaf, "ndim", 0) == 2 and leaf.shape[1] == columns
        return np.asfortranarray(leaf) if belongs else leaf

    return map_leaves(by_columns, tree)
