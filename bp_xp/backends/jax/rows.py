"""Rows of JAX arrays: cut, joined and repeated without a program for each number of them.

XLA compiles every operation for every shape. On a CPU, NumPy can read the memory of an array
without a program, so it handles the rows. On other devices each shape costs one small program.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Array

__all__ = ["cut", "fill_up", "join"]


def cut(array: Array, rows: slice) -> Array:
    """Return some rows of an array, shape (n, ...); for all rows, the array itself."""
    if rows.indices(n := array.shape[0]) == (0, n, 1):
        return array
    return _computed(lambda xp, values: values[rows, ...], array)


def join(parts: Sequence[Array]) -> Array:
    """Return arrays with the same columns as one array, concatenated by rows."""
    return _computed(lambda xp, *values: xp.concatenate(values, axis=0), *parts)


def fill_up(array: Array, n: int) -> Array:
    """Return an array with its last row repeated, so that there are n rows."""

    def padded(xp: Any, values: Any) -> Any:
        widths = [(0, n - values.shape[0])] + [(0, 0)] * (values.ndim - 1)
        return xp.pad(values, widths, mode="edge")

    return _computed(padded, array)


def _computed(function: Callable[..., Any], *arrays: Array) -> Array:
    """Return ``function(xp, *arrays)``: by NumPy in the memory of a CPU, otherwise by JAX."""
    import jax

    (device,) = arrays[0].devices()
    if device.platform != "cpu":
        return function(jax.numpy, *arrays)
    # Use the buffer, not numpy.asarray: nothing is copied to the host, so no_host_transfer()
    # has nothing to refuse. A result that shares the memory of an array keeps it alive.
    memories = (np.frombuffer(one, one.dtype).reshape(one.shape) for one in arrays)
    return jax.device_put(function(np, *memories), device)
