import functools
import inspect
import math
import sys

import numpy as np
import pytest
from helpers import assert_agrees, assert_layers_agree, random_layers, to_device

from bp_xp import (
    ACTIVATIONS,
    COSTS,
    SGD,
    Activation,
    Layer,
    Network,
    to_numpy,
)
from bp_xp import (
    backends as arrays,
)
from bp_xp._trees import leaves_of
from bp_xp.backends import ENGINES, LIBRARIES, place
from bp_xp.backends.cupy import engine as cupy
from bp_xp.backends.numpy import engine as numpy
from bp_xp.backends.torch import engine as torch
from bp_xp.backends.torch import operators as _aten
from bp_xp.engines import Engine, plain
from bp_xp.engines import replay as _replay
from bp_xp.engines.engine import Loop
from bp_xp.engines.replay import CannotRecordError
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.training.step import Rule, State, make_step

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
    state = State(layers, optimizer.init(layers, place=where, dtype="float64"), ())
    step = make_step(Rule(MODEL, optimizer.update, Regularization(l2=l2)))
    loop = engine.new_loop()

    @engine.compile
    def chunk(state, xs, ys):
        return loop(step, state, (xs, ys), xp=where.xp)

    state, zs = chunk(state, xs, ys)
    return state.layers, state.optimizer.velocity, zs


@functools.cache
def reference(rule, l2):
    """Return what NumPy gives, in the plain loop."""
    return run(PLAIN, place("cpu"), rule, l2)


@CONFIGURATIONS
def test_engine_gives_the_trajectory_of_the_plain_loop(where, rule, l2):
    layers, velocity, zs = run(where.engine, where, rule, l2)
    wanted_layers, wanted_velocity, wanted_zs = reference(rule, l2)
    assert_layers_agree(layers, wanted_layers, where, "float64", eps=EPS)
    assert_layers_agree(velocity, wanted_velocity, where, "float64", eps=EPS)
    assert_agrees(zs, wanted_zs, where, "float64", eps=EPS)


def test_plain_loop_serves_every_library(where):
    layers, _, zs = run(PLAIN, where, "nesterov", 0.01)
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


@pytest.mark.parametrize("engine", [PLAIN, *ENGINES.values()], ids=["plain", *ENGINES])
def test_engine_has_the_signature_of_the_plain_loop(engine):
    assert isinstance(engine, Engine)
    wanted = list(inspect.signature(Loop.__call__).parameters.values())[1:]
    found = inspect.signature(engine.new_loop()).parameters.values()
    assert [(p.name, p.kind) for p in found] == [(p.name, p.kind) for p in wanted]


# ---------------------------------------------------------------------------------------------
# NumPy and PyTorch: recorded and replayed

RECORDERS = {"numpy": numpy._record, "torch": torch._record}


@pytest.fixture(params=RECORDERS)
def at(request):
    """Return where a recorder runs: NumPy, PyTorch."""
    if request.param != "numpy":
        pytest.importorskip(request.param)
    return place(backend=request.param, device="cpu")


def start(model, optimizer, at):
    """Return a state of its own, and batches."""
    rng = np.random.default_rng(5)
    layers = to_device(random_layers(model.sizes, rng), at)
    state = State(layers, optimizer.init(layers, place=at, dtype="float64"), ())
    xs = rng.normal(size=(STEPS, BATCH, model.sizes[0]))
    ys = rng.dirichlet(np.ones(model.sizes[-1]), size=(STEPS, BATCH))
    return state, [at.asarray(xs), at.asarray(ys)]


def assert_replayed(model, optimizer, at, l2=0.0):
    """Check that a step is recorded, and gives what the plain loop gives when it is replayed.

    NumPy's to the last bit; PyTorch's to rounding, since it puts some operations together.
    """
    step = make_step(Rule(model, optimizer.update, Regularization(l2=l2)))
    state, batches = start(model, optimizer, at)
    assert RECORDERS[at.backend](step, state, [part[0, ...] for part in batches], xp=at.xp)
    ours = ENGINES[at.backend].new_loop()(step, state, batches, xp=at.xp)
    theirs = plain.loop(step, *start(model, optimizer, at), xp=at.xp)
    for one, other in zip(leaves_of(ours), leaves_of(theirs), strict=True):
        if at.backend == "numpy":
            assert np.array_equal(one, other)
        else:
            assert_agrees(one, to_numpy(other), at, "float64", eps=EPS)


@CONFIGURATIONS
@pytest.mark.parametrize("cost", COSTS)
def test_every_cost_and_rule_is_replayed(at, cost, rule, l2):
    output = "softmax" if cost == "quadratic" else COSTS[cost].output
    model = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS[output]), COSTS[cost])
    assert_replayed(model, OPTIMIZERS[rule], at, l2)


