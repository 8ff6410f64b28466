import copy
import re

import numpy as np
import pytest
from helpers import tolerance, widest

import bp_xp
from bp_xp import (
    SGD,
    Activation,
    Adam,
    CheckpointError,
    Cost,
    DeviceError,
    ExponentialDecay,
    Layer,
    Network,
    OutOfMemoryError,
    to_numpy,
)
from bp_xp.storage.tensors import read_tensors, write_tensors


@pytest.fixture
def make(target):
    """Network, on the target."""

    def build(*args, **options):
        return Network(*args, **({"backend": target.backend, "device": target.device} | options))

    return build


@pytest.fixture
def x(rng):
    return rng.standard_normal((7, 3))


def sine(name="sine"):
    return Activation(name, lambda z, *, xp: xp.sin(z), lambda z, a, *, xp: xp.cos(z))


def quartic(name="quartic"):
    return Cost(
        name,
        lambda a, y, *, xp: xp.sum((a - y) ** 4, axis=-1),
        lambda a, y, *, xp: 4.0 * (a - y) ** 3,
    )


def assert_on(target, array, shape, dtype):
    """The array is of the library, device, shape and dtype that was asked for."""
    where = bp_xp.backends.place(target.device, target.backend)
    assert where.library.owns(array)
    assert where.library.device_of(array) == where.device
    assert tuple(array.shape) == shape
    assert dtype is None or array.dtype == where.dtype(dtype)


# ---------------------------------------------------------------------------------------------
# Construction


def test_a_network_is_where_it_was_asked_to_be(make, target, dtype):
    net = make([3, 4, 2], dtype=dtype, seed=0)

    assert (net.backend, net.device, net.dtype) == (*target, dtype)
    for layer, shape in zip(net.layers, [(4, 3), (2, 4)], strict=True):
        assert_on(target, layer.W, shape, dtype)
        assert_on(target, layer.b, shape[:1], dtype)
    assert target.backend in repr(net)
    assert "[3, 4, 2]" in repr(net)


def test_one_seed_gives_the_same_start_everywhere(make, where):
    here = make([3, 4, 2], dtype=widest(where), seed=5)
    reference = Network([3, 4, 2], dtype="float64", seed=5)

    for layer, expected in zip(here.layers, reference.layers, strict=True):
        assert np.array_equal(to_numpy(layer.W), expected.W.astype(here.dtype))
        assert np.array_equal(to_numpy(layer.b), expected.b.astype(here.dtype))


def test_the_default_is_the_cpu():
    assert (Network([2, 1]).backend, Network([2, 1]).device) == ("numpy", "cpu")


@pytest.mark.parametrize(
    ("cost", "output"),
    [
        ("quadratic", "sigmoid"),
        ("binary_cross_entropy", "sigmoid"),
        ("categorical_cross_entropy", "softmax"),
        ("huber", "identity"),
    ],
)
def test_the_output_activation_follows_from_the_cost(cost, output):
    assert Network([2, 3, 2], cost=cost).model.activations[-1].name == output


def test_rectifiers_start_from_he_and_the_rest_from_the_scaled_normal():
    net = Network([400, 300, 200], activation="relu", seed=0, dtype="float64")

    assert np.std(net.layers[0].W) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert not net.layers[0].b.any()
    assert np.std(net.layers[1].W) == pytest.approx((1 / 300) ** 0.5, rel=0.02)
    assert net.layers[1].b.any()


def test_each_layer_may_have_its_own_activation_and_initializer():
    net = Network(
        [3, 4, 5, 2], activation=["relu", "tanh"], initializer=["zeros", "normal", "zeros"], seed=0
    )

    assert [sigma.name for sigma in net.model.activations] == ["relu", "tanh", "sigmoid"]
    assert [bool(layer.W.any()) for layer in net.layers] == [False, True, False]


