import dataclasses
import re

import numpy as np
import pytest
from helpers import random_layers, random_samples, widest

from bp_xp import ACTIVATIONS, COSTS, Activation, Cost, Layer, MatchedCost, Network
from bp_xp.backends import to_numpy
from bp_xp.backends.jax import engine as jax_engine
from bp_xp.math import backprop, dropout, equations, regularization
from bp_xp.testing.gradients import TensorCheck, check_gradients
from bp_xp.training import step

HIDDEN = [name for name, sigma in ACTIVATIONS.items() if not sigma.coupled]
CHAINED = ["quadratic", "huber"]  # costs that take any output activation
SIZES = [4, 6, 5, 3]
COMBINATIONS = [
    *(pytest.param({"activation": a, "cost": c}, id=f"{a}-{c}") for a in HIDDEN for c in COSTS),
    *(
        pytest.param({"output_activation": o, "cost": c}, id=f"output-{o}-{c}")
        for o in ACTIVATIONS
        for c in CHAINED
    ),
]


def make_network(rng, sizes=SIZES, dtype=None, where=None, **options):
    if where is not None:
        dtype = dtype or widest(where)
        options |= {"backend": where.backend, "device": where.device_name}
    return Network.from_layers(random_layers(sizes, rng), dtype=dtype or "float64", **options)


# ---------------------------------------------------------------------------------------------
# What is right passes


@pytest.mark.parametrize("options", COMBINATIONS)
def test_every_activation_and_cost_pass_entry_by_entry(rng, options):
    network = make_network(rng, **options)
    report = check_gradients(network, *random_samples(network, rng))
    assert report.passed
    assert report.checked + report.left_out == sum(
        p.size for layer in network.layers for p in layer
    )
    assert report.left_out == 0  # random samples lie on no kink
    assert report.worst_error < 1e-8


@pytest.mark.parametrize("options", COMBINATIONS)
def test_every_activation_and_cost_pass_everywhere(where, dtype, rng, options):
    network = make_network(rng, where=where, dtype=dtype, **options)
    report = check_gradients(network, *random_samples(network, rng), directions=1)
    assert report.checked == 6
    # Two products deep and a mean over 8 samples: some dozens of roundings.
    assert report.worst_error < {"float32": 1e-5, "float64": 1e-8}[dtype]


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_tensors_are_checked_along_directions(rng, dtype, activation):
    network = make_network(
        rng, [200, 300, 10], dtype, activation=activation, cost="categorical_cross_entropy"
    )
    report = check_gradients(network, *random_samples(network, rng, 50))
    lines = [(one.checked, one.lines) for one in report.tensors]
    assert lines == [(8, "directions"), (8, "directions"), (8, "directions"), (10, "entries")]
    assert report.passed


def test_number_of_directions_can_be_chosen(rng):
    network = make_network(rng, [12, 11, 3])
    data = random_samples(network, rng)

    def lines(directions):
        report = check_gradients(network, *data, directions=directions)
        return [(one.checked, one.lines) for one in report.tensors]

    assert lines(None) == [(8, "directions"), (11, "entries"), (33, "entries"), (3, "entries")]
    assert lines("all") == [(132, "entries"), (11, "entries"), (33, "entries"), (3, "entries")]
    assert lines(3) == [(3, "directions")] * 4


def test_labels_serve_as_targets(rng):
    network = make_network(rng, cost="categorical_cross_entropy")
    assert check_gradients(network, rng.normal(size=(8, 4)), rng.integers(0, 3, 8)).passed


def test_arrays_of_the_device_serve_as_data(where, dtype, rng):
    network = make_network(rng, where=where, dtype=dtype)
    x, y = (network.asarray(values) for values in random_samples(network, rng))
    assert check_gradients(network, x, y, directions=1).passed


def test_inputs_of_any_size_pass(rng):
    # A step of 0.001 moves z by 0.25 where x is 255: finer steps are needed.
    network = make_network(rng, activation="tanh")
    x, y = random_samples(network, rng)
    assert check_gradients(network, 255.0 * np.abs(x[:2]), y[:2], directions=4).passed


