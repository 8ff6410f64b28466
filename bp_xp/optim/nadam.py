"""NAdam: Adam with Nesterov's momentum."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bp_xp import checks
from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement
from bp_xp.optim.optimizer import (
    Update,
    accumulate,
    constant,
    descend_along,
    each_parameter,
    initial_rates,
    root,
)
from bp_xp.optim.schedules import LearningRates, check_learning_rates

__all__ = ["NAdam", "NAdamState"]


class NAdamState(NamedTuple):
    """The state of NAdam.

    Attributes:
        learning_rate: η, shape ().
        beta1: β₁, shape ().
        beta2: β₂, shape ().
        epsilon: ε, shape ().
        momentum_decay: ψ, shape ().
        warm_up: 0.96^(ψ t), shape ().
        product: μ₁ ... μₜ, shape ().
        count2: n₂, shape ().
        mean: m, one Layer for each layer.
        square: v, one Layer for each layer.
    """

    learning_rate: Array
    beta1: Array
    beta2: Array
    epsilon: Array
    momentum_decay: Array
    warm_up: Array
    product: Array
    count2: Array
    mean: list[Layer]
    square: list[Layer]


@dataclass(frozen=True)
class NAdam:
    """NAdam: Adam that looks ahead, as Nesterov's momentum does.

    m ← β₁ m + g
    v ← β₂ v + g²,  n₂ ← β₂ n₂ + 1
    d = (1 − μₜ) g / (1 − μ₁ ... μₜ) + μₜ₊₁ (1 − β₁) m / (1 − μ₁ ... μₜ₊₁)
    w ← w − η d / (√(v/n₂) + ε)

    where μₜ = β₁ (1 − ½ 0.96^(ψ t)) is a momentum that warms up, from about β₁/2 to β₁, and steps
    are counted from t = 1. Instead of Adam's mean of gradients, NAdam uses an estimate of the mean
    at the next step.

    Args:
        learning_rate: η, above 0, or a schedule; or a list with one for each layer.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, above 0; it prevents 0/0 for a parameter without gradients.
        momentum_decay: ψ, at least 0: how fast the momentum warms up; 0 leaves it at β₁/2.

    Raises:
        ValueError: a number is out of its range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``torch.optim.NAdam`` with ``betas=(beta1, beta2)`` and without
    ``decoupled_weight_decay``. Keras's Nadam has ψ = 1, η = 0.001 and ε = 1e-7.

    References:
        Dozat, *Incorporating Nesterov momentum into Adam*, ICLR workshop 2016. Names and defaults
        are those of ``torch.optim.NAdam``.
    """

    learning_rate: LearningRates = 0.002
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum_decay: float = 0.004

    def __post_init__(self) -> None:
        check_learning_rates(self.learning_rate)
        checks.check_number(self.beta1, "beta1", least=0.0, below=1.0)
        checks.check_number(self.beta2, "beta2", least=0.0, below=1.0)
        checks.check_number(self.epsilon, "epsilon", above=0.0)
        checks.check_number(self.momentum_decay, "momentum_decay", least=0.0)

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> NAdamState:
        """Make the initial state."""
        number = functools.partial(placement.asarray, dtype=dtype)
        return NAdamState(
            initial_rates(self.learning_rate, layers, number),
            number(self.beta1),
            number(self.beta2),
            number(self.epsilon),
            number(self.momentum_decay),
            number(1.0),
            number(1.0),
            number(0.0),
            constant(0.0, layers),
            constant(0.0, layers),
        )

    @property
    def update(self) -> Update:
        """The update rule of this optimizer."""
        return _nadam_update


def _nadam_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: NAdamState, *, xp: Namespace
) -> tuple[list[Layer], NAdamState]:
    eta, beta1, beta2, epsilon, psi, warm_up, product, count2, mean, square = state
    cooling = xp.exp(math.log(0.96) * psi)
    warm_up *= cooling
    mu = beta1 * (1.0 - 0.5 * warm_up)
    mu_next = beta1 * (1.0 - 0.5 * (warm_up * cooling))
    product *= mu
    of_gradient = (1.0 - mu) / (1.0 - product)
    of_mean = mu_next * (1.0 - beta1) / (1.0 - product * mu_next)
    count2 = accumulate(count2, beta2, 1.0)
    # With r = √n₂, d / (√(v/n₂) + ε) = r d / (√v + r ε).
    r = xp.sqrt(count2)
    epsilon = r * epsilon
    rate = map_leaves(lambda one: r * one, eta)

    def rule(
        w: Array,
        g: Array,
        m: Array,
        v: Array,
        rate: Array,
        epsilon: Array,
        beta1: Array,
        beta2: Array,
        of_gradient: Array,
        of_mean: Array,
    ) -> tuple[Any, ...]:
        m = accumulate(m, beta1, g)
        v = accumulate(v, beta2, g * g)
        g *= of_gradient
        g += of_mean * m
        g /= root(v, epsilon, xp)
        return descend_along(w, g, rate), m, v

    layers, *memory = each_parameter(
        rule,
        layers,
        gradients,
        mean,
        square,
        settings=[rate, epsilon, beta1, beta2, of_gradient, of_mean],
    )
    return layers, NAdamState(*state[:5], warm_up, product, count2, *memory)