def test_from_layers_holds_what_it_was_given(where, target, rng):
    W, b = rng.standard_normal((2, 3)), rng.standard_normal(2)

    net = Network.from_layers(
        [(W, b)], backend=target.backend, device=target.device, dtype=widest(where)
    )

    assert net.sizes == (3, 2)
    assert np.array_equal(to_numpy(net.layers[0].W), W.astype(net.dtype))
    assert np.array_equal(to_numpy(net.layers[0].b), b.astype(net.dtype))


def test_layers_can_be_assigned_for_a_training_loop_of_one_s_own(make, where, x):
    net = make([3, 2], dtype=widest(where), seed=0)
    y = np.eye(2)[[0, 1, 1, 0, 1, 0, 0]]
    before = net.evaluate(x, y)["cost"]

    for _ in range(5):
        gradients = net.backprop(x, y)
        net.layers = [
            Layer(W - 0.5 * dW, b - 0.5 * db)
            for (W, b), (dW, db) in zip(net.layers, gradients, strict=True)
        ]

    assert net.evaluate(x, y)["cost"] < before


def test_one_layer_can_not_be_assigned_by_itself_and_be_lost(make):
    with pytest.raises(TypeError, match="item assignment"):
        make([3, 2]).layers[0] = Layer([[0.0] * 3] * 2, [0.0] * 2)


def test_a_shallow_copy_goes_its_own_way_too(make, x):
    net, twin = make([3, 4, 1], seed=1), make([3, 4, 1], seed=1)
    shallow = copy.copy(net)
    y = x[:, :1] > 0
    shallow.fit(x, y, epochs=1, batch_size=2, progress=False)
    for one in (net, twin):
        one.fit(x, y, epochs=1, batch_size=2, progress=False)
    for one, other in zip(net.layers, twin.layers, strict=True):
        np.testing.assert_array_equal(to_numpy(one.W), to_numpy(other.W))


def test_other_layers_keep_what_the_network_does_with_them(make, x):
    net = make([3, 4, 2], activation="relu", cost="categorical_cross_entropy", seed=1)
    other = net.with_layers([(2.0 * W, b) for W, b in net.layers])
    assert other.model == net.model
    assert (other.seed, other.placement, other.dtype) == (net.seed, net.placement, net.dtype)
    twice = Network.from_layers(
        [(2.0 * to_numpy(W), to_numpy(b)) for W, b in net.layers],
        activation="relu",
        cost="categorical_cross_entropy",
    )
    np.testing.assert_allclose(to_numpy(other(x)), twice(x), rtol=1e-5)
    with pytest.raises(ValueError, match="expected 2 layers, not 1"):
        net.with_layers([([[1.0]], [0.0])])


@pytest.mark.parametrize("name", ["net.npz", "net.onnx", "net.pt"])
def test_a_name_that_promises_another_format_is_refused(tmp_path, name):
    net, path = Network([2, 1]), tmp_path / name
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        net.save(path)
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        net.fit([[0.0, 1.0]], [1.0], checkpoint=path)
    assert not path.exists()
    assert net.save(tmp_path / "net").exists()


def test_a_deep_copy_goes_its_own_way(make, where, target, x):
    net = make([3, 4, 2], dtype=widest(where), seed=1)

    twin = copy.deepcopy(net)
    twin.fit(x, [0, 1, 1, 0, 1, 0, 0], epochs=1, progress=False)

    assert (twin.backend, twin.device) == tuple(target)
    assert not np.array_equal(to_numpy(twin.layers[0].W), to_numpy(net.layers[0].W))


def test_host_values_can_be_moved_once(make, target, x, dtype):
    net = make([3, 2], dtype=dtype, seed=1)

    moved = net.asarray(x)

    assert_on(target, moved, (7, 3), dtype)
    assert np.array_equal(to_numpy(net.feedforward(moved)), to_numpy(net.feedforward(x)))
    with pytest.raises(ValueError, match="values contains NaN"):
        net.asarray([np.nan])


# ---------------------------------------------------------------------------------------------
# Results


