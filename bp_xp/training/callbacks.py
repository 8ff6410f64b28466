"""What can happen besides the steps of a run: early stopping, and callbacks of one's own."""

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
    """Something to do at certain moments of a run; a subclass overrides what it needs.

    Each method is given the network, with the parameters of that moment, and the history so far.
    ``on_epoch_end`` and ``on_steps`` may return True to end the run, and may assign
    ``network.layers``: the run then goes on from these parameters, later callbacks see them, and a
    checkpoint holds them. At any other moment, and to anything else of the network, a callback must
    not write. The record of the epoch and the best parameters of early stopping are of before.

    Attributes:
        every: ``on_steps`` is called after each so many steps; 0 for never.
    """

    every: int = 0

    def on_train_start(self, network: Any, history: History) -> None:
        """Act before the first step."""

    def on_epoch_start(self, network: Any, history: History) -> None:
        """Act before an epoch; ``len(history)`` epochs are complete."""

    def on_steps(self, network: Any, history: History, step: int) -> bool | None:
        """Act after each ``every`` steps; ``step`` counts them over the whole run."""

    def on_epoch_end(self, network: Any, history: History) -> bool | None:
        """Act after an epoch, whose record is ``history[-1]``."""

    def should_stop(self) -> bool:
        """Return whether the run shall end now; asked every few steps.

        The step under way is complete, and the run ends as with Ctrl-C, with
        ``history.stopped == "interrupt"``.
        """
        return False

    def on_train_end(self, network: Any, history: History) -> None:
        """Act once the run is over, whatever ended it; ``history.stopped`` tells."""


class StopWhen(Callback):
    """Ends a run once a function says so, as with Ctrl-C.

    A script that must react to SIGTERM lets its handler set what the function returns.

    Args:
        condition: takes nothing, returns whether the run shall end; asked every few steps.

    Raises:
        TypeError: it can't be called.

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
        """Return what the function says."""
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
    """Return a callback, or a plain function as one.

    Raises:
        TypeError: it is neither.
        ValueError: its ``every`` is no number of steps.
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
    """Ends a run when a value has stopped improving, and goes back to the best parameters.

    Args:
        monitor: name of the value, as in a record of the history: ``"validation_cost"``,
            ``"validation_accuracy"``, ``"cost"``, ``"validation_f1"`` ...
        patience: how many epochs in a row without an improvement end the run.
        min_delta: how much better than the best a value must be to count, at least 0.
        restore_best: whether the network gets the parameters of the best epoch, whatever ended the
            run, or keeps the last ones.
        higher_is_better: whether more is better; None tells by the name.

    Raises:
        ValueError: a number is out of its range, or the name does not tell the direction.
        TypeError: an argument of the wrong kind.

    In PyTorch: nothing. Keras's EarlyStopping has the same patience, and goes back to the best
    parameters only if told to (``restore_best_weights``).

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
        """Return the number of the best epoch so far, the first of equals; None before any.

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
                    f"{self.monitor} is NaN after epoch {record.epoch}, so early stopping can't "
                    "tell whether it improves. Look for outputs that overflow, and for a metric "
                    "that divides by nothing."
                )
            if improved:
                epoch = record.epoch
        return epoch

    def is_over(self, history: History) -> bool:
        """Return whether the run shall end after the last epoch of the history."""
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
                "it validation data (and classes, for an accuracy), or let it monitor another "
                "value, such as 'cost'."
            )
        return values
