"""Tables larger than memory: read once, and stored by columns in temporary files.

What :func:`bp_xp.datasets.reader.read_table` returns as arrays, :func:`store_table` returns as
memory-mapped files. Some lines at the beginning show the likely types of the columns. Then the
whole file is read into a database on disk, and numbers and dates are converted on the way. If a
field does not have the type of its column, the file is read again with this column as text, and its
type is decided as for a table in memory.
"""

import contextlib
import errno
import logging
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bp_xp._files import open_regular
from bp_xp.datasets.database import (
    BLANKS,
    DATES,
    MISSING_WORDS,
    OFFLINE,
    PADDED,
    Database,
    FirstLine,
    cleaned,
    count_matching,
    first_line,
    is_header,
    is_one_of,
    was_interrupted,
)
from bp_xp.errors import DataFormatError

__all__ = ["Coded", "StoredColumns", "is_large", "store_table", "unused_columns"]

logger = logging.getLogger("bp_xp")

_LARGE = 1 << 29
"""A CSV file with this many bytes or more is not read into memory as a whole."""

_PACKED = 4
"""About how many times as large a compressed or Parquet table is as CSV."""

_MEMORY = "600MB"
_THREADS = 4  # each has its own buffers

_SIGNS_OF_A_FULL_DISK = "No space left", "max_temp_directory_size"

_LINES_LOOKED_AT = 10_000
_ROWS_AT_ONCE = 1 << 17
_MOST_WORDS = 1 << 16

_NOT_A_TIME = "CAST('-9223372036854775808' AS BIGINT)"

_TYPES = {
    "number": (
        *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"),
        *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
    ),
    "date": ("DATE", "TIMESTAMP"),
    "bool": ("BOOLEAN",),
    "text": ("VARCHAR", "ENUM"),
}
"""The kinds of Parquet types, by their names in DuckDB."""


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of text or truth values as indices into a list of words.

    Attributes:
        codes: the index of each value, −1 for missing values, shape (N,).
        words: text, or False and True; shape (K,), objects.
        unlisted: the approximate number of different texts, if they are too many for a list; each
            then has the index 0.
    """

    codes: np.ndarray
    words: np.ndarray
    unlisted: int = 0

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> "Coded":
        return Coded(self.codes[rows], self.words, self.unlisted)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the words: bool or object."""
        return np.dtype(bool if all(isinstance(word, bool) for word in self.words) else object)

    def tolist(self) -> list[Any]:
        """Return the values, with None for missing values."""
        return np.array([*self.listed, None], object)[self.codes].tolist()

    @property
    def listed(self) -> np.ndarray:
        """The words.

        Raises:
            ValueError: they are too many for a list.
        """
        if self.unlisted:
            raise ValueError(
                f"about {self.unlisted:,} different texts are too many for categories, classes or "
                f"groups of a table that is read in parts: the limit is {_MOST_WORDS:,}."
            )
        return self.words


class StoredColumns(dict[str, Any]):
    """Columns in temporary files, by name and in the order of the file.

    Each is memory-mapped: numbers, float64, or dates, datetime64; or it is :class:`Coded`.

    Args:
        columns: the columns.
        n_bytes: the size of the files, in bytes.
        folder: the folder of the files, kept until it is no longer needed.
    """

    def __init__(self, columns: Mapping[str, Any], n_bytes: int, folder: Any) -> None:
        super().__init__(columns)
        self.n_bytes, self.folder = n_bytes, folder


class _Form(NamedTuple):
    """How a column is stored in a file.

    Attributes:
        value: the expression of the stored value.
        stored: its dtype in the file.
        dtype: the dtype that it is read as.
        words: for text and truth values, the words that the indices mean; otherwise None.
        unlisted: as for :class:`Coded`.
    """

    value: str
    stored: str
    dtype: str
    words: np.ndarray | None = None
    unlisted: int = 0


