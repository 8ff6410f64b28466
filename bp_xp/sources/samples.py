"""Samples: inputs, targets and weights on one device, made from user arguments."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.math.classes import probabilities
from bp_xp.math.costs import MatchedCost
from bp_xp.math.model import Model
from bp_xp.math.rows import sum_rows
from bp_xp.sources import intake
from bp_xp.sources.sparse import SparseInputs, take_rows

__all__ = [
    "Samples",
    "count_classes",
    "hold_out",
    "make_samples",
    "make_targets",
    "parts_of_validation",
    "rows_to_hold_out",
    "split_rows",
    "weigh",
    "weigh_classes",
]


class Samples(NamedTuple):
    """Samples with their targets, on one device.

    Attributes:
        x: inputs, shape (N, I); sparse ones are on the host.
        y: targets, shape (N, O).
        has_classes: whether each target is one class, so that there is an accuracy.
        weights: how much each sample counts, shape (N,), or None if all count equally.
    """

    x: Array | SparseInputs
    y: Array
    has_classes: bool
    weights: Array | None = None

    @property
    def weighted(self) -> bool:
        """Whether samples have weights."""
        return self.weights is not None

    @property
    def arrays(self) -> list[Array | SparseInputs]:
        """The arrays that mini-batches are cut from."""
        return [self.x, self.y] if self.weights is None else [self.x, self.y, self.weights]


def make_samples(
    model: Model,
    x: Any,
    y: Any,
    weights: Any = None,
    *,
    placement: Placement,
    dtype: str,
    prefix: str = "",
    x_name: str | None = None,
    sparse: bool = False,
    partial: bool = False,
) -> Samples:
    """Return inputs and targets on the device; labels become targets.

    Args:
        model: what the network computes, which determines the targets that it accepts.
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets, shape (N, O).
        weights: how much each sample counts, shape (N,), or None.
        placement: the network's library and device.
        dtype: the network's dtype.
        prefix: the prefix of ``x`` and ``y`` in messages.
        x_name: the name of the inputs in messages; None is ``x``.
        sparse: whether the inputs may be a sparse matrix.
        partial: whether these are a part of a larger set. Then small integers on the host keep
            their dtype, and become floats when they are used; and all weights may be zero.

    Raises:
        ValueError: shapes do not fit, a label is not a class, or a value is not finite.
        TypeError: an array belongs to another library, or the values are not numbers.
    """
    where: dict[str, Any] = {"placement": placement, "dtype": dtype}
    x_name = x_name or f"{prefix}x"
    if sparse:
        x = intake.check_inputs(x, x_name, columns=model.sizes[0], **where)
    else:
        x = intake.check_samples(x, x_name, columns=model.sizes[0], keep_bytes=partial, **where)
    rows = x.shape[0]
    targets, has_classes = make_targets(model, y, f"{prefix}y", rows, **where)
    if weights is not None:
        name = f"{prefix}sample_weight"
        weights = intake.check_sample_weight(weights, name, rows=rows, partial=partial, **where)
    return Samples(x, targets, has_classes, weights)


def make_targets(
    model: Model, y: Any, name: str, rows: int, *, placement: Placement, dtype: str
) -> tuple[Array, bool]:
    """Return targets on the device, and whether each is one class."""
    where: dict[str, Any] = {"placement": placement, "dtype": dtype}
    outputs, classifies = model.sizes[-1], model.classifies
    y = intake.check_targets(y, name, rows=rows, **where)
    if y.ndim == 1 and (classifies or outputs > 1):  # labels
        return intake.one_hot(y, name, classes=outputs, **where), classifies
    if y.ndim == 1:  # one number per sample, for the single output of a regression
        y = intake.check_samples(y[:, None], name, columns=1, **where)
    if y.shape[1] != outputs:
        raise ValueError(
            f"{named(name)} has {y.shape[1]} columns, but the network has {outputs} outputs: "
            f"it takes targets of shape (n_samples, {outputs}), or labels of shape (n_samples,)."
        )
    matched = isinstance(model.cost, MatchedCost)
    one_class = intake.check_target_range(
        y,
        name,
        bounded=matched and classifies,
        exclusive=matched and model.activations[-1].coupled,
        placement=placement,
    )
    return y, one_class and classifies


def parts_of_validation(validation_data: Any) -> Sequence[Any]:
    """Return (x, y) or (x, y, sample weights).

    Raises:
        TypeError: the value has another form.
    """
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        came = type(validation_data).__name__
        size = f" of {len(validation_data)}" if hasattr(validation_data, "__len__") else ""
        raise TypeError(
            "validation_data must be (x, y) or (x, y, sample weights), or the share of the samples "
            f"to hold out, such as 0.2, not a {came}{size}."
        )
    return validation_data


def weigh_classes(
    samples: Samples, class_weight: Any, *, placement: Placement, dtype: str
) -> Samples:
    """Return the samples with each one's weight times that of its class.

    Raises:
        ValueError: the targets are not classes, or the weights are for other classes.
        TypeError: ``class_weight`` is neither a dictionary nor ``"balanced"``.
    """
    if not samples.has_classes:
        raise ValueError(f"{named('class_weight')} needs targets that are one class each.")
    per_class = intake.check_class_weight(class_weight, count_classes(samples.y, placement))
    return weigh(samples, per_class, placement=placement, dtype=dtype)


def count_classes(y: Array, placement: Placement) -> np.ndarray:
    """Return the number of samples of each class, shape (K,), for targets (N, O)."""
    y = probabilities(y, xp=placement.xp)
    return to_numpy(sum_rows(y, xp=placement.xp))


def weigh(samples: Samples, per_class: np.ndarray, *, placement: Placement, dtype: str) -> Samples:
    """Return the samples with each one's weight times that of its class; class weights are (K,)."""
    y = probabilities(samples.y, xp=placement.xp)
    weights = y @ placement.asarray(per_class, dtype)
    if samples.weights is not None:
        weights = weights * samples.weights
    return samples._replace(weights=weights)


