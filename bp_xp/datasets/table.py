"""Tables of numbers in CSV files."""

import csv
import io
import os
from array import array
from collections.abc import Iterable
from typing import Literal, NamedTuple, Self, TextIO

import numpy as np

from bp_xp._caller import advice, own_arguments
from bp_xp._files import open_regular
from bp_xp.errors import DataFormatError

__all__ = ["Missing", "Table", "check_missing", "load_csv"]

Missing = Literal["refuse", "allow"]
"""What to do about values that are empty, nan or inf."""

_LINE_LIMIT = 16 * 2**20


class Table(NamedTuple):
    """A table of numbers.

    Attributes:
        values: shape (N, columns), float64.
        columns: the names of the columns, or None where the file has no header.
    """

    values: np.ndarray
    columns: tuple[str, ...] | None


@own_arguments
def load_csv(
    path: str | os.PathLike[str],
    *,
    header: bool | None = None,
    delimiter: str = ",",
    missing: Missing = "refuse",
) -> Table:
    """Read a table of numbers from a CSV file in UTF-8.

    Args:
        path: the file.
        header: whether the first line holds names; None to take it for names when it holds text
            and no number.
        delimiter: what separates two fields.
        missing: "refuse" to raise where a field is empty, nan or inf; "allow" to read an empty
            field as nan and leave the others as they are.

    Returns:
        The :class:`Table`, with a row for each line that is not blank.

    Raises:
        DataFormatError: where a field is not a number, a line has more or fewer fields than the
            first, there are no data rows, or the file is not text.
        FileNotFoundError: where there is no such file.
    """
    check_missing(missing)
    with (
        open_regular(path) as octets,
        io.TextIOWrapper(octets, encoding="utf-8-sig", newline="") as file,
    ):
        lines = _Lines(file)
        try:
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            return _read_rows(rows, lines, f"{path}", header, missing)
        except csv.Error as error:
            raise DataFormatError(
                f"{path}, line {lines.number}: {error}. The limit is {_LINE_LIMIT:,} characters "
                f"for a line and {csv.field_size_limit():,} for a field, and NUL is never text: "
                "check that this is a CSV file."
            ) from error
        except UnicodeDecodeError as error:
            raise DataFormatError(
                f"{path}, after line {lines.number}: not text in UTF-8 ({error.reason}). Save the "
                "file as CSV in UTF-8."
            ) from error


def check_missing(missing: str) -> None:
    """Raise ValueError for a word that is not in Missing."""
    if missing not in ("refuse", "allow"):
        raise ValueError(f"missing is {missing!r}: pass 'refuse' or 'allow'.")


class _Lines:
    """The lines of a file, one at a time, with a bound on their length.

    Attributes:
        number: the number of the line that was read last, from 1.
    """

    def __init__(self, file: TextIO):
        self.number = 0
        self._file = file

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_LINE_LIMIT + 1)
        if not line:
            raise StopIteration
        self.number += 1
        # csv bounds the fields, but only once it has the whole line; and it lets NUL pass.
        if len(line) > _LINE_LIMIT:
            raise csv.Error("the line is too long")
        if "\0" in line:
            raise csv.Error("the line contains NUL")
        return line


def _read_rows(
    rows: Iterable[list[str]], lines: _Lines, where: str, header: bool | None, missing: Missing
) -> Table:
    """Read the whole table.

    Args:
        rows: the fields of one line after another.
        lines: where they come from, for the number of the line.
        where: the file's name, for messages.
        header: as in load_csv.
        missing: as in load_csv.
    """
    columns: tuple[str, ...] | None = None
    width = 0
    # Machine numbers in one piece: lists of Python floats would take four times the memory.
    numbers, line_numbers = array("d"), array("q")

    def place(line: int, column: int) -> str:
        name = f" ({columns[column][:40]!r})" if columns else ""
        return f"{where}, line {line}, column {column + 1}{name}"

    for row in rows:
        if not row:
            continue
        if not width:
            width = len(row)
            if header or (header is None and _is_header(row)):
                columns = tuple(field.strip() for field in row)
                continue
        if len(row) != width:
            raise DataFormatError(
                f"{where}, line {lines.number}: {len(row)} fields, but the first line has {width}. "
                "Give every line the same number of fields."
            )
        if missing == "allow":
            row = [field.strip() or "nan" for field in row]
        values = _as_numbers(row)
        if values is None:
            column = next(i for i, field in enumerate(row) if _as_numbers([field]) is None)
            problem = f"{row[column][:40]!r} is not a number. Write numbers only"
            if not row[column].strip():
                problem = f"the field is empty. Fill it{advice(', or pass {}', 'missing', 'allow')}"
            elif not line_numbers and columns is None:
                problem += ", below a first line of names alone"
                problem += advice(", or pass {} if this line holds names", "header", True)
            raise DataFormatError(f"{place(lines.number, column)}: {problem}.")
        numbers.fromlist(values)
        line_numbers.append(lines.number)

    if not line_numbers:
        raise DataFormatError(
            f"{where} has no data rows{' below its header' if columns else ''}. Check that the "
            "file was written to its end."
        )
    table = np.frombuffer(numbers).reshape(-1, width)
    if missing == "refuse" and not (finite := np.isfinite(table)).all():
        row, column = np.argwhere(~finite)[0]
        raise DataFormatError(
            f"{place(line_numbers[row], column)}: {table[row, column]} is not a finite number. "
            f"Replace it{advice(', or pass {}', 'missing', 'allow')}."
        )
    return Table(table, columns)


def _as_numbers(fields: list[str]) -> list[float] | None:
    """The numbers that the fields spell, or None where one of them is not a number."""
    try:
        numbers = list(map(float, fields))
    except ValueError:
        return None
    # To Python 1_000 is a number; in a table it is a name, or a slip.
    return None if "_" in "".join(fields) else numbers


def _is_header(fields: list[str]) -> bool:
    """Whether a first line reads like names: some text, and no number."""
    return any(field.strip() for field in fields) and not any(
        _as_numbers([field]) for field in fields
    )