@pytest.mark.parametrize("activation", [one for one in ACTIVATIONS.values() if not one.coupled])
def test_every_activation_is_replayed(at, activation):
    model = Model(SIZES, (activation, ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
    assert_replayed(model, SGD(0.1), at)


def test_batches_that_are_summed_in_blocks_are_replayed(at, monkeypatch):
    monkeypatch.setattr(arrays, "_ROWS_SUMMED_AT_ONCE", 2)
    assert_replayed(MODEL, SGD(0.1), at)


def test_batches_larger_than_the_layers_are_replayed(at, monkeypatch):
    monkeypatch.setattr("test_engines.BATCH", 40)
    assert_replayed(MODEL, SGD(0.1), at)


class Own:
    """An optimizer of a user's, from a function of (parameter, gradient, memory, xp)."""

    def __init__(self, rule):
        self.rule = rule

    def init(self, layers, *, place, dtype):
        return [Layer(1.0 * W, 1.0 * b) for W, b in layers]

    def update(self, layers, gradients, state, *, xp):
        moved, memory = [], []
        for layer, gradient, old in zip(layers, gradients, state, strict=True):
            pairs = [self.rule(*three, xp) for three in zip(layer, gradient, old, strict=True)]
            moved.append(Layer(*(pair[0] for pair in pairs)))
            memory.append(Layer(*(pair[1] for pair in pairs)))
        return moved, memory


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
    optimizer = Own(rule)
    step = make_step(Rule(MODEL, optimizer.update, Regularization()))
    state, batches = start(MODEL, optimizer, at)
    with pytest.raises((CannotRecordError, TypeError, AttributeError)):
        RECORDERS[at.backend](step, state, [part[0, ...] for part in batches], xp=at.xp)
    ours = ENGINES[at.backend].new_loop()(step, state, batches, xp=at.xp)
    theirs = plain.loop(step, *start(MODEL, optimizer, at), xp=at.xp)
    for one, other in zip(leaves_of(ours), leaves_of(theirs), strict=True):
        assert np.array_equal(to_numpy(one), to_numpy(other))


@pytest.mark.parametrize(
    "rule",
    [
        lambda w, g, m, xp: (w - 0.1 * np.asarray(g), m),
        lambda w, g, m, xp: (w - 0.1 * g[..., [0]], m),
        lambda w, g, m, xp: (w - np.add.accumulate(g), m),
    ],
    ids=["asarray", "fancy index", "accumulate"],
)
def test_numpy_does_not_record_what_is_no_list_of_operations(rule):
    here = place("cpu")
    step = make_step(Rule(MODEL, Own(rule).update, Regularization()))
    state, batches = start(MODEL, Own(rule), here)
    with pytest.raises((CannotRecordError, TypeError, AttributeError)):
        numpy._record(step, state, [part[0, ...] for part in batches], xp=np)


@pytest.mark.parametrize(
    "tanh",
    [
        lambda z, xp: xp.asarray(np.tanh(z.numpy())),
        lambda z, xp: xp.asarray(np.tanh(np.asarray(z))),
        lambda z, xp: xp.asarray(np.tanh(np.from_dlpack(z))),
        lambda z, xp: xp.asarray(np.tanh(z.tolist()), dtype=z.dtype),
        lambda z, xp: (1.0 * z).apply_(math.tanh),
    ],
    ids=["numpy", "array", "dlpack", "tolist", "apply"],
)
def test_torch_does_not_record_what_goes_around_its_operators(tanh):
    pytest.importorskip("torch")
    at = place(backend="torch")
    odd = Activation("tanh by NumPy", lambda z, *, xp: tanh(z, xp), ACTIVATIONS["tanh"].sigma_prime)
    network = {
        sigma: Network(SIZES, activation=sigma, backend="torch", dtype="float64", seed=0)
        for sigma in (odd, "tanh")
    }
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, SIZES[0])), rng.integers(SIZES[-1], size=40)
    for one in network.values():
        one.fit(x, y, epochs=4, batch_size=8, optimizer=SGD(0.5), progress=False)
    for ours, theirs in zip(*(one.layers for one in network.values()), strict=True):
        assert_agrees(ours.W, to_numpy(theirs.W), at, "float64", eps=EPS)


