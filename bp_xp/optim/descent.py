"""Stochastic gradient descent, plain or with momentum."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bp_xp import checks
from bp_xp._caller import named
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement
from bp_xp.optim.optimizer import (
    Update,
    accumulate,
    constant,
    descend,
    descend_along,
    each_parameter,
    initial_rates,
)
from bp_xp.optim.schedules import LearningRates, check_learning_rates

__all__ = ["SGD", "SGDState"]


class SGDState(NamedTuple):
    """The state of gradient descent.

    Attributes:
        learning_rate: η, shape ().
        momentum: μ, shape ().
        velocity: v, one Layer for each layer; empty without momentum.
    """

    learning_rate: Array
    momentum: Array
    velocity: list[Layer]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, plain or with momentum.

    plain:     w ← w − η g
    momentum:  v ← μ v + g,  w ← w − η v
    Nesterov:  v ← μ v + g,  w ← w − η (g + μ v)

    Args:
        learning_rate: η, above 0, or a schedule; or a list with one for each layer.
        momentum: μ, from 0 (plain) to below 1.
        nesterov: whether to look ahead; needs a momentum.

    Raises:
        ValueError: a number is out of its range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``torch.optim.SGD`` with ``dampening=0``. Its ``weight_decay=λ``, like that of all
    of ``torch.optim`` except AdamW, is ``fit(l2=λ)``, which does not affect biases. Keras keeps
    −η v instead of v, which is equivalent while η is constant.

    References:
        Nielsen, ch. 1, eq. (20), (21); ch. 3 on momentum, whose v is our −η v. Sutskever et al.,
        *On the importance of initialization and momentum in deep learning*, ICML 2013.

    Examples:
        >>> SGD(3.0)
        SGD(learning_rate=3.0, momentum=0.0, nesterov=False)
    """

    learning_rate: LearningRates
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_learning_rates(self.learning_rate)
        checks.check_number(self.momentum, "momentum", least=0.0, below=1.0)
        if self.nesterov and not self.momentum:
            raise ValueError(
                f"{named('nesterov', True)} needs a momentum above 0, such as "
                f"{named('momentum', 0.9)}."
            )

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> SGDState:
        """Make the initial state, with zero velocity."""
        number = functools.partial(placement.asarray, dtype=dtype)
        return SGDState(
            initial_rates(self.learning_rate, layers, number),
            number(self.momentum),
            constant(0.0, layers) if self.momentum else [],
        )

    @property
    def update(self) -> Update:
        """The update rule of this optimizer."""
        if not self.momentum:
            return _plain_update
        return _nesterov_update if self.nesterov else _momentum_update


def _plain_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp

    def rule(w: Array, g: Array, eta: Array) -> tuple[Array]:
        return (descend_along(w, g, eta),)

    (layers,) = each_parameter(rule, layers, gradients, settings=[state.learning_rate])
    return layers, state


def _momentum_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp
    eta, mu, velocity = state

    def rule(w: Array, g: Array, v: Array, eta: Array, mu: Array) -> tuple[Array, Array]:
        v = accumulate(v, mu, g)
        return descend(w, eta * v), v

    layers, velocity = each_parameter(rule, layers, gradients, velocity, settings=[eta, mu])
    return layers, SGDState(eta, mu, velocity)


def _nesterov_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp
    eta, mu, velocity = state

    def rule(w: Array, g: Array, v: Array, eta: Array, mu: Array) -> tuple[Array, Array]:
        v = accumulate(v, mu, g)
        return descend(w, eta * (g + mu * v)), v

    layers, velocity = each_parameter(rule, layers, gradients, velocity, settings=[eta, mu])
    return layers, SGDState(eta, mu, velocity)
