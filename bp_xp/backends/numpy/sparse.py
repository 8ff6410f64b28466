"""Rows of a sparse matrix instead of an array of inputs.

Zeros are neither stored nor multiplied: in the first layer's products, A Wᵀ and Δᵀ A, each nonzero
entry costs a row of W or Δ. The products are those of the SciPy matrix itself; this module does not
import SciPy.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bp_xp._trees import map_leaves

__all__ = ["SparseBatches", "SparseRows", "SparseStack", "lay_out"]


class SparseRows:
    """Inputs, shape (N, I), that a step multiplies as it multiplies arrays.

    Args:
        matrix: a SciPy matrix in CSR format.
    """

    __array_ufunc__ = None  # so that products of an array with these rows use the methods here
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


class SparseStack:
    """Inputs of a stack of networks, shape (M, N, I), with separate rows for each.

    Args:
        each: those of each network.
    """

    __array_ufunc__ = None
    ndim = 3

    def __init__(self, each: Sequence[SparseRows]) -> None:
        self.each = each
        self.shape, self.dtype = (len(each), *each[0].shape), each[0].dtype

    @classmethod
    def of(cls, matrix: Any, networks: int) -> "SparseStack":
        """Return the inputs of networks out of a matrix with those of one after the other's."""
        size = matrix.shape[0] // networks
        return cls([SparseRows(matrix[m * size : (m + 1) * size]) for m in range(networks)])

    def __matmul__(self, weights: np.ndarray) -> np.ndarray:
        return _stack([x @ W for x, W in zip(self.each, weights, strict=True)])

    def __rmatmul__(self, delta: np.ndarray) -> np.ndarray:
        each = [(d @ x).T for x, d in zip(self.each, delta, strict=True)]
        return _stack(each).swapaxes(-1, -2)  # by columns, as W lies

    def __mul__(self, mask: np.ndarray) -> "SparseStack":
        masks = np.broadcast_to(mask, (self.shape[0], *mask.shape[-2:]))
        return SparseStack([x * own for x, own in zip(self.each, masks, strict=True)])

    def copy(self) -> "SparseStack":
        """Return a copy."""
        return SparseStack([x.copy() for x in self.each])


def _stack(each: Sequence[np.ndarray]) -> np.ndarray:
    return each[0][None, ...] if len(each) == 1 else np.stack(each)


class SparseBatches:
    """Mini-batches of one size, shape (steps, batch, I), whose rows are sparse.

    Args:
        matrix: a SciPy matrix in CSR format: the rows of one mini-batch after the other.
        axes: (steps,); for a stack of networks (steps, M), and the shape is (steps, M, batch, I).
    """

    def __init__(self, matrix: Any, axes: tuple[int, ...]) -> None:
        self._matrix, self._axes, self.dtype = matrix, axes, matrix.dtype
        self.shape = (*axes, matrix.shape[0] // math.prod(axes), matrix.shape[1])
        self.ndim = len(self.shape)

    def __iter__(self) -> Iterator[Any]:
        return (self[k, ...] for k in range(self.shape[0]))

    def __getitem__(self, key: tuple[Any, Any]) -> Any:
        steps, *networks = self._axes
        size = math.prod(self.shape[1:-1])
        first = key[0]  # the rest of the key takes all
        if isinstance(first, int):
            rows = slice(first * size, (first + 1) * size)
            matrix = self._matrix if steps == 1 else self._matrix[rows]
            return SparseStack.of(matrix, *networks) if networks else SparseRows(matrix)
        start, stop, _ = first.indices(steps)
        matrix = self._matrix[start * size : stop * size]
        return SparseBatches(matrix, (stop - start, *networks))


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

    ndim = max(2, x.ndim - 1)  # that of W, in a stack of networks with an axis for them

    def by_columns(leaf: Any) -> Any:
        if getattr(leaf, "ndim", 0) != ndim or leaf.shape[-1] != columns:
            return leaf
        turned = leaf.swapaxes(-1, -2)
        return leaf if turned.flags.c_contiguous else np.ascontiguousarray(turned).swapaxes(-1, -2)

    return map_leaves(by_columns, tree)
