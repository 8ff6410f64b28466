import numpy as np
import pytest
from helpers import parameters, tolerance

from bp_xp import METRICS, SGD, Metric, Network, confusion_matrix, to_numpy


def test_validation_values_are_those_after_the_epoch(make, data):
    x, y = data
    net = make([3, 4, 2], seed=1)

    history = net.fit(x, y, epochs=3, validation_data=(x[:9], y[:9]), progress=False)

    scores = net.evaluate(x[:9], y[:9])
    assert history[-1].validation_cost == scores["cost"]
    assert history[-1].validation_accuracy == scores["accuracy"]


def test_regression_has_no_accuracy(data, rng):
    x, _ = data
    history = Network([3, 2], output_activation="identity", seed=0).fit(
        x, rng.standard_normal((23, 2)), epochs=1, progress=False
    )

    assert history[0].accuracy is None
    assert "accuracy" not in str(history)


def test_one_output_counts_classes_at_a_half(make):
    x, y = np.array([[-1.0], [1.0], [2.0], [-2.0]]), [0, 1, 1, 0]
    net = make([1, 1], cost="binary_cross_entropy", seed=0)
    net.layers = [([[1.0]], [0.0])]

    history = net.fit(x, y, epochs=1, optimizer=SGD(1e-9), batch_size=2, progress=False)

    assert history[0].accuracy == 1.0


def test_metrics_are_recorded_and_evaluated(make, data):
    def confidence(a, y, *, xp):
        return xp.mean(xp.max(a, axis=1))

    net = make([3, 4, 2], seed=1)
    history = net.fit(
        *data, epochs=2, validation_data=data, metrics=["f1", confidence], progress=False
    )
    values = net.evaluate(*data, metrics=["f1", confidence])
    assert history["validation_f1"][-1] == values["f1"]
    assert history["validation_confidence"][-1] == pytest.approx(values["confidence"])
    assert "validation f1" in str(history)


# ---------------------------------------------------------------------------------------------
# Weights


def weighing(data):
    """Weights that count one class ten times as much as the other."""
    return np.where(data[1] == 1, 10.0, 1.0)


def test_there_is_one_accuracy_and_it_is_weighted(make, data, dtype):
    x, y = data
    net = make([3, 4, 2], seed=1, dtype=dtype)
    weights = weighing(data)
    told = to_numpy(net.predict(x))
    wanted = float(np.average(told == y, weights=weights))
    assert wanted != pytest.approx(np.mean(told == y), abs=0.05)

    alone = net.evaluate(x, y, sample_weight=weights)["accuracy"]
    found = net.evaluate(x, y, sample_weight=weights, metrics=["accuracy", "balanced_accuracy"])
    assert alone == found["accuracy"] == pytest.approx(wanted, rel=1e-6)

    validation = (x, y, weights)
    history = net.fit(
        x, y, epochs=1, validation_data=validation, metrics="accuracy", progress=False
    )
    after = net.evaluate(x, y, sample_weight=weights)["accuracy"]
    assert history["validation_accuracy"] == [after]
    assert str(history[-1]).count("validation accuracy") == 1


@pytest.mark.parametrize("name", [*METRICS, "top_1"])
def test_metrics_of_evaluate_and_fit_take_the_weights(make, data, name):
    x, y = data
    y = np.eye(2)[y]
    net, copies = make([3, 4, 2], seed=1), np.arange(23) % 4
    repeated = np.repeat(x, copies, axis=0), np.repeat(y, copies, axis=0)

    found = net.evaluate(x, y, sample_weight=copies, metrics=name)[name]
    assert found == pytest.approx(
        net.evaluate(*repeated, metrics=name)[name], rel=tolerance(net.dtype, 1e-12)
    )

    validation = (x, y, copies)
    history = net.fit(x, y, epochs=1, validation_data=validation, metrics=name, progress=False)
    recorded = history[f"validation_{name}"][-1]
    assert recorded == pytest.approx(
        net.evaluate(*repeated, metrics=name)[name], rel=tolerance(net.dtype, 1e-12)
    )


def test_a_metric_of_ones_own_is_given_the_weights_if_it_takes_them(make, data):
    def weight(a, y, *, weights=None, xp):
        return xp.sum(xp.ones_like(a[:, 0]) if weights is None else weights)

    net = make([3, 2], seed=1)
    weights = weighing(data)
    found = net.evaluate(*data, sample_weight=weights, metrics=weight)["weight"]
    assert found == pytest.approx(weights.sum())
    assert net.evaluate(*data, metrics=weight)["weight"] == 23.0


def test_a_metric_that_leaves_the_weights_out_says_so(make, data):
    def largest(a, y, *, xp):
        return xp.max(a)

    net, weights = make([3, 2], seed=1), weighing(data)
    says = pytest.warns(UserWarning, match="'largest' takes no sample weights, and counts all")
    with says:
        net.evaluate(*data, sample_weight=weights, metrics=largest)
    with says as told:
        validation = (*data, weights)
        net.fit(*data, epochs=3, validation_data=validation, metrics=largest, progress=False)
    assert len(told) == 1


def test_metrics_of_one_name_are_refused(make, data):
    net = make([3, 2], seed=1)
    two = [lambda a, y, *, xp: xp.max(a), lambda a, y, *, xp: xp.min(a)]
    with pytest.raises(ValueError, match="two metrics are named '<lambda>'"):
        net.evaluate(*data, metrics=two)
    own = Metric("cost", two[0], needs_classes=False, higher_is_better=False)
    with pytest.raises(ValueError, match="named 'cost', like a value that each run records"):
        net.evaluate(*data, metrics=own)
    assert list(net.evaluate(*data, metrics=["f1", "f1"])) == ["cost", "accuracy", "f1"]


# ---------------------------------------------------------------------------------------------
# What can't be measured


def test_a_metric_that_is_no_number_is_refused_before_the_first_step(make, data):
    net = make([3, 2], seed=1)
    before = parameters(net)
    for metric in (confusion_matrix, lambda a, y, *, xp: a[:, 0]):
        with pytest.raises(ValueError, match=r"is an array of shape .* a run records numbers"):
            net.fit(*data, epochs=1, validation_data=data, metrics=["f1", metric], progress=False)
    assert np.array_equal(parameters(net), before)
    assert net.evaluate(*data, metrics=confusion_matrix)["confusion_matrix"].sum() == 23


def test_metrics_of_classes_need_classes(data):
    net = Network([3, 2], seed=1)
    with pytest.raises(ValueError, match="'f1' needs targets that are one class each"):
        net.evaluate(data[0], np.full((23, 2), 0.3), metrics=["f1"])
