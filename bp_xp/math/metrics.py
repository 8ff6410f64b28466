"""Metrics: measures of a network's quality over a whole set of samples.

A metric takes outputs a and targets y, both of shape (N, O), and returns one number, shape (), in
the dtype of a. Nothing is fetched from the device.

For metrics of classes, row i of y is the class of sample i: 1 in one column, 0 in the others. The
predicted class is the first of the largest outputs. A single column is the probability of class 1,
which is predicted if it is above ½; it makes two classes. A ratio of 0/0 counts as 0.

Samples may have weights, shape (N,): weight k is the same as k copies of the sample, and weight 0
leaves it out.

Counts of samples are exact integers, and sums are taken block by block, so that float32 is accurate
enough for millions of rows.
"""

import functools
import inspect
from dataclasses import dataclass
from typing import Any, Protocol

from bp_xp import checks
from bp_xp._typing import Array, Namespace
from bp_xp.math.classes import probabilities
from bp_xp.math.rows import sum_rows

__all__ = ["METRICS", "Metric", "MetricFunction", "confusion_matrix", "top_k"]


class MetricFunction(Protocol):
    """A number for the outputs of a network on a set of samples."""

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        """Return the metric, shape (), for outputs and targets of (N, O), N at least 1.

        It may be compiled, so it must only compute with arrays. If the function has an argument
        ``weights``, it gets those of the samples, shape (N,), or None.
        """
        ...


