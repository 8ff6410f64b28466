"""A stack: many networks of the same shape as one run.

The parameters of M networks are W of shape (M, O, I) and b of shape (M, O); the optimizer's state
has the same shapes. The equations broadcast over the leading axis, so a step of the stack is one
product per layer and pass, for any M. Settings that differ between the networks, such as a learning
rate or the strength of a penalty, are arrays of shape (M,) in the state.

A member that has stopped improving, or diverged, leaves between two epochs: its row is removed from
every array, and the other rows do not change.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.errors import DivergenceError
from bp_xp.math import dropout
from bp_xp.math.regularization import Regularization
from bp_xp.optim import Optimizer, Update
from bp_xp.optim.schedules import LearningRates, MemberRates
from bp_xp.training.arguments import Settings
from bp_xp.training.callbacks import EarlyStopping
from bp_xp.training.fitting import WarmStart
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.looks import Position, copied
from bp_xp.training.step import State
from bp_xp.training.trainer import Observer, Run

__all__ = [
    "MembersLeave",
    "RecordMembers",
    "StackRun",
    "StackedOptimizer",
    "WarmStack",
    "put_rows",
    "stack_positions",
    "stack_settings",
    "stack_trees",
    "take_rows",
]

logger = logging.getLogger("bp_xp")

# The limit for a member that has none, relative to the largest number. It is far above the values
# of a healthy run, and far enough below the largest number for clip_by_norm to compare with it.
_NO_LIMIT = 1e-13


# ---------------------------------------------------------------------------------------------
# Arrays of all members, and of some


def stack_trees(trees: Sequence[Any], xp: Namespace) -> Any:
    """Return a nesting whose arrays stack those of all trees, shape (M, ...)."""
    columns = iter(list(zip(*map(leaves_of, trees), strict=True)))
    return map_leaves(lambda _: xp.stack(list(next(columns))), trees[0])


def take_rows(tree: Any, rows: Sequence[int], placement: Placement) -> Any:
    """Return a nesting with some rows of its arrays; all networks share arrays without an axis."""
    return map_leaves(_taking(rows, placement), tree)


def _taking(rows: Sequence[int], placement: Placement) -> Callable[[Array], Array]:
    numbers = placement.asarray(np.asarray(rows, dtype=np.int64))
    return lambda leaf: placement.xp.take(leaf, numbers, axis=0) if leaf.ndim else leaf


def put_rows(tree: Any, rows: Sequence[int], part: Any, placement: Placement) -> Any:
    """Return a nesting with some rows of its arrays replaced by those of another."""
    xp, others = placement.xp, iter(leaves_of(part))

    def put(leaf: Array) -> Array:
        chosen = np.arange(leaf.shape[0])
        chosen[list(rows)] = leaf.shape[0] + np.arange(len(rows))
        return xp.take(xp.concat([leaf, next(others)], axis=0), placement.asarray(chosen), axis=0)

    return map_leaves(put, tree)


# ---------------------------------------------------------------------------------------------
# Settings and states of all members, combined for one run


@dataclass(frozen=True)
class StackedOptimizer:
    """The optimizers of the members, with the interface of a single one for the trainer.

    Attributes:
        each: an optimizer for each member; all take the same kind of step.
        rows: the numbers of the members that are in the stack.
    """

    each: Sequence[Optimizer]
    rows: list[int]

    @property
    def update(self) -> Update:
        """The step."""
        return self.each[0].update

    @property
    def learning_rate(self) -> MemberRates:
        """The rates of all."""
        rates: list[LearningRates] = [getattr(one, "learning_rate", 0.0) for one in self.each]
        return MemberRates(rates, self.rows)

    def of_row(self, row: int) -> Optimizer:
        """Return the optimizer of the member in a row of the stack."""
        return self.each[self.rows[row]]

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> Any:
        """Return the state of one member, from which the others' differ."""
        return self.each[0].init(layers, placement=placement, dtype=dtype)


