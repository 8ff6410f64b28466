"""What a table is to tell: classes, numbers, or several answers of yes and no.

Targets are turned into what a network is trained on, and its outputs back into the user's words and
units.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bp_xp._caller import advice
from bp_xp.tables.columns import Columns, labels_of, missing_in, numbers_of
from bp_xp.tables.inputs import center_and_scale

__all__ = ["TASKS", "Targets", "Task"]

Task = Literal["classification", "regression", "multilabel"]

TASKS = ("classification", "regression", "multilabel")
"""What can be learnt: one of several classes, numbers, or several answers of yes and no."""

_FEW = 10
"""So many different whole numbers are taken for classes, if there are five rows of each."""


@dataclass(frozen=True)
class Targets:
    """The columns to predict.

    Attributes:
        names: the columns.
        task: what is learnt.
        classes: the classes, as the table has them: text, whole numbers or truth values, in order.
        reason: why this task, where nobody asked for it.
        center: for numbers, what is subtracted from each target, shape (targets,).
        scale: what it is then divided by, shape (targets,).
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
        for name, values in columns.items():
            missing = missing_in(values)
            if missing.any():
                raise ValueError(
                    f"row {int(np.argmax(missing)) + 1}, column {name[:40]!r}: the target is "
                    f"missing, as in {missing.sum()} of {len(missing)} rows. Leave these rows out."
                )
        names: tuple[str, ...] = tuple(columns)
        task, reason = (task, "") if task else _decided(columns)
        if task == "classification":
            if len(columns) > 1:
                raise ValueError(f"classes are told by one column, not by {len(columns)}.")
            name = next(iter(columns))
            classes = _classes(columns[name])
            if len(classes) == 1:
                raise ValueError(
                    f"column {name[:40]!r} holds {classes[0]!r} in every row: there is nothing to "
                    "tell apart."
                )
            return cls(names, task, classes, reason)
        values = np.stack([numbers_of(columns[name], name) for name in names], axis=1)
        if task == "multilabel":
            for name, column in zip(names, values.T, strict=True):
                if not np.isin(column, (0, 1)).all():
                    row = int(np.argmin(np.isin(column, (0, 1))))
                    raise ValueError(
                        f"row {row + 1}, column {name[:40]!r}: {column[row]:g} is neither 0 nor 1."
                    )
            return cls(names, task, reason=reason)
        pairs = np.array([center_and_scale(column[rows], "standard") for column in values.T])
        return cls(names, task, reason=reason, center=pairs[:, 0], scale=pairs[:, 1])

    @property
    def n_outputs(self) -> int:
        """How many outputs a network needs."""
        return len(self.classes) or len(self.names)

    def encode(self, columns: Columns) -> np.ndarray:
        """Return what a network is trained on: labels, shape (N,), or targets, (N, targets).

        Raises:
            ValueError: a value is missing, or is none of the classes.
        """
        if self.task == "classification":
            (name,) = self.names
            places = {label: i for i, label in enumerate(labels_of(np.array(self.classes, object)))}
            found = labels_of(columns[name])
            for row, label in enumerate(found):
                if label not in places:
                    known = ", ".join(map(repr, self.classes))
                    raise ValueError(
                        f"row {row + 1}, column {name[:40]!r}: {label!r} is none of the classes "
                        f"{known[:400]}."
                    )
            return np.array([places[label] for label in found], np.int64)
        values = np.stack([numbers_of(columns[name], name) for name in self.names], axis=1)
        if np.isnan(values).any():
            row, i = np.argwhere(np.isnan(values))[0]
            raise ValueError(f"row {row + 1}, column {self.names[i][:40]!r}: a target is missing.")
        if self.task == "multilabel":
            return values
        return (values / 2 - self.center / 2) / (self.scale / 2)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs as the table has its targets.

        Args:
            outputs: of a network, shape (N, outputs).

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
    """Return the task that targets look like, and why."""
    if len(columns) > 1:
        values = [numbers_of(values, name) for name, values in columns.items()]
        if np.isin(values, (0, 1)).all():
            return "multilabel", f"all {len(columns)} columns hold 0 and 1"
        return "regression", f"{len(columns)} columns of numbers"
    ((name, values),) = columns.items()
    if values.dtype.kind in "Ob":
        return "classification", "text" if values.dtype.kind == "O" else "true and false"
    found, counts = np.unique(numbers_of(values, name), return_counts=True)
    how = advice("; pass {} to learn numbers", "task", "regression")
    if len(found) == 2:
        return "classification", f"two different numbers{how}"
    if (found % 1).any():
        return "regression", "numbers with fractions"
    if len(found) <= _FEW and counts.mean() >= 5:
        return "classification", f"only {len(found)} different whole numbers{how}"
    how = advice("; pass {} to learn classes", "task", "classification")
    return "regression", f"{len(found)} different numbers{how if len(found) < 100 else ''}"


def _classes(values: np.ndarray) -> tuple[Any, ...]:
    """Return the classes of a column as Python's objects: text, truth values or numbers."""
    if values.dtype.kind == "M":
        values = np.array(labels_of(values), object)
    found = sorted(set(values.tolist()))
    return tuple(int(c) if isinstance(c, float) and c.is_integer() else c for c in found)
