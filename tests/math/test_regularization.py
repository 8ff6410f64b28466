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
    widest,
)

from bp_xp import SGD, Cost, Layer, Network, to_numpy
from bp_xp._trees import leaves_of
from bp_xp.backends import place
from bp_xp.backends.numpy import engine as numpy_engine
from bp_xp.backends.torch import engine as torch_engine
from bp_xp.engines import plain
from bp_xp.math.regularization import (
    add_l1_gradient,
    add_l2_gradient,
    clip_by_norm,
    clip_by_value,
    l1_penalty,
    l2_penalty,
    limit_weight_norms,
)

RECORDERS = {"numpy": numpy_engine._record, "torch": torch_engine._record}

L2 = 0.3
L1 = 0.2
# Costs nothing, whatever the outputs: only the L2 term is left to move the weights.
NOTHING = Cost(
    "nothing", lambda a, y, *, xp: xp.sum(0.0 * a, axis=-1), lambda a, y, *, xp: 0.0 * (a - y)
)


def make_network(where, rng, dtype=None, **options):
    return Network.from_layers(
        random_layers([4, 5, 3], rng),
        backend=where.backend,
        device=where.device_name,
        dtype=dtype or widest(where),
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


def test_biases_are_not_penalised(where, dtype, rng):
    layers, gradients = random_layers([4, 5, 3], rng), random_layers([4, 5, 3], rng)
    placed = to_device(layers, where, dtype)
    result = add_l2_gradient(to_device(gradients, where, dtype), placed, L2)
    for (_, db), (_, before) in zip(result, gradients, strict=True):
        assert np.array_equal(to_numpy(db), before.astype(dtype))
    moved = to_device([Layer(W, b + 1.0) for W, b in layers], where, dtype)
    first, second = (l2_penalty(part, L2, xp=where.xp) for part in (placed, moved))
    assert to_numpy(first) == to_numpy(second)


@pytest.mark.needs_float64("a finite difference")
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
    assert_layers_agree(result, wanted, where)


@pytest.mark.parametrize("batch_size", [1, 32, 64], ids=["one", "32", "all"])
def test_each_step_shrinks_the_weights_alike_whatever_the_batch_size(where, rng, batch_size):
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
    assert_layers_agree(network.layers, wanted, where, eps=256)


def test_strength_is_the_books_lambda_over_the_number_of_samples(where, rng):
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
    assert_layers_agree(network.layers, wanted, where)


def test_reported_cost_has_no_penalty(where, rng):
    network = make_network(where, rng, cost=NOTHING)
    x, y = rng.normal(size=(8, 4)), rng.random((8, 3))
    history = network.fit(x, y, epochs=1, batch_size=4, optimizer=SGD(0.1), l2=L2, progress=False)
    assert history["cost"] == [0.0]
    assert network.evaluate(x, y)["cost"] == 0.0


def test_strength_is_scikit_learns_alpha_over_the_batch_size(where, rng):
    # Documented in bp_xp.math.regularization: one full batch of theirs, with a term and without.
    sklearn = pytest.importorskip("sklearn.neural_network")
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 3))
    eta, alpha = 0.1, 2.4

    def weights(eta, alpha):
        net = sklearn.MLPRegressor(
            hidden_layer_sizes=[5],
            solver="sgd",
            momentum=0.0,
            batch_size=8,
            random_state=0,
            learning_rate_init=eta,
            alpha=alpha,
        )
        return net.partial_fit(x, y).coefs_

    # A rate that moves nothing shows where they start.
    start, plain_step, shrunk = weights(1e-300, 0.0), weights(eta, 0.0), weights(eta, alpha)
    layers = [Layer(where.asarray(W.T.copy()), where.asarray(np.zeros(W.shape[1]))) for W in start]
    nothing = combine(lambda part: 0.0 * part, layers)
    gradients = add_l2_gradient(nothing, layers, alpha / 8)
    for layer, plainly, less in zip(gradients, plain_step, shrunk, strict=True):
        assert_agrees(layer.W, (plainly - less).T / eta, where, eps=1024)


