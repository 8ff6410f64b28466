import random

import numpy as np
import pytest
from columns import SIZES, Plain, assert_same_parameters, columns, labeled, make, printed
from helpers import tolerance, widest

from bp_xp import book, to_numpy
from bp_xp.backends import LIBRARIES, place
from bp_xp.errors import DivergenceError


def test_the_first_weights_are_the_books():
    net = make([3, 4, 2], seed=11)
    np.random.seed(11)
    biases = [np.random.randn(4, 1), np.random.randn(2, 1)]
    weights = [np.random.randn(4, 3), np.random.randn(2, 4)]
    for ours, theirs in zip(net.biases + net.weights, biases + weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (net.num_layers, net.sizes) == (3, [3, 4, 2])


def test_a_network_tells_what_it_is():
    shown = repr(make(SIZES, dtype="float32"))
    assert shown == "Network([5, 4, 3], numpy on cpu, float32, 39 parameters)"


def test_two_hundred_updates_follow_the_plain_loop(where, rng):
    net = make(SIZES, where)
    plain = Plain(net)
    data = columns(rng, 77)  # 8 mini-batches an epoch, the last one shorter
    random.seed(5)
    assert printed(net, data, 25, 10, 3.0) == [f"Epoch {j} complete" for j in range(25)]
    random.seed(5)
    plain.train(data, 25, 10, 3.0)
    assert_same_parameters(net, plain)
    assert all(where.library.owns(a) for a in net.biases + net.weights)


def test_float32_stays_float32(where, rng):
    net = make(SIZES, where, dtype="float32")
    printed(net, columns(rng, 20), 2, 5, 1.0)
    assert {to_numpy(a).dtype.name for a in net.biases + net.weights} == {"float32"}


def test_data_in_more_than_one_chunk_is_used_whole_and_in_order(rng):
    net = make(SIZES)
    plain = Plain(net)
    data = columns(rng, 150)
    random.seed(1)
    printed(net, data, 2, 1, 0.5)
    random.seed(1)
    plain.train(data, 2, 1, 0.5)
    assert_same_parameters(net, plain)


def test_the_callers_data_is_left_alone(rng):
    data = columns(rng, 30)
    before = list(data)
    values = [(x.copy(), y.copy()) for x, y in data]
    printed(make(SIZES), data, 2, 7, 1.0)
    assert all(a is b for a, b in zip(data, before, strict=True))
    for (x, y), (x_before, y_before) in zip(data, values, strict=True):
        np.testing.assert_array_equal(x, x_before)
        np.testing.assert_array_equal(y, y_before)


def test_iterators_serve_as_data(rng):
    data = columns(rng, 30)
    test_data = labeled(data)
    by_list, by_zip = make(SIZES), make(SIZES)
    random.seed(2)
    lines = printed(by_list, data, 3, 10, 1.0, test_data=test_data)
    random.seed(2)
    assert printed(by_zip, iter(data), 3, 10, 1.0, test_data=iter(test_data)) == lines
    assert_same_parameters(by_zip, by_list, 1e-15)


def test_training_prints_the_number_of_test_samples_told_right(where, rng):
    data = columns(rng, 40)
    net = make(SIZES, where)
    lines = printed(net, data, 2, 10, 1.0, test_data=labeled(data))
    assert lines[1] == f"Epoch 1: {net.evaluate(labeled(data))} / 40"
    plain = Plain(net)
    right = sum(np.argmax(plain.outputs(x)[-1]) == np.argmax(y) for x, y in data)
    assert net.evaluate(labeled(data)) == right


def test_backprop_returns_gradients_shaped_as_the_parameters(where, rng):
    net = make(SIZES, where)
    plain = Plain(net)
    (x, y) = columns(rng, 1)[0]
    for ours, theirs in zip(net.backprop(x, y), plain.gradient(x, y), strict=True):
        for nabla, expected in zip(ours, theirs, strict=True):
            assert where.library.owns(nabla)
            assert nabla.shape == expected.shape
            np.testing.assert_allclose(
                to_numpy(nabla), expected, rtol=0, atol=tolerance(widest(where), 1e-14)
            )


def test_feedforward_takes_a_column_or_many(where, rng):
    net = make(SIZES, where)
    x = rng.normal(size=(5, 7))
    together = to_numpy(net.feedforward(x))
    assert together.shape == (3, 7)
    on_device = where.asarray(x[:, :1])
    np.testing.assert_allclose(
        to_numpy(net.feedforward(on_device)), together[:, :1], atol=tolerance(widest(where), 1e-15)
    )


def test_update_mini_batch_takes_a_list_of_pairs(where, rng):
    net = make(SIZES, where)
    plain = Plain(net)
    batch = columns(rng, 6)
    plain.step(batch, 2.0)
    on_device = [(where.asarray(x), where.asarray(y)) for x, y in batch[:3]] + batch[3:]
    net.update_mini_batch(on_device, 2.0)
    assert_same_parameters(net, plain)


def test_arrays_taken_before_training_are_what_the_network_was(rng):
    net = make(SIZES)
    weights = net.weights
    values = [w.copy() for w in weights]
    net.update_mini_batch(columns(rng, 3), 1.0)
    for w, value, now in zip(weights, values, net.weights, strict=True):
        np.testing.assert_array_equal(w, value)
        assert np.abs(now - value).max() > 0


# ---------------------------------------------------------------------------------------------
# Subclasses


class CrossEntropy(book.Network):
    """δᴸ = a − y, by way of ∇ₐC."""

    def cost_derivative(self, output_activations, y):
        assert output_activations.shape[0] == self.sizes[-1]  # columns are samples
        return (output_activations - y) / (output_activations * (1 - output_activations))


def test_an_overridden_cost_derivative_takes_effect(where, rng):
    net = make(SIZES, where, kind=CrossEntropy)
    data = columns(rng, 9)
    x, y = data[0]
    nabla_b, _ = net.backprop(x, y)
    a = to_numpy(net.feedforward(x))
    np.testing.assert_allclose(to_numpy(nabla_b[-1]), a - y, atol=tolerance(widest(where), 1e-14))
    before = to_numpy(net.biases[-1])
    share = np.mean([to_numpy(net.feedforward(x)) - y for x, y in data], axis=0)
    net.update_mini_batch(data, 1.0)
    np.testing.assert_allclose(
        to_numpy(net.biases[-1]), before - share, atol=tolerance(widest(where), 1e-14)
    )


def test_an_overridden_update_mini_batch_sees_columns(where, rng):
    class BySample(book.Network):
        def update_mini_batch(self, mini_batch, eta):
            nablas = [self.backprop(x, y) for x, y in mini_batch]
            assert all(x.shape == (5, 1) and y.shape == (3, 1) for x, y in mini_batch[:2])
            for nabla_b, nabla_w in nablas:
                self.weights = [
                    w - (eta / len(mini_batch)) * nw
                    for w, nw in zip(self.weights, nabla_w, strict=True)
                ]
                self.biases = [
                    b - (eta / len(mini_batch)) * nb
                    for b, nb in zip(self.biases, nabla_b, strict=True)
                ]

    net, ours = make(SIZES, where, kind=BySample), make(SIZES, where)
    data = columns(rng, 12)
    for each in (net, ours):
        random.seed(8)
        printed(each, data, 2, 5, 1.0)
    for a, b in zip(net.weights, ours.weights, strict=True):
        np.testing.assert_allclose(to_numpy(a), to_numpy(b), atol=tolerance(widest(where), 1e-12))


def test_an_overridden_backprop_is_called_for_each_sample(rng):
    class Doubled(book.Network):
        def backprop(self, x, y):
            nabla_b, nabla_w = super().backprop(x, y)
            return [2 * nb for nb in nabla_b], [2 * nw for nw in nabla_w]

    net, plain = make(SIZES, kind=Doubled), make(SIZES)
    batch = columns(rng, 4)
    net.update_mini_batch(batch, 1.0)
    plain.update_mini_batch(batch, 2.0)
    assert_same_parameters(net, plain)


def test_a_method_assigned_to_one_network_takes_effect(rng):
    net = make(SIZES)
    before = list(net.weights)
    net.cost_derivative = lambda output_activations, y: 0 * y
    net.update_mini_batch(columns(rng, 4), 1.0)
    for w, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(w, value)


# ---------------------------------------------------------------------------------------------
# Parameters that the user assigns


def test_assigned_parameters_are_copied_to_the_device(where, rng):
    net = make(SIZES, where)
    weights = [rng.normal(size=(4, 5)), rng.normal(size=(3, 4))]
    net.weights = weights
    net.biases = [np.zeros((4, 1)), [[1], [2], [3]]]
    net.weights[1] = 2 * weights[1]
    weights[0][:] = 0.0
    assert all(where.library.owns(a) for a in net.biases + net.weights)
    assert np.abs(to_numpy(net.weights[0])).min() > 0
    np.testing.assert_array_equal(to_numpy(net.weights[1]), (2 * weights[1]).astype(widest(where)))
    assert to_numpy(net.biases[1]).tolist() == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("weights", [np.zeros((4, 5))], "must hold 2 arrays"),
        ("weights", [np.zeros((5, 4)), np.zeros((3, 4))], r"weights\[0\] must have shape \(4, 5\)"),
        ("biases", [np.zeros(4), np.zeros(3)], r"biases\[0\] must have 2 dimension"),
        ("biases", [np.zeros((4, 1)), np.full((3, 1), np.nan)], r"biases\[1\] contains NaN"),
    ],
)
def test_parameters_of_wrong_shape_or_value_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        setattr(make(SIZES), name, values)


