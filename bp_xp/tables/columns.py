"""Columns by name: the form that every table is converted to.

A column is a NumPy array of shape (N,): float64 with NaN for missing values, datetime64 with NaT,
bool, or objects, which are text, True, False or None. If a table is not in memory, its numbers and
dates are memory-mapped arrays, and its text is :class:`Coded`. Code that visits all rows of a
column therefore takes :func:`blocks` of them.
"""

import datetime
import inspect
import numbers
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bp_xp._caller import Words, by_default
from bp_xp._optional import require
from bp_xp.datasets.reader import column_names, read_table
from bp_xp.datasets.stored_table import Coded, unused_columns

__all__ = [
    "ROWS_AT_ONCE",
    "Coded",
    "Columns",
    "as_columns",
    "as_values",
    "blocks",
    "coded",
    "count_labels",
    "iso_date",
    "label_of",
    "labels_of",
    "missing_in",
    "none_if_missing",
    "numbers_of",
    "pick",
    "take",
    "words_of_reading",
]

ROWS_AT_ONCE = 1 << 16
"""How many rows of a column are processed at a time."""

_ISO = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})((?:[ T]\d.*)?)")

_READING = frozenset(inspect.signature(read_table).parameters) - {"path"}

_DAY = np.timedelta64(1, "D")


Columns = dict[str, Any]
"""Columns of equal length by name."""


def as_columns(
    table: Any,
    text: Collection[str] = (),
    *,
    ignored: Collection[str] = (),
    only: Collection[str] | None = None,
    allow_empty: bool = False,
) -> Columns:
    """Return a table as columns.

    Text in the style 2024-05-31 becomes dates if all values of a column have it.

    Args:
        table: a data frame that narwhals knows (pandas, polars, pyarrow ...), a mapping of names to
            columns, an array of shape (N, columns), whose columns are called ``"column 1"`` and so
            on, or the path of a file for :func:`read_table`.
        text: columns to treat as text, whatever they hold, if they exist.
        ignored: columns that are not used, so that it does not matter what they hold in a file.
        only: the only columns that are used; None uses all that are not ignored.
        allow_empty: whether a file may have a header and no rows; other tables always may.

    Raises:
        ValueError: columns have different lengths, or there are none.
        TypeError: it is not a table, or a column has values that are not numbers, dates or text.
    """
    if isinstance(table, str | os.PathLike):
        is_csv = not os.fspath(table).lower().endswith(".parquet")
        with by_default(words_of_reading(trained=only is not None)):
            names = column_names(table) if is_csv and (text or ignored or only is not None) else ()
            unused = unused_columns(names, ignored, only)
            kept = [name for name in names if name in text or name in unused]
            return read_table(table, text=kept, allow_empty=allow_empty)
    if isinstance(table, Mapping):
        columns = {f"{name}": as_values(values, f"{name}") for name, values in table.items()}
    elif isinstance(table, np.ndarray | list | tuple):
        rows = _array(table)
        if rows.ndim != 2:
            raise ValueError(f"a table has rows and columns, but this has the shape {rows.shape}.")
        names = [f"column {i + 1}" for i in range(rows.shape[1])]
        columns = {name: as_values(rows[:, i], name) for i, name in enumerate(names)}
    else:
        columns = _of_frame(table)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"a table needs columns of the same length; found {sorted(lengths) or 'no columns'}."
        )
    return {
        name: values if name in text else _with_dates(values) for name, values in columns.items()
    }


def words_of_reading(*, trained: bool) -> Words:
    """Return how messages name the arguments of ``read_table`` to who passes a path to a model.

    Args:
        trained: whether the model is trained, so that it is decided which columns are text.
    """

    def words(argument: str, value: Any) -> str | None:
        if argument == "text":
            return None if trained else f"categorical={value!r}"
        return f"read_table(path, {argument}={value!r})" if argument in _READING else None

    return words


def _with_dates(values: Any) -> Any:
    """Return dates if a column holds nothing but text in the style of :func:`iso_date`."""
    if isinstance(values, Coded) or values.dtype.kind != "O":
        return values
    texts = [value for value in values.tolist() if value is not None]
    dates: dict[str, Any] = {}
    for text in texts:
        if text not in dates:
            dates[text] = iso_date(text)
            if dates[text] is None:
                return values
    found = [None if value is None else dates[value] for value in values.tolist()]
    return np.array(found, "datetime64[us]") if texts else values


