"""MLX's functions in the words of the array API standard, where MLX has others.

An array of MLX has no device: memory belongs to all of them, and what computes is chosen by a
context. So ``device`` is taken here, and says nothing.
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
    """Return a namespace with all that ``mlx.core`` has, and what it words differently."""

    def asarray(
        values: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None
    ) -> Array:
        del device
        if not isinstance(values, mx.array):
            return mx.asarray(values, dtype=dtype)
        if copy is False or (not copy and dtype in (None, values.dtype)):
            return values
        made = mx.array(values, dtype=dtype)
        mx.eval(made)  # what is not computed yet can't be used in another thread
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
