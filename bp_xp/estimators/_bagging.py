"""scikit-learn's bagging, which fits the networks of an ensemble as stacks."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import joblib
from sklearn import ensemble
from sklearn.utils import check_random_state

from bp_xp.estimators._classifier import MLPClassifier
from bp_xp.estimators._prepared import Fits, is_prepared, record_fits, using
from bp_xp.estimators._regressor import MLPRegressor
from bp_xp.estimators._search import holds_networks, make_fits

__all__ = ["BaggingClassifier", "BaggingRegressor"]


class _InStacks:
    """An ensemble of scikit-learn whose fits are made beforehand, as stacks where possible."""

    n_jobs: Any
    random_state: Any
    _get_estimator: Callable[[], Any]

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Any:
        """Fit the estimators; see :meth:`sklearn.ensemble.BaggingClassifier.fit`.

        Args:
            X: inputs, shape (N, I).
            y: labels or targets, shape (N,).
            sample_weight: the probabilities with which samples are drawn, shape (N,).
            fit_params: what is passed on to the estimators, with metadata routing.

        Returns:
            The ensemble.

        Raises:
            ValueError, TypeError: as for that ``fit``, and the ``fit`` of the estimator.
        """
        fit: Any = super().fit  # type: ignore[misc]
        # A search that contains it makes the fits of all its ensembles.
        if is_prepared() or not holds_networks(self._get_estimator()):
            return fit(X, y, sample_weight, **fit_params)
        fits = self._asked(X, y, sample_weight, fit_params)
        fitted = make_fits(fits, self.n_jobs)
        if not any(fitted):
            return fit(X, y, sample_weight, **fit_params)
        # Only this process knows the fits that are made.
        with using(fits.asked, fitted), joblib.parallel_config(backend="sequential"):
            return fit(X, y, sample_weight, **fit_params)

    def _asked(self, X: Any, y: Any, sample_weight: Any, fit_params: dict[str, Any]) -> Fits:
        """Return the fits of networks that ``fit`` will make."""
        first = copy.copy(self)
        # It draws what the real fit will draw, and does not touch the estimators of a warm start.
        random = copy.deepcopy(check_random_state(self.random_state))
        vars(first).update(random_state=random, oob_score=False, verbose=0)
        for name in ("estimators_", "estimators_features_"):
            if hasattr(first, name):
                setattr(first, name, list(getattr(first, name)))
        with (
            record_fits() as fits,
            joblib.parallel_config(backend="sequential"),
            contextlib.suppress(Exception),  # the fit itself reports what can't be fitted
        ):
            first.fit(X, y, sample_weight, **fit_params)
        return fits


class BaggingClassifier(_InStacks, ensemble.BaggingClassifier):
    """scikit-learn's ``BaggingClassifier``, which fits the networks as one stack.

    Parameters, attributes, methods and results are those of
    :class:`sklearn.ensemble.BaggingClassifier`, except that ``estimator=None`` means
    :class:`MLPClassifier`. Each of the ``estimators_`` is the same as if fitted alone, with its own
    ``random_state``; probabilities are the mean of theirs. With ``bootstrap=False``, all estimators
    learn all samples, which is a deep ensemble. ``n_jobs`` spreads stacks over processes. Fits that
    can't be in a stack (see :class:`GridSearchCV`) are made one by one, as in scikit-learn.

    Examples:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> mlp = MLPClassifier((8,), learning_rate_init=0.1, tol=0.01)
        >>> ensemble = BaggingClassifier(mlp, 5, bootstrap=False, random_state=0)
        >>> ensemble.fit(X, X[:, 0] > 0).predict_proba(X).shape, len(ensemble.estimators_)
        ((60, 2), 5)

    References:
        Breiman, *Bagging predictors*, Machine Learning 24, 1996.
        Lakshminarayanan, Pritzel and Blundell, *Simple and scalable predictive uncertainty
        estimation using deep ensembles*, NeurIPS 2017.
    """

    def _get_estimator(self) -> Any:
        return MLPClassifier() if self.estimator is None else self.estimator


class BaggingRegressor(_InStacks, ensemble.BaggingRegressor):
    """scikit-learn's ``BaggingRegressor``, which fits the networks as one stack.

    Predictions are the mean of those of the estimators. ``estimator=None`` means
    :class:`MLPRegressor`; for everything else see :class:`BaggingClassifier`.
    """

    def _get_estimator(self) -> Any:
        return MLPRegressor() if self.estimator is None else self.estimator
