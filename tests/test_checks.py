"""The public edge: what bad names and numbers get."""

import warnings

import numpy as np
import pytest

import bp_xp
from bp_xp import SGD, Network, checks, to_numpy

X = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0], [1.0, 1.0, 1.0]])
LABELS = np.array([0, 1, 1, 0])


def network(**options) -> Network:
    return Network([3, 4, 2], seed=0, **options)


def fit(net: Network, x=X, y=LABELS, **options) -> bp_xp.History:
    return net.fit(x, y, **({"epochs": 1, "batch_size": 2, "progress": False} | options))


# ---------------------------------------------------------------------------------------------
# Sizes, numbers, names


@pytest.mark.parametrize(
    ("sizes", "error", "names"),
    [
        ([3, 0, 2], ValueError, ["sizes[1]", "0", "at least 1"]),
        ([3, -5, 2], ValueError, ["sizes[1]", "-5", "at least 1"]),
        ([3, 2.5, 2], TypeError, ["sizes[1]", "2.5", "integer"]),
        ([3, True, 2], TypeError, ["sizes[1]", "True"]),
        ([3, "4", 2], TypeError, ["sizes[1]", "'4'"]),
        ([3], ValueError, ["sizes", "[3]"]),
        ("3,4,2", TypeError, ["sizes", "'3,4,2'"]),
        (3, TypeError, ["sizes", "3"]),
    ],
)
def test_sizes_that_are_no_network_are_refused(sizes, error, names):
    with pytest.raises(error) as caught:
        Network(sizes)
    assert all(name in str(caught.value) for name in names)


def test_sizes_may_be_integers_of_numpy():
    assert Network(np.array([3, 4, 2])).sizes == (3, 4, 2)


def test_a_network_larger_than_memory_is_refused_before_it_is_allocated():
    with pytest.raises(MemoryError) as caught:
        Network([10**9, 10**9])
    assert "(1000000000, 1000000000)" in str(caught.value)
    assert f"{24 * 10**9 * (10**9 + 1):,} bytes" in str(caught.value)


def test_a_batch_larger_than_the_data_is_cut_with_one_warning():
    with pytest.warns(UserWarning, match=r"batch_size=100 .* 4 samples") as caught:
        history = fit(network(), batch_size=100, epochs=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert len(history) == 2


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-0.1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("0.1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_a_learning_rate_that_is_no_positive_number_is_refused(value, error):
    with pytest.raises(error) as caught:
        SGD(value)
    assert "learning_rate" in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum"):
        SGD(0.1, momentum=momentum)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match="nesterov=True needs a momentum"):
        SGD(0.1, nesterov=True)


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (1.5, TypeError), ("0", TypeError), (True, TypeError)]
)
def test_a_seed_that_is_no_natural_number_is_refused(seed, error):
    with pytest.raises(error) as caught:
        Network([3, 2], seed=seed)
    assert "seed" in str(caught.value)
    assert repr(seed) in str(caught.value)


def test_no_seed_draws_one_that_repeats_the_run(tmp_path):
    first, other = Network([3, 2]), Network([3, 2])
    again = Network([3, 2], seed=first.seed)

    assert first.seed != other.seed
    assert np.array_equal(first.layers[0].W, again.layers[0].W)
    assert Network.load(first.save(tmp_path / "net.safetensors")).seed == first.seed


@pytest.mark.parametrize(
    ("option", "value", "near", "listed"),
    [
        ("activation", "sigmoyd", "'sigmoid'", "'tanh'"),
        ("output_activation", "softmaks", "'softmax'", "'identity'"),
        ("cost", "Quadratic", "'quadratic'", "'huber'"),
        ("initializer", "he_norml", "'he_normal'", "'zeros'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_the_list(option, value, near, listed):
    with pytest.raises(ValueError, match="unknown") as caught:
        Network([3, 4, 2], **{option: value})
    message = str(caught.value)
    assert repr(value) in message
    assert f"Did you mean {near}" in message
    assert listed in message


def test_a_name_like_no_other_is_refused_without_a_guess():
    with pytest.raises(ValueError, match="unknown cost 'zzz'") as caught:
        Network([3, 2], cost="zzz")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"activation": 3}, {"cost": 3}, {"output_activation": 3}, {"initializer": [3, 3]}],
    ids=str,
)
def test_an_option_of_the_wrong_kind_is_refused(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        Network([3, 4, 2], **options)


def test_an_activation_for_each_hidden_layer_is_counted():
    with pytest.raises(ValueError, match="2 hidden layers, not 1"):
        Network([3, 4, 4, 2], activation=["tanh"])


def test_an_initializer_for_each_layer_is_counted():
    with pytest.raises(ValueError, match="2 layers, not 3"):
        Network([3, 4, 2], initializer=["normal"] * 3)


def test_softmax_is_no_hidden_activation():
    with pytest.raises(ValueError, match=r"softmax .* output_activation"):
        Network([3, 4, 2], activation="softmax")


def test_softmax_of_one_output_is_refused():
    with pytest.raises(ValueError, match=r"softmax of one output.*binary_cross_entropy"):
        Network([3, 4, 1], cost="categorical_cross_entropy")


def test_a_matched_cost_wants_its_output_activation():
    with pytest.raises(ValueError, match=r"output activation 'softmax'; 'tanh' needs another cost"):
        Network([3, 4, 2], cost="categorical_cross_entropy", output_activation="tanh")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"epochs": 0}, ValueError),
        ({"epochs": 1.0}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": "2"}, TypeError),
        ({"l2": -1.0}, ValueError),
        ({"l2": float("nan")}, ValueError),
        ({"optimizer": "sdg"}, ValueError),
        ({"optimizer": 0.1}, TypeError),
        ({"optimizer": SGD}, TypeError),
        ({"shuffle": "no"}, TypeError),
        ({"progress": None}, TypeError),
        ({"validation_data": X}, TypeError),
        ({"validation_data": (X,)}, TypeError),
    ],
    ids=str,
)
def test_settings_of_a_run_are_checked_before_it_starts(options, error):
    net = network()
    before = [to_numpy(layer.W).copy() for layer in net.layers]

    with pytest.raises(error, match=next(iter(options))):
        fit(net, **options)

    assert all(np.array_equal(W, layer.W) for W, layer in zip(before, net.layers, strict=True))


def test_numbers_of_numpy_are_numbers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checks.check_number(np.float32(0.5), "x") == 0.5
        assert checks.check_integer(np.int64(3), "x") == 3
