"""JAX: its CPU, GPU and TPU devices."""

import contextlib
import importlib
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from bp_xp._caller import advice
from bp_xp._optional import require
from bp_xp._typing import Array, Namespace
from bp_xp.backends.jax import rows as jax_rows
from bp_xp.backends.jax.engine import ENGINE
from bp_xp.backends.jax.sharding import engine_over
from bp_xp.backends.library import Form, Library, is_foreign_number
from bp_xp.engines import Engine
from bp_xp.errors import DeviceError

__all__ = ["JAX"]


class JAX(Library):
    """JAX: one device of a platform."""

    name = "jax"
    engine = ENGINE
    extra: str | None = "jax"
    talks_by = "jax"
    started_by = "python script.py"
    device_words = "'cpu', 'cuda', 'gpu', 'tpu', each also as 'cuda:N'"
    _platforms = ("cpu", "gpu", "cuda", "rocm", "tpu", "METAL")

    def namespace(self) -> Namespace:
        require("jax", self.extra)
        return importlib.import_module("jax.numpy")

    def owns(self, array: Array) -> bool:
        return array_api_compat.is_jax_array(array)

    def default_device(self) -> Any:
        return require("jax", self.extra).devices()[0]

    def devices(self) -> list[Any]:
        jax = require("jax", self.extra)
        others = [] if jax.default_backend() == "cpu" else jax.devices()
        return [*jax.devices("cpu"), *others]

    def device_name(self, device: Any) -> str:
        return f"{device.platform}:{device.id}"

    def find(self, word: str) -> Any:
        jax = require("jax", self.extra)
        platform, _, index = word.partition(":")
        if platform not in self._platforms or (":" in word and not index.isdecimal()):
            raise self._unknown(word)
        try:
            available = jax.devices(platform)
        except RuntimeError as error:
            raise DeviceError(
                f"device {word!r} of backend 'jax' does not work here: {error}"
            ) from error
        if int(index or 0) >= len(available):
            raise DeviceError(
                f"device {word!r} does not exist: JAX has {len(available)} device(s) "
                f"of platform {platform!r}."
            )
        return available[int(index or 0)]

    def device_of(self, array: Array) -> Any:
        # Where an array was placed by a sharding, its ``device`` is that, even with one device.
        devices = self._devices_of(array)
        return devices.pop() if len(devices) == 1 else super().device_of(array)

    def odd_form(self, array: Array) -> Form | None:
        if (n := len(self._devices_of(array))) < 2:
            return None
        remedy = "pass jax.device_put({0}, jax.devices()[0])"
        return Form(f"an array that is sharded over {n} devices", remedy, comes_home=True)

    def _devices_of(self, array: Array) -> set[Any]:
        """The devices that an array lies on; empty while it is traced."""
        jax = require("jax", self.extra)
        return set() if isinstance(array, jax.core.Tracer) else set(array.devices())

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        # jax.numpy.asarray compiles two programs for each shape; device_put compiles none, and on a
        # CPU shares the memory where it can: that of a caller may change before it is read.
        jax = require("jax", self.extra)
        return jax.device_put(array.copy() if device.platform == "cpu" else array, device)

    def cut(self, array: Array, rows: slice) -> Array:
        return jax_rows.cut(array, rows)

    def join(self, parts: Sequence[Array]) -> Array:
        return parts[0] if len(parts) == 1 else jax_rows.join(parts)

    def to_numpy(self, array: Array) -> np.ndarray:
        host = np.asarray(array)
        # NumPy has no bfloat16 of its own; most functions do not treat JAX's as a float.
        return host.astype(np.float32) if is_foreign_number(host.dtype) else host

    def dtype(self, name: str, device: Any) -> Any:
        if name == "float64" and not require("jax", self.extra).config.jax_enable_x64:
            raise ValueError(
                "JAX computes in float32 until jax_enable_x64 is set: before the network is made, "
                'call jax.config.update("jax_enable_x64", True) or set JAX_ENABLE_X64=1'
                f"{advice(', or use {}', 'dtype', 'float32')}."
            )
        return super().dtype(name, device)

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        # By default, JAX multiplies float32 numbers with fewer digits if a device is then faster
        # (TF32 on a GPU). No other library does, and users can turn it on.
        jax = require("jax", self.extra)
        if device.platform == "cpu" or jax.config.jax_default_matmul_precision is not None:
            return contextlib.nullcontext()
        return jax.default_matmul_precision("highest")

    def engine_over_devices(self, device: Any) -> Engine | None:
        jax = require("jax", self.extra)
        others = [one for one in jax.local_devices(backend=device.platform) if one != device]
        return engine_over((device, *others)) if others else None

    def ran_out_of_memory(self, error: Exception) -> bool:
        jax = require("jax", self.extra)
        on_device = isinstance(error, jax.errors.JaxRuntimeError) and "Out of memory" in str(error)
        return on_device or super().ran_out_of_memory(error)
