"""How a network sees classes: which ones it confuses, and where it draws the lines."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bp_xp.backends import to_numpy
from bp_xp.math.metrics import Metric
from bp_xp.math.metrics import confusion_matrix as count_confusions
from bp_xp.network import Network
from bp_xp.plotting import _style
from bp_xp.plotting._inputs import Judged, check_network, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["confusion_matrix", "decision_regions"]

_COUNTS = Metric("confusion_matrix", count_confusions, needs_classes=True, higher_is_better=True)
_MARKERS = "os^DvPpX<>h"
# Up to this many classes leave room for shares like 12.3%.
_FEW = 5
# The number of points along each side of the map of a plane.
_SIDE = 300


def confusion_matrix(
    network: Any,
    x: Any = None,
    y: Any = None,
    *,
    class_names: Any = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw how often each class was predicted for samples of each class.

    A cell shows the number of samples and its share of the true class; its color is that share.

    Args:
        network: a network that predicts classes; or a matrix of counts, shape (K, K), with true
            classes in rows, as :func:`bp_xp.confusion_matrix` returns it, and then no x and y.
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets that are one class each, shape (N, O).
        class_names: a name for each class, a list or ``{label: name}``; None takes their
            numbers.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes, with true classes from top to bottom and predicted ones from left to right.

    Raises:
        ValueError: as for ``network.evaluate``; the matrix does not hold counts; or names do not
            fit the classes.
        TypeError: x and y are missing, or passed with a matrix.
        ImportError: matplotlib is not installed.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = confusion_matrix([[8, 2], [1, 9]], ax=Figure().add_subplot())
        >>> [text.get_text().split() for text in ax.texts]
        [['8', '80.0%'], ['2', '20.0%'], ['1', '10.0%'], ['9', '90.0%']]
    """
    counts = _counts(network, x, y)
    n = len(counts)
    names = _style.names_of_classes(class_names, n)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = min(11.0, max(3.2, 1.4 + 0.5 * n))
    longest = max(map(len, names))
    ax = _style.new_axes(ax, (side + 1.1 + 0.06 * longest, side + 0.03 * longest))
    image = ax.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    right, total = int(np.trace(counts)), int(counts.sum())
    title = f"accuracy {right / total:.2%} of {total:,} samples" if total else "no samples"
    _style.style(ax, title=title, x="predicted class", y="true class", grid=False)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(n - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(n - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="0.88", linewidth=0.6)
    bar = _style.color_bar(image, ax, "share of the true class", shrink=0.8, aspect=25)
    bar.ax.yaxis.set_major_formatter("{x:.0%}")
    _name_ticks(ax, names)
    _write_cells(ax, counts, shares, image)
    return ax


def _counts(network: Any, x: Any, y: Any) -> np.ndarray:
    """Return counts of shape (K, K), as whole numbers."""
    if isinstance(network, Network):
        if x is None or y is None:
            raise TypeError("pass confusion_matrix(network, x, y): x and y are missing.")
        return network.evaluate(x, y, metrics=[_COUNTS])["confusion_matrix"]
    if x is not None or y is not None:
        raise TypeError(
            "pass confusion_matrix(network, x, y) with a bp_xp.Network, or a matrix of counts "
            "alone."
        )
    matrix = to_numpy(network)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(
            f"a matrix of counts must have shape (K, K) for K classes, not {matrix.shape}."
        )
    if matrix.dtype.kind not in "iuf" or not (np.floor(matrix) == matrix).all() or matrix.min() < 0:
        raise ValueError(
            "a confusion matrix holds counts, whole numbers of samples; shares are drawn from them."
        )
    return matrix.astype(np.int64)


def _name_ticks(ax: "Axes", names: list[str]) -> None:
    """Name rows and columns; if there are very many, only every second, third ... one."""
    every = -(-len(names) // 30)
    places = range(0, len(names), every)
    labels = [names[i] for i in places]
    size = 10.0 if len(names) <= 12 else 8.0
    ax.set_yticks(places, labels, parse_math=False, fontsize=size)
    # Before the layout of the picture, this is slightly more room than there will be.
    room = 0.8 * every * ax.get_window_extent().width * 72.0 / ax.figure.dpi / len(names)
    tilted = max(map(len, labels)) * 0.65 * size > room
    turn: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(places, labels, parse_math=False, fontsize=size, **(turn if tilted else {}))
    ax.tick_params(which="both", length=0)


def _write_cells(ax: "Axes", counts: np.ndarray, shares: np.ndarray, image: Any) -> None:
    """Write counts and shares into the cells, if there is room; zeros stay empty."""
    n = len(counts)
    digits = 1 if n <= _FEW else 0
    letters = max(4 + 2 * digits, len(f"{counts.max():,}"))
    # The width of a letter is about 0.65 of its size; two lines with spacing are 2.6 sizes high.
    height = min(0.9 / (0.65 * letters), 0.9 / 2.6)
    for row, column in np.argwhere(counts):
        _style.write(
            ax,
            column,
            row,
            f"{counts[row, column]:,}\n{_style.share(float(shares[row, column]), digits)}",
            height=height,
            largest=10.0,
            smallest=4.0,
            color=_style.ink_on(image.to_rgba(shares[row, column])),
            horizontalalignment="center",
            verticalalignment="center",
        )


# ---------------------------------------------------------------------------------------------
# Regions


def decision_regions(
    network: Network,
    x: Any,
    y: Any,
    *,
    class_names: Any = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw what a network with two inputs predicts for every point around some samples.

    Each class has a color, which is paler where the network is less certain, with a line where the
    predicted class changes; misclassified samples have a dark rim. A network that predicts one
    number is drawn as a map of its output, with the samples' targets in the same colors.

    Args:
        network: a network with two inputs that predicts classes or has one output.
        x: inputs, shape (N, 2).
        y: labels, shape (N,), or targets, shape (N, O).
        class_names: a name for each class, a list or ``{label: name}``; None takes their
            numbers.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: the network does not have two inputs, or has several outputs that are not
            classes; or as for ``network.evaluate``.
        TypeError: it is not a network, or an array is of another library.
        ImportError: matplotlib is not installed.
    """
    if check_network(network).sizes[0] != 2:
        raise ValueError(
            "the regions of a plane are those of networks of two inputs: this one has "
            f"{network.sizes[0]}."
        )
    if network.classifies:
        names = _style.names_of_classes(class_names, max(2, network.sizes[-1]))
        judged = judge(network, x, y)
        plane = _Plane(judged.x)
        p = to_numpy(network.predict_proba(plane.points)).reshape(_SIDE, _SIDE, -1)
        ax = _style.new_axes(ax, (6.2, 4.8))
        _draw_classes(ax, plane, p, judged, names)
    else:
        if network.sizes[-1] != 1:
            raise ValueError(
                "the regions are those of classes, or of one number: this network has "
                f"{network.sizes[-1]} outputs that are not classes."
            )
        network.evaluate(x, y)  # raises an error if x and y are wrong
        x, y = to_numpy(x), to_numpy(y).reshape(-1)
        plane = _Plane(x)
        a = to_numpy(network.feedforward(plane.points)).reshape(_SIDE, _SIDE)
        ax = _style.new_axes(ax, (6.2, 4.8))
        _draw_numbers(ax, plane, a, x, y)
    return ax


class _Plane:
    """A rectangle around some samples, with a margin.

    Attributes:
        extent: left, right, bottom and top.
        points: a grid over it, shape (_SIDE², 2), row by row from the bottom.
    """

    def __init__(self, x: np.ndarray) -> None:
        x = x.astype(np.float64)
        low, high = x.min(axis=0), x.max(axis=0)
        margin = np.where(high > low, 0.1 * (high - low), 0.5)
        (left, bottom), (right, top) = low - margin, high + margin
        self.extent = (left, right, bottom, top)
        self.sides = np.linspace(left, right, _SIDE), np.linspace(bottom, top, _SIDE)
        self.points = np.stack([side.ravel() for side in np.meshgrid(*self.sides)], axis=1)


def _draw_classes(
    ax: "Axes", plane: _Plane, p: np.ndarray, judged: Judged, names: list[str]
) -> None:
    from matplotlib import colors
    from matplotlib.lines import Line2D

    n = len(names)
    chosen = _style.class_colors(n)
    told = p.argmax(axis=-1)
    sure = np.clip((p.max(axis=-1) - 1.0 / n) / (1.0 - 1.0 / n), 0.0, 1.0)
    tint = (0.08 + 0.37 * sure)[..., None]
    paint = 1.0 - tint + tint * np.array([colors.to_rgb(color) for color in chosen])[told]
    paint = np.clip(paint, 0.0, 1.0)
    ax.imshow(paint, extent=plane.extent, origin="lower", aspect="auto", interpolation="bilinear")
    for label in range(n if n > 2 else 1):
        # Above 0 where the class is the most likely. With two classes, one line is both borders.
        lead = p[..., label] - np.delete(p, label, axis=-1).max(axis=-1)
        if lead.min() < 0.0 < lead.max():
            ax.contour(*plane.sides, lead, levels=[0.0], colors="0.3", linewidths=0.9)
    handles = []
    width = _marker_width(len(judged.true))
    for label, color in enumerate(chosen):
        red, green, blue = colors.to_rgb(color)
        darker = (0.85 * red, 0.85 * green, 0.85 * blue)
        marker = _MARKERS[label % len(_MARKERS)]
        for wrong, rim, rim_width in ((False, "white", 0.09), (True, "black", 0.22)):
            ax.scatter(
                *judged.x[(judged.true == label) & ((judged.told != label) == wrong)].T,
                s=width**2,
                marker=marker,
                color=darker,
                edgecolors=rim,
                linewidths=rim_width * width,
                zorder=3 if wrong else 2,
            )
        handles.append(Line2D([], [], marker=marker, markersize=6, color=darker, linestyle="none"))
    if (judged.told != judged.true).any():
        rim = {"markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 1.3}
        handles.append(Line2D([], [], marker="o", markersize=6, linestyle="none", **rim))
        names = [*names, "misclassified"]
    _style.legend(
        ax,
        handles,
        names,
        title="true class",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize="small" if n > 10 else "medium",
    )
    accuracy = (judged.told == judged.true).mean()
    title = f"accuracy {accuracy:.2%} of {len(judged.true):,} samples"
    _style.style(ax, title=title, x="x₁", y="x₂", grid=False)


def _draw_numbers(ax: "Axes", plane: _Plane, a: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    scale = {"vmin": min(a.min(), y.min()), "vmax": max(a.max(), y.max()), "cmap": "viridis"}
    image = ax.imshow(a, extent=plane.extent, origin="lower", aspect="auto", **scale)
    width = _marker_width(len(y))
    ax.scatter(*x.T, c=y, s=width**2, edgecolors="white", linewidths=0.13 * width, **scale)
    _style.color_bar(image, ax, "output a, and targets y of the samples", aspect=25)
    _style.style(ax, x="x₁", y="x₂", grid=False)


def _marker_width(n: int) -> float:
    """Return the width of a sample's marker among n samples, in points."""
    return float(np.clip(80.0 / np.sqrt(n), 2.2, 6.0))
