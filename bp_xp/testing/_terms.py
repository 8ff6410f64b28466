"""The parts of a gradient besides the mean cost: sample weights, penalties, dropout.

One side is a training step, whose optimizer only returns the gradient. The other side implements
these parts a second time, in NumPy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import to_numpy
from bp_xp.math import dropout
from bp_xp.math.regularization import Regularization
from bp_xp.network import Network
from bp_xp.training.arguments import as_regularization
from bp_xp.training.step import Rule, State, make_step

__all__ = ["Terms", "gradient_of_step", "make_terms"]

# By how many standard deviations the share of neurons left out may differ from the rate.
_DEVIATIONS = 6.0


@dataclass(frozen=True)
class Terms:
    """The parts of a gradient besides the mean cost.

    Attributes:
        weights: how much each sample counts, shape (N,), on the host; None if all count equally.
        l1: for each layer, the strength of Σ |w|.
        l2: for each layer, the strength of ½ Σ w².
        dropout: the rate of each layer from the inputs to the last hidden one; empty without
            dropout.
        masks: the mask of each of these layers, shape (N, sizes[l]), float64; or None.
    """

    weights: np.ndarray | None
    l1: tuple[float, ...]
    l2: tuple[float, ...]
    dropout: tuple[float, ...]
    masks: tuple[np.ndarray | None, ...]

    def __bool__(self) -> bool:
        return self.weights is not None or any((*self.l1, *self.l2, *self.dropout))

    def __str__(self) -> str:
        given = {"l1": self.l1, "l2": self.l2, "dropout": self.dropout}
        names = ["weights"] if self.weights is not None else []
        names += [f"{name} {list(values)}" for name, values in given.items() if any(values)]
        return ", ".join(names)

    def mean(self, costs: np.ndarray) -> float:
        """Return Σ wₙ Cₙ / Σ wₙ."""
        weights = np.ones(len(costs)) if self.weights is None else self.weights
        return math.fsum(weights * costs) / math.fsum(weights)

    def penalty(self, layers: Sequence[Layer]) -> float:
        """Return what l1 and l2 add to the mean cost, for layers on the host."""
        each = zip(layers, self.l1, self.l2, strict=True)
        return math.fsum(
            l1 * np.abs(W).sum() + 0.5 * l2 * np.square(W).sum() for (W, _), l1, l2 in each
        )


def make_terms(network: Network, weights: Any, l1: Any, l2: Any, dropout: Any) -> Terms:
    """Return terms without masks.

    Raises:
        ValueError: a number is out of range, or there are too many or too few.
        TypeError: one is not a number.
    """
    given = {"l1": l1, "l2": l2, "dropout": dropout}
    checked = as_regularization(None, given, len(network.sizes) - 2)
    n = len(network.sizes) - 1
    l1, l2 = (
        tuple(one) if isinstance(one, Sequence) else (one,) * n for one in (checked.l1, checked.l2)
    )
    return Terms(weights, l1, l2, tuple(checked.dropout_rates), (None,) * n)


def gradient_of_step(
    network: Network, x: Any, y: Any, terms: Terms, seed: int
) -> tuple[list[Layer], Terms]:
    """Return the gradient that a training step passes to its optimizer, and the terms in it.

    Raises:
        AssertionError: a mask is not one that dropout with these rates can draw.
    """
    placement, xp = network.placement, network.xp
    with placement.active():
        samples = network._samples(x, y, terms.weights)
        n, dtype = samples.x.shape[0], samples.x.dtype
        state = ()
        masks: list[Any] = list(terms.masks)
        if terms.dropout:
            state = dropout.init_masks(
                terms.dropout, network.sizes, n, seed, asarray=placement.asarray
            )
            drawn, _ = dropout.draw_masks(state, terms.dropout, n, xp=xp, dtype=dtype)
            masks = [
                None if mask is None else _exact(to_numpy(mask), rate, l)
                for l, (mask, rate) in enumerate(zip(drawn, terms.dropout, strict=True))  # noqa: E741
            ]
        rule = Rule(
            model=network.model,
            update=_hand_over,
            regularization=Regularization(l1=terms.l1, l2=terms.l2, dropout=terms.dropout),
            weighted=samples.weights is not None,
        )
        layers = list(network.layers)
        new, _ = make_step(rule)(State(layers, layers, state), *samples.arrays, xp=xp)
        weights = None if samples.weights is None else to_numpy(samples.weights)
        weights = None if weights is None else weights.astype(np.float64)
        found = Terms(weights, terms.l1, terms.l2, terms.dropout, tuple(masks))
        return [Layer(*map(to_numpy, layer)) for layer in new.optimizer], found


def _hand_over(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: Any, *, xp: Namespace
) -> tuple[list[Layer], Any]:
    """Leave the parameters as they are, and return the gradients as the state."""
    del xp, state
    return list(layers), list(gradients)


def _exact(mask: Array, rate: float, l: int) -> np.ndarray:  # noqa: E741
    """Return a dropout mask in float64; it must be one that its rate allows."""
    where, kept = "the inputs'" if l == 0 else f"layer {l}'s", 1.0 / (1.0 - rate)
    values = mask.astype(np.float64)
    passes = values != 0.0
    off = values[passes & ~np.isclose(values, kept, rtol=1e-6)]
    if off.size:
        raise AssertionError(
            f"{where} dropout mask contains {off[0]:.6g}: with a rate of {rate:g}, every entry "
            f"must be 0 or {kept:.6g}."
        )
    share, spread = 1.0 - passes.mean(), math.sqrt(rate * (1.0 - rate) / passes.size)
    if abs(share - rate) > _DEVIATIONS * spread + 1.0 / passes.size:
        raise AssertionError(
            f"{where} dropout mask leaves out {share:.3f} of its {passes.size} entries, but the "
            f"rate is {rate:g}."
        )
    return passes * kept
