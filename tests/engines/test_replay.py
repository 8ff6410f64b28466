import numpy as np
import pytest
from helpers import SETTLED, assert_agrees
from steps import DESCENTS, MODEL, SIZES, Own, begin, pairs_of

from bp_xp import ACTIVATIONS, COSTS, SGD, Network, to_numpy
from bp_xp.backends import place
from bp_xp.backends.numpy import engine as numpy_engine
from bp_xp.backends.torch import engine as torch_engine
from bp_xp.engines import Report, plain, replay
from bp_xp.engines.replay import CannotRecordError, GaveUpError
from bp_xp.math.costs import cost_named
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.training import looks

STEPS = 100
CONFIGURATIONS = pytest.mark.parametrize(
    ("rule", "l2"),
    [(rule, l2) for rule in DESCENTS for l2 in (0.0, 0.01)],
    ids=[f"{rule}-{decay}" for rule in DESCENTS for decay in ("free", "l2")],
)

# Rounding grows along a trajectory, but a net that learns is no chaos.
EPS = 1e-11 / np.finfo(np.float64).eps

RECORDERS = {"numpy": numpy_engine._record, "torch": torch_engine._record}


@pytest.fixture(params=RECORDERS)
def at(request):
    """Return where a recorder runs: NumPy, PyTorch."""
    if request.param != "numpy":
        pytest.importorskip(request.param)
    return place(backend=request.param, device="cpu")


def new_loop(at):
    """Return the loop of a library's engine, of a run that nobody asks about."""
    return at.engine.new_loop(at.new_report())


def assert_replayed(model, optimizer, at, l2=0.0, **options):
    """Check that a step is recorded, and gives what the plain loop gives when it is replayed.

    NumPy's to the last bit; PyTorch's to rounding, since it puts some operations together.
    """
    setting = model, optimizer, Regularization(l2=l2)
    step, state, batches = begin(*setting, where=at, steps=STEPS, **options)
    assert RECORDERS[at.backend](step, state, [part[0, ...] for part in batches], xp=at.xp)
    report = at.new_report()
    ours = at.engine.new_loop(report)(step, state, batches, xp=at.xp)
    assert [one.plain for one in report.accounts.values()] == [0]
    _, state, batches = begin(*setting, where=at, steps=STEPS, **options)
    theirs = plain.loop(step, state, batches, xp=at.xp)
    for one, other in pairs_of(ours, theirs):
        if at.backend == "numpy":
            assert np.array_equal(one, other)
        else:
            assert_agrees(one, to_numpy(other), at, "float64", eps=EPS)


@CONFIGURATIONS
@pytest.mark.parametrize("cost", COSTS)
def test_every_cost_and_rule_is_replayed(at, cost, rule, l2):
    output = "softmax" if cost == "quadratic" else COSTS[cost].output
    model = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS[output]), COSTS[cost])
    assert_replayed(model, DESCENTS[rule], at, l2)


@pytest.mark.parametrize("cost", [*SETTLED, "binary_cross_entropy:positive_weight=0.5,1,2"])
def test_every_cost_with_settings_is_replayed(at, cost):
    cost = cost_named(cost)
    model = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS[cost.output]), cost)
    assert_replayed(model, SGD(0.1), at)


