"""Reading ahead: a thread fetches what comes next while the run computes with what came."""

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

# How long the end of a run waits for a read that is under way. A reader that is stuck must not
# keep the program: its thread is a daemon.
_SECONDS_TO_END = 5.0
_SECONDS_UNTIL_ASKED = 0.1

_shall_stop: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar(
    "whether a run shall end", default=lambda: False
)


class StoppedError(Exception):
    """The run shall end, and the samples that it waits for have not come."""


@contextlib.contextmanager
def stopping(shall_stop: Callable[[], bool]) -> Iterator[None]:
    """Let who waits for samples ask whether the run shall end, some times a second."""
    before = _shall_stop.set(shall_stop)
    try:
        yield
    finally:
        _shall_stop.reset(before)


class Ahead(Iterator[Piece]):
    """Pieces of rows, read in a thread of its own; at most so many bytes wait to be taken.

    The thread ends with the last piece, with an error, or by :meth:`close`. An error of the reader
    is raised where the piece would have been taken, with the reader's own traceback.

    Args:
        read: returns an iterator of pieces; called in the thread.
        placement: what the thread computes with.
        name: what is read, for messages.
        most: another piece is read as long as fewer bytes wait.
        timeout: how many seconds a piece is waited for; None is as long as it takes.

    Raises:
        TimeoutError: a piece takes longer.
        StoppedError: it has not come, and the run shall end.
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
        # Messages speak to the caller in the thread as well: see _caller.py.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"bp_xp reads {name}", daemon=True
        )
        self._thread.start()

    def __next__(self) -> Piece:
        with self._changed:
            # Whoever gives up waiting, at Ctrl-C too, does not wait for the end of the thread.
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
        """End the thread, after the piece that it reads; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(self._patience)

    def _run(self) -> None:
        try:
            with self._placement.library.active(self._placement.device):
                self._fill()
        except BaseException as error:  # whatever it is, the run shall hear of it
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
                    del piece  # or a piece too many would be kept while the next one is read
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._bytes < self._most or self._closed)
                    if self._closed:
                        return
        finally:
            pieces.close()


def _bytes_of(piece: Piece) -> int:
    # About: not all arrays tell.
    return sum(8 * math.prod(getattr(part, "shape", ())) for part in piece)
