"""Arrays that users pass: checked, and moved to the network's device.

Each function returns its argument in the form that the rest of bp_xp expects, or raises an error
that says what was expected, what was found, and what to do.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np

from bp_xp._caller import advice, in_python, named
from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement, library_of, to_numpy
from bp_xp.backends.registry import as_host_array, check_form
from bp_xp.checks import check_number, warn
from bp_xp.sources.sparse import SparseInputs, is_sparse

__all__ = [
    "check_array",
    "check_class_weight",
    "check_inputs",
    "check_kind",
    "check_matrix",
    "check_parameter",
    "check_sample_weight",
    "check_samples",
    "check_target_range",
    "check_target_shape",
    "check_targets",
    "check_weight_shape",
    "one_hot",
    "rows_from",
    "warn_of_unreachable",
]

_first_row: ContextVar[int | None] = ContextVar(
    "the number of the first row of a part of the samples; None if all are checked", default=None
)


@contextlib.contextmanager
def rows_from(first: int) -> Iterator[None]:
    """Let messages count rows from a given number, for checks of a part of the samples.

    The messages then omit how many rows are wrong, and which is the first, since that is unknown.
    """
    before = _first_row.set(first)
    try:
        yield
    finally:
        _first_row.reset(before)


def _row_of_all(row: int) -> int:
    """Return the number of a row among all samples."""
    return row + (_first_row.get() or 0)


def _counted(text: str) -> str:
    """Return a text about all samples; empty if only a part of them is checked."""
    return text if _first_row.get() is None else ""


def check_samples(
    x: Any,
    name: str,
    *,
    placement: Placement,
    dtype: str,
    columns: int | None = None,
    keep_bytes: bool = False,
) -> Array:
    """Return inputs as a matrix on the network's device.

    Args:
        x: host values (lists, NumPy, data frames) or an array of the network's own library on its
            own device, shape (N, columns).
        name: the caller's name for it, for messages.
        placement: the network's library and device.
        dtype: the network's dtype.
        columns: the required number of columns; None for any number.
        keep_bytes: whether one-byte integers on the host keep their dtype and stay there.

    Raises:
        TypeError: x is an array of another library, a masked array or a matrix, or not numbers.
        ValueError: x has the wrong device or shape, or values that are complex, NaN or infinite.
    """
    name = named(name)
    values = check_kind(x, name, placement)
    check_matrix(values, name, columns)
    if keep_bytes and isinstance(values, np.ndarray) and values.dtype in (np.uint8, np.int8):
        return values
    return _place_finite(values, name, placement, dtype)


def check_inputs(
    x: Any, name: str, *, placement: Placement, dtype: str, columns: int | None = None
) -> Array | SparseInputs:
    """Return inputs as :func:`check_samples` does; a sparse matrix stays sparse.

    Only the stored entries of a sparse matrix are checked.
    """
    matrix: Any = x.tocsr() if is_sparse(x) else None
    if not isinstance(getattr(matrix, "data", None), np.ndarray):  # dense, or on some device
        return check_samples(x, name, placement=placement, dtype=dtype, columns=columns)
    entries = check_kind(matrix.data, name, placement)
    check_matrix(matrix, name, columns)
    if _finite(entries, dtype) is None:
        raise _not_finite(entries, name, dtype, of=matrix.tocoo())
    return SparseInputs(matrix, placement, dtype)


def check_targets(y: Any, name: str, *, placement: Placement, dtype: str, rows: int) -> Array:
    """Return targets or labels as a host array or an array on the network's device.

    The checks are those of :func:`check_samples`; shape (rows,) or (rows, K).
    """
    name = named(name)
    values = check_kind(y, name, placement)
    check_target_shape(values, name, rows)
    if values.ndim == 1:
        return values
    return _place_finite(values, name, placement, dtype)


def check_target_shape(values: Any, name: str, rows: int) -> None:
    """Refuse targets or labels whose shape is neither (rows,) nor (rows, K)."""
    shape = tuple(values.shape)
    if len(shape) not in (1, 2) or 0 in shape[1:]:
        raise ValueError(
            f"{name} must have shape (n_samples,) for labels or (n_samples, n_outputs) for "
            f"targets, not {shape}."
        )
    if shape[0] != rows:
        raise ValueError(
            f"{name} has {shape[0]} rows but the samples have {rows}: each sample needs one."
        )


def check_sample_weight(
    weights: Any, name: str, *, placement: Placement, dtype: str, rows: int, partial: bool = False
) -> Array:
    """Return how much each sample counts, shape (rows,), on the network's device: not negative.

    If these are a part of a larger set, all weights may be zero.
    """
    host = check_kind(weights, name, placement)
    check_weight_shape(host, name, rows)
    values = _place_finite(host, name, placement, dtype)
    least, most = _extremes(values, placement)
    if least < 0.0:
        negative = np.flatnonzero(to_numpy(values) < 0.0)
        raise ValueError(
            f"{name} is negative at row {_row_of_all(int(negative[0]))}: "
            f"{to_numpy(values)[negative[0]]:g}"
            + _counted(f" ({negative.size} negative number(s), the smallest {least:g})")
            + "."
        )
    if most == 0.0 and not partial:
        raise ValueError(f"{name} is zero for every sample: there is nothing to learn from.")
    return values


def check_weight_shape(values: Any, name: str, rows: int) -> None:
    """Refuse weights whose shape is not (rows,)."""
    shape = tuple(values.shape)
    if shape != (rows,):
        raise ValueError(
            f"{name} must have shape ({rows},), one number for each sample, not {shape}."
        )


def check_class_weight(class_weight: Any, counts: np.ndarray) -> np.ndarray:
    """Return a weight for each class, from a dictionary or ``"balanced"``.

    Args:
        class_weight: the user's argument.
        counts: the number of samples of each class, shape (K,).
    """
    n_classes = len(counts)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                f"{named('class_weight')} must be a dictionary {{label: weight}} or 'balanced', "
                f"not {class_weight!r}."
            )
        return counts.sum() / (n_classes * np.maximum(counts, 1.0))
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"class_weight must be a dictionary {{label: weight}} or 'balanced', not "
            f"{class_weight!r}."
        )
    weights = np.ones(n_classes)
    classes = {label: label for label in range(n_classes)}
    for key, weight in class_weight.items():
        # Compare by value, as for labels: True, 1.0 and numpy.int8(1) mean class 1. None of them
        # may be used as an index directly.
        if (label := classes.get(key)) is None:
            raise ValueError(
                f"{named('class_weight')} has the label {key!r}, but the classes are 0 to "
                f"{n_classes - 1}."
            )
        weights[label] = check_number(weight, f"class_weight[{key}]", least=0.0)
    if not (weights * counts).any():
        raise ValueError(f"{named('class_weight')} is zero for every class that the samples have.")
    return weights


def check_array(values: Any, name: str, *, placement: Placement, dtype: str) -> Array:
    """Return numbers of any shape on the network's device, in its dtype; they must be finite."""
    return _place_finite(check_kind(values, name, placement), name, placement, dtype)


