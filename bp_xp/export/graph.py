"""A graph of ONNX under construction: names, constants and nodes."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from bp_xp._optional import require

__all__ = ["OPSET", "Graph"]

OPSET = 19
"""The version of the operators: the first one that compares text."""

_IR_VERSION = 9
"""The file format version that came with it: older runtimes refuse later versions."""


class Graph:
    """A graph of ONNX, built node by node. Results are identified by their names.

    Args:
        description: what the graph is.
        inputs: the names of all inputs that will be added, so that nothing else gets these names.
        outputs: the names of the outputs; "predicted" is put before a name that an input has.

    Raises:
        ImportError: onnx is not installed.
    """

    def __init__(self, description: str, inputs: Collection[str], outputs: Iterable[str]) -> None:
        self.onnx: Any = require("onnx", "onnx")
        self._helper: Any = require("onnx.helper", "onnx")
        self._description = description
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._names = set(inputs)
        self._called: dict[str, str] = {}
        for name in outputs:
            called = name
            while called in self._names:
                called = f"predicted {called}"
            self._called[name] = called
            self._names.add(called)

    def input(self, name: str, dtype: Any, n_columns: int, doc: str) -> str:
        """Add an input of shape (N, columns), and return its name.

        Raises:
            ValueError: the name is empty, which ONNX does not allow.
        """
        if not name:
            raise ValueError("a column without a name can't be an input in ONNX: name it.")
        self._inputs.append(self._told(name, dtype, ["N", n_columns], doc))
        return name

    def output(self, of: str, name: str, dtype: Any, n_columns: int | None, doc: str) -> None:
        """Add an output.

        Args:
            of: the name of the result to output.
            name: one of the names of outputs.
            dtype: its dtype.
            n_columns: its number of columns; None for shape (N,).
            doc: a description.
        """
        name = self._called[name]
        self._nodes.append(self._helper.make_node("Identity", [of], [name]))
        shape = ["N"] if n_columns is None else ["N", n_columns]
        self._outputs.append(self._told(name, dtype, shape, doc))

    def constant(self, values: Any, dtype: Any = None, *, name: str = "c") -> str:
        """Add a constant, and return its name: the given one, or a similar one."""
        array = np.asarray(values, dtype)
        name = self._free(name)
        if array.dtype.kind in "OU":
            text = [str(value).encode() for value in array.ravel()]
            kind = self.onnx.TensorProto.STRING
            self._constants.append(self._helper.make_tensor(name, kind, array.shape, text))
        else:
            helper: Any = require("onnx.numpy_helper", "onnx")
            self._constants.append(helper.from_array(np.array(array, order="C"), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its result."""
        name = self._free("t")
        self._nodes.append(self._helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def cast(self, of: str, dtype: Any) -> str:
        """Add a conversion to a dtype."""
        return self.add("Cast", of, to=self._kind(dtype))

    def model(self, version: str) -> Any:
        """Return the finished model, after onnx's own checks.

        Args:
            version: the version of bp_xp, for the file.
        """
        made = self._helper.make_graph(
            self._nodes,
            "network",
            self._inputs,
            self._outputs,
            self._constants,
            doc_string=self._description,
        )
        opset = self._helper.make_opsetid("", OPSET)
        model = self._helper.make_model(
            made,
            opset_imports=[opset],
            ir_version=_IR_VERSION,
            producer_name="bp_xp",
            producer_version=version,
        )
        self.onnx.checker.check_model(model)
        return model

    def _free(self, name: str) -> str:
        """Return a name that is not in use."""
        free, number = name, 0
        while free in self._names:
            number += 1
            free = f"{name}{number}"
        self._names.add(free)
        return free

    def _kind(self, dtype: Any) -> int:
        if np.dtype(dtype).kind in "OU":
            return self.onnx.TensorProto.STRING
        return self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def _told(self, name: str, dtype: Any, shape: list[Any], doc: str) -> Any:
        return self._helper.make_tensor_value_info(name, self._kind(dtype), shape, doc)
