"""The preparation of a table: what was learned from training rows, and applies to any others."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.storage.network_file import Section
from bp_xp.tables.columns import Columns, as_columns, blocks, count_labels, missing_in
from bp_xp.tables.inputs import SCALINGS, Categories, Numbers, Scaling
from bp_xp.tables.statistics import Values
from bp_xp.tables.targets import TASKS, Targets, Task

__all__ = ["Preparation"]

_VERSION = 1

_MOST_CATEGORIES = 40
"""A column of text with more categories is left out; skrub's table vectorizer treats it apart."""

_FEW_ROWS = 20
"""With this many rows or more, numbers that are all different may number the rows."""


_YEARS = 1500, 2100
"""Whole numbers between these may be years."""


@dataclass(frozen=True)
class _Wishes:
    """What the caller asks for, whatever the columns look like."""

    numeric: Collection[str]
    categorical: Collection[str]
    drop: Collection[str]

    def check(self, columns: Columns, targets: Collection[str]) -> None:
        """Refuse names that are not columns to learn from, or are in two lists.

        Raises:
            ValueError: there is such a name; the message has it.
        """
        seen: dict[str, str] = {}
        for argument in ("numeric", "categorical", "drop"):
            names = getattr(self, argument)
            if isinstance(names, str):
                raise ValueError(f"{named(argument)} must be a list of columns, not {names!r}.")
            for name in names:
                if name not in columns and name in targets:
                    raise ValueError(f"{named(argument)} names {name!r}, which is the target.")
                if name not in columns:
                    raise ValueError(
                        f"{named(argument)} names {name!r}; {_not_among(columns, name)}"
                    )
                if seen.setdefault(name, argument) != argument:
                    raise ValueError(
                        f"column {name!r} is in both {named(seen[name])} and {named(argument)}."
                    )


