"""The JAX engine: the steps of a chunk compiled into one program, once for each shape.

Functions that treat each row separately are compiled for a few numbers of rows, which cover all.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.backends.jax.rows import cut, fill_up
from bp_xp.engines.engine import Engine, Step

__all__ = ["ENGINE"]


def _loop(step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace) -> tuple[Any, Array]:
    import jax

    if batches[0].shape[0] == 1:
        return _single(step, state, batches, xp=xp)
    return jax.lax.scan(lambda carry, batch: step(carry, *batch, xp=xp), state, tuple(batches))


def _single(
    step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
) -> tuple[Any, Array]:
    """Take the step of a chunk of one in the same way as the steps of a longer chunk.

    XLA generates different code for a loop with a single, known iteration, with different rounding.
    So the number of iterations, and that there is only this mini-batch, is hidden from it.
    """
    import jax

    batches = [xp.concat([part, part], axis=0) for part in batches]
    times = jax.lax.optimization_barrier(xp.asarray(1))
    z = jax.eval_shape(lambda: step(state, *(part[0, ...] for part in batches), xp=xp)[1])

    def take(carried: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        k, state, zs = carried
        state, z = step(state, *(part[k, ...] for part in batches), xp=xp)
        return k + 1, state, zs.at[k, ...].set(z)

    start = xp.zeros_like(times), state, xp.zeros((2, *z.shape), z.dtype)
    _, state, zs = jax.lax.while_loop(lambda carried: carried[0] < times, take, start)
    return state, zs[:1, ...]


@functools.lru_cache(maxsize=256)
def _compile(
    function: Callable[..., Any], *settings: Any, consumes: bool = False
) -> Callable[..., Any]:
    # The cache gives a later run with the same settings the program of an earlier one.
    import jax

    donated = (0,) if consumes else ()
    program = jax.jit(functools.partial(function, *settings), donate_argnums=donated)

    def run(*arguments: Any) -> Any:
        try:
            return program(*arguments)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ) as error:
            error.add_note("A compiled function can't look at a value: engine='plain' can.")
            raise

    return run


def _map_rows(function: Callable[..., Any], *settings: Any, at_most: int) -> Callable[..., Any]:
    """See :class:`bp_xp.engines.engine.MapRows`: the numbers of rows become powers of two.

    The padding repeats the last row, so that it has no new numbers.
    """
    program = _compile(function, *settings)

    def run(shared: Any, *arrays: Array) -> Any:
        n = arrays[0].shape[0]
        size = max(n, min(at_most, _size_for(n)))
        if size == n:
            return program(shared, *arrays)
        results = program(shared, *(fill_up(values, size) for values in arrays))
        return map_leaves(lambda values: cut(values, slice(0, n)), results)

    return run


def _size_for(n: int) -> int:
    """Return the smallest power of two that is not below n, at least 16."""
    return 1 << max(n - 1, 15).bit_length()


def _one_by_one(function: Callable[[Array], Any], n: int) -> Any:
    """See :data:`bp_xp.engines.engine.OneByOne`.

    XLA's products over a leading axis work on all networks together, in each pass of a step. On a
    CPU they do not fit in its caches, while a ``map`` works on one network after the other.
    """
    import jax

    return jax.lax.map(function, jax.numpy.arange(n))


def _argmax(values: Array, *, xp: Namespace) -> Array:
    """Return the same as xp.argmax, for which XLA generates slower code.

    A row with NaN has no largest entry; the result is then the last index.
    """
    n = values.shape[-1]
    greatest = values == xp.max(values, axis=-1, keepdims=True)
    return xp.min(xp.where(greatest, xp.arange(n, dtype=xp.int32), n - 1), axis=-1)


def _describe(step: Step, state: Any, batches: Sequence[Array], xp: Namespace) -> Callable[[], str]:
    """Return a function that writes a step as JAX sees it; the arrays are not kept."""
    import jax

    def form_of(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf

    batch = [jax.ShapeDtypeStruct(part.shape[1:], part.dtype) for part in batches]
    forms = map_leaves(form_of, state), batch

    def write() -> str:
        return str(jax.make_jaxpr(lambda state, batch: step(state, *batch, xp=xp))(*forms))

    return write


ENGINE = Engine(
    "jax",
    "the steps of a chunk are compiled into one program, once for each shape",
    new_loop=lambda report: _loop,
    compile=_compile,
    map_rows=_map_rows,
    argmax=_argmax,
    one_by_one=_one_by_one,
    describe=_describe,
)
