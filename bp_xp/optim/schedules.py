"""Schedules: how the learning rate changes over a run.

A learning rate is a number or a schedule. A schedule is any callable that takes the number of a
step, counted from 0 over the whole run, and returns its rate: an object of one of the classes here,
or a function such as ``lambda step: 0.5 / (1 + step)``.

A schedule that depends on the progress of the run has a second method, ``scale``, which takes the
record of the epochs so far and returns a factor for the rate. It reads the whole record each time
and keeps no state, so that a resumed run continues exactly as it would have.

To convert epochs to steps, multiply by the steps of an epoch, ⌈samples / batch size⌉. A PyTorch
scheduler counts calls of its ``step``; it is equivalent to one here if it is called after each
step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.optim.improvement import improvements, improves_upwards

__all__ = [
    "CosineDecay",
    "ExponentialDecay",
    "InverseScaling",
    "LearningRate",
    "LearningRates",
    "LinearWarmUp",
    "MemberRates",
    "Past",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "check_learning_rate",
    "check_learning_rates",
    "half_wave",
    "initial_rate",
    "is_scheduled",
    "rates",
]


class Schedule(Protocol):
    """A schedule: anything that can be called like this."""

    def __call__(self, step: int, /) -> float:
        """Return the learning rate of a step, counted from 0: finite and not negative."""
        ...


class Past(Protocol):
    """The record of a run so far: a history, or a dictionary of lists."""

    def __len__(self) -> int:
        """Return 0 if there is nothing yet."""
        ...

    def __getitem__(self, name: str, /) -> Sequence[Any]:
        """Return one value for each complete epoch, such as the costs for ``"cost"``."""
        ...


LearningRate: TypeAlias = float | Schedule
"""A number, or a schedule."""

LearningRates: TypeAlias = LearningRate | Sequence[LearningRate]
"""A learning rate, or a list with one for each layer."""


# ---------------------------------------------------------------------------------------------
# By the number of the step


@dataclass(frozen=True)
class StepDecay:
    """A rate that drops after every fixed number of steps.

    η(t) = initial · factor^⌊t / every⌋

    Args:
        initial: the first rate, above 0.
        factor: the factor that the rate is multiplied by, above 0.
        every: the number of steps between two changes.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``StepLR(step_size=every, gamma=factor)``.

    Examples:
        >>> schedule = StepDecay(0.5, factor=0.1, every=1000)
        >>> schedule(0), schedule(999), schedule(1000)
        (0.5, 0.5, 0.05)
    """

    initial: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        _check_decay(self.initial, self.factor, self.every)

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.initial * self.factor ** (step // self.every)


@dataclass(frozen=True)
class ExponentialDecay:
    """A rate that falls by the same share at each step.

    η(t) = initial · factor^(t / every)

    With a factor above 1 the rate grows, as in a search for the largest rate at which a network
    still trains.

    Args:
        initial: the first rate, above 0.
        factor: the factor that the rate is multiplied by over ``every`` steps, above 0.
        every: the number of steps.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``ExponentialLR(gamma=factor)`` if ``every`` is 1, else ``gamma=factor**(1/every)``.

    Examples:
        >>> ExponentialDecay(0.5, factor=0.9)(2)
        0.405
    """

    initial: float
    factor: float
    every: int = 1

    def __post_init__(self) -> None:
        _check_decay(self.initial, self.factor, self.every)

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.initial * self.factor ** (step / self.every)


@dataclass(frozen=True)
class CosineDecay:
    """A rate that falls along half a cosine wave, and then stays constant.

    η(t) = final + ½ (initial − final) (1 + cos(π t / steps))  for t < steps, then final

    Args:
        initial: the first rate, above 0.
        steps: the number of steps until the last rate.
        final: the last rate, at least 0.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``CosineAnnealingLR(T_max=steps, eta_min=final)`` until the last rate; then its rate
    rises again, and this one stays constant, like that of Keras's CosineDecay, which has ``alpha``
    for final/initial.

    References:
        Loshchilov & Hutter, *SGDR: stochastic gradient descent with warm restarts*, ICLR 2017,
        without restarts.

    Examples:
        >>> schedule = CosineDecay(0.5, steps=100)
        >>> schedule(0), schedule(50), schedule(100), schedule(101)
        (0.5, 0.25, 0.0, 0.0)
    """

    initial: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        checks.check_number(self.initial, "initial", above=0.0)
        checks.check_integer(self.steps, "steps")
        checks.check_number(self.final, "final", least=0.0)

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return half_wave(self.initial, self.final, min(step / self.steps, 1.0))


@dataclass(frozen=True)
class InverseScaling:
    """A rate that falls with a power of the step: scikit-learn's ``"invscaling"``.

    η(t) = initial / (t + 1)^power

    Args:
        initial: the first rate, above 0.
        power: the exponent, at least 0.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``LambdaLR(lr_lambda=lambda t: (t + 1) ** -power)``.

    Examples:
        >>> InverseScaling(0.5)(3)
        0.25
    """

    initial: float
    power: float = 0.5

    def __post_init__(self) -> None:
        checks.check_number(self.initial, "initial", above=0.0)
        checks.check_number(self.power, "power", least=0.0)

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.initial / (step + 1) ** self.power


@dataclass(frozen=True)
class LinearWarmUp:
    """A rate that rises in equal steps, and then follows another schedule.

    η(t) = then(0) · (t + 1) / (steps + 1)  for t < steps, afterward then(t − steps)

    Args:
        steps: the number of steps in which the rate rises.
        then: the rate that it rises to, or a schedule, which starts when the rise ends.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number, or ``then`` is neither a number nor a schedule.

    In PyTorch: ``LinearLR(start_factor=1/(steps + 1), total_iters=steps)``, and ``SequentialLR``
    with the milestone ``steps`` for a schedule that follows.

    References:
        Goyal et al., *Accurate, large minibatch SGD: training ImageNet in 1 hour*, 2017, sec. 2.2.

    Examples:
        >>> schedule = LinearWarmUp(4, CosineDecay(0.5, steps=100))
        >>> [round(schedule(step), 3) for step in range(6)]
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    """

    steps: int
    then: LearningRate

    def __post_init__(self) -> None:
        checks.check_integer(self.steps, "steps")
        check_learning_rate(self.then, "then")

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        if step < self.steps:
            return _rate(self.then, 0) * (step + 1) / (self.steps + 1)
        return _rate(self.then, step - self.steps)

    def scale(self, history: Past) -> float:
        """Return the scale of ``then``."""
        return _scale(self.then, history)


def half_wave(first: float, last: float, share: float) -> float:
    """Return a rate on half a cosine wave, from the first at share 0 to the last at share 1."""
    return last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * share))


def _check_decay(initial: Any, factor: Any, every: Any) -> None:
    checks.check_number(initial, "initial", above=0.0)
    checks.check_number(factor, "factor", above=0.0)
    checks.check_integer(every, "every")


# ---------------------------------------------------------------------------------------------
# By the progress of the run


@dataclass(frozen=True)
class ReduceOnPlateau:
    """A rate that is reduced when a value has stopped improving, as in the book.

    If the monitored value has not improved on its best for ``patience`` epochs, the rate is
    multiplied by ``factor``, and the count starts again. NaN is never an improvement.

    Args:
        initial: the rate before any reduction, above 0, or a schedule of it.
        factor: the factor that the rate is multiplied by each time, above 0 and below 1.
        patience: the number of consecutive epochs without an improvement before a reduction.
        monitor: the name of the value, as in the run's history.
        least: the lower limit of the reductions, as a share of the rate without them, from 0 to
            below 1; the book uses 1/1024.
        min_delta: how much better than the best a value must be to count, at least 0.
        higher_is_better: the value's direction; None derives it from the name
            (:func:`bp_xp.optim.improvement.improves_upwards`).

    Raises:
        ValueError: a number is out of range or not finite, or the name does not show the direction.
        TypeError: it is not a number, or ``initial`` is neither a number nor a schedule.

    In PyTorch: ``ReduceLROnPlateau(patience=patience - 1, threshold=min_delta,
    threshold_mode="abs", eps=0)``: it reduces the rate when *more* epochs than its patience have
    not improved, so 0 there is 1 here. Its ``min_lr`` is a rate, ``least · initial`` here; by
    default its factor is 0.1, and its threshold is a share, 1e-4. Keras counts as here.

    References:
        Nielsen, ch. 3, on the learning rate schedule: hold the rate "until the validation accuracy
        starts to get worse", then decrease it "by some amount, say a factor of two or ten".

    Examples:
        >>> schedule = ReduceOnPlateau(0.5, patience=2)
        >>> schedule.scale({"validation_accuracy": [0.8, 0.9, 0.85, 0.9]})
        0.5
    """

    initial: LearningRate
    factor: float = 0.5
    patience: int = 10
    monitor: str = "validation_accuracy"
    least: float = 0.0
    min_delta: float = 0.0
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        check_learning_rate(self.initial, "initial")
        checks.check_number(self.factor, "factor", above=0.0, below=1.0)
        checks.check_integer(self.patience, "patience")
        if self.higher_is_better is None:
            improves_upwards(self.monitor)
        checks.check_number(self.least, "least", least=0.0, below=1.0)
        checks.check_number(self.min_delta, "min_delta", least=0.0)

    def __call__(self, step: int) -> float:
        """Return the rate of a step without reductions."""
        return _rate(self.initial, step)

    def scale(self, history: Past) -> float:
        """Return the product of the reductions so far.

        Args:
            history: the record of the run so far.

        Raises:
            KeyError: the record has epochs, but no such value.
            ValueError: it has the name but no values, because validation data or classes are
                missing.
        """
        values = history[self.monitor] if len(history) else []
        if any(value is None for value in values):
            raise ValueError(
                f"ReduceOnPlateau monitors {self.monitor}, which this run does not record: "
                "give it validation data (and classes, for an accuracy), or monitor another value, "
                "such as 'cost'."
            )
        upwards = self.higher_is_better
        if upwards is None:
            upwards = improves_upwards(self.monitor)
        waited, cuts = 0, 0
        for improved in improvements(values, upwards, self.min_delta):
            waited = 0 if improved else waited + 1
            if waited == self.patience:
                waited, cuts = 0, cuts + 1
        return max(self.factor**cuts, self.least) * _scale(self.initial, history)


# ---------------------------------------------------------------------------------------------
# Used by optimizers and training


def check_learning_rate(learning_rate: Any, name: str = "learning_rate") -> None:
    """Check that a learning rate is a number above 0, or can be called.

    Raises:
        ValueError: the number is not finite or not above 0.
        TypeError: it is neither a number nor a schedule.
    """
    if isinstance(learning_rate, type):
        raise TypeError(
            f"{named(name)} must be a number or a schedule such as CosineDecay(0.1, steps=1000), "
            f"not the class {learning_rate.__name__} itself."
        )
    if not callable(learning_rate):
        checks.check_number(learning_rate, name, above=0.0)


def check_learning_rates(learning_rate: Any) -> None:
    """Check a learning rate, or a list with one for each layer; see :func:`check_learning_rate`."""
    if not isinstance(learning_rate, list | tuple):
        check_learning_rate(learning_rate)
    elif not learning_rate:
        raise ValueError("learning_rate is an empty list: give one for each layer.")
    else:
        for l, one in enumerate(learning_rate):  # noqa: E741
            check_learning_rate(one, f"learning_rate[{l}]")


def is_scheduled(learning_rate: Any) -> bool:
    """Return whether a learning rate, or that of any layer, is a schedule."""
    if isinstance(learning_rate, MemberRates):
        return any(map(is_scheduled, learning_rate.each))
    if isinstance(learning_rate, list | tuple):
        return any(map(callable, learning_rate))
    return callable(learning_rate)


@dataclass(frozen=True)
class MemberRates:
    """The learning rates of a stack of networks.

    Attributes:
        each: a rate, a schedule, or a list of these by layer, for each member.
        rows: the numbers of the members that are in the stack; the list changes as they leave.
    """

    each: Sequence[LearningRates]
    rows: list[int]


def rates(
    learning_rate: LearningRates | MemberRates, first: int, n: int, history: Any
) -> np.ndarray:
    """Return the learning rates of some steps.

    Args:
        learning_rate: a number or a schedule, or one for each layer; or those of a stack.
        first: the number of the first step, counted from 0 over the whole run.
        n: the number of steps.
        history: the record of the epochs before these steps, a :class:`Past`, for schedules that
            use it; that of a stack has one for each member in ``members``.

    Returns:
        The rates, float64, shape (n,), or (n, L) with a rate for each layer; for a stack, with a
        last axis M.

    Raises:
        ValueError: a rate is negative or not finite; the message names the schedule and the step.
        TypeError: it is not a number.

    Examples:
        >>> rates(StepDecay(0.5, factor=0.5, every=2), 1, 4, {})
        array([0.5  , 0.25 , 0.25 , 0.125])
    """
    if isinstance(learning_rate, MemberRates):
        each = ((learning_rate.each[m], history.members[m]) for m in learning_rate.rows)
        return np.stack([rates(one, first, n, past) for one, past in each], axis=-1)
    if isinstance(learning_rate, Sequence):
        return np.stack([rates(one, first, n, history) for one in learning_rate], axis=-1)
    if not callable(learning_rate):
        return np.full(n, learning_rate, dtype=np.float64)
    values = np.array([_checked(learning_rate, step) for step in range(first, first + n)])
    return values * _scale(learning_rate, history)


def initial_rate(learning_rate: LearningRates) -> float | list[float]:
    """Return the learning rate of step 0, or a list of those of the layers; see :func:`rates`."""
    if isinstance(learning_rate, Sequence):
        return [_first_rate(one) for one in learning_rate]
    return _first_rate(learning_rate)


def _first_rate(learning_rate: LearningRate) -> float:
    return _checked(learning_rate, 0) if callable(learning_rate) else float(learning_rate)


def _rate(learning_rate: LearningRate, step: int) -> float:
    return learning_rate(step) if callable(learning_rate) else learning_rate


def _checked(schedule: Schedule, step: int) -> float:
    """Return the rate of a step, checked to be a rate."""
    try:
        rate: Any = schedule(step)
    except OverflowError:  # raised by a power of Python floats
        rate = math.inf
    # This is called at each step, so a message is composed only if needed.
    if isinstance(rate, float) and 0.0 <= rate < math.inf:
        return rate
    if getattr(rate, "shape", None) == ():  # an array, from a schedule written for another library
        rate = float(rate)
    return checks.check_number(rate, f"the learning rate of {schedule} at step {step}", least=0.0)


def _scale(learning_rate: LearningRate, history: Past) -> float:
    """Return the factor of a schedule that depends on the run; 1 for any other schedule."""
    scale = getattr(learning_rate, "scale", None)
    if not callable(learning_rate) or not callable(scale):
        return 1.0
    return checks.check_number(scale(history), f"the scale of {learning_rate}", least=0.0)
