"""Which arrays may be written to: those that nobody else holds.

To write a result over one of its arguments saves memory and time. What a function of bp_xp returns
is an array anew, and may be written to. What a function of a user's own returns may be one of its
arguments, such as the targets, or an array that it keeps.
"""

import sys
from typing import Any

__all__ = ["returns_fresh"]


def returns_fresh(function: Any) -> bool:
    """Return whether what a function returns is known to be held by nobody else.

    That is known of functions of bp_xp, found under their names in their modules, and of its
    callable objects, where it is known of what they call.

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
