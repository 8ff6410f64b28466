"""Reductions: what several processes find, each for its share of a mini-batch, put together.

On one process there is nothing to put together, and the step has no such operation.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.engines.outside import call_outside

__all__ = ["Total", "reduce_gradients"]


class Total(Protocol):
    """Adds up an array over all processes."""

    def __call__(self, array: Array) -> Array:
        """Return the sum over all processes, in an array anew; each process gets the same bits.

        The array is flat, on the device of the step. Equal totals must compare equal, as the rule
        of a step that holds one is compiled once.
        """
        ...


def reduce_gradients(
    gradients: Sequence[Layer], weight: Array, total: Total, *, xp: Namespace
) -> list[Layer]:
    """Return the gradients of the mean cost over the samples of all processes.

    g = Σᵣ wᵣ gᵣ / Σᵣ wᵣ, with one sum of one flat array

    Args:
        gradients: gᵣ, of the mean cost over this process's samples, one Layer for each layer.
        weight: wᵣ, how much these samples count together, shape (1,).
        total: adds up over processes.
        xp: their namespace.
    """
    parts = [part for layer in gradients for part in layer]
    flat = xp.concat([*(xp.reshape(part, (-1,)) * weight for part in parts), weight])
    flat = call_outside(total, flat)
    mean = flat[:-1] / xp.maximum(flat[-1:], 1e-30)
    reduced, start = [], 0
    for part in parts:
        size = math.prod(part.shape)
        reduced.append(xp.reshape(mean[start : start + size], part.shape))
        start += size
    return [Layer(W, b) for W, b in zip(reduced[::2], reduced[1::2], strict=True)]
