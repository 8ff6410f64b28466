"""The CuPy engine: many steps of a small network in one kernel, few launches for a larger one.

On a GPU a small network waits for launches. If a step is small enough, one kernel takes many of
them; it is written from the step itself (:mod:`bp_xp.engines.kernel`). For a larger step, the
library computes the matrix products, and everything between two products is one launch
(:mod:`bp_xp.engines.launches`). Before either program is used, it takes two steps for comparison
with the plain loop: if it cannot be compiled, or has other results, it is dropped with a warning.
Of the correct programs and the plain loop, the fastest takes the steps.

In the plain loop, σ of a sigmoid is four operations; ``cupy.fuse`` combines them into one, from the
functions in :mod:`bp_xp.math.activations` themselves (:mod:`bp_xp.backends.cupy.fusing`).
"""

import collections
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp._trees import forms_of, leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.backends.cupy.fusing import fuse, told_to
from bp_xp.backends.cupy.launching import (
    Clock,
    LaunchConfiguration,
    configurations,
    seconds_of,
)
from bp_xp.backends.cupy.memory import ran_out_of_memory
from bp_xp.backends.cupy.programs import home, kernel_program, launches_program
from bp_xp.engines import plain, replay
from bp_xp.engines.engine import Engine, Loop, Step
from bp_xp.engines.kernel import write_kernel
from bp_xp.engines.launches import list_launches
from bp_xp.engines.operations import OperationList, list_operations
from bp_xp.engines.replay import CannotRecordError, PlainIsBetterError, Program
from bp_xp.engines.report import Report

__all__ = ["ENGINE", "Known", "new_loop"]

# Rows of a mini-batch times numbers in the state: operations are listed on the host, which takes
# long for a network whose arithmetic hides launches anyway.
_MOST_PRODUCTS = 1 << 30

# How far a program may be from the plain loop, as a share of the change of an array in two steps:
# more than rounding (in TF32, if CuPy is set to use it), and less than any error.
_TOLERANCE = {"float32": 1e-2, "float64": 1e-6}

# Estimates are rough. A program that is estimated at this many times the plain loop is not tried.
_WORTH_A_TRY = 4.0

# Steps that are timed, and numbers in their mini-batches; two steps at least.
_TIMED = 16, 1 << 22

Make = Callable[[Namespace], Program]
"""Makes a program, with memory of its own."""