def test_network_is_left_as_it_came(where, dtype, rng):
    network = make_network(rng, where=where, dtype=dtype, activation="relu")
    layers, state = network.layers, network._generator.bit_generator.state
    values = [to_numpy(part).copy() for layer in layers for part in layer]
    x, y = random_samples(network, rng)
    given = x.copy(), y.copy()
    check_gradients(network, x, y, directions=1)
    assert all(
        now is before
        for old, new in zip(layers, network.layers, strict=True)
        for before, now in zip(old, new, strict=True)
    )
    for before, part in zip(values, (p for layer in layers for p in layer), strict=True):
        assert np.array_equal(before, to_numpy(part))
    assert np.array_equal(x, given[0])
    assert np.array_equal(y, given[1])
    assert network._generator.bit_generator.state == state
    assert network.dtype == dtype


@pytest.mark.needs_float64("finite differences")
def test_differences_are_taken_where_the_network_is(where, rng):
    network = make_network(rng, where=where, dtype="float32")
    assert check_gradients(network, *random_samples(network, rng), directions=1).reference == (
        f"on {where.backend} {where.device_name}"
    )


def test_without_float64_the_differences_are_taken_on_numpy(rng):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", False)
    try:
        network = Network(SIZES, backend="jax", seed=0)
        report = check_gradients(network, *random_samples(network, rng), directions=2)
    finally:
        jax.config.update("jax_enable_x64", True)
    assert report.passed
    assert report.reference == "on numpy cpu"


def test_same_seed_takes_the_same_directions(rng):
    network = make_network(rng, dtype="float32")
    data = random_samples(network, rng)
    first, again = (check_gradients(network, *data, directions=2, seed=5) for _ in range(2))
    assert first == again
    assert first != check_gradients(network, *data, directions=2, seed=6)


def test_report_prints_as_a_table(rng):
    network = make_network(rng, [2, 3, 1], activation="tanh")
    text = str(check_gradients(network, *random_samples(network, rng)))
    head, _, columns, *rows = text.splitlines()
    assert "Network([2, 3, 1]" in head
    assert columns.split() == [
        "layer",
        "tensor",
        "shape",
        "worst",
        "error",
        "checked",
        "left",
        "out",
    ]
    found = [re.split(r" {2,}", row) for row in rows]
    assert [row[:3] for row in found] == [
        ["1", "W", "(3, 2)"],
        ["1", "b", "(3,)"],
        ["2", "W", "(1, 3)"],
        ["2", "b", "(1,)"],
    ]
    assert [row[4] for row in found] == ["6 entries", "3 entries", "3 entries", "1 entries"]
    assert [row[5] for row in found] == ["0"] * 4


# ---------------------------------------------------------------------------------------------
# Kinks


def kinked(slope):
    """Return a ReLU that says its derivative at 0 is ``slope``."""

    def sigma_prime(z, a, *, xp):
        return xp.where(z == 0.0, slope * xp.ones_like(z), xp.astype(z > 0.0, z.dtype))

    return Activation(f"ReLU with {slope}", ACTIVATIONS["relu"].sigma, sigma_prime)


def at_kinks(rng, units, slope=0.0):
    """Return a network some of whose hidden units have z = 0 for the first sample: its x is 0."""
    network = make_network(rng, [4, 6, 3], activation=kinked(slope))
    (W, b), output = network.layers
    b[:units] = 0.0
    network.layers = [Layer(W, b), output]
    x, y = random_samples(network, rng)
    x[0] = 0.0
    return network, x, y


@pytest.mark.parametrize("distance", [0.0, 1e-7, 1e-5, 4e-4, 6.667e-4, 1.3e-3, 1.9e-3])
def test_kink_within_reach_of_the_step_is_no_defect(rng, distance):
    network, x, y = at_kinks(rng, 6)
    (W, b), output = network.layers
    b += distance * np.array([1, -1, 1, -1, 1, -1])
    network.layers = [Layer(W, b), output]
    report = check_gradients(network, x, y)
    assert report.passed
    assert report.left_out == 0


def test_derivative_at_a_kink_may_be_that_of_either_side(rng):
    for slope in (0.0, 1.0):
        assert check_gradients(*at_kinks(rng, 6, slope)).left_out == 0


