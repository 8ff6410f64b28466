"""Calls of functions outside of the standard, such as a sum over processes."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeAlias

from bp_xp._typing import Array
from bp_xp.engines.recorder import Recorded

__all__ = ["Outside", "call_outside", "heard_by"]

Outside: TypeAlias = Callable[[Array], Array]
"""A function of an array that returns one of the same shape and dtype, in its memory or another."""

_hearer: ContextVar[Callable[[Outside, Array], Array] | None] = ContextVar(
    "who hears of calls to the outside", default=None
)


def call_outside(function: Outside, array: Array) -> Array:
    """Return ``function(array)``.

    A recorder cannot see into the function, so it gets the call as a whole, and records it as one
    line. It does not make the call, since other processes may record at another step.
    """
    if isinstance(array, Recorded):
        return array.tape.call(function, array)
    hear = _hearer.get()
    return function(array) if hear is None else hear(function, array)


@contextlib.contextmanager
def heard_by(hear: Callable[[Outside, Array], Array]) -> Iterator[None]:
    """Pass calls to a recorder whose arrays look like others, while this context is active.

    Args:
        hear: records a call, and returns an array of the form of its result.
    """
    before = _hearer.set(hear)
    try:
        yield
    finally:
        _hearer.reset(before)
