"""Sweeps: many runs over settings, seeds and folds, trained in stacks."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bp_xp import checks
from bp_xp.backends import to_numpy
from bp_xp.errors import DivergenceError
from bp_xp.network import Network
from bp_xp.sweeps.folder import KeptRuns
from bp_xp.sweeps.halving import Halving
from bp_xp.sweeps.making import Judge, halve_runs, make_runs
from bp_xp.sweeps.results import SweepResult
from bp_xp.sweeps.runs import Fold, Problem, Run
from bp_xp.sweeps.settings import Settings, check_names, sort_settings
from bp_xp.sweeps.space import expand

__all__ = ["sweep"]

logger = logging.getLogger("bp_xp")


def sweep(
    x: Any,
    y: Any,
    space: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    draws: int | None = None,
    seeds: int | Sequence[int] = 1,
    folds: int | Iterable[tuple[Any, Any]] | None = None,
    validation_data: Any = None,
    sample_weight: Any = None,
    metric: str | None = None,
    higher_is_better: bool | None = None,
    halving: int | Halving | None = None,
    seed: int = 0,
    refit: bool = True,
    n_jobs: int | None = 1,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> SweepResult:
    """Train networks with all settings of a space, and tell which are the best.

    Each run is what ``Network(..., seed=seed).fit(...)`` with its settings is alone. Runs that can
    be are trained as one stack: those that differ in learning rates, penalties, dropout, early
    stopping, seeds and folds. A run that diverges is told in the table; the others go on. Ctrl-C
    ends the sweep with what is finished.

    Args:
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets, shape (N, O).
        space: a list of values for each setting that is searched, or a distribution
            (:func:`~bp_xp.sweeps.log_uniform` and its like); or a list of several such spaces. A
            setting is any argument of :class:`bp_xp.Network` or of its ``fit``, or a field of the
            optimizer such as ``learning_rate``.
        draws: how many settings to draw from the space; None tries the whole grid.
        seeds: how many seeds to make each run with, 0, 1, ...; or the seeds.
        folds: into how many parts to divide the samples, of which each is left out and judged by
            once; or pairs (rows to learn, rows to judge by).
        validation_data: what else to judge by, as in ``fit``: (x, y), or a share to hold out, which
            each run draws; with halving the sweep draws it, once for all.
        sample_weight: how much each sample counts, shape (N,).
        metric: what settings are judged by, as the history has it; None takes
            ``"validation_accuracy"`` or what comes nearest to it. It is that of the last epoch, or
            of the best one with early stopping.
        higher_is_better: whether more is better; None tells by the name.
        halving: drop settings that fall behind; a number is the ``factor`` of :class:`Halving`.
        seed: seed of what the sweep itself draws: settings and folds.
        refit: whether to train a network with the best settings and the first seed at the end: as
            in its run, but on all samples where there are folds, and for as many epochs as the runs
            took in the mean.
        n_jobs: over how many processes to spread stacks, with joblib; -1 is one for each core, None
            what ``joblib.parallel_config`` says, whose backends serve clusters.
        folder: where to keep finished runs. The same call goes on where it was; the network of the
            best settings is written there, as ``best.safetensors``.
        progress: whether to show a bar on a terminal.
        settings: those that all runs share, ``sizes`` among them unless it is searched.

    Returns:
        The table.

    Raises:
        ValueError, TypeError: a setting is not what it must be, or as for ``fit``.
        ImportError: there are to be several processes, and joblib is not installed.
        CheckpointError: a file in the folder is damaged.
        KeyboardInterrupt: Ctrl-C came before a run was finished.

    Examples:
        >>> x = [[0, 0], [0, 1], [1, 0], [1, 1]] * 5
        >>> y = [0, 1, 1, 1] * 5
        >>> table = sweep(
        ...     x,
        ...     y,
        ...     {"learning_rate": [0.01, 1.0]},
        ...     sizes=[2, 4, 2],
        ...     cost="categorical_cross_entropy",
        ...     epochs=50,
        ...     seeds=2,
        ...     validation_data=(x, y),
        ...     progress=False,
        ... )
        >>> table.best, table.best_value
        ({'learning_rate': 1.0}, 1.0)
    """
    generator = np.random.default_rng(checks.check_integer(seed, "seed", least=0))
    tried = expand(space, draws, generator)
    for one in tried:
        check_names(settings | one, (settings | one).get("optimizer"))
    sorted_settings = [sort_settings(settings | one) for one in tried]
    if folds is not None and validation_data is not None:
        raise ValueError("pass folds or validation_data, not both: folds are what is judged by.")
    if halving is not None and isinstance(validation_data, float):
        # A run that goes on would hold out other samples than before.
        folds, validation_data = [_held_out(y, validation_data, generator)], None
    problem = Problem(x, y, validation_data, sample_weight, _folds(y, folds, generator))
    several = _seeds(seeds)
    runs = [
        Run(number, own, one, fold)
        for number, own in enumerate(sorted_settings)
        for one in several
        for fold in (range(len(problem.folds)) if problem.folds else [None])
    ]
    judge = Judge(metric, higher_is_better)
    if halving is not None and folder is not None:
        raise ValueError("folder keeps runs that are whole: leave out folder or halving.")
    kept = None if folder is None else KeptRuns(Path(folder), problem)
    if isinstance(halving, int):
        halving = Halving(halving)
    with tqdm(total=len(runs), unit="run", disable=None if progress else True) as bar:
        if halving is None:
            results, complete = make_runs(runs, problem, judge, kept=kept, n_jobs=n_jobs, bar=bar)
        else:
            results, complete = halve_runs(
                runs, problem, judge, halving=halving, n_jobs=n_jobs, bar=bar
            )
    order = {(run.number, run.seed, run.fold): i for i, run in enumerate(runs)}
    results = sorted(results, key=lambda run: order[run.number, run.seed, run.fold])
    table = SweepResult(judge.metric, judge.higher_is_better, tried, results, complete=complete)
    if refit and complete:
        table.best_network = _refit(table, sorted_settings, several[0], problem)
        if folder is not None and table.best_network is not None:
            table.best_network.save(Path(folder) / "best.safetensors")
    return table


def _seeds(seeds: Any) -> list[int]:
    """Return the seeds of each setting's runs."""
    if isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str):
        several = [checks.check_integer(one, "seeds", least=0) for one in seeds]
    else:
        several = list(range(checks.check_integer(seeds, "seeds")))
    if not several or len(set(several)) < len(several):
        raise ValueError(f"seeds must be different numbers, one at least, not {seeds!r}.")
    return several


