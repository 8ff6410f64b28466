"""CuPy: CUDA GPUs."""

import contextlib
import importlib
from typing import Any

import array_api_compat
import numpy as np

from bp_xp._caller import advice
from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.cupy.engine import ENGINE
from bp_xp.backends.library import Library
from bp_xp.errors import DeviceError

__all__ = ["CuPy"]


class CuPy(Library):
    """CuPy: CUDA devices, found by a small product that needs every part of the toolkit."""

    name = "cupy"
    engine = ENGINE
    extra: str | None = "cuda13"
    device_words = "'cuda' or 'cuda:N'"

    def namespace(self) -> Namespace:
        require("cupy", self.extra)
        return importlib.import_module("array_api_compat.cupy")

    def owns(self, array: Array) -> bool:
        return array_api_compat.is_cupy_array(array)

    def default_device(self) -> Any:
        return self.find("cuda")

    def devices(self) -> list[Any]:
        cupy = require("cupy", self.extra)
        self._probe(cupy)
        return [cupy.cuda.Device(i) for i in range(cupy.cuda.runtime.getDeviceCount())]

    def device_name(self, device: Any) -> str:
        return f"cuda:{device.id}"

    def find(self, word: str) -> Any:
        kind, _, index = word.partition(":")
        if kind != "cuda" or (word != "cuda" and not index.isdecimal()):
            raise ValueError(f"backend 'cupy' has no device {word!r}: it takes {self.device_words}")
        available = self.devices()
        if word != "cuda" and int(index) >= len(available):
            raise DeviceError(
                f"device {word!r} does not exist: this machine has {len(available)} CUDA "
                f"device(s), 'cuda:0' to 'cuda:{len(available) - 1}'."
            )
        return available[int(index or 0)]

    @staticmethod
    def _probe(cupy: Any) -> None:
        """Raise DeviceError unless CuPy computes: a missing part shows only at its first use."""
        try:
            if not cupy.is_available():
                driver = cupy.cuda.runtime.driverGetVersion()
                raise DeviceError(
                    "CuPy is installed but finds no CUDA device (is one visible to this process? "
                    "see nvidia-smi and CUDA_VISIBLE_DEVICES)."
                    if driver
                    else "CuPy is installed but finds no NVIDIA driver: install the driver"
                    f"{advice(', or use {}', 'device', 'cpu')}."
                )
            ones = cupy.ones((2, 2), dtype=cupy.float32)
            if float((ones @ ones + ones).sum()) != 12.0:  # cuBLAS, NVRTC and a reduction
                raise DeviceError("CuPy computes a wrong 2 × 2 product on this device.")
        except DeviceError:
            raise
        except AttributeError as error:
            raise DeviceError(
                f"CuPy is only half installed ({error}): remove every cupy package and install "
                "one of bp_xp[cuda12] and bp_xp[cuda13]."
            ) from error
        except (RuntimeError, ImportError, OSError) as error:
            raise DeviceError(
                f"CuPy fails at its first product ({type(error).__name__}: {error}): a CUDA "
                "toolkit library is missing or does not fit the driver; the extras bp_xp[cuda12] "
                "and bp_xp[cuda13] bring them along."
            ) from error

    def to_numpy(self, array: Array) -> np.ndarray:
        return require("cupy", self.extra).asnumpy(array)

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        # CuPy launches on the current device, whichever device its operands are on.
        return device
