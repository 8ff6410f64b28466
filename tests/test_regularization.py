import numpy as np
import pytest
from helpers import (
    assert_agrees,
    assert_layers_agree,
    central_difference,
    combine,
    flat,
    on_host,
    random_layers,
    to_device,
)

from bp_xp import SGD, Cost, Layer, Network, to_numpy
from bp_xp.regularization import add_l2_gradient, l2_penalty

L2 = 0.3
# Costs nothing, whatever the outputs: only the L2 term is left to move the weights.
NOTHING = Cost(
    "nothing", lambda a, y, *, xp: xp.sum(0.0 * a, axis=-1), lambda a, y, *, xp: 0.0 * (a - y)
)


def make_network(where, rng, dtype="float64", **options):
    return Network.from_layers(
        random_layers([4, 5, 3], rng),
        backend=where.backend,
        device=where.device_name,
        dtype=dtype,
        seed=0,
        **options,
    )


def test_penalty_is_half_the_strength_times_the_squared_weights(where, dtype, rng):
    layers = random_layers([4, 5, 3], rng)
    wanted = L2 / 2 * sum(np.sum(W**2) for W, _ in layers)
    penalty = l2_penalty(to_device(layers, where, dtype), L2, xp=where.xp)
    assert_agrees(penalty, wanted, where, dtype)


def test_gradient_gains_the_strength_times_the_weights(where, dtype, rng):
    layers, gradients = random_layers([4, 5, 3], rng), random_layers([4, 5, 3], rng)
    wanted = [Layer(dW + L2 * W, db) for (dW, db), (W, _) in zip(gradients, layers, strict=True)]
    result = add_l2_gradient(
        to_device(gradients, where, dtype), to_device(layers, where, dtype), L2
    )
    assert_layers_agree(result, wanted, where, dtype)


def test_biases_are_not_penalised(where, dtype, rng):  # N08
    layers, gradients = random_layers([4, 5, 3], rng), random_layers([4, 5, 3], rng)
    placed = to_device(layers, where, dtype)
    result = add_l2_gradient(to_device(gradients, where, dtype), placed, L2)
    for (_, db), (_, before) in zip(result, gradients, strict=True):
        assert np.array_equal(to_numpy(db), before.astype(dtype))
    moved = to_device([Layer(W, b + 1.0) for W, b in layers], where, dtype)
    first, second = (l2_penalty(part, L2, xp=where.xp) for part in (placed, moved))
    assert to_numpy(first) == to_numpy(second)


def test_penalised_gradient_equals_a_central_difference_of_cost_and_penalty(where, rng):
    network = make_network(where, rng, activation="tanh")
    x, y = rng.normal(size=(8, 4)), rng.random((8, 3))
    start, direction = on_host(network.layers), random_layers([4, 5, 3], rng)
    gradients = add_l2_gradient(network.backprop(x, y), network.layers, L2)
    claimed = flat(on_host(gradients)) @ flat(direction)

    def cost(t):
        network.layers = combine(lambda w, d: w + t * d, start, direction)
        penalty = l2_penalty(network.layers, L2, xp=where.xp)
        return network.evaluate(x, y)["cost"] + float(to_numpy(penalty))

    assert central_difference(cost) == pytest.approx(claimed, rel=1e-9)


def test_penalty_equals_that_of_autograd(where, rng):
    torch = pytest.importorskip("torch", reason="PyTorch's autograd is the reference")
    layers = random_layers([4, 5, 3], rng)
    weights = [torch.tensor(W, requires_grad=True) for W, _ in layers]
    (L2 / 2 * sum((W**2).sum() for W in weights)).backward()
    wanted = [
        Layer(W.grad.numpy(), np.zeros_like(b)) for W, (_, b) in zip(weights, layers, strict=True)
    ]
    placed = to_device(layers, where)
    result = add_l2_gradient(combine(lambda part: 0.0 * part, placed), placed, L2)
    assert_layers_agree(result, wanted, where, "float64")


@pytest.mark.parametrize("batch_size", [1, 32, 64], ids=["one", "32", "all"])
def test_each_step_shrinks_the_weights_alike_whatever_the_batch_size(where, rng, batch_size):  # N08
    network = make_network(where, rng, cost=NOTHING)
    start = on_host(network.layers)
    x, y = rng.normal(size=(64, 4)), rng.random((64, 3))
    eta, epochs = 0.1, 2
    network.fit(
        x, y, epochs=epochs, batch_size=batch_size, optimizer=SGD(eta), l2=L2, progress=False
    )
    # Documented: each weight's derivative gains l2·w at every step, the biases' nothing.
    shrunk = (1.0 - eta * L2) ** (epochs * 64 // batch_size)
    wanted = [Layer(shrunk * W, b) for W, b in start]
    assert_layers_agree(network.layers, wanted, where, "float64", eps=256)


def test_strength_is_the_books_lambda_over_the_number_of_samples(where, rng):  # N08
    # Nielsen, eq. (93): w ← (1 − ηλ/n) w − (η/m) Σ ∂C/∂w, b ← b − (η/m) Σ ∂C/∂b.
    network = make_network(where, rng)
    x, y = rng.normal(size=(8, 4)), rng.random((8, 3))
    eta, lam, n = 0.5, 2.0, 8
    start, gradients = on_host(network.layers), on_host(network.backprop(x, y))
    network.fit(x, y, epochs=1, batch_size=n, optimizer=SGD(eta), l2=lam / n, progress=False)
    wanted = [
        Layer((1 - eta * lam / n) * W - eta * dW, b - eta * db)
        for (W, b), (dW, db) in zip(start, gradients, strict=True)
    ]
    assert_layers_agree(network.layers, wanted, where, "float64")


def test_reported_cost_has_no_penalty(where, rng):
    network = make_network(where, rng, cost=NOTHING)
    x, y = rng.normal(size=(8, 4)), rng.random((8, 3))
    history = network.fit(x, y, epochs=1, batch_size=4, optimizer=SGD(0.1), l2=L2, progress=False)
    assert history["cost"] == [0.0]
    assert network.evaluate(x, y)["cost"] == 0.0
