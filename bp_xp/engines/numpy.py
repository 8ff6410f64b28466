"""The NumPy engine: a step is recorded once, and replayed on the same memory.

With small networks, most of the time of a step goes into calling functions and making arrays, not
into arithmetic. So the step is taken once with arrays that write down what is done to them, each
operation a line of a Python function, with the memory of its first result as ``out``. For the
sigmoid, for instance::

    matmul(x, v0, out=t0)
    add(t0, v1, out=t0)
    multiply(c0, t0, out=t1)
    tanh(t1, out=t2)

That function then runs the mini-batches. Its lines are the operations of the step, in their order,
so the results are the same to the last bit; and since it is made from the step, nothing of the
mathematics is written a second time. A step that does something that can't be recorded, such as
looking at a value, is taken by the plain loop.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from bp_xp._typing import Array, Namespace
from bp_xp.engines import plain
from bp_xp.engines._base import Engine, Loop, Step

__all__ = ["ENGINE"]

# Their wrappers take longer than they do themselves, on the small arrays of a mini-batch.
_REDUCTIONS: Mapping[Any, np.ufunc] = {np.sum: np.add, np.max: np.maximum, np.min: np.minimum}

# Indexing with these gives a view.
_BASIC = (slice, int, type(None), type(...))


class _CannotRecordError(Exception):
    """The step does something that a list of array operations can't express."""


class _Tape:
    """The lines of a function under way, and the objects that they name."""

    def __init__(self) -> None:
        self.before: list[str] = []  # views of the state, taken once for all mini-batches
        self.each: list[str] = []  # what is done for each mini-batch
        self.objects: dict[str, Any] = {}

    def name(self, prefix: str, value: Any) -> str:
        """Return a name for an object: a temporary array, a constant, a function."""
        name = f"{prefix}{len(self.objects)}"
        self.objects[name] = value
        return name

    def function(self, function: Any) -> str:
        """Return the name of a function."""
        name = function.__name__
        return (
            name
            if self.objects.setdefault(name, function) is function
            else self.name("f", function)
        )

    def result(self, value: Any, call: Callable[[str], str]) -> "_Recorded":
        """Write the line that puts a fresh result where it is now."""
        array = np.asarray(value)
        name = self.name("t", array)
        self.each.append(call(name))
        return _Recorded(array, name, self)

    def view(self, value: np.ndarray, of: "_Recorded", expression: str) -> "_Recorded":
        """Write the line that takes a view of an array."""
        if of.name in self.objects:  # of a temporary, which stays where it is
            return _Recorded(value, self.name("t", value), self)
        name = f"v{len(self.before) + len(self.each)}"
        (self.each if of.of_batch else self.before).append(f"{name} = {expression}")
        return _Recorded(value, name, self, of_batch=of.of_batch)

    def write(self, value: Any, like: np.dtype | None = None) -> str:
        """Return an argument as it is written in a line."""
        if isinstance(value, _Recorded):
            return value.name
        if isinstance(value, list | tuple):
            items = ", ".join(self.write(item) for item in value)
            return f"[{items}]" if isinstance(value, list) else f"({items},)"
        if like is not None and isinstance(value, int | float):
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
        return self.tape.view(self.value.mT, self, f"{self.name}.mT")

    def __getitem__(self, key: Any) -> "_Recorded":
        part = self.value[key]
        keys = key if isinstance(key, tuple) else (key,)
        if not isinstance(part, np.ndarray) or not all(isinstance(k, _BASIC) for k in keys):
            raise _CannotRecordError("indexing that copies")
        return self.tape.view(part, self, f"{self.name}[{self.tape.name('c', key)}]")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", (None,))[0]
        if method != "__call__" or options or ufunc.nout != 1:
            raise _CannotRecordError(f"{ufunc.__name__}.{method} with {sorted(options)}")
        tape, values = self.tape, [_value(one) for one in inputs]
        kinds = {one.dtype for one in inputs if isinstance(one, _Recorded)}
        like = kinds.pop() if len(kinds) == 1 else None
        if like is not None and like.kind != "f":
            like = None
        function = tape.function(ufunc)
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
            raise _CannotRecordError(f"{function} returns no array")
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
                return tape.view(result, one, call)
        return tape.result(result, lambda t: f"{copy}({t}, {call})")

    def _looked_at(self, *_: Any, **__: Any) -> Any:
        raise _CannotRecordError("the step looks at a value")

    __bool__ = __int__ = __float__ = __index__ = __iter__ = __len__ = __array__ = _looked_at
    __setitem__ = __getattr__ = _looked_at


