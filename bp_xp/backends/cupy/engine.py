"""The CuPy engine: many steps of a small network in one kernel, a plain loop for larger ones.

On a GPU a small network waits for launches. Where a step is small enough, many of them are taken by
one kernel, which is written from the step itself (:mod:`bp_xp.engines.kernel`). Before a kernel is
relied on, it takes two steps beside the plain loop: one that can't be compiled, or gives something
else, is left to the plain loop, with a warning.

In the plain loop, σ of a sigmoid is four operations; ``cupy.fuse`` makes one of them, out of the
functions in :mod:`bp_xp.math.activations` themselves.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.engines import plain, replay
from bp_xp.engines.engine import Elementwise, Engine, Loop, Step
from bp_xp.engines.kernel import PRELUDE, Kernel, write_kernel
from bp_xp.engines.operations import list_operations
from bp_xp.engines.recorder import all_recorded
from bp_xp.engines.replay import CannotRecordError, GaveUpError, PlainIsBetterError, Program
from bp_xp.engines.report import Report

__all__ = ["ENGINE", "LaunchConfiguration", "new_loop"]

# ---------------------------------------------------------------------------------------------
# Steps in one kernel

Launch = Callable[[Sequence[Array], int], None]
"""Runs a kernel: (its arguments, the number of steps)."""


@dataclass(frozen=True)
class LaunchConfiguration:
    """How a kernel can be launched, and about how long it takes then.

    Attributes:
        block: threads in a block.
        blocks: blocks, all of them at work at once.
        clustered: whether they are one cluster, and can wait for each other without memory.
        seconds_per_phase: what it costs to wait for all threads, and for the first numbers after.
        seconds_per_operation: what an operation costs where there are many.
        compile: makes a kernel ready to run.
    """

    block: int
    blocks: int
    clustered: bool
    seconds_per_phase: float
    seconds_per_operation: float
    compile: "Callable[[Kernel, LaunchConfiguration], Launch]"

    @property
    def is_together(self) -> bool:
        """Whether blocks wait for each other through memory: they must be at work all at once."""
        return self.blocks > 1 and not self.clustered

    @property
    def threads(self) -> int:
        """The threads that share the work."""
        return self.block * self.blocks

    def seconds(self, kernel: Kernel) -> float:
        """Return about how long a step takes."""
        waits = kernel.n_phases * self.seconds_per_phase
        return waits + kernel.n_operations * self.seconds_per_operation


# All of these are arithmetic, and have not been measured on a GPU: a processor does 16 products a
# cycle, at 1.7 GHz, of numbers that it has to fetch from its cache; the plain loop is some 25
# launches a step, of some 10 µs each.
_PRODUCTS_PER_SECOND = 16 * 1.7e9
_SECONDS_OF_A_PLAIN_STEP = 25 * 10e-6

# Rows of a mini-batch times numbers in the state: operations are listed on the host, which takes
# its time for a network that is too large for a kernel anyway.
_MOST_PRODUCTS = 1 << 30

# How far a kernel may be from the plain loop, as a share of what two steps change in an array: more
# than rounding (in TF32, if CuPy is told to use it), and less than any mistake.
_TOLERANCE = {"float32": 1e-2, "float64": 1e-6}


def _configurations() -> list[LaunchConfiguration]:
    """Return how kernels can be launched here: on a few of the GPU's processors, or on all."""
    import cupy

    device = cupy.cuda.Device()
    n_all = device.attributes["MultiProcessorCount"]
    has_clusters = int(device.compute_capability) >= 90
    n_few = 8 if has_clusters else 1
    return [
        LaunchConfiguration(1024, n, clustered, wait, 1 / (n * _PRODUCTS_PER_SECOND), _compile)
        for n, clustered, wait in ((n_few, has_clusters, 0.8e-6), (n_all, False, 2.5e-6))
    ]


def _compile(kernel: Kernel, configuration: LaunchConfiguration) -> Launch:
    import cupy

    defined = {
        "BLOCK": configuration.block,
        "BLOCKS": configuration.blocks,
        "CLUSTERED": int(configuration.clustered),
    }
    lines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    module: Any = cupy.RawModule(code=lines + PRELUDE + kernel.source, options=("--std=c++17",))
    function = module.get_function("take_steps").kernel

    def launch(arguments: Sequence[Array], n_steps: int) -> None:
        function(
            (configuration.blocks,),
            (configuration.block,),
            (*arguments, np.int32(n_steps)),
            enable_cooperative_groups=configuration.is_together,
        )

    return launch


def new_loop(
    report: Report,
    configurations: Callable[[], Sequence[LaunchConfiguration]] = _configurations,
) -> Loop:
    """Return the loop that takes steps in kernels, one for each shape of mini-batch."""

    def record(step: Step, state: Any, batch: Sequence[Array], *, xp: Namespace) -> Program:
        return _record(step, state, batch, configurations(), xp)

    return replay.new_loop(record, report, effort=8)