# ---------------------------------------------------------------------------------------------
# L1


def test_l1_penalty_is_the_strength_times_the_absolute_weights(where, dtype, rng):
    layers = random_layers([4, 5, 3], rng)
    wanted = L1 * sum(np.sum(np.abs(W)) for W, _ in layers)
    penalty = l1_penalty(to_device(layers, where, dtype), L1, xp=where.xp)
    assert_agrees(penalty, wanted, where, dtype)


def test_gradient_gains_the_strength_times_the_signs_and_nothing_at_zero(where, dtype, rng):
    layers, gradients = random_layers([4, 5, 3], rng), random_layers([4, 5, 3], rng)
    layers[0].W[2, 1] = layers[1].W[0, :] = 0.0
    wanted = [
        Layer(dW + L1 * np.sign(W), db) for (dW, db), (W, _) in zip(gradients, layers, strict=True)
    ]
    result = add_l1_gradient(
        to_device(gradients, where, dtype), to_device(layers, where, dtype), L1, xp=where.xp
    )
    assert_layers_agree(result, wanted, where, dtype)
    assert to_numpy(result[0].W)[2, 1] == gradients[0].W[2, 1].astype(dtype)


def test_l1_hides_no_weight_that_is_not_a_number():
    W = np.array([[np.nan, np.inf, -np.inf, -0.0]])
    (layer,) = add_l1_gradient([Layer(0.0 * W[:, 3:], W)], [Layer(W, W)], L1, xp=np)
    assert np.array_equal(layer.W, [[0.0, L1, -L1, 0.0]])
    assert np.isnan((W - layer.W)[0, 0])  # whatever is added to it


def test_l1_leaves_biases_alone(where, rng):
    layers, gradients = random_layers([4, 5, 3], rng), random_layers([4, 5, 3], rng)
    placed = to_device(layers, where)
    result = add_l1_gradient(to_device(gradients, where), placed, L1, xp=where.xp)
    for (_, db), (_, before) in zip(result, gradients, strict=True):
        assert np.array_equal(to_numpy(db), before.astype(widest(where)))
    moved = to_device([Layer(W, b + 1.0) for W, b in layers], where)
    first, second = (l1_penalty(part, L1, xp=where.xp) for part in (placed, moved))
    assert to_numpy(first) == to_numpy(second)


@pytest.mark.needs_float64("a finite difference")
def test_l1_gradient_equals_a_central_difference_of_the_penalty(where, rng):
    # Weights well away from 0, where the term has a kink.
    start = combine(lambda part: part + np.copysign(0.5, part), random_layers([4, 5, 3], rng))
    direction = random_layers([4, 5, 3], rng)
    placed = to_device(start, where)
    nothing = combine(lambda part: 0.0 * part, placed)
    claimed = flat(on_host(add_l1_gradient(nothing, placed, L1, xp=where.xp))) @ flat(direction)

    def penalty(t):
        layers = combine(lambda w, d: w + t * d, start, direction)
        return float(to_numpy(l1_penalty(to_device(layers, where), L1, xp=where.xp)))

    assert central_difference(penalty) == pytest.approx(claimed, rel=1e-9)


# ---------------------------------------------------------------------------------------------
# Clipping


def norm_of(layers):
    return float(np.linalg.norm(flat(on_host(layers))))


def bits(layers):
    return [to_numpy(part).tobytes() for layer in layers for part in layer]


def test_norm_above_the_limit_is_brought_down_to_it(where, dtype, rng):
    gradients = random_layers([4, 5, 3], rng)
    limit = 0.25 * norm_of(gradients)
    result = clip_by_norm(to_device(gradients, where, dtype), limit, xp=where.xp)
    assert_layers_agree(result, combine(lambda g: 0.25 * g, gradients), where, dtype)
    assert norm_of(result) == pytest.approx(limit, rel=32 * float(np.finfo(dtype).eps))


