"""The weighted input and the four equations of backpropagation.

Samples are rows: a batch of N samples is an (N, I) matrix A, the weights of a layer are W of shape
(O, I), and one matrix product serves the whole batch. The book writes one sample as a column; its
w a is our A Wᵀ, its wᵀ δ our Δ W, its δ aᵀ our Δᵀ A.

Every function broadcasts over leading axes, so a stack of networks, W of shape (..., O, I), trains
with one product. Arguments are not checked here.

References:
    M. Nielsen, *Neural Networks and Deep Learning*, Determination Press, 2015, chapter 2.
"""

from bp_xp._typing import Array, Namespace
from bp_xp.math.rows import sum_rows

__all__ = [
    "bias_gradient",
    "coupled_error",
    "hidden_error",
    "output_error",
    "weight_gradient",
    "weighted_input",
]


def weighted_input(a: Array, W: Array, b: Array) -> Array:
    """Compute the weighted input from the activations of the layer below.

    zˡ = aˡ⁻¹ (Wˡ)ᵀ + bˡ

    Args:
        a: aˡ⁻¹, the activations below, shape (N, I).
        W: Wˡ, the weights, shape (O, I).
        b: bˡ, the biases, shape (O,).

    Returns:
        zˡ, shape (N, O).

    References:
        Nielsen, ch. 2, eq. (25).
    """
    z = a @ W.mT
    z += b[..., None, :]
    return z


def output_error(nabla_a: Array, sigma_prime_z: Array) -> Array:
    """Compute the error of the output layer (BP1).

    δᴸ = ∇ₐC ⊙ σ′(zᴸ)

    Args:
        nabla_a: ∇ₐC, each sample's derivatives of the cost by its outputs, shape (N, O).
        sigma_prime_z: σ′(zᴸ), shape (N, O).

    Returns:
        δᴸ = ∂C/∂zᴸ, shape (N, O).

    References:
        Nielsen, ch. 2, eq. (BP1).
    """
    return nabla_a * sigma_prime_z


def coupled_error(nabla_a: Array, jacobian: Array) -> Array:
    """Compute the error of an output layer whose neurons are coupled, as in softmax (BP1).

    δᴸⱼ = Σₖ ∂C/∂aₖ ∂aₖ/∂zⱼ

    An elementwise σ has a diagonal Jacobian, and this becomes :func:`output_error`.

    Args:
        nabla_a: ∇ₐC, shape (N, O).
        jacobian: ∂aₖ/∂zⱼ at index [n, k, j], shape (N, O, O).

    Returns:
        δᴸ, shape (N, O).

    References:
        Nielsen, ch. 2, eq. (36), before the sum is reduced to its one term.
    """
    return (nabla_a[..., None, :] @ jacobian)[..., 0, :]


def hidden_error(delta_next: Array, W_next: Array, sigma_prime_z: Array) -> Array:
    """Propagate the error back through one layer (BP2).

    δˡ = (δˡ⁺¹ Wˡ⁺¹) ⊙ σ′(zˡ)

    Args:
        delta_next: δˡ⁺¹, the error of the layer above, shape (N, O).
        W_next: Wˡ⁺¹, the weights of the layer above, shape (O, I).
        sigma_prime_z: σ′(zˡ), shape (N, I).

    Returns:
        δˡ = ∂C/∂zˡ, shape (N, I).

    References:
        Nielsen, ch. 2, eq. (BP2).
    """
    delta = delta_next @ W_next
    delta *= sigma_prime_z
    return delta


def bias_gradient(delta: Array, *, xp: Namespace) -> Array:
    """Sum the error over the samples: the gradient of the biases (BP3).

    ∂C/∂bˡ = Σₙ δˡₙ

    Args:
        delta: δˡ, shape (N, O). Scaled by 1/N it gives the gradient of the mean cost.
        xp: the namespace of δˡ.

    Returns:
        ∂C/∂bˡ, shape (O,).

    References:
        Nielsen, ch. 2, eq. (BP3), summed over the samples of a batch.
    """
    return sum_rows(delta, xp=xp)


def weight_gradient(delta: Array, a_below: Array) -> Array:
    """Multiply the error by the activations below: the gradient of the weights (BP4).

    ∂C/∂Wˡ = (δˡ)ᵀ aˡ⁻¹

    Args:
        delta: δˡ, shape (N, O). Scaled by 1/N it gives the gradient of the mean cost.
        a_below: aˡ⁻¹, shape (N, I).

    Returns:
        ∂C/∂Wˡ, shape (O, I).

    References:
        Nielsen, ch. 2, eq. (BP4), summed over the samples of a batch.
    """
    return delta.mT @ a_below
