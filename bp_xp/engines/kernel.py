"""A training step as one CUDA kernel, which takes many steps in one launch.

On a GPU, a small network waits for launches: launching each operation of a step takes longer than
executing it. Here the operations of a step (:mod:`bp_xp.engines.operations`) become loops of one
kernel. Its threads divide the entries of each result among themselves, and meet at a barrier only
before an entry that needs results of other threads; the part between two barriers is a *phase*.
Elementwise operations on a result, such as the bias, σ or the descent of a weight, are part of the
loop that computes it.

The phases of a step of plain gradient descent with two layers, for example:

    1. z¹ = x W¹ᵀ + b¹, a¹ = σ(z¹)
    2. z² = a¹ W²ᵀ + b², a² = σ(z²), δ² = (a² − y) ⊙ σ′(z²)
    3. δ¹ = (δ² W²) ⊙ σ′(z¹)
    4. W¹ −= η δ¹ᵀ x, W² −= η δ²ᵀ a¹, b¹ −= η Σ δ¹, b² −= η Σ δ²

The kernel is C++. Its CUDA-specific parts, the barrier and the sum over neighboring threads, are in
``PRELUDE``; the tests have another prelude, which runs the kernel on a CPU.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp.engines.operations import C_TYPES, SUM, Operation, OperationList, View

__all__ = ["PRELUDE", "Kernel", "phases_of", "write_kernel"]

PRELUDE = """
#define MOST_CYCLES 2000000000ll  // of waiting at a barrier: about a second

#if CLUSTERED
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK, 1) __cluster_dims__(BLOCKS, 1, 1)
#else
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK, 1)
#endif

__device__ inline int thread_number() { return blockIdx.x * BLOCK + threadIdx.x; }

// Wait for all threads, and make their writes visible.
__device__ inline void barrier(unsigned* arrived) {
#if CLUSTERED
    asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
#else
    __syncthreads();
#if BLOCKS > 1
    // One thread of each block counts it, and all of them together flip the first bit. If fewer
    // blocks were launched, no thread waits: the results are then wrong, which is detected. No
    // thread waits forever: one that has waited too long sets the next word, and from then on all
    // run to the end without waiting, with wrong results, which the host discards.
    volatile unsigned* const gave_up = arrived + 1;
    if (threadIdx.x == 0 && gridDim.x == BLOCKS && !*gave_up) {
        __threadfence();
        const unsigned mine = blockIdx.x ? 1u : 0x80000000u - (BLOCKS - 1);
        const unsigned before = atomicAdd(arrived, mine);
        const long long begun = clock64();
        while (((before ^ *(volatile unsigned*)arrived) & 0x80000000u) == 0 && !*gave_up) {
            if (clock64() - begun > MOST_CYCLES) *gave_up = 1;
        }
        __threadfence();
    }
    __syncthreads();
#endif
#endif
}