def iso_date(text: Any) -> datetime.datetime | None:
    """Return the date and time, in UTC, of text in the style year-month-day; None if it has none.

    Examples:
        >>> iso_date("2024-5-31"), iso_date("31.05.2024")
        (datetime.datetime(2024, 5, 31, 0, 0), None)
    """
    found = isinstance(text, str) and _ISO.fullmatch(text.strip())
    if not found:
        return None
    year, month, day, time = found.groups()
    try:
        return _moment(datetime.datetime.fromisoformat(f"{year}-{month:0>2}-{day:0>2}{time}"))
    except ValueError:
        return None


def _of_frame(table: Any) -> Columns:
    """Return the columns of a data frame.

    Raises:
        TypeError: it is not a data frame.
        ValueError: two columns have the same name.
    """
    narwhals: Any = require("narwhals", "table")
    try:
        frame = narwhals.from_native(table, eager_only=True)
    except TypeError as error:
        raise TypeError(
            "a table is a data frame, a mapping of names to columns, an array of rows, or the path "
            f"of a file, not a {type(table).__name__}."
        ) from error
    except narwhals.exceptions.DuplicateError as error:
        raise ValueError("two columns of the table have the same name: rename one.") from error
    columns = {f"{series.name}": series.to_numpy() for series in frame.iter_columns()}
    return {name: as_values(values, name) for name, values in columns.items()}


def as_values(values: Any, name: str) -> Any:
    """Return values as a column.

    Args:
        values: one value for each row.
        name: the column's name, for messages.

    Raises:
        ValueError: they do not have one dimension.
        TypeError: they are not numbers, dates or text.
    """
    if isinstance(values, Coded):
        return values
    values = _array(values)
    if values.ndim != 1:
        raise ValueError(f"column {name[:40]!r} has shape {values.shape}: it needs one dimension.")
    kind = values.dtype.kind
    if kind in "fiu":
        return values.astype(np.float64, copy=False)
    if kind == "M":
        return values.astype("datetime64[us]", copy=False)
    if kind == "b":
        return values
    if kind in "OUT":
        return _of_objects([none_if_missing(value) for value in values.tolist()], name)
    raise TypeError(
        f"column {name[:40]!r} has values of {values.dtype}: they must be numbers, dates, text or "
        "truth values."
    )


def _array(values: Any) -> np.ndarray:
    """Return an array; NumPy would turn the numbers in a list that also holds text into text."""
    return np.asarray(values, object if isinstance(values, list | tuple) else None)


def none_if_missing(value: Any) -> Any:
    """Return a value, or None for the missing value of any library."""
    # Comparing pandas' NA with itself gives NA, not True.
    is_missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
    return None if is_missing else value


def _of_objects(values: list[Any], name: str) -> np.ndarray:
    """Return a column of Python's objects as numbers, dates or text, if they all are."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return np.array(values, bool if len(there) == len(values) else object)
    if all(isinstance(value, numbers.Real) or _is_decimal(value) for value in there):
        return np.array([np.nan if value is None else float(value) for value in values])
    if all(isinstance(value, datetime.date | np.datetime64) for value in there):
        return np.array([_moment(value) for value in values], "datetime64[us]")
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str | numbers.Real | datetime.date):
            raise TypeError(
                f"row {row + 1}, column {name[:40]!r}: a {type(value).__name__} is neither a "
                "number, a date nor text."
            )
    texts = [value if isinstance(value, str | None) else label_of(value) for value in values]
    column = np.empty(len(values), object)
    column[:] = texts
    return column


def _is_decimal(value: Any) -> bool:
    return type(value).__name__ == "Decimal"


def _moment(value: Any) -> Any:
    """Return a date in UTC, in the form that NumPy takes."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value


