"""Reading tables from files: a session of DuckDB, and what the first line of a file shows.

DuckDB reads the fields and converts them. This module itself decides about the separator and the
header, from the first line: a guess from many lines can turn a table with one broken line into a
different table.
"""

import codecs
import contextlib
import csv
import functools
import gzip
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bp_xp._caller import advice
from bp_xp._files import open_regular
from bp_xp.errors import DataFormatError

__all__ = [
    "BLANKS",
    "DATES",
    "MISSING_WORDS",
    "OFFLINE",
    "PADDED",
    "Database",
    "FirstLine",
    "Typing",
    "cleaned",
    "count_matching",
    "first_line",
    "is_header",
    "is_one_of",
    "names_of",
    "quoted",
    "was_interrupted",
]

MISSING_WORDS = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
"""Words that mean a missing value in a file, besides an empty field."""

OFFLINE: Any = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
"""The settings of DuckDB: it would download extensions, but everything needed is built in."""

_HEAD = 2**20
"""The number of bytes within which the first line must end."""

_LINE_LIMIT = 2**21
"""The largest number of bytes in a line."""

BLANKS = "' ' || chr(9)"
"""Characters to remove from the ends of a field, in SQL."""

_SLIP = 0.9
"""With at least this share of numbers or dates, the other values of a column are mistakes."""

_PLAIN = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?[iI]nf(inity)?"
PADDED = r"[ \t]*0\d+[ \t]*"
_GROUPED = r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?"
_COMMA = r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?([eE][+-]?\d+)?"

DATES = {
    "year-month-day": r"try_cast(CASE WHEN regexp_matches({0}, '^\d{{4}}[-/]\d{{1,2}}[-/]\d') "
    "THEN {0} END AS TIMESTAMP)",
    "day.month.year": "try_strptime({0}, ['%d.%m.%Y', '%d.%m.%Y %H:%M', '%d.%m.%Y %H:%M:%S'])",
    "day/month/year": "try_strptime({0}, ['%d/%m/%Y', '%d/%m/%Y %H:%M', '%d-%m-%Y'])",
    "month/day/year": "try_strptime({0}, ['%m/%d/%Y', '%m/%d/%Y %H:%M', '%m-%d-%Y'])",
}
"""Styles of dates, and the expression that reads one; NULL if a value has another style."""

_OTHER_FORMATS = {
    rb"PK\x03\x04": "an Excel file or another zip archive: save the sheet as CSV",
    rb"\xd0\xcf\x11\xe0": "an old Excel file: save the sheet as CSV",
    rb"PAR1": "a Parquet file: give it a name that ends in .parquet",
    rb'(\xef\xbb\xbf)?\s*(\{\s*"|\[\s*[\[{])': "JSON: convert it to CSV",
}
"""What other formats begin with, and what to do about them."""

_LIKE_DATE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d.*"

_BOOLEAN = "lower({0}) IN ('true', 'false')"


class FirstLine(NamedTuple):
    """What the beginning of a CSV file shows.

    Attributes:
        fields: the fields of the first line that is not blank.
        separator: the character between them.
        encoding: its name in DuckDB.
    """

    fields: Sequence[str]
    separator: str
    encoding: str


class Typing(NamedTuple):
    """How text is converted to numbers and dates: arguments of read_table."""

    separator: str
    decimal: str | None
    text: tuple[str, ...]
    day_first: bool | None


