import itertools

import numpy as np
import pytest
from helpers import (
    PROPERTY,
    SETTLED,
    assert_agrees,
    assert_layers_agree,
    combine,
    on_host,
    random_layers,
    random_network,
    random_samples,
    random_targets,
    relative_distance,
)
from hypothesis import given
from hypothesis import strategies as st

from bp_xp import ACTIVATIONS, COSTS, SGD, Activation, Cost, Layer, Network, to_numpy
from bp_xp.math import backprop
from bp_xp.testing import check_gradients

HIDDEN = [name for name, sigma in ACTIVATIONS.items() if not sigma.coupled]
CHAINED = ["quadratic", "huber"]  # costs that take any output activation
SEEDS = range(5)
# The same sizes wherever they will do: a library that compiles for each shape compiles once.
SIZES = [4, 6, 5, 3]

# Every activation beside some cost, every cost beside some activation: the grid of the backends
# where each operation is slow.
PAIRS = list(zip(HIDDEN, itertools.cycle(COSTS), strict=False))

SINE = Activation("sine", lambda z, *, xp: xp.sin(z), lambda z, a, *, xp: xp.cos(z))
QUARTIC = Cost(
    "quartic",
    lambda a, y, *, xp: xp.sum((a - y) ** 4, axis=-1),
    lambda a, y, *, xp: 4 * (a - y) ** 3,
)


def sizes_of_depth(depth):
    """Return the sizes of a net with ``depth`` hidden layers, all of them different."""
    return [4, *range(6, 6 - depth, -1), 3]


# ---------------------------------------------------------------------------------------------
# Against finite differences


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("activation", HIDDEN)
def test_gradient_equals_central_differences(activation, cost, depth):
    for seed in SEEDS:
        rng = np.random.default_rng([seed, depth])
        network = Network.from_layers(
            random_layers(sizes_of_depth(depth), rng),
            activation=activation,
            cost=cost,
            dtype="float64",
        )
        check_gradients(network, *random_samples(network, rng), directions=1, seed=seed)


@pytest.mark.parametrize("cost", CHAINED)
@pytest.mark.parametrize("output", ACTIVATIONS)
def test_gradient_through_every_output_activation_equals_central_differences(output, cost):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        network = Network.from_layers(
            random_layers([4, 5, 3], rng),
            activation="tanh",
            output_activation=output,
            cost=cost,
            dtype="float64",
        )
        check_gradients(network, *random_samples(network, rng), directions=1, seed=seed)


@pytest.mark.parametrize("cost", COSTS)
def test_empty_hidden_list_is_a_linear_model_with_the_right_gradient(where, rng, cost):
    network = random_network(where, [4, 3], rng, activation=[], cost=cost)
    x, y = random_samples(network, rng)
    (layer,) = on_host(network.layers)
    z = x @ layer.W.T + layer.b
    a = ACTIVATIONS[COSTS[cost].output].sigma(z, xp=np)
    assert_agrees(network.feedforward(x), a, where)
    check_gradients(network, x, y)


def test_gradient_of_linear_regression_is_that_of_least_squares(where, dtype, rng):
    network = random_network(where, [4, 3], rng, dtype, output_activation="identity")
    x, y = rng.normal(size=(8, 4)).astype(dtype), rng.normal(size=(8, 3)).astype(dtype)
    (layer,) = on_host(network.layers)
    residual = x.astype(float) @ layer.W.T + layer.b - y
    wanted = Layer(residual.T @ x.astype(float) / 8, residual.mean(axis=0))
    assert_layers_agree(network.backprop(x, y), [wanted], where, dtype)