def test_torch_does_not_record_chance():
    torch_ = pytest.importorskip("torch")
    here = place(backend="torch")
    optimizer = Own(lambda w, g, m, xp: (w - 0.1 * torch_.rand_like(g), m))
    step = make_step(Rule(MODEL, optimizer.update, Regularization()))
    state, batches = start(MODEL, optimizer, here)
    with pytest.raises(CannotRecordError, match="looks at values"):
        torch._record(step, state, [part[0, ...] for part in batches], xp=here.xp)


def test_a_step_that_is_wrong_is_reported_as_by_the_plain_loop(at):
    def rule(w, g, m, xp):
        raise TypeError("this rule is broken")

    step = make_step(Rule(MODEL, Own(rule).update, Regularization()))
    with pytest.raises(TypeError, match="this rule is broken"):
        ENGINES[at.backend].new_loop()(step, *start(MODEL, Own(rule), at), xp=at.xp)


def test_a_step_is_recorded_once_there_are_enough_of_them(at, monkeypatch):
    monkeypatch.setattr(_replay, "_STEPS_BEFORE", 10)
    calls = []

    def step(state, x, *, xp):
        calls.append(len(calls))
        return [state[0] + xp.sum(x)], 1.0 * x

    loop = ENGINES[at.backend].new_loop()
    state, total = [at.asarray(np.zeros(()))], 0.0
    for steps, called in ((4, 4), (5, 9), (1, 10), (7, 10)):  # the tenth is recorded
        x = at.asarray(np.full((steps, 2), 3.0))
        state, zs = loop(step, state, [x], xp=at.xp)
        total += 6.0 * steps
        assert len(calls) == called
        assert (to_numpy(state[0]).item(), zs.shape) == (total, (steps, 2))
    loop(step, state, [at.asarray(np.ones((6, 3)))], xp=at.xp)  # of another shape
    assert len(calls) == 16


def test_what_a_step_returns_beside_a_new_state_may_be_of_the_old_one(at):
    def step(state, x, *, xp):
        (w,) = state
        return [w - 0.1 * x], w

    batches = [at.asarray(np.ones((3, 2, 2)))]
    for loop in (ENGINES[at.backend].new_loop(), plain.loop):
        _, zs = loop(step, [at.asarray(np.zeros((2, 2)))], batches, xp=at.xp)
        np.testing.assert_allclose(to_numpy(zs)[:, 0, 0], [0.0, -0.1, -0.2], atol=1e-12)


def test_what_fails_in_recording_alone_is_looped_over_plainly(at):
    def step(state, x, *, xp):
        if type(x).__name__ not in ("ndarray", "Tensor"):
            raise RecursionError("of the recorder")
        return state, 2.0 * x

    loop = ENGINES[at.backend].new_loop()
    _, zs = loop(step, [at.asarray(np.zeros(1))], [at.asarray(np.ones((3, 2, 2)))], xp=at.xp)
    np.testing.assert_array_equal(to_numpy(zs), 2.0)


def test_steps_are_given_as_many_arrays_as_there_are(at):
    def step(state, x, y, rate, *, xp):
        return [state[0] + rate * xp.sum(x * y)], rate * x

    rng = np.random.default_rng(0)
    batches = [at.asarray(rng.normal(size=shape)) for shape in ((5, 3, 2), (5, 3, 2), (5,))]
    for loop in (ENGINES[at.backend].new_loop(), plain.loop):
        (total,), zs = loop(step, [at.asarray(np.zeros(1))], batches, xp=at.xp)
        x, y, rate = map(to_numpy, batches)
        assert_agrees(
            total, np.sum(rate[:, None, None] * x * y, keepdims=True)[0, 0], at, "float64"
        )
        assert_agrees(zs, rate[:, None, None] * x, at, "float64")


# ---------------------------------------------------------------------------------------------
# PyTorch: operators put together


def operators(function, *tensors, results=None):
    """Return the names of the operators that a function ends in, put together, and check them.

    The function returns a tensor; it may change its arguments.
    """
    torch_ = pytest.importorskip("torch")
    copies = [one.clone() for one in tensors]
    calls, result, _ = _aten.listen(
        lambda state, *, xp: (function(*state), None), copies, [], xp=torch_
    )
    calls = _aten.joined(calls, [result, *copies])
    again = [one.clone() for one in tensors]
    wanted = function(*again)

    fresh = dict(zip(map(id, copies), (one.clone() for one in tensors), strict=True))
    for call in calls:
        inputs = [fresh.get(id(one), one) for one in call.inputs]
        fresh[id(call.result)] = call.operator(*inputs, **call.options)
    torch_.testing.assert_close(fresh[id(result)], wanted)
    for copy, one in zip(copies, again, strict=True):
        torch_.testing.assert_close(fresh[id(copy)], one)
    return [call.name for call in calls]