def first_line(path: Path, encoding: str | None, separator: str | None) -> FirstLine:
    """Inspect the first line of a CSV file.

    Raises:
        DataFormatError: there is none, or it is not text.
    """
    try:
        with open_regular(path) as file:
            packed = path.suffix.lower() == ".gz"
            head = (gzip.GzipFile(fileobj=file) if packed else file).read(_HEAD)
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataFormatError(f"{path} can't be unpacked with gzip: {error}.") from error
    if encoding is None:
        marks = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
        encoding = "utf-16" if head.startswith(marks) else "utf-8"
    _refuse_formats(path, head)
    # The last character may be incomplete.
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    try:
        start = decoder.decode(head).lstrip("\r\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _not_text(path, f", line {line}") from error
    if "\0" in start:
        raise DataFormatError(f"{path} holds NUL, which is never text: check that it is CSV.")
    line = re.split(r"[\r\n]", start, maxsplit=1)[0]
    if not line.strip():
        raise DataFormatError(f"{path} has no data rows. Check that it was written to its end.")
    unquoted = re.sub(r'"[^"]*"', "", line)
    found = separator or max(",;\t|", key=unquoted.count)
    try:
        fields = next(csv.reader(start.splitlines(keepends=True), delimiter=found, strict=True))
    except csv.Error as error:
        raise DataFormatError(f"{path}, line 1: {error}.") from error
    return FirstLine(fields, found, encoding)


def _refuse_formats(path: Path, head: bytes) -> None:
    """Refuse a file whose beginning shows that it is not CSV.

    Raises:
        DataFormatError: it is of another format; the message says of which.
    """
    for pattern, what in _OTHER_FORMATS.items():
        if re.match(pattern, head):
            raise DataFormatError(f"{path} is {what}.")


@contextlib.contextmanager
def _one_kind_of_ends(path: Path, encoding: str) -> Iterator[str | None]:
    """Write a copy of a file whose line endings differ, and return its path, or None."""
    with open_regular(path) as file:
        packed = path.suffix.lower() == ".gz"
        content = (gzip.GzipFile(fileobj=file) if packed else file).read()
    text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace")
    if "\ufffd" in text or len({*re.findall(r"\r\n?|\n", text)}) == 1:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "table.csv"
        copy.write_bytes(re.sub(r"\r\n?", "\n", text).encode())
        yield str(copy)


def _not_text(path: Path, line: str) -> DataFormatError:
    how = advice(", or pass {} if it is", "encoding", "latin-1")
    return DataFormatError(f"{path}{line}: not text in UTF-8. Save it as CSV in UTF-8{how}.")


@functools.cache
def _instance(process: int) -> Any:
    """Return DuckDB in memory; it takes longer to start than to read a small table.

    Args:
        process: the number of this process; threads of another process do not exist after a fork.
    """
    import duckdb

    return duckdb.connect(config=OFFLINE)


class Database:
    """A session of DuckDB that has one table, "t", whose columns are c0, c1 ...

    Args:
        path: the file of the table.
        allow_empty: whether it may have no rows.
        connection: a session to use; None starts one with a database in memory.
    """

    def __init__(self, path: Path, allow_empty: bool = False, connection: Any = None) -> None:
        self._path, self._allow_empty = path, allow_empty
        import duckdb  # here, because importing it takes longer than importing bp_xp

        self._duckdb: Any = duckdb
        self._connection = connection or _instance(os.getpid()).cursor()
        self._connection.execute("SET enable_progress_bar = false")  # output belongs to the program

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._connection.close()
        if was_interrupted(error):
            raise KeyboardInterrupt from error

    def _file(self) -> str:
        """Return the name of the file in SQL, where *, ? and [ would match other names."""
        return quoted(re.sub(r"([*?\[])", r"[\1]", str(self._path)))

    def parquet(self) -> dict[str, np.ndarray]:
        """Return the columns of a Parquet file."""
        try:
            found = self._connection.sql(f"SELECT * FROM read_parquet({self._file()})")
            columns = found.fetchnumpy()
        except self._duckdb.Error as error:
            problem = str(error).splitlines()[0]
            raise DataFormatError(f"{self._path} is no whole Parquet file: {problem}.") from error
        if not columns or not (len(next(iter(columns.values()))) or self._allow_empty):
            raise DataFormatError(f"{self._path} has no data rows.")
        for name, kind in zip(found.columns, map(str, found.types), strict=True):
            if kind.startswith(("DECIMAL", "HUGEINT")):
                columns[name] = columns[name].astype(np.float64)
        return {name: _plain(values) for name, values in columns.items()}

    def csv(
        self,
        first: FirstLine,
        header: bool | None,
        missing_words: Iterable[str],
        limit: int | None = None,
    ) -> list[str]:
        """Read a CSV file into the table, as text without spaces around it; return the names.

        Args:
            first: what its first line shows.
            header: whether that line holds names; None to decide.
            missing_words: the words that mean a missing value.
            limit: how many lines to read; None reads all.

        Raises:
            DataFormatError: it can't be read, has no rows, or has a name twice.
        """
        width = len(first.fields)
        self._guessed = header is None
        if header is None:
            header = is_header(first.fields)
        create = "CREATE TEMP TABLE raw AS FROM "
        most = "" if limit is None else f" LIMIT {limit}"
        try:
            try:
                self._connection.execute(create + self._lines(self._file(), first, width) + most)
            except self._duckdb.InvalidInputException:
                if limit is not None:
                    raise
                with _one_kind_of_ends(self._path, first.encoding) as plain:
                    if plain is None:
                        raise
                    first = first._replace(encoding="utf-8")
                    self._connection.execute(create + self._lines(quoted(plain), first, width))
        except self._duckdb.Error as error:
            raise self._unreadable(str(error), width) from error
        self.has_header = header
        n_rows = self._clean(width, missing_words)
        self._refuse_nul([f"c{i}" for i in range(width)])
        if not (n_rows or (self._allow_empty and header)):
            below = " below its header" if header else ""
            raise DataFormatError(f"{self._path} has no data rows{below}.")
        return self._names(first, header)

    def _names(self, first: FirstLine, header: bool) -> list[str]:
        """Return the names of the columns.

        Raises:
            DataFormatError: two have the same name.
        """
        names = names_of(first.fields, header)
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            places = [i + 1 for i, name in enumerate(names) if name == twice[0]]
            raise DataFormatError(
                f"{self._path}, line 1: columns {places[0]} and {places[1]} are both called "
                f"{twice[0][:40]!r}. Give every column its own name."
            )
        return names

    def _clean(self, width: int, missing_words: Iterable[str]) -> int:
        """Make the table from what was read, and return its number of rows.

        Columns of plain numbers, which need no cleaning, are recorded: most large tables consist of
        them, and inspecting each field takes longer than reading it.
        """
        columns = [f"c{i}" for i in range(width)]
        # DuckDB would treat a blank line as the header.
        rows = f"FROM raw WHERE rowid >= {int(self.has_header)}"
        matches = [f"{count_matching(c, _PLAIN)}, {count_matching(c, PADDED)}" for c in columns]
        n_rows, *counts = self._one(f"SELECT count(*), {', '.join(matches)} {rows}")
        plain, padded = counts[::2], counts[1::2]
        words = ["", *missing_words]
        if any(re.fullmatch(_PLAIN, word) for word in words):
            plain = [-1] * width
        self._plain = {c for c, n in zip(columns, plain, strict=True) if n == n_rows}
        self._padded = {c for c, n in zip(columns, padded, strict=True) if n}
        fields = [c if c in self._plain else cleaned(c, words) for c in columns]
        chosen = ", ".join(f"{field} AS {c}" for field, c in zip(fields, columns, strict=True))
        self._connection.execute(f"CREATE TEMP TABLE t AS SELECT {chosen} {rows} ORDER BY rowid")
        self._connection.execute("DROP TABLE raw")
        return n_rows

    def _lines(self, file: str, first: FirstLine, width: int) -> str:
        """Return the SQL expression that reads a whole file as text."""
        columns = ", ".join(f"c{i}: 'VARCHAR'" for i in range(width))
        return (
            f"read_csv({file}, columns = {{{columns}}}, auto_detect = false, header = false, "
            f"delim = {quoted(first.separator)}, quote = '\"', escape = '\"', "
            f"max_line_size = {_LINE_LIMIT}, encoding = '{first.encoding}', null_padding = false, "
            "strict_mode = true)"
        )

    def _refuse_nul(self, columns: Iterable[str]) -> None:
        """Refuse text that holds NUL.

        Raises:
            DataFormatError: there is NUL in it.
        """
        has_nul = " OR ".join(["false", *(f"contains({c}, chr(0))" for c in columns)])
        found = self._connection.execute(
            f"SELECT rowid FROM t WHERE {has_nul} ORDER BY rowid LIMIT 1"
        ).fetchone()
        if found is not None:
            raise DataFormatError(
                f"{self._path}, row {found[0] + 1}: it holds NUL, which is never "
                "text: check that it is CSV."
            )

    def _unreadable(self, problem: str, width: int) -> DataFormatError:
        """Return the error for a file that DuckDB can't read, in one line."""
        found = re.search(r"CSV Error on Line: (\d+)", problem)
        where = f", line {found[1]}" if found else ""
        fields = re.search(r"Expected Number of Columns: \d+ Found: (\d+)", problem)
        if fields:
            return DataFormatError(
                f"{self._path}{where}: {fields[1]} fields, but the first line has {width}. Give "
                "every line the same number of fields, and put quotes around one that holds the "
                "separator."
            )
        if "unicode" in problem or "not utf-8" in problem:
            return _not_text(self._path, where)
        known = {
            "unterminated quote": 'a quote " opens a field, and no quote closes it',
            "invalid state": "quotes are not as in CSV: double one that is inside a field",
            "Maximum line size": f"the line is longer than the limit of {_LINE_LIMIT:,} bytes",
        }
        first = problem.splitlines()[0].removeprefix("Invalid Input Error: ")
        what = next((text for key, text in known.items() if key in problem), first)
        return DataFormatError(f"{self._path}{where}: {what}.")

    def _one(self, query: str) -> tuple[Any, ...]:
        """Return the first row of the result of a query."""
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row

    def typed(self, names: Sequence[str], how: Typing) -> dict[str, np.ndarray]:
        """Return the columns, each with the type of its values.

        Raises:
            DataFormatError: a column has a wrong value, or dates of an ambiguous style.
        """
        columns = [f"c{i}" for i in range(len(names))]
        kept = [name in how.text for name in names]
        judged = [c for c, as_text in zip(columns, kept, strict=True) if not as_text]
        decimal = how.decimal or self._decimal(judged, how.separator)
        chosen = [
            column if as_text else self._expression(column, name, decimal, how.day_first)
            for column, name, as_text in zip(columns, names, kept, strict=True)
        ]
        wanted = ", ".join(f"{each} AS {c}" for each, c in zip(chosen, columns, strict=True))
        found = self._connection.execute(f"SELECT {wanted} FROM t ORDER BY rowid").fetchnumpy()
        table = {name: _plain(found[c]) for name, c in zip(names, columns, strict=True)}
        for name, values in table.items():
            if values.dtype.kind == "f" and np.isinf(values).any():
                row = int(np.argmax(np.isinf(values)))
                raise DataFormatError(
                    f"{self._path}, row {row + 1}, column {name[:40]!r}: the number is infinite in "
                    "float64. Replace it."
                )
        return table

    def numbers(self, names: Sequence[str], separator: str) -> np.ndarray:
        """Return all columns as numbers, NaN where missing, shape (N, columns).

        Raises:
            DataFormatError: a field is not a number.
        """
        columns = [f"c{i}" for i in range(len(names))]
        decimal = self._decimal(columns, separator)
        found = [self._number(column, decimal) for column in columns]
        for column, name, number in zip(columns, names, found, strict=True):
            if not self._is_plain(column, decimal):
                self._refuse_slip(column, name, number, "a number")
        wanted = ", ".join(f"{each} AS {c}" for each, c in zip(found, columns, strict=True))
        table = self._connection.execute(f"SELECT {wanted} FROM t ORDER BY rowid").fetchnumpy()
        return np.stack([_plain(table[column]) for column in columns], axis=1)

    def _is_plain(self, column: str, decimal: str) -> bool:
        """Return whether all values of a column are numbers that DuckDB can read."""
        return column in self._plain and decimal == "."

    def _number(self, column: str, decimal: str) -> str:
        """Return the expression that reads a number; NULL if a value is not a number."""
        if self._is_plain(column, decimal):
            return f"CAST({column} AS DOUBLE)"
        pattern, digits = f"{_PLAIN}|{_GROUPED}", f"replace({column}, ',', '')"
        if decimal == ",":
            pattern, digits = _COMMA, f"replace(replace({column}, '.', ''), ',', '.')"
        matches = f"regexp_full_match({column}, '{pattern}')"
        return f"CASE WHEN {matches} THEN try_cast({digits} AS DOUBLE) END"

    def _decimal(self, columns: Sequence[str], separator: str) -> str:
        """Return the decimal sign: a comma if a column holds numbers only then.

        A few values of such a column may be mistakes. If no column is that clear, the sign that
        makes more values numbers is taken.
        """
        pattern = f"{_PLAIN}|{_GROUPED}" if separator == "," else _PLAIN
        mixed = [c for c in columns if c not in self._plain]
        gain = 0
        for n, comma, point in self._counted(mixed, _COMMA, pattern):
            if max(comma, point) < _SLIP * n:
                continue  # text
            if point < _SLIP * n:
                return ","
            gain += comma - point
        if gain > 0:
            plain = self._counted([c for c in columns if c in self._plain], _COMMA)
            gain += sum(comma - n for n, comma in plain)
        return "," if gain > 0 else "."

    def _counted(self, columns: Sequence[str], *patterns: str) -> list[tuple[int, ...]]:
        """Return how many values each column has, and how many of them match each pattern."""
        if not columns:
            return []
        counts = self._one(
            "SELECT "
            + ", ".join(
                f"count({c})" + "".join(f", {count_matching(c, each)}" for each in patterns)
                for c in columns
            )
            + " FROM t"
        )
        size = 1 + len(patterns)
        counts = tuple(n or 0 for n in counts)  # NULL without rows
        return [counts[i : i + size] for i in range(0, len(counts), size)]

    def _expression(self, column: str, name: str, decimal: str, day_first: bool | None) -> str:
        """Return the expression in SQL that gives a column its type."""
        number, is_padded = self._number(column, decimal), column in self._padded
        if self._is_plain(column, decimal):
            return column if is_padded else number
        n, n_boolean, n_number, n_like_dates = self._one(
            f"SELECT count({column}), count_if({_BOOLEAN.format(column)}), count({number}), "
            f"{count_matching(column, _LIKE_DATE)} FROM t"
        )
        if n == 0:
            return f"CAST({column} AS DOUBLE)"
        if n_boolean == n:
            return f"lower({column}) = 'true'"
        if n_number == n and is_padded:
            return column
        if n_number >= _SLIP * n:
            self._refuse_slip(column, name, number, "a number")
            return number
        if n_like_dates < _SLIP * n:  # trying all styles takes ten times as long, so it is skipped
            return column
        dates = {style: text.format(column) for style, text in DATES.items()}
        if day_first is not None:
            del dates["month/day/year" if day_first else "day/month/year"]
        counts = ", ".join(f"count({date})" for date in dates.values())
        n_dates = self._one(f"SELECT {counts} FROM t")
        most = max(n_dates)
        style, date = list(dates.items())[n_dates.index(most)]
        if most < _SLIP * n:
            return column
        self._refuse_slip(column, name, date, f"a date in the style {style} like most of them")
        if n_dates.count(most) > 1:
            how = advice(": pass {}", "day_first", True)
            how = how or advice(": pass {} to treat it as text", "text", [name])
            raise DataFormatError(
                f"{self._path}, column {name[:40]!r}: no date in it shows whether the day or the "
                f"month is first{how}."
            )
        return date

    def _refuse_slip(self, column: str, name: str, expression: str, wanted: str) -> None:
        """Refuse a column that has a value of another type.

        Raises:
            DataFormatError: it has one.
        """
        row = self._connection.execute(
            f"SELECT rowid, {column} FROM t WHERE {column} IS NOT NULL AND {expression} IS NULL "
            "ORDER BY rowid LIMIT 1"
        ).fetchone()
        if row is not None:
            how = advice(", or pass {} if the column holds text", "text", [name])
            if row[0] == 0 and self._guessed and not self.has_header:
                how += advice(", or pass {} if this line holds names", "header", True)
            place = f"row {row[0] + 1}, column {name[:40]!r}"
            raise DataFormatError(
                f"{self._path}, {place}: {row[1][:40]!r} is not {wanted}. Correct it{how}."
            )


def quoted(text: str) -> str:
    """Return text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def was_interrupted(error: BaseException | None) -> bool:
    """Return whether an error is DuckDB's reaction to Ctrl-C."""
    return isinstance(error, RuntimeError) and "Query interrupted" in str(error)


def cleaned(column: str, words: Sequence[str]) -> str:
    """Return the expression of a field without surrounding blanks; NULL if it is missing."""
    field = f"trim({column}, {BLANKS})"
    return f"CASE WHEN {is_one_of(field, words)} THEN NULL ELSE {field} END"


def is_one_of(field: str, words: Sequence[str]) -> str:
    """Return the expression that tests whether a field is one of some words.

    For IN with many words, DuckDB joins tables, which changes the order of rows.
    """
    most, listed = max(map(len, words)), ", ".join(map(quoted, words))
    return f"(length({field}) <= {most} AND list_contains([{listed}], {field}))"


def count_matching(column: str, pattern: str) -> str:
    """Return the expression that counts the values that match a pattern."""
    return f"count_if(regexp_full_match({column}, '{pattern}'))"


def names_of(fields: Sequence[str], header: bool) -> list[str]:
    """Return the names of the columns, from the first line or by their positions."""
    return [
        name.strip() if header and name.strip() else f"column {i + 1}"
        for i, name in enumerate(fields)
    ]


def is_header(fields: Sequence[str]) -> bool:
    """Return whether a first line looks like names: some text, and no number."""
    numbers = [re.fullmatch(f"{_PLAIN}|{_COMMA}", field.strip()) for field in fields]
    return any(field.strip() for field in fields) and not any(numbers)


def _plain(values: np.ndarray) -> np.ndarray:
    """Return a column without a mask: missing values are NaN, NaT or None."""
    missing = np.ma.getmaskarray(values)
    data = np.ma.getdata(values)
    if data.dtype.kind in "iuf":
        data = data.astype(np.float64)
        data[missing] = np.nan
    elif data.dtype.kind == "M":
        data = data.copy()
        data[missing] = np.datetime64("NaT")
    elif missing.any() or data.dtype.kind != "b":
        data = data.astype(object)
        data[missing] = None
    return data
