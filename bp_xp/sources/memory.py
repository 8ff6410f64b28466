"""A source whose samples are on the device."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement, dtype_name, to_numpy
from bp_xp.sources.samples import Samples
from bp_xp.sources.source import CountedEpoch, Source
from bp_xp.sources.sparse import SparseInputs, blocks_of, cut_rows, entries_of_row

__all__ = ["MemoryEpoch", "MemorySource", "OfSamples", "gather_rows", "next_mini_batches"]


class MemoryEpoch(CountedEpoch):
    """Mini-batches cut from arrays on the device, in a given order; see :class:`Epoch`.

    Args:
        arrays: arrays on the device, shape (N, ...) each, the first of which may be sparse inputs;
            all have the same order.
        batch_size: the number of samples in a mini-batch; the last may be shorter.
        order: the numbers of the rows in the order of the epoch, on the host; None keeps their
            order.
        placement: library and device.
        rank: the share of each mini-batch to take: its rows ``rank::ranks``.
        ranks: the number of shares.
    """

    def __init__(
        self,
        arrays: Sequence[Array | SparseInputs],
        batch_size: int,
        order: np.ndarray | None,
        placement: Placement,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._sparse = [values for values in arrays if isinstance(values, SparseInputs)]
        self._arrays = [values for values in arrays if not isinstance(values, SparseInputs)]
        self._batch_size, self._placement = batch_size, placement
        self._rank, self._ranks = rank, ranks
        n = self._n_rows = arrays[0].shape[0]
        if order is None and ranks > 1:
            order = np.arange(n)
        self._on_host, self._order = order, None if order is None else placement.asarray(order)

    def take(self, at_most: int) -> list[Array] | None:
        """Return the next mini-batches, or None; see :meth:`Epoch.take`."""
        size, n = self._batch_size, self._n_rows
        first = self._taken
        if (following := next_mini_batches(first, at_most, size, n)) is None:
            return None
        steps, size = following
        self._taken += steps
        return self._cut(
            slice(first * self._batch_size, first * self._batch_size + steps * size), steps
        )

    def _cut(self, rows: slice, steps: int) -> list[Array]:
        """Return some rows of the order as so many mini-batches."""
        xp, placement = self._placement.xp, self._placement
        if self._order is None or self._on_host is None:
            return [
                *(sparse.batches(rows, steps) for sparse in self._sparse),
                *(
                    xp.reshape(cut_rows(values, rows, placement), (steps, -1, *values.shape[1:]))
                    for values in self._arrays
                ),
            ]
        numbers = self._share(cut_rows(self._order, rows, placement), steps, xp)
        gather = placement.engine.compile(gather_rows, xp, (steps, -1))
        return [
            *(
                sparse.batches(self._share(self._on_host[rows], steps, np), steps)
                for sparse in self._sparse
            ),
            *gather(numbers, *self._arrays),
        ]

    def _share(self, numbers: Array, steps: int, xp: Namespace) -> Array:
        """Return which of the rows of some mini-batches are in the share."""
        if self._ranks == 1:
            return numbers
        each = xp.reshape(numbers, (steps, -1))
        first = min(self._rank, each.shape[1])  # the last mini-batch may have no row for it
        return xp.reshape(each[:, first :: self._ranks], (-1,))


def next_mini_batches(first: int, at_most: int, size: int, n: int) -> tuple[int, int] | None:
    """Return the number of the next mini-batches, and the rows in each; None after the last.

    Args:
        first: the number of mini-batches already taken.
        at_most: the largest number to return.
        size: rows in a mini-batch.
        n: rows in the epoch. The rows left over form one short mini-batch.

    Examples:
        >>> [next_mini_batches(k, 2, 10, 35) for k in (0, 2, 3, 4)]
        [(2, 10), (1, 10), (1, 5), None]
    """
    if first * size >= n:
        return None
    steps = min(at_most, n // size - first)
    return (steps, size) if steps else (1, n - first * size)


def gather_rows(xp: Namespace, axes: tuple[int, ...], rows: Array, *arrays: Array) -> list[Array]:
    """Return the mini-batches of some rows of each array, with these axes in front."""
    return [
        xp.reshape(xp.take(values, rows, axis=0), (*axes, *values.shape[1:])) for values in arrays
    ]


class OfSamples:
    """Properties that a source of samples on the device derives from them."""

    samples: Samples

    @property
    def has_classes(self) -> bool:
        """Whether each target is one class."""
        return self.samples.has_classes

    @property
    def weighted(self) -> bool:
        """Whether a mini-batch has weights."""
        return self.samples.weights is not None


@dataclass(frozen=True)
class MemorySource(OfSamples):
    """Samples on the device, shuffled there; see :class:`Source`.

    Attributes:
        samples: the samples.
        placement: their library and device.
        shuffle: whether each epoch has a new order.
        rank: the share of each mini-batch to take.
        ranks: the number of shares.
        sharded: whether the samples belong to a single process, and are not divided.
    """

    samples: Samples
    placement: Placement
    shuffle: bool = True
    rank: int = 0
    ranks: int = 1
    sharded: bool = False

    given: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """N."""
        return self.samples.x.shape[0]

    @property
    def some_targets(self) -> Array:
        """Targets to inspect before the first step, here all of them, shape (N, O)."""
        return self.samples.y

    @property
    def row_entries(self) -> int:
        """I + O; for sparse inputs, the numbers that a step gets of them."""
        return entries_of_row(self.samples.x) + self.samples.y.shape[1]

    @property
    def dtype(self) -> str:
        """The network's: the samples are floats already."""
        return dtype_name(self.samples.x.dtype)

    def start_epoch(self, batch_size: int, generator: np.random.Generator) -> MemoryEpoch:
        """Return the next epoch, whose order the generator draws."""
        order = generator.permutation(self.n_rows) if self.shuffle else None
        return MemoryEpoch(
            self.samples.arrays,
            batch_size,
            order,
            self.placement,
            rank=self.rank,
            ranks=self.ranks,
        )

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield all samples in their stored order."""
        for block in blocks_of(self.samples.x, rows, (self.rank, self.ranks)):
            yield [cut_rows(values, block, self.placement) for values in self.samples.arrays]

    def share(self, rank: int, ranks: int) -> Source:
        """Return the share of one of several processes."""
        return self if self.sharded else replace(self, rank=rank, ranks=ranks)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the samples."""
        digest = hashlib.sha256()
        for values in self.samples.arrays:
            _update(digest, values)
        return digest.hexdigest()

    def fingerprint_of_each(self) -> list[str]:
        """Return the SHA-256 of inputs, of targets and, if there are any, of weights."""
        return [_update(hashlib.sha256(), values).hexdigest() for values in self.samples.arrays]


def _update(digest: Any, values: Any) -> Any:
    """Add the shape and the numbers of an array to a digest, and return it."""
    digest.update(str(tuple(values.shape)).encode())
    parts = values.parts if isinstance(values, SparseInputs) else [to_numpy(values)]
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest
