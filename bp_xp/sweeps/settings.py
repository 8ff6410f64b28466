"""The settings of a run, by where they belong: the network, its optimizer, or its ``fit``."""

import dataclasses
import inspect
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from bp_xp import checks
from bp_xp._caller import advice, named
from bp_xp.math.regularization import Regularization
from bp_xp.network import Network
from bp_xp.optim import OPTIMIZERS, Optimizer
from bp_xp.optim.schedules import LinearWarmUp
from bp_xp.training.arguments import as_optimizer, as_regularization

__all__ = [
    "FIT_NAMES",
    "Settings",
    "change_optimizer",
    "check_inputs",
    "check_names",
    "check_networks",
    "check_not_validated",
    "names_of_network",
    "names_of_optimizer",
    "sort_settings",
]

_TERMS = {field.name for field in dataclasses.fields(Regularization)}
# Each member of a stack may have its own value of these; the others are the same in a stack.
_OF_MEMBERS = {*_TERMS, "regularization", "early_stopping"}
# What a sweep passes to all runs itself, or what applies to a single run only.
_OF_SWEEP = (
    "sample_weight",
    "validation_data",
    "callbacks",
    "checkpoint",
    "warm_start",
    "progress",
    "distributed",
)
_NETWORK = set(inspect.signature(Network.__init__).parameters) - {"self", "seed"}
_FIT = set(inspect.signature(Network.fit).parameters) - {"self", "x", "y", "terms", *_OF_SWEEP}
_FIT |= _TERMS
FIT_NAMES = frozenset(_FIT - {"optimizer"})
"""The arguments of ``fit`` that runs may differ in, except the optimizer."""

# What makes a schedule from the optimizer's rate, for the steps of a run.
_OF_RATE = ("schedule", "warm_up")


class Settings(NamedTuple):
    """The settings of a run.

    Attributes:
        network: the arguments of the network, without its seed.
        optimizer: the optimizer.
        common: the arguments of ``fit`` that the networks of a stack share.
        own: the arguments that each network of a stack has its own value of.
    """

    network: dict[str, Any]
    optimizer: Optimizer
    common: dict[str, Any]
    own: dict[str, Any]

    def go_with(self, other: "Settings") -> bool:
        """Return whether networks with these settings and with other settings can be one stack."""
        mine, theirs = self.optimizer, other.optimizer
        return (
            self.network == other.network
            and self.common == other.common
            and mine.update == theirs.update
            and _has_rates_by_layer(mine) == _has_rates_by_layer(theirs)
        )


def check_networks(several: Iterable[Settings]) -> None:
    """Refuse invalid networks and numbers of epochs before the first run.

    Raises:
        ValueError, TypeError: there are any.
    """
    checked: list[dict[str, Any]] = []
    for one in several:
        checks.check_integer(one.common.get("epochs", 10), "epochs")
        if one.network not in checked:
            Network(**one.network, seed=0)
            checked.append(one.network)


def check_inputs(several: Iterable[Settings], x: Any) -> None:
    """Refuse networks whose number of inputs is not the number of columns.

    Raises:
        ValueError: there are any.
    """
    shape = getattr(x, "shape", ())
    for one in several:
        sizes = one.network["sizes"]
        if len(shape) == 2 and sizes[0] != shape[1]:
            raise ValueError(
                f"{named('sizes', list(sizes))} is of a network with {sizes[0]} inputs, and x has "
                f"{shape[1]} columns."
            )


def _has_rates_by_layer(optimizer: Optimizer) -> bool:
    return isinstance(getattr(optimizer, "learning_rate", None), list | tuple)