def stack_settings(settings: Sequence[Settings], rows: list[int]) -> Settings:
    """Return the settings of the members as those of a stack.

    Args:
        settings: those of each member; they differ only in optimizer and regularization.
        rows: the numbers of the members that are in the stack; the list changes as they leave.

    Raises:
        ValueError: the members' optimizers take different kinds of step.
    """
    first = settings[0]
    for m, one in enumerate(settings):
        if one.optimizer.update != first.optimizer.update:
            raise ValueError(
                "the members of an ensemble must take the same kind of step, and may differ only "
                f"in its numbers: member 0 has {first.optimizer!r}, and member {m} has "
                f"{one.optimizer!r}."
            )
    own = tuple(
        term.name
        for term in fields(Regularization)
        if any(_term(one, term.name) != _term(first, term.name) for one in settings)
    )
    common = {
        term.name: getattr(Regularization(), term.name)
        if term.name in own
        else _term(first, term.name)
        for term in fields(Regularization)
    }
    return Settings(
        optimizer=StackedOptimizer([one.optimizer for one in settings], rows),
        regularization=Regularization(**common),
        own_terms=own,
        **{
            name: getattr(first, name)
            for name in ("epochs", "batch_size", "trainable", "metrics", "shuffle", "progress")
        },
    )


def _term(settings: Settings, name: str) -> Any:
    return getattr(settings.regularization, name)


def stack_positions(
    positions: Sequence[Position],
    settings: Sequence[Settings],
    own_terms: Sequence[str],
    sizes: Sequence[int],
    *,
    placement: Placement,
    dtype: str,
) -> Position:
    """Return the start of a stack from the starts of its members.

    Args:
        positions: that of each member, before its first step.
        settings: those of each member.
        own_terms: the fields of the regularization that differ.
        sizes: neurons of each layer.
        placement: library and device.
        dtype: the networks' dtype.
    """
    states, xp = [one.state for one in positions], placement.xp
    state = State(
        layers=stack_trees([one.layers for one in states], xp),
        optimizer=_stack_optimizers([one.optimizer for one in states], xp),
        masks=_stack_masks([one.masks for one in states], settings, sizes, placement),
        terms=[_own_term(name, settings, placement, dtype) for name in own_terms],
    )
    return positions[0]._replace(state=state)


def _stack_optimizers(states: Sequence[Any], xp: Namespace) -> Any:
    """Return the state of all optimizers.

    Numbers that all members share stay numbers, with which an engine multiplies fastest. If one
    differs, all get an axis, since a rule may add one to another in place. The learning rate is an
    exception, since rules do not change it.
    """
    rates = [getattr(one, "learning_rate", ()) for one in states]
    rest = [one._replace(learning_rate=()) if hasattr(one, "_replace") else one for one in states]
    stacked = _stack_or_share(rest, xp)
    if not hasattr(states[0], "learning_rate"):
        return stacked
    return stacked._replace(learning_rate=_stack_or_share(rates, xp))


def _stack_or_share(trees: Sequence[Any], xp: Namespace) -> Any:
    """Return the stacked arrays of all trees; numbers that are the same in all stay numbers."""
    numbers = [[float(to_numpy(x)) for x in leaves_of(one) if x.ndim == 0] for one in trees]
    alike = all(one == numbers[0] for one in numbers)
    columns = iter(list(zip(*map(leaves_of, trees), strict=True)))

    def stacked(leaf: Array) -> Array:
        column = list(next(columns))
        return leaf if alike and leaf.ndim == 0 else xp.stack(column)

    return map_leaves(stacked, trees[0])


def _stack_masks(
    masks: Sequence[Any], settings: Sequence[Settings], sizes: Sequence[int], placement: Placement
) -> Any:
    """Return the state of dropout, with a seed for each member; empty if none has dropout."""
    drawn = [one for one in masks if one]
    if not drawn:
        return ()
    most = [max(rates) for rates in zip(*_dropout_rates(settings), strict=True)]
    state = dropout.init_masks(most, sizes, settings[0].batch_size, 0, asarray=placement.asarray)
    # A member without dropout keeps all neurons, whatever its seed.
    seeds = [(one or drawn[0]).seed[None, :] for one in masks]
    return state._replace(seed=placement.xp.stack(seeds))


