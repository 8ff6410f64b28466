"""Tables in files: CSV in its usual forms, and Parquet, read with DuckDB.

The code that reads them is in :mod:`bp_xp.datasets.database`.
"""

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from bp_xp._caller import named, own_arguments
from bp_xp._files import open_regular
from bp_xp.datasets.database import (
    MISSING_WORDS,
    Database,
    Typing,
    first_line,
    is_header,
    names_of,
)

__all__ = ["MISSING_WORDS", "column_names", "read_numbers", "read_table"]


@own_arguments
def read_table(
    path: str | os.PathLike[str],
    *,
    header: bool | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    missing_words: Collection[str] = MISSING_WORDS,
    text: Collection[str] = (),
    day_first: bool | None = None,
    allow_empty: bool = False,
) -> dict[str, np.ndarray]:
    r"""Read a table from a CSV file, plain or compressed with gzip, or from a Parquet file.

    A column holds numbers, dates or truth values if all of its values do; otherwise it holds text.
    If nine of ten values of a column are numbers or dates and one is not, the column is refused as
    a mistake, and the error names the row.

    Args:
        path: the file; a name that ends in .parquet is a Parquet file, and a file whose name ends
            in .gz is unpacked.
        header: whether the first line holds names; None decides so if it holds text and no number.
        separator: the character between two fields; None takes the one of comma, semicolon, tab and
            ``|`` that occurs most often in the first line.
        decimal: ``"."`` or ``","``; None takes the comma if nine of ten values of a column are
            numbers only then.
        encoding: ``"utf-8"``, ``"utf-16"`` or ``"latin-1"``; None takes UTF-8, or UTF-16 if the
            file begins with its mark.
        missing_words: words that mean a missing value, besides an empty field.
        text: columns to treat as text, whatever they hold.
        day_first: whether 01/02/2024 is in February; None raises an error if no date of the column
            shows it.
        allow_empty: whether a header without rows is a table, with columns of shape (0,).

    Returns:
        Columns by name, in the order of the file, each of shape (N,): numbers as float64 with NaN
        for missing values; dates as datetime64 with NaT; truth values as bool, or as objects with
        None if any value is missing; text as objects with None. A column without a name is named
        by its position, as in ``"column 2"``. Text of digits that begins with 0, such as a postal
        code, stays text.

    Raises:
        DataFormatError: the file is not such a table; the message is a line that names the line or
            row, and the column. Row 1 is the first below the header.
        FileNotFoundError: there is no such file.
        ValueError: an argument has a wrong value.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "houses.csv"
        ...     _ = path.write_text("price;town;built\n199,5;Ulm;01.04.1990\n;Bonn;02.05.2001\n")
        ...     table = read_table(path)
        >>> table["price"]
        array([199.5,   nan])
        >>> table["town"].tolist(), table["built"].astype("datetime64[D]").tolist()[0].year
        (['Ulm', 'Bonn'], 1990)
    """
    for name, value, words in (
        ("decimal", decimal, (None, ".", ",")),
        ("encoding", encoding, (None, "utf-8", "utf-16", "latin-1")),
    ):
        if value not in words:
            raise ValueError(f"{named(name)} must be one of {words[1:]}, not {value!r}.")
    if separator is not None and len(separator) != 1:
        raise ValueError(f"{named('separator')} must be one character, not {separator!r}.")
    with Database(Path(path), allow_empty) as database:
        if Path(path).suffix.lower() == ".parquet":
            open_regular(path).close()
            return database.parquet()
        first = first_line(Path(path), encoding, separator)
        names = database.csv(first, header, missing_words)
        absent = [name for name in text if name not in names]
        if absent:
            raise ValueError(f"{named('text')} names {absent[0]!r}: {path} has no such column.")
        return database.typed(names, Typing(first.separator, decimal, tuple(text), day_first))


def column_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the columns of a CSV file, as :func:`read_table` returns them.

    Raises:
        DataFormatError: its first line can't be read.
    """
    first = first_line(Path(path), None, None)
    return names_of(first.fields, is_header(first.fields))


def read_numbers(
    path: str | os.PathLike[str], *, header: bool | None, separator: str | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Read a CSV file in which every field is a number.

    Args:
        path: the file.
        header: as for :func:`read_table`.
        separator: as for :func:`read_table`.

    Returns:
        Values of shape (N, columns), float64, NaN if a field is empty or a word for a missing
        value; and the names of the columns, or None if the file has no header.

    Raises:
        DataFormatError: as for :func:`read_table`, or a field is not a number.
    """
    with Database(Path(path)) as database:
        first = first_line(Path(path), None, separator)
        names = database.csv(first, header, MISSING_WORDS)
        values = database.numbers(names, first.separator)
        return values, tuple(names) if database.has_header else None
