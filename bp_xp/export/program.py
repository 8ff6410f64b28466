"""Networks and models of tables as one file of plain NumPy, to read and to run.

The lines of an activation come from the recorder. The texts around them are below: the chapter's
feedforward, the preparation of a table, and the reading of a CSV file.
"""

import base64
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp import __version__
from bp_xp.backends import to_numpy
from bp_xp.export import texts
from bp_xp.export.lines import lines_of
from bp_xp.export.parts import parts_of
from bp_xp.export.recording import record, recordable
from bp_xp.math import classes
from bp_xp.network import Network
from bp_xp.storage.files import replace_file
from bp_xp.tables import MISSING_WORDS, Preparation, TableModel
from bp_xp.tables.columns import label_of, none_if_missing
from bp_xp.tables.inputs import SMOOTH_LIMIT

__all__ = ["export_program"]


def export_program(model: Network | TableModel, path: str | os.PathLike[str]) -> Path:
    """Write a model as a Python file that predicts, and needs only NumPy.

    The file has ``predict`` and, if there are classes, ``predict_proba``. They take the same
    arguments as the model's methods: inputs of shape (N, I), or for a model of tables a mapping of
    names to columns. ``python FILE rows.csv`` writes predictions as CSV. The file contains the
    parameters, in base64.

    Args:
        model: on any device.
        path: the file, which ends in .py; an older one is replaced, in a single step.

    Returns:
        The path.

    Raises:
        ValueError: the name has another ending; or a user-defined activation uses operations that
            NumPy does not have; the message names it.
        OSError: it could not be written; an older file is left as it was.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise ValueError(f"{str(path)!r} must end in .py.")
    replace_file(path, _program(model).encode())
    return path


def _program(model: Network | TableModel) -> str:
    """Return the text of the file."""
    network, preparation = parts_of(model)
    sigmas = _Sigmas()
    layers = []
    for activation, (W, b), n_out in zip(
        network.model.activations, network.layers, network.sizes[1:], strict=True
    ):
        recording, (result,) = record(recordable(activation).sigma, "z", n_out, network.dtype)
        name = sigmas.add(activation.name, lines_of(recording, result))
        layers.append(f"    ({name}, {_array(to_numpy(W))}, {_array(to_numpy(b))}),\n")
    around = _of_table(preparation, network) if preparation is not None else _of_network(network)
    blocks = [
        around.head,
        *sigmas.texts,
        texts.FEEDFORWARD.format(I=network.sizes[0], O=network.sizes[-1]),
        *around.functions,
        texts.ARRAY,
        *around.learned,
        f"LAYERS = [  # σ, W of shape (O, I), b of shape (O,)\n{''.join(layers)}]\n",
        texts.RUN,
    ]
    return "\n\n".join(blocks)


class _Sigmas:
    """The activations of a program, each of them once.

    Attributes:
        texts: the text of their functions.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._names: dict[tuple[str, ...], str] = {}

    def add(self, name: str, lines: Sequence[str]) -> str:
        """Add an activation, and return the name of its function."""
        key = (name, *lines)
        if key not in self._names:
            called = "sigma_" + re.sub(r"\W", "_", name, flags=re.ASCII)
            while called in self._names.values():
                called += "_"
            self._names[key] = called
            self.texts.append(_function(called, "z", lines, "Return σ(z), of the shape of z."))
        return self._names[key]


def _function(name: str, argument: str, lines: Sequence[str], doc: str) -> str:
    """Return the text of a function."""
    body = "".join(f"    {line}\n" for line in lines)
    return f'def {name}({argument}):\n    """{doc}"""\n{body}'


