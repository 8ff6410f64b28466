"""Inspect a network: each quantity of backpropagation in each layer, by its name in the chapter.

- :func:`trace` runs samples forward and back once, and keeps every intermediate quantity: z, a,
  σ′(z), δ and the derivatives.
- :class:`GradientFlow` records during a run how fast each layer learns, and why one learns slowly.
- :func:`sensitivity` nudges one neuron, and compares the change of the cost with δ Δz.

Layers are counted from 1, as in the chapter; the inputs are layer 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import library_of, to_numpy
from bp_xp.backends.registry import active_for
from bp_xp.math import backprop
from bp_xp.math.activations import Activation
from bp_xp.math.costs import COSTS, MatchedCost
from bp_xp.math.model import Model
from bp_xp.training.callbacks import Callback
from bp_xp.training.history import History

__all__ = [
    "SATURATED_BELOW",
    "BackpropTrace",
    "FlowRecord",
    "GradientFlow",
    "LayerTrace",
    "Sensitivity",
    "sensitivity",
    "trace",
]

SATURATED_BELOW = 0.05
"""A neuron is saturated if |σ′(z)| is below this share of the largest value of |σ′|."""


# ---------------------------------------------------------------------------------------------
# One pass forward and one back


class LayerTrace(NamedTuple):
    """What backpropagation finds in one layer l, of I inputs and O neurons, for N samples.

    Attributes:
        W: Wˡ, shape (O, I).
        b: bˡ, shape (O,).
        z: zˡ = aˡ⁻¹ (Wˡ)ᵀ + bˡ, shape (N, O).
        a: aˡ = σ(zˡ), shape (N, O).
        sigma_prime_z: σ′(zˡ), shape (N, O); if the neurons are coupled, as in softmax, the Jacobian
            ∂aₖ/∂zⱼ, shape (N, O, O), of which a table shows the diagonal.
        delta: δˡ = ∂C/∂zˡ of the mean cost, shape (N, O).
        nabla_W: ∂C/∂Wˡ, shape (O, I).
        nabla_b: ∂C/∂bˡ, shape (O,).
    """

    W: Array
    b: Array
    z: Array
    a: Array
    sigma_prime_z: Array
    delta: Array
    nabla_W: Array  # noqa: N815 - the book's name
    nabla_b: Array


@dataclass(frozen=True, eq=False, repr=False)
class BackpropTrace:
    """Every intermediate quantity of backpropagation; printing it shows a table.

    All arrays are on the network's device. Only printing copies them to the host.

    Attributes:
        model: what the network computes.
        x: the inputs, a⁰, shape (N, I).
        y: the targets, shape (N, O).
        cost: C, the mean cost, shape ().
        nabla_a: ∇ₐC of the mean cost, shape (N, O); None if the cost is matched to the output
            activation, and gives δᴸ directly.
        layers: the quantities of each layer; the first is layer 1.
    """

    model: Model
    x: Array
    y: Array
    cost: Array
    nabla_a: Array | None
    layers: tuple[LayerTrace, ...]

    def __str__(self) -> str:
        model = self.model
        lines = [
            f"{_count(self.x)} through {'-'.join(map(str, model.sizes))}: mean cost "
            f"C = {float(to_numpy(self.cost)):.6g} ({model.cost.name})",
            f"{'layer':>5}  {'σ':10} {'W':>11} {'z':>11} {'mean |z|':>9} {'mean |a|':>9} "
            f"{'mean |σ′|':>9} {'‖δ‖':>9} {'‖∂C/∂W‖':>9} {'‖∂C/∂b‖':>9}",
            f"{0:5}  {'(inputs)':10} {'':11} {_shape(self.x):>11} {'':9} {_mean(self.x):9.3g}",
        ]
        for l, layer in enumerate(self.layers, start=1):  # noqa: E741 - the book's index of layers
            slopes = _own_slopes(to_numpy(layer.sigma_prime_z), xp=np)
            norms = (_norm(part) for part in (layer.delta, layer.nabla_W, layer.nabla_b))
            numbers = (_mean(layer.z), _mean(layer.a), _mean(slopes), *norms)
            lines.append(
                f"{l:5}  {model.activations[l - 1].name:10} {_shape(layer.W):>11} "
                f"{_shape(layer.z):>11} {' '.join(f'{number:9.3g}' for number in numbers)}"
            )
        return "\n".join(lines)

    __repr__ = __str__

    def equations(self) -> str:
        """Return the four equations as text: each quantity above its shape and its norm ‖·‖."""
        lines = [
            f"The four equations for the mean cost of {_count(self.x)}, one per row. Below each",
            "quantity are its shape and its norm, the root of the sum of its squares.",
            "",
            *self._output_equation(),
            "",
            "BP2  δˡ = (δˡ⁺¹ Wˡ⁺¹) ⊙ σ′(zˡ)",
        ]
        numbered = list(enumerate(self.layers, start=1))[::-1]
        for (l, layer), (k, above) in zip(numbered[1:], numbered, strict=False):  # noqa: E741
            error, weights = (f"δ{_up(k)}", above.delta), (f"W{_up(k)}", above.W)
            slope = (f"σ′(z{_up(l)})", layer.sigma_prime_z)
            lines += _stacked((f"δ{_up(l)}", layer.delta), "= (", error, weights, ") ⊙", slope)
        if len(numbered) == 1:
            lines.append("     (there is no hidden layer)")
        lines += ["", "BP3  ∂C/∂bˡ = Σₙ δˡₙ"]
        for l, layer in numbered:  # noqa: E741
            error = (f"δ{_up(l)}", layer.delta)
            lines += _stacked((f"∂C/∂b{_up(l)}", layer.nabla_b), "= Σₙ", error)
        lines += ["", "BP4  ∂C/∂Wˡ = (δˡ)ᵀ aˡ⁻¹"]
        below = [self.x, *(layer.a for layer in self.layers)]
        for l, layer in numbered:  # noqa: E741
            error = (f"(δ{_up(l)})ᵀ", layer.delta.mT)
            inputs = (f"a{_up(l - 1)}", below[l - 1])
            lines += _stacked((f"∂C/∂W{_up(l)}", layer.nabla_W), "=", error, inputs)
        return "\n".join(lines)

    def _output_equation(self) -> list[str]:
        """Return BP1 in its form for this cost and this output activation."""
        last, top, cost = self.layers[-1], _up(len(self.layers)), self.model.cost.name
        activation = self.model.activations[-1]
        error, slope = (f"δ{top}", last.delta), (f"σ′(z{top})", last.sigma_prime_z)
        if self.nabla_a is None:
            title = f"BP1  δᴸ = ∂C/∂zᴸ: {cost} is matched to {activation.name}, and σ′(zᴸ) cancels"
            terms: list[Any] = ["= (", (f"a{top}", last.a), "−", ("y", self.y), ")"]
            if COSTS.get(cost) is not self.model.cost:
                terms[0], terms[2] = "= error (", ","
            return [title, *_stacked(error, *terms, "/ N")]
        nabla_a = ("∇ₐC", self.nabla_a)
        if activation.coupled:
            title = "BP1  δᴸⱼ = Σₖ ∂C/∂aₖ ∂aₖ/∂zⱼ"
            return [title, *_stacked(error, "=", nabla_a, (f"∂a/∂z{top}", last.sigma_prime_z))]
        return ["BP1  δᴸ = ∇ₐC ⊙ σ′(zᴸ)", *_stacked(error, "=", nabla_a, "⊙", slope)]


def trace(
    model: Model, layers: Sequence[Layer], x: Array, y: Array, *, xp: Namespace
) -> BackpropTrace:
    """Run samples forward and back, and keep every intermediate quantity.

    The arguments are trusted: :meth:`bp_xp.Network.trace` checks them.

    Args:
        model: what the network computes.
        layers: its parameters, first layer first.
        x: inputs, shape (N, I).
        y: targets, shape (N, O).
        xp: their namespace.

    Returns:
        The cost, and for each layer what :class:`LayerTrace` holds, on the device of the arguments.
    """
    run = backprop.forward(model, layers, x, xp=xp)
    cost = xp.mean(backprop.cost_of_samples(model, run.zs[-1], y, xp=xp))
    output = run.activations[-1]
    nabla_a = None
    if not isinstance(model.cost, MatchedCost):
        nabla_a = model.cost.gradient(output, y, xp=xp) * (1.0 / x.shape[0])
    found = []
    walk = backprop.errors(model, layers, run, y, xp=xp)
    way_back = [reversed(each) for each in (layers, model.activations, run.zs, run.activations[1:])]
    for (delta, sigma_prime_z), a_below, (W, b), activation, z, a in zip(
        walk, reversed(run.passed), *way_back, strict=True
    ):
        if sigma_prime_z is None:
            sigma_prime_z = activation.sigma_prime(z, a, xp=xp)
        nabla = backprop.gradient(delta, a_below, xp=xp)
        found.append(LayerTrace(W, b, z, a, sigma_prime_z, delta, nabla.W, nabla.b))
    return BackpropTrace(model, x, y, cost, nabla_a, tuple(reversed(found)))


# ---------------------------------------------------------------------------------------------
# How fast each layer learns


class FlowRecord(NamedTuple):
    """How the layers learn at one moment of a run; each tuple has one number per layer.

    Attributes:
        step: the number of steps taken in the run.
        epoch: the current epoch, or the one that has just ended.
        gradient_norms: ‖(∂C/∂W, ∂C/∂b)‖, the length of the layer's part of the gradient.
        update_ratios: ‖W − W′‖ / ‖W′‖, where W′ are the weights at the previous record, or at the
            start of the run: how far the weights have moved since then, relative to their size.
        saturated: the share of the layer's neurons and samples for which |σ′(z)| is below
            :data:`SATURATED_BELOW` times the largest value of |σ′|.
        dead: the share of the layer's neurons that are saturated for every sample.
        speeds: ‖∂C/∂b‖ = ‖Σₙ δₙ‖, which Nielsen uses as the speed at which a layer learns.
    """

    step: int
    epoch: int
    gradient_norms: tuple[float, ...]
    update_ratios: tuple[float, ...]
    saturated: tuple[float, ...]
    dead: tuple[float, ...]
    speeds: tuple[float, ...]


class GradientFlow(Callback):
    """Records how fast each layer learns, and why one learns slowly.

    A weight's derivative is δ aᵢₙ: the weight learns slowly if its input is small, or if its neuron
    is saturated, since σ′(z) is a factor of δ. After each epoch, the same samples run forward and
    back. The recorded norms and shares are computed on the device, and stay there until
    :attr:`records` is read. The run does not change.

    The gradient is that of the mean cost over these samples, with all neurons (no dropout) and
    without penalties. Saturated outputs learn slowly only with the quadratic cost: a cross-entropy
    cancels their σ′(z), and its outputs become saturated as the network becomes confident.

    Args:
        x: inputs, shape (N, I); a few hundred samples of the training data are enough.
        y: labels, shape (N,), or targets, shape (N, O).
        every: also take a record every this many steps; 0 for none.

    Attributes:
        every: the argument of the same name.

    Raises:
        ValueError: ``every`` is negative; or, when the run starts, x and y do not fit the network.
        TypeError: ``every`` is not an integer.

    References:
        Nielsen, ch. 2, 'The four fundamental equations behind backpropagation'; ch. 5, 'What's
        causing the vanishing gradient problem?'.

    Examples:
        Behind three layers of sigmoids, the first learns more slowly than the last:

        >>> from bp_xp import Network
        >>> x, y = np.eye(8), np.arange(8) % 2
        >>> flow = GradientFlow(x, y)
        >>> net = Network([8, 6, 6, 6, 2], seed=0)
        >>> history = net.fit(x, y, epochs=3, callbacks=[flow], progress=False)
        >>> [record.epoch for record in flow.records]
        [1, 2, 3]
        >>> first, *_, last = flow.records[-1].gradient_norms
        >>> first < 0.1 * last
        True
    """

    def __init__(self, x: Any, y: Any, every: int = 0) -> None:
        self.every: int = checks.check_integer(every, "every", least=0)
        self._samples = (x, y)
        self._records: list[FlowRecord] = []
        self._waiting: list[tuple[int, int, Array]] = []

    @property
    def records(self) -> tuple[FlowRecord, ...]:
        """The records of the last run (of ``fit`` or ``partial_fit``), fetched together.

        A new run starts with none; a tuple that was read before does not change.
        """
        if self._waiting:
            steps, epochs, measured = zip(*self._waiting, strict=True)
            library = library_of(measured[0])
            assert library is not None
            with active_for(measured[0]):
                values = to_numpy(library.namespace().stack(measured))
            self._records += map(_record, steps, epochs, values.astype(np.float64))
            self._waiting = []
        return tuple(self._records)

    def on_train_start(self, network: Any, history: History) -> None:
        """Check the samples and move them to the network's device; forget the run before."""
        if not hasattr(network, "trace"):
            raise TypeError(f"a GradientFlow records a single network, not {network!r}.")
        try:
            checked = network.trace(*self._samples)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the samples of GradientFlow cannot be used: {error}") from error
        self._data = checked.x, checked.y
        self._greatest = [_greatest_slope(sigma, network) for sigma in network.model.activations]
        self._before, self._step = network.layers, 0
        self._records, self._waiting = [], []

    def on_steps(self, network: Any, history: History, step: int) -> None:
        """Take a record after each ``every`` steps."""
        self._take(network, step, len(history) + 1)

    def on_epoch_end(self, network: Any, history: History) -> None:
        """Take a record after an epoch, unless its last step had one."""
        if history.steps != self._step:
            self._take(network, history.steps, history[-1].epoch)

    def on_train_end(self, network: Any, history: History) -> None:
        """Release all arrays on the device except the records that have not been read."""
        self._data = self._before = self._greatest = ()

    def _take(self, network: Any, step: int, epoch: int) -> None:
        layers = network.layers
        engine = network.placement.engine
        measure = engine.compile(_measure, network.model, network.xp)
        # A run that overflows ends in a DivergenceError, which is clearer than a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            values = measure(layers, self._before, self._greatest, *self._data)
        self._waiting.append((step, epoch, values))
        self._before, self._step = layers, step

    def __str__(self) -> str:
        lines = [
            f"{'epoch':>5} {'step':>8} {'layer':>5} {'gradient':>10} {'speed':>10} "
            f"{'update ratio':>12} {'saturated':>9} {'dead':>7}"
        ]
        for record in self.records:
            moment = f"{record.epoch:5} {record.step:8}"
            rows = zip(
                record.gradient_norms,
                record.speeds,
                record.update_ratios,
                record.saturated,
                record.dead,
                strict=True,
            )
            for l, (gradient, speed, ratio, saturated, dead) in enumerate(rows, start=1):  # noqa: E741
                lines.append(
                    f"{moment} {l:5} {gradient:10.3g} {speed:10.3g} {ratio:12.3g} "
                    f"{saturated:9.1%} {dead:7.1%}"
                )
                moment = " " * len(moment)
        return "\n".join(lines)


