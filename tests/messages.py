"""What a message advises, held against what its reader can do.

A message of a command may name flags, files and commands; one of a function, its arguments. Which
words are names of arguments is known by reflection: the parameters of all functions of bp_xp.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import bp_xp
from bp_xp import ACTIVATIONS, COSTS, METRICS
from bp_xp.backends import LIBRARIES
from bp_xp.cli import main
from bp_xp.cli.sweep import KEYS
from bp_xp.training.history import EpochRecord

# What a user knows without calling anything: names to choose from, values of a record, members of
# an archive, and the letters of a shape.
_VOCABULARY = {
    *(*ACTIVATIONS, *COSTS, *METRICS, *LIBRARIES, *EpochRecord._fields, "bp_xp"),
    *(f"{letter}_{part}" for letter in "xy" for part in ("train", "test", "validation")),
    *("n_samples", "n_features", "n_outputs"),
}
_WORD = re.compile(r"\b[a-z]\w*\b")
_FILE = re.compile(r"[\w./-]*\w\.(?:csv|npy|npz|toml|safetensors|png|svg|pdf|gz)\b")


def _parameters() -> set[str]:
    """Return the names of all parameters and fields in bp_xp."""
    found = set()
    for path in Path(bp_xp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.ClassDef):
                fields = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
                found |= {field.id for field in fields if isinstance(field, ast.Name)}
    return found - {"a", "one", "it"}  # which are English as well


PARAMETERS = _parameters()


def strange_to_command(command: str, arguments: list[str], message: str) -> list[str]:
    """Return the words of a command's message that name nothing that its user could type.

    Args:
        command: its name; empty for the program itself.
        arguments: what was typed after it.
        message: one line, without "error: ".
    """
    typed = " ".join(arguments)
    text = _without_quotations(_without_calls_of_others(message))
    strange = [
        f"bp-xp {name}"
        for name in re.findall(r"(?<!of )(?<!which )bp-xp (\w+)", text)
        if not _is_name(name)
    ]
    for before, flag in re.findall(r"(?:\b(\w+) )?(--[a-z][\w-]*)", text):
        if flag not in _flags(before if _is_name(before) else command):
            strange.append(flag)
    strange += [file for file in _FILE.findall(text) if not (file in typed or _may_be(Path(file)))]
    plain = re.sub(r"--[a-z][\w-]*", "--", _FILE.sub("", text))
    # To pass and to raise something is what is done with arguments.
    strange += re.findall(r"\b(?:pass|raise) (?!--)\S+ \S+", plain)
    members = {"x", "y"} if ".npz" in typed else set()  # of an archive, as the help says
    if ".toml" in message:  # what a file of settings holds
        members |= {option.name for option in main.commands[command].params}
    if command == "sweep":  # what its file holds
        members |= KEYS
    return strange + [
        name
        for name in _names_of_arguments(plain)
        if name not in typed and name.removeprefix("validation_") not in _VOCABULARY | members
    ]


def _may_be(file: Path) -> bool:
    """Return whether a file is there, or its folder is, which then is named with it."""
    return file.exists() or (len(file.parts) > 1 and file.parent.exists())


def _is_name(word: str) -> bool:
    return word in main.commands


def _flags(command: str) -> set[str]:
    known = {"--help", "--version"}
    parameters = main.commands[command].params if command else []
    return known.union(*(one.opts + one.secondary_opts for one in parameters))


def strange_to_function(function: Callable, message: str) -> list[str]:
    """Return the words of a message that are arguments, but not of the function that was called."""
    known = _known_to(function)
    text = _without_quotations(_without_calls_of_others(re.sub(r"\S*/\S*", "", message)))
    # What is said of another function of bp_xp, with its name, is an argument of that.
    for name in re.findall(r"\b(\w+)\(", text):
        known |= _known_to(getattr(bp_xp, name, None)) if hasattr(bp_xp, name) else set()
    if "make the network with" in text or "need a network with" in text:
        known |= _known_to(bp_xp.Network)
    strange = [flag for flag in re.findall(r"(?<!\w)--[a-z]\S*", text) if "bp-xp" not in text]
    return strange + [name for name in _names_of_arguments(text) if name not in known | _VOCABULARY]


def _known_to(function: Callable | None) -> set[str]:
    if function is None:
        return set()
    names = set(inspect.signature(function).parameters)
    # Fields of Regularization are taken by name.
    return names | (_known_to(bp_xp.Regularization) if "terms" in names else set())


def _names_of_arguments(text: str) -> Iterator[str]:
    """Yield the words of a text that can only be names of arguments."""
    assigned = set(re.findall(r"\b([a-z]\w*)=", text))
    subjects = set(
        re.findall(r"(?:^|[:;] )([a-z]\w*)(?:\[.*?\])? (?:must|has|goes|contains)", text)
    )
    passed = set(re.findall(r"\b(?:pass|raise|use) ([a-z]\w*)\b", text))
    for word in dict.fromkeys(_WORD.findall(text)):
        says_so = word in assigned or "_" in word.strip("_")
        if says_so or (word in PARAMETERS and word in subjects | passed):
            yield word


def _without_quotations(text: str) -> str:
    return re.sub(r"(?<!\w)'[^']*'|\"[^\"]*\"", "''", text)  # "can't" begins none


def _without_calls_of_others(text: str) -> str:
    """Return a text without the calls in it of functions of NumPy, which exist."""
    for call in re.findall(r"\bnumpy\.(\w+)", text):
        assert hasattr(importlib.import_module("numpy"), call)
    return re.sub(r"\bnumpy\.\w+(?:\([^)]*\))?", "", text)


def lines_of_errors(stderr: str) -> Iterator[str]:
    """Yield the errors and warnings of a command without their marks."""
    for line in stderr.splitlines():
        mark, _, message = line.partition(": ")
        if mark in ("error", "warning", "Error"):
            yield message
