"""The plain loop: one step after the other, on any array library."""

from collections.abc import Sequence
from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines.engine import Engine, Loop, Step
from bp_xp.engines.report import Report

__all__ = ["PLAIN", "loop"]


def loop(step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace) -> tuple[Any, Array]:
    """Take one step for each mini-batch of a chunk; see :class:`bp_xp.engines.engine.Loop`."""
    outputs = []
    for k in range(batches[0].shape[0]):
        state, z = step(state, *(part[k, ...] for part in batches), xp=xp)
        outputs.append(z)
    return state, xp.stack(outputs)


def _new_loop(report: Report) -> Loop:
    def counted(
        step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        report.account(batches[0].shape[1:]).plain += batches[0].shape[0]
        return loop(step, state, batches, xp=xp)

    return counted


PLAIN = Engine("plain", "one step after the other", _new_loop)
"""The engine of every library without its own one, and of ``engine="plain"``."""
