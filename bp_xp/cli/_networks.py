"""Networks of files on a device, and what is told of them."""

import os
from collections.abc import Sequence

import numpy as np

from bp_xp import Metric, Network
from bp_xp.cli._program import logger

__all__ = [
    "allow_float64",
    "counted",
    "load_network",
    "score",
    "tell_device",
]


def load_network(path: str, device: str, backend: str | None) -> Network:
    """Load a network onto a device, and say onto which."""
    network = Network.load(path)
    allow_float64(network.dtype)
    network = network.to(device, backend=backend)
    tell_device(network)
    return network


def allow_float64(dtype: str) -> None:
    """Let JAX, where it is chosen, compute in float64: the process is the program's own."""
    if dtype == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"


def tell_device(network: Network) -> None:
    """Log where a network computes, and why there if nobody chose."""
    reason = network.device_reason and f" ({network.device_reason})"
    logger.info("computing with %s on %s%s", network.backend, network.device, reason)


def score(
    network: Network,
    name: str,
    part: str,
    x: np.ndarray,
    y: np.ndarray,
    metrics: Sequence[Metric],
) -> str:
    """Return cost, accuracy and metrics on a part of a data set as a line of text."""
    values = network.evaluate(x, y, metrics=metrics)
    text = f"{name}, {part} part, {len(x)} samples: cost {values.pop('cost'):.4f}"
    if "accuracy" in values:
        text += f"  accuracy {values.pop('accuracy'):.2%}"
    return text + "".join(f"  {name} {value:.4f}" for name, value in values.items())


def counted(n: int, thing: str) -> str:
    """Return a number of things in words: 1 step, 2 steps."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
