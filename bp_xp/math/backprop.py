"""Backpropagation: the forward trace, the backward loop.

The functions here apply the equations to a :class:`~bp_xp.math.model.Model` layer by layer. They
do not check their arguments.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.math import equations
from bp_xp.math.costs import MatchedCost
from bp_xp.math.freshness import returns_fresh
from bp_xp.math.model import Model

__all__ = [
    "Masks",
    "Trace",
    "backpropagate",
    "cost_of_samples",
    "errors",
    "feedforward",
    "forward",
    "gradient",
]


class Trace(NamedTuple):
    """The arrays that a forward pass keeps.

    Attributes:
        zs: z¹ ... zᴸ, the weighted inputs, shape (N, sizes[l]) each.
        activations: a⁰ = x, a¹ ... aᴸ; one more than ``zs``.
        passed: ã⁰ ... ãᴸ⁻¹, what each layer passes to the next: its activations, times its mask
            if it has dropout.
    """

    zs: list[Array]
    activations: list[Array]
    passed: list[Array]


Masks = Sequence[Array | None]
"""A mask for each layer from the inputs to the last hidden one, shape (N, sizes[l]), or None."""


def feedforward(model: Model, layers: Sequence[Layer], x: Array, *, xp: Namespace) -> Array:
    """Return the outputs aᴸ, shape (N, O), for inputs of shape (N, I), keeping nothing else."""
    a = x
    for (W, b), activation in zip(layers, model.activations, strict=True):
        a = activation.sigma(equations.weighted_input(a, W, b), xp=xp)
    return a


def forward(
    model: Model,
    layers: Sequence[Layer],
    x: Array,
    *,
    masks: Masks | None = None,
    xp: Namespace,
) -> Trace:
    """Feed x forward and keep every z and a.

    zˡ = ãˡ⁻¹ (Wˡ)ᵀ + bˡ, aˡ = σ(zˡ), and ãˡ = aˡ ⊙ mˡ with a mask, otherwise aˡ
    """
    zs, activations, passed = [], [x], []
    masks = masks or [None] * len(layers)
    for (W, b), activation, mask in zip(layers, model.activations, masks, strict=True):
        a = activations[-1]
        passed.append(a if mask is None else a * mask)
        z = equations.weighted_input(passed[-1], W, b)
        zs.append(z)
        activations.append(activation.sigma(z, xp=xp))
    return Trace(zs, activations, passed)


def cost_of_samples(model: Model, z: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the cost of each sample, shape (N,), from the weighted input of the output layer."""
    if isinstance(model.cost, MatchedCost):
        return model.cost.value(z, y, xp=xp)
    return model.cost.value(model.activations[-1].sigma(z, xp=xp), y, xp=xp)


def errors(
    model: Model,
    layers: Sequence[Layer],
    run: Trace,
    y: Array,
    *,
    weights: Array | None = None,
    masks: Masks | None = None,
    of_sum: bool = False,
    xp: Namespace,
) -> Iterator[tuple[Array, Array | None]]:
    """Propagate the error back, from the output layer down (BP1, then BP2).

    δᴸ = ∇ₐC ⊙ σ′(zᴸ), and δˡ = (δˡ⁺¹ Wˡ⁺¹) ⊙ σ′(zˡ) for l = L − 1, ..., 1

    Args:
        model: what the network computes.
        layers: its parameters, first layer first.
        run: the trace of the forward pass.
        y: targets, shape (N, O).
        weights: how much each sample counts, as for :func:`backpropagate`.
        masks: those of the forward pass.
        of_sum: as for :func:`backpropagate`.
        xp: their namespace.

    Yields:
        For l = L, ..., 1: δˡ = ∂C/∂zˡ of the mean cost, shape (N, sizes[l]), and its factor σ′(zˡ).
        The factor includes the mask if the layer has one, and is None if the cost is matched to σ,
        so that σ′(zᴸ) cancels.
    """
    zs, activations, _ = run
    delta, sigma_prime_z = _output_error(model, zs[-1], activations[-1], y, xp=xp)
    # The 1/N of the mean is applied once, here, since δ is smaller than the gradients.
    share = _counts(weights) if of_sum else _shares(weights, delta.shape[-2], xp=xp)
    if isinstance(model.cost, MatchedCost) and not returns_fresh(model.cost.error):
        delta = delta * share  # it may be y itself
    else:
        delta *= share
    yield delta, sigma_prime_z
    for l in range(len(layers) - 2, -1, -1):  # noqa: E741 - the book's index of layers
        sigma_prime_z = model.activations[l].sigma_prime(zs[l], activations[l + 1], xp=xp)
        if masks is not None and (mask := masks[l + 1]) is not None:
            sigma_prime_z = sigma_prime_z * mask
        delta = equations.hidden_error(delta, layers[l + 1].W, sigma_prime_z)
        yield delta, sigma_prime_z