def test_an_item_of_wrong_shape_is_refused_and_the_old_one_stays():
    net = make(SIZES)
    before = net.weights[0].copy()
    with pytest.raises(ValueError, match=r"weights\[0\] must have shape"):
        net.weights[0] = np.zeros((2, 2))
    np.testing.assert_array_equal(net.weights[0], before)


# ---------------------------------------------------------------------------------------------
# The edge

X, Y = np.zeros((5, 1)), np.zeros((3, 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "training_data is empty"),
        ([(X[:, 0], Y)], r"x of sample 0 must be a column of shape \(5, 1\), not \(5,\)"),
        ([(X, Y), (X, Y[:2])], r"y of sample 1 must be a column of shape \(3, 1\), not \(2, 1\)"),
        ([(X, 2)], "not the number 2: that is how test data is written"),
        ([(X, Y), (X + np.nan, Y)], "contains NaN"),
    ],
)
def test_training_data_of_the_wrong_shape_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        make(SIZES).SGD(data, 1, 1, 1.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(X, Y)], "y of a test sample is a whole number"),
        ([(X, 1), (X, Y)], "y of a test sample is a whole number"),
        ([(X, 1), (X, 3)], "y of sample 1 is 3, and the network has outputs 0 to 2"),
        ([(X, -1)], "y of sample 0 is -1"),
    ],
)
def test_test_data_without_labels_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        make(SIZES).evaluate(data)


