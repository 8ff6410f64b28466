"""scikit-learn's solvers as optimizers of bp_xp, and L-BFGS over the same gradients."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bp_xp._optional import require
from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, to_numpy
from bp_xp.math.backprop import backpropagate, cost_of_samples
from bp_xp.math.model import Model
from bp_xp.math.regularization import add_l2_gradient
from bp_xp.optim import SGD, Adam, Optimizer, Update
from bp_xp.optim.adaptive import AdamState
from bp_xp.optim.descent import SGDState
from bp_xp.optim.optimizer import accumulate, each_parameter, initial_rates
from bp_xp.optim.schedules import LearningRate
from bp_xp.training.looks import Position

__all__ = ["Minimum", "Momentum", "Penalized", "PlainAdam", "Rate", "Solver", "minimize"]

# Below it, scikit-learn's "adaptive" ends a run instead of dividing the rate again.
_LEAST_ADAPTIVE_RATE = 1e-6


# ---------------------------------------------------------------------------------------------
# Learning rates


class Rate:
    """A learning rate that is set between epochs: ``learning_rate`` of scikit-learn.

    constant:    η
    invscaling:  η / (t + 1)^power after t samples, the same for a whole epoch
    adaptive:    η, divided by 5 each time that the run stops improving

    Args:
        initial: η.
        kind: ``"constant"``, ``"invscaling"`` or ``"adaptive"``.
        power: the exponent of ``"invscaling"``.
    """

    def __init__(self, initial: float, kind: str, power: float) -> None:
        self.initial, self.kind, self.power = float(initial), kind, power
        self.value = self.initial

    def __call__(self, step: int) -> float:
        """Return the current rate, for any step."""
        del step
        return self.value

    def end_epoch(self, samples: int) -> None:
        """Record the number of samples seen so far."""
        if self.kind == "invscaling":
            self.value = self.initial / (samples + 1) ** self.power

    def fall(self) -> bool:
        """Return whether the rate could be lowered, now that the run has stopped improving."""
        if self.kind != "adaptive" or self.value <= _LEAST_ADAPTIVE_RATE:
            return False
        self.value /= 5.0
        return True


# ---------------------------------------------------------------------------------------------
# Optimizers


@dataclass(frozen=True)
class Momentum:
    """scikit-learn's gradient descent: the velocity holds steps, each with the rate of its time.

    plain:     w ← w − η g
    momentum:  v ← μ v + η g,  w ← w − v
    Nesterov:  v ← μ v + η g,  w ← w − (μ v + η g)

    With a constant rate it equals :class:`bp_xp.SGD`, whose velocity holds gradients: there, a new
    rate also changes what is left of earlier steps.

    Args:
        learning_rate: η, a number or a schedule.
        momentum: μ, from 0 to 1.
        nesterov: whether to use Nesterov's momentum.
    """

    learning_rate: LearningRate
    momentum: float
    nesterov: bool

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> SGDState:
        """Start with a velocity of 0."""
        number = functools.partial(placement.asarray, dtype=dtype)
        rate, mu = initial_rates(self.learning_rate, layers, number), number(self.momentum)
        return SGDState(rate, mu, map_leaves(placement.xp.zeros_like, list(layers)))

    @property
    def update(self) -> Update:
        """The rule of this optimizer."""
        if not self.momentum:
            return _plain_update
        return _nesterov_update if self.nesterov else _momentum_update


_plain_update = SGD(1.0).update


def _momentum_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp

    def rule(w: Array, g: Array, v: Array, eta: Array, mu: Array) -> tuple[Array, Array]:
        g *= eta
        v = accumulate(v, mu, g)
        w -= v
        return w, v

    layers, velocity = each_parameter(
        rule, layers, gradients, state.velocity, settings=[state.learning_rate, state.momentum]
    )
    return layers, state._replace(velocity=velocity)


def _nesterov_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: SGDState, *, xp: Namespace
) -> tuple[list[Layer], SGDState]:
    del xp

    def rule(w: Array, g: Array, v: Array, eta: Array, mu: Array) -> tuple[Array, Array]:
        g *= eta
        v = accumulate(v, mu, g)
        g += mu * v
        w -= g
        return w, v

    layers, velocity = each_parameter(
        rule, layers, gradients, state.velocity, settings=[state.learning_rate, state.momentum]
    )
    return layers, state._replace(velocity=velocity)


@dataclass(frozen=True)
class PlainAdam(Adam):
    """Adam with an ε that is not scaled: w ← w − η √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε).

    The paper has this form in its remark on efficiency, and scikit-learn computes it.
    :class:`bp_xp.Adam` is the paper's algorithm 1, whose ε is √(1 − β₂ᵗ) times as large here.
    """

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> AdamState:
        """Start with empty moments."""
        state = super().init(layers, placement=placement, dtype=dtype)
        # The state's v is a sum, 1/(1 − β₂) times the paper's.
        return state._replace(
            epsilon=placement.asarray(self.epsilon / math.sqrt(1.0 - self.beta2), dtype)
        )

    @property
    def update(self) -> Update:
        """The rule of this optimizer."""
        return _plain_adam_update


_adam_update = Adam().update


def _plain_adam_update(
    layers: Sequence[Layer], gradients: Sequence[Layer], state: AdamState, *, xp: Namespace
) -> tuple[list[Layer], AdamState]:
    # Adam's rule multiplies ε by √n₂, with the n₂ after this step.
    n2 = state.beta2 * state.count2 + 1.0
    scaled = state._replace(epsilon=state.epsilon / xp.sqrt(n2))
    layers, new_state = _adam_update(layers, gradients, scaled, xp=xp)
    return layers, new_state._replace(epsilon=state.epsilon)


class PenalizedState(NamedTuple):
    """What :class:`Penalized` carries from step to step.

    Attributes:
        learning_rate: the state of the optimizer's rate, for schedules; empty if it has none.
        decay: α/n of the mini-batch, shape (), given with it.
        share: what ½ α ‖W‖² adds to the loss of the epoch, divided by ½ ‖W‖², given with it.
        kept: 0 in the first step of an epoch, otherwise 1, given with the mini-batch.
        penalty: what the term has added to the loss of the epoch, shape ().
        inner: the optimizer's own state.
    """

    learning_rate: Any
    decay: Array
    share: Array
    kept: Array
    penalty: Array
    inner: Any


@dataclass(frozen=True)
class Penalized:
    """An optimizer, and scikit-learn's L2 term: ½ α ‖W‖² / n, with the n of each mini-batch.

    The term is part of scikit-learn's loss. It is therefore summed during the epoch, from the
    weights at the start of each step, and stays on the device.

    Args:
        optimizer: any optimizer.
        by_columns: whether the weights of the first layer are stored column by column, as for
            sparse inputs: their squares are summed in memory order.
    """

    optimizer: Optimizer
    by_columns: bool = False

    @property
    def learning_rate(self) -> Any:
        """The rate of the optimizer; None if it has none."""
        return getattr(self.optimizer, "learning_rate", None)

    @property
    def update(self) -> Update:
        """The rule of the optimizer, applied after the term's gradient is added."""
        return _PenalizedUpdate(self.optimizer.update, self.by_columns)

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> PenalizedState:
        """Start with a sum of 0."""
        return self.around(
            self.optimizer.init(layers, placement=placement, dtype=dtype), placement, dtype
        )

    def around(self, inner: Any, placement: Placement, dtype: str) -> PenalizedState:
        """Return the state that contains a state of the optimizer."""
        decay, share, kept, penalty = (placement.asarray(0.0, dtype) for _ in range(4))
        rate = map_leaves(
            lambda eta: placement.xp.asarray(eta, copy=True), getattr(inner, "learning_rate", ())
        )
        return PenalizedState(rate, decay, share, kept, penalty, inner)