def new_loop(
    report: Report,
    configurations: Callable[[], Sequence[LaunchConfiguration]] = configurations,
    clock: Clock = seconds_of,
    known: "Known | None" = None,
) -> Loop:
    """Return the loop that takes steps in programs, one for each shape of mini-batch.

    Args:
        report: the report to update.
        configurations: returns how kernels can be launched.
        clock: tells how long a run takes.
        known: the programs of earlier runs; None is those of this process.
    """
    kept = _KNOWN if known is None else known

    def record(step: Step, state: Any, batch: Sequence[Array], *, xp: Namespace) -> Program:
        key = _key_of(step, state, batch)
        made = kept.find(key)
        if made is None:
            made = _chosen(_Trial(step, state, batch, clock, xp), configurations)
            kept.keep(key, made)
        if isinstance(made, CannotRecordError):
            raise type(made)(*made.args)
        return made(xp)

    def is_known(step: Step, state: Any, batch: Sequence[Array]) -> bool:
        return kept.find(_key_of(step, state, batch)) is not None

    replayed = replay.new_loop(record, report, effort=8, is_known=is_known)

    def loop(
        step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        with told_to(report):
            return replayed(step, state, batches, xp=xp)

    return loop


# ---------------------------------------------------------------------------------------------
# Programs of earlier runs


class Known:
    """The results for earlier steps: the programs of the last few, or why there is none."""

    def __init__(self, most: int = 32) -> None:
        self._most, self._lock = most, threading.Lock()
        self._found: collections.OrderedDict[Any, Make | CannotRecordError] = (
            collections.OrderedDict()
        )

    def find(self, key: Any) -> Make | CannotRecordError | None:
        """Return the result for a step; None if there is none."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def keep(self, key: Any, made: Make | CannotRecordError) -> None:
        """Keep a result, unless it may be different another time."""
        if isinstance(made, _TooLittleMemoryError):
            return
        with self._lock:
            self._found[key] = made
            if len(self._found) > self._most:
                self._found.popitem(last=False)


_KNOWN = Known()


def _key_of(step: Step, state: Any, batch: Sequence[Array]) -> Any:
    """Return the key of a program: rule, forms and device. Equal rules have one step."""
    forms = [(shape, str(dtype)) for shape, dtype in forms_of((state, list(batch)))]
    return step, tuple(forms), str(getattr(batch[0], "device", ""))


# ---------------------------------------------------------------------------------------------
# The choice


class _TooLittleMemoryError(CannotRecordError):
    """There was no memory to try a program."""


class _Candidate(NamedTuple):
    """A candidate for taking the steps.

    Attributes:
        name: its name, for reading.
        seconds: the estimated time of a step.
        compile: makes it ready.
    """

    name: str
    seconds: float
    compile: Callable[[], Make]


def _candidates(
    operations: OperationList, configurations: Sequence[LaunchConfiguration]
) -> Iterator[_Candidate]:
    """Yield the best kernel of whole steps, and the launches of a step."""
    whole = [one for one in configurations if one.whole]
    if whole:
        kernels = [(write_kernel(operations, threads=one.threads), one) for one in whole]
        kernel, best = min(kernels, key=lambda pair: pair[1].seconds(pair[0]))
        yield _Candidate("a kernel", best.seconds(kernel), lambda: kernel_program(kernel, best))
    for one in configurations:
        if not one.whole:
            launches = list_launches(operations)
            yield _Candidate(
                f"{len(launches)} launches",
                len(launches) * one.seconds_per_phase,
                lambda one=one: launches_program(operations, one),
            )


def _chosen(
    trial: "_Trial", configurations: Callable[[], Sequence[LaunchConfiguration]]
) -> Make | CannotRecordError:
    """Return a function that makes the fastest program of a step, or why there is none.

    Other errors than these are those of the step, or of too little memory.
    """
    try:
        return _fastest(trial, configurations)
    except CannotRecordError as error:
        return error.with_traceback(None)  # which holds arrays


def _fastest(trial: "_Trial", configurations: Callable[[], Sequence[LaunchConfiguration]]) -> Make:
    state, batch, xp = trial.state, trial.batch, trial.xp
    leaves = list(leaves_of(state))
    if len({id(leaf) for leaf in leaves}) < len(leaves):
        raise CannotRecordError("two parts of the state are one array")
    if batch[0].shape[0] * sum(leaf.size for leaf in leaves) > _MOST_PRODUCTS:
        raise PlainIsBetterError("the network is too large for a kernel to be faster")
    host = map_leaves(lambda one: np.ones(one.shape, one.dtype), (state, list(batch)))
    operations = list_operations(trial.step, *host)
    least, best, wrong = trial.seconds_of(None), None, ""
    mine = least
    for one in _candidates(operations, configurations()):
        if one.seconds > _WORTH_A_TRY * mine:
            continue
        try:
            make = one.compile()
            program = make(xp)
            if why := trial.difference(program):
                raise _WrongError(why)
            seconds = trial.seconds_of(program)
        except Exception as error:
            if ran_out_of_memory(error):
                traceback.clear_frames(error.__traceback__)  # they hold arrays
                why = f"too little memory to try {one.name}: {error}"
                raise _TooLittleMemoryError(why) from None
            kind = "" if isinstance(error, _WrongError) else f"{type(error).__name__}: "
            wrong = f"{kind}{error}"
            warnings.warn(
                f"{one.name} does not take the steps, since it is not to be trusted: {wrong}. "
                "Please report this.",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        if seconds <= least:
            least, best = seconds, make
    if best is not None:
        return best
    if wrong:
        raise CannotRecordError(wrong)
    raise PlainIsBetterError(f"it is the fastest: {1e6 * mine:.3g} µs a step")


# ---------------------------------------------------------------------------------------------
# A trial


class _WrongError(Exception):
    """A program has other results than the plain loop."""


class _Trial:
    """A trial of a step's programs against the plain loop, on copies of the state."""

    def __init__(
        self, step: Step, state: Any, batch: Sequence[Array], clock: Clock, xp: Namespace
    ) -> None:
        self.step, self.state, self.batch = step, state, batch
        self.xp, self._clock = xp, clock

    def _copied(self, tree: Any) -> Any:
        return map_leaves(lambda leaf: self.xp.asarray(leaf, copy=True), tree)

    def seconds_of(self, program: Program | None) -> float:
        """Return the time of a step; None is the plain loop's."""
        xp, step = self.xp, self.step
        most, entries = _TIMED
        n = max(2, min(most, entries // sum(part.size for part in self.batch)))
        batches = [xp.stack([part] * n) for part in self.batch]
        state = self._copied(self.state)
        if program is None:
            plain.loop(step, self._copied(state), [part[:2, ...] for part in batches], xp=xp)
            return self._clock(lambda: plain.loop(step, state, batches, xp=xp)) / n
        zs = xp.stack([program.z] * n)
        leaves = list(leaves_of(state))
        return self._clock(lambda: program.run(leaves, batches, zs)) / n

    def difference(self, program: Program) -> str:
        """Describe the difference of a program after two steps; empty if there is none."""
        xp = self.xp
        twice = [xp.stack([part, part]) for part in self.batch]
        start = map_leaves(_disturbed, self.state)
        ours, theirs = self._copied(start), self._copied(start)
        our_zs = xp.stack([program.z, program.z])
        program.run(list(leaves_of(ours)), twice, our_zs)
        theirs, their_zs = plain.loop(self.step, theirs, twice, xp=xp)
        return _difference(
            [*leaves_of(start), np.zeros(())],
            [*leaves_of(ours), our_zs],
            [*leaves_of(theirs), their_zs],
        )


def _difference(begun: Sequence[Any], ours: Sequence[Array], theirs: Sequence[Array]) -> str:
    """Describe the difference of two states beyond rounding; empty if there is none."""
    for i, (one, other, before) in enumerate(zip(ours, theirs, begun, strict=True)):
        dtype = str(one.dtype)
        share, eps = (_TOLERANCE[dtype], np.finfo(dtype).eps) if dtype in _TOLERANCE else (0.0, 0.0)
        one, other = (home(array).astype(np.float64) for array in (one, other))
        finite = np.isfinite(other)
        if not np.array_equal(finite, np.isfinite(one)):
            return f"array {i} of its state is not finite"
        change, size = (np.linalg.norm(part[finite]) for part in (other - before, other))
        allowed = share * change + 16 * eps * size
        if (far := np.linalg.norm((one - other)[finite])) > allowed:
            return f"array {i} of its state is off by {far:.2g}, more than {allowed:.2g}"
    return ""


def _disturbed(leaf: Array) -> np.ndarray:
    """Return a part of a state on the host, slightly perturbed.

    Zeros at the start of a run may give gradients that are only rounding, in which even correct
    results differ. No number becomes smaller, since numbers under a root must not be negative.
    """
    values = home(leaf)
    if values.ndim == 0 or values.dtype.kind != "f":
        return values
    off = 0.01 * np.abs(np.sin(np.arange(values.size))).reshape(values.shape)
    return (values + off).astype(values.dtype)


ENGINE = Engine(
    "cupy",
    "one CUDA kernel takes many steps of a small network; of a larger one, what is between two "
    "matrix products is one launch",
    new_loop,
    fuse=fuse,
)
