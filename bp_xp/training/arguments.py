"""From the arguments that people pass to the settings of a run, in one place for all that train."""

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
    """The fields of :class:`~bp_xp.Regularization`, as ``fit`` takes them by name."""

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
        epochs: passes over the samples.
        batch_size: samples in a mini-batch; the last of an epoch may be shorter.
        regularization: penalties, dropout, limits.
        trainable: whether each layer learns; empty where all do.
        metrics: what to measure after each epoch, besides cost and accuracy.
        shuffle: whether each epoch has an order of its own.
        progress: whether to show how the run goes.
        own_terms: the fields of the regularization of which each network of a stack has its own.
        buffer_size: how many rows of stored samples are shuffled among each other; None where
            samples are in memory, or come as they are made.
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
    """One value for each member of an ensemble, in the place of one for all.

    Value k is what ``Network.fit`` would take of member k alone, so that it may be a list with one
    for each layer itself.

    Args:
        values: the values, one for each member.

    Raises:
        TypeError: they are no list.

    Examples:
        >>> from bp_xp import SGD
        >>> PerMember(SGD(rate) for rate in (0.5, 0.1)).values[1].learning_rate
        0.1
    """

    values: tuple[Any, ...]

    misplaced = "PerMember goes around whole values, as in PerMember([SGD(0.5), SGD(0.1)])."
    """What is said where one stands for a number."""

    def __init__(self, values: Iterable[Any]) -> None:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(
                f"PerMember takes a list with the value of each member, not {values!r}."
            )
        object.__setattr__(self, "values", tuple(values))


def per_member(value: Any, n_members: int, name: str) -> list[Any]:
    """Return a value for each member of an ensemble: its own, or the one for all.

    Raises:
        ValueError: there are too many or too few.
    """
    if not isinstance(value, PerMember):
        return [value] * n_members
    return checks.one_for_each(list(value.values), n_members, name, "members")


def is_optimizer(value: Any) -> bool:
    """Return whether a value has what an optimizer has."""
    return not isinstance(value, type) and hasattr(value, "init") and hasattr(value, "update")


def as_optimizer(optimizer: Any) -> Optimizer:
    """Return an optimizer, or the one that a name stands for, with its defaults.

    Raises:
        ValueError: no optimizer has that name.
        TypeError: it is no optimizer.
    """
    chosen = checks.check_choice(optimizer, OPTIMIZERS, "optimizer")
    if not is_optimizer(chosen):
        raise TypeError(
            "optimizer must be one such as SGD(0.1), or one of the names "
            f"{', '.join(map(repr, OPTIMIZERS))}, not {optimizer!r}."
        )
    return chosen


def as_callbacks(
    callbacks: Any, early_stopping: Any = None
) -> tuple[list[Callback], EarlyStopping | None]:
    """Return callbacks, one or a list of them, and what stops the run early.

    An :class:`EarlyStopping` may stand among the callbacks; ``early_stopping`` may be a number,
    which is its patience.

    Raises:
        TypeError: something that is neither.
        ValueError: there are two that stop early.
    """
    several = [callbacks] if _is_single(callbacks, Callback, EarlyStopping) else list(callbacks)
    stopping = [one for one in several if isinstance(one, EarlyStopping)]
    if early_stopping is not None:
        if isinstance(early_stopping, int) and not isinstance(early_stopping, bool):
            early_stopping = EarlyStopping(patience=early_stopping)
        if not isinstance(early_stopping, EarlyStopping):
            raise TypeError(
                "early_stopping must be one such as EarlyStopping(), or a number of epochs without "
                f"an improvement, such as 10, not {early_stopping!r}."
            )
        stopping.append(early_stopping)
    if len(stopping) > 1:
        raise ValueError(f"{len(stopping)} EarlyStopping were passed: a run takes one.")
    others = [as_callback(one) for one in several if not isinstance(one, EarlyStopping)]
    return others, stopping[0] if stopping else None


def as_metrics(metrics: Any) -> tuple[Metric, ...]:
    """Return metrics: one name, Metric or function, or a list of these.

    Raises:
        ValueError: no metric has that name, or a name does not tell two values apart.
        TypeError: it is nothing of the kind.
    """
    several = [metrics] if _is_single(metrics, str, Metric) else metrics
    chosen: dict[str, Metric] = {}
    for metric in map(metric_named, several):
        name = metric.name
        if name in ("cost", "accuracy") and metric is not METRICS.get(name):
            raise ValueError(
                f"a metric of your own is named {name!r}, as a value that each run records: give "
                "it another name."
            )
        if chosen.setdefault(name, metric) != metric:
            raise ValueError(
                f"two metrics are named {name!r}: give one another name, as in "
                "bp_xp.Metric(name, function, ...)."
            )
    return tuple(chosen.values())


def _is_single(value: Any, *kinds: type) -> bool:
    """Return whether a value is one of what may come as a list."""
    return isinstance(value, kinds) or (callable(value) and not isinstance(value, Iterable))


def as_regularization(regularization: Any, terms: dict[str, Any], hidden: int) -> Regularization:
    """Return what regularizes a network of so many hidden layers, with a dropout rate by layer.

    Args:
        regularization: a :class:`Regularization`, or None.
        terms: fields of one, as they were passed by name.
        hidden: the number of hidden layers.

    Raises:
        ValueError: a number is out of its range, or there are too many or too few.
        TypeError: a name that is no field, or no number.
    """
    names = [field.name for field in fields(Regularization)]
    for name in terms:
        if name == "learning_rate":
            raise TypeError(
                "fit takes no learning_rate: it is the optimizer's, as in optimizer=SGD(0.1)."
            )
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
            f"pass {', '.join(terms)} within regularization=Regularization(...), not beside it."
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
    """Return whether each layer learns; empty where all do.

    Raises:
        ValueError: there are too many or too few, or no layer learns.
        TypeError: one is neither True nor False.
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
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}.")


# ---------------------------------------------------------------------------------------------
# Metrics by name

_OTHER_NAMES = {"mean_absolute_error": "mae", "mean_squared_error": "mse"}


def metric_named(metric: str | Metric | Callable[..., Array]) -> Metric:
    """Return the metric that is meant.

    Args:
        metric: a name, such as ``"f1"`` or ``"top_5"``; a Metric; or a function of (a, y, *, xp),
            or (a, y, *, weights, xp) if it takes the weights of the samples, of which a higher
            value is taken to be better, for any targets: give a :class:`Metric` to say otherwise.

    Raises:
        ValueError: no metric has that name; the message lists those there are.
        TypeError: it is nothing of the kind.

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
