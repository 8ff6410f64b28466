"""The CuPy engine: the plain loop, with each σ and σ′ fused into one kernel.

On a GPU a small network waits for launches. σ of a sigmoid is four operations; ``cupy.fuse`` makes
one kernel of them, out of the functions in :mod:`bp_xp.activations` themselves.
"""

import functools
from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines import plain
from bp_xp.engines._base import Elementwise, Engine

__all__ = ["ENGINE"]


class _Fusible:
    """CuPy's functions; those that ``cupy.fuse`` does not know are put in words that it does."""

    def __getattr__(self, name: str) -> Any:
        import cupy

        return getattr(cupy, name)

    @staticmethod
    def astype(array: Array, dtype: Any) -> Array:
        return array.astype(dtype)


@functools.lru_cache(maxsize=256)
def _fuse(function: Elementwise) -> Elementwise:
    """Return an elementwise function as one kernel, or as it is if it does more than CuPy fuses."""
    import cupy

    kernel: Any = cupy.fuse(  # pyright: ignore[reportAttributeAccessIssue]
        lambda *arrays: function(*arrays, xp=_Fusible())
    )

    def fused(*arrays: Array, xp: Namespace) -> Array:
        nonlocal kernel
        if kernel is not None:
            try:
                return kernel(*arrays)
            except (TypeError, ValueError, AttributeError, NotImplementedError):
                kernel = None
        return function(*arrays, xp=xp)

    return fused


ENGINE = Engine(new_loop=lambda: plain.loop, fuse=_fuse)
