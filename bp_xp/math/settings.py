"""Settings that differ: by layer, or by network of a stack.

A setting such as a learning rate is a number, or an array of shape (); or a list or tuple of these,
one for each layer; or, in a stack of M networks whose weights are (M, O, I), an array of (M,).
"""

from collections.abc import Sequence
from typing import Any

from bp_xp._typing import Array, Layer

__all__ = ["each_layer", "spread"]


def spread(setting: Any, axes: int) -> Any:
    """Return a setting in a form that broadcasts against arrays with so many axes of their own.

    Args:
        setting: a number, or an array of shape () or (M,).
        axes: 2 for weights, 1 for biases.

    Returns:
        What has no axes as it is; otherwise shape (M, 1, 1) or (M, 1).
    """
    if getattr(setting, "ndim", 0) == 0:
        return setting
    return setting[(..., *[None] * axes)]


def each_layer(setting: Any, layers: Sequence[Layer]) -> list[Layer]:
    """Return a setting for each layer, in forms that broadcast against W and b."""
    values: list[Array] = (
        list(setting) if isinstance(setting, list | tuple) else [setting] * len(layers)
    )
    return [Layer(spread(value, 2), spread(value, 1)) for value in values]
