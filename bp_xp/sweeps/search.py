"""Sweeps: many runs over settings, seeds and folds, trained in stacks."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bp_xp import checks
from bp_xp.errors import DivergenceError
from bp_xp.network import Network
from bp_xp.sweeps.folder import KeptRuns
from bp_xp.sweeps.folds import held_out, make_folds
from bp_xp.sweeps.halving import Halving
from bp_xp.sweeps.making import Judge, halve_runs, make_runs
from bp_xp.sweeps.results import SweepResult
from bp_xp.sweeps.runs import Problem, Run, Samples
from bp_xp.sweeps.settings import (
    check_inputs,
    check_names,
    check_networks,
    check_not_validated,
    names_of_network,
    sort_settings,
)
from bp_xp.sweeps.space import expand

__all__ = ["check_seeds", "make_table", "sweep"]

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
    """Train networks with all settings of a space, and find the best settings.

    Each run gives the same network as ``Network(..., seed=seed).fit(...)`` with its settings. Runs
    that differ only in learning rates, penalties, dropout, early stopping, seeds and folds are
    trained as one stack. The table shows which runs diverged; the others continue. Ctrl-C ends the
    sweep with the runs that are finished.

    Args:
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets, shape (N, O).
        space: a list of values for each setting that is searched, or a distribution (such as
            :func:`~bp_xp.sweeps.log_uniform`); or a list of several such spaces. A setting is any
            argument of :class:`bp_xp.Network` or of its ``fit``, or a field of the optimizer such
            as ``learning_rate``. There are two more: ``schedule``, a function of the learning rate
            and the number of steps of the run, such as ``CosineDecay``, that returns the schedule
            to use instead of the rate; and ``warm_up``, the number of steps over which the rate
            rises first.
        draws: how many settings to draw from the space, without repetition if it has only lists;
            None tries the whole grid.
        seeds: how many seeds to make each run with, 0, 1, ...; or the seeds.
        folds: the number of parts to divide the samples into, each of which is left out and judges
            once; or pairs (rows to learn, rows to judge by).
        validation_data: what else to judge by, as in ``fit``: (x, y), or a share to hold out, which
            each run draws; with halving, the sweep draws it once for all runs.
        sample_weight: how much each sample counts, shape (N,).
        metric: the value that judges settings, by its name in the history; None takes
            ``"validation_accuracy"`` or the nearest value. It is that of the last epoch, or of the
            best epoch with early stopping.
        higher_is_better: whether a higher value is better; None decides by the name.
        halving: drop settings that fall behind; a number is the ``factor`` of :class:`Halving`.
        seed: the seed of what the sweep itself draws: settings and folds.
        refit: whether to train a network with the best settings and the first seed at the end: as
            in its run, but with folds on all samples, and for the mean number of epochs of the
            runs.
        n_jobs: the number of processes to spread stacks over, with joblib; -1 is one for each core,
            None is joblib's own setting. On a cluster, create a ``dask.distributed.Client`` first,
            and call this function ``with joblib.parallel_config(backend="dask"):``. With halving,
            the machines of a cluster must share the folder.
        folder: where to keep finished runs; with halving, the networks of each stack instead, after
            each of their epochs. The same call resumes where it was (with halving, with the same
            ``n_jobs``); the network of the best settings is written there, as
            ``best.safetensors``.
        progress: whether to show a bar on a terminal.
        settings: those that all runs share, including ``sizes`` unless it is searched.

    Returns:
        The table.

    Raises:
        ValueError, TypeError: a setting has a wrong value, or as for ``fit``.
        ImportError: several processes are asked for, and joblib is not installed.
        CheckpointError: a file in the folder is damaged.
        KeyboardInterrupt: Ctrl-C was pressed before a run was finished.

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
    if isinstance(x, str | os.PathLike | Mapping):
        raise TypeError("x is a table: pass it to bp_xp.tables.sweep_table, which prepares it.")
    generator = np.random.default_rng(checks.check_integer(seed, "seed", least=0))
    tried = expand(space, draws, generator)
    for one in tried:
        check_names(settings | one, names_of_network((settings | one).get("optimizer")))
    if folds is not None and validation_data is not None:
        raise ValueError("pass folds or validation_data, not both: folds judge the runs.")
    if halving is not None and isinstance(validation_data, float):
        # A run that continues would hold out other samples than before.
        folds, validation_data = [held_out(y, validation_data, generator)], None
    problem = Samples(x, y, validation_data, sample_weight, make_folds(y, folds, generator))
    several = check_seeds(seeds)
    fold_numbers = range(len(problem.folds)) if problem.folds else [None]
    sorted_settings = [
        [sort_settings(settings | one, _n_learned(problem, fold)) for fold in fold_numbers]
        for one in tried
    ]
    check_inputs((one[0] for one in sorted_settings), x)
    if refit and problem.folds:
        for of_folds in sorted_settings:
            check_not_validated(of_folds[0].optimizer)
    runs = [
        Run(number, own, one, fold)
        for number, of_folds in enumerate(sorted_settings)
        for one in several
        for fold, own in zip(fold_numbers, of_folds, strict=True)
    ]
    table = make_table(
        tried,
        runs,
        problem,
        Judge(metric, higher_is_better),
        halving=halving,
        n_jobs=n_jobs,
        folder=folder,
        progress=progress,
    )
    if refit and table.complete:
        table.best_network = _refit(table, settings, several[0], problem)
        if folder is not None and table.best_network is not None:
            table.best_network.save(Path(folder) / "best.safetensors")
    return table