def test_entries_at_kinks_are_left_out_and_counted(rng):
    report = check_gradients(*at_kinks(rng, 2, 0.3))
    assert [(one.layer, one.name, one.left_out) for one in report.tensors] == [
        (1, "W", 0),
        (1, "b", 2),
        (2, "W", 0),
        (2, "b", 0),
    ]
    assert report.left_out == 2
    assert report.passed


def test_too_many_kinks_do_not_pass_silently(rng):
    with pytest.raises(
        AssertionError, match=r"could not be checked in layer 1 b: .*kinks"
    ) as caught:
        check_gradients(*at_kinks(rng, 6, 0.3))
    assert re.search(r"1 +b +\(6,\) +- +0 \w+ +6 +UNCHECKED", str(caught.value))


def test_many_kinks_along_a_direction_pass(rng):
    # 300 units and 200 samples: along a random direction some z = 0 is always near.
    network = make_network(rng, [20, 300, 300, 5], activation="relu", cost="huber")
    assert check_gradients(network, *random_samples(network, rng, 200)).left_out == 0


def test_kinks_of_the_cost_are_no_defects(rng):
    network = make_network(rng, cost="huber", output_activation="identity")
    x, _ = random_samples(network, rng)
    y = to_numpy(network.feedforward(x)) + 1.0  # |a − y| = 1, where Huber's halves meet
    assert check_gradients(network, x, y).left_out == 0


def test_a_small_kink_does_not_excuse_a_large_error(rng):
    leaky = Activation(
        "nearly smooth",
        lambda z, *, xp: z + 1e-4 * xp.maximum(z, 0.0),
        lambda z, a, *, xp: 1.01 + 1e-4 * xp.astype(z > 0.0, z.dtype),
    )
    network = make_network(rng, [4, 6, 3], activation=leaky)
    (W, b), output = network.layers
    network.layers = [Layer(W, 0.0 * b), output]
    x, y = random_samples(network, rng)
    x[:] = 0.0
    with pytest.raises(AssertionError, match="layer 1, b: look there"):
        check_gradients(network, x, y)


def test_derivatives_that_drown_in_rounding_do_not_pass_silently(rng):
    network = make_network(rng, [4, 6, 3], activation="sigmoid")
    (W, b), output = network.layers
    network.layers = [Layer(W, b + 32.0), output]  # σ′ is about 1e-14
    with pytest.raises(AssertionError, match="could not be checked in layer 1 W, layer 1 b: "):
        check_gradients(network, *random_samples(network, rng))


def test_derivatives_that_are_zero_pass(rng):
    network = make_network(rng, [4, 6, 3], activation="relu")
    (W, b), output = network.layers
    network.layers = [Layer(W, b - 100.0), output]  # all hidden units are dead
    report = check_gradients(network, *random_samples(network, rng))
    assert report.passed
    assert report.left_out == 0


# ---------------------------------------------------------------------------------------------
# What is wrong is caught, and the layer named

SQUARE = [4, 4, 4, 3]
N = 4  # samples, as many as hidden neurons: some mistakes show only in the numbers

EQUATIONS = {name: getattr(equations, name) for name in equations.__all__}


def planted(name):
    """Return a decorator for a wrong version of an equation, which is given the right one."""

    def decorate(function):
        def plant(monkeypatch):
            right = EQUATIONS[name]
            monkeypatch.setattr(equations, name, lambda *a, **k: function(right, *a, **k))
            return {}

        return plant

    return decorate


@planted("hidden_error")
def wrong_sign(right, delta, W, slope):
    return -right(delta, W, slope)


@planted("output_error")
def no_slope_in_bp1(right, nabla_a, slope):
    return 1.0 * nabla_a


@planted("hidden_error")
def no_slope_in_bp2(right, delta, W, slope):
    return delta @ W


@planted("hidden_error")
def weights_transposed(right, delta, W, slope):
    return right(delta, W.mT if W.shape[0] == W.shape[1] else W, slope)


@planted("weight_gradient")
def gradient_transposed(right, delta, a):
    nabla_W = right(delta, a)
    return nabla_W.mT if nabla_W.shape[0] == nabla_W.shape[1] else nabla_W


@planted("bias_gradient")
def bias_over_the_wrong_axis(right, delta, *, xp):
    return xp.sum(delta, axis=-1) if delta.shape[0] == delta.shape[1] else right(delta, xp=xp)


