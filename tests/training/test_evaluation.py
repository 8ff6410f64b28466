import numpy as np
import pytest

from bp_xp import SGD, Network


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


def test_metrics_of_classes_need_classes(data):
    net = Network([3, 2], seed=1)
    with pytest.raises(ValueError, match="'f1' needs targets that are one class each"):
        net.evaluate(data[0], np.full((23, 2), 0.3), metrics=["f1"])
