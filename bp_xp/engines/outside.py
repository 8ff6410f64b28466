"""Calls of what is no operation of the standard, such as a sum over processes."""

from collections.abc import Callable

from bp_xp._typing import Array
from bp_xp.engines.recorder import Recorded

__all__ = ["call_outside"]


def call_outside(function: Callable[[Array], Array], array: Array) -> Array:
    """Return ``function(array)``, an array anew of the same shape and dtype.

    A recorder that listens to arrays could not see into the function: so it is told of the call as
    a whole, and writes it down as one line.
    """
    if isinstance(array, Recorded):
        return array.tape.call(function, array)
    return function(array)
