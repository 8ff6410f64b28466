"""The record that a training run leaves."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, overload

__all__ = ["EpochRecord", "History", "improvements", "improves_upwards"]


class EpochRecord(NamedTuple):
    """What is known of one epoch.

    Attributes:
        epoch: its number, from 1.
        cost: mean cost over the training samples, each taken as its mini-batch was used, before
            the step; without the L2 term.
        accuracy: share of training samples classified correctly, likewise; None where there are no
            classes.
        validation_cost: mean cost over the validation data after the epoch; None without any.
        validation_accuracy: share classified correctly, likewise.
        seconds: time it took, validation included.
        samples_per_second: training samples a second.
        metrics: the values of the metrics asked for, by name: ``"validation_f1"``.
    """

    epoch: int
    cost: float
    accuracy: float | None
    validation_cost: float | None
    validation_accuracy: float | None
    seconds: float
    samples_per_second: float
    metrics: Mapping[str, float] = MappingProxyType({})

    def __str__(self) -> str:
        return f"epoch {self.epoch}  {self.values()}  {self.seconds:.2f} s"

    def values(self) -> str:
        """Return cost and accuracy as text."""
        parts = [f"cost {self.cost:.4f}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.2%}")
        if self.validation_cost is not None:
            parts.append(f"validation cost {self.validation_cost:.4f}")
        if self.validation_accuracy is not None:
            parts.append(f"validation accuracy {self.validation_accuracy:.2%}")
        parts += [f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.metrics.items()]
        return "  ".join(parts)


@dataclass
class History(Sequence[EpochRecord]):
    """The record of a training run: a sequence with an entry for each complete epoch.

    ``history["cost"]`` is the list of one value over all epochs, ``history[-1]`` the last epoch.

    Attributes:
        records: the entries.
        stopped: why the run ended: ``"epochs"`` (all were run), ``"early"`` (early stopping),
            ``"callback"`` (a callback asked for it) or ``"interrupt"`` (Ctrl-C, or
            ``should_stop``).
        best_epoch: the epoch whose parameters early stopping restored; None without.
        steps: steps taken so far, as of the last look at the run.
        engine: the name of the engine that took the steps: that of its library, or ``"plain"``;
            :meth:`bp_xp.Network.explain` says more.
    """

    records: list[EpochRecord] = field(default_factory=list)
    stopped: str = "epochs"
    best_epoch: int | None = None
    steps: int = 0
    engine: str = ""

    @overload
    def __getitem__(self, key: int) -> EpochRecord: ...
    @overload
    def __getitem__(self, key: slice | str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        if not isinstance(key, str):
            return self.records[key]
        if key in EpochRecord._fields:
            return [getattr(record, key) for record in self.records]
        metrics = self.records[0].metrics if self.records else {}
        if key not in metrics:
            known = ", ".join([*EpochRecord._fields[:-1], *metrics])
            raise KeyError(f"{key!r}: a record has {known}")
        return [record.metrics[key] for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        return "\n".join(map(str, self.records))


# ---------------------------------------------------------------------------------------------
# Whether a value gets better


_UPWARDS = {"accuracy", "auc", "f1", "precision", "r2", "recall", "score", "top"}
_DOWNWARDS = {"cost", "error", "loss", "mae", "mse", "rmse"}


def improves_upwards(name: str) -> bool:
    """Return whether a value is better the larger it is, which the words of its name tell.

    Args:
        name: such as ``"validation_accuracy"``, ``"top_5"`` or ``"mean_absolute_error"``.

    Raises:
        ValueError: the name does not tell.
        TypeError: it is no text.

    Examples:
        >>> improves_upwards("validation_accuracy"), improves_upwards("cost")
        (True, False)
    """
    if not isinstance(name, str):
        raise TypeError(f"a value is monitored by its name, such as 'cost', not by {name!r}.")
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    up, down = bool(words & _UPWARDS), bool(words & _DOWNWARDS)
    if up == down:
        raise ValueError(
            f"the name {name!r} does not tell whether more is better: it should have one of the "
            f"words {', '.join(sorted(_UPWARDS))} (more is better) or "
            f"{', '.join(sorted(_DOWNWARDS))} (less is)."
        )
    return up


def improvements(values: Iterable[float], upwards: bool, min_delta: float = 0.0) -> Iterator[bool]:
    """Tell of each value whether it is better than the best before it.

    Args:
        values: one for each epoch; NaN is never better.
        upwards: whether more is better.
        min_delta: how much better a value must be to count.

    Examples:
        >>> list(improvements([0.8, 0.9, 0.85, 0.9], upwards=True))
        [True, True, False, False]
    """
    sign, best = 1.0 if upwards else -1.0, -math.inf
    for value in values:
        improved = sign * value > best + min_delta
        best = sign * value if improved else best
        yield improved
