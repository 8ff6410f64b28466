"""Elementwise functions as one launch, by ``cupy.fuse``, from the functions themselves."""

import contextlib
import contextvars
import functools
import re
from collections.abc import Iterator
from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.backends.cupy.memory import ran_out_of_memory
from bp_xp.engines.engine import Elementwise
from bp_xp.engines.recorder import all_recorded
from bp_xp.engines.report import Report

__all__ = ["fuse", "told_to"]

_report: contextvars.ContextVar[Report | None] = contextvars.ContextVar("report", default=None)


@contextlib.contextmanager
def told_to(report: Report) -> Iterator[None]:
    """A context in which functions that cannot be fused are added to a report."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class _Fusible:
    """A namespace with only elementwise functions, which can be fused.

    ``cupy.fuse`` accepts some sums as well, but with another meaning.
    """

    def __init__(self, xp: Namespace) -> None:
        self._xp: Any = xp

    def __getattr__(self, name: str) -> Any:
        import cupy

        value = getattr(self._xp, name)
        kind: Any = cupy.ufunc  # pyright: ignore[reportAttributeAccessIssue]
        if not callable(value) or isinstance(value, kind | type) or name in ("where", "finfo"):
            return value
        raise NotImplementedError(f"{name} is not an elementwise function")

    @staticmethod
    def astype(array: Array, dtype: Any, *, copy: bool = True) -> Array:
        return array.astype(dtype, copy=copy)

    @staticmethod
    def ones_like(array: Array) -> Array:
        return ((array == array) | True).astype(array.dtype)


class _Fused:
    """An elementwise function as one kernel, or unchanged if CuPy cannot fuse it.

    Attributes:
        reason: why it is not fused; empty as long as it is.
    """

    def __init__(self, function: Elementwise) -> None:
        import cupy

        self._function, self.reason = function, ""
        self._name = getattr(function, "__name__", "function").strip("_")
        name = re.sub(r"\W", "", self._name)
        fuse: Any = cupy.fuse  # pyright: ignore[reportAttributeAccessIssue]
        # CuPy uses the name for the kernel: an invalid identifier would fail to compile.
        self._kernel = fuse(kernel_name=f"fused_{name}")(self._traced)

    def _traced(self, *arrays: Array) -> Array:
        # The kernel writes to a copy, and does not change its arguments.
        return self._function(*(array.copy() for array in arrays), xp=_Fusible(self._xp))

    def __call__(self, *arrays: Array, xp: Namespace) -> Array:
        if all_recorded(arrays):
            return self._function(*arrays, xp=xp)
        if not self.reason:
            self._xp = xp
            try:
                return self._kernel(*arrays)
            except Exception as error:
                # The tracer, the compiler and the launch each have their own errors. The user may
                # want warnings as errors, and too little memory is not the function's fault.
                if isinstance(error, Warning) or ran_out_of_memory(error):
                    raise
                self.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if (report := _report.get()) is not None:
            report.unfused[self._name] = self.reason
        return self._function(*arrays, xp=xp)


@functools.lru_cache(maxsize=256)
def _fused(function: Elementwise) -> _Fused:
    return _Fused(function)


def fuse(function: Elementwise) -> Elementwise:
    """Return an elementwise function ``f(*arrays, xp=xp)`` that is one launch, if it can be.

    If CuPy fails in any way, the function is used unchanged, and the run's report has the reason.
    """
    try:
        return _fused(function)
    except TypeError:  # one without a hash can't be known again, and would be compiled each time
        return function
