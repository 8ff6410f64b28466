"""What to predict from a table: classes, numbers, or several yes-or-no answers.

Targets are converted to what a network is trained on, and its outputs back to the user's classes
and units.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bp_xp._caller import advice
from bp_xp.tables.columns import (
    ROWS_AT_ONCE,
    Coded,
    Columns,
    blocks,
    coded,
    label_of,
    missing_in,
    numbers_of,
    take,
)
from bp_xp.tables.inputs import center_and_scale
from bp_xp.tables.statistics import Values

__all__ = ["TASKS", "Targets", "Task"]

Task = Literal["classification", "regression", "multilabel"]

TASKS = ("classification", "regression", "multilabel")
"""What can be learned: one of several classes, numbers, or several yes-or-no answers."""

_FEW = 10
"""Up to this many different whole numbers are classes, if there are five rows of each."""


@dataclass(frozen=True)
class Targets:
    """The columns to predict.

    Attributes:
        names: the columns.
        task: what is learned.
        classes: the classes, as the table has them: text, whole numbers or truth values, in order.
        reason: why this task was chosen, if it was not given.
        center: for numbers, the value to subtract from each target, shape (targets,).
        scale: the value to divide the difference by, shape (targets,).
    """

    names: tuple[str, ...]
    task: Task
    classes: tuple[Any, ...] = ()
    reason: str = ""
    center: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scale: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def learn(cls, columns: Columns, task: Task | None, rows: np.ndarray) -> "Targets":
        """Learn classes from all rows, and center and scale from training rows.

        Args:
            columns: the targets.
            task: what to learn, or None to decide.
            rows: the training rows.

        Raises:
            ValueError: a target is missing, or the targets do not fit the task.
        """
        every = range(len(next(iter(columns.values()))))
        for name, values in columns.items():
            missing = np.concatenate([missing_in(block) for block in blocks(values, every)])
            if missing.any():
                raise ValueError(
                    f"row {int(np.argmax(missing)) + 1}, column {name[:40]!r}: the target is "
                    f"missing, as in {missing.sum()} of {len(missing)} rows. Leave these rows out."
                )
        names: tuple[str, ...] = tuple(columns)
        task, reason = (task, "") if task else _decided(columns)
        if task == "classification":
            if len(columns) > 1:
                raise ValueError(f"classes need one column, not {len(columns)}.")
            name = next(iter(columns))
            classes = _classes(columns[name], name)
            if len(classes) == 1:
                raise ValueError(
                    f"column {name[:40]!r} holds {classes[0]!r} in every row: there is nothing to "
                    "distinguish."
                )
            return cls(names, task, classes, reason)
        if task == "multilabel":
            for name in names:
                for k, block in enumerate(Values(columns[name], name, every).blocks()):
                    fits = np.isin(block, (0, 1))
                    if not fits.all():
                        row = int(np.argmin(fits))
                        raise ValueError(
                            f"row {k * ROWS_AT_ONCE + row + 1}, column {name[:40]!r}: "
                            f"{block[row]:g} is neither 0 nor 1."
                        )
            return cls(names, task, reason=reason)
        for name in names:  # the values of all rows are numbers
            _ = Values(columns[name], name, every).n
        each = [Values(columns[name], name, rows) for name in names]
        pairs = np.array([center_and_scale(values, "standard") for values in each])
        return cls(names, task, reason=reason, center=pairs[:, 0], scale=pairs[:, 1])

    @property
    def n_outputs(self) -> int:
        """How many outputs a network needs."""
        return len(self.classes) or len(self.names)

    def encode(self, columns: Columns) -> np.ndarray:
        """Return what a network is trained on: labels, shape (N,), or targets, (N, targets).

        Raises:
            ValueError: a value is missing, or is not one of the classes.
        """
        n = len(next(iter(columns.values())))
        starts = range(0, max(n, 1), ROWS_AT_ONCE)
        parts = [self._encoded(take(columns, slice(k, k + ROWS_AT_ONCE)), k) for k in starts]
        return np.concatenate(parts)

    def _encoded(self, columns: Columns, first: int) -> np.ndarray:
        """Return the result of :meth:`encode` for some rows, given the number of the first."""
        if self.task == "classification":
            (name,) = self.names
            places = {label_of(each): i for i, each in enumerate(self.classes)}
            codes, labels = coded(columns[name])
            found = np.array([*(places.get(label, -1) for label in labels), -1], np.int64)[codes]
            if (found < 0).any():
                row = int(np.argmax(found < 0))
                label = None if codes[row] < 0 else labels[codes[row]]
                known = ", ".join(map(repr, self.classes))
                raise ValueError(
                    f"row {first + row + 1}, column {name[:40]!r}: {label!r} is not one of the "
                    f"classes {known[:400]}."
                )
            return found
        rows = range(first, first + len(next(iter(columns.values()))))
        values = np.stack([numbers_of(columns[name], name, rows) for name in self.names], axis=1)
        if np.isnan(values).any():
            row, i = np.argwhere(np.isnan(values))[0]
            raise ValueError(
                f"row {rows[row] + 1}, column {self.names[i][:40]!r}: a target is missing."
            )
        if self.task == "multilabel":
            return values
        return (values / 2 - self.center / 2) / (self.scale / 2)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs in the form of the table's targets.

        Args:
            outputs: the outputs of a network, shape (N, outputs).

        Returns:
            Classes, shape (N,); 0 or 1, shape (N, targets); or numbers, shape (N,) for one target
            and otherwise (N, targets).
        """
        if self.task == "classification":
            return self.class_values[np.argmax(outputs, axis=1)]
        if self.task == "multilabel":
            return (outputs > 0.5).astype(np.int64)
        values = outputs.astype(np.float64) * self.scale + self.center
        return values[:, 0] if len(self.names) == 1 else values

    @property
    def class_values(self) -> np.ndarray:
        """The classes as an array, shape (K,)."""
        return np.array(self.classes)

    def __str__(self) -> str:
        what = f"{self.task} of {', '.join(self.names)}"
        if self.classes:
            what += f": {', '.join(map(str, self.classes[:20]))}"
            what += f" and {len(self.classes) - 20} more" if len(self.classes) > 20 else ""
        return f"{what}; {self.reason}" if self.reason else what


