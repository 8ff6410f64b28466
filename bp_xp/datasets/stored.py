"""A data set that stays in its file: rows are read when they are sliced.

It has the same parts as one that :func:`bp_xp.datasets.load_file` reads, in the same form.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp._caller import named
from bp_xp._files import open_regular
from bp_xp._optional import require
from bp_xp.datasets import files
from bp_xp.datasets.dataset import Dataset
from bp_xp.datasets.npy import map_npy, map_npz
from bp_xp.errors import DataFormatError

__all__ = ["Rows", "open_file", "open_inputs"]

_BLOCKS_TO_DRAW = 1000  # a part is some of this many blocks of rows, so it takes few reads
_ROWS_AT_ONCE = 1 << 16
_PARTS = ("train", "test", "validation")

_Form = Callable[[np.ndarray, int], np.ndarray]
"""A function from stored rows and the number of the first one to rows of a data set."""


_Pair = tuple["Rows", "Rows"]
"""The x and y of one part."""


class Rows:
    """Some stored rows, in another form, which are sliced as if they were consecutive.

    Args:
        stored: an object with shape, dtype and slicing by rows.
        form: converts some consecutive rows.
        path: the file of the rows.
        spans: the first row of each run of rows, and the one after its last, shape (n, 2).

    Attributes:
        shape: (N, ...), in the form of the slices.
        dtype: the dtype of the slices.
        filename: the file.
        chunks: its chunks, if it has any.
        raw_dtype: the dtype in the file.
    """

    def __init__(self, stored: Any, form: _Form, path: Path, spans: np.ndarray) -> None:
        self._stored, self._form, self.filename = stored, form, os.fspath(path)
        self._starts, self._lengths = spans[:, 0], spans[:, 1] - spans[:, 0]
        self._ends = np.cumsum(self._lengths)
        self._none = form(np.zeros((1, *stored.shape[1:]), stored.dtype), 0)[:0]
        n = int(self._ends[-1]) if len(spans) else 0
        self.shape, self.dtype = (n, *self._none.shape[1:]), self._none.dtype
        self.chunks = getattr(stored, "chunks", None)
        self.raw_dtype = getattr(stored, "raw_dtype", stored.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some rows, one after the other.

        Raises:
            DataFormatError: a row has a number that is not finite; the message has its position in
                the file.
        """
        at, stop, _ = rows.indices(len(self))
        parts = []
        k = int(np.searchsorted(self._ends, at, side="right"))
        while at < stop:
            into = at - int(self._ends[k] - self._lengths[k])
            n = min(stop - at, int(self._lengths[k]) - into)
            first = int(self._starts[k]) + into
            parts.append(self._form(np.asarray(self._stored[first : first + n]), first))
            at, k = at + n, k + 1
        if len(parts) == 1:  # no copy
            return parts[0]
        return np.concatenate(parts) if parts else self._none

    def formed(self, form: _Form) -> "Rows":
        """Return the same rows in another form."""
        return Rows(self, form, Path(self.filename), np.array([[0, len(self)]]))

    def part(self, spans: np.ndarray) -> "Rows":
        """Return the rows of some spans, as if they were all rows."""
        return Rows(self._stored, self._form, Path(self.filename), spans)

    def max(self) -> Any:
        """Return the largest number."""
        return max(self[rows].max() for rows in _blocks(len(self)))


def open_file(
    path: str | os.PathLike[str],
    *,
    target: int | str = -1,
    targets: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    split_last: bool = False,
) -> Dataset:
    """Return the data set of a file, whose rows stay in the file: its parts are :class:`Rows`.

    A .npz or HDF5 file has ``x`` and ``y``, or ``x_train``, ``y_train`` and so on, like a folder of
    .npy files of these names. A .npy file has a column of labels, or ``targets``.

    Args:
        path: the file or folder.
        target: as for :func:`load_file`, like ``targets``.
        targets: as for :func:`load_file`.
        test_fraction: for a file with one part, the share of its rows to test on, which may be 0
            or 1.
        validation_fraction: the share of the other rows to validate on.
        split_last: whether these are its last rows, or some blocks of rows that are drawn, always
            the same.

    Raises:
        DataFormatError, FileNotFoundError, ValueError: as for :func:`load_file`.
        ImportError: HDF5 files need h5py.
    """
    path = Path(path)
    raw = _parts(path, target, targets)
    for part, (x, y) in raw.items():
        for letter, rows in (("x", x), ("y", y)):
            files.require_numbers(rows, files.place_of(letter, part, path, targets))
        files.check_lengths(len(x), len(y), part, path, targets)
    # Decided once for all parts: the labels of one may not be the targets of another.
    are_labels = all(_are_labels(y) for _, y in raw.values())
    whole = {}
    for part, (x, y) in raw.items():
        x_place, y_place = (files.place_of(letter, part, path, targets) for letter in "xy")
        whole[part] = _as_inputs(x, x_place), _as_outputs(y, are_labels, y_place)
    files.check_widths(whole, path)
    parts = _split(whole, path, test_fraction, validation_fraction, last=split_last)
    # Rows replace arrays.
    given: list[Any] = [*parts["train"], *parts["test"]]
    return Dataset(path.stem, *given, *parts.get("validation", ()))


