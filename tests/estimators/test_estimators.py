import copy
import io
import itertools
import logging
import os
import pickle
import pickletools
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest
from helpers import tolerance, widest

pytest.importorskip("sklearn")

import joblib
import scipy.sparse
from sklearn import config_context, neural_network
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bp_xp
from bp_xp import (
    SGD,
    Activation,
    Adam,
    Callback,
    CosineDecay,
    Cost,
    Network,
    ReduceOnPlateau,
    RMSprop,
    to_numpy,
)
from bp_xp.datasets import load_digits
from bp_xp.errors import DeviceError
from bp_xp.estimators import (
    MLPClassifier,
    MLPRegressor,
    _solvers,
    from_sklearn,
    to_network,
    to_sklearn,
)
from bp_xp.plotting import first_layer_weights
from bp_xp.training.trainer import train

# Short runs need not converge.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS = load_digits()
X, Y = DIGITS.x_train[:503].astype(np.float64), DIGITS.y_train[:503]
X_TEST, Y_TEST = DIGITS.x_test, DIGITS.y_test
X_LABELS, Y_LABELS = make_multilabel_classification(203, random_state=0)
X_NUMBERS, Y_NUMBERS = make_regression(207, n_features=8, random_state=0)
Y_NUMBERS = Y_NUMBERS / 100.0
_, Y_THREE = make_regression(207, n_features=8, n_targets=3, random_state=0)
Y_THREE = Y_THREE / 100.0
COUNTS = np.random.default_rng(0).poisson(3.0, size=207)
WEIGHTS = np.random.default_rng(1).uniform(size=503)
WEIGHTS[::5] = 0.0
OTHERS = ("torch", "jax", "cupy", "array_api")  # libraries that a pickle must not need
LETTERS = np.array(list("abcdefghij"))

PAIRS = {
    MLPClassifier: neural_network.MLPClassifier,
    MLPRegressor: neural_network.MLPRegressor,
}
SMALL = {"hidden_layer_sizes": (20, 10), "max_iter": 20, "random_state": 3}
QUICK = SMALL | {"learning_rate_init": 0.01, "max_iter": 40}  # learns the digits


def both(kind, x, y, sample_weight=None, where=None, **settings):
    """Return an estimator and scikit-learn's own, fitted alike."""
    settings = SMALL | settings
    ours = kind(**settings, **(where or {})).fit(x, y, sample_weight)
    return ours, PAIRS[kind](**settings).fit(x, y, sample_weight)


def assert_same_run(ours, theirs, rtol=1e-9):
    """Check two runs; in float64 they differ by rounding only, some 1e-15 here."""
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for mine, own in zip(
        [*ours.coefs_, *ours.intercepts_], [*theirs.coefs_, *theirs.intercepts_], strict=True
    ):
        assert mine.shape == own.shape
        np.testing.assert_allclose(mine, own, rtol=0, atol=rtol)
    assert (ours.best_loss_ is None) == (theirs.best_loss_ is None)
    assert (ours.validation_scores_ is None) == (theirs.validation_scores_ is None)


# ---------------------------------------------------------------------------------------------
# The same run


STEPS = [
    {"solver": "sgd", "learning_rate_init": 0.1, "power_t": 0.2, "learning_rate": rate, **step}
    for rate, step in itertools.product(
        ("constant", "invscaling", "adaptive"),
        (
            {"momentum": 0},
            {"momentum": 0.9, "nesterovs_momentum": False},
            {"momentum": 0.9},
        ),
    )
]


@pytest.mark.parametrize("settings", [*STEPS, {"solver": "adam"}], ids=str)
def test_run_is_scikit_learns_for_every_solver_and_rate(settings):
    if settings.get("learning_rate") == "adaptive":  # so that the rate falls within the run
        settings = settings | {"tol": 0.02, "n_iter_no_change": 1, "max_iter": 60}
    ours, theirs = both(MLPClassifier, X, Y, **settings)  # 503 is no multiple of 200
    assert_same_run(ours, theirs)
    assert ours._optimizer.learning_rate == (
        0.001 if settings["solver"] == "adam" else theirs._optimizer.learning_rate
    )
    np.testing.assert_allclose(ours.predict_proba(X_TEST), theirs.predict_proba(X_TEST), rtol=1e-6)
    np.testing.assert_array_equal(ours.predict(X_TEST), theirs.predict(X_TEST))


@pytest.mark.parametrize(
    ("kind", "x", "y", "settings"),
    [
        (MLPClassifier, X, Y > 4, {"activation": "logistic", "alpha": 0.5}),
        (MLPClassifier, X, LETTERS[Y], {"activation": "tanh", "alpha": 0.0}),
        (MLPClassifier, X, Y, {"activation": "identity", "shuffle": False}),
        (MLPClassifier, X, Y, {"hidden_layer_sizes": (), "batch_size": 503}),
        (MLPClassifier, X_LABELS, Y_LABELS, {"batch_size": 17}),
        (MLPRegressor, X_NUMBERS, Y_NUMBERS, {}),
        (MLPRegressor, X_NUMBERS, Y_THREE, {"solver": "sgd", "batch_size": 20}),
        (MLPRegressor, X_NUMBERS, COUNTS, {"loss": "poisson", "batch_size": 20}),
    ],
    ids=["binary", "words", "not-shuffled", "no-hidden", "labels", "one", "three", "poisson"],
)
def test_run_is_scikit_learns_for_every_kind_of_target(kind, x, y, settings):
    ours, theirs = both(kind, x, y, **settings)
    assert_same_run(ours, theirs)
    np.testing.assert_array_equal(getattr(ours, "classes_", 0), getattr(theirs, "classes_", 0))
    mine, own = ours.predict(x), theirs.predict(x)
    assert mine.dtype == own.dtype
    if kind is MLPClassifier:
        np.testing.assert_array_equal(mine, own)
    else:
        np.testing.assert_allclose(mine, own, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_run_with_sample_weights_is_scikit_learns(alpha):
    settings = {"solver": "sgd", "batch_size": 50, "alpha": alpha, "learning_rate_init": 0.1}
    assert_same_run(*both(MLPClassifier, X, Y, WEIGHTS, **settings))


@pytest.mark.parametrize(
    ("kind", "x", "y", "weights"),
    [
        (MLPClassifier, X, Y, None),
        (MLPClassifier, X, Y > 4, WEIGHTS),  # stratified
        (MLPClassifier, X_LABELS, Y_LABELS, None),
        (MLPRegressor, X_NUMBERS, Y_THREE, WEIGHTS[:207]),
    ],
    ids=["classes", "two-classes", "labels", "numbers"],
)
def test_early_stopping_is_scikit_learns(kind, x, y, weights):
    settings = {"early_stopping": True, "max_iter": 100, "learning_rate_init": 0.01}
    ours, theirs = both(kind, x, y, weights, **settings)
    assert_same_run(ours, theirs)
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-9)
    assert ours.best_validation_score_ == pytest.approx(theirs.best_validation_score_)
    assert len(ours.validation_loss_curve_) == ours.n_iter_


def test_run_is_scikit_learns_on_every_backend(placement, backend, device):
    dtype = widest(placement)
    where = {"backend": backend, "device": device, "dtype": dtype}
    ways = [{"solver": "sgd", "learning_rate_init": 0.1}, {"early_stopping": True}]
    for settings in ways[:1] if backend == "jax" else ways:  # it compiles each for seconds
        ours, theirs = both(MLPClassifier, X, Y, WEIGHTS, where=where, **settings)
        assert_same_run(ours, theirs, tolerance(dtype, 1e-9, roundings=512))  # 20 epochs
        assert all(isinstance(W, np.ndarray) for W in ours.coefs_)
        assert isinstance(ours.predict_proba(X_TEST), np.ndarray)
        np.testing.assert_array_equal(ours.predict(X_TEST), theirs.predict(X_TEST))
    ours, theirs = both(MLPRegressor, X_NUMBERS, Y_NUMBERS, where=where, solver="lbfgs")
    # Squares of residuals that are small beside the numbers they are taken of.
    rel = tolerance(dtype, 1e-6, roundings=512)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=rel)


