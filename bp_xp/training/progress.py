"""A training run and the person before it: progress, and Ctrl-C."""

import contextlib
import logging
import signal
import sys
import threading
import time

from tqdm import tqdm

from bp_xp._typing import Array
from bp_xp.backends import to_numpy
from bp_xp.training.history import EpochRecord

__all__ = ["Interruption", "Progress"]

logger = logging.getLogger("bp_xp")


class Progress:
    """A bar on a terminal; a log line an epoch where there is none."""

    def __init__(self, epochs: int, n: int | None, *, show: bool) -> None:
        self._epochs, self._show = epochs, show
        terminal = show and sys.stderr is not None and sys.stderr.isatty()
        self._bar = (
            tqdm(
                total=None if n is None else epochs * n,
                unit=" samples",
                unit_scale=True,
                mininterval=0.2,
            )
            if terminal
            else None
        )
        self._looked = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, epoch: int) -> None:
        """Say which epoch it is."""
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {epoch}/{self._epochs}", refresh=False)

    def advance(self, samples: int, totals: Array) -> None:
        """Move the bar by a chunk, whose totals (steps, 3) are fetched a few times a second."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._looked > 0.25:
            self._looked = now
            cost, _, weight = to_numpy(totals).sum(axis=0)
            self._bar.set_postfix_str(f"cost {cost / weight:.4f}", refresh=False)
        self._bar.update(samples)

    def finish(self, record: EpochRecord) -> None:
        """Report an epoch."""
        if self._bar is not None:
            self._bar.set_postfix_str(record.values(), refresh=False)
        elif self._show:
            logger.info("%s", record)


class Interruption(contextlib.AbstractContextManager["Interruption"]):
    """Turns the first Ctrl-C into a request that is looked at between chunks.

    A step that is under way is completed, so that no layer is ahead of another. The second Ctrl-C
    is the usual KeyboardInterrupt. Only the main thread may handle signals, and a handler of the
    program's own is left in place.
    """

    def __init__(self) -> None:
        self.asked = False
        self._handles = False

    def __enter__(self) -> "Interruption":
        self._handles = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._handles:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._handles = False

    def _ask(self, *_: object) -> None:
        self.asked = True
        self._restore()