def gradient(delta: Array, a_below: Array, *, xp: Namespace) -> Layer:
    """Return a layer's ∂C/∂W, shape (O, I), and ∂C/∂b, shape (O,), from its error (BP4, BP3)."""
    return Layer(equations.weight_gradient(delta, a_below), equations.bias_gradient(delta, xp=xp))


def backpropagate(
    model: Model,
    layers: Sequence[Layer],
    x: Array,
    y: Array,
    *,
    weights: Array | None = None,
    masks: Masks | None = None,
    trainable: Sequence[bool] | None = None,
    of_sum: bool = False,
    xp: Namespace,
) -> tuple[list[Layer], Array]:
    """Compute the derivatives of the mean cost with respect to every weight and bias.

    Args:
        model: what the network computes.
        layers: its parameters, first layer first.
        x: inputs, shape (N, I).
        y: targets, shape (N, O).
        weights: how much each sample counts, shape (N,), not negative; with None all samples count
            equally. Weight k is the same as k copies of the sample, and weight 0 leaves it out: the
            cost is Σ wₙ Cₙ / Σ wₙ.
        masks: those of dropout, or None.
        trainable: which layers' derivatives to compute, at least one; None computes all. The error
            is propagated back only as far as they need it.
        of_sum: whether to use the cost Σ wₙ Cₙ instead: for one share of a mini-batch, whose mean
            needs the other shares; N may be 0.
        xp: their namespace.

    Returns:
        One Layer of derivatives for each chosen layer, and zᴸ of shape (N, O), from which
        :func:`cost_of_samples` computes the cost.

    References:
        Nielsen, ch. 2, 'The backpropagation algorithm', here for a whole mini-batch.
    """
    run = forward(model, layers, x, masks=masks, xp=xp)
    walk = errors(model, layers, run, y, weights=weights, masks=masks, of_sum=of_sum, xp=xp)
    wanted = [True] * len(layers) if trainable is None else list(trainable)
    down_to_lowest = range(len(layers) - 1, wanted.index(True) - 1, -1)
    gradients = [
        gradient(delta, run.passed[l], xp=xp)
        for l, (delta, _) in zip(down_to_lowest, walk, strict=False)  # noqa: E741
        if wanted[l]
    ]
    return gradients[::-1], run.zs[-1]


def _output_error(
    model: Model, z: Array, a: Array, y: Array, *, xp: Namespace
) -> tuple[Array, Array | None]:
    """Return δᴸ of each sample's own cost, shape (N, O), and its factor σ′(zᴸ), if any."""
    if isinstance(model.cost, MatchedCost):
        return model.cost.error(a, y, xp=xp), None
    activation = model.activations[-1]
    output_error = equations.coupled_error if activation.coupled else equations.output_error
    nabla_a = model.cost.gradient(a, y, xp=xp)
    sigma_prime_z = activation.sigma_prime(z, a, xp=xp)
    return output_error(nabla_a, sigma_prime_z), sigma_prime_z


def _shares(weights: Array | None, n: int, *, xp: Namespace) -> float | Array:
    """Return wₙ / Σ wₙ, shape (..., N, 1), or 1/N; all 0 if the weights are."""
    if weights is None:
        return 1.0 / n
    total = xp.sum(weights, axis=-1, keepdims=True)
    return (weights / xp.maximum(total, 1e-30))[..., None]


def _counts(weights: Array | None) -> float | Array:
    """Return wₙ, shape (..., N, 1), or 1."""
    return 1.0 if weights is None else weights[..., None]
