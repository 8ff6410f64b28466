"""The MLX engine: a step compiled once for each shape.

MLX evaluates lazily: calls build a graph. When compiled, the elementwise functions of a step's
graph become a few kernels. The arrays of a chunk are evaluated after it.

Its compiler assumes that integers do not overflow, and changes code that relies on it. So the plain
loop takes steps with dropout, whose masks do.
"""

from collections.abc import Sequence
from typing import Any

from bp_xp._trees import forms_of, leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.engines import plain
from bp_xp.engines.engine import Engine, Loop, Step
from bp_xp.engines.report import Report

__all__ = ["ENGINE"]


def _new_loop(report: Report) -> Loop:
    compiled: dict[Any, Any] = {}

    def loop(
        step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        shape, n = batches[0].shape[1:], batches[0].shape[0]
        if any(xp.isdtype(leaf.dtype, "integral") for leaf in leaves_of(state)):
            report.fall_back(shape, "MLX's compiler does not let integers wrap", expected=True)
            report.account(shape).plain += n
            return plain.loop(step, state, batches, xp=xp)
        form = tuple(forms_of((state, [part[0, ...] for part in batches])))
        if form not in compiled:
            compiled[form] = _compile(step, state, xp)
        take, zs = compiled[form], []
        for k in range(n):
            state, z = take(state, [part[k, ...] for part in batches])
            zs.append(z)
        return state, xp.stack(zs)

    return loop


def _compile(step: Step, state: Any, xp: Namespace) -> Any:
    """Return the step as a compiled function of lists of arrays, (state, batch) -> (state, zᴸ)."""
    mx: Any = xp

    @mx.compile
    def on_leaves(leaves: list[Array], batch: list[Array]) -> tuple[list[Array], Array]:
        given = iter(leaves)
        after, z = step(map_leaves(lambda _: next(given), state), *batch, xp=xp)
        return list(leaves_of(after)), z

    def take(state: Any, batch: list[Array]) -> tuple[Any, Array]:
        leaves, z = on_leaves(list(leaves_of(state)), batch)
        given = iter(leaves)
        return map_leaves(lambda _: next(given), state), z

    return take


ENGINE = Engine("mlx", "a step is compiled once for each shape", new_loop=_new_loop)
