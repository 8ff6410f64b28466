import numpy as np
import pytest
from helpers import parameters, tolerance

from bp_xp import SGD, Adam, Network, RMSprop, to_numpy
from bp_xp.engines import plain

# ---------------------------------------------------------------------------------------------
# Weights of samples and of classes


def copies_and_weights(seed, n=12):
    """Return samples with whole weights 0 to 3, and the same samples copied as often."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 3)), rng.integers(0, 2, n)
    weights = rng.integers(0, 4, n)
    weights[0] = 2  # not all are zero
    rows = np.repeat(np.arange(n), weights)
    return (x, y, weights.astype(float)), (x[rows], y[rows])


@pytest.mark.parametrize("seed", range(200))
def test_a_weight_is_a_number_of_copies_and_zero_is_absence(seed):
    (x, y, weights), copied = copies_and_weights(seed)
    weighted, copying = (Network([3, 4, 2], seed=seed, dtype="float64") for _ in range(2))
    settings = {
        "epochs": 3, "optimizer": SGD(0.5, momentum=0.5), "shuffle": False, "progress": False,
    }  # fmt: skip

    ours = weighted.fit(
        x, y, sample_weight=weights, batch_size=len(x),
        validation_data=(x, y, weights), **settings
    )  # fmt: skip
    theirs = copying.fit(*copied, batch_size=len(copied[0]), validation_data=copied, **settings)

    assert np.allclose(parameters(weighted), parameters(copying), rtol=1e-12, atol=1e-14)
    for name in ("cost", "accuracy", "validation_cost", "validation_accuracy"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-12)
    assert weighted.evaluate(x, y, sample_weight=weights) == pytest.approx(
        copying.evaluate(*copied), rel=1e-12
    )


def test_weights_train_alike_on_every_backend_and_in_every_order(make):
    (x, y, weights), _ = copies_and_weights(1, n=40)
    settings = {"epochs": 3, "batch_size": 8, "sample_weight": weights, "progress": False}
    here, reference = make([3, 4, 2], seed=2), Network([3, 4, 2], seed=2, dtype="float64")
    here.fit(x, y, **settings)
    reference.fit(x, y, **settings)
    assert np.allclose(
        parameters(here),
        parameters(reference),
        rtol=tolerance(here.dtype, 1e-11),
        atol=tolerance(here.dtype, 1e-13),
    )


def test_a_class_weight_is_a_weight_of_its_samples(make, data):
    x, y = data
    nets = [make([3, 2], seed=1), make([3, 1], seed=1, cost="binary_cross_entropy")]
    for net in nets:
        twin = net.to(net.device, backend=net.backend)
        settings = {"epochs": 2, "batch_size": 5, "progress": False}
        net.fit(x, y, class_weight={1: 3.0}, **settings)
        twin.fit(x, y, sample_weight=np.where(y == 1, 3.0, 1.0), **settings)
        assert np.allclose(parameters(net), parameters(twin), rtol=1e-13, atol=0)


def test_balanced_classes_improve_the_balanced_accuracy():
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.05).astype(int)
    x = rng.standard_normal((600, 2)) + 1.0 * y[:, None]
    scores = []
    for class_weight in (None, "balanced"):
        net = Network([2, 8, 2], cost="categorical_cross_entropy", seed=0)
        net.fit(x, y, epochs=30, batch_size=20, class_weight=class_weight, progress=False)
        scores.append(net.evaluate(x, y, metrics=["balanced_accuracy"])["balanced_accuracy"])
    assert scores[0] < 0.65
    assert scores[1] > 0.75


# ---------------------------------------------------------------------------------------------
# Dropout, penalties and limits


REGULARIZATIONS = {
    "dropout": {"dropout": 0.5},
    "dropout of inputs": {"dropout": (0.2, 0.5)},
    "l1": {"l1": 0.01},
    "l2": {"l2": 0.01},
    "norm": {"clip_norm": 0.05},
    "value": {"clip_value": 0.01},
    "max norm": {"max_norm": 0.5},
    "all": {
        "dropout": 0.2, "l1": 1e-3, "l2": 1e-3, "clip_norm": 0.1, "clip_value": 0.05,
        "max_norm": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", REGULARIZATIONS.values(), ids=REGULARIZATIONS)
@pytest.mark.parametrize("optimizer", [SGD(0.5, momentum=0.5), Adam(0.05)], ids=["SGD", "Adam"])
def test_every_option_trains_alike_on_every_backend(make, data, options, optimizer):
    x, y = data
    settings = {"epochs": 3, "batch_size": 5, "optimizer": optimizer, "progress": False} | options
    here, reference = make([3, 6, 2], seed=4), Network([3, 6, 2], seed=4, dtype="float64")
    plain_run = Network([3, 6, 2], seed=4, dtype="float64")
    here.fit(x, y, **settings)
    reference.fit(x, y, **settings)
    plain_run.fit(x, y, epochs=3, batch_size=5, optimizer=optimizer, progress=False)
    assert np.allclose(
        parameters(here),
        parameters(reference),
        rtol=tolerance(here.dtype, 1e-10),
        atol=tolerance(here.dtype, 1e-12),
    )
    assert not np.allclose(parameters(reference), parameters(plain_run), rtol=1e-4)


@pytest.mark.parametrize("options", REGULARIZATIONS.values(), ids=REGULARIZATIONS)
def test_every_option_is_recorded(options, monkeypatch):
    """With the plain loop forbidden, what runs is the recorded step."""
    monkeypatch.setattr(plain, "loop", None)
    net = Network([3, 6, 2], seed=4)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), rng.integers(0, 2, 20)
    for optimizer in (SGD(lambda step: 0.1, momentum=0.9), Adam(0.01), RMSprop(0.01)):
        net.fit(x, y, epochs=2, batch_size=5, optimizer=optimizer, sample_weight=y + 1.0, **options)


def test_max_norm_holds_after_training(make, data):
    net = make([3, 6, 2], seed=4)
    net.fit(*data, epochs=5, optimizer=SGD(5.0), max_norm=0.5, progress=False)
    norms = [np.linalg.norm(to_numpy(W), axis=1) for W, _ in net.layers]
    assert max(norm.max() for norm in norms) <= 0.5 * (1 + 1e-12)


def test_dropout_is_for_training_alone(make, data):
    x, y = data
    net = make([3, 50, 2], seed=4)
    net.fit(x, y, epochs=1, dropout=0.5, progress=False)
    assert np.array_equal(to_numpy(net.feedforward(x)), to_numpy(net.feedforward(x)))


def test_dropout_repeats_with_the_seed_and_differs_without(make, data):
    nets = [make([3, 20, 2], seed=seed) for seed in (1, 1, 2)]
    for net in nets:
        net.layers = [(np.ones(W.shape), np.zeros(b.shape)) for W, b in net.layers]
        net.fit(*data, epochs=1, batch_size=23, dropout=0.5, shuffle=False, progress=False)
    assert np.array_equal(parameters(nets[0]), parameters(nets[1]))
    assert not np.allclose(parameters(nets[0]), parameters(nets[2]))


# ---------------------------------------------------------------------------------------------
# Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dropout": 1.0}, ValueError, "dropout must be"),
        ({"dropout": -0.1}, ValueError, "dropout must be"),
        ({"dropout": (0.1, 0.1, 0.1)}, ValueError, "one for each of the 1 hidden layers"),
        ({"dropout": "half"}, TypeError, "dropout must be a number"),
        ({"l1": -1}, ValueError, "l1 must be"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be"),
        ({"clip_value": np.nan}, ValueError, "clip_value must be"),
        ({"max_norm": -1.0}, ValueError, "max_norm must be"),
        (
            {"validation_data": 1.0},
            ValueError,
            "as the share to hold out, must be",
        ),
        ({"validation_data": 0.01}, ValueError, "leaves 23 of 23 samples .* and 0 to"),
        ({"metrics": ["f1"]}, ValueError, "metrics are measured on validation data"),
        ({"metrics": ["f2"], "validation_data": 0.5}, ValueError, "unknown metric 'f2'"),
        ({"early_stopping": 0.5}, TypeError, "early_stopping must be"),
        ({"callbacks": [3]}, TypeError, "a callback must be"),
    ],
)
def test_bad_settings_are_refused_before_training(data, options, error, message):
    net = Network([3, 4, 2], seed=1)
    before = parameters(net)
    with pytest.raises(error, match=message):
        net.fit(*data, **options)
    assert np.array_equal(parameters(net), before)