@pytest.fixture
def t():
    """Return a function that makes tensors."""
    torch_ = pytest.importorskip("torch")
    torch_.manual_seed(0)
    return lambda *shape: torch_.rand(shape, dtype=torch_.float64)


def _plus_equals(g, c):
    g += c
    return g


def _minus_equals(w, g):
    w -= g
    return w


def _times_equals(g, k):
    g *= k
    return g


def _sigmoid(z, factor=0.5):
    a = (0.5 * z).tanh()
    a *= factor
    a += 0.5
    return a


def test_a_sigmoid_is_one_operator(t):
    assert operators(_sigmoid, t(3, 4)) == ["sigmoid"]
    assert operators(lambda z: _sigmoid(_sigmoid(z)), t(3, 4)) == ["sigmoid", "sigmoid"]


def test_what_is_nearly_a_sigmoid_is_not(t):
    assert "sigmoid" not in operators(lambda z: _sigmoid(z, 0.25), t(3, 4))
    assert "sigmoid" not in operators(lambda z: 0.5 * (0.5 * z).tanh() + 0.5, t(3, 4))

    def half_is_used_again(z):
        h = 0.5 * z
        a = h.tanh()
        a *= 0.5
        a += 0.5
        return a + h

    assert "sigmoid" not in operators(half_is_used_again, t(3, 4))

    def z_changes_meanwhile(z):
        h = 0.5 * z
        z += 1.0
        a = h.tanh()
        a *= 0.5
        a += 0.5
        return a

    assert "sigmoid" not in operators(z_changes_meanwhile, t(3, 4))


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda c, p, q: _plus_equals(p @ q, c), ["addmm"]),
        (lambda c, p, q: c + p @ q, ["addmm"]),
        (lambda c, p, q: p @ q + c, ["addmm"]),
        (lambda c, p, q: _plus_equals(c, p @ q), ["addmm_"]),
        (lambda c, p, q: _minus_equals(c, _times_equals(p @ q, c[0, 0])), None),
        (lambda c, p, q: (p @ q) + (p @ q), ["mm", "addmm"]),
    ],
    ids=["in the product", "new", "new, turned", "in the term", "scaled", "twice"],
)
def test_a_product_and_its_sum_are_one_operator(t, function, wanted):
    found = operators(function, t(4, 3), t(4, 2), t(2, 3))
    assert found == wanted or (wanted is None and found[-1] == "addmm_")


def test_a_product_that_is_used_otherwise_stays(t):
    def used_later(c, p, q):
        g = p @ q
        return (c + g) * g

    def used_before(c, p, q):
        g = p @ q
        h = 2.0 * g
        g += c
        return g + h

    def factor_changes(c, p, q):
        g = p @ q
        p *= 2.0
        return c + g

    def seen_by_a_view(c, p, q):
        g = p @ q
        turned = g.T
        g += c
        return g @ turned

    for function in (used_later, used_before, factor_changes, seen_by_a_view):
        shape = (4, 4) if function is seen_by_a_view else (4, 3)
        found = operators(function, t(*shape), t(4, 2), t(2, shape[1]))
        assert found[0] == "mm"


def test_a_bias_is_added_by_the_product(t):
    names = operators(lambda b, p, q: _plus_equals(p @ q, b[None, :]), t(3), t(4, 2), t(2, 3))
    assert names == ["unsqueeze", "addmm"]


def test_a_scaled_step_scales_the_smaller_factor(t):
    def descend(w, p, q, k):
        return _minus_equals(w, _times_equals(p @ q, k))

    assert operators(descend, t(4, 5), t(4, 2), t(2, 5), t()) == ["mul", "addmm_"]
    assert operators(descend, t(4, 5), t(4, 9), t(9, 5), t()) == ["mm", "addcmul_"]


def test_a_scaled_step_without_a_product_is_one_operator(t):
    assert operators(lambda w, v, k: _minus_equals(w, k * v), t(4), t(4), t()) == ["addcmul_"]


def test_a_scaled_step_that_is_used_again_stays(t):
    def descend(w, v, k):
        g = k * v
        w -= g
        return w + g

    assert operators(descend, t(4), t(4), t()) == ["mul", "sub_", "add"]


def test_a_comparison_writes_numbers(t):
    names = operators(lambda a: (a > 0.5).to(a.dtype) * a, t(3, 4))
    assert names == ["gt", "mul"]


# ---------------------------------------------------------------------------------------------
# CUDA graphs and fused kernels, as far as they go without a GPU


