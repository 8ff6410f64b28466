"""The NumPy engine: a step is recorded once, and replayed on the same memory.

The recorder hands the step arrays that write down what is done to them (NumPy asks them, by
``__array_ufunc__`` and ``__array_function__``). The lines are the operations of the step, in their
order, so the results are those of the plain loop to the last bit. See
:mod:`bp_xp.engines._replay`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from bp_xp._trees import leaves_of, map_leaves
from bp_xp.engines import _replay
from bp_xp.engines._base import Engine, Step
from bp_xp.engines._replay import CannotRecordError, Program, Tape

__all__ = ["ENGINE"]

# The same sums and products, by functions that take less time to get there.
_REDUCTIONS: Mapping[Any, np.ufunc] = {np.sum: np.add, np.max: np.maximum, np.min: np.minimum}
_PRODUCT = np.dot  # of two matrices

# Indexing with these gives a view.
_BASIC = (slice, int, type(None), type(...))


class _Tape(Tape):
    """A tape of NumPy's operations."""

    def result(self, value: Any, call: Callable[[str], str]) -> "_Recorded":
        """Write the line that puts a fresh result where it is now."""
        array = np.asarray(value)
        name = self.name("t", array)
        self.each.append(call(name))
        return _Recorded(array, name, self)

    def view_of(self, of: "_Recorded", value: np.ndarray, expression: str) -> "_Recorded":
        """Take a view of an array."""
        if of.name in self.objects:  # of a temporary, which stays where it is
            return _Recorded(value, self.name("t", value), self)
        name = self.view(expression, of_batch=of.of_batch)
        return _Recorded(value, name, self, of_batch=of.of_batch)

    def write(self, value: Any, like: np.dtype | None = None) -> str:
        """Return an argument as it is written in a line."""
        if isinstance(value, _Recorded):
            return value.name
        if isinstance(value, list | tuple):
            items = ", ".join(self.write(item) for item in value)
            return f"[{items}]" if isinstance(value, list) else f"({items},)"
        if like is not None and isinstance(value, int if like.kind == "i" else int | float):
            # NumPy would make an array of a number at each call.
            value = np.asarray(value, dtype=like)
        return self.name("c", value)


class _Recorded(NDArrayOperatorsMixin):
    """An array that writes down what is done to it, and does it."""

    def __init__(self, value: np.ndarray, name: str, tape: _Tape, *, of_batch: bool = False):
        self.value, self.name, self.tape, self.of_batch = value, name, tape, of_batch
        self.shape, self.dtype, self.ndim = value.shape, value.dtype, value.ndim

    @property
    def mT(self) -> "_Recorded":  # noqa: N802 - the standard's name
        return self.tape.view_of(self, self.value.mT, f"{self.name}.mT")

    def __getitem__(self, key: Any) -> "_Recorded":
        part = self.value[key]
        keys = key if isinstance(key, tuple) else (key,)
        if not isinstance(part, np.ndarray) or not all(isinstance(k, _BASIC) for k in keys):
            raise CannotRecordError("indexing that copies")
        return self.tape.view_of(self, part, f"{self.name}[{self.tape.name('c', key)}]")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", (None,))[0]
        if method != "__call__" or options or ufunc.nout != 1:
            raise CannotRecordError(f"{ufunc.__name__}.{method} with {sorted(options)}")
        if not isinstance(out, _Recorded | None):
            raise CannotRecordError("what is no result of the step changes")
        tape, values = self.tape, [_value(one) for one in inputs]
        kinds = {one.dtype for one in inputs if isinstance(one, _Recorded)}
        like = kinds.pop() if len(kinds) == 1 else None
        if like is not None and like.kind not in "fi":
            like = None
        flat_product = ufunc is np.matmul and all(np.ndim(one) == 2 for one in values)
        function = tape.function(_PRODUCT if flat_product and out is None else ufunc)
        arguments = ", ".join(tape.write(one, like) for one in inputs)
        if out is None:
            return tape.result(ufunc(*values), lambda t: f"{function}({arguments}, out={t})")
        ufunc(*values, out=_value(out))
        tape.each.append(f"{function}({arguments}, out={tape.write(out)})")
        return out

    def __array_function__(self, function: Any, _: Any, inputs: Any, options: Any) -> Any:
        tape = self.tape
        result = function(*_values(inputs), **options)
        plain_reduction = len(inputs) == 1 and set(options) <= {"axis", "keepdims"}
        if function in _REDUCTIONS and plain_reduction:
            reduce, values = tape.name("f", _REDUCTIONS[function].reduce), tape.write(inputs[0])
            axis, keep = options.get("axis"), options.get("keepdims", False)
            return tape.result(result, lambda t: f"{reduce}({values}, {axis}, None, {t}, {keep})")
        if not isinstance(result, np.ndarray | np.generic):
            raise CannotRecordError(f"{function} returns no array")
        copy = tape.function(np.copyto)
        if function is np.astype:
            return tape.result(result, lambda t: f"{copy}({t}, {tape.write(inputs[0])}, 'unsafe')")
        arguments = [
            *map(tape.write, inputs),
            *(f"{k}={tape.write(v)}" for k, v in options.items()),
        ]
        call = f"{tape.function(function)}({', '.join(arguments)})"
        for one in _recorded(inputs):
            if isinstance(result, np.ndarray) and np.shares_memory(result, one.value):
                return tape.view_of(one, result, call)
        return tape.result(result, lambda t: f"{copy}({t}, {call})")

    def _looked_at(self, *_: Any, **__: Any) -> Any:
        raise CannotRecordError("the step looks at a value")

    __bool__ = __int__ = __float__ = __index__ = __iter__ = __len__ = __array__ = _looked_at
    __setitem__ = __getattr__ = _looked_at


def _value(one: Any) -> Any:
    return one.value if isinstance(one, _Recorded) else one


def _values(tree: Any) -> Any:
    return map_leaves(_value, tree)


def _recorded(tree: Any) -> Iterator[_Recorded]:
    return (one for one in leaves_of(tree) if isinstance(one, _Recorded))


def _record(step: Step, state: Any, batch: Sequence[np.ndarray]) -> Program:
    """Take a step on copies and return what was done."""
    tape, n = _Tape(), 0

    def recorded(leaf: Any) -> _Recorded:
        nonlocal n
        if not isinstance(leaf, np.ndarray):
            raise CannotRecordError("the state holds more than arrays")
        n += 1
        return _Recorded(leaf.copy(), f"s{n - 1}", tape)

    state = map_leaves(recorded, state)
    parts = [_Recorded(p.copy(), f"x{i}", tape, of_batch=True) for i, p in enumerate(batch)]
    new_state, z = step(state, *parts)
    new = list(leaves_of(new_state))
    if len(new) != n or not all(isinstance(leaf, _Recorded) for leaf in new):
        raise CannotRecordError("the state changes its form")
    copy = tape.function(np.copyto)
    tape.write_back([leaf.name for leaf in new], lambda to, from_: f"{copy}({to}, {from_})")
    tape.each.append(f"{copy}(z, {z.name})")
    return Program(tape.compile(n, len(parts)), z.value)


ENGINE = Engine(lambda: _replay.new_loop(_record))
