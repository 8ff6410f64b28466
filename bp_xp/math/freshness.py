"""Which arrays may be overwritten: those that nothing else refers to.

Writing a result over one of its arguments saves memory and time. A function of bp_xp returns a new
array, which may be overwritten. A custom function may return one of its arguments, such as the
targets, or an array that it keeps.
"""

import sys
from typing import Any

__all__ = ["returns_fresh"]


def returns_fresh(function: Any) -> bool:
    """Return whether a function is known to return an array that nothing else refers to.

    This is known for functions of bp_xp, which are found by name in their modules, and for its
    callable objects if it is known for the functions that they call.

    Examples:
        >>> from bp_xp.math.costs import COSTS
        >>> returns_fresh(COSTS["binary_cross_entropy"].error)
        True
        >>> returns_fresh(lambda a, y, *, xp: y)
        False
    """
    if not hasattr(function, "__qualname__"):  # an object
        parts = getattr(function, "__dict__", {}).values()
        return _is_of_bp_xp(type(function)) and all(map(returns_fresh, filter(callable, parts)))
    return _is_of_bp_xp(function)


def _is_of_bp_xp(thing: Any) -> bool:
    module = getattr(thing, "__module__", None) or ""
    name = getattr(thing, "__qualname__", "")
    within = module.partition(".")[0] == "bp_xp"
    return within and getattr(sys.modules.get(module), name, None) is thing
