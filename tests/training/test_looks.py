import threading

import numpy as np
import pytest
from helpers import cut_chunks, parameters, tolerance

from bp_xp import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ExponentialDecay,
    Network,
    ReduceOnPlateau,
    RMSprop,
    to_numpy,
)


def descend_by_hand(net: Network, x, y, order, batch_size, rate, l2=0.0) -> np.ndarray:
    """One epoch of plain SGD, written with nothing but Network.backprop."""
    hand = Network.from_layers(
        [(to_numpy(W), to_numpy(b)) for W, b in net.layers],
        activation=list(net.model.activations[:-1]),
        cost=net.model.cost,
        dtype="float64",
    )
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        gradients = hand.backprop(x[rows], y[rows])
        hand.layers = [
            (W - rate * (dW + l2 * W), b - rate * db)
            for (W, b), (dW, db) in zip(hand.layers, gradients, strict=True)
        ]
    return parameters(hand)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 22, 23])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_an_epoch_is_a_step_for_each_mini_batch_the_short_one_included(make, data, batch_size, l2):
    x, y = data
    net = make([3, 4, 2], activation="tanh", seed=1)
    expected = descend_by_hand(net, x, y, np.arange(23), batch_size, 0.3, l2)

    net.fit(
        x, y, epochs=1, batch_size=batch_size, optimizer=SGD(0.3), shuffle=False, l2=l2,
        progress=False,
    )  # fmt: skip

    assert np.allclose(
        parameters(net),
        expected,
        rtol=tolerance(net.dtype, 1e-12),
        atol=tolerance(net.dtype, 1e-14),
    )


def test_the_chunks_of_an_epoch_do_not_show(make, data, monkeypatch):
    x, y = data
    whole, cut = make([3, 4, 2], seed=1), make([3, 4, 2], seed=1)
    options = {"epochs": 2, "batch_size": 2, "progress": False}

    whole.fit(x, y, **options)
    cut_chunks(monkeypatch, 3)
    cut.fit(x, y, **options)

    assert np.allclose(parameters(whole), parameters(cut), rtol=1e-13, atol=0)


def test_each_epoch_has_an_order_of_its_own_from_the_seed(make, data):
    x, y = data
    runs = [make([3, 2], seed=seed) for seed in (1, 1, 2)]
    for net in runs:
        net.layers = [(np.zeros((2, 3)), np.zeros(2))]
        net.fit(x, y, epochs=2, batch_size=4, optimizer=SGD(1.0), progress=False)

    assert np.array_equal(parameters(runs[0]), parameters(runs[1]))
    assert not np.array_equal(parameters(runs[0]), parameters(runs[2]))


def test_the_same_seed_trains_alike_on_every_backend(make, data):
    x, y = data
    options = {
        "epochs": 3, "batch_size": 5, "optimizer": SGD(0.5, momentum=0.9, nesterov=True),
        "l2": 1e-3, "progress": False, "validation_data": data,
    }  # fmt: skip
    here = make([3, 4, 2], cost="categorical_cross_entropy", activation="gelu", seed=4)
    reference = Network(
        [3, 4, 2], cost="categorical_cross_entropy", activation="gelu", seed=4, dtype="float64"
    )

    ours, theirs = here.fit(x, y, **options), reference.fit(x, y, **options)

    assert np.allclose(
        parameters(here),
        parameters(reference),
        rtol=tolerance(here.dtype, 1e-11),
        atol=tolerance(here.dtype, 1e-13),
    )
    for name in ("cost", "validation_cost", "accuracy", "validation_accuracy"):
        assert ours[name] == pytest.approx(theirs[name], rel=tolerance(here.dtype, 1e-11))


def test_training_works_in_a_thread(make, data):
    alone, threaded = make([3, 2], seed=1), make([3, 2], seed=1)
    options = {"epochs": 2, "batch_size": 4, "progress": False}
    worker = threading.Thread(target=lambda: threaded.fit(*data, **options))

    worker.start(), worker.join()
    alone.fit(*data, **options)

    assert np.array_equal(parameters(alone), parameters(threaded))


def test_a_mini_batch_without_weight_takes_no_step():
    x, y = np.ones((4, 3)), np.array([0, 1, 0, 1])
    net = Network([3, 2], seed=1)
    before = parameters(net)
    net.fit(x[:2], y[:2], epochs=1, batch_size=1, sample_weight=[0.0, 1.0], shuffle=False)
    once = Network([3, 2], seed=1)
    once.fit(x[1:2], y[1:2], epochs=1, batch_size=1, shuffle=False)
    assert not np.array_equal(parameters(net), before)
    assert np.array_equal(parameters(net), parameters(once))


# ---------------------------------------------------------------------------------------------
# Schedules


def test_a_schedule_gives_each_step_its_rate(make, data):
    x, y = data
    schedule = ExponentialDecay(1.0, factor=0.9)
    net = make([3, 2], seed=1)
    hand = Network.from_layers([(to_numpy(W), to_numpy(b)) for W, b in net.layers], dtype="float64")
    net.fit(x, y, epochs=2, batch_size=5, optimizer=SGD(schedule), shuffle=False, progress=False)
    step = 0
    for _ in range(2):
        for start in range(0, 23, 5):
            gradients = hand.backprop(x[start : start + 5], y[start : start + 5])
            rate = 0.9**step
            hand.layers = [
                (W - rate * dW, b - rate * db)
                for (W, b), (dW, db) in zip(hand.layers, gradients, strict=True)
            ]
            step += 1
    assert np.allclose(
        parameters(net),
        parameters(hand),
        rtol=tolerance(net.dtype, 1e-12),
        atol=tolerance(net.dtype, 1e-14),
    )


@pytest.mark.parametrize("rule", [SGD, Adagrad, RMSprop, Adam, AdamW])
def test_a_constant_schedule_is_a_constant_rate(make, data, rule):
    nets = [make([3, 4, 2], seed=1) for _ in range(2)]
    for net, rate in zip(nets, (0.05, lambda step: 0.05), strict=True):
        net.fit(*data, epochs=2, batch_size=5, optimizer=rule(rate), progress=False)
    assert np.allclose(parameters(nets[0]), parameters(nets[1]), rtol=1e-12, atol=1e-14)


def test_the_rate_is_cut_where_the_run_stalls(data):
    def stuck(a, y, *, xp):
        return 0.0 * xp.sum(a)

    schedule = ReduceOnPlateau(
        1.0, factor=0.1, patience=1, monitor="validation_stuck", higher_is_better=True
    )
    moves, last = [], [None]

    def move(network, history):
        now = parameters(network)
        if last[0] is not None:
            moves.append(np.abs(now - last[0]).max())
        last[0] = now

    Network([3, 2], seed=1, dtype="float64").fit(
        *data, epochs=4, batch_size=23, optimizer=SGD(schedule), metrics=[stuck],
        validation_data=data, callbacks=[move], progress=False,
    )  # fmt: skip
    # Rates 1, 1 (the first epoch was the best), 0.1, 0.01.
    assert moves[1] < 0.2 * moves[0]
    assert moves[2] < 0.2 * moves[1]


def test_a_schedule_that_gives_no_rate_is_named(data):
    with pytest.raises(ValueError, match="step 3"):
        Network([3, 2]).fit(
            *data, batch_size=5, optimizer=SGD(lambda step: 0.1 if step < 3 else np.nan)
        )
