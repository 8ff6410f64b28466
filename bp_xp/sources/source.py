"""What a source of mini-batches is."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from bp_xp._typing import Array

__all__ = ["CountedEpoch", "Epoch", "Source"]


class Epoch(Protocol):
    """The mini-batches of one epoch, in its order; each is taken once.

    What a step computes does not depend on where chunks fall: however often :meth:`take` is called,
    and for how many mini-batches at once, they are the same, one after the other.
    """

    @property
    def place(self) -> Any:
        """Where the epoch is, as JSON can hold it: what :meth:`seek` takes."""
        ...

    def seek(self, place: Any) -> None:
        """Go on from a place that was saved, in the same order."""
        ...

    def take(self, at_most: int) -> list[Array] | None:
        """Return the next mini-batches, of one size, or None where the epoch is over.

        Args:
            at_most: how many mini-batches there may be.

        Returns:
            Arrays on the device with a first axis of so many mini-batches: inputs (steps, batch,
            I), targets (steps, batch, O), weights (steps, batch) where the source is weighted, and
            what it gives the optimizer (steps, ...).
        """
        ...

    def close(self) -> None:
        """Let go of what is read ahead, if anything is; called once, whatever ended the epoch."""


class CountedEpoch(Epoch):
    """An epoch whose place is how many mini-batches are taken."""

    _taken: int = 0

    @property
    def place(self) -> int:
        """How many mini-batches are taken."""
        return self._taken

    def seek(self, place: Any) -> None:
        """Go on after so many mini-batches."""
        self._taken = int(place)


class Source(Protocol):
    """Where the mini-batches of a run come from: memory, a file, a stream, a rank's share.

    Attributes:
        n_rows: how many samples an epoch has; None where nobody knows before its end.
        row_entries: numbers in a sample and its target, which bound how many are taken at once.
        dtype: the name of the dtype that inputs have before they become the network's.
        has_classes: whether each target is one class, so that an accuracy can be told.
        weighted: whether a mini-batch comes with weights of its samples.
        given: the fields of the optimizer's state whose values come with each mini-batch.
        sharded: whether each of several processes has samples of its own, which are not shared out
            among them.
    """

    @property
    def n_rows(self) -> int | None: ...
    @property
    def row_entries(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def has_classes(self) -> bool: ...
    @property
    def weighted(self) -> bool: ...
    @property
    def given(self) -> tuple[str, ...]: ...
    @property
    def sharded(self) -> bool: ...

    def start_epoch(self, batch_size: int, generator: np.random.Generator) -> Epoch:
        """Return the next epoch, whose order the generator draws.

        The generator in the same state gives the same order.
        """
        ...

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield all samples in the order in which they lie, at most so many at once.

        Each block is inputs (n, I), targets (n, O) and, where the source is weighted, weights (n,).
        The shares of several processes yield each sample once; a share may have no block.
        """
        ...

    def share(self, rank: int, ranks: int) -> "Source":
        """Return the share of one of several processes: rows ``rank::ranks`` of each mini-batch.

        Of a source that is sharded, the source itself.
        """
        ...

    def fingerprint(self) -> str | None:
        """Return a text that is equal for equal samples; None where that takes reading them all."""
        ...