@dataclass(frozen=True)
class Metric:
    """A metric with a name; calling it calls its function.

    Attributes:
        name: its name in records and messages.
        function: the metric, called as ``function(a, y, xp=xp)``; as ``function(a, y,
            weights=weights, xp=xp)`` if it has such an argument.
        needs_classes: whether each target must be one class.
        higher_is_better: whether a better network has a higher value; otherwise a lower one.

    Examples:
        The largest error, which is not built in:

        >>> worst = Metric(
        ...     "worst",
        ...     lambda a, y, *, xp: xp.max(xp.abs(a - y)),
        ...     needs_classes=False,
        ...     higher_is_better=False,
        ... )
    """

    name: str
    function: MetricFunction
    needs_classes: bool
    higher_is_better: bool

    @property
    def takes_weights(self) -> bool:
        """Whether the function has an argument ``weights``; if not, all samples count equally."""
        try:
            return "weights" in inspect.signature(self.function).parameters
        except (TypeError, ValueError):  # it has no readable signature
            return False

    def __call__(self, a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
        """Return the metric, shape (), for outputs and targets of (N, O), and weights of (N,).

        Raises:
            ValueError: there are weights, but the function does not take them.
        """
        if weights is None:
            return self.function(a, y, xp=xp)
        if not self.takes_weights:
            raise ValueError(
                f"the metric {self.name!r} takes no sample weights: its function has no argument "
                "weights."
            )
        weighted: Any = self.function
        return weighted(a, y, weights=weights, xp=xp)


# ---------------------------------------------------------------------------------------------
# Classes


def _columns(values: Array, *, xp: Namespace) -> Array:
    """Return the numbers of the columns, 0 ... K − 1, on the device of values; shape (1, K)."""
    ones = xp.ones_like(values[:1, :], dtype=xp.int32)
    return xp.cumulative_sum(ones, axis=-1, dtype=xp.int32) - 1


def _one_class(values: Array, *, xp: Namespace) -> Array:
    """Return whether each class is the sample's, shape (N, K); one column makes two classes."""
    if values.shape[-1] == 1:
        is_one = values > 0.5
        return xp.concat([xp.logical_not(is_one), is_one], axis=-1)
    largest = xp.argmax(values, axis=-1, keepdims=True)
    return largest == _columns(values, xp=xp)


def _count(truths: Array, weights: Array | None, dtype: Any, *, xp: Namespace) -> Array:
    """Return the total weight of the true rows of each column; without weights, their number."""
    if weights is None:
        return xp.astype(xp.sum(xp.astype(truths, xp.int32), axis=0), dtype)
    return sum_rows(xp.astype(truths, dtype) * weights[:, None], xp=xp)


def _total(a: Array, weights: Array | None, *, xp: Namespace) -> Any:
    """Return the total weight of all samples; without weights, N."""
    return a.shape[0] if weights is None else sum_rows(weights[:, None], xp=xp)[0]


class _Counts:
    """For each class, shape (K,): how many samples are of it, are predicted as it, and are both."""

    def __init__(self, a: Array, y: Array, weights: Array | None, *, xp: Namespace) -> None:
        told, true = (_one_class(values, xp=xp) for values in (a, y))
        self.told, self.true, self.right = (
            _count(truths, weights, a.dtype, xp=xp) for truths in (told, true, told & true)
        )


def _ratio(numerator: Array, denominator: Array, *, xp: Namespace) -> Array:
    """Return the ratio of two counts; 0 if the denominator is 0, as the numerator is then too."""
    return numerator / xp.where(denominator > 0.0, denominator, xp.ones_like(denominator))


def _mean_over(classes: Array, values: Array, *, xp: Namespace) -> Array:
    """Return the mean of the values of the marked classes."""
    weights = xp.astype(classes, values.dtype)
    return xp.sum(weights * values) / xp.sum(weights)


def _accuracy(a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
    # The share of correctly classified samples.
    right = xp.sum(_Counts(a, y, weights, xp=xp).right)
    return right / _total(a, weights, xp=xp)


class _OfClasses(Protocol):
    """A score of each class, from its counts."""

    def __call__(self, n: _Counts, *, xp: Namespace) -> Array:
        """Return the scores, shape (K,)."""
        ...


@dataclass(frozen=True)
class _Score:
    """A score of classes: of class 1 if there are two, otherwise the mean over those that occur.

    Attributes:
        of_classes: the score of each class.
        macro: whether to take the mean for two classes too.
    """

    of_classes: _OfClasses
    macro: bool = False

    def __call__(self, a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
        n = _Counts(a, y, weights, xp=xp)
        scores = self.of_classes(n, xp=xp)
        if scores.shape[0] == 2 and not self.macro:
            return scores[1, ...]
        return _mean_over(n.true + n.told > 0, scores, xp=xp)


def _precision(n: _Counts, *, xp: Namespace) -> Array:
    # Of the samples predicted as a class, the share that is of it.
    return _ratio(n.right, n.told, xp=xp)


def _recall(n: _Counts, *, xp: Namespace) -> Array:
    # Of the samples of a class, the share that is predicted as it.
    return _ratio(n.right, n.true, xp=xp)


def _f1(n: _Counts, *, xp: Namespace) -> Array:
    # The harmonic mean of precision and recall, 2 right / (told + true).
    return _ratio(2.0 * n.right, n.true + n.told, xp=xp)


def _balanced_accuracy(a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
    # The mean recall over the classes that have samples, not those that are only predicted.
    n = _Counts(a, y, weights, xp=xp)
    return _mean_over(n.true > 0, _recall(n, xp=xp), xp=xp)


def confusion_matrix(a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
    """Return how often samples of each class were predicted as each class.

    As a product of matrices with a 1 in each row: Trueᵀ Told

    Args:
        a: outputs, shape (N, O), N at most 2²⁴ in float32.
        y: targets, shape (N, O).
        weights: how much each sample counts, shape (N,), or None.
        xp: their namespace.

    Returns:
        Counts as int32, shape (K, K): row i, column j has the number of samples of class i that
        were predicted as class j. K is O, or 2 if O = 1. With weights, it has the total weight of
        these samples, in the dtype of a.
    """
    true, told = (xp.astype(_one_class(values, xp=xp), a.dtype) for values in (y, a))
    if weights is not None:
        return (true * weights[:, None]).mT @ told
    return xp.astype(true.mT @ told, xp.int32)


@functools.cache
def top_k(k: int) -> Metric:
    """Return the metric ``"top_<k>"``: how many samples have their class among the k best outputs.

    It is a share of the samples. Of equal outputs the first ranks higher, so that top_1 is the
    accuracy. (scikit-learn's ``top_k_accuracy_score`` prefers the last.) With k classes or fewer
    every sample counts, unless its outputs are NaN.

    Args:
        k: at least 1.

    Raises:
        TypeError: k is not an integer.
        ValueError: k is below 1.
    """
    k = checks.check_integer(k, "k")
    return Metric(
        f"top_{k}", functools.partial(_top, k=k), needs_classes=True, higher_is_better=True
    )


def _top(a: Array, y: Array, *, k: int, weights: Array | None = None, xp: Namespace) -> Array:
    true = _one_class(y, xp=xp)
    a = probabilities(a, xp=xp)
    columns = _columns(a, xp=xp)
    own = xp.sum(xp.where(true, a, xp.zeros_like(a)), axis=-1, keepdims=True)
    place = xp.argmax(xp.astype(true, xp.int32), axis=-1, keepdims=True)
    # This includes its own output; a comparison with NaN is false.
    no_better = (a < own) | ((a == own) & (columns >= place))
    behind = xp.sum(xp.astype(no_better, xp.int32), axis=-1, keepdims=True)
    hits = behind > a.shape[-1] - min(k, a.shape[-1])
    return _count(hits, weights, a.dtype, xp=xp)[0] / _total(a, weights, xp=xp)


_BINS = 15


def _expected_calibration_error(
    a: Array, y: Array, *, weights: Array | None = None, xp: Namespace
) -> Array:
    # Σ_b (n_b / N) |accuracy(b) − confidence(b)| over bins b of equal width, where a sample's
    # confidence is its largest output: how far the confidence is from the share of correct ones
    # (Guo, Pleiss, Sun and Weinberger, *On calibration of modern neural networks*, ICML 2017, eq.
    # 5, with their 15 bins). In each bin both means have the factor n_b / N.
    right = xp.any(_one_class(a, xp=xp) & _one_class(y, xp=xp), axis=-1, keepdims=True)
    confidence = xp.max(probabilities(a, xp=xp), axis=-1, keepdims=True)
    gap = _weigh(xp.astype(right, a.dtype) - confidence, weights)
    columns = []
    for b in range(_BINS):
        inside = confidence <= (b + 1) / _BINS
        if b:
            inside = inside & (confidence > b / _BINS)
        columns.append(xp.where(inside, gap, xp.zeros_like(gap)))
    gaps = sum_rows(xp.concat(columns, axis=-1), xp=xp)
    return xp.sum(xp.abs(gaps)) / _total(a, weights, xp=xp)


# ---------------------------------------------------------------------------------------------
# Numbers


def _weigh(values: Array, weights: Array | None) -> Array:
    """Return the rows times their weights."""
    return values if weights is None else values * weights[:, None]


def _mean_rows(values: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """Return the mean of each column, shape (O,)."""
    return sum_rows(_weigh(values, weights), xp=xp) / _total(values, weights, xp=xp)


def _mae(a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
    # mean |a − y| over samples and outputs
    return xp.mean(_mean_rows(xp.abs(a - y), weights, xp=xp))


def _mse(a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
    # mean (a − y)² over samples and outputs
    residual = a - y
    return xp.mean(_mean_rows(residual * residual, weights, xp=xp))


def _r2(a: Array, y: Array, *, weights: Array | None = None, xp: Namespace) -> Array:
    # 1 − Σ(a − y)² / Σ(y − ȳ)² for each output, then the mean over outputs. An output whose
    # targets are all the same scores 1 if every target is met exactly, otherwise 0.
    residual = a - y
    unexplained = sum_rows(_weigh(residual * residual, weights), xp=xp)
    # Equal targets differ by exactly 0 from the first of them, but maybe not from the rounded mean.
    deviation = y - _first_row(y, weights, xp=xp)
    deviation = deviation - _mean_rows(deviation, weights, xp=xp)
    total = sum_rows(_weigh(deviation * deviation, weights), xp=xp)
    varies = total > 0.0
    met = xp.astype(unexplained == 0.0, a.dtype)
    scores = xp.where(varies, 1.0 - unexplained / xp.where(varies, total, met + 1.0), met)
    score = xp.mean(scores)
    if weights is None:
        return score if a.shape[0] > 1 else score * float("nan")  # one sample has no variance
    several = xp.sum(xp.astype(weights > 0.0, xp.int32)) > 1
    return xp.where(several, score, score * float("nan"))


def _first_row(y: Array, weights: Array | None, *, xp: Namespace) -> Array:
    """Return the first row that counts, shape (1, O)."""
    if weights is None:
        return y[:1, :]
    first = xp.argmax(xp.astype(weights > 0.0, xp.int32), axis=0, keepdims=True)
    return xp.take(y, first, axis=0)


# ---------------------------------------------------------------------------------------------
# Names

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _accuracy, needs_classes=True, higher_is_better=True),
        Metric("balanced_accuracy", _balanced_accuracy, needs_classes=True, higher_is_better=True),
        Metric("precision", _Score(_precision), needs_classes=True, higher_is_better=True),
        Metric("recall", _Score(_recall), needs_classes=True, higher_is_better=True),
        Metric("f1", _Score(_f1), needs_classes=True, higher_is_better=True),
        *(
            Metric(name, _Score(score, macro=True), needs_classes=True, higher_is_better=True)
            for name, score in (
                ("precision_macro", _precision),
                ("recall_macro", _recall),
                ("f1_macro", _f1),
            )
        ),
        Metric(
            "expected_calibration_error",
            _expected_calibration_error,
            needs_classes=True,
            higher_is_better=False,
        ),
        Metric("r2", _r2, needs_classes=False, higher_is_better=True),
        Metric("mae", _mae, needs_classes=False, higher_is_better=False),
        Metric("mse", _mse, needs_classes=False, higher_is_better=False),
    )
}
"""The built-in metrics, by name; for ``"top_<k>"``, with any k, see :func:`top_k`.

For two classes, precision, recall and f1 are those of class 1, as in scikit-learn by default. For
more classes they are the mean over the classes that occur, ``average="macro"``;
``precision_macro``, ``recall_macro`` and ``f1_macro`` are this mean for two classes as well.
Balanced accuracy is the mean recall of the classes that have samples. The expected calibration
error is that of the largest output, in 15 bins of equal width. The others are the same as in
scikit-learn with ``zero_division=0``; as there, r2 of one sample is NaN.

All take the weights of the samples. A class whose samples all have weight 0 does not occur.
"""
