"""Folds: which rows a run learns, and which it is judged by."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp.backends import to_numpy

__all__ = ["Fold", "held_out", "judged_by", "make_folds"]


class Fold(NamedTuple):
    """The numbers of the rows that a run learns, and of those that it is judged by."""

    learned: np.ndarray
    judged: np.ndarray


def make_folds(y: Any, folds: Any, generator: np.random.Generator) -> tuple[Fold, ...]:
    """Return the folds: given, as numbers of rows or masks of them, or drawn.

    Raises:
        ValueError, TypeError: there are too few samples, or rows that do not exist.
    """
    if folds is None:
        return ()
    if isinstance(folds, str) or hasattr(folds, "split"):
        raise TypeError(
            f"folds must be a number, or pairs of rows such as KFold(3).split(x), not {folds!r}."
        )
    if not isinstance(folds, Iterable):
        return tuple(_divided(y, checks.check_integer(folds, "folds", least=2), generator))
    pairs = tuple(_pair(fold, pair, len(y)) for fold, pair in enumerate(folds))
    if not pairs:
        raise ValueError("folds has no pair of rows.")
    return pairs


def _pair(fold: int, pair: Any, n: int) -> Fold:
    """Return a given fold of n rows."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TypeError(f"fold {fold} must be a pair (rows to learn, rows to judge by).")
    return Fold(*(_numbers(rows, fold, n) for rows in pair))


def _numbers(rows: Any, fold: int, n: int) -> np.ndarray:
    """Return the numbers of some of n rows, which may be a mask."""
    numbers = np.asarray(rows)
    numbers = np.flatnonzero(numbers) if numbers.dtype == bool else numbers
    if not numbers.size:
        raise ValueError(f"fold {fold} has no rows to learn, or none to judge by.")
    outside = ~np.isin(numbers, np.arange(n))
    if outside.any():
        raise ValueError(
            f"fold {fold} has the row {numbers[outside].flat[0]}, and there are {n} rows, from 0."
        )
    return numbers.astype(np.int64)


def _divided(y: Any, k: int, generator: np.random.Generator) -> list[Fold]:
    """Return k random folds, each with the same share of each class."""
    order = _class_by_class(y, generator)
    if k > len(order):
        raise ValueError(f"there are {len(order)} samples, which can't be divided into {k} folds.")
    return [judged_by(order[i::k], len(order)) for i in range(k)]


def held_out(y: Any, share: float, generator: np.random.Generator) -> Fold:
    """Return a fold that is judged by a share of the samples, the same for each class."""
    checks.check_number(share, "validation_data", above=0.0, below=1.0)
    order = _class_by_class(y, generator)
    so_far = np.floor(share * np.arange(len(order) + 1) + 0.5)
    return judged_by(order[np.diff(so_far) > 0], len(order))


def _class_by_class(y: Any, generator: np.random.Generator) -> np.ndarray:
    """Return the numbers of all rows, one class after the other, each in random order."""
    targets = np.asarray(y if isinstance(y, np.ndarray | list | tuple) else to_numpy(y))
    of_sample = np.argmax(targets, axis=1) if targets.ndim == 2 else targets
    order = generator.permutation(len(targets))
    return order[np.argsort(of_sample[order], kind="stable")]


def judged_by(rows: np.ndarray, n: int) -> Fold:
    """Return the fold of n samples that is judged by some rows, and learns the others."""
    return Fold(np.setdiff1d(np.arange(n), rows), np.sort(rows))
