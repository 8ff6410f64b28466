"""Settings that differ between layers, or between the networks of a stack.

A setting such as a learning rate is a number, or an array of shape (); or a list or tuple of these,
one for each layer; or, in a stack of M networks with weights of shape (M, O, I), an array of shape
(M,).
"""

from collections.abc import Sequence
from typing import Any

from bp_xp._typing import Array, Layer

__all__ = ["by_layer", "each_layer", "spread"]


def spread(setting: Any, axes: int) -> Any:
    """Return a setting in a form that broadcasts against arrays with this many axes per network.

    Args:
        setting: a number, or an array of shape () or (M,).
        axes: 2 for weights, 1 for biases.

    Returns:
        A setting without axes is returned unchanged; otherwise the shape is (M, 1, 1) or (M, 1).
    """
    if getattr(setting, "ndim", 0) == 0:
        return setting
    return setting[(..., *[None] * axes)]


def by_layer(setting: Any, layers: Sequence[Layer]) -> list[Array]:
    """Return a list with the setting of each layer, in its original form."""
    return list(setting) if isinstance(setting, list | tuple) else [setting] * len(layers)


def each_layer(setting: Any, layers: Sequence[Layer]) -> list[Layer]:
    """Return a setting for each layer, in forms that broadcast against W and b."""
    return [Layer(spread(one, 2), spread(one, 1)) for one in by_layer(setting, layers)]
