"""Spaces of settings: what a sweep tries, as lists of values or as distributions to draw from."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import advice, named

__all__ = [
    "Distribution",
    "choice",
    "expand",
    "integers",
    "log_uniform",
    "uniform",
]

logger = logging.getLogger("bp_xp")


@dataclass(frozen=True)
class Distribution:
    """What the values of a setting are drawn from; :func:`uniform` and other functions make one.

    Attributes:
        name: the name of the function that made it.
        values: its arguments.
    """

    name: str
    values: tuple[Any, ...]

    def draw(self, generator: np.random.Generator) -> Any:
        """Return a value."""
        if self.name == "choice":
            return self.values[int(generator.integers(len(self.values)))]
        low, high = self.values
        if self.name == "integers":
            return int(generator.integers(low, high, endpoint=True))
        if self.name == "log_uniform":
            # exp(log(high)) may be above high by a rounding error.
            return min(math.exp(generator.uniform(math.log(low), math.log(high))), high)
        return float(generator.uniform(low, high))

    def __repr__(self) -> str:
        shown = list(self.values) if self.name == "choice" else self.values
        return f"choice({shown!r})" if self.name == "choice" else f"{self.name}{shown!r}"


def uniform(low: float, high: float) -> Distribution:
    """Return the uniform distribution of numbers from low to high.

    Raises:
        ValueError, TypeError: they are not finite numbers, or low is not below high.

    Examples:
        >>> uniform(0, 0.5)
        uniform(0.0, 0.5)
    """
    low = checks.check_number(low, "low")
    return Distribution("uniform", (low, checks.check_number(high, "high", above=low)))


def log_uniform(low: float, high: float) -> Distribution:
    """Return the distribution of numbers from low to high with uniform logarithms.

    Use it for values that vary by powers of ten, such as a learning rate.

    Raises:
        ValueError, TypeError: they are not finite numbers above 0, or low is not below high.

    References:
        Bergstra and Bengio, *Random search for hyper-parameter optimization*, JMLR 2012.
    """
    low = checks.check_number(low, "low", above=0.0)
    return Distribution("log_uniform", (low, checks.check_number(high, "high", above=low)))


def integers(low: int, high: int) -> Distribution:
    """Return the uniform distribution of whole numbers from low to high, both included.

    Raises:
        ValueError, TypeError: they are not whole numbers of at least 0, or high is below low.
    """
    low = checks.check_integer(low, "low", least=0)
    return Distribution("integers", (low, checks.check_integer(high, "high", least=low)))


def choice(values: Sequence[Any]) -> Distribution:
    """Return the uniform distribution of the values of a list.

    Raises:
        ValueError: the list is empty.
        TypeError: it is not a list.
    """
    return Distribution("choice", tuple(_values_of(values, "choice")))


def expand(
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    draws: int | None,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    """Return the settings of a space.

    Args:
        space: a list of values or a distribution for each setting; or several such spaces.
        draws: how many settings to draw from each space, without repetition from one that has only
            lists. None takes the grid: all combinations of the values.
        generator: draws them.

    Raises:
        ValueError: a list is empty; or there is a distribution and no number of draws.
        TypeError: it is not a mapping, or the values of a setting are neither list nor
            distribution.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> expand({"l2": [0.0, 1e-4], "epochs": [10]}, None, rng)
        [{'l2': 0.0, 'epochs': 10}, {'l2': 0.0001, 'epochs': 10}]
    """
    spaces = [space] if isinstance(space, Mapping) else space
    if not isinstance(spaces, list | tuple) or not all(isinstance(one, Mapping) for one in spaces):
        raise TypeError(
            "space must be a dictionary with a list of values or a distribution for each setting, "
            f'as in {{"learning_rate": [0.1, 0.5]}}, or a list of such, not {space!r}.'
        )
    if not spaces:
        raise ValueError("space is an empty list: there is nothing to try.")
    if draws is not None:
        checks.check_integer(draws, "draws")
    return [settings for one in spaces for settings in _expand(one, draws, generator)]


def _expand(
    space: Mapping[str, Any], draws: int | None, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Return the settings of one space."""
    if draws is None:
        for name, values in space.items():
            if isinstance(values, Distribution):
                raise ValueError(
                    f"{named(name)} is drawn from {values!r}: give a list of values, or say how "
                    f"many settings to draw{advice(', as in {}', 'draws', 20)}."
                )
        columns = [_values_of(values, name) for name, values in space.items()]
        return [dict(zip(space, row, strict=True)) for row in itertools.product(*columns)]
    if not any(isinstance(values, Distribution) for values in space.values()):
        return _drawn_from_grid(
            {name: _values_of(values, name) for name, values in space.items()}, draws, generator
        )
    each = {
        name: values if isinstance(values, Distribution) else choice(_values_of(values, name))
        for name, values in space.items()
    }
    return [{name: one.draw(generator) for name, one in each.items()} for _ in range(draws)]


def _drawn_from_grid(
    space: Mapping[str, list[Any]], draws: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Return settings of a grid, without repetition."""
    shape = [len(values) for values in space.values()]
    if draws > (most := math.prod(shape)):
        logger.warning("%s: there are %d settings, and each is tried.", named("draws", draws), most)
    drawn = generator.choice(most, min(draws, most), replace=False)
    places = zip(*(column.tolist() for column in np.unravel_index(drawn, shape)), strict=True)
    return [
        {name: values[k] for (name, values), k in zip(space.items(), place, strict=True)}
        for place in places
    ]


def _values_of(values: Any, name: str) -> list[Any]:
    """Return the values of a list, an array or a range."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(
            f"{name} must have a list of values to try, or a distribution such as "
            f"log_uniform(1e-4, 1.0), not {values!r}."
        )
    if not values:
        raise ValueError(f"{name} has no value to try.")
    return list(values)
