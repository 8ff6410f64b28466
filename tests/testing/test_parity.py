import dataclasses
import re
import signal
from typing import Any, NamedTuple

import numpy as np
import pytest

from bp_xp import (
    ACTIVATIONS,
    COSTS,
    SGD,
    Activation,
    DivergenceError,
    EarlyStopping,
    Layer,
    Network,
    to_numpy,
)
from bp_xp.errors import DeviceError
from bp_xp.math import dropout, equations
from bp_xp.optim import Adam, RMSprop
from bp_xp.sources import memory
from bp_xp.testing.parity import RTOL, assert_parity
from bp_xp.testing.targets import Target
from bp_xp.training import looks

SIZES = [6, 5, 4, 3]
STEPS_OF_AN_EPOCH = 7  # 50 samples in batches of 8; the last has 2
TANH, QUADRATIC = ACTIVATIONS["tanh"], COSTS["quadratic"]

# The library that a planted difference is on. It takes the plain loop and compiles nothing, so what
# is planted reaches every step.
ODD = "array_api_strict"
PAIR = ["numpy", ODD]


def builder(**options):
    options = {"dtype": "float64", "seed": 0} | options
    return lambda **where: Network(SIZES, **options, **where)


def data():
    generator = np.random.default_rng(0)
    return generator.normal(size=(50, 6)), generator.integers(3, size=50)


def compare(build, x=None, y=None, *, backends=PAIR, steps=20, batch_size=8, **options):
    given = data()
    return assert_parity(
        build,
        given[0] if x is None else x,
        given[1] if y is None else y,
        backends=backends,
        steps=steps,
        batch_size=batch_size,
        **options,
    )


def complaint(build, *args, **options):
    """Return what assert_parity says of networks that differ."""
    with pytest.raises(AssertionError) as caught:
        compare(build, *args, **options)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------
# What is equal passes

