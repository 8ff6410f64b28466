"""How kernels are compiled and launched on a GPU, and how long a run takes there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bp_xp._typing import Array
from bp_xp.engines.kernel import PRELUDE, Kernel

__all__ = ["Clock", "Launch", "LaunchConfiguration", "configurations", "seconds_of"]

Launch = Callable[[Sequence[Array], int], None]
"""Runs a kernel: (its arguments, the number of steps)."""

Clock = Callable[[Callable[[], Any]], float]
"""Returns the running time of its argument in seconds."""


@dataclass(frozen=True)
class LaunchConfiguration:
    """How a kernel can be launched, and an estimate of its time.

    Attributes:
        block: the number of threads in a block.
        blocks: the number of blocks, all of which run at the same time.
        clustered: whether they are one cluster, and can wait for each other without memory.
        seconds_per_phase: the time to wait for all threads, and for the first numbers after that.
        seconds_per_operation: the time of an operation if there are many.
        compile: makes a kernel ready to run.
        whole: whether one launch takes many whole steps; otherwise each phase of a step is a
            launch, the library computes matrix products, and ``blocks`` is the maximum.
    """

    block: int
    blocks: int
    clustered: bool
    seconds_per_phase: float
    seconds_per_operation: float
    compile: "Callable[[Kernel, LaunchConfiguration], Launch]"
    whole: bool = True

    @property
    def is_together(self) -> bool:
        """Whether blocks wait for each other through memory, so that all must run together."""
        return self.whole and self.blocks > 1 and not self.clustered

    @property
    def threads(self) -> int:
        """The threads that share the work."""
        return self.block * self.blocks

    def seconds(self, kernel: Kernel) -> float:
        """Return the estimated time of a step."""
        waits = kernel.n_phases * self.seconds_per_phase
        return waits + kernel.n_operations * self.seconds_per_operation

    def for_work(self, operations: int) -> "LaunchConfiguration":
        """Return the launch of a phase with so many operations: no more blocks than have work."""
        needed = -(-operations // (_OPERATIONS_OF_A_THREAD * self.block))
        return replace(self, blocks=max(1, min(self.blocks, needed)))


# These are estimates, which decide what is tried; measurements decide what is used. A processor
# does 16 products per cycle, at 1.7 GHz, of numbers that it has to fetch from its cache; a launch
# from Python takes some 8 µs.
_PRODUCTS_PER_SECOND = 16 * 1.7e9
_SECONDS_OF_A_LAUNCH = 8e-6
_OPERATIONS_OF_A_THREAD = 4


def configurations() -> list[LaunchConfiguration]:
    """Return how kernels can be launched here.

    Whole steps on a few of the GPU's processors, or on all; or phase by phase.
    """
    import cupy

    device = cupy.cuda.Device()
    n_all = device.attributes["MultiProcessorCount"]
    has_clusters = int(device.compute_capability) >= 90
    n_few = 8 if has_clusters else 1
    whole = [
        LaunchConfiguration(1024, n, clustered, wait, 1 / (n * _PRODUCTS_PER_SECOND), _compile)
        for n, clustered, wait in ((n_few, has_clusters, 0.8e-6), (n_all, False, 2.5e-6))
    ]
    by_phase = LaunchConfiguration(
        256, 8 * n_all, False, _SECONDS_OF_A_LAUNCH, 0.0, _compile, whole=False
    )
    return [*whole, by_phase]


def _compile(kernel: Kernel, configuration: LaunchConfiguration) -> Launch:
    import cupy

    defined = {
        "BLOCK": configuration.block,
        # Blocks of a phase do not wait for each other: to the barrier, each is alone.
        "BLOCKS": configuration.blocks if configuration.whole else 1,
        "CLUSTERED": int(configuration.clustered),
    }
    lines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    module: Any = cupy.RawModule(code=lines + PRELUDE + kernel.source, options=("--std=c++17",))
    function = module.get_function("take_steps").kernel
    if configuration.is_together:
        _check_room(function, configuration)

    def launch(arguments: Sequence[Array], n_steps: int) -> None:
        function(
            (configuration.blocks,),
            (configuration.block,),
            (*arguments, np.int32(n_steps)),
            enable_cooperative_groups=configuration.is_together,
        )

    return launch


def _check_room(function: Any, configuration: LaunchConfiguration) -> None:
    """Refuse more blocks than can run together, which CuPy would reduce with a warning."""
    import cupy

    driver: Any = cupy.cuda.driver
    each = driver.occupancyMaxActiveBlocksPerMultiprocessor(function.ptr, configuration.block, 0)
    most = each * cupy.cuda.Device().attributes["MultiProcessorCount"]
    if most < configuration.blocks:
        raise RuntimeError(
            f"the GPU has room for {most} of the {configuration.blocks} blocks that wait for each "
            "other"
        )


def seconds_of(run: Callable[[], Any]) -> float:
    """Return how many seconds the GPU takes for a run, including waits for the host."""
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) * 1e-3
