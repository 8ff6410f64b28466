"""Reading ahead: a thread reads the next rows while the run computes with the current ones."""

import contextlib
import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bp_xp._typing import Array
from bp_xp.backends import Placement

__all__ = ["Ahead", "Piece", "StoppedError", "stopping"]

Piece = Sequence[Array]
"""Inputs, targets and perhaps weights of some rows, on the host or on the device."""

# How long the end of a run waits for a read in progress. A blocked reader must not keep the
# program from ending: its thread is a daemon.
_SECONDS_TO_END = 5.0
_SECONDS_UNTIL_ASKED = 0.1

_shall_stop: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar(
    "whether a run shall end", default=lambda: False
)


class StoppedError(Exception):
    """The run must end, and the samples that it waits for have not arrived."""


@contextlib.contextmanager
def stopping(shall_stop: Callable[[], bool]) -> Iterator[None]:
    """Let code that waits for samples check several times a second whether the run must end."""
    before = _shall_stop.set(shall_stop)
    try:
        yield
    finally:
        _shall_stop.reset(before)


class Ahead(Iterator[Piece]):
    """Pieces of rows, read in a separate thread; at most so many bytes wait to be taken.

    The thread ends with the last piece, with an error, or by :meth:`close`. An error of the reader
    is raised when the piece would have been taken, with the reader's own traceback.

    Args:
        read: returns an iterator of pieces; called in the thread.
        placement: library and device that the thread computes with.
        name: the name of the samples, for messages.
        most: another piece is read as long as fewer bytes wait.
        timeout: how many seconds to wait for a piece; None waits without a limit.

    Raises:
        TimeoutError: a piece takes longer.
        StoppedError: it has not arrived, and the run must end.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[Piece]],
        placement: Placement,
        *,
        name: str,
        most: int = 1,
        timeout: float | None = None,
    ) -> None:
        self._read, self._placement, self._name = read, placement, name
        self._most, self._timeout = most, timeout
        self._waiting: deque[Piece] = deque()
        self._bytes = 0
        self._over = self._closed = False
        self._error: BaseException | None = None
        self._patience = _SECONDS_TO_END
        self._changed = threading.Condition()
        # Messages use the caller's words in this thread too: see _caller.py.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"bp_xp reads {name}", daemon=True
        )
        self._thread.start()

    def __next__(self) -> Piece:
        with self._changed:
            # Code that gives up waiting, also at Ctrl-C, does not wait for the end of the thread.
            self._patience = 0.0
            self._wait()
            self._patience = _SECONDS_TO_END
            if self._waiting:
                piece = self._waiting.popleft()
                self._bytes -= _bytes_of(piece)
                self._changed.notify_all()
                return piece
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def _wait(self) -> None:
        """Wait for a piece, or the end."""
        until = math.inf if self._timeout is None else time.monotonic() + self._timeout
        while not self._waiting and not self._over:
            if (left := until - time.monotonic()) <= 0.0:
                raise TimeoutError(
                    f"nothing came from {self._name} for {self._timeout:g} seconds: the reader is "
                    "stuck, or timeout is too short."
                )
            if _shall_stop.get()():
                raise StoppedError
            self._changed.wait(min(left, _SECONDS_UNTIL_ASKED))

    def close(self) -> None:
        """End the thread after its current piece; waiting pieces are dropped."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(self._patience)

    def _run(self) -> None:
        try:
            with self._placement.library.active(self._placement.device):
                self._fill()
        except BaseException as error:  # the run must raise it, whatever it is
            self._error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _fill(self) -> None:
        pieces: Any = self._read()
        try:
            for piece in pieces:
                with self._changed:
                    self._waiting.append(piece)
                    self._bytes += _bytes_of(piece)
                    del piece  # otherwise one piece too many is kept while the next one is read
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._bytes < self._most or self._closed)
                    if self._closed:
                        return
        finally:
            pieces.close()


def _bytes_of(piece: Piece) -> int:
    # An estimate: not all arrays report it.
    return sum(8 * math.prod(getattr(part, "shape", ())) for part in piece)
