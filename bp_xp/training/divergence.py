"""Numbers that are no longer finite: detected on the device, reported on the host."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import numpy as np

from bp_xp._caller import in_python, named
from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.errors import DivergenceError
from bp_xp.optim.schedules import is_scheduled
from bp_xp.training.arguments import Settings
from bp_xp.training.step import State

__all__ = ["are_finite", "check_finite", "diverged_members", "not_finite", "row_of"]


def are_finite(arrays: Iterable[Array], *, placement: Placement) -> np.ndarray:
    """Return for each array whether it is free of NaN and infinity, judged by its sum.

    The sums are fetched from the device together. A sum that overflows counts as not finite:
    parameters of that size are not worth saving.

    Args:
        arrays: arrays of any shapes, of one dtype.
        placement: their library and device.

    Returns:
        Booleans on the host, shape (number of arrays,).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sums = placement.engine.compile(_sums, placement.xp)(list(arrays))
    return np.isfinite(to_numpy(sums))


def _sums(xp: Namespace, arrays: Iterable[Array]) -> Array:
    """Return the sum of each array, shape (number of arrays,)."""
    return xp.stack([xp.sum(array) for array in arrays])


def check_finite(
    state: State,
    epoch: int,
    settings: Settings,
    *,
    totals: np.ndarray | None = None,
    rates: np.ndarray | None = None,
    placement: Placement,
) -> None:
    """Refuse costs, parameters or an optimizer's state that are no longer finite.

    Args:
        state: the state of the steps.
        epoch: the number of the epoch.
        settings: those of the run, for the advice.
        totals: the sums of each step of the epoch, shape (steps, 3), if they are known; with
            several processes those of each, shape (ranks, steps, 3).
        rates: the learning rates of its last steps, if they follow a schedule and are known.
        placement: library and device.

    Raises:
        DivergenceError: something is not finite; the message says what, since which step, and what
            to try.
    """
    if found := not_finite(state, totals, placement=placement):
        raise DivergenceError(
            f"the run diverged in epoch {epoch}: {', and '.join(found)}. Try "
            f"{_remedy(settings, rates)}"
            + in_python(", another initializer")
            + " or scaled inputs."
            + in_python(" The network keeps its last finite parameters.")
        )


def not_finite(state: State, totals: np.ndarray | None, *, placement: Placement) -> list[str]:
    """Return a list of texts that name what is no longer finite; empty if everything is."""
    parts = [part for layer in state.layers for part in layer]
    dtype = parts[0].dtype
    held = [leaf for leaf in leaves_of(state.optimizer) if getattr(leaf, "dtype", None) == dtype]
    finite = are_finite([*parts, *held], placement=placement)
    costs = np.zeros((1, 0)) if totals is None else totals.reshape(-1, *totals.shape[-2:])[..., 0]
    good = np.isfinite(costs)
    if finite.all() and good.all():
        return []
    layers = finite[: len(parts)].reshape(-1, 2).all(axis=1)
    found = []
    if not good.all():
        step = good.all(axis=0).argmin()
        rank = f" on rank {good[:, step].argmin()}" if len(costs) > 1 else ""
        found.append(f"the cost is first not finite at its step {step + 1}{rank}")
    if not layers.all():
        # The inputs are layer 0, as in a trace and a summary.
        found.append(f"the first layer that is not finite is layer {layers.argmin() + 1}")
    elif not finite.all():
        found.append("the optimizer's state is not finite")
    return found


def diverged_members(
    state: State,
    epoch: int,
    settings: Settings,
    *,
    totals: np.ndarray,
    rates: np.ndarray,
    placement: Placement,
) -> dict[int, DivergenceError]:
    """Return the errors that :func:`check_finite` has for the diverged networks of a stack.

    Args:
        state: the state of the steps, with a leading axis of M networks.
        epoch: the number of the epoch.
        settings: those of the run, whose optimizer has ``of_row``.
        totals: the sums of each step of the epoch, shape (steps, M, 3).
        rates: the learning rates of its last steps, shape (n,) or (n, ..., M).
        placement: library and device.

    Returns:
        The error of each row that diverged, by its number.
    """
    if not not_finite(state, np.reshape(totals, (-1, 3)), placement=placement):
        return {}  # the usual case
    errors, optimizer = {}, cast(Any, settings.optimizer)
    for row in range(totals.shape[1]):
        try:
            check_finite(
                row_of(state._replace(masks=()), row),
                epoch,
                replace(settings, optimizer=optimizer.of_row(row)),
                totals=totals[:, row],
                rates=rates[..., row] if rates.ndim > 1 else rates,
                placement=placement,
            )
        except DivergenceError as error:
            errors[row] = error
    return errors


def row_of(tree: Any, row: int) -> Any:
    """Return one network's part of the arrays of a stack; all share arrays without an axis."""
    return map_leaves(lambda leaf: leaf[row, ...] if getattr(leaf, "ndim", 0) else leaf, tree)


def _remedy(settings: Settings, rates: np.ndarray | None) -> str:
    """Return the advice on which settings to lower."""
    rate: Any = getattr(settings.optimizer, "learning_rate", None)
    if is_scheduled(rate):
        rate = None if rates is None else float(np.max(rates[-1]))
    elif isinstance(rate, list | tuple):
        rate = max(rate)
    remedy = "a smaller learning rate" if rate is None else f"a learning rate below {rate:g}"
    if l2 := settings.regularization.l2:
        remedy += f", {named('l2')} below {np.max(l2):g}"
    return remedy
