"""Reductions: combine the results of several processes, each for its share of a mini-batch.

With one process there is nothing to combine, and the step has no such operation.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.engines.outside import call_outside
from bp_xp.ranks import Ranks

__all__ = ["Total", "reduce_gradients", "rows_of_share", "total_on_first", "totals_of_all"]


class Total(Protocol):
    """Sums an array over all processes."""

    def __call__(self, array: Array) -> Array:
        """Return the sum over all processes; each gets the same bits.

        The array is flat, on the device of the step, and may be overwritten. Objects for the same
        processes must compare equal, since a step that holds one is compiled once.
        """
        ...


def reduce_gradients(
    gradients: Sequence[Layer], weight: Array, total: Total, *, xp: Namespace
) -> list[Layer]:
    """Return the gradients of the mean cost over the samples of all processes.

    g = Σᵣ gᵣ / Σᵣ wᵣ, with one sum of one flat array

    Args:
        gradients: gᵣ, of the sum of the costs of this process's samples, each times its weight;
            one Layer for each layer.
        weight: wᵣ, the total weight of these samples, shape (1,).
        total: sums over processes.
        xp: their namespace.
    """
    parts = [part for layer in gradients for part in layer]
    flat = xp.concat([*(xp.reshape(part, (-1,)) for part in parts), weight])
    flat = call_outside(total, flat)
    mean = flat[:-1]
    mean /= xp.maximum(flat[-1:], 1e-30)
    reduced, start = [], 0
    for part in parts:
        size = math.prod(part.shape)
        reduced.append(xp.reshape(mean[start : start + size], part.shape))
        start += size
    return [Layer(W, b) for W, b in zip(reduced[::2], reduced[1::2], strict=True)]


def rows_of_share(rows: int, rank: int, size: int) -> int:
    """Return the number of rows of a mini-batch that one of several processes takes.

    Examples:
        >>> [rows_of_share(5, rank, 3) for rank in range(3)]
        [2, 2, 1]
    """
    return len(range(rank, rows, size))


def totals_of_all(totals: Sequence[Array], ranks: Ranks, *, placement: Placement) -> np.ndarray:
    """Return the sums of each process's steps, on the host, shape (ranks, steps, 3).

    Args:
        totals: this process's sums over its samples, for each chunk, shape (steps, 3).
        ranks: the processes, which have taken the same steps.
        placement: library and device.
    """
    return np.stack(ranks.gather(to_numpy(placement.library.join(totals))))


def total_on_first(totals: Sequence[Array], ranks: Ranks, *, placement: Placement) -> list[Array]:
    """Return the sums over all processes on rank 0, and zeros on the others.

    So rank 0 has everything that a checkpoint must hold, and nothing counts twice in later sums.
    With a single process, or without totals, the totals are returned unchanged.
    """
    if not ranks.are_several or not totals:
        return list(totals)
    summed = totals_of_all(totals, ranks, placement=placement).sum(axis=0)
    return [placement.asarray(summed if ranks.rank == 0 else np.zeros_like(summed))]