def test_feedforward_is_the_formula_of_the_book(make, target, x, dtype):
    net = make([3, 4, 2], activation="tanh", dtype=dtype, seed=1)
    reference = Network([3, 4, 2], activation="tanh", dtype="float64", seed=1)

    outputs = net.feedforward(x)

    a = x
    for layer, sigma in zip(
        reference.layers, (np.tanh, lambda z: 1 / (1 + np.exp(-z))), strict=True
    ):
        a = np.stack([sigma(layer.W @ row + layer.b) for row in a])
    assert_on(target, outputs, (7, 2), dtype)
    assert np.allclose(to_numpy(outputs), a, rtol=0, atol=1e-6 if dtype == "float32" else 1e-15)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_outputs_do_not_depend_on_how_many_samples_go_at_once(make, where, x, batch_size):
    net = make([3, 4, 2], dtype=widest(where), seed=1)

    expected = to_numpy(net.feedforward(x))

    # Products of other shapes may round differently in the last place.
    assert np.allclose(
        to_numpy(net.feedforward(x, batch_size=batch_size)), expected, rtol=1e-14, atol=0
    )


def test_predictions_are_the_largest_output(make, target, x):
    net = make([3, 4, 5], cost="categorical_cross_entropy", seed=1)

    labels, probabilities = net.predict(x), net.predict_proba(x)

    assert_on(target, labels, (7,), None)
    assert_on(target, probabilities, (7, 5), "float32")
    assert np.array_equal(to_numpy(labels), to_numpy(probabilities).argmax(axis=1))
    assert np.allclose(to_numpy(probabilities).sum(axis=1), 1)


def test_one_output_is_the_probability_of_class_one(make, target, x):
    net = make([3, 1], cost="binary_cross_entropy", seed=3)
    net.layers = [([[1.0, 0.0, 0.0]], [0.0])]

    labels, probabilities = to_numpy(net.predict(x)), to_numpy(net.predict_proba(x))
    outputs = to_numpy(net.feedforward(x))

    assert labels.dtype.kind == "i"
    assert np.array_equal(labels, outputs[:, 0] > 0.5)
    assert np.array_equal(probabilities[:, 1:], outputs)
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_a_regression_predicts_its_outputs_and_has_no_probabilities(make, x):
    net = make([3, 4, 2], output_activation="identity", seed=1)

    assert np.array_equal(to_numpy(net.predict(x)), to_numpy(net.feedforward(x)))
    with pytest.raises(ValueError, match=r"identity.*not probabilities"):
        net.predict_proba(x)


def test_evaluate_is_the_mean_cost_and_the_share_told_right(make, where):
    net = make([1, 1], cost="binary_cross_entropy", dtype=widest(where), seed=0)
    net.layers = [([[1.0]], [0.0])]
    x, y = [[2.0], [-1.0], [3.0], [0.5]], [1, 0, 0, 1]

    scores = net.evaluate(x, y)

    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 3.0, 0.5])))
    expected = -np.mean(np.log([p[0], 1 - p[1], 1 - p[2], p[3]]))
    assert scores["cost"] == pytest.approx(expected, rel=tolerance(net.dtype, 1e-14))
    assert scores["accuracy"] == 0.75


def test_evaluate_weighs_a_short_last_block_by_its_samples(make, where, rng, monkeypatch):
    monkeypatch.setattr(bp_xp.training.evaluation, "ROWS_AT_ONCE", 4)
    x, y = rng.standard_normal((7, 3)), rng.integers(0, 2, 7)
    net = make([3, 2], dtype=widest(where), seed=1)
    each = [net.evaluate(x[i : i + 1], y[i : i + 1]) for i in range(7)]

    scores = net.evaluate(x, y)

    assert scores["cost"] == pytest.approx(np.mean([one["cost"] for one in each]), rel=1e-13)
    assert scores["accuracy"] == pytest.approx(np.mean([one["accuracy"] for one in each]))