@pytest.mark.parametrize(
    ("kind", "x", "y", "weights"),
    [
        (MLPClassifier, X, Y, None),
        (MLPClassifier, X, Y, WEIGHTS),
        (MLPRegressor, X_NUMBERS, Y_NUMBERS, None),
    ],
    ids=["classes", "weighted", "numbers"],
)
def test_lbfgs_finds_what_scikit_learn_finds(kind, x, y, weights):
    ours, theirs = both(kind, x, y, weights, solver="lbfgs", max_iter=30, alpha=0.1)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-9)
    assert ours.t_ == theirs.t_ == 0
    assert not hasattr(ours, "loss_curve_")
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], atol=1e-8)


def test_lbfgs_is_given_the_gradient_of_its_cost(monkeypatch, rng):
    # scikit-learn's cost is a mean over outputs, and its gradient that of the sum.
    import scipy.optimize

    true_minimize, slopes = scipy.optimize.minimize, []

    def minimize(objective, start, **options):
        along = rng.standard_normal(start.size)
        h = 1e-6
        difference = (objective(start + h * along)[0] - objective(start - h * along)[0]) / (2 * h)
        slopes.append((difference, objective(start)[1] @ along))
        return true_minimize(objective, start, **options)

    monkeypatch.setattr(scipy.optimize, "minimize", minimize)
    for y in (Y_NUMBERS, Y_THREE):
        MLPRegressor(**SMALL, solver="lbfgs", activation="tanh", alpha=3.0).fit(
            X_NUMBERS, y, WEIGHTS[:207]
        )
    assert len(slopes) == 2
    for difference, slope in slopes:
        assert difference == pytest.approx(slope, rel=1e-6)  # of a central difference


def test_partial_fit_goes_on_as_scikit_learns_does():
    for solver in ("sgd", "adam"):
        settings = SMALL | {"solver": solver, "learning_rate": "invscaling"}
        ours, theirs = MLPClassifier(**settings), neural_network.MLPClassifier(**settings)
        for rows in np.array_split(np.arange(503), 4):
            ours.partial_fit(X[rows], Y[rows], classes=np.arange(10))
            theirs.partial_fit(X[rows], Y[rows], classes=np.arange(10))
        assert_same_run(ours, theirs)


def test_partial_fit_of_a_regressor_runs_lbfgs_as_scikit_learns_does():
    ours, theirs = (
        kind(**SMALL, solver="lbfgs") for kind in (MLPRegressor, neural_network.MLPRegressor)
    )
    for rows in (slice(0, 100), slice(100, 207)):
        for mlp in (ours, theirs):
            mlp.partial_fit(X_NUMBERS[rows], Y_NUMBERS[rows])
        assert ours.n_iter_ == theirs.n_iter_
        np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-6)


def test_warm_start_goes_on_as_scikit_learns_does():
    settings = SMALL | {"solver": "sgd", "warm_start": True, "max_iter": 5}
    ours, theirs = MLPClassifier(**settings), neural_network.MLPClassifier(**settings)
    for _ in range(3):
        assert_same_run(ours.fit(X, Y), theirs.fit(X, Y))
    assert len(ours.loss_curve_) == 15


def test_float32_samples_are_learned_in_float32():
    ours, theirs = both(MLPClassifier, X.astype(np.float32), Y)
    assert {part.dtype.name for part in [*ours.coefs_, *ours.intercepts_]} == {"float32"}
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)  # 60 steps of it
    assert MLPClassifier(**SMALL).fit((16 * X).astype(int), Y).coefs_[0].dtype == "float64"
    narrow = MLPClassifier(**SMALL, dtype="float32").fit(X, Y)
    assert narrow.coefs_[0].dtype == narrow.predict_proba(X).dtype == "float32"


def test_every_parameter_of_scikit_learn_is_there_with_its_default():
    for ours, theirs in PAIRS.items():
        defaults = ours().get_params()
        assert defaults | theirs().get_params() == defaults


def test_verbose_prints_what_scikit_learn_prints(capsys):
    for settings in (
        {"early_stopping": True, "max_iter": 30, "n_iter_no_change": 1},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
    ):
        printed = []
        for kind in (MLPClassifier, neural_network.MLPClassifier):
            kind(**SMALL | settings, verbose=True).fit(X, Y)
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1] != ""


# ---------------------------------------------------------------------------------------------
# What scikit-learn refuses


def test_class_weight_weighs_the_samples_of_a_class():
    per_class = {digit: 1.0 + digit for digit in range(10)}
    weighted = MLPClassifier(**SMALL, class_weight=per_class).fit(X, Y, WEIGHTS)
    by_hand = MLPClassifier(**SMALL).fit(X, Y, WEIGHTS * (1.0 + Y))
    assert weighted.loss_curve_ == by_hand.loss_curve_
    words = {LETTERS[digit]: weight for digit, weight in per_class.items()}
    named = MLPClassifier(**SMALL, class_weight=words).fit(X, LETTERS[Y], WEIGHTS)
    assert named.loss_curve_ == by_hand.loss_curve_
    counts = np.bincount(Y)
    balanced = MLPClassifier(**SMALL, class_weight="balanced").fit(X, Y)
    by_hand = MLPClassifier(**SMALL).fit(X, Y, (503 / (10 * counts))[Y])
    np.testing.assert_allclose(balanced.loss_curve_, by_hand.loss_curve_, rtol=1e-12)


@pytest.mark.parametrize(
    ("of_key", "of_label"),
    [(np.bool_, bool), (np.bool_, int), (float, bool), (np.float32, float), (np.int8, np.uint8)],
)
def test_labels_and_the_keys_of_their_weights_are_compared_by_value(of_key, of_label):
    wanted = MLPClassifier(**SMALL, class_weight={0: 1.0, 1: 9.0}).fit(X, Y % 2)
    per_class = {of_key(0): 1.0, of_key(1): 9.0}
    found = MLPClassifier(**SMALL, class_weight=per_class).fit(X, (Y % 2).astype(of_label))
    assert found.loss_curve_ == wanted.loss_curve_


def test_a_part_of_the_samples_may_miss_a_class_that_has_a_weight():
    mlp = MLPClassifier(**SMALL, class_weight={"a": 5.0}, shuffle=False)
    plain = MLPClassifier(**SMALL, shuffle=False)
    few = Y > 0
    mlp.partial_fit(X[few], LETTERS[Y[few]], classes=LETTERS)
    plain.partial_fit(X[few], LETTERS[Y[few]], classes=LETTERS)
    assert mlp.loss_ == pytest.approx(plain.loss_, rel=1e-12)


def test_class_weight_does_not_weigh_the_validation_score():
    settings = SMALL | {"early_stopping": True, "max_iter": 3}
    one = MLPClassifier(**settings, class_weight={3: 50.0}).fit(X, Y)
    rows = round(0.1 * 503 + 0.5)  # scores are then whole multiples of 1 over them
    np.testing.assert_allclose(np.array(one.validation_scores_) * rows % 1, 0.0, atol=1e-9)


def test_dropout_acts_on_steps_and_not_on_predictions():
    plain = MLPClassifier(**SMALL).fit(X, Y)
    dropped = MLPClassifier(**SMALL, dropout=[0.1, 0.5, 0.3]).fit(X, Y)
    assert dropped.loss_ > plain.loss_
    np.testing.assert_array_equal(dropped.predict_proba(X), dropped.predict_proba(X))
    again = MLPClassifier(**SMALL, dropout=np.array([0.1, 0.5, 0.3])).fit(X, Y)
    assert again.loss_curve_ == dropped.loss_curve_


