"""The functions of MLX that differ from the array API standard, in the standard's form.

An MLX array has no device: all devices share memory, and a context chooses the one that computes.
So ``device`` is accepted here, and ignored.
"""

import functools
from types import ModuleType
from typing import Any

import numpy as np

from bp_xp._typing import Array
from bp_xp.backends.library import adapted

__all__ = ["standard_functions"]

_CREATORS = (
    *("arange", "empty", "eye", "full", "linspace", "ones", "zeros"),
    *("empty_like", "full_like", "ones_like", "zeros_like"),
)


@functools.cache
def standard_functions(mx: ModuleType) -> ModuleType:
    """Return a namespace with the content of ``mlx.core``, and the functions that differ."""

    def asarray(
        values: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None
    ) -> Array:
        del device
        if not isinstance(values, mx.array):
            return mx.asarray(values, dtype=dtype)
        if copy is False or (not copy and dtype in (None, values.dtype)):
            return values
        made = mx.array(values, dtype=dtype)
        mx.eval(made)  # arrays that are not evaluated cannot be used in another thread
        return made

    def astype(array: Array, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Array:
        del device
        return array if not copy and array.dtype == dtype else mx.array(array, dtype=dtype)

    def argmax(array: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
        return mx.argmax(array, axis, keepdims).astype(mx.int32)  # MLX gives it no sign

    def sum(
        array: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False
    ) -> Array:
        if array.size:
            return mx.sum(array, axis, keepdims)
        # Where there is nothing to add, MLX's own may never end.
        shape = np.zeros(array.shape).sum(axis=axis, keepdims=keepdims).shape
        return mx.zeros(shape, dtype=array.dtype)

    def without_device(create: Any) -> Any:
        @functools.wraps(create)
        def created(*args: Any, device: Any = None, **options: Any) -> Array:
            del device
            return create(*args, **options)

        return created

    creators = {name: without_device(getattr(mx, name)) for name in _CREATORS}
    own = {"argmax": argmax, "asarray": asarray, "astype": astype, "sum": sum}
    return adapted(mx, bool=mx.bool_, **creators, **own)
