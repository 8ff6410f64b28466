"""The card of a model: what it was trained on, and how good it was there."""

import datetime
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bp_xp import __version__
from bp_xp.storage.network_file import Section
from bp_xp.tables.columns import Columns, count_labels
from bp_xp.tables.parts import Prepared
from bp_xp.tables.statistics import Values

__all__ = ["Card"]

_MOST_SHOWN = 8


@dataclass(frozen=True)
class Card:
    """A record of what a model was trained on.

    Attributes:
        data: the name of the table, or "".
        rows: the number of rows for training, validation and test.
        columns: for each column that is used, what its training and validation rows held: for
            numbers ``lowest`` and ``highest`` (dates are days since 1970, and ``date`` is true),
            for categories ``counts`` by name; and for all columns ``missing``, the number of
            missing values.
        targets: the same for the columns to predict.
        metrics: for each part, the metrics of the model.
        date: the day of the training, in UTC. It has no time, so that repeating a run on the same
            day writes the same file.
        versions: of bp_xp, Python and NumPy.
    """

    data: str
    rows: Mapping[str, int]
    columns: Mapping[str, Mapping[str, Any]]
    targets: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, float | None]]
    date: str
    versions: Mapping[str, str]

    @classmethod
    def learn(
        cls, prepared: Prepared, metrics: Mapping[str, Mapping[str, float]], data: str = ""
    ) -> "Card":
        """Return the card of a model that was trained on a table."""
        parts, preparation = prepared.rows, prepared.preparation
        rows = np.concatenate([parts["training"], parts["validation"]])
        numbers, targets = preparation.numbers, preparation.targets
        kept = [*numbers.names, *(each.name for each in preparation.categories)]
        seen = {n: _seen(prepared.columns[n], rows, n, n in numbers.names) for n in kept}
        is_number = targets.task == "regression"
        return cls(
            data=data,
            rows={part: len(numbers_of_rows) for part, numbers_of_rows in parts.items()},
            columns={name: seen[name] for name in preparation.order if name in seen},
            targets={
                name: _seen(values, rows, name, is_number)
                for name, values in prepared.answers.items()
            },
            metrics={
                part: {name: v if np.isfinite(v) else None for name, v in values.items()}
                for part, values in metrics.items()
            },
            date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            versions={
                "bp_xp": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
            },
        )

    def outside(self, columns: Columns) -> dict[str, str]:
        """Return the columns with values that training did not see, with their counts in words.

        Args:
            columns: a table with the columns learned from.

        Examples:
            >>> seen = {"size": {"lowest": 30.0, "highest": 95.0, "missing": 0}}
            >>> card = Card("", {}, seen, {}, {}, "", {})
            >>> card.outside({"size": np.array([20.0, 40.0, np.nan, 99.0])})
            {'size': '2 values outside 30 ... 95'}
        """
        found = {}
        for name, seen in self.columns.items():
            every = range(len(columns[name]))
            if "counts" in seen:
                counts, _ = count_labels(columns[name], every)
                unseen = sorted(counts.keys() - seen["counts"].keys())
                n, what = sum(counts[one] for one in unseen), f"unseen: {', '.join(unseen[:3])}"
            else:
                n, what = 0, f"outside {_range(seen)}"
                for values in Values(columns[name], name, every).blocks():
                    n += int(((values < seen["lowest"]) | (values > seen["highest"])).sum())
            if n:
                found[name] = f"{n} {'value' if n == 1 else 'values'} {what}"
        return found

    def __str__(self) -> str:
        rows = ", ".join(f"{n:,} for {part}" for part, n in self.rows.items() if n)
        lines = [("rows", f"{rows}, of {self.data}" if self.data else rows)]
        lines += [
            (part, "  ".join(f"{k} {'nan' if v is None else f'{v:.4f}'}" for k, v in one.items()))
            for part, one in self.metrics.items()
        ]
        lines += [("trained", f"{self.date}, {_listed(self.versions)}")]
        for name, seen in (*self.columns.items(), *self.targets.items()):
            missing = f", {seen['missing']:,} missing" if seen["missing"] else ""
            lines.append((name, _range(seen) + missing))
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:{width}}  {what}" for name, what in lines)

    def to_section(self) -> Section:
        """Return the card as it is stored in a file."""
        return Section(asdict(self))

    @classmethod
    def from_section(cls, section: Section) -> "Card":
        """Return what :meth:`to_section` wrote.

        Raises:
            TypeError, ValueError: the section is not complete.
        """
        card = cls(**section.fields)
        for seen in (*card.columns.values(), *card.targets.values()):
            if not ({"counts", "missing"} <= set(seen) or {"lowest", "highest"} <= set(seen)):
                raise ValueError("its card is not complete")
        return card


def _seen(values: Any, rows: np.ndarray, name: str, is_number: bool) -> dict[str, Any]:
    """Return a summary of a column in some rows."""
    if not is_number:
        counts, missing = count_labels(values, rows)
        return {"counts": dict(sorted(counts.items())), "missing": missing}
    found = Values(values, name, rows)
    seen = {"lowest": found.lowest, "highest": found.highest, "missing": len(rows) - found.n}
    return seen | {"date": True} if values.dtype.kind == "M" else seen


def _range(seen: Mapping[str, Any]) -> str:
    """Return the summary of a column, in words."""
    if "counts" in seen:
        counts = seen["counts"]
        return _listed(dict(list(counts.items())[:_MOST_SHOWN])) + (
            f" and {len(counts) - _MOST_SHOWN} more" if len(counts) > _MOST_SHOWN else ""
        )
    low, high = seen["lowest"], seen["highest"]
    if seen.get("date"):
        low, high = (np.datetime64(int(day // 1), "D") for day in (low, high))
        return f"{low} ... {high}"
    return f"{low:g} ... {high:g}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