@pytest.mark.parametrize("output", ["sigmoid", "softmax", "silu", "identity"])
def test_the_accuracy_is_the_share_of_samples_whose_label_is_predicted(make, rng, output):
    x, y = rng.standard_normal((50, 3)), rng.integers(0, 4, 50)
    # Large weights saturate the sigmoid in float32, where the largest z is no larger output.
    net = make(
        [3, 4],
        output_activation=output,
        initializer=lambda g, o, i: (40.0 * g.standard_normal((o, i)), g.standard_normal(o)),
        seed=0,
    )

    scores = net.evaluate(x, y)

    if net.classifies:
        assert scores["accuracy"] == pytest.approx((to_numpy(net.predict(x)) == y).mean())
    else:
        assert "accuracy" not in scores


def test_targets_that_are_no_classes_have_no_accuracy(make, x, rng):
    net = make([3, 2], seed=0)

    assert set(net.evaluate(x, rng.random((7, 2)))) == {"cost"}
    assert set(net.evaluate(x, np.ones((7, 2)))) == {"cost"}
    assert set(net.evaluate(x, np.eye(2)[[0] * 7])) == {"cost", "accuracy"}


def test_gradients_are_layers_on_the_device(make, target, x, dtype):
    net = make([3, 4, 2], dtype=dtype, seed=0)

    gradients = net.backprop(x, [0, 1, 0, 1, 0, 1, 1])

    for gradient, shape in zip(gradients, [(4, 3), (2, 4)], strict=True):
        assert isinstance(gradient, Layer)
        assert_on(target, gradient.W, shape, dtype)
        assert_on(target, gradient.b, shape[:1], dtype)


# ---------------------------------------------------------------------------------------------
# Moving, saving, loading


def test_a_network_saved_anywhere_loads_everywhere(make, target, x, tmp_path, dtype):
    reference = Network([3, 4, 2], activation=["silu"], cost="huber:delta=2", dtype=dtype, seed=9)
    path = reference.save(tmp_path / "net.safetensors")

    here = Network.load(path, backend=target.backend, device=target.device)
    back = Network.load(here.save(tmp_path / "back.safetensors"))

    assert (here.backend, here.device, here.dtype) == (*target, dtype)
    assert back.model == here.model == reference.model
    for a, b, c in zip(reference.layers, here.layers, back.layers, strict=True):
        assert np.array_equal(a.W, to_numpy(b.W))
        assert np.array_equal(a.W, c.W)
        assert np.array_equal(a.b, c.b)


def test_a_loaded_network_trains_on_as_the_saved_one_would(make, where, target, x, tmp_path):
    net = make([3, 4, 2], dtype=widest(where), seed=2)
    y = [0, 1, 1, 0, 1, 0, 0]
    net.fit(x, y, epochs=2, batch_size=2, progress=False)
    loaded = Network.load(
        net.save(tmp_path / "net.safetensors"), backend=target.backend, device=target.device
    )

    net.fit(x, y, epochs=2, batch_size=2, progress=False)
    loaded.fit(x, y, epochs=2, batch_size=2, progress=False)

    for a, b in zip(net.layers, loaded.layers, strict=True):
        assert np.array_equal(to_numpy(a.W), to_numpy(b.W))


def test_to_copies_a_network_to_another_place_and_leaves_it(where, target, x):
    net = Network([3, 4, 2], dtype=widest(where), seed=2)

    moved = net.to(target.device, backend=target.backend)
    y = [0, 1, 1, 0, 1, 0, 0]
    moved.fit(x, y, epochs=2, batch_size=2, progress=False)

    assert (moved.backend, moved.device) == tuple(target)
    assert np.array_equal(
        net.layers[0].W, Network([3, 4, 2], dtype=widest(where), seed=2).layers[0].W
    )
    net.fit(x, y, epochs=2, batch_size=2, progress=False)
    assert np.allclose(
        to_numpy(moved.layers[0].W), net.layers[0].W, rtol=tolerance(net.dtype, 1e-13)
    )


