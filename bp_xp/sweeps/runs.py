"""The runs of a sweep, and how they are trained as stacks where possible."""

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bp_xp.ensemble import Ensemble
from bp_xp.errors import DivergenceError
from bp_xp.network import Network
from bp_xp.sweeps.folds import Fold
from bp_xp.sweeps.settings import Settings
from bp_xp.training.arguments import PerMember
from bp_xp.training.checkpoint import Checkpoint
from bp_xp.training.groups import shares_of
from bp_xp.training.history import History

__all__ = ["Problem", "Run", "Samples", "Stack", "SweepRun", "stacks_of", "train_stack"]

logger = logging.getLogger("bp_xp")

_WORDS = ("leaves the ensemble", "epochs are run already")

# The largest number of runs in a stack: an interruption loses no more than these.
_MOST_RUNS = 64


class Run(NamedTuple):
    """A run to be made.

    Attributes:
        number: the number of its settings.
        settings: its settings.
        seed: the seed of the network.
        fold: the number of its fold, or None.
    """

    number: int
    settings: Settings
    seed: int
    fold: int | None


class Problem(Protocol):
    """What the runs of a sweep learn, and what they are judged by.

    Its size, as ``sys.getsizeof`` returns it, is that of its arrays. A cluster therefore sends it
    to a machine once, and not with each stack.
    """

    def fit_arguments(self, runs: Sequence[Run]) -> dict[str, Any]:
        """Return the arguments of :meth:`bp_xp.Ensemble.fit` that are the samples of some runs."""
        ...

    def n_rows(self, run: Run) -> list[int]:
        """Return how many rows a run learns and is judged by, the same for a whole stack."""
        ...

    def scores(self, run: Run, network: Network) -> dict[str, float]:
        """Return the scores of the network of a run that are not in its history."""
        ...

    def told_by(self, run: Run) -> list[Any]:
        """Return the arrays that distinguish the samples of a run from those of others."""
        ...


@dataclass(frozen=True)
class Samples:
    """The problem of inputs and targets that all runs share.

    Attributes:
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets, shape (N, O).
        validation_data: what the runs are judged by, as ``fit`` takes it; None with folds.
        sample_weight: how much each sample counts, shape (N,), or None.
        folds: the folds; empty without any.
    """

    x: Any
    y: Any
    validation_data: Any = None
    sample_weight: Any = None
    folds: tuple[Fold, ...] = ()

    def __sizeof__(self) -> int:
        return sum(getattr(one, "nbytes", 0) for one in (self.x, self.y))

    def fit_arguments(self, runs: Sequence[Run]) -> dict[str, Any]:
        """As :class:`Problem` says."""
        folds = [self.folds[run.fold] for run in runs if run.fold is not None]
        parts = {
            "rows": PerMember(fold.learned for fold in folds),
            "validation_rows": PerMember(fold.judged for fold in folds),
        }
        shared = ("x", "y", "validation_data", "sample_weight")
        return {name: getattr(self, name) for name in shared} | (parts if folds else {})

    def n_rows(self, run: Run) -> list[int]:
        """As :class:`Problem` says."""
        return [] if run.fold is None else [len(rows) for rows in self.folds[run.fold]]

    def scores(self, run: Run, network: Network) -> dict[str, float]:
        """As :class:`Problem` says; the history has all scores."""
        return {}

    def told_by(self, run: Run) -> list[Any]:
        """As :class:`Problem` says."""
        judged = self.validation_data
        judged = list(judged) if isinstance(judged, list | tuple) else [judged]
        fold = [] if run.fold is None else self.folds[run.fold]
        return [self.x, self.y, self.sample_weight, *judged, *fold]


