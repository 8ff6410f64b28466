"""array_api_strict: the checker of the standard, whose devices stand in for a GPU."""

from typing import Any

import numpy as np

from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Library

__all__ = ["ArrayAPIStrict"]


class ArrayAPIStrict(Library):
    """The standard's checker, with its two made-up devices."""

    name = "array_api_strict"
    extra: str | None = "test"
    device_words = "'cpu', 'device1' or 'device2'"

    def namespace(self) -> Namespace:
        return require("array_api_strict", self.extra)

    def owns(self, array: Array) -> bool:
        namespace = getattr(array, "__array_namespace__", None)
        return namespace is not None and namespace().__name__ == self.name

    def devices(self) -> list[Any]:
        device = self.namespace().Device
        return [device("CPU_DEVICE"), device("device1"), device("device2")]

    def device_name(self, device: Any) -> str:
        return next(
            word
            for word, spelling in (("cpu", "CPU_DEVICE"), ("device1",) * 2, ("device2",) * 2)
            if device == self.namespace().Device(spelling)
        )

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array.to_device(self.namespace().Device("CPU_DEVICE")))
