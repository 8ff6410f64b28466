"""array_api_strict: the checker of the standard, whose devices stand in for a GPU."""

import contextlib
from typing import Any

import numpy as np

from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Library

__all__ = ["ArrayAPIStrict"]


# Its devices by their names in ``device=``: two that do not share arrays, and one without float64,
# like Apple's GPUs. Its device without any 64-bit numbers cannot be used: the checker's own argmax
# fails there, since it returns int64.
_SPELLINGS = {
    "cpu": "CPU_DEVICE",
    "device1": "device1",
    "device2": "device2",
    "no_float64": "no_float64",
}


class ArrayAPIStrict(Library):
    """The standard's checker, with its made-up devices."""

    name = "array_api_strict"
    extra: str | None = "test"
    device_words = "'cpu', 'device1', 'device2' or 'no_float64'"

    def namespace(self) -> Namespace:
        return require("array_api_strict", self.extra)

    def devices(self) -> list[Any]:
        found = []
        for spelling in _SPELLINGS.values():
            with contextlib.suppress(ValueError):  # older versions have fewer
                found.append(self.namespace().Device(spelling))
        return found

    def device_name(self, device: Any) -> str:
        named = self.namespace().Device
        return next(word for word, known in _SPELLINGS.items() if f"{device}" == f"{named(known)}")

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array.to_device(self.namespace().Device("CPU_DEVICE")))
