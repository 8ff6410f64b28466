"""Sparse matrices as a network's inputs: the runs are those of the same inputs made dense."""

import numpy as np
import pytest
from helpers import widest

from bp_xp import Adam, Checkpoint, Network, to_numpy
from bp_xp.backends import place
from bp_xp.sources import MemorySource, Samples
from bp_xp.sources.sparse import SparseInputs

sparse = pytest.importorskip("scipy.sparse")

X = sparse.random(60, 12, density=0.2, format="csr", random_state=0)
Y = np.arange(60) % 3
FORMS = {
    "csr_matrix": sparse.csr_matrix,
    "csc_array": sparse.csc_array,
    "coo_matrix": sparse.coo_matrix,
    "twice": lambda x: sparse.coo_array(  # an entry that is stored in two parts
        (
            np.tile(x.tocoo().data / 2, 2),
            (np.tile(x.tocoo().row, 2), np.tile(x.tocoo().col, 2)),
        ),
        shape=x.shape,
    ),
}


def network(backend="numpy", **options):
    options = {"dtype": "float64", "seed": 0, "cost": "categorical_cross_entropy"} | options
    return Network([12, 5, 3], backend=backend, **options)


def fitted(x, backend="numpy", engine="auto", epochs=3, **options):
    net = network(backend, engine=engine)
    net.fit(x, Y, epochs=epochs, batch_size=7, progress=False, **options)
    return net


def assert_same(net, other, *, atol=1e-11):
    for layer, theirs in zip(net.layers, other.layers, strict=True):
        for part, their in zip(layer, theirs, strict=True):
            np.testing.assert_allclose(to_numpy(part), to_numpy(their), rtol=0, atol=atol)


RUNS = {
    "plain": {},
    "regularized": {"optimizer": Adam(0.01), "l2": 1e-3, "l1": 1e-4, "max_norm": 1.0},
    "dropout of inputs": {"dropout": [0.2, 0.5], "shuffle": False},
    "validated": {"validation_data": 0.2, "metrics": ["f1"], "early_stopping": 1},
    "weighted": {"sample_weight": np.arange(60) % 2, "class_weight": {1: 3.0}, "clip_norm": 0.1},
}


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_run_on_sparse_inputs_is_that_on_dense_ones(options, engine):
    net = fitted(X, engine=engine, **options)
    assert_same(net, fitted(X.toarray(), **options))
    if engine == "auto":
        assert " @ " in net.explain().program  # recorded; products of arrays are calls there


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_any_form_of_sparse_matrix_is_taken_and_left_as_it_was(form):
    x = form(X)
    before = x.toarray()
    net = fitted(x)
    assert_same(net, fitted(before))
    assert np.array_equal(x.toarray(), before)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "array_api_strict"])
def test_every_library_learns_from_sparse_inputs_and_judges_them(backend):
    pytest.importorskip(backend)
    net, on_numpy = network(backend), network()
    for one, x in ((net, X), (on_numpy, X.toarray())):
        one.fit(x, Y, epochs=2, batch_size=20, progress=False)
    assert_same(net, on_numpy)
    outputs = to_numpy(net.feedforward(X))
    np.testing.assert_allclose(outputs, on_numpy.feedforward(X.toarray()), rtol=0, atol=1e-11)
    judged = on_numpy.evaluate(X.toarray(), Y, metrics="f1_macro")
    assert net.evaluate(X, Y, metrics="f1_macro") == pytest.approx(judged, abs=1e-11)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_no_more_rows_are_dense_at_once_than_there_is_memory_for(backend, dense_shapes):
    pytest.importorskip(backend)
    rows = np.arange(900)
    wide = sparse.csr_matrix((np.ones(900), (rows, 7 * rows)), shape=(900, 1 << 15))
    net = Network([1 << 15, 2, 2], backend=backend, seed=0)
    y = np.arange(900) % 2
    net.fit(wide, y, epochs=1, batch_size=50, validation_data=0.5, metrics="f1", progress=False)
    net.predict(wide)
    net.evaluate(wide, y)
    if backend == "numpy":
        assert not dense_shapes
    else:
        at_once = [n for n, _ in dense_shapes]
        assert sum(at_once) >= 3 * 900
        assert max(at_once) <= 128


