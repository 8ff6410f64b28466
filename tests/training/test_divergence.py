import numpy as np
import pytest
from helpers import parameters

from bp_xp import SGD, Adagrad, DivergenceError, Network, to_numpy
from bp_xp.training.divergence import are_finite


def test_divergence_stops_the_run_and_keeps_the_last_good_parameters(make, data):
    x, y = data
    net = make([3, 4, 2], activation="relu", output_activation="identity", dtype="float32", seed=1)
    net.fit(x, y, epochs=1, progress=False)
    good = parameters(net)

    with pytest.raises(DivergenceError) as caught:
        net.fit(x, y, epochs=50, optimizer=SGD(1e6), progress=False)

    assert isinstance(caught.value, FloatingPointError)
    assert "epoch" in str(caught.value)
    assert "the cost is first not finite at its step" in str(caught.value)
    assert "learning rate below 1e+06" in str(caught.value)
    assert np.isfinite(parameters(net)).all()
    if "in epoch 1:" in str(caught.value):
        assert np.array_equal(parameters(net), good)


def test_divergence_names_the_first_layer_that_is_not_finite():
    net = Network([1, 1, 1], output_activation="identity", activation="identity", seed=0)
    net.layers = [([[1.0]], [0.0]), ([[1e30]], [0.0])]

    # The cost, 5e35, is finite; the step is not.
    with pytest.raises(DivergenceError, match="first layer that is not finite is layer 1"):
        net.fit([[1e-12]], [0.0], epochs=1, batch_size=1, optimizer=SGD(1e38), progress=False)

    assert to_numpy(net.layers[1].W) == np.float32(1e30)


def test_an_optimizer_s_state_that_overflows_is_no_state_to_go_on_from():
    net = Network([1, 1], output_activation="identity", seed=0)
    # The squares of the gradients are past float32, and the step that they give is 0.
    with pytest.raises(DivergenceError, match="the optimizer's state is not finite"):
        net.fit([[1.0]], [3e19], epochs=1, optimizer=Adagrad(0.1), progress=False)


def test_arrays_that_hold_nan_or_infinity_are_told_apart(where, dtype):
    hosts = [[1.0, -2.0], [np.nan, 0.0], [[np.inf], [-np.inf]], [0.0]]

    finite = are_finite([where.asarray(host, dtype) for host in hosts], placement=where)

    assert finite.tolist() == [True, False, False, True]
