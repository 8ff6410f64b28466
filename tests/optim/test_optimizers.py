import dataclasses
import pickle

import numpy as np
import pytest
from helpers import (
    assert_agrees,
    assert_layers_agree,
    combine,
    on_host,
    random_layers,
    to_device,
    tolerance,
    widest,
)
from steps import RULES

import bp_xp
from bp_xp import ACTIVATIONS, COSTS, Layer, Network, to_numpy
from bp_xp._trees import leaves_of
from bp_xp.backends import place
from bp_xp.backends.numpy import engine as numpy_engine
from bp_xp.backends.torch import engine as torch_engine
from bp_xp.engines import PLAIN, plain
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from bp_xp.optim.schedules import CosineDecay, LinearWarmUp, ReduceOnPlateau
from bp_xp.training.step import Rule, State, make_step

SIZES = [4, 5, 3]
HERE = {"placement": place("cpu"), "dtype": "float64"}
RULE = pytest.mark.parametrize("rule", RULES)
MEMORIES = ("velocity", "square", "mean", "largest")


def gradients_at(layers, noise):
    """Return arrays used as gradients, which depend on the parameters and on the step."""
    return combine(lambda w, n: 0.3 * w + n, layers, noise)


def shrinking_noise(rng, step):
    """Draw noise that becomes smaller, so that the largest v of AMSGrad is not the last."""
    return combine(lambda n: n / (1.0 + 0.3 * step), random_layers(SIZES, rng))


# ---------------------------------------------------------------------------------------------
# PyTorch's rules


def of_torch(optimizer, layers):
    """Return PyTorch's optimizer of the same rule."""
    import torch

    weights = [W for W, _ in layers]
    biases = [b for _, b in layers]
    rate = optimizer.learning_rate
    match optimizer:
        case SGD(_, momentum, nesterov):
            return torch.optim.SGD(weights + biases, rate, momentum, nesterov=nesterov)
        case Adagrad(_, decay, start, epsilon):
            return torch.optim.Adagrad(
                weights + biases, rate, decay, initial_accumulator_value=start, eps=epsilon
            )
        case RMSprop(_, alpha, momentum, centered, epsilon):
            return torch.optim.RMSprop(
                weights + biases, rate, alpha, epsilon, momentum=momentum, centered=centered
            )
        case AdamW(_, beta1, beta2, epsilon, amsgrad, decay, of_biases):
            groups = [{"params": weights}, {"params": biases}]
            if not of_biases:
                groups[1]["weight_decay"] = 0.0
            return torch.optim.AdamW(groups, rate, (beta1, beta2), epsilon, decay, amsgrad)
        case NAdam(_, beta1, beta2, epsilon, decay):
            return torch.optim.NAdam(
                weights + biases, rate, (beta1, beta2), epsilon, momentum_decay=decay
            )
        case Adam(_, beta1, beta2, epsilon, amsgrad):
            return torch.optim.Adam(
                weights + biases, rate, (beta1, beta2), epsilon, amsgrad=amsgrad
            )


@pytest.fixture
def float64_in_torch():
    """PyTorch's NAdam keeps the product of its momenta in the default dtype."""
    torch = pytest.importorskip("torch", reason="PyTorch's optimizers are the reference")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


@RULE
@pytest.mark.needs_float64("the same to 1e-12")
def test_fifty_steps_equal_those_of_pytorch(where, rng, rule, float64_in_torch):
    torch = float64_in_torch
    optimizer = RULES[rule]
    start = random_layers(SIZES, rng)
    theirs = combine(lambda part: torch.tensor(part, requires_grad=True), start)
    reference = of_torch(optimizer, theirs)
    layers = to_device(start, where)
    state = optimizer.init(layers, placement=where, dtype=widest(where))
    for step in range(50):
        noise = shrinking_noise(rng, step)
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


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "Adam", "AdamW", "NAdam"])
def test_defaults_are_those_of_pytorch(name, rng):
    torch = pytest.importorskip("torch")
    optimizer = getattr(bp_xp, name)()
    parameters = combine(torch.tensor, random_layers(SIZES, rng))
    ours = of_torch(optimizer, parameters).defaults
    assert ours == getattr(torch.optim, name)(list(leaves_of(parameters))).defaults


