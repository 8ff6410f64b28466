"""Cost functions: each C next to its derivative.

The cost is a mean over samples, so the functions here return one number per sample. There are two
kinds. A :class:`Cost` is a function of the outputs a and the targets y; its gradient ∇ₐC enters BP1
together with the σ′ of any output activation. A :class:`MatchedCost` is defined together with one
output activation and computed from the weighted input z: the logarithm cancels the exponential
before either is rounded, and the error of the output layer becomes a − y.

Some costs have settings. Pass them to the function with the cost's name, as in
``huber(delta=2.0)``, or write them after the name, ``"huber:delta=2"``. Files and commands use the
second form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from bp_xp import checks
from bp_xp._typing import Array, Namespace

__all__ = [
    "COSTS",
    "Cost",
    "CostGradient",
    "CostValue",
    "MatchedCost",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "cost_named",
    "cross_entropy_of_outputs",
    "huber",
    "n_outputs_of",
]


C = TypeVar("C", "Cost", "MatchedCost")


class CostValue(Protocol):
    """C: the cost of each sample."""

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        """Return the cost of each sample, shape (N,), for outputs and targets of (N, O)."""
        ...


class CostGradient(Protocol):
    """∇ₐC: the derivatives of each sample's cost with respect to its outputs."""

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        """Return ∇ₐC, shape (N, O)."""
        ...


class MatchedValue(Protocol):
    """C as a function of the weighted input of the output layer."""

    def __call__(self, z: Array, y: Array, *, xp: Namespace) -> Array:
        """Return the cost of each sample, shape (N,), for z and targets of (N, O)."""
        ...


class MatchedError(Protocol):
    """δᴸ = ∂C/∂zᴸ of each sample."""

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        """Return δᴸ, shape (N, O)."""
        ...


@dataclass(frozen=True)
class Cost:
    """A cost of the outputs, for any output activation.

    Attributes:
        name: its name in files and messages.
        value: C, called as ``value(a, y, xp=xp)``, one number per sample.
        gradient: ∇ₐC, called as ``gradient(a, y, xp=xp)``, of each sample's own cost, not divided
            by the number of samples.
        output: the name of the output activation that a network uses by default.

    Examples:
        The sum of fourth powers:

        >>> quartic = Cost(
        ...     "quartic",
        ...     lambda a, y, *, xp: xp.sum((a - y) ** 4, axis=-1),
        ...     lambda a, y, *, xp: 4 * (a - y) ** 3,
        ... )
    """

    name: str
    value: CostValue
    gradient: CostGradient
    output: str = "identity"


@dataclass(frozen=True)
class MatchedCost:
    """A cost for one particular output activation.

    Attributes:
        name: its name in files and messages.
        value: C, called as ``value(z, y, xp=xp)``, one number per sample.
        error: δᴸ, called as ``error(a, y, xp=xp)``, of each sample's own cost.
        output: the name of its output activation.
    """

    name: str
    value: MatchedValue
    error: MatchedError
    output: str


def _difference(a: Array, y: Array, *, xp: Namespace) -> Array:
    """Return a − y: the gradient of the quadratic cost, and the error of both cross-entropies."""
    return a - y


def _quadratic(a: Array, y: Array, *, xp: Namespace) -> Array:
    # ½‖a − y‖² (Nielsen, eq. 26)
    residual = a - y
    return 0.5 * xp.sum(residual * residual, axis=-1)


def _huber(a: Array, y: Array, *, delta: float = 1.0, xp: Namespace) -> Array:
    # Σ ½r² if |r| ≤ δ, otherwise δ(|r| − ½δ); with m = min(|r|, δ) both are m(|r| − ½m).
    r = xp.abs(a - y)
    m = xp.minimum(r, delta)
    return xp.sum(m * (r - 0.5 * m), axis=-1)


def _huber_gradient(a: Array, y: Array, *, delta: float = 1.0, xp: Namespace) -> Array:
    return xp.minimum(xp.maximum(a - y, -delta), delta)


def _binary_cross_entropy(z: Array, y: Array, *, xp: Namespace) -> Array:
    # −Σ y ln a + (1 − y) ln(1 − a) with a = σ(z) (Nielsen, eq. 63) is Σ ln(1 + eᶻ) − y z, and
    # ln(1 + eᶻ) = max(z, 0) + ln(1 + e^−|z|). The large terms cancel before the small one is added.
    return xp.sum((xp.maximum(z, 0.0) - y * z) + xp.log1p(xp.exp(-xp.abs(z))), axis=-1)


