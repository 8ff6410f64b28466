"""A list of learning rates: each layer that learns moves at its own."""

import numpy as np
import pytest
from helpers import assert_layers_agree, on_host

from bp_xp import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Checkpoint,
    ExponentialDecay,
    Layer,
    NAdam,
    Network,
    RMSprop,
    StepDecay,
    to_numpy,
)
from bp_xp.backends import place

HOST = place("cpu")
OPTIMIZERS = {
    "SGD": SGD,
    "momentum": lambda rate: SGD(rate, momentum=0.9),
    "Nesterov": lambda rate: SGD(rate, momentum=0.9, nesterov=True),
    "Adagrad": lambda rate: Adagrad(rate, learning_rate_decay=0.1),
    "RMSprop": RMSprop,
    "RMSprop in full": lambda rate: RMSprop(rate, momentum=0.5, centered=True),
    "Adam": Adam,
    "AMSGrad": lambda rate: Adam(rate, amsgrad=True),
    "NAdam": NAdam,
    "AdamW": lambda rate: AdamW(rate, weight_decay=0.5),
    "AdamW without biases": lambda rate: AdamW(rate, weight_decay=0.5, decay_biases=False),
}
RATES = {
    "numbers": [0.1, 0.0001],
    "schedules": [StepDecay(0.2, factor=0.1, every=2), 0.1],
    "one for every layer": [ExponentialDecay(0.2, factor=0.5), lambda step: 0.1 + 0.1 * step],
}


def moved_by_hand(net, x, y, steps, make_optimizer, rates):
    """Take steps of full batches, each layer with an optimizer of its own; return the layers."""
    hand = Network.from_layers(on_host(net.layers), activation="tanh", dtype="float64")
    optimizers = [make_optimizer(0.5) for _ in rates]
    states = [
        optimizer.init([layer], placement=HOST, dtype="float64")
        for optimizer, layer in zip(optimizers, hand.layers, strict=True)
    ]
    for step in range(steps):
        layers, gradients = hand.layers, hand.backprop(x, y)
        moved = []
        for l, rate in enumerate(rates):  # noqa: E741
            number = np.asarray(rate(step) if callable(rate) else rate)
            state = states[l]._replace(learning_rate=number)
            layer = Layer(*(np.array(part) for part in layers[l]))
            (layer,), states[l] = optimizers[l].update([layer], [gradients[l]], state, xp=np)
            moved.append(layer)
        hand.layers = moved
    return on_host(hand.layers)


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_layer_moves_at_its_own_rate(make, data, where, make_optimizer, rates):
    x, y = data
    net = make([3, 4, 2], activation="tanh", seed=1)
    wanted = moved_by_hand(net, x, y, 5, make_optimizer, rates)

    net.fit(
        x, y, epochs=5, batch_size=23, shuffle=False, optimizer=make_optimizer(rates),
        progress=False,
    )  # fmt: skip

    # Of a mean square less a squared mean, float32 keeps few digits.
    assert_layers_agree(net.layers, wanted, where, eps=4096 if net.dtype == "float64" else 8192)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_first_step_is_that_of_a_run_at_each_rate(make, data, where, make_optimizer):
    x, y = data
    nets = [make([3, 4, 2], activation="tanh", seed=1) for _ in range(3)]
    for net, rate in zip(nets, ([0.1, 0.0001], 0.1, 0.0001), strict=True):
        optimizer = make_optimizer(rate)
        net.fit(x, y, epochs=1, batch_size=23, optimizer=optimizer, progress=False)

    each, fast, slow = (on_host(net.layers) for net in nets)
    assert_layers_agree(nets[0].layers, [fast[0], slow[1]], where)
    assert not np.allclose(each[0].W, slow[0].W, rtol=1e-6)


def test_rates_are_for_the_layers_that_learn(make, data, where):
    x, y = data
    nets = [make([3, 4, 5, 2], activation="tanh", seed=1) for _ in range(3)]
    settings = {"epochs": 1, "batch_size": 23, "progress": False}
    frozen = {"trainable": [True, False, True]}
    nets[0].fit(x, y, optimizer=SGD([0.5, 0.1]), **frozen, **settings)
    nets[1].fit(x, y, optimizer=SGD(0.5), **frozen, **settings)
    nets[2].fit(x, y, optimizer=SGD(0.1), **frozen, **settings)
    fast, slow = (on_host(net.layers) for net in nets[1:])
    assert_layers_agree(nets[0].layers, [fast[0], fast[1], slow[2]], where)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    ("options", "rates", "layers"),
    [
        ({}, [0.1, 0.1, 0.1], 2),
        ({}, [StepDecay(0.2, factor=0.1, every=2)], 2),
        ({"trainable": [True, False]}, [0.1, 0.1], 1),
    ],
    ids=["too many", "too few", "one for a frozen layer"],
)
def test_a_list_of_another_length_is_refused(data, make_optimizer, options, rates, layers):
    net = Network([3, 4, 2], seed=1)
    before = to_numpy(net.layers[0].W).copy()
    message = f"learning_rate has {len(rates)} rates, but there are {layers} layers to train"
    with pytest.raises(ValueError, match=message):
        net.fit(*data, optimizer=make_optimizer(rates), progress=False, **options)
    assert np.array_equal(net.layers[0].W, before)


@pytest.mark.parametrize("rates", [[0.1, 0.0], [0.1, "fast"], []])
def test_a_list_of_what_are_no_rates_is_refused(rates):
    with pytest.raises((TypeError, ValueError), match="learning_rate"):
        SGD(rates)


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_a_run_with_rates_by_layer_is_resumed(make, data, tmp_path, rates):
    path = tmp_path / "run.safetensors"
    settings = {"batch_size": 4, "optimizer": Adam(rates), "progress": False}
    whole, cut, again = (make([3, 4, 2], seed=1) for _ in range(3))
    whole.fit(*data, epochs=4, **settings)
    cut.fit(*data, epochs=2, checkpoint=path, **settings)
    again.fit(*data, epochs=4, checkpoint=Checkpoint(path, resume=path), **settings)
    for ours, theirs in zip(again.layers, whole.layers, strict=True):
        assert np.array_equal(to_numpy(ours.W), to_numpy(theirs.W))
        assert np.array_equal(to_numpy(ours.b), to_numpy(theirs.b))
