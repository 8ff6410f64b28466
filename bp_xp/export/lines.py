"""A recording as lines of plain NumPy, for people to read."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bp_xp.export.recording import VIEW, Named, Operation, Recording

__all__ = ["lines_of"]

_SIGNS = {
    np.add: "+",
    np.subtract: "-",
    np.multiply: "*",
    np.divide: "/",
    np.matmul: "@",
    np.power: "**",
    np.greater: ">",
    np.greater_equal: ">=",
    np.less: "<",
    np.less_equal: "<=",
    np.equal: "==",
    np.not_equal: "!=",
    np.bitwise_and: "&",
    np.bitwise_or: "|",
}

_WIDEST = 80
"""A longer expression gets a line of its own."""


def lines_of(recording: Recording, result: str) -> list[str]:
    """Return the lines of code that compute and return a result.

    An expression used once is written where it is used; the others are named ``t1``, ``t2`` ...

    Args:
        recording: what was recorded.
        result: the name of the result.

    Raises:
        ValueError: a function is not one of NumPy's; the message names it.
    """
    operations = recording.live(result)
    uses = Counter(name for one in operations.values() for name in one.named)
    lines: list[str] = []
    texts = {name: name for name in recording.dtypes if name not in recording.operations}
    simple = set(texts)  # texts that need no parentheses
    for name, operation in operations.items():
        text, is_simple = _expression(operation, texts, simple)
        if name == result:
            return [*lines, f"return {text}"]
        if uses[name] > 1 or len(text) > _WIDEST:
            texts[name], is_simple = f"t{len(lines) + 1}", True
            lines.append(f"{texts[name]} = {text}")
        else:
            texts[name] = text
        if is_simple:
            simple.add(name)
    return [f"return {texts[result]}"]


def _expression(operation: Operation, texts: dict[str, str], simple: set[str]) -> tuple[str, bool]:
    """Return an operation as text, and whether it needs no parentheses in a larger one."""

    def operand(value: Any) -> str:
        text = _argument(value, texts)
        is_simple = value.name in simple if isinstance(value, Named) else text[0] != "-"
        return text if is_simple else f"({text})"

    function, inputs = operation.function, operation.inputs
    if function is VIEW:
        array, key = inputs
        return operand(array) + (".T" if key == "mT" else f"[{_key(key)}]"), True
    if function is np.astype:
        return f"{operand(inputs[0])}.astype({_dtype(operation.dtype)})", True
    if function in _SIGNS:
        return f" {_SIGNS[function]} ".join(map(operand, inputs)), False
    if function is np.negative:
        return f"-{operand(inputs[0])}", False
    name = function.__name__
    if getattr(np, name, None) is not function:
        raise ValueError(
            f"activation {operation.part!r} can't be exported: {name} is not a NumPy function."
        )
    given = [_argument(value, texts) for value in inputs]
    given += [f"{key}={_argument(value, texts)}" for key, value in operation.options.items()]
    return f"np.{name}({', '.join(given)})", True


def _argument(value: Any, texts: dict[str, str]) -> str:
    """Return an argument as text."""
    if isinstance(value, Named):
        return texts[value.name]
    if isinstance(value, tuple):
        items = ", ".join(_argument(one, texts) for one in value)
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, np.generic | np.ndarray):
        dtype = _dtype(value.dtype)
        if value.ndim:
            return f"np.array({_nested(value.tolist())}, {dtype})"
        return f"{dtype}({_nested(value.item())})"
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return _dtype(value)
    return _nested(value)


def _dtype(dtype: Any) -> str:
    """Return a dtype as text; older NumPys have no np.bool."""
    name = np.dtype(dtype).name
    return "np.bool_" if name == "bool" else f"np.{name}"


def _nested(value: Any) -> str:
    """Return numbers, in lists or not, as text."""
    if isinstance(value, list):
        return f"[{', '.join(map(_nested, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return "np.nan" if math.isnan(value) else "np.inf" if value > 0 else "-np.inf"
    return repr(value)


def _key(key: Any) -> str:
    """Return what indexes an array as text."""
    keys: Sequence[Any] = key if isinstance(key, tuple) else (key,)
    return ", ".join(map(_key_part, keys))


def _key_part(part: Any) -> str:
    if part is ...:
        return "..."
    if not isinstance(part, slice):
        return repr(part)
    ends = ["" if end is None else repr(end) for end in (part.start, part.stop)]
    return ":".join(ends if part.step is None else [*ends, repr(part.step)])
