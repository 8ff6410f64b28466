import copy
import functools
import math

import numpy as np
import pytest
from helpers import assert_agrees, on_host, random_network, random_samples, tolerance, widest

from bp_xp import (
    SGD,
    Activation,
    Callback,
    Cost,
    DivergenceError,
    MatchedCost,
    Network,
    inspection,
    to_numpy,
)
from bp_xp.inspection import SATURATED_BELOW, GradientFlow, sensitivity

SIZES = [4, 6, 5, 3]

SINE = Activation("sine", lambda z, *, xp: xp.sin(z), lambda z, a, *, xp: xp.cos(z))
QUARTIC = Cost(
    "quartic",
    lambda a, y, *, xp: xp.sum((a - y) ** 4, axis=-1),
    lambda a, y, *, xp: 4 * (a - y) ** 3,
)
POISSON = MatchedCost(
    "poisson",
    lambda z, y, *, xp: xp.sum(xp.exp(z) - y * z, axis=-1),
    lambda a, y, *, xp: xp.exp(a) - y,
    output="identity",
)
MODELS = {
    "book": {},
    "tanh and both entropies": {"activation": "tanh", "cost": "binary_cross_entropy"},
    "softmax": {"activation": "relu", "cost": "categorical_cross_entropy"},
    "coupled": {"activation": "tanh", "output_activation": "softmax", "cost": "quadratic"},
}
OWN = {
    "own activation": {"activation": [SINE, "sigmoid"], "output_activation": SINE},
    "own cost": {"cost": QUARTIC},
    "own matched cost": {"cost": POISSON},
}


def make_network(where, rng, dtype=None, sizes=SIZES, **options):
    return random_network(where, sizes, rng, dtype, **options)


def assert_close(actual, desired, rtol=1e-12, atol=1e-15, dtype="float64"):
    if dtype == "float32":  # relative to the largest value: products round by their summands
        rtol, atol = 0.0, tolerance(dtype, rtol) * np.abs(desired).max()
    np.testing.assert_allclose(to_numpy(actual), desired, rtol=rtol, atol=atol)


def models(options):
    return pytest.mark.parametrize("options", options.values(), ids=options.keys())


# ---------------------------------------------------------------------------------------------
# The trace


def by_hand(layers, x, y, activations, matched):
    """Return C and the fields of a trace by the chapter: sample by sample, in plain NumPy."""
    sigma = {
        "sigmoid": lambda z: 1.0 / (1.0 + np.exp(-z)),
        "tanh": np.tanh,
        "relu": lambda z: np.where(z > 0, z, 0.0),
        "softmax": lambda z: np.exp(z) / np.exp(z).sum(),
    }
    jacobian = {
        "sigmoid": lambda a: np.diag(a * (1 - a)),
        "tanh": lambda a: np.diag(1 - a**2),
        "relu": lambda a: np.diag(np.where(a > 0, 1.0, 0.0)),
        "softmax": lambda a: np.diag(a) - np.outer(a, a),
    }
    names = ("z", "a", "sigma_prime_z", "delta", "nabla_W", "nabla_b")
    found = [{name: [] for name in names} for _ in layers]
    costs = []
    for sample, target in zip(x, y, strict=True):
        a, below = sample, [sample]
        for l, (W, b) in enumerate(layers):  # noqa: E741 - the book's index of layers
            z = W @ a + b
            a = sigma[activations[l]](z)
            slope = jacobian[activations[l]](a)
            below.append(a)
            found[l]["z"].append(z)
            found[l]["a"].append(a)
            coupled = activations[l] == "softmax"
            found[l]["sigma_prime_z"].append(slope if coupled else np.diag(slope))
        delta = (a - target) / len(x)
        if not matched:
            delta = jacobian[activations[-1]](a).T @ delta
        costs.append(cost_by_hand(a, target, activations[-1], matched))
        for l in reversed(range(len(layers))):  # noqa: E741
            found[l]["delta"].append(delta)
            found[l]["nabla_b"].append(delta)
            found[l]["nabla_W"].append(np.outer(delta, below[l]))
            if l:
                delta = jacobian[activations[l - 1]](below[l]).T @ (layers[l].W.T @ delta)
    summed = ("nabla_W", "nabla_b")
    return np.mean(costs), [
        {name: np.sum(v, axis=0) if name in summed else np.array(v) for name, v in layer.items()}
        for layer in found
    ]


