"""The log of a run: one line for each epoch, in a file."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bp_xp import History, Network
from bp_xp.cli._data import check_output
from bp_xp.storage.files import check_replaceable
from bp_xp.training.history import EpochRecord

__all__ = ["check_log", "epoch_log"]

_ENDS = (".csv", ".jsonl")


def check_log(path: Path, *inputs: str | Path) -> None:
    """Refuse a log that can't be written, before any work is done."""
    if path.suffix.lower() not in _ENDS:
        raise ValueError(f"--log {path} must end in {' or '.join(_ENDS)}.")
    check_output(path, *inputs, name="--log")
    check_replaceable(path)


def epoch_log(path: Path) -> Callable[[Network, History], None]:
    """Return a callback that writes each epoch to a file, which replaces an older one.

    The first call also writes the epochs before it, so that the log of a resumed run is complete.
    """
    written = 0

    def write(_: Network, history: History) -> None:
        nonlocal written
        with path.open("a" if written else "w", encoding="utf-8", newline="") as file:
            _write(file, history.records[written:], path.suffix.lower() == ".csv", not written)
        written = len(history)

    return write


def _write(file: IO[str], records: list[EpochRecord], is_csv: bool, is_first: bool) -> None:
    rows = [{**r._asdict(), **r.metrics} for r in records]
    for row in rows:
        del row["metrics"]
    if is_csv:
        table = csv.writer(file, lineterminator="\n")
        table.writerows([list(rows[0])] * is_first + [list(row.values()) for row in rows])
        return
    for row in rows:
        file.write(json.dumps({name: _finite(value) for name, value in row.items()}) + "\n")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