@pytest.mark.skip_xp_backends("jax", reason="compiles each operation for each of the shapes")
@PROPERTY
@given(
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    n=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_gradient_has_the_shapes_of_the_layers_and_is_right_for_every_shape(where, sizes, n, seed):
    rng = np.random.default_rng(seed)
    network = random_network(where, sizes, rng, activation="tanh")
    x, y = rng.normal(size=(n, sizes[0])), rng.random((n, sizes[-1]))
    wanted = book_backprop(on_host(network.layers), x, y, np.tanh, lambda z: 1 - np.tanh(z) ** 2)
    assert_layers_agree(network.backprop(x, y), wanted, where, eps=256)


# ---------------------------------------------------------------------------------------------
# Against the book, sample by sample and in columns


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def book_backprop(layers, x, y, sigma, sigma_prime):
    """Average the gradients of the samples, found one by one; sigmoid outputs, quadratic cost."""
    sums = [Layer(np.zeros(W.shape), np.zeros(b.shape)) for W, b in layers]
    for x_n, y_n in zip(x, y, strict=True):
        a, zs, activations = x_n[:, None], [], [x_n[:, None]]
        for index, (W, b) in enumerate(layers):
            zs.append(W @ a + b[:, None])
            a = sigmoid(zs[-1]) if index == len(layers) - 1 else sigma(zs[-1])
            activations.append(a)
        delta = (a - y_n[:, None]) * a * (1.0 - a)
        for index in reversed(range(len(layers))):
            sums[index].W[...] += delta @ activations[index].T
            sums[index].b[...] += delta[:, 0]
            if index:
                delta = layers[index].W.T @ delta * sigma_prime(zs[index - 1])
    return [Layer(W / len(x), b / len(x)) for W, b in sums]


@pytest.mark.parametrize("n", [1, 8])  # a batch of one sample
def test_matrix_form_equals_the_books_loop_over_samples(where, dtype, rng, n):
    network = random_network(where, SIZES, rng, dtype)
    x, y = rng.normal(size=(n, 4)).astype(dtype), rng.random((n, 3)).astype(dtype)
    wanted = book_backprop(
        on_host(network.layers), x, y, sigmoid, lambda z: sigmoid(z) * (1.0 - sigmoid(z))
    )
    # Each of a few nested products adds rounding errors.
    assert_layers_agree(network.backprop(x, y), wanted, where, dtype, eps=64)


def test_network_trains_on_a_single_sample(where, dtype, rng):
    network = random_network(where, SIZES, rng, dtype)
    x, y = rng.normal(size=(1, 4)), rng.random((1, 3))
    before, gradients = on_host(network.layers), on_host(network.backprop(x, y))
    network.fit(x, y, epochs=1, batch_size=1, optimizer=SGD(0.5), progress=False)
    wanted = combine(lambda w, dw: w - 0.5 * dw, before, gradients)
    assert_layers_agree(network.layers, wanted, where, dtype)


def test_stack_of_networks_backpropagates_as_each_of_them_does(where, dtype, rng):
    networks = [random_network(where, [4, 6, 3], rng, dtype, activation="tanh") for _ in range(3)]
    x, y = rng.normal(size=(3, 8, 4)), rng.random((3, 8, 3))
    stack = combine(
        lambda *parts: where.asarray(np.stack([to_numpy(part) for part in parts])),
        *(network.layers for network in networks),
    )
    gradients, _ = backprop.backpropagate(
        networks[0].model, stack, where.asarray(x, dtype), where.asarray(y, dtype), xp=where.xp
    )
    each = [on_host(net.backprop(*data)) for net, *data in zip(networks, x, y, strict=True)]
    wanted = combine(lambda *parts: np.stack(parts), *each)
    assert_layers_agree(gradients, wanted, where, dtype)


# ---------------------------------------------------------------------------------------------
# Against automatic differentiation


def torch_gradients(layers, x, y, activations, cost):
    """Differentiate the same network by torch.autograd, in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch's autograd is the reference")
    F = torch.nn.functional
    sigma = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "leaky_relu": lambda z: F.leaky_relu(z, 0.01),
        "elu": F.elu,
        "silu": F.silu,
        "gelu_exact": F.gelu,
        "gelu": lambda z: F.gelu(z, approximate="tanh"),
        "softplus": lambda z: F.softplus(z, threshold=1e3),
        "identity": lambda z: z,
        "softmax": lambda z: torch.softmax(z, -1),
    }
    costs = {
        "quadratic": lambda z, a, y: F.mse_loss(a, y, reduction="sum") / 2,
        "huber": lambda z, a, y: F.huber_loss(a, y, reduction="sum"),
        "binary_cross_entropy": lambda z, a, y: F.binary_cross_entropy_with_logits(
            z, y, reduction="sum"
        ),
        "categorical_cross_entropy": lambda z, a, y: F.cross_entropy(z, y, reduction="sum"),
        "huber:delta=0.5": lambda z, a, y: F.huber_loss(a, y, reduction="sum", delta=0.5),
        "binary_cross_entropy:positive_weight=3.0": lambda z, a, y: (
            F.binary_cross_entropy_with_logits(z, y, reduction="sum", pos_weight=torch.tensor(3.0))
        ),
        "binary_cross_entropy:positive_weight=0.5:label_smoothing=0.25": lambda z, a, y: (
            F.binary_cross_entropy_with_logits(
                z, 0.75 * y + 0.125, reduction="sum", pos_weight=torch.tensor(0.5)
            )
        ),
        "categorical_cross_entropy:label_smoothing=0.25": lambda z, a, y: F.cross_entropy(
            z, y, reduction="sum", label_smoothing=0.25
        ),
    }
    parameters = [
        [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in layer]
        for layer in layers
    ]
    a = torch.tensor(x)
    for (W, b), name in zip(parameters, activations, strict=True):
        z = a @ W.T + b
        a = sigma[name](z)
    (costs[cost](z, a, torch.tensor(y)) / len(x)).backward()
    return [Layer(W.grad.numpy(), b.grad.numpy()) for W, b in parameters]


def autograd_error(network, rng):
    x, y = random_samples(network, rng)
    names = [activation.name for activation in network.model.activations]
    wanted = torch_gradients(on_host(network.layers), x, y, names, network.model.cost.name)
    return max(
        relative_distance([ours], [theirs])
        for ours, theirs in zip(network.backprop(x, y), wanted, strict=True)
    )


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("activation", HIDDEN)
def test_gradient_equals_that_of_autograd(rng, activation, cost, depth):
    network = Network.from_layers(
        random_layers(sizes_of_depth(depth), rng), activation=activation, cost=cost, dtype="float64"
    )
    assert autograd_error(network, rng) < 1e-12


@pytest.mark.needs_float64("the same to 1e-12")
@pytest.mark.parametrize("cost", SETTLED)
def test_gradient_of_a_cost_with_settings_is_right(where, rng, cost):
    network = random_network(where, SIZES, rng, activation="tanh", cost=cost)
    check_gradients(network, *random_samples(network, rng), directions=2)
    assert autograd_error(network, rng) < 1e-12


@pytest.mark.parametrize("cost", CHAINED)
@pytest.mark.parametrize("output", ACTIVATIONS)
def test_gradient_through_every_output_activation_equals_that_of_autograd(rng, output, cost):
    network = Network.from_layers(
        random_layers([4, 5, 3], rng), output_activation=output, cost=cost, dtype="float64"
    )
    assert autograd_error(network, rng) < 1e-12


@pytest.mark.needs_float64("the same to 1e-12")
@pytest.mark.parametrize(("activation", "cost"), PAIRS)
def test_gradient_equals_that_of_autograd_everywhere(where, rng, activation, cost):
    network = random_network(where, SIZES, rng, activation=activation, cost=cost)
    assert autograd_error(network, rng) < 1e-12


# ---------------------------------------------------------------------------------------------
# What must not change a gradient, or an output

ROUNDING = {"float32": 1e-5, "float64": 1e-13}


@pytest.fixture
def gradient(where, dtype, rng):
    """The gradient of a network as a function of a batch, compiled where the library can."""
    network = random_network(where, SIZES, rng, dtype, cost="categorical_cross_entropy")

    @where.engine.compile
    def function(layers, x, y):
        return backprop.backpropagate(network.model, layers, x, y, xp=where.xp)[0]

    return lambda x, y: on_host(
        function(network.layers, where.asarray(x, dtype), where.asarray(y, dtype))
    )


def draw_batch(n, rng):
    return rng.normal(size=(n, 4)), random_targets("categorical_cross_entropy", n, 3, rng)


def test_order_of_a_batch_does_not_matter(gradient, dtype, rng):
    x, y = draw_batch(8, rng)
    order = rng.permutation(8)
    assert relative_distance(gradient(x[order], y[order]), gradient(x, y)) < ROUNDING[dtype]


def test_parts_of_a_batch_weighted_by_size_add_to_the_whole(gradient, dtype, rng):
    x, y = draw_batch(256, rng)
    parts = [gradient(x[rows], y[rows]) for rows in (slice(100), slice(100, None))]
    total = combine(lambda first, second: (100 * first + 156 * second) / 256, *parts)
    assert relative_distance(total, gradient(x, y)) < ROUNDING[dtype]


def test_batch_taken_twice_has_the_same_mean_gradient(gradient, dtype, rng):
    x, y = draw_batch(8, rng)
    twice = gradient(np.concatenate([x, x]), np.concatenate([y, y]))
    assert relative_distance(twice, gradient(x, y)) < ROUNDING[dtype]


def test_gradient_is_the_mean_of_the_gradients_of_the_samples(gradient, dtype, rng):
    x, y = draw_batch(8, rng)
    each = [gradient(x[n : n + 1], y[n : n + 1]) for n in range(8)]
    mean = combine(lambda *parts: np.mean(parts, axis=0), *each)
    assert relative_distance(gradient(x, y), mean) < ROUNDING[dtype]


def test_order_of_hidden_neurons_does_not_matter(where, dtype, rng):
    network = random_network(where, SIZES, rng, dtype)
    x = rng.normal(size=(8, 4))
    first, second, third = on_host(network.layers)
    outputs = to_numpy(network.feedforward(x))
    order = rng.permutation(6)
    network.layers = [
        Layer(first.W[order], first.b[order]),
        Layer(second.W[:, order], second.b),
        third,
    ]
    assert_agrees(network.feedforward(x), outputs, where, dtype)


def test_backprop_leaves_parameters_and_data_alone(where, dtype, rng):
    network = random_network(where, SIZES, rng, dtype)
    layers = combine(lambda part: to_numpy(part).copy(), network.layers)
    placed = [where.asarray(v, dtype) for v in (rng.normal(size=(8, 4)), rng.random((8, 3)))]
    before = [to_numpy(values).copy() for values in placed]
    network.backprop(*placed)
    for old, new in zip(before, placed, strict=True):
        assert np.array_equal(old, to_numpy(new))
    assert_layers_agree(network.layers, layers, where, dtype, eps=0)


def test_trace_keeps_every_weighted_input_and_every_activation(where, dtype, rng):
    layers = random_layers([4, 6, 3], rng)
    network = random_network(where, [4, 6, 3], rng, dtype, activation="relu")
    network.layers = layers
    x = where.asarray(rng.normal(size=(5, 4)), dtype)
    zs, activations, _ = backprop.forward(network.model, network.layers, x, xp=where.xp)
    assert activations[0] is x
    z1 = to_numpy(x) @ layers[0].W.T + layers[0].b
    a1 = np.maximum(z1, 0.0)
    z2 = a1 @ layers[1].W.T + layers[1].b
    wanted = [z1, z2], [a1, sigmoid(z2)]
    for results, values in zip((zs, activations[1:]), wanted, strict=True):
        for result, value in zip(results, values, strict=True):
            assert_agrees(result, value, where, dtype)
    alone = backprop.feedforward(network.model, network.layers, x, xp=where.xp)
    assert_agrees(alone, to_numpy(activations[-1]), where, dtype, eps=0)


# ---------------------------------------------------------------------------------------------
# A user's own functions


@pytest.mark.parametrize(
    "options",
    [
        {"activation": [SINE, "tanh"], "output_activation": SINE},
        {"cost": QUARTIC, "output_activation": "softmax"},
        {"activation": SINE, "cost": QUARTIC},
    ],
    ids=["activations", "cost", "both"],
)
def test_users_own_functions_have_the_right_gradient_and_learn(where, rng, options):
    network = random_network(where, SIZES, rng, **options)
    x, y = random_samples(network, rng)
    check_gradients(network, x, y)
    before = network.evaluate(x, y)["cost"]
    network.fit(x, y, epochs=20, batch_size=4, optimizer=SGD(0.05), progress=False)
    assert network.evaluate(x, y)["cost"] < before
