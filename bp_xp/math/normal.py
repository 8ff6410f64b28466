"""The standard normal distribution: its distribution function Φ and its density φ.

Neither the array API standard nor NumPy has an error function, so it is implemented here, once for
all libraries.
"""

import math

from bp_xp._typing import Array, Namespace

__all__ = ["normal_cdf", "normal_density"]

# (1 + 2x) exp(x²) erfc(x) on x ≥ 0, as a Chebyshev series in t = (x − 3.75)/(x + 3.75), from −1 to
# 1: one series for all x, with the same relative error everywhere (Shepherd & Laframboise).
_MIDDLE = 3.75
_SERIES = (
    1.177578934567401754,
    -0.004590054580646477331,
    -0.08424913336651791558,
    0.05920993999819189050,
    -0.02665866843530575228,
    0.009074997670705265094,
    -0.002413163540417608191,
    0.0004907758365258086323,
    -0.00006916973302501206367,
    4.139027986073010168e-6,
    7.740383066198490669e-7,
    -2.188640104923439566e-7,
    1.076499946567091038e-8,
    4.521959811218286898e-9,
    -7.754400208831351106e-10,
    -6.318088340886684494e-11,
    2.868795010930669898e-11,
    1.945586854577734723e-13,
    -9.654696748433438906e-13,
    3.252548148148739842e-14,
    3.347811948286805388e-14,
    -1.864562880419313102e-15,
    -1.250795053068864709e-15,
    7.418235256624043463e-17,
    5.068148904796111317e-17,
)

# From ±40 on, φ is 0 in float64, and for large z, z² would overflow.
_FURTHEST = 40.0


def normal_density(z: Array, *, xp: Namespace) -> Array:
    """Return the density of the standard normal distribution, with the shape of z.

    φ(z) = exp(−½ z²)/√(2π)

    Args:
        z: any shape.
        xp: its namespace.
    """
    near = xp.minimum(xp.abs(z), _FURTHEST)
    return xp.exp(-0.5 * near * near) / math.sqrt(2.0 * math.pi)


def normal_cdf(z: Array, density: Array, *, xp: Namespace) -> Array:
    """Return the standard normal distribution function, with the shape of z.

    Φ(z) = ½ erfc(−z/√2)

    The absolute error is below 2 units of rounding of the dtype. For negative z, where Φ is small,
    the relative error is below 4 + z² units, because the exponent of φ has the rounding of z².

    Args:
        z: any shape.
        density: φ(z), as :func:`normal_density` returns it.
        xp: their namespace.

    References:
        Shepherd & Laframboise, *Chebyshev approximation of (1 + 2x) exp(x²) erfc x in 0 ≤ x < ∞*,
        Mathematics of Computation 36, 1981; summed by Clenshaw's recurrence.
    """
    distance = xp.minimum(xp.abs(z), _FURTHEST)
    middle = math.sqrt(2.0) * _MIDDLE  # x is |z|/√2
    series = _chebyshev_sum(_terms(z, xp), (distance - middle) / (distance + middle))
    # ½ erfc(x), in which exp(−x²) is √(2π) φ
    tail = math.sqrt(0.5 * math.pi) * density * series / (1.0 + math.sqrt(2.0) * distance)
    return xp.where(z > 0, 1.0 - tail, tail)


def _terms(z: Array, xp: Namespace) -> tuple[float, ...]:
    """Return the terms of the series that matter at the precision of the dtype."""
    least = float(xp.finfo(z.dtype).eps) / 8.0
    return tuple(term for term in _SERIES if abs(term) > least)


def _chebyshev_sum(terms: tuple[float, ...], t: Array) -> Array:
    """Return Σ cₖ Tₖ(t), with bₖ = cₖ + 2t bₖ₊₁ − bₖ₊₂ from the last term down."""
    first, *others, last = terms
    double, b, b_above = 2.0 * t, last, 0.0
    for term in reversed(others):
        b, b_above = double * b + (term - b_above), b
    return t * b + (first - b_above)
