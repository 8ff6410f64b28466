"""Text that fits what it is written on. This module needs matplotlib to be imported."""

from typing import Any

from matplotlib.text import Text

__all__ = ["FittedText"]


class FittedText(Text):
    """Text whose letters keep their size against the picture, however large that is drawn.

    Args:
        x: where it is, in data units.
        y: likewise.
        text: the words.
        height: the size of the letters, in data units of the y axis.
        largest: what it is at most, in points (1/72 inch).
        smallest: what it is at least; smaller letters can't be read, and are left out.
        options: those of matplotlib's Text.
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
        """Draw it in the size that it must have here."""
        assert self.axes is not None  # nothing else draws it
        ends = self.axes.transData.transform([(0.0, 0.0), (0.0, self._height)])
        points = 72.0 / self.axes.figure.dpi * abs(ends[1, 1] - ends[0, 1])
        size = min(self._largest, points)
        if size >= self._smallest:
            self.set_fontsize(size)
            super().draw(renderer)
