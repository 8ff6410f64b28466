"""scikit-learn's searches, which fit settings and folds of bp_xp's estimators as stacks."""

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import joblib
from sklearn import model_selection
from sklearn.base import clone
from sklearn.utils import indexable
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _check_method_params

from bp_xp.estimators._arrays import array_library
from bp_xp.estimators._base import MLP
from bp_xp.estimators._prepared import Fit, Fits, Fitted, is_prepared, record_fits, using
from bp_xp.estimators._stack import fit_stack, form_of, stays_here
from bp_xp.training.groups import shares_of

__all__ = ["GridSearchCV", "RandomizedSearchCV", "holds_networks", "make_fits"]

logger = logging.getLogger("bp_xp")

# The largest numbers of estimators in a stack, and of all their parameters, that fit the cache.
_MOST_MEMBERS, _MOST_PARAMETERS = 64, 1 << 20


class _Splits:
    """Splits that are already drawn, as a splitter of scikit-learn."""

    def __init__(self, splits: Sequence[tuple[Any, Any]]) -> None:
        self._splits = splits

    def split(self, *_: Any, **__: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the splits."""
        return iter(self._splits)


class _InStacks:
    """A search of scikit-learn whose fits are made beforehand, as stacks where possible."""

    estimator: Any
    n_jobs: Any
    cv_results_: dict[str, Any]
    _checked_cv_orig: Any
    _get_routed_params_for_fit: Callable[..., Any]

    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Search; see :meth:`sklearn.model_selection.GridSearchCV.fit`.

        Args:
            X: inputs, shape (N, I).
            y: labels or targets.
            params: other arguments: ``groups`` for the splitter, and others for the estimator.

        Returns:
            The search.
        """
        super_fit: Any = super().fit  # type: ignore[misc]
        # A search that contains it makes the fits of all its searches.
        if is_prepared() or not holds_networks(self):
            return super_fit(X, y, **params)
        self._samples, self._seconds = (X, y, params), {}
        # Fits are made beforehand, in processes if asked for: only scoring is left.
        self._scored_here = contextlib.ExitStack()
        try:
            with self._scored_here as here:
                here.enter_context(joblib.parallel_config(backend="sequential"))
                super_fit(X, y, **params)
        finally:
            seconds = self._seconds
            del self._samples, self._seconds, self._scored_here
        results = self.cv_results_
        results["mean_fit_time"] = results["mean_fit_time"] + [
            seconds.get(candidate, 0.0) for candidate in range(len(results["params"]))
        ]
        return self

    def _run_search(self, evaluate_candidates: Any, *, callback_ctx: Any = None) -> None:
        run_search: Any = super()._run_search  # type: ignore[misc]
        if not hasattr(self, "_samples"):  # there are no networks in it
            run_search(evaluate_candidates, callback_ctx=callback_ctx)
            return
        # The search has already chosen the order of its candidates, so stacks are free to choose.
        self._scored_here.close()

        def evaluate(candidates: Any, cv: Any = None, **more: Any) -> Any:
            candidates = list(candidates)
            X, y, params = self._samples
            X, y = indexable(X, y)  # as scikit-learn cuts them
            routed = self._get_routed_params_for_fit(params)
            splits = list((cv or self._checked_cv_orig).split(X, y, **routed.splitter.split))
            passed_on = routed.estimator.fit
            # Stacks take no arguments that are passed on to the fits, except weights.
            asked = candidates if all(name.endswith("sample_weight") for name in passed_on) else []
            fits, of_candidate = _asked(
                self.estimator, X, y, asked, splits=splits, passed_on=passed_on
            )
            begun = time.perf_counter()
            fitted = make_fits(fits, self.n_jobs)
            each = (time.perf_counter() - begun) / max(len(fitted), 1)
            first = len(self._seconds)
            for candidate in range(len(candidates)):
                n_fits = of_candidate.count(candidate)
                self._seconds[first + candidate] = each * n_fits / max(len(splits), 1)
            with using(fits.asked, fitted):
                return evaluate_candidates(candidates, cv=_Splits(splits), **more)

        run_search(evaluate, callback_ctx=callback_ctx)


class GridSearchCV(_InStacks, model_selection.GridSearchCV):
    """scikit-learn's ``GridSearchCV``, which fits settings and folds as stacks.

    Parameters, attributes, methods and scores are those of
    :class:`sklearn.model_selection.GridSearchCV`. Estimators of bp_xp, also as steps of a pipeline,
    are fitted many at a time if they differ only in numbers: ``alpha``, learning rates, momentum,
    ``random_state``, ``tol``, ``dropout`` and similar ones. ``n_jobs`` spreads stacks over
    processes. Fits that can't be in a stack are made one by one: those with ``solver="lbfgs"``,
    sparse samples or ``class_weight`` also in these processes; those with callbacks or arrays of
    other libraries, and other estimators, in this process.

    ``mean_fit_time`` is the share of a fit in the time of all fits.

    Examples:
        >>> import numpy as np
        >>> from bp_xp.estimators import MLPClassifier
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> mlp = MLPClassifier((4,), learning_rate_init=0.1, tol=0.01, random_state=0)
        >>> search = GridSearchCV(mlp, {"alpha": [1e-4, 100.0]}, cv=3)
        >>> search.fit(X, X[:, 0] > 0).best_params_
        {'alpha': 0.0001}
    """


class RandomizedSearchCV(_InStacks, model_selection.RandomizedSearchCV):
    """scikit-learn's ``RandomizedSearchCV``, which fits settings and folds as stacks.

    See :class:`GridSearchCV`.
    """


# ---------------------------------------------------------------------------------------------
# The fits


def holds_networks(value: Any) -> bool:
    """Return whether an estimator of bp_xp is in another one, or among the values to search."""
    if isinstance(value, MLP):
        return True
    if isinstance(value, Mapping):
        value = value.values()
    elif hasattr(value, "get_params") and not isinstance(value, type):
        value = value.get_params().values()
    elif not isinstance(value, list | tuple):
        return False
    return any(map(holds_networks, value))


def _asked(
    estimator: Any,
    X: Any,
    y: Any,
    candidates: Sequence[Mapping[str, Any]],
    *,
    splits: Sequence[tuple[Any, Any]],
    passed_on: Mapping[str, Any],
) -> tuple[Fits, list[int]]:
    """Return the fits of networks that a search will make, and the candidate of each."""
    of_candidate: list[int] = []
    with record_fits() as fits:
        for train, _ in splits:
            X_train, y_train = _safe_split(estimator, X, y, train)
            more = _check_method_params(X, params=passed_on, indices=train)
            for number, candidate in enumerate(candidates):
                # The search itself reports what can't be fitted.
                with contextlib.suppress(Exception):
                    one: Any = clone(estimator)
                    settings: Any = clone(candidate, safe=False)
                    one.set_params(**settings).fit(X_train, y_train, **more)
                of_candidate += [number] * (len(fits.asked) - len(of_candidate))
    return fits, of_candidate


def make_fits(fits: Fits, n_jobs: int | None) -> list[Fitted | None]:
    """Make fits, spread over processes: those of one form as stacks, and with several processes the
    others one by one. The result is None for a fit that fails, or is left to the caller.
    """
    fitted: list[Fitted | None] = [None] * len(fits.asked)
    processes: Any = n_jobs
    jobs = joblib.effective_n_jobs(processes)
    stacks = _parts(fits, jobs)
    parts = [*stacks, *(_alone(fits, stacks) if jobs > 1 else ())]
    tasks = []
    for part in parts:
        asked = [fits.asked[i] for i in part]
        names = list(dict.fromkeys(fit.samples for fit in asked))
        samples = [fits.samples[name] for name in names]
        which = [names.index(fit.samples) for fit in asked]
        weights = [fit.weights for fit in asked]
        tasks.append(([fit.estimator for fit in asked], samples, which, weights))
    made: Any = joblib.Parallel(n_jobs=n_jobs)(
        joblib.delayed(_fit)(*task, alone=k >= len(stacks)) for k, task in enumerate(tasks)
    )
    for part, estimators in zip(parts, made, strict=True):
        for i, one in zip(part, estimators, strict=True):
            fitted[i] = one
    in_stacks = sum(map(len, stacks))
    if in_stacks < len(fitted) or not fitted:
        logger.info(
            "%d of %d fits are made one by one: no stack takes their settings or samples",
            len(fitted) - in_stacks,
            len(fitted),
        )
    return fitted


def _fit(*task: Any, alone: bool) -> list[Fitted | None]:
    """Fit a stack, or a single estimator; the search tries failed fits again, and reports why."""
    try:
        return [_fit_alone(*task)] if alone else fit_stack(*task)
    except (ValueError, TypeError, ArithmeticError):
        return [None] * len(task[0])


def _fit_alone(estimators: Any, samples: Any, which: Any, weights: Any) -> Fitted:
    """Fit one estimator, which gives its own warnings."""
    del which
    return Fitted(estimators[0].fit(*samples[0], weights[0]), converged=True)


def _alone(fits: Fits, parts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the numbers of the fits that are in no stack and can be made in another process."""
    rest = {*range(len(fits.asked))} - {i for part in parts for i in part}
    return [
        [i]
        for i in sorted(rest)
        if not stays_here(fits.asked[i].estimator)
        and array_library(fits.samples[fits.asked[i].samples][0]) is None
    ]


def _parts(fits: Fits, jobs: int) -> list[list[int]]:
    """Return the numbers of the fits in each stack, with those of the same samples together."""
    groups: list[tuple[Mapping[str, Any], list[int]]] = []
    for i, fit in enumerate(fits.asked):
        form = _form(fit, fits)
        if form is None:
            continue
        for known, group in groups:
            if known == form:
                group.append(i)
                break
        else:
            groups.append((form, [i]))
    total = sum(len(group) for _, group in groups)
    return [
        group[part]
        for form, group in groups
        for part in shares_of(len(group), total, _most(form), jobs)
    ]


def _form(fit: Fit, fits: Fits) -> Mapping[str, Any] | None:
    try:
        form = form_of(fit.estimator, *fits.samples[fit.samples])
    except (ValueError, TypeError):  # its fit will raise the error
        return None
    return None if form is None else {**form, "weighted": fit.weights is not None}


def _most(form: Mapping[str, Any]) -> int:
    """Return the largest number of networks of a form in a stack."""
    shape, _ = form["X"]
    sizes = [shape[1] if len(shape) > 1 else 1, *form["hidden"], 10]
    entries = sum(a * b for a, b in itertools.pairwise(sizes))
    return max(1, min(_MOST_MEMBERS, _MOST_PARAMETERS // entries))