def test_each_layer_may_have_an_activation_of_its_own():
    sine = Activation("sine", lambda z, *, xp: xp.sin(z), lambda z, a, *, xp: xp.cos(z))
    for activation in (["tanh", "gelu"], ("relu", sine), "elu", bp_xp.ACTIVATIONS["silu"]):
        mlp = MLPClassifier(**QUICK, activation=activation)
        assert clone(mlp).fit(X, Y).score(X, Y) > 0.9
    for activation in (["relu", "relu"], np.array(["relu", "relu"]), np.array("relu")):
        same = MLPClassifier(**SMALL, activation=activation).fit(X, Y)
        assert same.loss_curve_ == MLPClassifier(**SMALL).fit(X, Y).loss_curve_
    none = SMALL | {"hidden_layer_sizes": ()}
    same = MLPClassifier(**none, activation=[]).fit(X, Y)
    assert same.loss_curve_ == MLPClassifier(**none).fit(X, Y).loss_curve_


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_any_optimizer_solves(alpha):
    plain = MLPClassifier(**SMALL, solver="sgd", momentum=0.0, learning_rate_init=0.1, alpha=alpha)
    ours = MLPClassifier(**SMALL, solver=SGD(0.1), alpha=alpha).fit(X, Y)
    np.testing.assert_allclose(ours.loss_curve_, plain.fit(X, Y).loss_curve_, rtol=1e-12)
    for solver in (RMSprop(0.001), Adam(0.01, amsgrad=True), SGD(0.1, momentum=0.9)):
        mlp = clone(MLPClassifier(**SMALL | {"max_iter": 40}, solver=solver, alpha=alpha)).fit(X, Y)
        assert mlp.score(X, Y) > 0.9


@pytest.mark.parametrize("solver", [RMSprop(0.001), Adam(), SGD(0.1, momentum=0.9)], ids=str)
def test_the_penalty_leaves_the_optimizer_as_it_is(solver):
    without = MLPClassifier(**SMALL, solver=solver, alpha=0.0).fit(X, Y)
    hardly = MLPClassifier(**SMALL, solver=solver, alpha=1e-300).fit(X, Y)
    np.testing.assert_allclose(hardly.loss_curve_, without.loss_curve_, rtol=1e-9)


def test_an_optimizer_goes_on_in_partial_fit():
    ours = MLPClassifier(**SMALL, solver=SGD(0.1, momentum=0.9), shuffle=False)
    theirs = MLPClassifier(
        **SMALL, solver="sgd", learning_rate_init=0.1, nesterovs_momentum=False, shuffle=False
    )
    for _ in range(5):
        ours.partial_fit(X, Y, classes=np.arange(10))
        theirs.partial_fit(X, Y, classes=np.arange(10))
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-12)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_schedule_is_followed_over_the_steps_and_in_partial_fit(solver):
    asked = []

    def schedule(step):
        asked.append(step)
        return 0.01

    mlp = MLPClassifier(**SMALL | {"max_iter": 2}, solver=solver, learning_rate=schedule)
    mlp.fit(X, Y)
    assert set(asked) == set(range(6))  # three mini-batches an epoch
    mlp.partial_fit(X, Y)
    assert set(asked) == set(range(9))
    constant = MLPClassifier(**SMALL | {"max_iter": 2}, solver=solver, learning_rate_init=0.01)
    assert constant.fit(X, Y).loss_curve_ == mlp.loss_curve_[:2]


def test_a_schedule_may_look_at_the_validation_loss():
    # The loss never falls by that much, so the rate is cut after each epoch but the first.
    schedule = ReduceOnPlateau(
        0.1, monitor="validation_cost", factor=0.0625, patience=1, min_delta=100.0
    )
    mlp = MLPClassifier(**SMALL | {"max_iter": 8}, solver="sgd", learning_rate=schedule)
    moved = []
    mlp.set_params(callbacks=[lambda net, history: moved.append(net.layers[0].W.copy())])
    mlp.fit(X, Y, validation_data=(X_TEST, Y_TEST))
    steps = [np.abs(b - a).max() for a, b in itertools.pairwise(moved)]
    assert steps[-1] < 0.5 * steps[0]


def test_early_stopping_may_be_switched_between_warm_starts():
    mlp = MLPClassifier(**SMALL | {"max_iter": 3}, warm_start=True).fit(X, Y)
    mlp.set_params(early_stopping=True).fit(X, Y)
    assert len(mlp.loss_curve_) == 6
    assert len(mlp.validation_scores_) == 3
    mlp.set_params(early_stopping=False).fit(X, Y)
    assert mlp.validation_scores_ is None
    assert mlp.best_loss_ == min(mlp.loss_curve_[-3:])
    mlp.set_params(solver="lbfgs", max_iter=2).fit(X, Y)
    mlp.set_params(solver="adam").partial_fit(X, Y)
    assert len(mlp.loss_curve_) == 10


def test_any_cost_is_a_loss():
    huber = MLPRegressor("huber:delta=2", **SMALL).fit(X_NUMBERS, Y_THREE)
    assert huber.out_activation_ == "identity"
    assert huber.predict(X_NUMBERS).shape == (207, 3)
    quartic = Cost(
        "quartic",
        lambda a, y, *, xp: xp.sum((a - y) ** 4, axis=-1),
        lambda a, y, *, xp: 4 * (a - y) ** 3,
    )
    mlp = clone(MLPRegressor(quartic, **SMALL)).fit(X_NUMBERS, Y_NUMBERS)
    value = np.mean((mlp.predict(X_NUMBERS) - Y_NUMBERS) ** 4)
    assert value < np.mean(Y_NUMBERS**4)
    rough = MLPClassifier(**QUICK, loss="quadratic").fit(X, Y)
    assert rough.out_activation_ == "softmax"
    assert rough.score(X, Y) > 0.9


class Note(Callback):
    """Writes down what it is told."""

    def __init__(self, every=0, last=None):
        self.every, self.last, self.told, self.costs = every, last, [], []

    def on_train_start(self, network, history):
        self.told.append("start")

    def on_epoch_start(self, network, history):
        self.told.append("epoch")

    def on_steps(self, network, history, step):
        self.told.append(step)

    def on_epoch_end(self, network, history):
        self.told.append(f"end {len(history)}")
        self.costs.append(network.evaluate(X, Y)["cost"])
        return len(history) == self.last

    def on_train_end(self, network, history):
        self.told.append(history.stopped)


def test_callbacks_are_told_of_the_run_and_may_end_it():
    note = Note(every=2, last=2)
    mlp = MLPClassifier(**SMALL, callbacks=[note], alpha=0.0).fit(X, Y)
    assert note.told == ["start", "epoch", 2, "end 1", "epoch", 4, 6, "end 2", "callback"]
    assert mlp.n_iter_ == 2
    # The network that a callback sees is that of the moment.
    assert note.costs[-1] == pytest.approx(-np.mean(mlp.predict_log_proba(X)[range(503), Y]))
    seen = []
    MLPClassifier(**SMALL, callbacks=[lambda network, history: seen.append(history[-1].cost)]).fit(
        X, Y
    )
    assert len(seen) == 20


