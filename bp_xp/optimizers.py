"""Optimizers: how the gradients move the parameters.

An optimizer is a pair. ``init`` makes its state; ``update``, a pure function of arrays, takes
parameters, gradients and state to new parameters and a new state. Whatever may change from step to
step, the learning rate above all, is an array in the state, so that a library which compiles the
step compiles it once; so are all numbers of a rule, and two optimizers that differ in numbers only
share one compiled step.

``update`` consumes what it is given: libraries that can reuse memory do. Gradients are fresh
temporaries, and whoever wants to keep parameters keeps a copy. Only the learning rate is left as it
is.

In the formulas w is any parameter, g the gradient of the mean cost over the mini-batch, and all
arithmetic is of each entry by itself. What is remembered starts at 0.

Where papers have a moving average, v ← β v + (1 − β) g², the state holds the sum v ← β v + g². The
factor that makes averages of sums is one number, which goes to the learning rate and to ε: that
saves a pass over all parameters.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from bp_xp import checks
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.arrays import Placement
from bp_xp.schedules import LearningRate, check_learning_rate, initial_rate

__all__ = [
    "SGD",
    "Adagrad",
    "AdagradState",
    "Adam",
    "AdamState",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "RMSpropState",
    "SGDState",
    "Update",
    "accumulate",
    "each_parameter",
]


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


# ---------------------------------------------------------------------------------------------
# Gradient descent


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

    Args:
        learning_rate: η, above 0, or a schedule.
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

    learning_rate: LearningRate
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        checks.check_number(self.momentum, "momentum", least=0.0, below=1.0)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0, such as momentum=0.9.")

    def init(self, layers: Sequence[Layer], *, place: Placement, dtype: str) -> SGDState:
        """Start with the velocity at rest."""
        number = functools.partial(place.asarray, dtype=dtype)
        return SGDState(
            number(initial_rate(self.learning_rate)),
            number(self.momentum),
            _constant(0.0, layers) if self.momentum else [],
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

    def rule(w: Array, g: Array) -> tuple[Array]:
        return (_descend_along(w, g, eta),)

    (layers,) = each_parameter(rule, layers, gradients)
    return layers, state


def _momentum_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp
    eta, mu, velocity = state

    def rule(w: Array, g: Array, v: Array) -> tuple[Array, Array]:
        v = accumulate(v, mu, g)
        return _descend(w, eta * v), v

    layers, velocity = each_parameter(rule, layers, gradients, velocity)
    return layers, SGDState(eta, mu, velocity)


def _nesterov_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp
    eta, mu, velocity = state

    def rule(w: Array, g: Array, v: Array) -> tuple[Array, Array]:
        v = accumulate(v, mu, g)
        return _descend(w, eta * (g + mu * v)), v

    layers, velocity = each_parameter(rule, layers, gradients, velocity)
    return layers, SGDState(eta, mu, velocity)


# ---------------------------------------------------------------------------------------------
# A rate for each parameter


class AdagradState(NamedTuple):
    """What Adagrad carries from step to step.

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

    where t counts the steps before.

    Args:
        learning_rate: η, above 0, or a schedule.
        learning_rate_decay: κ, at least 0.
        initial_accumulator: s at the start, at least 0.
        epsilon: ε, above 0: what keeps a parameter without gradients from 0/0.

    Raises:
        ValueError: a number is out of its range or not finite.
        TypeError: it is not a number.

    References:
        Duchi, Hazan & Singer, *Adaptive subgradient methods for online learning and stochastic
        optimization*, JMLR 12, 2011. Names and defaults are those of ``torch.optim.Adagrad``.
    """

    learning_rate: LearningRate = 0.01
    learning_rate_decay: float = 0.0
    initial_accumulator: float = 0.0
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        checks.check_number(self.learning_rate_decay, "learning_rate_decay", least=0.0)
        checks.check_number(self.initial_accumulator, "initial_accumulator", least=0.0)
        checks.check_number(self.epsilon, "epsilon", above=0.0)

    def init(self, layers: Sequence[Layer], *, place: Placement, dtype: str) -> AdagradState:
        """Start with the initial sums."""
        number = functools.partial(place.asarray, dtype=dtype)
        return AdagradState(
            number(initial_rate(self.learning_rate)),
            number(self.learning_rate_decay),
            number(self.epsilon),
            number(1.0),
            _constant(self.initial_accumulator, layers),
        )

    @property
    def update(self) -> Update:
        """The rule of this optimizer."""
        return _adagrad_update


def _adagrad_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdagradState, *, xp: Namespace
) -> tuple[list[Layer], AdagradState]:
    eta, kappa, epsilon, slowdown, square = state
    rate = eta / slowdown
    slowdown += kappa

    def rule(w: Array, g: Array, s: Array) -> tuple[Array, Array]:
        s += g * g
        g /= _root(s, epsilon, xp)
        return _descend_along(w, g, rate), s

    layers, square = each_parameter(rule, layers, gradients, square)
    return layers, AdagradState(eta, kappa, epsilon, slowdown, square)


class RMSpropState(NamedTuple):
    """What RMSprop carries from step to step.

    Attributes:
        learning_rate: η, shape ().
        alpha: α, shape ().
        epsilon: ε, shape ().
        momentum: μ, shape ().
        square: s, one Layer for each layer.
        mean: a, likewise; empty unless centered.
        velocity: √(1 − α) v, likewise; empty without momentum.
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
    """RMSprop: steps in units of the gradient's recent size.

    plain:     s ← α s + g²,  w ← w − η d
               with d = g / (√((1 − α) s) + ε)
    centered:  a ← α a + g as well, and the gradient's variance in place of its mean square:
               d = g / (√((1 − α) s − ((1 − α) a)²) + ε)
    momentum:  v ← μ v + d,  w ← w − η v

    Args:
        learning_rate: η, above 0, or a schedule.
        alpha: α, how much of the past a step keeps, from 0 to below 1.
        momentum: μ, from 0 (none) to below 1.
        centered: whether to divide by the standard deviation.
        epsilon: ε, above 0: what keeps a parameter without gradients from 0/0.

    Raises:
        ValueError: a number is out of its range or not finite.
        TypeError: it is not a number.

    References:
        Tieleman & Hinton, *Neural networks for machine learning*, lecture 6.5, 2012; centered:
        Graves, *Generating sequences with recurrent neural networks*, 2013, eq. (38) to (41). Names
        and defaults are those of ``torch.optim.RMSprop``.
    """

    learning_rate: LearningRate = 0.01
    alpha: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        checks.check_number(self.alpha, "alpha", least=0.0, below=1.0)
        checks.check_number(self.momentum, "momentum", least=0.0, below=1.0)
        checks.check_number(self.epsilon, "epsilon", above=0.0)

    def init(self, layers: Sequence[Layer], *, place: Placement, dtype: str) -> RMSpropState:
        """Start without a past."""
        number = functools.partial(place.asarray, dtype=dtype)
        return RMSpropState(
            number(initial_rate(self.learning_rate)),
            number(self.alpha),
            number(self.epsilon),
            number(self.momentum),
            _constant(0.0, layers),
            _constant(0.0, layers) if self.centered else [],
            _constant(0.0, layers) if self.momentum else [],
        )

    @property
    def update(self) -> Update:
        """The rule of this optimizer; the form of the state says which parts it has."""
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
    rate = eta / c

    def rule(w: Array, g: Array, s: Array, a: Array | None, v: Array | None) -> tuple[Any, ...]:
        spread = s = accumulate(s, alpha, g * g)
        if a is not None:
            a = accumulate(a, alpha, g)
            # Rounding can leave less than nothing of a variance, which has no root.
            spread = xp.maximum(s - c_squared * a * a, 0.0)
        g /= _root(spread, epsilon, xp)
        if v is None:
            return _descend_along(w, g, rate), s, a, v
        v = accumulate(v, mu, g)
        return _descend(w, rate * v), s, a, v

    layers, *memory = each_parameter(rule, layers, gradients, square, mean, velocity)
    return layers, RMSpropState(*state[:4], *memory)


