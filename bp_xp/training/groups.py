"""Groups: a stack takes the steps of a chunk a few networks at a time.

The data that a step of all networks reads and writes may not fit in a core's cache. Then it is
faster to take the steps of one group of networks after those of another. The networks are
independent, so the results are the same.

A compiled program loops over the networks itself (:func:`one_by_one`).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import numpy as np

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement, dtype_name
from bp_xp.engines import OneByOne
from bp_xp.sources.memory import gather_rows
from bp_xp.sources.stack import OwnRows
from bp_xp.training.step import State

__all__ = [
    "Chunk",
    "Part",
    "are_cut_on_host",
    "form_of_one",
    "groups_of",
    "in_groups",
    "is_stack",
    "networks_at_once",
    "networks_of",
    "one_by_one",
    "parts_of",
    "shares_of",
]

Chunk: TypeAlias = Callable[[State, Sequence[Array]], tuple[State, Array]]
"""Takes the steps of a chunk; returns the state and the totals, (steps, M, 3) for a stack."""

Part: TypeAlias = "Array | tuple[Array, Array]"
"""A part of the mini-batches of all networks: samples that all share, shape (steps, 1, ...); or the
numbers of rows, shape (steps, M, batch), and the array that has the rows; or the values of a
schedule, shape (steps, ..., M).
"""

_CACHE = 2 << 20
"""Bytes that are assumed to stay in a core's second-level cache."""

_WORTH_A_STACK = 8
"""The number of networks with which a stack is nearly as efficient as it gets."""

_FIRST_CACHE = 48 << 10
"""Bytes that are assumed to stay in a core's first-level cache."""


def is_stack(state: State) -> bool:
    """Return whether a state has an axis for networks."""
    return state.layers[0].b.ndim > 1


def networks_of(state: State) -> int:
    """Return the number of networks in a state; a state without an axis for them has one."""
    return state.layers[0].b.shape[0] if is_stack(state) else 1