def cost_by_hand(a, y, activation, matched):
    if not matched:
        return 0.5 * np.sum((a - y) ** 2)
    if activation == "softmax":
        return -np.sum(y * np.log(a))
    return -np.sum(y * np.log(a) + (1 - y) * np.log(1 - a))


@models(MODELS)
def test_trace_holds_what_the_chapter_computes_by_hand(where, dtype, rng, options):
    network = make_network(where, rng, dtype, **options)
    x, y = (values.astype(dtype).astype(np.float64) for values in random_samples(network, rng))
    trace = network.trace(x, y)
    layers = on_host(network.layers)
    names = [activation.name for activation in network.model.activations]
    cost, wanted = by_hand(layers, x, y, names, "entropy" in network.model.cost.name)
    assert_agrees(trace.x, x, where, dtype)
    assert_agrees(trace.y, y, where, dtype)
    assert_agrees(trace.cost, cost, where, dtype)
    assert len(trace.layers) == len(layers)
    for layer, parameters, fields in zip(trace.layers, layers, wanted, strict=True):
        assert layer._fields == ("W", "b", *fields)
        for name, value in (parameters._asdict() | fields).items():
            # Each of some nested products adds rounding errors.
            assert_agrees(getattr(layer, name), value, where, dtype, eps=256)


@models(MODELS | OWN)
def test_derivatives_of_a_trace_are_those_of_backprop_to_the_bit(where, dtype, rng, options):
    network = make_network(where, rng, dtype, **options)
    data = random_samples(network, rng)
    for layer, gradient in zip(network.trace(*data).layers, network.backprop(*data), strict=True):
        assert np.array_equal(to_numpy(layer.nabla_W), to_numpy(gradient.W))
        assert np.array_equal(to_numpy(layer.nabla_b), to_numpy(gradient.b))


@models(MODELS | OWN)
def test_four_equations_hold_between_the_arrays_of_a_trace(where, rng, options):
    network = make_network(where, rng, **options)
    close = functools.partial(assert_close, dtype=network.dtype)
    trace = network.trace(*random_samples(network, rng))
    layers = [type(layer)(*map(to_numpy, layer)) for layer in trace.layers]
    output = layers[-1]
    if trace.nabla_a is None:
        assert isinstance(network.model.cost, MatchedCost)
        wanted = network.model.cost.error(output.a, to_numpy(trace.y), xp=np) / len(output.a)
    elif output.sigma_prime_z.ndim == 3:
        wanted = np.einsum("nk,nkj->nj", to_numpy(trace.nabla_a), output.sigma_prime_z)
    else:
        wanted = to_numpy(trace.nabla_a) * output.sigma_prime_z
    close(output.delta, wanted)  # BP1
    a_below = to_numpy(trace.x)
    for layer, above in zip(layers, [*layers[1:], None], strict=True):
        if above is not None:  # BP2
            error = (above.delta @ above.W) * layer.sigma_prime_z
            close(layer.delta, error)
        close(layer.nabla_b, layer.delta.sum(axis=0))  # BP3
        close(layer.nabla_W, layer.delta.T @ a_below)  # BP4
        a_below = layer.a


@models(OWN)
def test_cost_of_a_trace_is_that_of_evaluate(where, rng, options):
    network = make_network(where, rng, **options)
    data = random_samples(network, rng)
    assert_agrees(network.trace(*data).cost, network.evaluate(*data)["cost"], where)


def test_trace_of_labels_holds_the_targets_they_stand_for(where, dtype, rng):
    network = make_network(where, rng, dtype)
    trace = network.trace(rng.normal(size=(3, 4)), [2, 0, 1])
    assert_agrees(trace.y, np.eye(3)[[2, 0, 1]], where, dtype)


