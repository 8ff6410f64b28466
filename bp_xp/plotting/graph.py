"""A network as a graph, with the activations and errors of one sample."""

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.backends import to_numpy
from bp_xp.network import Network
from bp_xp.plotting import _style
from bp_xp.plotting._inputs import check_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["network_graph"]

# Lengths in the picture: the neurons of a column have a distance of 1.
_COLUMN = 2.3
_RADIUS = 0.3
_POINTS = 48.0  # of that length in a new figure
_MOST_UNITS = 20


class _Column(NamedTuple):
    """The part of a layer that is shown.

    Attributes:
        shown: the numbers of the neurons shown, shape (S,).
        heights: their positions, shape (S,), with 0 in the middle.
        gap: the position of the ellipsis, or None.
        a: activations of all neurons, shape (n,).
        delta: errors, shape (n,); None for the inputs.
    """

    shown: np.ndarray
    heights: np.ndarray
    gap: float | None
    a: np.ndarray
    delta: np.ndarray | None


def network_graph(
    network: Network, x: Any, y: Any, *, units: int = 8, ax: "Axes | None" = None
) -> "Axes":
    """Draw a network as a graph, with the activations and errors of one sample.

    A circle is a neuron and shows its activation a; it is darker the farther a is from 0 within its
    layer. The field below is its error δ = ∂C/∂z; its color is deeper for larger errors in the
    whole network. A line is a weight, thicker for larger weights within its layer. Red is positive
    and blue is negative.

    Args:
        network: on any device.
        x: the inputs of one sample, shape (1, I) or (I,).
        y: its label or targets, shape (1,), (1, O) or (O,), or a label alone.
        units: the largest number of neurons of a layer to show, from 2 to 20; of larger layers, the
            first and the last are shown, with an ellipsis between them.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: there is not exactly one sample; or as for ``network.trace``.
        TypeError: it is not a network, or an argument has the wrong type.
        ImportError: matplotlib is not installed.

    References:
        Nielsen, ch. 2, 'The four fundamental equations behind backpropagation'.
    """
    network = check_network(network)
    units = checks.check_integer(units, "units", least=2)
    if units > _MOST_UNITS:
        raise ValueError(
            f"{named('units')} must be at most {_MOST_UNITS}, not {units}: the numbers of more "
            "can't be read."
        )
    trace = network.trace(*_one_sample(network, x, y))
    columns = [_column(to_numpy(trace.x)[0], None, units)]
    columns += [_column(to_numpy(t.a)[0], to_numpy(t.delta)[0], units) for t in trace.layers]
    tall = max(len(column.shown) + (column.gap is not None) for column in columns)
    wide = (len(columns) - 1) * _COLUMN + 2.2
    inches = _POINTS / 72.0
    ax = _style.new_axes(
        ax, (max(6.2, min(20.0, wide * inches)), min(14.0, (tall + 1.0) * inches + 0.7))
    )
    ax.set_xlim(-0.8, wide - 0.8)
    ax.set_ylim(-tall / 2 - 0.15, tall / 2 + 0.85)
    ax.set_aspect("equal")
    ax.set_axis_off()
    cost = float(to_numpy(trace.cost))
    ax.set_title(f"one sample, cost C = {cost:.4g}", loc="left", fontsize="medium")
    _draw_weights(ax, columns, [to_numpy(layer.W) for layer in network.layers])
    _tell(ax)
    _draw_neurons(ax, columns)
    _write_around(ax, network, columns, to_numpy(trace.y)[0])
    return ax


def _one_sample(network: Network, x: Any, y: Any) -> tuple[Any, Any]:
    """Return inputs of shape (1, I) and labels or targets of one sample."""
    x, y = (values if hasattr(values, "ndim") else np.asarray(values) for values in (x, y))
    if x.ndim == 1:
        x = x[None, :]
    if x.ndim == 2 and x.shape[0] != 1:
        raise ValueError(
            f"x has {x.shape[0]} samples, but the graph shows one: pass x[:1] and y[:1]."
        )
    if y.ndim == 0 or (y.ndim == 1 and y.shape[0] == network.sizes[-1] > 1):
        y = y[None, ...]
    return x, y