@dataclass(frozen=True)
class SweepRun:
    """The result of a run.

    Attributes:
        number: the number of its settings in ``SweepResult.settings``.
        seed: the seed of the network.
        fold: the number of the fold, or None.
        stopped: why it ended, as in ``History.stopped``; ``"dropped"`` by halving.
        epoch: the epoch whose parameters the network has; 0 if it completed none.
        curves: what was measured in each epoch, by name: ``"cost"``, ``"validation_accuracy"``.
        scores: for a table, the metrics of its model at the end, as ``evaluate`` returns them.
    """

    number: int
    seed: int
    fold: int | None
    stopped: str
    epoch: int
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether the cost was no longer finite."""
        return self.stopped == "divergence"

    def value(self, name: str) -> float:
        """Return a value of the network that the run ended with; NaN if the run diverged.

        Raises:
            KeyError: the run did not record it.
        """
        if self.diverged or not self.epoch:
            return math.nan
        judged = self.scores.get(name)
        return float(self.curves[name][self.epoch - 1] if judged is None else judged)


@dataclass
class Stack:
    """Runs that are trained together.

    Attributes:
        runs: the runs.
        ensemble: their networks, once there are some to continue with.
        results: the result of each run, as far as it was trained.
    """

    runs: list[Run]
    ensemble: Ensemble | None = None
    results: list[SweepRun] = field(default_factory=list)

    def take(self, rows: Sequence[int]) -> "Stack":
        """Return the stack of some of the runs, which can continue."""
        ensemble: Any = self.ensemble
        return Stack(
            [self.runs[row] for row in rows],
            None if ensemble is None else ensemble[list(rows)],
            [self.results[row] for row in rows],
        )


def stacks_of(runs: Iterable[Run], problem: Problem, jobs: int) -> list[Stack]:
    """Return runs in groups that can be trained as one stack each.

    The runs of a stack have the same shape, functions, epochs, batch size, number of rows and kind
    of step; learning rates and similar numbers, penalties, dropout and early stopping may differ.

    Args:
        runs: the runs.
        problem: what they learn.
        jobs: the number of processes; a stack is divided if it would leave one of them idle.
    """
    groups: list[list[Run]] = []
    for run in runs:
        fitting = (one for one in groups if _go_together(one[0], run, problem))
        group = next(fitting, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    total = sum(map(len, groups))
    return [
        Stack(group[part])
        for group in groups
        for part in shares_of(len(group), total, _MOST_RUNS, jobs)
    ]


def _go_together(one: Run, other: Run, problem: Problem) -> bool:
    return one.settings.go_with(other.settings) and problem.n_rows(one) == problem.n_rows(other)


def train_stack(
    stack: Stack, problem: Problem, epochs: int | None = None, file: Path | None = None
) -> Stack:
    """Train the runs of a stack.

    Args:
        stack: the runs, with their networks if they are to continue.
        problem: what they learn.
        epochs: how many epochs to take now, keeping the networks to continue with; None takes all.
        file: the file to keep them in, and to resume from if it exists; None keeps none.

    Returns:
        The stack with the results of its runs.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
        CheckpointError: the file is damaged.
        ValueError, TypeError, OutOfMemoryError: as for :meth:`bp_xp.Ensemble.fit`.
    """
    runs, first = stack.runs, stack.runs[0].settings
    ensemble = stack.ensemble or Ensemble.from_networks(
        [Network(**run.settings.network, seed=run.seed) for run in runs], seed=0
    )
    own = {
        name: PerMember(run.settings.own.get(name, default) for run in runs)
        for name, default in _own_names(runs).items()
    }
    arguments: dict[str, Any] = first.common | own | problem.fit_arguments(runs)
    if epochs is not None:
        arguments |= {"epochs": epochs, "warm_start": True}
    if file is not None:
        arguments["checkpoint"] = Checkpoint(file, resume=True)
    try:
        with _without_words():
            history = ensemble.fit(
                optimizer=PerMember(run.settings.optimizer for run in runs),
                progress=False,
                **arguments,
            )
    except DivergenceError:
        members = [History(stopped="divergence") for _ in runs]
    else:
        if history.stopped == "interrupt":
            raise KeyboardInterrupt
        members = history.members
    before = stack.results or [None] * len(runs)
    results = [
        _result_of(run, member, past)
        for run, member, past in zip(runs, members, before, strict=True)
    ]
    results = [
        result if result.diverged else replace(result, scores=problem.scores(run, ensemble[k]))
        for k, (run, result) in enumerate(zip(runs, results, strict=True))
    ]
    return Stack(runs, ensemble if epochs is not None else None, results)


@contextlib.contextmanager
def _without_words() -> Iterator[None]:
    """Suppress log lines that repeat the table: which run diverged, which was made before."""

    def is_of_runs(record: logging.LogRecord) -> bool:
        return not any(words in str(record.msg) for words in _WORDS)

    logger.addFilter(is_of_runs)
    try:
        yield
    finally:
        logger.removeFilter(is_of_runs)


def _own_names(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the arguments that each run has its own value of, with the values that mean none."""
    names = dict.fromkeys(name for run in runs for name in run.settings.own)
    return {name: 0.0 if name in ("l1", "l2", "dropout") else None for name in names}


def _result_of(run: Run, history: History, before: SweepRun | None) -> SweepRun:
    """Return the result of a run, including the epochs that it had taken before."""
    names = ("cost", "accuracy", "validation_cost", "validation_accuracy")
    metrics = history[0].metrics if history else ()
    curves = {name: history[name] for name in (*names, *metrics)}
    curves = {name: curve for name, curve in curves.items() if curve and curve[0] is not None}
    if before is not None:
        curves = {name: [*curve, *curves.get(name, [])] for name, curve in before.curves.items()}
    restores = getattr(run.settings.own.get("early_stopping"), "restore_best", True)
    epoch = history.best_epoch if restores else None
    taken = len(curves.get("cost", ()))
    return SweepRun(run.number, run.seed, run.fold, history.stopped, epoch or taken, curves)
