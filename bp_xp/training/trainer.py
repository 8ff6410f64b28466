"""The trainer: it drives every run, and calls its observers in a fixed order.

At each look (:mod:`bp_xp.training.looks`) the observers are called one after the other, in their
order in the list. For :meth:`bp_xp.Network.fit` that is:

1. :class:`Recorder` adds the record of the epoch to the history;
2. :class:`EarlyStop` keeps the best parameters, and ends a run that no longer improves;
3. :class:`TellCallbacks` calls the user's callbacks, which may assign parameters;
4. :class:`KeepCheckpoint` writes the file, including assigned parameters.

All are called before the run ends, whichever requests the end; the first request gives the reason.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bp_xp._typing import Layer
from bp_xp.backends import Placement
from bp_xp.engines import Report
from bp_xp.errors import DivergenceError
from bp_xp.math.model import Model
from bp_xp.ranks import Ranks
from bp_xp.sources import Source
from bp_xp.training.agreement import check_parameters_alike
from bp_xp.training.arguments import Settings
from bp_xp.training.callbacks import Callback, EarlyStopping
from bp_xp.training.divergence import check_finite
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.looks import Look, Position, copied, take_looks

__all__ = [
    "EarlyStop",
    "KeepCheckpoint",
    "Observer",
    "Recorder",
    "Run",
    "TellCallbacks",
    "Trainee",
    "train",
]


class Trainee(Protocol):
    """What callbacks see of a run: a network whose parameters can be read and assigned."""

    _layers: list[Layer]


@dataclass
class Run:
    """A training run in progress.

    Attributes:
        network: the network that callbacks get; it has the parameters of the last look.
        model: what it computes.
        source: where mini-batches come from.
        validation: what to evaluate after each epoch, or None; one for each network of a stack.
        settings: the settings.
        position: the position of the run.
        placement: library and device.
        dtype: the network's dtype.
        generator: draws the order of the samples.
        history: the record so far.
        best: the best parameters so far, if an observer keeps them.
        layers: the parameters of the last look, which nothing else refers to.
        interrupted: whether Ctrl-C or a callback ends the run at this look.
        diverged: in a stack, the errors of the networks that diverged in the epoch, by their row.
        report: the engine's report of the run.
        ranks: the processes that share the run.
    """

    network: Trainee
    model: Model
    source: Source
    validation: Source | Sequence[Source] | None
    settings: Settings
    position: Position
    placement: Placement
    dtype: str
    generator: np.random.Generator
    history: History = field(default_factory=History)
    best: Sequence[Layer] | None = None
    layers: Sequence[Layer] = ()
    interrupted: bool = False
    diverged: Mapping[int, DivergenceError] = field(default_factory=dict)
    report: Report = field(init=False)
    ranks: Ranks = field(default_factory=Ranks)
    _assigned: bool = False

    def __post_init__(self) -> None:
        self.report = self.placement.new_report()

    @property
    def is_over(self) -> bool:
        """Whether all epochs are complete."""
        return self.position.epoch > self.settings.epochs

    def show(self, layers: Sequence[Layer]) -> None:
        """Set the parameters of the network."""
        self.layers = self.network._layers = list(layers)

    def assign(self, layers: Sequence[Layer]) -> None:
        """Continue from other parameters than the steps led to."""
        self.show(layers)
        state = self.position.state._replace(layers=copied(list(layers), self.placement.xp))
        self.position = self.position._replace(state=state)
        self._assigned = True

    def take_assigned(self) -> Any:
        """Return the state to continue from if parameters were assigned, else None; only once."""
        assigned, self._assigned = self._assigned, False
        return self.position.state if assigned else None


class Observer:
    """An observer of a run; a subclass overrides the methods that it needs.

    ``before_first``, ``on_steps`` and ``on_epoch_end`` may return why the run should end, in the
    words of ``history.stopped``; if they return None, the run continues.
    """

    def looks_at(self) -> Sequence[int]:
        """Return the numbers of steps after which it wants a look, each a divisor of the step."""
        return ()

    def should_stop(self) -> bool:
        """Return whether the run should end now; called between chunks."""
        return False

    def on_train_start(self, run: Run) -> None:
        """Called before anything else."""

    def before_first(self, run: Run) -> str | None:
        """Return why a resumed run is already over."""

    def on_epoch_start(self, run: Run) -> None:
        """Called before an epoch."""

    def on_steps(self, run: Run) -> str | None:
        """Called at a look between two steps of an epoch."""

    def on_epoch_end(self, run: Run, record: EpochRecord) -> str | None:
        """Called at the look after an epoch."""

    def on_train_end(self, run: Run) -> None:
        """Called when the run is over, whatever ended it."""


def train(run: Run, observers: Sequence[Observer]) -> History:
    """Train: take the steps of a run and call its observers.

    Returns:
        The history of the run, which observers have written.

    Raises:
        DivergenceError: the cost or a parameter is no longer finite at the end of an epoch.
        ValueError, TypeError: as for :func:`bp_xp.training.looks.take_looks`; or raised by an
            observer. The observers' ``on_end`` is called in any case.
    """
    history = run.history
    looks = take_looks(
        run.model,
        run.source,
        run.validation,
        run.settings,
        history,
        position=run.position,
        placement=run.placement,
        dtype=run.dtype,
        generator=run.generator,
        report=run.report,
        look_every=[every for one in observers for every in one.looks_at()],
        should_stop=lambda: any(one.should_stop() for one in observers),
        ranks=run.ranks,
    )
    run.ranks.together(lambda: [one.on_train_start(run) for one in observers])
    try:
        if reason := _ask(run, lambda one: one.before_first(run), observers):
            history.stopped = reason
            return history
        if not run.is_over:
            _tell_epoch_start(run, observers)
        with contextlib.closing(looks):
            look = next(looks, None)
            while look is not None:
                run.position, history.steps = look.position, look.position.step
                run.interrupted, run.diverged = look.interrupted, look.diverged
                run.show(look.layers)
                reason = _ask(run, functools.partial(_tell_look, run, look), observers)
                sent = run.take_assigned()
                if reason:
                    history.stopped = reason
                    break
                if look.interrupted:
                    history.stopped = "interrupt"
                elif look.record is not None and not run.is_over:
                    _tell_epoch_start(run, observers)
                try:
                    look = looks.send(sent)
                except StopIteration:
                    look = None
    finally:
        history.engine = run.report.ran
        for one in observers:
            one.on_train_end(run)
    return history


def _tell_epoch_start(run: Run, observers: Sequence[Observer]) -> None:
    run.ranks.together(lambda: [one.on_epoch_start(run) for one in observers])


def _tell_look(run: Run, look: Look, one: Observer) -> str | None:
    return one.on_steps(run) if look.record is None else one.on_epoch_end(run, look.record)


def _ask(
    run: Run, tell: Callable[[Observer], str | None], observers: Sequence[Observer]
) -> str | None:
    """Call all observers; return the first reason to end the run, on any process.

    Raises:
        RuntimeError: other processes now have different parameters.
    """
    found = run.ranks.each(lambda: [tell(one) for one in observers])
    if run.ranks.are_several:
        check_parameters_alike(run.layers, run.ranks, when=f"after step {run.position.step}")
    return next((reason for reasons in found for reason in reasons if reason), None)


# ---------------------------------------------------------------------------------------------
# The observers of a network's run, in their order


class Recorder(Observer):
    """Adds the record of each epoch to the history."""

    def on_epoch_end(self, run: Run, record: EpochRecord) -> None:
        """Add the record."""
        run.history.records.append(record)


class EarlyStop(Observer):
    """Keeps the best parameters, and ends a run that no longer improves.

    Args:
        stopping: the value to monitor, and for how long.
    """

    def __init__(self, stopping: EarlyStopping) -> None:
        self._stopping = stopping

    def before_first(self, run: Run) -> str | None:
        """Return whether a resumed run had stopped improving."""
        return "early" if self._stopping.is_over(run.history) else None

    def on_epoch_end(self, run: Run, record: EpochRecord) -> str | None:
        """Keep the parameters if the epoch is the best."""
        if self._stopping.best_epoch(run.history) == record.epoch:
            run.best, run.history.best_epoch = run.layers, record.epoch
        return "early" if self._stopping.is_over(run.history) else None

    def on_train_end(self, run: Run) -> None:
        """Restore the best parameters."""
        if self._stopping.restore_best and run.best is not None:
            run.show(run.best)


class TellCallbacks(Observer):
    """Calls the user's callbacks; the run continues with the ``network.layers`` that they assign.

    Args:
        callbacks: the callbacks, called in their order.
        hint: a sentence to add to their TypeErrors and ValueErrors.
    """

    def __init__(self, callbacks: Sequence[Callback], hint: str = "") -> None:
        self._callbacks, self._hint = callbacks, hint

    def looks_at(self) -> Sequence[int]:
        """Return the numbers of steps that callbacks request."""
        return [one.every for one in self._callbacks if one.every]

    def should_stop(self) -> bool:
        """Return whether a callback ends the run."""
        return any(one.should_stop() for one in self._callbacks)

    def on_train_start(self, run: Run) -> None:
        """Call all callbacks."""
        self._tell(run, "on_train_start")

    def on_epoch_start(self, run: Run) -> None:
        """Call all callbacks."""
        self._tell(run, "on_epoch_start")

    def on_steps(self, run: Run) -> str | None:
        """Call those whose number of steps has been reached."""
        step = run.position.step
        due = [one for one in self._callbacks if one.every and step % one.every == 0]
        return self._ask(run, "on_steps", step, callbacks=due)

    def on_epoch_end(self, run: Run, record: EpochRecord) -> str | None:
        """Call all callbacks."""
        return self._ask(run, "on_epoch_end", callbacks=self._callbacks)

    def on_train_end(self, run: Run) -> None:
        """Call all callbacks."""
        self._tell(run, "on_train_end")

    def _tell(self, run: Run, moment: str) -> None:
        for callback in self._callbacks:
            self._call(callback, moment, run)

    def _ask(
        self, run: Run, moment: str, *arguments: Any, callbacks: Sequence[Callback]
    ) -> str | None:
        """Call a method of each callback, and continue with the parameters that it assigns."""
        asked = False
        for callback in callbacks:
            asked = bool(self._call(callback, moment, run, *arguments)) or asked
            if run.network._layers is not run.layers:
                run.assign(run.network._layers)
        return "callback" if asked else None

    def _call(self, callback: Callback, moment: str, run: Run, *arguments: Any) -> Any:
        try:
            return getattr(callback, moment)(run.network, run.history, *arguments)
        except (TypeError, ValueError) as error:
            if self._hint:
                error.add_note(f"raised by {type(callback).__name__}. {self._hint}")
            raise


class KeepCheckpoint(Observer):
    """Writes the checkpoint of a run: after each epoch, every few steps, and on interruption.

    Args:
        path: the file.
        every: a number of steps, or None.
        write: writes a run to a file.
    """

    def __init__(self, path: Path, every: int | None, write: Callable[[Path, Run], None]) -> None:
        self._path, self._every, self._write = path, every, write
        self._last: Sequence[Layer] = ()

    def looks_at(self) -> Sequence[int]:
        """Return the number of steps between two files."""
        return [] if self._every is None else [self._every]

    def on_train_start(self, run: Run) -> None:
        """Keep the parameters."""
        self._last = run.network._layers

    def on_steps(self, run: Run) -> None:
        """Write if it is time; values that are not finite are neither written nor kept."""
        if self.is_due(run):
            position = run.position
            try:
                check_finite(position.state, position.epoch, run.settings, placement=run.placement)
            except DivergenceError:
                run.show(self._last)
                raise
            self._keep(run)

    def is_due(self, run: Run) -> bool:
        """Return whether it is time to write between two steps."""
        due = self._every is not None and run.position.step % self._every == 0
        return run.interrupted or due

    def on_epoch_end(self, run: Run, record: EpochRecord) -> None:
        """Write; the parameters were checked to be finite before the epoch was recorded."""
        self._keep(run)

    def _keep(self, run: Run) -> None:
        self._write(self._path, run)
        self._last = run.layers