def test_validation_data_is_looked_at_after_each_epoch():
    note = []
    mlp = MLPClassifier(**SMALL, callbacks=[lambda net, history: note.append(history[-1])])
    mlp.fit(X, Y, validation_data=(X_TEST, Y_TEST))
    assert len(mlp.validation_loss_curve_) == len(mlp.validation_scores_) == 20
    p = mlp.predict_proba(X_TEST)[range(360), Y_TEST]
    assert mlp.validation_loss_curve_[-1] == pytest.approx(-np.log(p).mean())
    assert mlp.validation_scores_[-1] == mlp.score(X_TEST, Y_TEST)
    assert note[-1].validation_cost == mlp.validation_loss_curve_[-1]
    assert note[-1].metrics == {"validation_score": mlp.validation_scores_[-1]}
    # Looking does not change the run.
    assert mlp.loss_curve_ == MLPClassifier(**SMALL).fit(X, Y).loss_curve_
    weights = np.arange(360.0)
    weighted = MLPClassifier(**SMALL).fit(X, Y, validation_data=(X_TEST, Y_TEST, weights))
    assert weighted.validation_loss_curve_[-1] == pytest.approx(
        -np.average(np.log(p), weights=weights)
    )
    numbers = MLPRegressor(**SMALL).fit(X_NUMBERS, Y_THREE, validation_data=(X_NUMBERS, Y_THREE))
    residual = numbers.predict(X_NUMBERS) - Y_THREE
    assert numbers.validation_loss_curve_[-1] == pytest.approx(0.5 * np.mean(residual**2))


def test_early_stopping_takes_validation_data_in_place_of_held_out_samples():
    settings = SMALL | {"max_iter": 200, "early_stopping": True, "learning_rate_init": 0.01}
    mlp = MLPClassifier(**settings).fit(X, Y, validation_data=(X_TEST, Y_TEST))
    assert mlp.n_iter_ < 200
    assert mlp.t_ == mlp.n_iter_ * 503
    assert mlp.score(X_TEST, Y_TEST) == mlp.best_validation_score_ == max(mlp.validation_scores_)


def test_weights_of_the_best_epoch_are_restored_on_request():
    settings = SMALL | {"learning_rate_init": 0.05, "max_iter": 30}
    last = MLPClassifier(**settings).fit(X[:60], Y[:60], validation_data=(X_TEST, Y_TEST))
    best = MLPClassifier(**settings, restore_best_weights=True)
    best.fit(X[:60], Y[:60], validation_data=(X_TEST, Y_TEST))
    assert best.validation_loss_curve_ == last.validation_loss_curve_
    p = best.predict_proba(X_TEST)[range(360), Y_TEST]
    least = min(best.validation_loss_curve_)
    assert -np.log(p).mean() == pytest.approx(least)
    assert least < best.validation_loss_curve_[-1]


def test_progress_is_logged_where_there_is_no_terminal(caplog):
    with caplog.at_level(logging.INFO, logger="bp_xp"):
        MLPClassifier(**SMALL | {"max_iter": 3}, progress=True).fit(X, Y)
    assert len(caplog.records) == 3
    with caplog.at_level(logging.INFO, logger="bp_xp"):
        MLPClassifier(**SMALL | {"max_iter": 3}).fit(X, Y)
    assert len(caplog.records) == 3


# ---------------------------------------------------------------------------------------------
# Sparse matrices, frames, pipelines, searches


@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_sparse_samples_are_learned_like_dense_ones(container, solver):
    settings = SMALL | {"solver": solver, "batch_size": 50}
    dense = MLPClassifier(**settings).fit(X, Y, WEIGHTS)
    sparse = MLPClassifier(**settings).fit(container(X), Y, WEIGHTS)
    # L-BFGS searches along lines, where roundings grow.
    tolerance = 1e-7 if solver == "lbfgs" else 1e-11
    assert sparse.loss_ == pytest.approx(dense.loss_, rel=tolerance)
    of_dense, of_sparse = dense.predict_proba(X), sparse.predict_proba(container(X))
    np.testing.assert_allclose(of_sparse, of_dense, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        {"early_stopping": True, "dropout": [0.2, 0.5]},
        {"solver": SGD(0.1, momentum=0.9), "alpha": 0.0, "warm_start": True},
        {"activation": "tanh", "shuffle": False, "class_weight": {1: 2.0}},
    ],
    ids=["early", "warm", "weights"],
)
def test_sparse_samples_do_as_dense_ones_whatever_the_run(settings):
    """Two fits, some of them from where the other ended, and a pass more, with validation data."""
    x = np.where(X.mean() < X, X, 0.0)
    made = []
    for form in (np.asarray, scipy.sparse.csr_array):
        mlp = MLPClassifier(**(SMALL | {"batch_size": 50} | settings))
        for rows in (slice(None), slice(100)):
            validation = (form(x[:50]), Y[:50])
            mlp.fit(form(x[rows]), Y[rows], WEIGHTS[rows], validation_data=validation)
        if not mlp.early_stopping:
            mlp.partial_fit(form(x), Y)
        curves = mlp.loss_curve_, mlp.validation_loss_curve_, mlp.validation_scores_
        made.append([*mlp.coefs_, *curves, mlp.score(form(x), Y, WEIGHTS)])
    for of_dense, of_sparse in zip(*made, strict=True):
        np.testing.assert_allclose(of_sparse, of_dense, rtol=0, atol=1e-11)


