"""Arrays land on the device of their network, whichever is the current one.

CuPy makes arrays on the current device, and computes there. The stand-in for it has two devices,
and tells where arrays were made.
"""

import contextlib
import copy
import pickle
import warnings

import cupy_like
import numpy as np
import pytest

from bp_xp import Adam, Layer, Network, book, to_numpy
from bp_xp.backends import LIBRARIES
from bp_xp.inspection import GradientFlow, sensitivity
from bp_xp.testing import assert_parity, check_gradients, check_training
from bp_xp.training import checkpoint

THERE = "cuda:1"
X, Y = np.linspace(-1.0, 1.0, 24).reshape(8, 3), np.arange(8) % 2


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch):
    monkeypatch.setattr(LIBRARIES["cupy"], "_works", set())
    with cupy_like.installed(monkeypatch):
        yield


@contextlib.contextmanager
def all_there():
    """Check that new arrays are on the network's device, and that there are some."""
    cupy_like.made.clear()
    yield
    assert cupy_like.made[0] == 0
    assert cupy_like.Device().id == 0


def network(outputs=2, **options):
    cost = "categorical_cross_entropy" if outputs > 1 else "binary_cross_entropy"
    return Network([3, 4, outputs], cost=cost, device=THERE, engine="plain", seed=0, **options)


def sklearn_warning():
    return pytest.importorskip("sklearn.exceptions").ConvergenceWarning


def fit(net, x, y, folder):
    net.fit(
        x,
        y,
        epochs=2,
        batch_size=3,
        optimizer=Adam(0.01),
        validation_data=0.25,
        metrics="f1",
        class_weight="balanced",
        l1=0.1,
        dropout=0.5,
        clip_norm=1.0,
        max_norm=1.0,
        early_stopping=5,
        callbacks=[flow := GradientFlow(X, Y, every=1)],
        checkpoint=folder / "run.safetensors",
        progress=False,
    )
    assert flow.records


def assign(net, x, y, folder):
    net.layers = [Layer(2.0 * to_numpy(W), to_numpy(b)) for W, b in net.layers]
    net.layers = net.layers


METHODS = {
    "asarray": lambda net, x, y, folder: net.asarray([1.0, 2.0]),
    "backend": lambda net, x, y, folder: net.backend,
    "backprop": lambda net, x, y, folder: net.backprop(x, y),
    "classifies": lambda net, x, y, folder: net.classifies,
    "describe": lambda net, x, y, folder: net.describe(),
    "device": lambda net, x, y, folder: net.device,
    "device_reason": lambda net, x, y, folder: net.device_reason,
    "dtype": lambda net, x, y, folder: net.dtype,
    "engine": lambda net, x, y, folder: net.engine,
    "evaluate": lambda net, x, y, folder: net.evaluate(x, y, metrics=["f1", "top_1"]),
    "explain": lambda net, x, y, folder: str(net.explain()),
    "feedforward": lambda net, x, y, folder: net.feedforward(x, batch_size=3),
    "fit": fit,
    "from_layers": lambda net, x, y, folder: Network.from_layers(net.layers, device=THERE),
    "layers": assign,
    "load": lambda net, x, y, folder: Network.load(net.save(folder / "net"), device=THERE),
    "n_parameters": lambda net, x, y, folder: net.n_parameters,
    "partial_fit": lambda net, x, y, folder: [net.partial_fit(x, y) for _ in range(2)],
    "placement": lambda net, x, y, folder: net.placement,
    "predict": lambda net, x, y, folder: net.predict(x),
    "predict_proba": lambda net, x, y, folder: net.predict_proba(x),
    "save": lambda net, x, y, folder: net.save(folder / "net"),
    "sizes": lambda net, x, y, folder: net.sizes,
    "summary": lambda net, x, y, folder: net.summary(),
    "to": lambda net, x, y, folder: net.to(THERE),
    "trace": lambda net, x, y, folder: (str(net.trace(x, y)), net.trace(x, y).equations()),
    "with_layers": lambda net, x, y, folder: net.with_layers(net.layers),
    "xp": lambda net, x, y, folder: net.xp,
    # What is no method.
    "a new one": lambda net, x, y, folder: network(),
    "called": lambda net, x, y, folder: net(x),
    "copied": lambda net, x, y, folder: copy.copy(net),
    "pickled": lambda net, x, y, folder: pickle.loads(pickle.dumps(net)),
    "sensitivity": lambda net, x, y, folder: sensitivity(net, x, y, 1, 2),
    "check_gradients": lambda net, x, y, folder: check_gradients(
        net, X, Y, l1=0.1, dropout=0.5, tolerance=0.1
    ),
    "check_training": lambda net, x, y, folder: check_training(net, x, y, l1=0.1, tolerance=1e-3),
    "assert_parity": lambda net, x, y, folder: assert_parity(
        lambda **where: net.to(**where), X, Y, backends=["numpy", f"cupy-{THERE}"], steps=3
    ),
}


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_all_arrays_are_made_on_the_network_s_device(method, outputs, tmp_path):
    (again := tmp_path / "again").mkdir()
    with all_there():
        net = network(outputs)
        METHODS[method](net, X, Y, tmp_path)
        METHODS[method](net, net.asarray(X), net.asarray(Y), again)
        METHODS["predict"](net, X, Y, tmp_path)
    assert net.device == THERE


