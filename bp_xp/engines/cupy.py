"""The CuPy engine: many steps of a small network in one kernel, a plain loop for larger ones.

On a GPU a small network waits for launches. Where a step is small enough, many of them are taken by
one kernel, which is written from the step itself (:mod:`bp_xp.engines._kernel`). Before a kernel is
relied on, it takes a few steps beside the plain loop: whatever fails to be recorded or compiled, or
comes out otherwise, is left to the plain loop, which then tells so.

In the plain loop, σ of a sigmoid is four operations; ``cupy.fuse`` makes one of them, out of the
functions in :mod:`bp_xp.activations` themselves.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.arrays import to_numpy
from bp_xp.engines import plain
from bp_xp.engines._base import Elementwise, Engine, Loop, Step
from bp_xp.engines._kernel import PRELUDE, Kernel, write_kernel
from bp_xp.engines._operations import list_operations
from bp_xp.engines._recorded import all_recorded
from bp_xp.engines._replay import CannotRecordError

__all__ = ["ENGINE", "Machine", "new_loop"]

# To write and compile a kernel takes as long as some hundreds of steps in the plain loop.
_STEPS_BEFORE = 256
_STEPS_COMPARED = 2

# How far a kernel may be from the plain loop after these steps, by the norm of each array: far more
# than rounding, and far less than any mistake.
_FAR = {"float32": 1e-3, "float64": 1e-9}


# ---------------------------------------------------------------------------------------------
# Steps in one kernel

Launch = Callable[[Sequence[Array], int], None]
"""Runs a kernel: (its arguments, the number of steps)."""


@dataclass(frozen=True)
class Machine:
    """A way of running kernels.

    Attributes:
        block: threads in a block.
        blocks: blocks, all of them at work at once.
        clustered: whether they are one cluster, and can wait for each other without memory.
        seconds_a_phase: what it costs to wait for all threads, and for the first numbers after.
        seconds_an_operation: what an operation costs where there are many.
        compile: makes a kernel ready to run.
    """

    block: int
    blocks: int
    clustered: bool
    seconds_a_phase: float
    seconds_an_operation: float
    compile: "Callable[[Kernel, Machine], Launch]"

    @property
    def threads(self) -> int:
        """The threads that share the work."""
        return self.block * self.blocks

    def seconds(self, kernel: Kernel) -> float:
        """Return about how long a step takes."""
        return kernel.phases * self.seconds_a_phase + kernel.operations * self.seconds_an_operation


# These are arithmetic, and have not been measured on a GPU: a processor does 16 products a cycle
# of numbers that it has to fetch from its cache, and the plain loop is some 25 launches a step.
_PRODUCTS_A_SECOND = 16 * 1.7e9
_SECONDS_OF_LAUNCHES = 250e-6
_MOST_PRODUCTS = 1 << 30


def _machines() -> list[Machine]:
    """Return how kernels can run on the current device: on a few processors, or on all."""
    import cupy

    device = cupy.cuda.Device()
    n_all = device.attributes["MultiProcessorCount"]
    has_clusters = int(device.compute_capability) >= 90
    few = 8 if has_clusters else 1
    return [
        Machine(1024, few, has_clusters, 0.8e-6, 1 / few / _PRODUCTS_A_SECOND, _compile),
        Machine(1024, n_all, False, 2.5e-6, 1 / n_all / _PRODUCTS_A_SECOND, _compile),
    ]


def _compile(kernel: Kernel, machine: Machine) -> Launch:
    import cupy

    defined = {
        "BLOCK": machine.block,
        "BLOCKS": machine.blocks,
        "CLUSTERED": int(machine.clustered),
    }
    lines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    module: Any = cupy.RawModule(
        code=lines + PRELUDE + kernel.source,
        options=("--std=c++17",),
        enable_cooperative_groups=not machine.clustered,
    )
    function = module.get_function("take_steps")

    def launch(arguments: Sequence[Array], n_steps: int) -> None:
        function((machine.blocks,), (machine.block,), (*arguments, np.int32(n_steps)))

    return launch


class _Program:
    """A kernel with its memory on the device."""

    def __init__(self, kernel: Kernel, launch: Launch, xp: Namespace) -> None:
        self._kernel, self._launch = kernel, launch
        self._own = {name: xp.asarray(values) for name, values in kernel.constants.items()}
        self._own["scratch"] = xp.zeros(kernel.scratch, dtype=xp.uint8)

    def __call__(self, state: Any, batches: Sequence[Array], *, xp: Namespace) -> tuple[Any, Array]:
        """Take a step for each mini-batch, as a :class:`bp_xp.engines._base.Loop` does."""
        shape, dtype = self._kernel.z
        n_steps = batches[0].shape[0]
        zs = xp.empty((n_steps, *shape), dtype=getattr(xp, dtype))
        memory = self._own | {"z": zs}
        memory |= {f"s{i}": leaf for i, leaf in enumerate(leaves_of(state))}
        memory |= {f"x{i}": xp.ascontiguousarray(part) for i, part in enumerate(batches)}
        self._launch([memory[name] for name in self._kernel.arguments], n_steps)
        return state, zs


def new_loop(machines: Callable[[], Sequence[Machine]] = _machines) -> Loop:
    """Return the loop that takes steps in kernels, one for each shape of mini-batch."""
    programs: dict[Any, _Program | None] = {}
    taken: Counter[Any] = Counter()

    def loop(
        step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        shape = batches[0].shape[1:]
        taken[shape] += batches[0].shape[0]
        if taken[shape] < _STEPS_BEFORE:
            return plain.loop(step, state, batches, xp=xp)
        if shape not in programs:
            programs[shape] = _program_for(step, state, batches, machines(), xp)
        program = programs[shape]
        if program is None:
            return plain.loop(step, state, batches, xp=xp)
        return program(state, batches, xp=xp)

    return loop


def _program_for(
    step: Step, state: Any, batches: Sequence[Array], machines: Sequence[Machine], xp: Namespace
) -> _Program | None:
    """Return a kernel for a step, or None where the plain loop serves it better, or alone."""
    leaves = list(leaves_of(state))
    if not all(leaf.flags.c_contiguous for leaf in leaves) or len({*map(id, leaves)}) < len(leaves):
        return None
    # Operations are listed on the host, which takes its time for a network that is too large.
    if batches[0].shape[1] * sum(leaf.size for leaf in leaves) > _MOST_PRODUCTS:
        return None
    try:
        alike = [np.ones(part.shape[1:], part.dtype) for part in batches]
        host_state = map_leaves(lambda leaf: np.ones(leaf.shape, leaf.dtype), state)
        operations = list_operations(step, host_state, alike)
    except (CannotRecordError, TypeError, AttributeError):
        return None
    kernels = [(write_kernel(operations, threads=one.threads), one) for one in machines]
    kernel, machine = min(kernels, key=lambda pair: pair[1].seconds(pair[0]))
    if machine.seconds(kernel) > _SECONDS_OF_LAUNCHES:
        return None
    try:
        program = _Program(kernel, machine.compile(kernel, machine), xp)
        why = _difference(program, step, state, batches, xp)
    except Exception as error:
        program, why = None, f"{type(error).__name__}: {error}"
    if not why:
        return program
    warnings.warn(
        f"the plain loop takes the steps, since their kernel is not to be trusted: {why}. "
        "Please report this.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _difference(
    program: _Program, step: Step, state: Any, batches: Sequence[Array], xp: Namespace
) -> str:
    """Return in what a kernel differs from the plain loop after some steps; empty if in nothing."""
    few = [part[:_STEPS_COMPARED, ...] for part in batches]
    ours, theirs = (map_leaves(lambda leaf: xp.asarray(leaf, copy=True), state) for _ in range(2))
    ours, our_zs = program(ours, few, xp=xp)
    theirs, their_zs = plain.loop(step, theirs, few, xp=xp)
    pairs = zip([*leaves_of(ours), our_zs], [*leaves_of(theirs), their_zs], strict=True)
    for i, (one, other) in enumerate(pairs):
        # A run that overflows is no reason to mistrust: NaN is not above anything.
        far = np.linalg.norm(to_numpy(one - other))
        allowed = _FAR.get(str(one.dtype), 0.0) * np.linalg.norm(to_numpy(other))
        if far > allowed:
            return f"array {i} of its state is off by {far:.2g}, more than {allowed:.2g}"
    return ""


# ---------------------------------------------------------------------------------------------
# Elementwise functions in one kernel


class _Fusible:
    """CuPy's functions; those that ``cupy.fuse`` does not know are put in words that it does."""

    def __getattr__(self, name: str) -> Any:
        import cupy

        return getattr(cupy, name)

    @staticmethod
    def astype(array: Array, dtype: Any) -> Array:
        return array.astype(dtype)


@functools.lru_cache(maxsize=256)
def _fuse(function: Elementwise) -> Elementwise:
    """Return an elementwise function as one kernel, or as it is if it does more than CuPy fuses."""
    import cupy

    kernel: Any = cupy.fuse(  # pyright: ignore[reportAttributeAccessIssue]
        lambda *arrays: function(*arrays, xp=_Fusible())
    )

    def fused(*arrays: Array, xp: Namespace) -> Array:
        nonlocal kernel
        if kernel is not None and not all_recorded(arrays):
            try:
                return kernel(*arrays)
            except (TypeError, ValueError, AttributeError, NotImplementedError):
                kernel = None
        return function(*arrays, xp=xp)

    return fused


# To gather a chunk and to sum its costs up takes some 20 launches, whatever its size.
ENGINE = Engine(new_loop, fuse=_fuse, chunk_steps=512, chunk_bytes=64 << 20)