def test_a_regression_predicts_sparse_samples_as_dense_ones_before_and_after_a_pickle():
    mlp = MLPRegressor(hidden_layer_sizes=(10,), max_iter=3, random_state=0).fit(
        X_NUMBERS, Y_NUMBERS
    )
    expected, sparse = mlp.predict(X_NUMBERS), scipy.sparse.csr_matrix(X_NUMBERS)
    for one in (mlp, pickle.loads(pickle.dumps(mlp))):
        np.testing.assert_allclose(one.predict(sparse), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_sparse_samples_are_never_dense_all_at_once(backend, settings, dense_shapes):
    """Another library is given a mini-batch or a block of rows at a time, NumPy not even that."""
    pytest.importorskip(backend)
    entries = np.random.default_rng(0).integers(4000, size=5000 * 4)
    wide = scipy.sparse.csr_matrix((np.ones(20000), (np.arange(20000) // 4, entries)), (5000, 4000))
    y = np.arange(5000) % 2
    settings = settings | {"max_iter": 2, "random_state": 0, "backend": backend}
    mlp = MLPClassifier((3,), **settings).fit(wide, y)
    mlp.predict(wide)
    rows = [n for n, columns in dense_shapes if columns == 4000]  # others are labels
    if backend == "numpy":
        assert not rows
    else:
        assert sum(rows) >= 3 * 4500
        assert max(rows) * 4000 * 8 <= 1 << 25


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_are_samples_with_names(library):
    frame = pytest.importorskip(library).DataFrame
    names = [f"pixel {i}" for i in range(64)]
    x = frame({name: X[:, i] for i, name in enumerate(names)})
    mlp = MLPClassifier(**SMALL).fit(x, Y)
    assert list(mlp.feature_names_in_) == names
    assert mlp.loss_curve_ == MLPClassifier(**SMALL).fit(X, Y).loss_curve_
    np.testing.assert_array_equal(mlp.predict(x), mlp.predict(x))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        mlp.predict(X)


def test_columns_of_other_names_or_order_are_refused():
    frame = pytest.importorskip("pandas").DataFrame
    x = frame(X_NUMBERS, columns=list("abcdefgh"))
    mlp = MLPRegressor(**SMALL).fit(x, Y_NUMBERS)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        mlp.predict(x[list("bacdefgh")])
    with pytest.raises(ValueError, match=r"(?s)unseen at fit time.*- z.*- h"):
        mlp.predict(x.rename(columns={"h": "z"}))
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        mlp.fit(x, Y_NUMBERS, validation_data=(x[list("bacdefgh")], Y_NUMBERS))


def test_pipelines_and_searches_take_the_estimators():
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(**SMALL | {"max_iter": 5}))
    solvers = ["adam", RMSprop(0.01)]
    search = GridSearchCV(
        pipeline, {"mlpclassifier__solver": solvers, "mlpclassifier__dropout": [0.0, 0.2]}, cv=2
    )
    search.fit(X, Y)
    assert search.best_params_["mlpclassifier__solver"] == RMSprop(0.01)
    assert search.score(X_TEST, Y_TEST) > 0.8
    scores = cross_val_score(pipeline, X, Y, cv=2)
    own = cross_val_score(
        make_pipeline(StandardScaler(), neural_network.MLPClassifier(**SMALL | {"max_iter": 5})),
        X,
        Y,
        cv=2,
    )
    np.testing.assert_array_equal(scores, own)


@pytest.mark.process
def test_folds_run_in_other_processes():
    mlp = MLPClassifier(**SMALL | {"max_iter": 3}, dropout=0.1)
    here = cross_val_score(mlp, X, Y, cv=2)
    np.testing.assert_array_equal(cross_val_score(mlp, X, Y, cv=2, n_jobs=2), here)


def test_sample_weights_are_routed_as_metadata():
    with config_context(enable_metadata_routing=True):
        mlp = MLPClassifier(**SMALL | {"max_iter": 3})
        mlp = mlp.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        found = cross_validate(
            mlp, X, Y, params={"sample_weight": WEIGHTS}, cv=2, return_estimator=True
        )
        rows = [estimator.loss_ for estimator in found["estimator"]]
        plain = mlp.set_fit_request(sample_weight=False)
        other = cross_validate(
            plain, X, Y, params={"sample_weight": WEIGHTS}, cv=2, return_estimator=True
        )
    assert rows != [estimator.loss_ for estimator in other["estimator"]]


def test_notebooks_show_what_differs_from_the_defaults():
    html = MLPClassifier(solver=RMSprop(0.01), dropout=0.5)._repr_html_()
    assert "RMSprop(learning_rate=0.01" in html
    assert repr(MLPClassifier(dropout=0.5)) == "MLPClassifier(dropout=0.5)"


# ---------------------------------------------------------------------------------------------
# Copies and pickles


def test_fit_twice_with_one_seed_is_the_same_and_rows_are_predicted_by_themselves():
    mlp = MLPClassifier(**SMALL, dropout=0.1)
    first = [W.copy() for W in mlp.fit(X, Y).coefs_]
    p = mlp.predict_proba(X)
    for W, again in zip(first, mlp.fit(X, Y).coefs_, strict=True):
        np.testing.assert_array_equal(W, again)
    rows = np.random.default_rng(0).permutation(503)[:100]
    np.testing.assert_allclose(mlp.predict_proba(X[rows]), p[rows], rtol=1e-12)


def test_the_constructor_only_stores_and_clones_are_the_same():
    callback, activation = Note(), ["tanh", bp_xp.ACTIVATIONS["gelu"]]
    given = {"solver": "no such", "alpha": -1.0, "activation": activation, "callbacks": [callback]}
    mlp = MLPClassifier(**given)  # wrong values are told of by fit
    assert mlp.get_params() == MLPClassifier().get_params() | given
    assert mlp.activation is activation
    assert set(vars(mlp)) == set(mlp.get_params())
    copied = clone(mlp.set_params(alpha=0.5, solver=SGD(CosineDecay(0.1, steps=10))))
    assert copied.solver == mlp.solver
    assert copied.activation == activation
    assert copied.alpha == 0.5
    nested = make_pipeline(StandardScaler(), mlp).set_params(mlpclassifier__alpha=0.25)
    assert nested.get_params()["mlpclassifier__alpha"] == mlp.alpha == 0.25


def through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


def assert_goes_on_the_same(copied, mlp):
    np.testing.assert_array_equal(copied.predict_proba(X_TEST), mlp.predict_proba(X_TEST))
    mlp.partial_fit(X, LETTERS[Y])
    copied.partial_fit(X, LETTERS[Y])
    assert copied.loss_curve_ == mlp.loss_curve_


def test_a_pickle_holds_host_arrays_and_goes_on_the_same(placement, backend, device):
    settings = SMALL | {"max_iter": 3, "dropout": 0.1, "backend": backend, "device": device}
    settings |= {"dtype": widest(placement)}
    mlp = MLPClassifier(**settings).fit(X, LETTERS[Y])
    content = pickle.dumps(mlp)
    modules = {name for _, name, _ in pickletools.genops(content) if isinstance(name, str)}
    # The backend's name is there, and nothing that needs it to be imported.
    assert not [name for name in modules if name != backend and name.startswith(OTHERS)]
    assert_goes_on_the_same(pickle.loads(content), mlp)


@pytest.mark.parametrize("copied", [through_joblib, copy.deepcopy])
def test_copies_go_on_the_same(copied):
    mlp = MLPClassifier(**SMALL | {"max_iter": 3, "dropout": 0.1}).fit(X, LETTERS[Y])
    assert_goes_on_the_same(copied(mlp), mlp)


def test_a_pickle_from_a_device_that_is_not_here_predicts_on_the_cpu():
    mlp = MLPClassifier(**SMALL | {"max_iter": 3}).fit(X, Y)
    elsewhere = copy.copy(mlp.__getstate__()) | {"_where": ("cuda:93", "cupy"), "device": "cuda:93"}
    loaded = MLPClassifier.__new__(MLPClassifier)
    with pytest.warns(UserWarning, match=r"fitted with cupy on cuda:93, which is not here"):
        loaded.__setstate__(elsewhere)
    np.testing.assert_array_equal(loaded.predict_proba(X), mlp.predict_proba(X))
    with pytest.raises((DeviceError, ImportError)):  # asked for, so not replaced in silence
        loaded.fit(X, Y)
    loaded.set_params(device=None).fit(X, Y)


ROUND_TRIPS = """
import copy, io, pickle, warnings
import joblib, numpy as np, torch
from sklearn import set_config
from bp_xp.estimators import MLPClassifier, MLPRegressor

set_config(array_api_dispatch=True)
X = torch.asarray(np.random.default_rng(0).normal(size=(60, 4)))
y = (X[:, 0] > 0).to(torch.int64) + 2 * (X[:, 1] > 0)

def through_joblib(mlp):
    file = io.BytesIO()
    joblib.dump(mlp, file)
    file.seek(0)
    return joblib.load(file)

copies = [copy.deepcopy, lambda mlp: pickle.loads(pickle.dumps(mlp)), through_joblib]
settings = dict(max_iter=3, random_state=0)
words = np.array(list("abcd"))[y.numpy()]
for kind, targets in ((MLPClassifier, y), (MLPClassifier, words), (MLPRegressor, X[:, 0])):
    mlp = kind(**settings).fit(X, targets)
    for copied in (one(mlp) for one in copies):
        assert all(isinstance(W, torch.Tensor) for W in copied.coefs_ + copied.intercepts_)
        assert type(copied.predict(X)) is type(mlp.predict(X))
        assert (copied.predict(X) == mlp.predict(X)).all()
        if kind is MLPClassifier:
            assert type(copied.classes_) is type(mlp.classes_)
        before = mlp.coefs_[0].clone()
        again = copy.deepcopy(copied).partial_fit(X, targets)
        assert again.loss_curve_ == copy.deepcopy(mlp).partial_fit(X, targets).loss_curve_
        assert (mlp.coefs_[0] == before).all()

mlp = MLPClassifier(**settings).fit(X, y)
loaded = MLPClassifier.__new__(MLPClassifier)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    loaded.__setstate__(mlp.__getstate__() | {"_where": ("cuda:93", "cupy")})
assert "fitted with cupy on cuda:93, which is not here" in str(told[0].message)
assert isinstance(loaded.coefs_[0], np.ndarray)
assert (loaded.predict(X.numpy()) == mlp.predict(X).numpy()).all()
"""


@pytest.mark.process
def test_copies_of_an_estimator_of_tensors_are_of_tensors():
    # SciPy must know before it is imported, so in a process of its own.
    pytest.importorskip("torch")
    command = [sys.executable, "-W", "ignore", "-c", ROUND_TRIPS]
    switched = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=switched)
    assert done.returncode == 0, done.stderr[-5000:]


def test_weights_that_are_replaced_or_written_to_count():
    mlp = MLPClassifier(**SMALL | {"max_iter": 3}).fit(X, Y)
    before = mlp.predict_proba(X)
    mlp.coefs_[-1] = np.zeros_like(mlp.coefs_[-1])
    mlp.intercepts_[-1][:] = 0.0
    np.testing.assert_allclose(mlp.predict_proba(X), 0.1)
    assert not np.allclose(before, 0.1)


# ---------------------------------------------------------------------------------------------
# From scikit-learn, and back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "x", "y", "settings"),
    [
        (MLPClassifier, X, LETTERS[Y], {}),
        (MLPClassifier, X, Y > 4, {"activation": "logistic", "early_stopping": True}),
        (MLPClassifier, X_LABELS, Y_LABELS, {"solver": "sgd"}),
        (MLPRegressor, X_NUMBERS, Y_THREE, {"activation": "tanh", "solver": "sgd"}),
        (MLPRegressor, X_NUMBERS, COUNTS, {"loss": "poisson"}),
    ],
    ids=["classes", "binary", "labels", "numbers", "poisson"],
)
def test_estimators_change_sides_with_their_predictions(kind, x, y, settings, dtype):
    x = x.astype(dtype)
    tolerance = {"float32": 1e-6, "float64": 1e-12}[dtype]
    ours, theirs = both(kind, x, y, **settings)
    method = "predict_proba" if kind is MLPClassifier else "predict"

    def assert_same(one, other):
        values = getattr(other, method)(x)
        scale = np.abs(values).max()
        np.testing.assert_allclose(getattr(one, method)(x), values, rtol=0, atol=tolerance * scale)

    brought = from_sklearn(theirs)
    assert isinstance(brought, kind)
    assert_same(brought, theirs)
    assert brought.loss_curve_ == theirs.loss_curve_
    sent = to_sklearn(ours)
    assert isinstance(sent, PAIRS[kind])
    assert_same(sent, ours)
    assert_same(to_sklearn(brought), theirs)
    assert sent.get_params() == theirs.get_params()
    brought.set_params(early_stopping=False).partial_fit(x, y)
    assert len(brought.loss_curve_) == len(theirs.loss_curve_) + 1
    brought.coefs_[0][:] = 0.0
    assert theirs.coefs_[0].any()  # copies


def test_from_sklearn_computes_where_it_is_told(backend, device):
    theirs = neural_network.MLPClassifier(**SMALL).fit(X, Y)
    ours = from_sklearn(theirs, backend=backend, device=device, dtype="float32")
    p = ours.predict_proba(X)
    assert p.dtype == "float32"
    np.testing.assert_allclose(p, theirs.predict_proba(X), atol=1e-6)
    assert p.dtype == "float32"


def test_to_sklearn_leaves_out_what_scikit_learn_does_not_have():
    activation = np.array(["relu", "relu"])
    mlp = MLPClassifier(**SMALL, solver=RMSprop(0.01), dropout=0.1, activation=activation)
    sent = to_sklearn(mlp.fit(X, Y))
    assert sent.solver == "adam"
    assert sent.activation == "relu"
    np.testing.assert_allclose(sent.predict_proba(X), mlp.predict_proba(X), atol=1e-12)
    mixed = MLPClassifier(**SMALL | {"max_iter": 1}, activation=["relu", "gelu"]).fit(X, Y)
    with pytest.raises(ValueError, match=r"one activation.*\['gelu', 'relu'\]"):
        to_sklearn(mixed)


@pytest.mark.parametrize("data", ["labels", "several labels", "numbers", "counts"])
def test_to_network_computes_what_the_estimator_does(data, backend, device, dtype):
    where = {"backend": backend, "device": device, "dtype": dtype}
    mlp, x, y = {
        "labels": (MLPClassifier(**SMALL | where), X, Y),
        "several labels": (MLPClassifier(**SMALL | where), X_LABELS, Y_LABELS),
        "numbers": (MLPRegressor(**SMALL | where), X_NUMBERS, Y_NUMBERS),
        "counts": (MLPRegressor(**SMALL | where, loss="poisson"), X_LABELS, Y_LABELS),
    }[data]
    network = to_network(mlp.fit(x, y))
    assert (network.backend, network.device, network.dtype) == (backend, device, dtype)
    outputs = to_numpy(network.feedforward(x))
    wanted = mlp.predict_proba(x) if hasattr(mlp, "classes_") else mlp.predict(x)
    np.testing.assert_array_equal(outputs.reshape(wanted.shape), wanted)
    if data == "labels":
        labels = mlp.classes_[to_numpy(network.predict(x))]
        assert np.array_equal(labels, mlp.predict(x))
    network.layers = [(0.0 * W, b) for W, b in network.layers]
    assert mlp.coefs_[0].any()  # a copy


def test_only_fitted_estimators_change_sides():
    with pytest.raises(ValueError, match="not fitted"):
        to_network(MLPClassifier())
    with pytest.raises(TypeError, match="not a Network"):
        to_network(Network([2, 1]))
    with pytest.raises(
        TypeError, match=r"of type MLPClassifier \(see bp_xp.estimators.to_network\)"
    ):
        first_layer_weights(MLPClassifier(**SMALL | {"max_iter": 1}).fit(X, Y))
    with pytest.raises(ValueError, match="not fitted"):
        from_sklearn(neural_network.MLPClassifier())
    with pytest.raises(ValueError, match="not fitted"):
        to_sklearn(MLPRegressor())
    with pytest.raises(TypeError, match=r"sklearn.neural_network, not a StandardScaler"):
        from_sklearn(StandardScaler())
    with pytest.raises(TypeError, match="not a StandardScaler"):
        to_sklearn(StandardScaler())
    with pytest.raises(TypeError, match=r"not a MLPClassifier of bp_xp\.estimators"):
        from_sklearn(MLPClassifier())
    with pytest.raises(TypeError, match="not a MLPClassifier of sklearn"):
        to_sklearn(neural_network.MLPClassifier())


# ---------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"solver": "sdg"}, ValueError, "unknown solver 'sdg'.*Did you mean 'sgd'"),
        ({"solver": "rmsprop"}, ValueError, r"as objects, such as bp_xp.RMSprop\(0.01\)"),
        ({"solver": RMSprop}, TypeError, "an optimizer such as"),
        ({"activation": "rleu"}, ValueError, "unknown activation 'rleu'.*Did you mean 'relu'"),
        ({"activation": ["relu"] * 3}, ValueError, "one for each of the 2 hidden layers, not 3"),
        ({"activation": []}, ValueError, "one for each of the 2 hidden layers, not 0"),
        ({"activation": 3}, TypeError, "activation must be a name or a bp_xp.Activation, not 3"),
        ({"activation": "softmax"}, ValueError, "softmax couples the neurons.*such as 'relu'"),
        ({"learning_rate": 0.1}, TypeError, "a number is learning_rate_init"),
        ({"learning_rate": "fast"}, ValueError, "unknown learning_rate 'fast'"),
        (
            {"learning_rate": CosineDecay(0.1, steps=9), "solver": "lbfgs"},
            ValueError,
            "goes with solver 'sgd' or 'adam'",
        ),
        ({"learning_rate_init": 0.0}, ValueError, "learning_rate_init must be finite and above 0"),
        ({"alpha": -0.1}, ValueError, "alpha must be finite and at least 0"),
        ({"alpha": "much"}, TypeError, "alpha must be a number"),
        ({"momentum": 1.1}, ValueError, "momentum must be at most 1, not 1.1"),
        ({"beta_1": 1.0}, ValueError, "beta_1 must be"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"batch_size": "foo"}, TypeError, "or 'auto', not 'foo'"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer"),
        ({"verbose": "yes"}, TypeError, "verbose must be True, False or an integer"),
        ({"verbose": None}, TypeError, "verbose must be"),
        ({"verbose": 1.5}, TypeError, "verbose must be"),
        ({"verbose": -1}, ValueError, "verbose must be"),
        ({"random_state": "a"}, ValueError, "random_state must be .*, not 'a'"),
        ({"random_state": -1}, ValueError, "random_state must be .*, not -1"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change"),
        ({"shuffle": "yes"}, TypeError, "shuffle must be True or False"),
        ({"shuffle": np.ones(3)}, TypeError, "shuffle must be True or False"),
        ({"hidden_layer_sizes": (5, 0)}, ValueError, "hidden_layer_sizes must be > 0"),
        ({"hidden_layer_sizes": (5, 2.5)}, TypeError, "hidden_layer_sizes must be an integer"),
        ({"hidden_layer_sizes": "10"}, TypeError, "hidden_layer_sizes must be .*, not '10'"),
        ({"dropout": 1.0}, ValueError, "dropout must be"),
        ({"dropout": 0.1, "solver": "lbfgs"}, ValueError, "dropout has nothing to act on"),
        ({"callbacks": [3]}, TypeError, "a callback must be"),
        (
            {"dropout": np.array([0.1, 0.2]), "solver": "lbfgs"},
            ValueError,
            "dropout has nothing to act on",
        ),
        ({"callbacks": print}, TypeError, "callbacks must be a list or None.*put it in a list"),
        ({"class_weight": {3: -1.0}}, ValueError, r"class_weight\[3\] must be .*, not -1.0"),
        ({"class_weight": {3: np.nan}}, ValueError, r"class_weight\[3\] must be finite.*, not nan"),
        ({"class_weight": {"a": "b"}}, TypeError, r"class_weight\['a'\] must be a number, not 'b'"),
        ({"class_weight": {3: 1.0, 10: 1.0}}, ValueError, "class_weight has the label 10, but"),
        ({"class_weight": "fair"}, ValueError, "^class_weight must be None, 'balanced'.*'fair'"),
        ({"class_weight": [1.0, 2.0]}, TypeError, r"^class_weight must be .*, not \[1.0, 2.0\]"),
        ({"loss": "log"}, ValueError, "unknown loss 'log'"),
        ({"loss": (100,)}, TypeError, r"loss must be a name .*\(100,\); .*hidden_layer_sizes="),
        ({"loss": "poisson"}, ValueError, "loss='poisson' is for exp outputs.*softmax outputs"),
        ({"dtype": "float16"}, ValueError, "dtype 'float16' is not supported"),
        ({"device": "gpu"}, ValueError, "unknown device 'gpu'"),
        ({"backend": "nunpy"}, ValueError, "unknown backend 'nunpy'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_fit_says_what_is_wrong_with_a_parameter(settings, error, words):
    with pytest.raises(error, match=words):
        MLPClassifier(**SMALL | settings).fit(X, Y)


BESIDE_A_SOLVER = [
    {"learning_rate_init": 0.01},
    {"learning_rate": "adaptive"},
    {"power_t": 0.25},
    {"momentum": 0.5},
    {"nesterovs_momentum": False},
    {"beta_1": 0.5},
    {"beta_2": 0.5},
    {"epsilon": 1e-7},
]


@pytest.mark.parametrize("settings", BESIDE_A_SOLVER, ids=str)
@pytest.mark.parametrize("kind", PAIRS)
def test_what_an_optimizer_brings_itself_is_not_set_beside_it(kind, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name}=.* no effect with an optimizer as solver"):
        kind(solver=RMSprop(0.01), **settings).fit(X, Y)


def test_what_a_schedule_brings_itself_is_not_set_beside_it():
    schedule = CosineDecay(0.1, steps=10)
    mlp = MLPClassifier(**SMALL, solver="sgd", learning_rate=schedule, momentum=0.5).fit(X, Y)
    mlp.set_params(learning_rate_init=0.01)
    with pytest.raises(ValueError, match=r"^learning_rate_init=0.01 has no effect .* a schedule"):
        mlp.fit(X, Y)


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        ("log_loss", Y_NUMBERS, "loss='log_loss' is for probabilities.* goes from -.* to [1-9]"),
        ("binary_cross_entropy", COUNTS, "is for probabilities.* goes from 0 to [1-9]"),
        ("categorical_cross_entropy", Y_THREE, "is for probabilities.* goes from -"),
        ("categorical_cross_entropy", np.full((207, 2), 0.75), "add to 1 in each row.* to 1.5"),
        ("categorical_cross_entropy", np.full(207, 1.0), "two classes or more, .*one column"),
    ],
)
def test_losses_of_probabilities_are_for_targets_that_are_probabilities(loss, y, words):
    mlp = MLPRegressor(loss, **SMALL)
    with pytest.raises(ValueError, match=words):
        mlp.fit(X_NUMBERS, y)
    shares = np.abs(Y_THREE) / np.abs(Y_THREE).sum(axis=1, keepdims=True)
    assert mlp.fit(X_NUMBERS, shares).loss_ < mlp.loss_curve_[0]


def test_a_loss_for_other_outputs_is_refused():
    for loss, y, output in (
        ("binary_cross_entropy", Y, "softmax"),
        ("categorical_cross_entropy", Y > 4, "sigmoid"),
    ):
        with pytest.raises(ValueError, match=f"loss='{loss}' is for .* has {output} outputs"):
            MLPClassifier(loss=loss).fit(X, y)
    mlp = MLPRegressor(**SMALL, warm_start=True).fit(X_NUMBERS, COUNTS)
    with pytest.raises(ValueError, match=r"loss='poisson' is for exp .* has identity outputs"):
        mlp.set_params(loss="poisson").fit(X_NUMBERS, COUNTS)


def test_fit_says_what_is_wrong_with_the_samples():
    mlp = MLPClassifier(**SMALL)
    with pytest.raises(ValueError, match="NaN"):
        mlp.fit(np.where(X[0, 0] == X, np.nan, X), Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        mlp.fit(X, Y[:-1])
    with pytest.raises(ValueError, match="Unknown label type"):
        mlp.fit(X_NUMBERS, Y_NUMBERS)
    with pytest.raises(ValueError, match="Negative values"):
        mlp.fit(X, Y, -WEIGHTS)
    with pytest.raises(ValueError, match=r"(?i)weights.*zero"):
        mlp.fit(X, Y, 0.0 * WEIGHTS)
    with pytest.raises(ValueError, match="weights of all samples are zero"):
        MLPClassifier(**SMALL, class_weight=dict.fromkeys(range(10), 0.0)).fit(X, Y)
    with pytest.raises(TypeError, match=r"validation_data must be \(X, y\)"):
        mlp.fit(X, Y, validation_data=X)
    with pytest.raises(TypeError, match=r"validation_data must be \(X, y\).*, not a tuple of 1"):
        mlp.fit(X, Y, validation_data=(X,))
    with pytest.raises(ValueError, match="class_weight as a dictionary is for one label"):
        MLPClassifier(class_weight={0: 2.0}).fit(X_LABELS, Y_LABELS)
    with pytest.raises(ValueError, match="classes not in"):
        mlp.fit(X, Y, validation_data=(X_TEST, Y_TEST + 1))
    with pytest.raises(ValueError, match="no epochs to evaluate"):
        MLPClassifier(solver="lbfgs").fit(X, Y, validation_data=(X, Y))
    with pytest.raises(ValueError, match=r"poisson.*below 0, down to -"):
        MLPRegressor("poisson").fit(X_NUMBERS, Y_NUMBERS)
    with pytest.raises(TypeError, match="y is a sparse matrix"):
        MLPRegressor().fit(X_NUMBERS, scipy.sparse.csr_matrix(Y_THREE))
    with pytest.raises(NotFittedError):
        MLPClassifier().predict(X)


def test_a_weight_of_two_is_the_row_repeated_in_full_batches():
    rows = np.random.default_rng(0).integers(503, size=60)
    weights = np.ones(503)
    np.add.at(weights, rows, 1.0)
    x, y = np.concatenate([X, X[rows]]), np.concatenate([Y, Y[rows]])
    for settings in ({"solver": "sgd", "learning_rate_init": 0.1}, {"solver": "adam"}):
        settings = SMALL | settings | {"alpha": 0.1}
        weighted = MLPClassifier(**settings, batch_size=503).fit(X, Y, weights)
        repeated = MLPClassifier(**settings, batch_size=563).fit(x, y)
        np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-12)
    settings = SMALL | {"solver": "lbfgs", "alpha": 0.1, "max_iter": 10}
    weighted = MLPClassifier(**settings).fit(X, Y, weights)
    repeated = MLPClassifier(**settings).fit(x, y)
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-12)


