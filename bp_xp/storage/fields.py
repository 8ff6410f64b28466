"""The types and ranges of the fields of a header, checked once, when a file is read.

A checksum shows that a file is as it was written, not that it makes sense. After these checks, no
other code needs to check again: numbers are numbers and in their range, lists have the right
length, and values that are stored twice are equal.
"""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "check_fields_of_book",
    "check_fields_of_ensemble",
    "check_fields_of_network",
    "check_fields_of_run",
    "check_fields_of_section",
    "check_fields_of_stack",
]

Check: TypeAlias = Callable[[Any, str], None]
"""Raises ValueError for a value that its field, which is named, can't have."""

_NOT_FINITE = ("nan", "inf", "-inf")
"""How numbers that JSON does not have are written."""


def _refuse(name: str, wanted: str, value: Any) -> ValueError:
    return ValueError(f"its {name} must be {wanted}, not {reprlib.repr(value)}")


# ---------------------------------------------------------------------------------------------
# Values


def _whole(least: int = 0, below: int = 2**53) -> Check:
    """Return the check for a whole number; those below 2⁵³ are also exact as floats."""

    def check(value: Any, name: str) -> None:
        # To Python, True is a whole number.
        if type(value) is not int or not least <= value < below:
            raise _refuse(name, f"a whole number from {least} to below {below}", value)

    return check


def _seed(value: Any, name: str) -> None:
    if type(value) is not int or value < 0:
        raise _refuse(name, "a whole number of at least 0", value)


def _is_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


def _number(value: Any, name: str) -> None:
    if not _is_number(value):
        raise _refuse(name, "a finite number", value)


def _any_number(value: Any, name: str) -> None:
    if not _is_number(value) and not (isinstance(value, str) and value in _NOT_FINITE):
        raise _refuse(name, f"a number, or one of {', '.join(map(repr, _NOT_FINITE))}", value)


def _duration(value: Any, name: str) -> None:
    if not _is_number(value) or value < 0.0:
        raise _refuse(name, "a finite number of at least 0", value)


def _text(value: Any, name: str) -> None:
    if not isinstance(value, str) or not value:
        raise _refuse(name, "a text", value)


def _one_of(*choices: str) -> Check:
    def check(value: Any, name: str) -> None:
        if not isinstance(value, str) or value not in choices:
            raise _refuse(name, f"one of {', '.join(map(repr, choices))}", value)

    return check


def _or_none(check_it: Check) -> Check:
    def check(value: Any, name: str) -> None:
        if value is not None:
            check_it(value, name)

    return check


def _either(check_one: Check, check_several: Check) -> Check:
    """Return the check for a value or a list of values."""

    def check(value: Any, name: str) -> None:
        (check_several if isinstance(value, list) else check_one)(value, name)

    return check


