"""Programs of a step on a GPU: compiled kernels with their memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.backends.cupy.launching import LaunchConfiguration
from bp_xp.engines.kernel import Kernel, write_kernel
from bp_xp.engines.launches import Product, list_launches
from bp_xp.engines.operations import OperationList, View
from bp_xp.engines.replay import GaveUpError, Program

__all__ = ["home", "kernel_program", "launches_program"]

_SCRATCH = 16  # bytes, which a kernel without barriers does not look at


def home(array: Array) -> np.ndarray:
    """Return an array of the GPU, or what stands in for one, on the host."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def kernel_program(
    kernel: Kernel, configuration: LaunchConfiguration
) -> Callable[[Namespace], Program]:
    """Compile a kernel of whole steps; return a function that makes a program with its own memory.

    If its threads may give up waiting for each other, the previous state is kept, and the host
    checks after each chunk.
    """
    launch, may_give_up = configuration.compile(kernel, configuration), configuration.is_together

    def make(xp: Namespace) -> Program:
        own = {name: xp.asarray(values) for name, values in kernel.constants.items()}
        own["scratch"] = xp.zeros(kernel.scratch, dtype=xp.uint8)

        def run(leaves: Sequence[Array], batches: Sequence[Array], zs: Array) -> None:
            odd, memory = _memory_of(leaves, batches, xp)
            memory |= own | {"z": zs}
            kept = [
                xp.asarray(memory[f"s{i}"], copy=True) for i in range(len(leaves) * may_give_up)
            ]
            launch([memory[name] for name in kernel.arguments], batches[0].shape[0])
            gave_up = may_give_up and bool(home(own["scratch"][4:8]).any())
            for i, before in enumerate(kept if gave_up else []):
                memory[f"s{i}"][...] = before
            for i, moved in odd.items():
                leaves[i][...] = moved
            if gave_up:
                own["scratch"][...] = 0
                raise GaveUpError("the threads of its kernel waited too long for each other")

        shape, dtype = kernel.z
        return Program(run, xp.empty(shape, dtype=getattr(xp, dtype)), kernel.source)

    return make


def _memory_of(
    leaves: Sequence[Array], batches: Sequence[Array], xp: Namespace
) -> tuple[dict[int, Array], dict[str, Array]]:
    """Return state and mini-batches by name, in C order, and which parts of the state were copied.

    Steps in the plain loop may have left arrays of another layout, or one array twice.
    """
    odd = {
        i: xp.asarray(leaf, copy=True, order="C")
        for i, leaf in enumerate(leaves)
        if not leaf.flags.c_contiguous or any(leaf is other for other in leaves[:i])
    }
    memory = {f"s{i}": odd.get(i, leaf) for i, leaf in enumerate(leaves)}
    return odd, memory | {f"x{i}": xp.asarray(part, order="C") for i, part in enumerate(batches)}


# ---------------------------------------------------------------------------------------------
# Phase by phase


def launches_program(
    step: OperationList, configuration: LaunchConfiguration
) -> Callable[[Namespace], Program]:
    """Compile the phases of a step; return a function that makes a program with its own memory."""
    launches: list[Any] = []
    text = [f"# {len(list_launches(step))} launches a step"]
    for one in list_launches(step):
        if isinstance(one, Product):
            launches.append(one)
            text.append(str(one))
        else:
            work = configuration.for_work(sum(operation.size for operation in one.operations))
            kernel = write_kernel(one, threads=work.threads)
            launches.append((kernel, work.compile(kernel, work)))
            text.append(kernel.source)
    kernels = [one[0] for one in launches if not isinstance(one, Product)]
    used = {view.buffer for one in launches if isinstance(one, Product) for view in one.views}
    used |= {name for kernel in kernels for name in kernel.arguments}
    # What a product alone uses is a constant too.
    constants = {name: value for name, value in step.constants.items() if name in used}

    def make(xp: Namespace) -> Program:
        own = {name: xp.asarray(values) for name, values in constants.items()}
        for name in sorted(name for name in used if name[0] == "h"):
            temporary = f"t{name[1:]}"
            dtype = getattr(xp, step.dtypes[temporary])
            own[name] = xp.empty(step.sizes[temporary], dtype=dtype)
        own["scratch"] = xp.zeros(_SCRATCH, dtype=xp.uint8)

        def run(leaves: Sequence[Array], batches: Sequence[Array], zs: Array) -> None:
            odd, memory = _memory_of(leaves, batches, xp)
            memory |= own | {"z": zs}
            n = batches[0].shape[0]
            calls = [_bound(one, memory, n, step.sizes, xp) for one in launches]
            for k in range(n):
                for function, arguments in calls:
                    function(arguments[k])
            for i, moved in odd.items():
                leaves[i][...] = moved

        z = xp.empty(step.z_shape, dtype=getattr(xp, step.dtypes["z"]))
        return Program(run, z, "\n".join(text))

    return make


def _bound(
    launch: Any, memory: Mapping[str, Array], n: int, sizes: Mapping[str, int], xp: Namespace
) -> tuple[Callable[[Any], None], list[Any]]:
    """Return a launch as a function of its arguments, and these for each of n steps."""
    if isinstance(launch, Product):
        views = (_each_step(view, memory, n, sizes) for view in launch.views)

        def multiply(arguments: Any) -> None:
            out, left, right = arguments
            xp.matmul(left, right, out=out)

        return multiply, list(zip(*views, strict=True))
    kernel, function = launch
    columns = (
        [memory[name][k, ...] for k in range(n)] if name[0] in "xz" else [memory[name]] * n
        for name in kernel.arguments
    )

    def run(arguments: Any) -> None:
        function(arguments, 1)

    return run, list(zip(*columns, strict=True))


def _each_step(
    view: View, memory: Mapping[str, Array], n: int, sizes: Mapping[str, int]
) -> list[Array]:
    """Return a view of a buffer for each of n steps; of a mini-batch's, which moves, n views."""
    buffer = memory[view.buffer]
    moves = view.buffer[0] in "xz"
    flat = buffer.reshape(-1)[view.offset :]
    size = flat.dtype.itemsize
    shape, strides = view.shape, tuple(stride * size for stride in view.strides)
    if not moves:
        return [_strided(flat, shape, strides)] * n
    chunk = _strided(flat, (n, *shape), (sizes[view.buffer] * size, *strides))
    return [chunk[k, ...] for k in range(n)]


def _strided(flat: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    if isinstance(flat, np.ndarray):
        return np.lib.stride_tricks.as_strided(flat, shape, strides)
    from cupy.lib.stride_tricks import as_strided

    return as_strided(flat, shape, strides)
