"""Engines: how many training steps are run, each in the way its library runs them best.

A library that has no engine of its own is served by the plain loop. To add one, write an
:class:`Engine` and enter it in ``ENGINES``.
"""

from bp_xp.engines import cupy, jax, numpy, plain, torch
from bp_xp.engines._base import Engine, Loop, Step

__all__ = ["ENGINES", "Engine", "Loop", "Step", "engine_for"]

ENGINES: dict[str, Engine] = {
    "numpy": numpy.ENGINE,
    "cupy": cupy.ENGINE,
    "torch": torch.ENGINE,
    "jax": jax.ENGINE,
}
"""The engines that are not the plain loop, by the name of their library."""


def engine_for(backend: str) -> Engine:
    """Return the engine of a library."""
    return ENGINES.get(backend, plain.ENGINE)
