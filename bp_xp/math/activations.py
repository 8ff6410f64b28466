"""Activation functions: each σ next to its σ′.

σ takes the weighted input z. σ′ takes z and a = σ(z), and uses whichever is cheaper: the sigmoid's
a(1 − a) needs no second exponential. Both return new arrays and do not change their arguments. No
function here overflows or warns, however large z is.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from bp_xp._typing import Array, Namespace
from bp_xp.math.normal import normal_cdf, normal_density

__all__ = ["ACTIVATIONS", "Activation", "Sigma", "SigmaPrime"]


class Sigma(Protocol):
    """σ: the weighted input to the activation."""

    def __call__(self, z: Array, *, xp: Namespace) -> Array:
        """Return σ(z), with the shape of z, (N, O)."""
        ...


class SigmaPrime(Protocol):
    """σ′: the derivative of the activation with respect to the weighted input."""

    def __call__(self, z: Array, a: Array, *, xp: Namespace) -> Array:
        """Return σ′(z), with the shape of z, (N, O); a is σ(z)."""
        ...


@dataclass(frozen=True)
class Activation:
    """An activation function: σ and σ′.

    Attributes:
        name: its name in files and messages.
        sigma: σ, called as ``sigma(z, xp=xp)``; ``xp`` is the namespace of ``z``.
        sigma_prime: σ′, called as ``sigma_prime(z, a, xp=xp)`` with ``a`` = σ(z).
        coupled: whether each output depends on every z of its sample, as in softmax. Then
            ``sigma_prime`` returns the Jacobian ∂aₖ/∂zⱼ of shape (N, O, O), and only the output
            layer can use the function.
        probability: whether the outputs are probabilities between 0 and 1, so that a class can be
            predicted.

    Examples:
        A sine, which is not built in:

        >>> sine = Activation(
        ...     "sine", lambda z, *, xp: xp.sin(z), lambda z, a, *, xp: xp.cos(z)
        ... )
    """

    name: str
    sigma: Sigma
    sigma_prime: SigmaPrime
    coupled: bool = False
    probability: bool = False


def _sigmoid(z: Array, *, xp: Namespace) -> Array:
    # 1/(1 + e⁻ᶻ), with a lower limit on z so that the exponential does not overflow. At the limit
    # σ(z) is the smallest normal number. (½(1 + tanh ½z) needs no limit, but loses this tail to
    # rounding.) PyTorch's engine recognizes these lines and replaces them by its own sigmoid:
    # backends/torch/operators.py. Change both together.
    a = xp.exp(-xp.maximum(z, -_furthest(z.dtype, xp)))
    a += 1.0
    return 1.0 / a


def _furthest(dtype: Any, xp: Namespace) -> float:
    """Return −log of the smallest normal number of a dtype."""
    return -math.log(float(xp.finfo(dtype).smallest_normal))


def _sigmoid_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    slope = 1.0 - a
    slope *= a
    return slope


def _tanh(z: Array, *, xp: Namespace) -> Array:
    return xp.tanh(z)


def _tanh_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    return 1.0 - a * a


def _relu(z: Array, *, xp: Namespace) -> Array:
    return xp.maximum(z, 0.0)


def _relu_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    # At the kink, z = 0, any slope from 0 to 1 would do; 0 is usual.
    return xp.astype(z > 0, z.dtype)


_LEAK = 0.01


def _leaky_relu(z: Array, *, xp: Namespace) -> Array:
    return xp.maximum(z, _LEAK * z)


def _leaky_relu_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    return _LEAK + (1.0 - _LEAK) * xp.astype(z > 0, z.dtype)


def _elu(z: Array, *, xp: Namespace) -> Array:
    return xp.maximum(z, 0.0) + xp.expm1(xp.minimum(z, 0.0))


def _elu_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    return xp.exp(xp.minimum(z, 0.0))


def _silu(z: Array, *, xp: Namespace) -> Array:
    # z has the same lower limit as in σ: −10³⁸ times the smallest number would be −1.
    return xp.maximum(z, -_furthest(z.dtype, xp)) * _sigmoid(z, xp=xp)


def _silu_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    # (z s)′ = s + z s (1 − s) = s + a (1 − s)
    s = _sigmoid(z, xp=xp)
    return s + a * (1.0 - s)


# The usual approximation of z Φ(z): ½ z (1 + tanh u), u = √(2/π) (z + c z³).
_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


def _near(z: Array, xp: Namespace) -> Array:
    # Beyond ±10, tanh u is ±1 to the last digit, and for large z, z³ would overflow.
    return xp.minimum(xp.maximum(z, -10.0), 10.0)


def _gelu_tanh(z: Array, xp: Namespace) -> Array:
    return xp.tanh(_GELU_SCALE * z * (1.0 + _GELU_CUBIC * z * z))


def _gelu(z: Array, *, xp: Namespace) -> Array:
    return 0.5 * z * (1.0 + _gelu_tanh(_near(z, xp), xp))


def _gelu_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    # ½(1 + t) + ½ z (1 − t²) u′ with t = tanh u, u′ = √(2/π) (1 + 3 c z²)
    z = _near(z, xp)
    t = _gelu_tanh(z, xp)
    u_prime = _GELU_SCALE * (1.0 + 3.0 * _GELU_CUBIC * z * z)
    return 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * u_prime


def _gelu_exact(z: Array, *, xp: Namespace) -> Array:
    # z Φ(z) (Hendrycks & Gimpel, 2016)
    return z * normal_cdf(z, normal_density(z, xp=xp), xp=xp)


def _gelu_exact_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    # Φ(z) + z φ(z)
    density = normal_density(z, xp=xp)
    return normal_cdf(z, density, xp=xp) + z * density


def _softplus(z: Array, *, xp: Namespace) -> Array:
    # log(1 + eᶻ), written so that the exponential cannot overflow.
    return xp.maximum(z, 0.0) + xp.log1p(xp.exp(-xp.abs(z)))


def _softplus_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    return _sigmoid(z, xp=xp)


def _identity(z: Array, *, xp: Namespace) -> Array:
    return 1.0 * z


def _identity_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    return xp.ones_like(z)


def _softmax(z: Array, *, xp: Namespace) -> Array:
    # The largest z is subtracted so that exp cannot overflow; the quotient does not change.
    a = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
    a /= xp.sum(a, axis=-1, keepdims=True)
    return a


def _softmax_jacobian(z: Array, a: Array, *, xp: Namespace) -> Array:
    # ∂aₖ/∂zⱼ = aₖ (1 if k = j else 0) − aₖ aⱼ
    # The identity matrix is cut out of ones, since an array inside a compiled step has no device.
    unit = xp.triu(xp.tril(xp.ones_like(a[..., :, None] * a[..., None, :])))
    return a[..., :, None] * (unit - a[..., None, :])


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("sigmoid", _sigmoid, _sigmoid_prime, probability=True),
        Activation("tanh", _tanh, _tanh_prime),
        Activation("relu", _relu, _relu_prime),
        Activation("leaky_relu", _leaky_relu, _leaky_relu_prime),
        Activation("elu", _elu, _elu_prime),
        Activation("silu", _silu, _silu_prime),
        Activation("gelu", _gelu, _gelu_prime),
        Activation("gelu_exact", _gelu_exact, _gelu_exact_prime),
        Activation("softplus", _softplus, _softplus_prime),
        Activation("identity", _identity, _identity_prime),
        Activation("softmax", _softmax, _softmax_jacobian, coupled=True, probability=True),
    )
}
"""The built-in activation functions, by name.

In PyTorch they are those of ``torch.nn.functional`` with its defaults, with two exceptions:
``"gelu"`` is ``gelu(z, approximate="tanh")``, and PyTorch's default is ``"gelu_exact"``, z Φ(z),
which takes longer; ``"softplus"`` has no threshold beyond which it is z. The negative slope of
``"leaky_relu"`` is 0.01; in Keras's layer it is 0.3.

References:
    Hendrycks & Gimpel, *Gaussian error linear units (GELUs)*, 2016, for both of ``"gelu"`` and
    ``"gelu_exact"``.
"""