// The value of the neighbor whose number differs in one bit, within a team of threads.
template <int team, class Number>
__device__ inline Number of_neighbour(Number value, int bit) {
    const unsigned all = team == 32 ? 0xffffffffu : (1u << team % 32) - 1;
    return __shfl_xor_sync(all << (threadIdx.x % 32 / team * team), value, bit);
}
"""
"""The CUDA functions that a kernel needs. They need definitions of ``BLOCK``, the threads of a
block; ``BLOCKS``; and ``CLUSTERED``, 1 if these are one cluster, and 0 if they are launched
together. The second word of ``scratch`` is 1 after a launch whose threads have waited too long for
each other."""

_WARP = 32
_ALIGNMENT = 16
_TILES = (4, 4), (2, 4), (2, 2)  # rows and columns
_LEAST_BUSY = 7 / 8  # of the threads, so that a tile is worthwhile
_UNROLLED = 8  # this many terms of a sum are loaded before the first is needed


@dataclass(frozen=True)
class Kernel:
    """A kernel that takes steps.

    Attributes:
        source: C++, without the prelude. The function is ``take_steps``.
        arguments: the arguments before the number of steps: the name of each buffer, and its type
            in C. The last is ``scratch``.
        scratch: the bytes that it needs for temporaries within a step, and for its barriers; zeros.
        n_phases: the number of phases in a step; after each, all threads wait for each other.
        constants: the values of buffers ``c0``, ``c1`` ...
        z: the shape and the dtype of zᴸ.
        n_operations: the number of expressions computed in a step.
    """

    source: str
    arguments: dict[str, str]
    scratch: int
    n_phases: int
    constants: dict[str, np.ndarray]
    z: tuple[tuple[int, ...], str]
    n_operations: int


# ---------------------------------------------------------------------------------------------
# Phases


def _is_entrywise(later: Operation, earlier: Operation) -> bool:
    """Whether two operations can share a loop: a thread that takes entry after entry keeps order.

    They can if both loop over the same entries, and every buffer that one writes and the other uses
    is used entry by entry.
    """
    if later.out.shape != earlier.out.shape:
        return False
    for writer, other in ((earlier, later), (later, earlier)):
        used = [view for view in other.views if view.buffer == writer.out.buffer]
        if used and (other.combine or any(view != writer.out for view in used)):
            return False
    return later.out.buffer != earlier.out.buffer or later.out == earlier.out


def _depends(later: Operation, earlier: Operation) -> bool:
    """Whether two operations must stay in their order."""
    writes = later.out.buffer, earlier.out.buffer
    return (
        writes[0] == writes[1]
        or any(view.buffer == writes[1] for view in later.views)
        or any(view.buffer == writes[0] for view in earlier.views)
    )


def phases_of(
    operations: Sequence[Operation], *, alone: Callable[[Operation], bool] = lambda _: False
) -> list[int]:
    """Return the phase of each operation, from 0: as late as the operations after it allow.

    An operation in ``alone`` shares no loop with its dependencies or its dependents.

    A gradient is computed late, so that the descent, which must wait until the error has been
    propagated back through its weights, can follow in the same loop. An operation without
    dependents, such as writing zᴸ, stays with its dependencies.
    """

    def may_share(later: Operation, earlier: Operation) -> bool:
        return not (alone(later) or alone(earlier)) and _is_entrywise(later, earlier)

    barriers: list[dict[int, int]] = [
        {
            i: 0 if may_share(later, operations[i]) else 1
            for i in range(j)
            if _depends(later, operations[i])
        }
        for j, later in enumerate(operations)
    ]
    earliest = [0] * len(operations)
    for j, before in enumerate(barriers):
        earliest[j] = max((earliest[i] + wait for i, wait in before.items()), default=0)
    latest = [max(earliest, default=0)] * len(operations)
    for j in range(len(operations) - 1, -1, -1):
        for i, wait in barriers[j].items():
            latest[i] = min(latest[i], latest[j] - wait)
    followed = {i for before in barriers for i in before}
    for j, before in enumerate(barriers):
        if j not in followed:
            latest[j] = max((latest[i] + wait for i, wait in before.items()), default=0)
    return latest


@dataclass
class _Loop:
    """Operations over the same entries, in one phase."""

    phase: int
    shape: tuple[int, ...]
    operations: list[Operation]


def _loops_of(operations: Sequence[Operation]) -> list[_Loop]:
    """Return the loops of a step in their order."""
    loops: dict[Any, _Loop] = {}
    for phase, one in zip(phases_of(operations), operations, strict=True):
        key = phase, one.out.shape
        loops.setdefault(key, _Loop(*key, [])).operations.append(one)
    return sorted(loops.values(), key=lambda loop: loop.phase)


# ---------------------------------------------------------------------------------------------
# Source


def write_kernel(step: OperationList, *, threads: int) -> Kernel:
    """Return the kernel of a step.

    Args:
        step: its operations.
        threads: threads that share the work: ``BLOCK`` times ``BLOCKS``.
    """
    loops = _loops_of(step.operations)
    stored = _stored(loops)
    places, scratch = _places(step, stored)
    types = {name: C_TYPES[dtype] for name, dtype in step.dtypes.items()}
    used = {view.buffer for one in step.operations for view in (*one.views, one.out)}
    outside = sorted((name for name in used if name[0] != "t"), key=lambda n: (n[0], len(n), n))
    moving = [name for name in outside if name[0] in "xz"]  # from mini-batch to mini-batch
    lines = [
        f"KERNEL take_steps({', '.join(f'{types[name]}* {name}' for name in outside)},",
        "                  char* scratch, int n_steps) {",
        "    const int thread = thread_number();",
        *(
            f"    {types[name]}* const {name} = ({types[name]}*)(scratch + {place});"
            for name, place in places.items()
        ),
        "    for (int step = 0; step < n_steps; ++step) {",
    ]
    began = 0
    for i, loop in enumerate(loops):
        tiling = _tiling_for(loop, threads)
        lines += (f"        {line}" for line in _write_loop(loop, stored, threads, tiling, began))
        busy = math.prod(loop.shape) // tiling.tile * tiling.team
        began = (began + busy) // _WARP * _WARP % threads
        if i + 1 == len(loops) or loops[i + 1].phase != loop.phase:
            lines.append("        barrier((unsigned*)scratch);")
            began = 0
    lines += [f"        {name} += {step.sizes[name]};" for name in moving]
    lines += ["    }", "}", ""]
    return Kernel(
        "\n".join(lines),
        {name: types[name] for name in outside} | {"scratch": "char"},
        scratch,
        loops[-1].phase + 1,
        {name: values for name, values in step.constants.items() if name in outside},
        (step.z_shape, step.dtypes["z"]),
        sum(one.size for one in step.operations),
    )


def _stored(loops: Sequence[_Loop]) -> set[str]:
    """Return the temporaries that another loop reads; the others never leave their own loop."""
    written, read = defaultdict(set), defaultdict(set)
    for i, loop in enumerate(loops):
        for one in loop.operations:
            written[one.out.buffer].add(i)
            for view in one.views:
                read[view.buffer].add(i)
    return {
        name for name, there in written.items() if name[0] == "t" and len(there | read[name]) > 1
    }


def _places(step: OperationList, stored: set[str]) -> tuple[dict[str, int], int]:
    """Return the offset of each temporary in the scratch memory, and the total size."""
    places, end = {}, _ALIGNMENT  # the first words are the barriers'
    for name in sorted(stored, key=lambda name: int(name[1:])):
        places[name] = end
        size = step.sizes[name] * np.dtype(step.dtypes[name]).itemsize
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return places, end


@dataclass(frozen=True)
class _Tiling:
    """How the entries of a loop are divided among threads.

    Attributes:
        team: the threads that share the sums of an entry.
        rows: the rows of the tile of entries that a team computes together. Common terms are read
            once.
        columns: the columns of that tile.
    """

    team: int
    rows: int = 1
    columns: int = 1

    @property
    def tile(self) -> int:
        """The entries that a team computes together."""
        return self.rows * self.columns


def _tiling_for(loop: _Loop, threads: int) -> _Tiling:
    """Return how to divide a loop among threads.

    Reads of neighboring numbers by neighboring threads are combined, so a team is a whole warp if
    the terms of a sum are contiguous; otherwise, as many threads as would be idle. If there are
    more entries than threads, each computes a tile of them.
    """
    sums = [one for one in loop.operations if one.combine]
    shortest = min((math.prod(one.reduced) for one in sums), default=1)
    entries = max(math.prod(loop.shape), 1)
    team = threads // entries
    if shortest >= _WARP and all(view.strides[-1] <= 1 for one in sums for view in one.views):
        team = _WARP
    team = 1 << (max(min(_WARP, team, shortest), 1).bit_length() - 1)
    if len(loop.shape) == 2 and sums and all(one.combine == SUM for one in sums):
        for rows, columns in _TILES:
            whole = loop.shape[0] % rows == loop.shape[1] % columns == 0
            if whole and entries // (rows * columns) * team >= _LEAST_BUSY * threads:
                return _Tiling(team, rows, columns)
    return _Tiling(team)


def _write_loop(
    loop: _Loop, stored: set[str], threads: int, tiling: _Tiling, began: int
) -> Iterator[str]:
    """Write a loop over entries; ``began`` threads are already busy, and come last."""
    team, times = tiling.team, math.prod(loop.shape) // tiling.tile
    number = f"(thread + {threads - began}) % {threads}" if began else "thread"
    number = f"{number} / {team}" if team > 1 else number
    yield f"// {' × '.join(map(str, loop.shape)) or 'one entry'}"
    yield f"for (int i = {number}; i < {times}; i += {threads // team}) {{"
    body = list(_write_entries(loop, stored, tiling))
    if tiling.tile == 1:
        yield from (f"    {line}" for line in _index_lines(loop.shape, tiling, body))
    yield from (f"    {line}" for line in body)
    yield "}"


def _write_entries(loop: _Loop, stored: set[str], tiling: _Tiling) -> Iterator[str]:
    """Write the computation of an entry, or of a tile: first the sums, which only read memory."""
    names: dict[View, str] = {}
    for one in loop.operations:
        if one.combine:
            yield from _write_sum(one, names, loop.shape, tiling)
    if tiling.team > 1:
        yield f"if (thread % {tiling.team}) continue;"
    yield from _for_each(loop.shape, tiling, list(_write_elementwise(loop, names, stored)))


def _write_elementwise(loop: _Loop, names: dict[View, str], stored: set[str]) -> Iterator[str]:
    """Write the expressions after the sums of an entry, which have names."""
    changed: dict[View, str] = {}
    for one in loop.operations:
        if not one.combine:
            for view in one.views:
                if view not in names:
                    names[view] = f"v{len(names)}"
                    yield f"{C_TYPES[view.dtype]} {names[view]} = {_entry(view)};"
            inputs = (names[v] if isinstance(v, View) else v for v in one.inputs)
            kind = "" if one.out in names else f"{C_TYPES[one.out.dtype]} "
            name = names.setdefault(one.out, f"v{len(names)}")
            yield f"{kind}{name} = {one.expression.format(*inputs)};"
        changed[one.out] = names[one.out]
    for view, name in changed.items():
        if view.buffer[0] != "t" or view.buffer in stored:
            yield f"{_entry(view)} = {name};"


def _write_sum(
    one: Operation, names: dict[View, str], shape: tuple[int, ...], tiling: _Tiling
) -> Iterator[str]:
    """Write the loop over the terms that are combined in an entry, or in a tile."""
    team, declared = tiling.team, f"v{len(names)}"
    names[one.out] = name = f"{declared}[t]" if tiling.tile > 1 else declared
    kind, length = C_TYPES[one.out.dtype], math.prod(one.reduced)
    index = _indices("k", one.reduced)
    term = one.expression.format(*(_entry(view, index) for view in one.views))
    combine = one.combine.format(name, "term")
    first = f"thread % {team}" if team > 1 else "0"
    if tiling.tile > 1:
        yield f"{kind} {declared}[{tiling.tile}] = {{}};"
    else:
        yield f"{kind} {declared}{' = 0' if one.combine == SUM else ''};"
    yield f"#pragma unroll {max(_UNROLLED // tiling.tile, 1)}"
    yield f"for (int k = {first}; k < {length}; k += {team}) {{"
    taken = combine if one.combine == SUM else f"k < {team} ? term : ({combine})"
    lines = [f"const {kind} term = {term};", f"{name} = {taken};"]
    yield from (f"    {line}" for line in _for_each(shape, tiling, lines))
    yield "}"
    if team > 1:
        lines = [
            f"for (int bit = {team // 2}; bit; bit /= 2) {{",
            f"    const {kind} term = of_neighbour<{team}>({name}, bit);",
            f"    {name} = {combine};",
            "}",
        ]
        yield from _for_each(shape, tiling, lines)


def _for_each(shape: tuple[int, ...], tiling: _Tiling, lines: list[str]) -> Iterator[str]:
    """Write lines for each entry of a tile, number t."""
    if tiling.tile == 1:
        yield from lines
        return
    yield "#pragma unroll"
    yield f"for (int t = 0; t < {tiling.tile}; ++t) {{"
    yield from (f"    {line}" for line in (*_index_lines(shape, tiling, lines), *lines))
    yield "}"


def _index_lines(shape: tuple[int, ...], tiling: _Tiling, lines: list[str]) -> Iterator[str]:
    """Write the indices i0, i1 ... of an entry, as far as lines use them."""
    indices = _indices("i", shape)
    if tiling.tile > 1:
        # The entries of a tile are far apart, so that neighboring threads compute adjacent entries.
        height, width = shape[0] // tiling.rows, shape[1] // tiling.columns
        indices = [
            f"i / {width} + t / {tiling.columns} * {height}",
            f"i % {width} + t % {tiling.columns} * {width}",
        ]
    for axis, index in enumerate(indices):
        if any(re.search(rf"\bi{axis}\b", line) for line in lines):
            yield f"const int i{axis} = {index};"


def _indices(number: str, shape: Sequence[int]) -> list[str]:
    """Return the texts of the indices of the entry of a number, row by row."""
    indices = []
    for axis, extent in enumerate(shape):
        inner = math.prod(shape[axis + 1 :])
        index = f"{number} / {inner}" if inner > 1 else number
        indices.append(f"{index} % {extent}" if axis else index)
    return indices


def _entry(view: View, reduced: Sequence[str] = ()) -> str:
    """Return the text of an entry of a view."""
    index = [f"i{axis}" for axis in range(len(view.shape) - len(reduced))] + list(reduced)
    terms = [str(view.offset)] if view.offset else []
    terms += [
        name if stride == 1 else f"({name}) * {stride}" if " " in name else f"{name} * {stride}"
        for name, stride in zip(index, view.strides, strict=True)
        if stride
    ]
    return f"{view.buffer}[{' + '.join(terms) or '0'}]"
