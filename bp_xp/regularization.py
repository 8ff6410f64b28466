"""Regularisation: terms that the cost does not have and the gradient does, and limits.

L2 adds (l2/2) Σ w² and L1 adds l1 Σ |w| to the mean cost, over all weights, never the biases, so
that each weight's derivative gains l2·w and l1·sign(w), whatever the batch size. Elsewhere the
strength is written otherwise; the same term is

    the book: λ for n training samples         l2 = λ / n, and l1 = λ / n (eqs. 87 and 95)
    the deep classifier: λ over m samples      l2 = λ / m
    scikit-learn: MLPClassifier(alpha)         l2 = alpha / batch_size, since it divides the term
                                               by the samples of each mini-batch (a short last one
                                               is thus penalised more); with solver="lbfgs"
                                               l2 = alpha / n
    PyTorch: SGD(weight_decay)                 l2 = weight_decay, if biases are exempted in a
                                               parameter group of their own
    Keras: regularizers.L2(c), L1(c)           l2 = 2 c, l1 = c

The limits keep a step from going too far (:func:`clip_by_norm`, :func:`clip_by_value`) and weights
from growing too large (:func:`limit_weight_norms`). What is within its limit keeps its bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bp_xp import checks
from bp_xp._typing import Array, Layer, Namespace

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

# A norm is summed up in units of so many limits: squares that matter beside the limit are far from
# underflow, and in float32 a norm 10³¹ times the limit does not overflow.
_UNIT = 2.0**40


@dataclass(frozen=True)
class Regularization:
    """What shapes a run's gradients and parameters besides the cost.

    Attributes:
        l1: strength of l1 Σ |w|.
        l2: strength of (l2/2) Σ w².
        dropout: probability with which a neuron is left out, for each layer from the inputs to the
            last hidden one; empty without dropout.
        clip_norm: the largest norm of the whole gradient, or None.
        clip_value: the largest absolute value of a derivative, or None.
        max_norm: the largest norm of the weights into a neuron, or None.
    """

    l1: float = 0.0
    l2: float = 0.0
    dropout: tuple[float, ...] = ()
    clip_norm: float | None = None
    clip_value: float | None = None
    max_norm: float | None = None

    @classmethod
    def checked(
        cls,
        *,
        l1: Any,
        l2: Any,
        dropout: Any,
        clip_norm: Any,
        clip_value: Any,
        max_norm: Any,
        hidden: int,
    ) -> "Regularization":
        """Check what a user gave for a network of so many hidden layers.

        ``dropout`` is one number for the hidden layers, one for each, or one more, in front, for
        the inputs.

        Raises:
            ValueError: a number is out of its range, or there are too many or too few.
            TypeError: it is no number.
        """
        if isinstance(dropout, list | tuple) and len(dropout) == hidden + 1:
            rates = list(dropout)
        else:
            rates = [0.0, *checks.one_for_each(dropout, hidden, "dropout", "hidden layers")]
        rates = [checks.check_number(one, "dropout", least=0.0, below=1.0) for one in rates]
        if isinstance(dropout, int | float):
            checks.check_number(dropout, "dropout", least=0.0, below=1.0)
        limits = {"clip_norm": clip_norm, "clip_value": clip_value, "max_norm": max_norm}
        return cls(
            checks.check_number(l1, "l1", least=0.0),
            checks.check_number(l2, "l2", least=0.0),
            tuple(rates) if any(rates) else (),
            **{
                name: None if limit is None else checks.check_number(limit, name, above=0.0)
                for name, limit in limits.items()
            },
        )

    def shape_gradients(
        self, gradients: list[Layer], layers: Sequence[Layer], *, xp: Namespace
    ) -> list[Layer]:
        """Return the gradients of the mean cost with the terms added and the limits kept."""
        if self.l2:
            gradients = add_l2_gradient(gradients, layers, self.l2)
        if self.l1:
            gradients = add_l1_gradient(gradients, layers, self.l1, xp=xp)
        if self.clip_value is not None:
            gradients = clip_by_value(gradients, self.clip_value, xp=xp)
        if self.clip_norm is not None:
            gradients = clip_by_norm(gradients, self.clip_norm, xp=xp)
        return gradients

    def bound_parameters(self, layers: list[Layer], *, xp: Namespace) -> list[Layer]:
        """Return the parameters after a step with the limits on them kept."""
        if self.max_norm is None:
            return layers
        return limit_weight_norms(layers, self.max_norm, xp=xp)


# ---------------------------------------------------------------------------------------------
# Terms


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


def l1_penalty(layers: Sequence[Layer], l1: float, *, xp: Namespace) -> Array:
    """Return l1 Σ |w|, shape ().

    References:
        Nielsen, ch. 3, eq. (95), with l1 = λ/n.
    """
    total = xp.sum(xp.abs(layers[0].W))
    for layer in layers[1:]:
        total += xp.sum(xp.abs(layer.W))
    return l1 * total


def add_l1_gradient(
    gradients: Sequence[Layer], layers: Sequence[Layer], l1: float, *, xp: Namespace
) -> list[Layer]:
    """Return the gradients with l1·sign(w) added to those of the weights.

    At w = 0 the term has a kink, and any slope from −l1 to l1 would do; 0 leaves the weight there.

    References:
        Nielsen, ch. 3, eq. (96), with l1 = λ/n.
    """
    return [
        Layer(dW + l1 * xp.sign(W), db) for (dW, db), (W, _) in zip(gradients, layers, strict=True)
    ]


# ---------------------------------------------------------------------------------------------
# Limits


def clip_by_norm(gradients: Sequence[Layer], limit: float, *, xp: Namespace) -> list[Layer]:
    """Return the gradients, scaled down to a norm of ``limit`` if theirs is above it.

    g ← g · min(1, limit/‖g‖), where ‖g‖ is taken over all weights and biases together

    Args:
        gradients: one Layer of derivatives for each layer.
        limit: above 0.
        xp: their namespace.

    Returns:
        Gradients in the same direction. Their bits are those of before where ‖g‖ is at most the
        limit; all of them are NaN where one is NaN or infinite.

    References:
        Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*,
        ICML 2013. PyTorch's ``clip_grad_norm_`` does the same but for 1e-6 added to the norm.
    """
    squares = []
    for part in (part for layer in gradients for part in layer):
        small = part * (1.0 / (_UNIT * limit))
        small *= small
        squares.append(xp.sum(small))
    norm_in_limits = _UNIT * xp.sqrt(xp.sum(xp.stack(squares)))
    scale = 1.0 / xp.maximum(norm_in_limits, 1.0)
    return [Layer(dW * scale, db * scale) for dW, db in gradients]


def clip_by_value(gradients: Sequence[Layer], limit: float, *, xp: Namespace) -> list[Layer]:
    """Return the gradients with each derivative brought between −limit and limit.

    Args:
        gradients: one Layer of derivatives for each layer.
        limit: above 0.
        xp: their namespace.
    """
    return [
        Layer(*(xp.minimum(xp.maximum(part, -limit), limit) for part in layer))
        for layer in gradients
    ]


def limit_weight_norms(layers: Sequence[Layer], limit: float, *, xp: Namespace) -> list[Layer]:
    """Return the layers, each neuron's incoming weights scaled down to a norm of at most ``limit``.

    W[j, :] ← W[j, :] · min(1, limit/‖W[j, :]‖)

    For use after an update, beside dropout above all. Biases stay as they are.

    Args:
        layers: the parameters; like an optimizer, this may overwrite them.
        limit: above 0; 3 to 4 is usual.
        xp: their namespace.

    References:
        Srivastava et al., *Dropout: a simple way to prevent neural networks from overfitting*,
        Journal of Machine Learning Research 15, 2014, sect. 5.1: max-norm regularisation.
    """
    limited = []
    for W, b in layers:
        norms = xp.sqrt(xp.sum(W * W, axis=-1, keepdims=True))
        W *= limit / xp.maximum(norms, limit)
        limited.append(Layer(W, b))
    return limited
