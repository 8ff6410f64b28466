"""The JAX engine: one compiled program for the steps of a chunk."""

import numpy as np
import pytest
from helpers import assert_layers_agree, on_host
from steps import MODEL, RULES, begin, pairs_of

from bp_xp import ACTIVATIONS, SGD, Activation, Network
from bp_xp._trees import leaves_of
from bp_xp.backends import place
from bp_xp.backends.jax import engine

jax = pytest.importorskip("jax")

THERE = place(backend="jax")
EPS = 1e-11 / np.finfo(np.float64).eps
TANH = ACTIVATIONS["tanh"]
LOOKING = Activation(
    "looking", lambda z, *, xp: xp.tanh(z) if xp.sum(z) > 0 else 1.0 * xp.tanh(z), TANH.sigma_prime
)


def samples(n=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.integers(3, size=n)


def test_the_steps_of_a_chunk_are_one_program_made_once_for_each_shape():
    traced = []

    def step(state, x, *, xp):
        traced.append(x.shape)
        return state + xp.sum(x), 1.0 * x

    loop = THERE.engine.new_loop(THERE.new_report())
    take = THERE.engine.compile(lambda state, xs: loop(step, state, [xs], xp=THERE.xp))
    state = THERE.asarray(np.zeros(()))
    for n, rows in ((5, 3), (5, 3), (5, 2), (5, 3)):
        state, zs = take(state, THERE.asarray(np.ones((n, rows))))
        assert zs.shape == (n, rows)
    assert float(state) == 55.0
    assert list(dict.fromkeys(traced)) == [(3,), (2,)]
    assert len(traced) < 4 * 5


def test_equal_settings_share_a_program_from_run_to_run():
    one, other = (engine._compile(step_of, SGD(rate).update) for rate in (0.1, 0.5))
    assert one is other
    assert engine._compile(step_of, RULES["momentum"].update) is not one


def step_of(update, *arguments):
    """Stand for a step; nobody calls it."""


def test_the_text_of_a_program_is_written_from_shapes_alone():
    step, state, batches = begin(MODEL, RULES["adam"], where=THERE)
    write = engine._describe(step, state, batches, THERE.xp)
    for leaf in leaves_of([state, batches]):
        leaf.delete()
    text = write()
    assert text.count("dot_general") == 5  # two forward, two gradients, one error
    assert "f64[6,4]" in text


def test_the_text_of_a_program_may_have_numbers_of_python():
    step = lambda state, x, *, xp: ([state[0] + 1, state[1]], x * state[1])  # noqa: E731
    state = [0, THERE.asarray(np.ones(2))]
    text = engine._describe(step, state, [THERE.asarray(np.ones((1, 2)))], THERE.xp)()
    assert "mul" in text


def test_what_looks_at_a_value_is_told_of_the_plain_loop_which_takes_it():
    x, y = samples()
    network = Network([4, 5, 3], activation=LOOKING, backend="jax", seed=0)
    with pytest.raises(TypeError) as caught:
        network.fit(x, y, epochs=1, batch_size=8, progress=False)
    assert any("engine='plain'" in note for note in caught.value.__notes__)

    runs = []
    for activation in (LOOKING, "tanh"):
        network = Network(
            [4, 5, 3], activation=activation, backend="jax", engine="plain", dtype="float64", seed=0
        )
        history = network.fit(x, y, epochs=3, batch_size=8, progress=False)
        assert history.engine == "plain"
        runs.append(network.layers)
    assert_layers_agree(runs[0], on_host(runs[1]), THERE, "float64", eps=EPS)


def test_a_state_is_used_up_by_a_chunk_that_may_consume_it():
    def chunk(state):
        return [part + 1.0 for part in state]

    kept, consumed = ([THERE.asarray(np.ones(3))] for _ in range(2))
    THERE.engine.compile(chunk)(kept)
    moved = THERE.engine.compile(chunk, consumes=True)(consumed)
    for one, other in pairs_of(moved, [np.full(3, 2.0)]):
        np.testing.assert_array_equal(np.asarray(one), other)
    np.testing.assert_array_equal(np.asarray(kept[0]), 1.0)
    assert consumed[0].is_deleted()
