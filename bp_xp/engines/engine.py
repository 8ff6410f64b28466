"""What an engine is."""

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
            step: the step, the same at each call.
            state: a nesting of tuples and lists of arrays; used up.
            batches: what the steps are given, each with a first axis of that many steps: inputs of
                shape (steps, batch, I), targets of shape (steps, batch, O).
            xp: their namespace.

        Returns:
            The last state, and zᴸ of every step, shape (steps, batch, O).
        """
        ...


class Compile(Protocol):
    """Makes a fast function of a pure one."""

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
    """Makes a fast function of one that takes each row by itself, for any number of rows."""

    def __call__(
        self, function: Callable[..., Any], *settings: Any, at_most: int
    ) -> Callable[..., Any]:
        """Return the function with its first arguments given.

        Args:
            function: a pure function, called as ``function(*settings, shared, *arrays)``: what
                all rows share, and arrays of N rows. It returns an array of N rows, or a nesting
                of them, and no row of these depends on another row. So a library may give it more
                rows than there are, and leave out what it returns for them.
            settings: its first arguments, hashable.
            at_most: how many rows it will be given at once, at most.
        """
        ...


OneByOne = Callable[[Callable[[Array], Any], int], Any]
"""Inside of a compiled function, ``one_by_one(f, n)``: computes f(0), ..., f(n − 1), nestings of
arrays, one after the other, and returns them as one nesting with a first axis of n. What f is given
is an array of shape ()."""


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
    """Return where the greatest entry of each row is, the first of equal ones, shape (..., N)."""
    return xp.argmax(values, axis=-1)


@dataclass(frozen=True)
class Engine:
    """How one library runs many steps.

    Attributes:
        name: what ``engine=`` calls it: the name of its library, or ``"plain"``.
        way: how it takes steps, in a few words.
        new_loop: returns what takes the chunks of one training run, which keeps the accounts of a
            report.
        compile: makes a fast function of a pure one; where there is no compiler, it only gives it
            the settings.
        map_rows: makes a fast function of one that takes each row by itself; likewise.
        fuse: makes one operation of an elementwise function ``f(*arrays, xp=xp)``, where the
            library can and ``compile`` does not do it anyway.
        argmax: the library's fastest ``argmax(values, xp=xp)``, alike to :func:`argmax`.
        over_rows: returns the namespace for what goes over the rows of a chunk at once: the
            library's own, or one with faster functions of the same results.
        in_place: whether steps move the state in its memory, so that on a CPU a few networks of a
            stack at a time, which stay in its cache, are faster than all at once.
        one_by_one: takes networks of a stack one after the other in a compiled program; None where
            there is none.
        remark: what is to be said of how mini-batches of a shape are taken, if anything.
        describe: returns what writes the program of a step as text, (step, state, batches, xp), of
            mini-batches as a loop takes them; None where the loop itself tells the report.
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
