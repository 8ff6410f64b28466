import copy
import functools
import inspect
import pickle
import types

import numpy as np
import pytest
from helpers import (
    assert_agrees,
    assert_layers_agree,
    random_layers,
    to_device,
    tolerance,
    units_between_engines,
    widest,
)
from steps import BATCH, DESCENTS, MODEL, SIZES

from bp_xp import Network
from bp_xp.backends import LIBRARIES, Library, place, to_numpy
from bp_xp.engines import PLAIN, Engine, Report
from bp_xp.engines.engine import Loop
from bp_xp.math.regularization import Regularization
from bp_xp.training.step import Rule, State, make_step

STEPS = 100

# Rounding grows along a trajectory, but a net that learns is no chaos.


def run(engine, where, rule, l2):
    """Take the steps; return layers, velocities and every zᴸ."""
    rng = np.random.default_rng(12)
    layers = to_device(random_layers(SIZES, rng), where)
    xs = where.asarray(rng.normal(size=(STEPS, BATCH, SIZES[0])))
    ys = where.asarray(rng.random((STEPS, BATCH, SIZES[-1])))
    optimizer = DESCENTS[rule]
    state = State(layers, optimizer.init(layers, placement=where, dtype=widest(where)), ())
    step = make_step(Rule(MODEL, optimizer.update, Regularization(l2=l2)))
    loop = engine.new_loop(where.new_report())

    @engine.compile
    def chunk(state, xs, ys):
        return loop(step, state, (xs, ys), xp=where.xp)

    state, zs = chunk(state, xs, ys)
    return state.layers, state.optimizer.velocity, zs


@functools.cache
def reference(rule, l2):
    """Return what NumPy gives, in the plain loop."""
    return run(PLAIN, place("cpu"), rule, l2)


# ---------------------------------------------------------------------------------------------
# The same trajectory everywhere


@pytest.mark.parametrize("l2", [0.0, 0.01], ids=["free", "l2"])
@pytest.mark.parametrize("rule", DESCENTS)
def test_engine_gives_the_trajectory_of_the_plain_loop(where, rule, l2):
    layers, velocity, zs = run(where.engine, where, rule, l2)
    wanted_layers, wanted_velocity, wanted_zs = reference(rule, l2)
    assert_layers_agree(layers, wanted_layers, where, eps=units_between_engines(where))
    assert_layers_agree(velocity, wanted_velocity, where, eps=units_between_engines(where))
    assert_agrees(zs, wanted_zs, where, eps=units_between_engines(where))


def test_plain_loop_serves_every_library(where):
    layers, _, zs = run(PLAIN, where, "nesterov", 0.01)
    wanted_layers, _, wanted_zs = reference("nesterov", 0.01)
    assert_layers_agree(layers, wanted_layers, where, eps=units_between_engines(where))
    assert_agrees(zs, wanted_zs, where, eps=units_between_engines(where))


def test_trajectory_of_the_reference_is_a_hundred_different_steps():
    layers, velocity, zs = reference("momentum", 0.01)
    assert zs.shape == (STEPS, BATCH, SIZES[-1])
    assert len({z.tobytes() for z in zs}) == STEPS
    start = random_layers(SIZES, np.random.default_rng(12))
    assert all(np.abs(W - W0).max() > 0.1 for (W, _), (W0, _) in zip(layers, start, strict=True))
    assert len(velocity) == len(layers)


def fit(placement, rule, l2, start, x, y, engine="auto"):
    """Train on a placement; return the network and its history."""
    network = Network.from_layers(
        start,
        backend=placement.backend,
        device=placement.device_name,
        engine=engine,
        dtype=widest(placement),
        seed=4,
    )
    history = network.fit(
        x, y, epochs=3, batch_size=8, optimizer=DESCENTS[rule], l2=l2, progress=False
    )
    return network, history


