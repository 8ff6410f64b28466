"""Callbacks, schedules and the history of an estimator's run."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from bp_xp import Callback, GradientFlow, ReduceOnPlateau
from bp_xp.datasets import load_digits
from bp_xp.estimators import MLPClassifier, MLPRegressor

DIGITS = load_digits()
X, Y = DIGITS.x_train[:300].astype(np.float64), DIGITS.y_train[:300]
SMALL = {"hidden_layer_sizes": (8,), "batch_size": 60, "random_state": 0}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Stopped(Callback):
    """Remembers why a run ended."""

    def on_train_end(self, network, history):
        self.reason, self.epochs = history.stopped, len(history)


@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_flow_of_gradients_has_a_record_for_each_epoch(estimator):
    flow = GradientFlow(X[:50], Y[:50, None] if estimator is MLPRegressor else Y[:50])
    estimator(**SMALL, max_iter=4, callbacks=[flow]).fit(X, Y)
    assert [(record.epoch, record.step) for record in flow.records] == [
        (1, 5),
        (2, 10),
        (3, 15),
        (4, 20),
    ]
    assert all(ratio > 0.0 for record in flow.records for ratio in record.update_ratios)


def test_flow_of_gradients_within_an_epoch_repeats_no_step():
    flow = GradientFlow(X[:50], Y[:50], every=2)
    MLPClassifier(**SMALL, max_iter=2, callbacks=[flow]).fit(X, Y)
    moments = [(record.epoch, record.step) for record in flow.records]
    assert moments == [(1, 2), (1, 4), (1, 5), (2, 6), (2, 8), (2, 10)]


def test_labels_that_a_callback_can_not_take_are_explained():
    names = np.array(["zero", "one"])[Y % 2]
    with pytest.raises(TypeError, match="the samples of GradientFlow cannot be used") as caught:
        MLPClassifier(**SMALL, callbacks=[GradientFlow(X, names)]).fit(X, names)
    assert "in the order of classes_" in " ".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_iter": 3}, "epochs"),
        ({"max_iter": 300, "tol": 10.0, "n_iter_no_change": 2}, "early"),
        ({"max_iter": 300, "tol": 10.0, "n_iter_no_change": 2, "early_stopping": True}, "early"),
    ],
    ids=["epochs", "tol", "early-stopping"],
)
def test_history_tells_why_the_run_ended(options, reason):
    note = Stopped()
    mlp = MLPClassifier(**SMALL, **options, callbacks=[note]).fit(X, Y)
    assert (note.reason, note.epochs) == (reason, mlp.n_iter_)


@pytest.mark.parametrize("held", ["early_stopping", "validation_data"])
def test_a_rate_that_waits_for_the_accuracy_takes_the_score_of_a_classifier(held):
    seen = []
    mlp = MLPClassifier(
        **SMALL,
        solver="sgd",
        max_iter=5,
        learning_rate=ReduceOnPlateau(0.1),
        early_stopping=held == "early_stopping",
        callbacks=[lambda network, history: seen.append(history[-1])],
    )
    mlp.fit(X, Y, **({} if held == "early_stopping" else {"validation_data": (X, Y)}))
    assert [one.validation_accuracy for one in seen] == mlp.validation_scores_


def test_a_rate_can_wait_for_the_score_of_a_regressor():
    flat = ReduceOnPlateau(0.01, patience=1, min_delta=100.0, monitor="validation_score")
    mlp = MLPRegressor(**SMALL, solver="sgd", max_iter=4, learning_rate=flat)
    mlp.fit(X, Y / 9, validation_data=(X, Y / 9))
    steady = MLPRegressor(**SMALL, solver="sgd", max_iter=4, learning_rate_init=0.01).fit(X, Y / 9)
    # The first epochs have the same rate, and the later ones a lower one.
    assert mlp.loss_curve_[:2] == pytest.approx(steady.loss_curve_[:2], rel=1e-12)
    assert mlp.loss_curve_[3] != pytest.approx(steady.loss_curve_[3], rel=1e-6)
