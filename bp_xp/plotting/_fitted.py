"""Text that fits the place that it is written in. Importing this module needs matplotlib."""

from typing import Any

from matplotlib.text import Text

__all__ = ["FittedText"]


class FittedText(Text):
    """Text whose letters scale with the picture, whatever its size.

    Args:
        x: the horizontal position, in data units.
        y: the vertical position, in data units.
        text: the words.
        height: the size of the letters, in data units of the y axis.
        largest: the largest size, in points (1/72 inch).
        smallest: the smallest size, in points; smaller letters can't be read, and are left out.
        options: the options of matplotlib's Text.
    """

    def __init__(
        self,
        x: float,
        y: float,
        text: str,
        *,
        height: float,
        largest: float,
        smallest: float = 2.5,
        **options: Any,
    ) -> None:
        super().__init__(x, y, text, parse_math=False, clip_on=False, in_layout=False, **options)
        self._height, self._largest, self._smallest = height, largest, smallest

    def draw(self, renderer: Any) -> None:
        """Draw the text in the size that fits here."""
        assert self.axes is not None  # nothing else draws it
        ends = self.axes.transData.transform([(0.0, 0.0), (0.0, self._height)])
        points = 72.0 / self.axes.figure.dpi * abs(ends[1, 1] - ends[0, 1])
        size = min(self._largest, points)
        if size >= self._smallest:
            self.set_fontsize(size)
            super().draw(renderer)
