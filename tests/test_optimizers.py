import numpy as np
import pytest
from helpers import assert_agrees, assert_layers_agree, combine, on_host, random_layers, to_device

from bp_xp import SGD, Layer
from bp_xp.engines import engine_for

RULES = {
    "plain": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
}
RULE = pytest.mark.parametrize("rule", RULES)


def gradients_at(layers, noise):
    """Return what stands for gradients: they depend on the parameters and on the step."""
    return combine(lambda w, n: 0.3 * w + n, layers, noise)


@RULE
def test_fifty_steps_equal_those_of_pytorch(where, rng, rule):
    torch = pytest.importorskip("torch", reason="PyTorch's SGD is the reference")
    optimizer = RULES[rule]
    start = random_layers([4, 5, 3], rng)
    theirs = [Layer(*(torch.tensor(part, requires_grad=True) for part in layer)) for layer in start]
    reference = torch.optim.SGD(
        [part for layer in theirs for part in layer],
        lr=optimizer.learning_rate,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
    )
    layers = to_device(start, where)
    state = optimizer.init(layers, place=where, dtype="float64")
    for _ in range(50):
        noise = random_layers([4, 5, 3], rng)
        gradients = to_device(gradients_at(on_host(layers), noise), where)
        layers, state = optimizer.update(layers, gradients, state, xp=where.xp)

        values = combine(lambda part: part.detach().numpy().copy(), theirs)
        for layer, parts in zip(gradients_at(values, noise), theirs, strict=True):
            for gradient, part in zip(layer, parts, strict=True):
                part.grad = torch.tensor(gradient)
        reference.step()
        values = combine(lambda part: part.detach().numpy(), theirs)
        for ours, wanted in zip(on_host(layers), values, strict=True):
            for a, b in zip(ours, wanted, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@RULE
def test_steps_follow_the_rule_as_it_is_written(where, dtype, rng, rule):
    optimizer = RULES[rule]
    eta, mu = optimizer.learning_rate, optimizer.momentum
    start = combine(lambda part: part.astype(dtype), random_layers([4, 5, 3], rng))
    layers = to_device(start, where, dtype)
    state = optimizer.init(layers, place=where, dtype=dtype)
    wanted, velocity = on_host(start), combine(lambda part: 0.0 * part, start)
    for _ in range(3):
        gradients = combine(lambda part: part.astype(dtype), random_layers([4, 5, 3], rng))
        layers, state = optimizer.update(
            layers, to_device(gradients, where, dtype), state, xp=where.xp
        )
        velocity = combine(lambda v, g: mu * v + g, velocity, gradients)
        direction = velocity
        if optimizer.nesterov:
            direction = combine(lambda v, g: g + mu * v, velocity, gradients)
        wanted = combine(lambda w, d: w - eta * d, wanted, direction)
        assert_layers_agree(layers, wanted, where, dtype)
        if optimizer.momentum:
            assert_layers_agree(state.velocity, velocity, where, dtype)
        else:
            assert state.velocity == []


@RULE
def test_state_starts_at_rest_on_the_device_and_in_the_dtype(where, dtype, rng, rule):
    optimizer = RULES[rule]
    layers = to_device(random_layers([4, 5, 3], rng), where, dtype)
    state = optimizer.init(layers, place=where, dtype=dtype)
    assert_agrees(state.learning_rate, 0.1, where, dtype, eps=1)
    assert_agrees(state.momentum, optimizer.momentum, where, dtype, eps=1)
    if optimizer.momentum:
        rest = combine(lambda part: 0.0 * part, random_layers([4, 5, 3], rng))
        assert_layers_agree(state.velocity, rest, where, dtype, eps=0)


@RULE
def test_learning_rate_in_the_state_acts_without_compiling_again(where, rng, rule):
    optimizer = RULES[rule]
    engine = engine_for(where.backend)
    traces = []

    def step(layers, gradients, state):
        traces.append(None)
        return optimizer.update(layers, gradients, state, xp=where.xp)

    step = engine.compile(step)
    start, gradients = random_layers([4, 5, 3], rng), random_layers([4, 5, 3], rng)
    moves = []
    for rate in (0.1, 0.2, 0.4):
        layers = to_device(start, where)
        state = optimizer.init(layers, place=where, dtype="float64")
        state = state._replace(learning_rate=where.asarray(rate, "float64"))
        layers, _ = step(layers, to_device(gradients, where), state)
        moves.append(combine(lambda after, before: after - before, on_host(layers), start))
    for factor, move in zip((2.0, 4.0), moves[1:], strict=True):
        for W, b in combine(lambda m, first, f=factor: m - f * first, move, moves[0]):
            assert max(np.abs(W).max(), np.abs(b).max()) < 1e-14
    assert len(traces) == (1 if where.backend == "jax" else 3)


def test_a_rule_is_one_hashable_object_whatever_the_numbers():
    plain, momentum, nesterov = (optimizer.update for optimizer in RULES.values())
    assert len({plain, momentum, nesterov}) == 3
    assert SGD(3.0).update is plain
    assert SGD(3.0, momentum=0.5).update is momentum
    assert SGD(3.0, momentum=0.5, nesterov=True).update is nesterov
    assert SGD(3.0, momentum=0.5).update is SGD(1e-3, momentum=0.99).update


def test_optimizer_is_a_value():
    assert SGD(0.1) == SGD(0.1) != SGD(0.2)
    assert len({SGD(0.1), SGD(0.1), SGD(0.1, momentum=0.9)}) == 2


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan"), float("inf")], ids=str)
def test_learning_rate_must_be_finite_and_above_zero(rate):
    with pytest.raises(ValueError, match=r"learning_rate must be finite and above 0"):
        SGD(rate)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan")], ids=str)
def test_momentum_must_be_from_zero_to_below_one(momentum):
    with pytest.raises(ValueError, match=r"momentum must be finite and at least 0 and below 1"):
        SGD(0.1, momentum=momentum)


@pytest.mark.parametrize("number", ["0.1", None, True, [0.1]], ids=repr)
@pytest.mark.parametrize("name", ["learning_rate", "momentum"])
def test_what_is_no_number_is_refused_by_name(name, number):
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        SGD(**{"learning_rate": 0.1, name: number})


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match=r"nesterov=True needs a momentum above 0"):
        SGD(0.1, nesterov=True)