def check_parameter(
    values: Any, name: str, *, placement: Placement, dtype: str, ndim: int
) -> Array:
    """Return a copy of initial weights or biases on the network's device, in its dtype."""
    host = check_kind(values, name, placement)
    if host.ndim != ndim or 0 in host.shape:
        raise ValueError(
            f"{name} must have {ndim} dimension(s), none of them empty, not {tuple(host.shape)}."
        )
    return placement.xp.asarray(_place_finite(host, name, placement, dtype), copy=True)


def check_kind(values: Any, name: str, placement: Placement) -> Any:
    """Return ``values`` as an array of real numbers: of the network's library, or on the host."""
    check_form(values, name)
    library = library_of(values)
    if library is not None and library.name != "numpy":
        _check_own(values, name, library, placement)
        dtype, isdtype = values.dtype, placement.xp.isdtype
        if isdtype(dtype, "complex floating"):
            raise ValueError(f"{name}: Complex data not supported, it has dtype {dtype}.")
        if not isdtype(dtype, ("real floating", "integral", "bool")):
            raise TypeError(
                f"{name} must be an array of numbers, not of dtype {dtype}: convert it first, to "
                "float32 for example."
            )
        return library.by_value(values)
    host = as_host_array(values)
    if host.dtype.kind == "c":
        raise ValueError(f"{name}: Complex data not supported, it has dtype {host.dtype}.")
    if host.dtype.kind == "O":
        try:
            host = host.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must be an array of numbers; numpy.asarray makes dtype object of it "
                f"({error})."
            ) from error
    if host.dtype.kind not in "fiub":
        text = in_python(" bp_xp.tables.TableModel takes text.") if host.dtype.kind in "US" else ""
        if text and not host.ndim:
            text = in_python(f" Is it a path? Pass np.load({values!r}, mmap_mode='r') then.")
        raise TypeError(f"{name} must be an array of numbers, not of dtype {host.dtype}.{text}")
    return host