def test_to_can_change_the_dtype(make):
    assert make([3, 2], seed=0).to("cpu", dtype="float64").dtype == "float64"


def test_to_a_device_that_is_not_there_is_an_error():
    if "cupy-cuda:0" in map(str, bp_xp.devices()):
        pytest.skip("a CUDA device is there")
    with pytest.raises((DeviceError, ValueError)):
        Network([2, 1]).to("cuda:99")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"activation": Activation("s", lambda z, *, xp: xp.sum(z), None)}, "sigma of 's'"),
        (
            {"activation": Activation("s", lambda z, *, xp: z, lambda z, a, *, xp: 1.0)},
            "sigma_prime of 's' must return an array of shape (2, 3)",
        ),
        (
            {"cost": Cost("c", lambda a, y, *, xp: (a - y) ** 2, None)},
            "value of 'c' must return an array of shape (2,) for outputs and targets",
        ),
        (
            {"activation": Activation("s", lambda z, *, xp: xp.astype(z, xp.int32), None)},
            "sigma of 's' must return an array of the dtype of its input, float32",
        ),
        (
            {"cost": Cost("c", quartic().value, lambda a, y, *, xp: xp.sum(a, axis=-1))},
            "gradient of 'c'",
        ),
    ],
    ids=["sigma", "sigma prime", "cost", "dtype", "gradient"],
)
def test_a_function_of_one_s_own_that_returns_another_shape_is_refused(make, options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        make([3, 4, 2], **options)


def test_a_function_of_one_s_own_may_not_take_a_name_of_bp_xp():
    """A saved network is loaded by the names of its functions."""
    with pytest.raises(ValueError, match="'relu' is the name of a built-in function of bp_xp"):
        Network([3, 4, 2], activation=sine("relu"))
    with pytest.raises(ValueError, match="'huber' is the name of a built-in function of bp_xp"):
        Network([3, 4, 2], cost=quartic("huber"))
    with pytest.raises(ValueError, match="'huber:delta=2' is the name of a built-in function of"):
        Network([3, 4, 2], cost=quartic("huber:delta=2"))


def test_custom_functions_are_checked_when_loading(tmp_path):
    path = Network([3, 4, 2], activation=sine(), seed=0).save(tmp_path / "net.safetensors")

    assert Network.load(path, custom=sine()).model.activations[0].name == "sine"
    with pytest.raises(TypeError, match="custom must hold Activations and Costs, not 'sine'"):
        Network.load(path, custom=["sine"])


def test_functions_of_one_s_own_are_handed_over_again_when_loading(x, tmp_path):
    net = Network([3, 4, 2], activation=sine(), cost=quartic(), seed=0)
    path = net.save(tmp_path / "net.safetensors")

    with pytest.raises(CheckpointError, match="unknown activation 'sine'"):
        Network.load(path)
    loaded = Network.load(path, custom=[sine(), quartic()])

    assert np.array_equal(loaded.feedforward(x), net.feedforward(x))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no.safetensors"))):
        Network.load(tmp_path / "no.safetensors")


@pytest.fixture
def saved(tmp_path):
    """A saved network as its parts, and a function that writes changed parts."""
    path = Network([3, 4, 2], seed=0).save(tmp_path / "net.safetensors")
    tensors, header = read_tensors(path)

    def rewrite(**changes):
        kind = changes.pop("kind", header["kind"])
        write_tensors(path, tensors, {"kind": kind, "network": header["network"] | changes})
        return path

    return tensors, header, rewrite


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sizes": [3, 4]}, "do not fit its sizes [3, 4]"),
        ({"sizes": [3, 5, 2]}, "do not fit its sizes [3, 5, 2]"),
        ({"sizes": [3, 0, 2]}, "its sizes[1] must be a whole number from 1"),
        ({"activations": ["sigmoid"]}, "do not fit its sizes [3, 4, 2]"),
        ({"activations": []}, "activations"),
        ({"activations": ["sigmoid", "wobbly"]}, "unknown activation 'wobbly'"),
        ({"activations": ["softmax", "sigmoid"]}, "softmax"),
        ({"cost": "categorical_cross_entropy"}, "softmax"),
        ({"cost": "expensive"}, "unknown cost 'expensive'"),
        ({"dtype": "float64"}, "float64"),
        ({"dtype": "float8"}, "float8"),
        ({"seed": -1}, "seed"),
        ({"generator": {}}, "generator"),
        ({"generator": 3}, "generator"),
        ({"kind": "poem"}, "poem"),
    ],
    ids=lambda value: None,
)
def test_a_file_that_is_no_network_is_refused_with_the_reason(saved, changes, says):
    _, _, rewrite = saved
    path = rewrite(**changes)

    with pytest.raises(CheckpointError) as caught:
        Network.load(path)

    assert str(path) in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("lacking", ["sizes", "activations", "cost", "dtype", "seed", "generator"])
