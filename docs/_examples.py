"""The gallery: which examples run, with which arguments, and what becomes of what they print.

Examples are scripts with a plain docstring, and draw to the file that ``--plot`` names. That is how
people use them, so the gallery adapts to them.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from sphinx.application import Sphinx
from sphinx_gallery.scrapers import figure_rst

PICTURE = "picture.png"

ARGUMENTS = {
    "book_network": ["--epochs", "3"],
    "deep_ensemble": ["--members", "5", "--epochs", "10", "--plot", PICTURE],
    "deep_relu_classifier": ["--iterations", "301"],
    "four_equations": ["--widths", "4", "32", "--plot", PICTURE],
    "glass_box": ["--epochs", "3", "--plot", PICTURE],
    "logical_not": ["--steps", "20000"],
    "matrix_minibatch": ["--batch-sizes", "10", "100", "--repeats", "3"],
    "spread_of_seeds": ["--seeds", "10", "--epochs", "3", "--plot", PICTURE],
    "swap_the_import": [],
    "sweep_heat_map": ["--values", "4", "--folds", "2", "--epochs", "5", "--plot", PICTURE],
}
"""Small arguments of the examples that run. The others need MNIST, and are shown."""

RUN = rf"/({'|'.join(ARGUMENTS)})\.py$"


def arguments(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Return the command line of an example."""
    return ARGUMENTS[Path(script_vars["src_file"]).stem]


def drawn_files(
    block: tuple, block_vars: dict[str, Any], gallery_conf: dict[str, Any], **options: object
) -> str:
    """Take the picture that an example has drawn, and return the markup that shows it."""
    pyplot.close("all")  # a script leaves its figures to its end, and the next one has the process
    drawn = Path(block_vars["src_file"]).with_name(PICTURE)
    if not drawn.exists():
        return ""
    shown = next(block_vars["image_path_iterator"])
    shutil.move(drawn, shown)
    return figure_rst([shown], gallery_conf["src_dir"], Path(block_vars["src_file"]).stem)


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make headings of an example's first line and of the Markdown headings of its cells."""
    if not docname.startswith("gallery/") or docname.endswith("/index"):
        return
    page = source[0]
    # Outside of code, "|" is a letter; alone on a line, it is a space that the gallery adds.
    page = re.sub(r"^(?!\.\. | |\|$).*", lambda line: line[0].replace("|", r"\|"), page, flags=re.M)
    page = re.sub(
        r"(?<=\n\n)(\.\. _sphx_glr_gallery_\w+\.py:\n\n)(.+?)\.?\n",
        lambda found: f"{found[1]}{found[2]}\n{'=' * len(found[2])}\n",
        page,
    )
    page = re.sub(r"^# (.+)$", lambda line: f"{line[1]}\n{'-' * len(line[1])}\n", page, flags=re.M)
    # Commands and tables after a colon keep their lines.
    source[0] = re.sub(r"(?<!:)(:\n)(\n    [^ .])", r"\1\n::\n\2", page)


def setup(app: Sphinx) -> None:
    """Let Sphinx call the functions above."""
    app.connect("source-read", read_page)
