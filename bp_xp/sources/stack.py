"""The mini-batches of a stack of networks: separate for each network, or shared.

The samples are on the device once. A mini-batch of the stack is one gather, of shape (M, batch, I)
if each of M networks has its own order, and of shape (1, batch, I) if all share one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp._typing import Array
from bp_xp.backends import Placement
from bp_xp.math.rows import row_blocks
from bp_xp.sources.memory import (
    MemoryEpoch,
    MemorySource,
    OfSamples,
    gather_rows,
    next_mini_batches,
)
from bp_xp.sources.samples import Samples
from bp_xp.sources.source import CountedEpoch, Epoch, Source
from bp_xp.sources.sparse import SparseInputs, entries_of_row, take_rows

__all__ = ["Generators", "OwnEpoch", "OwnRows", "RowsSource", "StackSource", "digest_of_rows"]


class Generators:
    """The generators of the members of a stack, with the interface of a single generator.

    Args:
        each: a generator for each member.
    """

    def __init__(self, each: Sequence[np.random.Generator]) -> None:
        self.each = list(each)

    @property
    def bit_generator(self) -> "Generators":
        """The object that has the state."""
        return self

    @property
    def state(self) -> list[Any]:
        """The states of all of them."""
        return [one.bit_generator.state for one in self.each]

    @state.setter
    def state(self, states: Sequence[Any]) -> None:
        for one, state in zip(self.each, states, strict=True):
            one.bit_generator.state = state


class _SharedEpoch(Epoch):
    """Mini-batches that all networks of a stack share; see :class:`Epoch`."""

    def __init__(self, epoch: MemoryEpoch) -> None:
        self._epoch = epoch

    @property
    def place(self) -> int:
        """The number of mini-batches taken."""
        return self._epoch.place

    def seek(self, place: Any) -> None:
        """Continue after so many mini-batches."""
        self._epoch.seek(place)

    def take(self, at_most: int) -> list[Array] | None:
        """Return the next mini-batches with an axis of one network, or None."""
        batches = self._epoch.take(at_most)
        return None if batches is None else [part[:, None, ...] for part in batches]


class OwnRows:
    """Separate mini-batches for each network, gathered when a network takes them.

    Args:
        numbers: the numbers of their rows, shape (steps · M · batch,); for sparse inputs, on the
            host.
        values: the array that has the rows, shape (N, ...).
        axes: (steps, M, batch).
        placement: library and device.

    Attributes:
        shape: that of the mini-batches of all networks, (steps, M, batch, ...).
        values: the array that has the rows, shape (N, ...).
    """

    def __init__(
        self,
        numbers: Array,
        values: Array | SparseInputs,
        axes: tuple[int, int, int],
        placement: Placement,
    ) -> None:
        self._numbers, self.values, self._axes = numbers, values, axes
        self._placement = placement
        self.shape = (*axes, *values.shape[1:])
        self.ndim = len(self.shape)

    def lay_out(self, tree: Any) -> Any:
        """Return a nesting of arrays, stored in the memory order that suits products with them."""
        return self._placement.library.laid_out(tree, self) if self.are_sparse else tree

    @property
    def are_sparse(self) -> bool:
        """Whether they are sparse inputs."""
        return isinstance(self.values, SparseInputs)

    @property
    def numbers(self) -> Array:
        """The numbers of their rows, shape (steps, M, batch)."""
        return self._placement.xp.reshape(self._numbers, self._axes)

    def of(self, networks: slice) -> Array:
        """Return the mini-batches of some networks, shape (steps, networks, batch, ...)."""
        xp, (steps, n, _) = self._placement.xp, self._axes
        first, end, _ = networks.indices(n)
        numbers = self._numbers
        if isinstance(self.values, SparseInputs):
            rows = numbers.reshape(self._axes)[:, networks, :]
            return self.values.batches(rows.ravel(), steps, end - first)
        if end - first < n:
            numbers = xp.reshape(self.numbers[:, networks, :], (-1,))
        axes = (steps, end - first, -1)
        return self._placement.engine.compile(gather_rows, xp, axes)(numbers, self.values)[0]


class OwnEpoch(CountedEpoch):
    """Separate mini-batches for each network; see :class:`Epoch`.

    Args:
        shared: arrays from which all networks take rows, shape (N, ...) each; inputs may be sparse.
        own: separate arrays for each network, shape (M · N, ...) each, one network after the other.
        orders: the numbers of the rows in the order of each network, shape (M, n), on the host.
        first_own: the number of each network's first row in ``own``, shape (M,).
        batch_size: the number of samples in a network's mini-batch; the last may be shorter.
        placement: library and device.
    """

    def __init__(
        self,
        shared: Sequence[Array | SparseInputs],
        own: Sequence[Array],
        orders: np.ndarray,
        first_own: np.ndarray,
        *,
        batch_size: int,
        placement: Placement,
    ) -> None:
        self._n_members, self._n_rows = orders.shape
        self._batch_size, self._placement = batch_size, placement
        numbers = _by_step(orders, batch_size)
        there = placement.asarray(numbers)
        self._gathered: list[tuple[Array, Array | SparseInputs]] = [
            (numbers if isinstance(values, SparseInputs) else there, values) for values in shared
        ]
        if own:
            there = placement.asarray(_by_step(orders + first_own[:, None], batch_size))
            self._gathered += [(there, values) for values in own]

    def take(self, at_most: int) -> list["OwnRows"] | None:
        """Return the next mini-batches, shapes (steps, M, batch, ...), or None."""
        first, size, n_members = self._taken, self._batch_size, self._n_members
        if (following := next_mini_batches(first, at_most, size, self._n_rows)) is None:
            return None
        steps, rows = following
        self._taken += steps
        begin = first * size * n_members
        span = slice(begin, begin + steps * rows * n_members)
        cut = self._placement.library.cut
        return [
            OwnRows(
                numbers[span] if isinstance(numbers, np.ndarray) else cut(numbers, span),
                values,
                (steps, n_members, rows),
                self._placement,
            )
            for numbers, values in self._gathered
        ]


def _by_step(orders: np.ndarray, batch_size: int) -> np.ndarray:
    """Return numbers of rows, shape (M, n), in the order of the steps, flattened.

    Examples:
        >>> _by_step(np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]), 2)
        array([0, 1, 5, 6, 2, 3, 7, 8, 4, 9])
    """
    n_members, n = orders.shape
    whole = n - n % batch_size
    steps = np.reshape(orders[:, :whole], (n_members, -1, batch_size))
    return np.concatenate([np.swapaxes(steps, 0, 1).ravel(), orders[:, whole:].ravel()])


@dataclass(frozen=True)
class StackSource(OfSamples):
    """Samples on the device for a stack of networks; see :class:`Source`.

    Attributes:
        samples: the samples; their weights may differ between members, shape (members, N).
        placement: their library and device.
        members: the numbers of the members in the stack; the list changes as they leave.
        shuffle: whether each epoch has a new order.
        shared_order: whether it is the same one for all members.
        rows: the rows that each member learns from, as numbers, shape (members, n); None is all.
        at_once: the largest number of networks that take their mini-batches together; None is all.
    """

    samples: Samples
    placement: Placement
    members: list[int]
    shuffle: bool = True
    shared_order: bool = False
    rows: np.ndarray | None = None
    at_once: int | None = None

    given: tuple[str, ...] = ()
    sharded = False

    @property
    def n_rows(self) -> int:
        """The number of samples that each member learns from in an epoch."""
        return self.samples.x.shape[0] if self.rows is None else self.rows.shape[1]

    @property
    def row_entries(self) -> int:
        """I + O for each network whose samples are gathered together; once if all share them."""
        entries = entries_of_row(self.samples.x) + self.samples.y.shape[1]
        n = len(self.members)
        return entries if self._is_one_for_all else entries * min(n, self.at_once or n)

    @property
    def dtype(self) -> str:
        """The network's."""
        return MemorySource(self.samples, self.placement).dtype

    @property
    def _weights_differ(self) -> bool:
        return self.samples.weights is not None and self.samples.weights.ndim > 1

    @property
    def _is_one_for_all(self) -> bool:
        """Whether all members take the same mini-batches; sparse ones are cut for each."""
        if isinstance(self.samples.x, SparseInputs):
            return False
        alike = self.shared_order or not self.shuffle
        return alike and self.rows is None and not self._weights_differ

    def start_epoch(self, batch_size: int, generator: Any) -> Epoch:
        """Return the next epoch, whose order the members' :class:`Generators` draw, or one does."""
        if self._is_one_for_all:
            source = MemorySource(self.samples, self.placement, self.shuffle)
            return _SharedEpoch(source.start_epoch(batch_size, generator))
        shared, own = self.samples.arrays, []
        if self._weights_differ:
            shared, own = shared[:2], [self.placement.xp.reshape(self.samples.weights, (-1,))]
        first_own = np.asarray(self.members) * self.samples.x.shape[0]
        return OwnEpoch(
            shared,
            own,
            self.orders(generator),
            first_own,
            batch_size=batch_size,
            placement=self.placement,
        )

    def orders(self, generator: Any) -> np.ndarray:
        """Return the numbers of the rows in the order of each network, shape (M, n)."""
        n, n_members = self.n_rows, len(self.members)
        if not self.shuffle:
            orders = np.tile(np.arange(n), (n_members, 1))
        elif self.shared_order:
            orders = np.tile(generator.permutation(n), (n_members, 1))
        else:
            orders = np.empty((n_members, n), dtype=np.int64)
            for row, m in enumerate(self.members):
                orders[row] = generator.each[m].permutation(n)
        if self.rows is not None:
            orders = np.take_along_axis(self.rows[self.members], orders, axis=1)
        return orders

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield all samples in their stored order."""
        return MemorySource(self.samples, self.placement).blocks(rows)

    def share(self, rank: int, ranks: int) -> Source:
        """Refuse to be shared: the members of a stack are trained by one process.

        Raises:
            ValueError: there are several processes.
        """
        if ranks > 1:
            raise ValueError("a stack of networks has no shares for several processes.")
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of the samples, and of the numbers of the rows if they matter."""
        samples = MemorySource(self.samples, self.placement).fingerprint()
        return samples if self.rows is None else f"{samples} {digest_of_rows(self.rows)}"

    def fingerprint_of_each(self) -> list[str]:
        """Return the SHA-256 of inputs, of targets and, if there are any, of weights."""
        return MemorySource(self.samples, self.placement).fingerprint_of_each()


def digest_of_rows(rows: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of the numbers of the rows of each member."""
    digest = hashlib.sha256()
    for numbers in rows:
        digest.update(np.ascontiguousarray(numbers, dtype=np.int64).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class RowsSource(OfSamples):
    """Some rows of samples, for validation, without a copy of all of them.

    Attributes:
        samples: the samples.
        rows: the numbers of the rows, on the host.
        placement: library and device.
    """

    samples: Samples
    rows: np.ndarray
    placement: Placement

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield the rows, at most so many at a time."""
        inputs = self.samples.x
        if isinstance(inputs, SparseInputs):
            rows = min(rows, inputs.rows_at_once)
        for block in row_blocks(len(self.rows), rows):
            x, *others = take_rows(self.samples.arrays, self.rows[block], self.placement)
            yield [x[:, ...] if isinstance(x, SparseInputs) else x, *others]
