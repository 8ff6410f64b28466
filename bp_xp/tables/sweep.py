"""Sweeps of tables: each fold learns its own preparation, and each run is that of a TableModel."""

import inspect
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp import Adam, CosineDecay, DivergenceError, Network, checks
from bp_xp._caller import named
from bp_xp.optim import Optimizer
from bp_xp.sweeps import Halving, SweepResult
from bp_xp.sweeps.folds import Fold, judged_by, make_folds
from bp_xp.sweeps.making import Judge
from bp_xp.sweeps.runs import Run
from bp_xp.sweeps.search import check_seeds, make_table
from bp_xp.sweeps.settings import (
    FIT_NAMES,
    Settings,
    change_optimizer,
    check_names,
    check_not_validated,
    names_of_optimizer,
    sort_settings,
)
from bp_xp.sweeps.space import expand
from bp_xp.tables.columns import as_columns
from bp_xp.tables.judging import METRICS_OF_TASK
from bp_xp.tables.model import TableModel
from bp_xp.tables.parts import Prepared, Split, ignored_by, part_columns
from bp_xp.tables.recipe import Recipe
from bp_xp.tables.targets import Targets
from bp_xp.training.arguments import PerMember, as_metrics

__all__ = ["sweep_table"]

logger = logging.getLogger("bp_xp")

_MODEL = set(inspect.signature(TableModel).parameters) - {"seed", "progress"}
# These decide which rows and metrics judge the runs, and are the same for all.
_SHARED = ("task", "split_by", "split_last")
# TableModel or the sweep has other arguments for the ones left out here.
_FIT = FIT_NAMES - {"early_stopping", "regularization", "metrics"}
_IN_EPOCHS = ("balanced_accuracy", "f1_macro", "r2")


