"""Optimizers with a rate for each parameter: Adagrad, RMSprop, Adam and AdamW."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bp_xp import checks
from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement
from bp_xp.math.settings import each_layer
from bp_xp.optim.optimizer import (
    Update,
    accumulate,
    constant,
    descend,
    descend_along,
    each_parameter,
    initial_rates,
    root,
    scale,
)
from bp_xp.optim.schedules import LearningRates, check_learning_rates

__all__ = [
    "Adagrad",
    "AdagradState",
    "Adam",
    "AdamState",
    "AdamW",
    "RMSprop",
    "RMSpropState",
]


class AdagradState(NamedTuple):
    """The state of Adagrad.

    Attributes:
        learning_rate: η, shape ().
        learning_rate_decay: κ, shape ().
        epsilon: ε, shape ().
        slowdown: 1 + κ t, shape ().
        square: s, one Layer for each layer.
    """

    learning_rate: Array
    learning_rate_decay: Array
    epsilon: Array
    slowdown: Array
    square: list[Layer]


@dataclass(frozen=True)
class Adagrad:
    """Adagrad: the more a parameter has moved, the less it moves.

    s ← s + g²,  w ← w − η / (1 + κ t) · g / (√s + ε)

    where t is the number of earlier steps.

    Args:
        learning_rate: η, above 0, or a schedule; or a list with one for each layer.
        learning_rate_decay: κ, at least 0.
        initial_accumulator: s at the start, at least 0.
        epsilon: ε, above 0; it prevents 0/0 for a parameter without gradients.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``torch.optim.Adagrad``, with ``lr_decay`` and ``initial_accumulator_value``. Keras
    has ε = 1e-7 inside the root, and starts from s = 0.1.

    References:
        Duchi, Hazan & Singer, *Adaptive subgradient methods for online learning and stochastic
        optimization*, JMLR 12, 2011. Names and defaults are those of ``torch.optim.Adagrad``.
    """

    learning_rate: LearningRates = 0.01
    learning_rate_decay: float = 0.0
    initial_accumulator: float = 0.0
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        check_learning_rates(self.learning_rate)
        checks.check_number(self.learning_rate_decay, "learning_rate_decay", least=0.0)
        checks.check_number(self.initial_accumulator, "initial_accumulator", least=0.0)
        checks.check_number(self.epsilon, "epsilon", above=0.0)

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> AdagradState:
        """Make the initial state, with the initial sums."""
        number = functools.partial(placement.asarray, dtype=dtype)
        return AdagradState(
            initial_rates(self.learning_rate, layers, number),
            number(self.learning_rate_decay),
            number(self.epsilon),
            number(1.0),
            constant(self.initial_accumulator, layers),
        )

    @property
    def update(self) -> Update:
        """The update rule of this optimizer."""
        return _adagrad_update


def _adagrad_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdagradState, *, xp: Namespace
) -> tuple[list[Layer], AdagradState]:
    eta, kappa, epsilon, slowdown, square = state
    rate = map_leaves(lambda one: one / slowdown, eta)
    slowdown += kappa

    def rule(w: Array, g: Array, s: Array, rate: Array, epsilon: Array) -> tuple[Array, Array]:
        s += g * g
        g /= root(s, epsilon, xp)
        return descend_along(w, g, rate), s

    layers, square = each_parameter(rule, layers, gradients, square, settings=[rate, epsilon])
    return layers, AdagradState(eta, kappa, epsilon, slowdown, square)


class RMSpropState(NamedTuple):
    """The state of RMSprop.

    Attributes:
        learning_rate: η, shape ().
        alpha: α, shape ().
        epsilon: ε, shape ().
        momentum: μ, shape ().
        square: s, one Layer for each layer.
        mean: a, one Layer for each layer; empty unless centered.
        velocity: √(1 − α) v, one Layer for each layer; empty without momentum.
    """

    learning_rate: Array
    alpha: Array
    epsilon: Array
    momentum: Array
    square: list[Layer]
    mean: list[Layer]
    velocity: list[Layer]


@dataclass(frozen=True)
class RMSprop:
    """RMSprop: steps in units of the gradient's recent magnitude.

    plain:     s ← α s + g²,  w ← w − η d
               with d = g / (√((1 − α) s) + ε)
    centered:  a ← α a + g as well, and the gradient's variance in place of its mean square:
               d = g / (√((1 − α) s − ((1 − α) a)²) + ε)
    momentum:  v ← μ v + d,  w ← w − η v

    Args:
        learning_rate: η, above 0, or a schedule; or a list with one for each layer.
        alpha: α, the share of the past that each step keeps, from 0 to below 1.
        momentum: μ, from 0 (none) to below 1.
        centered: whether to divide by the standard deviation.
        epsilon: ε, above 0; it prevents 0/0 for a parameter without gradients.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``torch.optim.RMSprop``, with ``eps`` for ε. Keras calls α ``rho``, with the default
    0.9, and has ε = 1e-7 inside the root.

    References:
        Tieleman & Hinton, *Neural networks for machine learning*, lecture 6.5, 2012; centered:
        Graves, *Generating sequences with recurrent neural networks*, 2013, eq. (38) to (41). Names
        and defaults are those of ``torch.optim.RMSprop``.
    """

    learning_rate: LearningRates = 0.01
    alpha: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_learning_rates(self.learning_rate)
        checks.check_number(self.alpha, "alpha", least=0.0, below=1.0)
        checks.check_number(self.momentum, "momentum", least=0.0, below=1.0)
        checks.check_number(self.epsilon, "epsilon", above=0.0)

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> RMSpropState:
        """Make the initial state."""
        number = functools.partial(placement.asarray, dtype=dtype)
        return RMSpropState(
            initial_rates(self.learning_rate, layers, number),
            number(self.alpha),
            number(self.epsilon),
            number(self.momentum),
            constant(0.0, layers),
            constant(0.0, layers) if self.centered else [],
            constant(0.0, layers) if self.momentum else [],
        )

    @property
    def update(self) -> Update:
        """The update rule of this optimizer; the form of the state shows which parts it has."""
        return _rmsprop_update


def _rmsprop_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: RMSpropState, *, xp: Namespace
) -> tuple[list[Layer], RMSpropState]:
    eta, alpha, epsilon, mu, square, mean, velocity = state
    # With c = √(1 − α), d = g / (c √s + ε) = g / (√s + ε/c) / c; and √(c² s − (c² a)²) is
    # c √(s − (c a)²).
    c_squared = 1.0 - alpha
    c = xp.sqrt(c_squared)
    epsilon = epsilon / c
    rate = map_leaves(lambda one: one / c, eta)

    def rule(
        w: Array,
        g: Array,
        s: Array,
        a: Array | None,
        v: Array | None,
        rate: Array,
        epsilon: Array,
        alpha: Array,
        c_squared: Array,
        mu: Array,
    ) -> tuple[Any, ...]:
        spread = s = accumulate(s, alpha, g * g)
        if a is not None:
            a = accumulate(a, alpha, g)
            # Rounding can make a variance negative, which has no root.
            spread = xp.maximum(s - c_squared * a * a, 0.0)
        g /= root(spread, epsilon, xp)
        if v is None:
            return descend_along(w, g, rate), s, a, v
        v = accumulate(v, mu, g)
        return descend(w, rate * v), s, a, v

    layers, *memory = each_parameter(
        rule,
        layers,
        gradients,
        square,
        mean,
        velocity,
        settings=[rate, epsilon, alpha, c_squared, mu],
    )
    return layers, RMSpropState(*state[:4], *memory)


class AdamState(NamedTuple):
    """The state of Adam and AdamW.

    Attributes:
        learning_rate: η, shape ().
        beta1: β₁, shape ().
        beta2: β₂, shape ().
        epsilon: ε, shape ().
        weight_decay: λ, shape (); 0 in Adam.
        count1: n₁, shape ().
        count2: n₂, shape ().
        mean: m, one Layer for each layer.
        square: v, one Layer for each layer.
        largest: u, one Layer for each layer; empty without AMSGrad.
    """

    learning_rate: Array
    beta1: Array
    beta2: Array
    epsilon: Array
    weight_decay: Array
    count1: Array
    count2: Array
    mean: list[Layer]
    square: list[Layer]
    largest: list[Layer]


@dataclass(frozen=True)
class Adam:
    """Adam: steps along the mean gradient, in units of the gradient's recent magnitude.

    Adam:     m ← β₁ m + g,   n₁ ← β₁ n₁ + 1
              v ← β₂ v + g²,  n₂ ← β₂ n₂ + 1
              w ← w − η (m/n₁) / (√(v/n₂) + ε)
    AMSGrad:  u ← max(u, v) as well, in place of v in the step

    A gradient from k steps ago has weight βᵏ, and n is the sum of these weights,
    (1 − βᵗ)/(1 − β) after t steps: m/n₁ and v/n₂ are the paper's m̂ and v̂, without bias from the
    first step on.

    Args:
        learning_rate: η, above 0, or a schedule; or a list with one for each layer.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, above 0; it prevents 0/0 for a parameter without gradients.
        amsgrad: whether to keep steps from growing when gradients become smaller.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``torch.optim.Adam`` with ``betas=(beta1, beta2)``. Keras has ε = 1e-7, and adds
    it to the root before the bias of v is corrected.

    References:
        Kingma & Ba, *Adam: a method for stochastic optimization*, ICLR 2015. AMSGrad: Reddi, Kale &
        Kumar, *On the convergence of Adam and beyond*, ICLR 2018; as in ``torch.optim.Adam``, whose
        defaults these are, the largest v is taken before the bias is corrected.

    Examples:
        >>> Adam(0.01).beta2
        0.999
    """

    learning_rate: LearningRates = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        check_learning_rates(self.learning_rate)
        checks.check_number(self.beta1, "beta1", least=0.0, below=1.0)
        checks.check_number(self.beta2, "beta2", least=0.0, below=1.0)
        checks.check_number(self.epsilon, "epsilon", above=0.0)

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> AdamState:
        """Make the initial state."""
        number = functools.partial(placement.asarray, dtype=dtype)
        return AdamState(
            initial_rates(self.learning_rate, layers, number),
            number(self.beta1),
            number(self.beta2),
            number(self.epsilon),
            number(0.0),
            number(0.0),
            number(0.0),
            constant(0.0, layers),
            constant(0.0, layers),
            constant(0.0, layers) if self.amsgrad else [],
        )

    @property
    def update(self) -> Update:
        """The update rule of this optimizer; the form of the state shows whether it is AMSGrad."""
        return _adam_update


@dataclass(frozen=True)
class AdamW(Adam):
    """AdamW: Adam with weight decay that is decoupled from the gradient.

    w ← (1 − η λ) w, then Adam's step

    The L2 penalty of ``fit`` is different: it adds l2·w to the gradient, and Adam divides that by
    the gradient's magnitude, so that weights with large gradients hardly decay. (In plain gradient
    descent, λ and l2 are the same.) With both, weights decay twice.

    Args:
        learning_rate: η, above 0, or a schedule, which the decay follows too; or a list with one
            for each layer.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, above 0.
        amsgrad: as in :class:`Adam`.
        weight_decay: λ, at least 0.
        decay_biases: whether biases decay like weights, as in the paper and in PyTorch. Most users
            exempt them, as the L2 penalty of ``fit`` does: use False for that.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``torch.optim.AdamW``; ``decay_biases=False`` is a parameter group of the biases
    with ``weight_decay=0``. Keras has λ = 0.004.

    References:
        Loshchilov & Hutter, *Decoupled weight decay regularization*, ICLR 2019, algorithm 2, with
        λ for its λ/α. Defaults are those of ``torch.optim.AdamW``.
    """

    weight_decay: float = 0.01
    decay_biases: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.check_number(self.weight_decay, "weight_decay", least=0.0)

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> AdamState:
        """Make the initial state."""
        state = super().init(layers, placement=placement, dtype=dtype)
        return state._replace(weight_decay=placement.asarray(self.weight_decay, dtype))

    @property
    def update(self) -> Update:
        """The update rule of this optimizer; the form of the state shows whether it is AMSGrad."""
        return _adamw_update if self.decay_biases else _adamw_weights_update


def _adam_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdamState, *, xp: Namespace
) -> tuple[list[Layer], AdamState]:
    eta, beta1, beta2, epsilon, _, count1, count2, mean, square, largest = state
    count1 = accumulate(count1, beta1, 1.0)
    count2 = accumulate(count2, beta2, 1.0)
    # With r = √n₂, (m/n₁) / (√(v/n₂) + ε) = (r/n₁) m / (√v + r ε).
    r = xp.sqrt(count2)
    epsilon = r * epsilon
    rate = map_leaves(lambda one: r * one / count1, eta)

    def rule(
        w: Array,
        g: Array,
        m: Array,
        v: Array,
        u: Array | None,
        rate: Array,
        epsilon: Array,
        beta1: Array,
        beta2: Array,
    ) -> tuple[Any, ...]:
        m = accumulate(m, beta1, g)
        g *= g
        v = accumulate(v, beta2, g)
        if u is not None:
            u = xp.maximum(u, v)
        return descend_along(w, m / root(v if u is None else u, epsilon, xp), rate), m, v, u

    layers, *memory = each_parameter(
        rule,
        layers,
        gradients,
        mean,
        square,
        largest,
        settings=[rate, epsilon, beta1, beta2],
    )
    return layers, AdamState(*state[:5], count1, count2, *memory)


def _adamw_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdamState, *, xp: Namespace
) -> tuple[list[Layer], AdamState]:
    (layers,) = each_parameter(_decay, layers, settings=[_kept(state)])
    return _adam_update(layers, gradients, state, xp=xp)


def _adamw_weights_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdamState, *, xp: Namespace
) -> tuple[list[Layer], AdamState]:
    kept = each_layer(_kept(state), layers)
    layers = [Layer(scale(W, of_W), b) for (W, b), (of_W, _) in zip(layers, kept, strict=True)]
    return _adam_update(layers, gradients, state, xp=xp)


def _kept(state: AdamState) -> Any:
    """Return the share of a parameter that weight decay keeps: 1 − η λ, for each learning rate."""
    return map_leaves(lambda eta: 1.0 - eta * state.weight_decay, state.learning_rate)


def _decay(parameter: Array, kept: Array) -> tuple[Array]:
    return (scale(parameter, kept),)
