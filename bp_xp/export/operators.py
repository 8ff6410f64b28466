"""A recording as nodes of ONNX: the operator for each function of NumPy."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bp_xp.export.graph import Graph
from bp_xp.export.recording import VIEW, Named, Operation, Recording

__all__ = ["hypot", "write_nodes"]

_OPERATORS: Mapping[Any, str] = {
    np.add: "Add",
    np.subtract: "Sub",
    np.multiply: "Mul",
    np.divide: "Div",
    np.matmul: "MatMul",
    np.power: "Pow",
    np.negative: "Neg",
    np.positive: "Identity",
    np.absolute: "Abs",
    np.sign: "Sign",
    np.reciprocal: "Reciprocal",
    np.sqrt: "Sqrt",
    np.exp: "Exp",
    np.log: "Log",
    np.sin: "Sin",
    np.cos: "Cos",
    np.tan: "Tan",
    np.arcsin: "Asin",
    np.arccos: "Acos",
    np.arctan: "Atan",
    np.sinh: "Sinh",
    np.cosh: "Cosh",
    np.tanh: "Tanh",
    np.arcsinh: "Asinh",
    np.arccosh: "Acosh",
    np.arctanh: "Atanh",
    np.floor: "Floor",
    np.ceil: "Ceil",
    np.rint: "Round",
    np.maximum: "Max",
    np.minimum: "Min",
    np.isnan: "IsNaN",
    np.greater: "Greater",
    np.greater_equal: "GreaterOrEqual",
    np.less: "Less",
    np.less_equal: "LessOrEqual",
    np.equal: "Equal",
}
_OF_TRUTH: Mapping[Any, str] = {
    np.logical_and: "And",
    np.logical_or: "Or",
    np.logical_xor: "Xor",
    np.logical_not: "Not",
    np.bitwise_and: "And",
    np.bitwise_or: "Or",
    np.bitwise_xor: "Xor",
    np.invert: "Not",
}
_REDUCTIONS: Mapping[Any, str] = {
    np.sum: "ReduceSum",
    np.mean: "ReduceMean",
    np.prod: "ReduceProd",
    np.max: "ReduceMax",
    np.min: "ReduceMin",
}
_PLACES: Mapping[Any, str] = {np.argmax: "ArgMax", np.argmin: "ArgMin"}
_FILLED: Mapping[Any, float] = {np.zeros_like: 0.0, np.ones_like: 1.0}


# ---------------------------------------------------------------------------------------------
# Functions that need several operators


def hypot(graph: Graph, x: str, y: str, dtype: Any) -> str:
    """Return √(x² + y²) without overflow: m √(1 + (n/m)²), where m is the larger of the two."""
    x, y = graph.add("Abs", x), graph.add("Abs", y)
    larger, smaller = graph.add("Max", x, y), graph.add("Min", x, y)
    # Two zeros have no quotient, so the divisor is at least the smallest number.
    least = graph.constant(np.finfo(dtype).tiny)
    ratio = graph.add("Div", smaller, graph.add("Max", larger, least))
    one = graph.constant(1.0, dtype)
    root = graph.add("Sqrt", graph.add("Add", one, graph.add("Mul", ratio, ratio)))
    return graph.add("Mul", larger, root)


def _square(graph: Graph, x: str, dtype: Any) -> str:
    return graph.add("Mul", x, x)


def _expm1(graph: Graph, x: str, dtype: Any) -> str:
    # eˣ − 1 = tanh(x/2) (eˣ + 1), which loses no digits near 0
    half = graph.add("Tanh", graph.add("Mul", x, graph.constant(0.5, dtype)))
    above = graph.add("Add", graph.add("Exp", x), graph.constant(1.0, dtype))
    return graph.add("Mul", half, above)


def _log1p(graph: Graph, x: str, dtype: Any) -> str:
    # log(1 + x) = x log(u)/(u − 1), where u is the rounded 1 + x, and x itself if u is 1
    # (Goldberg, What every computer scientist should know about floating-point arithmetic, 1991)
    one = graph.constant(1.0, dtype)
    u = graph.add("Add", one, x)
    above = graph.add("Sub", u, one)
    is_one = graph.add("Equal", u, one)
    divisor = graph.add("Where", is_one, one, above)
    quotient = graph.add("Div", graph.add("Mul", x, graph.add("Log", u)), divisor)
    return graph.add("Where", is_one, x, quotient)


def _exp2(graph: Graph, x: str, dtype: Any) -> str:
    return graph.add("Pow", graph.constant(2.0, dtype), x)


def _log2(graph: Graph, x: str, dtype: Any) -> str:
    return graph.add("Mul", graph.add("Log", x), graph.constant(1.0 / math.log(2.0), dtype))


def _not_equal(graph: Graph, x: str, y: str, dtype: Any) -> str:
    return graph.add("Not", graph.add("Equal", x, y))


def _logaddexp(graph: Graph, x: str, y: str, dtype: Any) -> str:
    # the larger + log(1 + e^−|x − y|)
    distance = graph.add("Abs", graph.add("Sub", x, y))
    tail = _log1p(graph, graph.add("Exp", graph.add("Neg", distance)), dtype)
    return graph.add("Add", graph.add("Max", x, y), tail)


_COMPOSED: Mapping[Any, Callable[..., str]] = {
    np.square: _square,
    np.expm1: _expm1,
    np.log1p: _log1p,
    np.exp2: _exp2,
    np.log2: _log2,
    np.not_equal: _not_equal,
    np.logaddexp: _logaddexp,
    np.hypot: hypot,
}


# ---------------------------------------------------------------------------------------------
# One operation after the other


def write_nodes(
    graph: Graph, recording: Recording, results: Sequence[str], names: Mapping[str, str]
) -> list[str]:
    """Write the operations that results need as nodes.

    Args:
        graph: the graph to write to.
        recording: what was recorded.
        results: the names of the results in the recording.
        names: the names of its arguments in the graph.

    Returns:
        The names of the results in the graph.

    Raises:
        ValueError: an operation has no counterpart in ONNX; the message names it and the
            activation.
    """
    writer = _Writer(graph, recording, names)
    for name, operation in recording.live(*results).items():
        writer.names[name] = writer.write(operation)
    return [writer.names[name] for name in results]


class _Writer:
    """Writes operations as nodes, and knows the names of results in the graph."""

    def __init__(self, graph: Graph, recording: Recording, names: Mapping[str, str]) -> None:
        self.graph, self.names = graph, dict(names)
        self.dtypes, self.ndims = recording.dtypes, recording.ndims

    def write(self, operation: Operation) -> str:
        """Write one operation, and return the name of its result."""
        function, inputs = operation.function, operation.inputs
        if function is VIEW:
            return self.view(*inputs)
        if isinstance(function, np.ufunc):
            return self.ufunc(operation)
        if function is np.astype:
            return self.given(inputs[0], operation.dtype)
        if function is np.where and len(inputs) == 3:
            chosen = (self.given(one, operation.dtype) for one in inputs[1:])
            return self.graph.add("Where", self.given(inputs[0], np.bool_), *chosen)
        if function is np.concatenate:
            arrays, *axis = inputs
            parts = [self.given(one, operation.dtype) for one in arrays]
            axis = axis[0] if axis else operation.options.get("axis", 0)
            return self.graph.add("Concat", *parts, axis=axis)
        if function in _REDUCTIONS or function in _PLACES:
            return self.reduction(operation)
        if function in _FILLED and not operation.options:
            shape = self.graph.add("Shape", self.given(inputs[0]))
            return self.graph.add(
                "Expand", self.graph.constant(_FILLED[function], operation.dtype), shape
            )
        if function is np.clip:
            return self.clip(operation)
        raise _no_counterpart(operation)

    def ufunc(self, operation: Operation) -> str:
        """Write an elementwise function or a product, with arguments of the same dtype."""
        ufunc, dtype = operation.function, operation.dtype
        if ufunc in _OF_TRUTH and dtype.kind == "b":
            parts = [self.given(one, dtype) for one in operation.inputs]
            return self.graph.add(_OF_TRUTH[ufunc], *parts)
        if dtype.kind == "b":  # a comparison
            dtype = np.result_type(*map(self.kind_of, operation.inputs))
        parts = [self.given(one, dtype) for one in operation.inputs]
        if ufunc in _COMPOSED:
            return _COMPOSED[ufunc](self.graph, *parts, dtype)
        if ufunc in _OPERATORS:
            return self.graph.add(_OPERATORS[ufunc], *parts)
        raise _no_counterpart(operation)

    def reduction(self, operation: Operation) -> str:
        """Write a sum, a mean, or a largest entry or its position, along axes."""
        function = operation.function
        bound = inspect.signature(function).bind(*operation.inputs, **operation.options).arguments
        if set(bound) - {"a", "axis", "keepdims"}:
            raise _no_counterpart(operation)
        axis, keep = bound.get("axis"), int(bound.get("keepdims", False))
        if function in _PLACES:
            if axis is None:
                raise _no_counterpart(operation)
            values = self.given(bound["a"])
            return self.graph.add(_PLACES[function], values, axis=axis, keepdims=keep)
        parts = [self.given(bound["a"], operation.dtype)]
        if axis is not None:
            parts.append(self.whole_numbers(*np.atleast_1d(axis)))
        return self.graph.add(_REDUCTIONS[function], *parts, keepdims=keep)

    def clip(self, operation: Operation) -> str:
        """Write the clipping of entries."""
        bound = inspect.signature(np.clip).bind(*operation.inputs, **operation.options).arguments
        if set(bound) - {"a", "a_min", "a_max", "min", "max"}:
            raise _no_counterpart(operation)
        result = self.given(bound["a"], operation.dtype)
        for operator, names in (("Max", ("a_min", "min")), ("Min", ("a_max", "max"))):
            for limit in (bound[name] for name in names if bound.get(name) is not None):
                result = self.graph.add(operator, result, self.given(limit, operation.dtype))
        return result

    def view(self, array: Named, key: Any) -> str:
        """Write the part of an array that a key selects."""
        graph, result = self.graph, self.names[array.name]
        if key == "mT":
            return graph.add("Transpose", result, perm=[1, 0])
        keys = list(key) if isinstance(key, tuple) else [key]
        ellipsis = keys.index(...) if ... in keys else len(keys)
        n_given = sum(one is not None and one is not ... for one in keys)
        whole = [slice(None)] * (self.ndims[array.name] - n_given)
        keys[ellipsis : ellipsis + 1] = whole
        taken = [one for one in keys if one is not None]
        for axis, one in enumerate(taken):
            if isinstance(one, slice) and one != slice(None):
                last = 2**62 if one.stop is None else one.stop
                ends = (one.start or 0, last, axis, 1 if one.step is None else one.step)
                result = graph.add("Slice", result, *(self.whole_numbers(end) for end in ends))
        for axis, one in reversed([*enumerate(taken)]):
            if isinstance(one, int):
                index = graph.constant(one, np.int64)
                result = graph.add("Gather", result, index, axis=axis)
        left = [one for one in keys if not isinstance(one, int)]
        if None in left:
            new = [axis for axis, one in enumerate(left) if one is None]
            result = graph.add("Unsqueeze", result, self.whole_numbers(*new))
        return result

    def whole_numbers(self, *values: int) -> str:
        """Return the name of a constant that is a list of whole numbers."""
        return self.graph.constant(values, np.int64)

    def kind_of(self, value: Any) -> Any:
        """Return an array with the dtype of an argument."""
        return self.dtypes[value.name] if isinstance(value, Named) else value

    def given(self, value: Any, dtype: Any = None) -> str:
        """Return the name of an argument, after a conversion if needed."""
        if not isinstance(value, Named):
            return self.graph.constant(value, dtype)
        name = self.names[value.name]
        if dtype is None or self.dtypes[value.name] == np.dtype(dtype):
            return name
        return self.graph.cast(name, dtype)


def _no_counterpart(operation: Operation) -> ValueError:
    name = getattr(operation.function, "__name__", operation.function)
    return ValueError(
        f"activation {operation.part!r} can't be written in ONNX, which has no operator for "
        f"{name} with these arguments: export a .py file, which takes every function of NumPy."
    )
