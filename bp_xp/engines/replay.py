"""Record a step once, replay it on every mini-batch: the common part of recording engines.

With small networks, most of the time of a step goes into calling functions and making arrays, not
into arithmetic. So a library's recorder takes the step once, on copies, and records each operation
as a line of a Python function, with the memory of its first result as ``out``. For the sigmoid, for
example::

    matmul(x, v0, out=t0)
    add(t0, v1, out=t0)
    multiply(c0, t0, out=t1)
    tanh(t1, out=t2)

That function then runs the mini-batches. Since it is made from the step, no mathematics is written
a second time. The plain loop takes a step that cannot be recorded, for example because it reads a
value, and a few steps for which recording is not worthwhile.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.engines import plain
from bp_xp.engines.engine import Loop, Step
from bp_xp.engines.report import Report

__all__ = [
    "CannotRecordError",
    "GaveUpError",
    "Lines",
    "PlainIsBetterError",
    "Program",
    "Record",
    "new_loop",
]

# Recording a step takes as long as some tens of steps of a small network in the plain loop.
_STEPS_BEFORE = 32
_LEAST = 4  # for any network, since a step is taken on copies


class CannotRecordError(Exception):
    """The step does something that a list of array operations cannot express."""


class PlainIsBetterError(CannotRecordError):
    """The step could be recorded, but would not be faster."""


class GaveUpError(Exception):
    """A program could not finish its steps; the state is the same as before them."""


class Program(NamedTuple):
    """A recorded step.

    Attributes:
        run: runs mini-batches, ``run(leaves of the state, batches, zs)``: updates the state in
            place, and writes zᴸ to zs.
        z: an array of the shape and dtype of zᴸ.
        text: the source text, for reading.
    """

    run: Callable[[Sequence[Array], Sequence[Array], Array], None]
    z: Array
    text: str


class Record(Protocol):
    """Takes a step on copies of the state and of a mini-batch, and returns its program."""

    def __call__(self, step: Step, state: Any, batch: Sequence[Array], *, xp: Namespace) -> Program:
        """Raise CannotRecordError, or any other exception, if the plain loop has to be used."""
        ...


class Lines:
    """The lines of a function under way, and the objects that they name.

    In the lines, the leaves of the state are ``s0``, ``s1`` ..., the parts of a mini-batch are
    ``x0``, ``x1`` ... and zᴸ is ``z``.
    """

    def __init__(self) -> None:
        self.before: list[str] = []  # views of the state, taken once for all mini-batches
        self.each: list[str] = []  # what is done for each mini-batch
        self.objects: dict[str, Any] = {}

    def name(self, prefix: str, value: Any) -> str:
        """Return a new name for an object: a temporary array, a constant, a function."""
        name = f"{prefix}{len(self.objects)}"
        self.objects[name] = value
        return name

    def function_name(self, function: Any) -> str:
        """Return the name of a function."""
        name = function.__name__.replace(".", "_")
        if self.objects.setdefault(name, function) is function:
            return name
        return self.name("f", function)

    def write_view(self, expression: str, *, of_batch: bool) -> str:
        """Write the line that takes a view and return its name."""
        name = f"v{len(self.before) + len(self.each)}"
        (self.each if of_batch else self.before).append(f"{name} = {expression}")
        return name

    def write_back(self, new_state: Sequence[str], copy: Callable[[str, str], str]) -> None:
        """Copy parts of the state that were returned as new arrays to the old ones.

        Args:
            new_state: the names of the new leaves.
            copy: writes the line that copies (to, from).
        """
        for i, name in enumerate(new_state):
            if name != f"s{i}":
                if name not in self.objects:  # another leaf, or a view of one
                    raise CannotRecordError("the state changes places")
                self.each.append(copy(f"s{i}", name))

    def compile(self, n_leaves: int, n_parts: int) -> tuple[Callable[..., None], str]:
        """Return the function whose lines are on the tape, and its text for reading."""
        state = ", ".join(f"s{i}" for i in range(n_leaves)) + "," * (n_leaves == 1)
        parts = "".join(f"x{i}, " for i in range(n_parts))
        run = [
            "def run(leaves, batches, zs):",
            f"    {state} = leaves",
            *(f"    {line}" for line in self.before),
            f"    for {parts}z in zip(*map(items, batches), zs):",
            *(f"        {line}" for line in self.each),
        ]
        # The objects in the lines are arguments of an outer function: their lookup is the fastest.
        make = [f"def make(items, {', '.join(self.objects)}):", *(f"    {line}" for line in run)]
        scope: dict[str, Any] = {}
        exec("\n".join([*make, "    return run"]), scope)
        return scope["make"](_items, **self.objects), "\n".join(run)


def _items(array: Array) -> Any:
    """Return an iterable of the items of an array, each an array."""
    return array if array.ndim > 1 else [array[k, ...] for k in range(array.shape[0])]


def new_loop(
    record: Record,
    report: Report,
    *,
    effort: int = 1,
    small: float = math.inf,
    is_known: Callable[[Step, Any, Sequence[Array]], bool] = lambda *_: False,
) -> Loop:
    """Return the loop that replays recorded steps, recorded once for each shape of mini-batch.

    A program may differ from the plain loop in its rounding. So the choice between them depends on
    the number of the step in the whole run, and not on how the run is divided into chunks or
    whether it was resumed: a shape that occurs often in an epoch is recorded immediately, any other
    one after a number of steps.

    Args:
        record: the recorder.
        report: the report to update.
        effort: the time that it takes, relative to that of NumPy.
        small: the number of values in the state up to which a step takes constant time; with k
            times as many, recording pays off after k times fewer steps.
        is_known: whether a step on a state and a mini-batch needs no recording, since another run
            had the same. Its first steps then differ from that run's by rounding.
    """
    programs: dict[Any, Program | None] = {}
    taken: dict[Any, int] = {}

    def loop(
        step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        n, shape = batches[0].shape[0], report.whole(batches[0].shape[1:])
        account = report.account(shape)
        number = account.before + taken.get(shape, 0)
        taken[shape] = taken.get(shape, 0) + n
        numbers = sum(math.prod(leaf.shape) for leaf in leaves_of(state))
        most = effort * _STEPS_BEFORE
        least = max(min(_LEAST, most), math.ceil(most / max(1.0, numbers / small)))
        rows = shape[-2:][0]  # of a mini-batch, in a stack of networks that of each
        # Unknown counts are not guessed from the chunk: a resumed run has other chunks.
        of_epoch = 1 if report.epoch is None else report.epoch.get(rows, cast(int, n))
        few = of_epoch < least and number < least
        if few and not is_known(step, state, [part[0, ...] for part in batches]):
            account.reason = f"recording takes as long as {least} step{'s' * (least > 1)}"
            first = min(n, least - number)
            account.plain += first
            state, zs = _plainly(step, state, [part[:first, ...] for part in batches], xp)
            if first == n:
                return state, zs
            state, others = replayed(step, state, [part[first:, ...] for part in batches], xp=xp)
            return state, xp.concat([zs, others], axis=0)
        return replayed(step, state, batches, xp=xp)

    def replayed(
        step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        n, shape = batches[0].shape[0], report.whole(batches[0].shape[1:])
        account = report.account(shape)
        # When networks leave a stack, the state has another form, whatever the mini-batches are.
        # And with shards, a process may have any part of a mini-batch.
        part = tuple(batches[0].shape[1:])
        form = shape, part, tuple(getattr(next(leaves_of(state), None), "shape", ()))
        if form not in programs:
            programs[form] = _recorded(record, step, state, batches, report, xp=xp)
        if (program := programs[form]) is not None:
            z = program.z
            zs = xp.empty((n, *z.shape), dtype=z.dtype, device=z.device)
            try:
                program.run(list(leaves_of(state)), batches, zs)
            except GaveUpError as error:
                programs[form] = account.program = None
                report.fall_back(shape, str(error))
            else:
                return state, zs
        account.plain += n
        return _plainly(step, state, batches, xp)

    return loop


def _recorded(
    record: Record,
    step: Step,
    state: Any,
    batches: Sequence[Array],
    report: Report,
    *,
    xp: Namespace,
) -> Program | None:
    """Return the program of a step, or None, with the reason in the report."""
    shape = tuple(batches[0].shape[1:])
    try:
        program = record(step, state, [part[0, ...] for part in batches], xp=xp)
    except (Warning, AssertionError):  # the user wants them to be errors
        raise
    except PlainIsBetterError as error:
        report.fall_back(shape, str(error), expected=True)
    except CannotRecordError as error:
        report.fall_back(shape, str(error))
    except Exception as error:  # whatever it is, the plain loop works, or reports what is wrong
        report.fall_back(shape, f"{type(error).__name__} while recording: {error}")
    else:
        account = report.account(shape)
        account.program = lambda: program.text
        if account.plain:
            account.reason = "before there were enough to record a step"
        return program
    return None


def _plainly(step: Step, state: Any, batches: Sequence[Array], xp: Namespace) -> tuple[Any, Array]:
    """Take steps in the plain loop, and return a state from which a recorded step can continue."""
    state, zs = plain.loop(step, state, batches, xp=xp)
    # NumPy turns arrays without axes into scalars, which cannot be written to.
    return map_leaves(xp.asarray, state), zs
