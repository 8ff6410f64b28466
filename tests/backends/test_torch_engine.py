"""The PyTorch engine: what is recorded, what is put together, and CUDA graphs without a GPU."""

import math

import numpy as np
import pytest
from helpers import assert_agrees
from steps import MODEL, SIZES, Own, begin

from bp_xp import ACTIVATIONS, SGD, Activation, Network, to_numpy
from bp_xp.backends import place
from bp_xp.backends.torch import engine
from bp_xp.backends.torch.operators import joined, listen
from bp_xp.engines.replay import CannotRecordError

torch = pytest.importorskip("torch")

# Rounding grows along a trajectory, but a net that learns is no chaos.
EPS = 1e-11 / np.finfo(np.float64).eps

# ---------------------------------------------------------------------------------------------
# What is recorded


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
    here = place(backend="torch")
    own = Own(lambda w, g, m, xp: (w - 0.1 * torch.rand_like(g), m))
    step, state, batches = begin(MODEL, own, where=here)
    with pytest.raises(CannotRecordError, match="looks at values"):
        engine._record(step, state, [part[0, ...] for part in batches], xp=here.xp)


def test_torch_parameters_can_be_differentiated_after_training():
    network = Network(SIZES, backend="torch", seed=0)
    network.fit(np.ones((8, 4)), np.ones((8, 3)), epochs=1, batch_size=4, progress=False)

    W = network.layers[0].W.requires_grad_()
    (W * W).sum().backward()

    assert torch.equal(W.grad, 2 * W)


# ---------------------------------------------------------------------------------------------
# PyTorch: operators put together


def operators(function, *tensors, results=None):
    """Return the names of the operators that a function ends in, put together, and check them.

    The function returns a tensor; it may change its arguments.
    """
    copies = [one.clone() for one in tensors]
    calls, result, _ = listen(lambda state, *, xp: (function(*state), None), copies, [], xp=torch)
    calls = joined(calls, [result, *copies])
    again = [one.clone() for one in tensors]
    wanted = function(*again)

    fresh = dict(zip(map(id, copies), (one.clone() for one in tensors), strict=True))
    for call in calls:
        inputs = [fresh.get(id(one), one) for one in call.inputs]
        fresh[id(call.result)] = call.operator(*inputs, **call.options)
    torch.testing.assert_close(fresh[id(result)], wanted)
    for copy, one in zip(copies, again, strict=True):
        torch.testing.assert_close(fresh[id(copy)], one)
    return [call.name for call in calls if call.name != "lift_fresh"]  # which makes a constant


@pytest.fixture
def t():
    """Return a function that makes tensors."""
    torch.manual_seed(0)
    return lambda *shape: torch.rand(shape, dtype=torch.float64)


def _plus_equals(g, c):
    g += c
    return g


def _minus_equals(w, g):
    w -= g
    return w


def _times_equals(g, k):
    g *= k
    return g


def test_a_sigmoid_is_one_operator(t):
    def sigmoid(z):
        return ACTIVATIONS["sigmoid"].sigma(z, xp=place(backend="torch").xp)

    assert operators(sigmoid, t(3, 4)) == ["sigmoid"]
    assert operators(lambda z: sigmoid(sigmoid(z)), t(3, 4)) == ["sigmoid", "sigmoid"]
    assert operators(lambda z: z * sigmoid(z), t(3, 4)) == ["sigmoid", "mul"]


def _limited(z, limit=-708.0):
    return place(backend="torch").xp.maximum(z, limit)


def _from_limited(h, one=1.0, above=1.0):
    a = (-h).exp()
    a += one
    return above / a


