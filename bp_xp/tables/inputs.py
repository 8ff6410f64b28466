"""Columns of a table as inputs of a network: what is learned from training rows, and applied.

Numbers are scaled, and text becomes columns of 0 and 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bp_xp._caller import in_python
from bp_xp.tables.columns import (
    Coded,
    Columns,
    blocks,
    coded,
    count_labels,
    iso_date,
    missing_in,
    numbers_of,
)
from bp_xp.tables.statistics import Values

__all__ = [
    "SCALINGS",
    "SMOOTH_LIMIT",
    "Categories",
    "Holds",
    "Numbers",
    "Scaling",
    "center_and_scale",
]

Scaling = Literal["standard", "minmax", "robust", "none"]

Holds = Literal["text", "numbers", "truth values", "dates"]

SCALINGS = ("standard", "minmax", "robust", "none")
"""How numbers are scaled: to mean 0 and standard deviation 1; to 0 ... 1; by median and quartiles
and then clipped smoothly; not at all."""

_RARE = 3
"""A category with fewer training rows shares its column with all unseen categories."""

SMOOTH_LIMIT = 3.0
"""Robust scaling keeps the absolute value of numbers below this limit."""


@dataclass(frozen=True)
class Numbers:
    """The columns of numbers, and of dates as days.

    z = (x − center) / scale, where a missing x is the median; robust scaling then takes
    z / √(1 + (z/3)²), which stays within −3 and 3.

    Attributes:
        names: the columns.
        dates: whether each column holds dates.
        flagged: whether each column had missing values in training rows, and so a second input.
        scaling: one of SCALINGS.
        median: the medians of the training rows' values, shape (columns,).
        center: what is subtracted, shape (columns,).
        scale: what the difference is divided by, shape (columns,).

    References:
        Holzmüller, Grinsztajn and Steinwart, 'Better by Default', 2024, arXiv:2407.04491, for
        robust scaling with smooth clipping.
    """

    names: tuple[str, ...]
    dates: tuple[bool, ...]
    flagged: tuple[bool, ...]
    scaling: Scaling
    median: np.ndarray
    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def learn(
        cls,
        columns: Columns,
        names: tuple[str, ...],
        scaling: Scaling,
        rows: Sequence[int] | np.ndarray,
    ) -> "Numbers":
        """Learn from training rows. Each column must have values in them.

        Raises:
            ValueError: a value is not a number.
        """
        each = [Values(columns[name], name, rows) for name in names]
        pairs = np.array([center_and_scale(values, scaling) for values in each]).reshape(-1, 2)
        return cls(
            names=names,
            dates=tuple(columns[name].dtype.kind == "M" for name in names),
            flagged=tuple(values.n < len(rows) for values in each),
            scaling=scaling,
            median=np.array([values.median for values in each]),
            center=pairs[:, 0],
            scale=pairs[:, 1],
        )

    @property
    def features(self) -> list[str]:
        """The names of the inputs."""
        flags = [n for n, flag in zip(self.names, self.flagged, strict=True) if flag]
        return [*self.names, *(f"{name} is missing" for name in flags)]

    def apply(self, columns: Columns, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the inputs, shape (N, features).

        Args:
            columns: a table.
            rows: the number of each row, for messages; None counts from 0.

        Raises:
            ValueError: a value is not a number, or too large for a network; the message names the
                row and the column.
        """
        n_rows = len(next(iter(columns.values())))
        x = np.empty((n_rows, len(self.names)))
        for i, (name, is_date) in enumerate(zip(self.names, self.dates, strict=True)):
            has_dates = columns[name].dtype.kind == "M"
            # If all values are missing, their kind is unknown.
            if is_date != has_dates and not missing_in(columns[name]).all():
                raise _other_kind(columns[name], name, has_dates, rows)
            x[:, i] = numbers_of(columns[name], name, rows)
        missing = np.isnan(x)
        x = np.where(missing, self.median, x)
        # Halves are subtracted, exactly, because a difference may overflow.
        with np.errstate(over="ignore"):
            z = (x / 2 - self.center / 2) / (self.scale / 2)
        if self.scaling == "robust":
            z = z / np.hypot(1.0, z / SMOOTH_LIMIT)
        too_large = ~(np.abs(z) < np.finfo(np.float32).max)
        if too_large.any():
            row, i = np.argwhere(too_large)[0]
            number = row if rows is None else rows[row]
            raise ValueError(
                f"row {number + 1}, column {self.names[i][:40]!r}: {x[row, i]:g} is too far "
                "from the usual values of this column."
            )
        return np.concatenate([z, missing[:, list(self.flagged)]], axis=1)


