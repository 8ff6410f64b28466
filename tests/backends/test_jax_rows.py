"""Numbers of rows on JAX: few programs serve them all, with the same results as one for each."""

import contextlib

import numpy as np
import pytest

from bp_xp import Activation, Adam, Network, to_numpy
from bp_xp.backends import place
from bp_xp.backends.jax import rows as jax_rows
from bp_xp.optim.schedules import CosineDecay
from bp_xp.testing import no_host_transfer

jax = pytest.importorskip("jax")

THERE = place(backend="jax")
SINE = Activation("sine", lambda z, *, xp: xp.sin(z), lambda z, a, *, xp: xp.cos(z))
LOOKING = Activation(
    "looking", lambda z, *, xp: xp.sin(z) if xp.any(z > 0) else 1.0 * xp.sin(z), SINE.sigma_prime
)
SIZES = range(1, 51)  # 16, 32 and 64 rows are computed

_made = []


def _note(name, seconds, **_):
    if name == "/jax/core/compile/backend_compile_duration":
        _made.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_note)


@contextlib.contextmanager
def programs():
    """Yield a list that is given an entry for each program that is compiled in the context."""
    _made.clear()
    found = []
    yield found
    found += _made


def count_of_rows(a, y, *, xp):
    """Return N: a user-defined metric."""
    return xp.sum(xp.ones_like(a[:, 0]))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 4)), rng.integers(3, size=200)


def network(**options):
    settings = {"cost": "categorical_cross_entropy", "dtype": "float64", "seed": 0}
    return Network([4, 5, 3], **(settings | options))


def test_ten_fits_with_equal_settings_compile_for_the_first_alone(data):
    x, y = data
    counts = []
    for seed in range(10):
        with programs() as made:
            network(backend="jax", activation=SINE, seed=seed).fit(
                x,
                y,
                epochs=2,
                batch_size=30,
                optimizer=Adam(CosineDecay(0.01, steps=10)),
                l2=1e-4,
                dropout=0.1,
                validation_data=0.2,
                metrics=["f1", count_of_rows],
                early_stopping=5,
                progress=False,
            )
        counts.append(len(made))
    assert counts[0] > 0
    assert counts[1:] == [0] * 9


def test_another_number_of_samples_compiles_no_more_than_its_mini_batches(data):
    x, y = data
    counts = []
    for n in (100, 101):  # mini-batches of 20, and one of 1
        net = network(backend="jax")
        with programs() as made:
            net.fit(x[:n], y[:n], epochs=1, batch_size=20, progress=False)
        counts.append(len(made))
    assert counts[1] == 3  # those of 20 are gathered, the last one is, and it is a step


@pytest.mark.parametrize("method", ["predict", "feedforward"])
def test_fifty_numbers_of_rows_are_predicted_by_three_programs(data, method):
    x, _ = data
    net, host = network(backend="jax"), network()
    with programs() as made:
        found = [getattr(net, method)(x[:n]) for n in SIZES]
    assert 1 <= len(made) <= 3
    for n, part in zip(SIZES, found, strict=True):
        np.testing.assert_allclose(to_numpy(part), getattr(host, method)(x[:n]), atol=1e-13)


def test_fifty_numbers_of_rows_are_evaluated_by_three_programs(data):
    x, y = data
    weights, targets = np.linspace(0.5, 2.0, len(x)), np.eye(3)[y]
    net, host = network(backend="jax"), network()
    for y_or_targets, weighted in ((y, False), (targets, True)):
        given = [
            (x[:n], y_or_targets[:n], {"sample_weight": weights[:n]} if weighted else {})
            for n in SIZES
        ]
        with programs() as made:
            found = [net.evaluate(*samples, **options) for *samples, options in given]
        assert 1 <= len(made) <= 3
        for values, (*samples, options) in zip(found, given, strict=True):
            assert values == pytest.approx(host.evaluate(*samples, **options), rel=1e-13)


