"""Pictures of a sweep: how its best settings learn, and a metric over two settings."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bp_xp import checks
from bp_xp.plotting import _style
from bp_xp.sweeps import SweepResult
from bp_xp.sweeps.results import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["sweep_curves", "sweep_heat_map"]


def sweep_curves(table: SweepResult, *, most: int = 5, ax: "Axes | None" = None) -> "Axes":
    """Draw how the best settings of a sweep learn: their metric over the epochs.

    For a sweep of a table, whose metric may not be recorded in epochs, ``SweepResult.curve`` is
    drawn.

    A line is the mean over the runs of a setting, and its band is one standard deviation on both
    sides. Runs that ended earlier count for the epochs that they completed.

    Args:
        table: what :func:`bp_xp.sweep` returned.
        most: how many settings to draw, at most 7.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: no run has completed an epoch.
        TypeError: it is not the result of a sweep.
        ImportError: matplotlib is not installed.
    """
    _check(table)
    most = min(checks.check_integer(most, "most"), len(_style.PALETTE))
    curves = []
    for row in table.rows[:most]:
        settings = {name: row[name] for name in table.searched}
        of_runs = [run.curves.get(table.curve, ()) for run in table.runs_of(row)]
        if any(map(len, of_runs)):
            curves.append((settings, _over_runs(of_runs)))
    if not curves:
        raise ValueError("no run of this sweep has completed an epoch: there are no curves.")
    ax = _style.new_axes(ax, (6.4, 4.2))
    handles = []
    for color, (_, values) in zip(_style.PALETTE, curves, strict=False):
        epochs = np.arange(1, values.shape[1] + 1)
        mean, spread = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        handles += ax.plot(epochs, mean, color=color)
        ax.fill_between(epochs, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)
    _style.style(ax, x="epoch", y=table.curve.replace("_", " "))
    _style.whole_numbers(ax, range(1, 1 + max(values.shape[1] for _, values in curves)))
    labels = [", ".join(f"{n} {shown(v)}" for n, v in own.items()) or "all" for own, _ in curves]
    _style.legend(ax, handles, labels, fontsize="small")
    return ax


def _over_runs(curves: list[Any]) -> np.ndarray:
    """Return curves as an array (runs, epochs), NaN after the end of a run."""
    values = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in enumerate(curves):
        values[row, : len(curve)] = curve
    return values


def sweep_heat_map(
    table: SweepResult,
    x: str | None = None,
    y: str | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the metric of a sweep as a heat map over two settings.

    If other settings were searched too, a cell shows the best of them. A setting with a run that
    diverged is crossed out.

    Args:
        table: what :func:`bp_xp.sweep` returned.
        x: the name of the setting from left to right; None takes the first that was searched.
        y: the name of the setting from bottom to top; None takes the next.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: no such setting was searched.
        TypeError: it is not the result of a sweep.
        ImportError: matplotlib is not installed.
    """
    _check(table)
    x, y = _two_of(table, x, y)
    rows = table.rows
    columns, lines = (_values_of(rows, name) for name in (x, y))
    values = np.full((len(lines), len(columns)), np.nan)
    for row in reversed(rows):  # the best comes last, and overwrites the others
        sound = not row["diverged"]
        at = lines.index(row[y]), columns.index(row[x])
        values[at] = row[table.metric] if sound else np.nan
    ax = _style.new_axes(ax, (2.6 + 0.8 * len(columns), 1.8 + 0.6 * len(lines)))
    image = ax.imshow(values, cmap="viridis", origin="lower", aspect="auto")
    _style.style(ax, x=x.replace("_", " "), y=y.replace("_", " "), grid=False)
    ax.spines[:].set_visible(False)
    ax.set_xticks(range(len(columns)), [shown(one) for one in columns], parse_math=False)
    ax.set_yticks(range(len(lines)), [shown(one) for one in lines], parse_math=False)
    _style.color_bar(image, ax, table.metric.replace("_", " "))
    for (line, column), value in np.ndenumerate(values):
        _style.write(
            ax,
            column,
            line,
            "×" if math.isnan(value) else _style.number(float(value)),
            height=0.3,
            largest=10.0,
            smallest=4.0,
            color="0.4" if math.isnan(value) else _style.ink_on(tuple(image.to_rgba(value))),
            horizontalalignment="center",
            verticalalignment="center",
        )
    return ax


def _two_of(table: SweepResult, x: str | None, y: str | None) -> tuple[str, str]:
    """Return the names of the two settings of a heat map."""
    others = [name for name in table.searched if name not in (x, y)]
    two = [others.pop(0) if name is None and others else name for name in (x, y)]
    for name in two:
        if name not in table.searched:
            raise ValueError(
                f"a heat map is of two settings that were searched, and {name!r} is not one of "
                f"{', '.join(map(repr, table.searched)) or 'them'}."
            )
    return str(two[0]), str(two[1])


def _values_of(rows: list[dict[str, Any]], name: str) -> list[Any]:
    """Return the values of a setting: numbers in their order, others in the order of the table."""
    values: list[Any] = []
    for row in rows:
        if row[name] not in values:
            values.append(row[name])
    if all(isinstance(value, int | float) for value in values):
        values.sort()
    return values


def _check(table: Any) -> None:
    if not isinstance(table, SweepResult):
        raise TypeError(f"table must be what sweep returned, not {_style.kind_of(table)}.")