class _Column(NamedTuple):
    """A column of the database.

    Attributes:
        kind: "number", "date", "text" or "bool".
        value: the expression of its value, NULL if it is missing.
    """

    kind: str
    value: str


_UNUSED = _Column("text", "CAST(NULL AS VARCHAR)")


def is_large(path: str | os.PathLike[str]) -> bool:
    """Return whether to read a table in parts: CSV from 512 MB, or Parquet from 128 MB."""
    try:
        size = os.stat(path).st_size
    except OSError:
        return False  # the error is raised when it is read
    packed = not os.fspath(path).lower().endswith((".csv", ".tsv"))
    return size * (_PACKED if packed else 1) >= _LARGE


def unused_columns(
    names: Iterable[str], ignored: Collection[str], only: Collection[str] | None
) -> set[str]:
    """Return the names of columns that are not used.

    Args:
        names: all columns.
        ignored: those not to use.
        only: the only ones to use; None uses all that are not ignored.
    """
    return {name for name in names if name in ignored or (only is not None and name not in only)}


def store_table(
    path: str | os.PathLike[str],
    *,
    text: Sequence[str] = (),
    ignored: Collection[str] = (),
    only: Collection[str] | None = None,
) -> StoredColumns:
    """Read a table from a CSV or Parquet file into temporary files.

    The files are in the folder of :mod:`tempfile`, which the environment variable ``TMPDIR`` sets.

    Args:
        path: as for :func:`bp_xp.datasets.reader.read_table`, like all that follows.
        text: columns to treat as text, whatever they hold; names of no column are ignored.
        ignored: columns that are not used: all of their values become missing.
        only: the only columns that are used; None uses all that are not ignored.

    Raises:
        DataFormatError: the file is not such a table, or a Parquet column does not hold numbers,
            dates, truth values or text.
        OSError: the file changed while it was read, or there is no room for the temporary files.
    """
    path = Path(path)
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
    folder = tempfile.TemporaryDirectory(prefix="bp_xp_", ignore_cleanup_errors=True)
    try:
        with _room(folder.name), _session(Path(folder.name)) as connection:
            store = _Store(path, connection=connection)
            is_parquet = path.suffix.lower() == ".parquet"
            columns = store.parquet_columns(ignored, only) if is_parquet else None
            columns = columns or store.csv_columns(text, ignored, only)
            now = os.stat(path)
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise OSError(
                    f"{path} changed while it was read. Read a file that nobody writes to."
                )
            arrays = store.write(columns, Path(folder.name))
    except BaseException:
        folder.cleanup()
        raise
    n_bytes = sum(file.stat().st_size for file in Path(folder.name).glob("*.column"))
    logger.info("%s is read in parts: its columns take %s of %s", path, _told(n_bytes), folder.name)
    if os.name != "nt":  # open files remain, without a name, until they are closed
        folder.cleanup()
    return StoredColumns(arrays, n_bytes, folder)