def _measure(
    model: Model,
    xp: Namespace,
    layers: Sequence[Layer],
    before: Sequence[Layer],
    greatest: Sequence[Array],
    x: Array,
    y: Array,
) -> Array:
    """Return six numbers per layer, shape (L, 6), from which a FlowRecord is made."""
    rows = []
    found = trace(model, layers, x, y, xp=xp).layers
    for layer, (old, _), slope in zip(found, before, greatest, strict=True):
        speed = _length(layer.nabla_b, xp=xp)
        slopes = xp.abs(_own_slopes(layer.sigma_prime_z, xp=xp))
        saturated = slopes < SATURATED_BELOW * slope
        row = [
            _length(xp.stack([_length(layer.nabla_W, xp=xp), speed]), xp=xp),
            _length(layer.W - old, xp=xp),
            _length(old, xp=xp),
            xp.mean(xp.astype(saturated, x.dtype)),
            xp.mean(xp.astype(xp.all(saturated, axis=0), x.dtype)),
            speed,
        ]
        rows.append(xp.stack(row))
    return xp.stack(rows)


def _record(step: int, epoch: int, values: np.ndarray) -> FlowRecord:
    """Return the record of the numbers that :func:`_measure` returned."""
    gradients, moved, size, saturated, dead, speeds = values.T.tolist()
    # For weights that start at 0, the ratio is infinite, or 0 if they have not moved.
    ratios = [m / s if s else (math.inf if m else 0.0) for m, s in zip(moved, size, strict=True)]
    return FlowRecord(step, epoch, *map(tuple, (gradients, ratios, saturated, dead, speeds)))


