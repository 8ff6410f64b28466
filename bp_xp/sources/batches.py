"""A source whose samples come in batches, from a restartable iterable."""

import contextlib
import copy
import hashlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bp_xp._typing import Array
from bp_xp.backends import Placement, to_numpy
from bp_xp.backends.registry import library_of
from bp_xp.sources.ahead import Ahead, Piece
from bp_xp.sources.parts import PartMaker, told_of
from bp_xp.sources.samples import Samples
from bp_xp.sources.stream import StreamEpoch, on_device

__all__ = ["BatchesSource", "is_batches", "open_batches"]

_BYTES_AHEAD = 1 << 24


def is_batches(x: Any) -> bool:
    """Return whether x is not an array, but can be iterated over or called for batches."""
    if (callable(x) and not hasattr(x, "shape")) or _is_list_of_batches(x):
        return True
    array_like = isinstance(x, Sequence) or library_of(x) is not None
    others = ("shape", "__array__", "__array_interface__", "__dlpack__", "__dataframe__")
    return (
        not array_like
        and (hasattr(x, "__iter__") or hasattr(x, "__getitem__"))
        and not any(hasattr(x, name) for name in others)
    )


def _is_list_of_batches(x: Any) -> bool:
    """Return whether x is a list of batches (x, y) or (x, y, weights), not of samples."""
    first = x[0] if isinstance(x, list) and x else None
    return isinstance(first, tuple) and len(first) in (2, 3) and np.ndim(first[0]) == 2


def open_batches(batches: Any, name: str) -> Iterator[Any]:
    """Return a new iterator over batches.

    Args:
        batches: a restartable iterable, or a function that returns an iterable.
        name: the caller's name for it.

    Raises:
        TypeError: it cannot be iterated over, or not a second time.
    """
    found: Any = batches() if callable(batches) else batches
    if not callable(batches) and isinstance(batches, Iterator):
        raise TypeError(
            f"{name} is an iterator ({type(batches).__name__}), which cannot restart at the "
            f"next epoch: pass the function that makes it, as in {name}=batches without ()."
        )
    if not isinstance(found, Iterable) and not hasattr(found, "__getitem__"):
        raise TypeError(
            f"{name} must be arrays, or an iterable of batches (x, y) or (x, y, weights), not "
            f"{type(found).__name__}."
        )
    return iter(found)


