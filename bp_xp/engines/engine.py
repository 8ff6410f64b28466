"""The interface of an engine."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bp_xp._typing import Array, Namespace
from bp_xp.engines.report import Report

__all__ = ["Compile", "Elementwise", "Engine", "Loop", "MapRows", "OneByOne", "Step", "argmax"]

Step = Callable[..., tuple[Any, Array]]
"""A training step: a pure function (state, *batch, xp=xp) -> (state, zᴸ), where ``xp`` is the
namespace of all these arrays. It may overwrite its state."""


Elementwise = Callable[..., Array]
"""A function of arrays and their namespace, such as σ(z, xp=xp)."""


class Loop(Protocol):
    """Runs the steps of a chunk, one after the other."""

    def __call__(
        self, step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        """Take one step for each mini-batch of a chunk.

        Args:
            step: the step, the same in each call.
            state: a nesting of tuples and lists of arrays; consumed.
            batches: the arguments of the steps, each with a first axis for the steps: inputs of
                shape (steps, batch, I), targets of shape (steps, batch, O).
            xp: their namespace.

        Returns:
            The last state, and zᴸ of every step, shape (steps, batch, O).
        """
        ...


class Compile(Protocol):
    """Makes a fast function from a pure one."""

    def __call__(
        self, function: Callable[..., Any], *settings: Any, consumes: bool = False
    ) -> Callable[..., Any]:
        """Return the function with its first arguments given.

        Args:
            function: a pure function; it may call a loop.
            settings: its first arguments, hashable.
            consumes: whether the memory of its first argument after the settings may be reused.
        """
        ...


class MapRows(Protocol):
    """Makes a fast function from one that treats each row separately, for any number of rows."""

    def __call__(
        self, function: Callable[..., Any], *settings: Any, at_most: int
    ) -> Callable[..., Any]:
        """Return the function with its first arguments given.

        Args:
            function: a pure function, called as ``function(*settings, shared, *arrays)``: the
                values that all rows share, and arrays of N rows. It returns an array of N rows, or
                a nesting of them, in which no row depends on another. So a library may pad the
                rows, and drop the results of the padding.
            settings: its first arguments, hashable.
            at_most: the largest number of rows in a call.
        """
        ...


OneByOne = Callable[[Callable[[Array], Any], int], Any]
"""Inside a compiled function, ``one_by_one(f, n)`` computes f(0), ..., f(n − 1), nestings of
arrays, one after the other, and returns them as one nesting with a first axis of n. The argument of
f is an array of shape ()."""


def _not_compiled(
    function: Callable[..., Any], *settings: Any, consumes: bool = False
) -> Callable[..., Any]:
    del consumes
    return functools.partial(function, *settings)


def _not_mapped(function: Callable[..., Any], *settings: Any, at_most: int) -> Callable[..., Any]:
    del at_most
    return functools.partial(function, *settings)


def _not_fused(function: Elementwise) -> Elementwise:
    return function


def _as_it_is(xp: Namespace) -> Namespace:
    return xp


def argmax(values: Array, *, xp: Namespace) -> Array:
    """Return the index of the largest entry of each row, the first of equals, shape (..., N)."""
    return xp.argmax(values, axis=-1)


@dataclass(frozen=True)
class Engine:
    """How one library runs many steps.

    Attributes:
        name: its name in ``engine=``: the name of its library, or ``"plain"``.
        way: how it takes steps, in a few words.
        new_loop: returns the loop for the chunks of one training run, which updates a report.
        compile: makes a fast function from a pure one; without a compiler, it only binds the
            settings.
        map_rows: makes a fast function from one that treats each row separately; without a
            compiler, it only binds the settings.
        fuse: makes one operation from an elementwise function ``f(*arrays, xp=xp)``, if the
            library can, and ``compile`` does not do so anyway.
        argmax: the library's fastest ``argmax(values, xp=xp)``, with the results of :func:`argmax`.
        over_rows: returns the namespace for functions of all rows of a chunk: the library's own, or
            one with faster functions and the same results.
        in_place: whether steps update the state in place. Then, on a CPU, a few networks of a stack
            at a time, which fit in its cache, are faster than all together.
        one_by_one: takes networks of a stack one after the other in a compiled program; None if
            there is no such program.
        remark: returns a remark on how mini-batches of a shape are taken, if there is one.
        describe: returns a function that writes the program of a step as text, for (step, state,
            batches, xp), with mini-batches as a loop takes them; None if the loop writes the report
            itself.
    """

    name: str
    way: str
    new_loop: Callable[[Report], Loop]
    compile: Compile = _not_compiled
    map_rows: MapRows = _not_mapped
    fuse: Callable[[Elementwise], Elementwise] = _not_fused
    argmax: Elementwise = argmax
    over_rows: Callable[[Namespace], Namespace] = _as_it_is
    in_place: bool = False
    one_by_one: OneByOne | None = None
    remark: Callable[[Sequence[int]], str] = lambda _: ""
    describe: Callable[[Step, Any, Sequence[Array], Namespace], Callable[[], str]] | None = None
