"""The preparation of a table as nodes of ONNX: from columns to inputs, and back."""

from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np

from bp_xp.export.graph import Graph
from bp_xp.export.operators import hypot
from bp_xp.tables import Preparation
from bp_xp.tables.columns import as_columns, labels_of, numbers_of
from bp_xp.tables.inputs import SMOOTH_LIMIT, Categories, Numbers
from bp_xp.tables.preparation import select
from bp_xp.tables.targets import Targets

__all__ = ["feed", "output_names", "write_inputs", "write_outputs"]

_NUMBER = np.float64
_OF_NUMBERS = ("numbers", "truth values")
_TRUTH = {"true": 1.0, "false": 0.0}


def write_inputs(graph: Graph, preparation: Preparation) -> str:
    """Write the nodes that convert columns to numbers.

    Returns:
        The name of the inputs of the network, shape (N, features), float64.
    """
    parts = _numbers(graph, preparation.numbers) if preparation.numbers.names else []
    for each in preparation.categories:
        parts += _places(graph, each)
    return graph.add("Concat", *parts, axis=1)


def _numbers(graph: Graph, numbers: Numbers) -> list[str]:
    """Write scaling and imputing, with the same steps as :meth:`Numbers.apply`."""
    docs = [
        "days since 1970-01-01; NaN is missing" if is_date else "a number; NaN is missing"
        for is_date in numbers.dates
    ]
    names = [
        graph.input(name, _NUMBER, 1, doc) for name, doc in zip(numbers.names, docs, strict=True)
    ]
    x = graph.add("Concat", *names, axis=1)
    missing = graph.add("IsNaN", x)
    x = graph.add("Where", missing, graph.constant(numbers.median, name="median"), x)
    half = graph.add("Mul", x, graph.constant(0.5, _NUMBER))
    from_center = graph.add("Sub", half, graph.constant(numbers.center / 2, name="half center"))
    z = graph.add("Div", from_center, graph.constant(numbers.scale / 2, name="half scale"))
    if numbers.scaling == "robust":
        near = graph.add("Div", z, graph.constant(SMOOTH_LIMIT, _NUMBER))
        z = graph.add("Div", z, hypot(graph, graph.constant(1.0, _NUMBER), near, _NUMBER))
    if not any(numbers.flagged):
        return [z]
    flagged = graph.constant(np.flatnonzero(numbers.flagged), np.int64, name="flagged")
    return [z, graph.cast(graph.add("Gather", missing, flagged, axis=1), _NUMBER)]


def _places(graph: Graph, each: Categories) -> list[str]:
    """Write a column of 0 and 1 for each category, for rare and unseen, and for missing ones."""
    if each.holds in _OF_NUMBERS:
        kind, known = _NUMBER, [_as_number(label) for label in each.labels]
        doc = "a number" if each.holds == "numbers" else "1 is true, 0 is false"
        x = graph.input(each.name, kind, 1, f"{doc}; NaN is missing")
        missing = graph.add("IsNaN", x)
    else:
        kind, known, (word, _) = np.str_, list(each.labels), _words(each)
        x = graph.input(each.name, kind, 1, f"text; {word!r} is missing")
        missing = graph.add("Equal", x, graph.constant([[word]], kind))
    labels = np.array([known], kind).reshape(1, -1)
    place = graph.add("Equal", x, graph.constant(labels, name="categories"))
    parts = [graph.cast(place, _NUMBER)]
    is_missing = graph.cast(missing, _NUMBER)
    if each.other:
        axis = graph.constant([1], np.int64)
        known_ones = graph.add("ReduceSum", parts[0], axis, keepdims=1)
        left = graph.add("Sub", graph.constant(1.0, _NUMBER), known_ones)
        parts.append(graph.add("Sub", left, is_missing) if each.missing else left)
    return [*parts, is_missing] if each.missing else parts


def _as_number(label: str) -> float:
    """Return a category as a number if it is a number, true or false; others are infinite."""
    try:
        return _TRUTH[label] if label in _TRUTH else float(label)
    except ValueError:
        return np.inf


def _words(each: Categories) -> tuple[str, str]:
    """Return the text of a missing value, empty unless that is a category, and that of others."""
    free = (word for n in count() if (word := "?" * n) not in each.labels)
    return next(free), next(free)


def output_names(targets: Targets) -> tuple[str, ...]:
    """Return the names of the outputs."""
    return targets.names if targets.task == "regression" else ("label", "probabilities")


def write_outputs(
    graph: Graph, preparation: Preparation, found: Mapping[str, str], dtype: str
) -> None:
    """Write the nodes that convert outputs to classes and units, as :meth:`Targets.decode` does.

    Args:
        graph: the graph to write to.
        preparation: knows the classes and units.
        found: the names of a network's results: ``"outputs"``, and ``"label"`` if it classifies.
        dtype: the dtype of the outputs.
    """
    targets, outputs = preparation.targets, found["outputs"]
    names = ", ".join(targets.names)
    if targets.task == "regression":
        values = graph.cast(outputs, _NUMBER)
        values = graph.add("Mul", values, graph.constant(targets.scale, name="target scale"))
        values = graph.add("Add", values, graph.constant(targets.center, name="target center"))
        for i, name in enumerate(targets.names):
            column = graph.add("Gather", values, graph.constant(i, np.int64), axis=1)
            graph.output(column, name, _NUMBER, None, "in the units of the table")
        return
    if targets.task == "multilabel":
        above = graph.add("Greater", outputs, graph.constant(0.5, dtype))
        told = graph.cast(above, np.int64), "label", np.int64, targets.n_outputs
        graph.output(*told, f"0 or 1 for each of {names}")
    else:
        words = graph.constant(targets.class_values, name="classes")
        label = graph.add("Gather", words, found["label"])
        graph.output(label, "label", targets.class_values.dtype, None, names)
    known = targets.classes or targets.names
    doc = f"of {', '.join(map(str, known))}"
    graph.output(outputs, "probabilities", dtype, targets.n_outputs, doc)


def feed(preparation: Preparation, table: Any) -> dict[str, np.ndarray]:
    """Return the columns of a table as the inputs of an exported model: see ``onnx_inputs``."""
    columns = select(
        as_columns(table, preparation.text, only=preparation.columns),
        preparation.columns,
        "the model",
    )
    names = preparation.numbers.names
    given = {name: numbers_of(columns[name], name)[:, None] for name in names}
    for each in preparation.categories:
        labels = labels_of(columns[each.name])
        if each.holds in _OF_NUMBERS:
            found = [np.nan if label is None else _as_number(label) for label in labels]
            given[each.name] = np.array(found, _NUMBER)[:, None]
        else:
            word, other = _words(each)
            texts = [
                other if label == word else word if label is None else label for label in labels
            ]
            given[each.name] = np.array(texts, object)[:, None]
    return given
