"""Networks for images: the weights into single neurons, and the misclassified samples."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.backends import to_numpy
from bp_xp.network import Network
from bp_xp.plotting import _style
from bp_xp.plotting._inputs import check_network, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["first_layer_weights", "misclassified"]


def first_layer_weights(
    network: Network,
    shape: tuple[int, int] | None = None,
    *,
    units: int = 36,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the weights into neurons of the first layer as images.

    Positive weights are red, negative weights blue, and 0 is white. All images share a scale, which
    ends at the 99.5th percentile of |w|, so that a few large weights do not make the rest pale.

    Args:
        network: on any device.
        shape: height and width of the inputs as an image; None takes a square.
        units: how many neurons to show, starting with the first.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes, with a single image that contains the grid; neurons are numbered from 0.

    Raises:
        ValueError: the shape does not fit the inputs, or none is given and they do not form a
            square.
        TypeError: it is not a network, or an argument has the wrong type.
        ImportError: matplotlib is not installed.
    """
    height, width = _image_shape(shape, check_network(network).sizes[0])
    n_units = network.sizes[1]
    n = min(checks.check_integer(units, "units"), n_units)
    W = to_numpy(network.layers[0].W)[:n].astype(np.float64)
    limit = float(np.quantile(np.abs(W), 0.995)) or float(np.abs(W).max()) or 1.0
    grid = _Grid(n, height, width, lines=1, letters=len(str(n)))
    ax = _style.new_axes(ax, grid.figure_size)
    image = grid.draw(ax, W, cmap=_style.SIGNED, vmin=-limit, vmax=limit)
    shown = f"{n_units} neuron" if n == n_units else f"{n} of {n_units} neuron"
    title = f"weights into the first layer, {shown}{'s' * (n_units > 1)}"
    ax.set_title(title, loc="left", fontsize="medium")
    clipped = "both" if np.abs(W).max() > limit else "neither"
    _style.color_bar(image, ax, "weight w", extend=clipped, shrink=0.7, aspect=25)
    grid.write(ax, [str(unit) for unit in range(n)])
    return ax


