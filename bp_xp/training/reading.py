"""Reading: the mini-batches of an epoch, by one process or by several in step.

Each process that shares a run reads on its own. It may reach the end of its samples, an error or a
blocked reader when the others do not. So before each chunk, the processes exchange what they have,
and take only what all of them can.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp._typing import Array
from bp_xp.backends import Placement
from bp_xp.ranks import Ranks
from bp_xp.sources import Source
from bp_xp.sources.ahead import StoppedError, stopping
from bp_xp.training.reduction import rows_of_share

__all__ = ["Reading"]


class _Told(NamedTuple):
    """What a process has of the mini-batches that come next.

    Attributes:
        steps: the number of mini-batches of which it has its part; 0 if its samples have ended.
        rows: the number of its rows in each.
        failure: the error of its reader, in words.
        stopped: whether it waits for samples while the run must end.
    """

    steps: int = 0
    rows: int = 0
    failure: str = ""
    stopped: bool = False


class Reading:
    """The mini-batches of an epoch, of which each process takes its part.

    If all processes have the same samples, the part is its share of each mini-batch. With shards,
    it is the same number of rows from its own shard; a process that has no more rows continues
    without any until all shards have ended.

    Args:
        source: where they come from.
        batch_size: the number of samples in a mini-batch, over all processes.
        generator: draws their order, in the same way on all processes.
        place: where to start, as :attr:`place` was; 0 at the start.
        ranks: the processes.
        shall_stop: returns whether the run must end; called while a process waits for samples.
        placement: library and device.
        dtype: the network's dtype.
        forms: the shapes of the parts of a sample: input, target and perhaps weight.

    Attributes:
        rows: the number of rows in each of the last mini-batches, over all processes.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        generator: np.random.Generator,
        place: Any,
        *,
        ranks: Ranks,
        shall_stop: Callable[[], bool],
        placement: Placement,
        dtype: str,
        forms: Sequence[tuple[int, ...]],
    ) -> None:
        self._sharded = source.sharded and ranks.are_several
        if self._sharded:
            batch_size = rows_of_share(batch_size, ranks.rank, ranks.size)
            # The order of a longer shard takes more random numbers. So the run's generator gives
            # each process a generator, and stays the same everywhere.
            generator = np.random.default_rng([int(generator.integers(2**63)), ranks.rank])
        self._epoch = source.start_epoch(batch_size, generator)
        self._ranks, self._shall_stop = ranks, shall_stop
        self._placement, self._dtype, self._forms = placement, dtype, forms
        self._held: list[Array] | None = None  # read, and not taken yet
        self._error: Exception | None = None
        self._epoch.seek(place)
        self._taken, self.rows = int(place) if ranks.are_several else 0, 0

    @property
    def place(self) -> Any:
        """The place in the epoch, as in :class:`bp_xp.sources.Epoch`."""
        return self._taken if self._ranks.are_several else self._epoch.place

    def close(self) -> None:
        """Release what has been read ahead."""
        self._epoch.close()

    def take(self, at_most: int) -> list[Array] | Exception | None:
        """Return the next mini-batches, None after the last, or the error of the reader.

        All processes return the same number of mini-batches, or all None, or all an error.
        """
        if not self._ranks.are_several:
            found = self._read(at_most)
            self.rows = found[0].shape[-2] if isinstance(found, list) else 0
            return found
        told = self._ranks.each(functools.partial(self._tell, at_most))
        if (error := self._error_of(told)) is not None:
            return error
        steps = min((one.steps for one in told if one.steps), default=0)
        if not steps:
            return None
        self._taken += steps
        self.rows = sum(one.rows for one in told)
        return self._cut(steps)

    def _read(self, at_most: int) -> list[Array] | Exception | None:
        """Return what this process reads next, None at the end, or the error of its reader."""
        place = self._epoch.place
        try:
            with stopping(self._shall_stop):
                return self._epoch.take(at_most)
        except Exception as error:
            if self._placement.library.ran_out_of_memory(error):  # too little for a look too
                raise
            self._epoch.seek(place)
            return error

    def _tell(self, at_most: int) -> _Told:
        """Read, if nothing is left, and return what the others must know about it."""
        if self._held is None:
            found = self._read(at_most)
            if isinstance(found, StoppedError):
                return _Told(stopped=True)
            if isinstance(found, Exception):
                self._error = found
                return _Told(failure=self._ranks.told_of(found))
            self._held = found
        if self._held is None:
            return _Told()
        return _Told(self._held[0].shape[0], self._held[0].shape[-2])

    def _error_of(self, told: Sequence[_Told]) -> Exception | None:
        """Return why all processes end here, or None if they continue."""
        if failures := [one.failure for one in told if one.failure]:
            return self._error or RuntimeError("; ".join(failures))
        if any(one.stopped for one in told):
            return StoppedError()
        whole = sum(one.rows for one in told)
        shares = [rows_of_share(whole, rank, len(told)) for rank in range(len(told))]
        ended = [one.steps == 0 for one in told]
        if self._sharded or all(ended):
            return None
        if any(ended) or [one.rows for one in told] != shares:
            rows = (
                f"rank {rank} {'has no more' if over else f'has {one.rows} row(s)'}"
                for rank, (one, over) in enumerate(zip(told, ended, strict=True))
            )
            return RuntimeError(
                "the ranks of a run must read the same samples, but in mini-batch "
                f"{self._taken + 1} of this epoch {', '.join(rows)}. Read the same samples on each "
                "rank, or pass Stream(samples, sharded=True) if each rank has its own."
            )
        return None

    def _cut(self, steps: int) -> list[Array]:
        """Return this process's part of the next mini-batches; keep what is left over."""
        held, self._held = self._held, None
        if held is None:
            xp, where = self._placement.xp, self._placement.device
            dtype = self._placement.dtype(self._dtype)
            shapes = [(steps, 0, *form) for form in self._forms]
            return [xp.zeros(shape, dtype=dtype, device=where) for shape in shapes]
        if held[0].shape[0] == steps:
            return held
        cut = self._placement.library.cut
        self._held = [cut(part, slice(steps, part.shape[0])) for part in held]
        return [cut(part, slice(0, steps)) for part in held]
