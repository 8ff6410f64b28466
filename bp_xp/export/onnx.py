"""Networks and models of tables as ONNX, for runtimes on phones, on servers and in browsers.

The recorder writes the graph (:mod:`bp_xp.export.recording`). The nodes before and after it in a
model of tables are in :mod:`bp_xp.export.columns`.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp import __version__
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import to_numpy
from bp_xp.export import columns
from bp_xp.export.graph import Graph
from bp_xp.export.operators import write_nodes
from bp_xp.export.parts import parts_of
from bp_xp.export.recording import record, recordable
from bp_xp.math import classes
from bp_xp.math.backprop import feedforward
from bp_xp.math.model import Model
from bp_xp.network import Network
from bp_xp.storage.files import replace_file
from bp_xp.tables import TableModel

__all__ = ["export_onnx", "onnx_inputs"]


def export_onnx(model: Network | TableModel, path: str | os.PathLike[str]) -> Path:
    """Write a model as ONNX.

    The graph of a network has the input ``inputs``, shape (N, I), in the network's dtype, and the
    output ``outputs``, shape (N, O). If the network classifies, the outputs ``label``, int64 of
    shape (N,), and ``probabilities``, shape (N, K), come first.

    The graph of a model of tables contains the preparation. It has an input of shape (N, 1) for
    each column that the model uses, by the column's name: float64 for numbers, NaN if missing, with
    dates as days since 1970, and true and false as 1 and 0; text for categories, empty if missing.
    The outputs depend on the task. For classes they are ``label``, the classes as in the table,
    shape (N,), and ``probabilities``, shape (N, K). For yes-or-no labels they are ``label`` of 0
    and 1, and ``probabilities``, both of shape (N, targets). For numbers there is an output with
    the name of each target, float64 of shape (N,), in its units. An output with the name of an
    input has "predicted" before its name. A value that :meth:`bp_xp.tables.TableModel.predict`
    refuses gives a meaningless number.

    Args:
        model: on any device.
        path: the file, which ends in .onnx; an older one is replaced, in a single step.

    Returns:
        The path.

    Raises:
        ImportError: onnx is not installed.
        ValueError: the name has another ending; or ONNX has no operator for a user-defined
            activation, which the message names.
        OSError: it could not be written; an older file is left as it was.

    References:
        ONNX operators, version 19, https://onnx.ai/onnx/operators/.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{str(path)!r} must end in .onnx.")
    network, preparation = parts_of(model)
    if preparation is not None:
        told = f"A multi-layer perceptron for a table: {preparation.targets}"
        outputs = columns.output_names(preparation.targets)
        graph = Graph(told, preparation.columns, outputs)
        inputs = graph.cast(columns.write_inputs(graph, preparation), network.dtype)
        found = _write_network(graph, network, inputs)
        columns.write_outputs(graph, preparation, found, network.dtype)
    else:
        told = f"A multi-layer perceptron of sizes {list(network.sizes)}."
        graph = Graph(told, ["inputs"], ["label", "probabilities", "outputs"])
        n_inputs, n_outputs = network.sizes[0], network.sizes[-1]
        inputs = graph.input("inputs", network.dtype, n_inputs, "a row for each sample")
        found = _write_network(graph, network, inputs)
        if network.classifies:
            graph.output(found["label"], "label", np.int64, None, "the class of each sample")
            given = found["probabilities"], "probabilities", network.dtype, max(2, n_outputs)
            graph.output(*given, "of each class")
        given = found["outputs"], "outputs", network.dtype, n_outputs
        graph.output(*given, "the activations of the output layer")
    replace_file(path, graph.model(__version__).SerializeToString())
    return path


def _write_network(graph: Graph, network: Network, inputs: str) -> dict[str, str]:
    """Write the forward pass as nodes.

    Returns:
        The names in the graph of ``"outputs"`` and, if the network classifies, ``"label"`` and
        ``"probabilities"``.
    """
    parameters = {
        f"{name}{l}": to_numpy(values)
        for l, layer in enumerate(network.layers, 1)  # noqa: E741
        for name, values in layer._asdict().items()
    }
    activations = tuple(map(recordable, network.model.activations))
    model = Model(network.sizes, activations, network.model.cost)

    def told(x: Array, *given: Array, xp: Namespace) -> tuple[Array, ...]:
        layers = [Layer(*pair) for pair in zip(given[::2], given[1::2], strict=True)]
        a = feedforward(model, layers, x, xp=xp)
        if not model.classifies:
            return (a,)
        return a, classes.labels(a, xp=xp), classes.probabilities(a, xp=xp)

    recording, results = record(told, "inputs", network.sizes[0], network.dtype, parameters)
    names = {name: graph.constant(values, name=name) for name, values in parameters.items()}
    found = write_nodes(graph, recording, results, names | {"inputs": inputs})
    return dict(zip(("outputs", "label", "probabilities"), found, strict=False))


def onnx_inputs(model: Network | TableModel, values: Any) -> dict[str, np.ndarray]:
    """Return the inputs of an exported model in the form that a runtime takes.

    Args:
        model: the model that was exported.
        values: inputs of shape (N, I) for a network; a table for a model of tables, as
            :meth:`bp_xp.tables.TableModel.predict` takes it.

    Returns:
        An array for each input, by its name, as described for :func:`export_onnx`.

    Raises:
        ValueError: a column is missing, or holds something other than in training.
    """
    network, preparation = parts_of(model)
    if preparation is not None:
        return columns.feed(preparation, values)
    return {"inputs": np.asarray(values, network.dtype)}
