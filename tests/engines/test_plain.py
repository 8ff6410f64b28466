import numpy as np
import pytest
from helpers import assert_layers_agree, on_host, tolerance, units_between_engines, widest
from steps import MODEL, RULES, TERMS, begin, pairs_of

from bp_xp import Network, to_numpy
from bp_xp.engines import PLAIN, Report, plain


def test_the_plain_loop_takes_one_step_for_each_mini_batch_in_order():
    def step(state, x, y, *, xp):
        seen.append((float(x[0, 0]), float(y[0])))
        return state + x[0, 0], state * y

    seen = []
    xs, ys = np.arange(3.0)[:, None, None], 10.0 * np.arange(3.0)[:, None]
    state, zs = plain.loop(step, np.asarray(0.0), (xs, ys), xp=np)
    assert seen == [(0.0, 0.0), (1.0, 10.0), (2.0, 20.0)]
    assert (float(state), zs.tolist()) == (3.0, [[0.0], [0.0], [20.0]])


def test_the_plain_engine_counts_its_steps_by_the_shape_of_mini_batches():
    report = Report("plain", "way")
    loop = PLAIN.new_loop(report)
    for n, rows in ((5, 4), (2, 4), (1, 3)):
        loop(lambda state, x, *, xp: (state, x), (), [np.zeros((n, rows, 2))], xp=np)
    counts = {shape: (one.plain, one.reason) for shape, one in report.accounts.items()}
    assert counts == {(4, 2): (7, ""), (3, 2): (1, "")}


@pytest.mark.parametrize("rule", RULES)
def test_the_engine_asked_for_as_plain_takes_the_steps_of_the_library_s_own(where, rule):
    ends = []
    for engine in (where.engine, PLAIN):
        step, state, batches = begin(MODEL, RULES[rule], TERMS, where=where, scheduled=True)
        loop = engine.new_loop(where.new_report())
        chunk = engine.compile(
            lambda state, *batches, loop=loop, step=step: loop(step, state, batches, xp=where.xp)
        )
        with where.active():
            ends.append(chunk(state, *batches))
    for one, other in pairs_of(*ends):
        a, b = to_numpy(one).astype(float), to_numpy(other).astype(float)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance(widest(where), 1e-11) * max(np.abs(b).max(), 1.0)
        )


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "gelu"])
def test_engine_plain_gives_the_same_run(where, activation):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(90, 4)), rng.integers(3, size=90)
    runs = []
    for engine in ("auto", "plain"):
        network = Network(
            [4, 6, 3],
            activation=activation,
            cost="categorical_cross_entropy",
            backend=where.backend,
            device=where.device_name,
            engine=engine,
            dtype=widest(where),
            seed=2,
        )
        history = network.fit(
            x, y, epochs=4, batch_size=8, optimizer="adam", dropout=0.2, l2=1e-3, progress=False
        )
        runs.append((network, history))
    (auto, auto_history), (plainly, plain_history) = runs
    assert plain_history.engine == "plain"
    # MLX takes steps with dropout plainly.
    assert auto_history.engine == ("plain" if where.backend == "mlx" else where.engine.name)
    assert_layers_agree(
        plainly.layers, on_host(auto.layers), where, eps=units_between_engines(where)
    )
    np.testing.assert_allclose(
        plain_history["cost"], auto_history["cost"], rtol=tolerance(auto.dtype, 1e-11)
    )
