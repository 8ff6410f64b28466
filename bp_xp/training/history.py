"""The record of a training run."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import numpy as np

__all__ = ["EpochRecord", "History"]

_MOST_ROWS = 60
_MEASURED = ("cost", "accuracy", "validation_cost", "validation_accuracy")


class EpochRecord(NamedTuple):
    """The record of one epoch.

    Attributes:
        epoch: its number, from 1.
        cost: the mean cost over the training samples, each evaluated when its mini-batch was used,
            before the step; without the L2 penalty.
        accuracy: the share of training samples that are correctly classified, evaluated at the same
            time; None if there are no classes.
        validation_cost: the mean cost over the validation data after the epoch; None without any.
        validation_accuracy: the share of the validation data that is correctly classified; None
            without any, or without classes.
        seconds: the time that it took, including validation.
        samples_per_second: training samples per second.
        metrics: the values of the requested metrics, by name: ``"validation_f1"``.
    """

    epoch: int
    cost: float
    accuracy: float | None
    validation_cost: float | None
    validation_accuracy: float | None
    seconds: float
    samples_per_second: float
    metrics: Mapping[str, float] = MappingProxyType({})

    def of_member(self, row: int) -> "EpochRecord":
        """Return the record of one network of a stack, whose values are arrays of shape (M,)."""
        return self._with_values(lambda values: float(values[row]))

    @classmethod
    def stacked(cls, records: Sequence["EpochRecord"]) -> "EpochRecord":
        """Return one record of a stack from those of its networks; see :meth:`of_member`."""
        first = records[0]
        values: dict[str, Any] = {
            name: None if getattr(first, name) is None else [getattr(one, name) for one in records]
            for name in _MEASURED
        }
        metrics = {name: np.array([one.metrics[name] for one in records]) for name in first.metrics}
        arrays = {name: None if one is None else np.array(one) for name, one in values.items()}
        return first._replace(**arrays, metrics=metrics)

    def of_members(self, rows: Sequence[int]) -> "EpochRecord":
        """Return the record of some networks of a stack."""
        return self._with_values(lambda values: values[list(rows)])

    def mean(self) -> "EpochRecord":
        """Return the record with means over the networks of a stack; of one, the same record."""
        return self._with_values(lambda values: float(np.mean(values)))

    def _with_values(self, function: Any) -> "EpochRecord":
        """Return the record with a function applied to the measured values."""
        values = {name: getattr(self, name) for name in _MEASURED}
        return self._replace(
            **{name: None if value is None else function(value) for name, value in values.items()},
            metrics={name: function(value) for name, value in self.metrics.items()},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return EpochRecord, (*self[:-1], dict(self.metrics))  # a proxy cannot be copied or pickled

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

    ``history["cost"]`` is the list of one value over all epochs, ``history[-1]`` the last epoch. It
    prints as a line per epoch, and a notebook shows it as a table.

    Attributes:
        records: the entries.
        stopped: why the run ended: ``"epochs"`` (all epochs are complete), ``"early"`` (early
            stopping), ``"callback"`` (a callback requested it), ``"interrupt"`` (Ctrl-C, or
            ``should_stop``) or, for a member of an ensemble, ``"divergence"``.
        best_epoch: the epoch whose parameters early stopping restored; None without.
        steps: the number of steps taken so far, as of the last look at the run.
        engine: the name of the engine that took the steps: that of its library, or ``"plain"``;
            :meth:`bp_xp.Network.explain` has the details.
        members: for an ensemble, the history of each member; the records here are means over the
            members that took the epoch.
    """

    records: list[EpochRecord] = field(default_factory=list)
    stopped: str = "epochs"
    best_epoch: int | None = None
    steps: int = 0
    engine: str = ""
    members: list["History"] = field(default_factory=list)

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

    def _repr_html_(self) -> str:
        """Return the records as a table for notebooks; of very many, only the first and last."""
        names = [
            *(name for name in EpochRecord._fields[:-1] if self._has(name)),
            *(self.records[0].metrics if self.records else ()),
        ]
        columns = [[_as_cell(name, value) for value in self[name]] for name in names]
        rows = list(map(list, zip(*columns, strict=True)))
        if len(rows) > _MOST_ROWS:
            half = _MOST_ROWS // 2
            rows = [*rows[:half], ["…"] * len(names), *rows[-half:]]
        head = _as_row("th", [name.replace("_", " ") for name in names])
        body = "".join(_as_row("td", row) for row in rows)
        best = "" if self.best_epoch is None else f"; the best epoch is {self.best_epoch}"
        caption = f"{len(self)} epochs, {self.steps} steps, ended by: {self.stopped}{best}"
        return (
            f"<table><caption>{html.escape(caption)}</caption>"
            f"<thead>{head}</thead><tbody>{body}</tbody></table>"
        )

    def _has(self, name: str) -> bool:
        """Return whether any record has a value of this name."""
        return any(getattr(record, name) is not None for record in self.records)


def _as_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _as_cell(name: str, value: Any) -> str:
    """Return a value in a form for reading."""
    if value is None or isinstance(value, int | str):
        return "" if value is None else str(value)
    if name in ("accuracy", "validation_accuracy"):
        return f"{value:.2%}"
    return {"seconds": f"{value:.2f}", "samples_per_second": f"{value:,.0f}"}.get(
        name, f"{value:.4f}"
    )
