"""The JAX engine: the steps of a chunk compiled into one program, once for each shape."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines._base import Engine, Step

__all__ = ["ENGINE"]


def _loop(step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace) -> tuple[Any, Array]:
    import jax

    return jax.lax.scan(lambda carry, batch: step(carry, *batch, xp=xp), state, tuple(batches))


@functools.lru_cache(maxsize=256)
def _compile(
    function: Callable[..., Any], *settings: Any, consumes: bool = False
) -> Callable[..., Any]:
    # The cache gives a later run with the same settings the program of an earlier one.
    import jax

    donated = (0,) if consumes else ()
    return jax.jit(functools.partial(function, *settings), donate_argnums=donated)


ENGINE = Engine(new_loop=lambda: _loop, compile=_compile)
