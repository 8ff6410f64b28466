"""How the documentation is built: ``ci/docs`` calls Sphinx with this."""

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # this folder's modules, and bp_xp as it is here

import _examples  # noqa: E402
import _reference  # noqa: E402

import bp_xp  # noqa: E402

project = "bp_xp"
author = copyright = "The bp_xp developers"
version = release = bp_xp.__version__

extensions = [
    "myst_nb",  # pages and the notebook; it brings myst_parser
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "_examples",
    "_reference",
]
exclude_patterns = ["_build", "gallery/*.ipynb"]  # sphinx-gallery offers them as downloads
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"bp_xp {version}"
smartquotes = False  # --device stays what people type
nitpicky = True
nitpick_ignore_regex = _reference.NO_ENTRY

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# The notebook is run in each build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field of a NamedTuple is described once
autosummary_context = {"bases": _reference.BASES}

# Examples run without MNIST, wherever they are built: this folder holds none.
os.environ["BP_XP_DATA_DIR"] = tempfile.mkdtemp(prefix="bp_xp-docs-")
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": _examples.RUN,
    "reset_argv": "_examples.arguments",
    "image_scrapers": ("_examples.drawn_files",),
    "capture_repr": (),
    "show_memory": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "abort_on_example_error": True,
}