def test_a_file_that_lacks_a_part_is_refused_by_its_name(saved, lacking, tmp_path):
    tensors, header, _ = saved
    network = {k: v for k, v in header["network"].items() if k != lacking}
    path = write_tensors(tmp_path / "part.safetensors", tensors, header | {"network": network})

    with pytest.raises(CheckpointError, match=lacking):
        Network.load(path)


def test_a_file_with_a_missing_or_an_extra_tensor_is_refused_by_its_name(saved, tmp_path):
    tensors, header, _ = saved
    path = tmp_path / "part.safetensors"

    write_tensors(path, {k: v for k, v in tensors.items() if k != "layers.1.b"}, header)
    with pytest.raises(CheckpointError, match=r"'layers\.1\.b' is missing"):
        Network.load(path)

    write_tensors(path, tensors | {"extra": np.zeros(1, np.float32)}, header)
    with pytest.raises(CheckpointError, match=r"'extra' .*not part"):
        Network.load(path)


def test_parameters_that_are_not_finite_are_not_loaded(saved, tmp_path):
    tensors, header, _ = saved
    tensors["layers.0.W"][0, 0] = np.nan
    path = write_tensors(tmp_path / "nan.safetensors", tensors, header)

    with pytest.raises(CheckpointError, match=r"layers\.0\.W"):
        Network.load(path)


def test_a_saved_network_is_a_safetensors_file_that_others_can_read(make, tmp_path):
    from safetensors.numpy import load_file

    net = make([3, 4, 2], seed=0)

    tensors = load_file(net.save(tmp_path / "net.safetensors"))

    assert set(tensors) == {"layers.0.W", "layers.0.b", "layers.1.W", "layers.1.b"}
    assert np.array_equal(tensors["layers.0.W"], to_numpy(net.layers[0].W))


def test_the_momentum_of_a_saved_run_starts_at_rest(x, tmp_path):
    """What is saved is the network; a run's velocity is not part of it."""
    y = [0, 1, 1, 0, 1, 0, 0]
    net = Network([3, 2], seed=1, dtype="float64")
    options = {"epochs": 1, "batch_size": 7, "optimizer": SGD(0.1, momentum=0.9), "progress": False}

    once = Network.load(net.save(tmp_path / "net.safetensors"))
    once.fit(x, y, **options)
    net.fit(x, y, **options)

    assert np.array_equal(net.layers[0].W, once.layers[0].W)


# ---------------------------------------------------------------------------------------------
# Training in parts


def weights_of(net):
    return np.concatenate([to_numpy(part).ravel() for layer in net.layers for part in layer])


