"""The public edge: what bad arrays get, and what good ones become."""

import numpy as np
import pytest
from helpers import tolerance, widest

import bp_xp
from bp_xp import SGD, Network, to_numpy

X = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0], [1.0, 1.0, 1.0]])
LABELS = np.array([0, 1, 1, 0])


def network(**options) -> Network:
    return Network([3, 4, 2], seed=0, **options)


def fit(net: Network, x=X, y=LABELS, **options) -> bp_xp.History:
    return net.fit(x, y, **({"epochs": 1, "batch_size": 2, "progress": False} | options))


# ---------------------------------------------------------------------------------------------
# Inputs


CALLS = {
    "feedforward": lambda net, x: net.feedforward(x),
    "predict": lambda net, x: net.predict(x),
    "evaluate": lambda net, x: net.evaluate(x, LABELS),
    "backprop": lambda net, x: net.backprop(x, LABELS),
    "fit": fit,
}


@pytest.fixture(params=list(CALLS))
def call(request):
    """Each public method that takes inputs."""
    return CALLS[request.param]


def _with(value: float) -> np.ndarray:
    x = X.copy()
    x[1, 2] = x[2, 0] = value
    return x


class _Matrix(np.matrix):
    """numpy.matrix, whose constructor would warn."""


@pytest.mark.parametrize(
    ("x", "error", "names"),
    [
        (_with(np.nan), ValueError, ["x", "NaN", "2 value(s)", "row 1, column 2"]),
        (_with(np.inf), ValueError, ["x", "infinity", "float32", "row 1, column 2"]),
        (_with(-np.inf), ValueError, ["x", "infinity"]),
        (_with(1e39), ValueError, ["x", "infinity", "float32", "2 value(s)"]),
        (X.astype(complex), ValueError, ["x", "Complex data not supported"]),
        (X[0], ValueError, ["x", "Reshape your data", "(3,)"]),
        (X[None], ValueError, ["x", "(1, 4, 3)", "flatten"]),
        (X[:, :2], ValueError, ["x", "2 features", "3 features"]),
        (X[:, :0], ValueError, ["0 feature(s)", "(shape=(4, 0))", "minimum of 1"]),
        (X[:0], ValueError, ["0 sample(s)", "(shape=(0, 3))"]),
        (np.ma.masked_array(X, X > 7), TypeError, ["masked array", "filled"]),
        (X.view(_Matrix), TypeError, ["numpy.matrix", "asarray"]),
        ([["a", "b", "c"]] * 4, TypeError, ["x", "numbers"]),
        ([[None, {}, 1]] * 4, TypeError, ["x", "numbers", "object"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_inputs_that_are_no_matrix_of_numbers_are_refused_everywhere(call, x, error, names):
    with pytest.raises(error) as caught:
        call(network(), x)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_a_value_that_only_float32_can_not_hold_passes_in_float64():
    assert np.isfinite(network(dtype="float64").feedforward(_with(1e39))).all()


def test_sparse_matrices_are_refused_with_the_way_out():
    class Sparse:
        def tocsr(self): ...

    with pytest.raises(TypeError, match=r"sparse matrix: pass x.toarray\(\)"):
        network().predict(Sparse())


def test_lists_and_objects_of_numbers_are_inputs():
    net = network()

    expected = net.feedforward(X)

    assert np.array_equal(net.feedforward(X.tolist()), expected)
    assert np.array_equal(net.feedforward(X.astype(object)), expected)
    assert np.array_equal(net.feedforward(X.astype(np.uint8)), expected)


def test_images_of_bytes_do_not_wrap_around():
    net = Network.from_layers([([[1.0, -1.0]], [0.0])], output_activation="identity")

    assert net.feedforward(np.array([[1, 2]], dtype=np.uint8)) == -1.0


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda a: a[::-1][::-1],
        lambda a: a.astype(">f8"),
        lambda a: np.repeat(a, 2, axis=0)[::2],
    ],
    ids=["fortran", "reversed", "big-endian", "strided"],
)
def test_the_layout_of_inputs_in_memory_does_not_matter(where, target, layout):
    options = {"backend": target.backend, "device": target.device, "dtype": widest(where)}
    plain, odd = network(**options), network(**options)

    fit(plain, X), fit(odd, layout(X))

    for a, b in zip(plain.layers, odd.layers, strict=True):
        assert np.allclose(to_numpy(a.W), to_numpy(b.W), rtol=tolerance(plain.dtype, 1e-13), atol=0)


def test_read_only_inputs_are_read_and_no_more(target, tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    frozen = X.copy()
    frozen.flags.writeable = False

    net = network(backend=target.backend, device=target.device)
    for x in (mapped, frozen):
        fit(net, x)
        net.predict(x)


def test_the_caller_s_arrays_are_never_changed(target, dtype):
    x, y, xv = X.astype(dtype), LABELS.copy(), X.astype(dtype) + 1
    W, b = np.full((2, 3), 0.5, dtype), np.zeros(2, dtype)
    kept = [a.tobytes() for a in (x, y, xv, W, b)]
    net = Network.from_layers(
        [(W, b)], backend=target.backend, device=target.device, dtype=dtype, seed=0
    )

    fit(net, x, y, epochs=3, optimizer=SGD(0.5, momentum=0.5), validation_data=(xv, y), l2=0.1)
    net.evaluate(x, y), net.backprop(x, y)

    assert [a.tobytes() for a in (x, y, xv, W, b)] == kept
    assert not np.array_equal(to_numpy(net.layers[0].W), W)


def test_parameters_do_not_alias_what_they_were_made_from(target):
    W, b = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    net = Network.from_layers([(W, b)], backend=target.backend, device=target.device)
    own = [net.xp.asarray(part, copy=True) for part in net.layers[0]]
    net.layers = [own]

    W[...] = 7.0
    own[0] += 7.0

    assert np.array_equal(to_numpy(net.layers[0].W), np.ones((2, 3)))


def test_a_list_of_layers_taken_before_training_stays_what_it_was(target):
    net = network(backend=target.backend, device=target.device)
    before = net.layers
    kept = [to_numpy(layer.W).copy() for layer in before]

    fit(net)

    assert all(np.array_equal(to_numpy(a.W), W) for a, W in zip(before, kept, strict=True))


def test_an_array_of_another_library_is_refused_with_both_names(target, call):
    other = "torch" if target.backend != "torch" else "array_api_strict"
    pytest.importorskip(other)
    foreign = bp_xp.backends.place(backend=other).asarray(X)
    net = network(backend=target.backend, device=target.device)

    with pytest.raises(TypeError) as caught:
        call(net, foreign)

    assert other in str(caught.value)
    assert target.backend in str(caught.value)
    assert "bp_xp.to_numpy(x)" in str(caught.value)


def test_an_array_on_another_device_is_refused_with_both_names(call):
    pytest.importorskip("array_api_strict")
    net = network(backend="array_api_strict", device="device1")
    elsewhere = network(backend="array_api_strict", device="device2").xp.asarray(X)

    with pytest.raises(ValueError, match=r"x is on device 'cpu'.*on 'device1'"):
        call(net, elsewhere)


def test_targets_on_another_device_are_refused_by_name():
    pytest.importorskip("array_api_strict")
    net = network(backend="array_api_strict", device="device1")
    targets = network(backend="array_api_strict").xp.asarray(np.eye(2)[LABELS])

    with pytest.raises(ValueError, match=r"y is on device 'cpu'"):
        net.evaluate(X, targets)


def test_an_array_of_the_network_s_own_is_taken_as_it_is(where, target, dtype):
    net = network(backend=target.backend, device=target.device, dtype=dtype)

    from_host = net.feedforward(X)
    from_device = net.feedforward(where.asarray(X, dtype))

    assert np.array_equal(to_numpy(from_host), to_numpy(from_device))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_on_the_device_are_checked_too(where, target, bad):
    x = where.asarray(_with(bad), "float32")

    with pytest.raises(ValueError, match=r"2 value\(s\), the first at row 1, column 2"):
        network(backend=target.backend, device=target.device).predict(x)


# ---------------------------------------------------------------------------------------------
# Labels and targets


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([0, 1, 2, 0], ["label 2", "row 2", "2 classes", "y"]),
        ([0, -1, 1, 0], ["label -1", "row 1", "2 classes"]),
        ([0, 1, 1, 255], ["label 255", "row 3", "1 such"]),
        ([0, 0.5, 1, 0], ["Unknown label type", "0.5", "y[1]"]),
        ([0, np.nan, 1, 0], ["y", "nan"]),
        ([0, 1, 1], ["y", "3 rows", "4"]),
        (np.zeros((3, 2)), ["y", "3 rows", "4"]),
        (np.zeros((4, 3)), ["y", "3 columns", "2 outputs"]),
        (np.zeros((4, 2, 1)), ["y", "(4, 2, 1)"]),
        (np.zeros((4, 0)), ["y", "(4, 0)"]),
        ([0, 1j, 1, 0], ["y", "Complex data not supported"]),
        (np.full((4, 2), np.nan), ["y", "NaN"]),
    ],
    ids=lambda value: None,
)
def test_labels_and_targets_that_do_not_fit_are_refused(target, y, names):
    net = network(backend=target.backend, device=target.device)

    for call in (net.fit, net.evaluate, net.backprop):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
            call(X, y)
        assert all(name in str(caught.value) for name in names), str(caught.value)


def test_labels_of_words_are_refused():
    with pytest.raises(TypeError, match=r"y must be an array of numbers.*TableModel takes text"):
        network().fit(X, ["a", "b", "b", "a"])


def test_a_path_is_told_from_text():
    with pytest.raises(TypeError, match=r"np.load\('x.npy', mmap_mode='r'\)"):
        network().predict("x.npy")


def test_labels_on_the_device_are_checked_on_the_host(where, target):
    net = network(backend=target.backend, device=target.device)

    with pytest.raises(ValueError, match="label 7 at row 1"):
        net.evaluate(X, where.asarray(np.array([0, 7, 1, 0])))


def test_whole_labels_may_be_floats_or_booleans(target):
    net = network(backend=target.backend, device=target.device)

    expected = net.evaluate(X, LABELS)

    assert net.evaluate(X, LABELS.astype(float)) == expected
    assert net.evaluate(X, LABELS.astype(bool)) == expected
    assert net.evaluate(X, np.eye(2)[LABELS]) == expected


def test_validation_data_is_named_in_messages():
    with pytest.raises(ValueError, match="validation x contains NaN"):
        fit(network(), validation_data=(_with(np.nan), LABELS))
    with pytest.raises(ValueError, match="of validation y is not one of the 2 classes"):
        fit(network(), validation_data=(X, [0, 1, 9, 0]))


@pytest.mark.parametrize("cost", ["binary_cross_entropy", "categorical_cross_entropy"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_cross_entropy_refuses_targets_that_are_no_probabilities(cost, value):
    y = np.eye(2)[LABELS]
    y[0] = [value, 1 - value]

    with pytest.raises(ValueError, match="targets from 0 to 1, but y goes from"):
        network(cost=cost).evaluate(X, y)


def test_targets_that_the_outputs_can_not_reach_are_warned_of():
    with pytest.warns(UserWarning, match=r"y goes from 3 to 3.*output_activation='identity'") as w:
        fit(network(), y=np.full((4, 2), 3.0))
    assert w[0].filename == __file__


def test_the_categorical_cross_entropy_refuses_rows_that_do_not_add_to_one():
    with pytest.raises(ValueError, match="sum to 1"):
        network(cost="categorical_cross_entropy").evaluate(X, np.ones((4, 2)))


@pytest.mark.parametrize("y", [np.zeros(4), np.zeros((4, 1))])
def test_one_output_takes_a_column_or_a_row_of_numbers_without_broadcasting(y):
    net = Network([3, 1], output_activation="identity", seed=0)

    outputs = net.feedforward(X)[:, 0]

    assert net.evaluate(X, y)["cost"] == pytest.approx(float(np.mean(0.5 * outputs**2)))


# ---------------------------------------------------------------------------------------------
# Given parameters


def test_integer_parameters_become_floats_and_can_be_trained(target):
    net = Network.from_layers(
        [(np.array([[1, 2, 3], [0, 1, 0]]), np.array([0, 1]))],
        backend=target.backend,
        device=target.device,
    )
    fit(net, optimizer=SGD(0.01))

    W = to_numpy(net.layers[0].W)
    assert W.dtype == np.float32
    assert not np.array_equal(W, np.round(W))


@pytest.mark.parametrize(
    ("layers", "error", "names"),
    [
        ([], ValueError, ["pairs (W, b)"]),
        ([([[1.0]],)], ValueError, ["pairs (W, b)"]),
        ([5], ValueError, ["pairs (W, b)"]),
        ([([1.0], [1.0])], ValueError, ["matrix"]),
        ([([[1.0, 2.0]], [1.0, 2.0])], ValueError, ["layers[0]", "b of shape (1,)", "(2,)"]),
        (
            [([[1.0, 2.0]], [0.0]), ([[1.0, 2.0]], [0.0])],
            ValueError,
            ["layers[1]", "W of shape (1, 1)", "(1, 2)"],
        ),
        ([([[np.nan, 2.0]], [1.0])], ValueError, ["layers[0].W", "NaN"]),
        ([([[1j, 2.0]], [1.0])], ValueError, ["layers[0].W", "Complex"]),
        ([([["a", "b"]], [1.0])], TypeError, ["layers[0].W", "numbers"]),
    ],
    ids=lambda value: None,
)
def test_given_parameters_must_fit_each_other(layers, error, names):
    with pytest.raises(error) as caught:
        Network.from_layers(layers)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_an_initializer_of_one_s_own_is_checked_like_given_parameters():
    with pytest.raises(ValueError, match=r"layers\[0\] must have W of shape \(2, 3\)"):
        Network([3, 2], initializer=lambda generator, n_out, n_in: (np.ones((3, 2)), np.ones(2)))


def test_assigned_layers_are_counted_and_leave_the_network_as_it_was_if_refused():
    net = network()
    before = net.layers

    with pytest.raises(ValueError, match="expected 2 layers, not 1"):
        net.layers = before[:1]
    with pytest.raises(ValueError, match=r"layers\[1\]"):
        net.layers = [before[0], before[0]]

    assert all(np.array_equal(a.W, b.W) for a, b in zip(before, net.layers, strict=True))