@dataclass(frozen=True)
class _PenalizedUpdate:
    """The rule of :class:`Penalized`; two of them are equal if their inner rules are."""

    inner: Update
    by_columns: bool

    def __call__(
        self,
        layers: Sequence[Layer],
        gradients: Sequence[Layer],
        state: PenalizedState,
        *,
        xp: Namespace,
    ) -> tuple[list[Layer], PenalizedState]:
        first, *others = (W for W, _ in layers)
        each = [first.mT if self.by_columns else first, *others]
        squares = sum((_square(W, xp) for W in each[1:]), start=_square(each[0], xp))
        penalty = state.kept * state.penalty + (0.5 * state.share) * squares
        gradients = add_l2_gradient(gradients, layers, state.decay)
        inner = own = state.inner
        if hasattr(own, "learning_rate"):
            inner = own._replace(learning_rate=state.learning_rate)
        layers, inner = self.inner(layers, gradients, inner, xp=xp)
        if hasattr(own, "learning_rate"):
            inner = inner._replace(learning_rate=own.learning_rate)
        return layers, state._replace(penalty=penalty, inner=inner)


def _square(W: Array, xp: Namespace) -> Array:
    """Return ‖W‖², shape (), or that of each network of a stack, shape (M,)."""
    if W.ndim == 2:
        w = xp.reshape(W, (-1,))
        return w @ w
    w = xp.reshape(W, (W.shape[0], 1, -1))
    return (w @ w.mT)[:, 0, 0]


@dataclass
class Solver:
    """An optimizer in use, with the state that ``partial_fit`` continues from.

    Attributes:
        optimizer: the optimizer.
        rate: the rate that is set between epochs; None if the optimizer has its own.
        state: the optimizer's state after the last call; None before.
        masks: dropout's state after the last call; None before.
        step: the number of steps taken so far.
    """

    optimizer: Optimizer
    rate: Rate | None = None
    state: Any = None
    masks: Any = ()
    step: int = 0

    @property
    def learning_rate(self) -> Any:
        """The current learning rate."""
        return self.rate.value if self.rate else getattr(self.optimizer, "learning_rate", None)

    def keep(self, position: Position | None) -> None:
        """Keep the state at the end of a run; None drops a state that is no longer finite."""
        if position is None:
            self.state, self.masks, self.step = None, (), 0
            return
        state = position.state.optimizer
        self.state = state.inner if isinstance(state, PenalizedState) else state
        self.masks, self.step = position.state.masks, position.step

    def on_host(self) -> "Solver":
        """Return a copy whose arrays are on the host."""
        state = None if self.state is None else map_leaves(to_numpy, self.state)
        return replace(self, state=state, masks=map_leaves(to_numpy, self.masks))