@planted("bias_gradient")
def bias_of_the_first_sample(right, delta, *, xp):
    return delta[0, ...]


@planted("bias_gradient")
def bias_left_out(right, delta, *, xp):
    return 0.0 * right(delta, xp=xp)


@planted("output_error")
def no_mean(right, nabla_a, slope):
    return nabla_a.shape[0] * right(nabla_a, slope)


@planted("output_error")
def mean_taken_twice(right, nabla_a, slope):
    return right(nabla_a, slope) / nabla_a.shape[0]


def inputs_in_place_of_activations(monkeypatch):
    seen = []

    def weighted_input(a, W, b):
        if W.shape == (4, 4):
            seen.append(a)
        return EQUATIONS["weighted_input"](a, W, b)

    def weight_gradient(delta, a):
        return EQUATIONS["weight_gradient"](delta, seen[0])

    monkeypatch.setattr(equations, "weighted_input", weighted_input)
    monkeypatch.setattr(equations, "weight_gradient", weight_gradient)
    return {}


def hidden(name, sigma_prime):
    """Return a defect that is a hidden layer's wrong σ′, given the right one."""
    right = ACTIVATIONS[name]
    wrong = Activation(
        f"wrong {name}",
        right.sigma,
        lambda z, a, *, xp: sigma_prime(right.sigma_prime, z, a, xp),
    )
    return lambda monkeypatch: {"activation": wrong}


def without_the_other_outputs(monkeypatch):
    right = ACTIVATIONS["softmax"]

    def sigma_prime(z, a, *, xp):
        jacobian = right.sigma_prime(z, a, xp=xp)
        return xp.triu(xp.tril(jacobian))

    wrong = dataclasses.replace(right, name="wrong softmax", sigma_prime=sigma_prime)
    return {"output_activation": wrong}


def cost_with(gradient):
    right = COSTS["huber"]
    wrong = Cost(
        "wrong", right.value, lambda a, y, *, xp: gradient(right.gradient, a, y, xp), "identity"
    )
    return lambda monkeypatch: {"cost": wrong}


def slope_that_should_cancel(monkeypatch):
    right = COSTS["binary_cross_entropy"]
    wrong = MatchedCost(
        "wrong", right.value, lambda a, y, *, xp: (a - y) * a * (1.0 - a), right.output
    )
    return {"cost": wrong}


def layers_swapped(monkeypatch):
    right = Network.backprop

    def backprop(self, x, y):
        first, second, third = right(self, x, y)
        return [second, first, third]

    monkeypatch.setattr(Network, "backprop", backprop)
    return {}


# The layer where each error is made, and what is wrong there.
DEFECTS = {
    "sign of the error in BP2": (wrong_sign, 2, "W and b"),
    "no σ′ in BP1": (no_slope_in_bp1, 3, "W and b"),
    "no σ′ in BP2": (no_slope_in_bp2, 2, "W and b"),
    "W transposed in BP2": (weights_transposed, 1, "W and b"),
    "∂C/∂W transposed": (gradient_transposed, 2, "W"),
    "∂C/∂b over the wrong axis": (bias_over_the_wrong_axis, 2, "b"),
    "∂C/∂b of the first sample": (bias_of_the_first_sample, 3, "b"),
    "∂C/∂b left out": (bias_left_out, 3, "b"),
    "1/N forgotten": (no_mean, 3, "W and b"),
    "1/N twice": (mean_taken_twice, 3, "W and b"),
    "inputs for activations in BP4": (inputs_in_place_of_activations, 3, "W"),
    "σ′ at a": (hidden("tanh", lambda f, z, a, xp: f(a, xp.tanh(a), xp=xp)), 2, "W and b"),
    "σ′ a thousandth off": (
        hidden("gelu", lambda f, z, a, xp: 1.001 * f(z, a, xp=xp)),
        2,
        "W and b",
    ),
    "σ′ without its kink": (hidden("relu", lambda f, z, a, xp: xp.ones_like(z)), 2, "W and b"),
    "softmax without the other outputs": (without_the_other_outputs, 3, "W and b"),
    "cost with a factor 2": (cost_with(lambda f, a, y, xp: 2.0 * f(a, y, xp=xp)), 3, "W and b"),
    "cost without its kink": (cost_with(lambda f, a, y, xp: a - y), 3, "W and b"),
    "σ′ that should cancel": (slope_that_should_cancel, 3, "W and b"),
    "layers swapped": (layers_swapped, 2, "W and b"),
}
EVERYWHERE = ["sign of the error in BP2", "∂C/∂b of the first sample", "σ′ a thousandth off"]


