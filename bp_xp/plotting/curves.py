"""Curves over a training run: costs and accuracies, and the flow of the gradient."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bp_xp.plotting import _style
from bp_xp.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["gradient_flow", "training_curves"]

_TRAINING, _VALIDATION = _style.PALETTE[:2]
# Fewer values than this are shown one by one, as dots on their line.
_FEW = 25
# The largest number of layers in a legend.
_MOST_LAYERS = 10
# Costs that change by more than this factor are shown on a logarithmic axis.
_WIDE = 50.0


def training_curves(
    history: History, *, figure: "Figure | SubFigure | None" = None
) -> "dict[str, Axes]":
    """Draw cost, accuracy and metrics over the epochs of a run.

    Training is blue, validation orange. A dashed line marks the epoch whose parameters early
    stopping restored. A cost that falls to less than a fiftieth gets a logarithmic axis.

    Args:
        history: what ``fit`` returned, with one epoch or more.
        figure: where to draw; None opens a new figure.

    Returns:
        The panels: ``"cost"``, ``"accuracy"`` if there are classes, and one for each metric by its
        name, such as ``"validation_f1"``.

    Raises:
        ValueError: the history is empty.
        TypeError: it is not a History.
        ImportError: matplotlib is not installed.

    Examples:
        >>> from bp_xp import Network
        >>> from matplotlib.figure import Figure
        >>> net = Network([2, 4, 2], cost="categorical_cross_entropy", seed=0)
        >>> history = net.fit([[0, 0], [0, 1], [1, 0]], [0, 1, 1], epochs=5, progress=False)
        >>> list(training_curves(history, figure=Figure()))
        ['cost', 'accuracy']
    """
    if not isinstance(history, History):
        raise TypeError(f"history must be what fit returned, not {_style.kind_of(history)}.")
    if not history:
        raise ValueError("the history is empty: the run ended before its first epoch was complete.")
    epochs = history["epoch"]
    names = ["cost", "accuracy", *history[0].metrics]
    lines = {name: _lines(history, name) for name in names}
    lines = {name: of_panel for name, of_panel in lines.items() if of_panel}
    axes = _style.panels(figure, list(lines), min(len(lines), 3), (4.6, 3.6))
    for name, ax in axes.items():
        for part, values in lines[name].items():
            color = _TRAINING if part == "training" else _VALIDATION
            marker = "o" if len(epochs) < _FEW else ""
            ax.plot(epochs, values, marker=marker, markersize=3.5, color=color, label=part)
        if history.best_epoch is not None:
            ax.axvline(
                history.best_epoch,
                color="0.5",
                linestyle=(0, (4, 3)),
                linewidth=1.2,
                label=f"best epoch, {history.best_epoch}",
            )
        _style.style(ax, x="epoch", y=name.replace("_", " "))
        _style.whole_numbers(ax, epochs)
        ax.yaxis.label.set_parse_math(False)
    _finish_cost(axes["cost"], lines["cost"])
    if "accuracy" in axes:
        _percent(axes["accuracy"])
    first = next(iter(axes.values()))
    _style.legend(first, *first.get_legend_handles_labels())
    return axes


def _lines(history: History, name: str) -> dict[str, np.ndarray]:
    """Return what a panel shows, by the part of the data that it was measured on."""
    parts = {"validation": name}  # a metric
    if name in ("cost", "accuracy"):
        parts = {"training": name, "validation": f"validation_{name}"}
    values = {part: history[key] for part, key in parts.items()}
    return {
        part: np.array(of_part, dtype=np.float64)
        for part, of_part in values.items()
        if any(value is not None for value in of_part)
    }


def _finish_cost(ax: "Axes", lines: dict[str, np.ndarray]) -> None:
    """Choose the scale of the costs."""
    ax.set_ylabel("cost C, mean over samples")
    values = np.concatenate(list(lines.values()))
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0.0 and values.max() > _WIDE * values.min():
        ax.set_yscale("log")


def gradient_flow(flow: Any, *, figure: "Figure | SubFigure | None" = None) -> "dict[str, Axes]":
    """Draw how the gradient passed through the layers during training.

    A layer whose gradient norm is far below that of the layers above it learns slowly: its
    gradient has vanished on the way down (BP2), often because many of its units are saturated
    (σ′(z) near 0) or dead.

    Args:
        flow: the callback :class:`~bp_xp.inspection.GradientFlow` after training, or its records.
        figure: where to draw; None opens a new figure.

    Returns:
        The panels: ``"gradient_norms"`` and ``"update_ratios"``, on logarithmic axes;
        ``"saturated"`` and ``"dead"``, shares from 0 to 100 %. Each has a line for each layer, from
        the first (dark) to the last (light); :class:`~bp_xp.inspection.FlowRecord` says what they
        are.

    Raises:
        ValueError: there is no record.
        TypeError: it is neither of these.
        ImportError: matplotlib is not installed.
    """
    records = _moments(flow)
    # One row for each record, one column for each layer.
    values = {
        name: np.array([getattr(record, name) for _, record in records], dtype=np.float64)
        for name in _FLOW_TITLES
    }
    moments = [moment for moment, _ in records]
    axes = _style.panels(figure, list(_FLOW_TITLES), 2, (5.0, 3.1))
    for name, ax in axes.items():
        of_layers = values[name].T
        for color, of_layer in zip(_layer_colors(len(of_layers)), of_layers, strict=True):
            finite = np.where(np.isfinite(of_layer), of_layer, np.nan)
            marker = "o" if len(moments) < _FEW else ""
            ax.plot(moments, finite, marker=marker, markersize=3.5, color=color)
        _style.style(ax, title=_FLOW_TITLES[name], x="epoch")
        _style.whole_numbers(ax, moments)
        if name in ("saturated", "dead"):
            _percent(ax)
            ax.set_ylim(-0.03, 1.03)
        elif np.any(values[name] > 0.0):
            ax.set_yscale("log")
    _tell_layers(axes["update_ratios"])
    return axes


_FLOW_TITLES = {
    "gradient_norms": "length of the gradient, ‖(∂C/∂W, ∂C/∂b)‖",
    "update_ratios": "change since the previous record, ‖ΔW‖ / ‖W‖",
    "saturated": "saturated: share of neurons and samples",
    "dead": "dead: neurons saturated for every sample",
}


def _moments(flow: Any) -> list[tuple[float, Any]]:
    """Return the records of a GradientFlow, each with its moment in epochs."""
    records = getattr(flow, "records", flow)
    fields = ("step", "epoch", *_FLOW_TITLES)
    if not isinstance(records, Sequence) or any(
        not hasattr(record, name) for record in records for name in fields
    ):
        raise TypeError(f"flow must be a GradientFlow or its records, not {_style.kind_of(flow)}.")
    if not records:
        raise ValueError(
            "flow has no records: give it to fit, as in net.fit(x, y, callbacks=[flow])."
        )
    # The last step of an epoch has a record, which gives the number of steps in an epoch.
    per_epoch = max(record.step / record.epoch for record in records)
    return [(record.step / per_epoch, record) for record in records]


def _layer_colors(n: int) -> list[Any]:
    """Return a color for each of n layers: they have an order, so from dark to light."""
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0.0, 0.88, n)))


def _tell_layers(ax: "Axes") -> None:
    """Add a legend of the layers' colors next to an Axes; if there are many, of some of them."""
    lines = ax.get_lines()
    shown = np.unique(np.linspace(0, len(lines) - 1, min(len(lines), _MOST_LAYERS)).round())
    labels = [f"layer {int(i) + 1}" for i in shown]
    handles = [lines[int(i)] for i in shown]
    _style.legend(ax, handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _percent(ax: "Axes") -> None:
    from matplotlib.ticker import PercentFormatter

    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