def _other_kind(
    values: Any, name: str, has_dates: bool, rows: Sequence[int] | np.ndarray | None
) -> ValueError:
    """Return the error of a column that has dates and had numbers in training, or vice versa."""
    column = f"column {name[:40]!r}"
    if has_dates:
        return ValueError(f"{column} held numbers in training, and holds dates now.")
    if values.dtype.kind == "f":
        return ValueError(f"{column} held dates in training, and holds numbers now.")
    there = [(i, value) for i, value in enumerate(values.tolist()) if value is not None]
    i, value = next((pair for pair in there if iso_date(pair[1]) is None), there[0])
    how = in_python(
        f", or pass the path of the file, or dates, such as those of pandas.read_csv(path, "
        f"parse_dates=[{name!r}])"
    )
    return ValueError(
        f"row {(i if rows is None else rows[i]) + 1}, {column}: {str(value)[:40]!r} is not a date "
        f"in the style 2024-05-31, and the column held dates in training. Correct it{how}."
    )


def center_and_scale(values: Values, scaling: Scaling) -> tuple[float, float]:
    """Return the center to subtract from values and the scale to divide by, which is never 0.

    Args:
        values: one or more values.
        scaling: how.
    """
    largest = max(-values.lowest, values.highest)
    if scaling == "none" or largest == 0.0:
        return 0.0, 1.0
    low, high = values.lowest / largest, values.highest / largest  # so that no sum overflows
    if scaling == "standard":
        center, scale = values.mean_and_deviation(largest)
    elif scaling == "minmax":
        center, scale = low, high - low
    else:
        first, center, third = values.quantiles([0.25, 0.5, 0.75], largest)
        scale = third - first if third > first else (high - low) / 2
    divisor = min(float(scale) * largest, float(np.finfo(np.float64).max))
    return float(center) * largest, divisor if divisor > 0.0 else 1.0


@dataclass(frozen=True)
class Categories:
    """A column of text, or of values treated as text, as columns of 0 and 1.

    Rare categories share a column with those that training rows lack. If no category was rare, an
    unseen one is 0 everywhere: a column that was always 0 would have untrained weights.

    Attributes:
        name: the column.
        labels: the categories, each with its own input.
        other: whether rare and unseen categories have an input.
        missing: whether missing values have an input.
        holds: the kind of the values in training, which an export needs.
    """

    name: str
    labels: tuple[str, ...]
    other: bool
    missing: bool
    holds: Holds = "text"

    @classmethod
    def learn(cls, columns: Columns, name: str, rows: Sequence[int] | np.ndarray) -> "Categories":
        """Learn from training rows."""
        counts, missing = count_labels(columns[name], rows)
        labels = sorted(label for label, count in counts.items() if count >= _RARE)
        other = len(labels) < len(counts)
        holds = _what_it_holds(columns[name], rows)
        return cls(name, tuple(labels), other, missing > 0, holds)

    @property
    def features(self) -> list[str]:
        """The names of the inputs."""
        shown = [f"{self.name} = {label}" for label in self.labels]
        shown += [f"{self.name} is another"] if self.other else []
        return shown + ([f"{self.name} is missing"] if self.missing else [])

    def apply(self, columns: Columns) -> np.ndarray:
        """Return the inputs, shape (N, features)."""
        places = {label: i for i, label in enumerate(self.labels)}
        other = len(places) if self.other else -1
        missing = len(places) + self.other if self.missing else other
        codes, labels = coded(columns[self.name])
        chosen = np.array([*(places.get(label, other) for label in labels), missing], int)[codes]
        return (chosen[:, None] == np.arange(len(self.features))).astype(np.float64)


def _what_it_holds(values: Any, rows: Sequence[int] | np.ndarray) -> Holds:
    """Return the kind of the values of a column in some rows."""
    if values.dtype.kind in "fM":
        return "numbers" if values.dtype.kind == "f" else "dates"
    if isinstance(values, Coded) or values.dtype.kind == "b":
        return "truth values" if values.dtype.kind == "b" else "text"
    there = (v for block in blocks(values, rows) for v in block.tolist() if v is not None)
    return "truth values" if all(isinstance(value, bool) for value in there) else "text"