def _list_of(check_each: Check, least: int = 0) -> Check:
    def check(value: Any, name: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise _refuse(name, f"a list of at least {least}" if least else "a list", value)
        for i, each in enumerate(value):
            check_each(each, f"{name}[{i}]")

    return check


def _names_to(check_each: Check) -> Check:
    def check(value: Any, name: str) -> None:
        check_fields_of_section(value, name)
        for key, each in value.items():
            check_each(each, f"{name}[{key!r}]")

    return check


def _fields(checks: Mapping[str, Check], *, no_others: bool = False) -> Check:
    """Return the check for a mapping with these fields; others may be allowed."""

    def check(value: Any, name: str) -> None:
        check_fields_of_section(value, name)
        if no_others and (more := value.keys() - checks.keys()):
            raise ValueError(f"its {name} has the unknown field {min(more)!r}")
        for field, check_field in checks.items():
            check_field(value[field], f"{name}.{field}" if name else field)

    return check


# NumPy accepts any numbers as the state of a generator, or fails with other errors.
_words = {"state": _whole(below=2**128), "inc": _whole(below=2**128)}
_generator = _fields(
    {
        "bit_generator": _one_of("PCG64"),
        "state": _fields(_words, no_others=True),
        "has_uint32": _whole(below=2),
        "uinteger": _whole(below=2**32),
    },
    no_others=True,
)

_NETWORK: dict[str, Check] = {
    "sizes": _list_of(_whole(least=1), least=2),
    "activations": _list_of(_text, least=1),
    "cost": _text,
    "dtype": _one_of("float32", "float64"),
    "seed": _seed,
    "generator": _generator,
    "own": _names_to(_list_of(_any_number)),
}

_ENSEMBLE = _NETWORK | {
    "seeds": _list_of(_seed, least=1),
    "generators": _list_of(_generator, least=1),
}

_matrices = _list_of(_list_of(_list_of(_number)))

_BOOK: dict[str, Check] = {
    "sizes": _list_of(_whole(least=1), least=2),
    "weights": _matrices,
    "biases": _matrices,
    "cost": _text,
}


def _metric(value: Any, name: str) -> None:
    """Check a metric: its name, or the description of a user-defined one."""
    _text(_metric_name(value), name)


def _metric_name(metric: Any) -> Any:
    return metric.get("name") if isinstance(metric, dict) else metric


_RECORD: dict[str, Check] = {
    "epoch": _whole(least=1),
    "cost": _number,
    "accuracy": _or_none(_number),
    "validation_cost": _or_none(_any_number),
    "validation_accuracy": _or_none(_number),
    "seconds": _duration,
    "samples_per_second": _duration,
    "metrics": _names_to(_any_number),
}

_RUN: dict[str, Check] = {
    "epoch": _whole(least=1),
    "place": _whole(),
    "step": _whole(),
    "order": _generator,
    "begun": _generator,
    "taken": _list_of(_list_of(_whole(), least=2)),
    "best_epoch": _or_none(_whole(least=1)),
    "history": _list_of(_fields(_RECORD, no_others=True)),
    "settings": _fields({"metrics": _list_of(_metric)}),
}

_STACK = {name: check for name, check in _RUN.items() if name not in ("order", "begun")} | {
    "order": _either(_generator, _list_of(_generator, least=1)),
    "begun": _list_of(_generator, least=2),
    "rows": _list_of(_whole(), least=1),
    "members": _list_of(
        _fields(
            {
                "history": _list_of(_fields(_RECORD, no_others=True)),
                "stopped": _one_of("", "early", "divergence"),
                "best_epoch": _or_none(_whole(least=1)),
                "steps": _whole(),
            }
        ),
        least=1,
    ),
}


# ---------------------------------------------------------------------------------------------
# Sections


def check_fields_of_section(fields: Any, name: str) -> None:
    """Refuse fields that are not a mapping of names to values.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(fields, dict):
        raise _refuse(name, "a mapping of names to values", fields)


def check_fields_of_book(fields: Any) -> None:
    """Refuse fields that do not describe a network of the book; shapes are not checked.

    Raises:
        KeyError: one is missing.
        ValueError: one has a wrong value; the message names it.
    """
    check_fields_of_section(fields, "content")
    _fields(_BOOK)(fields, "")


def check_fields_of_network(fields: Any) -> None:
    """Refuse fields that do not describe a network.

    Raises:
        KeyError: one is missing.
        ValueError: one has a wrong value; the message names it.
    """
    _fields(_NETWORK)(fields, "")
    _check_names(fields)


def check_fields_of_ensemble(fields: Any) -> None:
    """Refuse fields that do not describe an ensemble.

    Raises:
        KeyError: one is missing.
        ValueError: one has a wrong value; the message names it.
    """
    _fields(_ENSEMBLE)(fields, "")
    _check_names(fields)
    seeds, generators = len(fields["seeds"]), len(fields["generators"])
    if seeds != generators:
        raise ValueError(f"it has {seeds} seeds, and generators of {generators} members")


def _check_names(fields: Mapping[str, Any]) -> None:
    layers, names = len(fields["sizes"]) - 1, len(fields["activations"])
    if names != layers:
        raise ValueError(f"its {names} activations do not fit its sizes {fields['sizes']}")


def check_fields_of_run(fields: Any, totals: np.ndarray, dtype: str) -> None:
    """Refuse fields that do not describe a run.

    Args:
        fields: the fields.
        totals: the totals of the current epoch, to which each step adds a row.
        dtype: the network's dtype.

    Raises:
        KeyError: one is missing.
        ValueError: one has a wrong value, or two contradict each other; the message names them.
    """
    _fields(_RUN)(fields, "")
    _check_progress(fields, totals, dtype)
    _check_best(fields["best_epoch"], fields["history"])
    _check_alike(fields["history"], fields["settings"])


def check_fields_of_stack(fields: Any, totals: np.ndarray, dtype: str, n_members: int) -> None:
    """Refuse fields that do not describe a run of an ensemble with this many members.

    Raises:
        KeyError, ValueError: as for :func:`check_fields_of_run`.
    """
    _fields(_STACK)(fields, "")
    rows, members = fields["rows"], fields["members"]
    if len(members) != n_members or rows != sorted({*rows}) or rows[-1] >= n_members:
        raise ValueError(
            f"its rows {reprlib.repr(rows)} and the histories of {len(members)} members do not fit "
            f"an ensemble of {n_members}"
        )
    _check_progress(fields, totals, dtype, len(rows))
    for member in members:
        _check_best(member["best_epoch"], member["history"])
        _check_epochs(member["history"])
        _check_alike(member["history"], fields["settings"])


def _check_progress(fields: Any, totals: np.ndarray, dtype: str, *stack: int) -> None:
    """Refuse numbers of epochs and steps that contradict each other."""
    epoch, place, step = (fields[name] for name in ("epoch", "place", "step"))
    history = fields["history"]
    _check_epochs(history)
    if len(history) != epoch - 1:
        raise ValueError(f"it is in epoch {epoch}, and has the records of {len(history)} before")
    if step < place + len(history):
        raise ValueError(
            f"it has taken {step} steps, fewer than {len(history)} epochs and {place} steps have"
        )
    wanted = (place, *stack, 3)
    if (totals.shape, totals.dtype.name) != (wanted, dtype):
        raise ValueError(
            f"tensor 'totals' has shape {totals.shape} and dtype {totals.dtype}, where {place} "
            f"steps of the epoch make it {wanted} and {dtype}"
        )


def _check_epochs(history: Sequence[Mapping[str, Any]]) -> None:
    if [record["epoch"] for record in history] != [*range(1, len(history) + 1)]:
        raise ValueError("the epochs of its history do not follow one another from 1")


def _check_best(best: int | None, history: Sequence[Any]) -> None:
    if best is not None and best > len(history):
        raise ValueError(f"its best_epoch is {best}, of {len(history)} epochs")


def _check_alike(history: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Refuse records whose fields differ between epochs, or do not match the settings."""
    validates = bool(history) and history[0]["validation_cost"] is not None
    if history and isinstance(settings.get("validation data"), str) and not validates:
        raise ValueError("its history has no validation_cost, and its settings validation data")
    names = [_metric_name(one) for one in settings["metrics"]]
    measured = {f"validation_{name}" for name in names} if validates else set()
    for record in history:
        for name in ("accuracy", "validation_cost", "validation_accuracy"):
            if (record[name] is None) != (history[0][name] is None):
                raise ValueError(f"its history has {name} of some epochs only")
        if record["metrics"].keys() != measured:
            raise ValueError(
                f"its history has the metrics {sorted(record['metrics'])} of epoch "
                f"{record['epoch']}, and its settings {names}"
            )
