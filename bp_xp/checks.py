"""Checks of names and numbers that users pass.

Each function returns its argument in the form that the rest of bp_xp expects, or raises an error
that says what was expected, what was found, and what to do. Arrays are checked in
:mod:`bp_xp.sources.intake`.
"""

import difflib
import math
import numbers
import operator
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from bp_xp._caller import named

__all__ = [
    "check_batch_size",
    "check_choice",
    "check_integer",
    "check_memory",
    "check_number",
    "check_seed",
    "check_sizes",
    "did_you_mean",
    "one_for_each",
    "warn",
]

T = TypeVar("T")


# ---------------------------------------------------------------------------------------------
# Names and numbers


def check_choice(value: str | T, choices: Mapping[str, T], what: str) -> T:
    """Return the object that a name refers to; any other object is returned unchanged.

    Raises:
        ValueError: there is no such name; the message lists the names and the closest one.
    """
    if not isinstance(value, str):
        return value
    if value in choices:
        return choices[value]
    names = ", ".join(map(repr, choices))
    raise ValueError(
        f"unknown {what} {value!r}: choose one of {names}.{did_you_mean(value, choices)}"
    )


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return a question with the names that are closest to a word; empty if none is close."""
    near = difflib.get_close_matches(word.lower(), list(names), n=2)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def one_for_each(value: Any, n: int, name: str, things: str) -> list[Any]:
    """Return a list of n values: the items of a list or tuple, anything else n times."""
    values = list(value) if isinstance(value, list | tuple) else [value] * n
    if len(values) != n:
        raise ValueError(
            f"{named(name)} must be a single value, or one for each of the {n} {things}, not "
            f"{len(values)}."
        )
    return values


def check_number(
    value: Any,
    name: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """Return a finite real number within a range; TypeError and ValueError say what it must be."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{named(name)} must be a number, not {value!r}.{_advice_of(value)}")
    number = float(value)
    if not (math.isfinite(number) and above < number < below and least <= number <= most):
        bounds = [
            f"above {above:g}" if above > -math.inf else "",
            f"at least {least:g}" if least > -math.inf else "",
            f"below {below:g}" if below < math.inf else "",
            f"at most {most:g}" if most < math.inf else "",
        ]
        wanted = " and ".join(filter(None, ["finite", *bounds]))
        raise ValueError(f"{named(name)} must be {wanted}, not {value!r}.")
    return number


def _advice_of(value: Any) -> str:
    """Return a value's own advice for being passed as a number, as PerMember has; else empty."""
    misplaced = getattr(value, "misplaced", None)
    return f" {misplaced}" if isinstance(misplaced, str) else ""


def check_integer(value: Any, name: str, *, least: int = 1) -> int:
    """Return an integer of at least ``least``; TypeError and ValueError say what it must be."""
    try:
        if isinstance(value, bool):
            raise TypeError
        integer = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{named(name)} must be an integer of at least {least}, not {value!r}."
            f"{_advice_of(value)}"
        ) from None
    if integer < least:
        raise ValueError(f"{named(name)} must be at least {least}, not {value!r}.")
    return integer


def check_seed(seed: Any) -> int:
    """Return a seed; None draws one from the operating system, so that a run can be repeated."""
    if seed is None:
        return int.from_bytes(os.urandom(6), "little")
    return check_integer(seed, "seed", least=0)


def check_sizes(sizes: Any) -> tuple[int, ...]:
    """Return the sizes of the layers, two or more, each at least 1."""
    if isinstance(sizes, str) or not isinstance(sizes, Sequence | np.ndarray):
        raise TypeError(
            f"sizes must be a list of layer sizes such as [784, 30, 10], not {sizes!r}."
        )
    if len(sizes) < 2:
        raise ValueError(
            f"{named('sizes')} must hold at least the inputs and the outputs, as in "
            f"{named('sizes', [784, 10])}, not {list(sizes)}."
        )
    return tuple(check_integer(size, f"sizes[{i}]") for i, size in enumerate(sizes))


def check_batch_size(batch_size: Any, n: int) -> int:
    """Return a batch size of at most n samples; a larger one is reduced with a warning."""
    if batch_size is None:
        return min(32, n)
    size = check_integer(batch_size, "batch_size")
    if size > n:
        warn(
            f"{named('batch_size', size)} is more than the {n} samples: each epoch is one batch of "
            f"{n}."
        )
    return min(size, n)


def check_memory(sizes: Sequence[int]) -> None:
    """Refuse a network whose parameters would not fit in the machine's memory.

    Raises:
        MemoryError: before anything is allocated; the message names the largest layer.
    """
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    counts = [n_out * (n_in + 1) for n_out, n_in in shapes]
    # All layers, plus the values that are drawn and scaled for the largest.
    wanted = 8 * sum(counts) + 16 * max(counts)
    try:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system reports it
        return
    if wanted > available:
        n_out, n_in = max(shapes, key=lambda shape: shape[0] * shape[1])
        raise MemoryError(
            f"a network of sizes {list(sizes)} needs {wanted:,} bytes for its initial parameters, "
            f"and this machine has {available:,}; the largest layer has weights of shape "
            f"({n_out}, {n_in}): make it smaller."
        )


def warn(message: str) -> None:
    """Warn, with the line outside of bp_xp that led here as the location."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "bp_xp":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
