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
    """Refuse a picture that can't be drawn or written, before any work is done.

    Raises:
        ValueError: its format is not known, or the file is one of the inputs.
        OSError: it can't be written.
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
    """Write the figure opened in this context to a file, which is replaced in a single step."""
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
    """Import matplotlib so that it opens no windows: the process belongs to this program."""
    # Child processes of a notebook inherit its MPLBACKEND, which matplotlib may refuse at import.
    os.environ["MPLBACKEND"] = "agg"
    matplotlib: Any = require("matplotlib", "plot")
    matplotlib.use("agg")