def misclassified(
    network: Network,
    x: Any,
    y: Any,
    shape: tuple[int, int] | None = None,
    *,
    class_names: Any = None,
    samples: int = 20,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw misclassified samples as images, the most confident mistakes first.

    Above each image are its true class, the predicted class, and the probability of the latter.

    Args:
        network: a network that predicts classes, on any device.
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets that are one class each, shape (N, O).
        shape: height and width of a sample as an image; None takes a square.
        class_names: a name for each class, a list or ``{label: name}``; None takes their
            numbers.
        samples: the largest number of samples to show.
        ax: where to draw; None opens a new figure.

    Returns:
        The Axes, with a single image that contains the grid. If no sample is misclassified, its
        title states that, and there is no image.

    Raises:
        ValueError: as for ``network.evaluate``; the outputs or targets are not classes; the shape
            does not fit the inputs, or none is given and they do not form a square; or names do not
            fit the classes.
        TypeError: it is not a network, or an argument has the wrong type.
        ImportError: matplotlib is not installed.
    """
    height, width = _image_shape(shape, check_network(network).sizes[0])
    samples = checks.check_integer(samples, "samples")
    names = _style.names_of_classes(class_names, max(2, network.sizes[-1]))
    x, true, told, p = judge(network, x, y)
    wrong = np.flatnonzero(told != true)
    confidence = p[wrong, told[wrong]]
    shown = wrong[np.argsort(-confidence, kind="stable")][:samples]
    if not len(shown):
        ax = _style.new_axes(ax, (5.0, 1.2))
        ax.set_axis_off()
        title = f"none of {len(true):,} samples is misclassified"
        ax.set_title(title, loc="left", fontsize="medium")
        return ax
    words = [
        f"{names[true[i]]}\n→ {names[told[i]]}  {_style.share(float(p[i, told[i]]))}" for i in shown
    ]
    letters = max(len(line) for text in words for line in text.split("\n"))
    grid = _Grid(len(shown), height, width, lines=2, letters=letters)
    ax = _style.new_axes(ax, grid.figure_size)
    grid.draw(ax, x[shown].astype(np.float64), cmap="gray_r")
    share = f"{len(wrong):,} of {len(true):,} samples ({len(wrong) / len(true):.2%})"
    title = f"misclassified: {share}\ntrue class → predicted, with its probability"
    ax.set_title(title, loc="left", fontsize="medium")
    grid.write(ax, words)
    return ax


def _image_shape(shape: Any, n_inputs: int) -> tuple[int, int]:
    """Return height and width of the inputs as an image."""
    if shape is None:
        side = math.isqrt(n_inputs)
        if side * side != n_inputs or side < 2:
            raise ValueError(
                f"{n_inputs} inputs do not form a square image: give its height and width, as in "
                f"{named('shape', (1, n_inputs))}."
            )
        return side, side
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise TypeError(f"{named('shape')} must be two numbers, height and width, not {shape!r}.")
    height, width = (checks.check_integer(n, f"shape[{i}]") for i, n in enumerate(shape))
    if height * width != n_inputs:
        raise ValueError(
            f"shape {height} × {width} has {height * width} pixels, but the network takes "
            f"{n_inputs} inputs."
        )
    return height, width


class _Grid:
    """Images of equal size in rows and columns, with words above each.

    Lengths are in pixels of the images.

    Args:
        n: the number of images.
        height: the height of each image.
        width: the width of each image.
        lines: the number of lines above an image.
        letters: the number of letters in the longest line.
    """

    _POINTS = 8.5  # the size of letters in a new figure

    def __init__(self, n: int, height: int, width: int, *, lines: int, letters: int) -> None:
        self.n, self.height, self.width = n, height, width
        self.lines, self.letters = lines, letters
        # The longer side of an image in a new figure: a few images are drawn larger than many.
        inches = max(0.95, 3.4 / math.ceil(math.sqrt(n)))
        self.pixel = inches / max(height, width)
        point = 1.0 / (72.0 * self.pixel)
        # The room that the words take in letters of the usual size.
        self.tall = height + max(1, round((1.25 * lines + 0.7) * self._POINTS * point))
        self.wide = max(
            width + max(1, round(6.0 * point)), round(0.62 * (letters + 1) * self._POINTS * point)
        )
        # About the number of columns that makes the grid a little wider than high, with few gaps.
        wanted = math.sqrt(1.3 * n * self.tall / self.wide)

        def misfit(columns: int) -> float:
            return -n % columns / n + abs(math.log(columns / wanted))

        self.columns = min(range(1, n + 1), key=misfit)
        self.rows = -(-n // self.columns)

    @property
    def figure_size(self) -> tuple[float, float]:
        """Width and height of a new figure, in inches."""
        wide, tall = self.columns * self.wide, self.rows * self.tall
        pixel = min(self.pixel, 14.0 / max(wide, tall))
        return max(5.0, wide * pixel + 1.0), tall * pixel + 0.6

    def corner(self, place: int) -> tuple[int, int]:
        """Return the row and the column of an image's first pixel."""
        row, column = divmod(place, self.columns)
        return (row + 1) * self.tall - self.height, column * self.wide

    def draw(self, ax: "Axes", images: np.ndarray, **options: Any) -> "AxesImage":
        """Draw images, shape (n, height · width), each with a thin frame."""
        from matplotlib.patches import Rectangle

        wide = (self.columns - 1) * self.wide + self.width
        whole = np.full((self.rows * self.tall, wide), np.nan)
        for place, pixels in enumerate(images):
            top, left = self.corner(place)
            whole[top : top + self.height, left : left + self.width] = pixels.reshape(
                self.height, self.width
            )
            frame = Rectangle((left - 0.5, top - 0.5), self.width, self.height, fill=False)
            frame.set(edgecolor="0.75", linewidth=0.5, clip_on=False)
            ax.add_patch(frame)
        ax.set_axis_off()
        ax.set_anchor("W")
        return ax.imshow(np.ma.masked_invalid(whole), interpolation="nearest", **options)

    def write(self, ax: "Axes", words: Sequence[str]) -> None:
        """Write above each image, in letters that fill the room."""
        high = (self.tall - self.height) / (1.25 * self.lines + 0.5)
        size = min(high, self.wide / (0.62 * (self.letters + 1)))
        for place, text in enumerate(words):
            top, left = self.corner(place)
            _style.write(
                ax,
                left - 0.5,
                top - 0.5 - 0.3 * size,
                text,
                height=size,
                largest=self._POINTS + 0.5,
                verticalalignment="bottom",
                linespacing=1.1,
            )