def test_a_run_that_is_resumed_ends_where_it_would_have_ended(tmp_path):
    options = {"optimizer": Adam(0.01), "dropout": 0.5}
    whole = fitted(X, epochs=4, **options)
    for epochs, x in ((2, X), (4, sparse.csc_matrix(X))):
        checkpoint = Checkpoint(tmp_path / "run.safetensors", resume=epochs > 2)
        resumed = fitted(x, epochs=epochs, checkpoint=checkpoint, **options)
    assert_same(resumed, whole, atol=0)


def test_a_warm_start_and_passes_go_on_from_where_the_fit_ended():
    nets = []
    for x in (X, X.toarray()):
        net = fitted(x, optimizer=Adam(0.01), warm_start=True)
        net.fit(x, Y, epochs=2, optimizer=Adam(0.01), warm_start=True, progress=False)
        net.partial_fit(x[:30], Y[:30], optimizer=Adam(0.01))
        nets.append(net)
    assert_same(*nets)


def test_what_a_callback_asks_of_a_run_does_not_assign_to_it():
    """Predictions store the weights in a new order, which must not count as new parameters."""
    told = []
    net = fitted(X.toarray(), callbacks=lambda net, history: told.append(net.predict(X)))
    assert len(told) == 3
    assert_same(net, fitted(X.toarray()), atol=0)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "contains NaN: 1 value"), (1e39, "a value too large for float32")],
)
def test_an_entry_that_is_not_finite_is_found_among_those_that_are_stored(value, words):
    x = X.tolil()
    x[41, 7] = value
    with pytest.raises(ValueError, match=r"x contains.*the first at row 41, column 7") as caught:
        network(dtype="float32").fit(x.tocsr(), Y)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (X[:, :5], ValueError, "5 features"),
        (X[:0], ValueError, "0 sample"),
        (X.astype(complex), ValueError, "Complex"),
    ],
    ids=["columns", "rows", "complex"],
)
def test_sparse_inputs_are_checked_like_dense_ones(x, error, words):
    with pytest.raises(error, match=words):
        network().predict(x)


def test_inputs_without_an_entry_are_inputs():
    empty = sparse.csr_matrix((4, 12))
    net = network()
    assert np.array_equal(net.feedforward(empty), net.feedforward(np.zeros((4, 12))))


def test_a_share_of_a_mini_batch_holds_every_other_row(where):
    rows = np.arange(1.0, 12.0)[:, None]
    samples = Samples(
        SparseInputs(sparse.csr_matrix(rows), where, widest(where)),
        where.asarray(rows, widest(where)),
        has_classes=False,
    )
    for shuffle in (False, True):
        source = MemorySource(samples, where, shuffle).share(1, 2)
        epoch = source.start_epoch(4, np.random.default_rng(0))
        while batches := epoch.take(2):
            x, y = batches
            assert x.shape == y.shape
            for k in range(x.shape[0]):
                one = to_numpy(where.asarray(np.ones((1, 1))))
                product = to_numpy(x[k, ...] @ where.asarray(one, widest(where)))
                assert np.array_equal(product, to_numpy(y)[k])


def test_equal_samples_have_one_fingerprint_however_they_are_stored():
    where = place("cpu")
    zeros = X.copy()
    zeros.data[:3] = 0.0
    dense = zeros.toarray()
    fingerprints = {
        MemorySource(
            Samples(SparseInputs(form, where, "float64"), np.zeros((60, 1)), False), where
        ).fingerprint()
        for form in (zeros, sparse.csc_array(zeros), sparse.csr_matrix(dense))
    }
    assert len(fingerprints) == 1
