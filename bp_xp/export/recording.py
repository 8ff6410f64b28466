"""Recordings of operations on arrays, which every export is written from.

A function that is called with :class:`~bp_xp.engines.recorder.Recorded` arrays computes as usual,
and a :class:`Recording` records its operations. So the mathematics is not implemented a second
time, and user-defined functions are exported like those of bp_xp.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from bp_xp._trees import leaves_of
from bp_xp.engines.recorder import Recorded, all_recorded, value_of
from bp_xp.engines.replay import CannotRecordError
from bp_xp.math.activations import Activation

__all__ = ["VIEW", "Named", "Operation", "Recording", "record", "recordable"]

VIEW = "view"
"""Used instead of a function: its inputs are an array and a key, or ``"mT"``."""


@dataclass(frozen=True)
class Named:
    """An argument or a result of a recorded function, by its name."""

    name: str


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation.

    Attributes:
        function: a function of NumPy, or VIEW.
        inputs: its arguments: Named arrays, and numbers, arrays or dtypes as they are.
        options: its keyword arguments.
        dtype: the dtype of the result.
        part: the name of the activation that it belongs to, for messages, or empty.
    """

    function: Any
    inputs: tuple[Any, ...]
    options: Mapping[str, Any]
    dtype: np.dtype
    part: str

    @property
    def named(self) -> list[str]:
        """The names of the arrays that it uses."""
        given = leaves_of([*self.inputs, *self.options.values()])
        return [one.name for one in given if isinstance(one, Named)]


class Recording:
    """A tape that stores operations by the names of their results.

    Attributes:
        operations: the operations, in their order.
        dtypes: the dtypes of all named arrays.
        ndims: the numbers of their axes.
    """

    def __init__(self) -> None:
        self.operations: dict[str, Operation] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.ndims: dict[str, int] = {}
        self._part = ""
        self._tied: set[str] = set()  # arrays that share memory with others

    def argument(self, value: np.ndarray, name: str) -> Recorded:
        """Return an array whose operations are recorded."""
        self.dtypes[name], self.ndims[name] = value.dtype, value.ndim
        return Recorded(value, name, self)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Record the operations of an activation.

        Raises:
            ValueError: it does something that is not an operation on arrays.
        """
        self._part = name
        try:
            yield
        except Exception as error:  # a user-defined function may raise any error for such arrays
            told = f"{error}" if isinstance(error, CannotRecordError) else repr(error)
            raise ValueError(f"activation {name!r} can't be exported: {told}.") from error
        finally:
            self._part = ""

    def live(self, *results: str) -> dict[str, Operation]:
        """Return the operations that results need, in their order."""
        wanted = set(results)
        for name, operation in reversed(self.operations.items()):
            if name in wanted:
                wanted.update(operation.named)
        return {name: one for name, one in self.operations.items() if name in wanted}

    # What a tape does

    def ufunc(self, ufunc: np.ufunc, inputs: Sequence[Any], out: Recorded | None) -> Recorded:
        """Record an elementwise function or a product."""
        value = np.asarray(ufunc(*value_of(inputs)))
        result = self._result(ufunc, inputs, {}, value)
        if out is None:
            return result
        if out.name in self._tied:
            raise CannotRecordError("it changes an array that shares memory with another")
        out.value[...] = value
        if out.dtype != value.dtype:
            result = self._result(np.astype, (result, out.dtype), {}, out.value)
        out.name = result.name
        return out

    def function(self, function: Any, inputs: Sequence[Any], options: Any) -> Recorded:
        """Record another function of NumPy."""
        value = function(*value_of(inputs), **value_of(options))
        if not isinstance(value, np.ndarray | np.generic):
            raise CannotRecordError(f"{function.__name__} returns no array")
        result = self._result(function, inputs, options, np.asarray(value))
        for one in all_recorded([*inputs, *options.values()]):
            if np.may_share_memory(result.value, one.value):
                self._tied |= {result.name, one.name}
        return result

    def call(self, function: Callable[[Any], Any], array: Recorded) -> Recorded:
        """Refuse a function from outside NumPy."""
        raise CannotRecordError(f"it calls {function}")

    def view(self, of: Recorded, part: np.ndarray, key: Any) -> Recorded:
        """Record that a part is selected."""
        result = self._result(VIEW, (of, key), {}, part)
        self._tied |= {of.name, result.name}
        return result

    def _result(
        self, function: Any, inputs: Sequence[Any], options: Mapping[str, Any], value: np.ndarray
    ) -> Recorded:
        name = f"t{len(self.operations) + 1}"
        given = tuple(map(_named, inputs))
        kept = {key: _named(one) for key, one in options.items()}
        self.operations[name] = Operation(function, given, kept, value.dtype, self._part)
        return self.argument(value, name)


def _named(value: Any) -> Any:
    """Return an argument with arrays replaced by their names."""
    if isinstance(value, Recorded):
        return Named(value.name)
    if isinstance(value, list | tuple):
        return tuple(map(_named, value))
    return value


def record(
    function: Callable[..., Any],
    name: str,
    n_columns: int,
    dtype: str,
    parameters: Mapping[str, np.ndarray] | None = None,
) -> tuple[Recording, list[str]]:
    """Record a function of rows.

    Args:
        function: called as ``function(rows, *parameters, xp=numpy)``; returns an array or several.
        name: the name of the rows in the recording.
        n_columns: the number of columns.
        dtype: their dtype.
        parameters: further arguments by name.

    Returns:
        The recording, and the names of the results.

    Raises:
        ValueError: an activation can't be recorded, or depends on the number of rows; the message
            names it.
    """
    recordings = []
    for n_rows in (2, 3):
        recording = Recording()
        rows = recording.argument(np.full((n_rows, n_columns), 0.5, dtype), name)
        others = [recording.argument(one, key) for key, one in (parameters or {}).items()]
        with np.errstate(all="ignore"):
            found = function(rows, *others, xp=np)
        results = found if isinstance(found, tuple) else (found,)
        recordings.append((recording, [one.name for one in results]))
    first, second = (recording.operations.values() for recording, _ in recordings)
    for pair in zip_longest(first, second):
        if not _same(*pair):
            parts = dict.fromkeys(repr(one.part) for one in pair if one is not None and one.part)
            raise ValueError(
                f"activation {' or '.join(parts)} can't be exported: its operations depend on how "
                "many rows there are."
            )
    return recordings[0]


def recordable(activation: Activation) -> Activation:
    """Return an activation whose operations a recording knows as its own."""

    def sigma(z: Any, *, xp: Any) -> Any:
        with z.tape.part(activation.name):
            a = activation.sigma(z, xp=xp)
            if not isinstance(a, Recorded):
                raise CannotRecordError("its values do not depend on z")
            return a

    return replace(activation, sigma=sigma)


def _same(one: Operation | None, other: Operation | None) -> bool:
    """Return whether two operations do the same."""
    if one is None or other is None or one.function is not other.function:
        return False
    given, others = (list(leaves_of([*o.inputs, *o.options.items()])) for o in (one, other))
    return len(given) == len(others) and all(map(_equal, given, others))


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(value, other, equal_nan=value.dtype.kind == "f")
    return type(value) is type(other) and (value == other or value != value)
