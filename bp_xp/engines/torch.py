"""The PyTorch engine: the plain loop without the bookkeeping that autograd needs."""

from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines import plain
from bp_xp.engines._base import Engine, Step

__all__ = ["ENGINE"]


def _loop(step: Step, state: Any, xs: Array, ys: Array, *, xp: Namespace) -> tuple[Any, Array]:
    import torch

    with torch.inference_mode():
        return plain.loop(step, state, xs, ys, xp=xp)


ENGINE = Engine(new_loop=lambda: _loop)