def make_table(
    tried: list[dict[str, Any]],
    runs: Sequence[Run],
    problem: Problem,
    judge: Judge,
    *,
    halving: int | Halving | None,
    n_jobs: int | None,
    folder: str | os.PathLike[str] | None,
    progress: bool,
) -> SweepResult:
    """Make runs, and return their table; the arguments are those of :func:`sweep`.

    Args:
        tried: the settings, in their order.
        runs: the runs, in the order of the table.
        problem: what they learn.
        judge: what the settings are judged by.
        halving: how settings are dropped, if they are.
        n_jobs: the number of processes to spread stacks over.
        folder: where finished runs are kept, or None.
        progress: whether to show a bar.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before a run was finished.
    """
    check_networks(run.settings for run in runs)
    kept = None if folder is None else KeptRuns(Path(folder), problem)
    if halving is not None and not isinstance(halving, Halving):
        halving = Halving(checks.check_integer(halving, "halving", least=2))
    with tqdm(total=len(runs), unit="run", disable=None if progress else True) as bar:
        if halving is None:
            results, complete = make_runs(runs, problem, judge, kept=kept, n_jobs=n_jobs, bar=bar)
        else:
            results, complete = halve_runs(
                runs, problem, judge, halving=halving, kept=kept, n_jobs=n_jobs, bar=bar
            )
    order = {(run.number, run.seed, run.fold): i for i, run in enumerate(runs)}
    results = sorted(results, key=lambda run: order[run.number, run.seed, run.fold])
    if results and all(run.diverged for run in results):
        logger.warning("all runs diverged, so no settings are best: try smaller learning rates.")
    return SweepResult(judge.metric, judge.higher_is_better, tried, results, complete=complete)


def check_seeds(seeds: Any) -> list[int]:
    """Return the seeds of each setting's runs.

    Raises:
        ValueError, TypeError: they are not different whole numbers, or there are none.
    """
    if isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str):
        several = [checks.check_integer(one, "seeds", least=0) for one in seeds]
    else:
        several = list(range(checks.check_integer(seeds, "seeds")))
    if not several or len(set(several)) < len(several):
        raise ValueError(f"seeds must be one or more different numbers, not {seeds!r}.")
    return several


def _n_learned(problem: Samples, fold: int | None) -> int:
    """Return how many rows the runs of a fold learn, or all rows without folds."""
    if fold is not None:
        return len(problem.folds[fold].learned)
    n, judged = len(problem.y), problem.validation_data
    return n - round(judged * n) if isinstance(judged, float) else n


def _refit(
    table: SweepResult, shared: Mapping[str, Any], seed: int, problem: Samples
) -> Network | None:
    """Return the network of the best settings; None if they diverged."""
    if all(run.diverged for run in table.runs_of(table.best)):
        return None
    settings = sort_settings({**shared, **table.best}, _n_learned(problem, None))
    network = Network(**settings.network, seed=seed)
    arguments = settings.common | settings.own | replace(problem, folds=()).fit_arguments([])
    if problem.folds:  # there is nothing left to judge by
        epochs = max(1, round(table.rows[0]["epoch"]))
        arguments |= {"epochs": epochs, "early_stopping": None, "metrics": ()}
    try:
        network.fit(optimizer=settings.optimizer, progress=False, **arguments)
    except DivergenceError as error:
        logger.warning("the network of the best settings diverged: %s", error)
        return None
    return network
