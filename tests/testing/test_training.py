import re

import numpy as np
import pytest
from steps import RULES

from bp_xp import (
    SGD,
    Adam,
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseScaling,
    LinearWarmUp,
    Network,
    OneCycle,
    ReduceOnPlateau,
    RMSprop,
    StepDecay,
    to_numpy,
)
from bp_xp.math import backprop, regularization
from bp_xp.optim import adaptive, descent, schedules
from bp_xp.optim.optimizer import accumulate
from bp_xp.testing import check_training
from bp_xp.training import looks

SIZES = [3, 4, 2]
SCHEDULES = {
    "step": StepDecay(0.5, 0.5, every=3),
    "exponential": ExponentialDecay(0.5, 0.3, every=4),
    "cosine": CosineDecay(0.5, steps=7, final=0.01),
    "restarts": CosineDecayRestarts(0.5, steps=2, cycle_factor=2, final=0.01),
    "one-cycle": OneCycle(0.5, steps=14),
    "one-cycle-linear": OneCycle(0.5, steps=14, rise=0.4, linear=True, three_phases=True),
    "inverse": InverseScaling(0.5, power=0.7),
    "warm-up": LinearWarmUp(4, CosineDecay(0.5, steps=9)),
    "plateau": ReduceOnPlateau(0.5, factor=0.5, patience=1, monitor="accuracy"),
    "warm-up-plateau": LinearWarmUp(3, ReduceOnPlateau(0.5, patience=1, monitor="cost")),
    "own": lambda step: 0.3 / (1 + step),
}


# ---------------------------------------------------------------------------------------------
# What is right passes


@pytest.mark.parametrize("name", RULES)
def test_optimizers_take_the_steps_of_their_papers(make, data, dtype, name):
    net = make(SIZES, activation="tanh", seed=1, dtype=dtype)
    report = check_training(net, *data, optimizer=RULES[name], epochs=2, batch_size=5)
    assert (report.steps, report.epochs) == (10, 2)
    assert report.difference < {"float32": 1e-3, "float64": 1e-9}[dtype]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_give_the_rates_of_their_formulas(make, data, name):
    net = make(SIZES, seed=1)
    optimizer = SGD(SCHEDULES[name], momentum=0.5)
    assert check_training(net, *data, optimizer=optimizer, epochs=4, batch_size=6).epochs == 4


@pytest.mark.parametrize(
    "options",
    [
        {"cost": "categorical_cross_entropy:label_smoothing=0.1"},
        {"output_activation": "softmax"},
        {"cost": "huber:delta=0.5", "activation": "relu"},
        {"cost": "binary_cross_entropy:positive_weight=2,0.5"},
    ],
)
def test_all_that_a_step_has_is_in_the_reference(make, data, options):
    x, y = data
    net = make(SIZES, seed=1, **options)
    weights = np.arange(23) % 4
    report = check_training(
        net,
        x,
        np.eye(2)[y],
        optimizer=SGD([0.5, StepDecay(0.1, 0.5, every=2)], momentum=0.9),
        sample_weight=weights,
        validation_data=(x, np.eye(2)[y], weights),
        batch_size=7,
        l1=[0.001, 0.0],
        l2=0.01,
        clip_value=0.2,
        clip_norm=0.3,
        max_norm=1.0,
    )
    assert report.steps == 12


def test_frozen_layers_and_plain_order(make, data):
    net = make(SIZES, seed=1)
    options = {"trainable": [False, True], "shuffle": False, "l2": 0.1, "clip_norm": 0.01}
    check_training(net, *data, optimizer=Adam(0.1), batch_size=7, **options)


def test_the_network_is_left_as_it_came(make, data):
    net = make(SIZES, seed=1)
    before, state = to_numpy(net.layers[0].W).copy(), net._generator.bit_generator.state
    report = check_training(net, *data, epochs=1)
    assert np.array_equal(to_numpy(net.layers[0].W), before)
    assert net._generator.bit_generator.state == state
    assert "1 steps and 1 epochs are those of the plain reference" in str(report)


class Momentumless:
    """A user-defined optimizer."""

    learning_rate = 0.25

    def init(self, layers, *, placement, dtype):
        return ()

    def update(self, layers, gradients, state, *, xp):
        pairs = zip(layers, gradients, strict=True)
        return [type(w)(w.W - 0.25 * g.W, w.b - 0.25 * g.b) for w, g in pairs], state


