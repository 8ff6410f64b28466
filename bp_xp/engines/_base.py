"""What an engine is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bp_xp._typing import Array, Namespace

__all__ = ["Engine", "Loop", "Step"]

Step = Callable[[Any, Array, Array], tuple[Any, Array]]
"""A training step: a pure function (state, x, y) -> (state, zᴸ). It may overwrite its state."""


class Loop(Protocol):
    """Runs the steps of a chunk, one after the other."""

    def __call__(
        self, step: Step, state: Any, xs: Array, ys: Array, *, xp: Namespace
    ) -> tuple[Any, Array]:
        """Take one step for each mini-batch of a chunk.

        Args:
            step: the step.
            state: a nesting of tuples and lists of arrays; used up.
            xs: inputs, shape (steps, batch, I).
            ys: targets, shape (steps, batch, O).
            xp: their namespace.

        Returns:
            The last state, and zᴸ of every step, shape (steps, batch, O).
        """
        ...


@dataclass(frozen=True)
class Engine:
    """How one library runs many steps.

    Attributes:
        loop: runs the steps of a chunk.
        compile: makes a fast function of a pure one, which may call ``loop``; the same function
            where the library has no compiler.
    """

    loop: Loop
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
