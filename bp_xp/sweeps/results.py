"""The table of a sweep: its settings, the best first."""

import csv
import io
import math
import os
import reprlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp.network import Network
from bp_xp.storage.files import replace_file
from bp_xp.sweeps.runs import SweepRun

__all__ = ["SweepResult", "rank_settings", "shown"]

_MOST_ROWS = 40


def rank_settings(
    runs: Sequence[SweepRun], metric: str, higher_is_better: bool
) -> list[tuple[int, list[SweepRun]]]:
    """Return the numbers of the settings with their runs, the best first.

    Settings with a run that diverged come last. Among the others, those with fewer runs, because
    the sweep was interrupted, come after those with all: a mean over some folds can't be compared
    with a mean over all. Those that took fewer epochs, because halving dropped them, come after
    those that continued.
    """
    of_setting: dict[int, list[SweepRun]] = {}
    for run in runs:
        of_setting.setdefault(run.number, []).append(run)

    most = max(map(len, of_setting.values()), default=0)

    def key(item: tuple[int, list[SweepRun]]) -> tuple[float, ...]:
        number, own = item
        mean = _mean([run.value(metric) for run in own])
        cost = -mean if higher_is_better else mean
        reached = max(len(run.curves.get("cost", ())) for run in own)
        diverged = sum(run.diverged for run in own)
        dropped = any(run.stopped == "dropped" for run in own)
        return (
            diverged,
            most - len(own),
            -reached if dropped else -math.inf,
            math.inf if math.isnan(cost) else cost,
            number,
        )

    return sorted(of_setting.items(), key=key)


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the numbers among some values; NaN if there is none."""
    sound = [value for value in values if not math.isnan(value)]
    return sum(sound) / len(sound) if sound else math.nan


@dataclass
class SweepResult:
    """The result of a sweep: a table to print, with the best settings first.

    Attributes:
        metric: what the settings are judged by.
        higher_is_better: whether a higher value is better.
        settings: the settings that were tried, in that order, without those that all runs share.
        runs: the result of each run, in the order of settings, seeds and folds.
        best_network: the network of the best settings; None if all diverged, or without ``refit``.
        complete: whether all runs were made, or the sweep was interrupted.
        best_model: for a sweep of a table, the :class:`bp_xp.tables.TableModel` with that network.
    """

    metric: str
    higher_is_better: bool
    settings: list[dict[str, Any]]
    runs: list[SweepRun]
    best_network: Network | None = None
    complete: bool = True
    best_model: Any = None

    @property
    def best(self) -> dict[str, Any]:
        """The best settings, by name.

        Raises:
            ValueError: no run was made.
        """
        ranked = self._ranked()
        if not ranked:
            raise ValueError("no run was made, so there are no best settings.")
        return dict(self.settings[ranked[0][0]])

    @property
    def best_value(self) -> float:
        """The mean of the metric over the runs of the best settings; NaN if they diverged."""
        return self.rows[0][self.metric] if self.rows else math.nan

    @property
    def curve(self) -> str:
        """The name of the value that the runs recorded for the metric in each epoch.

        The metric of a table is computed for whole models at the end. In each epoch, it is recorded
        under another name, or replaced by the cost.
        """
        if not any(self.metric in run.scores for run in self.runs):
            return self.metric
        names = (f"validation_{self.metric}", "validation_cost", "cost")
        return next(name for name in names if any(name in run.curves for run in self.runs))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table: a dictionary for each of the settings, the best first.

        Besides the settings: the mean of the metric over the runs that did not diverge, and their
        standard deviation (``"..._std"``); the number of ``"runs"`` and of those that
        ``"diverged"``; the mean ``"epoch"`` of the networks' parameters; and ``"stopped"``,
        why the runs ended.
        """
        return [self._row(number, runs) for number, runs in self._ranked()]

    @property
    def searched(self) -> list[str]:
        """The names of the settings that were not the same for all runs."""
        return [
            name
            for name in self._names()
            if any(one.get(name) != self.settings[0].get(name) for one in self.settings)
        ]

    def runs_of(self, row: Mapping[str, Any]) -> list[SweepRun]:
        """Return the runs of some settings, such as :attr:`best` or one of :attr:`rows`."""
        wanted = {name: row.get(name) for name in self._names()}
        return [
            run
            for run in self.runs
            if {name: self.settings[run.number].get(name) for name in wanted} == wanted
        ]

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the table to a file.

        Raises:
            OSError: it could not be written; an older file is left as it was.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in self.rows)
        replace_file(Path(path), text.getvalue().encode())
        return Path(path)

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write the table to a Parquet file: numbers as numbers, missing values as null.

        Raises:
            OSError: it could not be written; an older file is left as it was.
        """
        import duckdb  # here, because importing it takes longer than importing bp_xp

        rows = self.rows
        columns = {name: _column([row[name] for row in rows]) for name in self._columns()}
        # Extensions would be downloaded; the one for Parquet is built in.
        offline: Any = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        with tempfile.TemporaryDirectory() as folder, duckdb.connect(config=offline) as database:
            file = Path(folder) / "table.parquet"
            database.register("the_rows", columns)
            database.execute("COPY (SELECT * FROM the_rows) TO ? (FORMAT parquet)", [str(file)])
            replace_file(Path(path), file.read_bytes())
        return Path(path)

    def __len__(self) -> int:
        return len(self._ranked())

    def __str__(self) -> str:
        rows, names = self.rows, [*self.searched, *self._columns()[len(self._names()) :]]
        names = [name for name in names if name != "diverged" or any(row[name] for row in rows)]
        cells = [[shown(row[name]) for name in names] for row in rows[:_MOST_ROWS]]
        widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in [names, *cells]
        ]
        if len(rows) > _MOST_ROWS:
            lines.append(f"... and {len(rows) - _MOST_ROWS} more")
        if not self.complete:
            uneven = len({row["runs"] for row in rows}) > 1
            last = ", and settings with fewer come after those with all" if uneven else ""
            lines.append(f"interrupted: not all runs were made{last}")
        return "\n".join(lines)

    def _ranked(self) -> list[tuple[int, list[SweepRun]]]:
        return rank_settings(self.runs, self.metric, self.higher_is_better)

    def _row(self, number: int, runs: Sequence[SweepRun]) -> dict[str, Any]:
        values = [run.value(self.metric) for run in runs]
        sound = [value for value in values if not math.isnan(value)]
        return {
            **dict.fromkeys(self._names()),
            **self.settings[number],
            self.metric: _mean(values),
            f"{self.metric}_std": float(np.std(sound)) if sound else math.nan,
            "runs": len(runs),
            "diverged": sum(run.diverged for run in runs),
            "epoch": _mean([float(run.epoch) for run in runs]),
            "stopped": " ".join(dict.fromkeys(run.stopped for run in runs)),
        }

    def _names(self) -> list[str]:
        """Return the names of the settings."""
        return list(dict.fromkeys(name for one in self.settings for name in one))

    def _columns(self) -> list[str]:
        measured = (self.metric, f"{self.metric}_std", "runs", "diverged", "epoch", "stopped")
        return [*self._names(), *measured]


def shown(value: Any) -> str:
    """Return a value for people to read."""
    cell = _cell(value)
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return cell if cell is not value or isinstance(cell, str) else reprlib.repr(value)


def _column(values: Sequence[Any]) -> np.ndarray:
    """Return values as a column: numbers or truth values if all of them are, otherwise text."""
    cells = [_cell(value) for value in values]
    there = [cell for cell in cells if cell is not None]
    kinds = {type(cell) for cell in there}
    if kinds <= {int, float}:
        whole = kinds == {int} and len(there) == len(cells)
        numbers = [math.nan if cell is None else cell for cell in cells]
        return np.array(numbers, np.int64 if whole else np.float64)
    if kinds == {bool} and len(there) == len(cells):
        return np.array(cells)
    return np.array([None if cell is None else str(cell) for cell in cells], object)


def _cell(value: Any) -> Any:
    """Return a value as a file of a table holds it: a number, a text, or None."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # A class or a function is shown by its name, such as CosineDecay.
    return getattr(value, "__name__", None) or str(value)
