"""Optimizers: how the gradients move the parameters.

An optimizer is a pair. ``init`` makes its state; ``update``, a pure function of arrays, takes
parameters, gradients and state to new parameters and a new state. Whatever may change from step to
step, the learning rate above all, is an array in the state, so that a library which compiles the
step compiles it once.

``update`` consumes what it is given: libraries that can reuse memory do. Gradients are fresh
temporaries, and whoever wants to keep parameters keeps a copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from bp_xp import checks
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.arrays import Placement

__all__ = ["SGD", "Optimizer", "SGDState", "Update"]


class Update(Protocol):
    """One step, as a pure function of arrays."""

    def __call__(
        self, layers: Sequence[Layer], gradients: Sequence[Layer], state: Any, *, xp: Namespace
    ) -> tuple[list[Layer], Any]:
        """Return the new parameters and the new state; the arguments may be overwritten.

        ``xp`` is the namespace of all these arrays.

        Engines record or compile it, so it must do nothing but compute with arrays: whatever else
        it does happens once, and not at each step.
        """
        ...


class Optimizer(Protocol):
    """An optimizer: anything with these two members."""

    @property
    def update(self) -> Update:
        """The step; hashable, and the same object for the same rule, whatever the rate."""
        ...

    def init(self, layers: Sequence[Layer], *, place: Placement, dtype: str) -> Any:
        """Make the state of a run, a nesting of tuples of arrays on the device of the layers."""
        ...


class SGDState(NamedTuple):
    """What gradient descent carries from step to step.

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

    where g is the gradient of the mean cost over the mini-batch.

    Args:
        learning_rate: η, above 0.
        momentum: μ, from 0 (plain) to below 1.
        nesterov: whether to look ahead; needs a momentum.

    Raises:
        ValueError: a number is out of its range or not finite.
        TypeError: it is not a number.

    References:
        Nielsen, ch. 1, eq. (20), (21); ch. 3 on momentum, whose v is our −η v. Sutskever et al.,
        *On the importance of initialization and momentum in deep learning*, ICML 2013.

    Examples:
        >>> SGD(3.0)
        SGD(learning_rate=3.0, momentum=0.0, nesterov=False)
    """

    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        checks.check_number(self.learning_rate, "learning_rate", above=0.0)
        checks.check_number(self.momentum, "momentum", least=0.0, below=1.0)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0, such as momentum=0.9.")

    def init(self, layers: Sequence[Layer], *, place: Placement, dtype: str) -> SGDState:
        """Start with the velocity at rest."""
        velocity = [Layer(0.0 * W, 0.0 * b) for W, b in layers] if self.momentum else []
        return SGDState(
            place.asarray(self.learning_rate, dtype), place.asarray(self.momentum, dtype), velocity
        )

    @property
    def update(self) -> Update:
        """The rule of this optimizer."""
        if not self.momentum:
            return _plain_update
        return _nesterov_update if self.nesterov else _momentum_update


def _plain_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp
    eta = state.learning_rate
    moved = [
        Layer(_descend_along(W, dW, eta), _descend_along(b, db, eta))
        for (W, b), (dW, db) in zip(layers, gradients, strict=True)
    ]
    return moved, state


def _momentum_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp
    eta, mu, velocity = state
    velocity = _accelerated(velocity, gradients, mu)
    moved = [
        Layer(_descend(W, eta * vW), _descend(b, eta * vb))
        for (W, b), (vW, vb) in zip(layers, velocity, strict=True)
    ]
    return moved, SGDState(eta, mu, velocity)


def _nesterov_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp
    eta, mu, velocity = state
    velocity = _accelerated(velocity, gradients, mu)
    moved = [
        Layer(_descend(W, eta * (dW + mu * vW)), _descend(b, eta * (db + mu * vb)))
        for (W, b), (dW, db), (vW, vb) in zip(layers, gradients, velocity, strict=True)
    ]
    return moved, SGDState(eta, mu, velocity)


def _accelerated(velocity: Sequence[Layer], gradients: Sequence[Layer], mu: Array) -> list[Layer]:
    """Return μ v + g for each layer."""
    return [
        Layer(_accelerate(vW, dW, mu), _accelerate(vb, db, mu))
        for (vW, vb), (dW, db) in zip(velocity, gradients, strict=True)
    ]


def _accelerate(velocity: Array, gradient: Array, mu: Array) -> Array:
    velocity *= mu
    velocity += gradient
    return velocity


def _descend(parameter: Array, step: Array) -> Array:
    parameter -= step
    return parameter


def _descend_along(parameter: Array, gradient: Array, eta: Array) -> Array:
    gradient *= eta
    parameter -= gradient
    return parameter