def _dropout_rates(settings: Sequence[Settings]) -> list[Sequence[float]]:
    """Return the rates of each member, from the inputs to the last hidden layer."""
    each = [one.regularization.dropout_rates for one in settings]
    layers = max(map(len, each))
    return [rates or (0.0,) * layers for rates in each]


def _own_term(
    name: str, settings: Sequence[Settings], placement: Placement, dtype: str
) -> Array | list[Any]:
    """Return a strength or limit for each member, (M,), or a list with one for each layer."""
    if name == "dropout":
        return [
            _thresholds(rates, placement, dtype) if any(rates) else ()
            for rates in zip(*_dropout_rates(settings), strict=True)
        ]
    values = [_term(one, name) for one in settings]
    layers = max((len(one) for one in values if isinstance(one, tuple)), default=0)
    if layers:  # a member has one for each layer
        each = [one if isinstance(one, tuple) else (one,) * layers for one in values]
        return [placement.asarray(of_layer, dtype) for of_layer in zip(*each, strict=True)]
    no_limit = _NO_LIMIT * float(np.finfo(dtype).max)
    return placement.asarray([no_limit if one is None else one for one in values], dtype)


def _thresholds(rates: Sequence[float], placement: Placement, dtype: str) -> dropout.Threshold:
    """Return the threshold and scale of a layer's masks for each member, shape (M, 1, 1) each."""
    least, scale = zip(*map(dropout.threshold, rates), strict=True)
    return (
        placement.asarray(np.reshape(np.array(least), (-1, 1, 1)), "int32"),
        placement.asarray(np.reshape(np.array(scale), (-1, 1, 1)), dtype),
    )


class WarmStack(NamedTuple):
    """The state that ``warm_start`` keeps for the next call; :class:`WarmStart` of a stack.

    Attributes:
        settings: those of each member.
        position: the position at the end of the run.
        rows: the numbers of the members that were in the stack then.
    """

    settings: Sequence[Settings]
    position: Position
    rows: Sequence[int]

    def check(self, settings: Sequence[Settings]) -> None:
        """Refuse settings that do not fit the state, or a member whose state is gone."""
        gone = sorted({*range(len(settings))} - {*self.rows})
        if gone:
            raise ValueError(
                f"warm_start continues where the last call ended, but the members {gone} left it "
                f"before: use the others, ensemble[{list(self.rows)}]."
            )
        for theirs, ours in zip(self.settings, settings, strict=True):
            WarmStart(theirs, self.position).check(ours)

    def take(self, members: Sequence[int], placement: Placement) -> "WarmStack":
        """Return the same for an ensemble of some of the members."""
        there = [m for m in members if m in self.rows]
        rows = [list(self.rows).index(m) for m in there]
        state = self.position.state.of_rows(_taking(rows, placement))
        return WarmStack(
            [self.settings[m] for m in members],
            self.position._replace(state=state),
            [k for k, m in enumerate(members) if m in there],
        )


# ---------------------------------------------------------------------------------------------
# The run


