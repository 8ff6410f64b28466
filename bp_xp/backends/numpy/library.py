"""NumPy: the CPU of this machine."""

from typing import Any

import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Library
from bp_xp.backends.numpy.engine import ENGINE

__all__ = ["NumPy"]


class NumPy(Library):
    """NumPy, on the CPU alone."""

    name = "numpy"
    engine = ENGINE
    device_words = "'cpu'"

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

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)
