"""How good predictions of a table are, in the classes and units of its targets."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bp_xp.tables.columns import ROWS_AT_ONCE
from bp_xp.tables.stored import StoredInputs
from bp_xp.tables.targets import Targets
from bp_xp.training.arguments import as_metrics

__all__ = ["METRICS_OF_TASK", "judge_answers"]

METRICS_OF_TASK = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro"),
    "multilabel": ("accuracy", "f1"),
    "regression": ("r2", "mae"),
}
"""The metrics of each task; several labels are evaluated one by one, and averaged."""

_Judged = list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]
"""Outputs, targets and weights that are evaluated together: all outputs, or one label."""


def judge_answers(
    targets: Targets,
    outputs_of: Callable[[Any], np.ndarray],
    x: Any,
    y: np.ndarray,
    metrics: Any = (),
) -> dict[str, float]:
    """Return the metrics of a task, and others, for the outputs of a network.

    Args:
        targets: what it was trained to predict.
        outputs_of: a function from inputs to outputs on the host, shape (N, K).
        x: inputs, shape (N, features), in memory or stored.
        y: labels, shape (N,), or targets, shape (N, targets).
        metrics: what else to measure.

    Raises:
        ValueError: a metric does not fit this task.
    """
    others = as_metrics(metrics)
    if isinstance(x, StoredInputs) and not others and targets.task != "regression":
        judged = _counted(targets, outputs_of, x, y)
    else:
        judged = _whole(targets, outputs_of(x).astype(np.float64), y)
    found = {}
    for metric in (*as_metrics(METRICS_OF_TASK[targets.task]), *others):
        if metric.needs_classes and targets.task == "regression":
            raise ValueError(f"the metric {metric.name!r} is for classes, not for numbers.")
        # Macro means the mean over labels of a score of one label.
        macro = "_macro" if (metric.name, targets.task) == ("f1", "multilabel") else ""
        scores = [metric(a, true, weights=weights, xp=np) for a, true, weights in judged]
        found[metric.name + macro] = float(np.mean(scores))
    return found


def _whole(targets: Targets, outputs: np.ndarray, y: np.ndarray) -> _Judged:
    """Return all rows."""
    if targets.task == "classification":
        return [(outputs, np.eye(targets.n_outputs)[y], None)]
    if targets.task == "regression":
        true, outputs = (v * targets.scale + targets.center for v in (y, outputs))
        return [(outputs, true, None)]
    return [(a[:, None], true[:, None], None) for a, true in zip(outputs.T, y.T, strict=True)]


def _counted(
    targets: Targets, outputs_of: Callable[[Any], np.ndarray], x: StoredInputs, y: np.ndarray
) -> _Judged:
    """Return each pair of answer and truth once, with its number of rows as its weight.

    The metrics of classes and labels need no more of a row, and a weight of k equals k copies.
    """
    is_one = targets.task == "classification"
    k = targets.n_outputs if is_one else 2
    counts = [np.zeros(k * k, np.int64) for _ in range(1 if is_one else targets.n_outputs)]
    for first in range(0, len(x), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        outputs = outputs_of(x[rows])
        if is_one:
            said, true = np.argmax(outputs, axis=1)[:, None], y[rows, None]
        else:
            said, true = (outputs > 0.5).astype(np.int64), y[rows].astype(np.int64)
        for i, count in enumerate(counts):
            count += np.bincount(said[:, i] * k + true[:, i], minlength=k * k)
    judged: _Judged = []
    for count in counts:
        pairs = np.flatnonzero(count)
        said, true = np.divmod(pairs, k)
        weights = count[pairs].astype(np.float64)
        if is_one:
            judged.append((np.eye(k)[said], np.eye(k)[true], weights))
        else:
            judged.append((said[:, None] * 1.0, true[:, None] * 1.0, weights))
    return judged