@pytest.mark.parametrize("kind", PAIRS)
def test_partial_fit_with_early_stopping_is_refused_and_changes_nothing(kind):
    y = Y if kind is MLPClassifier else Y.astype(float)
    mlp = kind(**SMALL | {"max_iter": 3}, early_stopping=True).fit(X, y)
    before = [W.copy() for W in mlp.coefs_]
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        mlp.partial_fit(X, y)
    for W, then in zip(mlp.coefs_, before, strict=True):
        np.testing.assert_array_equal(W, then)
    mlp.set_params(early_stopping=False).partial_fit(X, y)
    fresh = kind(early_stopping=True)
    with pytest.raises(ValueError, match="early_stopping"):
        fresh.partial_fit(X, y)
    assert not hasattr(fresh, "classes_")


def test_partial_fit_says_what_it_needs():
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        MLPClassifier().partial_fit(X, Y)
    mlp = MLPClassifier(**SMALL).partial_fit(X, Y, classes=np.arange(10))
    with pytest.raises(ValueError, match="not the same as on last call"):
        mlp.partial_fit(X, Y, classes=np.arange(11))
    with pytest.raises(ValueError, match="classes not in"):
        mlp.partial_fit(X, Y + 1)
    with pytest.raises(ValueError, match=r"balanced.*needs all samples"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=np.arange(10))
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match=r"coefs_ are those of a network \[64, 20, 10, 10\]"):
        mlp.set_params(hidden_layer_sizes=5).partial_fit(X, Y)


