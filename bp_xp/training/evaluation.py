"""Judging parameters: cost, accuracy and other metrics over samples, fetched at the end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.engines import Elementwise, argmax
from bp_xp.math.backprop import cost_of_samples, feedforward, forward
from bp_xp.math.metrics import METRICS, Metric
from bp_xp.math.model import Model
from bp_xp.math.rows import sum_rows
from bp_xp.sources import Source

__all__ = ["ROWS_AT_ONCE", "evaluate", "means_of", "measure", "totals_of"]

ROWS_AT_ONCE = 4096
"""Samples that go through a network at once where no step follows."""


def totals_of(
    model: Model,
    has_classes: bool,
    xp: Namespace,
    z: Array,
    y: Array,
    weights: Array | None = None,
    *,
    argmax: Elementwise = argmax,
) -> Array:
    """Return the sums over samples of their cost, of how many are classified correctly, of weight.

    Args:
        model: what the network computes.
        has_classes: whether each target is one class.
        xp: the namespace of the arrays.
        z: zᴸ, shape (..., N, O).
        y: targets, shape (..., N, O).
        weights: how much each sample counts, shape (..., N), or None.
        argmax: the engine's.

    Returns:
        Shape (..., 3).
    """
    cost = cost_of_samples(model, z, y, xp=xp)
    correct = xp.zeros_like(cost)
    if has_classes:
        correct = xp.astype(_are_correct(model, z, y, argmax, xp=xp), z.dtype)
    columns = [cost, correct, xp.ones_like(cost)]
    if weights is not None:
        columns = [cost * weights, correct * weights, weights]
    return xp.concat([sum_rows(column[..., None], xp=xp) for column in columns], axis=-1)


def _are_correct(model: Model, z: Array, y: Array, argmax: Elementwise, *, xp: Namespace) -> Array:
    """Return whether each sample's class is the one that the network tells, shape (..., N)."""
    a = model.activations[-1].sigma(z, xp=xp)
    if a.shape[-1] == 1:
        return ((a > 0.5) == (y > 0.5))[..., 0]
    return argmax(a, xp=xp) == argmax(y, xp=xp)


def means_of(totals: Array, has_classes: bool) -> tuple[float, float | None]:
    """Return mean cost and accuracy from totals on the host, shape (n, 3), added up in float64.

    The accuracy is None where there are no classes.
    """
    cost, correct, weight = np.asarray(totals, np.float64).sum(axis=0)
    return float(cost / weight), float(correct / weight) if has_classes else None


def _evaluation(
    model: Model,
    has_classes: bool,
    argmax: Elementwise,
    xp: Namespace,
    layers: Sequence[Layer],
    x: Array,
    *given: Array,
) -> Array:
    """Return the totals of samples that are not trained on, given y and perhaps weights."""
    z = forward(model, layers, x, xp=xp).zs[-1]
    return totals_of(model, has_classes, xp, z, *given, argmax=argmax)


def evaluate(
    model: Model, layers: Sequence[Layer], source: Source, *, placement: Placement
) -> tuple[float, float | None]:
    """Return mean cost and accuracy over samples; without classes, None for the accuracy."""
    engine, xp = placement.engine, placement.xp
    judge = engine.compile(_evaluation, model, source.has_classes, engine.argmax, xp)
    totals = [judge(layers, *block) for block in source.blocks(ROWS_AT_ONCE)]
    return means_of(to_numpy(xp.stack(totals)), source.has_classes)


def measure(
    model: Model,
    layers: Sequence[Layer],
    source: Source,
    metrics: Sequence[Metric],
    *,
    placement: Placement,
) -> dict[str, Any]:
    """Return the value of each metric over samples: a number, or a NumPy array.

    Of the accuracy there is one value, that of :func:`evaluate`: it is left out here. A metric that
    takes no weights counts all samples alike.
    """
    metrics = [metric for metric in metrics if metric is not METRICS["accuracy"]]
    if not metrics:
        return {}
    xp = placement.xp
    predict = placement.engine.compile(_outputs, model, xp)
    blocks = [(predict(layers, x), *rest) for x, *rest in source.blocks(ROWS_AT_ONCE)]
    a, y, *weights = (xp.concat(parts, axis=0) for parts in zip(*blocks, strict=True))
    values = {}
    for metric in metrics:
        given = {"weights": weights[0]} if weights and metric.takes_weights else {}
        values[metric.name] = to_numpy(metric(a, y, **given, xp=xp))
    return {name: value if value.ndim else float(value) for name, value in values.items()}


def _outputs(model: Model, xp: Namespace, layers: Sequence[Layer], x: Array) -> Array:
    return feedforward(model, layers, x, xp=xp)