def assert_caught(network, x, y, defect, **options):
    _, layer, parts = DEFECTS[defect]
    with pytest.raises(AssertionError) as caught:
        check_gradients(network, x, y, **options)
    text = str(caught.value)
    assert f"the first error is in layer {layer}, {parts}: look there" in text
    for row in text.splitlines():
        if found := re.match(r"(\d) +([Wb]) .*?(WRONG)?$", row):
            right_above = int(found[1]) > layer or (
                int(found[1]) == layer and found[2] not in parts
            )
            assert not (right_above and found[3]), row
    return text


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_caught_and_its_layer_named(monkeypatch, rng, defect, dtype):
    right = make_network(rng, SQUARE, dtype)
    data = random_samples(right, rng, N)
    data = data[0], 3.0 * data[1] if "cost" in defect else data[1]  # beyond the kinks of Huber
    assert check_gradients(right, *data).passed
    network = make_network(rng, SQUARE, dtype, **DEFECTS[defect][0](monkeypatch))
    text = assert_caught(network, *data, defect)
    claim = r"wrong in layer \d, [Wb]\[\d(, \d)?\]: the derivative is \S+ by backprop and \S+ by"
    assert re.search(claim, text)


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_is_caught_along_two_directions(monkeypatch, rng, defect):
    network = make_network(rng, SQUARE, **DEFECTS[defect][0](monkeypatch))
    x, y = random_samples(network, rng, N)
    assert_caught(network, x, 3.0 * y if "cost" in defect else y, defect, directions=2)


@pytest.fixture
def no_program_stays():
    """Let what is compiled of wrong equations serve no test but this one."""
    jax_engine._compile.cache_clear()
    yield
    jax_engine._compile.cache_clear()


@pytest.mark.usefixtures("no_program_stays")
@pytest.mark.parametrize("defect", EVERYWHERE)
def test_defect_is_caught_everywhere(monkeypatch, where, rng, defect):
    network = make_network(rng, SQUARE, where=where, **DEFECTS[defect][0](monkeypatch))
    assert_caught(network, *random_samples(network, rng, N), defect, directions=1)


class WrongEntry(Network):
    """A network whose gradient is wrong in one entry of its first layer."""

    factor = 1.5

    def backprop(self, x, y):
        first, *rest = super().backprop(x, y)
        first.W[7, 11] *= self.factor
        return [first, *rest]


def test_wrong_entry_of_a_large_tensor_is_found_and_named(rng):
    network = WrongEntry.from_layers(random_layers([15, 17, 3], rng), dtype="float64")
    with pytest.raises(AssertionError, match=r"layer 1, W\[7, 11\]: .* by backprop and") as caught:
        check_gradients(network, *random_samples(network, rng))
    claimed, measured = re.search(r"is (\S+) by backprop and (\S+) by", str(caught.value)).groups()
    assert float(claimed) == pytest.approx(1.5 * float(measured), rel=1e-5)
    assert re.search(r"1 +W +\(17, 15\) +\S+ +8 directions +0 +WRONG", str(caught.value))