def label_of(value: Any) -> str:
    """Return the name of a value as a category.

    1 and 1.0 are the same category, and so are true and True, also as text: a column can be numbers
    in one file, and contain text in another.
    """
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return value.lower()
        return re.sub(r"\.0+", "", value) if re.fullmatch(r"-?[1-9]\d*\.0+|0\.0+", value) else value
    if isinstance(value, bool | np.bool):
        return "true" if value else "false"
    if isinstance(value, numbers.Real) and float(value).is_integer():
        return f"{float(value) + 0.0:.0f}"  # 0 for −0 too
    return str(value)


def blocks(values: Any, rows: Sequence[int] | np.ndarray) -> Iterator[Any]:
    """Yield a column's values in some rows, in their order, in blocks."""
    for k in range(0, len(rows), ROWS_AT_ONCE):
        yield pick(values, rows[k : k + ROWS_AT_ONCE])


def pick(values: Any, rows: Sequence[int] | np.ndarray) -> Any:
    """Return a column's values in some rows, one or more."""
    rows = np.asarray(rows)
    # Reading a slice of a file is faster than reading rows one by one.
    in_a_row = bool((np.diff(rows) == 1).all())
    return values[int(rows[0]) : int(rows[-1]) + 1] if in_a_row else values[rows]


def missing_in(values: Any) -> np.ndarray:
    """Return a mask of the missing values of a column, shape (N,)."""
    if isinstance(values, Coded):
        return values.codes < 0
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "M":
        return np.isnat(values)
    if values.dtype.kind == "b":
        return np.zeros(len(values), bool)
    return np.array([value is None for value in values], bool)


def labels_of(values: Any) -> list[str | None]:
    """Return a column as categories: text, or None for missing values."""
    return [
        None if is_missing else label_of(value)
        for value, is_missing in zip(values.tolist(), missing_in(values), strict=True)
    ]


def coded(values: Any) -> tuple[np.ndarray, list[str]]:
    """Return a column as indices into a list of categories, −1 if missing, and the list.

    Different values may be in one category: see :func:`label_of`.
    """
    if isinstance(values, Coded):
        words, codes = values.listed, values.codes
        labels = [label_of(word) for word in words]
    elif values.dtype.kind in "fM":
        words, codes = np.unique(values, return_inverse=True)
        labels = labels_of(words)
    else:
        labels, codes = labels_of(values), np.arange(len(values))
    known: dict[str, int] = {}
    places = [-1 if label is None else known.setdefault(label, len(known)) for label in labels]
    return np.array([*places, -1])[codes], list(known)


def count_labels(values: Any, rows: Sequence[int] | np.ndarray) -> tuple[Counter[str], int]:
    """Return how many values each category has in some rows, and how many are missing."""
    counts: Counter[str] = Counter()
    missing = 0
    for block in blocks(values, rows):
        codes, labels = coded(block)
        found = np.bincount(codes + 1, minlength=len(labels) + 1).tolist()
        missing += found[0]
        counts.update({label: n for label, n in zip(labels, found[1:], strict=True) if n})
    return counts, missing


def numbers_of(
    values: Any, name: str, rows: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Return a column as numbers, NaN where missing: dates as days since 1970, true as 1.

    Args:
        values: the column.
        name: its name, for messages.
        rows: the number of each row, for messages; None counts from 0.

    Raises:
        ValueError: a value is not a number, or infinite; the message names the row and the column.
    """
    if values.dtype.kind == "M":
        days = (values - np.datetime64(0, "us")) / _DAY
        return np.where(np.isnat(values), np.nan, days)
    numbered = range(len(values)) if rows is None else rows
    if values.dtype.kind != "O" and not isinstance(values, Coded):
        found = values.astype(np.float64)
    else:
        found = np.full(len(values), np.nan)
        for row, value in enumerate(values.tolist()):
            try:
                found[row] = np.nan if value is None else float(value)
            except ValueError as error:
                raise ValueError(
                    f"row {numbered[row] + 1}, column {name[:40]!r}: {str(value)[:40]!r} is not a "
                    "number."
                ) from error
    if np.isinf(found).any():
        row = numbered[int(np.argmax(np.isinf(found)))]
        raise ValueError(f"row {row + 1}, column {name[:40]!r}: the number is infinite.")
    return found


def take(columns: Columns, rows: Any) -> Columns:
    """Return some rows of a table."""
    return {name: values[rows] for name, values in columns.items()}
