"""A data set from your own file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp._caller import advice, named, own_arguments
from bp_xp.datasets.dataset import Dataset, scaled_rows
from bp_xp.datasets.npy import load_npy, load_npz
from bp_xp.datasets.table import CSV_ENDS, Missing, check_missing, load_csv
from bp_xp.errors import DataFormatError

__all__ = [
    "H5_ENDS",
    "SPLIT_SEED",
    "are_whole",
    "as_inputs",
    "as_labels",
    "as_targets",
    "check_lengths",
    "check_share",
    "check_targets_file",
    "check_widths",
    "is_list",
    "load_file",
    "member_name",
    "place_of",
    "place_of_target",
    "require_numbers",
    "sorted_parts",
    "told_members",
]

_Pair = tuple[np.ndarray, np.ndarray]
"""The x and y of one part."""

_Parts = dict[str, _Pair]
"""Parts by name; the name "" is for a file with one part."""

# Whole numbers up to here are exact in float64, so labels in a table are read exactly.
_LABELS_BELOW = 2**53

H5_ENDS = (".h5", ".hdf5")
"""The endings of the names of HDF5 files."""

SPLIT_SEED = 0
"""The default seed of the rows to test on."""


@own_arguments
def load_file(
    path: str | os.PathLike[str],
    *,
    target: int | str = -1,
    targets: str | os.PathLike[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = SPLIT_SEED,
    missing: Missing = "refuse",
    max_bytes: int | None = None,
) -> Dataset:
    """Read a data set from a .npz, .npy or .csv file.

    A .npz file has the members ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test`` and
    ``y_test``, and optionally ``x_validation`` and ``y_validation``; others are ignored. A .csv or
    .tsv file, which may be compressed with gzip, or a two-dimensional .npy file, is a table with a
    row per sample and the labels in one of its columns.

    Inputs become float32 of shape (N, features); unsigned bytes are treated as images and divided
    by 255. In ``y``, whole numbers from 0 up are class labels, and become int64 of shape (N,); any
    other numbers are targets, and become float32 of shape (N, K).

    Args:
        path: the file; the ending of its name gives its format.
        target: for a table, the column of the labels, by name or by number (-1 is the last).
        targets: for a .npy file with only inputs, the .npy file of their labels or targets.
        test_fraction: for a file with one part, the share of its rows to test on, drawn at random.
        seed: the seed of these rows; the same seed always draws the same rows.
        missing: "refuse" to raise an error if an input is empty, nan or inf; "allow" to read it
            anyway. A label can never be missing.
        max_bytes: for a .npz file, as in :func:`load_npz`.

    Returns:
        A :class:`Dataset` with the file's name.

    Raises:
        DataFormatError: the file is damaged, or does not hold a data set.
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, a column does not exist, or a fraction leaves no
            rows.
    """
    path = Path(path)
    check_missing(missing)
    suffix = path.suffix.lower()
    if targets is not None:
        raw = {"": (load_npy(check_targets_file(path, targets)), load_npy(targets))}
    elif suffix == ".npz":
        raw = sorted_parts(load_npz(path, max_bytes=max_bytes), path)
    elif suffix == ".npy":
        raw = {"": _split_columns(load_npy(path), None, target, path)}
    elif path.name.lower().endswith(CSV_ENDS):
        table = load_csv(path, missing=missing)
        raw = {"": _split_columns(table.values, table.columns, target, path)}
    else:
        raise ValueError(
            f"{path} ends in {path.suffix!r}: pass a .npz, .npy or .csv file, or build a Dataset "
            "from arrays."
        )

    first = 1 if path.name.lower().endswith(CSV_ENDS) else 0
    parts = _checked(raw, missing, path, targets, counted_from=first)
    if "" in parts:
        parts = _split(*parts[""], test_fraction, seed, path)
    return Dataset(
        path.stem, *parts["train"], *parts["test"], *parts.get("validation", (None, None))
    )


def check_targets_file(path: Path, targets: str | os.PathLike[str]) -> Path:
    """Return the file of inputs; refuse other formats if the targets have their own file."""
    for one in (path, Path(targets)):
        if one.suffix.lower() != ".npy":
            raise ValueError(
                f"{one} is not a .npy file: a separate file of targets must be a .npy file, and so "
                "must the file of inputs."
            )
    return path


def sorted_parts(arrays: Mapping[str, Any], path: Path) -> dict[str, tuple[Any, Any]]:
    """Sort the members of an archive into the x and y of each part."""
    found: dict[str, tuple[Any, Any]] = {}
    for part in ("", "train", "test", "validation"):
        x, y = member_name("x", part), member_name("y", part)
        if (x in arrays) != (y in arrays):
            present, absent = (x, y) if x in arrays else (y, x)
            raise DataFormatError(f"{path} has a member {present}, but none named {absent}.")
        if x in arrays:
            found[part] = (arrays[x], arrays[y])
    if set(found) not in ({""}, {"train", "test"}, {"train", "test", "validation"}):
        raise DataFormatError(
            f"{path} has {told_members(arrays)}: expected are x and y, or x_train, y_train, "
            f"x_test and y_test, which x_validation and y_validation may join. {_how_to_save(path)}"
        )
    return found


def told_members(arrays: Mapping[str, Any]) -> str:
    """Return the names of the arrays of a file in words."""
    return f"the members {sorted(arrays)}" if arrays else "no arrays at its top level"


def _how_to_save(path: Path) -> str:
    if path.is_dir():
        return "Save each as a .npy file of that name, with numpy.save."
    if path.suffix.lower() in H5_ENDS:
        return "Save each as a data set of that name at the top level of the file."
    return "Save them with numpy.savez(path, x=..., y=...)."


def member_name(letter: str, part: str) -> str:
    """Return the name of an array: x and y in a file with one part, otherwise x_train and so on."""
    return f"{letter}_{part}" if part else letter


def _split_columns(
    table: np.ndarray, columns: tuple[str, ...] | None, target: int | str, path: Path
) -> _Pair:
    """Take the column of the labels out of a table; return x (N, columns - 1) and y (N,)."""
    place = place_of_target(table.shape, columns, target, path)
    return np.delete(table, place, axis=1), table[:, place]


def place_of_target(
    shape: tuple[int, ...], columns: tuple[str, ...] | None, target: int | str, path: Path
) -> int:
    """Return the number of the column of the labels in a table of this shape."""
    if len(shape) != 2 or shape[1] < 2:
        raise DataFormatError(
            f"{path} has shape {shape}: expected is a table of two dimensions, with the "
            "labels in one column and the inputs in the others"
            + advice("; if the labels are in a file of their own, name it with {}", "targets")
            + "."
        )
    n_columns = shape[1]
    if isinstance(target, str):
        if columns is None or columns.count(target) != 1:
            names = "no names" if columns is None else f"the names {', '.join(columns)}"
            raise ValueError(
                f"{named('target')} is {target!r}, but the columns of {path} have {names[:400]}: "
                "choose a name that occurs once, or a number."
            )
        target = columns.index(target)
    if not -n_columns <= target < n_columns:
        raise ValueError(
            f"{named('target')} is {target}, but {path} has {n_columns} columns: choose a number "
            f"from {-n_columns} to {n_columns - 1}."
        )
    return target


def place_of(
    letter: str, part: str, path: Path, targets: str | os.PathLike[str] | None = None
) -> str:
    """Return the place of an array for messages: its file, and its name if there are several."""
    if targets is None:
        return f"{path}, {member_name(letter, part)}"
    return f"{path if letter == 'x' else os.fspath(targets)}"


def _checked(
    raw: _Parts,
    missing: Missing,
    path: Path,
    targets: str | os.PathLike[str] | None,
    *,
    counted_from: int,
) -> _Parts:
    """Return the parts of a data set, each valid and fitting the others."""
    for part, (x, y) in raw.items():
        require_numbers(x, place_of("x", part, path, targets))
        require_numbers(y, place_of("y", part, path, targets))
        check_lengths(len(x), len(y), part, path, targets)
    # Decided once for all parts: the labels of one may not be the targets of another.
    are_labels = all(_are_labels(y) for _, y in raw.values())
    parts = {}
    for part, (x, y) in raw.items():
        x_place, y_place = (place_of(letter, part, path, targets) for letter in "xy")
        parts[part] = (
            as_inputs(x, missing, x_place, counted_from=counted_from),
            as_labels(y) if are_labels else as_targets(y, y_place, counted_from=counted_from),
        )
    check_widths(parts, path)
    return parts


def check_lengths(
    n_inputs: int,
    n_targets: int,
    part: str,
    path: Path,
    targets: str | os.PathLike[str] | None = None,
) -> None:
    """Refuse inputs and targets of different lengths."""
    if n_inputs != n_targets:
        y = member_name("y", part) if targets is None else os.fspath(targets)
        raise DataFormatError(
            f"{path}: {member_name('x', part)} has {n_inputs} rows, but {y} has {n_targets}; both "
            "need one row per sample."
        )


def check_widths(parts: Mapping[str, tuple[Any, Any]], path: Path) -> None:
    """Refuse parts of different widths."""
    if len({(x.shape[1:], y.shape[1:]) for x, y in parts.values()}) > 1:
        shapes = ", ".join(f"{part} {x.shape} and {y.shape}" for part, (x, y) in parts.items())
        raise DataFormatError(
            f"{path} has parts of different widths, x and y being {shapes}: every part needs the "
            "same columns."
        )


def require_numbers(values: Any, where: str) -> None:
    """Refuse an array, in memory or stored, that does not hold a real number for each sample."""
    if values.dtype.kind not in "biuf" or not values.shape or 0 in values.shape:
        raise DataFormatError(
            f"{where} holds {values.dtype} of shape {values.shape}: expected are real numbers, one "
            "row per sample."
        )


def as_inputs(
    x: np.ndarray, missing: Missing, where: str, *, first_row: int = 0, counted_from: int = 0
) -> np.ndarray:
    """Return inputs as rows of float32, shape (N, features); bytes become numbers from 0 to 1."""
    if x.ndim == 1:
        raise DataFormatError(
            f"{where} has shape {x.shape}. Reshape your data: to (N, 1) for one feature, to (1, "
            "features) for one sample."
        )
    if x.dtype == np.uint8:
        return scaled_rows(x, white=255)
    rows = x.reshape(len(x), -1)
    return _as_float32(rows, missing, where, first_row=first_row, counted_from=counted_from)


def _are_labels(y: np.ndarray) -> bool:
    """Return whether an array of outputs is a list of class labels: whole numbers from 0 up."""
    return is_list(y) and are_whole(y)


def is_list(y: Any) -> bool:
    """Return whether outputs, in memory or stored, have a possible label for each sample."""
    return len(y.shape) == 1 or (y.shape[1:] == (1,) and y.dtype.kind in "biu")


def are_whole(y: np.ndarray) -> bool:
    """Return whether numbers are whole, and from 0 up, so that they may be labels."""
    return bool(np.all((y >= 0) & (y < _LABELS_BELOW) & (y == np.floor(y))))


def as_labels(y: np.ndarray) -> np.ndarray:
    """Return class labels, shape (N,), int64, of values that are known to be labels."""
    return y.reshape(len(y)).astype(np.int64)


def as_targets(
    y: np.ndarray, where: str, *, first_row: int = 0, counted_from: int = 0
) -> np.ndarray:
    """Return targets as rows of float32, shape (N, K)."""
    rows = y.reshape(len(y), -1)
    return _as_float32(rows, None, where, first_row=first_row, counted_from=counted_from)


def _as_float32(
    rows: np.ndarray, missing: Missing | None, where: str, *, first_row: int, counted_from: int
) -> np.ndarray:
    """Return a copy in float32; numbers must be finite unless missing ones are allowed.

    For targets, ``missing`` is None, and no value may be missing. The first of these rows is row
    ``first_row`` of the file; messages count the rows and columns of arrays from 0, as Python does,
    and those of tables in text from 1.
    """
    # Overflow is refused below; a signaling NaN sets off "invalid".
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = rows.astype(np.float32)
    # A number that is finite in float64 and infinite in float32 is never a missing value.
    bad = ~np.isfinite(narrow)
    if missing == "allow":
        bad &= np.isfinite(rows)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        place = f"row {first_row + row + counted_from}, column {column + counted_from}"
        how = "" if counted_from else " (counted from 0)"
        more = advice("; {} lets NaN and infinity be", "missing", "allow") if missing else ""
        raise DataFormatError(
            f"{where}, {place}{how}: {rows[row, column]} is not a finite number in float32. "
            f"Replace or rescale it{more}."
        )
    return narrow


def _split(x: np.ndarray, y: np.ndarray, test_fraction: float, seed: int, path: Path) -> _Parts:
    """Draw the rows to test on."""
    n_test = round(len(x) * test_fraction)
    check_share(n_test, len(x), test_fraction, path)
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = order[:n_test], order[n_test:]
    return {"train": (x[train], y[train]), "test": (x[test], y[test])}


def check_share(n_test: int, n: int, test_fraction: float, path: Path) -> None:
    """Refuse a share of n rows to test on that leaves no rows for training or testing."""
    if not 0 < n_test < n:
        another = advice(", so pass another {}", "test_fraction")
        raise ValueError(
            f"of the {n} rows of {path}, a share of {test_fraction} to test on is {n_test}: "
            f"training and testing need rows{another}."
        )
