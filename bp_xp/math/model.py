"""The model: what a network computes, without its parameters."""

from dataclasses import dataclass

from bp_xp._typing import Array, Namespace
from bp_xp.math.activations import Activation
from bp_xp.math.costs import Cost, MatchedCost

__all__ = ["Model", "class_columns", "classify_pairing"]


@dataclass(frozen=True)
class Model:
    """What a network computes.

    Attributes:
        sizes: neurons of each layer, the inputs first.
        activations: σ of each layer after the inputs, ``len(sizes) - 1`` of them.
        cost: C.
    """

    sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    cost: Cost | MatchedCost

    @property
    def classifies(self) -> bool:
        """Whether the outputs are probabilities, so that a class can be told."""
        return self.activations[-1].probability


def classify_pairing(cost: Cost | MatchedCost, output: Activation, n_outputs: int) -> str:
    """Return what keeps a cost and an output activation apart; empty where they go together.

    Returns:
        ``"unmatched"``: the cost is computed together with another activation; ``"one output"``:
        the activation shares 1 among outputs, and there is one.
    """
    if isinstance(cost, MatchedCost) and cost.output != output.name:
        return "unmatched"
    return "one output" if output.coupled and n_outputs == 1 else ""


def class_columns(a: Array, *, xp: Namespace) -> Array:
    """Return probabilities, or targets, with a column for each class, shape (N, K).

    One output is the probability of class 1, and becomes two columns.
    """
    return a if a.shape[1] > 1 else xp.concat([1.0 - a, a], axis=1)