def test_a_run_that_diverges_is_an_error_without_a_best_to_go_back_to():
    settings = {"solver": "sgd", "learning_rate_init": 1e6, "activation": "identity"}
    mlp = MLPRegressor(**SMALL | settings)
    with pytest.raises(ValueError, match=r"non-finite parameter weights.*diverged in epoch"):
        mlp.fit(X_NUMBERS, Y_NUMBERS)
    stopped = MLPRegressor(**SMALL | settings, early_stopping=True)
    with pytest.warns(ConvergenceWarning, match="best validation score are restored"):
        stopped.fit(X_NUMBERS, Y_NUMBERS)
    assert np.isnan(stopped.validation_scores_[-1])
    assert all(np.isfinite(W).all() for W in stopped.coefs_)
    assert np.isfinite(stopped.predict(X_NUMBERS)).all()


def test_a_run_that_has_not_converged_warns():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        MLPClassifier(**SMALL | {"max_iter": 3}).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 3 iteration"):
        MLPClassifier(**SMALL | {"max_iter": 3}, solver="lbfgs").fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPClassifier(**SMALL | {"tol": 10.0}).fit(X, Y)


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="needs raise_signal")
def test_ctrl_c_keeps_what_is_learned():
    assert threading.current_thread() is threading.main_thread()

    def interrupt(network, history):
        if len(history) == 2:
            signal.raise_signal(signal.SIGINT)

    mlp = MLPClassifier(**SMALL | {"max_iter": 500}, callbacks=[interrupt], tol=0.0)
    with pytest.warns(UserWarning, match="interrupted by user"):
        mlp.fit(X, Y)
    assert mlp.n_iter_ == 2
    assert mlp.loss_ < mlp.loss_curve_[0]
    mlp.set_params(callbacks=None).partial_fit(X, Y)