RUNS = {
    "sgd": ({}, {"optimizer": SGD(3.0)}),
    "momentum": (
        {"activation": "tanh", "cost": "binary_cross_entropy"},
        {"optimizer": SGD(0.1, momentum=0.9), "l1": 1e-4, "l2": 1e-3, "max_norm": 3.0},
    ),
    "nesterov": (
        {"activation": "softplus", "cost": "categorical_cross_entropy"},
        {"optimizer": SGD(lambda step: 0.1 / (1 + step), momentum=0.9, nesterov=True)},
    ),
    "adam": (
        {"activation": "gelu", "cost": "categorical_cross_entropy"},
        {"optimizer": Adam(0.01), "dropout": [0.2, 0.5, 0.5], "clip_norm": 1.0},
    ),
    "rmsprop": (
        {"activation": "silu", "cost": "huber"},
        {"optimizer": RMSprop(0.01), "validation_data": 0.2, "shuffle": False},
    ),
    "weights": (
        {"activation": ["tanh", "sigmoid"], "output_activation": "softmax"},
        {"sample_weight": np.linspace(0.0, 2.0, 50), "class_weight": "balanced"},
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_training_takes_the_same_steps_on_every_target(target, dtype, run):
    network, options = RUNS[run]
    build = builder(dtype=dtype, **network)
    report = compare(build, backends=["numpy", target], steps=100, **options)
    assert [row.steps for row in report.rows] == [100, 100]


@pytest.mark.needs_float64("rounding may take a z across the kink")
def test_training_across_kinks_takes_the_same_steps_on_every_target(target):
    # In float64 alone: in float32, rounding may take a z across the kink.
    build = builder(activation="relu", cost="categorical_cross_entropy")
    compare(build, backends=["numpy", target], steps=100)


def test_engines_may_take_many_steps_between_two_looks(target, dtype):
    report = compare(builder(dtype=dtype), backends=["numpy", target], steps=100, every=25)
    assert len(report.rows[1].differences) == 5


def test_without_names_every_target_that_works_is_compared():
    report = compare(builder(), backends=None, steps=2)
    assert report.rows[0].target == "numpy-cpu"
    assert {f"{ODD}-cpu", f"{ODD}-device1"} <= {row.target for row in report.rows}


def test_a_target_stands_for_its_name():
    build = builder()
    by_name = compare(build, backends=["numpy", f"{ODD}-device1"])
    assert compare(build, backends=[Target("numpy"), Target(ODD, "device1")]) == by_name


def test_the_report_is_a_table_of_the_targets():
    report = compare(builder(), backends=["numpy", f"{ODD}-device1"], steps=16)
    assert [(row.backend, row.device, row.steps, row.epochs) for row in report.rows] == [
        ("numpy", "cpu", 16, 2),
        (ODD, "device1", 16, 2),
    ]
    assert report.rtol == RTOL["float64"]
    head, reference, other = str(report).splitlines()
    assert head.split() == [
        *("backend", "device", "version", "dtype", "steps", "epochs", "difference", "where")
    ]
    assert reference.split() == [
        *("numpy", "cpu", np.__version__, "float64", "16", "2", "the", "reference")
    ]
    assert other.startswith(f"{ODD}  device1")


def test_the_report_tells_how_far_apart_the_targets_are_at_each_step():
    build = builder(activation=odd_activation(1.0 + 1e-12))
    row = compare(build, steps=10, rtol=1e-9).rows[1]
    assert len(row.differences) == 11
    assert row.differences[0] == 0.0
    assert 0.0 < row.differences[1] < row.differences[10] == row.difference < 1e-9
    assert re.fullmatch(r"step (9|10), [Wb] of layer \d", row.where)


def test_the_costs_of_complete_epochs_are_compared():
    assert compare(builder(), steps=STEPS_OF_AN_EPOCH - 1).rows[1].epochs == 0
    assert compare(builder(), steps=STEPS_OF_AN_EPOCH).rows[1].epochs == 1


def test_early_stopping_may_end_the_runs():
    report = compare(
        builder(),
        steps=70,
        early_stopping=EarlyStopping("cost", patience=2, min_delta=1.0),
    )
    assert [(row.steps, row.epochs) for row in report.rows] == [(21, 3)] * 2


def test_options_and_data_are_left_as_they_came():
    x, y = data()
    options = {"dropout": [0.1, 0.2], "sample_weight": np.ones(50)}
    compare(builder(), x, y, steps=3, **options)
    assert options["dropout"] == [0.1, 0.2]
    assert (x == data()[0]).all()
    assert (y == data()[1]).all()


def test_a_bias_that_holds_nothing_but_rounding_passes():
    # A linear regression of centered data: the errors of the samples cancel in the bias, but for
    # their rounding, which is not the same on both sides.
    x = np.random.default_rng(1).normal(size=(40, 3))
    x = np.concatenate([x, -x])
    rounded = Activation(
        "odd identity",
        lambda z, *, xp: z * (1.0 + 1e-6 if is_odd(xp) else 1.0),
        lambda z, a, *, xp: xp.ones_like(z),
    )

    def build(**where):
        return Network([3, 1], output_activation=rounded, initializer="he_normal", seed=0, **where)

    compare(build, x, np.sin(x).sum(axis=1), batch_size=80)


# ---------------------------------------------------------------------------------------------
# Planted differences


def is_odd(xp):
    return xp.__name__ == ODD


def odd_activation(factor, only_above=-np.inf, of_slope=1.0):
    """Return tanh with another σ (or σ′) on one library, where z is above a limit."""

    def where_odd(values, z, factor, xp):
        return xp.where(z > only_above, values * (factor if is_odd(xp) else 1.0), values)

    return Activation(
        "odd",
        lambda z, *, xp: where_odd(xp.tanh(z), z, factor, xp),
        lambda z, a, *, xp: where_odd(TANH.sigma_prime(z, xp.tanh(z), xp=xp), z, of_slope, xp),
    )


class Count(NamedTuple):
    steps: Any


@dataclasses.dataclass(frozen=True)
class OddDescent:
    """Gradient descent whose rates for W and b may differ on one library from some step on.

    Attributes:
        weights: what the rate of the weights is multiplied by there.
        biases: likewise.
        since: the first step.
    """

    weights: float = 1.0
    biases: float = 1.0
    since: int = 1

    def init(self, layers, *, placement, dtype):
        return Count(placement.asarray(np.zeros(()), dtype))

    def update(self, layers, gradients, state, *, xp):
        steps = state.steps + 1.0

        def rate(factor):
            usual = xp.full_like(steps, 0.1)
            return xp.where(steps >= self.since, usual * (factor if is_odd(xp) else 1.0), usual)

        W_rate, b_rate = rate(self.weights), rate(self.biases)
        return [
            Layer(W - W_rate * dW, b - b_rate * db)
            for (W, b), (dW, db) in zip(layers, gradients, strict=True)
        ], Count(steps)


def odd_weight(**where):
    network = builder()(**where)
    if where["backend"] == ODD:
        layers = [[to_numpy(part).copy() for part in layer] for layer in network.layers]
        layers[1][0][2, 3] += 1e-6
        network.layers = layers
    return network


def odd_cost(part):
    """Return the quadratic cost with a function that is larger by 1e-6 on one library."""
    usual = getattr(QUADRATIC, part)

    def larger(a, y, *, xp):
        return usual(a, y, xp=xp) * (1.0 + 1e-6 if is_odd(xp) else 1.0)

    return dataclasses.replace(QUADRATIC, name="odd", **{part: larger})


def unseeded_copy(**where):
    """Return a network of the same parameters, and another seed each time."""
    layers = builder()(backend="numpy").layers
    return Network.from_layers(layers, dtype="float64", **where)


class Planted(NamedTuple):
    """A difference, and what is to be said of it."""

    build: Any
    options: dict[str, Any]
    step: int
    tensor: str
    cause: str


PLANTED = {
    "sigma": Planted(
        builder(activation=["tanh", odd_activation(1.0 + 1e-6)]),
        {},
        1,
        "W of layer 1",
        "the first quantity to differ is a of layer 2.*Look at σ of the activation 'odd'",
    ),
    "sigma-prime": Planted(
        builder(activation=[odd_activation(1.0, 1.2, of_slope=1.5), "tanh"]),
        {},
        1,
        "W of layer 1",
        r"the first quantity to differ is σ′\(z\) of layer 1.*Look at σ′ of the activation 'odd'",
    ),
    "cost-gradient": Planted(
        builder(cost=odd_cost("gradient")),
        {},
        1,
        "W of layer 1",
        "the first quantity to differ is ∇ₐC.*Look at the gradient of the cost 'odd'",
    ),
    "cost-value": Planted(
        builder(cost=odd_cost("value")),
        {},
        7,
        "cost of the epoch",
        "the first quantity to differ is C.*Look at the value of the cost 'odd'",
    ),
    "drift": Planted(
        builder(),
        {"optimizer": OddDescent(1.01, 1.01, since=7)},
        7,
        "W of layer 1",
        "those after step 6, .*step 7:.all quantities.*agree.*the optimizer OddDescent",
    ),
    "bias-left-out": Planted(
        builder(),
        {"optimizer": OddDescent(biases=0.0)},
        1,
        "b of layer 1",
        "also too far apart: b of layer 2, b of layer 3\n.*the optimizer OddDescent",
    ),
    "initial-weight": Planted(
        odd_weight,
        {},
        0,
        "W of layer 2",
        r"at \[2, 3\].*start from different parameters, although both have the seed 0",
    ),
    "initial-seeds": Planted(
        builder(seed=None),
        {},
        0,
        "W of layer 1",
        r"their seeds are \d+ and \d+:.let build use one seed",
    ),
    "order": Planted(
        unseeded_copy,
        {},
        1,
        "W of layer 1",
        r"In epoch 1 they draw different random numbers.*from the seeds \d+ and \d+: let build use",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_difference_is_caught_with_its_step_its_tensor_and_its_cause(planted):
    build, options, step, tensor, cause = PLANTED[planted]
    message = complaint(build, **options)
    assert message.startswith(f"{ODD}-cpu does not train as numpy-cpu does (float64).")
    assert f"The first difference is after step {step}, in {tensor}" in message
    assert re.search(cause, message, re.DOTALL)
    assert message.endswith(f"DIFFERS: step {step}, {tensor}")


def test_a_float32_product_in_float64_is_caught(monkeypatch):
    exact = equations.weighted_input

    def single(a, W, b):
        xp = a.__array_namespace__()
        if not is_odd(xp):
            return exact(a, W, b)
        return xp.astype(xp.astype(a, xp.float32) @ xp.astype(W, xp.float32).mT, a.dtype) + b

    monkeypatch.setattr(equations, "weighted_input", single)
    message = complaint(builder())
    assert re.search(r"The first difference is after step 1, in W of layer \d", message)
    assert "the first quantity to differ is z of layer 1" in message
    assert "Look at the weighted input z = a Wᵀ + b." in message


def test_other_masks_of_dropout_are_caught(monkeypatch):
    draw = dropout.draw_masks

    def odd_masks(*args, xp, **options):
        masks, state = draw(*args, xp=xp, **options)
        flip = is_odd(xp)
        return [xp.flip(m, axis=0) if flip and m is not None else m for m in masks], state

    monkeypatch.setattr(dropout, "draw_masks", odd_masks)
    message = complaint(builder(), dropout=0.3, l2=1e-3)
    assert "The first difference is after step 1, in W of layer 1" in message
    assert re.search(r"all quantities.*agree.*optimizer SGD\(0.1\), dropout, l2, ", message, re.S)


def test_another_order_on_the_device_is_caught(monkeypatch):
    gather = memory.gather_rows

    def odd_order(xp, steps, rows, *arrays):
        return gather(xp, steps, xp.roll(rows, 1) if is_odd(xp) else rows, *arrays)

    monkeypatch.setattr(memory, "gather_rows", odd_order)
    # With a look after each step, each is gathered separately, and a batch may come in any order.
    compare(builder())
    message = complaint(builder(), every=5)
    assert "The first difference is after step 5, in W of layer 1" in message
    assert "Pass every=1 to see which of 5 steps differs, and why." in message


@pytest.mark.parametrize("steps", [10, 30])
@pytest.mark.parametrize(
    ("part", "cause"),
    [
        ("value", "the first quantity to differ is C.*Look at the value of the cost 'odd'"),
        ("gradient", "the first quantity to differ is ∇ₐC.*Look at the gradient of the cost"),
    ],
)
def test_a_cost_that_differs_between_two_looks_is_told_by_its_cause(steps, part, cause):
    # An epoch has 7 steps, and ends before the first look.
    message = complaint(builder(cost=odd_cost(part)), every=10, steps=steps)
    assert "The first difference is at the end of epoch 1, in cost of the epoch" in message
    assert "From the same parameters, those after step 0, on all samples" in message
    assert re.search(cause, message, re.DOTALL)
    assert "start from different parameters" not in message


def test_an_optimizer_that_differs_between_two_looks_is_not_said_to_be_a_cost():
    message = complaint(builder(), every=10, optimizer=OddDescent(biases=0.0))
    assert "all quantities of backpropagation agree" in message
    assert "or a later step: pass every=1 to see which." in message


def test_orders_that_differ_between_two_looks_are_told():
    seeds = iter([0, 1])
    layers = builder()(backend="numpy").layers

    def build(**where):
        network = Network(SIZES, seed=next(seeds), dtype="float64", **where)
        network.layers = layers
        return network

    message = complaint(build, every=10)
    assert "In epoch 1 they draw different random numbers" in message


def test_costs_that_are_added_up_wrongly_are_caught(monkeypatch):
    totals = looks.totals_of

    def odd_totals(model, classes, xp, *arrays, argmax):
        sums = totals(model, classes, xp, *arrays, argmax=argmax)
        return sums + xp.ones_like(sums) if is_odd(xp) else sums

    monkeypatch.setattr(looks, "totals_of", odd_totals)
    message = complaint(builder())
    assert "The first difference is after step 7, in cost of the epoch" in message
    assert "What differs is how costs are computed over many samples" in message


def test_the_costs_of_validation_are_compared():
    x, y = data()
    build = builder(cost=odd_cost("value"))
    message = complaint(build, validation_data=(x, y), steps=STEPS_OF_AN_EPOCH)
    assert "also too far apart: validation cost of the epoch" in message


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"dropout": 0.4}])
@pytest.mark.parametrize("epoch", [1, 2])
def test_the_cause_is_looked_for_on_the_mini_batch_of_the_step(options, epoch):
    # One sample is special; the cost's gradient is off for it alone. In the first epoch nothing
    # moves if the difference is to come in the second.
    def gradient(a, y, *, xp):
        return (a - y) * xp.where(y > 8.0, xp.ones_like(y) * (2.0 if is_odd(xp) else 1.0), 1.0)

    x = data()[0]
    y = np.random.default_rng(2).random((50, 3))
    y[23, 1] = 9.0
    cost = dataclasses.replace(QUADRATIC, name="odd", gradient=gradient)
    rest = STEPS_OF_AN_EPOCH * (epoch - 1)
    message = complaint(
        builder(cost=cost, output_activation="identity"),
        x,
        y,
        optimizer=SGD(lambda step: 0.01 * (step >= rest)),
        **options,
    )
    step = int(re.search(r"The first difference is after step (\d+)", message)[1])
    assert rest < step <= rest + STEPS_OF_AN_EPOCH
    if not options.get("shuffle", True):
        assert step == rest + 1 + 23 // 8
    assert f"on the mini-batch of step {step}:" in message
    assert "the first quantity to differ is ∇ₐC, row 23 of x, neuron 1:" in message


def test_with_samples_held_out_the_cause_is_looked_for_on_all():
    build = builder(activation=odd_activation(1.0 + 1e-6))
    message = complaint(build, validation_data=0.2)
    assert "on all samples:\nthe first quantity to differ is a of layer 1, row " in message


def test_a_value_that_is_not_finite_on_one_side_is_caught():
    message = complaint(builder(activation=odd_activation(np.nan, only_above=1.8)))
    assert re.search("after step 1, in W of layer 1.* nan\n.*difference +not finite", message, re.S)
    assert "the first quantity to differ is a of layer 1" in message.replace("\n", " ")


def test_a_run_that_diverges_alone_is_caught():
    def value(a, y, *, xp):
        return QUADRATIC.value(a, y, xp=xp) * (np.nan if is_odd(xp) else 1.0)

    cost = dataclasses.replace(QUADRATIC, name="odd", value=value)
    message = complaint(builder(cost=cost))
    assert "It diverges in epoch 1, but the reference does not: the run diverged" in message
    assert "Look at the value of the cost 'odd'." in message
    assert message.endswith("DIFFERS: diverges in epoch 1")


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        (
            {"numpy": 3, ODD: 2},
            "Its parameters agree (rtol 1e-10), but it ends after step 14 of 20.",
        ),
        ({"numpy": 2, ODD: 3}, "but it continues after step 14, where the reference ends."),
    ],
)
def test_a_run_of_another_length_is_caught(monkeypatch, epochs, words):
    fit = Network.fit

    def odd_fit(self, x, y, **options):
        return fit(self, x, y, **(options | {"epochs": epochs[self.backend]}))

    monkeypatch.setattr(Network, "fit", odd_fit)
    assert words in complaint(builder())