def test_norm_below_the_limit_leaves_every_bit(where, dtype, rng):
    gradients = to_device(random_layers([4, 5, 3], rng), where, dtype)
    result = clip_by_norm(gradients, 1.01 * norm_of(gradients), xp=where.xp)
    assert bits(result) == bits(gradients)


def test_clipping_counts_biases_as_well(where):
    gradients = [Layer(np.array([[3.0]]), np.array([4.0]))]
    result = clip_by_norm(to_device(gradients, where), 1.0, xp=where.xp)
    assert_layers_agree(result, [Layer([[0.6]], [0.8])], where)


def test_gradients_of_zero_stay_zero(where, dtype):
    gradients = to_device([Layer(np.zeros((3, 4)), np.zeros(3))], where, dtype)
    assert bits(clip_by_norm(gradients, 1.0, xp=where.xp)) == bits(gradients)


@pytest.mark.parametrize("size", [1e-30, 1e25, 1e31])
@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e6])
def test_clipping_survives_squares_outside_float32(where, size, limit):
    # 1e25² is beyond float32, and 1e-30² is 0 in it.
    if size / limit > 2e31:
        pytest.skip("more than documented")
    gradients = [Layer(np.full((2, 2), size), np.zeros(2))]
    result = clip_by_norm(to_device(gradients, where, "float32"), limit, xp=where.xp)
    norm = 2 * size
    wanted = combine(lambda g: g * min(1.0, limit / norm), gradients)
    assert_layers_agree(result, wanted, where, "float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(where, bad):
    gradients = to_device([Layer(np.array([[1.0, bad]]), np.ones(1))], where)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = clip_by_norm(gradients, 1.0, xp=where.xp)
    assert np.isnan(to_numpy(result[0].W)).any()


@pytest.mark.parametrize("share", [0.1, 10.0], ids=["above", "below"])
def test_clipping_by_norm_equals_that_of_pytorch(where, rng, share):
    torch = pytest.importorskip("torch", reason="PyTorch's clip_grad_norm_ is the reference")
    gradients = random_layers([4, 5, 3], rng)
    limit = share * norm_of(gradients)
    parameters = []
    for part in (part for layer in gradients for part in layer):
        parameter = torch.zeros(part.shape, dtype=torch.float64, requires_grad=True)
        parameter.grad = torch.tensor(part)
        parameters.append(parameter)
    torch.nn.utils.clip_grad_norm_(parameters, limit)
    clipped = iter(parameter.grad.numpy() for parameter in parameters)
    wanted = [Layer(next(clipped), next(clipped)) for _ in gradients]
    result = clip_by_norm(to_device(gradients, where), limit, xp=where.xp)
    # Theirs divides by the norm + 1e-6.
    assert_layers_agree(result, wanted, where, eps=1e-6 / np.finfo("float64").eps)


def test_values_are_brought_between_the_limits(where, dtype):
    gradients = [Layer(np.array([[-3.0, -0.5], [0.0, 0.25]]), np.array([0.75, -0.75]))]
    result = clip_by_value(to_device(gradients, where, dtype), 0.5, xp=where.xp)
    wanted = [Layer([[-0.5, -0.5], [0.0, 0.25]], [0.5, -0.5])]
    assert_layers_agree(result, wanted, where, dtype, eps=0.0)


def test_values_within_the_limits_keep_every_bit(where, dtype, rng):
    gradients = to_device(random_layers([4, 5, 3], rng), where, dtype)
    assert bits(clip_by_value(gradients, 100.0, xp=where.xp)) == bits(gradients)


# ---------------------------------------------------------------------------------------------
# Max-norm


def test_long_rows_are_brought_down_to_the_limit_and_short_ones_kept(where, dtype):
    W, b = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [6.0, -8.0]]), np.full(4, 100.0)
    result = limit_weight_norms(to_device([Layer(W, b)], where, dtype), 2.5, xp=where.xp)
    wanted = [Layer([[1.5, 2.0], [0.3, 0.4], [0.0, 0.0], [1.5, -2.0]], b)]
    assert_layers_agree(result, wanted, where, dtype)
    kept = to_numpy(result[0].W)[1:3]
    assert kept.tobytes() == W[1:3].astype(dtype).tobytes()