def test_trace_works_without_a_hidden_layer_and_for_one_sample(where, dtype, rng):
    network = make_network(where, rng, dtype, sizes=[4, 3], activation=[])
    trace = network.trace(*random_samples(network, rng, n=1))
    (layer,) = trace.layers
    (gradient,) = network.backprop(trace.x, trace.y)
    assert_agrees(layer.nabla_W, to_numpy(gradient.W), where, dtype)
    assert "there is no hidden layer" in trace.equations()


def test_trace_leaves_network_and_data_alone(where, rng):
    network = make_network(where, rng)
    x, y = map(network.asarray, random_samples(network, rng))
    arrays = [x, y, *(part for layer in network.layers for part in layer)]
    before = [to_numpy(array).copy() for array in arrays]
    print(network.trace(x, y))
    assert all(np.array_equal(to_numpy(a), old) for a, old in zip(arrays, before, strict=True))


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.ones((2, 5)), [0, 1], ValueError, "x has 5 features"),
        (np.ones((2, 4)), [0, 3], ValueError, "y"),
        (np.ones((2, 4)), [0, 1, 2], ValueError, "y has 3 rows"),
        (np.full((2, 4), np.nan), [0, 1], ValueError, "x"),
        ("digits", [0, 1], TypeError, "x must be an array of numbers"),
    ],
)
def test_trace_refuses_what_backprop_refuses(x, y, error, message):
    network = Network(SIZES, seed=0)
    for method in (network.backprop, network.trace):
        with pytest.raises(error, match=message):
            method(x, y)


# ---------------------------------------------------------------------------------------------
# The trace as text


@pytest.fixture
def small():
    """A trace of numbers that can be told in one's head."""
    layers = [([[1.0, 0.0], [0.0, 2.0]], [0.0, 0.0]), ([[3.0, 1.0]], [0.0])]
    options = {"activation": "identity", "output_activation": "identity", "dtype": "float64"}
    network = Network.from_layers(layers, **options)
    # z¹ = (1, 2) and (2, 0); z² = 5 and 6; the errors are 4/2 and 3/2.
    return network.trace([[1.0, 1.0], [2.0, 0.0]], [[1.0], [3.0]])


def test_trace_prints_a_row_a_layer_with_shapes_means_and_norms(small):
    title, *table = str(small).splitlines()
    assert title == "2 samples through 2-2-1: mean cost C = 6.25 (quadratic)"
    header, *rows = map(str.split, table)
    assert header[:4] == ["layer", "σ", "W", "z"]
    assert rows[0] == ["0", "(inputs)", "(2,", "2)", "1"]
    # ‖δ¹‖ = √(6² + 2² + 4.5² + 1.5²), with δ¹ = δ² (3, 1)
    delta, weights, biases = math.sqrt(62.5), math.hypot(6 + 9, 2 + 3, 6, 2), math.hypot(10.5, 3.5)
    hidden = [1.25, 1.25, 1, delta, weights, biases]
    assert rows[1][:6] == ["1", "identity", "(2,", "2)", "(2,", "2)"]
    assert [float(n) for n in rows[1][6:]] == pytest.approx(hidden, rel=5e-3)
    assert rows[2][:6] == ["2", "identity", "(1,", "2)", "(2,", "1)"]
    assert [float(n) for n in rows[2][6:]] == [5.5, 5.5, 1, 2.5, 6.4, 3.5]
    assert repr(small) == str(small)


