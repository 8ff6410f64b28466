"""Tables that are not in memory: their columns are files, and are prepared as they are read."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import by_default, named
from bp_xp.datasets.stored_table import StoredColumns, is_large, store_table
from bp_xp.tables.columns import ROWS_AT_ONCE, Columns, as_columns, pick, words_of_reading
from bp_xp.tables.preparation import Preparation, select

__all__ = ["StoredInputs", "open_columns"]


def open_columns(
    table: Any,
    text: Collection[str] = (),
    stream: bool | int | None = None,
    *,
    ignored: Collection[str] = (),
    only: Collection[str] | None = None,
    allow_empty: bool = False,
) -> Columns:
    """Return a table as columns, in memory or stored in temporary files.

    Args:
        table: as for :func:`~bp_xp.tables.columns.as_columns`, like all others but ``stream``.
        text: columns of a CSV file to treat as text.
        stream: whether to store them in files; None does so if the table is a large file.
        ignored: columns of a file that are not used.
        only: the only columns of a file that are used.
        allow_empty: whether a file that is read into memory may have no rows.

    Raises:
        TypeError: ``stream`` is set, and the table is not a file.
        ValueError: ``stream`` is a number below 1; or as for ``as_columns``.
        OSError: there is no room for temporary files, or the file changed while it was read.
    """
    if isinstance(table, StoredColumns):
        return table
    is_file = isinstance(table, str | os.PathLike)
    if stream is not None and not isinstance(stream, bool):
        checks.check_integer(stream, "stream")
    if stream and not is_file:
        raise TypeError(
            f"{named('stream')} is for the path of a file: a {type(table).__name__} is in memory."
        )
    if stream or (stream is None and is_file and is_large(table)):
        with by_default(words_of_reading(trained=only is not None)):
            return store_table(table, text=tuple(text), ignored=ignored, only=only)
    return as_columns(table, text, ignored=ignored, only=only, allow_empty=allow_empty)


class StoredInputs:
    """The inputs of a network, made from columns as they are read, with slicing by rows.

    Args:
        preparation: maps columns to inputs.
        columns: the table, with the columns that the preparation needs.
        rows: the numbers of the rows to return; None returns all.

    Raises:
        ValueError: a column is missing; or, when a slice is read, a value does not fit, and the
            message names the row and the column.
    """

    def __init__(
        self,
        preparation: Preparation,
        columns: Mapping[str, Any],
        rows: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self._preparation = preparation
        self._columns = select(dict(columns), preparation.columns, "the model")
        n = len(next(iter(self._columns.values())))
        self._rows = range(n) if rows is None else rows
        self.shape = (len(self._rows), len(preparation.features))
        self.dtype = np.dtype(np.float64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice) -> np.ndarray:
        """Return the inputs of some rows, shape (n, features)."""
        rows = self._rows[which]
        x = np.empty((len(rows), self.shape[1]))
        for k in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[k : k + ROWS_AT_ONCE]
            block = {name: pick(values, some) for name, values in self._columns.items()}
            x[k : k + ROWS_AT_ONCE] = self._preparation.inputs(block, some)
        return x

    def at(self, rows: np.ndarray) -> "StoredInputs":
        """Return the inputs of some rows of the whole table."""
        return StoredInputs(self._preparation, self._columns, rows)

    def check(self) -> None:
        """Read all rows once, so that an error is raised before any work is done.

        Raises:
            ValueError: a value does not fit; the message names the row and the column.
        """
        for k in range(0, len(self), ROWS_AT_ONCE):
            _ = self[k : k + ROWS_AT_ONCE]