class BatchesSource:
    """Samples that come batch by batch; see :class:`Source`.

    Mini-batches are cut from the rows in their order, independent of where a batch ends. The
    batches are read ahead in a thread, some 16 MB of them.

    Args:
        batches: as for :func:`open_batches`; yields (x, y) or (x, y, weights).
        maker: the requirements for samples.
        name: the caller's name for the batches.
        timeout: seconds to wait for a batch; None waits without a limit.
        sharded: whether the batches belong to only one of several processes.

    Attributes:
        first: the first batch, which shows the form of all.

    Raises:
        ValueError, TypeError: there is no first batch, or it cannot be used for training.
    """

    n_rows = None
    given: tuple[str, ...] = ()

    def __init__(
        self,
        batches: Any,
        maker: PartMaker,
        *,
        name: str,
        timeout: float | None = None,
        sharded: bool = False,
    ) -> None:
        self._batches, self._maker, self._name = batches, maker, name
        self._timeout, self._ranks, self.sharded = timeout, (0, 1), sharded
        self._forms: tuple[Any, ...] | None = None
        opened = open_batches(batches, name)
        peek = Ahead(
            lambda: ([batch] for batch in itertools.islice(opened, 1)),
            maker.placement,
            name=name,
            timeout=timeout,
        )
        with contextlib.closing(peek):
            found = next(peek, None)
        if found is None:
            raise ValueError(f"{name} yielded no batches: there is nothing to learn from.")
        self.first = self._samples(found[0], 0)
        # The first epoch uses this iterator: a start may be slow, or draw a random order.
        self._begun: tuple[Sequence[Any], Iterator[Any]] | None = (found, opened)

    @property
    def some_targets(self) -> Array:
        """Targets to inspect before the first step, those of the first batch, shape (n, O)."""
        return on_device(self.first.y, self.placement, self._maker.dtype)

    @property
    def row_entries(self) -> int:
        """I + O."""
        return self._maker.row_entries

    @property
    def dtype(self) -> str:
        """The dtype of the inputs of the first batch."""
        return str(self.first.x.dtype)

    @property
    def has_classes(self) -> bool:
        """Whether each target of the first batch is one class; then all others must be too."""
        return self.first.has_classes

    @property
    def weighted(self) -> bool:
        """Whether batches have weights."""
        return self.first.weighted or self._maker.per_class is not None

    @property
    def placement(self) -> Placement:
        """Library and device of the network."""
        return self._maker.placement

    def start_epoch(self, batch_size: int, generator: Any) -> StreamEpoch:
        """Return the next epoch, in the order of the batches; nothing is drawn."""
        del generator

        def read(first_row: int) -> Ahead:
            return self._ahead(first_row, batch_size)

        return StreamEpoch(read, batch_size, self.placement, self._maker.dtype, self._ranks)

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield all samples in the order of the batches."""
        with contextlib.closing(self.start_epoch(rows, None)) as epoch:
            while batches := epoch.take(1):
                if batches[0].shape[1]:  # the last one may have no row for a share
                    yield [part[0, ...] for part in batches]

    def share(self, rank: int, ranks: int) -> "BatchesSource":
        """Return the share of one of several processes, each of which reads all."""
        if self.sharded:
            return self
        share = self._copy()
        share._ranks = (rank, ranks)
        return share

    def _copy(self) -> "BatchesSource":
        """Return a copy that takes over the open iterator, which only one of them can use."""
        twin = copy.copy(self)
        self._begun = None
        return twin

    def weighed(self, per_class: np.ndarray) -> "BatchesSource":
        """Return the source with each sample's weight times that of its class, shape (K,)."""
        weighed = self._copy()
        weighed._maker = replace(self._maker, per_class=per_class)
        return weighed

    def fingerprint(self) -> None:
        """Return None: the samples are not known in advance."""

    def fingerprint_of_each(self) -> list[str]:
        """Return the SHA-256 of inputs, targets and weights of the first batch."""
        arrays = [np.ascontiguousarray(to_numpy(part)) for part in self.first.arrays]
        return [
            hashlib.sha256(f"{one.shape} {one.dtype}".encode() + one.tobytes()).hexdigest()
            for one in arrays
        ]

    def _ahead(self, first_row: int, batch_size: int) -> Ahead:
        # Opened here, not in the thread: a loader may start processes by forking this one.
        begun, self._begun = self._begun, None
        first, others = begun or ((), open_batches(self._batches, self._name))
        return Ahead(
            lambda: self._pieces(first, others, first_row, batch_size),
            self.placement,
            name=self._name,
            most=_BYTES_AHEAD,
            timeout=self._timeout,
        )

    def _pieces(
        self, first: Sequence[Any], others: Iterator[Any], first_row: int, batch_size: int
    ) -> Iterator[Piece]:
        """Yield the rows of each batch, from a row of the epoch on."""
        n = taken = 0
        try:
            for k, batch in enumerate(itertools.chain(first, others)):
                taken = k + 1
                samples = self._samples(batch, k)
                skip = max(first_row - n, 0)
                n += samples.x.shape[0]
                if n > first_row:
                    yield [part[skip:, ...] for part in samples.arrays]
        finally:
            if isinstance(others, Generator):
                others.close()
        self._check_end(taken, n, first_row - batch_size)

    def _check_end(self, taken: int, n: int, before: int) -> None:
        """Refuse an epoch that ends too early.

        Args:
            taken: the number of its batches.
            n: the number of its rows.
            before: a number of rows that a resumed run has already exceeded: its last mini-batch
                may have been a short one.

        Raises:
            ValueError: it has no batches, fewer than ``len()`` says, or too few for a resumed run.
        """
        if not taken:
            raise ValueError(
                f"{self._name} yielded no batches when it was restarted: pass an iterable that can "
                "restart each time, such as a function that makes the iterator."
            )
        said = len(self._batches) if hasattr(self._batches, "__len__") else taken
        if taken < said:
            raise ValueError(f"{self._name} ended after {taken} batches, but its len() is {said}.")
        # The shard of one process may end long before those of others.
        if n <= before and not self.sharded:
            raise ValueError(
                f"{self._name} ended after {n} rows, but the resumed run had taken more than "
                f"{before} in this epoch."
            )

    def _samples(self, batch: Any, number: int) -> Samples:
        """Return the samples of a batch, with the form of the first."""
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise TypeError(
                f"{self._name}, batch {number}: it must be (x, y) or (x, y, weights), not a "
                f"{type(batch).__name__}{size}."
            )
        where = f"{self._name}, batch {number}"
        with told_of(where):
            self._check_form(batch)
        x = self._maker.inputs(batch[0])
        with told_of(where):
            samples = self._maker.make(x, *batch[1:])
            if number and self.has_classes and not samples.has_classes:
                raise ValueError(
                    "y has targets that are not one class each, as all of batch 0 are. If they "
                    "are not classes, include some of these in the first batch."
                )
        return samples

    def _check_form(self, batch: Any) -> None:
        """Refuse a batch whose parts have other dtypes or dimensions than the first's."""
        forms = tuple(
            (str(part.dtype), len(part.shape)) if hasattr(part, "dtype") else None for part in batch
        )
        first = self._forms = self._forms or forms
        if forms != first:
            raise ValueError(
                f"it has parts of (dtype, dimensions) {_listed(forms)}, but batch 0 had "
                f"{_listed(first)}: all batches must be alike."
            )


def _listed(forms: tuple[Any, ...]) -> str:
    return ", ".join("a list" if form is None else f"({form[0]}, {form[1]})" for form in forms)