def test_no_row_is_longer_than_the_limit_afterwards(where, dtype, rng):
    layers = random_layers([40, 30, 20], rng)
    result = limit_weight_norms(to_device(layers, where, dtype), 0.9, xp=where.xp)
    for (W, b), (old, bias) in zip(on_host(result), layers, strict=True):
        lengths, before = (np.linalg.norm(rows, axis=1) for rows in (W, old))
        assert np.all(lengths <= 0.9 * (1 + 8 * np.finfo(dtype).eps))
        assert np.allclose(lengths, np.minimum(before, 0.9), rtol=8 * np.finfo(dtype).eps)
        assert np.array_equal(b, bias.astype(dtype))


# ---------------------------------------------------------------------------------------------
# Engines


def test_engine_does_what_the_plain_loop_does(where, rng):
    layers = to_device(random_layers([4, 5], rng), where)
    xs, ys = where.asarray(rng.normal(size=(6, 8, 4))), where.asarray(rng.random((6, 8, 5)))
    xp = where.xp

    def step(state, x, y, *, xp):
        [(W, b)] = state
        z = x @ W.mT + b
        gradients = [Layer((z - y).mT @ x, xp.sum(z - y, axis=0))]
        gradients = add_l1_gradient(gradients, state, L1, xp=xp)
        gradients = clip_by_value(gradients, 5.0, xp=xp)
        [(dW, db)] = clip_by_norm(gradients, 0.5, xp=xp)
        return limit_weight_norms([Layer(W - 0.5 * dW, b - 0.5 * db)], 1.0, xp=xp), z

    ends = [
        loop(step, combine(lambda part: xp.asarray(part, copy=True), layers), (xs, ys), xp=xp)
        for loop in (where.engine.new_loop(where.new_report()), plain.loop)
    ]
    (replayed, zs), (plainly, plain_zs) = ends
    assert_layers_agree(replayed, on_host(plainly), where)
    assert_agrees(zs, to_numpy(plain_zs), where)


@pytest.mark.parametrize("name", RECORDERS)
def test_step_with_penalties_and_limits_can_be_recorded(name, rng):
    pytest.importorskip(name)
    where = place("cpu", name)

    def step(state, x, y, *, xp):
        gradients = [Layer(y.mT @ x, xp.sum(y, axis=0))]
        gradients = add_l1_gradient(gradients, state, L1, xp=xp)
        gradients = clip_by_norm(clip_by_value(gradients, 5.0, xp=xp), 0.5, xp=xp)
        [(W, b), (dW, db)] = *state, *gradients
        return limit_weight_norms([Layer(W - dW, b - db)], 1.0, xp=xp), y

    layers = to_device(random_layers([4, 5], rng), where)
    batch = [where.asarray(rng.normal(size=(8, size))) for size in (4, 5)]
    RECORDERS[name](step, layers, batch, xp=where.xp)


def test_limits_are_those_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    layers = random_layers([4, 5, 3], rng)
    parts = [torch.tensor(part) for part in leaves_of(layers)]
    for part in parts:
        part.grad = part.clone()
    torch.nn.utils.clip_grad_value_(parts, 0.4)
    clipped = leaves_of(clip_by_value(layers, 0.4, xp=np))
    for ours, theirs in zip(clipped, parts, strict=True):
        assert np.array_equal(ours, theirs.grad.numpy())
    limited = limit_weight_norms(layers, 0.7, fresh=False, xp=np)
    for (W, _), (ours, _) in zip(layers, limited, strict=True):
        theirs = torch.renorm(torch.tensor(W), 2, 0, 0.7).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # torch.renorm adds 1e-7 to the norm
