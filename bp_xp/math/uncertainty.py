"""The uncertainty of an ensemble.

The prediction of an ensemble is the mean of its members' probabilities. The entropy of this mean
has two parts: the mean entropy of the members, which more members would not lower (the sample is
ambiguous), and the mutual information between the class and the member, which measures how much the
members disagree (no member has learned such a sample).

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

# A probability of 0 counts as this in a logarithm; it is near float32's smallest normal number.
_LEAST = 1e-37


class Uncertainty(NamedTuple):
    """How uncertain an ensemble is of each sample, in nats.

    Attributes:
        entropy: predictive entropy, H[p̄] = −Σₖ p̄ₖ ln p̄ₖ of the mean p̄ of the members'
            probabilities, shape (N,).
        mutual_information: the part of it that is due to disagreement: H[p̄] minus the mean of the
            members' own entropies, shape (N,); 0 if all members agree.
    """

    entropy: Array
    mutual_information: Array


def entropy(p: Array, *, xp: Namespace) -> Array:
    """Return the entropy, shape (..., N), of the probabilities of K classes, shape (..., N, K).

    H[p] = −Σₖ pₖ ln pₖ, with 0 · ln 0 = 0
    """
    return -xp.sum(p * xp.log(xp.maximum(p, _LEAST)), axis=-1)


def uncertainty(outputs: Array, *, exclusive: bool, xp: Namespace) -> Uncertainty:
    """Return how uncertain an ensemble is, from the outputs of its members.

    Args:
        outputs: aᴸ of each member, probabilities, shape (M, N, O).
        exclusive: whether a sample has exactly one class: the outputs sum to 1, or there is only
            one. Otherwise each output is a separate yes-or-no question, and the entropies are
            summed.
        xp: their namespace.
    """
    # Outputs that do not exclude each other have a no and a yes each: shape (M, N, O, 2).
    yes = outputs if exclusive else outputs[..., None]
    p = probabilities(yes, xp=xp)
    total = entropy(xp.mean(p, axis=0), xp=xp)
    own = xp.mean(entropy(p, xp=xp), axis=0)
    # Rounding may make it slightly negative.
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
    """Return the cost of each sample, shape (N,), from outputs without a known weighted input.

    The mean of the members' outputs is an example. A matched cost is computed from z, so it gets a
    z that has these outputs: ln a for softmax, and ln a − ln(1 − a) for sigmoid.

    Returns:
        None for a custom matched cost whose output activation has no known inverse.
    """
    if not isinstance(model.cost, MatchedCost):
        return model.cost.value(a, y, xp=xp)
    log_a = xp.log(xp.maximum(a, _LEAST))
    if model.cost.output == "softmax":
        return model.cost.value(log_a, y, xp=xp)
    if model.cost.output == "sigmoid":
        return model.cost.value(log_a - xp.log(xp.maximum(1.0 - a, _LEAST)), y, xp=xp)
    return model.cost.value(a, y, xp=xp) if model.cost.output == "identity" else None
