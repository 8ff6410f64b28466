"""Defaults of a training run, for options that are not given."""

from typing import NamedTuple

from bp_xp.tables import Recipe

__all__ = ["Defaults", "defaults_of"]


class Defaults(NamedTuple):
    """The settings of a run that depend on its data."""

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float


_DATA_SETS = {"digits": Defaults((64,), 30, 32, 0.1), "mnist": Defaults((128,), 10, 128, 0.1)}
# Inputs from a file may have any magnitude, so the steps are smaller.
_FILE = Defaults((64,), 50, 32, 0.02)
_RECIPE = Recipe()
_TABLE = Defaults(tuple(_RECIPE.hidden_layer_sizes), _RECIPE.epochs, _RECIPE.batch_size, 0.02)


def defaults_of(data: str, *, is_table: bool = False) -> Defaults:
    """Return the settings for a data set, by its name, or for a file."""
    return _DATA_SETS.get(data, _TABLE if is_table else _FILE)