@dataclass(frozen=True)
class Preparation:
    """From the columns of a table to the inputs and targets of a network, and back.

    Columns are found by name: their order does not matter, and other columns are ignored.
    :meth:`learn` makes a preparation; printed, it is a table of what was decided.

    Attributes:
        numbers: the columns of numbers and dates, scaled.
        categories: the columns of text and truth values, each as several columns of 0 and 1.
        left_out: the columns that are not used, with the reasons.
        targets: what is predicted.

    Examples:
        >>> table = {"size": [30, 55, None, 90], "town": ["Ulm"] * 4, "rent": [300.5, 5, 4, 8]}
        >>> preparation = Preparation.learn(table, ["rent"])
        >>> preparation.inputs(table).round(2).tolist()
        [[-1.15, 0.0], [-0.14, 0.0], [-0.14, 1.0], [1.29, 0.0]]
        >>> print(preparation)
        size  number, with a column for what is missing
        town  left out: the same in all rows
        rent  target: regression of rent; numbers with fractions
    """

    numbers: Numbers
    categories: tuple[Categories, ...]
    left_out: Mapping[str, str]
    targets: Targets
    order: tuple[str, ...] = field(repr=False)

    @classmethod
    def learn(
        cls,
        table: Any,
        target: Sequence[str] | Mapping[str, Any],
        *,
        rows: Sequence[int] | np.ndarray | None = None,
        task: Task | None = None,
        numeric: Collection[str] = (),
        categorical: Collection[str] = (),
        drop: Collection[str] = (),
        scaling: Scaling = "standard",
    ) -> "Preparation":
        """Decide what each column is, and learn from training rows.

        Numbers are scaled; a missing number is replaced by the median, and marked in a second
        column. Text and truth values become a column of 0 and 1 for each category, with one for
        rare and unseen categories and one for missing values if the training rows have any. Dates
        become days. Some columns are left out: those that are the same everywhere, text with more
        than 40 categories or that differs in most rows, and whole numbers that number the rows.

        Args:
            table: as for :func:`~bp_xp.tables.columns.as_columns`.
            target: the columns to predict: their names in the table, or a mapping of names to
                values.
            rows: the numbers of the training rows; None takes all. Classes are taken from all rows.
            task: ``"classification"``, ``"regression"``, ``"multilabel"`` or None to decide: text
                and truth values, and at most ten different whole numbers with five rows each, are
                classes; several columns of 0 and 1 are labels; other numbers are numbers.
            numeric: columns to treat as numbers.
            categorical: columns to treat as categories, however many there are.
            drop: columns to leave out.
            scaling: ``"standard"``, ``"minmax"``, ``"robust"`` or ``"none"``.

        Raises:
            ValueError: a column does not exist, no column is left, or a target is missing or does
                not fit the task.
        """
        for name, value, words in (
            ("task", task, (None, *TASKS)),
            ("scaling", scaling, SCALINGS),
        ):
            if value not in words:
                raise ValueError(f"{named(name)} must be one of {words}, not {value!r}.")
        columns = as_columns(table, categorical, ignored=drop)
        if isinstance(target, Mapping):
            answers = as_columns(target, tuple(target))
        else:
            answers = select(columns, target, named("target"))
            columns = {name: values for name, values in columns.items() if name not in answers}
        wishes = _Wishes(numeric, categorical, drop)
        wishes.check(columns, answers)
        n_rows = len(next(iter(answers.values())))
        if not n_rows:
            raise ValueError("the table has no rows to learn from.")
        which = np.arange(n_rows) if rows is None else np.asarray(rows)
        targets = Targets.learn(answers, task, which)
        found = {name: _kind(name, values, which, wishes) for name, values in columns.items()}
        order = tuple(found)
        as_numbers = tuple(name for name in order if found[name] == "number")
        as_categories = [name for name in order if found[name] == "category"]
        if not as_numbers and not as_categories:
            raise ValueError("no column is left to learn from: " + "; ".join(found.values()))
        return cls(
            Numbers.learn(columns, as_numbers, scaling, which),
            tuple(Categories.learn(columns, name, which) for name in as_categories),
            {name: why for name, why in found.items() if why not in ("number", "category")},
            targets,
            order,
        )

    @property
    def features(self) -> list[str]:
        """The names of the network's inputs."""
        shown = list(self.numbers.features)
        for each in self.categories:
            shown += each.features
        return shown

    @property
    def sources(self) -> list[str]:
        """The column that each input comes from."""
        flags = [n for n, f in zip(self.numbers.names, self.numbers.flagged, strict=True) if f]
        found = [*self.numbers.names, *flags]
        for each in self.categories:
            found += [each.name] * len(each.features)
        return found

    @property
    def text(self) -> list[str]:
        """The columns to read as text from a file, whatever they look like there."""
        classes = self.targets.classes
        is_text = bool(classes) and all(isinstance(one, str) for one in classes)
        # 2.50 and 2.5 are one category as numbers, and two as text.
        categories = [each.name for each in self.categories if each.holds != "numbers"]
        return [*categories, *(self.targets.names if is_text else ())]

    @property
    def columns(self) -> list[str]:
        """The names of the columns that are used."""
        return [*self.numbers.names, *(each.name for each in self.categories)]

    def inputs(self, table: Any, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the inputs of a network, shape (N, features), float64.

        Args:
            table: as for :func:`~bp_xp.tables.columns.as_columns`.
            rows: the number of each row, for messages; None counts from 0.

        Raises:
            ValueError: a column is missing, or holds something other than in training.
        """
        wanted = self.columns
        columns = select(
            as_columns(table, self.text, only=wanted, allow_empty=True), wanted, "the model"
        )
        if not len(columns[wanted[0]]):  # an empty column has no kind
            return np.zeros((0, len(self.features)))
        numbers = self.numbers.apply(columns, rows)
        parts = [numbers, *(each.apply(columns) for each in self.categories)]
        return np.concatenate(parts, axis=1)

    def outputs(self, table: Any) -> np.ndarray:
        """Return what a network is trained on: labels, shape (N,), or targets, (N, targets).

        Raises:
            ValueError: a target's column does not exist, or has a value that is not a class.
        """
        columns = as_columns(table, self.text, only=self.targets.names)
        return self.targets.encode(select(columns, self.targets.names, "the model"))

    def __str__(self) -> str:
        lines = [*self.told.items(), (", ".join(self.targets.names), f"target: {self.targets}")]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:{width}}  {what}" for name, what in lines)

    @property
    def told(self) -> dict[str, str]:
        """What was decided about each column, in words."""
        flags = dict(zip(self.numbers.names, self.numbers.flagged, strict=True))
        dates = dict(zip(self.numbers.names, self.numbers.dates, strict=True))
        told = {name: f"left out: {why}" for name, why in self.left_out.items()}
        for name in self.numbers.names:
            told[name] = "date, in days" if dates[name] else "number"
            told[name] += ", with a column for what is missing" if flags[name] else ""
        for each in self.categories:
            n = len(each.labels)
            told[each.name] = f"{n} {'category' if n == 1 else 'categories'}"
            told[each.name] += ", rare and unseen ones together" if each.other else ""
            told[each.name] += ", with a column for what is missing" if each.missing else ""
        return {name: told[name] for name in self.order}

    # -----------------------------------------------------------------------------------------
    # In a file

    def to_section(self) -> Section:
        """Return the preparation as it is stored in a file."""
        numbers, targets = asdict(self.numbers), asdict(self.targets)
        tensors = {name: numbers.pop(name) for name in ("median", "center", "scale")}
        tensors |= {f"target.{name}": targets.pop(name) for name in ("center", "scale")}
        fields = {
            "version": _VERSION,
            "numbers": numbers,
            "categories": [asdict(each) for each in self.categories],
            "left_out": dict(self.left_out),
            "targets": targets,
            "order": list(self.order),
        }
        return Section(fields, tensors)

    @classmethod
    def from_section(cls, section: Section) -> "Preparation":
        """Return what :meth:`to_section` wrote.

        Raises:
            KeyError, TypeError, ValueError: the section is not complete, or of a later version.
        """
        fields, tensors = section.fields, section.tensors
        parts: dict[str, Any] = {
            name: {key: _tuples(value) for key, value in fields[name].items()}
            for name in ("numbers", "targets")
        }
        if fields["version"] != _VERSION:
            raise ValueError(
                f"the preparation has version {fields['version']}, and this bp_xp knows {_VERSION}"
            )
        numbers = Numbers(
            **parts["numbers"],
            median=tensors["median"],
            center=tensors["center"],
            scale=tensors["scale"],
        )
        targets = Targets(
            **parts["targets"],
            center=tensors["target.center"],
            scale=tensors["target.scale"],
        )
        categories = tuple(
            Categories(**{name: _tuples(value) for name, value in each.items()})
            for each in fields["categories"]
        )
        made = cls(numbers, categories, fields["left_out"], targets, tuple(fields["order"]))
        made._check()
        return made

    def _check(self) -> None:
        """Refuse parts that do not fit each other.

        Raises:
            ValueError: they do not.
        """
        n, n_targets = len(self.numbers.names), len(self.targets.names)
        is_regression = self.targets.task == "regression"
        lengths = [
            *((values, n) for values in (self.numbers.dates, self.numbers.flagged)),
            *((getattr(self.numbers, name), n) for name in ("median", "center", "scale")),
            (self.targets.center, n_targets * is_regression),
            (self.targets.scale, n_targets * is_regression),
        ]
        used = [*self.numbers.names, *(each.name for each in self.categories), *self.left_out]
        if (
            any(len(values) != length for values, length in lengths)
            or sorted(used) != sorted(self.order)
            or self.numbers.scaling not in SCALINGS
            or self.targets.task not in TASKS
            or (len(self.targets.classes) > 1) != (self.targets.task == "classification")
            or not all(np.isfinite(values).all() for values, _ in lengths)
            or not (self.numbers.scale > 0).all()
            or not (self.targets.scale > 0).all()
        ):
            raise ValueError("the parts of its preparation do not fit each other")


def select(columns: Columns, names: Sequence[str], who: str) -> Columns:
    """Return columns by name.

    Args:
        columns: a table.
        names: the columns to return.
        who: who needs them, for messages.

    Raises:
        ValueError: a column does not exist; the message names it.
    """
    for name in names:
        if name not in columns:
            raise ValueError(f"{who} needs a column {name!r}; {_not_among(columns, name)}")
    return {name: columns[name] for name in names}


def _not_among(columns: Columns, name: str) -> str:
    hint = checks.did_you_mean(f"{name}", columns)
    return f"the table has the columns {', '.join(columns)[:400]}.{hint}"


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _kind(name: str, values: Any, rows: np.ndarray, wishes: _Wishes) -> str:
    """Return "number" or "category", or the reason why a column is left out."""
    if name in wishes.drop:
        return "as was asked for"
    n = len(rows) - sum(int(missing_in(block).sum()) for block in blocks(values, rows))
    if not n:
        return "nothing but missing values"
    if name in wishes.categorical:
        return "category"
    if name in wishes.numeric:
        return "number" if Values(values, name, rows).n else ""  # all of them are numbers
    if values.dtype.kind in "Ob":
        distinct = getattr(values, "unlisted", 0) or len(count_labels(values, rows)[0])
        if distinct == 1 and n == len(rows):
            return "the same in all rows"
        if distinct > _MOST_CATEGORIES or (distinct > 10 and 2 * distinct > n):
            return f"{distinct} different texts in {n} rows"
        return "category"
    found = Values(values, name, rows)
    if found.lowest == found.highest and n == len(rows):
        return "the same in all rows"
    # Years are whole, different and dense too, but carry information.
    are_years = found.lowest >= _YEARS[0] and found.highest <= _YEARS[1]
    if n == 1 and len(rows) >= _FEW_ROWS:
        return f"only one value in {len(rows)} rows"
    is_plain = values.dtype.kind == "f" and n >= _FEW_ROWS
    if is_plain and not are_years and found.number_the_rows():
        return "it numbers the rows"
    return "number"
