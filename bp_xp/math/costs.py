"""Cost functions: each C beside its derivative.

A cost is a mean over samples, so the functions here return one number a sample. There are two
kinds. A :class:`Cost` is a function of the outputs a and the targets y; its gradient ∇ₐC enters BP1
beside the σ′ of any output activation. A :class:`MatchedCost` is defined together with one output
activation and computed from the weighted input z: the logarithm undoes the exponential before
either is rounded, and the error of the output layer becomes a − y.
"""

from dataclasses import dataclass
from typing import Protocol

from bp_xp._typing import Array, Namespace

__all__ = [
    "COSTS",
    "Cost",
    "CostGradient",
    "CostValue",
    "MatchedCost",
    "cross_entropy_of_outputs",
]


class CostValue(Protocol):
    """C: the cost of each sample."""

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        """Return the cost of each sample, shape (N,), for outputs and targets of (N, O)."""
        ...


class CostGradient(Protocol):
    """∇ₐC: the derivatives of each sample's cost by its outputs."""

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        """Return ∇ₐC, shape (N, O)."""
        ...


class MatchedValue(Protocol):
    """C as a function of the weighted input of the output layer."""

    def __call__(self, z: Array, y: Array, *, xp: Namespace) -> Array:
        """Return the cost of each sample, shape (N,), for z and targets of (N, O)."""
        ...


class MatchedError(Protocol):
    """δᴸ = ∂C/∂zᴸ of each sample."""

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        """Return δᴸ, shape (N, O)."""
        ...


@dataclass(frozen=True)
class Cost:
    """A cost of the outputs, for any output activation.

    Attributes:
        name: what files and messages call it.
        value: C, called as ``value(a, y, xp=xp)``, one number a sample.
        gradient: ∇ₐC, called as ``gradient(a, y, xp=xp)``, for each sample by itself: the division
            by the number of samples is not its business.
        output: name of the output activation that a network takes unless told otherwise.

    Examples:
        The sum of fourth powers:

        >>> quartic = Cost(
        ...     "quartic",
        ...     lambda a, y, *, xp: xp.sum((a - y) ** 4, axis=-1),
        ...     lambda a, y, *, xp: 4 * (a - y) ** 3,
        ... )
    """

    name: str
    value: CostValue
    gradient: CostGradient
    output: str = "identity"


@dataclass(frozen=True)
class MatchedCost:
    """A cost together with the one output activation that it is meant for.

    Attributes:
        name: what files and messages call it.
        value: C, called as ``value(z, y, xp=xp)``, one number a sample.
        error: δᴸ, called as ``error(a, y, xp=xp)``, for each sample by itself.
        output: name of its output activation.
    """

    name: str
    value: MatchedValue
    error: MatchedError
    output: str


def _difference(a: Array, y: Array, *, xp: Namespace) -> Array:
    """Return a − y: the gradient of the quadratic cost, and the error of both cross-entropies."""
    return a - y


def _quadratic(a: Array, y: Array, *, xp: Namespace) -> Array:
    # ½‖a − y‖² (Nielsen, eq. 26)
    residual = a - y
    return 0.5 * xp.sum(residual * residual, axis=-1)


def _huber(a: Array, y: Array, *, xp: Namespace) -> Array:
    # Σ ½r² where |r| ≤ 1, |r| − ½ beyond; with m = min(|r|, 1) both are m(|r| − ½m).
    r = xp.abs(a - y)
    m = xp.minimum(r, 1.0)
    return xp.sum(m * (r - 0.5 * m), axis=-1)


def _huber_gradient(a: Array, y: Array, *, xp: Namespace) -> Array:
    return xp.minimum(xp.maximum(a - y, -1.0), 1.0)


def _binary_cross_entropy(z: Array, y: Array, *, xp: Namespace) -> Array:
    # −Σ y ln a + (1 − y) ln(1 − a) with a = σ(z) (Nielsen, eq. 63) is Σ ln(1 + eᶻ) − y z, and
    # ln(1 + eᶻ) = max(z, 0) + ln(1 + e^−|z|). The large terms cancel before the small one is added.
    return xp.sum((xp.maximum(z, 0.0) - y * z) + xp.log1p(xp.exp(-xp.abs(z))), axis=-1)


def cross_entropy_of_outputs(a: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the cross-entropy of each sample from rounded outputs, shape (..., N).

    C = −Σ y ln a + (1 − y) ln(1 − a)

    Training computes the same from the weighted input, without loss. An output that is rounded to
    0 or 1 has lost how near it was: the term counts 0 where that is its target, and the largest
    number there is where it is not.

    Args:
        a: outputs from 0 to 1, shape (..., N, O).
        y: targets from 0 to 1, of the same shape.
        xp: their namespace.

    References:
        Nielsen, ch. 3, eq. (63), with 0 · ln 0 = 0 and finite numbers as in his program.
    """
    terms = -(y * xp.log(a) + (1 - y) * xp.log(1 - a))
    terms = xp.where(xp.isnan(terms), xp.zeros_like(terms), terms)
    return xp.sum(xp.minimum(terms, xp.finfo(terms.dtype).max), axis=-1)


def _categorical_cross_entropy(z: Array, y: Array, *, xp: Namespace) -> Array:
    # −Σ yₖ ln aₖ with a = softmax(z); ln aₖ = zₖ − ln Σ exp z, and Σ yₖ = 1 (Nielsen, eq. 80).
    z = z - xp.max(z, axis=-1, keepdims=True)
    return xp.log(xp.sum(xp.exp(z), axis=-1)) - xp.sum(y * z, axis=-1)


COSTS: dict[str, Cost | MatchedCost] = {
    cost.name: cost
    for cost in (
        Cost("quadratic", _quadratic, _difference, output="sigmoid"),
        Cost("huber", _huber, _huber_gradient, output="identity"),
        MatchedCost("binary_cross_entropy", _binary_cross_entropy, _difference, output="sigmoid"),
        MatchedCost(
            "categorical_cross_entropy", _categorical_cross_entropy, _difference, output="softmax"
        ),
    )
}
"""The cost functions that a name stands for."""