@pytest.fixture
def rounded_products(monkeypatch):
    """Let z be rounded another way on one library."""
    exact = equations.weighted_input

    def rounded(a, W, b):
        z = exact(a, W, b)
        return z + 1e-17 if is_odd(a.__array_namespace__()) else z

    monkeypatch.setattr(equations, "weighted_input", rounded)


@pytest.mark.usefixtures("rounded_products")
def test_rounding_across_a_kink_is_told_from_a_wrong_slope():
    x, y = data()
    x[3] = 0.0  # so that z is b, which starts at 0
    build = builder(activation=["relu", "tanh"], initializer="glorot_normal")
    message = complaint(build, x, y, shuffle=False, l2=1e-3)
    assert "The first difference is after step 1, in b of layer 1" in message
    assert "the first quantity to differ is σ′(z) of layer 1, row 3 of x" in message
    assert "There z is 0.0 and 1e-17: rounding takes it across a kink of 'relu'." in message
    assert "That is enough to separate the two runs: take fewer steps" in message
    assert "If that does not explain it, look at the other parts of a step" in message


@pytest.mark.usefixtures("rounded_products")
def test_a_kink_does_not_hide_a_real_difference():
    x, y = data()
    x[3] = 0.0
    build = builder(
        activation=[odd_activation(1.0, of_slope=1.1), "relu"], initializer="glorot_normal"
    )
    message = complaint(build, x, y, shuffle=False)
    assert "the first quantity to differ is σ′(z) of layer 1" in message
    assert "Look at σ′ of the activation 'odd'." in message