def networks_at_once(state: State, batch_size: int, placement: Placement) -> int:
    """Return how many networks of a stack take a chunk together.

    It is all, except on a CPU. There, an engine that updates the state in place takes as many as
    fit in the second-level cache. A compiled program, whose passes write gradients and new
    parameters of all networks to memory, takes one at a time if one fills the first-level cache. A
    plain loop takes all. A single network counts as one.
    """
    n, engine = networks_of(state), placement.engine
    if n == 1 or not placement.on_cpu:
        return n
    if engine.one_by_one is not None:
        return 1 if _bytes_of_network(state, batch_size, n) > _FIRST_CACHE else n
    if not engine.in_place:
        return n
    return min(n, max(1, _CACHE // _bytes_of_network(state, batch_size, n)))


def _bytes_of_network(state: State, batch_size: int, n: int) -> int:
    """Return a rough estimate of the bytes that a step of one of n networks reads and writes."""
    layers = sum(math.prod(leaf.shape) for leaf in leaves_of(state.layers)) // n
    optimizer = sum(math.prod(leaf.shape) for leaf in leaves_of(state.optimizer)) // n
    inputs = state.layers[0].W.shape[-1]
    neurons = sum(layer.b.shape[-1] for layer in state.layers)
    # Each parameter and its gradient; each sample's inputs, and z, a, δ, σ′ of each neuron.
    numbers = 2 * layers + optimizer + batch_size * (inputs + 4 * neurons)
    return numbers * int(dtype_name(state.layers[0].b.dtype).removeprefix("float")) // 8


def groups_of(n: int, at_once: int) -> list[slice]:
    """Return the rows of groups of n networks, of similar size and at most so many in each.

    Examples:
        >>> groups_of(7, 3)
        [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    return _slices(n, math.ceil(n / at_once))


def shares_of(n: int, of_all: int, at_once: int, jobs: int) -> list[slice]:
    """Return the parts of n networks that processes are to train, each as a stack.

    Args:
        n: the number of networks that can be in one stack.
        of_all: the number of all networks, including others.
        at_once: the largest number of networks in a stack.
        jobs: the number of processes.

    Examples:
        >>> shares_of(48, 120, 64, 2)
        [slice(0, 24, None), slice(24, 48, None)]
        >>> shares_of(3, 120, 64, 2)
        [slice(0, 3, None)]
    """
    parts = math.ceil(n / min(at_once, math.ceil(of_all / jobs)))
    if n >= _WORTH_A_STACK * jobs:  # equal shares, so that none waits at the end
        parts = math.ceil(parts / jobs) * jobs
    return _slices(n, parts)


def _slices(n: int, parts: int) -> list[slice]:
    """Return the slices that divide n items into parts of similar size."""
    sizes = map(len, np.array_split(np.arange(n), parts))
    return [slice(*pair) for pair in itertools.pairwise(itertools.accumulate(sizes, initial=0))]


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
        state: that of all networks, which is consumed.
        batches: those of all networks: separate samples, or samples of shape (steps, 1, ...) if all
            share them; then the values of a schedule, shape (steps, ..., M).
        n_samples: the number of parts that are samples.
        xp: the namespace.
    """
    if len(groups) == 1:
        return take(state, [_part(one, groups[0]) for one in batches])
    if isinstance(batches[0], OwnRows):
        state = batches[0].lay_out(state)  # once, not for each group
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
    """Return the share of some networks in a part of mini-batches: their own, or the common one."""
    return part.of(rows) if isinstance(part, OwnRows) else part


def are_cut_on_host(part: Array | OwnRows) -> bool:
    """Return whether a part of mini-batches is cut before a program starts: sparse inputs are."""
    return isinstance(part, OwnRows) and part.are_sparse


def parts_of(batches: Sequence[Array | OwnRows]) -> list[Part]:
    """Return mini-batches in a form that a compiled function accepts."""
    return [(one.numbers, one.values) if isinstance(one, OwnRows) else one for one in batches]


def form_of_one(state: State, parts: Sequence[Part], *, n_samples: int) -> tuple[Any, list[Any]]:
    """Return shapes and dtypes of the state and the mini-batches of one network of a stack."""

    def form(array: Array, *shape: int) -> SimpleNamespace:
        return SimpleNamespace(shape=shape, dtype=array.dtype)

    def form_of(part: Part, *, is_sample: bool) -> SimpleNamespace:
        if isinstance(part, tuple):
            numbers, values = part
            return form(values, numbers.shape[0], *numbers.shape[2:], *values.shape[1:])
        steps, *shape = part.shape
        return form(part, steps, *(shape[1:] if is_sample else shape[:-1]))

    forms = [form_of(part, is_sample=i < n_samples) for i, part in enumerate(parts)]
    one = state.of_rows(lambda leaf: form(leaf, *leaf.shape[1:]))
    return one, forms


def one_by_one(
    take: Chunk,
    over: OneByOne,
    state: State,
    parts: Sequence[Part],
    *,
    n_samples: int,
    xp: Namespace,
) -> tuple[State, Array]:
    """Take the steps of a chunk in a compiled program, each network as if it were alone.

    Args:
        take: takes the steps of one network.
        over: loops over the networks.
        state: that of all networks.
        parts: their mini-batches, then the values of a schedule.
        n_samples: the number of parts that are samples.
        xp: the namespace.
    """

    def batches_of(part: Part, k: Array) -> Array:
        if isinstance(part, tuple):
            numbers, values = part
            steps, _, batch = numbers.shape
            rows = xp.reshape(numbers[:, k, :], (-1,))
            return gather_rows(xp, (steps, batch), rows, values)[0]
        return part[:, 0, ...]

    def of_one(k: Array) -> tuple[State, Array]:
        samples = [batches_of(part, k) for part in parts[:n_samples]]
        rates = [part[..., k] for part in cast(Sequence[Array], parts[n_samples:])]
        return take(_of_rows(state, k, xp), [*samples, *rates])

    after, totals = over(of_one, networks_of(state))
    moved, serves_all = leaves_of(after), _serves_all(state)
    joined = map_leaves(
        lambda leaf: next(moved)[0, ...] if id(leaf) in serves_all else next(moved), state
    )
    return joined, xp.permute_dims(totals, (1, 0, 2))


def _serves_all(state: State) -> set[int]:
    """Return the ids of the arrays of a stack that have no axis of networks."""
    of_masks = [state.masks.step, *state.masks.counters] if state.masks else []
    alike = (leaf for leaf in leaves_of(state) if not leaf.ndim)
    return {id(leaf) for leaf in (*of_masks, *alike)}


def _of_rows(state: State, rows: slice | Array, xp: Namespace) -> State:
    """Return the state of some networks of a stack, with copies of the parts that all share."""

    def cut(leaf: Array) -> Array:
        return leaf[rows, ...] if leaf.ndim else xp.asarray(leaf, copy=True)

    part = state.of_rows(cut)
    if not part.masks:
        return part
    return part._replace(masks=part.masks._replace(step=xp.asarray(part.masks.step, copy=True)))


def _joined(
    state: State, before: Sequence[Sequence[Array]], after: Sequence[Iterator[Array]], xp: Namespace
) -> State:
    """Return the state of all networks from those of the groups before and after their steps."""
    columns = zip(zip(*before, strict=True), zip(*after, strict=True), strict=True)
    serves_all = _serves_all(state)

    def join(leaf: Array) -> Array:
        were, are = next(columns)
        if id(leaf) in serves_all:
            return are[0]
        # If an engine updated them in place, they are already the rows of the whole.
        moved = all(one is other for one, other in zip(were, are, strict=True))
        return leaf if moved else xp.concat(list(are), axis=0)

    return map_leaves(join, state)