@pytest.mark.parametrize("rule", ["nesterov", "adagrad", "rmsprop", "adam", "nadam"])
def test_l2_is_the_weight_decay_of_pytorch_on_weights_alone(rng, rule, float64_in_torch):
    torch, optimizer = float64_in_torch, RULES[rule]
    layers = random_layers(SIZES, rng)
    theirs = combine(lambda part: torch.tensor(part, requires_grad=True), layers)
    reference = of_torch(optimizer, theirs)
    weights, biases = [W for W, _ in theirs], [b for _, b in theirs]
    reference.param_groups.clear()
    reference.add_param_group({"params": weights, "weight_decay": 0.3})
    reference.add_param_group({"params": biases, "weight_decay": 0.0})
    state = optimizer.init(layers, **HERE)
    for _ in range(4):
        gradients = random_layers(SIZES, rng)
        for part, gradient in zip(leaves_of(theirs), leaves_of(gradients), strict=True):
            part.grad = torch.tensor(gradient)
        reference.step()
        gradients = Regularization(l2=0.3).shape_gradients(gradients, layers, xp=np)
        layers, state = optimizer.update(layers, gradients, state, xp=np)
    for ours, wanted in zip(leaves_of(layers), leaves_of(theirs), strict=True):
        np.testing.assert_allclose(ours, wanted.detach().numpy(), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------
# The rules as they are written: functions of (t, w, g, memory) that return w and the memory


def sgd(rule, t, w, g, v=0.0):
    v = rule.momentum * v + g
    return w - rule.learning_rate * (g + rule.momentum * v if rule.nesterov else v), (v,)


def adagrad(rule, t, w, g, s=None):
    s = (rule.initial_accumulator if s is None else s) + g**2
    rate = rule.learning_rate / (1.0 + rule.learning_rate_decay * t)
    return w - rate * g / (np.sqrt(s) + rule.epsilon), (s,)


def rmsprop(rule, t, w, g, mean_square=0.0, mean=0.0, v=0.0):
    mean_square = rule.alpha * mean_square + (1.0 - rule.alpha) * g**2
    mean = rule.alpha * mean + (1.0 - rule.alpha) * g
    spread = mean_square - mean**2 if rule.centered else mean_square
    v = rule.momentum * v + g / (np.sqrt(spread) + rule.epsilon)
    return w - rule.learning_rate * v, (mean_square, mean, v)


def adam(rule, t, w, g, m=0.0, v=0.0, u=0.0):
    m = rule.beta1 * m + (1.0 - rule.beta1) * g
    v = rule.beta2 * v + (1.0 - rule.beta2) * g**2
    u = np.maximum(u, v) if rule.amsgrad else v
    m_hat = m / (1.0 - rule.beta1 ** (t + 1))
    v_hat = u / (1.0 - rule.beta2 ** (t + 1))
    return w - rule.learning_rate * m_hat / (np.sqrt(v_hat) + rule.epsilon), (m, v, u)


def adamw(rule, t, w, g, *memory):
    decays = rule.decay_biases or w.ndim == 2
    kept = 1.0 - rule.learning_rate * rule.weight_decay if decays else 1.0
    return adam(rule, t, kept * w, g, *memory)


def nadam(rule, t, w, g, m=0.0, v=0.0, product=1.0):
    m = rule.beta1 * m + (1.0 - rule.beta1) * g
    v = rule.beta2 * v + (1.0 - rule.beta2) * g**2
    mu, mu_next = (
        rule.beta1 * (1.0 - 0.5 * 0.96 ** (rule.momentum_decay * step)) for step in (t + 1, t + 2)
    )
    product *= mu
    m_bar = (1.0 - mu) * g / (1.0 - product) + mu_next * m / (1.0 - product * mu_next)
    v_hat = v / (1.0 - rule.beta2 ** (t + 1))
    return w - rule.learning_rate * m_bar / (np.sqrt(v_hat) + rule.epsilon), (m, v, product)


FORMULAS = {
    SGD: sgd,
    Adagrad: adagrad,
    RMSprop: rmsprop,
    Adam: adam,
    AdamW: adamw,
    NAdam: nadam,
}


@RULE
def test_steps_follow_the_rule_as_it_is_written(where, dtype, rng, rule):
    optimizer = RULES[rule]
    formula = FORMULAS[type(optimizer)]
    start = combine(lambda part: part.astype(dtype), random_layers(SIZES, rng))
    layers = to_device(start, where, dtype)
    state = optimizer.init(layers, placement=where, dtype=dtype)
    wanted, memory = on_host(start), combine(lambda part: (), start)
    for t in range(4):
        gradients = combine(lambda part: part.astype(dtype), shrinking_noise(rng, t))
        layers, state = optimizer.update(
            layers, to_device(gradients, where, dtype), state, xp=where.xp
        )
        both = combine(
            lambda w, g, past, t=t: formula(optimizer, t, w, g.astype(np.float64), *past),
            wanted,
            gradients,
            memory,
        )
        wanted, memory = (combine(lambda pair, i=i: pair[i], both) for i in (0, 1))
        # In float32, 1 − α is rounded by 1/(1 − α) units of α's rounding.
        assert_layers_agree(layers, wanted, where, dtype, eps=128)


@RULE
def test_state_starts_on_the_device_and_in_the_dtype_and_keeps_its_form(where, dtype, rng, rule):
    optimizer = RULES[rule]
    layers = to_device(random_layers(SIZES, rng), where, dtype)
    state = optimizer.init(layers, placement=where, dtype=dtype)
    assert type(state)._fields[0] == "learning_rate"
    for name, value in state._asdict().items():
        if name not in MEMORIES:
            started = {"slowdown": 1.0, "warm_up": 1.0, "product": 1.0}
            wanted = started.get(name, getattr(optimizer, name, 0.0))
            assert_agrees(value, wanted, where, dtype, eps=1)
        elif value:
            filled = getattr(optimizer, "initial_accumulator", 0.0)
            wanted = combine(lambda w, n=filled: 0.0 * w + n, random_layers(SIZES, rng))
            assert_layers_agree(value, wanted, where, dtype, eps=1)
    forms = [(part.shape, part.dtype) for part in leaves_of(state)]

    gradients = to_device(random_layers(SIZES, rng), where, dtype)
    _, state = optimizer.update(layers, gradients, state, xp=where.xp)

    assert [(part.shape, part.dtype) for part in leaves_of(state)] == forms


@pytest.mark.parametrize(
    ("rule", "memories"),
    [
        ("plain", set()),
        ("momentum", {"velocity"}),
        ("adagrad", {"square"}),
        ("rmsprop", {"square"}),
        ("rmsprop-centered", {"square", "mean"}),
        ("rmsprop-centered-momentum", {"square", "mean", "velocity"}),
        ("adam", {"mean", "square"}),
        ("amsgrad", {"mean", "square", "largest"}),
        ("nadam", {"mean", "square"}),
    ],
)
def test_a_rule_remembers_only_what_it_needs(rng, rule, memories):
    layers = random_layers(SIZES, rng)
    state = RULES[rule].init(layers, placement=place("cpu"), dtype="float64")
    assert {name for name in MEMORIES if getattr(state, name, [])} == memories


# ---------------------------------------------------------------------------------------------
# Compiled, recorded, and given a rate


@RULE
def test_learning_rate_in_the_state_acts_without_compiling_again(where, rng, rule):
    optimizer = RULES[rule]
    engine = where.engine
    traces = []

    def step(layers, gradients, state):
        traces.append(None)
        return optimizer.update(layers, gradients, state, xp=where.xp)

    step = engine.compile(step)
    start, gradients = random_layers(SIZES, rng), random_layers(SIZES, rng)
    moves = []
    for rate in (0.1, 0.2, 0.4):
        layers = to_device(start, where)
        state = optimizer.init(layers, placement=where, dtype=widest(where))
        state = state._replace(learning_rate=where.asarray(rate, widest(where)))
        layers, _ = step(layers, to_device(gradients, where), state)
        moves.append(combine(lambda after, before: after - before, on_host(layers), start))
    for factor, move in zip((2.0, 4.0), moves[1:], strict=True):
        for W, b in combine(lambda m, first, f=factor: m - f * first, move, moves[0]):
            assert max(np.abs(W).max(), np.abs(b).max()) < tolerance(widest(where), 4e-14)
    assert len(traces) == (1 if where.backend == "jax" else 3)


def test_numbers_of_a_rule_act_without_compiling_again(where, rng):
    engine = where.engine
    traces = []

    def step(update, layers, gradients, state):
        traces.append(None)
        return update(layers, gradients, state, xp=where.xp)

    step = engine.compile(step, Adam().update)
    start, gradients = random_layers(SIZES, rng), random_layers(SIZES, rng)
    results = []
    for optimizer in (Adam(), Adam(beta1=0.5), Adam(beta2=0.5), Adam(epsilon=0.1)):
        assert optimizer.update is Adam().update
        layers = to_device(start, where)
        state = optimizer.init(layers, placement=where, dtype=widest(where))
        for _ in range(2):
            layers, state = step(layers, to_device(gradients, where), state)
            layers, state = step(layers, to_device(start, where), state)
        results.append(on_host(layers)[0].W.tobytes())
    assert len(set(results)) == 4
    assert len(traces) == (1 if where.backend == "jax" else 16)


MODEL = Model(tuple(SIZES), (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
STEPS, BATCH = 12, 6


def begin(optimizer, where):
    """Return a state, inputs, targets and rates for some steps."""
    rng = np.random.default_rng(5)
    layers = to_device(random_layers(SIZES, rng), where)
    state = State(layers, optimizer.init(layers, placement=where, dtype=widest(where)), ())
    xs, ys = rng.normal(size=(STEPS, BATCH, SIZES[0])), rng.random((STEPS, BATCH, SIZES[-1]))
    return state, *map(where.asarray, (xs, ys, np.linspace(0.1, 0.0, STEPS)))


def take(engine, step, optimizer, where, parts):
    """Take the steps; return zᴸ of each and all of the last state, on the host."""
    state, *batches = begin(optimizer, where)
    loop = engine.new_loop(where.new_report())
    chunk = engine.compile(lambda state, *batches: loop(step, state, batches, xp=where.xp))
    with where.active():
        state, zs = chunk(state, *batches[:parts])
    return [to_numpy(leaf) for leaf in leaves_of([state, zs])]


@RULE
def test_numpy_records_every_rule_and_replays_it_to_the_last_bit(rule):
    optimizer, where = RULES[rule], place("cpu")
    step = make_step(Rule(MODEL, optimizer.update, Regularization()))
    state, xs, ys, _ = begin(optimizer, where)
    assert numpy_engine._record(step, state, (xs[0], ys[0]), xp=where.xp)
    replayed = take(where.engine, step, optimizer, where, 2)
    looped = take(PLAIN, step, optimizer, where, 2)
    assert all(np.array_equal(a, b) for a, b in zip(replayed, looped, strict=True))


@RULE
def test_pytorch_records_every_rule_and_replays_it(rule):
    pytest.importorskip("torch")
    optimizer, where = RULES[rule], place("cpu", "torch")
    step = make_step(Rule(MODEL, optimizer.update, Regularization(l2=0.01)))
    state, xs, ys, _ = begin(optimizer, where)
    assert torch_engine._record(step, state, (xs[0], ys[0]), xp=where.xp)
    replayed = take(where.engine, step, optimizer, where, 2)
    looped = take(PLAIN, step, optimizer, where, 2)
    for a, b in zip(replayed, looped, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@RULE
def test_recorded_steps_and_others_take_turns(rule, monkeypatch):
    # As they do in epochs with a short last mini-batch, which is recorded late.
    monkeypatch.setattr("bp_xp.engines.replay._STEPS_BEFORE", STEPS)
    optimizer, where = RULES[rule], place("cpu")
    step = make_step(Rule(MODEL, optimizer.update, Regularization()))
    ends = []
    for loop in (where.engine.new_loop(where.new_report()), plain.loop):
        state, xs, ys, _ = begin(optimizer, where)
        for _ in range(3):
            state, _ = loop(step, state, (xs, ys), xp=np)
            state, z = loop(step, state, (xs[:1, :2], ys[:1, :2]), xp=np)
        ends.append([state, z])
    for one, other in zip(*map(leaves_of, ends), strict=True):
        assert np.array_equal(one, other)


def step_at(optimizer, where):
    """Return a step that is given its rate with the mini-batch, as a schedule's run is."""
    return make_step(Rule(MODEL, optimizer.update, Regularization(), given=("learning_rate",)))


@RULE
def test_a_rate_may_come_with_each_mini_batch(where, rule):
    optimizer = RULES[rule]
    step = step_at(optimizer, where)
    engine = take(where.engine, step, optimizer, where, 3)
    cpu = place("cpu")
    looped = take(PLAIN, step_at(optimizer, cpu), optimizer, cpu, 3)
    # Of a mean square less a squared mean, by whose root steps divide, float32 keeps few digits.
    rtol, atol = (tolerance(widest(where), one, roundings=4096) for one in (1e-10, 1e-12))
    for a, b in zip(engine, looped, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@RULE
def test_a_rate_that_comes_with_each_mini_batch_is_recorded_and_left_as_it_is(rule):
    optimizer, where = RULES[rule], place("cpu")
    state, xs, ys, rates = begin(optimizer, where)
    step = step_at(optimizer, where)
    assert numpy_engine._record(step, state, (xs[0], ys[0], rates[0, ...]), xp=where.xp)
    where.engine.new_loop(where.new_report())(step, state, (xs, ys, rates), xp=where.xp)
    assert np.array_equal(rates, np.linspace(0.1, 0.0, STEPS))


# ---------------------------------------------------------------------------------------------
# Numbers at the edge of float32


# A step of gradient descent is as large as the gradient.
ADAPTIVE = [rule for rule, optimizer in RULES.items() if not isinstance(optimizer, SGD)]


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        (rule, size)
        for rule in ADAPTIVE
        for size in (0.0, 1e-44, 1e-25, 1e-8, 1e8, 1e25)
        # A square of 1e25 is infinite in float32, and an infinite variance is none.
        if size < 1e19 or "centered" not in rule
    ],
)
def test_gradients_of_any_size_leave_parameters_finite(where, rng, rule, size):
    optimizer = RULES[rule]
    layers = to_device(random_layers(SIZES, rng), where, "float32")
    state = optimizer.init(layers, placement=where, dtype="float32")
    with np.errstate(over="ignore", under="ignore"):
        for _ in range(20):
            gradients = combine(lambda n: size * np.sign(n), random_layers(SIZES, rng))
            layers, state = optimizer.update(
                layers, to_device(gradients, where, "float32"), state, xp=where.xp
            )
    for part in leaves_of(on_host(layers)):
        assert np.isfinite(part).all()
        assert np.abs(part).max() < 20.0


@pytest.mark.parametrize("rule", ["rmsprop-centered", "rmsprop-centered-momentum"])
def test_gradients_that_stay_the_same_have_a_variance_not_below_zero(where, dtype, rng, rule):
    optimizer = RULES[rule]
    layers = to_device(random_layers(SIZES, rng), where, dtype)
    state = optimizer.init(layers, placement=where, dtype=dtype)
    gradients = random_layers(SIZES, rng)
    step = where.engine.compile(
        lambda layers, gradients, state: optimizer.update(layers, gradients, state, xp=where.xp)
    )
    state = state._replace(alpha=where.asarray(0.5, dtype))
    for _ in range(80):
        layers, state = step(layers, to_device(gradients, where, dtype), state)
    assert all(np.isfinite(part).all() for part in leaves_of(on_host(layers)))


@pytest.mark.parametrize("rule", ["adam", "amsgrad"])
def test_first_step_of_adam_is_as_long_as_the_rate(where, dtype, rng, rule):
    optimizer = RULES[rule]
    start = combine(lambda part: part.astype(dtype), random_layers(SIZES, rng))
    layers = to_device(start, where, dtype)
    state = optimizer.init(layers, placement=where, dtype=dtype)
    gradients = random_layers(SIZES, rng)
    layers, _ = optimizer.update(layers, to_device(gradients, where, dtype), state, xp=where.xp)
    wanted = combine(lambda w, g: w - 0.1 * g / (np.abs(g) + 1e-8), on_host(start), gradients)
    assert_layers_agree(layers, wanted, where, dtype)


def test_parameters_decay_without_gradients(where, dtype, rng):
    start = combine(lambda part: part.astype(dtype), random_layers(SIZES, rng))
    zeros = combine(lambda part: 0.0 * part, start)
    for optimizer in (RULES["adamw"], RULES["adamw-weights"]):
        layers = to_device(start, where, dtype)
        state = optimizer.init(layers, placement=where, dtype=dtype)
        for _ in range(3):
            gradients = to_device(zeros, where, dtype)
            layers, state = optimizer.update(layers, gradients, state, xp=where.xp)
        kept = (1.0 - 0.1 * 0.2) ** 3
        wanted = [Layer(kept * W, kept * b if optimizer.decay_biases else b) for W, b in start]
        assert_layers_agree(layers, wanted, where, dtype)


# ---------------------------------------------------------------------------------------------
# Values and arguments


def test_a_rule_is_one_hashable_object_whatever_the_numbers():
    plain, momentum, nesterov = (RULES[name].update for name in ("plain", "momentum", "nesterov"))
    assert len({plain, momentum, nesterov}) == 3
    assert SGD(3.0).update is plain
    assert SGD(3.0, momentum=0.5).update is momentum
    assert SGD(3.0, momentum=0.5, nesterov=True).update is nesterov
    assert SGD(3.0, momentum=0.5).update is SGD(1e-3, momentum=0.99).update
    assert Adagrad(0.5).update is Adagrad(0.1, 0.1, 0.1, 0.1).update
    assert RMSprop(0.5).update is RMSprop(0.1, alpha=0.5, epsilon=0.1).update
    assert Adam(0.5).update is Adam(0.1, 0.1, 0.1, 0.1).update
    assert AdamW(0.5).update is AdamW(0.1, weight_decay=0.5).update
    assert AdamW(decay_biases=False).update is AdamW(0.1, decay_biases=False).update
    assert NAdam(0.5).update is NAdam(0.1, 0.1, 0.1, 0.1, 0.1).update
    adams = (Adam(), NAdam(), AdamW(), AdamW(decay_biases=False))
    assert len({one.update for one in adams}) == 4


@RULE
def test_a_rule_is_found_by_its_name_in_the_module(rule):
    update = RULES[rule].update
    assert pickle.loads(pickle.dumps(update)) is update


@RULE
def test_optimizer_is_a_value(rule):
    optimizer = RULES[rule]
    same = pickle.loads(pickle.dumps(optimizer))
    assert same == optimizer
    assert hash(same) == hash(optimizer)
    assert dataclasses.replace(optimizer, learning_rate=0.2) != optimizer
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.learning_rate = 0.2
    assert len({optimizer, same, SGD(0.7)}) == 2


@pytest.mark.parametrize(
    ("schedule", "first"),
    [
        (CosineDecay(0.3, steps=10), 0.3),
        (LinearWarmUp(3, 0.4), 0.1),
        (ReduceOnPlateau(0.3), 0.3),
        (lambda step: 0.2 + step, 0.2),
        (lambda step: np.float32(0.25), 0.25),
    ],
    ids=["cosine", "warm-up", "plateau", "function", "float32"],
)
@pytest.mark.parametrize("kind", [SGD, Adagrad, RMSprop, Adam, AdamW, NAdam])
def test_learning_rate_may_be_a_schedule_whose_first_rate_begins(
    where, dtype, rng, kind, schedule, first
):
    layers = to_device(random_layers(SIZES, rng), where, dtype)
    state = kind(schedule).init(layers, placement=where, dtype=dtype)
    assert_agrees(state.learning_rate, first, where, dtype, eps=2)


EVERY = pytest.mark.parametrize("kind", [SGD, Adagrad, RMSprop, Adam, AdamW, NAdam])


@EVERY
@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan"), float("inf")], ids=str)
def test_learning_rate_must_be_finite_and_above_zero(kind, rate):
    with pytest.raises(ValueError, match=r"learning_rate must be finite and above 0"):
        kind(rate)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SGD, "momentum"),
        (RMSprop, "alpha"),
        (RMSprop, "momentum"),
        (Adam, "beta1"),
        (Adam, "beta2"),
        (AdamW, "beta1"),
        (NAdam, "beta1"),
        (NAdam, "beta2"),
    ],
)
@pytest.mark.parametrize("number", [-0.1, 1.0, 1.5, float("nan")], ids=str)
def test_shares_must_be_from_zero_to_below_one(kind, name, number):
    with pytest.raises(ValueError, match=rf"{name} must be finite and at least 0 and below 1"):
        kind(0.1, **{name: number})


