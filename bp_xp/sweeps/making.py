"""Making the runs of a sweep: stack after stack, here or in several processes."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bp_xp._caller import advice, named
from bp_xp._optional import require
from bp_xp.optim.improvement import improves_upwards
from bp_xp.sweeps.folder import KeptRuns
from bp_xp.sweeps.halving import Halving, keep_settings
from bp_xp.sweeps.results import rank_settings
from bp_xp.sweeps.runs import Problem, Run, Stack, SweepRun, stacks_of, train_stack

__all__ = ["Judge", "halve_runs", "make_runs"]

logger = logging.getLogger("bp_xp")

# What settings are judged by, by default: the first of these that is recorded.
_METRICS = ("validation_accuracy", "validation_cost", "accuracy", "cost")


class Judge:
    """The metric that judges settings; by default, it is known once the first runs are made.

    Args:
        metric: the name of a value; None takes the first of those that are recorded.
        higher_is_better: whether a higher value is better; None decides by the name.

    Raises:
        ValueError: the name does not decide it.
    """

    def __init__(self, metric: str | None, higher_is_better: bool | None) -> None:
        self._chosen, self._direction = metric, higher_is_better
        self._settle(metric or "cost")

    def _settle(self, metric: str) -> None:
        self.metric = metric
        upwards = self._direction
        self.higher_is_better = improves_upwards(metric) if upwards is None else upwards

    def check(self, results: Iterable[SweepRun]) -> None:
        """Refuse runs that did not record the value; choose a value if none is chosen.

        Raises:
            ValueError: a run did not record it.
        """
        recorded = next(({**run.curves, **run.scores} for run in results if run.curves), None)
        if recorded is None:
            return
        if self._chosen is None:
            self._chosen = next(name for name in _METRICS if name in recorded)
            self._settle(self._chosen)
        if self.metric not in recorded:
            raise ValueError(
                f"{named('metric', self.metric)} is not recorded, but {', '.join(recorded)}: "
                "values that begin with validation are measured on folds or on validation data, "
                f"and others than cost and accuracy{advice(' with {}', 'metrics')}."
            )

    def rank(self, results: Sequence[SweepRun]) -> list[int]:
        """Return the numbers of the settings, the best first."""
        ranked = rank_settings(results, self.metric, self.higher_is_better)
        return [number for number, _ in ranked]


def make_runs(
    runs: Sequence[Run],
    problem: Problem,
    judge: Judge,
    *,
    kept: KeptRuns | None,
    n_jobs: int | None,
    bar: Any,
) -> tuple[list[SweepRun], bool]:
    """Make runs.

    Args:
        runs: the runs.
        problem: what they learn.
        judge: what they must record.
        kept: runs in files, which are not repeated; None keeps none.
        n_jobs: the number of processes to spread them over.
        bar: shows how many are made.

    Returns:
        The results of the runs, in any order; and whether all runs were made.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before any run was made.
    """
    known = [None if kept is None else kept.result_of(run) for run in runs]
    results = [result for result in known if result is not None]
    judge.check(results)
    left = [run for run, result in zip(runs, known, strict=True) if result is None]
    bar.update(len(results))
    try:
        for stack in _train(stacks_of(left, problem, _n_processes(n_jobs)), problem, n_jobs):
            judge.check(stack.results)
            if kept is not None:
                kept.keep(stack.runs, stack.results)
            results += stack.results
            bar.update(len(stack.runs))
            logger.info("%d of %d runs are made", len(results), len(runs))
    except KeyboardInterrupt:
        if not results:
            raise
        return results, False
    return results, True


def halve_runs(
    runs: Sequence[Run],
    problem: Problem,
    judge: Judge,
    *,
    halving: Halving,
    kept: KeptRuns | None,
    n_jobs: int | None,
    bar: Any,
) -> tuple[list[SweepRun], bool]:
    """Make runs, some of which successive halving drops; see :func:`make_runs`.

    Raises:
        ValueError: they take different numbers of epochs, or stop early.
    """
    rungs = halving.rungs(len({run.number for run in runs}), _epochs_of(runs))
    stacks, ended = stacks_of(runs, problem, _n_processes(n_jobs)), []
    results: list[SweepRun] = []
    try:
        for i, (before, rung) in enumerate(zip([0, *rungs], rungs, strict=False)):
            files = [kept and kept.rung_file(stack.runs, rungs[: i + 1]) for stack in stacks]
            stacks = list(_train(stacks, problem, n_jobs, epochs=rung - before, files=files))
            results = ended + [result for stack in stacks for result in stack.results]
            judge.check(results)
            going = {run.number for stack in stacks for run in stack.runs}
            if rung < rungs[-1]:
                best = [number for number in judge.rank(results) if number in going]
                stacks, dropped = keep_settings(stacks, best[: halving.n_kept(len(going))])
                ended += dropped
            bar.update(len(ended) - bar.n)
            logger.info("%d settings took %d epochs", len(going), rung)
    except KeyboardInterrupt:
        if not results:
            raise
        return results, False
    bar.update(len(runs) - bar.n)
    return results, True


def _epochs_of(runs: Sequence[Run]) -> int:
    """Return the number of epochs of runs that halving may drop."""
    each = {run.settings.common.get("epochs", 10) for run in runs}
    if len(each) > 1:
        raise ValueError(
            f"halving compares runs of equal length, and these take {sorted(each)} epochs: do not "
            "search over epochs."
        )
    if any(run.settings.own.get("early_stopping") is not None for run in runs):
        raise ValueError(f"halving ends runs itself: leave out {named('early_stopping')}.")
    return each.pop()


# ---------------------------------------------------------------------------------------------
# Over several processes


def _train(
    stacks: Sequence[Stack],
    problem: Problem,
    n_jobs: int | None,
    *,
    epochs: int | None = None,
    files: Sequence[Path | None] | None = None,
) -> Iterator[Stack]:
    """Train stacks, and yield each when it is done."""
    files = files or [None] * len(stacks)
    own = [(stack, problem, epochs, file) for stack, file in zip(stacks, files, strict=True)]
    if n_jobs == 1:
        yield from (train_stack(*one) for one in own)
        return
    joblib: Any = require("joblib", "sklearn")
    backend, _ = joblib.parallel.get_active_backend()
    # Not every backend supports it; those of this machine and Dask's do.
    as_they_come = getattr(backend, "supports_return_generator", False)
    parallel = joblib.Parallel(
        n_jobs=n_jobs,
        return_as="generator_unordered" if as_they_come else "list",
        batch_size=1,  # a finished stack is kept, and does not wait for another one
    )
    yield from parallel(joblib.delayed(train_stack)(*one) for one in own)


def _n_processes(n_jobs: int | None) -> int:
    """Return how many processes there will be."""
    return 1 if n_jobs == 1 else require("joblib", "sklearn").effective_n_jobs(n_jobs)
