"""What the processes that share a run must have in common, before its first step and later."""

import hashlib
import platform
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from bp_xp._typing import Layer
from bp_xp.backends import to_numpy
from bp_xp.ranks import Ranks

__all__ = ["begin_alike", "describe_process", "digest_of"]


def begin_alike(network: Any, ranks: Ranks) -> None:
    """Copy the parameters, generator and seed of the network on rank 0 to all processes.

    The members of an ensemble get those of the members on rank 0.

    This is needed because a network without a seed draws a different one on each process.

    Raises:
        RuntimeError: the networks differ in more than their numbers.
    """
    if not ranks.are_several:
        return
    described = network.describe()
    same = {name: getattr(described, name) for name in ("sizes", "activations", "cost", "dtype")}
    more = {"own": described.own, "members": len(getattr(described, "seeds", ()))}
    ranks.check_alike({"network": same | more}, when="at the start")
    first = ranks.first(lambda: described)
    if ranks.rank:
        network.layers = first.layers
        network._go_on_as(first)


def describe_process(network: Any) -> dict[str, Any]:
    """Return what steps depend on besides settings and samples: versions and the engine."""
    placement = network.placement
    return {
        "backend": placement.backend,
        "engine": placement.engine.name,
        "versions": {
            "python": ".".join(platform.python_version_tuple()[:2]),
            "bp_xp": sys.modules["bp_xp"].__version__,
            "numpy": np.__version__,
            placement.backend: placement.library.version(),
        },
    }


def digest_of(layers: Iterable[Layer]) -> str:
    """Return a text that is equal for equal parameters, bit for bit."""
    digest = hashlib.sha256()
    for part in (part for layer in layers for part in layer):
        digest.update(np.ascontiguousarray(to_numpy(part)).data)
    return digest.hexdigest()[:16]
