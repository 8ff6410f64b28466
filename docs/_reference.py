"""The reference: docstrings as Sphinx wants them, and names that find their entries.

Docstrings are written to be read in the source. What reStructuredText would take for markup in a
formula is escaped here, once, and not in each of them.
"""

import re
import sys
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

BASES = "object, tuple, dict, Exception"
"""Classes whose members are not listed with those of a subclass."""

NO_ENTRY = [
    # Other projects and the standard library.
    ("py:.*", r"(collections|matplotlib|numpy|os|pathlib|sklearn|types|typing)\..*"),
    ("py:class", r"(Axes|Figure|SubFigure)"),  # matplotlib's
    # What is used by its public name alone, or within bp_xp: a path through a module inside a room.
    ("py:.*", r"bp_xp\.(?!book\.)[a-z_]+\.[a-z_0-9]+\.\w+"),
    ("py:.*", r"bp_xp\.(ensemble|ranks)\.\w+"),
]
"""Names that signatures and docstrings may say without a link."""

HAS_TYPE = re.compile(r"^( *)(Returns|Yields):\n(?=\1 )", re.MULTILINE)
LITERAL = re.compile(r"(``.*?``|^ *>>>.*?(?:\n\s*\n|\Z))", re.DOTALL | re.MULTILINE)
NOTHING = "\\ \n"  # what begins a line for napoleon, and leaves no trace


def prepare_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Make reStructuredText of a docstring, before napoleon reads it."""
    text = "\n".join(_comment_of(name, obj) if what == "data" else lines)
    parts = LITERAL.split(text)
    parts[::2] = [re.sub(r"(?<![\\|])\|", r"\\|", part) for part in parts[::2]]
    text = "\n\n".join(map(_formula, "".join(parts).split("\n\n")))
    # Annotations have the types: what is before a colon is the beginning of a sentence.
    text = HAS_TYPE.sub(lambda found: f"{found[0]}{found[1]}    {NOTHING}", text)
    if what in ("attribute", "data", "property") and ":" in text.partition("\n")[0]:
        text = NOTHING + text
    lines[:] = text.split("\n")


def _formula(paragraph: str) -> str:
    """Keep the lines of a formula of several lines apart."""
    lines = paragraph.split("\n")
    if len(lines) < 2 or not any(" ← " in line for line in lines):
        return paragraph
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(f"{line[:indent]}| {line[indent:]}" for line in lines)


def _comment_of(name: str, value: object) -> list[str]:
    """Return the docstring that follows a value, in whichever module gives it its name."""
    name = name.rpartition(".")[2]
    for module in [name for name in sys.modules if name.startswith("bp_xp")]:
        if getattr(sys.modules[module], name, None) is value:
            comments = ModuleAnalyzer.for_module(module).find_attr_docs()
            if ("", name) in comments:
                return comments["", name]
    return []


def skip_others(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what a class has from another project's, and fields, which Attributes tell of."""
    if type(obj).__name__ == "_tuplegetter":
        return True
    obj = getattr(obj, "fget", None) or getattr(obj, "__func__", obj)
    module = getattr(obj, "__module__", None) or "bp_xp"
    return None if module.startswith("bp_xp") else True


def find_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element
) -> nodes.Element | None:
    """Link a bare name, such as that of a function in the next room, if just one entry has it."""
    domain = env.domains.python_domain
    found = [
        full
        for full, entry in domain.objects.items()
        if full.rpartition(".")[2] == node["reftarget"] and not entry.aliased
    ]
    if node.get("refdomain") != PythonDomain.name or len(found) != 1:
        return None
    node["reftarget"] = found[0]
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], found[0], node, shown
    )


def set_dashes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Set a dash between a parameter and what it is; elsewhere, "--" begins an option."""
    for text in list(doctree.findall(lambda node: node == " -- ")):
        text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> None:
    """Let Sphinx call the functions above."""
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_others)
    app.connect("missing-reference", find_public)
    app.connect("doctree-resolved", set_dashes)
