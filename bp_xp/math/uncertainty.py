"""What the members of an ensemble, taken together, do not know.

The mean of the members' probabilities is what the ensemble tells. Its entropy has two parts: the
entropy that the members have in the mean, which more of them would not lower (a sample is
ambiguous), and the mutual information between the class and the member, which is what the members
disagree on (nobody has learned such a sample).

References:
    Lakshminarayanan, Pritzel and Blundell, *Simple and scalable predictive uncertainty estimation
    using deep ensembles*, NeurIPS 2017.

    Houlsby, Huszár, Ghahramani and Lengyel, *Bayesian active learning for classification and
    preference learning*, 2011, eq. (2): the mutual information.
"""

from typing import NamedTuple

from bp_xp._typing import Array, Namespace
from bp_xp.math.classes import probabilities
from bp_xp.math.costs import MatchedCost
from bp_xp.math.model import Model

__all__ = ["Uncertainty", "cost_of_outputs", "entropy", "spread_of", "uncertainty"]

# What a probability of 0 counts as in a logarithm; near the least normal number of float32.
_LEAST = 1e-37


class Uncertainty(NamedTuple):
    """How uncertain an ensemble is of each sample, in nats.

    Attributes:
        entropy: predictive entropy, H[p̄] = −Σₖ p̄ₖ ln p̄ₖ of the mean p̄ of the members'
            probabilities, shape (N,).
        mutual_information: the part of it that the members disagree on, H[p̄] less the mean of
            their own entropies, shape (N,); 0 where all members say the same.
    """

    entropy: Array
    mutual_information: Array


def entropy(p: Array, *, xp: Namespace) -> Array:
    """Return the entropy of probabilities, shape (..., N), for those of K classes, (..., N, K).

    H[p] = −Σₖ pₖ ln pₖ, with 0 · ln 0 = 0
    """
    return -xp.sum(p * xp.log(xp.maximum(p, _LEAST)), axis=-1)


def uncertainty(outputs: Array, *, exclusive: bool, xp: Namespace) -> Uncertainty:
    """Return how uncertain an ensemble is, from the outputs of its members.

    Args:
        outputs: aᴸ of each member, probabilities, shape (M, N, O).
        exclusive: whether a sample has one class: the outputs add up to 1, or there is one. Else
            each output is a yes or no of its own, and their entropies are added up.
        xp: their namespace.
    """
    # Of outputs that do not exclude each other, each has a no and a yes: shape (M, N, O, 2).
    yes = outputs if exclusive else outputs[..., None]
    p = probabilities(yes, xp=xp)
    total = entropy(xp.mean(p, axis=0), xp=xp)
    own = xp.mean(entropy(p, xp=xp), axis=0)
    # Rounding may leave a little less than none.
    shared = xp.maximum(total - own, 0.0)
    if exclusive:
        return Uncertainty(total, shared)
    return Uncertainty(xp.sum(total, axis=-1), xp.sum(shared, axis=-1))


def spread_of(outputs: Array, *, xp: Namespace) -> Array:
    """Return the standard deviation over the members, shape (N, O), for outputs of (M, N, O).

    √(mean (a − ā)²), 0 for a single member
    """
    deviation = outputs - xp.mean(outputs, axis=0, keepdims=True)
    return xp.sqrt(xp.mean(deviation * deviation, axis=0))


def cost_of_outputs(model: Model, a: Array, y: Array, *, xp: Namespace) -> Array | None:
    """Return the cost of each sample, shape (N,), from outputs that no weighted input belongs to.

    The mean of the members' outputs is one. A matched cost is computed from z: it is given the z
    that has these outputs, ln a for softmax, and ln a − ln(1 − a) for sigmoid.

    Returns:
        None for a matched cost of a user's own whose output activation has no known inverse.
    """
    if not isinstance(model.cost, MatchedCost):
        return model.cost.value(a, y, xp=xp)
    log_a = xp.log(xp.maximum(a, _LEAST))
    if model.cost.output == "softmax":
        return model.cost.value(log_a, y, xp=xp)
    if model.cost.output == "sigmoid":
        return model.cost.value(log_a - xp.log(xp.maximum(1.0 - a, _LEAST)), y, xp=xp)
    return model.cost.value(a, y, xp=xp) if model.cost.output == "identity" else None
