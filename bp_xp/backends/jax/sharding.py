"""Mini-batches shared among the devices of one process: JAX sums between them automatically.

The rows of a mini-batch are spread over the devices, and each device has all parameters. From this,
JAX's compiler determines which sums over rows are sums over devices.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array
from bp_xp.backends.jax.engine import ENGINE
from bp_xp.engines.engine import Engine

__all__ = ["engine_over", "remark"]


@functools.cache
def engine_over(devices: tuple[Any, ...]) -> Engine:
    """Return the engine that shares the steps of a chunk among devices, the run's own first.

    If the rows of a mini-batch cannot be divided evenly, each device takes all of them.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(devices), ("rows",))
    whole = NamedSharding(mesh, PartitionSpec())
    dealt_out = NamedSharding(mesh, PartitionSpec(None, "rows"))

    @functools.lru_cache(maxsize=256)
    def program_of(function: Callable[..., Any], *settings: Any) -> Callable[..., Any]:
        bound = functools.partial(function, *settings)
        return jax.jit(bound, donate_argnums=(0,), out_shardings=whole)

    def compiled(
        function: Callable[..., Any], *settings: Any, consumes: bool = False
    ) -> Callable[..., Any]:
        if not consumes:
            return ENGINE.compile(function, *settings)
        program = program_of(function, *settings)
        left: list[tuple[Array, Array]] = []  # of the state: on the first device, and on all

        def run(state: Any, batches: Sequence[Array]) -> Any:
            if [id(one) for one in leaves_of(state)] == [id(first) for first, _ in left]:
                on_all = iter([everywhere for _, everywhere in left])
                state = map_leaves(lambda _: next(on_all), state)
            else:
                state = jax.device_put(state, whole)
            rows = batches[0].shape[1]
            spread = whole if rows % len(devices) else dealt_out
            # A part of a mini-batch without rows is a learning rate.
            placed = [
                jax.device_put(part, spread if part.shape[1:2] == (rows,) else whole)
                for part in batches
            ]
            state, totals = program(state, placed)
            everywhere = list(leaves_of(state))
            state, totals = map_leaves(_on_first, (state, totals))
            left[:] = zip(leaves_of(state), everywhere, strict=True)
            return state, totals

        return run

    way = f"{ENGINE.way}; {len(devices)} devices share the rows of a mini-batch that they can"
    way += " divide evenly"
    return replace(
        ENGINE, way=way, compile=compiled, remark=functools.partial(remark, len(devices))
    )


def remark(devices: int, shape: Sequence[int]) -> str:
    """Return a remark on mini-batches of a shape, (N, I), if they are not shared."""
    rows = shape[0]
    if rows % devices == 0:
        return ""
    return f"each device takes all {rows} rows, which can't be dealt out evenly"


def _on_first(array: Array) -> Array:
    """Return the first device's copy of an array that all devices have."""
    return array.addressable_shards[0].data