def _column(a: np.ndarray, delta: np.ndarray | None, units: int) -> _Column:
    """Choose what is shown of a layer, and where."""
    n = len(a)
    if n <= units:
        return _Column(np.arange(n), (n - 1) / 2 - np.arange(n), None, a, delta)
    first = -(-units // 2)
    shown = np.concatenate([np.arange(first), np.arange(n - units + first, n)])
    places = units / 2 - np.arange(units + 1)
    return _Column(shown, np.delete(places, first), float(places[first]), a, delta)


def _draw_weights(ax: "Axes", columns: list[_Column], weights: list[np.ndarray]) -> None:
    from matplotlib.collections import LineCollection

    for at, ((left, right), W) in enumerate(zip(itertools.pairwise(columns), weights, strict=True)):
        w = W[np.ix_(right.shown, left.shown)].astype(np.float64).ravel()
        size = np.abs(w) / (np.abs(w).max() or 1.0)
        ends = itertools.product(right.heights, left.heights)
        lines = LineCollection(
            [[(at * _COLUMN, low), ((at + 1) * _COLUMN, high)] for high, low in ends],
            colors=np.where(w >= 0.0, _style.POSITIVE, _style.NEGATIVE).tolist(),
            linewidths=0.3 + 2.2 * size,
            alpha=(0.2 + 0.7 * size).tolist(),
            zorder=1,
        )
        ax.add_collection(lines)


def _draw_neurons(ax: "Axes", columns: list[_Column]) -> None:
    from matplotlib import colormaps, colors
    from matplotlib.patches import Circle

    greys, signed = colormaps["Greys"], colormaps[_style.SIGNED]
    largest = max(np.abs(column.delta).max() for column in columns[1:] if column.delta is not None)
    scale = colors.Normalize(-(largest or 1.0), largest or 1.0)
    for number, column in enumerate(columns):
        at, darkest = number * _COLUMN, np.abs(column.a).max() or 1.0
        for unit, height in zip(column.shown, column.heights, strict=True):
            a = float(column.a[unit])
            grey = greys(0.6 * abs(a) / darkest)
            ax.add_patch(Circle((at, height), _RADIUS, facecolor=grey, edgecolor="0.3", zorder=2))
            _write(ax, at, height, _style.number(a), 7.0, color=_style.ink_on(grey))
            if column.delta is None:
                continue
            delta = float(column.delta[unit])
            color = signed(scale(delta))
            _write(
                ax,
                at,
                height - 0.47,
                f"δ {_style.number(delta)}",
                6.0,
                color=_style.ink_on(color),
                bbox={
                    "boxstyle": "round,pad=0.2",
                    "facecolor": color,
                    "edgecolor": "0.6",
                    "linewidth": 0.4,
                },
            )
        if column.gap is not None:
            _write(ax, at, column.gap, "⋮", 16.0)


def _write(ax: "Axes", x: float, y: float, words: str, points: float, **options: Any) -> None:
    """Write text centered at a position, in letters of this many points in a new figure."""
    middle = {"horizontalalignment": "center", "verticalalignment": "center", "zorder": 3}
    height = points / _POINTS
    _style.write(ax, x, y, words, height=height, largest=1.5 * points, **(middle | options))


def _write_around(ax: "Axes", network: Network, columns: list[_Column], y: np.ndarray) -> None:
    """Write the names of the columns above them, and the targets next to the outputs."""
    top = ax.get_ylim()[1] - 0.75
    for number, column in enumerate(columns):
        kind, n = f"layer {number}\n", str(len(column.a))
        words = f"{n} inputs"
        if number:
            words = f"{kind}{n} × {network.model.activations[number - 1].name}"
        _write(ax, number * _COLUMN, top, words, 8.5, verticalalignment="bottom")
    last = columns[-1]
    right = (len(columns) - 1) * _COLUMN + _RADIUS + 0.15
    for unit, height in zip(last.shown, last.heights, strict=True):
        text = f"y = {_style.number(float(y[unit]))}"
        _write(ax, right, height, text, 8.0, horizontalalignment="left")


def _tell(ax: "Axes") -> None:
    """Explain circles, fields, lines and colors in a legend below."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    circle = {"marker": "o", "markersize": 9, "linestyle": "none", "markeredgecolor": "0.3"}
    handles = [
        Line2D([], [], markerfacecolor="0.8", **circle),
        Patch(facecolor="none", edgecolor="0.5", linewidth=0.8),
        Line2D([], [], color="0.5", linewidth=2),
        Patch(facecolor=_style.POSITIVE),
        Patch(facecolor=_style.NEGATIVE),
    ]
    _style.legend(
        ax,
        handles,
        ["activation a (gray: within its layer)", "error δ", "weight", "positive", "negative"],
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=len(handles),
        fontsize="small",
        columnspacing=1.2,
        handlelength=1.4,
    )
