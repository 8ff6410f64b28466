"""Numbers that are no longer finite: found on the device, told on the host."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.errors import DivergenceError
from bp_xp.optim.schedules import is_scheduled
from bp_xp.training.arguments import Settings

__all__ = ["are_finite", "check_finite"]


def are_finite(arrays: Iterable[Array], *, xp: Namespace) -> np.ndarray:
    """Return for each array whether it has neither NaN nor infinity, as its sum shows.

    The sums are fetched from the device all at once. A sum that overflows counts as not finite:
    parameters of that size are past saving.

    Args:
        arrays: arrays of any shapes, of one dtype.
        xp: their namespace.

    Returns:
        Booleans on the host, shape (number of arrays,).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [xp.sum(array) for array in arrays]
    return np.isfinite(to_numpy(xp.stack(sums)))


def check_finite(
    cost: float,
    layers: Sequence[Layer],
    epoch: int,
    settings: Settings,
    *,
    rates: np.ndarray,
    placement: Placement,
) -> None:
    """Refuse a cost or parameters that are no longer finite at the end of an epoch.

    Args:
        cost: the mean cost of the epoch.
        layers: the parameters after it.
        epoch: its number.
        settings: those of the run, for the advice.
        rates: the learning rates of its last steps, where they follow a schedule.
        placement: library and device.

    Raises:
        DivergenceError: one is not; the message says which, and what to try.
    """
    parts = are_finite((part for layer in layers for part in layer), xp=placement.xp)
    finite = parts.reshape(-1, 2).all(axis=1)
    if math.isfinite(cost) and finite.all():
        return
    where = (
        "" if finite.all() else f"; the first layer that is not finite is layer {finite.argmin()}"
    )
    rate: Any = getattr(settings.optimizer, "learning_rate", None)
    if is_scheduled(rate):
        rate = float(np.max(rates[-1]))
    elif isinstance(rate, list | tuple):
        rate = max(rate)
    remedy = "a smaller learning rate" if rate is None else f"a learning rate below {rate:g}"
    if l2 := settings.regularization.l2:
        remedy += f", l2 below {np.max(l2):g}"
    raise DivergenceError(
        f"the run diverged in epoch {epoch}: its mean cost is {cost:g}{where}. Try {remedy}, "
        "scaled inputs, or another initializer. The network keeps its parameters from "
        f"{f'epoch {epoch - 1}' if epoch > 1 else 'before the run'}."
    )