def test_wrong_entry_that_is_hard_to_find_is_caught_along_a_direction(rng):
    network = WrongEntry.from_layers(random_layers([200, 300, 3], rng), dtype="float64")
    network.factor = 1e3
    with pytest.raises(AssertionError, match="layer 1, W along a random direction: "):
        check_gradients(network, *random_samples(network, rng), directions=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_derivative_that_is_no_number_is_wrong(rng, value):
    network = WrongEntry.from_layers(random_layers([12, 8, 3], rng), dtype="float64")
    network.factor = value
    with pytest.raises(
        AssertionError, match=r"layer 1, W\[7, 11\]: the derivative is (nan|-?inf) "
    ):
        check_gradients(network, *random_samples(network, rng))


def test_derivatives_of_another_shape_are_wrong(rng):
    class Transposed(Network):
        def backprop(self, x, y):
            return [Layer(W.mT, b) for W, b in super().backprop(x, y)]

    network = Transposed.from_layers(random_layers([4, 3], rng), dtype="float64")
    with pytest.raises(AssertionError, match=r"shapes \[\(\(4, 3\), \(3,\)\)\], not \[\(\(3, 4\)"):
        check_gradients(network, *random_samples(network, rng))


def test_tolerance_decides(rng):
    network = make_network(rng, **hidden("tanh", lambda f, z, a, xp: 1.001 * f(z, a, xp=xp))(None))
    data = random_samples(network, rng)
    assert check_gradients(network, *data, tolerance=1e-2).worst_error == pytest.approx(1e-3, rel=1)
    with pytest.raises(AssertionError, match=r"tolerance 0\.0001\)"):
        check_gradients(network, *data, tolerance=1e-4)


# ---------------------------------------------------------------------------------------------
# The edge


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"directions": 0}, ValueError, "directions must be at least 1, not 0"),
        ({"directions": "some"}, ValueError, "a number, 'all' or None, not 'some'"),
        ({"directions": 1.5}, TypeError, "directions must be an integer"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be finite and above 0"),
        ({"step": -1e-3}, ValueError, "step must be finite and above 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"x": [[1.0]]}, ValueError, "x has 1 features"),
        ({"network": "net"}, TypeError, "network must be a bp_xp.Network, not 'net'"),
    ],
    ids=str,
)
def test_bad_argument_is_refused(options, error, message):
    arguments = {"network": Network([2, 1], seed=0), "x": [[1.0, 2.0]], "y": [0]} | options
    with pytest.raises(error, match=message):
        check_gradients(**arguments)


def test_cost_that_is_not_finite_is_refused(rng):
    cost = Cost(
        "infinite",
        lambda a, y, *, xp: np.inf * xp.sum(a * a, axis=-1),
        lambda a, y, *, xp: xp.ones_like(a),
    )
    network = make_network(rng, cost=cost)
    with pytest.raises(ValueError, match="the mean cost is inf: there is no gradient to check"):
        check_gradients(network, *random_samples(network, rng))


def test_tensor_says_where_its_worst_error_is():
    some = TensorCheck(2, "W", (4, 3), "entries", 12, 0, 0.5, (3, 1), 1.0, 2.0)
    assert some.where == "layer 2, W[3, 1]"
    assert dataclasses.replace(some, index=None).where == "layer 2, W along a random direction"


# ---------------------------------------------------------------------------------------------
# Weights, penalties, dropout

TERMS = {
    "weights": {"weights": [0.5, 0.0, 2.0, 1.0, 1.0, 3.0, 0.1, 1.5]},
    "l1": {"l1": 0.01},
    "l2": {"l2": [0.1, 0.0, 0.3]},
    "dropout": {"dropout": [0.2, 0.5, 0.3]},
    "all": {
        "weights": [0.5, 0.0, 2.0, 1.0, 1.0, 3.0, 0.1, 1.5],
        "l1": [0.01, 0.02, 0.0],
        "l2": 0.1,
        "dropout": 0.4,
    },
}


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize(
    "options", [{}, {"cost": "binary_cross_entropy"}, {"output_activation": "softmax"}]
)
def test_what_a_gradient_holds_besides_the_cost_is_right(where, dtype, rng, options, terms):
    network = make_network(rng, where=where, dtype=dtype, **options)
    x, y = random_samples(network, rng)
    before = [to_numpy(part).copy() for layer in network.layers for part in layer]
    report = check_gradients(network, x, y, **TERMS[terms])
    assert report.passed
    assert report.left_out == 0
    assert report.worst_error < {"float32": 1e-4, "float64": 1e-8}[dtype]
    assert terms == "all" or f", with {terms}" in str(report)
    after = [to_numpy(part) for layer in network.layers for part in layer]
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def plant_weights_by_n(monkeypatch):
    def shares(weights, n, *, xp):
        return 1.0 / n if weights is None else (weights / n)[..., None]

    monkeypatch.setattr(backprop, "_shares", shares)


def plant_weights_left_out(monkeypatch):
    whole = step.backpropagate
    monkeypatch.setattr(
        step, "backpropagate", lambda *a, weights, **o: whole(*a, weights=None, **o)
    )


