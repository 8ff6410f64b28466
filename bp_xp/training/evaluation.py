"""Evaluation of parameters on samples: outputs, cost, accuracy and other metrics.

Samples pass through the network a block at a time, and none depends on another. The results for
each sample are fetched once for many blocks. Metrics get all outputs and targets together, (N, O)
each.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.engines import PLAIN, Elementwise, argmax
from bp_xp.math.backprop import backpropagate, cost_of_samples, feedforward, forward
from bp_xp.math.metrics import METRICS, Metric
from bp_xp.math.model import Model
from bp_xp.math.rows import sum_rows
from bp_xp.math.uncertainty import cost_of_outputs
from bp_xp.ranks import Ranks
from bp_xp.sources import Samples, Source
from bp_xp.sources.ahead import StoppedError

__all__ = [
    "ROWS_AT_ONCE",
    "evaluate",
    "feed",
    "feed_blocks",
    "gradients",
    "judge_outputs",
    "means_of",
    "measure",
    "totals_of",
]

ROWS_AT_ONCE = 4096
"""The number of samples that pass through a network at a time outside of training steps."""

# Results of this many samples are fetched and summed at a time: the samples may never end.
_BLOCKS_AT_ONCE = 64


def feed(
    model: Model,
    layers: Sequence[Layer],
    blocks: Iterable[Array],
    *,
    read: Elementwise | None = None,
    at_once: int = ROWS_AT_ONCE,
    placement: Placement,
) -> Array:
    """Return the outputs for inputs, or the result of a function of them.

    Args:
        model: what the network computes; its sizes do not matter.
        layers: its parameters, first layer first.
        blocks: inputs on the device, shape (n, I) each.
        read: a function of the outputs of a block, called as ``read(a, xp=xp)``; its rows are the
            samples. None returns the outputs themselves.
        at_once: the largest number of rows in a block.
        placement: library and device.

    Returns:
        aᴸ of all blocks, shape (N, O), or what ``read`` returns for it.
    """
    how: dict[str, Any] = {"read": read, "at_once": at_once, "placement": placement}
    return placement.library.join(list(feed_blocks(model, layers, blocks, **how)))


def feed_blocks(
    model: Model,
    layers: Sequence[Layer],
    blocks: Iterable[Array],
    *,
    read: Elementwise | None = None,
    at_once: int = ROWS_AT_ONCE,
    placement: Placement,
) -> Iterator[Array]:
    """Yield the outputs for each block of inputs; the arguments are those of :func:`feed`."""
    run = placement.engine.map_rows(_outputs, model, read, placement.xp, at_most=at_once)
    for x in blocks:
        yield run(layers, x)


def _outputs(
    model: Model, read: Elementwise | None, xp: Namespace, layers: Sequence[Layer], x: Array
) -> Array:
    a = feedforward(model, layers, x, xp=xp)
    return a if read is None else read(a, xp=xp)


def gradients(
    model: Model, layers: Sequence[Layer], x: Array, y: Array, *, placement: Placement
) -> list[Layer]:
    """Return the derivatives of the mean cost with respect to every weight and bias."""
    return placement.engine.compile(_gradients, model, placement.xp)(layers, x, y)


def _gradients(
    model: Model, xp: Namespace, layers: Sequence[Layer], x: Array, y: Array
) -> list[Layer]:
    return backpropagate(model, layers, x, y, xp=xp)[0]


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
    """Return three sums over samples: of cost, of correct classifications, and of weight.

    Args:
        model: what the network computes.
        has_classes: whether each target is one class.
        xp: the namespace of the arrays.
        z: zᴸ, shape (..., N, O).
        y: targets, shape (..., N, O).
        weights: how much each sample counts, shape (..., N), or None.
        argmax: the engine's ``argmax``.

    Returns:
        Shape (..., 3).
    """
    columns = _judged(model, z, y, weights, has_classes=has_classes, argmax=argmax, xp=xp)
    return xp.concat([sum_rows(column[..., None], xp=xp) for column in columns], axis=-1)


def _judged(
    model: Model,
    z: Array,
    y: Array,
    weights: Array | None,
    *,
    has_classes: bool,
    argmax: Elementwise,
    xp: Namespace,
) -> list[Array]:
    """Return each sample's cost, whether it is classified correctly, and weight: (..., N) each."""
    cost = cost_of_samples(model, z, y, xp=xp)
    correct = xp.zeros_like(cost)
    if has_classes:
        correct = xp.astype(_are_correct(model, z, y, argmax, xp=xp), z.dtype)
    if weights is None:
        return [cost, correct, xp.ones_like(cost)]
    # Networks of a stack that share a mini-batch also share its weights.
    return [cost * weights, correct * weights, xp.zeros_like(cost) + weights]


