"""Groups: a stack takes the steps of a chunk a few networks at a time.

What a step of all networks reads and writes may not fit a core's cache, and then takes longer than
the steps of some networks after those of others. No network knows of another: the results are the
same.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, cast

import numpy as np

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement, dtype_name
from bp_xp.sources.stack import OwnRows
from bp_xp.training.step import State

__all__ = ["Chunk", "groups_of", "in_groups", "networks_at_once", "networks_of"]

Chunk: TypeAlias = Callable[[State, Sequence[Array]], tuple[State, Array]]
"""Takes the steps of a chunk; returns the state and the totals, shape (steps, M, 3) of a stack."""

_CACHE = 2 << 20
"""Bytes that are taken to stay in a core's second cache."""


def networks_of(state: State) -> int:
    """Return how many networks a state is of; one without an axis for them is of one."""
    b = state.layers[0].b
    return b.shape[0] if b.ndim > 1 else 1


def networks_at_once(state: State, batch_size: int, placement: Placement) -> int:
    """Return how many networks of a stack take a chunk together.

    On a CPU it is as many as have room in the cache, where the engine moves the state in its
    memory: XLA's programs, and a plain loop, gain nothing. Elsewhere it is all. A network that is
    no stack is one.
    """
    n = networks_of(state)
    if n == 1 or not placement.on_cpu or not placement.engine.in_place:
        return n
    return min(n, max(1, _CACHE // _bytes_of_network(state, batch_size, n)))


def _bytes_of_network(state: State, batch_size: int, n: int) -> int:
    """Return how many bytes a step of one of n networks reads and writes, as a rule of thumb."""
    layers = sum(math.prod(leaf.shape) for leaf in leaves_of(state.layers)) // n
    optimizer = sum(math.prod(leaf.shape) for leaf in leaves_of(state.optimizer)) // n
    inputs = state.layers[0].W.shape[-1]
    neurons = sum(layer.b.shape[-1] for layer in state.layers)
    # Each parameter and its gradient; of each sample the inputs, and z, a, δ, σ′ of each neuron.
    numbers = 2 * layers + optimizer + batch_size * (inputs + 4 * neurons)
    return numbers * int(dtype_name(state.layers[0].b.dtype).removeprefix("float")) // 8


def groups_of(n: int, at_once: int) -> list[slice]:
    """Return the rows of the groups of n networks, at most so many in each and about alike.

    Examples:
        >>> groups_of(7, 3)
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    parts = np.array_split(np.arange(n), math.ceil(n / at_once))
    ends = itertools.accumulate((len(part) for part in parts), initial=0)
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def in_groups(
    take: Chunk,
    groups: Sequence[slice],
    state: State,
    batches: Sequence[Array | OwnRows],
    *,
    n_samples: int,
    xp: Namespace,
) -> tuple[State, Array]:
    """Take the steps of a chunk, one group of networks after the other.

    Args:
        take: takes the steps of some networks.
        groups: their rows.
        state: that of all networks, which is used up.
        batches: those of all networks: samples of their own, or of shape (steps, 1, ...) where all
            share them; then what a schedule gives, shape (steps, ..., M).
        n_samples: how many parts are samples.
        xp: the namespace.
    """
    if len(groups) == 1:
        return take(state, [_part(one, groups[0]) for one in batches])
    if isinstance(batches[0], OwnRows):
        state = batches[0].lay_out(state)  # once, and not the part of each group
    before, after, totals = [], [], []
    for rows in groups:
        part = _of_rows(state, rows, xp)
        samples = [_part(one, rows) for one in batches[:n_samples]]
        rates = [one[..., rows] for one in cast(Sequence[Array], batches[n_samples:])]
        before.append(list(leaves_of(part)))
        stepped, some = take(part, [*samples, *rates])
        after.append(leaves_of(stepped))
        totals.append(some)
    return _joined(state, before, after, xp), xp.concat(totals, axis=1)


def _part(part: Array | OwnRows, rows: slice) -> Array:
    """Return what some networks are given of a part of mini-batches: theirs, or that of all."""
    return part.of(rows) if isinstance(part, OwnRows) else part


def _of_rows(state: State, rows: slice, xp: Namespace) -> State:
    """Return the state of some networks of a stack; of what serves all, a copy to move on."""

    def cut(leaf: Array) -> Array:
        return leaf[rows, ...] if leaf.ndim else xp.asarray(leaf, copy=True)

    part = state.of_rows(cut)
    if not part.masks:
        return part
    return part._replace(masks=part.masks._replace(step=xp.asarray(part.masks.step, copy=True)))


def _joined(
    state: State, before: Sequence[Sequence[Array]], after: Sequence[Iterator[Array]], xp: Namespace
) -> State:
    """Return the state of all networks, of those of the groups before and after their steps."""
    columns = zip(zip(*before, strict=True), zip(*after, strict=True), strict=True)
    serves_all = {id(state.masks.step), *map(id, state.masks.counters)} if state.masks else set()

    def join(leaf: Array) -> Array:
        were, are = next(columns)
        if not leaf.ndim or id(leaf) in serves_all:
            return are[0]
        # Where an engine moved them in their memory, they are the rows of the whole already.
        moved = all(one is other for one, other in zip(were, are, strict=True))
        return leaf if moved else xp.concat(list(are), axis=0)

    return map_leaves(join, state)
