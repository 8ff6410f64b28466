"""The common look of all pictures: their axes, colors and words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bp_xp._caller import named
from bp_xp._optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

__all__ = [
    "NEGATIVE",
    "PALETTE",
    "POSITIVE",
    "SIGNED",
    "class_colors",
    "color_bar",
    "ink_on",
    "kind_of",
    "legend",
    "names_of_classes",
    "new_axes",
    "number",
    "panels",
    "share",
    "shortened",
    "style",
    "whole_numbers",
    "write",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Colors that color-blind readers can distinguish.

References:
    Okabe and Ito, *Color Universal Design*, 2002.
"""

SIGNED = "RdBu_r"
"""The colors of numbers of both signs: red is positive, blue negative, white 0."""

POSITIVE, NEGATIVE = "#D6604D", "#4393C3"
"""Two of these colors, for lines."""

_LONGEST_NAME = 24


# ---------------------------------------------------------------------------------------------
# Axes


def new_axes(ax: Any, size: tuple[float, float]) -> "Axes":
    """Return the Axes to draw on: the given one, or that of a new figure.

    Args:
        ax: an Axes, or None.
        size: width and height of a new figure, in inches.

    Raises:
        TypeError: ax is not an Axes.
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", "plot")
    from matplotlib import axes

    if ax is None:
        return _new_figure(size).add_subplot()
    if not isinstance(ax, axes.Axes):
        raise TypeError(
            f"ax must be a matplotlib Axes, such as pyplot.subplots() returns, not {kind_of(ax)}."
        )
    return ax


def panels(
    figure: Any, names: Sequence[str], columns: int, size: tuple[float, float]
) -> dict[str, "Axes"]:
    """Return an Axes for each name, row by row in a figure.

    Args:
        figure: a Figure or SubFigure, or None for a new figure.
        names: the names of the panels.
        columns: the number of panels in a row.
        size: width and height of a panel of a new figure, in inches.

    Raises:
        TypeError: figure is not a Figure.
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", "plot")
    from matplotlib.figure import FigureBase

    rows = -(-len(names) // columns)
    if figure is None:
        figure = _new_figure((columns * size[0], rows * size[1]))
    elif not isinstance(figure, FigureBase):
        raise TypeError(
            "figure must be a matplotlib Figure, such as pyplot.figure() returns, not "
            f"{kind_of(figure)}."
        )
    return {name: figure.add_subplot(rows, columns, i + 1) for i, name in enumerate(names)}


def _new_figure(size: tuple[float, float]) -> Any:
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained")


def style(ax: "Axes", *, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Set the words of an Axes, and the common look."""
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(color="0.5", alpha=0.2, linewidth=0.8)
        ax.set_axisbelow(True)


def whole_numbers(ax: "Axes", values: Sequence[float]) -> None:
    """Use whole numbers for the ticks of the x axis, even if there is only one."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    if values[0] == values[-1]:
        ax.set_xlim(values[0] - 1, values[0] + 1)


# ---------------------------------------------------------------------------------------------
# Colors


def class_colors(n: int) -> list[str]:
    """Return a color for each of n classes; with more than seven, neighbors are similar."""
    from matplotlib import colormaps, colors

    if n <= len(PALETTE):
        return list(PALETTE[:n])
    return [colors.to_hex(rgba) for rgba in colormaps["turbo"](np.linspace(0.05, 0.95, n))]


def ink_on(rgba: Sequence[float]) -> str:
    """Return a color for text that is readable on another color."""
    # Relative luminance, as in the Web Content Accessibility Guidelines, but without their gamma.
    red, green, blue = rgba[:3]
    return "black" if 0.30 * red + 0.59 * green + 0.11 * blue > 0.55 else "white"


def color_bar(drawn: Any, ax: "Axes", label: str, **options: Any) -> "Colorbar":
    """Add a color scale next to an Axes."""
    bar = ax.figure.colorbar(drawn, ax=ax, label=label, **options)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return bar


# ---------------------------------------------------------------------------------------------
# Words


def kind_of(value: Any) -> str:
    """Return a description of a wrong argument, for messages."""
    return f"an object of type {type(value).__name__}"


def legend(ax: "Axes", handles: Iterable[Any], labels: Sequence[str], **options: Any) -> None:
    """Add a legend whose labels are shown unchanged, including $ and a leading underscore."""
    handles = list(handles)
    # matplotlib leaves out labels that begin with an underscore, so the words are set later.
    shown = ax.legend(handles, [str(i) for i in range(len(handles))], frameon=False, **options)
    for text, label in zip(shown.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(label)


def write(ax: "Axes", x: float, y: float, words: str, **options: Any) -> None:
    """Write text into a picture, with the options of FittedText."""
    from bp_xp.plotting._fitted import FittedText

    ax.add_artist(FittedText(x, y, words, **options))


def names_of_classes(class_names: Any, n: int) -> list[str]:
    """Return the names of n classes, short enough to be shown; by default, their numbers.

    Raises:
        TypeError: the names are a single text.
        ValueError: there are more or fewer names than classes.
    """
    if class_names is None:
        return [str(label) for label in range(n)]
    if isinstance(class_names, Mapping):  # by label
        unnamed = [label for label in range(n) if label not in class_names]
        if unnamed:
            raise ValueError(f"{named('class_names')} has no name for class {unnamed[0]} of {n}.")
        class_names = [class_names[label] for label in range(n)]
    if isinstance(class_names, str) or not isinstance(class_names, Iterable):
        raise TypeError(
            f"{named('class_names')} must be a list with a name for each class, not "
            f"{class_names!r}."
        )
    names = [shortened(str(name)) for name in class_names]
    if len(names) != n:
        raise ValueError(
            f"{named('class_names')} has {len(names)} names, but there are {n} classes."
        )
    return names


def shortened(name: str) -> str:
    """Return a name, with an ellipsis for the letters after the 24th."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def share(value: float, digits: int = 0) -> str:
    """Return a share in percent; one that would round to 0% or 100% is shown as a bound."""
    text = f"{value:.{digits}%}"
    least, most = f"{0.0:.{digits}%}", f"{1.0:.{digits}%}"
    if value > 0.0 and text == least:
        return f"<{10.0 ** -(digits + 2):.{digits}%}"
    if value < 1.0 and text == most:
        return f">{1.0 - 10.0 ** -(digits + 2):.{digits}%}"
    return text


def number(value: float) -> str:
    """Return a number in at most five or six characters, with a typographic minus sign.

    Examples:
        >>> number(-0.0314), number(0.5), number(1234.5), number(2.5e-7), number(7.7e-15)
        ('−0.031', '0.50', '1.2e3', '2.5e−7', '8e−15')
    """
    size = abs(value)
    if size == 0.0:
        text = "0"
    elif 0.0995 <= size < 99.5:
        text = f"{value:.2f}" if size < 9.95 else f"{value:.1f}"
    elif 0.00995 <= size < 0.0995:
        text = f"{value:.3f}"
    elif 99.5 <= size < 999.5:
        text = f"{value:.0f}"
    else:
        digits = 1 if 9.5e-10 <= size < 9.5e9 else 0  # else the exponent takes the room
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")
