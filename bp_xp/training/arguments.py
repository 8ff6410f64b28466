"""Turn user arguments into the settings of a run, in one place for everything that trains."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, TypedDict

from bp_xp import checks
from bp_xp._typing import Array
from bp_xp.math.metrics import METRICS, Metric, top_k
from bp_xp.math.regularization import Regularization
from bp_xp.optim import OPTIMIZERS, Optimizer
from bp_xp.training.callbacks import Callback, EarlyStopping, as_callback

__all__ = [
    "MetricLike",
    "PerMember",
    "RegularizationTerms",
    "Settings",
    "as_callbacks",
    "as_metrics",
    "as_optimizer",
    "as_regularization",
    "as_trainable",
    "check_switch",
    "is_optimizer",
    "metric_named",
    "per_member",
]


MetricLike: TypeAlias = str | Metric | Callable[..., Array]
"""A metric's name, a Metric, or a function of (outputs, targets, xp)."""


class RegularizationTerms(TypedDict, total=False):
    """The fields of :class:`~bp_xp.Regularization`, as ``fit`` accepts them by name."""

    l1: float | Sequence[float]
    l2: float | Sequence[float]
    dropout: float | Sequence[float]
    clip_norm: float | None
    clip_value: float | None
    max_norm: float | None


@dataclass(frozen=True)
class Settings:
    """The settings of a training run, checked.

    Attributes:
        optimizer: how gradients move parameters.
        epochs: the number of passes over the samples.
        batch_size: the number of samples in a mini-batch; the last of an epoch may be shorter.
        regularization: penalties, dropout, limits.
        trainable: whether each layer learns; empty if all do.
        metrics: what to measure after each epoch, besides cost and accuracy.
        shuffle: whether each epoch has a new order.
        progress: whether to show the progress of the run.
        own_terms: the fields of the regularization that differ between the networks of a stack.
        buffer_size: the number of rows of stored samples that are shuffled together; None if
            samples are in memory or come in batches.
    """

    optimizer: Optimizer
    epochs: int
    batch_size: int
    regularization: Regularization = field(default_factory=Regularization)
    trainable: tuple[bool, ...] = ()
    metrics: tuple[Metric, ...] = ()
    shuffle: bool = True
    progress: bool = False
    own_terms: tuple[str, ...] = ()
    buffer_size: int | None = None


@dataclass(frozen=True, init=False)
class PerMember:
    """One value for each member of an ensemble, instead of one for all.

    Value k is what ``Network.fit`` would accept for member k alone, so it may itself be a list with
    one value for each layer.

    Args:
        values: the values, one for each member.

    Raises:
        TypeError: the values are not a list.

    Examples:
        >>> from bp_xp import SGD
        >>> PerMember(SGD(rate) for rate in (0.5, 0.1)).values[1].learning_rate
        0.1
    """

    values: tuple[Any, ...]

    misplaced = "PerMember goes around whole values, as in PerMember([SGD(0.5), SGD(0.1)])."
    """The advice in the error for a PerMember that was passed as a number."""

    def __init__(self, values: Iterable[Any]) -> None:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(
                f"PerMember takes a list with the value of each member, not {values!r}."
            )
        object.__setattr__(self, "values", tuple(values))


def per_member(value: Any, n_members: int, name: str) -> list[Any]:
    """Return a list with the value of each member of an ensemble.

    Raises:
        ValueError: there are too many or too few values.
    """
    if not isinstance(value, PerMember):
        return [value] * n_members
    return checks.one_for_each(list(value.values), n_members, name, "members")


def is_optimizer(value: Any) -> bool:
    """Return whether a value has the methods of an optimizer."""
    return not isinstance(value, type) and hasattr(value, "init") and hasattr(value, "update")


def as_optimizer(optimizer: Any) -> Optimizer:
    """Return an optimizer; a name gives the optimizer of that name with its defaults.

    Raises:
        ValueError: no optimizer has that name.
        TypeError: the value is not an optimizer.
    """
    chosen = checks.check_choice(optimizer, OPTIMIZERS, "optimizer")
    if not is_optimizer(chosen):
        raise TypeError(
            "optimizer must be an optimizer such as SGD(0.1), or one of the names "
            f"{', '.join(map(repr, OPTIMIZERS))}, not {optimizer!r}."
        )
    return chosen