def test_a_kink_between_parameters_that_agree_is_told():
    def build(**where):
        network = builder(activation=["relu", "tanh"], initializer="glorot_normal")(**where)
        layers = [[to_numpy(part).copy() for part in layer] for layer in network.layers]
        layers[0][0][2, 4] = 1e-9 if where["backend"] == ODD else 0.0
        network.layers = layers
        return network

    x, y = data()
    x[3] = [
        0.0,
        0.0,
        0.0,
        0.0,
        1.0,
        0.0,
    ]  # z of neuron 2 is that weight, on either side of the kink
    message = complaint(build, x, y, shuffle=False, rtol=1e-6)
    assert "all quantities of backpropagation agree.\nFrom each network's own parameters" in message
    assert "There z is 0.0 and 1e-09: rounding takes it across a kink of 'relu'." in message


def test_a_difference_that_grows_is_told_from_one_that_begins():
    message = complaint(builder(), optimizer=OddDescent(1.0 + 1e-9), rtol=1e-10)
    assert "The difference has grown over the steps.\nIf it is rounding, take fewer" in message
    assert "If it is not, look at the other parts of a step: the optimizer OddDescent" in message


def test_an_rtol_below_rounding_is_told():
    message = complaint(builder(activation=odd_activation(1.0 + 1e-15)), rtol=0.0)
    assert "The difference is only rounding: raise rtol to 2e-14." in message