def _are_correct(model: Model, z: Array, y: Array, argmax: Elementwise, *, xp: Namespace) -> Array:
    """Return whether each sample is classified correctly, shape (..., N)."""
    a = model.activations[-1].sigma(z, xp=xp)
    if a.shape[-1] == 1:
        return ((a > 0.5) == (y > 0.5))[..., 0]
    return argmax(a, xp=xp) == argmax(y, xp=xp)


def means_of(totals: np.ndarray, has_classes: bool) -> tuple[Any, Any]:
    """Return mean cost and accuracy from sums on the host, shape (n, 3), added in float64.

    The accuracy is None if there are no classes. For a stack, shape (n, M, 3), both are arrays.

    Raises:
        ValueError: all weights are zero; for batches this is known only after the last one.
    """
    cost, correct, weight = np.moveaxis(totals.sum(axis=0, dtype=np.float64), -1, 0)
    if not weight.any():
        raise ValueError("the weight is zero for every sample: there is no mean.")
    share = correct / weight if has_classes else None
    if cost.ndim:
        return cost / weight, share
    return float(cost / weight), None if share is None else float(share)


def _evaluation(
    model: Model,
    has_classes: bool,
    argmax: Elementwise,
    xp: Namespace,
    layers: Sequence[Layer],
    x: Array,
    *given: Array,
) -> Array:
    """Evaluate samples outside of training, given y and perhaps weights; shape (N, 3)."""
    z = forward(model, layers, x, xp=xp).zs[-1]
    y, weights = (*given, None)[:2]
    columns = _judged(model, z, y, weights, has_classes=has_classes, argmax=argmax, xp=xp)
    return xp.stack(columns, axis=-1)


def evaluate(
    model: Model,
    layers: Sequence[Layer],
    source: Source,
    *,
    placement: Placement,
    ranks: Ranks | None = None,
) -> tuple[float, float | None]:
    """Return mean cost and accuracy over samples; without classes, None for the accuracy.

    With several processes, each sums over the samples of its source, and all return the same.

    Raises:
        StoppedError: the run must end, and samples have not arrived.
    """
    sums = (ranks or Ranks()).each(
        lambda: _sums_over(model, layers, source, placement), alike=StoppedError
    )
    return means_of(np.concatenate(sums), source.has_classes)


def _sums_over(
    model: Model, layers: Sequence[Layer], source: Source, placement: Placement
) -> np.ndarray:
    """Return the sums of some blocks of samples each, in float64, shape (n, 3)."""
    engine, xp = placement.engine, placement.xp
    judge = engine.map_rows(
        _evaluation, model, source.has_classes, engine.argmax, xp, at_most=ROWS_AT_ONCE
    )
    sums: list[np.ndarray] = []
    judged: list[Array] = []
    for block in source.blocks(ROWS_AT_ONCE):
        judged.append(judge(layers, *block))
        if len(judged) == _BLOCKS_AT_ONCE:
            sums.append(_summed(judged, placement))
            judged = []
    if judged:
        sums.append(_summed(judged, placement))
    return np.reshape(sums, (-1, 3))


def _summed(judged: Sequence[Array], placement: Placement) -> np.ndarray:
    """Return the sums, in float64, of what is known of each sample of some blocks, shape (3,)."""
    return to_numpy(placement.library.join(judged)).sum(axis=0, dtype=np.float64)


