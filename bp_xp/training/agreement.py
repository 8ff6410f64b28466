"""What the processes that share a run must have in common, before its first step and later."""

import hashlib
import platform
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from bp_xp._caller import in_python
from bp_xp._typing import Layer
from bp_xp.backends import to_numpy
from bp_xp.ranks import Digest, Ranks

__all__ = [
    "START",
    "advice_on_samples",
    "begin_alike",
    "check_parameters_alike",
    "check_samples_alike",
    "check_settings_alike",
    "digest_of",
]

START = "at the start"
"""The moment of a check before the first step."""


class HasArrays(Protocol):
    """Samples that are inputs, targets and perhaps weights."""

    def fingerprint_of_each(self) -> list[str]:
        """Return a digest of each of them."""
        ...


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
    _check({"network": same | more}, ranks, "Make the same network on all ranks.")
    first = ranks.first(lambda: described)
    if ranks.rank:
        network.layers = first.layers
        network._go_on_as(first)


def _check(described: Mapping[str, Any], ranks: Ranks, advice: str) -> None:
    ranks.check_alike(described, when=START, advice=advice)


def check_settings_alike(settings: Mapping[str, Any], network: Any, ranks: Ranks) -> None:
    """Refuse a run whose processes have different versions, engines or settings.

    Raises:
        RuntimeError: they differ.
    """
    process = _describe_process(network)
    _check(process, ranks, "Use the same versions, backend and engine on all ranks.")
    _check(settings, ranks, "Pass the same arguments on all ranks.")


def check_samples_alike(
    digests: Mapping[str, Any],
    sources: Mapping[str, HasArrays | None],
    ranks: Ranks,
    *,
    shards: bool = False,
) -> None:
    """Refuse a run whose processes have different samples; the error says which array differs.

    Args:
        digests: a digest of all samples, by ``"data"`` and ``"validation data"``.
        sources: the samples, by the same keys; None if there are none, or only their digest.
        ranks: the processes.
        shards: whether each process could have samples of its own.

    Raises:
        RuntimeError: they differ.
    """
    for key, digest in digests.items():
        source = sources.get(key)
        if source is not None and any(other != digest for other in ranks.gather(digest)):
            each = ranks.together(source.fingerprint_of_each)
            arrays = dict(zip(_ARRAYS[key], map(Digest, each), strict=False))
            _check(arrays, ranks, advice_on_samples(shards=shards))
        _check({key: digest and Digest(digest)}, ranks, advice_on_samples(shards=shards))


_ARRAYS = {
    "data": ("x", "y", "sample_weight or class_weight"),
    "validation data": tuple(f"{one} of validation_data" for one in ("x", "y", "weights")),
}


def advice_on_samples(*, shards: bool) -> str:
    """Return what to do if processes have different samples, which may be shards or not."""
    text = "Pass all samples on each rank; it takes its own share."
    own = in_python(" If each has its own, pass Stream(samples, sharded=True) on all.")
    return text + own * shards


def check_parameters_alike(layers: Iterable[Layer], ranks: Ranks, *, when: str) -> None:
    """Refuse to continue if the processes have different parameters.

    Raises:
        RuntimeError: they differ.
    """
    advice = (
        "Callbacks must assign the same parameters on all ranks, and the machines must be alike, "
        "because different processors round differently."
    )
    ranks.check_alike({"network.layers": digest_of(layers)}, when=when, advice=advice)


def _describe_process(network: Any) -> dict[str, Any]:
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


def digest_of(layers: Iterable[Layer]) -> Digest:
    """Return a text that is equal for equal parameters, bit for bit."""
    digest = hashlib.sha256()
    for part in (part for layer in layers for part in layer):
        digest.update(np.ascontiguousarray(to_numpy(part)).data)
    return Digest(digest.hexdigest())