def test_estimators_predict_fifty_numbers_of_rows_by_three_programs(data):
    estimators = pytest.importorskip("bp_xp.estimators")
    x, y = data
    mlp = estimators.MLPClassifier((5,), solver="lbfgs", tol=1.0, backend="jax", random_state=0)
    mlp.fit(x, y)
    with programs() as made:
        for n in SIZES:
            mlp.predict(x[:n])
            mlp.predict_proba(x[:n])
            mlp.score(x[:n], y[:n])
    assert 1 <= len(made) <= 3


def test_arrays_of_jax_are_predicted_without_a_program_for_each_number_of_rows(data):
    x = data[0]
    net = network(backend="jax")
    net.predict(x[:40])
    there = [THERE.asarray(x[:n]) for n in range(33, 60)]
    with programs() as made:
        told = [net.predict(part) for part in there]
    assert made == []
    assert [len(part) for part in told] == list(range(33, 60))


def test_metrics_see_the_rows_that_there_are_and_no_others(data):
    x, y = data
    found = network(backend="jax").evaluate(x[:21], y[:21], metrics=[count_of_rows, "f1", "mse"])
    wanted = network().evaluate(x[:21], y[:21], metrics=[count_of_rows, "f1", "mse"])
    assert found["count_of_rows"] == 21.0
    assert found == pytest.approx(wanted, rel=1e-12)


def test_rows_are_filled_up_with_the_last_one_and_never_beyond_the_limit():
    seen = []

    def inverse(scale, x, *more):
        seen.append(x.shape)
        return scale / x, [part + 1.0 for part in more]

    run = THERE.engine.map_rows(inverse, at_most=20)
    x, y = THERE.asarray(np.full((20, 2), 4.0)), THERE.asarray(np.zeros(20))
    for n in (1, 7, 16, 17, 20, 18):
        quotient, (more,) = run(THERE.asarray(np.ones(())), x[:n], y[:n])
        assert to_numpy(quotient).tolist() == [[0.25, 0.25]] * n
        assert to_numpy(more).tolist() == [1.0] * n
    assert seen == [(16, 2), (20, 2)]
    filled = jax_rows.fill_up(THERE.asarray([[1.0, 2.0], [3.0, 4.0]]), 4)
    assert to_numpy(filled).tolist() == [[1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]]


def test_rows_are_the_same_where_no_memory_can_be_read(monkeypatch):
    computed = []

    def on_device(function, *arrays):
        computed.append(len(arrays))
        return function(jax.numpy, *arrays)

    values = THERE.asarray(np.arange(12.0).reshape(6, 2))

    def all_three():
        return [
            to_numpy(jax_rows.cut(values, slice(1, 4))),
            to_numpy(jax_rows.join([values, values[:1, :]])),
            to_numpy(jax_rows.fill_up(values, 8)),
        ]

    here = all_three()
    monkeypatch.setattr(jax_rows, "_computed", on_device)
    for one, other in zip(here, all_three(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert computed == [1, 2, 1]


def test_outputs_of_host_values_are_found_without_a_transfer(data):
    net = network(backend="jax")
    x = np.tile(data[0], (21, 1))[:4117]  # a whole block, and one that is filled up
    with no_host_transfer():
        a = net.feedforward(x)
    assert a.shape == (4117, 3)


def test_what_is_placed_is_not_what_a_caller_may_change():
    # XLA takes memory as it is where it begins at a multiple of 64 bytes.
    memory = np.zeros(1016)
    values = memory[(-memory.ctypes.data // 8) % 8 :][:1000]
    placed = THERE.asarray(values)
    values[:] = 1.0
    assert not to_numpy(placed).any()


def test_an_activation_that_looks_at_values_predicts_in_the_plain_engine(data):
    x = data[0]
    with pytest.raises(TypeError) as caught:
        network(backend="jax", activation=LOOKING).predict(x)
    assert any("engine='plain'" in note for note in caught.value.__notes__)
    plain = network(backend="jax", activation=LOOKING, engine="plain")
    np.testing.assert_array_equal(to_numpy(plain.predict(x)), network(activation=SINE).predict(x))
