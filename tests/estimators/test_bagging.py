"""Ensembles in stacks are those that scikit-learn makes of the same estimators, one by one."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

import scipy.sparse
from sklearn import ensemble
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from bp_xp.estimators import (
    BaggingClassifier,
    BaggingRegressor,
    GridSearchCV,
    MLPClassifier,
    MLPRegressor,
)

# Short runs need not converge.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SHORT = {"hidden_layer_sizes": (4,), "max_iter": 6, "batch_size": 8, "alpha": 0.1}
MLP = MLPClassifier(**SHORT)
THEIRS = {
    BaggingClassifier: ensemble.BaggingClassifier,
    BaggingRegressor: ensemble.BaggingRegressor,
}


def both(kind, x, y, estimator, **settings):
    """Return an ensemble and scikit-learn's own of the same estimators, fitted alike."""
    settings = {"n_estimators": 3, "random_state": 0} | settings
    return [one(estimator, **settings).fit(x, y) for one in (kind, THEIRS[kind])]


def assert_same(ours, theirs, x):
    named = "predict_proba" if hasattr(ours, "predict_proba") else "predict"
    predicted = (getattr(model, named)(x) for model in (ours, theirs))
    np.testing.assert_allclose(*predicted, rtol=0, atol=1e-12)
    for one, other, columns in zip(
        ours.estimators_, theirs.estimators_, theirs.estimators_features_, strict=True
    ):
        each = (getattr(model, named)(x[:, columns]) for model in (one, other))
        np.testing.assert_allclose(*each, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(x[:9]), theirs.predict(x[:9]), strict=True)


CASES = {
    "all samples": (MLP, {"bootstrap": False}, [3]),
    "with replacement": (MLP, {"oob_score": True}, [3]),
    "some of the samples": (MLP, {"bootstrap": False, "max_samples": 0.5}, [3]),
    "held out": (
        MLPClassifier(**SHORT, early_stopping=True, validation_fraction=0.2, n_iter_no_change=1),
        {},
        [3],
    ),
    "gradient descent": (
        MLPClassifier(**SHORT | {"alpha": 0.0}, solver="sgd", dropout=0.2, tol=0.05),
        {},
        [3],
    ),
    "pipeline": (make_pipeline(StandardScaler(), MLP), {}, [3]),
    "one alone": (MLPClassifier(**SHORT, solver="lbfgs"), {}, []),
    "another": (DecisionTreeClassifier(), {}, []),
}


@pytest.mark.filterwarnings("ignore:Some inputs do not have OOB")
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
@pytest.mark.parametrize("case", CASES)
def test_each_estimator_is_what_it_is_alone(case, samples, stacks):
    estimator, settings, sizes = CASES[case]
    ours, theirs = both(BaggingClassifier, *samples, estimator, **settings)
    assert stacks == sizes
    assert_same(ours, theirs, samples[0] + 0.1)
    assert getattr(ours, "oob_score_", None) == getattr(theirs, "oob_score_", None)


def test_values_are_the_mean_of_the_estimators(samples, stacks):
    x, _ = samples
    mlp = MLPRegressor(**SHORT)
    assert_same(*both(BaggingRegressor, x, x @ np.ones((5, 2)), mlp), x)
    ours, theirs = both(BaggingRegressor, x, x[:, 0], mlp, max_features=3)
    assert len(stacks) == 2
    assert_same(ours, theirs, x)
    each = [
        one.predict(x[:, features])
        for one, features in zip(ours.estimators_, ours.estimators_features_, strict=True)
    ]
    np.testing.assert_allclose(ours.predict(x), np.mean(each, axis=0))


@pytest.mark.parametrize("draws", [lambda: None, lambda: np.random.RandomState(1)])
def test_an_ensemble_is_drawn_by_whatever_draws_it(samples, draws):
    drawn = []
    for kind in (BaggingClassifier, ensemble.BaggingClassifier):
        np.random.seed(0)  # what draws where random_state is None
        drawn.append(kind(MLP, 2, random_state=draws()).fit(*samples))
    assert_same(*drawn, samples[0])


def test_a_warm_start_adds_estimators(samples, stacks):
    ours, theirs = both(BaggingClassifier, *samples, MLP, warm_start=True)
    before = list(ours.estimators_)
    for one in (ours, theirs):
        one.set_params(n_estimators=5).fit(*samples)
    assert stacks == [3, 2]
    assert ours.estimators_[:3] == before
    assert_same(ours, theirs, samples[0])


def test_a_search_fits_all_ensembles_as_one_stack(samples, stacks):
    grid = {"estimator__alpha": [0.01, 1.0], "n_estimators": [2, 3]}
    search = GridSearchCV(BaggingClassifier(MLP, random_state=0), grid, cv=2).fit(*samples)
    assert stacks == [2 * 2 * (2 + 3), search.best_params_["n_estimators"]]
    theirs = GridSearchCV(ensemble.BaggingClassifier(MLP, random_state=0), grid, cv=2)
    scores = theirs.fit(*samples).cv_results_["mean_test_score"]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], scores)


def test_sparse_inputs_are_learned_one_by_one(samples, stacks):
    x, y = samples
    x = np.where(x > 1.0, x, 0.0)
    ours = BaggingClassifier(MLP, 2, random_state=0)
    sparse = clone(ours).fit(scipy.sparse.csr_array(x), y)
    assert stacks == []
    np.testing.assert_allclose(sparse.predict_proba(x), ours.fit(x, y).predict_proba(x))


def test_an_ensemble_is_copied_and_pickled(samples):
    x, y = samples
    made = BaggingClassifier(n_estimators=2, random_state=0).set_params(estimator=MLP).fit(x, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).predict(x), made.predict(x))
    assert clone(made).get_params()["estimator__alpha"] == MLP.alpha


@pytest.mark.parametrize("kind", [BaggingClassifier, BaggingRegressor])
def test_without_an_estimator_it_is_the_network_of_bp_xp(kind):
    ours = kind(n_estimators=2).fit(np.eye(4), [0, 1, 0, 1])
    network = MLPClassifier if kind is BaggingClassifier else MLPRegressor
    assert [type(one) for one in ours.estimators_] == [network] * 2


def test_an_estimator_that_diverges_ends_in_its_own_error(samples):
    mlp = MLPClassifier(**SHORT, solver="sgd", activation="identity", learning_rate_init=1e300)
    with pytest.raises(ValueError, match="non-finite"):
        BaggingClassifier(mlp, 2).fit(*samples)


def test_an_ensemble_learns_where_its_estimators_do(samples, placement, dtype):
    where = {"backend": placement.backend_word, "device": placement.device_name, "dtype": dtype}
    made = [
        BaggingClassifier(MLPClassifier(**SHORT, **at), 2, random_state=0).fit(*samples)
        for at in (where, {"dtype": dtype})
    ]
    found = [model.predict_proba(samples[0]) for model in made]
    np.testing.assert_allclose(*found, atol=1e-10 if dtype == "float64" else 1e-4)