def _check_own(values: Array, name: str, library: Any, placement: Placement) -> None:
    if library.name != placement.library.name:
        raise TypeError(
            f"{name} is an array of {library.name}, but the network computes with {placement}: "
            f"pass bp_xp.to_numpy({name}), or make the network with backend={library.name!r}."
        )
    if not library.lies_on(values, placement.device):
        device = library.device_name(library.device_of(values))
        raise ValueError(
            f"{name} is on device {device!r}, but the network is on "
            f"{placement.device_name!r}: move one of them."
        )


def check_matrix(values: Any, name: str, columns: int | None) -> None:
    """Refuse inputs whose shape is not (N, columns)."""
    shape = tuple(values.shape)
    if len(shape) == 1:
        raise ValueError(
            f"{name} must have two dimensions, (n_samples, n_features), not shape {shape}. "
            "Reshape your data"
            + in_python(
                f": {name}.reshape(1, -1) for one sample, {name}.reshape(-1, 1) for one feature"
            )
            + "."
        )
    if len(shape) != 2:
        raise ValueError(
            f"{name} must have two dimensions, (n_samples, n_features), not shape {shape}: "
            f"flatten images{in_python(f' with {name}.reshape(len({name}), -1)')}."
        )
    if shape[1] == 0:
        raise ValueError(
            f"{name} has 0 feature(s){in_python(f' (shape={shape})')} while a minimum of 1 is "
            "required."
        )
    if shape[0] == 0:
        raise ValueError(
            f"{name} has 0 sample(s){in_python(f' (shape={shape})')} while a minimum of 1 is "
            "required."
        )
    if columns is not None and shape[1] != columns:
        raise ValueError(
            f"{name} has {shape[1]} features, but the network is expecting {columns} features as "
            f"input{in_python(f': pass {name} of shape (n_samples, {columns})')}."
        )


def _place_finite(values: Any, name: str, placement: Placement, dtype: str) -> Array:
    """Move to the device in the network's dtype, and refuse values that are not finite there."""
    if isinstance(values, np.ndarray):
        if (finite := _finite(values, dtype)) is not None:
            return placement.asarray(finite)
    else:
        there = placement.xp.astype(values, placement.dtype(dtype), copy=False)
        seen, xp = _to_look_at(there, placement)
        if bool(xp.isfinite(xp.max(seen)) & xp.isfinite(xp.min(seen))):
            return there
    raise _not_finite(to_numpy(values), name, dtype)


def _finite(values: np.ndarray, dtype: str) -> np.ndarray | None:
    """Return host values in a dtype, or None if one of them is not finite there."""
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused
        host = values.astype(dtype, order="C", copy=False)
    # The extremes are NaN or infinite if any value is, and need no memory.
    extremes = (host.min(), host.max()) if host.size else ()
    return host if np.isfinite(extremes).all() else None


def _not_finite(values: np.ndarray, name: str, dtype: str, of: Any = None) -> ValueError:
    """Return the error for values that are not finite: an array's, or entries of a sparse one."""
    nan = np.isnan(values)
    with np.errstate(over="ignore"):
        bad = nan if nan.any() else ~np.isfinite(values.astype(dtype))
    what = "NaN" if nan.any() else f"infinity or a value too large for {dtype}"
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    if of is not None:
        first = int(of.row[first[0]]), int(of.col[first[0]])
    first = (_row_of_all(first[0]), *first[1:])
    where = ", ".join(
        f"{axis} {index}" for axis, index in zip(("row", "column"), first, strict=False)
    )
    count = _counted(f": {int(bad.sum())} value(s), the first")
    return ValueError(f"{name} contains {what}{count} at {where}. Remove or replace such values.")


