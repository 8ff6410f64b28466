"""Tables of numbers in CSV files."""

import os
from typing import Literal, NamedTuple

import numpy as np

from bp_xp._caller import advice, own_arguments
from bp_xp.datasets.reader import read_numbers
from bp_xp.errors import DataFormatError

__all__ = ["CSV_ENDS", "Missing", "Table", "check_missing", "load_csv"]

Missing = Literal["refuse", "allow"]
"""What to do about values that are empty, nan or inf."""


CSV_ENDS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
"""The endings of the names of CSV files."""


class Table(NamedTuple):
    """A table of numbers.

    Attributes:
        values: shape (N, columns), float64.
        columns: the names of the columns, or None if the file has no header.
    """

    values: np.ndarray
    columns: tuple[str, ...] | None


@own_arguments
def load_csv(
    path: str | os.PathLike[str],
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    missing: Missing = "refuse",
) -> Table:
    """Read a table of numbers from a CSV file in UTF-8.

    It is read as by :func:`bp_xp.tables.read_table`, which also reads text and dates.

    Args:
        path: the file; one whose name ends in .gz is unpacked.
        header: whether the first line holds names; None decides so if it holds text and no number.
        delimiter: the character between two fields; None takes the one of comma, semicolon, tab and
            ``|`` that occurs most often in the first line.
        missing: "refuse" to raise an error if a field is empty, nan or inf; "allow" to read an
            empty field, nan or NA as nan and keep inf.

    Returns:
        The ``Table``, with a row for each line that is not blank.

    Raises:
        DataFormatError: a field is not a number, a line has more or fewer fields than the
            first, there are no data rows, or the file is not text. The message names line or row;
            row 1 is the first below the header.
        FileNotFoundError: there is no such file.
    """
    check_missing(missing)
    values, columns = read_numbers(path, header=header, separator=delimiter)
    if missing == "refuse" and not (finite := np.isfinite(values)).all():
        row, column = np.argwhere(~finite)[0]
        name = columns[column] if columns else f"column {column + 1}"
        value = values[row, column]
        problem = "the field is empty or nan" if np.isnan(value) else f"{value} is not finite"
        raise DataFormatError(
            f"{path}, row {row + 1}, column {name[:40]!r}: {problem}. Fill or replace it"
            f"{advice(', or pass {}', 'missing', 'allow')}."
        )
    return Table(values, columns)


def check_missing(missing: str) -> None:
    """Raise ValueError for a word that is not in Missing."""
    if missing not in ("refuse", "allow"):
        raise ValueError(f"missing is {missing!r}: pass 'refuse' or 'allow'.")
