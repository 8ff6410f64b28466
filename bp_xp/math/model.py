"""The model: what a network computes, without its parameters."""

from dataclasses import dataclass

from bp_xp.math.activations import Activation
from bp_xp.math.costs import Cost, MatchedCost, n_outputs_of

__all__ = ["Model", "classify_pairing"]


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
        """Whether the outputs are probabilities, so that a class can be predicted."""
        return self.activations[-1].probability


def classify_pairing(cost: Cost | MatchedCost, output: Activation, n_outputs: int) -> str:
    """Return why a cost and an output activation do not fit together; empty if they do.

    Returns:
        ``"unmatched"``: the cost is computed together with another activation; ``"one output"``:
        the activation makes the outputs sum to 1, and there is only one; ``"weights"``: the cost
        has weights for another number of outputs.
    """
    if isinstance(cost, MatchedCost) and cost.output != output.name:
        return "unmatched"
    if n_outputs_of(cost) not in (None, n_outputs):
        return "weights"
    return "one output" if output.coupled and n_outputs == 1 else ""