def _decided(columns: Columns) -> tuple[Task, str]:
    """Return the task that fits the targets, and why."""
    every = range(len(next(iter(columns.values()))))
    each = {name: Values(values, name, every) for name, values in columns.items()}
    if len(columns) > 1:
        if all(np.isin(values.distinct(2).values, (0, 1)).all() for values in each.values()):
            return "multilabel", f"all {len(columns)} columns hold 0 and 1"
        return "regression", f"{len(columns)} columns of numbers"
    ((name, values),) = columns.items()
    if values.dtype.kind in "Ob":
        return "classification", "text" if values.dtype.kind == "O" else "true and false"
    found = each[name].distinct()
    n = len(found.values)
    how = advice("; pass {} to learn numbers", "task", "regression")
    if n == 2:
        return "classification", f"two different numbers{how}"
    if not found.whole:
        return "regression", "numbers with fractions"
    if n <= _FEW and found.counts.mean() >= 5:
        return "classification", f"only {n} different whole numbers{how}"
    how = advice("; pass {} to learn classes", "task", "classification")
    told = f"more than {n}" if found.more else f"{n}"
    return "regression", f"{told} different numbers{how if n < 100 else ''}"


def _classes(values: Any, name: str) -> tuple[Any, ...]:
    """Return the classes of a column as Python's objects: text, truth values or numbers."""
    every = range(len(values))
    if values.dtype.kind == "f":
        found = Values(values, name, every).distinct(len(values)).values.tolist()
    elif values.dtype.kind == "M":
        found = sorted({label for block in blocks(values, every) for label in coded(block)[1]})
    elif isinstance(values, Coded):
        there = np.zeros(len(values.words), bool)
        for block in blocks(values, every):
            there[block.codes] = True
        found = sorted(values.words[there].tolist())
    else:
        found = sorted(set(values.tolist()))
    return tuple(int(c) if isinstance(c, float) and c.is_integer() else c for c in found)
