"""What an engine is."""

import functools
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
            step: the step, the same at each call.
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
        new_loop: returns what runs the chunks of one training run.
        compile: ``compile(function, *settings)`` makes a fast function of a pure one, its first
            arguments given; it may call a loop. Without a compiler, ``functools.partial``.
    """

    new_loop: Callable[[], Loop]
    compile: Callable[..., Callable[..., Any]] = functools.partial
