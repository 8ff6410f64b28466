import functools
import inspect

import numpy as np
import pytest
from helpers import assert_agrees, assert_layers_agree, random_layers, to_device

from bp_xp import ACTIVATIONS, COSTS, SGD, Network
from bp_xp.arrays import LIBRARIES, place
from bp_xp.backprop import Model
from bp_xp.engines import ENGINES, Engine, engine_for, plain
from bp_xp.engines._base import Loop
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

    @engine.compile
    def chunk(state, xs, ys):
        return engine.loop(step, state, xs, ys, xp=where.xp)

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
    found = inspect.signature(engine.loop).parameters.values()
    assert [(p.name, p.kind) for p in found] == [(p.name, p.kind) for p in wanted]


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