def _length(values: Array, *, xp: Namespace) -> Array:
    """Return ‖v‖ of all numbers of an array, shape ().

    The numbers are divided by the largest so that their squares cannot underflow: in float32 they
    would below 1e-23, which gradients reach in networks of some dozens of layers.
    """
    largest = xp.maximum(xp.max(xp.abs(values)), 1e-30)
    scaled = values / largest
    return largest * xp.sqrt(xp.sum(scaled * scaled))


def _greatest_slope(activation: Activation, network: Any) -> Array:
    """Return the largest |σ′(z)| for −10 ≤ z ≤ 10, shape ().

    The slopes of a coupled σ are those of one neuron next to another with z = 0.
    """
    xp = network.xp
    z = network.asarray([[step / 100, 0.0] for step in range(-1000, 1001)])
    slopes = activation.sigma_prime(z, activation.sigma(z, xp=xp), xp=xp)
    return xp.max(xp.abs(_own_slopes(slopes, xp=xp)))


def _own_slopes(sigma_prime_z: Array, *, xp: Namespace) -> Array:
    """Return ∂aₖ/∂zₖ, shape (N, O): σ′(z), or the diagonal of a Jacobian."""
    if sigma_prime_z.ndim == 2:
        return sigma_prime_z
    return xp.sum(xp.triu(xp.tril(sigma_prime_z)), axis=-1)


