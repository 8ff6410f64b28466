"""The training and validation samples of an ensemble's members, from one set of samples.

The samples are on the device once. A member that learns from some of them, such as a fold or a
bootstrap sample, has the numbers of its rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from bp_xp._caller import named
from bp_xp.backends import Placement, to_numpy
from bp_xp.sources import MemorySource, Samples, Source
from bp_xp.sources.intake import check_sample_weight
from bp_xp.sources.samples import (
    hold_out,
    make_samples,
    parts_of_validation,
    rows_to_hold_out,
    weigh_classes,
)
from bp_xp.sources.sparse import take_rows
from bp_xp.sources.stack import RowsSource
from bp_xp.training.arguments import PerMember, per_member

__all__ = ["Judges", "StackData", "make_data"]


class StackData(NamedTuple):
    """The training and validation samples of the members.

    Attributes:
        samples: the samples; the weights may differ between members, shape (members, N).
        rows: the numbers of the rows that each member learns from, (members, n), or None for all.
        validation: samples to validate all members on, or None.
        held_out: the numbers of the rows to validate each member on, or None.
        judged: the samples that ``held_out`` refers to, if their weights differ.
    """

    samples: Samples
    rows: np.ndarray | None = None
    validation: Samples | None = None
    held_out: Sequence[np.ndarray] | None = None
    judged: Samples | None = None

    @property
    def n_rows(self) -> int:
        """The number of samples that each member learns from in an epoch."""
        return self.samples.x.shape[0] if self.rows is None else self.rows.shape[1]

    @property
    def is_validated(self) -> bool:
        """Whether there are validation samples."""
        return self.validation is not None or self.held_out is not None

    @property
    def some_validation(self) -> Samples | None:
        """Samples like the validation samples of the first member, or None."""
        if self.held_out is None:
            return self.validation
        return _of_member(self.judged or self.samples, 0)


def make_data(
    ensemble: Any,
    x: Any,
    y: Any,
    *,
    sample_weight: Any,
    class_weight: Any,
    rows: Any,
    validation_data: Any,
    validation_rows: Any,
    shared_order: bool,
    generators: Sequence[np.random.Generator],
) -> StackData:
    """Return the samples of the members; see :meth:`bp_xp.Ensemble.fit`.

    Args:
        ensemble: the ensemble.
        x: inputs.
        y: labels or targets.
        sample_weight: how much each sample counts.
        class_weight: how much each class counts.
        rows: the rows that each member learns from, or None.
        validation_data: samples to validate on, or a share to hold out, or None.
        validation_rows: the rows to validate each member on, or None.
        shared_order: whether all members hold out the same rows.
        generators: those of the ensemble and the members, which draw held-out and bootstrap rows.

    Raises:
        ValueError: an argument does not fit; the message says which.
        TypeError: an argument has the wrong type.
    """
    own_rows = rows is not None or validation_rows is not None
    if validation_data is not None and (
        validation_rows is not None or (own_rows and _is_share(validation_data))
    ):
        raise ValueError(
            "with rows, pass validation_rows, or validation_data as (x, y): not both, and not a "
            "share to hold out."
        )
    if own_rows:
        samples = _weighed(ensemble, x, y, sample_weight, None)
        n, n_members = samples.x.shape[0], len(ensemble)
        learned = _learned(rows, n_members, n, generators[1:])
        data = StackData(samples, rows=learned, judged=samples)
        if class_weight is not None:
            data = data._replace(samples=_weigh_rows(ensemble, samples, learned, class_weight))
        if validation_rows is not None:
            data = data._replace(held_out=_each(validation_rows, n_members, n))
    else:
        data = StackData(_weighed(ensemble, x, y, sample_weight, class_weight))
        if _is_share(validation_data):
            drawn_by = generators[:1] if shared_order else generators[1:]
            return _parted(ensemble, data.samples, validation_data, shared_order, drawn_by)
    if validation_data is not None:
        data = data._replace(validation=_given(ensemble, validation_data))
    return data


def _is_share(validation_data: Any) -> TypeGuard[float]:
    return isinstance(validation_data, int | float)


def _where(ensemble: Any) -> dict[str, Any]:
    return {"placement": ensemble.placement, "dtype": ensemble.dtype}


def _weighed(ensemble: Any, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> Samples:
    """Return the samples with their weights, (N,), or (members, N) if they differ."""
    where, n_members = _where(ensemble), len(ensemble)
    if np.ndim(sample_weight) == 2:
        sample_weight = PerMember(sample_weight)
    if not isinstance(sample_weight, PerMember):
        samples = make_samples(ensemble.model, x, y, sample_weight, **where, sparse=True)
        return samples if class_weight is None else weigh_classes(samples, class_weight, **where)
    samples = make_samples(ensemble.model, x, y, **where, sparse=True)
    each = [
        samples._replace(
            weights=check_sample_weight(one, "sample_weight", rows=samples.x.shape[0], **where)
        )
        for one in per_member(sample_weight, n_members, "sample_weight")
    ]
    if class_weight is not None:
        each = [weigh_classes(one, class_weight, **where) for one in each]
    return samples._replace(weights=ensemble.xp.stack([one.weights for one in each]))


def _of_member(samples: Samples, member: int) -> Samples:
    """Return the samples with the weights that they have for a member."""
    if samples.weights is None or samples.weights.ndim == 1:
        return samples
    return samples._replace(weights=samples.weights[member, ...])


# ---------------------------------------------------------------------------------------------
# Rows of each member


def _learned(
    rows: Any, n_members: int, n: int, generators: Sequence[np.random.Generator]
) -> np.ndarray:
    """Return the numbers of the rows that each member learns from, shape (members, n)."""
    if isinstance(rows, str):
        if rows != "bootstrap":
            raise ValueError(
                f"rows must be numbers of rows, PerMember, 'bootstrap' or None, not {rows!r}."
            )
        return np.stack([one.integers(n, size=n) for one in generators])
    each = [np.arange(n)] * n_members if rows is None else _each(rows, n_members, n, "rows")
    if len(counts := {len(one) for one in each}) > 1:
        raise ValueError(
            "all members of an ensemble must have the same number of rows, but rows has from "
            f"{min(counts)} to {max(counts)}: make an ensemble for each number."
        )
    return np.stack(each)


def _each(rows: Any, n_members: int, n: int, name: str = "validation_rows") -> list[np.ndarray]:
    """Return the numbers of rows of each member."""
    each = per_member(rows, n_members, name)
    return [np.arange(n) if one is None else _numbers(one, n, name) for one in each]


def _numbers(rows: Any, n: int, name: str) -> np.ndarray:
    """Return numbers of rows; a boolean mask is converted to the numbers of its rows."""
    numbers = np.asarray(to_numpy(rows))
    if numbers.dtype == bool and numbers.shape == (n,):
        numbers = np.flatnonzero(numbers)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"{named(name)} must be the numbers of rows, or a mask of the {n} rows, for all "
            "members or PerMember with one for each, and mark at least one row."
        )
    if numbers.min() < 0 or numbers.max() >= n:
        raise ValueError(
            f"{named(name)} has the numbers {numbers.min()} to {numbers.max()}, but there are "
            f"{n} rows, from 0."
        )
    return numbers.astype(np.int64)


def _weigh_rows(ensemble: Any, samples: Samples, rows: np.ndarray, class_weight: Any) -> Samples:
    """Return the samples with class weights for each member, from the classes of its own rows."""
    where, n = _where(ensemble), samples.x.shape[0]
    each = []
    for member, numbers in enumerate(rows):
        own = _of_member(samples, member)
        arrays = take_rows(own.arrays, numbers, ensemble.placement)
        taken = Samples(arrays[0], arrays[1], samples.has_classes, *arrays[2:])
        weights = np.zeros(n)
        weights[numbers] = to_numpy(weigh_classes(taken, class_weight, **where).weights)
        each.append(weights)
    return samples._replace(weights=ensemble.placement.asarray(np.stack(each), ensemble.dtype))


# ---------------------------------------------------------------------------------------------
# Validation samples


def _given(ensemble: Any, validation_data: Any) -> Samples:
    """Return the samples that were given to validate all members on."""
    parts = parts_of_validation(validation_data)
    where = _where(ensemble)
    return make_samples(ensemble.model, *parts, **where, prefix="validation ", sparse=True)


def _parted(
    ensemble: Any,
    samples: Samples,
    share: float,
    shared_order: bool,
    generators: Sequence[np.random.Generator],
) -> StackData:
    """Return the samples, and the held-out ones, which each generator draws."""
    placement = ensemble.placement
    if shared_order and (samples.weights is None or samples.weights.ndim == 1):
        first, second = hold_out(samples, share, generators[0], placement=placement)
        return StackData(first, validation=second)
    parts = rows_to_hold_out(samples, share, generators, placement=placement)
    learned, held_out = (np.stack(side) for side in zip(*parts, strict=True))
    if shared_order:
        learned, held_out = (np.tile(side, (len(ensemble), 1)) for side in (learned, held_out))
    return StackData(samples, rows=learned, held_out=list(held_out))


class Judges(Sequence[Source]):
    """The validation samples of each network of the stack, by its row.

    Args:
        data: the samples, and those to validate on.
        members: the numbers of the members in the stack; the list changes as they leave.
        placement: library and device.
    """

    def __init__(self, data: StackData, members: list[int], placement: Placement) -> None:
        self._data, self._members, self._placement = data, members, placement

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, row: Any) -> Any:
        if self._data.validation is not None:
            return MemorySource(self._data.validation, self._placement)
        assert self._data.held_out is not None
        member = self._members[row]
        samples = _of_member(self._data.judged or self._data.samples, member)
        return RowsSource(samples, self._data.held_out[member], self._placement)