def test_what_is_nearly_a_sigmoid_is_not(t):
    assert operators(lambda z: _from_limited(_limited(z)), t(3, 4)) == ["sigmoid"]

    def limit_is_used_again(z):
        h = _limited(z)
        return _from_limited(h) + h

    def power_is_used_meanwhile(z):
        a = (-_limited(z)).exp()
        twice = 2.0 * a
        a += 1.0
        return 1.0 / a + twice

    def sum_is_used_again(z):
        a = (-_limited(z)).exp()
        a += 1.0
        return 1.0 / a + a

    def z_changes_meanwhile(z):
        h = _limited(z)
        z += 1.0
        return _from_limited(h)

    for function in (
        limit_is_used_again,
        power_is_used_meanwhile,
        sum_is_used_again,
        z_changes_meanwhile,
        lambda z: _from_limited(_limited(z, -1.0)),
        lambda z: _from_limited(_limited(z, z)),
        lambda z: _from_limited(_limited(z), one=2.0),
        lambda z: _from_limited(_limited(z), above=2.0),
        lambda z: 1.0 / (1.0 + (-_limited(z)).exp()),
    ):
        assert "sigmoid" not in operators(function, t(3, 4))


def test_a_recorded_step_holds_pytorch_s_own_sigmoid_and_adds_products_where_they_are(caplog):
    # Who spells the sigmoid or the descent differently changes backends/torch/operators.py as well.
    network = Network([40, 30, 20], backend="torch", dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 40)), rng.random((64, 20))
    history = network.fit(x, y, epochs=2, batch_size=4, optimizer=SGD(0.5), progress=False)
    program = network.explain().program
    assert history.engine == "torch"
    assert program.count(" sigmoid(") == 2
    assert "exp(" not in program
    assert program.count(" addmm(") == 2  # z = a Wᵀ + b
    assert program.count(" addmm_(") == 2  # W −= η δᵀ a, whose gradient is never made
    assert not caplog.records


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
# CUDA graphs, as far as they go without a GPU


def add_up(leaves, batches, zs):
    """Take steps that add x ⊙ y up, each zᴸ being x and the sum so far."""
    (total,), (xs, ys) = leaves, batches
    for x, y, z in zip(xs, ys, zs, strict=True):
        total += (x * y).sum()
        z.copy_(x + total)


@pytest.fixture
def captured():
    """What was captured, one entry for each graph."""
    return []


@pytest.fixture
def launch(captured):
    """What takes the steps of a chunk in graphs."""

    def capture(run, *arguments):  # what a graph does: the same operations, on the same memory
        captured.append(arguments)
        return lambda: run(*arguments)

    return engine._in_graphs(add_up, capture)


def draw_chunk(rng, steps):
    return [torch.asarray(rng.random((steps, 3, 2))).float() for _ in range(2)]


def test_graphs_are_captured_once_a_shape_and_given_each_batch(launch, captured, rng):
    state, wanted = [torch.zeros(1)], [torch.zeros(1)]
    for steps in (4, 4, 2, 4, 2):
        batches = draw_chunk(rng, steps)
        zs, wanted_zs = torch.empty(steps, 3, 2), torch.empty(steps, 3, 2)
        launch(state, batches, zs)
        add_up(wanted, batches, wanted_zs)
        assert torch.equal(zs, wanted_zs)
        assert torch.equal(state[0], wanted[0])
    assert len(captured) == 2
    launch([torch.zeros(1)], batches, zs)  # another state lies elsewhere
    assert len(captured) == 3


def test_graphs_leave_mini_batches_as_they_are(launch, rng):
    # Without shuffling, these are views of the samples that the run goes over again.
    chunks = [draw_chunk(rng, steps) for steps in (4, 4, 2, 4, 2)]
    before = [[part.clone() for part in batches] for batches in chunks]
    state = [torch.zeros(1)]
    for batches in chunks:
        launch(state, batches, torch.empty(len(batches[0]), 3, 2))
    for batches, copies in zip(chunks, before, strict=True):
        assert all(map(torch.equal, batches, copies))


def test_what_a_graph_returned_stays_after_the_next_launch(launch):
    state = [torch.zeros(1)]
    first, second = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)
    launch(state, [torch.full((1, 1, 1), 2.0)] * 2, first)
    launch(state, [torch.full((1, 1, 1), 3.0)] * 2, second)
    assert (first.item(), second.item()) == (2 + 4, 3 + 4 + 9)
