import functools
import inspect

import numpy as np
import pytest
from helpers import assert_agrees, assert_layers_agree, random_layers, to_device

from bp_xp import ACTIVATIONS, COSTS, SGD, Layer, Network, arrays
from bp_xp._trees import leaves_of
from bp_xp.arrays import LIBRARIES, place
from bp_xp.backprop import Model
from bp_xp.engines import ENGINES, Engine, engine_for, numpy, plain
from bp_xp.engines._base import Loop
from bp_xp.engines._replay import CannotRecordError
from bp_xp.training import make_step

SIZES, STEPS, BATCH = (4, 5, 3), 100, 6
MODEL = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
OPTIMIZERS = {
    "plain": SGD(0.5),
    "momentum": SGD(0.1, momentum=0.9),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
}
CONFIGURATIONS = pytest.mark.parametrize(
    ("rule", "l2"),
    [(rule, l2) for rule in OPTIMIZERS for l2 in (0.0, 0.01)],
    ids=[f"{rule}-{decay}" for rule in OPTIMIZERS for decay in ("free", "l2")],
)

# Rounding grows along a trajectory, but a net that learns is no chaos.
EPS = 1e-11 / np.finfo(np.float64).eps


def run(engine, where, rule, l2):
    """Take the steps; return layers, velocities and every zᴸ."""
    rng = np.random.default_rng(12)
    layers = to_device(random_layers(SIZES, rng), where)
    xs = where.asarray(rng.normal(size=(STEPS, BATCH, SIZES[0])))
    ys = where.asarray(rng.random((STEPS, BATCH, SIZES[-1])))
    optimizer = OPTIMIZERS[rule]
    state = (layers, optimizer.init(layers, place=where, dtype="float64"))
    step = make_step(MODEL, optimizer.update, l2, where.xp)
    loop = engine.new_loop()

    @engine.compile
    def chunk(state, xs, ys):
        return loop(step, state, (xs, ys), xp=where.xp)

    (layers, optimizer_state), zs = chunk(state, xs, ys)
    return layers, optimizer_state.velocity, zs


@functools.cache
def reference(rule, l2):
    """Return what NumPy gives, in the plain loop."""
    return run(plain.ENGINE, place("cpu"), rule, l2)


@CONFIGURATIONS
def test_engine_gives_the_trajectory_of_the_plain_loop(where, rule, l2):
    layers, velocity, zs = run(engine_for(where.backend), where, rule, l2)
    wanted_layers, wanted_velocity, wanted_zs = reference(rule, l2)
    assert_layers_agree(layers, wanted_layers, where, "float64", eps=EPS)
    assert_layers_agree(velocity, wanted_velocity, where, "float64", eps=EPS)
    assert_agrees(zs, wanted_zs, where, "float64", eps=EPS)


def test_plain_loop_serves_every_library(where):
    layers, _, zs = run(plain.ENGINE, where, "nesterov", 0.01)
    wanted_layers, _, wanted_zs = reference("nesterov", 0.01)
    assert_layers_agree(layers, wanted_layers, where, "float64", eps=EPS)
    assert_agrees(zs, wanted_zs, where, "float64", eps=EPS)


def test_trajectory_of_the_reference_is_a_hundred_different_steps():
    layers, velocity, zs = reference("momentum", 0.01)
    assert zs.shape == (STEPS, BATCH, SIZES[-1])
    assert len({z.tobytes() for z in zs}) == STEPS
    start = random_layers(SIZES, np.random.default_rng(12))
    assert all(np.abs(W - W0).max() > 0.1 for (W, _), (W0, _) in zip(layers, start, strict=True))
    assert len(velocity) == len(layers)