def sweep_table(
    table: Any,
    target: Any,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    draws: int | None = None,
    seeds: int | Sequence[int] = 1,
    folds: int | float | Iterable[tuple[Any, Any]] = 5,
    metric: str | None = None,
    higher_is_better: bool | None = None,
    metrics: Any = (),
    halving: int | Halving | None = None,
    seed: int = 0,
    refit: bool = True,
    n_jobs: int | None = 1,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> SweepResult:
    """Train models of a table with all settings of a space, and find the best settings.

    Each run equals ``TableModel(..., seed=seed).fit`` on the rows of its fold: the preparation and
    everything that depends on the number of rows come from these rows only. A run is judged by what
    ``evaluate`` returns for the other rows. Only the classes are taken from all rows. Runs are
    trained as one stack where possible, also those of several folds if their preparations have the
    same number of inputs.

    Args:
        table: the rows, as for :meth:`TableModel.fit`.
        target: what to predict, as for :meth:`TableModel.fit`.
        space: as for :func:`bp_xp.sweep`. A setting is any argument of :class:`TableModel`, or one
            that its ``fit`` passes on, such as ``clip_norm`` or ``class_weight``, or a field of the
            optimizer, or ``schedule`` or ``warm_up``. With an optimizer, ``learning_rate`` is that
            optimizer's.
        draws: as for :func:`bp_xp.sweep`.
        seeds: as for :func:`bp_xp.sweep`.
        folds: the number of parts to divide the rows into, each of which judges once; or the share
            of the rows that judges, such as 0.2; or pairs (rows to learn, rows to judge by). Rows
            of one group (``split_by``) stay together; with ``split_last``, each part judges models
            that learned the rows before it.
        metric: the metric of ``evaluate`` that judges settings; None takes accuracy, or R².
        higher_is_better: whether a higher value is better; None decides by the name.
        metrics: what else to measure, as for :meth:`TableModel.evaluate`.
        halving: as for :func:`bp_xp.sweep`; the settings then hold out no rows themselves.
        seed: the seed of what the sweep itself draws: settings and folds.
        refit: whether to fit a model with the best settings and the first seed to all rows.
        n_jobs: as for :func:`bp_xp.sweep`.
        folder: as for :func:`bp_xp.sweep`; ``best.safetensors`` is the best model.
        progress: as for :func:`bp_xp.sweep`.
        settings: those that all runs share. The defaults are those of :class:`TableModel`.

    Returns:
        The table of the settings, whose ``best_model`` is the model of the best.

    Raises:
        ValueError, TypeError: a setting has a wrong value, or as for :meth:`TableModel.fit`.
        DataFormatError: a file can't be read as a table.
        ImportError, CheckpointError, KeyboardInterrupt: as for :func:`bp_xp.sweep`.

    Examples:
        >>> table = {"grams": [3, 4, 5, 30, 33, 35] * 9, "fur": ["gray", None, "gray"] * 18}
        >>> found = sweep_table(
        ...     table,
        ...     ["mouse", "mouse", "mouse", "rat", "rat", "rat"] * 9,
        ...     {"learning_rate": [1e-9, 0.006]},
        ...     folds=3,
        ...     epochs=20,
        ...     progress=False,
        ... )
        >>> found.best, found.metric, found.best_value
        ({'learning_rate': 0.006}, 'accuracy', 1.0)
        >>> found.best_model.predict({"fur": ["white"], "grams": [4]}).tolist()
        ['mouse']
    """
    generator = np.random.default_rng(checks.check_integer(seed, "seed", least=0))
    tried = expand(space, draws, generator)
    for one in tried:
        both = settings | one
        check_names(both, _MODEL | _FIT | names_of_optimizer(both.get("optimizer")))
        if halving is not None and both.get("validation_fraction"):
            raise ValueError(f"halving ends runs itself: leave out {named('validation_fraction')}.")
    for name in _SHARED:
        if any(name in one for one in tried):
            raise ValueError(f"{named(name)} is the same for all runs: leave it out of the space.")
    several = check_seeds(seeds)
    source = _Source(table, target, settings)
    task, pairs = source.folds(folds, generator)
    measured = as_metrics(metrics)
    metric = metric or METRICS_OF_TASK[task][0]
    runs, prepared = [], {}
    for number, one in enumerate(tried):
        for run_seed in several:
            for fold, rows in enumerate(pairs):
                part = source.prepared(settings | one, run_seed, (fold, rows))
                own = _settings_of(settings | one, part, metric)
                if refit and not len(part.rows["validation"]):
                    check_not_validated(own.optimizer)
                runs.append(Run(number, own, run_seed, fold))
                prepared[number, run_seed, fold] = part
    found = make_table(
        tried,
        runs,
        _PreparedFolds(prepared, measured),
        Judge(metric, higher_is_better),
        halving=halving,
        n_jobs=n_jobs,
        folder=folder,
        progress=progress,
    )
    if refit and found.complete:
        model = _refit(source, found, several[0])
        found.best_model, found.best_network = model, model and model.network
        if folder is not None and model is not None:
            model.save(Path(folder) / "best.safetensors")
    return found


# ---------------------------------------------------------------------------------------------
# From the table to runs


@dataclass
class _Source:
    """A table from which several preparations are learned, each once.

    Attributes:
        table: the table.
        target: what to predict.
        shared: the settings that all runs share.
    """

    table: Any
    target: Any
    shared: Mapping[str, Any]
    known: dict[str, Any] = field(default_factory=dict)

    def columns(self, model: TableModel) -> Any:
        """Return the columns as a model reads them from a file."""
        categorical, ignored = model.categorical, ignored_by(model.drop, model.split_by)
        key = f"columns {sorted(categorical)} {sorted(ignored)}"
        if key not in self.known:
            self.known[key] = as_columns(self.table, categorical, ignored=ignored)
        return self.known[key]

    def folds(self, folds: Any, generator: np.random.Generator) -> tuple[str, tuple[Fold, ...]]:
        """Return the task, and the folds."""
        model = _model(self.shared, None)
        columns, answers = part_columns(self.columns(model), self.target)
        n_rows = len(next(iter(answers.values())))
        targets = Targets.learn(answers, model.task, np.arange(n_rows))
        if isinstance(folds, float):
            share = checks.check_number(folds, "folds", above=0.0, below=1.0)
            split = Split(0.0, share, by=model.split_by, last=model.split_last)
            rows = split.rows(columns, answers, model.task, 0)
            return targets.task, (Fold(rows["training"], rows["test"]),)
        groups = Split(0.0, by=model.split_by, last=model.split_last).groups(columns)
        if isinstance(folds, Iterable) or not (model.split_last or groups is not None):
            labels = targets.encode(answers) if targets.classes else np.zeros(n_rows)
            return targets.task, make_folds(labels, folds, generator)
        # The first rows in time are not used to judge.
        several = range(n_rows - 1) if groups is None else np.unique(groups)
        k = checks.check_integer(folds, "folds", least=2)
        if k > len(several):
            what = "rows to judge by" if groups is None else f"groups of {model.split_by!r}"
            raise ValueError(
                f"{named('folds', k)} is too many for {what}: there are {len(several)}."
            )
        if groups is None:
            parts = np.array_split(np.arange(n_rows), k + 1)
            pairs = [Fold(np.concatenate(parts[:i]), parts[i]) for i in range(1, k + 1)]
        else:
            order = generator.permutation(several)
            judged = [np.flatnonzero(np.isin(groups, order[i::k])) for i in range(k)]
            pairs = [judged_by(rows, n_rows) for rows in judged]
        return targets.task, tuple(pairs)

    def prepared(self, given: Mapping[str, Any], seed: int, fold: tuple[int, Fold]) -> Prepared:
        """Return the prepared table of a run with some settings, without its columns."""
        model, (number, rows) = _model(given, seed), fold
        wishes = [sorted(getattr(model, n)) for n in ("numeric", "categorical", "drop")]
        share = model.validation_fraction
        key = repr([number, wishes, model.scaling, share, share and seed])
        if key not in self.known:
            part = model._prepare(self.columns(model), self.target, seed, rows)
            self.known[key] = part._replace(columns={}, answers={})
        return self.known[key]


def _model(given: Mapping[str, Any], seed: int | None) -> TableModel:
    """Return an untrained model with settings; the other settings may be its optimizer's."""
    return TableModel(**{n: v for n, v in given.items() if n in _MODEL}, seed=seed)


def _settings_of(given: Mapping[str, Any], prepared: Prepared, metric: str) -> Settings:
    """Return the settings of a run: those given, and otherwise those of the recipe."""
    model, rows = _model(given, None), prepared.rows
    how = model.recipe.fit_arguments(len(rows["training"]), len(rows["validation"]))
    task = prepared.preparation.targets.task
    is_told = metric in _IN_EPOCHS and (metric == "r2") == (task == "regression")
    how["metrics"] = (metric,) if is_told and task != "multilabel" else ()
    how["optimizer"] = _optimizer(given, how, len(rows["training"]))
    options = {name: value for name, value in given.items() if name in _FIT - _MODEL}
    network = model._network_arguments(prepared.preparation)
    return sort_settings(network | how | options, len(rows["training"]))


def _optimizer(given: Mapping[str, Any], how: Mapping[str, Any], n_rows: int) -> Optimizer:
    """Return the optimizer of a run: the recipe's or another one, with changes."""
    changes = {name: value for name, value in given.items() if name not in _FIT | _MODEL}
    optimizer = given.get("optimizer")
    if optimizer is None:
        optimizer = Adam()
        changes = {"schedule": CosineDecay, "learning_rate": Recipe.learning_rate} | changes
    if "learning_rate" in given:
        changes["learning_rate"] = given["learning_rate"]
    steps = how["epochs"] * -(-n_rows // how["batch_size"])
    return change_optimizer(optimizer, changes, steps)


def _refit(source: _Source, found: SweepResult, seed: int) -> TableModel | None:
    """Return a model with the best settings, fitted to all rows; None if they diverged."""
    if all(run.diverged for run in found.runs_of(found.best)):
        return None
    given = {**source.shared, **found.best}
    model = _model(given, seed)
    if set(given) - _MODEL - _FIT or given.get("optimizer") is not None:
        columns = source.columns(model)
        n_rows = len(model._prepare(columns, source.target, seed).rows["training"])
        model.optimizer = _optimizer(given, model.recipe.fit_arguments(n_rows), n_rows)
    options = {name: value for name, value in given.items() if name in _FIT - _MODEL}
    try:
        return model.fit(source.table, source.target, **options)
    except DivergenceError as error:
        logger.warning("the model of the best settings diverged: %s", error)
        return None


# ---------------------------------------------------------------------------------------------
# From runs to stacks


class _PreparedFolds:
    """The problem of a table, where each run has the rows as its fold prepares them.

    Args:
        prepared: the table, by the number of its settings, the seed and the fold of a run.
        metrics: what to measure besides the metrics of the task.
    """

    def __init__(
        self, prepared: Mapping[tuple[int, int, int | None], Prepared], metrics: Sequence[Any]
    ) -> None:
        self._prepared, self._metrics = prepared, tuple(metrics)
        self._names = [one.name for one in metrics]

    def __sizeof__(self) -> int:
        each = {id(one): one.x.nbytes for one in self._prepared.values()}
        return sum(each.values())

    def _of(self, run: Run) -> Prepared:
        return self._prepared[run.number, run.seed, run.fold]

    def fit_arguments(self, runs: Sequence[Run]) -> dict[str, Any]:
        """Return the tables of all folds, one below the other, and the rows that belong to each."""
        each = [self._of(run) for run in runs]
        parts = list({id(one): one for one in each}.values())
        ends = np.cumsum([len(one.x) for one in parts])
        starts = {id(one): end - len(one.x) for one, end in zip(parts, ends, strict=True)}
        return {
            "x": np.concatenate([one.x for one in parts]),
            "y": np.concatenate([one.y for one in parts]),
            "rows": PerMember(starts[id(one)] + one.rows["training"] for one in each),
            "validation_rows": PerMember(starts[id(one)] + _watched(one) for one in each),
        }

    def n_rows(self, run: Run) -> list[int]:
        """Return how many rows a run learns, and how many are evaluated in each epoch."""
        return [len(self._of(run).rows["training"]), len(_watched(self._of(run)))]

    def scores(self, run: Run, network: Network) -> dict[str, float]:
        """Return the metrics of ``evaluate`` for the rows that judge."""
        prepared = self._of(run)
        model = TableModel.of(prepared.preparation, network)
        return model.judge(*prepared.part("test"), self._metrics)

    def told_by(self, run: Run) -> list[Any]:
        """Return the prepared table of a run, the rows of its parts, and the metrics."""
        prepared = self._of(run)
        return [prepared.x, prepared.y, *prepared.rows.values(), self._names]


def _watched(prepared: Prepared) -> np.ndarray:
    """Return the rows that each epoch is evaluated on: held out for that, or those that judge."""
    rows = prepared.rows["validation"]
    return rows if len(rows) else prepared.rows["test"]