def plant_doubled_l2(monkeypatch):
    add = regularization.add_l2_gradient
    monkeypatch.setattr(
        regularization, "add_l2_gradient", lambda g, layers, l2: add(add(g, layers, l2), layers, l2)
    )


def plant_l1_without_sign(monkeypatch):
    def add(gradients, layers, l1, *, xp):
        return [
            Layer(dW + one * xp.abs(xp.sign(W)), db)
            for (dW, db), (W, _), one in zip(gradients, layers, l1, strict=True)
        ]

    monkeypatch.setattr(regularization, "add_l1_gradient", add)


def plant_penalized_biases(monkeypatch):
    def add(gradients, layers, l2):
        return [
            Layer(dW + one * W, db + one * b)
            for (dW, db), (W, b), one in zip(gradients, layers, l2, strict=True)
        ]

    monkeypatch.setattr(regularization, "add_l2_gradient", add)


def plant_masks_forward_only(monkeypatch):
    walk = backprop.errors
    monkeypatch.setattr(backprop, "errors", lambda *a, masks=None, **o: walk(*a, **o))


def plant_masks_of_another_layer(monkeypatch):
    forward = backprop.forward

    def odd(model, layers, x, *, masks=None, xp):
        masks = masks and [masks[0], masks[2], masks[1]]
        return forward(model, layers, x, masks=masks, xp=xp)

    monkeypatch.setattr(backprop, "forward", odd)


def plant_masks_that_keep_no_mean(monkeypatch):
    keep = dropout.keep_scale
    monkeypatch.setattr(
        dropout, "keep_scale", lambda c, key, rate, **o: keep(c, key, rate, **o) * (1.0 - rate)
    )


def plant_masks_of_another_rate(monkeypatch):
    keep = dropout.keep_scale

    def odd(counters, key, rate, *, xp, dtype):
        mask = keep(counters, key, 0.05, xp=xp, dtype=dtype)
        return mask * (0.95 / (1.0 - rate))

    monkeypatch.setattr(dropout, "keep_scale", odd)


@pytest.mark.parametrize(
    ("plant", "terms", "message"),
    [
        (plant_weights_by_n, {"weights": np.arange(8.0)}, "right without weights, look at these"),
        (plant_weights_left_out, {"weights": np.arange(8.0)}, "right without weights"),
        (plant_doubled_l2, {"l2": 0.1}, r"wrong in layer \d, W\[.*right without l2 \[0.1, 0.1"),
        (plant_penalized_biases, {"l2": 0.1}, r"wrong in layer \d, b\["),
        (plant_l1_without_sign, {"l1": 0.1}, r"wrong in layer \d, W\[.*right without l1"),
        (plant_masks_forward_only, {"dropout": 0.4}, "gradient of a step is wrong in layer"),
        (plant_masks_of_another_layer, {"dropout": [0.2, 0.5, 0.5]}, "wrong in layer"),
        (plant_masks_that_keep_no_mean, {"dropout": 0.4}, r"layer 1's .* contains 1: .*1\.66667"),
        (plant_masks_of_another_rate, {"dropout": 0.8}, "leaves out 0.0.*rate is 0.8"),
    ],
    ids=lambda value: getattr(value, "__name__", "").removeprefix("plant_") or None,
)
def test_what_is_wrong_alike_on_all_libraries_is_caught(rng, monkeypatch, plant, terms, message):
    network = make_network(rng, [4, 6, 6, 3])
    x, y = random_samples(network, rng)
    check_gradients(network, x, y, **terms)
    plant(monkeypatch)
    with pytest.raises(AssertionError) as caught:
        check_gradients(network, x, y, **terms)
    assert re.search(message, str(caught.value), re.DOTALL)


def test_terms_are_checked_as_those_of_fit(rng):
    network = make_network(rng)
    x, y = random_samples(network, rng)
    for terms, message in (
        ({"weights": [1.0]}, r"sample_weight must have shape \(8,\)"),
        ({"l2": -1.0}, "l2 must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"l1": [0.1]}, "l1 must be a single value, or one for each of the 3 layers"),
    ):
        with pytest.raises(ValueError, match=message):
            check_gradients(network, x, y, **terms)
