"""Mini-batches cut from a stream of pieces of rows."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from bp_xp._typing import Array
from bp_xp.backends import Placement
from bp_xp.sources.ahead import Ahead, Piece
from bp_xp.sources.source import CountedEpoch

__all__ = ["StreamEpoch", "on_device"]


class StreamEpoch(CountedEpoch):
    """Mini-batches of one size, cut from pieces of rows of any size.

    Args:
        read: starts to read the epoch at a row, counted in its order.
        batch_size: the number of samples in a mini-batch; the last may be shorter.
        placement: library and device.
        dtype: the network's dtype.
        share: (rank, ranks): the rows ``rank::ranks`` of each mini-batch are taken.
    """

    def __init__(
        self,
        read: Callable[[int], Ahead],
        batch_size: int,
        placement: Placement,
        dtype: str,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._read, self._batch_size, self._share = read, batch_size, share
        self._placement, self._dtype = placement, dtype
        self._pieces: Ahead | None = None
        self._held: deque[Piece] = deque()
        self._n_held = 0
        self._error: Exception | None = None
        self._at = 0  # how many rows of the first piece have been used

    def take(self, at_most: int) -> list[Array] | None:
        """Return the next mini-batches, or None; see :meth:`Epoch.take`."""
        if self._pieces is None:
            self._pieces = self._read(self._taken * self._batch_size)
        while self._n_held < at_most * self._batch_size and self._hold(self._pieces):
            pass
        steps = min(self._n_held // self._batch_size, at_most)
        if self._error is not None and not steps:
            raise self._error
        if not self._n_held:
            return None
        parts = self._cut(steps * self._batch_size or self._n_held)
        steps = max(steps, 1)
        self._taken += steps
        return [self._as_batches(part, steps) for part in parts]

    def close(self) -> None:
        """Stop reading."""
        if self._pieces is not None:
            self._pieces.close()
        self._held.clear()

    def _hold(self, pieces: Ahead) -> bool:
        """Add another piece; return whether there was one.

        An error is held back until the mini-batches before it have been taken.
        """
        if self._at:
            # The remaining rows are copied, so that the memory of their piece can be reused.
            rest = slice(self._at, self._held[0][0].shape[0])
            self._held[0] = [_copied(self._rows(part, rest)) for part in self._held[0]]
            self._at = 0
        try:
            piece = next(pieces, None)
        except Exception as error:
            self._error, piece = error, None
        if piece is None:
            return False
        self._held.append(piece)
        self._n_held += piece[0].shape[0]
        return True

    def _cut(self, n: int) -> list[Array]:
        """Return the next n rows of all parts."""
        cuts = []
        self._n_held -= n
        while n:
            piece = self._held[0]
            rows = slice(self._at, min(self._at + n, piece[0].shape[0]))
            cuts.append([self._rows(part, rows) for part in piece])
            n -= rows.stop - rows.start
            self._at = rows.stop
            if rows.stop == piece[0].shape[0]:
                self._held.popleft()
                self._at = 0
        return cuts[0] if len(cuts) == 1 else [self._join(part) for part in zip(*cuts, strict=True)]

    def _rows(self, part: Array, rows: slice) -> Array:
        on_host = isinstance(part, np.ndarray)
        return part[rows] if on_host else self._placement.library.cut(part, rows)

    def _join(self, parts: Any) -> Array:
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)
        return self._placement.library.join(parts)

    def _as_batches(self, part: Array, steps: int) -> Array:
        """Return rows as so many mini-batches, or the share of each, on the device."""
        xp = np if isinstance(part, np.ndarray) else self._placement.xp
        batches = xp.reshape(part, (steps, -1, *part.shape[1:]))
        rank, ranks = self._share
        if ranks > 1:
            batches = batches[:, min(rank, batches.shape[1]) :: ranks, ...]
            if xp is np:
                batches = np.ascontiguousarray(batches)
        return on_device(batches, self._placement, self._dtype)


def on_device(values: Array, placement: Placement, dtype: str) -> Array:
    """Return values on the device as floats; small integers are moved before the conversion.

    A pixel is moved as one byte, and becomes a four-byte float on the device.
    """
    if not isinstance(values, np.ndarray):
        return values
    placed = placement.asarray(values)
    return placement.xp.astype(placed, placement.dtype(dtype), copy=False)


def _copied(part: Array) -> Array:
    return np.array(part) if isinstance(part, np.ndarray) else part
