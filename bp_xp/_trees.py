"""Nestings of tuples and lists, such as a network's parameters and an optimizer's state."""

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["forms_of", "leaves_of", "map_leaves"]

_BRANCHES = (list, tuple)  # a constant: these functions are called at each chunk of each network


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a nesting of tuples and lists with a function applied to each leaf."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, item) for item in tree))
    if isinstance(tree, _BRANCHES):
        return type(tree)(map_leaves(function, item) for item in tree)
    return function(tree)


def leaves_of(tree: Any) -> Iterator[Any]:
    """Yield the leaves of a nesting of tuples and lists."""
    if isinstance(tree, _BRANCHES):
        for item in tree:
            yield from leaves_of(item)
    else:
        yield tree


def forms_of(tree: Any) -> list[tuple[Any, Any]]:
    """Return the shape and dtype of each leaf of a nesting; if it is not an array, its type."""
    return [
        (tuple(getattr(leaf, "shape", ())), getattr(leaf, "dtype", type(leaf)))
        for leaf in leaves_of(tree)
    ]
