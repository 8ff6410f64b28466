"""The interface of a source of mini-batches."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from bp_xp._typing import Array

__all__ = ["CountedEpoch", "Epoch", "Source"]


class Epoch(Protocol):
    """The mini-batches of one epoch, in its order; each is taken once.

    The sequence of mini-batches does not depend on how it is divided into chunks: it is the same
    however often :meth:`take` is called, and for any number of mini-batches at a time.
    """

    @property
    def place(self) -> Any:
        """The place in the epoch, in a form that fits JSON, for :meth:`seek`."""
        ...

    def seek(self, place: Any) -> None:
        """Continue from a saved place, in the same order."""
        ...

    def take(self, at_most: int) -> list[Array] | None:
        """Return the next mini-batches, all of one size, or None at the end of the epoch.

        Args:
            at_most: the largest number of mini-batches to return.

        Returns:
            Arrays on the device whose first axis counts the mini-batches: inputs (steps, batch, I),
            targets (steps, batch, O), weights (steps, batch) if the source is weighted, and the
            values for the optimizer's state (steps, ...).
        """
        ...

    def close(self) -> None:
        """Release what was read ahead, if anything; called once, whatever ended the epoch."""


class CountedEpoch(Epoch):
    """An epoch whose place is the number of mini-batches taken."""

    _taken: int = 0

    @property
    def place(self) -> int:
        """The number of mini-batches taken."""
        return self._taken

    def seek(self, place: Any) -> None:
        """Continue after so many mini-batches."""
        self._taken = int(place)


class Source(Protocol):
    """The source of the mini-batches of a run: memory, a file, a stream, or a rank's share.

    Attributes:
        n_rows: the number of samples in an epoch; None if it is unknown before the end.
        row_entries: numbers in a sample and its target, which limit how many are taken together.
        dtype: the name of the dtype of the inputs before their conversion to the network's.
        has_classes: whether each target is one class, so that there is an accuracy.
        weighted: whether a mini-batch includes sample weights.
        given: the fields of the optimizer's state whose values come with each mini-batch.
        sharded: whether each of several processes has its own samples, which are not divided among
            them.
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

        A generator in the same state gives the same order.
        """
        ...

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield all samples in their stored order, at most so many at a time.

        Each block is inputs (n, I), targets (n, O) and, if the source is weighted, weights (n,).
        The shares of several processes yield each sample once; a share may have no blocks.
        """
        ...

    def share(self, rank: int, ranks: int) -> "Source":
        """Return the share of one of several processes: rows ``rank::ranks`` of each mini-batch.

        A sharded source returns itself.
        """
        ...

    def fingerprint(self) -> str | None:
        """Return a text that is equal for equal samples; None if that requires reading them all."""
        ...