@dataclass
class StackRun(Run):
    """The run of a stack: the network has the parameters of all members, even those that left.

    Attributes:
        rows: the numbers of the members that are in the stack, in their order.
        last: the parameters of all members at the end of the previous epoch.
    """

    rows: list[int] = field(default_factory=list)
    last: Sequence[Layer] = ()

    def show(self, layers: Sequence[Layer]) -> None:
        """Set the parameters of the members in the stack; diverged ones get the last ones back."""
        if len(self.rows) == len(self.history.members) and not self.diverged:
            self.show_all(layers)
            return
        everyone = list(self.network._layers)
        sound = [row for row in range(len(self.rows)) if row not in self.diverged]
        for rows, theirs in ((sound, layers), ([*self.diverged], self._last_of_stack())):
            if rows:
                members = [self.rows[row] for row in rows]
                part = take_rows(list(theirs), rows, self.placement)
                everyone = put_rows(everyone, members, part, self.placement)
        self.show_all(everyone)

    def _last_of_stack(self) -> Sequence[Layer]:
        return take_rows(list(self.last), self.rows, self.placement) if self.diverged else ()

    def show_all(self, layers: Sequence[Layer]) -> None:
        """Set the parameters of all members."""
        super().show(layers)

    def assign(self, layers: Sequence[Layer]) -> None:
        """Continue from other parameters of all members than the steps led to."""
        self.show_all(layers)
        ours = take_rows(list(layers), self.rows, self.placement)
        self._go_on_from(self.position.state._replace(layers=copied(ours, self.placement.xp)))

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some rows of the stack."""
        self.rows[:] = [self.rows[row] for row in rows]
        self._go_on_from(self.position.state.of_rows(_taking(rows, self.placement)))

    def _go_on_from(self, state: State) -> None:
        self.position = self.position._replace(state=state)
        self._assigned = True


# ---------------------------------------------------------------------------------------------
# The observers of a stack's run, in their order


class RecordMembers(Observer):
    """Adds the record of each member to its history, and their mean to that of all.

    A member that diverged in the epoch has no record of it, as when it is trained alone.
    """

    def on_epoch_end(self, run: Any, record: EpochRecord) -> None:
        """Add the records."""
        run.last = run.layers
        sound = [row for row in range(len(run.rows)) if row not in run.diverged]
        for row in sound:
            own: History = run.history.members[run.rows[row]]
            own.records.append(record.of_member(row))
        if sound:
            run.history.records.append(record.of_members(sound).mean())


class MembersLeave(Observer):
    """Keeps each member's best parameters, and removes finished and diverged members.

    Args:
        stopping: the early stopping of each member, or None.
    """

    def __init__(self, stopping: Sequence[EarlyStopping | None]) -> None:
        self._stopping = stopping

    def before_first(self, run: Any) -> str | None:
        """Return whether all members of a resumed run had left."""
        return self._reason([run.history.members[m].stopped for m in run.rows])

    def on_epoch_end(self, run: Any, record: EpochRecord) -> str | None:
        """Continue the stack without those that leave; end the run after the last one."""
        reasons = {
            row: reason
            for row, member in enumerate(run.rows)
            if (reason := self._reason_to_leave(run, row, member))
        }
        for row in range(len(run.rows)):
            run.history.members[run.rows[row]].steps = run.position.step
        improved = [m for m in run.rows if run.history.members[m].best_epoch == record.epoch]
        if improved:
            best = take_rows(run.layers, improved, run.placement)
            run.best = put_rows(run.best or list(run.layers), improved, best, run.placement)
        ended = self._reason([reasons.get(row, "") for row in range(len(run.rows))])
        if reasons and not ended:
            run.keep([row for row in range(len(run.rows)) if row not in reasons])
        return ended

    def _reason(self, reasons: Sequence[str]) -> str | None:
        """Return why the run ends, if all members have left."""
        if not all(reasons):
            return None
        return "early" if "early" in reasons else "divergence"

    def _reason_to_leave(self, run: Any, row: int, member: int) -> str:
        """Return why a member leaves, in the words of its history, or an empty string."""
        history, stopping, reason = run.history.members[member], self._stopping[member], ""
        error = run.diverged.get(row)
        try:
            if error is None and stopping is not None:
                if stopping.best_epoch(history) == history[-1].epoch:
                    history.best_epoch = history[-1].epoch
                reason = "early" if stopping.is_over(history) else ""
        except DivergenceError as found:  # the monitored value is NaN
            error = found
        if error is not None:
            logger.warning("member %d leaves the ensemble's run: %s", member, error)
            reason = "divergence"
        history.stopped = reason
        return reason

    def on_train_end(self, run: Any) -> None:
        """Restore each member's best parameters."""
        members = [
            m
            for m, (stopping, history) in enumerate(
                zip(self._stopping, run.history.members, strict=True)
            )
            if stopping is not None and stopping.restore_best and history.best_epoch is not None
        ]
        if members:
            best = take_rows(run.best, members, run.placement)
            run.show_all(put_rows(list(run.layers), members, best, run.placement))