def _record(
    step: Step,
    state: Any,
    batch: Sequence[Array],
    configurations: Sequence[LaunchConfiguration],
    xp: Namespace,
) -> Program:
    """Return a step as a kernel.

    Raises:
        CannotRecordError: it can't be one, or the plain loop is faster, or right.
    """
    leaves = list(leaves_of(state))
    if len({id(leaf) for leaf in leaves}) < len(leaves):
        raise CannotRecordError("two parts of the state are one array")
    if batch[0].shape[0] * sum(leaf.size for leaf in leaves) > _MOST_PRODUCTS:
        raise PlainIsBetterError("the network is too large for a kernel to be faster")
    host = map_leaves(lambda one: np.ones(one.shape, one.dtype), (state, list(batch)))
    operations = list_operations(step, *host)
    kernels = [(write_kernel(operations, threads=one.threads), one) for one in configurations]
    kernel, best = min(kernels, key=lambda pair: pair[1].seconds(pair[0]))
    if best.seconds(kernel) > _SECONDS_OF_A_PLAIN_STEP:
        raise PlainIsBetterError("it is faster than a kernel by estimate")
    try:
        program = _program(kernel, best.compile(kernel, best), xp, may_give_up=best.is_together)
        why = _difference(program, step, state, batch, xp)
    except Exception as error:
        program, why = None, f"{type(error).__name__}: {error}"
    if program is None or why:
        warnings.warn(
            f"the plain loop takes the steps, since their kernel is not to be trusted: {why}. "
            "Please report this.",
            RuntimeWarning,
            stacklevel=2,
        )
        raise CannotRecordError(why)
    return program


def _program(kernel: Kernel, launch: Launch, xp: Namespace, *, may_give_up: bool) -> Program:
    """Return what runs a kernel, with its memory on the device.

    Where its threads may give up waiting for each other, the state before is kept meanwhile, and
    the host asks after each chunk.
    """
    own = {name: xp.asarray(values) for name, values in kernel.constants.items()}
    own["scratch"] = xp.zeros(kernel.scratch, dtype=xp.uint8)

    def run(leaves: Sequence[Array], batches: Sequence[Array], zs: Array) -> None:
        # Steps in the plain loop may have left arrays of another layout, or one array twice.
        odd = {
            i: xp.asarray(leaf, copy=True, order="C")
            for i, leaf in enumerate(leaves)
            if not leaf.flags.c_contiguous or any(leaf is other for other in leaves[:i])
        }
        memory = own | {"z": zs}
        memory |= {f"s{i}": odd.get(i, leaf) for i, leaf in enumerate(leaves)}
        memory |= {f"x{i}": xp.asarray(part, order="C") for i, part in enumerate(batches)}
        kept = [xp.asarray(memory[f"s{i}"], copy=True) for i in range(len(leaves) * may_give_up)]
        launch([memory[name] for name in kernel.arguments], batches[0].shape[0])
        gave_up = may_give_up and bool(_home(own["scratch"][4:8]).any())
        for i, before in enumerate(kept if gave_up else []):
            memory[f"s{i}"][...] = before
        for i, moved in odd.items():
            leaves[i][...] = moved
        if gave_up:
            own["scratch"][...] = 0
            raise GaveUpError("the threads of its kernel waited too long for each other")

    shape, dtype = kernel.z
    return Program(run, xp.empty(shape, dtype=getattr(xp, dtype)), kernel.source)


def _difference(
    program: Program, step: Step, state: Any, batch: Sequence[Array], xp: Namespace
) -> str:
    """Return in what a kernel differs from the plain loop after two steps; empty if in nothing."""
    twice = [xp.stack([part, part]) for part in batch]
    start = map_leaves(_disturbed, state)
    ours, theirs = (map_leaves(lambda leaf: xp.asarray(leaf, copy=True), start) for _ in range(2))
    our_zs = xp.stack([program.z, program.z])
    program.run(list(leaves_of(ours)), twice, our_zs)
    theirs, their_zs = plain.loop(step, theirs, twice, xp=xp)
    begun = [*leaves_of(start), np.zeros(())]
    pairs = zip([*leaves_of(ours), our_zs], [*leaves_of(theirs), their_zs], begun, strict=True)
    for i, (one, other, before) in enumerate(pairs):
        dtype = str(one.dtype)
        share, eps = (_TOLERANCE[dtype], np.finfo(dtype).eps) if dtype in _TOLERANCE else (0.0, 0.0)
        one, other = (_home(array).astype(np.float64) for array in (one, other))
        finite = np.isfinite(other)
        if not np.array_equal(finite, np.isfinite(one)):
            return f"array {i} of its state is not finite"
        change, size = (np.linalg.norm(part[finite]) for part in (other - before, other))
        allowed = share * change + 16 * eps * size
        if (far := np.linalg.norm((one - other)[finite])) > allowed:
            return f"array {i} of its state is off by {far:.2g}, more than {allowed:.2g}"
    return ""


def _home(array: Array) -> np.ndarray:
    """Return an array of the GPU, or what stands in for one, on the host."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _disturbed(leaf: Array) -> np.ndarray:
    """Return a part of a state on the host, a little off.

    What is zero at the start of a run may make gradients of nothing but rounding, in which even
    right results differ. No number becomes smaller: what is the root of it must not be negative.
    """
    values = _home(leaf)
    if values.ndim == 0 or values.dtype.kind != "f":
        return values
    off = 0.01 * np.abs(np.sin(np.arange(values.size))).reshape(values.shape)
    return (values + off).astype(values.dtype)


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


ENGINE = Engine(
    "cupy",
    "one CUDA kernel takes many steps of a small network; larger ones take the plain loop",
    new_loop,
    fuse=_fuse,
)