def measure(
    model: Model,
    layers: Sequence[Layer],
    source: Source,
    metrics: Sequence[Metric],
    *,
    placement: Placement,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Return the value of each metric over samples: a number, or a NumPy array.

    The accuracy is not included; :func:`evaluate` returns it. A metric that takes no weights counts
    all samples equally. With several processes, each computes the outputs for the samples of its
    source; rank 0 evaluates the metrics on all outputs, and sends the values to the others.

    Raises:
        StoppedError: the run must end, and samples have not arrived.
    """
    metrics = [metric for metric in metrics if metric is not METRICS["accuracy"]]
    if not metrics:
        return {}
    ranks = ranks or Ranks()

    def judged() -> list[Array]:
        """Return outputs, targets and perhaps weights; with several processes, on the host."""
        parts = _outputs_over(model, layers, source, placement)
        return [to_numpy(part) for part in parts] if ranks.are_several else parts

    each = [parts for parts in ranks.each(judged, alike=StoppedError) if parts]

    def values() -> dict[str, Any]:
        parts = each[0]
        if ranks.are_several:
            parts = [placement.asarray(np.concatenate(part)) for part in zip(*each, strict=True)]
        a, y, *weights = parts
        return _values_of(metrics, a, y, weights, placement=placement)

    return ranks.first(values)


def _outputs_over(
    model: Model, layers: Sequence[Layer], source: Source, placement: Placement
) -> list[Array]:
    """Return outputs, targets and perhaps weights of samples; nothing if there are none."""
    given: list[list[Array]] = []

    def inputs() -> Iterator[Array]:
        for x, *rest in source.blocks(ROWS_AT_ONCE):
            given.append(rest)
            yield x

    blocks = inputs()
    if (first := next(blocks, None)) is None:
        return []
    a = feed(model, layers, itertools.chain([first], blocks), placement=placement)
    return [a, *(placement.library.join(parts) for parts in zip(*given, strict=True))]


def _values_of(
    metrics: Sequence[Metric], a: Array, y: Array, weights: list[Array], *, placement: Placement
) -> dict[str, Any]:
    """Return the value of each metric of outputs: a number, or a NumPy array."""
    engine, values = placement.engine, {}
    for metric in metrics:
        counted = weights if metric.takes_weights else []
        # A custom metric may be impossible to compile, and may be a new object in each call.
        ours = METRICS.get(metric.name) is metric
        value = (engine.compile if ours else PLAIN.compile)(_measured, metric, placement.xp)(
            a, y, *counted
        )
        values[metric.name] = to_numpy(value)
    return {name: value if value.ndim else float(value) for name, value in values.items()}


def judge_outputs(
    model: Model, a: Array, samples: Samples, metrics: Sequence[Metric], *, placement: Placement
) -> dict[str, Any]:
    """Return mean cost and metrics of outputs that are the mean over several networks, (N, O).

    The cost is omitted if :func:`bp_xp.math.uncertainty.cost_of_outputs` cannot compute it.
    """
    weights = [] if samples.weights is None else [samples.weights]
    totals = placement.engine.compile(_totals_of_outputs, model, placement.xp)(
        a, samples.y, *weights
    )
    values = _values_of(metrics, a, samples.y, weights, placement=placement)
    return values if totals is None else {"cost": means_of(to_numpy(totals), False)[0]} | values


def _totals_of_outputs(
    model: Model, xp: Namespace, a: Array, y: Array, *given: Array
) -> Array | None:
    """Return the sums of the samples' costs and weights, with 0 between them, shape (1, 3)."""
    cost = cost_of_outputs(model, a, y, xp=xp)
    if cost is None:
        return None
    weights = given[0] if given else xp.ones_like(cost)
    return sum_rows(xp.stack([cost * weights, 0.0 * weights, weights], axis=-1), xp=xp)[None, :]


def _measured(metric: Metric, xp: Namespace, a: Array, y: Array, *given: Array) -> Array:
    """Return a metric, given outputs, targets and perhaps weights."""
    return metric(a, y, weights=given[0] if given else None, xp=xp)