def test_equations_are_written_with_shapes_and_norms(small):
    lines = [line.split("  ") for line in small.equations().splitlines()]
    words = [[word.strip() for word in line if word.strip()] for line in lines]
    assert [line[0] for line in words if line and line[0].startswith("BP")] == [
        "BP1", "BP2", "BP3", "BP4",
    ]  # fmt: skip

    def equation(*symbols):
        """Return the terms, shapes and norms of an equation."""
        row = words.index(list(symbols))
        return words[row + 1], words[row + 2]

    shapes, norms = equation("δ²", "=", "∇ₐC", "⊙", "σ′(z²)")
    assert shapes == ["(2, 1)", "(2, 1)", "(2, 1)"]
    assert norms == ["2.5", "2.5", "1.414"]
    shapes, norms = equation("δ¹", "= (", "δ²", "W²", ") ⊙", "σ′(z¹)")
    assert shapes == ["(2, 2)", "(2, 1)", "(1, 2)", "(2, 2)"]
    assert norms == ["7.906", "2.5", "3.162", "2"]
    shapes, norms = equation("∂C/∂b²", "= Σₙ", "δ²")
    assert shapes == ["(1,)", "(2, 1)"]
    assert norms == ["3.5", "2.5"]
    shapes, norms = equation("∂C/∂W²", "=", "(δ²)ᵀ", "a¹")
    assert shapes == ["(1, 2)", "(1, 2)", "(2, 2)"]
    assert norms == ["6.403", "2.5", "3"]
    shapes, _ = equation("∂C/∂W¹", "=", "(δ¹)ᵀ", "a⁰")
    assert shapes == ["(2, 2)", "(2, 2)", "(2, 2)"]


def test_each_symbol_stands_above_its_shape_and_its_norm(small):
    lines = small.equations().splitlines()
    row = next(i for i, line in enumerate(lines) if line.split()[:1] == ["∂C/∂W²"])
    symbol, shape, norm = lines[row : row + 3]
    for name, below in (("∂C/∂W²", "6.403"), ("a¹", "3")):
        at = symbol.index(name) + len(name) / 2
        under = norm.rindex(below) + len(below) / 2
        assert abs(at - under) <= 1
    assert len(shape) <= 100


@pytest.mark.parametrize(
    ("options", "title", "terms"),
    [
        ({"cost": "binary_cross_entropy"}, "is matched to sigmoid", "δ³ = ( a³ − y ) / N"),
        ({"cost": POISSON}, "poisson is matched to identity", "δ³ = error ( a³ , y ) / N"),
        ({"output_activation": "softmax"}, "Σₖ ∂C/∂aₖ ∂aₖ/∂zⱼ", "δ³ = ∇ₐC ∂a/∂z³"),
    ],
    ids=["matched", "own", "coupled"],
)
def test_first_equation_is_written_as_the_cost_has_it(rng, options, title, terms):
    network = Network(SIZES, seed=0, **options)
    text = network.trace(*random_samples(network, rng)).equations()
    first = text[text.index("BP1") : text.index("BP2")]
    assert title in first
    assert terms in " ".join(first.split())


def test_trace_of_any_network_prints(where, dtype, rng):
    for options in (MODELS | OWN).values():
        network = make_network(where, rng, dtype, **options)
        trace = network.trace(*random_samples(network, rng))
        assert len(str(trace).splitlines()) == 2 + len(SIZES)
        assert all(len(line) <= 120 for line in trace.equations().splitlines())


def test_a_layer_beyond_the_ninth_is_written_with_two_digits(rng):
    network = Network([2] * 12, seed=0)
    assert "∂C/∂W¹¹" in network.trace(*random_samples(network, rng)).equations()


# ---------------------------------------------------------------------------------------------
# Gradient flow


class Watch(Callback):
    """Remembers the parameters at each moment of a GradientFlow."""

    def __init__(self, every=0):
        self.every, self.seen = every, []

    def on_train_start(self, network, history):
        self.seen.append(network.layers)

    def on_steps(self, network, history, step):
        self.seen.append(network.layers)

    def on_epoch_end(self, network, history):
        self.seen.append(network.layers)


def fit(network, data, *callbacks, **options):
    settings = {"epochs": 2, "batch_size": 4, "optimizer": SGD(0.5), "progress": False} | options
    return network.fit(*data, callbacks=callbacks, **settings)