@pytest.mark.parametrize(
    "optimizer", [SGD(0.1, momentum=0.9), Adam(0.01), SGD(ExponentialDecay(0.5, factor=0.9))]
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_partial_fits_are_one_run(where, target, rng, optimizer, dropout):
    x, y = rng.normal(size=(12, 3)), rng.integers(0, 2, 12)
    options = {
        "backend": target.backend,
        "device": target.device,
        "dtype": widest(where),
        "seed": 1,
    }
    settings = {"optimizer": optimizer, "batch_size": 4, "dropout": dropout, "shuffle": False}
    whole, parts = (Network([3, 5, 2], **options) for _ in range(2))
    whole.fit(x, y, epochs=4, progress=False, **settings)
    records = [parts.partial_fit(x, y, **settings) for _ in range(4)]
    if dropout:  # each call draws a seed, the first one's is used
        assert records[-1].cost > 0
    np.testing.assert_allclose(
        weights_of(parts),
        weights_of(whole),
        rtol=tolerance(whole.dtype, 1e-12),
        atol=tolerance(whole.dtype, 1e-14),
    )


def test_a_warm_start_takes_samples_of_any_number(rng):
    net = Network([3, 5, 2], seed=1)
    for n in (1, 50, 7):
        net.partial_fit(rng.normal(size=(n, 3)), rng.integers(0, 2, n), optimizer=Adam(0.01))


def test_a_fit_without_warm_start_begins_at_rest(rng):
    x, y = rng.normal(size=(12, 3)), rng.integers(0, 2, 12)
    nets = [Network([3, 2], seed=1) for _ in range(2)]
    settings = {"optimizer": SGD(0.1, momentum=0.9), "epochs": 1, "shuffle": False}
    for net, warm in zip(nets, (True, False), strict=True):
        net.fit(x, y, warm_start=True, **settings)
        net.fit(x, y, warm_start=warm, **settings)
    assert not np.array_equal(weights_of(nets[0]), weights_of(nets[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": SGD(0.2)}, r"continues with the optimizer of the last call, SGD\("),
        ({"dropout": 0.1}, "continues with the dropout"),
    ],
)
def test_a_warm_start_with_other_settings_is_refused(rng, changes, message):
    x, y = rng.normal(size=(12, 3)), rng.integers(0, 2, 12)
    net = Network([3, 4, 2], seed=1)
    settings = {"optimizer": SGD(0.1), "dropout": 0.5}
    twin = Network([3, 4, 2], seed=1)
    for one in (net, twin):
        one.partial_fit(x, y, **settings)
    for _ in range(2):  # what is refused changes nothing
        with pytest.raises(ValueError, match=message):
            net.partial_fit(x, y, **settings | changes)
    for one in (net, twin):
        one.partial_fit(x, y, **settings)
    assert np.array_equal(weights_of(net), weights_of(twin))


def test_a_partial_fit_with_an_unknown_label_changes_nothing(rng):
    x = rng.normal(size=(12, 3))
    net = Network([3, 2], seed=1)
    net.partial_fit(x, rng.integers(0, 2, 12))
    before = weights_of(net)
    with pytest.raises(ValueError, match="2"):
        net.partial_fit(x, np.full(12, 2))
    assert np.array_equal(weights_of(net), before)


# ---------------------------------------------------------------------------------------------
# Too little memory


@pytest.fixture
def wide(where):
    """A network whose activations of ten million samples fill more than any address space."""
    if "meta" in where.device_name:
        pytest.skip("nothing is allocated there")
    return Network([1, 4_000_000, 1], backend=where.backend, device=where.device_name, seed=0)


@pytest.mark.skip_xp_backends(
    "mlx", reason="MLX ends the process where a CPU's memory is too small"
)
def test_too_many_samples_at_once_are_too_much_memory(wide, where):
    x = np.zeros((10_000_000, 1), np.float32)
    before = to_numpy(wide.layers[0].W)
    how_much = "" if where.backend == "dpnp" else r".*\d"  # dpnp does not say
    message = rf"out of memory \({where.backend} on .*\): {how_much}.*batch_size"
    with pytest.raises(OutOfMemoryError, match=message) as caught:
        wide.fit(x, x, epochs=1, batch_size=len(x), progress=False)
    assert isinstance(caught.value, MemoryError)
    assert np.array_equal(to_numpy(wide.layers[0].W), before)
    assert wide.feedforward(x[:2]).shape == (2, 1)