def check_names(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that are not settings of a run.

    Raises:
        TypeError: a name is not a setting.
    """
    for name in names:
        if name == "seed":
            raise TypeError("seed is that of the sweep: pass the seeds of the networks as seeds.")
        if name not in known:
            raise TypeError(
                f"a run has no setting {name!r}.{checks.did_you_mean(name, sorted(known))}"
            )


def names_of_network(optimizer: Any) -> set[str]:
    """Return the names of the settings of a network's run, with an optimizer or its name."""
    return _NETWORK | _FIT | names_of_optimizer(optimizer)


def names_of_optimizer(optimizer: Any) -> set[str]:
    """Return the names of the settings of optimizers, including a user-defined one."""
    return _OPTIMIZER | _fields_of(optimizer) | {*_OF_RATE}


def sort_settings(given: Mapping[str, Any], n_rows: int) -> Settings:
    """Return settings by where they belong, checked as far as possible without data.

    Args:
        given: by name: arguments of :class:`bp_xp.Network` and of its ``fit``, fields of the
            optimizer such as ``learning_rate``, which replace the optimizer's own, and
            ``schedule`` and ``warm_up``.
        n_rows: how many rows the run learns, which determines its number of steps.

    Raises:
        ValueError, TypeError: a value is wrong, or the optimizer has no such field.
    """
    if "sizes" not in given:
        raise TypeError("sizes are missing: pass them as in sizes=[64, 30, 10], or in the space.")
    sizes = checks.check_sizes(given["sizes"])
    fit = {name: value for name, value in given.items() if name in FIT_NAMES}
    others = {n: v for n, v in given.items() if n not in _NETWORK | _FIT}
    steps = 0  # nothing needs them
    if any(name in given for name in _OF_RATE):
        batch_size = checks.check_batch_size(given.get("batch_size"), n_rows)
        steps = checks.check_integer(given.get("epochs", 10), "epochs")
        steps *= math.ceil(n_rows / batch_size)
    optimizer = change_optimizer(given.get("optimizer", "sgd"), others, steps)
    terms = {name: value for name, value in given.items() if name in _TERMS}
    as_regularization(given.get("regularization"), terms, len(sizes) - 2)
    return Settings(
        network={name: value for name, value in given.items() if name in _NETWORK},
        optimizer=optimizer,
        common={name: value for name, value in fit.items() if name not in _OF_MEMBERS},
        own={name: value for name, value in fit.items() if name in _OF_MEMBERS},
    )


def change_optimizer(optimizer: Any, changes: Mapping[str, Any], steps: int) -> Optimizer:
    """Return an optimizer with other numbers, or with a schedule instead of its rate.

    Args:
        optimizer: the optimizer, or its name.
        changes: its fields that change, and ``schedule`` and ``warm_up`` if they are given: a
            function of (rate, steps) that returns a schedule, such as ``CosineDecay``, or None; and
            the number of steps over which the rate rises first.
        steps: how many steps the run takes.

    Raises:
        ValueError, TypeError: the optimizer has no such field, or a value is wrong.
    """
    optimizer = as_optimizer(optimizer)
    fields = {name: value for name, value in changes.items() if name not in _OF_RATE}
    for name in fields:
        if name not in _fields_of(optimizer):
            raise ValueError(
                f"{named(name)} is not a setting of {type(optimizer).__name__}: give each "
                "optimizer its own space."
            )
    changeable: Any = optimizer
    if fields:
        changeable = dataclasses.replace(changeable, **fields)
    schedule, warm_up = (changes.get(name) for name in _OF_RATE)
    warm_up = checks.check_integer(warm_up or 0, "warm_up", least=0)
    if schedule is None and not warm_up:
        return changeable
    if schedule is not None and not callable(schedule):
        raise TypeError(
            "schedule must be a function of the rate and the run's steps, such as CosineDecay, or "
            f"None, not {schedule!r}."
        )
    rate: Any = checks.check_number(getattr(changeable, "learning_rate", None), "learning_rate")
    if warm_up >= steps:
        raise ValueError(f"{named('warm_up', warm_up)} leaves none of the run's {steps:,} steps.")
    rate = rate if schedule is None else schedule(rate, steps - warm_up)
    rate = LinearWarmUp(warm_up, rate) if warm_up else rate
    return dataclasses.replace(changeable, learning_rate=rate)


def check_not_validated(optimizer: Optimizer) -> None:
    """Refuse a schedule that watches validation, before a network is trained without validation.

    Raises:
        ValueError: it does.
    """
    rates = getattr(optimizer, "learning_rate", None)
    for rate in rates if isinstance(rates, list | tuple) else [rates]:
        schedule = rate.then if isinstance(rate, LinearWarmUp) else rate
        monitor = getattr(schedule, "monitor", "")
        if monitor.startswith("validation"):
            raise ValueError(
                f"a schedule watches {monitor}, and the network of the best settings learns all "
                f"samples: let it watch the cost{advice(', or pass {}', 'refit', False)}."
            )


def _fields_of(optimizer: Any) -> set[str]:
    """Return the names of an optimizer's numbers, if it is a dataclass like those of bp_xp."""
    if not dataclasses.is_dataclass(optimizer) or isinstance(optimizer, type):
        return set()
    return {field.name for field in dataclasses.fields(optimizer)}


_OPTIMIZER = {name for one in OPTIMIZERS.values() for name in _fields_of(one)}
