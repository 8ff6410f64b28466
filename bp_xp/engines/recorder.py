"""Arrays that report their operations to a tape: how a step is recorded with NumPy.

NumPy consults the type of an array before it computes with it (``__array_ufunc__``,
``__array_function__``). So a step with these arrays computes as usual, and each operation passes a
tape, which records it: as a line of Python (:mod:`bp_xp.backends.numpy.engine`) or of CUDA
(:mod:`bp_xp.engines.kernel`).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from bp_xp._trees import forms_of, leaves_of, map_leaves
from bp_xp.engines.engine import Step
from bp_xp.engines.replay import CannotRecordError

__all__ = ["Recorded", "Tape", "all_recorded", "record", "value_of"]

# Indexing with these gives a view.
_BASIC = (slice, int, type(None), type(...))


class Tape(Protocol):
    """Records operations. Each method computes, and returns the result."""

    def ufunc(self, ufunc: np.ufunc, inputs: Sequence[Any], out: "Recorded | None") -> "Recorded":
        """Apply an elementwise function, or a matrix product, to arrays and numbers.

        ``out`` is the array for the result, or None for a new one.
        """
        ...

    def function(self, function: Any, inputs: Sequence[Any], options: Any) -> "Recorded":
        """Call another NumPy function."""
        ...

    def call(self, function: Callable[[Any], Any], array: "Recorded") -> "Recorded":
        """Call a function from outside of NumPy, which may overwrite its array."""
        ...

    def view(self, of: "Recorded", part: np.ndarray, key: Any) -> "Recorded":
        """Take the part ``of[key]``; ``"mT"`` means the transposed matrix."""
        ...


class Recorded(NDArrayOperatorsMixin):
    """An array that executes operations and records them.

    Attributes:
        value: the values, for the shapes and dtypes of later operations.
        name: its name on the tape.
        tape: the tape that records its operations.
    """

    def __init__(self, value: np.ndarray, name: str, tape: Tape):
        self.value, self.name, self.tape = value, name, tape
        self.shape, self.dtype, self.ndim = value.shape, value.dtype, value.ndim

    @property
    def mT(self) -> "Recorded":  # noqa: N802 - the standard's name
        """The transposed matrix, a view."""
        return self.tape.view(self, self.value.mT, "mT")

    def __getitem__(self, key: Any) -> "Recorded":
        part = self.value[key]
        keys = key if isinstance(key, tuple) else (key,)
        basic = all(isinstance(k, _BASIC) and not isinstance(k, bool) for k in keys)
        if not isinstance(part, np.ndarray) or not basic:
            raise CannotRecordError("indexing that copies")
        return self.tape.view(self, part, key)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", (None,))[0]
        if method != "__call__" or options or ufunc.nout != 1:
            raise CannotRecordError(f"{ufunc.__name__}.{method} with {sorted(options)}")
        if not isinstance(out, Recorded | None):
            raise CannotRecordError("writing to an array that was not recorded")
        return self.tape.ufunc(ufunc, inputs, out)

    def __array_function__(self, function: Any, _: Any, inputs: Any, options: Any) -> Any:
        return self.tape.function(function, inputs, options)

    def _looked_at(self, *_: Any, **__: Any) -> Any:
        raise CannotRecordError("the step looks at a value")

    __bool__ = __int__ = __float__ = __index__ = __iter__ = __len__ = __array__ = _looked_at
    __setitem__ = __getattr__ = _looked_at


def value_of(tree: Any) -> Any:
    """Return a nesting of tuples and lists, or arguments by name, with the values in it."""
    if isinstance(tree, dict):
        return {name: value_of(one) for name, one in tree.items()}
    return map_leaves(lambda one: one.value if isinstance(one, Recorded) else one, tree)


def all_recorded(tree: Any) -> list[Recorded]:
    """Return the recorded arrays in a nesting of tuples and lists."""
    return [one for one in leaves_of(tree) if isinstance(one, Recorded)]


def record(
    step: Step, state: Any, batch: Sequence[np.ndarray], tape: Tape
) -> tuple[list[Recorded], Recorded]:
    """Record a step on copies with a tape, which names them ``s0``, ``s1`` ... and ``x0`` ...

    Returns:
        The leaves of the new state, and zᴸ.

    Raises:
        CannotRecordError: the step does something other than array operations, such as reading a
            value, or its state changes its form. Other exceptions are those of the step.
    """
    names = (f"s{i}" for i, _ in enumerate(leaves_of(state)))

    def recorded(leaf: Any) -> Recorded:
        if not isinstance(leaf, np.ndarray):
            raise CannotRecordError("the state holds more than arrays")
        return Recorded(np.array(leaf), next(names), tape)

    leaves = map_leaves(recorded, state)
    parts = [Recorded(part.copy(), f"x{i}", tape) for i, part in enumerate(batch)]
    new_state, z = step(leaves, *parts, xp=np)
    new = list(leaves_of(new_state))
    all_are_results = all(isinstance(one, Recorded) for one in [*new, z])
    if not all_are_results or forms_of(new) != forms_of(state):
        raise CannotRecordError("the state changes its form")
    return new, z
