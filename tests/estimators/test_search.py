"""Searches in stacks find what scikit-learn's find with the same estimators, one by one."""

import logging
import threading
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
import scipy.sparse
from sklearn import model_selection
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bp_xp import RMSprop, StepDecay
from bp_xp.estimators import (
    GridSearchCV,
    MLPClassifier,
    MLPRegressor,
    RandomizedSearchCV,
    _search,
)

N, FEATURES = 48, 5
SHORT = {"hidden_layer_sizes": (4,), "max_iter": 6, "batch_size": 8, "random_state": 0}

CASES = {
    "adam": (
        MLPClassifier(**SHORT),
        {"alpha": [1e-4, 1.0], "learning_rate_init": [0.01, 0.1], "random_state": [0, 1]},
        [24],
    ),
    "shapes": (
        MLPClassifier(**SHORT, beta_1=0.5),
        {"hidden_layer_sizes": [(3,), (3, 3)], "activation": ["relu", "tanh"], "beta_2": [0.9]},
        [3, 3, 3, 3],
    ),
    "gradient descent": (
        MLPClassifier(**SHORT, solver="sgd", tol=0.05, n_iter_no_change=1),
        [
            {"momentum": [0.5, 0.9], "learning_rate": ["adaptive", "invscaling"]},
            {"momentum": [0.9], "nesterovs_momentum": [False]},
            {"learning_rate": [StepDecay(0.5, 0.5, 3)], "alpha": [0.0]},
        ],
        [3, 3, 12],
    ),
    "held out": (
        MLPClassifier(**SHORT, early_stopping=True, validation_fraction=0.2, n_iter_no_change=1),
        {"alpha": [1e-4, 0.1], "learning_rate_init": [0.5]},
        [6],
    ),
    "best weights": (
        MLPClassifier(**SHORT, restore_best_weights=True, learning_rate_init=1.0),
        {"dropout": [0.0, 0.3, [0.1, 0.2]]},
        [3, 6],
    ),
    "as they come": (
        MLPClassifier(**SHORT, shuffle=False, solver=RMSprop(0.1)),
        {"alpha": [0.0, 0.1, 0.2]},
        [3, 6],
    ),
    "numbers": (MLPRegressor(**SHORT), {"alpha": [1e-4, 1.0, 10.0]}, [9]),
    "one alone": (MLPClassifier(**SHORT, solver="lbfgs"), {"alpha": [1e-4, 1.0]}, []),
    "pipeline": (
        make_pipeline(StandardScaler(), MLPClassifier(**SHORT)),
        {
            "standardscaler__with_mean": [True, False],
            "mlpclassifier__alpha": [1e-4, 1.0],
        },
        [12],
    ),
    "another": (LogisticRegression(), {"C": [0.1, 1.0]}, []),
}


def assert_same(ours, theirs):
    names = [name for name in theirs.cv_results_ if "time" not in name]
    assert [name for name in ours.cv_results_ if "time" not in name] == names
    for name in names:
        mine, other = ours.cv_results_[name], theirs.cv_results_[name]
        if name == "params":
            assert list(map(str, mine)) == list(map(str, other))
        elif "score" in name:
            np.testing.assert_allclose(mine, other, rtol=1e-9, err_msg=name)
    assert (ours.cv_results_["mean_fit_time"] > 0.0).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_fits_one_by_one(case, samples, stacks):
    estimator, grid, sizes = CASES[case]
    x, y = samples
    y = x @ np.ones((FEATURES, 2)) if case == "numbers" else y
    settings = {"cv": 3, "return_train_score": True}
    if case == "numbers":
        settings["scoring"] = "neg_mean_squared_error"
    ours = GridSearchCV(estimator, grid, **settings).fit(x, y)
    theirs = model_selection.GridSearchCV(estimator, grid, **settings).fit(x, y)
    assert sorted(stacks) == sizes
    assert_same(ours, theirs)
    assert str(ours.best_params_) == str(theirs.best_params_)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_draws_groups_and_several_scores(samples, stacks):
    x, y = samples
    groups = np.arange(N) % 4
    settings = {
        "n_iter": 3,
        "cv": GroupKFold(2),
        "scoring": ["accuracy", "f1_macro"],
        "refit": "f1_macro",
        "random_state": 0,
    }
    grid = {"alpha": np.logspace(-4, 0, 20)}
    searches = [
        kind(MLPClassifier(**SHORT), grid, **settings).fit(x, y, groups=groups)
        for kind in (RandomizedSearchCV, model_selection.RandomizedSearchCV)
    ]
    assert stacks == [6]
    assert_same(*searches)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_folds_that_are_drawn_anew_each_time_are_those_that_are_judged(samples, stacks):
    cv = model_selection.KFold(3, shuffle=True)  # without a seed
    search = GridSearchCV(MLPClassifier(**SHORT), {"alpha": [1e-4, 1.0]}, cv=cv, refit=False)
    search.fit(*samples)
    assert stacks == [6]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_each_fit_says_that_it_has_not_converged(samples):
    search = GridSearchCV(MLPClassifier(**SHORT), {"alpha": [1e-4, 1.0]}, cv=3, refit=False)
    with pytest.warns(ConvergenceWarning) as told:
        search.fit(*samples)
    assert len(told) == 6


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_setting_that_can_not_be_fitted_has_no_score(samples, stacks):
    rates = {"learning_rate_init": [0.01, 1e300, -1.0]}
    mlp = MLPClassifier(**SHORT, solver="sgd", activation="identity")
    search = GridSearchCV(mlp, rates, cv=3, refit=False)
    with pytest.warns(FitFailedWarning, match="6 fits failed"):
        search.fit(*samples)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="non-finite"):
        GridSearchCV(mlp, {"learning_rate_init": [1e300]}, error_score="raise").fit(*samples)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_weights_are_cut_into_folds_and_learned_in_stacks(samples, stacks):
    weights = {"sample_weight": np.arange(float(N))}
    searches = [
        kind(MLPClassifier(**SHORT), {"alpha": [1e-4, 1.0]}, cv=3).fit(*samples, **weights)
        for kind in (GridSearchCV, model_selection.GridSearchCV)
    ]
    assert stacks == [6]
    assert_same(*searches)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_no_stack_takes_is_learned_one_by_one_which_is_told(samples, stacks, caplog):
    caplog.set_level(logging.INFO, logger="bp_xp")
    judged = {"validation_data": samples}
    searches = [
        kind(MLPClassifier(**SHORT), {"alpha": [1e-4, 1.0]}, cv=3).fit(*samples, **judged)
        for kind in (GridSearchCV, model_selection.GridSearchCV)
    ]
    assert stacks == []
    assert "one by one" in caplog.text
    assert_same(*searches)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_stacks_are_made_side_by_side(samples, monkeypatch):
    both = threading.Barrier(2, timeout=30)
    fit_stack = _search.fit_stack

    def fit(*task):
        both.wait()  # breaks where one comes after the other
        return fit_stack(*task)

    monkeypatch.setattr(_search, "fit_stack", fit)
    with joblib.parallel_config(backend="threading"):
        search = GridSearchCV(MLPClassifier(**SHORT), {"alpha": [1e-4, 1.0]}, cv=2, n_jobs=2)
        search.fit(*samples)
    assert np.all(np.isfinite(search.cv_results_["mean_test_score"]))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("options", [{"solver": "lbfgs"}, {"class_weight": {"no": 2.0}}], ids=str)