@pytest.mark.parametrize(("rule", "l2"), [("plain", 0.0), ("nesterov", 0.01)])
def test_fit_gives_the_same_run_on_every_backend(where, rule, l2):
    # 30 samples in batches of 8: shuffled, and with a short batch at the end of each epoch.
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, SIZES[0])), rng.random((30, SIZES[-1]))
    start = random_layers(SIZES, rng)
    runs = []
    for placement in (place("cpu"), where):
        network = Network.from_layers(
            start,
            backend=placement.backend,
            device=placement.device_name,
            dtype="float64",
            seed=4,
        )
        history = network.fit(
            x, y, epochs=3, batch_size=8, optimizer=OPTIMIZERS[rule], l2=l2, progress=False
        )
        runs.append((network.layers, history["cost"]))
    (wanted_layers, wanted_costs), (layers, costs) = runs
    assert_layers_agree(layers, wanted_layers, where, "float64", eps=EPS)
    np.testing.assert_allclose(costs, wanted_costs, rtol=1e-11)


@pytest.mark.parametrize("engine", [plain.ENGINE, *ENGINES.values()], ids=["plain", *ENGINES])
def test_engine_has_the_signature_of_the_plain_loop(engine):
    assert isinstance(engine, Engine)
    wanted = list(inspect.signature(Loop.__call__).parameters.values())[1:]
    found = inspect.signature(engine.new_loop()).parameters.values()
    assert [(p.name, p.kind) for p in found] == [(p.name, p.kind) for p in wanted]


# ---------------------------------------------------------------------------------------------
# NumPy: recorded and replayed


def start(model, optimizer):
    """Return a state of its own, and batches."""
    rng = np.random.default_rng(5)
    layers = random_layers(model.sizes, rng)
    state = (layers, optimizer.init(layers, place=place("cpu"), dtype="float64"))
    xs = rng.normal(size=(STEPS, BATCH, model.sizes[0]))
    return state, xs, rng.dirichlet(np.ones(model.sizes[-1]), size=(STEPS, BATCH))


def assert_replayed_to_the_last_bit(model, optimizer, l2=0.0):
    step = make_step(model, optimizer.update, l2, np)
    state, xs, ys = start(model, optimizer)
    assert numpy._record(step, state, (xs[0], ys[0]))
    replayed, zs = ENGINES["numpy"].new_loop()(step, state, (xs, ys), xp=np)
    state, xs, ys = start(model, optimizer)
    looped, wanted_zs = plain.ENGINE.new_loop()(step, state, (xs, ys), xp=np)
    assert np.array_equal(zs, wanted_zs)
    pairs = zip(leaves_of(replayed), leaves_of(looped), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)


@CONFIGURATIONS
@pytest.mark.parametrize("cost", COSTS)
def test_numpy_replays_every_cost_and_rule_to_the_last_bit(cost, rule, l2):
    output = "softmax" if cost == "quadratic" else COSTS[cost].output
    model = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS[output]), COSTS[cost])
    assert_replayed_to_the_last_bit(model, OPTIMIZERS[rule], l2)