def test_weights_without_a_sample_in_a_batch_do_no_harm():
    weights = np.zeros(503)
    weights[:50] = 1.0
    mlp = MLPClassifier(**SMALL, batch_size=50, shuffle=False).fit(X, Y, weights)
    alone = MLPClassifier(**SMALL, batch_size=50, shuffle=False)
    assert np.isfinite(mlp.loss_curve_).all()
    assert alone.fit(X[:50], Y[:50]).loss_ > 0


@pytest.mark.process
def test_estimators_say_what_to_install_where_scikit_learn_is_missing():
    program = textwrap.dedent(
        """
        import sys
        sys.modules["sklearn"] = None
        import bp_xp
        try:
            import bp_xp.estimators
        except ImportError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "bp_xp[sklearn]" in done.stdout


# ---------------------------------------------------------------------------------------------
# Parts


def test_plain_adam_differs_from_adam_by_its_epsilon_alone(where, dtype):
    layers = [bp_xp.Layer(where.asarray(np.ones((2, 3)), dtype), where.asarray(np.ones(2), dtype))]

    def moved(optimizer, steps=3):
        now = [bp_xp.Layer(*(where.xp.asarray(part, copy=True) for part in layers[0]))]
        state = optimizer.init(now, placement=where, dtype=dtype)
        for step in range(1, steps + 1):
            slopes = [bp_xp.Layer(*(step * 0.5 * where.xp.ones_like(part) for part in layers[0]))]
            now, state = optimizer.update(now, slopes, state, xp=where.xp)
        return bp_xp.to_numpy(now[0].W)

    tiny = 1e-30 if dtype == "float64" else 1e-20
    rtol = 1e-5 if dtype == "float32" else 1e-12
    plain = moved(_solvers.PlainAdam(0.1, epsilon=tiny))
    np.testing.assert_allclose(plain, moved(Adam(0.1, epsilon=tiny)), rtol=rtol)
    # With v̂ = g² in the first step: η g √(1 − β₂) / (√(1 − β₂) g + ε).
    root = np.sqrt(1 - 0.999)
    wanted = 1.0 - 0.1 * 0.5 * root / (root * 0.5 + 0.1)
    np.testing.assert_allclose(moved(_solvers.PlainAdam(0.1, epsilon=0.1), 1), wanted, rtol=rtol)


def test_fit_copies_no_samples(monkeypatch):
    seen = []

    def watched(run, observers):
        seen.extend(x for x, *_ in run.source.blocks(len(X)))
        return train(run, observers)

    monkeypatch.setattr("bp_xp.estimators._run.train", watched)
    MLPClassifier(**SMALL | {"max_iter": 1}).fit(X, Y)
    assert np.shares_memory(seen[0], X)


def test_predictions_are_made_some_thousand_samples_at_a_time(monkeypatch):
    mlp = MLPClassifier(**SMALL | {"max_iter": 2}).fit(X, Y)
    whole = mlp.predict_proba(X)
    monkeypatch.setattr("bp_xp.estimators._samples.ROWS_AT_ONCE", 100)
    for x in (X, scipy.sparse.csc_array(X), X.astype(np.float32)):
        np.testing.assert_allclose(mlp.predict_proba(x), whole, rtol=1e-6)