@models(MODELS)
def test_flow_records_what_can_be_computed_by_hand(where, rng, options):
    network = make_network(where, rng, **options)
    close = functools.partial(assert_close, dtype=network.dtype)
    data = random_samples(network, rng, n=12)
    some = data[0][:5], data[1][:5]
    flow, watch = GradientFlow(*some, every=2), Watch(every=2)
    fit(network, data, flow, watch)
    assert [(r.step, r.epoch) for r in flow.records] == [
        (2, 1),
        (3, 1),
        (4, 2),
        (6, 2),
    ]
    # The last epoch ends with a step that has its record: no second one.
    for record, before, after in zip(flow.records, watch.seen[:4], watch.seen[1:5], strict=True):
        network.layers = after
        trace = network.trace(*some)
        for l, layer in enumerate(trace.layers):  # noqa: E741
            W, old = (to_numpy(layers[l].W).astype(float) for layers in (after, before))
            gradient = [to_numpy(part).astype(float) for part in (layer.nabla_W, layer.nabla_b)]
            norms = [np.linalg.norm(part) for part in gradient]
            close(record.gradient_norms[l], np.hypot(*norms))
            close(record.speeds[l], norms[1])
            ratio = np.linalg.norm(W - old) / np.linalg.norm(old)
            # W − W′ is a difference: it is known to some 1e-16 of W.
            close(record.update_ratios[l], ratio, atol=1e-14)
            slopes = to_numpy(layer.sigma_prime_z)
            if slopes.ndim == 3:
                slopes = np.einsum("nkk->nk", slopes)
            greatest = 0.25 if network.model.activations[l].probability else 1.0
            low = np.abs(slopes) < SATURATED_BELOW * greatest
            close(record.saturated[l], low.mean())
            close(record.dead[l], low.all(axis=0).mean())