@pytest.mark.parametrize("activation", [one for one in ACTIVATIONS.values() if not one.coupled])
def test_numpy_replays_every_activation_to_the_last_bit(activation):
    model = Model(SIZES, (activation, ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
    assert_replayed_to_the_last_bit(model, SGD(0.1))


def test_numpy_replays_batches_that_are_summed_in_blocks(monkeypatch):
    monkeypatch.setattr(arrays, "_ROWS_SUMMED_AT_ONCE", 2)
    assert_replayed_to_the_last_bit(MODEL, SGD(0.1))


class Own:
    """An optimizer of a user's, from a function of (parameter, gradient, memory)."""

    def __init__(self, rule):
        self.rule = rule

    def init(self, layers, *, place, dtype):
        return [Layer(1.0 * W, 1.0 * b) for W, b in layers]

    def update(self, layers, gradients, state, *, xp):
        moved, memory = [], []
        for layer, gradient, old in zip(layers, gradients, state, strict=True):
            pairs = [self.rule(*three) for three in zip(layer, gradient, old, strict=True)]
            moved.append(Layer(*(pair[0] for pair in pairs)))
            memory.append(Layer(*(pair[1] for pair in pairs)))
        return moved, memory


@pytest.mark.parametrize(
    "rule",
    [
        lambda w, g, m: (w - 0.1 * g, 0.9 * m + g**2),
        lambda w, g, m: (w - 0.1 * g / (1.0 + np.max(g, axis=-1, keepdims=True)), m),
        lambda w, g, m: (w - 0.1 * g + 0.0 * np.sum(g, 0), m),
        lambda w, g, m: (w - np.where(g > 0, 0.1 * g, 0.2 * g), m),
        lambda w, g, m: (w - 0.1 * np.concat([g[..., :1], g[..., 1:]], axis=-1), m),
        lambda w, g, m: (w - 0.1 * np.clip(g, -0.01, 0.01), m),
    ],
    ids=["new arrays", "reduction", "positional axis", "where", "concat", "clip"],
)
def test_numpy_replays_a_rule_that_makes_new_arrays(rule):
    assert_replayed_to_the_last_bit(MODEL, Own(rule))


@pytest.mark.parametrize(
    "rule",
    [
        lambda w, g, m: (w - (0.1 if g.sum() > 0 else 0.2) * g, m),
        lambda w, g, m: (w - 0.1 * g * float(np.max(g)), m),
        lambda w, g, m: (w - 0.1 * g, m) if np.max(g) > 0 else (w + 0.1 * g, m),
        lambda w, g, m: (m - 0.1 * g, w),  # what it returns lies where the other one was
        lambda w, g, m: (w - 0.1 * np.asarray(g), m),
        lambda w, g, m: (w - 0.1 * g[..., [0]], m),
        lambda w, g, m: (w - np.add.accumulate(g), m),
    ],
    ids=["method", "float", "branch", "swap", "asarray", "fancy index", "accumulate"],
)
def test_numpy_loops_plainly_over_what_can_not_be_recorded(rule):
    step = make_step(MODEL, Own(rule).update, 0.0, np)
    state, xs, ys = start(MODEL, Own(rule))
    with pytest.raises((CannotRecordError, TypeError, AttributeError)):
        numpy._record(step, state, (xs[0], ys[0]))
    ours, zs = ENGINES["numpy"].new_loop()(step, state, (xs, ys), xp=np)
    state, xs, ys = start(MODEL, Own(rule))
    theirs, wanted_zs = plain.ENGINE.new_loop()(step, state, (xs, ys), xp=np)
    assert np.array_equal(zs, wanted_zs)
    assert np.array_equal(ours[0][0].W, theirs[0][0].W)


def test_numpy_says_what_the_plain_loop_says_of_a_step_that_is_wrong():
    def rule(w, g, m):
        raise TypeError("this rule is broken")

    step = make_step(MODEL, Own(rule).update, 0.0, np)
    state, xs, ys = start(MODEL, Own(rule))
    with pytest.raises(TypeError, match="this rule is broken"):
        ENGINES["numpy"].new_loop()(step, state, (xs, ys), xp=np)


def test_torch_parameters_can_be_differentiated_after_training():
    torch = pytest.importorskip("torch")
    network = Network(SIZES, backend="torch", seed=0)
    network.fit(np.ones((8, 4)), np.ones((8, 3)), epochs=1, batch_size=4, progress=False)

    W = network.layers[0].W.requires_grad_()
    (W * W).sum().backward()

    assert torch.equal(W.grad, 2 * W)


def test_engines_are_named_for_libraries_that_exist():
    assert set(ENGINES) <= set(LIBRARIES)
    assert engine_for("a library nobody tuned") is plain.ENGINE


def test_compiled_chunk_is_traced_once_for_each_shape(where):
    traces = []

    @engine_for(where.backend).compile
    def double(values):
        traces.append(None)
        return 2.0 * values

    for n in (3, 3, 3, 2):
        assert_agrees(double(where.asarray(np.ones(n))), np.full(n, 2.0), where, "float64")
    assert len(traces) == (2 if where.backend == "jax" else 4)
