"""NumPy: the CPU of this machine."""

from typing import Any

import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Form, Library
from bp_xp.backends.numpy.engine import ENGINE
from bp_xp.backends.numpy.sparse import SparseBatches, lay_out

__all__ = ["NumPy"]


class NumPy(Library):
    """NumPy, which only has the CPU."""

    name = "numpy"
    engine = ENGINE
    device_words = "'cpu'"
    talks_by = "mpi"
    started_by = "mpiexec -n 2 python -m mpi4py script.py"

    def namespace(self) -> Namespace:
        return np

    def owns(self, array: Array) -> bool:
        return isinstance(array, np.ndarray | np.generic)

    def default_device(self) -> Any:
        return "cpu"

    def devices(self) -> list[Any]:
        return ["cpu"]

    def device_of(self, array: Array) -> Any:
        return "cpu"

    def odd_form(self, array: Array) -> Form | None:
        if isinstance(array, np.ma.MaskedArray):
            words = "a masked array, whose mask would be lost"
            remedy = "fill it first, as in {0}.filled(0)"
            return Form(words, remedy, comes_home=not np.ma.is_masked(array))
        if isinstance(array, np.matrix):
            words = "a numpy.matrix, where * means another product"
            return Form(words, "pass numpy.asarray({0})", comes_home=True)
        return None

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def sparse_batches(self, matrix: Any, axes: tuple[int, ...], device: Any) -> SparseBatches:
        return SparseBatches(matrix, axes)

    def sparse_row_entries(self, matrix: Any) -> float:
        return matrix.nnz / matrix.shape[0]

    def laid_out(self, tree: Any, x: Any) -> Any:
        return lay_out(tree, x)
