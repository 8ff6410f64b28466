"""The JAX engine: the steps of a chunk compiled into one program, once for each shape."""

from collections.abc import Callable
from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines._base import Engine, Step

__all__ = ["ENGINE"]


def _loop(step: Step, state: Any, xs: Array, ys: Array, *, xp: Namespace) -> tuple[Any, Array]:
    import jax

    del xp
    return jax.lax.scan(lambda carry, batch: step(carry, *batch), state, (xs, ys))


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    return jax.jit(function)


ENGINE = Engine(loop=_loop, compile=_compile)
