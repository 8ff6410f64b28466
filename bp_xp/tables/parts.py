"""What a model learns from: which columns of a table, and which of its rows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.datasets.stored_table import StoredColumns
from bp_xp.sources.samples import split_rows
from bp_xp.tables.columns import Columns, as_columns, as_values, coded, missing_in
from bp_xp.tables.inputs import Scaling
from bp_xp.tables.preparation import Preparation, select
from bp_xp.tables.stored import StoredInputs
from bp_xp.tables.targets import Targets, Task

__all__ = ["Prepared", "Split", "ignored_by", "part_columns", "prepare"]

_TEST_SEED = 0
"""The seed of the rows to test on, so that models with different seeds have the same test rows."""


@dataclass(frozen=True)
class Split:
    """How rows are held out.

    Attributes:
        validation_fraction: the share, among the rows that are not for testing, of those to choose
            the epoch by.
        test_fraction: the share of all rows to test on; 0 for none.
        by: the column whose equal values stay in one part, or None.
        last: whether the last rows are held out, instead of random ones.
        fold: instead of a share to test on, the rows that are not for testing, and those that are;
            or None.
    """

    validation_fraction: float
    test_fraction: float = 0.0
    by: str | None = None
    last: bool = False
    fold: tuple[np.ndarray, np.ndarray] | None = None

    def rows(
        self, columns: Columns, answers: Columns, task: Task | None, seed: int
    ) -> dict[str, np.ndarray]:
        """Return the numbers of the rows of the parts training, validation and test.

        Without groups and without an order, each class has the same share in each part.

        Raises:
            ValueError: a part would be empty, or a row has no group.
        """
        rows = np.arange(len(next(iter(answers.values()))))
        groups = self.groups(columns)
        targets = Targets.learn(answers, task, rows)
        labels = targets.encode(answers) if targets.classes else None
        test = _TEST_SEED, "test_fraction"
        validation = seed, "validation_fraction"
        found: dict[str, np.ndarray] = {}
        if self.fold is not None:
            rows, found["test"] = self.fold
        for part, (part_seed, argument) in {"test": test, "validation": validation}.items():
            fraction = checks.check_number(getattr(self, argument), argument, least=0.0, below=1.0)
            if not fraction:
                found.setdefault(part, rows[:0])
                continue
            n = len(rows)
            if not 0 < round(fraction * n) < n:
                raise ValueError(
                    f"{named(argument, fraction)} of {n} rows leaves none to train on, or holds "
                    f"none out: give more rows, or {named(argument, 0)}."
                )
            generator = np.random.default_rng(part_seed)
            if self.last:
                held = np.arange(n) >= n - round(fraction * n)
            elif groups is not None:
                held = _whole_groups(groups[rows], fraction, generator, f"{self.by}")
            else:
                these = None if labels is None else labels[rows]
                held = np.isin(np.arange(n), split_rows(n, fraction, these, generator)[1])
            rows, found[part] = rows[~held], rows[held]
        return {"training": rows, "validation": found["validation"], "test": found["test"]}

    def groups(self, columns: Columns) -> np.ndarray | None:
        """Return the number of the group of each row, shape (N,); None if there are no groups.

        Raises:
            ValueError: a row has no group, or ``last`` is asked for as well.
        """
        if self.by is None:
            return None
        if self.last:
            raise ValueError(
                f"{named('split_by')} and {named('split_last')} are two ways to hold rows out: "
                "choose one."
            )
        values = select(columns, [self.by], named("split_by"))[self.by]
        missing = missing_in(values)
        if missing.any():
            row = int(np.argmax(missing)) + 1
            raise ValueError(f"row {row}, column {self.by[:40]!r}: the group is missing.")
        codes, labels = coded(values)
        return np.argsort(np.argsort(np.array(labels)))[codes]


def _whole_groups(
    groups: np.ndarray, fraction: float, generator: np.random.Generator, name: str
) -> np.ndarray:
    """Return a mask of the rows to hold out, shape (N,), which keeps each group in one part."""
    found, counts = np.unique(groups, return_counts=True)
    if len(found) < 2:
        raise ValueError(
            f"column {name[:40]!r} has the same group in all rows that are left: none can be held "
            "out."
        )
    order = generator.permutation(len(found))
    taken = np.cumsum(counts[order])[:-1]
    n_groups = 1 + int(np.argmin(np.abs(taken - fraction * len(groups))))
    return np.isin(groups, found[order[:n_groups]])


class Prepared(NamedTuple):
    """A table as a network takes it, and what was learned from it.

    Attributes:
        preparation: what was learned.
        columns: the columns to learn from.
        answers: the columns to predict.
        rows: the numbers of the rows of each part: training, validation, test.
        x: inputs, shape (N, features); those of a stored table are made as they are read.
        y: labels, shape (N,), or targets, shape (N, targets).
    """

    preparation: Preparation
    columns: Columns
    answers: Columns
    rows: Mapping[str, np.ndarray]
    x: Any
    y: np.ndarray

    def part(self, name: str) -> tuple[Any, np.ndarray]:
        """Return the inputs and the targets of a part."""
        rows, x = self.rows[name], self.x
        return x.at(rows) if isinstance(x, StoredInputs) else x[rows], self.y[rows]


def prepare(
    columns: Columns,
    target: Any,
    *,
    split: Split,
    seed: int,
    task: Task | None = None,
    numeric: Collection[str] = (),
    categorical: Collection[str] = (),
    drop: Collection[str] = (),
    scaling: Scaling = "standard",
) -> Prepared:
    """Hold rows out, learn a preparation from the others, and apply it to all.

    Args:
        columns: the table.
        target: as for :meth:`bp_xp.tables.TableModel.fit`.
        split: how rows are held out.
        seed: the seed of the validation rows; the test rows are always the same.
        task: as for :meth:`Preparation.learn`, like all that follow.
        numeric: columns to treat as numbers.
        categorical: columns to treat as categories.
        drop: columns to leave out; the column of the groups is left out too.
        scaling: how numbers are scaled.

    Raises:
        ValueError: as for :meth:`Preparation.learn`, or a part would be empty.
    """
    columns, answers = part_columns(columns, target)
    if not columns:
        raise ValueError("no column is left to learn from: the table has only the target.")
    rows = split.rows(columns, answers, task, seed)
    drop = drop if split.by is None or isinstance(drop, str) else {*drop, split.by}
    preparation = Preparation.learn(
        columns,
        answers,
        rows=rows["training"],
        task=task,
        numeric=numeric,
        categorical=categorical,
        drop=drop,
        scaling=scaling,
    )
    if isinstance(columns, StoredColumns):
        x = StoredInputs(preparation, columns)
        x.check()
    else:
        x = preparation.inputs(columns)
    y = preparation.outputs(answers)
    return Prepared(preparation, columns, answers, rows, x, y)


def ignored_by(drop: Collection[str], split_by: str | None) -> set[str]:
    """Return the columns that nothing is read from: those to leave out, but not the groups."""
    return set() if isinstance(drop, str) else set(drop) - {split_by}


def part_columns(columns: Columns, target: Any) -> tuple[Columns, Columns]:
    """Return the columns to learn from, and those to predict.

    Raises:
        ValueError: there is no target, a name is not a column, or there are more or fewer values
            than rows.
    """
    if target is None:
        raise ValueError(
            f"{named('target')} is missing: pass the name of the column to predict, or its values."
        )
    names = [target] if isinstance(target, str) else target
    is_names = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    is_names = is_names and len(set(names)) == len(names) and set(names) <= set(columns)
    if isinstance(target, str) or is_names:
        answers = select(columns, names, named("target"))
        rest = {name: v for name, v in columns.items() if name not in answers}
        if isinstance(columns, StoredColumns):
            rest = StoredColumns(rest, columns.n_bytes, columns.folder)
        return rest, answers
    values: Any = target
    if isinstance(values, Mapping) or hasattr(values, "columns") or np.ndim(values) == 2:
        answers = as_columns(values)
    else:
        name = str(getattr(values, "name", None) or "target")
        answers = {name: as_values(values, name)}
    n_rows = len(next(iter(columns.values())))
    n_values = len(next(iter(answers.values())))
    if n_values != n_rows:
        raise ValueError(
            f"{named('target')} has {n_values} values, and the table {n_rows} rows: give one for "
            "each row."
        )
    return columns, answers