def test_of_three_targets_one_that_strays_is_shown_beside_the_others():
    message = complaint(
        builder(activation=odd_activation(1.0 + 1e-6)),
        backends=[f"{ODD}-cpu", f"{ODD}-device1", "numpy"],
    )
    assert message.startswith(f"numpy-cpu does not train as {ODD}-cpu does")
    table = message.splitlines()[-3:]
    assert table[1].endswith("equal to the last bit")
    assert table[2].endswith("DIFFERS: step 1, W of layer 1")
    assert "at fault" not in message


def test_a_reference_that_all_others_differ_from_is_named():
    message = complaint(
        builder(activation=odd_activation(1.0 + 1e-6)),
        backends=["numpy", f"{ODD}-cpu", f"{ODD}-device1"],
    )
    assert "All others differ from numpy-cpu there: it may be the one at fault." in message


# ---------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backends": ["numpy"]}, ValueError, r"needs at least two targets.*not \['numpy'\]"),
        ({"backends": []}, ValueError, "needs at least two targets"),
        ({"backends": "numpy,torch"}, TypeError, "backends must be a list such as"),
        ({"backends": ["numpy", "numpie"]}, ValueError, "unknown backend 'numpie'.*'numpy'"),
        ({"backends": ["numpy", 3]}, TypeError, "a target is a text"),
        ({"backends": ["numpy", f"{ODD}-mars"]}, ValueError, "no device 'mars'"),
        ({"backends": ["numpy", "jax-cuda:99"]}, (DeviceError, ImportError), "jax|cuda:99"),
        ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
        ({"steps": 2.5}, TypeError, "steps must be an integer"),
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"steps": 20, "every": 7}, ValueError, "multiple of every, 7, not 20"),
        ({"rtol": -1.0}, ValueError, "rtol must be finite and at least 0"),
        ({"callbacks": []}, TypeError, "does not take callbacks: one object would watch"),
        ({"epochs": 3}, TypeError, "does not take epochs: steps= sets"),
        ({"checkpoint": "a"}, TypeError, "does not take checkpoint: each run would overwrite"),
        ({"eta": 3.0}, TypeError, "unexpected keyword argument 'eta'"),
        ({"x": [[0.0]] * 50}, ValueError, "x has 1 features, but the network is expecting 6"),
        ({"y": [0, 1]}, ValueError, "2.*50|50.*2"),
    ],
)
def test_bad_arguments_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        compare(builder(), **options)


