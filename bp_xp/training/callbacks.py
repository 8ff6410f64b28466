"""Callbacks: custom actions during a run, and early stopping."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from bp_xp import checks
from bp_xp.errors import DivergenceError
from bp_xp.optim.improvement import improvements, improves_upwards
from bp_xp.training.history import History

__all__ = ["Callback", "CallbackLike", "EarlyStopping", "StopWhen", "as_callback"]


class Callback:
    """Actions at certain moments of a run; a subclass overrides the methods that it needs.

    Each method gets the network, with its parameters at that moment, and the history so far.
    ``on_epoch_end`` and ``on_steps`` may return True to end the run. They may also assign
    ``network.layers``: the run then continues from these parameters, later callbacks see them, and
    a checkpoint stores them. The record of the epoch and the best parameters of early stopping are
    those from before the assignment. A callback must not modify the network at any other moment or
    in any other way.

    Attributes:
        every: the number of steps between two calls of ``on_steps``; 0 for never.
    """

    every: int = 0

    def on_train_start(self, network: Any, history: History) -> None:
        """Called before the first step."""

    def on_epoch_start(self, network: Any, history: History) -> None:
        """Called before an epoch; ``len(history)`` epochs are complete."""

    def on_steps(self, network: Any, history: History, step: int) -> bool | None:
        """Called after each ``every`` steps; ``step`` counts the steps of the whole run."""

    def on_epoch_end(self, network: Any, history: History) -> bool | None:
        """Called after an epoch, whose record is ``history[-1]``."""

    def should_stop(self) -> bool:
        """Return whether the run should end now; called every few steps.

        The current step is completed, and the run ends as with Ctrl-C, with
        ``history.stopped == "interrupt"``.
        """
        return False

    def on_train_end(self, network: Any, history: History) -> None:
        """Called when the run is over, whatever ended it; ``history.stopped`` has the reason."""


class StopWhen(Callback):
    """Ends a run when a function returns True, as Ctrl-C does.

    To react to SIGTERM, for example, let the signal handler set what the function returns.

    Args:
        condition: a function without arguments that returns whether the run should end; called
            every few steps.

    Raises:
        TypeError: the condition is not callable.

    Examples:
        >>> import threading
        >>> StopWhen(threading.Event().is_set).should_stop()
        False
    """

    def __init__(self, condition: Callable[[], bool]) -> None:
        if not callable(condition):
            raise TypeError(f"condition must be a function without arguments, not {condition!r}.")
        self._condition = condition

    def should_stop(self) -> bool:
        """Return the result of the function."""
        return bool(self._condition())


class _AfterEpochs(Callback):
    """A plain function as a callback."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def on_epoch_end(self, network: Any, history: History) -> bool | None:
        return self._function(network, history)


CallbackLike: TypeAlias = Callback | Callable[[Any, History], bool | None]
"""A callback, or a function (network, history) that is called after each epoch."""


def as_callback(callback: Any) -> Callback:
    """Return a callback; a plain function is wrapped in one.

    Raises:
        TypeError: the value is neither a callback nor a function.
        ValueError: its ``every`` is not a number of steps.
    """
    if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
        raise TypeError(
            f"a callback must be an object of a subclass of Callback, or a function of (network, "
            f"history), not {callback!r}."
        )
    if not isinstance(callback, Callback):
        return _AfterEpochs(callback)
    checks.check_integer(callback.every, f"every of {type(callback).__name__}", least=0)
    return callback


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a run when a value has stopped improving, and restores the best parameters.

    Args:
        monitor: the name of the value, as in a record of the history: ``"validation_cost"``,
            ``"validation_accuracy"``, ``"cost"``, ``"validation_f1"`` ...
        patience: the number of consecutive epochs without an improvement that ends the run.
        min_delta: how much better than the best a value must be to count, at least 0.
        restore_best: whether to restore the parameters of the best epoch, whatever ended the run;
            otherwise the network keeps the last ones.
        higher_is_better: whether higher values are better; None derives it from the name.

    Raises:
        ValueError: a number is out of range, or the name does not show the direction.
        TypeError: an argument has the wrong type.

    In PyTorch: no equivalent. Keras's EarlyStopping has the same patience, and restores the best
    parameters only with ``restore_best_weights``.

    References:
        Nielsen, ch. 3, 'Use early stopping to determine the number of training epochs'.

    Examples:
        >>> EarlyStopping("validation_accuracy", patience=5).is_over(History())
        False
    """

    monitor: str = "validation_cost"
    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        checks.check_integer(self.patience, "patience")
        checks.check_number(self.min_delta, "min_delta", least=0.0)
        if self.higher_is_better is None:
            improves_upwards(self.monitor)

    def best_epoch(self, history: History) -> int | None:
        """Return the number of the best epoch so far, the first of equal ones; None before any.

        Raises:
            ValueError: the history has no such values.
            DivergenceError: a value is not a number.
        """
        upwards = self.higher_is_better
        if upwards is None:
            upwards = improves_upwards(self.monitor)
        values, epoch = self._values(history), None
        better = improvements(values, upwards, self.min_delta)
        for record, value, improved in zip(history.records, values, better, strict=True):
            if math.isnan(value):
                raise DivergenceError(
                    f"{self.monitor} is NaN after epoch {record.epoch}, so early stopping cannot "
                    "determine whether it improves. Look for outputs that overflow, and for a "
                    "metric that divides by zero."
                )
            if improved:
                epoch = record.epoch
        return epoch

    def is_over(self, history: History) -> bool:
        """Return whether the run should end after the last epoch of the history."""
        best = self.best_epoch(history) or 0
        return bool(history) and history[-1].epoch - best >= self.patience

    def _values(self, history: History) -> Sequence[float]:
        try:
            values = history[self.monitor] if history else []
        except KeyError as error:
            raise ValueError(f"early stopping monitors {error.args[0]}.") from None
        if any(value is None for value in values):
            raise ValueError(
                f"early stopping monitors {self.monitor!r}, which this run does not record: give "
                "it validation data (and classes, for an accuracy), or monitor another value, "
                "such as 'cost'."
            )
        return values