def _told(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


@contextlib.contextmanager
def _room(folder: str) -> Iterator[None]:
    """Name the folder and a remedy in the error of a full disk; raise Python's error for Ctrl-C."""
    import duckdb

    try:
        yield
    except (OSError, RuntimeError, duckdb.Error) as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not is_full and not any(sign in str(error) for sign in _SIGNS_OF_A_FULL_DISK):
            raise
        raise OSError(
            errno.ENOSPC,
            "no room for the temporary files of a table: set TMPDIR to a folder with more space",
            folder,
        ) from error


@contextlib.contextmanager
def _session(folder: Path) -> Iterator[Any]:
    """Open a new database in a folder, and remove it at the end."""
    import duckdb

    threads = min(_THREADS, os.cpu_count() or 1)
    limits = {"memory_limit": _MEMORY, "threads": threads, "temp_directory": str(folder / "spill")}
    connection = duckdb.connect(str(folder / "database"), config={**OFFLINE, **limits})
    try:
        connection.execute("SET force_compression = 'uncompressed'")  # it is written and read once
        yield connection
    finally:
        connection.close()
        with contextlib.suppress(FileNotFoundError):
            (folder / "database").unlink()


class _Store(Database):
    """A session with a table of all rows, "raw", and a view of those below the header, "t"."""

    def csv_columns(
        self,
        text: Sequence[str],
        ignored: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> dict[str, _Column]:
        """Read a CSV file into the database; return its columns.

        Raises:
            DataFormatError: as for :func:`bp_xp.datasets.reader.read_table`.
        """
        first = first_line(self._path, None, None)
        self.has_header, self._guessed = is_header(first.fields), True
        names = self._names(first, self.has_header)
        columns = [f"c{i}" for i in range(len(names))]
        unused = unused_columns(names, ignored, only)
        as_text = {c for c, n in zip(columns, names, strict=True) if n in text or n in unused}
        seen = {c: k for c, k in self._look(first, names).items() if c not in as_text}
        while True:
            dates = {c: known.value for c, known in seen.items() if known.kind == "date"}
            self._read(first, columns, seen.keys() - dates.keys(), dates)
            undecided = self._undecided([c for c in columns if c not in seen and c not in as_text])
            decimal = self._decimal(undecided, first.separator)
            # If the decimal sign is a comma, a dot separates thousands.
            slips = set(seen) if decimal == "," else self._slips(seen)
            if not slips:
                break
            seen = {c: known for c, known in seen.items() if c not in slips}
        self._refuse_nul([c for c in columns if c not in seen])
        found = {}
        for column, name in zip(columns, names, strict=True):
            found[name] = _Column(seen[column].kind if column in seen else "text", column)
            if column in undecided:
                found[name] = _of(column, self._expression(column, name, decimal, None))
        return found | dict.fromkeys(sorted(unused), _UNUSED)

    def parquet_columns(
        self, ignored: Collection[str] = (), only: Collection[str] | None = None
    ) -> dict[str, _Column]:
        """Read a Parquet file into the database; return its columns.

        Raises:
            DataFormatError: it is not a Parquet file, or holds values that a table can't have.
        """
        try:
            names = self._connection.sql(f"SELECT * FROM read_parquet({self._file()})").columns
            wanted = ", ".join(f"#{i + 1} AS c{i}" for i in range(len(names)))
            self._connection.execute(
                f"CREATE TABLE raw AS SELECT {wanted} FROM read_parquet({self._file()})"
            )
        except (self._duckdb.IOException, self._duckdb.OutOfMemoryException):
            raise
        except self._duckdb.Error as error:
            problem = str(error).splitlines()[0]
            raise DataFormatError(f"{self._path} is no whole Parquet file: {problem}.") from error
        self.has_header = False
        self._name_rows(len(names))
        types = self._connection.sql("SELECT * EXCLUDE (rowid) FROM t").types
        found = {}
        unused = unused_columns(names, ignored, only)
        for i, (name, kind) in enumerate(zip(names, map(str, types), strict=True)):
            if name in unused:
                found[name] = _UNUSED
                continue
            known = next((k for k, starts in _TYPES.items() if kind.startswith(starts)), None)
            if known is None or kind.endswith("]"):
                raise DataFormatError(
                    f"{self._path}, column {name[:40]!r}: {kind} is not numbers, dates, truth "
                    "values or text. Leave the column out of the file, or convert it."
                )
            found[name] = _Column(known, f"CAST(c{i} AS VARCHAR)" if known == "text" else f"c{i}")
        if not self._one("SELECT count(*) FROM t")[0]:
            raise DataFormatError(f"{self._path} has no data rows.")
        return found

    def _look(self, first: FirstLine, names: Sequence[str]) -> dict[str, _Column]:
        """Return the columns that hold numbers or dates in the first lines."""
        found = {}
        with Database(self._path, allow_empty=True) as sample:
            sample.csv(first, None, MISSING_WORDS, _LINES_LOOKED_AT)
            columns = [f"c{i}" for i in range(len(names))]
            if sample._decimal(columns, first.separator) == ",":
                return {}
            for column, name in zip(columns, names, strict=True):
                with contextlib.suppress(DataFormatError):  # the error is raised for all lines
                    known = _of(column, sample._expression(column, name, ".", None))
                    if known.kind in ("number", "date"):
                        found[column] = known
        return found

    def _read(
        self,
        first: FirstLine,
        columns: Sequence[str],
        numbers: Collection[str],
        dates: Mapping[str, str],
    ) -> None:
        """Read the file into the database.

        A field that does not fit its column becomes infinite, which no valid field can be.

        Args:
            first: what the first line shows.
            columns: all columns.
            numbers: the columns to read as numbers.
            dates: the expressions of the columns to read as dates.

        Raises:
            DataFormatError: a line does not have the fields of the first one.
        """
        words = ["", *MISSING_WORDS]
        inner, outer = [], []
        for c in columns:
            if c in dates:
                inner.append(f"{cleaned(c, words)} AS {c}")
                value = f"coalesce({dates[c]}, 'infinity'::TIMESTAMP)"
                outer.append(f"CASE WHEN {c} IS NOT NULL THEN {value} END AS {c}")
            elif c in numbers:
                inner += [c, f"try_cast({c} AS DOUBLE) AS v{c}"]
                # Blanks are rare: most fields are used unchanged.
                begins = f"CASE WHEN {c} < '!' THEN trim({c}, {BLANKS}) ELSE {c} END"
                outer.append(
                    f"CASE WHEN isfinite(v{c}) AND NOT contains({c}, '_') "
                    f"AND NOT ({begins} >= '00' AND {begins} < '0:') THEN v{c} "
                    f"WHEN NOT {is_one_of(f'trim({c}, {BLANKS})', words)} "
                    f"THEN 'inf'::DOUBLE END AS {c}"
                )
            else:
                inner.append(c)
                outer.append(f"{cleaned(c, words)} AS {c}")
        width = len(columns)
        lines = self._lines(self._file(), first, width)
        try:
            self._connection.execute(
                f"CREATE OR REPLACE TABLE raw AS SELECT {', '.join(outer)} "
                f"FROM (SELECT {', '.join(inner)} FROM {lines})"
            )
        except (self._duckdb.IOException, self._duckdb.OutOfMemoryException):
            raise
        except self._duckdb.Error as error:
            raise self._unreadable(str(error), width) from error
        self._name_rows(width)
        (n_rows,) = self._one("SELECT count(*) FROM t")
        if not n_rows:
            below = " below its header" if self.has_header else ""
            raise DataFormatError(f"{self._path} has no data rows{below}.")

    def _name_rows(self, width: int) -> None:
        """Create the view of the rows below the header, numbered from 0."""
        header = int(self.has_header)
        columns = ", ".join(f"c{i}" for i in range(width))
        self._connection.execute(
            f"CREATE OR REPLACE TEMP VIEW t AS SELECT rowid - {header} AS rowid, {columns} "
            f"FROM raw WHERE rowid >= {header}"
        )

    def _slips(self, seen: Collection[str]) -> set[str]:
        """Return the columns in which a field does not have the type of the first lines."""
        if not seen:
            return set()
        counts = self._one(f"SELECT {', '.join(f'count_if(isinf({c}))' for c in seen)} FROM t")
        return {column for column, n in zip(seen, counts, strict=True) if n}

    def _undecided(self, columns: Sequence[str]) -> list[str]:
        """Return the columns that may hold something other than text; see ``_expression``.

        Few texts begin like a number or a date, which is quick to check.
        """
        self._plain: set[str] = set()
        self._padded: set[str] = set()
        if not columns:
            return []
        looks = [
            f"count({c}), count_if({c} < ':' OR starts_with({c}, 'i') OR starts_with({c}, 'I')), "
            f"count_if(lower({c}) IN ('true', 'false'))"
            for c in columns
        ]
        counts = iter(self._one(f"SELECT {', '.join(looks)} FROM t"))
        found = [
            c
            for c, n, n_like, n_boolean in zip(columns, counts, counts, counts, strict=True)
            if n_like >= 0.9 * n or n_boolean == n
        ]
        if found:
            counted = ", ".join(count_matching(c, PADDED) for c in found)
            padded = self._one(f"SELECT {counted} FROM t")
            self._padded = {c for c, n in zip(found, padded, strict=True) if n}
        return found

    def write(self, columns: dict[str, _Column], folder: Path) -> dict[str, Any]:
        """Write columns to files, and return memory maps of them.

        Raises:
            DataFormatError: a number is infinite.
        """
        forms = [self._form(i, column) for i, column in enumerate(columns.values())]
        wanted = ", ".join(f"{form.value} AS v{i}" for i, form in enumerate(forms))
        (n_rows,) = self._one("SELECT count(*) FROM raw")
        paths = [folder / f"{i}.column" for i in range(len(forms))]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "wb")) for path in paths]
            for first in range(int(self.has_header), n_rows, _ROWS_AT_ONCE):
                found = self._connection.execute(
                    f"SELECT {wanted} FROM raw WHERE rowid >= {first} "
                    f"AND rowid < {first + _ROWS_AT_ONCE}"
                ).fetchnumpy()
                for i, (name, form) in enumerate(zip(columns, forms, strict=True)):
                    values = np.ma.getdata(found[f"v{i}"]).astype(form.stored, copy=False)
                    if values.dtype.kind == "f" and np.isinf(values).any():
                        row = first - int(self.has_header) + int(np.argmax(np.isinf(values))) + 1
                        raise DataFormatError(
                            f"{self._path}, row {row}, column {name[:40]!r}: the number is "
                            "infinite in float64. Replace it."
                        )
                    files[i].write(np.ascontiguousarray(values).data)
        table = {}
        for name, path, form in zip(columns, paths, forms, strict=True):
            values = np.memmap(path, form.dtype, "r")
            table[name] = values if form.words is None else Coded(values, form.words, form.unlisted)
        return table

    def _form(self, i: int, column: _Column) -> _Form:
        """Return how the column with a number is stored."""
        value = column.value
        if column.kind == "number":
            whole = f"coalesce(CAST({value} AS DOUBLE), 'nan'::DOUBLE)"
            return _Form(whole, "float64", "float64")
        if column.kind == "date":
            whole = f"coalesce(epoch_us({value}), {_NOT_A_TIME})"
            return _Form(whole, "int64", "datetime64[us]")
        if column.kind == "bool":
            whole = f"coalesce(CAST({value} AS TINYINT), -1)"
            return _Form(whole, "int8", "int8", np.array([False, True], object))
        (n,) = self._one(f"SELECT approx_count_distinct({value}) FROM t")
        texts = f"SELECT DISTINCT {value} FROM t WHERE {value} IS NOT NULL ORDER BY 1"
        if n <= 1.1 * _MOST_WORDS:  # about
            (n,) = self._one(f"SELECT count(*) FROM ({texts})")
        if not 0 < n <= _MOST_WORDS:
            whole = f"CAST(CASE WHEN {value} IS NULL THEN -1 ELSE 0 END AS TINYINT)"
            return _Form(whole, "int8", "int8", np.zeros(0, object), n)
        self._connection.execute(f"CREATE TYPE words{i} AS ENUM ({texts})")
        (words,) = self._one(f"SELECT enum_range(CAST(NULL AS words{i}))")
        whole = f"coalesce(CAST(enum_code(CAST({value} AS words{i})) AS INTEGER), -1)"
        return _Form(whole, "int32", "int32", np.array(words, object))


def _of(column: str, value: str) -> _Column:
    """Return the kind of a column, by the expression of its value."""
    if value == column:
        return _Column("text", value)
    if value.startswith("lower("):
        return _Column("bool", value)
    is_date = any(value == style.format(column) for style in DATES.values())
    return _Column("date" if is_date else "number", value)