def _value(one: Any) -> Any:
    return one.value if isinstance(one, _Recorded) else one


def _values(tree: Any) -> Any:
    return _map(_value, tree)


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a nesting of tuples and lists with a function applied to what they hold."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(function, item) for item in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(_map(function, item) for item in tree)
    return function(tree)


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield what a nesting of tuples and lists holds."""
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from _leaves(item)
    else:
        yield tree


def _recorded(tree: Any) -> Iterator[_Recorded]:
    return (one for one in _leaves(tree) if isinstance(one, _Recorded))


class _Program(NamedTuple):
    """A recorded step.

    Attributes:
        run: runs mini-batches, ``run(leaves of the state, xs, ys, zs)``; it writes zᴸ to zs.
        z: an array of the shape and dtype of zᴸ.
    """

    run: Callable[..., None]
    z: np.ndarray


def _record(step: Step, state: Any, x: Array, y: Array) -> _Program | None:
    """Take a step on copies and return what was done, or None where it can't be recorded."""
    tape = _Tape()
    leaves = list(_leaves(state))
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return None
    names = iter(range(len(leaves)))
    recorded = _map(lambda leaf: _Recorded(leaf.copy(), f"s{next(names)}", tape), state)
    batch = [
        _Recorded(values.copy(), name, tape, of_batch=True) for values, name in ((x, "x"), (y, "y"))
    ]
    try:
        new_state, z = step(recorded, *batch)
        _write_back(tape, list(_leaves(new_state)), len(leaves))
        tape.each.append(f"{tape.function(np.copyto)}(z, {z.name})")
    except (_CannotRecordError, TypeError, AttributeError):
        return None  # the plain loop serves, or says what is wrong
    return _Program(_compile(tape, len(leaves)), z.value)


def _write_back(tape: _Tape, new: list[Any], n: int) -> None:
    """Put a state that was returned as new arrays where the old one is."""
    if len(new) != n or not all(isinstance(leaf, _Recorded) for leaf in new):
        raise _CannotRecordError("the state changes its form")
    for i, leaf in enumerate(new):
        if leaf.name == f"s{i}":
            continue
        if leaf.name not in tape.objects:
            raise _CannotRecordError("the state changes places")
        tape.each.append(f"{tape.function(np.copyto)}(s{i}, {leaf.name})")


def _compile(tape: _Tape, n_leaves: int) -> Callable[..., None]:
    """Return the function whose lines are on the tape."""
    state = "".join(f"s{i}, " for i in range(n_leaves))
    lines = [
        f"def make({', '.join(tape.objects)}):",
        "    def run(leaves, xs, ys, zs):",
        f"        {state}= leaves",
        *(f"        {line}" for line in tape.before),
        "        for x, y, z in zip(xs, ys, zs):",
        *(f"            {line}" for line in tape.each),
        "    return run",
    ]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    return scope["make"](**tape.objects)


def _new_loop() -> Loop:
    programs: dict[Any, _Program | None] = {}

    def loop(step: Step, state: Any, xs: Array, ys: Array, *, xp: Namespace) -> tuple[Any, Array]:
        shape = xs.shape[1:]
        if shape not in programs:
            programs[shape] = _record(step, state, xs[0], ys[0])
        program = programs[shape]
        if program is None:
            return plain.loop(step, state, xs, ys, xp=xp)
        zs = np.empty((len(xs), *program.z.shape), dtype=program.z.dtype)
        program.run(list(_leaves(state)), xs, ys, zs)
        return state, zs

    return loop


ENGINE = Engine(_new_loop)
