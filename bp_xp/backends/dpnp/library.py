"""dpnp: SYCL devices, which are Intel GPUs and, with Intel's OpenCL runtime, CPUs."""

import copyreg
import functools
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Library, adapted
from bp_xp.errors import DeviceError

__all__ = ["DPNP"]

# The parts of a SYCL filter string, besides numbers.
_SELECTORS = ("opencl", "level_zero", "cuda", "hip", "cpu", "gpu", "accelerator")


@functools.cache
def _mended(dpnp: ModuleType) -> ModuleType:
    """Return dpnp with arrays that can be pickled, and broadcast arrays that have their own memory.

    A custom σ′ may return an array whose rows share memory. A product with it raises an error in
    two dimensions, and is wrong in three (dpnp 0.20).
    """
    copyreg.pickle(dpnp.ndarray, _reduced)

    def broadcast_to(array: Array, /, shape: Sequence[int]) -> Array:
        return dpnp.broadcast_to(array, shape).copy()

    def broadcast_arrays(*arrays: Array) -> list[Array]:
        return [array.copy() for array in dpnp.broadcast_arrays(*arrays)]

    return adapted(dpnp, broadcast_to=broadcast_to, broadcast_arrays=broadcast_arrays)


class DPNP(Library):
    """dpnp: all devices that SYCL finds, named by its filter strings."""

    name = "dpnp"
    extra: str | None = "dpnp"
    device_words = "'cpu', 'gpu', 'gpu:N', or a filter string of SYCL such as 'level_zero:gpu:0'"

    def namespace(self) -> Namespace:
        try:
            dpnp = require("dpnp", self.extra)
        except ImportError as error:
            if getattr(error.__cause__, "name", None) == "dpnp":  # it is not installed
                raise
            raise ImportError(
                f"dpnp is only half installed ({error}): reinstall it and its dependencies with "
                'python -m pip install --force-reinstall "dpnp".'
            ) from error
        return _mended(dpnp)

    def default_device(self) -> Any:
        # SYCL's own choice: a GPU before a CPU.
        self._require_devices()
        return super().default_device()

    def devices(self) -> list[Any]:
        self._require_devices()
        return super().devices()

    def device_name(self, device: Any) -> str:
        return device.sycl_device.filter_string

    def is_cpu(self, device: Any) -> bool:
        return device.sycl_device.is_cpu

    def find(self, word: str) -> Any:
        if not all(part in _SELECTORS or part.isdecimal() for part in word.split(":")):
            raise self._unknown(word)
        self._require_devices()
        try:
            return self.device_of(self.namespace().empty(0, device=word))
        except Exception as error:  # SYCL has a separate error for each kind of failure
            found = ", ".join(repr(self.device_name(device)) for device in self.devices())
            raise DeviceError(
                f"device {word!r} of backend 'dpnp' does not work here: {error}. "
                f"Found here: {found}."
            ) from error

    def _require_devices(self) -> None:
        if not self.namespace().__array_namespace_info__().devices():
            runtime = pathlib.Path(sys.prefix, "lib", "libintelocl.so")
            raise DeviceError(
                "dpnp is installed, but SYCL finds no device. An Intel GPU needs its Level "
                "Zero driver. A CPU needs Intel's OpenCL runtime, which "
                + (
                    f"is installed: set OCL_ICD_FILENAMES={runtime} before Python starts."
                    if runtime.exists()
                    else "pip installs as intel-opencl-rt."
                )
            )

    def by_value(self, array: Array) -> Array:
        # A product reads the rows of a broadcast array as if they followed each other in memory.
        return self.namespace().copy(array, order="C") if 0 in array.strides else array

    def to_numpy(self, array: Array) -> np.ndarray:
        return self.namespace().asnumpy(array)

    def ran_out_of_memory(self, error: Exception) -> bool:
        return super().ran_out_of_memory(error) or type(error).__name__ == "USMAllocationError"


def _reduced(array: Array) -> tuple[Any, ...]:
    library = DPNP()
    device = library.device_name(library.device_of(array))
    return _restored, (library.to_numpy(array), device)


def _restored(values: np.ndarray, device: str) -> Array:
    library = DPNP()
    return library.from_numpy(values, library.find(device))