def cross_entropy_of_outputs(a: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the cross-entropy of each sample from rounded outputs, shape (..., N).

    C = −Σ y ln a + (1 − y) ln(1 − a)

    Training computes the same from the weighted input, without loss of precision. An output that
    was rounded to 0 or 1 no longer shows how close it was: its term counts as 0 if that is the
    target, and otherwise as the largest finite number.

    Args:
        a: outputs from 0 to 1, shape (..., N, O).
        y: targets from 0 to 1, of the same shape.
        xp: their namespace.

    References:
        Nielsen, ch. 3, eq. (63), with 0 · ln 0 = 0 and finite numbers, as in his program.
    """
    terms = -(y * xp.log(a) + (1 - y) * xp.log(1 - a))
    terms = xp.where(xp.isnan(terms), xp.zeros_like(terms), terms)
    return xp.sum(xp.minimum(terms, xp.finfo(terms.dtype).max), axis=-1)


def _settled_binary_cross_entropy(
    z: Array,
    y: Array,
    *,
    positive_weight: float | tuple[float, ...] = 1.0,
    label_smoothing: float = 0.0,
    xp: Namespace,
) -> Array:
    # −Σ p y ln a + (1 − y) ln(1 − a), where −ln a = ln(1 + e⁻ᶻ) = max(−z, 0) + ln(1 + e^−|z|), and
    # −ln(1 − a) has max(z, 0) instead. No term is below 0, so none cancels another.
    for_one, for_zero = _weighted_targets(y, positive_weight, label_smoothing, xp=xp)
    far = for_one * xp.maximum(-z, 0.0) + for_zero * xp.maximum(z, 0.0)
    return xp.sum(far + (for_one + for_zero) * xp.log1p(xp.exp(-xp.abs(z))), axis=-1)


def _settled_binary_error(
    a: Array,
    y: Array,
    *,
    positive_weight: float | tuple[float, ...] = 1.0,
    label_smoothing: float = 0.0,
    xp: Namespace,
) -> Array:
    # a (1 − y) − p y (1 − a)
    for_one, for_zero = _weighted_targets(y, positive_weight, label_smoothing, xp=xp)
    return a * (for_one + for_zero) - for_one


def _weighted_targets(
    y: Array, positive_weight: float | tuple[float, ...], label_smoothing: float, *, xp: Namespace
) -> tuple[Array, Array]:
    """Return p y and 1 − y, shape (N, O) each, for one p or one for each output."""
    y = _smoothed(y, label_smoothing, 2)
    if not isinstance(positive_weight, tuple):
        return positive_weight * y, 1.0 - y
    # The weights are not made into an array: inside a compiled step it would have no device.
    columns = [p * y[..., k : k + 1] for k, p in enumerate(positive_weight)]
    return xp.concat(columns, axis=-1), 1.0 - y


def _categorical_cross_entropy(
    z: Array, y: Array, *, label_smoothing: float = 0.0, xp: Namespace
) -> Array:
    # −Σ yₖ ln aₖ with a = softmax(z); ln aₖ = zₖ − ln Σ exp z, and Σ yₖ = 1 (Nielsen, eq. 80).
    y = _smoothed(y, label_smoothing, y.shape[-1])
    z = z - xp.max(z, axis=-1, keepdims=True)
    return xp.log(xp.sum(xp.exp(z), axis=-1)) - xp.sum(y * z, axis=-1)


def _categorical_error(a: Array, y: Array, *, label_smoothing: float, xp: Namespace) -> Array:
    del xp
    return a - _smoothed(y, label_smoothing, y.shape[-1])


def _smoothed(y: Array, share: float, n_classes: int) -> Array:
    """Return targets with a share ε spread equally over all classes: (1 − ε) y + ε/K."""
    return (1.0 - share) * y + share / n_classes if share else y


_HUBER = Cost("huber", _huber, _huber_gradient, output="identity")
_BINARY = MatchedCost("binary_cross_entropy", _binary_cross_entropy, _difference, output="sigmoid")
_CATEGORICAL = MatchedCost(
    "categorical_cross_entropy", _categorical_cross_entropy, _difference, output="softmax"
)

COSTS: dict[str, Cost | MatchedCost] = {
    cost.name: cost
    for cost in (
        Cost("quadratic", _quadratic, _difference, output="sigmoid"),
        _HUBER,
        _BINARY,
        _CATEGORICAL,
    )
}
"""The built-in cost functions, by name; ``"huber:delta=2"`` names one with settings.

The cost of a sample is a sum over outputs, and the cost of a run is a mean over samples. PyTorch's
``reduction="mean"`` divides by the number of outputs too, except in ``CrossEntropyLoss``. For N
samples:

    quadratic                  ``MSELoss(reduction="sum")`` / 2N
    huber                      ``HuberLoss(reduction="sum")`` / N
    binary_cross_entropy       ``BCEWithLogitsLoss(reduction="sum")`` / N, of z
    categorical_cross_entropy  ``CrossEntropyLoss()``, of z

A network with a cross-entropy has the sigmoid or softmax as its output activation, and still
computes the cost from z. Do not leave out the output activation, as you would in PyTorch.
"""


# ---------------------------------------------------------------------------------------------
# Costs with settings


@dataclass(frozen=True)
class _With:
    """A function of a cost, with settings; two are equal if their functions and settings are."""

    function: Callable[..., Array]
    settings: tuple[tuple[str, Any], ...]

    def __call__(self, a: Array, y: Array, *, xp: Namespace) -> Array:
        return self.function(a, y, **dict(self.settings), xp=xp)


def huber(delta: float = 1.0) -> Cost:
    """Return Huber's cost: quadratic near the target, linear far from it, so outliers weigh less.

    C = Σ ½r² if |r| ≤ δ, and otherwise δ(|r| − ½δ), with r = a − y

    Args:
        delta: δ, above 0, in units of the outputs.

    Returns:
        The cost; its name is ``"huber"``, or with another δ, for example, ``"huber:delta=2.0"``.

    Raises:
        ValueError: delta is not finite or not above 0.
        TypeError: delta is not a number.

    In PyTorch: ``HuberLoss(delta=delta, reduction="sum")`` divided by the number of samples; the
    ``"mean"`` of PyTorch and of Keras divides by the number of outputs too. ``SmoothL1Loss(beta)``
    is δ = beta, divided by beta.

    References:
        Huber, *Robust estimation of a location parameter*, Ann. Math. Statist. 35, 1964.

    Examples:
        >>> huber(delta=2.0).name
        'huber:delta=2.0'
    """
    return _settled(
        _HUBER,
        {"value": _huber, "gradient": _huber_gradient},
        plain={"delta": 1.0},
        delta=checks.check_number(delta, "delta", above=0.0),
    )


def binary_cross_entropy(
    positive_weight: float | Sequence[float] = 1.0, label_smoothing: float = 0.0
) -> MatchedCost:
    """Return the cross-entropy of sigmoid outputs, with a weight for targets of 1.

    C = −Σ p y′ ln a + (1 − y′) ln(1 − a) with y′ = (1 − ε) y + ε/2, and
    δᴸ = a (1 − y′) − p y′ (1 − a)

    With a weight above 1, false negatives cost more than false positives, which helps if few
    targets are 1. The weight applies inside the sum over outputs. The weights of samples and
    classes are arguments of ``fit``; the cost is divided by their sum, but not by this weight.

    Args:
        positive_weight: p, above 0; or a sequence with one for each output.
        label_smoothing: ε, the share of a target that is split equally between 0 and 1, from 0 to
            below 1.

    Returns:
        The cost; its name is ``"binary_cross_entropy"``, followed by settings such as
        ``":positive_weight=3.0"`` or ``":positive_weight=1.0,3.0"``.

    Raises:
        ValueError: a number is not finite or out of range, or the sequence is empty.
        TypeError: a value is not a number.

    In PyTorch: ``BCEWithLogitsLoss(pos_weight=p, reduction="sum")`` divided by the number of
    samples; the ``"mean"`` of PyTorch and of Keras divides by the number of outputs too. PyTorch
    has no label smoothing for this loss; Keras has the same as here.

    References:
        Nielsen, ch. 3, eq. (63). King & Zeng, *Logistic regression in rare events data*, Political
        Analysis 9, 2001, eq. (8), for the weight. Szegedy et al., as for
        :func:`categorical_cross_entropy`.

    Examples:
        >>> binary_cross_entropy(positive_weight=3.0).name
        'binary_cross_entropy:positive_weight=3.0'
    """
    return _settled(
        _BINARY,
        {"value": _settled_binary_cross_entropy, "error": _settled_binary_error},
        plain={"positive_weight": 1.0, "label_smoothing": 0.0},
        positive_weight=_weights(positive_weight),
        label_smoothing=_share(label_smoothing),
    )


def _weights(weights: float | Sequence[float]) -> float | tuple[float, ...]:
    """Return a weight, or a tuple of one for each output; for one output, the weight itself."""
    weights = getattr(weights, "tolist", lambda: weights)()  # an array of any library
    if isinstance(weights, str) or not isinstance(weights, Sequence):
        return checks.check_number(weights, "positive_weight", above=0.0)
    if not weights:
        raise ValueError("positive_weight is an empty sequence: give one for each output.")
    first, *more = (
        checks.check_number(one, f"positive_weight[{k}]", above=0.0)
        for k, one in enumerate(weights)
    )
    return (first, *more) if more else first


def _share(label_smoothing: float) -> float:
    return checks.check_number(label_smoothing, "label_smoothing", least=0.0, below=1.0)


def categorical_cross_entropy(label_smoothing: float = 0.0) -> MatchedCost:
    """Return the cross-entropy of softmax outputs with smoothed labels.

    C = −Σ y′ₖ ln aₖ with y′ = (1 − ε) y + ε/K for K classes, and δᴸ = a − y′

    The cost of a confident, correct prediction is then not 0, and the weights do not grow forever.
    All costs of a run are computed from y′, including those of validation data; accuracies and
    metrics are computed from y.

    Args:
        label_smoothing: ε, the share of a target that is spread equally over all classes, from 0 to
            below 1.

    Returns:
        The cost; its name is ``"categorical_cross_entropy"``, followed by
        ``":label_smoothing=0.1"`` if ε is 0.1.

    Raises:
        ValueError: the share is not finite or out of range.
        TypeError: the share is not a number.

    In PyTorch: ``CrossEntropyLoss(label_smoothing=ε)``, of z, not of a.

    References:
        Szegedy et al., *Rethinking the Inception architecture for computer vision*, CVPR 2016,
        sec. 7.

    Examples:
        >>> categorical_cross_entropy(label_smoothing=0.1).name
        'categorical_cross_entropy:label_smoothing=0.1'
    """
    return _settled(
        _CATEGORICAL,
        {"value": _categorical_cross_entropy, "error": _categorical_error},
        plain={"label_smoothing": 0.0},
        label_smoothing=_share(label_smoothing),
    )


def cost_named(cost: Any) -> Any:
    """Return the cost that a name with settings means; any other value is returned unchanged.

    Args:
        cost: a name, such as ``"huber:delta=2"``, or any other value.

    Raises:
        ValueError: there is no such setting, or its value is out of range.

    Examples:
        >>> cost_named("huber:delta=2") == huber(delta=2.0)
        True
        >>> cost_named("quadratic")
        'quadratic'
    """
    if not isinstance(cost, str):
        return cost
    name, *parts = cost.split(":")
    if not parts or name not in _SETTINGS:
        return cost
    make, known = _SETTINGS[name]
    settings: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known or key in settings:
            raise ValueError(
                f"cost {cost!r}: {name} takes SETTING=VALUE after a colon, with {', '.join(known)} "
                f"once for SETTING, not {part!r}."
            )
        try:
            settings[key] = known[key](value)
        except ValueError:
            raise ValueError(f"cost {cost!r}: {key} must be a number, not {value!r}.") from None
    return make(**settings)


def n_outputs_of(cost: Cost | MatchedCost) -> int | None:
    """Return the number of outputs that a cost requires; None if it accepts any number."""
    weights = dict(getattr(cost.value, "settings", ())).get("positive_weight")
    return len(weights) if isinstance(weights, tuple) else None


def _settled(
    cost: C,
    functions: Mapping[str, Callable[..., Array]],
    *,
    plain: Mapping[str, float],
    **settings: Any,
) -> C:
    """Return a cost with settings, which are passed to its functions and included in its name.

    Args:
        cost: the cost without settings.
        functions: the functions that take settings, by the field of the cost.
        plain: the settings that are equivalent to the cost without settings.
        settings: the settings, in the order of the name.
    """
    each = tuple((key, value) for key, value in settings.items() if value != plain[key])
    if not each:
        return cost
    told = (f"{key}={_text(value)}" for key, value in each)
    fields = {field: _With(function, each) for field, function in functions.items()}
    return replace(cost, name=":".join([cost.name, *told]), **fields)


def _text(value: Any) -> str:
    return ",".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def _numbers(text: str) -> float | tuple[float, ...]:
    first, *more = map(float, text.split(","))
    return (first, *more) if more else first


_SETTINGS: Mapping[str, tuple[Callable[..., Cost | MatchedCost], Mapping[str, Callable]]] = {
    "huber": (huber, {"delta": float}),
    "binary_cross_entropy": (
        binary_cross_entropy,
        {"positive_weight": _numbers, "label_smoothing": float},
    ),
    "categorical_cross_entropy": (categorical_cross_entropy, {"label_smoothing": float}),
}
"""For each name: the function that makes the cost, and a parser for each of its settings."""