def test_an_error_tells_on_which_target_it_came():
    with pytest.raises(ValueError, match="features") as caught:
        compare(builder(), x=[[0.0]] * 50)
    assert caught.value.__notes__ == ["raised while training on numpy-cpu, in assert_parity"]


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (
            lambda **where: Network(SIZES, seed=0),
            ValueError,
            rf"build\(backend='{ODD}', device='cpu'\) returned a network on numpy-cpu",
        ),
        (
            lambda **where: Network(SIZES, seed=0, backend=where["backend"]),
            ValueError,
            rf"device='device1'\) returned a network on {ODD}-cpu: let build pass both on",
        ),
        (lambda **where: None, TypeError, "must return a Network, not None"),
        (
            lambda **where: Network(SIZES if where["backend"] == ODD else [6, 3], **where),
            ValueError,
            r"different sizes: \(6, 3\) on numpy, \(6, 5, 4, 3\) on array_api_strict",
        ),
        (
            lambda **where: Network(
                SIZES, dtype="float64" if where["backend"] == ODD else "float32", **where
            ),
            ValueError,
            "different dtype: 'float32' on numpy, 'float64' on array_api_strict",
        ),
    ],
)
def test_a_build_that_does_not_serve_is_refused(build, error, words):
    with pytest.raises(error, match=words):
        compare(build, backends=["numpy", ODD, f"{ODD}-device1"])


