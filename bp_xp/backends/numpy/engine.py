"""The NumPy engine: a step is recorded once, and replayed on the same memory.

The lines are the operations of the step, in their order (see :mod:`bp_xp.engines.recorder`), so
the results are those of the plain loop to the last bit. See :mod:`bp_xp.engines.replay`.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bp_xp._typing import Namespace
from bp_xp.backends.numpy.blocks import Elementwise, elementwise, in_blocks
from bp_xp.backends.numpy.rows import OVER_ROWS, are_short_rows
from bp_xp.backends.numpy.sparse import SparseRows, SparseStack
from bp_xp.engines import replay
from bp_xp.engines.engine import Engine, Step
from bp_xp.engines.recorder import Recorded, all_recorded, record, value_of
from bp_xp.engines.replay import CannotRecordError, Lines, Program

__all__ = ["ENGINE"]

# The same sums and products, by functions with less overhead.
_REDUCTIONS: Mapping[Any, np.ufunc] = {np.sum: np.add, np.max: np.maximum, np.min: np.minimum}
_PRODUCT = np.dot  # of two matrices
# Numbers in the state with which a step takes twice as long as its calls of functions do.
_SMALL = 1 << 15
_WITH_SPARSE: Mapping[np.ufunc, tuple[str, Callable[[Any, Any], Any]]] = {
    np.matmul: ("@", operator.matmul),
    np.multiply: ("*", operator.mul),
}


class _Tape(Lines):
    """Records NumPy operations as lines."""

    def __init__(self, n_parts: int) -> None:
        super().__init__()
        self.of_batch = {f"x{i}" for i in range(n_parts)}  # and views of them
        self.fresh: set[str] = set()  # results that are new each time
        self.elementwise: dict[int, Elementwise] = {}  # by the number of the line

    def view(self, of: Recorded, part: np.ndarray, key: Any) -> Recorded:
        """Take a part of an array."""
        suffix = ".mT" if key == "mT" else f"[{self.name('c', key)}]"
        return self.view_by(of, part, of.name + suffix)

    def view_by(self, of: Recorded, value: np.ndarray, expression: str) -> Recorded:
        """Take a view of an array, written as an expression."""
        if of.name in self.objects:  # of a temporary, which stays where it is
            return Recorded(value, self.name("t", value), self)
        of_batch = of.name in self.of_batch
        name = self.write_view(expression, of_batch=of_batch)
        if of_batch:
            self.of_batch.add(name)
        return Recorded(value, name, self)

    def ufunc(self, ufunc: np.ufunc, inputs: Sequence[Any], out: Recorded | None) -> Recorded:
        """Write the line of an elementwise function or a product."""
        values = value_of(inputs)
        if any(isinstance(one, SparseRows | SparseStack) for one in values):
            return self.with_sparse(ufunc, inputs, values)
        kinds = {one.dtype for one in inputs if isinstance(one, Recorded)}
        like = kinds.pop() if len(kinds) == 1 else None
        if like is not None and like.kind not in "fi":
            like = None
        flat_product = ufunc is np.matmul and all(np.ndim(one) == 2 for one in values)
        function = self.function_name(_PRODUCT if flat_product and out is None else ufunc)
        names = [self.write(one, like) for one in inputs]
        arguments = ", ".join(names)
        if out is None:
            out = self.result(ufunc(*values), lambda t: f"{function}({arguments}, out={t})")
        else:
            ufunc(*values, out=out.value)
            self.each.append(f"{function}({arguments}, out={self.write(out)})")
        if ufunc.signature is None:
            self.note_elementwise([*names, out.name], [*values, out.value])
        return out

    def note_elementwise(self, names: Sequence[str], values: Sequence[Any]) -> None:
        """Record the properties of the last line, an elementwise one, whose result comes last."""
        whole = (
            name in self.fresh or np.ndim(value) == 0 or value.flags.owndata
            for name, value in zip(names, values, strict=True)
        )
        if all(whole) and (known := elementwise(names, values)):  # no part of another array
            self.elementwise[len(self.each) - 1] = known

    def with_sparse(
        self, ufunc: np.ufunc, inputs: Sequence[Any], values: Sequence[Any]
    ) -> Recorded:
        """Write the line of an operator with sparse inputs, whose result is new each time."""
        if ufunc not in _WITH_SPARSE:
            raise CannotRecordError(f"{ufunc.__name__} of sparse inputs")
        sign, compute = _WITH_SPARSE[ufunc]
        expression = f" {sign} ".join(self.write(one) for one in inputs)
        name = self.write_view(expression, of_batch=True)
        self.of_batch.add(name)
        self.fresh.add(name)
        return Recorded(compute(*values), name, self)

    def function(self, function: Any, inputs: Sequence[Any], options: Any) -> Recorded:
        """Write the line of another function."""
        result = function(*value_of(inputs), **value_of(options))
        plain_reduction = len(inputs) == 1 and set(options) <= {"axis", "keepdims"}
        if function in _REDUCTIONS and plain_reduction:
            array, axis, keep = inputs[0], options.get("axis"), options.get("keepdims", False)
            of_temporary = getattr(array, "name", None) in self.objects
            if function is np.max and of_temporary and are_short_rows(array.value, axis):
                return self.largest_of_short_rows(array, result, axis=axis, keepdims=keep)
            combine, values = _REDUCTIONS[function], self.write(array)
            reduce = self.name(f"{combine.__name__}_reduce", combine.reduce)
            return self.result(result, lambda t: f"{reduce}({values}, {axis}, None, {t}, {keep})")
        if not isinstance(result, np.ndarray | np.generic):
            raise CannotRecordError(f"{function} returns no array")
        copy = self.function_name(np.copyto)
        if function is np.astype:
            return self.result(result, lambda t: f"{copy}({t}, {self.write(inputs[0])}, 'unsafe')")
        arguments = [
            *map(self.write, inputs),
            *(f"{k}={self.write(v)}" for k, v in options.items()),
        ]
        call = f"{self.function_name(function)}({', '.join(arguments)})"
        if function is np.concatenate and "out" not in options:
            return self.result(result, lambda t: f"{call[:-1]}, out={t})")
        for one in all_recorded([*inputs, *options.values()]):
            if isinstance(result, np.ndarray) and np.shares_memory(result, one.value):
                return self.view_by(one, result, call)
        return self.result(result, lambda t: f"{copy}({t}, {call})")

    def largest_of_short_rows(
        self, array: Recorded, result: Any, *, axis: int, keepdims: bool = False
    ) -> Recorded:
        """Write the lines of the largest entry of each row, column by column."""
        columns = np.moveaxis(array.value, axis, 0)
        source, apart = self.name("t", columns), self.name("t", columns.copy("C"))
        self.each.append(f"{self.function_name(np.copyto)}({apart}, {source})")
        reduce = self.name("maximum_reduce", np.maximum.reduce)
        largest = Recorded(np.asarray(result), self.name("t", result), self)
        flat = self.name("t", result[..., 0]) if keepdims else largest.name
        self.each.append(f"{reduce}({apart}, 0, None, {flat}, False)")
        return largest

    def call(self, function: Callable[[Any], Any], array: Recorded) -> Recorded:
        """Write the line of a function outside of NumPy.

        It is not called now: other processes may have nothing to record at this step.
        """
        name = self.write_view(f"{self.name('f', function)}({array.name})", of_batch=True)
        self.of_batch.add(name)
        self.fresh.add(name)
        return Recorded(array.value.copy(), name, self)

    def result(self, value: Any, call: Callable[[str], str]) -> Recorded:
        """Write the line that puts a new result in its current memory."""
        array = np.asarray(value)
        name = self.name("t", array)
        self.each.append(call(name))
        return Recorded(array, name, self)

    def write(self, value: Any, like: np.dtype | None = None) -> str:
        """Return an argument in the form for a line."""
        if isinstance(value, Recorded):
            return value.name
        if isinstance(value, list | tuple):
            items = "".join(f"{self.write(item)}, " for item in value)
            return f"[{items}]" if isinstance(value, list) else f"({items})"
        if like is not None and isinstance(value, int if like.kind == "i" else int | float):
            # NumPy would make an array of a number at each call.
            value = np.asarray(value, dtype=like)
        return self.name("c", value)


def _record(step: Step, state: Any, batch: Sequence[np.ndarray], *, xp: Namespace) -> Program:
    """Take a step on copies and return its program."""
    del xp
    tape = _Tape(len(batch))
    new, z = record(step, state, batch, tape)
    copy = tape.function_name(np.copyto)
    tape.each.append(f"{copy}(z, {z.name})")  # first: it may be a part of the old state
    tape.write_back([leaf.name for leaf in new], lambda to, from_: f"{copy}({to}, {from_})")
    tape.each = in_blocks(tape.each, tape.elementwise, tape.objects)
    run, text = tape.compile(len(new), len(batch))
    return Program(run, z.value, text)


ENGINE = Engine(
    "numpy",
    "a step is recorded once, and replayed on the same memory",
    lambda report: replay.new_loop(_record, report, small=_SMALL),
    over_rows=lambda xp: OVER_ROWS,
    in_place=True,
)
