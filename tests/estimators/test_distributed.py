"""Estimators whose runs several processes share; threads stand in for processes."""

import copy
import functools
import warnings

import numpy as np
import pytest
from threads import on_ranks

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from bp_xp import RMSprop
from bp_xp.estimators import GridSearchCV, MLPClassifier, MLPRegressor

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((43, 4)), RNG.integers(0, 3, 43)
WEIGHTS = RNG.integers(0, 3, 43).astype(float)

RUNS = {
    "adam": (MLPClassifier, {"dropout": 0.2}, {}),
    "weights": (
        MLPClassifier,
        {"solver": "sgd", "learning_rate": "adaptive", "class_weight": "balanced", "alpha": 0.1},
        {"sample_weight": WEIGHTS},
    ),
    "early stopping": (MLPRegressor, {"early_stopping": True, "n_iter_no_change": 2}, {}),
    "in order": (MLPRegressor, {"solver": RMSprop(0.01), "shuffle": False, "alpha": 0.0}, {}),
}


def fitted(distributed=None, *, kind=MLPClassifier, x=X, given=None, random_state=0, **parameters):
    """Return an estimator after a fit, of six epochs at most."""
    estimator = kind(
        hidden_layer_sizes=(5,),
        batch_size=7,
        max_iter=6,
        random_state=random_state,
        distributed=distributed,
        **parameters,
    )
    return estimator.fit(x, Y, **given or {})


def numbers(estimator):
    """Return all that a fit has found, as one array."""
    curves = [estimator.loss_curve_, estimator.validation_scores_ or [], [estimator.n_iter_]]
    parts = [*estimator.coefs_, *estimator.intercepts_, *map(np.asarray, curves)]
    return np.concatenate([part.ravel() for part in parts])


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    """Let no run warn that it has not converged: what is ignored is so for all threads or none."""
    monkeypatch.setattr(warnings, "warn", lambda *_, **__: None)


@pytest.mark.parametrize(("kind", "parameters", "given"), RUNS.values(), ids=RUNS)
def test_a_shared_run_is_that_of_one_process(kind, parameters, given):
    options = {"kind": kind, "given": given, **parameters}
    alone = fitted(**options)
    for estimator in on_ranks(3, functools.partial(fitted, **options)):
        np.testing.assert_allclose(numbers(estimator), numbers(alone), rtol=1e-11, atol=1e-12)


def test_sparse_samples_are_shared_too():
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.csr_array(np.where(np.abs(X) > 0.7, X, 0.0))
    alone = fitted(x=x)
    for estimator in on_ranks(2, functools.partial(fitted, x=x)):
        np.testing.assert_allclose(numbers(estimator), numbers(alone), rtol=1e-11, atol=1e-12)


def test_ranks_draw_what_rank_0_draws_and_it_alone_prints(capsys):
    def fit(communicator):
        return fitted(communicator, random_state=None, verbose=True)

    first, second = on_ranks(2, fit)
    np.testing.assert_array_equal(numbers(first), numbers(second))
    assert capsys.readouterr().out.count("Iteration 6") == 1


def test_what_differs_and_what_has_no_mini_batches_is_refused():
    for one in on_ranks(2, lambda one: fitted(one, alpha=0.1 + one.rank)):
        assert "parameters.alpha is 0.1 on rank 0" in str(one)
    for one in on_ranks(2, lambda one: fitted(one, x=X + one.rank)):
        assert "x is not the same on rank 0" in str(one)
        assert "Stream" not in str(one)
    with pytest.raises(InvalidParameterError, match="distributed has nothing to act on"):
        fitted("auto", solver="lbfgs")


def test_a_search_on_several_ranks_shares_each_fit(monkeypatch):
    monkeypatch.setattr(copy, "deepcopy", lambda value, memo=None: value)  # of communicators

    def search(communicator):
        base = MLPClassifier((3,), max_iter=2, random_state=0, distributed=communicator)
        found = GridSearchCV(base, {"alpha": [0.0, 0.5]}, cv=2).fit(X, Y)
        return found.cv_results_["mean_test_score"], numbers(found.best_estimator_)

    alone = search(None)
    calls = []
    for scores, best in on_ranks(2, lambda one: calls.append(one.calls) or search(one)):
        np.testing.assert_allclose(scores, alone[0])
        np.testing.assert_allclose(best, alone[1], rtol=1e-11, atol=1e-12)
    assert all(one["total"] > 0 for one in calls)


def test_how_processes_talk_is_a_parameter_as_others():
    assert clone(MLPRegressor(distributed="auto")).get_params()["distributed"] == "auto"