def test_an_optimizer_of_ones_own_brings_its_rule(make, data):
    net = make(SIZES, seed=1)
    check_training(net, *data, optimizer=Momentumless(), rule=lambda w, g, m, rate: w - rate * g)
    with pytest.raises(AssertionError, match=r"Look at the optimizer .*Momentumless"):
        check_training(net, *data, optimizer=Momentumless(), rule=lambda w, g, m, rate: w - g)
    with pytest.raises(TypeError, match=r"there is no plain reference for .*pass its rule"):
        check_training(net, *data, optimizer=Momentumless())


# ---------------------------------------------------------------------------------------------
# What is wrong alike on all libraries is caught


def odd_momentum(total, kept, term):
    return accumulate(total, kept, (1 - kept) * term)


def odd_count(total, kept, term):
    return accumulate(total, kept, 1.01 if isinstance(term, float) else term)


def odd_step_decay(self, step):
    return self.initial * self.factor ** ((step + 1) // self.every)


def odd_totals(model, has_classes, xp, z, y, weights=None, **options):
    return TOTALS(model, has_classes, xp, z, y, None, **options)


def odd_evaluate(*arguments, **options):
    cost, accuracy = EVALUATE(*arguments, **options)
    return cost, None if accuracy is None else accuracy * 0.99


TOTALS, EVALUATE = looks.totals_of, looks.evaluate
SHARES = backprop._shares
PLANTED = {
    "momentum": (
        (descent, "accumulate", odd_momentum),
        {"optimizer": SGD(0.1, momentum=0.9)},
        r"after step 1, W of layer 1 .*Look at the optimizer SGD\(",
    ),
    "rmsprop-epsilon": (
        (adaptive, "root", lambda square, epsilon, xp: xp.sqrt(square + epsilon)),
        {"optimizer": RMSprop(0.1, epsilon=1e-4)},
        "after step 1, W of layer 1 .*RMSprop",
    ),
    "adam-bias-correction": (
        (adaptive, "accumulate", odd_count),
        {"optimizer": Adam(0.1, epsilon=0.1)},
        "after step 1, W of layer 1 .*Adam",
    ),
    "step-decay": (
        (schedules.StepDecay, "__call__", odd_step_decay),
        {"optimizer": SGD(StepDecay(0.5, 0.5, every=2))},
        "after step 2, W of layer 1 .*its schedule, which is 0.5 in this step",
    ),
    "plateau": (
        (schedules.ReduceOnPlateau, "scale", lambda self, history: 1.0),
        {"optimizer": SGD(ReduceOnPlateau(1.0, patience=1, monitor="accuracy"))},
        "its schedule",
    ),
    "weights-in-totals": (
        (looks, "totals_of", odd_totals),
        {"sample_weight": np.arange(23.0)},
        "cost of epoch 1 .*how costs and accuracies are computed and added up",
    ),
    "validation-accuracy": (
        (looks, "evaluate", odd_evaluate),
        {"validation_data": True},
        "validation accuracy of epoch 1 .*added up",
    ),
    "shares": (
        (backprop, "_shares", lambda weights, n, xp: 1.01 * SHARES(weights, n, xp=xp)),
        {"sample_weight": np.arange(23.0)},
        "after step 1, .*the weights of the samples",
    ),
    "max-norm": (
        (regularization, "spread", lambda setting, axes: 1.1 * setting if axes == 2 else setting),
        {"max_norm": 0.5},
        "after step 1, W of layer 1 .*max_norm",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_caught_and_named(data, monkeypatch, name):
    where, options, message = PLANTED[name]
    if "validation_data" in options:
        options = options | {"validation_data": data}
    net = Network(SIZES, dtype="float64", seed=1)
    settings = {"batch_size": 6, "epochs": 6} | options
    check_training(net, *data, **settings)
    monkeypatch.setattr(*where)
    with pytest.raises(AssertionError) as caught:
        check_training(net, *data, **settings)
    assert re.search(message, str(caught.value), re.DOTALL)


# ---------------------------------------------------------------------------------------------
# Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dropout": 0.5}, TypeError, r"does not take dropout \(check_gradients takes it\)"),
        ({"checkpoint": "x"}, TypeError, "does not take checkpoint: it takes batch_size, shuffle"),
        ({"validation_data": 0.5}, TypeError, r"takes validation_data as \(x, y\)"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be"),
        ({"optimizer": "sdg"}, ValueError, "Did you mean 'sgd'"),
    ],
)
def test_what_does_not_serve_is_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        check_training(Network(SIZES, seed=0), *data, **options)


def test_a_network_is_needed(data):
    with pytest.raises(TypeError, match=r"network must be a bp_xp\.Network"):
        check_training(SIZES, *data)
