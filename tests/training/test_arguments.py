"""What ``fit`` takes, in the words of those who call it."""

import inspect

import numpy as np
import pytest
from helpers import parameters

from bp_xp import (
    METRICS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Callback,
    EarlyStopping,
    NAdam,
    Network,
    Regularization,
    RMSprop,
    Stream,
)


def fitted(data, **options):
    """Return the parameters after a run of two epochs, and its history."""
    net = Network([3, 4, 2], seed=1, dtype="float64")
    settings = {"epochs": 2, "batch_size": 5, "progress": False}
    history = net.fit(*data, **(settings | options))
    return parameters(net), history


def assert_same_runs(data, options, others):
    assert np.array_equal(fitted(data, **options)[0], fitted(data, **others)[0])


def test_fit_has_few_parameters():
    assert len(inspect.signature(Network.fit).parameters.keys() - {"self"}) <= 19


# ---------------------------------------------------------------------------------------------
# Names instead of objects


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("sgd", SGD(0.1)),
        ("adagrad", Adagrad()),
        ("rmsprop", RMSprop()),
        ("adam", Adam()),
        ("adamw", AdamW()),
        ("nadam", NAdam()),
    ],
)
def test_an_optimizer_may_be_named(data, name, optimizer):
    assert_same_runs(data, {"optimizer": name}, {"optimizer": optimizer})


def test_without_an_optimizer_it_is_plain_descent(data):
    assert_same_runs(data, {}, {"optimizer": SGD(0.1)})


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        ("adan", ValueError, "unknown optimizer 'adan': choose one of .*Did you mean 'adam'"),
        (Adam, TypeError, r"optimizer must be an optimizer such as SGD\(0.1\)"),
        (0.1, TypeError, "one of the names 'sgd'"),
    ],
)
def test_what_is_no_optimizer_is_refused(data, optimizer, error, message):
    with pytest.raises(error, match=message):
        fitted(data, optimizer=optimizer)


@pytest.mark.parametrize(
    "metrics",
    ["f1", ["f1"], METRICS["f1"], (METRICS["f1"],)],
    ids=["name", "list of names", "metric", "tuple of metrics"],
)
def test_a_metric_may_come_alone_or_in_a_list(data, metrics):
    _, history = fitted(data, metrics=metrics, validation_data=data)
    assert list(history[-1].metrics) == ["validation_f1"]


def test_a_function_may_come_alone_as_a_metric(data):
    def confidence(a, y, *, xp):
        return xp.mean(xp.max(a, axis=1))

    _, history = fitted(data, metrics=confidence, validation_data=data)
    assert list(history[-1].metrics) == ["validation_confidence"]
    scores = Network([3, 4, 2], seed=1).evaluate(*data, metrics=confidence)
    assert set(scores) == {"cost", "accuracy", "confidence"}


# ---------------------------------------------------------------------------------------------
# Regularization


TERMS = {
    "l1": 0.01,
    "l2": [0.1, 0.01],
    "dropout": 0.5,
    "clip_norm": 0.1,
    "clip_value": 0.05,
    "max_norm": 0.5,
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_by_name_is_the_field_of_a_regularization(data, name):
    term = {name: TERMS[name]}
    assert_same_runs(data, term, {"regularization": Regularization(**term)})
    assert not np.array_equal(fitted(data, **term)[0], fitted(data)[0])


def test_all_terms_by_name_are_a_regularization(data):
    assert_same_runs(data, TERMS, {"regularization": Regularization(**TERMS)})


def test_a_regularization_beside_a_term_is_refused(data):
    message = r"pass l2, dropout in regularization=Regularization\(\.\.\.\), not next to it"
    with pytest.raises(ValueError, match=message):
        fitted(data, regularization=Regularization(l1=0.1), l2=0.1, dropout=0.5)


def test_what_is_no_regularization_is_refused(data):
    with pytest.raises(TypeError, match=r"one such as Regularization\(l2=1e-4\), not 0.1"):
        fitted(data, regularization=0.1)


# ---------------------------------------------------------------------------------------------
# Words that fit does not know


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("l_2", "'l2'"),
        ("drop_out", "'dropout'"),
        ("batchsize", "'batch_size'"),
        ("epoch", "'epochs'"),
        ("validation_fraction", "'validation_data'"),
        ("callback", "'callbacks'"),
        ("checkpoint_every", "'checkpoint'"),
    ],
)
def test_a_word_that_is_not_known_is_refused_with_the_nearest(data, word, meant):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{word}'") as caught:
        fitted(data, **{word: 1})
    assert f"Did you mean {meant}" in str(caught.value)


