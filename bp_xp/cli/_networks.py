"""Networks loaded from files onto a device, and what is reported about them."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bp_xp import Metric, Network
from bp_xp._caller import named
from bp_xp.cli._program import logger
from bp_xp.datasets import Dataset
from bp_xp.tables import TableModel
from bp_xp.tables.files import holds_table

__all__ = [
    "allow_float64",
    "counted",
    "load_model",
    "load_network",
    "make_network",
    "score",
    "scored",
    "tell_device",
]


_ROWS_AT_ONCE = 1 << 16


def load_network(path: str, device: str, backend: str | None) -> Network:
    """Load a network onto a device, and log which device it is."""
    network = Network.load(path)
    allow_float64(network.dtype)
    network = network.to(device, backend=backend)
    tell_device(network)
    return network


def load_model(path: str, device: str, backend: str | None) -> Network | TableModel:
    """Load a network or a model of tables onto a device, and log which device it is."""
    if not holds_table(path):
        return load_network(path, device, backend)
    model = TableModel.load(path)
    allow_float64(model.network.dtype)
    model = model.to(device, backend=backend)
    tell_device(model.network)
    return model


def make_network(
    dataset: Dataset,
    sizes: tuple[int, ...] | None,
    hidden: tuple[int, ...],
    cost: str | None,
    hint: str = "",
    **settings: Any,
) -> Network:
    """Return a network whose outputs and cost fit the targets.

    Labels are classes, unless the cost is huber, which is for numbers. Targets are classes if each
    row has a single 1 among 0s, and numbers otherwise.

    Args:
        dataset: the data.
        sizes: the sizes of all layers, if given, or None.
        hidden: the sizes of the hidden layers if ``sizes`` is None.
        cost: the cost, if given, or None.
        hint: advice for an input that is missing.
        settings: the other arguments of Network.
    """
    y = dataset.y_train
    labels = y.ndim == 1 and (cost or "").partition(":")[0] != "huber"
    n_outputs = max(2, dataset.n_outputs) if labels else math.prod(y.shape[1:])
    if labels and n_outputs > max(2, len(y)):
        raise ValueError(
            f"{dataset.name} has labels up to {n_outputs - 1:,}, but only {len(y):,} samples to "
            "train on: if they are numbers and not classes, fit them with --cost huber, or with "
            "--task regression if they are in a table."
        )
    if labels and n_outputs == 2 and sizes and sizes[-1] == 1:  # one is enough for two classes
        n_outputs, cost = 1, cost or "binary_cross_entropy"
    if sizes and len(sizes) > 1 and (sizes[0], sizes[-1]) != (dataset.n_features, n_outputs):
        fitting = (dataset.n_features, *sizes[1:-1], n_outputs)
        raise ValueError(
            f"{named('sizes', sizes)} does not fit {dataset.name}, which has "
            f"{dataset.n_features} features and needs {n_outputs} outputs: write "
            f"{named('sizes', fitting)}{hint if sizes[0] == dataset.n_features + 1 else ''}"
        )
    # Block by block: they may be in a file.
    blocks = range(0, len(y), _ROWS_AT_ONCE)
    classes = labels or all(_are_classes(y[first : first + _ROWS_AT_ONCE]) for first in blocks)
    cost = cost or ("categorical_cross_entropy" if classes else "quadratic")
    return Network(
        (dataset.n_features, *hidden, n_outputs) if sizes is None else sizes,
        output_activation="identity" if cost == "quadratic" and not classes else None,
        cost=cost,
        **settings,
    )


def _are_classes(y: np.ndarray) -> bool:
    """Return whether each row of targets has a single 1 among 0s."""
    return bool(np.isin(y, (0, 1)).all() and np.all(y.sum(axis=-1) == 1))


def allow_float64(dtype: str) -> None:
    """Let JAX compute in float64 if it is chosen: the process belongs to this program."""
    if dtype == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"


def tell_device(network: Network) -> None:
    """Log the device of a network, and the reason if it was chosen automatically."""
    reason = network.device_reason and f" ({network.device_reason})"
    logger.info("computing with %s on %s%s", network.backend, network.device, reason)


def score(
    network: Network,
    name: str,
    part: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    metrics: Sequence[Metric],
) -> str:
    """Return cost, accuracy and metrics on a part of a data set as a line of text."""
    return scored(name, part, len(x), network.evaluate(x, y, metrics=metrics))


def scored(name: str, part: str, n: int, values: Mapping[str, float]) -> str:
    """Return cost, accuracy and metrics on n samples of a part as a line of text."""
    text = f"{name}, {part} part, {n} samples:"
    for metric, value in values.items():
        text += f" {metric} {f'{value:.2%}' if metric == 'accuracy' else f'{value:.4f}'} "
    return text.rstrip()


def counted(n: int, thing: str) -> str:
    """Return a number of things in words: 1 step, 2 steps."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