def test_every_public_name_of_a_network_is_looked_at():
    public = {name for name in dir(network()) if not name.startswith("_")}
    assert public - {"model", "seed"} <= METHODS.keys()


def test_a_network_moves_between_devices():
    net = network().to("cuda:0")
    back = net.to(THERE)
    assert {part.device.id for layer in net.layers for part in layer} == {0}
    assert {part.device.id for layer in back.layers for part in layer} == {1}
    with pytest.raises(ValueError, match="is on device 'cuda:0', but the network is on 'cuda:1'"):
        back.feedforward(net.asarray(X))


def test_what_dtypes_a_device_has_is_told_without_an_array():
    where = network().placement
    with all_there(), cupy_like.counted_reads() as read:
        before = len(cupy_like.made)
        assert where.library.has_dtype("float64", where.device)
        assert where.dtype("float64") == where.xp.float64
    assert (len(cupy_like.made), read) == (before, [])


def test_the_book_s_network_is_on_its_device():
    columns = [(x[:, None], np.eye(2)[y][:, None]) for x, y in zip(X, Y, strict=True)]
    tests = list(zip([x for x, _ in columns], Y, strict=True))
    with all_there():
        net = book.Network([3, 4, 2], device=THERE)
        net.SGD(columns, 1, 3, 0.5, test_data=tests)
        net.backprop(*columns[0])
        net.feedforward(columns[0][0])
        a = net.feedforward(columns[0][0])
        net.cost_derivative(a, a)
        book.sigmoid(a), book.sigmoid_prime(a)


@pytest.mark.parametrize("cost", ["CrossEntropyCost", "QuadraticCost"])
def test_the_network_of_the_book_s_third_chapter_is_on_its_device(cost, tmp_path):
    columns = [(x[:, None], np.eye(2)[y][:, None]) for x, y in zip(X, Y, strict=True)]
    tests = list(zip([x for x, _ in columns], Y, strict=True))
    with all_there():
        kind = getattr(book.network2, cost)
        net = book.network2.Network([3, 4, 2], cost=kind, device=THERE)
        watched = dict.fromkeys(("monitor_evaluation_cost", "monitor_training_accuracy"), True)
        net.SGD(columns, 1, 3, 0.5, lmbda=0.1, evaluation_data=tests, **watched)
        net.backprop(*columns[0])
        a = net.feedforward(columns[0][0])
        kind.fn(a, columns[0][1]), kind.delta(a, a, a)
        net.save(tmp_path / "net.json")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_estimators_compute_on_their_device(solver):
    estimators = pytest.importorskip("bp_xp.estimators")
    with all_there(), warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn_warning())
        for kind, y in ((estimators.MLPClassifier, Y), (estimators.MLPRegressor, X[:, 0])):
            made = kind(
                hidden_layer_sizes=(4,), solver=solver, max_iter=3, device=THERE, random_state=0
            )
            made.fit(X, y).predict(X)
            made.score(X, y)
            pickle.loads(pickle.dumps(made)).predict(X)
            if kind is estimators.MLPClassifier:
                made.predict_log_proba(X)


def test_estimators_read_validation_data_back_once_an_epoch(monkeypatch):
    estimators = pytest.importorskip("bp_xp.estimators")
    monkeypatch.setattr("bp_xp.estimators._samples.ROWS_AT_ONCE", 3)
    made = estimators.MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, device=THERE, alpha=0.0)
    network()  # the device is tried now
    counted = []
    for validation in (None, (X, X[:, 0])):
        with warnings.catch_warnings(), cupy_like.counted_reads() as read:
            warnings.simplefilter("ignore", sklearn_warning())
            made.fit(X, X[:, 0], validation_data=validation)
        counted.append(len(read))
    assert counted[1] - counted[0] == 2  # one for each epoch, whatever the number of blocks


def test_what_has_a_form_is_not_read_back_for_it():
    net = network()
    with cupy_like.counted_reads() as read, net.placement.active():
        placed = checkpoint._placed(
            np.zeros((4, 3), np.float32), "W", net.layers[0].W, net.placement
        )
        with pytest.raises(ValueError, match=r"shape \(4, 2\) and dtype float64.*\(4, 3\) and"):
            checkpoint._placed(np.zeros((4, 2)), "W", net.layers[0].W, net.placement)
    assert placed.shape == (4, 3)
    assert not read
    with cupy_like.counted_reads() as read:
        Network.from_layers(net.layers, device=THERE)
    assert set(read) <= {()}  # whether they are finite


def test_estimators_of_arrays_compute_on_the_device_of_these(monkeypatch):
    """As with ``array_api_dispatch``, which scikit-learn has for CuPy itself alone."""
    estimators = pytest.importorskip("bp_xp.estimators")
    made = estimators.MLPClassifier((4,), max_iter=3, device=THERE, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn_warning())
        made.fit(X, Y)
    made._in_arrays = True
    there = made._where.asarray(np.abs(X))
    monkeypatch.setattr(made, "_outputs", lambda X, method: there[:, :1])
    with all_there():
        for method in (made.predict_proba, made.predict_log_proba):
            assert method(X).device.id == 1