# ---------------------------------------------------------------------------------------------
# The demon in the machine


class Sensitivity(NamedTuple):
    """What a nudge Δz of one neuron does to the cost.

    Attributes:
        predicted: δ Δz, the change that backpropagation predicts.
        real: the change of C.
        difference: real − predicted, which shrinks as (Δz)².
        cost_before: C.
        cost_after: C with the nudge.
    """

    predicted: float
    real: float
    difference: float
    cost_before: float
    cost_after: float


def sensitivity(
    network: Any, x: Any, y: Any, layer: int, unit: int, nudge: float = 0.01
) -> Sensitivity:
    """Add a little to the weighted input of one neuron, and measure how the cost changes.

    ΔC ≈ ∂C/∂zˡⱼ Δz = δˡⱼ Δz

    Args:
        network: a :class:`~bp_xp.Network`.
        x: inputs, shape (N, I); for a single sample, (1, I). For several samples C is the mean
            cost, each sample gets the same Δz, and δˡⱼ is the sum over the samples, Σₙ δˡₙⱼ.
        y: labels, shape (N,), or targets, shape (N, O).
        layer: l, from 1; the last is the output layer.
        unit: j, from 0: the neuron's row of Wˡ.
        nudge: Δz. The difference shrinks with it, until rounding dominates: in float32 ΔC is
            accurate to some 1e-7 of C.

    Raises:
        ValueError: there is no such layer or neuron, or x and y do not fit the network.
        TypeError: an argument has the wrong type.

    References:
        Nielsen, ch. 2: the demon that sits at a neuron, before the four equations.

    Examples:
        >>> from bp_xp import Network
        >>> net = Network([2, 3, 1], dtype="float64", seed=0)
        >>> found = sensitivity(net, [[0.0, 1.0]], [[1.0]], layer=1, unit=2)
        >>> abs(found.difference) < 0.01 * abs(found.real)
        True
    """
    if isinstance(network, type) or not hasattr(network, "trace"):
        raise TypeError(f"network must be a bp_xp.Network, not {network!r}.")
    depth = len(network.sizes) - 1
    l = checks.check_integer(layer, "layer", least=0)  # noqa: E741 - the book's index of layers
    if not 1 <= l <= depth:
        raise ValueError(
            f"layer must be 1 to {depth}, not {l}: the inputs are layer 0, and have no z."
        )
    j = checks.check_integer(unit, "unit", least=0)
    if j >= network.sizes[l]:
        raise ValueError(
            f"unit must be 0 to {network.sizes[l] - 1}, not {j}: layer {l} has {network.sizes[l]} "
            "neurons."
        )
    size = checks.check_number(nudge, "nudge")
    found, model, xp = network.trace(x, y), network.model, network.xp
    at, row = found.layers[l - 1], [0.0] * network.sizes[l]
    row[j] = size
    with network.placement.active():
        z = at.z + network.asarray(row)
        if l < depth:  # the layers above form a network whose inputs are aˡ
            above = Model(model.sizes[l:], model.activations[l:], model.cost)
            a = model.activations[l - 1].sigma(z, xp=xp)
            z = backprop.forward(above, network.layers[l:], a, xp=xp).zs[-1]
        before, after = (
            float(
                to_numpy(backprop.cost_of_samples(model, end, found.y, xp=xp)).mean(
                    dtype=np.float64
                )
            )
            for end in (found.layers[-1].z, z)
        )
        predicted = float(to_numpy(at.delta)[:, j].sum(dtype=np.float64)) * size
    real = after - before
    return Sensitivity(predicted, real, real - predicted, before, after)


# ---------------------------------------------------------------------------------------------
# As text


def _up(number: int) -> str:
    """Return a number as a superscript."""
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _count(x: Array) -> str:
    """Return the number of samples as text."""
    return f"{x.shape[0]} sample{'s' * (x.shape[0] > 1)}"


def _shape(array: Array) -> str:
    return str(tuple(array.shape))


def _mean(array: Array) -> float:
    return float(np.abs(to_numpy(array), dtype=np.float64).mean())


def _norm(array: Array) -> float:
    return float(np.linalg.norm(to_numpy(array).astype(np.float64)))


def _stacked(*terms: tuple[str, Array] | str) -> list[str]:
    """Return an equation as three lines: each named array above its shape and its norm."""
    columns = [
        (term, "", "")
        if isinstance(term, str)
        else (term[0], _shape(term[1]), f"{_norm(term[1]):.4g}")
        for term in terms
    ]
    widths = [max(map(len, column)) for column in columns]
    return [
        "     " + "  ".join(f"{c[row]:^{w}}" for c, w in zip(columns, widths, strict=True)).rstrip()
        for row in range(3)
    ]
