"""Regularization: penalties, which change the gradient but not the reported cost, and limits.

L2 adds (l2/2) Σ w² and L1 adds l1 Σ |w| to the mean cost, over all weights but not the biases, so
that l2·w and l1·sign(w) are added to each weight's derivative, whatever the batch size. Other
sources define the strength differently; the same penalty is

    the book: λ for n training samples         l2 = λ / n, and l1 = λ / n (eqs. 87 and 95)
    the deep classifier: λ over m samples      l2 = λ / m
    scikit-learn: MLPClassifier(alpha)         l2 = alpha / batch_size, since it divides the term
                                               by the samples of each mini-batch (a short last one
                                               is thus penalized more); with solver="lbfgs"
                                               l2 = alpha / n
    PyTorch: SGD(weight_decay)                 l2 = weight_decay, if biases are exempted in a
                                               separate parameter group
    PyTorch: AdamW(weight_decay)               no l2: weights decay apart from the gradient
    Keras: regularizers.L2(c), L1(c)           l2 = 2 c, l1 = c

The limits keep a step from going too far (:func:`clip_by_norm`, :func:`clip_by_value`) and weights
from growing too large (:func:`limit_weight_norms`). Values within their limit keep their bits.

A strength is a number, or one for each layer; in a stack of networks, an array with one for each
network (:mod:`bp_xp.math.settings`). A limit is a number or, in a stack, such an array.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from bp_xp._typing import Array, Layer, Namespace
from bp_xp.math.settings import by_layer, each_layer, spread

__all__ = [
    "Regularization",
    "add_l1_gradient",
    "add_l2_gradient",
    "clip_by_norm",
    "clip_by_value",
    "l1_penalty",
    "l2_penalty",
    "limit_weight_norms",
]

Strength: TypeAlias = "float | Array | Sequence[float]"
"""One for all layers, or a list or tuple with one for each."""

# A norm is summed in units of this many limits: squares that matter compared with the limit are far
# from underflow, and in float32 a norm 10³¹ times the limit does not overflow.
_UNIT = 2.0**40


@dataclass(frozen=True)
class Regularization:
    """Penalties, dropout and limits of a run.

    Attributes:
        l1: adds l1 Σ |w| over the weights, not the biases, to the mean cost.
        l2: adds (l2/2) Σ w² over the weights, not the biases; the book's λ is l2 · N. Neither l1
            nor l2 depends on the batch size; each may be a list with one for each layer.
        dropout: the probability with which a hidden neuron is left out of a step: one for all
            hidden layers, or one for each. A list with one more value starts with that of the
            inputs.
        clip_norm: the largest Euclidean norm of the whole gradient, or None; larger gradients are
            scaled down to it.
        clip_value: the largest absolute value of a derivative, or None.
        max_norm: the largest norm of the weights into a neuron, kept after each step, or None.

    In PyTorch: ``dropout`` is p of ``nn.Dropout``; ``clip_norm`` and ``clip_value`` are
    ``clip_grad_norm_`` and ``clip_grad_value_``, the value first if both are given; ``max_norm``
    is ``torch.renorm(W, 2, 0, max_norm)``.

    Examples:
        >>> Regularization(l2=1e-4, dropout=0.5).l2
        0.0001
    """

    l1: float | Sequence[float] = 0.0
    l2: float | Sequence[float] = 0.0
    dropout: float | Sequence[float] = ()
    clip_norm: float | None = None
    clip_value: float | None = None
    max_norm: float | None = None

    @property
    def dropout_rates(self) -> Sequence[float]:
        """The rate of each layer from the inputs to the last hidden one; empty without dropout."""
        return self.dropout if isinstance(self.dropout, Sequence) else ()

    def of_layers(self, chosen: Sequence[bool]) -> "Regularization":
        """Return the regularization of the chosen layers: from a list of strengths, only theirs."""
        l1, l2 = (
            tuple(one for one, is_chosen in zip(strength, chosen, strict=True) if is_chosen)
            if isinstance(strength, list | tuple)
            else strength
            for strength in (self.l1, self.l2)
        )
        return replace(self, l1=l1, l2=l2)

    def shape_gradients(
        self, gradients: list[Layer], layers: Sequence[Layer], *, xp: Namespace
    ) -> list[Layer]:
        """Return the gradients of the mean cost with the penalties and the limits applied."""
        if _is_there(self.l2):
            gradients = add_l2_gradient(gradients, layers, self.l2)
        if _is_there(self.l1):
            gradients = add_l1_gradient(gradients, layers, self.l1, xp=xp)
        if self.clip_value is not None:
            gradients = clip_by_value(gradients, self.clip_value, xp=xp)
        if self.clip_norm is not None:
            gradients = clip_by_norm(gradients, self.clip_norm, xp=xp)
        return gradients

    def bound_parameters(
        self, layers: list[Layer], *, fresh: bool = True, xp: Namespace
    ) -> list[Layer]:
        """Return the parameters after a step with their limits applied.

        They may be overwritten if they are ``fresh``: nothing else refers to them.
        """
        if self.max_norm is None:
            return layers
        return limit_weight_norms(layers, self.max_norm, fresh=fresh, xp=xp)


# ---------------------------------------------------------------------------------------------
# Penalties


def l2_penalty(layers: Sequence[Layer], l2: Strength, *, xp: Namespace) -> Array:
    """Return (l2/2) Σ w², shape ().

    References:
        Nielsen, ch. 3, eq. (87), with l2 = λ/n.
    """
    terms = [
        0.5 * strength * xp.sum(W * W, axis=(-2, -1))
        for (W, _), strength in zip(layers, by_layer(l2, layers), strict=True)
    ]
    return sum(terms[1:], start=terms[0])


def add_l2_gradient(
    gradients: Sequence[Layer], layers: Sequence[Layer], l2: Strength
) -> list[Layer]:
    """Return the gradients with l2·w added to those of the weights.

    References:
        Nielsen, ch. 3, eq. (88), with l2 = λ/n.
    """
    return [
        Layer(dW + strength.W * W, db)
        for (dW, db), (W, _), strength in zip(
            gradients, layers, each_layer(l2, layers), strict=True
        )
    ]


def l1_penalty(layers: Sequence[Layer], l1: Strength, *, xp: Namespace) -> Array:
    """Return l1 Σ |w|, shape ().

    References:
        Nielsen, ch. 3, eq. (95), with l1 = λ/n.
    """
    terms = [
        strength * xp.sum(xp.abs(W), axis=(-2, -1))
        for (W, _), strength in zip(layers, by_layer(l1, layers), strict=True)
    ]
    return sum(terms[1:], start=terms[0])


def add_l1_gradient(
    gradients: Sequence[Layer], layers: Sequence[Layer], l1: Strength, *, xp: Namespace
) -> list[Layer]:
    """Return the gradients with l1·sign(w) added to those of the weights.

    At w = 0 the penalty has a kink, where any slope from −l1 to l1 is valid; 0 keeps the weight
    there.

    References:
        Nielsen, ch. 3, eq. (96), with l1 = λ/n.
    """
    return [
        Layer(dW + strength.W * _sign(W, xp=xp), db)
        for (dW, db), (W, _), strength in zip(
            gradients, layers, each_layer(l1, layers), strict=True
        )
    ]


def _sign(W: Array, *, xp: Namespace) -> Array:
    """Return 1, 0 or −1 for each weight.

    In the standard, the sign of NaN is NaN, and a wrapper of a GPU library counts the NaNs on the
    host for that, at each step. Here the sign is 0: a weight that is NaN stays NaN in any case.
    """
    return xp.astype(W > 0.0, W.dtype) - xp.astype(W < 0.0, W.dtype)


def _is_there(strength: Strength) -> bool:
    """Return whether a strength is not 0; an array is assumed not to be."""
    return bool(strength) if isinstance(strength, int | float | Sequence) else True


# ---------------------------------------------------------------------------------------------
# Limits


def clip_by_norm(gradients: Sequence[Layer], limit: Any, *, xp: Namespace) -> list[Layer]:
    """Return the gradients, scaled down to a norm of ``limit`` if their norm is above it.

    g ← g · min(1, limit/‖g‖), where ‖g‖ is taken over all weights and biases together

    Args:
        gradients: one Layer of derivatives for each layer.
        limit: above 0, shape () or (M,).
        xp: their namespace.

    Returns:
        Gradients in the same direction. If ‖g‖ is at most the limit, they keep their bits; if one
        derivative is NaN or infinite, all are NaN.

    References:
        Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*,
        ICML 2013. PyTorch's ``clip_grad_norm_`` does the same, except that it adds 1e-6 to the
        norm.
    """
    squares = []
    for layer in gradients:
        for part, axes in zip(layer, (2, 1), strict=True):
            small = part * spread(1.0 / (_UNIT * limit), axes)
            small *= small
            squares.append(xp.sum(small, axis=(-2, -1)[-axes:]))
    norm_in_limits = _UNIT * xp.sqrt(xp.sum(xp.stack(squares), axis=0))
    scale = 1.0 / xp.maximum(norm_in_limits, 1.0)
    return [Layer(dW * spread(scale, 2), db * spread(scale, 1)) for dW, db in gradients]


def clip_by_value(gradients: Sequence[Layer], limit: Any, *, xp: Namespace) -> list[Layer]:
    """Return the gradients with each derivative clipped to the range from −limit to limit.

    Args:
        gradients: one Layer of derivatives for each layer.
        limit: above 0.
        xp: their namespace.
    """
    return [
        Layer(
            *(xp.minimum(xp.maximum(part, -most), most) for part, most in zip(*pair, strict=True))
        )
        for pair in zip(gradients, each_layer(limit, gradients), strict=True)
    ]


def limit_weight_norms(
    layers: Sequence[Layer], limit: Any, *, fresh: bool = True, xp: Namespace
) -> list[Layer]:
    """Return the layers with each neuron's incoming weights scaled to a norm of at most ``limit``.

    W[j, :] ← W[j, :] · min(1, limit/‖W[j, :]‖)

    Use it after an update, mainly together with dropout. Biases do not change.

    Args:
        layers: the parameters.
        limit: above 0; 3 to 4 is usual.
        fresh: whether the parameters may be overwritten.
        xp: their namespace.

    References:
        Srivastava et al., *Dropout: a simple way to prevent neural networks from overfitting*,
        Journal of Machine Learning Research 15, 2014, sect. 5.1: max-norm regularization.
    """
    limited = []
    for W, b in layers:
        norms = xp.sqrt(xp.sum(W * W, axis=-1, keepdims=True))
        most = spread(limit, 2)
        scale = most / xp.maximum(norms, most)
        if fresh:
            W *= scale
        else:
            W = W * scale
        limited.append(Layer(W, b))
    return limited
