"""How much a model needs each column of a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bp_xp.plotting import _style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["column_importance"]

_MOST_BARS = 30


def column_importance(
    falls: Mapping[str, float], *, score: str = "score", ax: "Axes | None" = None
) -> "Axes":
    """Draw a bar for each column: how much the score falls when it is shuffled.

    Args:
        falls: the falls by column name, as :meth:`bp_xp.tables.TableModel.importance` returns them;
            the thirty largest are drawn.
        score: the name of the score.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: there are no columns.
        ImportError: matplotlib is not installed.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = column_importance({"size": 0.4, "town": 0.1}, ax=Figure().subplots())
        >>> [float(bar.get_width()) for bar in ax.patches]
        [0.1, 0.4]
    """
    if not falls:
        raise ValueError("there are no columns to draw.")
    largest = sorted(falls.items(), key=lambda item: item[1])[-_MOST_BARS:]
    axes = _style.new_axes(ax, (5.6, 1.2 + 0.28 * len(largest)))
    places = range(len(largest))
    axes.barh(places, [fall for _, fall in largest], color=_style.PALETTE[0])
    axes.set_yticks(places, [_style.shortened(name) for name, _ in largest])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.axvline(0.0, color="0.5", linewidth=0.8)
    _style.style(axes, x=f"fall of {score} when the column is shuffled")
    return axes
