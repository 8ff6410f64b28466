"""Pictures in files."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_xp._optional import require
from bp_xp.cli._data import check_output
from bp_xp.storage.files import check_replaceable, replace_file

__all__ = ["check_picture", "drawing", "has_matplotlib"]

_FORMATS = (".png", ".svg", ".pdf")


def check_picture(path: Path, *inputs: str | Path, name: str = "--output") -> None:
    """Refuse a picture that could not be drawn or written, before there is anything to lose.

    Raises:
        ValueError: its format is not known, or the file is one of the inputs.
        OSError: it could not be written.
        ImportError: matplotlib is not installed.
    """
    if path.suffix.lower() not in _FORMATS:
        formats = f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise ValueError(f"{name} {path} must end in {formats}: that is the format of the picture.")
    check_output(path, *inputs, name=name)
    check_replaceable(path)
    _matplotlib()


@contextlib.contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Write the figure that is opened in this context to a file, which is replaced at once."""
    _matplotlib()
    from matplotlib import pyplot

    try:
        yield
        content = io.BytesIO()
        pyplot.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    finally:
        pyplot.close()
    replace_file(path, content.getvalue())


def has_matplotlib() -> bool:
    """Return whether a picture can be drawn."""
    try:
        _matplotlib()
    except ImportError:
        return False
    return True


def _matplotlib() -> None:
    """Import matplotlib so that it opens no windows: the process is the program's own."""
    # A notebook tells its processes to draw into it, which matplotlib can refuse when imported.
    os.environ["MPLBACKEND"] = "agg"
    matplotlib: Any = require("matplotlib", "plot")
    matplotlib.use("agg")