@pytest.mark.parametrize(
    ("activation", "zs", "saturated"),
    [
        # a (1 − a) = 0.05 / 4 at |z| = 4.36
        ("sigmoid", [0.0, 4.3, -4.3, 4.4, -4.5], 2),
        # 1 − a² = 0.05 at |z| = 2.18
        ("tanh", [0.0, 2.1, -2.1, 2.3, -2.3], 2),
        ("relu", [0.5, 2.0, -0.1, -3.0, -1.0], 3),
        ("leaky_relu", [0.5, 2.0, -0.1, -3.0, -1.0], 3),
        ("identity", [0.0, 100.0, -100.0, 1.0, 2.0], 0),
        ("softmax", [0.0, 4.3, -4.3, 4.4, -4.5], 2),
        (SINE, [0.0, 1.5, -1.5, 1.55, np.pi / 2], 2),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_neuron_is_saturated_where_its_slope_is_small(where, activation, zs, saturated):
    """The weights put z = x in the first neuron and 0 in the second, whose slope is σ′(0)."""
    network = Network.from_layers(
        [([[1.0], [0.0]], [0.0, 0.5 if activation == "relu" else 0.0])],
        activation=[],
        output_activation=activation,
        backend=where.backend,
        device=where.device_name,
    )
    x, y = np.array(zs)[:, None], np.zeros((5, 2))
    flow = GradientFlow(x, y)
    fit(network, (x, y), flow, epochs=1, optimizer=SGD(1e-6))
    slow = 2 * saturated if activation == "softmax" else saturated  # both neurons have a (1 − a)
    if activation == "leaky_relu":  # its slope at 0 is that of the left side
        slow += 5
    assert flow.records[0].saturated[0] == pytest.approx(slow / 10)


def planted(where, activation, W, b, **options):
    """Return the one record of a network whose first layer is given, with 3 sigmoid outputs."""
    rng = np.random.default_rng(0)
    W, b = np.array(W), np.array(b)
    network = Network.from_layers(
        [(W, b), (rng.normal(size=(3, len(b))), np.zeros(3))],
        activation=activation,
        backend=where.backend,
        device=where.device_name,
        **options,
    )
    data = rng.normal(size=(20, W.shape[1])), rng.random((20, 3))
    flow = GradientFlow(*data)
    fit(network, data, flow, epochs=1, optimizer=SGD(1e-6))
    (record,) = flow.records
    return record


def test_dead_relu_is_found(where, dtype, rng):
    W, b = rng.normal(size=(5, 4)), np.zeros(5)
    b[3] = -100.0
    record = planted(where, "relu", W, b, dtype=dtype)
    assert record.dead == pytest.approx((0.2, 0.0))
    assert record.saturated[0] > 0.2  # the living ones rest for some samples


def test_saturated_sigmoid_is_found(where, rng):
    W, b = 0.1 * rng.normal(size=(4, 4)), np.zeros(4)
    b[[0, 2]] = 20.0, -20.0
    record = planted(where, "sigmoid", W, b)
    assert record.saturated == pytest.approx((0.5, 0.0))
    assert record.dead == pytest.approx((0.5, 0.0))


def test_layer_that_is_saturated_all_through_is_wholly_dead(where, rng):
    W, b = 0.1 * rng.normal(size=(4, 4)), np.full(4, 50.0)
    record = planted(where, "tanh", W, b)
    assert (record.saturated[0], record.dead[0]) == (1.0, 1.0)
    assert record.gradient_norms[0] == 0.0


def test_gradient_too_small_for_its_square_has_its_norm(where):
    values = where.asarray(np.array([[3e-25, 0.0], [0.0, 4e-25]]), "float32")
    assert float(to_numpy(inspection._length(values, xp=where.xp))) == pytest.approx(5e-25)
    zeros = where.asarray(np.zeros((2, 2)), "float32")
    assert float(to_numpy(inspection._length(zeros, xp=where.xp))) == 0.0


def test_weights_that_start_at_zero_have_moved_infinitely_far_or_not_at_all(where):
    x, y = np.eye(2), np.eye(2)
    network = Network.from_layers(
        [(np.zeros((3, 2)), np.zeros(3)), (np.zeros((2, 3)), np.zeros(2))],
        backend=where.backend,
        device=where.device_name,
    )
    flow = GradientFlow(x, y)
    fit(network, (x, y), flow, epochs=1, batch_size=1)
    # Without weights above it, no error comes down to the first layer in the first step.
    first, second = flow.records[0].update_ratios
    assert second == math.inf
    flow = GradientFlow(x, y)
    network.layers = [(np.zeros((3, 2)), np.zeros(3)), (np.zeros((2, 3)), np.zeros(2))]
    fit(network, (x, y), flow, epochs=1, batch_size=2)
    first, second = flow.records[0].update_ratios
    assert first == 0.0


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}], ids=["plain", "dropout"])
def test_flow_does_not_change_the_run(where, dtype, rng, options):
    data = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
    runs = []
    for callbacks in ([], [GradientFlow(data[0], data[1], every=1)]):
        network = Network(
            SIZES, backend=where.backend, device=where.device_name, dtype=dtype, seed=3
        )
        history = fit(network, data, *callbacks, **options)
        parameters = [to_numpy(part) for layer in network.layers for part in layer]
        runs.append((parameters, history["cost"], network._generator.bit_generator.state))
    (parameters, costs, state), (same, others, same_state) = runs
    assert all(np.array_equal(a, b) for a, b in zip(parameters, same, strict=True))
    assert state == same_state
    # Where steps are looked at, the history's costs are summed in other blocks.
    assert_close(others, costs, rtol=8 * float(np.finfo(dtype).eps))


def test_flow_is_fetched_once_and_when_it_is_read(where, rng, monkeypatch):
    fetched = []
    monkeypatch.setattr(inspection, "to_numpy", lambda a: (fetched.append(a), to_numpy(a))[1])
    network = make_network(where, rng)
    data = random_samples(network, rng, n=12)
    flow = GradientFlow(*data, every=1)
    fit(network, data, flow, epochs=3)
    assert not fetched
    assert len(flow.records) == 9
    assert flow.records is not None
    assert len(fetched) == 1


def test_step_at_the_end_of_an_epoch_is_recorded_once(rng):
    data = rng.normal(size=(8, 4)), rng.integers(0, 3, 8)
    flow = GradientFlow(*data, every=2)
    history = fit(Network(SIZES, seed=0), data, flow, epochs=3)
    assert [(record.step, record.epoch) for record in flow.records] == [(2, 1), (4, 2), (6, 3)]
    assert history.steps == 6
    assert all(ratio > 0.0 for record in flow.records for ratio in record.update_ratios)


