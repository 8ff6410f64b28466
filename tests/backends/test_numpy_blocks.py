"""Elementwise operations in blocks: the numbers are those of the plain loop, to the last bit."""

import numpy as np
import pytest

from bp_xp import SGD, Adam, Network, RMSprop
from bp_xp.backends.numpy import blocks
from bp_xp.backends.numpy.blocks import elementwise, in_blocks

X, Y = np.random.default_rng(0).random((40, 50)), np.arange(40) % 3


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small arrays count as large, and no whole number of blocks makes one of them."""
    monkeypatch.setattr(blocks, "_LEAST_BYTES", 1 << 12)
    monkeypatch.setattr(blocks, "_BLOCK", 64)


def fitted(engine, **options):
    net = Network([50, 33, 3], activation="tanh", engine=engine, seed=0)
    net.fit(X, Y, epochs=4, batch_size=8, progress=False, **options)
    return net


@pytest.mark.parametrize(
    "optimizer",
    [Adam(0.001, amsgrad=True), SGD(0.1, 0.9, nesterov=True), RMSprop(0.01, centered=True)],
    ids=["adam", "sgd", "rmsprop"],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"l2": 1e-3, "l1": 1e-4},
        {"clip_norm": 0.1, "max_norm": 1.0, "dropout": 0.5},
        {"clip_value": 1e-3, "l2": 1e-3},
    ],
    ids=["plain", "penalties", "norms", "values"],
)
def test_a_run_in_blocks_is_that_of_the_plain_loop(optimizer, options):
    net = fitted("auto", optimizer=optimizer, **options)
    other = fitted("plain", optimizer=optimizer, **options)
    assert " in blocks(" in net.explain().program
    for layer, theirs in zip(net.layers, other.layers, strict=True):
        assert all(map(np.array_equal, layer, theirs))


def test_parameters_that_are_assigned_in_another_order_are_taken_as_they_lie():
    def assign(net, history):
        W, b = net.layers[0]
        net._layers = [type(net.layers[0])(np.asfortranarray(W), b), net.layers[1]]

    nets = [fitted(engine, optimizer=Adam(0.01), callbacks=assign) for engine in ("auto", "plain")]
    for layer, theirs in zip(nets[0].layers, nets[1].layers, strict=True):
        assert all(map(np.array_equal, layer, theirs))


def written(lines, **more):
    """Return lines of additions as a program has them: the temporaries t0, t1 ... of one form."""
    objects = {f"t{i}": np.zeros((32, 32)) for i in range(4)} | more
    known = {}
    for i, line in enumerate(lines):
        if line.startswith("add("):
            names = line[4:-1].replace("out=", "").split(", ")
            values = [objects.get(name, np.zeros((32, 32))) for name in names]
            if note := elementwise(names, values):
                known[i] = note
    return in_blocks(lines, known, objects), objects


def test_a_temporary_of_one_row_alone_is_as_short_as_a_block():
    lines, objects = written(["add(s0, s1, out=t0)", "add(t0, s1, out=t1)", "copyto(s0, t1)"])
    assert lines == [
        "for s0_, s1_, t1_, t0_ in blocks([s0, s1, t1], [t0]):",
        "    add(s0_, s1_, out=t0_)",
        "    add(t0_, s1_, out=t1_)",
        "copyto(s0, t1)",
    ]
    assert (objects["t0"].size, objects["t1"].size) == (64, 1024)


def test_a_row_waits_for_the_next_one_of_its_form():
    lines, _ = written(["add(s0, s1, out=t0)", "dot(x0, x1, out=t2)", "add(t0, s0, out=s0)"])
    assert lines[0] == "dot(x0, x1, out=t2)"
    assert lines[2:] == ["    add(s0_, s1_, out=t0_)", "    add(t0_, s0_, out=s0_)"]


@pytest.mark.parametrize(
    "between",
    ["dot(t0, x1, out=t2)", "multiply(s1, c0, out=s1)", "copyto(s0, t3)", "copyto(v5, t3)"],
)
def test_a_row_does_not_wait_where_others_hear_of_it_or_it_of_them(between):
    given = ["add(s0, s1, out=t0)", between, "add(t0, s0, out=s0)"]
    assert written(given)[0] == given


def test_a_row_does_not_wait_where_its_result_is_seen_under_another_name():
    whole = np.zeros((32, 32))
    given = ["add(s0, s1, out=t0)", "dot(t7, x1, out=t2)", "add(t0, s0, out=s0)"]
    assert written(given, t0=whole, t7=whole.T)[0] == given


@pytest.mark.parametrize(
    "values",
    [
        [np.zeros((32, 1)), np.zeros((32, 32))],
        [np.zeros((32, 32)).T, np.zeros((32, 32))],
        [np.zeros((32, 32)), np.zeros((32, 64))[:, ::2]],
        [np.zeros(8), np.zeros(8)],
    ],
    ids=["broadcast", "other order", "no one piece", "small"],
)
def test_what_can_not_be_cut_alike_is_left_whole(values):
    assert elementwise(["s0", "t0"], values) is None