def test_an_error_of_build_tells_the_target():
    def build(backend, device):
        if backend == ODD:
            raise RuntimeError("no")
        return builder()(backend=backend, device=device)

    with pytest.raises(RuntimeError) as caught:
        compare(build)
    assert caught.value.__notes__ == [f"raised by build for {ODD}-cpu, in assert_parity"]


def test_too_few_targets_that_work_are_told_with_the_reasons(monkeypatch):
    monkeypatch.setattr(
        "bp_xp.testing.parity.default_targets",
        lambda: [Target("numpy", "cpu"), Target("jax", "cuda:99")],
    )
    with pytest.raises(ValueError, match=r"needs two targets that work here: jax-cuda:99: "):
        compare(builder(), backends=None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_reference_that_diverges_is_an_error():
    build = builder(activation="relu", output_activation="identity", cost="quadratic")
    with pytest.raises(DivergenceError, match=r"the reference numpy-cpu diverges: .* after step "):
        compare(build, optimizer=SGD(1e200))


def test_ctrl_c_ends_the_comparison():
    def value(a, y, *, xp):
        if a.shape[-2] == 8 and is_odd(xp):
            signal.raise_signal(signal.SIGINT)
        return QUADRATIC.value(a, y, xp=xp)

    with pytest.raises(KeyboardInterrupt):
        compare(builder(cost=dataclasses.replace(QUADRATIC, name="odd", value=value)))


@pytest.mark.parametrize(
    ("build", "came"),
    [
        (Network([2, 3, 1], seed=0), "Network, which does not make a network"),
        (lambda: Network([2, 3, 1], seed=0), "unexpected keyword argument|too many"),
        (None, "NoneType, which does not make a network"),
    ],
    ids=["network", "no-arguments", "none"],
)
def test_what_is_no_build_is_refused_with_an_example(build, came):
    with pytest.raises(TypeError, match=rf"lambda \*\*where: Network.*({came})"):
        assert_parity(build, [[0.0, 1.0]], [[1.0]], backends=["numpy", "numpy"])


def test_targets_without_the_networks_dtype_are_left_out_where_none_are_named(monkeypatch):
    pytest.importorskip("array_api_strict")
    strict = [Target("array_api_strict", device) for device in ("no_float64", "device1")]
    targets = [Target("numpy"), *strict]
    monkeypatch.setattr("bp_xp.testing.parity.default_targets", lambda: targets)
    x, y = np.ones((4, 2)), np.asarray([0, 1, 0, 1])

    def compared(dtype):
        report = assert_parity(
            lambda **where: Network([2, 2], dtype=dtype, seed=0, **where), x, y, steps=2
        )
        return [row.device for row in report.rows]

    assert compared("float64") == ["cpu", "device1"]
    assert compared("float32") == ["cpu", "no_float64", "device1"]
