"""CuPy: CUDA GPUs."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from bp_xp._caller import advice
from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.cupy.communicator import CuPyCommunicator, own_gpu
from bp_xp.backends.cupy.engine import ENGINE
from bp_xp.backends.cupy.memory import ran_out_of_memory
from bp_xp.backends.library import Library
from bp_xp.errors import DeviceError

__all__ = ["CuPy"]


class CuPy(Library):
    """CuPy: CUDA devices, each tried by a small product that needs every part of the toolkit."""

    name = "cupy"
    engine = ENGINE
    extra: str | None = "cuda13"
    device_words = "'cuda' or 'cuda:N'"
    talks_by = "mpi"

    def __init__(self) -> None:
        super().__init__()
        self._works: set[int] = set()

    def namespace(self) -> Namespace:
        require("cupy", self.extra)
        return importlib.import_module("array_api_compat.cupy")

    def owns(self, array: Array) -> bool:
        # array_api_compat remembers its answer for a class, whatever "cupy" is by then.
        kind = getattr(sys.modules.get("cupy"), "ndarray", None)
        return kind is not None and isinstance(array, kind)

    def default_device(self) -> Any:
        return self.find("cuda")

    def best_device(self) -> Any:
        return next(self._working(own_gpu(_count(require("cupy", self.extra)))))

    def devices(self) -> list[Any]:
        return list(self._working())

    def _working(self, first: int = 0) -> Iterator[Any]:
        """Yield each working device, starting with a given one; if none works, its DeviceError."""
        cupy = require("cupy", self.extra)
        count, errors = _count(cupy), []
        for i in range(count):
            try:
                yield self._tried(cupy, (first + i) % count)
            except DeviceError as error:
                errors.append(error)
        if len(errors) == count:
            raise errors[0]

    def _tried(self, cupy: Any, number: int) -> Any:
        """Return a device that is known to work; it is tried once."""
        device = cupy.cuda.Device(number)
        if number not in self._works:
            _try(cupy, device)
            self._works.add(number)
        return device

    def device_name(self, device: Any) -> str:
        return f"cuda:{device.id}"

    def find(self, word: str) -> Any:
        kind, _, index = word.partition(":")
        if kind != "cuda" or (word != "cuda" and not index.isdecimal()):
            raise ValueError(f"backend 'cupy' has no device {word!r}: it takes {self.device_words}")
        cupy = require("cupy", self.extra)
        count = _count(cupy)
        number = int(index) if index else own_gpu(count)
        if number >= count:
            raise DeviceError(
                f"device {word!r} does not exist: this machine has {count} CUDA device(s), "
                f"'cuda:0' to 'cuda:{count - 1}'."
            )
        return self._tried(cupy, number)

    def has_dtype(self, name: str, device: Any) -> bool:
        # Every CUDA device has both; a trial would make an array on the current device.
        return True

    def to_numpy(self, array: Array) -> np.ndarray:
        return require("cupy", self.extra).asnumpy(array)

    def among(self, host: Any, device: Any) -> Any:
        return CuPyCommunicator(host, device)

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        # CuPy launches on the current device, whichever device its operands are on.
        return device

    def ran_out_of_memory(self, error: Exception) -> bool:
        return super().ran_out_of_memory(error) or ran_out_of_memory(error)


def _count(cupy: Any) -> int:
    """Return how many devices CuPy sees, at least one; otherwise a DeviceError says why not."""
    with _as_device_error():
        if not cupy.is_available():
            driver = cupy.cuda.runtime.driverGetVersion()
            raise DeviceError(
                "CuPy is installed but finds no CUDA device (is one visible to this process? "
                "see nvidia-smi and CUDA_VISIBLE_DEVICES)."
                if driver
                else "CuPy is installed but finds no NVIDIA driver: install the driver"
                f"{advice(', or use {}', 'device', 'cpu')}."
            )
        return cupy.cuda.runtime.getDeviceCount()


def _try(cupy: Any, device: Any) -> None:
    """Raise DeviceError unless a device computes: a missing part shows only at its first use."""
    with _as_device_error(), device:
        ones = cupy.ones((2, 2), dtype=cupy.float32)
        if float((ones @ ones + ones).sum()) != 12.0:  # cuBLAS, NVRTC and a reduction
            raise DeviceError(f"CuPy computes a wrong 2 × 2 product on cuda:{device.id}.")


@contextlib.contextmanager
def _as_device_error() -> Iterator[None]:
    """Convert any failure to a DeviceError with the remedy."""
    try:
        yield
    except DeviceError:
        raise
    except AttributeError as error:
        raise DeviceError(
            f"CuPy is only half installed ({error}): remove every cupy package and install "
            "one of bp_xp[cuda12] and bp_xp[cuda13]."
        ) from error
    except Exception as error:
        why = f"({type(error).__name__}: {error})"
        if ran_out_of_memory(error):
            raise DeviceError(
                f"CuPy has no memory left for a 2 × 2 product {why}: another process may hold it, "
                "see nvidia-smi."
            ) from error
        raise DeviceError(
            f"CuPy fails at its first product {why}: a CUDA toolkit library is missing or does "
            "not fit the driver; the extras bp_xp[cuda12] and bp_xp[cuda13] bring them along."
        ) from error