def test_samples_that_are_no_pairs_are_refused():
    with pytest.raises(TypeError, match=r"sample 0 must be a pair \(x, y\), not ndarray"):
        make(SIZES).SGD([X], 1, 1, 1.0)


def test_a_flat_input_is_refused_and_the_remedy_named():
    with pytest.raises(ValueError, match=r"reshape it with a.reshape\(5, 1\)"):
        make(SIZES).feedforward(np.zeros(5))


def test_arrays_of_another_library_are_refused():
    strict = pytest.importorskip("array_api_strict")
    foreign = strict.zeros((5, 1), dtype=strict.float64)
    net = make(SIZES)
    with pytest.raises(TypeError, match="array of array_api_strict"):
        net.feedforward(foreign)
    with pytest.raises(TypeError, match="array of array_api_strict"):
        net.SGD([(X, Y), (foreign, Y)], 1, 1, 1.0)


def test_arrays_of_another_device_are_refused():
    pytest.importorskip("array_api_strict")
    net = make(SIZES, place("device1", "array_api_strict"))
    elsewhere = LIBRARIES["array_api_strict"].namespace().zeros((5, 1))
    with pytest.raises(ValueError, match="is on device 'cpu', but the network is on 'device1'"):
        net.feedforward(elsewhere)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1, 1, 1.0), ValueError),
        ((1, 0, 1.0), ValueError),
        ((1, 1.5, 1.0), TypeError),
        ((1, 1, float("nan")), ValueError),
        ((1, 1, "3"), TypeError),
    ],
)
def test_wrong_numbers_are_refused(arguments, error):
    with pytest.raises(error):
        make(SIZES).SGD([(X, Y)], *arguments)


def test_a_diverged_run_stops_and_keeps_the_parameters_of_before(rng):
    net = make(SIZES)
    before = [w.copy() for w in net.weights]
    net.cost_derivative = lambda output_activations, y: np.nan * y
    with pytest.raises(DivergenceError, match="in epoch 0"):
        net.SGD(columns(rng, 20), 3, 5, 1.0)
    for w, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(w, value)


# ---------------------------------------------------------------------------------------------
# The functions beside the class


def test_sigmoid_and_its_slope_stay_on_the_device(where):
    z = where.asarray([[-800.0, 0.0, 2.0]], widest(where))
    a = to_numpy(book.sigmoid(z))
    np.testing.assert_allclose(
        a, [[0.0, 0.5, 1 / (1 + np.exp(-2.0))]], atol=tolerance(widest(where), 1e-15)
    )
    np.testing.assert_allclose(
        to_numpy(book.sigmoid_prime(z)), a * (1 - a), atol=tolerance(widest(where), 1e-15)
    )
    assert where.library.owns(book.sigmoid(z))