def _folds(y: Any, folds: Any, generator: np.random.Generator) -> tuple[Fold, ...]:
    """Return the folds: given, or drawn."""
    if folds is None:
        return ()
    if not isinstance(folds, Iterable):
        return tuple(_divided(y, checks.check_integer(folds, "folds", least=2), generator))
    pairs = tuple(Fold(*(np.asarray(rows) for rows in pair)) for pair in folds)
    if not pairs:
        raise ValueError("folds has no pair of rows.")
    return pairs


def _divided(y: Any, k: int, generator: np.random.Generator) -> list[Fold]:
    """Return k folds at random, in each of which a class has its share."""
    order = _class_by_class(y, generator)
    if k > len(order):
        raise ValueError(f"there are {len(order)} samples, which can't be divided into {k} folds.")
    return [_judged_by(order[i::k], len(order)) for i in range(k)]


def _held_out(y: Any, share: float, generator: np.random.Generator) -> Fold:
    """Return a fold that is judged by a share of the samples, and of each class."""
    checks.check_number(share, "validation_data", above=0.0, below=1.0)
    order = _class_by_class(y, generator)
    so_far = np.floor(share * np.arange(len(order) + 1) + 0.5)
    return _judged_by(order[np.diff(so_far) > 0], len(order))


def _class_by_class(y: Any, generator: np.random.Generator) -> np.ndarray:
    """Return the numbers of all rows, one class after the other, each in an order at random."""
    targets = np.asarray(y if isinstance(y, np.ndarray | list | tuple) else to_numpy(y))
    of_sample = np.argmax(targets, axis=1) if targets.ndim == 2 else targets
    order = generator.permutation(len(targets))
    return order[np.argsort(of_sample[order], kind="stable")]


def _judged_by(rows: np.ndarray, n: int) -> Fold:
    """Return the fold of n samples that is judged by some rows, and learns the others."""
    return Fold(np.setdiff1d(np.arange(n), rows), np.sort(rows))


def _refit(
    table: SweepResult, sorted_settings: Sequence[Settings], seed: int, problem: Problem
) -> Network | None:
    """Return the network of the best settings; None if they diverged."""
    best = table.runs_of(table.best)
    if all(run.diverged for run in best):
        return None
    settings = sorted_settings[best[0].number]
    network = Network(**settings.network, seed=seed)
    arguments = settings.common | settings.own
    if problem.folds:  # there is nothing left to judge by
        epochs = max(1, round(table.rows[0]["epochs"]))
        arguments |= {"epochs": epochs, "early_stopping": None, "metrics": ()}
    try:
        network.fit(
            problem.x,
            problem.y,
            sample_weight=problem.sample_weight,
            optimizer=settings.optimizer,
            validation_data=problem.validation_data,
            progress=False,
            **arguments,
        )
    except DivergenceError as error:
        logger.warning("the network of the best settings diverged: %s", error)
        return None
    return network
