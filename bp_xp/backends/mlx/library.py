"""MLX: the CPU and the GPU of Apple's computers; NVIDIA's GPUs if it is built for CUDA."""

import contextlib
import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from bp_xp._caller import named
from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Library
from bp_xp.backends.mlx.engine import ENGINE
from bp_xp.backends.mlx.namespace import standard_functions
from bp_xp.errors import DeviceError

__all__ = ["MLX"]


class MLX(Library):
    """MLX: two devices with shared memory, and only float32."""

    name = "mlx"
    engine = ENGINE
    extra: str | None = "mlx"
    device_words = "'cpu' or 'gpu'"

    def namespace(self) -> Namespace:
        return standard_functions(self._core())

    def _core(self) -> Any:
        require("mlx", self.extra)
        try:
            return importlib.import_module("mlx.core")
        except ImportError as error:
            raise ImportError(
                f"MLX is only half installed ({error}): on Linux install mlx[cpu], or mlx[cuda13] "
                "for an NVIDIA GPU."
            ) from error

    def version(self) -> str:
        return self._core().__version__

    def owns(self, array: Array) -> bool:
        return type(array).__module__ == "mlx.core"

    def default_device(self) -> Any:
        return self._core().default_device()

    def devices(self) -> list[Any]:
        mx = self._core()
        kinds = [mx.cpu, mx.gpu] if mx.is_available(mx.gpu) else [mx.cpu]
        return [mx.Device(kind, 0) for kind in kinds]

    def device_name(self, device: Any) -> str:
        return "cpu" if device.type == self._core().cpu else "gpu"

    def find(self, word: str) -> Any:
        if word == "gpu" and not self._core().is_available(self._core().gpu):
            raise DeviceError(
                "device 'gpu' of backend 'mlx' does not work here: MLX finds no GPU. Apple's are "
                "served on macOS, NVIDIA's by the build that pip installs as mlx[cuda12]."
            )
        return super().find(word)

    def device_of(self, array: Array) -> Any:
        # All devices share memory; the current one computes.
        del array
        return self.default_device()

    def lies_on(self, array: Array, device: Any) -> bool:
        return True

    def has_dtype(self, name: str, device: Any) -> bool:
        # GPUs have no float64, and on a CPU its functions are no more exact than in float32.
        return name != "float64"

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        if array.dtype == np.float64:  # which MLX would silently convert to float32
            raise ValueError(f"MLX has no float64: use {named('dtype', 'float32')}.")
        return self._core().array(array)

    def to_numpy(self, array: Array) -> np.ndarray:
        mx = self._core()
        # NumPy has no bfloat16. Changes to a view would change the array.
        host = array.astype(mx.float32) if array.dtype == mx.bfloat16 else array
        return np.array(host)

    def compute(self, arrays: Iterable[Array]) -> None:
        # Arrays that are not evaluated stay a graph, which grows with each step and holds memory.
        self._core().async_eval(*arrays)

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        return self._core().stream(device)

    def ran_out_of_memory(self, error: Exception) -> bool:
        return super().ran_out_of_memory(error) or "malloc" in str(error)
