"""The inputs of the pictures, checked: networks and labeled samples."""

from typing import Any, NamedTuple

import numpy as np

from bp_xp.backends import to_numpy
from bp_xp.math.metrics import METRICS
from bp_xp.network import Network
from bp_xp.plotting._style import kind_of

__all__ = ["Judged", "check_network", "judge"]


class Judged(NamedTuple):
    """What a network predicts for samples whose class is known, on the host.

    Attributes:
        x: inputs, shape (N, I).
        true: the label of each sample, shape (N,).
        told: the label that the network predicts, shape (N,).
        p: the probability of each class, shape (N, K).
    """

    x: np.ndarray
    true: np.ndarray
    told: np.ndarray
    p: np.ndarray


def check_network(network: Any) -> Network:
    """Return a network, or raise a TypeError that says what was passed instead."""
    if not isinstance(network, Network):
        hint = " (see bp_xp.estimators.to_network)" if hasattr(network, "coefs_") else ""
        raise TypeError(f"network must be a bp_xp.Network, not {kind_of(network)}{hint}.")
    return network


def judge(network: Network, x: Any, y: Any) -> Judged:
    """Return what a network predicts for samples.

    Raises:
        ValueError, TypeError: as for ``network.evaluate``; also if there are no classes.
    """
    network.evaluate(x, y, metrics=[METRICS["accuracy"]])  # raises an error if x and y are wrong
    labels, p = to_numpy(y), to_numpy(network.predict_proba(x))
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(axis=1)
    return Judged(to_numpy(x), labels.astype(np.intp), p.argmax(axis=1), p)