@pytest.mark.parametrize("activation", [one for one in ACTIVATIONS.values() if not one.coupled])
def test_every_activation_is_replayed(at, activation):
    model = Model(SIZES, (activation, ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
    assert_replayed(model, SGD(0.1), at)


def test_batches_that_are_summed_in_blocks_are_replayed(at, monkeypatch):
    monkeypatch.setattr("bp_xp.math.rows._ROWS_SUMMED_AT_ONCE", 2)
    assert_replayed(MODEL, SGD(0.1), at)


def test_batches_larger_than_the_layers_are_replayed(at):
    assert_replayed(MODEL, SGD(0.1), at, batch=40)


@pytest.mark.parametrize(
    "rule",
    [
        lambda w, g, m, xp: (w - 0.1 * g, 0.9 * m + g**2),
        lambda w, g, m, xp: (w - 0.1 * g / (1.0 + xp.max(g, axis=-1, keepdims=True)), m),
        lambda w, g, m, xp: (w - xp.where(g > 0, 0.1 * g, 0.2 * g), m),
        lambda w, g, m, xp: (w - 0.1 * xp.concat([g[..., :1], g[..., 1:]], axis=-1), m),
        lambda w, g, m, xp: (w - 0.1 * xp.clip(g, -0.01, 0.01), m),
        lambda w, g, m, xp: (w - 0.1 * xp.asarray([1.0], dtype=g.dtype) * g, m),
        lambda w, g, m, xp: (w + xp.reshape(-0.1 * g, w.shape), m),
        lambda w, g, m, xp: (w - (g > 0) * 0.1, m + xp.astype(g >= m, m.dtype)),
    ],
    ids=["new", "reduction", "where", "concat", "clip", "constant", "reshape", "comparison"],
)
def test_a_rule_that_makes_new_arrays_is_replayed(at, rule):
    assert_replayed(MODEL, Own(rule), at)


def _changed_constant(w, g, m, xp):
    total = xp.zeros(w.shape, dtype=w.dtype)
    total += g  # at the next step it must be zero again
    return w - 0.1 * total, m


@pytest.mark.parametrize(
    "rule",
    [
        lambda w, g, m, xp: (w - (0.1 if g.sum() > 0 else 0.2) * g, m),
        lambda w, g, m, xp: (w - 0.1 * g * float(xp.max(g)), m),
        lambda w, g, m, xp: (w - 0.1 * g, m) if xp.max(g) > 0 else (w + 0.1 * g, m),
        lambda w, g, m, xp: (m - 0.1 * g, w),  # what it returns lies where the other one was
        _changed_constant,
    ],
    ids=["method", "float", "branch", "swap", "changed constant"],
)
def test_what_can_not_be_recorded_is_looped_over_plainly(at, rule):
    step, state, batches = begin(MODEL, Own(rule), where=at, steps=STEPS)
    with pytest.raises((CannotRecordError, TypeError, AttributeError)):
        RECORDERS[at.backend](step, state, [part[0, ...] for part in batches], xp=at.xp)
    ours = new_loop(at)(step, state, batches, xp=at.xp)
    _, state, batches = begin(MODEL, Own(rule), where=at, steps=STEPS)
    theirs = plain.loop(step, state, batches, xp=at.xp)
    for one, other in pairs_of(ours, theirs):
        assert np.array_equal(to_numpy(one), to_numpy(other))


def test_a_step_that_is_wrong_is_reported_as_by_the_plain_loop(at):
    def rule(w, g, m, xp):
        raise TypeError("this rule is broken")

    step, state, batches = begin(MODEL, Own(rule), where=at, steps=STEPS)
    with pytest.raises(TypeError, match="this rule is broken"):
        new_loop(at)(step, state, batches, xp=at.xp)


def test_a_step_is_recorded_once_there_are_enough_of_them(at, monkeypatch):
    monkeypatch.setattr(replay, "_STEPS_BEFORE", 10)
    calls = []

    def step(state, x, *, xp):
        calls.append(len(calls))
        return [state[0] + xp.sum(x)], 1.0 * x

    loop = new_loop(at)
    state, total = [at.asarray(np.zeros(()))], 0.0
    for steps, called in ((4, 4), (5, 9), (1, 10), (7, 11)):  # then one is recorded
        x = at.asarray(np.full((steps, 2), 3.0))
        state, zs = loop(step, state, [x], xp=at.xp)
        total += 6.0 * steps
        assert len(calls) == called
        assert (to_numpy(state[0]).item(), zs.shape) == (total, (steps, 2))
    loop(step, state, [at.asarray(np.ones((6, 3)))], xp=at.xp)  # of another shape
    assert len(calls) == 17


def taken_plainly(at, chunks, *, before=0, epoch=None):
    """Return how many steps of some chunks the plain loop takes."""
    report = at.new_report()
    report.account((2,)).before = before
    if epoch is not None:
        report.epoch = None if epoch == "unknown" else {2: epoch}
    loop, state = at.engine.new_loop(report), [at.asarray(np.zeros(()))]
    for steps in chunks:
        x = at.asarray(np.arange(2.0 * steps).reshape(steps, 2))
        state, zs = loop(lambda s, x, *, xp: ([s[0] + xp.sum(x)], 2.0 * x), state, [x], xp=at.xp)
        np.testing.assert_array_equal(to_numpy(zs), 2.0 * to_numpy(x))
    return report.account((2,)).plain


def test_which_steps_the_plain_loop_takes_depends_on_their_number_in_the_run(at, monkeypatch):
    monkeypatch.setattr(replay, "_STEPS_BEFORE", 10)
    for chunks in ((20,), (4, 16), (9, 2, 9), (1,) * 20):
        assert taken_plainly(at, chunks, epoch=9) == 10
        assert taken_plainly(at, chunks, epoch=9, before=7) == 3  # a run that is resumed
        assert taken_plainly(at, chunks, epoch=9, before=10) == 0
        assert taken_plainly(at, chunks, epoch=10) == 0  # each epoch has enough of them
        assert taken_plainly(at, chunks, epoch="unknown") == 10
        assert taken_plainly(at, chunks, epoch="unknown", before=7) == 3


def test_what_a_step_returns_beside_a_new_state_may_be_of_the_old_one(at):
    def step(state, x, *, xp):
        (w,) = state
        return [w - 0.1 * x], w

    batches = [at.asarray(np.ones((3, 2, 2)))]
    for loop in (new_loop(at), plain.loop):
        _, zs = loop(step, [at.asarray(np.zeros((2, 2)))], batches, xp=at.xp)
        np.testing.assert_allclose(to_numpy(zs)[:, 0, 0], [0.0, -0.1, -0.2], atol=1e-12)


def test_what_fails_in_recording_alone_is_looped_over_plainly(at):
    def step(state, x, *, xp):
        if type(x).__name__ not in ("ndarray", "Tensor"):
            raise RecursionError("of the recorder")
        return state, 2.0 * x

    loop = new_loop(at)
    _, zs = loop(step, [at.asarray(np.zeros(1))], [at.asarray(np.ones((3, 2, 2)))], xp=at.xp)
    np.testing.assert_array_equal(to_numpy(zs), 2.0)


def test_steps_are_given_as_many_arrays_as_there_are(at):
    def step(state, x, y, rate, *, xp):
        return [state[0] + rate * xp.sum(x * y)], rate * x

    rng = np.random.default_rng(0)
    batches = [at.asarray(rng.normal(size=shape)) for shape in ((5, 3, 2), (5, 3, 2), (5,))]
    for loop in (new_loop(at), plain.loop):
        (total,), zs = loop(step, [at.asarray(np.zeros(1))], batches, xp=at.xp)
        x, y, rate = map(to_numpy, batches)
        assert_agrees(
            total, np.sum(rate[:, None, None] * x * y, keepdims=True)[0, 0], at, "float64"
        )
        assert_agrees(zs, rate[:, None, None] * x, at, "float64")


# ---------------------------------------------------------------------------------------------
# A program that gives up


def giving_up(record, at_chunk):
    """Return a recorder whose programs give up at one chunk, with the state as it was before it."""
    chunks = []

    def fake(step, state, batch, *, xp):
        program = record(step, state, batch, xp=xp)

        def run(leaves, batches, zs):
            chunks.append(len(zs))
            if len(chunks) == at_chunk:
                raise GaveUpError("it waited too long")
            program.run(leaves, batches, zs)

        return program._replace(run=run)

    return fake


def test_where_a_program_gives_up_the_plain_loop_takes_over_and_nothing_is_lost(at, caplog):
    report = Report("fake", "way")
    loop = replay.new_loop(giving_up(RECORDERS[at.backend], at_chunk=3), report)
    step, state, batches = begin(MODEL, DESCENTS["nesterov"], where=at)
    _, other, _ = begin(MODEL, DESCENTS["nesterov"], where=at)
    for chunk in range(5):
        state, zs = loop(step, state, batches, xp=at.xp)
        other, wanted = plain.loop(step, other, batches, xp=at.xp)
        for one, two in pairs_of([state, zs], [other, wanted]):
            assert_agrees(one, to_numpy(two), at, "float64", eps=EPS)
        account = report.account((6, 4))
        assert account.plain == 12 * max(chunk - 1, 0)
        assert (account.program is None) == (chunk >= 2)
    assert account.reason == "it waited too long"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "in place of the fake engine: it waited too long" in record.message


def test_a_fit_goes_on_where_a_program_gave_up(at, monkeypatch, caplog):
    module = {"numpy": numpy_engine, "torch": torch_engine}[at.backend]
    monkeypatch.setattr(looks, "_CHUNK_ON_CPU", (10, 1 << 20))
    monkeypatch.setattr(module, "_record", giving_up(RECORDERS[at.backend], at_chunk=4))
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(200, 4)), rng.integers(3, size=200)  # 25 steps an epoch: 10, 10, 5
    ends = []
    for engine in ("auto", "plain"):
        network = Network([4, 5, 3], backend=at.backend, engine=engine, dtype="float64", seed=0)
        history = network.fit(x, y, epochs=4, batch_size=8, progress=False)
        ends.append([history["cost"], to_numpy(network.layers[0].W)])
        if engine == "auto":
            account = network.explain().account((8, 4))
            assert (account.steps, account.fast, account.plain) == (100, 25, 75)
            assert history.engine == at.backend  # it took some of them
            assert "25 steps this way, 75 steps in the plain loop (it waited too long)" in str(
                network.explain()
            )
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)
    assert sum("it waited too long" in record.message for record in caplog.records) == 1