def test_second_run_begins_the_records_anew(where, rng):
    network = make_network(where, rng)
    data = random_samples(network, rng, n=12)
    flow, watch = GradientFlow(*data), Watch()
    fit(network, data, flow, epochs=3)
    first = flow.records
    fit(network, data, flow, watch, epochs=2)
    assert [record.epoch for record in first] == [1, 2, 3]
    assert [record.epoch for record in flow.records] == [1, 2]
    start, end = (to_numpy(layers[0].W) for layers in watch.seen[:2])
    ratio = np.linalg.norm(end - start) / np.linalg.norm(start)
    assert flow.records[0].update_ratios[0] == pytest.approx(ratio)


def test_one_flow_serves_networks_of_other_sizes_and_dtypes(where, rng):
    x, y = rng.normal(size=(8, 4)), rng.integers(0, 3, 8)
    flow = GradientFlow(x, y)
    for sizes, dtype in (([4, 3], "float32"), (SIZES, widest(where))):
        network = make_network(where, rng, dtype, sizes, activation=["tanh"] * (len(sizes) - 2))
        fit(network, (x, y), flow, epochs=1)
        (record,) = flow.records
        assert {len(values) for values in record[2:]} == {len(sizes) - 1}


def test_flow_can_be_copied_before_and_after_a_run(rng):
    data = rng.normal(size=(8, 4)), rng.integers(0, 3, 8)
    flow = GradientFlow(*data)
    fit(Network(SIZES, seed=0), data, copy.deepcopy(flow))
    fit(Network(SIZES, seed=0), data, flow)
    assert copy.deepcopy(flow).records == flow.records


def test_flow_prints_a_row_a_layer(rng):
    data = rng.normal(size=(8, 4)), rng.integers(0, 3, 8)
    flow = GradientFlow(*data, every=1)
    assert len(str(flow).splitlines()) == 1
    fit(Network(SIZES, seed=0), data, flow, epochs=1)
    header, *rows = [line.split() for line in str(flow).splitlines()]
    assert header == [
        "epoch", "step", "layer", "gradient", "speed", "update", "ratio", "saturated", "dead",
    ]  # fmt: skip
    # Epoch and step are told once a record.
    assert [row[:-6] for row in rows[::3]] == [["1", "1"], ["1", "2"]]
    assert all(len(row) == 6 for i, row in enumerate(rows) if i % 3)
    columns = ("gradient_norms", "speeds", "update_ratios", "saturated", "dead")
    for i, row in enumerate(rows):
        record, at = flow.records[i // 3], i % 3
        assert row[-6] == str(at + 1)
        numbers = [float(n.rstrip("%")) / (100 if n.endswith("%") else 1) for n in row[-5:]]
        wanted = [getattr(record, name)[at] for name in columns]
        assert numbers == pytest.approx(wanted, rel=5e-3, abs=5e-4)


def test_flow_sees_what_early_layers_of_a_deep_net_learn_more_slowly(rng):
    x, y = rng.normal(size=(64, 8)), rng.integers(0, 3, 64)
    flow = GradientFlow(x, y)
    fit(Network([8, 8, 8, 8, 8, 3], seed=0), (x, y), flow)
    for record in flow.records:
        assert record.speeds[0] < record.speeds[1] < record.speeds[2] < record.speeds[3]


def test_run_that_overflows_ends_as_it_would_without_a_flow(where, rng):
    network = make_network(where, rng, "float32", activation="relu", output_activation="identity")
    data = random_samples(network, rng, n=12)
    flow = GradientFlow(*data, every=1)
    with pytest.raises(DivergenceError, match="diverged"):
        fit(network, data, flow, optimizer=SGD(1e12))
    assert not all(map(math.isfinite, flow.records[-1].gradient_norms))


@pytest.mark.parametrize(
    ("every", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)]
)
def test_flow_refuses_what_is_no_number_of_steps(every, error):
    with pytest.raises(error, match="every must be"):
        GradientFlow([[0.0]], [0], every=every)


def test_samples_that_do_not_fit_are_refused_before_the_first_step(rng):
    network = Network(SIZES, seed=0)
    before = network.layers
    with pytest.raises(ValueError, match="of GradientFlow cannot be used: x has 5 features"):
        fit(network, (np.ones((4, 4)), [0, 1, 2, 0]), GradientFlow(np.ones((2, 5)), [0, 1]))
    assert all(new is old for new, old in zip(network.layers, before, strict=True))


