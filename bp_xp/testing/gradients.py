"""Backpropagation compared with differences of the cost.

The cost of a network is a function of all its parameters. Along a line through them, θ + t d, its
slope at t = 0 is ⟨∂C/∂θ, d⟩, and differences of a few values of the cost give that slope
independently of backpropagation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._typing import Array, Layer
from bp_xp.backends import to_numpy
from bp_xp.math.costs import MatchedCost
from bp_xp.math.model import Model
from bp_xp.network import Network
from bp_xp.testing._terms import Terms, gradient_of_step, make_terms

__all__ = ["GradientReport", "TensorCheck", "check_gradients"]

_TOLERANCES = {"float32": 1e-4, "float64": 1e-7}

_FEW_ENTRIES = 100
_DIRECTIONS = 8
_ENTRIES_LOOKED_AT = 256  # to find which entry is wrong, if a direction is

# If a step is too coarse, finer ones are taken, in units of the first. A step is too coarse if the
# error is not well below the largest that passes.
_FINER = (0.1, 0.01, 0.001)
_WELL_BELOW = 0.1

# The cost is known to a few units of rounding, so a slope over h is known to as many units of C/h.
_ROUNDING = 8.0 * float(np.finfo(np.float64).eps)
# A tensor is left out if that is more than this share of its largest slope.
_ROUNDING_SHARE = 0.01


@dataclass(frozen=True)
class TensorCheck:
    """The result for one tensor of derivatives.

    Attributes:
        layer: l, from 1, the first after the inputs.
        name: ``"W"`` or ``"b"``.
        shape: (O, I) or (O,).
        lines: what was checked: ``"entries"``, each derivative separately, or ``"directions"``.
        checked: how many of them were checked.
        left_out: how many could not be checked: at a kink of the cost, or too small compared with
            its rounding.
        error: the largest difference, relative to the largest derivative of the tensor.
        index: where that is, or None for a direction.
        claimed: the derivative there, by backpropagation.
        measured: the derivative there, by differences.
    """

    layer: int
    name: str
    shape: tuple[int, ...]
    lines: str
    checked: int
    left_out: int
    error: float
    index: tuple[int, ...] | None
    claimed: float
    measured: float

    @property
    def where(self) -> str:
        """The derivative with the largest error, as text."""
        tensor = f"layer {self.layer}, {self.name}"
        if self.index is None:
            return f"{tensor} along a random direction"
        return f"{tensor}[{', '.join(map(str, self.index))}]"


@dataclass(frozen=True)
class GradientReport:
    """How well backpropagation agrees with differences of the cost; prints as a table.

    Attributes:
        network: a description of the network.
        reference: where the differences were taken, such as ``"on numpy cpu"``.
        tolerance: the largest error that passes, relative to a tensor's largest derivative.
        tensors: W and b of layer 1, of layer 2, and so on.
    """

    network: str
    reference: str
    tolerance: float
    tensors: tuple[TensorCheck, ...]

    @property
    def wrong(self) -> tuple[TensorCheck, ...]:
        """The tensors whose error is above the tolerance."""
        return tuple(one for one in self.tensors if not one.error <= self.tolerance)

    @property
    def unchecked(self) -> tuple[TensorCheck, ...]:
        """The tensors with more left out than checked."""
        return tuple(one for one in self.tensors if one.left_out > one.checked)

    @property
    def passed(self) -> bool:
        """Whether no tensor is wrong, and enough of each was checked."""
        return not self.wrong and not self.unchecked

    @property
    def worst(self) -> TensorCheck:
        """The tensor with the largest error."""
        return max(self.tensors, key=lambda one: one.error)

    @property
    def worst_error(self) -> float:
        """The largest error of any tensor."""
        return self.worst.error

    @property
    def checked(self) -> int:
        """How many entries and directions were checked."""
        return sum(one.checked for one in self.tensors)

    @property
    def left_out(self) -> int:
        """How many could not be checked."""
        return sum(one.left_out for one in self.tensors)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("layer", "tensor", "shape", "worst error", "checked", "left out", "")
        ]
        for one in self.tensors:
            verdict = "WRONG" if one in self.wrong else "UNCHECKED" * (one in self.unchecked)
            error = f"{one.error:.1e}" if one.checked else "-"
            checked = f"{one.checked} {one.lines}"
            cells = (one.layer, one.name, one.shape, error, checked, one.left_out, verdict)
            rows.append(tuple(map(str, cells)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        head = (
            f"Gradients of {self.network}\n"
            f"against differences of the cost in float64, {self.reference}; tolerance "
            f"{self.tolerance:g} of a tensor's largest derivative"
        )
        return "\n".join([head, *lines])


def check_gradients(
    network: Network,
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    l1: float | Sequence[float] = 0.0,
    l2: float | Sequence[float] = 0.0,
    dropout: float | Sequence[float] = (),
    directions: int | str | None = None,
    tolerance: float | None = None,
    step: float = 1e-3,
    seed: int = 0,
) -> GradientReport:
    """Compare a network's gradient with differences of its mean cost.

    ⟨∂C/∂θ, d⟩ ≈ (8 [C(θ + h d) − C(θ − h d)] − [C(θ + 2h d) − C(θ − 2h d)]) / 12 h

    Here θ is one tensor, the W or b of a layer, and d has length 1: one entry, or a random
    direction, in which a defect anywhere in the tensor shows. The differences are computed with a
    copy of the network in float64, on its own library and device, or on NumPy if the device has no
    float64. The network itself only runs ``backprop(x, y)``, and does not change.

    With weights, penalties or dropout, the gradient is the one that a training step passes to its
    optimizer, and the cost is Σ wₙ Cₙ / Σ wₙ + Σ (l1 |w| + ½ l2 w²), without the neurons that
    dropout leaves out. All of this is implemented here a second time, so that errors that are the
    same on all libraries are found.

    If the cost has a kink (ReLU at z = 0) within reach of h, its left and right slopes differ. The
    gradient may then be either of them. If it is neither, h is made smaller. If the slopes still
    differ by as much as the gradient differs from them, the line cannot be checked; it is left out
    and counted. The same applies to a tensor whose derivatives are below the rounding of the cost.

    Args:
        network: on any backend. To check your own ``backprop``, override it in a subclass.
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets, shape (N, O).
        weights: how much each sample counts, shape (N,), or None.
        l1: as in ``fit``.
        l2: as in ``fit``.
        dropout: as in ``fit``.
        directions: None checks each entry of tensors of at most 100 entries, and 8 random
            directions in larger ones; ``"all"`` checks each entry of every tensor, and a number
            takes as many random directions in every tensor.
        tolerance: the largest error that passes, relative to the largest derivative of the same
            tensor; None is 1e-7 for a network in float64, 1e-4 in float32.
        step: h, for parameters around 1.
        seed: seed of the directions.

    Returns:
        The report: for each tensor the worst error, and how much was checked and left out.

    Raises:
        AssertionError: a derivative is wrong, or more of a tensor was left out than checked; the
            message has the table, and names the worst derivative. Or a mask is not one of dropout.
        ValueError: shapes do not fit, or the cost is not finite.
        TypeError: an argument has the wrong type.

    Examples:
        >>> network = Network([3, 4, 2], activation="tanh", dtype="float64", seed=0)
        >>> report = check_gradients(network, [[0.1, -0.2, 0.3]], [[0.0, 1.0]])
        >>> report.passed, report.checked, report.left_out
        (True, 26, 0)

    References:
        Nielsen, ch. 2, 'In what sense is backpropagation a fast algorithm?', eq. (46).
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bp_xp.Network, not {network!r}.")
    if directions is not None and directions != "all":
        if isinstance(directions, str):
            raise ValueError(f"directions must be a number, 'all' or None, not {directions!r}.")
        directions = checks.check_integer(directions, "directions")
    if tolerance is None:
        tolerance = _TOLERANCES[network.dtype]
    tolerance = checks.check_number(tolerance, "tolerance", above=0.0)
    step = checks.check_number(step, "step", above=0.0)
    rng = np.random.default_rng(checks.check_integer(seed, "seed", least=0))

    def lines_of(tensor: _Tensor) -> int | None:
        if directions is None:
            return None if tensor.claims.size <= _FEW_ENTRIES else _DIRECTIONS
        return directions if isinstance(directions, int) else None

    terms = make_terms(network, weights, l1, l2, dropout)
    gradients, terms = _claimed(network, x, y, terms, seed)
    reference = _in_float64(network)
    tensors = []
    with reference.placement.active():
        cost = _Cost(reference, *_rounded(network, x, y), terms)
        for l, gradient in enumerate(gradients):  # noqa: E741 - the book's index of layers
            for name, claims in zip(Layer._fields, gradient, strict=True):
                tensor = _Tensor(cost, l, name, claims, step)
                tensors.append(_check_tensor(tensor, lines_of(tensor), tolerance, rng))
    with_terms = f", with {terms}" if terms else ""
    report = GradientReport(
        f"{network!r}{with_terms}",
        f"on {reference.backend} {reference.device}",
        tolerance,
        tuple(tensors),
    )
    if not report.passed:
        raise AssertionError(f"{_in_words(report, network.model, terms)}\n{report}")
    return report


