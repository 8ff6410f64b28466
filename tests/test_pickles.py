"""What people keep in pickles: a network at every moment of its life, and what it leaves."""

import copy
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers import parameters

from bp_xp import Adam, EpochRecord, GradientFlow, Network, ReduceOnPlateau, book, to_numpy
from bp_xp.math.metrics import top_k

OPTIMIZER = Adam(ReduceOnPlateau(0.1, monitor="cost"))


@pytest.fixture
def net(target):
    return Network([3, 5, 2], seed=1, backend=target.backend, device=target.device)


def again(thing):
    return pickle.loads(pickle.dumps(thing))


def stepped(net, data):
    for _ in range(3):
        net.partial_fit(*data, optimizer=OPTIMIZER, dropout=0.2, batch_size=4)
    return net


def test_a_network_goes_on_after_a_pickle_as_without_one(net, data):
    stepped(net, data)
    twin = again(net)
    assert np.array_equal(parameters(twin), parameters(net))
    assert (twin.backend, twin.device, twin.seed) == (net.backend, net.device, net.seed)
    for one in (net, twin):
        stepped(one, data)
    np.testing.assert_allclose(parameters(twin), parameters(net), rtol=1e-5, atol=1e-6)


def test_a_copy_goes_its_own_way(net, data):
    stepped(net, data)
    before = parameters(net).copy()
    stepped(copy.deepcopy(net), data)
    assert np.array_equal(parameters(net), before)
    assert np.array_equal(parameters(copy.copy(net)), before)


def test_a_network_is_pickled_whatever_was_measured(net, data):
    def odd(a, y, *, xp):
        return xp.sum(a)

    net.fit(*data, epochs=1, warm_start=True, validation_data=data, metrics=[odd], progress=False)
    twin = again(net)
    twin.fit(*data, epochs=1, warm_start=True, progress=False)


def test_what_a_run_leaves_is_pickled(net, data):
    flow = GradientFlow(*data)
    history = net.fit(
        *data, epochs=6, batch_size=4, validation_data=0.2, metrics=["f1"], callbacks=flow
    )
    assert again(history) == history
    assert str(again(flow)) == str(flow)
    assert again(net.explain()).program == net.explain().program
    assert str(again(net.explain())) == str(net.explain())
    trace = net.trace(*data)
    assert np.array_equal(to_numpy(again(trace).layers[0].delta), to_numpy(trace.layers[0].delta))


def test_a_record_made_by_hand_is_pickled_and_copied():
    record = EpochRecord(1, 0.5, None, None, None, 0.1, 10.0)
    assert again(record) == copy.deepcopy(record) == record


def test_top_k_is_pickled(net, data):
    metric = again(top_k(1))
    told = net.evaluate(*data, metrics=[metric])
    assert told["top_1"] == pytest.approx(told["accuracy"])


@pytest.mark.parametrize("make", [book.Network, book.network2.Network], ids=["1", "3"])
def test_the_book_s_networks_are_pickled(target, make):
    net = make([3, 4, 2], backend=target.backend, device=target.device, dtype="float32")
    twin = again(net)
    assert repr(twin) == repr(net)
    x = [[0.5], [0.25], [1.0]]
    assert np.array_equal(to_numpy(twin.feedforward(x)), to_numpy(net.feedforward(x)))
    twin.biases[0] = np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"biases\[0\] must have shape"):
        twin.biases[0] = np.zeros((3, 1))


LACKING = """
import pickle, sys

class NotThere:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

sys.meta_path.insert(0, NotThere())
try:
    pickle.load(sys.stdin.buffer)
except ImportError as error:
    print(error)
"""


@pytest.mark.process
@pytest.mark.parametrize("make", [Network, book.Network], ids=["bp_xp", "book"])
def test_a_pickle_names_the_library_that_is_missing(make):
    pytest.importorskip("torch")
    data = pickle.dumps(make([3, 2], backend="torch"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LACKING)],
        input=data,
        capture_output=True,
        check=True,
    )
    assert b"torch is not installed: install it with" in done.stdout
    assert b"bp_xp[torch]" in done.stdout