def test_a_word_like_no_other_is_refused_without_a_guess(data):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'\.$"):
        fitted(data, zzz=1)


def test_a_learning_rate_is_that_of_an_optimizer(data):
    with pytest.raises(TypeError, match=r"pass it to the optimizer, as in optimizer=SGD\(0.1\)"):
        fitted(data, learning_rate=0.1)


def test_every_parameter_of_fit_can_be_guessed(data):
    named = inspect.signature(Network.fit).parameters
    for name, parameter in named.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            with pytest.raises(TypeError) as caught:
                fitted(data, **{f"{name}s_": 1})
            assert f"'{name}'" in str(caught.value)


# ---------------------------------------------------------------------------------------------
# Early stopping and callbacks


STALLING = {"epochs": 200, "optimizer": SGD(3.0), "validation_data": 0.5}


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": 3},
        {"early_stopping": EarlyStopping(patience=3)},
        {"callbacks": EarlyStopping(patience=3)},
        {"callbacks": [Callback(), EarlyStopping(patience=3), lambda network, history: None]},
    ],
    ids=["number", "early_stopping", "callback", "among callbacks"],
)
def test_early_stopping_comes_in_several_ways(data, options):
    found, history = fitted(data, **STALLING, **options)
    wanted, whole = fitted(data, **STALLING, early_stopping=EarlyStopping("validation_cost", 3))
    assert history.stopped == "early"
    assert len(history) == history.best_epoch + 3 == len(whole) < 200
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": [EarlyStopping(), EarlyStopping("cost")]},
        {"early_stopping": 3, "callbacks": EarlyStopping()},
    ],
    ids=["among callbacks", "beside early_stopping"],
)
def test_two_that_stop_early_are_refused(data, options):
    with pytest.raises(ValueError, match="2 EarlyStopping were passed: a run takes only one"):
        fitted(data, validation_data=data, **options)


@pytest.mark.parametrize("early_stopping", [True, 2.5, "cost", EarlyStopping])
def test_what_does_not_stop_early_is_refused(data, early_stopping):
    with pytest.raises(TypeError, match="early_stopping must be an EarlyStopping"):
        fitted(data, validation_data=data, early_stopping=early_stopping)


def test_no_epoch_of_patience_is_refused(data):
    with pytest.raises(ValueError, match="patience must be at least 1"):
        fitted(data, validation_data=data, early_stopping=0)


def test_a_callback_may_come_alone(data):
    class Counting(Callback):
        epochs = 0

        def on_epoch_end(self, network, history):
            self.epochs += 1

    counting, seen = Counting(), []
    fitted(data, callbacks=counting)
    fitted(data, callbacks=lambda network, history: seen.append(len(history)))
    assert counting.epochs == 2
    assert seen == [1, 2]


def test_what_is_passed_by_mistake_is_named():
    net = Network([2, 3, 1], seed=0)
    x, y = [[0.0, 1.0], [1.0, 1.0]], [[1.0], [0.0]]
    with pytest.raises(TypeError, match=r"a callback must be .*, not 5"):
        net.fit(x, y, callbacks=5)
    with pytest.raises(TypeError, match="fit takes no lmbda: pass l2"):
        net.fit(x, y, lmbda=5)
    with pytest.raises(TypeError, match=r"layers must be pairs \(W, b\).*not \[1, 2\]"):
        net.layers = [1, 2]
    with pytest.raises(TypeError, match=r"out must be the path of a \.npy file, not 3"):
        net.predict(x, out=3)
    for nothing in (None, Stream(None)):
        with pytest.raises(TypeError, match="x must be an array of numbers, not None"):
            net.predict(nothing)
