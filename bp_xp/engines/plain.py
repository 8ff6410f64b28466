"""The plain loop: one step after the other, on any array library."""

from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines._base import Engine, Step

__all__ = ["ENGINE"]


def _loop(step: Step, state: Any, xs: Array, ys: Array, *, xp: Namespace) -> tuple[Any, Array]:
    outputs = []
    for k in range(xs.shape[0]):
        state, z = step(state, xs[k, ...], ys[k, ...])
        outputs.append(z)
    return state, xp.stack(outputs)


ENGINE = Engine(loop=_loop, compile=lambda function: function)