# ---------------------------------------------------------------------------------------------
# Sensitivity


def cost_with_nudge(network, x, y, layer, unit, nudge):
    """Return the mean quadratic cost of a sigmoid network in plain NumPy."""
    a = x
    for l, (W, b) in enumerate(on_host(network.layers), start=1):  # noqa: E741
        z = a @ W.T + b
        if l == layer:
            z[:, unit] += nudge
        a = 1.0 / (1.0 + np.exp(-z))
    return 0.5 * ((a - y) ** 2).sum(axis=1).mean()


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize(("layer", "unit"), [(1, 0), (1, 5), (2, 3), (3, 2)])
def test_sensitivity_is_what_the_nudge_does(where, rng, layer, unit, n):
    network = make_network(where, rng)
    x, y = random_samples(network, rng, n)
    found = sensitivity(network, x, y, layer, unit, nudge=0.3)
    before, after = (cost_with_nudge(network, x, y, layer, unit, h) for h in (0.0, 0.3))
    assert found.cost_before == pytest.approx(before, rel=tolerance(network.dtype, 1e-12))
    assert found.cost_after == pytest.approx(after, rel=tolerance(network.dtype, 1e-12))
    # A difference of two costs is rounded as they are.
    atol = tolerance(network.dtype, 1e-12, roundings=8.0 * before)
    assert found.real == pytest.approx(after - before, rel=1e-9, abs=atol)
    delta = to_numpy(network.trace(x, y).layers[layer - 1].delta)[:, unit].sum()
    assert found.predicted == pytest.approx(0.3 * delta, rel=tolerance(network.dtype, 1e-12))
    assert found.difference == pytest.approx(found.real - found.predicted)


@models(MODELS | OWN)
@pytest.mark.needs_float64("a difference of differences")
def test_prediction_is_off_by_the_square_of_the_nudge(where, rng, options):
    network = make_network(where, rng, **options)
    data = random_samples(network, rng)
    for layer, units in enumerate(SIZES[1:], start=1):
        large, small = (
            sensitivity(network, *data, layer, units - 1, nudge=h).difference for h in (1e-3, 1e-4)
        )
        # Rounding adds about 1e-16; a kink of ReLU would show as a difference of first order.
        assert abs(small) < 0.02 * abs(large) + 1e-14
        assert abs(large) < 1e-4


def test_sensitivity_in_float32_is_known_to_its_rounding(where, rng):
    network = make_network(where, rng, "float32")
    data = random_samples(network, rng)
    found = sensitivity(network, *data, 2, 1)
    assert abs(found.difference) < 1e-4 * abs(found.cost_before)
    assert isinstance(found.real, float)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": 0}, ValueError, "layer must be 1 to 3, not 0: the inputs are layer 0"),
        ({"layer": 4}, ValueError, "layer must be 1 to 3, not 4"),
        ({"layer": 1.0}, TypeError, "layer must be an integer"),
        ({"unit": -1}, ValueError, "unit must be at least 0"),
        ({"unit": 6}, ValueError, "unit must be 0 to 5, not 6: layer 1 has 6 neurons"),
        ({"unit": None}, TypeError, "unit must be an integer"),
        ({"nudge": math.nan}, ValueError, "nudge must be finite"),
        ({"nudge": "a little"}, TypeError, "nudge must be a number"),
        ({"x": [[1.0, 2.0]]}, ValueError, "x has 2 features"),
        ({"y": [0, 1]}, ValueError, "y has 2 rows"),
        ({"network": [[1.0]]}, TypeError, "network must be a bp_xp.Network"),
        ({"network": Network}, TypeError, "network must be a bp_xp.Network"),
    ],
)
def test_sensitivity_refuses_what_is_not_there(options, error, message):
    network = Network(SIZES, seed=0)
    given = {"network": network, "x": np.ones((1, 4)), "y": [0], "layer": 1, "unit": 0} | options
    with pytest.raises(error, match=message):
        sensitivity(**given)