def _split(
    whole: dict[str, _Pair], path: Path, test: float, validation: float, *, last: bool
) -> dict[str, _Pair]:
    """Return the parts of a data set: those that its file has, and those that are held out."""
    if "validation" in whole and validation:
        raise ValueError(
            f"{path} has a validation part of {len(whole['validation'][0]):,} samples: leave out "
            f"{named('validation_fraction')}."
        )
    test = 0.0 if "train" in whole else test
    x, y = whole.pop("train") if "train" in whole else whole.pop("")
    held = dict(zip(_PARTS, _spans(len(x), test, validation, last=last), strict=True))
    if 0.0 < test < 1.0:
        tested = held["test"]
        files.check_share(int((tested[:, 1] - tested[:, 0]).sum()), len(x), test, path)
    if not validation:
        del held["validation"]
    elif not all(map(len, (held["train"], held["validation"]))):
        raise ValueError(
            f"{named('validation_fraction', validation)} of {path} leaves no rows to train on, or "
            "none to validate on."
        )
    # The parts of the file come last: nothing is held out from them for testing.
    return {name: (x.part(own), y.part(own)) for name, own in held.items()} | whole


def open_inputs(path: str | os.PathLike[str], target: int | str, n_inputs: int) -> Rows:
    """Return the inputs of a file to predict from, which stay in the file: all rows, in order.

    Args:
        path: as for :func:`open_file`; from a file with members, ``x`` or ``x_test`` is used.
        target: the column to leave out of a .npy file with one column more than ``n_inputs``.
        n_inputs: the expected number of inputs.

    Raises:
        DataFormatError, FileNotFoundError, ValueError, ImportError: as for :func:`open_file`.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        rows = _all_of(map_npy(path), path)
        if rows.shape[1:] == (n_inputs + 1,):
            rows = _without(rows, files.place_of_target(rows.shape, None, target, path))
    else:
        members = _members(path)
        if not (found := [members[name] for name in ("x", "x_test") if name in members]):
            raise ValueError(f"{path} has {files.told_members(members)}: x or x_test is expected.")
        rows = found[0]
    files.require_numbers(rows, f"{path}")
    return _as_inputs(rows, f"{path}")


def _parts(
    path: Path, target: int | str, targets: str | os.PathLike[str] | None
) -> dict[str, _Pair]:
    """Return the stored x and y of each part; the part of a file with one part is ""."""
    if targets is not None:
        files.check_targets_file(path, targets)
        return {"": (_all_of(map_npy(path), path), _all_of(map_npy(targets), Path(targets)))}
    if path.suffix.lower() != ".npy":
        return files.sorted_parts(_members(path), path)
    table = _all_of(map_npy(path), path)
    place = files.place_of_target(table.shape, None, target, path)
    return {"": (_without(table, place), table.formed(lambda rows, _: rows[:, place]))}


def _members(path: Path) -> dict[str, Rows]:
    """Return the arrays of a file or a folder, by name."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return {one.stem: _all_of(map_npy(one), one) for one in sorted(path.glob("*.npy"))}
    stored: Mapping[str, Any]
    if suffix == ".npz":
        stored = map_npz(path)
    elif suffix in files.H5_ENDS:
        stored = {name: one for name, one in _h5(path).items() if hasattr(one, "dtype")}
    else:
        raise ValueError(
            f"{path} can't be read row by row: it must be a .npy, .npz, .h5 or .hdf5 file, or a "
            "folder of .npy files."
        )
    return {name: _all_of(one, path) for name, one in stored.items()}


def _h5(path: Path) -> Any:
    """Return an HDF5 file, which stays open as long as an object of it exists."""
    h5py = require("h5py", None)
    with open_regular(path):  # if it can't be read, the error names it
        pass
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataFormatError(f"{path} is damaged or not an HDF5 file ({error}).") from error


def _all_of(stored: Any, path: Path) -> Rows:
    n = stored.shape[0] if stored.shape else 0
    return Rows(stored, lambda rows, _: rows, path, np.array([[0, n]]))


def _without(table: Rows, column: int) -> Rows:
    return table.formed(lambda rows, _: np.delete(rows, column, axis=1))


def _as_inputs(x: Rows, where: str) -> Rows:
    return x.formed(lambda rows, first: files.as_inputs(rows, "refuse", where, first_row=first))


def _as_outputs(y: Rows, are_labels: bool, where: str) -> Rows:
    if are_labels:
        return y.formed(lambda rows, _: files.as_labels(rows))
    return y.formed(lambda rows, first: files.as_targets(rows, where, first_row=first))


def _are_labels(y: Rows) -> bool:
    return files.is_list(y) and all(files.are_whole(y[rows]) for rows in _blocks(len(y)))


def _blocks(n: int) -> list[slice]:
    return [slice(k, min(k + _ROWS_AT_ONCE, n)) for k in range(0, n, _ROWS_AT_ONCE)]


def _spans(n: int, test: float, validation: float, *, last: bool) -> Sequence[np.ndarray]:
    """Return the rows to train, test and validate on, shape (blocks, 2) each."""
    rows = 1 if last else math.ceil(n / _BLOCKS_TO_DRAW)
    starts = np.arange(0, n, rows)
    n_test = round(len(starts) * test)
    n_validation = round((len(starts) - n_test) * validation)
    if last:
        ends = np.cumsum([0, n - n_test - n_validation, n_validation, n_test])
        train, held, tested = (np.array([ends[k : k + 2]]) for k in range(3))
        return [one[one[:, 0] < one[:, 1]] for one in (train, tested, held)]
    order = np.random.default_rng(files.SPLIT_SEED).permutation(starts)
    cuts = np.split(order, [n_test, n_test + n_validation])
    tested, held, train = (np.sort(cut) for cut in cuts)
    return [_joined(one, np.minimum(one + rows, n)) for one in (train, tested, held)]


def _joined(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return runs of rows, shape (blocks, 2), with adjacent runs merged."""
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    firsts, lasts = np.append(0, breaks), np.append(breaks - 1, len(ends) - 1)
    return np.stack([starts[firsts], ends[lasts]], 1) if len(starts) else np.empty((0, 2), int)
