"""A step as a list of operations on numbers, from which a kernel is written.

Each :class:`Operation` defines every entry of its result: an expression of entries of other arrays,
or a sum of such expressions. Arrays are views of buffers, with an offset and strides, so that a
transposed matrix, a slice or a broadcast bias only differ in their strides. The step is recorded
with NumPy on copies (:mod:`bp_xp.engines.recorder`), which also gives the strides.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bp_xp._trees import leaves_of
from bp_xp.engines.engine import Step
from bp_xp.engines.recorder import Recorded, all_recorded, record, value_of
from bp_xp.engines.replay import CannotRecordError

__all__ = ["C_TYPES", "PRODUCT", "SUM", "Operation", "OperationList", "View", "list_operations"]

C_TYPES: Mapping[str, str] = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
    "bool": "bool",
}
"""The C names of the dtypes that a kernel computes in."""


@dataclass(frozen=True)
class View:
    """An array as entries of a buffer: entry (i, j, ...) is number offset + i·strides[0] + ...

    Attributes:
        buffer: the name of the buffer.
        dtype: the name of its dtype.
        offset: the number of the first entry.
        shape: the extents.
        strides: from one entry to the next along each axis, in entries; 0 where it is broadcast.
    """

    buffer: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Operation:
    """The definition of each entry of a result.

    Attributes:
        out: the result, with an axis for each index that runs over entries.
        inputs: its inputs: views of shape (*out.shape, *reduced), or numbers as text.
        expression: the entry in C, as a format string for the inputs.
        combine: how two terms are combined over the axes of ``reduced``, in C, as a format string
            for both; empty if there are no such axes.
        reduced: the extents of the axes that are summed, or whose largest or smallest entry is
            taken.
    """

    out: View
    inputs: tuple["View | str", ...]
    expression: str
    combine: str = ""
    reduced: tuple[int, ...] = ()

    @property
    def views(self) -> list[View]:
        """The inputs that are views."""
        return [one for one in self.inputs if isinstance(one, View)]

    @property
    def size(self) -> int:
        """The number of times that the expression is computed."""
        return math.prod(self.out.shape) * math.prod(self.reduced)


@dataclass(frozen=True)
class OperationList:
    """A step, as operations in their order.

    The first letter of a buffer's name shows its kind: ``s0``, ``s1`` ... are the leaves of the
    state, ``x0``, ``x1`` ... the parts of a mini-batch, ``c0`` ... constants, ``t0`` ...
    temporaries, and ``z`` is zᴸ.

    Attributes:
        operations: the operations.
        constants: the values of each constant.
        sizes: the number of entries of each buffer.
        dtypes: the name of the dtype of each.
        z_shape: the shape of zᴸ.
    """

    operations: list[Operation]
    constants: dict[str, np.ndarray]
    sizes: dict[str, int]
    dtypes: dict[str, str]
    z_shape: tuple[int, ...]


# ---------------------------------------------------------------------------------------------
# Elementwise functions in C, with the arguments cast to the type that NumPy computes in

# A maximum with a NaN is NaN, as in NumPy; fmax would ignore the NaN.
_EXPRESSIONS: Mapping[np.ufunc, str] = {
    np.add: "{0} + {1}",
    np.subtract: "{0} - {1}",
    np.multiply: "{0} * {1}",
    np.divide: "{0} / {1}",
    np.negative: "-{0}",
    np.positive: "{0}",
    np.square: "{0} * {0}",
    np.reciprocal: "1 / {0}",
    np.absolute: "fabs({0})",
    np.sign: "({0} > 0 ? 1 : {0} < 0 ? -1 : {0})",
    np.maximum: "({0} >= {1} || {0} != {0} ? {0} : {1})",
    np.minimum: "({0} <= {1} || {0} != {0} ? {0} : {1})",
    np.greater: "{0} > {1}",
    np.greater_equal: "{0} >= {1}",
    np.less: "{0} < {1}",
    np.less_equal: "{0} <= {1}",
    np.equal: "{0} == {1}",
    np.not_equal: "{0} != {1}",
    np.logical_and: "{0} && {1}",
    np.logical_or: "{0} || {1}",
    np.logical_not: "!{0}",
    np.bitwise_and: "{0} & {1}",
    np.bitwise_or: "{0} | {1}",
    np.bitwise_xor: "{0} ^ {1}",
    np.invert: "~{0}",
    np.right_shift: "{0} >> {1}",
    np.power: "pow({0}, {1})",
    np.arctan: "atan({0})",
}
_SAME_IN_C = (
    *(np.exp, np.exp2, np.expm1, np.log, np.log2, np.log1p, np.sqrt, np.cbrt),
    *(np.sin, np.cos, np.tan, np.sinh, np.cosh, np.tanh),
)
# Unsigned integers wrap in C, as NumPy's signed integers do.
_WRAPPING = (np.add, np.subtract, np.multiply, np.square, np.negative)

# The limit of numbers in all arrays of a step, which is taken on the host to be recorded.
_MOST_ENTRIES = 1 << 26

SUM = _EXPRESSIONS[np.add]
PRODUCT = _EXPRESSIONS[np.multiply]
"""The terms that a product of matrices sums."""
_REDUCTIONS: Mapping[Any, str] = {
    np.sum: SUM,
    np.max: _EXPRESSIONS[np.maximum],
    np.min: _EXPRESSIONS[np.minimum],
}


def _ufunc_in_c(ufunc: np.ufunc, dtype: str, inputs: Sequence[Any]) -> str:
    """Return the expression of a function for arguments of a dtype."""
    if ufunc is np.power and isinstance(inputs[1], int | float) and inputs[1] == 2:
        ufunc = np.square
    if ufunc in _SAME_IN_C and dtype.startswith("float"):
        return f"{ufunc.__name__}({{0}})"
    if ufunc not in _EXPRESSIONS:
        raise CannotRecordError(f"{ufunc.__name__} is not known in C")
    expression = _EXPRESSIONS[ufunc]
    if dtype.startswith("int") and ufunc in _WRAPPING:
        kind = C_TYPES[dtype]
        fields = (f"(unsigned {kind}){{{i}}}" for i in range(ufunc.nin))
        return f"({kind})({expression.format(*fields)})"
    if dtype == "bool":  # to C, true and true are 2
        return f"(bool)({_EXPRESSIONS[np.logical_not] if ufunc is np.invert else expression})"
    floating = ufunc in (np.divide, np.reciprocal, np.power, np.absolute)
    if floating and not dtype.startswith("float"):
        raise CannotRecordError(f"{ufunc.__name__} of {dtype}")
    return expression


# ---------------------------------------------------------------------------------------------
# The tape


class _Tape:
    """Records operations. A recorded array's name is that of its buffer."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.memory: dict[str, np.ndarray] = {}  # the array that a buffer is, in one piece
        self.constants: dict[str, np.ndarray] = {}
        self.entries = 0

    def new_buffer(self, prefix: str, values: Any, *, order: Literal["C", "K"] = "C") -> Recorded:
        """Add an array as a new buffer; ``"K"`` keeps the memory order that NumPy gave it."""
        array = np.array(values, order=order)
        self.entries += array.size
        if self.entries > _MOST_ENTRIES:
            raise CannotRecordError("too large for a kernel")
        if array.dtype.name not in C_TYPES:
            raise CannotRecordError(f"no kernel computes in {array.dtype}")
        name = f"{prefix}{len(self.memory)}"
        self.memory[name] = array
        if prefix == "c":
            self.constants[name] = array
        return Recorded(array, name, self)

    def view_of(self, one: Recorded, value: np.ndarray | None = None) -> View:
        """Return a recorded array, or an array that shares its memory, as a view of its buffer."""
        base = self.memory.setdefault(one.name, one.value)
        value = one.value if value is None else value
        address = value.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        step = base.itemsize
        strides = tuple(
            0 if extent == 1 else stride // step
            for extent, stride in zip(value.shape, value.strides, strict=True)
        )
        return View(one.name, base.dtype.name, address // step, value.shape, strides)

    def operand(self, value: Any, shape: tuple[int, ...], dtype: np.dtype) -> "View | str":
        """Return an argument, broadcast: a number as text, otherwise a view."""
        if isinstance(value, Recorded):
            return self.view_of(value, np.broadcast_to(value.value, shape))
        array = np.asarray(value)
        if array.ndim == 0:
            return _number(array.astype(dtype))
        kept = self.new_buffer("c", array.astype(dtype))
        return self.view_of(kept, np.broadcast_to(kept.value, shape))

    def write_elementwise(
        self, out: Recorded, inputs: Sequence[Any], dtype: np.dtype, expression: str
    ) -> None:
        """Write an elementwise operation, with its arguments converted to a dtype."""
        target = self.view_of(out)
        views = tuple(self.operand(one, target.shape, dtype) for one in inputs)
        if any(v != target and isinstance(v, View) and v.buffer == target.buffer for v in views):
            # Other entries of the changed array are read, as in a[1:] += a[:-1]: compute all first.
            fresh = self.new_buffer("t", out.value)
            self.write_elementwise(fresh, inputs, dtype, expression)
            self.write_elementwise(out, [fresh], out.dtype, "{0}")
            return
        casts = [
            f"({C_TYPES[dtype.name]})" if isinstance(v, View) and v.dtype != dtype.name else ""
            for v in views
        ]
        fields = [f"({cast}{{{i}}})" if cast else f"{{{i}}}" for i, cast in enumerate(casts)]
        self.operations.append(Operation(target, views, expression.format(*fields)))

    # What every tape does.

    def call(self, function: Any, array: Recorded) -> Recorded:
        """Refuse an outside function: a kernel cannot reach other processes."""
        raise CannotRecordError("the step sums over processes, which a kernel cannot do")

    def view(self, of: Recorded, part: np.ndarray, key: Any) -> Recorded:
        """Take a view."""
        del key
        self.view_of(of)
        return Recorded(part, of.name, self)

    def ufunc(self, ufunc: np.ufunc, inputs: Sequence[Any], out: Recorded | None) -> Recorded:
        """Write an elementwise function or a matrix product."""
        values = value_of(inputs)
        result = np.asarray(ufunc(*values))
        if ufunc is np.matmul:
            if out is not None:
                raise CannotRecordError("a product in given memory")
            return self.product(inputs, result)
        computed_in = ufunc.resolve_dtypes((*map(_kind_of, values), None))[0]
        target = self.new_buffer("t", result, order="K") if out is None else out
        if out is not None:
            if out.name in self.constants or out.shape != result.shape:
                raise CannotRecordError("a constant changes, or an array its shape")
            ufunc(*values, out=out.value)
        expression = _ufunc_in_c(ufunc, computed_in.name, inputs)
        self.write_elementwise(target, inputs, computed_in, expression)
        return target

    def product(self, inputs: Sequence[Any], result: np.ndarray) -> Recorded:
        """Write a product of matrices: entry (i, j) is Σₖ p[i, k] q[k, j]."""
        p, q = (one if isinstance(one, Recorded) else self.new_buffer("c", one) for one in inputs)
        if p.ndim < 2 or q.ndim < 2 or p.dtype != q.dtype:
            raise CannotRecordError("a product of other than matrices of one dtype")
        out = self.new_buffer("t", result)
        shape = (*result.shape, p.shape[-1])
        rows, columns = p.value[..., :, None, :], q.value.mT[..., None, :, :]
        views = (
            self.view_of(p, np.broadcast_to(rows, shape)),
            self.view_of(q, np.broadcast_to(columns, shape)),
        )
        self.operations.append(Operation(self.view_of(out), views, PRODUCT, SUM, shape[-1:]))
        return out

    def function(self, function: Any, inputs: Sequence[Any], options: Any) -> Recorded:
        """Write another function."""
        result = function(*value_of(inputs), **value_of(options))
        for one in all_recorded([*inputs, *options.values()]):
            if isinstance(result, np.ndarray) and np.shares_memory(result, one.value):
                self.view_of(one)
                return Recorded(result, one.name, self)
        if function in _REDUCTIONS:
            return self.reduction(_REDUCTIONS[function], np.asarray(result), *inputs, **options)
        write = _FUNCTIONS.get(function)
        if write is None or not isinstance(result, np.ndarray | np.generic):
            raise CannotRecordError(f"{function.__name__} is not known in C")
        out = self.new_buffer("t", result, order="K")
        write(self, out, *inputs, **options)
        return out

    def reduction(
        self, combine: str, result: np.ndarray, array: Any, axis: Any = None, keepdims: bool = False
    ) -> Recorded:
        """Write a sum, maximum or minimum over axes."""
        del keepdims
        if array.dtype != result.dtype:
            raise CannotRecordError("a sum in another dtype")
        ndim = array.ndim
        axes = range(ndim) if axis is None else np.atleast_1d(axis)
        gone = sorted(int(one) % ndim for one in axes)
        kept = [one for one in range(ndim) if one not in gone]
        out = self.new_buffer("t", result)
        target = self.view_of(out, out.value.reshape([array.shape[one] for one in kept]))
        view = self.view_of(array, array.value.transpose([*kept, *gone]))
        reduced = tuple(array.shape[one] for one in gone)
        if not math.prod(reduced):  # a sum: NumPy has no largest of nothing
            self.write_elementwise(out, [0], out.dtype, "{0}")
            return out
        self.operations.append(Operation(target, (view,), "{0}", combine, reduced))
        return out


def _kind_of(value: Any) -> Any:
    """Return the dtype of an array; of a number, the type that does not widen a dtype."""
    return type(value) if type(value) in (int, float) else np.asarray(value).dtype


def _number(value: np.ndarray) -> str:
    """Return a number as a C literal, exact to the last bit."""
    kind = value.dtype.name
    if kind not in C_TYPES or not np.isfinite(value):
        raise CannotRecordError(f"the number {value}")
    if value.dtype.kind == "f":
        return f"({float(value).hex()}{'f' if kind == 'float32' else ''})"
    return f"({int(value)}{'LL' if kind == 'int64' else ''})"


def _write_astype(tape: _Tape, out: Recorded, array: Any, dtype: Any, **_: Any) -> None:
    tape.write_elementwise(out, [array], array.dtype, f"({C_TYPES[out.dtype.name]}){{0}}")


def _write_where(tape: _Tape, out: Recorded, condition: Any, one: Any, other: Any) -> None:
    if condition.dtype != bool:
        raise CannotRecordError("a condition that is not a bool")
    # Which of two entries: the condition is 0 or 1 in any dtype.
    tape.write_elementwise(out, [condition, one, other], out.dtype, "{0} != 0 ? {1} : {2}")


def _write_clip(
    tape: _Tape,
    out: Recorded,
    array: Any,
    least: Any = None,
    most: Any = None,
    *,
    min: Any = None,
    max: Any = None,
) -> None:
    least, most = (min if least is None else least), (max if most is None else most)
    if least is None or most is None:
        raise CannotRecordError("a limit on one side")
    low = "{0} < {1} ? {1} : {0}"
    tape.write_elementwise(
        out, [array, least, most], out.dtype, f"({low}) > {{2}} ? {{2}} : ({low})"
    )


def _write_joined(tape: _Tape, out: Recorded, arrays: Sequence[Any], axis: int = 0) -> None:
    first = 0
    for one in arrays:
        last = first + one.shape[axis]
        part = np.moveaxis(np.moveaxis(out.value, axis, 0)[first:last], 0, axis)
        tape.write_elementwise(Recorded(part, out.name, tape), [one], out.dtype, "{0}")
        first = last


def _write_stack(tape: _Tape, out: Recorded, arrays: Sequence[Any], axis: int = 0) -> None:
    for i, one in enumerate(arrays):
        part = np.moveaxis(out.value, axis, 0)[i, ...]
        tape.write_elementwise(Recorded(part, out.name, tape), [one], out.dtype, "{0}")


def _write_filled(value: int) -> Callable[..., None]:
    def write(tape: _Tape, out: Recorded, *_: Any, **__: Any) -> None:
        tape.write_elementwise(out, [value], out.dtype, "{0}")

    return write


def _write_triangle(keep: np.ufunc) -> Callable[..., None]:
    def write(tape: _Tape, out: Recorded, array: Any, k: int = 0) -> None:
        rows, columns = out.shape[-2:]
        kept = keep(np.arange(columns), np.arange(rows)[:, None] + k)
        # The mask is a constant; an entry outside becomes 0, whatever its value.
        tape.write_elementwise(out, [array, kept], out.dtype, "{1} != 0 ? {0} : 0")

    return write


_FUNCTIONS: Mapping[Any, Callable[..., None]] = {
    np.astype: _write_astype,
    np.where: _write_where,
    np.clip: _write_clip,
    np.concat: _write_joined,
    np.stack: _write_stack,
    np.zeros_like: _write_filled(0),
    np.ones_like: _write_filled(1),
    np.tril: _write_triangle(np.less_equal),
    np.triu: _write_triangle(np.greater_equal),
}


# ---------------------------------------------------------------------------------------------


def list_operations(step: Step, state: Any, batch: Sequence[np.ndarray]) -> OperationList:
    """Return the operations of a step.

    Args:
        step: the step.
        state: a nesting of tuples and lists of NumPy arrays, with the shapes and dtypes of its
            state; the values do not matter.
        batch: a mini-batch, whose values do not matter either.

    Raises:
        CannotRecordError: the step does something that this module cannot express.
    """
    tape = _Tape()
    with np.errstate(all="ignore"):
        new, z = record(step, state, batch, tape)
    # First zᴸ, which may be a part of the old state.
    zs = Recorded(np.empty(z.shape, z.dtype), "z", tape)
    tape.write_elementwise(zs, [z], z.dtype, "{0}")
    for i, (leaf, before) in enumerate(zip(new, leaves_of(state), strict=True)):
        # A leaf that was never used has no memory yet, and does not change.
        here = Recorded(tape.memory.get(f"s{i}", leaf.value), f"s{i}", tape)
        if leaf.name == here.name and tape.view_of(leaf) == tape.view_of(here):
            continue
        if leaf.name.startswith("s"):
            raise CannotRecordError("the state changes places")
        if f"s{i}" not in tape.memory:
            here = Recorded(before.copy(), here.name, tape)
        tape.write_elementwise(here, [leaf], here.dtype, "{0}")
    return OperationList(
        tape.operations,
        tape.constants,
        {name: one.size for name, one in tape.memory.items()},
        {name: one.dtype.name for name, one in tape.memory.items()},
        z.shape,
    )