# ---------------------------------------------------------------------------------------------
# L-BFGS


class Minimum(NamedTuple):
    """The result of L-BFGS.

    Attributes:
        layers: the parameters, on the host in float64.
        cost: the mean cost of these parameters.
        penalty: ½ α ‖W‖² / n of these parameters.
        iterations: the number of iterations.
        complaint: why it ended before it converged; empty otherwise.
    """

    layers: list[Layer]
    cost: float
    penalty: float
    iterations: int
    complaint: str


def minimize(
    model: Model,
    layers: Sequence[Layer],
    blocks: Callable[[], Iterable[tuple[Array, Array, Array | None]]],
    *,
    alpha: float,
    weight: float,
    placement: Placement,
    dtype: str,
    options: dict[str, Any],
    by_columns: bool = False,
) -> Minimum:
    """Minimize the mean cost with ½ α ‖W‖² / n over all samples by L-BFGS.

    Args:
        model: what the network computes.
        layers: the parameters to start from, on the host.
        blocks: yields all samples as (x, y, weights or None), on the device.
        alpha: α.
        weight: n, the number of samples or the sum of their weights.
        placement: library and device.
        dtype: the dtype on the device; the minimizer itself works in float64.
        options: the options of SciPy's ``L-BFGS-B``.
        by_columns: whether W is stored column by column on the device, as sparse inputs read it.
    """
    optimize = require("scipy.optimize", "sklearn")
    judge = placement.engine.compile(_sums, model, placement.xp)
    shapes = [W.shape for W, _ in layers]
    ends = np.cumsum([*(n_out * n_in for n_out, n_in in shapes), *(n_out for n_out, _ in shapes)])

    # The order of parameters is scikit-learn's, weights as (I, O) before biases: sums over them
    # are then rounded in the same way, and the searches stay the same.
    def pack(parameters: Sequence[Layer]) -> np.ndarray:
        host = [
            [to_numpy(part).astype(np.float64, copy=False) for part in layer]
            for layer in parameters
        ]
        return np.concatenate([*(W.T.ravel() for W, _ in host), *(b for _, b in host)])

    def unpack(packed: np.ndarray) -> list[Layer]:
        parts = np.split(packed, ends[:-1])
        coefs, biases = parts[: len(shapes)], parts[len(shapes) :]
        return [
            Layer(coef.reshape(shape[::-1]).T, b)
            for coef, b, shape in zip(coefs, biases, shapes, strict=True)
        ]

    def penalty_of(parameters: Sequence[Layer]) -> float:
        return 0.5 * alpha / weight * sum(float(np.vdot(W, W)) for W, _ in parameters)

    def objective(packed: np.ndarray) -> tuple[float, np.ndarray]:
        host = unpack(packed)
        there = map_leaves(lambda part: placement.asarray(part, dtype), host[by_columns:])
        if by_columns:
            W, b = (placement.asarray(part.T, dtype) for part in host[0])
            there.insert(0, Layer(placement.xp.matrix_transpose(W), b))
        cost, slope = 0.0, np.zeros_like(packed)
        with np.errstate(over="ignore", invalid="ignore"):
            for block in blocks():
                block_cost, gradients = judge(there, *block)
                cost += float(to_numpy(block_cost)) / weight
                slope += pack(gradients) / weight
        slope += pack([Layer(alpha / weight * W, np.zeros_like(b)) for W, b in host])
        return cost + penalty_of(host), slope

    with _one_pool(placement):
        result = optimize.minimize(
            objective, pack(layers), method="L-BFGS-B", jac=True, options=options
        )
    found, message = unpack(result.x), result.message
    penalty = penalty_of(found)
    complaint = "" if result.status == 0 else str(message)
    return Minimum(found, float(result.fun) - penalty, penalty, int(result.nit), complaint)


def _one_pool(placement: Placement) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which SciPy's threads do not compete with those of a library.

    The minimizer and the gradients take turns, and each one's idle threads spin for a while.
    """
    if placement.backend == "numpy":
        return contextlib.nullcontext()
    return require("threadpoolctl", "sklearn").threadpool_limits(limits=1, user_api="blas")


def _sums(
    model: Model,
    xp: Namespace,
    layers: Sequence[Layer],
    x: Array,
    y: Array,
    weights: Array | None = None,
) -> tuple[Array, list[Layer]]:
    """Return the sum over samples of the cost, and its derivatives."""
    gradients, z = backpropagate(model, layers, x, y, weights=weights, xp=xp)
    cost = cost_of_samples(model, z, y, xp=xp)
    total = x.shape[0] if weights is None else xp.sum(weights)
    cost = xp.sum(cost if weights is None else cost * weights)
    return cost, [Layer(total * dW, total * db) for dW, db in gradients]
