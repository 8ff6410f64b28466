"""A stack over several processes: each trains some members, and at the end all have all of them.

The members are independent, so no process waits for another during the run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp._caller import named
from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer
from bp_xp.backends import Placement, to_numpy
from bp_xp.errors import DivergenceError
from bp_xp.ranks import Ranks, find_ranks, over_devices
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.looks import Position
from bp_xp.training.stack import StackRun
from bp_xp.training.step import State

__all__ = ["find_ranks_of_members", "train_apart"]


def find_ranks_of_members(distributed: Any, placement: Placement, checkpoint: Any) -> Ranks:
    """Return the processes that share the members; see :func:`bp_xp.ranks.find_ranks`.

    Raises:
        ValueError: the members cannot be divided in this way; or there is a checkpoint, which
            requires a single process.
    """
    ranks = find_ranks(distributed, placement)
    if distributed != "auto" and over_devices(distributed, placement) is not placement:
        raise ValueError(
            f"{named('distributed', distributed)} divides rows among devices, but an ensemble's "
            f"members are divided among processes: leave {named('distributed')} out."
        )
    if ranks.are_several and checkpoint is not None:
        raise ValueError(
            f"{named('checkpoint')} keeps the run of an ensemble on a single process: leave it "
            f"out if {named('distributed')} divides the members among {ranks.size}."
        )
    return ranks


@dataclass(frozen=True)
class _Part:
    """The results of a process for its members, on the host.

    Attributes:
        members: their numbers.
        layers: their parameters at the end, in that order.
        histories: their histories.
        records: the means over them.
        generators: the states of their generators, and last that of the ensemble.
        rows: the numbers of those that were in the stack at the end.
        position: the position at the end of the run; its state is None if no run continues from it.
        diverged: the errors of the members that diverged in the last epoch, by their row.
        stopped: why the run ended.
    """

    members: Sequence[int]
    layers: Sequence[Layer]
    histories: Sequence[History]
    records: Sequence[EpochRecord]
    generators: Sequence[Any]
    rows: Sequence[int]
    position: Position
    diverged: Mapping[int, DivergenceError]
    stopped: str


def train_apart(run: StackRun, ranks: Ranks, learn: Callable[[], None], *, warm: bool) -> None:
    """Train the members of a stack; of R processes, rank r trains members r, r + R, r + 2R ...

    Args:
        run: the run of all members before its first step; it ends as on one process.
        ranks: the processes, each of which has made the same run.
        learn: trains the members in the stack, and records why each ended.
        warm: whether another run continues from the final state.
    """
    own = list(range(ranks.rank, len(run.rows), ranks.size))

    def part() -> _Part:
        if own and len(own) < len(run.rows):
            run.keep(own)
            run.take_assigned()
        if own:
            learn()
        return _part_of(run, own, warm=warm)

    # The others would notice an error only at their end, maybe hours later: so it ends all now.
    _put_together(run, ranks.gather(ranks.guarded(part)()))


def _part_of(run: StackRun, own: Sequence[int], *, warm: bool) -> _Part:
    ensemble: Any = run.network
    layers = [Layer(*(to_numpy(part)[own] for part in layer)) for layer in ensemble._layers]
    generators = [*(ensemble._generators[m] for m in own), ensemble._generator]
    state: Any = map_leaves(to_numpy, run.position.state) if warm else None
    return _Part(
        members=own,
        layers=layers,
        histories=[run.history.members[m] for m in own],
        records=list(run.history.records),
        generators=[one.bit_generator.state for one in generators],
        rows=list(run.rows) if own else [],
        position=run.position._replace(state=state, totals=[]),
        diverged=dict(run.diverged),
        stopped=run.history.stopped,
    )


def _put_together(run: StackRun, parts: Sequence[_Part]) -> None:
    """Set the results of a run as if one process had run it."""
    ensemble: Any = run.network
    history, placement = run.history, run.placement
    last = max(parts, key=lambda one: (len(one.rows) > 0, one.position.step))
    to_the_end = [one for one in parts if one.rows and one.position.step == last.position.step]
    everyone = [Layer(*(np.array(to_numpy(part)) for part in layer)) for layer in run.layers]
    for one in parts:
        for layer, theirs in zip(everyone, one.layers, strict=True):
            layer.W[list(one.members)], layer.b[list(one.members)] = theirs
        for m, own, state in zip(one.members, one.histories, one.generators, strict=False):
            history.members[m] = own
            ensemble._generators[m].bit_generator.state = state
    ensemble._generator.bit_generator.state = last.generators[-1]
    run.show_all(map_leaves(placement.asarray, everyone))
    numbers = [m for one in to_the_end for m in one.rows]
    order = np.argsort(numbers)
    run.rows[:] = [numbers[k] for k in order]
    run.position, run.diverged = last.position, last.diverged
    if last.position.state is not None:
        state = _joined([one.position.state for one in to_the_end], order, placement)
        run.position = last.position._replace(state=state)
    history.steps, history.stopped = last.position.step, _why(parts, to_the_end)
    history.engine = history.members[0].engine
    history.records[:] = _records(parts, history.members)


def _joined(states: Sequence[State], order: np.ndarray, placement: Placement) -> State:
    """Return the state of a stack on the device, from the host states of the processes."""
    several: list[list[Array]] = []
    for one in states:
        one.of_rows(lambda leaf, found=(found := []): found.append(leaf) or leaf)
        several.append(found)
    columns = zip(*several, strict=True)

    def join(leaf: Array) -> Array:
        column = next(columns)
        return np.concatenate(column, axis=0)[order] if leaf.ndim else leaf

    joined = states[0].of_rows(join)
    return map_leaves(lambda leaf: placement.asarray(np.array(leaf)), joined)


def _why(parts: Sequence[_Part], to_the_end: Sequence[_Part]) -> str:
    """Return why the run of all has ended."""
    asked = [one.stopped for one in parts if one.stopped in ("interrupt", "callback")]
    reasons = [one.stopped for one in to_the_end]
    return min([*asked, *reasons], key=_REASONS.index)


_REASONS = ("interrupt", "callback", "epochs", "early", "divergence")


def _records(parts: Sequence[_Part], members: Sequence[History]) -> list[EpochRecord]:
    """Return the mean record of each epoch over the members that took it."""
    records = []
    for k in range(max(len(one.records) for one in parts)):
        mean = EpochRecord.stacked([one.records[k] for one in members if len(one) > k]).mean()
        each = [one.records[k] for one in parts if len(one.records) > k]
        seconds = max(one.seconds for one in each)
        samples = sum(one.samples_per_second * one.seconds for one in each)
        records.append(mean._replace(seconds=seconds, samples_per_second=samples / seconds))
    return records