def _array(values: np.ndarray) -> str:
    """Return the expression that gives an array: its bytes in base64, and its shape."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    text = base64.b64encode(little.tobytes()).decode()
    rows = "\n".join(text[i : i + 96] for i in range(0, len(text), 96))
    quoted = f'"""\n{rows}\n"""' if "\n" in rows else f'"{rows}"'
    return f'array("{little.dtype.str}", {quoted}, {", ".join(map(str, values.shape))})'


@dataclass(frozen=True)
class _Around:
    """The parts of the program around the layers.

    Attributes:
        introduction: the docstring of the file.
        modules: the modules of Python that it imports.
        functions: the functions after feedforward.
        learned: what was learned in addition to the parameters.
    """

    introduction: str
    modules: Sequence[str]
    functions: Sequence[str]
    learned: Sequence[str] = ()

    @property
    def head(self) -> str:
        """The beginning of the file."""
        imports = "".join(f"import {name}\n" for name in self.modules)
        introduction = self.introduction.replace("VERSION", __version__)
        return f"{introduction}\n{imports}\nimport numpy as np\n"


_DOCS = {
    classes.probabilities: "Return the probability of each class, shape (N, K), for outputs a.",
    classes.labels: "Return the class of each row, shape (N,), for outputs a.",
}


def _of_network(network: Network) -> _Around:
    """Return the parts around the layers of a network."""
    functions = []
    predicted = f"feedforward(np.asarray(x, np.{network.dtype}))"
    if network.classifies:
        for function in (classes.probabilities, classes.labels):
            recording, (result,) = record(function, "a", network.sizes[-1], network.dtype)
            lines = lines_of(recording, result)
            functions.append(_function(function.__name__, "a", lines, _DOCS[function]))
        functions += [texts.PREDICT_PROBA.format(dtype=network.dtype)]
        predicted = f"labels({predicted})"
    functions += [
        texts.PREDICT.format(predicted=predicted),
        texts.READ_NUMBERS,
        texts.MAIN_OF_CLASSES if network.classifies else texts.MAIN_OF_NUMBERS,
    ]
    return _Around(texts.INTRODUCTION_OF_NETWORK, ("base64", "csv", "sys"), functions)


def _of_table(preparation: Preparation, network: Network) -> _Around:
    """Return the parts around the layers of a model of tables."""
    targets, categories = preparation.targets, preparation.categories
    has_classes = targets.task != "regression"
    main = texts.TABLE_MAIN
    if has_classes:
        known = "CLASSES" if targets.classes else "TARGETS"
        main = texts.TABLE_MAIN_PROBA.replace("KNOWN", known)
    typed = any(each.holds in ("numbers", "truth values") for each in categories)
    functions = [
        _source(none_if_missing),
        *_columns(preparation),
        _inputs(preparation, network.dtype),
        texts.DECODE[targets.task],
        *([texts.TABLE_PROBA] if has_classes else []),
        texts.TABLE_PREDICT,
        *([texts.CATEGORY] if typed else []),
        texts.READ_TABLE.replace("TYPED", texts.TYPED_CATEGORIES if typed else ""),
        main,
    ]
    modules = ("base64", "csv", *(["numbers", "re"] if categories else []), "sys")
    return _Around(texts.INTRODUCTION_OF_TABLE, modules, functions, [_learned(preparation)])


def _source(function: Callable[..., Any]) -> str:
    """Return the text of a function, without types, which would need other imports."""
    return re.sub(r"\(value: Any\) -> \w+:", "(value):", inspect.getsource(function))


def _learned(preparation: Preparation) -> str:
    """Return what a preparation has learned, as assignments."""
    numbers, targets = preparation.numbers, preparation.targets
    flagged = np.flatnonzero(numbers.flagged).tolist()
    rows = [
        f"    ({name!r}, {is_date}, {median!r}, {center!r}, {scale!r}),\n"
        for name, is_date, median, center, scale in zip(
            numbers.names,
            numbers.dates,
            *(values.tolist() for values in (numbers.median, numbers.center, numbers.scale)),
            strict=True,
        )
    ]
    kinds = [
        f"    ({each.name!r}, {each.holds!r}, {list(each.labels)!r}, {each.other}, "
        f"{each.missing}),\n"
        for each in preparation.categories
    ]
    text = f"TARGETS = {list(targets.names)!r}\n"
    if targets.classes:
        text += f"CLASSES = {list(targets.classes)!r}\n"
    if targets.task == "regression":
        text += f"TARGET_CENTER = np.array({targets.center.tolist()!r})\n"
        text += f"TARGET_SCALE = np.array({targets.scale.tolist()!r})\n"
    if rows:
        text += "# The columns of numbers: name, whether it holds dates, median, center, scale\n"
        text += f"NUMBERS = [\n{''.join(rows)}]\n"
        text += f"FLAGGED = {flagged!r}  # those with a column for what is missing\n"
    if kinds:
        text += "# The columns of categories: name, what it holds, categories, whether there is a\n"
        text += f"# place for others, and one for missing ones\nCATEGORIES = [\n{''.join(kinds)}]\n"
    return text + f"MISSING_WORDS = {['', *MISSING_WORDS]!r}  # in a CSV file\n"


def _columns(preparation: Preparation) -> list[str]:
    """Return the functions that convert columns to inputs."""
    found = []
    if preparation.numbers.names:
        robust = f"    z = z / np.hypot(1.0, z / {SMOOTH_LIMIT})\n"
        is_robust = preparation.numbers.scaling == "robust"
        found += [texts.NUMBERS.replace("ROBUST", robust if is_robust else "")]
    if preparation.categories:
        found += [_source(label_of), texts.PLACES]
    return found


def _inputs(preparation: Preparation, dtype: str) -> str:
    parts = ["scaled_numbers(table)"] if preparation.numbers.names else []
    parts += ["*(places(table, *each) for each in CATEGORIES)"] if preparation.categories else []
    return texts.INPUTS.format(parts=", ".join(parts), dtype=dtype)