def one_hot(labels: Any, name: str, *, classes: int, placement: Placement, dtype: str) -> Array:
    """Return labels as targets: 1 for the class of each sample, 0 elsewhere.

    Args:
        labels: whole numbers from 0 to ``classes`` − 1, shape (N,).
        name: the caller's name for them.
        classes: the number of classes; two classes can have a single output, the probability of 1.
        placement: the network's library and device.
        dtype: the network's dtype.

    Returns:
        Targets on the device, shape (N, classes), or (N, 1) for two classes on one output.

    Raises:
        ValueError: a label is not whole, or not one of the classes.
    """
    name = named(name)
    host = to_numpy(labels)
    outputs = classes
    classes = max(classes, 2)
    if host.dtype.kind == "f" and not np.all(host == np.floor(host)):
        row = int(np.flatnonzero(~(host == np.floor(host)))[0])
        raise ValueError(
            f"Unknown label type: {name}[{_row_of_all(row)}] is {host[row]!s}, and labels "
            f"are whole numbers from 0 to {classes - 1}."
            + in_python(" To fit numbers, make the network with output_activation='identity'.")
        )
    wrong = np.flatnonzero((host < 0) | (host >= classes))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"label {host[row]!s} at row {_row_of_all(row)} of {name} is not one of the "
            f"{classes} classes, 0 to {classes - 1}"
            + _counted(f" ({wrong.size} such label(s))")
            + "."
        )
    if outputs == 1:
        return placement.asarray(host[:, None], dtype)
    targets = np.zeros((host.size, outputs), dtype=dtype)
    targets[np.arange(host.size), host.astype(np.intp)] = 1.0
    return placement.asarray(targets)


def check_target_range(
    y: Array, name: str, *, bounded: bool, exclusive: bool, placement: Placement
) -> bool:
    """Check targets against the cost; return whether each row is one class.

    Args:
        y: targets on the device, shape (N, O).
        name: the caller's name for them.
        bounded: whether the cost requires probabilities, from 0 to 1.
        exclusive: whether the cost requires that the probabilities of a row sum to 1.
        placement: its library and device.

    Raises:
        ValueError: the cost requires probabilities, and these are not.
    """
    name = named(name)
    low, high = _extremes(y, placement)
    y, xp = _to_look_at(y, placement)
    if bounded and not (low >= 0.0 and high <= 1.0):
        other = advice(", or make the network with {}, for numbers of any size", "cost", "huber")
        raise ValueError(
            f"a cross-entropy takes targets from 0 to 1, but {name} goes from {low:g} to {high:g}: "
            f"scale it{other}."
        )
    off = float(xp.max(xp.abs(xp.sum(y, axis=-1) - 1.0)))
    if exclusive and off > 1e-3:
        other = advice(
            ": classes that do not exclude each other need {}", "cost", "binary_cross_entropy"
        )
        raise ValueError(
            f"the cost takes targets that sum to 1 in each row, but a row of {name} is off by "
            f"{off:g}{other}."
        )
    whole = bool(xp.all((y == 0.0) | (y == 1.0)))
    return whole and (y.shape[1] == 1 or off == 0.0)


def warn_of_unreachable(y: Array, name: str, output: str, *, placement: Placement) -> None:
    """Warn of targets that outputs from 0 to 1 cannot reach."""
    low, high = _extremes(y, placement)
    if low < 0.0 or high > 1.0:
        warn(
            f"{named(name)} goes from {low:g} to {high:g}, which {output} outputs, from 0 to 1, "
            "can't reach"
            + in_python(": to fit numbers, make the network with output_activation='identity'")
            + "."
        )


def _extremes(values: Array, placement: Placement) -> tuple[float, float]:
    seen, xp = _to_look_at(values, placement)
    return float(xp.min(seen)), float(xp.max(seen))


def _to_look_at(values: Array, placement: Placement) -> tuple[Array, Namespace]:
    """Return values in a form for inspection, with its namespace.

    NumPy inspects values that are in host memory, since another library may compile each operation
    for each shape.
    """
    if placement.on_cpu:
        return placement.library.to_numpy(values), np
    return values, placement.xp