# ---------------------------------------------------------------------------------------------
# The two sides


def _claimed(
    network: Network, x: Any, y: Any, terms: Terms, seed: int
) -> tuple[list[Layer], Terms]:
    """Return the network's gradient on the host, in float64, and the terms that are in it."""
    if terms:
        gradients, terms = gradient_of_step(network, x, y, terms, seed)
    else:
        gradients = [Layer(*layer) for layer in network.backprop(x, y)]
    layers = network.layers
    came = [tuple(tuple(part.shape) for part in layer) for layer in gradients]
    wanted = [tuple(tuple(part.shape) for part in layer) for layer in layers]
    if came != wanted:
        raise AssertionError(f"backprop returns derivatives of shapes {came}, not {wanted}.")
    return [
        Layer(*(to_numpy(part).astype(np.float64) for part in layer)) for layer in gradients
    ], terms


def _in_float64(network: Network) -> Network:
    """Return a copy in float64, where the network is or, if there is no float64, on NumPy."""
    here = network.placement
    try:
        return network.to(here.device_name, backend=here.backend_word, dtype="float64")
    except (TypeError, ValueError, RuntimeError):
        return network.to("cpu", backend="numpy", dtype="float64")


def _rounded(network: Network, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets as the network sees them, on the host: rounded to its dtype."""
    trace = network.trace(x, y)
    return to_numpy(trace.x), to_numpy(trace.y)


class _Cost:
    """The mean cost of a network with its terms, as a function of the parameters of one layer."""

    def __init__(self, network: Network, x: np.ndarray, y: np.ndarray, terms: Terms) -> None:
        self.network, self._y, self._terms = network, network.asarray(y), terms
        self._masks = [None if mask is None else network.asarray(mask) for mask in terms.masks]
        self._on_host = [Layer(*map(to_numpy, layer)) for layer in network.layers]
        self._below = [network.asarray(x)]
        for l, layer in enumerate(network.layers):  # noqa: E741 - the book's index of layers
            self._below.append(self._layer(l, layer, self._below[-1])[1])
        self.here = self(0, network.layers[0])
        if not np.isfinite(self.here):
            raise ValueError(f"the mean cost is {self.here}: there is no gradient to check.")

    def _layer(self, l: int, layer: Layer, a: Array) -> tuple[Array, Array]:  # noqa: E741
        """Return z and a of a layer, from the activations below, after dropout if there is any."""
        mask = self._masks[l] if l < len(self._masks) else None
        z = (a if mask is None else a * mask) @ layer.W.mT + layer.b
        return z, self.network.model.activations[l].sigma(z, xp=self.network.xp)

    def __call__(self, l: int, layer: Layer) -> float:  # noqa: E741
        """Return the mean cost with ``layer`` in place of layer l; the layers below stay."""
        z = a = self._below[l]
        for k, one in enumerate([layer, *self.network.layers[l + 1 :]], start=l):
            z, a = self._layer(k, one, a)
        cost = self.network.model.cost
        outputs = z if isinstance(cost, MatchedCost) else a
        costs = to_numpy(cost.value(outputs, self._y, xp=self.network.xp))
        if not self._terms:
            return float(costs.mean())
        layers = [*self._on_host]
        layers[l] = Layer(*map(to_numpy, layer))
        return self._terms.mean(costs) + self._terms.penalty(layers)


# ---------------------------------------------------------------------------------------------
# One line


_Line = int | np.ndarray
"""An entry, by its index in the flat tensor, or a direction of length 1."""


class _Slopes(NamedTuple):
    """The slope of the cost at 0 by differences over h: from both sides, and from each alone."""

    central: float
    left: float
    right: float
    rounding: float

    @property
    def gap(self) -> float:
        """By how much the sides differ: little where the cost is smooth, more at a kink."""
        return abs(self.right - self.left)

    def distance(self, claimed: float) -> float:
        """Return how far a claim is from the nearest of the three."""
        if not np.isfinite(claimed):
            return np.inf
        return min(abs(slope - claimed) for slope in (self.central, self.left, self.right))


class _Tensor:
    """One tensor of parameters: what backpropagation claims, and what differences show."""

    def __init__(self, cost: _Cost, l: int, name: str, claims: np.ndarray, step: float) -> None:  # noqa: E741
        self._cost, self.l, self.name, self.claims, self._step = cost, l, name, claims, step

    def claim(self, line: _Line) -> float:
        """Return the slope along a line by backpropagation."""
        return float(
            self.claims.flat[line] if isinstance(line, int) else np.vdot(self.claims, line)
        )

    def slopes(self, line: _Line, finer: float = 1.0) -> _Slopes:
        """Return the slopes along a line by differences over ``finer`` times the step."""
        direction = line
        if isinstance(line, int):
            direction = np.zeros(self.claims.shape)
            direction.flat[line] = 1.0
        layer = self._cost.network.layers[self.l]
        theta, d = getattr(layer, self.name), self._cost.network.asarray(direction)

        def cost(t: float) -> float:
            return self._cost(self.l, layer._replace(**{self.name: theta + t * d}))

        h, here = finer * self._step, self._cost.here
        up, down, far_up, far_down = cost(h), cost(-h), cost(2.0 * h), cost(-2.0 * h)
        return _Slopes(
            (8.0 * (up - down) - (far_up - far_down)) / (12.0 * h),
            (3.0 * here - 4.0 * down + far_down) / (2.0 * h),
            (4.0 * up - 3.0 * here - far_up) / (2.0 * h),
            _ROUNDING * abs(here) / h,
        )


class _Verdict(NamedTuple):
    """What some slopes say about the claim for a line.

    Attributes:
        line: the line.
        measured: the slope.
        least: the smallest error that the claim can have.
        most: the largest error that it can have, if there are no kinks.
        doubt: how uncertain the slope is.
        told: whether the claim can be judged at all.
    """

    line: _Line
    measured: float
    least: float
    most: float
    doubt: float
    told: bool = True


def _judge(tensor: _Tensor, line: _Line, first: _Slopes, allowed: float) -> _Verdict:
    """Judge the claim for one line, given its slopes over the first step."""

    def say(slopes: _Slopes, before: _Slopes) -> _Verdict:
        distance = slopes.distance(tensor.claim(line))
        # A slope is uncertain if the sides differ, or if a finer step changes it. If a kink happens
        # to leave one of these at 0, it shows in the other.
        doubt = max(slopes.gap, abs(slopes.central - before.central)) + slopes.rounding
        bounds = max(distance - slopes.rounding, 0.0), distance + slopes.rounding
        return _Verdict(line, slopes.central, *bounds, doubt)

    verdicts = [best := say(first, first)]
    before = first
    for finer in _FINER:
        if best.least <= _WELL_BELOW * allowed:
            break
        slopes = tensor.slopes(line, finer)
        verdicts.append(say(slopes, before))
        best = min(verdicts, key=lambda one: one.most)
        before = slopes
    if best.least <= allowed:
        return best
    surest = min(verdicts, key=lambda one: one.doubt)
    return surest._replace(told=surest.least > surest.doubt)


# ---------------------------------------------------------------------------------------------
# One tensor


def _check_tensor(
    tensor: _Tensor, n: int | None, tolerance: float, rng: np.random.Generator
) -> TensorCheck:
    """Check n random directions of a tensor, or each entry if n is None."""
    size = tensor.claims.size
    if n is None:
        return _check_lines(tensor, range(size), tolerance)
    drawn = rng.standard_normal((n, *tensor.claims.shape))
    found = _check_lines(tensor, [one / np.linalg.norm(one) for one in drawn], tolerance)
    if found.error <= tolerance:
        return found
    # The derivative along some direction is wrong: find the entry.
    some = rng.permutation(size)[:_ENTRIES_LOOKED_AT].tolist()
    closer = _check_lines(tensor, some, tolerance)
    if closer.error <= tolerance:
        return found
    return replace(closer, lines=found.lines, checked=found.checked, left_out=found.left_out)


def _check_lines(tensor: _Tensor, lines: Sequence[_Line], tolerance: float) -> TensorCheck:
    slopes = [tensor.slopes(line) for line in lines]
    values = [*map(tensor.claim, lines), *(one.central for one in slopes)]
    scale = max((abs(value) for value in values if np.isfinite(value)), default=0.0)
    told = []
    drowned = scale > 0.0 and slopes[0].rounding > _ROUNDING_SHARE * scale
    if not drowned:
        verdicts = (
            _judge(tensor, line, first, tolerance * scale)
            for line, first in zip(lines, slopes, strict=True)
        )
        told = [verdict for verdict in verdicts if verdict.told]
    nothing = _Verdict(lines[0], slopes[0].central, 0.0, 0.0, 0.0)
    worst = max(told, key=lambda one: one.least, default=nothing)
    index = None
    if isinstance(worst.line, int):
        index = tuple(int(i) for i in np.unravel_index(worst.line, tensor.claims.shape))
    return TensorCheck(
        tensor.l + 1,
        tensor.name,
        tensor.claims.shape,
        "directions" if index is None else "entries",
        len(told),
        len(lines) - len(told),
        worst.least / (scale or 1.0),
        index,
        tensor.claim(worst.line),
        worst.measured,
    )


def _in_words(report: GradientReport, model: Model, terms: Terms) -> str:
    """Return a message that says what is wrong."""
    if not report.wrong:
        names = ", ".join(f"layer {one.layer} {one.name}" for one in report.unchecked)
        return (
            f"backprop could not be checked in {names}: more was left out than checked. The cost "
            "has kinks at these parameters and samples (as ReLU does at z = 0), or the "
            "derivatives are too small to be distinguished from its rounding. Pass other samples, "
            "or a network with other parameters: random ones, including the biases."
        )
    what, besides = "backprop", ""
    if terms:
        what = "the gradient of a step"
        besides = f" If it is right without {terms}, look at these."
    worst = report.worst
    first = max(one.layer for one in report.wrong)
    parts = " and ".join(one.name for one in report.wrong if one.layer == first)
    suspects = f"σ′ of {model.activations[first - 1].name!r}"
    if first == len(model.activations):
        suspects = f"the cost {model.cost.name!r} and {suspects}"
    return (
        f"{what} is wrong in {worst.where}: the derivative is {worst.claimed:.6g} by backprop "
        f"and {worst.measured:.6g} by differences of the cost, off by {worst.error:.2g} of the "
        f"largest derivative there (tolerance {report.tolerance:g}). On the way back from the "
        f"outputs, the first error is in layer {first}, {parts}: look there, at {suspects} first."
        f"{besides}"
    )