def as_callbacks(
    callbacks: Any, early_stopping: Any = None
) -> tuple[list[Callback], EarlyStopping | None]:
    """Return a list of callbacks, and the early stopping of the run, if any.

    The callbacks may include an :class:`EarlyStopping`; ``early_stopping`` may be a number, which
    is its patience.

    Raises:
        TypeError: a value is neither a callback nor an early stopping.
        ValueError: there is more than one early stopping.
    """
    several = callbacks
    if _is_single(callbacks, Callback, EarlyStopping) or not isinstance(callbacks, Iterable):
        several = [callbacks]  # if it is neither, the error of a single one says so
    several = list(several)
    stopping = [one for one in several if isinstance(one, EarlyStopping)]
    if early_stopping is not None:
        if isinstance(early_stopping, int) and not isinstance(early_stopping, bool):
            early_stopping = EarlyStopping(patience=early_stopping)
        if not isinstance(early_stopping, EarlyStopping):
            raise TypeError(
                "early_stopping must be an EarlyStopping(), or a number of epochs without "
                f"an improvement, such as 10, not {early_stopping!r}."
            )
        stopping.append(early_stopping)
    if len(stopping) > 1:
        raise ValueError(f"{len(stopping)} EarlyStopping were passed: a run takes only one.")
    others = [as_callback(one) for one in several if not isinstance(one, EarlyStopping)]
    return others, stopping[0] if stopping else None


def as_metrics(metrics: Any) -> tuple[Metric, ...]:
    """Return metrics: one name, Metric or function, or a list of these.

    Raises:
        ValueError: no metric has that name, or two values would have the same name.
        TypeError: a value is not a metric.
    """
    several = [metrics] if _is_single(metrics, str, Metric) else metrics
    chosen: dict[str, Metric] = {}
    for metric in map(metric_named, several):
        name = metric.name
        if name in ("cost", "accuracy") and metric is not METRICS.get(name):
            raise ValueError(
                f"a custom metric is named {name!r}, like a value that each run records: give it "
                "another name."
            )
        if chosen.setdefault(name, metric) != metric:
            raise ValueError(
                f"two metrics are named {name!r}: give one another name, as in "
                "bp_xp.Metric(name, function, ...)."
            )
    return tuple(chosen.values())


def _is_single(value: Any, *kinds: type) -> bool:
    """Return whether a value is a single item, where a list would be accepted too."""
    return isinstance(value, kinds) or (callable(value) and not isinstance(value, Iterable))


def as_regularization(regularization: Any, terms: dict[str, Any], hidden: int) -> Regularization:
    """Return the regularization of a network, with a dropout rate for each layer.

    Args:
        regularization: a :class:`Regularization`, or None.
        terms: its fields, if they were passed by name.
        hidden: the number of hidden layers.

    Raises:
        ValueError: a number is out of range, or there are too many or too few values.
        TypeError: a name is not a field, or a value is not a number.
    """
    names = [field.name for field in fields(Regularization)]
    for name in terms:
        if name == "learning_rate":
            raise TypeError(
                "fit takes no learning_rate: pass it to the optimizer, as in optimizer=SGD(0.1)."
            )
        if name == "lmbda":
            raise TypeError("fit takes no lmbda: pass l2, which is the λ of the book / N.")
        if name not in names:
            hint = checks.did_you_mean(name, [*names, *_FIT_WORDS])
            raise TypeError(f"fit got an unexpected keyword argument {name!r}.{hint}")
    if regularization is None:
        given = {name: terms.get(name, getattr(Regularization(), name)) for name in names}
    elif not isinstance(regularization, Regularization):
        raise TypeError(
            f"regularization must be one such as Regularization(l2=1e-4), not {regularization!r}."
        )
    elif terms:
        raise ValueError(
            f"pass {', '.join(terms)} in regularization=Regularization(...), not next to it."
        )
    else:
        given = {name: getattr(regularization, name) for name in names}
    limits = {
        name: None if given[name] is None else checks.check_number(given[name], name, above=0.0)
        for name in ("clip_norm", "clip_value", "max_norm")
    }
    return Regularization(
        l1=_strength(given["l1"], "l1", hidden + 1),
        l2=_strength(given["l2"], "l2", hidden + 1),
        dropout=_dropout_rates(given["dropout"], hidden),
        **limits,
    )


