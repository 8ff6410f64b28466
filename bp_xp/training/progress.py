"""Interaction with the user during a training run: progress, and Ctrl-C."""

import contextlib
import importlib.util
import logging
import signal
import sys
import threading
import time
from typing import Any

from tqdm import tqdm

from bp_xp._typing import Array
from bp_xp.backends import to_numpy
from bp_xp.training.history import EpochRecord

__all__ = ["Interruption", "Progress"]

logger = logging.getLogger("bp_xp")

_HEAD = "{desc}: {percentage:3.0f}%|{bar}| "
_HEAD_WITHOUT_END = "{desc}: {n_fmt}{unit} "
_LEAST_BAR, _PERCENT = 6, len(": 100%|| ")
# The forms of the times that are shown, and how long they become.
_TIMES = {
    "  {elapsed}<{remaining}, {rate_fmt}": len("  00:00:00<00:00:00, 1.23M samples/s"),
    "  {elapsed}<{remaining}": len("  00:00:00<00:00:00"),
    "": 0,
}


class Progress:
    """A bar on a terminal or in a notebook, otherwise a line per epoch.

    A line goes to the logger ``"bp_xp"`` if its level is INFO and it has a handler, and otherwise
    to standard error.
    """

    def __init__(self, epochs: int, n: int | None, *, show: bool) -> None:
        self._epochs, self._show = epochs, show
        self._bar = _new_bar(None if n is None else epochs * n) if show else None
        self._looked = time.monotonic()
        self._last: EpochRecord | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, epoch: int) -> None:
        """Show the number of the epoch."""
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {epoch}/{self._epochs}", refresh=False)

    def advance(self, samples: int, totals: Array) -> None:
        """Advance the bar by a chunk, whose totals (steps, 3) are fetched a few times a second."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._looked > 0.25:
            self._looked = now
            totals = to_numpy(totals)  # of a stack for each of its networks: (steps, M, 3)
            cost, correct, weight = totals.sum(axis=tuple(range(totals.ndim - 1)))
            # Until values of this epoch are known, those of the previous one are shown.
            parts = [f"cost {cost / weight:.4f}"]
            if (last := self._last) is not None:
                accuracy = None if last.accuracy is None else correct / weight
                parts = _parts(last._replace(cost=cost / weight, accuracy=accuracy))
            self._write(parts)
        self._bar.update(samples)

    def finish(self, record: EpochRecord) -> None:
        """Report an epoch."""
        self._last = record
        if self._bar is not None:
            self._write(_parts(record))
            self._bar.refresh()
        elif self._show and logger.isEnabledFor(logging.INFO) and logger.hasHandlers():
            logger.info("%s", record)
        elif self._show and sys.stderr is not None:
            print(record, file=sys.stderr, flush=True)

    def _write(self, parts: list[str]) -> None:
        """Show as many values in the bar as there is room for, the most important first."""
        bar = self._bar
        assert bar is not None
        columns = bar.format_dict["ncols"]
        room = float("inf")
        if isinstance(columns, int) and columns > 0:
            room = columns - len(bar.desc or "") - _PERCENT - _LEAST_BAR
        text = parts[0]
        for part in parts[1:]:
            if len(text) + 2 + len(part) > room:
                break
            text = f"{text}  {part}"
        left = room - len(text)
        times = next((one for one, length in _TIMES.items() if length <= left), "")
        head = _HEAD if bar.total else _HEAD_WITHOUT_END
        bar.bar_format = head + text.replace("{", "{{").replace("}", "}}") + times


def _new_bar(total: int | None) -> Any:
    """Return a bar, or None if it cannot be shown."""
    options: dict[str, Any] = {"unit": " samples", "unit_scale": True, "mininterval": 0.2}
    options |= {"total": total, "bar_format": _HEAD if total else _HEAD_WITHOUT_END}
    if _is_notebook():
        if importlib.util.find_spec("ipywidgets") is not None:
            from tqdm.auto import tqdm as notebook_bar

            return notebook_bar(**options)
        return tqdm(**options)
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, **options)
    return None


def _is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


def _parts(record: EpochRecord) -> list[str]:
    """Return the values of a record in short form, the most important first."""
    cost, accuracy = f"cost {record.cost:.4f}", ""
    if record.validation_cost is not None:
        cost += f" (val {record.validation_cost:.4f})"
    if record.accuracy is not None:
        accuracy = f"accuracy {record.accuracy:.2%}"
    if record.validation_accuracy is not None:
        accuracy += f" (val {record.validation_accuracy:.2%})"
    metrics = (
        f"{name.replace('validation_', 'val ').replace('_', ' ')} {value:.4f}"
        for name, value in record.metrics.items()
    )
    return [part for part in (cost, accuracy.strip(), *metrics) if part]


class Interruption(contextlib.AbstractContextManager["Interruption"]):
    """Turns the first Ctrl-C into a request that is checked between chunks.

    The current step is completed, so that no layer is ahead of another. The second Ctrl-C is the
    usual KeyboardInterrupt. Only the main thread may handle signals, and a handler that the program
    has installed is left in place.
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