class AdamState(NamedTuple):
    """What Adam and AdamW carry from step to step.

    Attributes:
        learning_rate: η, shape ().
        beta1: β₁, shape ().
        beta2: β₂, shape ().
        epsilon: ε, shape ().
        weight_decay: λ, shape (); 0 in Adam.
        count1: n₁, shape ().
        count2: n₂, shape ().
        mean: m, one Layer for each layer.
        square: v, likewise.
        largest: u, likewise; empty without AMSGrad.
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
    """Adam: steps along the mean gradient, in units of the gradient's recent size.

    Adam:     m ← β₁ m + g,   n₁ ← β₁ n₁ + 1
              v ← β₂ v + g²,  n₂ ← β₂ n₂ + 1
              w ← w − η (m/n₁) / (√(v/n₂) + ε)
    AMSGrad:  u ← max(u, v) as well, in place of v in the step

    A gradient of k steps ago weighs βᵏ, and n is the sum of these weights, (1 − βᵗ)/(1 − β) after t
    steps: m/n₁ and v/n₂ are the paper's m̂ and v̂, without bias from the first step on.

    Args:
        learning_rate: η, above 0, or a schedule.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, above 0: what keeps a parameter without gradients from 0/0.
        amsgrad: whether a step never grows because gradients have become smaller.

    Raises:
        ValueError: a number is out of its range or not finite.
        TypeError: it is not a number.

    References:
        Kingma & Ba, *Adam: a method for stochastic optimization*, ICLR 2015. AMSGrad: Reddi, Kale &
        Kumar, *On the convergence of Adam and beyond*, ICLR 2018; as in ``torch.optim.Adam``, whose
        defaults these are, the largest v is taken before the bias is corrected.

    Examples:
        >>> Adam(0.01).beta2
        0.999
    """

    learning_rate: LearningRate = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        checks.check_number(self.beta1, "beta1", least=0.0, below=1.0)
        checks.check_number(self.beta2, "beta2", least=0.0, below=1.0)
        checks.check_number(self.epsilon, "epsilon", above=0.0)

    def init(self, layers: Sequence[Layer], *, place: Placement, dtype: str) -> AdamState:
        """Start without a past."""
        number = functools.partial(place.asarray, dtype=dtype)
        return AdamState(
            number(initial_rate(self.learning_rate)),
            number(self.beta1),
            number(self.beta2),
            number(self.epsilon),
            number(0.0),
            number(0.0),
            number(0.0),
            _constant(0.0, layers),
            _constant(0.0, layers),
            _constant(0.0, layers) if self.amsgrad else [],
        )

    @property
    def update(self) -> Update:
        """The rule of this optimizer; the form of the state says whether it is AMSGrad."""
        return _adam_update


@dataclass(frozen=True)
class AdamW(Adam):
    """AdamW: Adam, with parameters that decay at a rate of their own.

    w ← (1 − η λ) w, then Adam's step

    The L2 term of ``fit`` is another thing: it adds l2·w to the gradient, and Adam divides that by
    the gradient's size, so that weights with large gradients hardly decay. (In plain gradient
    descent, λ and l2 are the same.) To use both is to decay twice.

    Args:
        learning_rate: η, above 0, or a schedule, which the decay follows too.
        beta1: β₁, from 0 to below 1.
        beta2: β₂, from 0 to below 1.
        epsilon: ε, above 0.
        amsgrad: as in :class:`Adam`.
        weight_decay: λ, at least 0.
        decay_biases: whether biases decay like weights, as in the paper and in PyTorch. Most
            practice lets them be, as does the L2 term of ``fit``: False.

    Raises:
        ValueError: a number is out of its range or not finite.
        TypeError: it is not a number.

    References:
        Loshchilov & Hutter, *Decoupled weight decay regularization*, ICLR 2019, algorithm 2, with
        λ for its λ/α. Defaults are those of ``torch.optim.AdamW``.
    """

    weight_decay: float = 0.01
    decay_biases: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.check_number(self.weight_decay, "weight_decay", least=0.0)

    def init(self, layers: Sequence[Layer], *, place: Placement, dtype: str) -> AdamState:
        """Start without a past."""
        state = super().init(layers, place=place, dtype=dtype)
        return state._replace(weight_decay=place.asarray(self.weight_decay, dtype))

    @property
    def update(self) -> Update:
        """The rule of this optimizer; the form of the state says whether it is AMSGrad."""
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
    rate = r * eta / count1

    def rule(w: Array, g: Array, m: Array, v: Array, u: Array | None) -> tuple[Any, ...]:
        m = accumulate(m, beta1, g)
        g *= g
        v = accumulate(v, beta2, g)
        if u is not None:
            u = xp.maximum(u, v)
        return _descend_along(w, m / _root(v if u is None else u, epsilon, xp), rate), m, v, u

    layers, *memory = each_parameter(rule, layers, gradients, mean, square, largest)
    return layers, AdamState(*state[:5], count1, count2, *memory)


def _adamw_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdamState, *, xp: Namespace
) -> tuple[list[Layer], AdamState]:
    kept = 1.0 - state.learning_rate * state.weight_decay
    layers = [Layer(_scale(W, kept), _scale(b, kept)) for W, b in layers]
    return _adam_update(layers, gradients, state, xp=xp)


def _adamw_weights_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdamState, *, xp: Namespace
) -> tuple[list[Layer], AdamState]:
    kept = 1.0 - state.learning_rate * state.weight_decay
    layers = [Layer(_scale(W, kept), b) for W, b in layers]
    return _adam_update(layers, gradients, state, xp=xp)


# ---------------------------------------------------------------------------------------------
# What rules are made of. An array that is assigned to in place is one that nobody needs any more.


def each_parameter(
    rule: Callable[..., tuple[Any, ...]], *trees: Sequence[Layer]
) -> list[list[Layer]]:
    """Apply a rule to corresponding parameters, and return what it returns, each as layers again.

    An optional memory is an empty tree: the rule is given None, returns None, and it stays empty.
    """
    nothing = [Layer(None, None)] * len(trees[0])
    results = [
        [Layer(*pair) for pair in zip(*map(rule, *corresponding), strict=True)]
        for corresponding in zip(*(tree or nothing for tree in trees), strict=True)
    ]
    return [[] if tree[0].W is None else list(tree) for tree in zip(*results, strict=True)]


def _constant(value: float, layers: Sequence[Layer]) -> list[Layer]:
    """Return layers of the same form that are filled with a number."""
    return [Layer(0.0 * W + value, 0.0 * b + value) for W, b in layers]


def accumulate(total: Array, kept: Array, term: Array | float) -> Array:
    """Return kept · total + term, in the memory of the total where a library allows it."""
    total *= kept
    total += term
    return total


def _root(square: Array, epsilon: Array, xp: Namespace) -> Array:
    root = xp.sqrt(square)
    root += epsilon
    return root


def _scale(array: Array, factor: Array) -> Array:
    array *= factor
    return array


def _descend(parameter: Array, step: Array) -> Array:
    parameter -= step
    return parameter


def _descend_along(parameter: Array, direction: Array, eta: Array) -> Array:
    return _descend(parameter, _scale(direction, eta))