_FIT_WORDS = (
    *("sample_weight", "class_weight", "epochs", "batch_size", "shuffle", "optimizer"),
    *("regularization", "trainable", "validation_data", "metrics", "early_stopping", "callbacks"),
    *("checkpoint", "warm_start", "progress", "distributed"),
)


def _strength(strength: Any, name: str, layers: int) -> float | tuple[float, ...]:
    if not isinstance(strength, list | tuple):
        return checks.check_number(strength, name, least=0.0)
    each = checks.one_for_each(strength, layers, name, "layers")
    numbers = tuple(checks.check_number(one, name, least=0.0) for one in each)
    return numbers if any(numbers) else 0.0


def _dropout_rates(dropout: Any, hidden: int) -> tuple[float, ...]:
    """Return a rate for each layer from the inputs to the last hidden one; empty without any."""
    if isinstance(dropout, list | tuple) and len(dropout) == hidden + 1:
        rates = list(dropout)
    elif isinstance(dropout, list | tuple) and not dropout:
        rates = []
    else:
        rates = [0.0, *checks.one_for_each(dropout, hidden, "dropout", "hidden layers")]
    rates = [checks.check_number(one, "dropout", least=0.0, below=1.0) for one in rates]
    if isinstance(dropout, int | float):
        checks.check_number(dropout, "dropout", least=0.0, below=1.0)
    return tuple(rates) if any(rates) else ()


def as_trainable(trainable: Any, layers: int) -> tuple[bool, ...]:
    """Return whether each layer learns; empty if all do.

    Raises:
        ValueError: there are too many or too few values, or no layer learns.
        TypeError: a value is neither True nor False.
    """
    if trainable is None:
        return ()
    if not isinstance(trainable, list | tuple):
        raise TypeError(
            f"trainable must be a list of True and False, one for each of the {layers} layers, not "
            f"{trainable!r}."
        )
    each = checks.one_for_each(trainable, layers, "trainable", "layers")
    for one in each:
        check_switch(one, "trainable")
    if not any(each):
        raise ValueError("trainable is False for every layer: nothing would learn.")
    return () if all(each) else tuple(bool(one) for one in each)


def check_switch(value: Any, name: str) -> None:
    """Refuse a value that is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}.")


# ---------------------------------------------------------------------------------------------
# Metrics by name

_OTHER_NAMES = {"mean_absolute_error": "mae", "mean_squared_error": "mse"}


def metric_named(metric: str | Metric | Callable[..., Array]) -> Metric:
    """Return a metric from a name, a Metric or a function.

    Args:
        metric: a name, such as ``"f1"`` or ``"top_5"``; a Metric; or a function of (a, y, *, xp),
            or (a, y, *, weights, xp) if it takes the weights of the samples. For a function, a
            higher value is assumed to be better and any targets are allowed; pass a
            :class:`Metric` to change that.

    Raises:
        ValueError: no metric has that name; the message lists the metrics.
        TypeError: the value is not a metric.

    Examples:
        >>> metric_named("top_5").name
        'top_5'
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        return _by_name(metric)
    if not callable(metric):
        raise TypeError(
            f"a metric is one of {_names()}, a Metric, or a function of (a, y, *, xp), not "
            f"{metric!r}."
        )
    name = getattr(metric, "__name__", type(metric).__name__)
    return Metric(name, metric, needs_classes=False, higher_is_better=True)


def _by_name(name: str) -> Metric:
    known = _OTHER_NAMES.get(name, name)
    if known in METRICS:
        return METRICS[known]
    stem, _, k = name.rpartition("_")
    if stem == "top" and k.isdecimal() and int(k) > 0:
        return top_k(int(k))
    hint = checks.did_you_mean(name, [*METRICS, *_OTHER_NAMES, "top_5"])
    raise ValueError(f"unknown metric {name!r}: choose one of {_names()}.{hint}")


def _names() -> str:
    return f"{', '.join(map(repr, METRICS))} and 'top_<k>', such as 'top_5'"