@pytest.mark.parametrize(("rule", "l2"), [("plain", 0.0), ("nesterov", 0.01)])
def test_fit_gives_the_same_run_on_every_backend(where, rule, l2):
    # 30 samples in batches of 8: shuffled, and with a short batch at the end of each epoch.
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, SIZES[0])), rng.random((30, SIZES[-1]))
    start = random_layers(SIZES, rng)
    wanted, wanted_history = fit(place("cpu"), rule, l2, start, x, y)
    network, history = fit(where, rule, l2, start, x, y)
    assert_layers_agree(network.layers, wanted.layers, where, eps=units_between_engines(where))
    np.testing.assert_allclose(
        history["cost"], wanted_history["cost"], rtol=tolerance(widest(where), 1e-11)
    )


# ---------------------------------------------------------------------------------------------
# What an engine is


@pytest.mark.parametrize("name", ["plain", *LIBRARIES])
def test_engine_has_the_signature_of_the_plain_loop(name):
    engine = PLAIN if name == "plain" else LIBRARIES[name].engine
    assert isinstance(engine, Engine)
    wanted = list(inspect.signature(Loop.__call__).parameters.values())[1:]
    found = inspect.signature(engine.new_loop(Report("engine", "way"))).parameters.values()
    assert [(p.name, p.kind) for p in found] == [(p.name, p.kind) for p in wanted]


def test_argmax_of_an_engine_is_the_first_of_equal_greatest_entries(where):
    values = np.random.default_rng(0).integers(0, 3, (4, 50, 5)).astype(np.float64)
    values[0, 0, :] = -np.inf
    found = where.engine.argmax(where.asarray(values), xp=where.xp)
    np.testing.assert_array_equal(to_numpy(found), np.argmax(values, axis=-1))


def test_an_engine_has_the_name_of_its_library_and_others_take_the_plain_loop():
    for name, library in LIBRARIES.items():
        assert library.engine is PLAIN or library.engine.name == name
    plain = {name for name, one in LIBRARIES.items() if one.engine is PLAIN}
    assert plain == {"array_api_strict", "dpnp"}
    assert Library(types.ModuleType("a_library_nobody_tuned")).engine is PLAIN


def test_compiled_chunk_is_traced_once_for_each_shape(where):
    traces = []

    @where.engine.compile
    def double(values):
        traces.append(None)
        return 2.0 * values

    for n in (3, 3, 3, 2):
        assert_agrees(double(where.asarray(np.ones(n))), np.full(n, 2.0), where)
    assert len(traces) == (2 if where.backend == "jax" else 4)


# ---------------------------------------------------------------------------------------------
# engine=


def test_engine_takes_auto_plain_and_the_library_s_own_name(where):
    own = where.library.engine
    for word, engine in (("auto", own), ("plain", PLAIN), (own.name, own)):
        assert place(where.device_name, where.backend, word).engine is engine
        network = Network(
            [2, 1], backend=where.backend, device=where.device_name, engine=word, seed=0
        )
        assert network.engine == engine.name


@pytest.mark.parametrize("word", ["fast", "", "cupy", "Plain"])
def test_an_unknown_engine_is_refused_with_the_choices(where, word):
    if word == where.backend:
        pytest.skip("it has that engine")
    choices = ", ".join(map(repr, dict.fromkeys(["auto", "plain", where.library.engine.name])))
    with pytest.raises(ValueError, match="has no engine") as caught:
        Network([2, 1], backend=where.backend, device=where.device_name, engine=word)
    assert repr(word) in str(caught.value)
    assert f"{where.backend!r}" in str(caught.value)
    assert f"choose one of {choices}." in str(caught.value)


def test_an_engine_stays_with_copies_of_a_network_and_can_be_chosen_again(where, tmp_path):
    network = Network(
        [2, 1], backend=where.backend, device=where.device_name, engine="plain", seed=0
    )
    there = {"device": where.device_name, "backend": where.backend}
    path = network.save(tmp_path / "network.safetensors")
    assert copy.deepcopy(network.placement).engine is PLAIN
    assert pickle.loads(pickle.dumps(network.placement)).engine is PLAIN
    own = where.library.engine.name
    assert network.to(**there).engine == Network.load(path, **there).engine == own
    assert network.to(**there, engine="plain").engine == "plain"
    assert Network.load(path, **there, engine="plain").engine == "plain"