@pytest.mark.parametrize("kind", [Adagrad, RMSprop, Adam, AdamW, NAdam])
@pytest.mark.parametrize("number", [0.0, -1e-8, float("inf")], ids=str)
def test_epsilon_must_be_finite_and_above_zero(kind, number):
    with pytest.raises(ValueError, match=r"epsilon must be finite and above 0"):
        kind(0.1, epsilon=number)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Adagrad, "learning_rate_decay"),
        (Adagrad, "initial_accumulator"),
        (AdamW, "weight_decay"),
        (NAdam, "momentum_decay"),
    ],
)
@pytest.mark.parametrize("number", [-0.1, float("nan"), float("inf")], ids=str)
def test_what_is_added_must_be_finite_and_not_negative(kind, name, number):
    with pytest.raises(ValueError, match=rf"{name} must be finite and at least 0"):
        kind(0.1, **{name: number})


@pytest.mark.parametrize(
    ("kind", "name", "number"),
    [
        (kind, field.name, number)
        for number in ("0.1", None, True, [0.1])
        for kind in (SGD, Adagrad, RMSprop, Adam, AdamW, NAdam)
        for field in dataclasses.fields(kind)
        if field.name not in ("nesterov", "centered", "amsgrad", "decay_biases")
        if field.name != "learning_rate" or number != [0.1]  # that is one for each layer
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused_by_name(kind, name, number):
    with pytest.raises(TypeError, match=f"{name} must be a number"):
        kind(**{"learning_rate": 0.1, name: number})


@EVERY
@pytest.mark.parametrize("number", ["0.1", None, True, [0.1]], ids=repr)
def test_what_is_no_number_is_refused_in_a_list_of_rates(kind, number):
    with pytest.raises(TypeError, match=r"learning_rate\[1\] must be a number"):
        kind([0.1, number])


@EVERY
def test_a_list_of_rates_has_one_for_each_layer(kind, rng):
    assert len(kind([0.1, 0.2]).init(random_layers(SIZES, rng), **HERE).learning_rate) == 2
    with pytest.raises(ValueError, match=r"learning_rate is an empty list"):
        kind([])
    with pytest.raises(ValueError, match=r"has 3 rates, but there are 2 layers"):
        kind([0.1, 0.2, 0.3]).init(random_layers(SIZES, rng), **HERE)


@EVERY
def test_a_schedule_that_was_not_made_is_refused(kind):
    with pytest.raises(TypeError, match=r"not the class CosineDecay itself"):
        kind(CosineDecay)


def test_nesterov_needs_a_momentum():
    with pytest.raises(ValueError, match=r"nesterov=True needs a momentum above 0"):
        SGD(0.1, nesterov=True)


# ---------------------------------------------------------------------------------------------
# User-defined optimizers


class Own:
    """Gradient descent, with a state that changes its form as told."""

    def __init__(self, change):
        self.change = change

    def init(self, layers, *, placement, dtype):
        return [placement.asarray(np.ones(3), dtype)]

    def update(self, layers, gradients, state, *, xp):
        moved = [
            Layer(W - 0.1 * dW, b - 0.1 * db)
            for (W, b), (dW, db) in zip(layers, gradients, strict=True)
        ]
        return moved, self.change(state[0], xp)


def test_a_state_may_hold_a_number_of_python(where):
    class Counting(Own):
        def init(self, layers, *, placement, dtype):
            return [0]

    network = Network([4, 5, 3], backend=where.backend, device=where.device_name, seed=0)
    counting = Counting(lambda steps, xp: [steps + 1])
    history = network.fit(
        np.ones((40, 4)), np.zeros(40, int), batch_size=2, optimizer=counting, progress=False
    )
    assert history["cost"][-1] < history["cost"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, xp: [s[:1] * 1.0], r"an array of its state of shape \(1,\) .*given \(3,\)"),
        (lambda s, xp: [xp.concat([s, s])], r"an array of its state of shape \(6,\)"),
        (lambda s, xp: [xp.astype(s, xp.int32)], r"dtype .*int32.* numpy.float64"),
        (lambda s, xp: [s, s], r"returns 6 arrays, but it was given 5"),
    ],
    ids=["shorter", "longer", "whole", "more"],
)
def test_a_state_keeps_its_form(where, change, message):
    network = Network([4, 5, 3], backend=where.backend, device=where.device_name, seed=0)
    before = on_host(network.layers)
    x, y = np.zeros((40, 4)), np.zeros(40, int)
    with pytest.raises(ValueError, match=message):
        network.fit(x, y, batch_size=2, optimizer=Own(change), epochs=2, progress=False)
    for one, other in zip(leaves_of(on_host(network.layers)), leaves_of(before), strict=True):
        assert np.array_equal(one, other)