def test_what_no_stack_takes_is_made_side_by_side_too(samples, stacks, options, monkeypatch):
    both = threading.Barrier(2, timeout=30)
    fit_alone = _search._fit_alone

    def fit(*task):
        both.wait()  # breaks where one comes after the other
        return fit_alone(*task)

    monkeypatch.setattr(_search, "_fit_alone", fit)
    mlp, grid = MLPClassifier(**SHORT, **options), {"alpha": [1e-4, 1.0]}
    with joblib.parallel_config(backend="threading"):
        search = GridSearchCV(mlp, grid, cv=2, n_jobs=2).fit(*samples)
    assert stacks == []
    assert_same(search, GridSearchCV(mlp, grid, cv=2).fit(*samples))
    told = GridSearchCV(mlp.set_params(**WATCHED[mlp.solver]), grid, cv=2, n_jobs=2, refit=False)
    told.fit(*samples)  # in this thread, one after the other
    assert_same(told, search)


WATCHED = {"lbfgs": {"verbose": True}, "adam": {"callbacks": [lambda network, history: None]}}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_over_searches_makes_the_fits_of_all_as_one_stack(samples, stacks):
    grids = {"alpha": [1e-4, 1.0]}, {"estimator__learning_rate_init": [0.01, 0.1]}
    searches = [
        kind(kind(MLPClassifier(**SHORT), grids[0], cv=2), grids[1], cv=2).fit(*samples)
        for kind in (GridSearchCV, model_selection.GridSearchCV)
    ]
    # Of each of 4: its fits, and one of all its samples. Then those of the best on all samples.
    assert stacks == [16, 4, 4]
    assert_same(*searches)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warnings_are_told_once(samples):
    class Warns(StandardScaler):
        def fit(self, x, y=None):
            warnings.warn("as it is", UserWarning, stacklevel=1)
            return super().fit(x, y)

    pipeline = make_pipeline(Warns(), MLPClassifier(**SHORT))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.1]}, cv=3, refit=False)
    with pytest.warns(UserWarning, match="as it is") as told:
        search.fit(*samples)
    assert sum(str(one.message) == "as it is" for one in told) == 3


def test_what_is_no_network_is_fitted_once(samples):
    fitted = []

    class Counted(LogisticRegression):
        def fit(self, *samples):
            fitted.append(self)
            return super().fit(*samples)

    GridSearchCV(Counted(), {"C": [0.1, 1.0]}, cv=3).fit(*samples)
    assert len(fitted) == 7


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_samples_are_cut_as_scikit_learn_cuts_them(samples):
    x, y = samples
    mlp = MLPClassifier(**SHORT)
    dense, *others = (
        GridSearchCV(mlp, {"alpha": [0.1, 1.0]}, cv=3, error_score="raise").fit(inputs, list(y))
        for inputs in (x, x.tolist(), scipy.sparse.coo_array(x))
    )
    for one in others:
        assert_same(one, dense)


@pytest.mark.process
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_processes_find_the_same(samples):
    grid = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(3,), (4,)]}
    searches = [
        GridSearchCV(MLPClassifier(**SHORT), grid, cv=3, n_jobs=n).fit(*samples) for n in (1, 2)
    ]
    assert_same(*searches)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_runs_where_its_estimators_do(samples, placement, dtype):
    where = {"backend": placement.backend_word, "device": placement.device_name, "dtype": dtype}
    grid = {"alpha": [1e-4, 1.0], "learning_rate_init": [0.01, 0.1]}
    searches = [
        GridSearchCV(MLPClassifier(**SHORT, **at), grid, cv=2, refit=False).fit(*samples)
        for at in (where, {"dtype": dtype})
    ]
    np.testing.assert_allclose(
        *(one.cv_results_["mean_test_score"] for one in searches), atol=1.0 / N
    )
