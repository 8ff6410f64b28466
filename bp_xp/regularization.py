"""Regularisation: terms that the cost does not have and the gradient does.

L2 adds (l2/2) Σ w² over all weights, never the biases, to the mean cost, so that each weight's
derivative gains l2·w whatever the batch size. The book writes the term as (λ/2n) Σ w² for n
training samples: l2 = λ/n. The deep classifier's λ/(2m) Σ‖W‖² over a full batch of m: l2 = λ/m.
"""

from collections.abc import Sequence

from bp_xp._typing import Array, Layer, Namespace

__all__ = ["add_l2_gradient", "l2_penalty"]


def l2_penalty(layers: Sequence[Layer], l2: float, *, xp: Namespace) -> Array:
    """Return (l2/2) Σ w², shape ().

    References:
        Nielsen, ch. 3, eq. (87), with l2 = λ/n.
    """
    total = xp.sum(layers[0].W * layers[0].W)
    for layer in layers[1:]:
        total += xp.sum(layer.W * layer.W)
    return 0.5 * l2 * total


def add_l2_gradient(gradients: Sequence[Layer], layers: Sequence[Layer], l2: float) -> list[Layer]:
    """Return the gradients with l2·w added to those of the weights.

    References:
        Nielsen, ch. 3, eq. (88), with l2 = λ/n.
    """
    return [Layer(dW + l2 * W, db) for (dW, db), (W, _) in zip(gradients, layers, strict=True)]
