"""The plain loop: one step after the other, on any array library."""

from collections.abc import Sequence
from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines._base import Engine, Step

__all__ = ["ENGINE", "loop"]


def loop(step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace) -> tuple[Any, Array]:
    """Take one step for each mini-batch of a chunk; see :class:`bp_xp.engines._base.Loop`."""
    outputs = []
    for k in range(batches[0].shape[0]):
        state, z = step(state, *(part[k, ...] for part in batches), xp=xp)
        outputs.append(z)
    return state, xp.stack(outputs)


ENGINE = Engine(new_loop=lambda: loop)
