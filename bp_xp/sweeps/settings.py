"""The settings of a run, by where they go: into the network, its optimizer, or its ``fit``."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.math.regularization import Regularization
from bp_xp.network import Network
from bp_xp.optim import OPTIMIZERS, Optimizer
from bp_xp.training.arguments import as_optimizer, as_regularization

__all__ = ["Settings", "check_names", "sort_settings"]

_TERMS = {field.name for field in dataclasses.fields(Regularization)}
# Of these each member of a stack may have its own; the others are the same in a stack.
_OF_MEMBERS = {*_TERMS, "regularization", "early_stopping"}
# What a sweep gives to all runs itself, or what is of one run alone.
_OF_SWEEP = (
    "sample_weight",
    "validation_data",
    "callbacks",
    "checkpoint",
    "warm_start",
    "progress",
)
_NETWORK = set(inspect.signature(Network.__init__).parameters) - {"self", "seed"}
_FIT = set(inspect.signature(Network.fit).parameters) - {"self", "x", "y", "terms", *_OF_SWEEP}
_FIT |= _TERMS


class Settings(NamedTuple):
    """The settings of a run.

    Attributes:
        network: the arguments of the network, without its seed.
        optimizer: the optimizer.
        common: the arguments of ``fit`` which the networks of a stack share.
        own: those of which each network of a stack has its own.
    """

    network: dict[str, Any]
    optimizer: Optimizer
    common: dict[str, Any]
    own: dict[str, Any]

    def go_with(self, other: "Settings") -> bool:
        """Return whether networks with these settings and with others can be one stack."""
        mine, theirs = self.optimizer, other.optimizer
        return (
            self.network == other.network
            and self.common == other.common
            and mine.update == theirs.update
            and _has_rates_by_layer(mine) == _has_rates_by_layer(theirs)
        )


def _has_rates_by_layer(optimizer: Optimizer) -> bool:
    return isinstance(getattr(optimizer, "learning_rate", None), list | tuple)


def check_names(names: Mapping[str, Any], optimizer: Any) -> None:
    """Refuse names that are no setting of a run.

    Args:
        names: the names.
        optimizer: the optimizer, which may be of a user's own, or its name.

    Raises:
        TypeError: a name is no setting.
    """
    known = _NETWORK | _FIT | _OPTIMIZER | _fields_of(optimizer)
    for name in names:
        if name == "seed":
            raise TypeError("seed is that of the sweep: seeds says which the networks have.")
        if name not in known:
            raise TypeError(
                f"a run has no setting {name!r}.{checks.did_you_mean(name, sorted(known))}"
            )


def sort_settings(given: Mapping[str, Any]) -> Settings:
    """Return settings by where they go, checked as far as they can be without data.

    Args:
        given: by name: arguments of :class:`bp_xp.Network` and of its ``fit``, and fields of the
            optimizer such as ``learning_rate``, which take the place of the optimizer's own.

    Raises:
        ValueError, TypeError: a value is not what it must be, or the optimizer has no such field.
    """
    if "sizes" not in given:
        raise TypeError("sizes are missing: pass them as in sizes=[64, 30, 10], or in the space.")
    sizes = checks.check_sizes(given["sizes"])
    optimizer = as_optimizer(given.get("optimizer", "sgd"))
    fields = _fields_of(optimizer)
    changes = {n: v for n, v in given.items() if n not in _NETWORK | _FIT}
    for name in changes:
        if name not in fields:
            raise ValueError(
                f"{named(name)} is no setting of {type(optimizer).__name__}: give each optimizer "
                "a space of its own."
            )
    if changes:
        changeable: Any = optimizer
        optimizer = dataclasses.replace(changeable, **changes)
    terms = {name: value for name, value in given.items() if name in _TERMS}
    as_regularization(given.get("regularization"), terms, len(sizes) - 2)
    fit = {name: value for name, value in given.items() if name in _FIT - {"optimizer"}}
    return Settings(
        network={name: value for name, value in given.items() if name in _NETWORK},
        optimizer=optimizer,
        common={name: value for name, value in fit.items() if name not in _OF_MEMBERS},
        own={name: value for name, value in fit.items() if name in _OF_MEMBERS},
    )


def _fields_of(optimizer: Any) -> set[str]:
    """Return the names of an optimizer's numbers, where it is a dataclass as those here are."""
    if not dataclasses.is_dataclass(optimizer) or isinstance(optimizer, type):
        return set()
    return {field.name for field in dataclasses.fields(optimizer)}


_OPTIMIZER = {name for one in OPTIMIZERS.values() for name in _fields_of(one)}