def test_graphs_are_captured_once_a_shape_and_given_each_batch():
    torch_ = pytest.importorskip("torch")
    captured = []

    def run(leaves, batches, zs):
        (total,), (xs, ys) = leaves, batches
        for x, y, z in zip(xs, ys, zs, strict=True):
            total += (x * y).sum()
            z.copy_(x + total)

    def capture(run, *arguments):  # what a graph does: the same operations, on the same memory
        captured.append(arguments)
        return lambda: run(*arguments)

    launch = torch._in_graphs(run, capture)
    rng = np.random.default_rng(1)
    state, wanted = [torch_.zeros(1)], [torch_.zeros(1)]
    for steps in (4, 4, 2, 4, 2):
        batches = [torch_.asarray(rng.random((steps, 3, 2))).float() for _ in range(2)]
        zs, wanted_zs = torch_.empty(steps, 3, 2), torch_.empty(steps, 3, 2)
        launch(state, batches, zs)
        run(wanted, batches, wanted_zs)
        assert torch_.equal(zs, wanted_zs)
        assert torch_.equal(state[0], wanted[0])
    assert len(captured) == 2
    launch([torch_.zeros(1)], batches, zs)  # another state lies elsewhere
    assert len(captured) == 3


class _CuPy:
    """Stands in for CuPy: fuses what it is told to, on NumPy's arrays."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def __getattr__(self, name):
        return getattr(np, name)

    def fuse(self, function):
        def kernel(*arrays):
            self.calls.append(function)
            if self.error:
                raise self.error
            return function(*arrays)

        return kernel


@pytest.mark.parametrize("error", [None, TypeError("cupy.fuse does not know this")])
def test_cupy_fuses_an_activation_or_leaves_it_as_it_is(monkeypatch, error):
    stand_in = _CuPy(error)
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    cupy._fuse.cache_clear()
    z = np.linspace(-3.0, 3.0, 7)
    for activation in ("relu", "sigmoid"):
        sigma, prime = ACTIVATIONS[activation].sigma, ACTIVATIONS[activation].sigma_prime
        for _ in range(2):
            a = cupy._fuse(sigma)(z, xp=np)
            np.testing.assert_array_equal(a, sigma(z, xp=np))
            slope = cupy._fuse(prime)(z, a, xp=np)
            np.testing.assert_array_equal(slope, prime(z, a, xp=np))
    assert len(stand_in.calls) == (8 if error is None else 4)  # what fails is not tried again
    cupy._fuse.cache_clear()


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS.values() if not a.coupled])
def test_cupy_can_fuse_every_activation(activation, monkeypatch):
    # Tracing needs arrays with a shape and a dtype, but no device: these lie on the host.
    real = pytest.importorskip("cupy")
    from cupy._core import _fusion_thread_local, fusion

    host = np.zeros((2, 2))
    memory = real.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    array = real.ndarray((2, 2), np.float32, real.cuda.MemoryPointer(memory, 0))
    thread = _fusion_thread_local.thread_local

    def traced(function, *arrays):
        history = fusion._FusionHistory()
        thread.history, thread.is_old_fusing = history, True
        try:
            return history.get_fusion(function, arrays, "kernel")[0]
        finally:
            thread.history, thread.is_old_fusing = None, False

    xp = cupy._Fusible()
    kernel = traced(lambda z: activation.sigma(z, xp=xp), array)
    assert [str(p.dtype) for p in kernel.out_params] == ["float32"]
    if activation.name == "identity":
        return  # σ′ = 1 is no operation on z, and stays as it is
    kernel = traced(lambda z, a: activation.sigma_prime(z, a, xp=xp), array, array)
    assert [str(p.dtype) for p in kernel.out_params] == ["float32"]


# ---------------------------------------------------------------------------------------------
# All engines


def test_torch_parameters_can_be_differentiated_after_training():
    torch_ = pytest.importorskip("torch")
    network = Network(SIZES, backend="torch", seed=0)
    network.fit(np.ones((8, 4)), np.ones((8, 3)), epochs=1, batch_size=4, progress=False)

    W = network.layers[0].W.requires_grad_()
    (W * W).sum().backward()

    assert torch_.equal(W.grad, 2 * W)


def test_engines_are_named_for_libraries_that_exist():
    assert set(ENGINES) <= set(LIBRARIES)
    assert engine_for("a library nobody tuned") is PLAIN


def test_compiled_chunk_is_traced_once_for_each_shape(where):
    traces = []

    @where.engine.compile
    def double(values):
        traces.append(None)
        return 2.0 * values

    for n in (3, 3, 3, 2):
        assert_agrees(double(where.asarray(np.ones(n))), np.full(n, 2.0), where, "float64")
    assert len(traces) == (2 if where.backend == "jax" else 4)