def hold_out(
    samples: Samples, fraction: Any, generator: np.random.Generator, *, placement: Placement
) -> tuple[Samples, Samples]:
    """Return training and validation samples, split at random, by class if there are any.

    Args:
        samples: all samples.
        fraction: the share of the second part, above 0 and below 1.
        generator: draws the split.
        placement: their library and device.

    Raises:
        ValueError: the share is out of range, or a part would be empty.
        TypeError: the share is not a number.
    """
    parts = rows_to_hold_out(samples, fraction, [generator], placement=placement)[0]
    first, second = (take_rows(samples.arrays, rows, placement) for rows in parts)
    return (
        Samples(first[0], first[1], samples.has_classes, *first[2:]),
        Samples(second[0], second[1], samples.has_classes, *second[2:]),
    )


def rows_to_hold_out(
    samples: Samples,
    fraction: Any,
    generators: Sequence[np.random.Generator],
    *,
    placement: Placement,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each generator the numbers of the rows of both parts; see :func:`hold_out`."""
    checks.check_number(
        fraction, "validation_data, as the share to hold out,", above=0.0, below=1.0
    )
    labels = _labels(samples.y, placement.xp) if samples.has_classes else None
    return [split_rows(samples.x.shape[0], fraction, labels, one) for one in generators]


def _labels(y: Array, xp: Namespace) -> np.ndarray:
    return to_numpy(xp.argmax(y, axis=1) if y.shape[1] > 1 else y[:, 0])


def split_rows(
    n: int, fraction: float, labels: np.ndarray | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows 0 .. n − 1 in two at random.

    Args:
        n: the number of rows.
        fraction: the share of the second part.
        labels: the class of each row, shape (n,), to take the same share of each class; or None.
        generator: draws the split.

    Returns:
        The numbers of the rows of both parts, in order.

    Raises:
        ValueError: a part would be empty.
    """
    order = generator.permutation(n)
    groups = [order] if labels is None else [order[labels[order] == c] for c in np.unique(labels)]
    # Rounding each class separately could leave none: the cumulative shares are rounded instead.
    ends = np.round(np.cumsum([fraction * len(group) for group in groups])).astype(int)
    counts = np.diff(ends, prepend=0)
    second = [group[:k] for group, k in zip(groups, counts, strict=True)]
    first = [group[k:] for group, k in zip(groups, counts, strict=True)]
    parts = np.sort(np.concatenate(first)), np.sort(np.concatenate(second))
    if not all(map(len, parts)):
        raise ValueError(
            f"{named('validation_data', fraction)} leaves {len(parts[0])} of {n} samples to train "
            f"on and {len(parts[1])} to validate on: both need at least one."
        )
    return parts
