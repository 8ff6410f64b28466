import sys

import numpy as np
import pytest
from generated_tables import generated

from bp_xp import ACTIVATIONS, Activation, Network
from bp_xp.export import export_onnx, export_program, onnx_inputs
from bp_xp.tables import TableModel

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def computed(path, inputs):
    """Return the outputs by name, after onnx's full check."""
    onnx.checker.check_model(str(path), full_check=True)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(
        zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True)
    )


def spread(network, by=4):
    """Return a network with larger weights, whose outputs differ more."""
    return network.with_layers([(by * W, b + 0.1) for W, b in network.layers])


def of_activation(activation, dtype="float64"):
    sizes = [5, 3] if activation.coupled else [5, 6, 3]
    how = {"cost": "categorical_cross_entropy", "dtype": dtype, "seed": 1}
    return spread(
        Network(sizes, activation=activation, **how) if sizes[2:] else Network(sizes, **how)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks_of_every_activation_are_the_same_in_a_runtime(dtype, tmp_path, rng):
    for activation in ACTIVATIONS.values():
        network = of_activation(activation, dtype)
        path = export_onnx(network, tmp_path / "n.onnx")
        for n in (1, 1000):
            x = 3 * rng.normal(size=(n, 5)).astype(dtype)
            found = computed(path, onnx_inputs(network, x))
            assert list(found) == ["label", "probabilities", "outputs"]
            np.testing.assert_array_equal(found["label"], network.predict(x))
            close = {"rtol": 0, "atol": 1e-5 if dtype == "float32" else 1e-13}
            np.testing.assert_allclose(found["probabilities"], network.predict_proba(x), **close)
            np.testing.assert_array_equal(found["outputs"], found["probabilities"])


def test_one_output_tells_of_two_classes(tmp_path, rng):
    network = spread(Network([3, 4, 1], seed=0))
    x = rng.normal(size=(50, 3))
    found = computed(export_onnx(network, tmp_path / "n.onnx"), onnx_inputs(network, x))
    np.testing.assert_array_equal(found["label"], network.predict(x))
    np.testing.assert_allclose(found["probabilities"], network.predict_proba(x), atol=1e-6)
    assert found["outputs"].shape == (50, 1)


def test_outputs_that_are_no_probabilities_are_alone(tmp_path):
    network = Network([3, 2], output_activation="identity", seed=0)
    found = computed(export_onnx(network, tmp_path / "n.onnx"), {"inputs": np.ones((4, 3), "f4")})
    assert list(found) == ["outputs"]
    np.testing.assert_allclose(found["outputs"], network.feedforward(np.ones((4, 3))), rtol=1e-6)


def test_of_equal_outputs_the_first_is_told(tmp_path):
    network = Network([2, 4], cost="categorical_cross_entropy", seed=0)
    network = network.with_layers([(np.zeros((4, 2)), [0.0, 1.0, 1.0, 0.5])])
    found = computed(export_onnx(network, tmp_path / "n.onnx"), {"inputs": np.ones((3, 2), "f4")})
    assert found["label"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softplus", "elu", "gelu_exact", "silu"])
def test_small_values_keep_their_digits(name, dtype, tmp_path):
    # ONNX has neither expm1 nor log1p: their replacements must keep the same precision.
    network = Network.from_layers([([[1.0]], [0.0])], output_activation=name, dtype=dtype)
    x = np.array([[-30.0], [-5.0], [-1e-6], [0.0], [1e-6], [1e-3], [700.0], [-700.0]], dtype)
    found = computed(export_onnx(network, tmp_path / "n.onnx"), {"inputs": x})["outputs"]
    # The rounding of z² is in the exponent of the exact GELU: see normal_cdf.
    within = {"rtol": 1000 * np.finfo(dtype).eps, "atol": np.finfo(dtype).tiny}
    np.testing.assert_allclose(found, network.feedforward(x), **within)


def test_networks_of_every_device_are_exported(backend, device, tmp_path):
    network = Network([3, 2], backend=backend, device=device, seed=0)
    found = computed(export_onnx(network, tmp_path / "n.onnx"), {"inputs": np.ones((1, 3), "f4")})
    expected = Network([3, 2], seed=0).feedforward(np.ones((1, 3)))
    np.testing.assert_allclose(found["outputs"], expected, rtol=1e-5)


# ---------------------------------------------------------------------------------------------
# User-defined functions


def in_place(z, *, xp):
    a = xp.exp(-z)
    b = a
    a += 1.0
    return 1.0 / b


def of_parts(z, *, xp):
    gate = z[:, 1:2] + z[..., -1][..., None] + z[:, ::2][:, :1]
    both = xp.concat([z[:, :1], z[:, 1:]], axis=-1)
    return both * gate


def of_truth(z, *, xp):
    inside = (z > -1.0) & ~(z >= 1) | (z != z)
    signs = xp.astype(xp.logical_or(z < 0, z == 0.5), z.dtype, copy=False) * 2 - 1
    return xp.where(inside, z, xp.ones_like(z)) + xp.where(z <= 0, 0.0, signs)


def of_rows(z, *, xp):
    middle = z - xp.mean(z, axis=-1, keepdims=True)
    scale = xp.sum(xp.square(middle), axis=1)[:, None] + xp.min(z, axis=1, keepdims=True) ** 2
    place = xp.astype(xp.argmax(z, axis=-1, keepdims=True), z.dtype)
    return middle / xp.sqrt(scale + xp.zeros_like(z) + 0.1) + place


def of_many(z, *, xp):
    soft = xp.logaddexp(z, 0.0 * z) + xp.log1p(xp.abs(z)) + xp.expm1(-xp.abs(z))
    return (
        soft + xp.clip(z, -1, 1) + xp.log2(1.0 + xp.pow(z, 2)) + xp.hypot(z, 3.0 * z) - xp.sign(z)
    )


def with_constants(z, *, xp):
    slopes = xp.asarray(np.linspace(0.1, 0.6, z.shape[-1]), dtype=z.dtype)
    return xp.maximum(z, slopes * z)


OWN = [in_place, of_parts, of_truth, of_rows, of_many, with_constants]


def own(sigma):
    return Activation(sigma.__name__, sigma, lambda z, a, *, xp: xp.ones_like(z))


@pytest.mark.parametrize("sigma", OWN)
def test_activations_of_a_users_own_are_exported(sigma, tmp_path, rng, loaded):
    network = of_activation(own(sigma))
    x = rng.normal(size=(40, 5))
    expected = network.predict_proba(x)
    found = computed(export_onnx(network, tmp_path / "n.onnx"), onnx_inputs(network, x))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-12)
    program = loaded(export_program(network, tmp_path / "n.py"))
    np.testing.assert_allclose(program.predict_proba(x), expected, atol=1e-14)


def with_rows(z, *, xp):
    return z * z.shape[0]


def more_for_more(z, *, xp):
    return z if z.shape[0] < 3 else z + 1.0


def looks(z, *, xp):
    return z * float(xp.max(z))


def from_outside(z, *, xp):
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def picky(z, *, xp):
    if not isinstance(z, np.ndarray):
        raise TypeError("an array is expected")
    return z + 0.0


def changes_a_part(z, *, xp):
    a = 1.0 * z
    part = a[:, :2]
    part += 1.0
    return a


@pytest.mark.parametrize("export", [export_onnx, export_program])
@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (with_rows, "depend on how many rows"),
        (more_for_more, "depend on how many rows"),
        (looks, "looks at a value"),
        (from_outside, "norm"),
        (picky, "an array is expected"),
        (changes_a_part, "changes an array that shares memory with another"),
    ],
)
def test_what_is_no_operation_on_arrays_is_refused_by_name(export, sigma, message, tmp_path):
    path = tmp_path / ("n.onnx" if export is export_onnx else "n.py")
    with pytest.raises(ValueError, match=rf"activation '{sigma.__name__}' can't be .*{message}"):
        export(of_activation(own(sigma)), path)
    assert not path.exists()


def test_a_function_that_onnx_lacks_is_refused_by_name(tmp_path, rng, loaded):
    network = of_activation(
        Activation("root", lambda z, *, xp: np.cbrt(z), ACTIVATIONS["tanh"].sigma_prime)
    )
    with pytest.raises(ValueError, match=r"activation 'root' can't be written in ONNX.* cbrt"):
        export_onnx(network, tmp_path / "n.onnx")
    x = rng.normal(size=(4, 5))
    program = loaded(export_program(network, tmp_path / "n.py"))
    np.testing.assert_allclose(program.predict_proba(x), network.predict_proba(x), rtol=1e-14)


# ---------------------------------------------------------------------------------------------
# Tables


@pytest.mark.parametrize("seed", range(30))
def test_preparation_graph_and_program_agree(seed, tmp_path, loaded):
    model, tables = generated(seed, n_rows=(1, 1000))
    path = export_onnx(model, tmp_path / "n.onnx")
    program = loaded(export_program(model, tmp_path / "n.py"))
    targets = model.preparation.targets
    for table in tables:
        found = list(computed(path, onnx_inputs(model, table)).values())
        expected = model.predict(table)
        if targets.task == "regression":
            told = found[0] if len(found) == 1 else np.stack(found, axis=1)
            np.testing.assert_allclose(told, expected, rtol=1e-5, atol=1e-3)
            np.testing.assert_allclose(program.predict(table), expected, rtol=1e-6)
            continue
        label, probabilities = found
        np.testing.assert_array_equal(label, expected)
        told = program.predict(table)
        np.testing.assert_array_equal(told, expected)
        assert told.dtype == expected.dtype
        expected = model.predict_proba(table)
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(program.predict_proba(table), expected, rtol=0, atol=1e-6)


def of_table(table, target, **wishes):
    return TableModel((4,), epochs=1, validation_fraction=0, seed=0, **wishes).fit(table, target)


def test_columns_are_inputs_by_name_and_targets_outputs(tmp_path):
    n = 12
    table = {
        "size": [1.5, None, 3.0] * 4,
        "day": np.datetime64("2024-01-01") + np.arange(n),
        "town": ["Ulm", None, "Bonn"] * 4,
        "floor": [1, 2, 3] * 4,
        "garden": [True, False] * 6,
        "id": [f"note {i}" for i in range(n)],
    }
    model = of_table(table, {"rent": np.arange(n) * 1.5}, categorical=["floor"])
    graph = onnx.load(export_onnx(model, tmp_path / "n.onnx")).graph
    told = {one.name: one for one in graph.input}
    assert list(told) == ["size", "day", "town", "floor", "garden"]
    assert [one.name for one in graph.output] == ["rent"]
    text, number = onnx.TensorProto.STRING, onnx.TensorProto.DOUBLE
    kinds = {name: one.type.tensor_type.elem_type for name, one in told.items()}
    assert kinds == dict.fromkeys(told, number) | {"town": text}
    assert told["day"].doc_string == "days since 1970-01-01; NaN is missing"
    assert told["town"].doc_string == "text; '' is missing"
    given = {"size": 2.0, "day": 19723.0, "town": "", "floor": 2.0, "garden": 1.0}
    given = {name: np.array([[value]]) for name, value in given.items()}
    given["town"] = given["town"].astype(object)
    row = {"size": [2], "day": np.array(["2024-01-01"], "M8[D]"), "town": [None]}
    expected = model.predict(row | {"floor": [2], "garden": [True]})
    found = computed(tmp_path / "n.onnx", given)["rent"]
    assert found.shape == (1,)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("scaling", ["standard", "minmax", "robust", "none"])
def test_far_numbers_are_scaled_alike(scaling, tmp_path, loaded):
    table = {"x": [1.5, 2.0, 3.0, 0.0] * 3}
    model = of_table(table, {"y": np.arange(12.0)}, scaling=scaling)
    far = {"x": [1e38, -1e38, 0.0, 1e-300, None]}
    if scaling == "robust":
        far["x"] += [1e200, -1e300]
    expected = model.predict(far)
    path = export_onnx(model, tmp_path / "n.onnx")
    np.testing.assert_allclose(computed(path, onnx_inputs(model, far))["y"], expected, rtol=1e-5)
    program = loaded(export_program(model, tmp_path / "n.py"))
    np.testing.assert_allclose(program.predict(far), expected, rtol=1e-6)


def test_names_that_meet_are_told_apart(tmp_path):
    table = {"label": [1.5, 2.0, 3.0] * 4, "t1": [3.0, 2.0, 7.5] * 4}
    model = of_table(table, ["a", "b", "c"] * 4)
    found = computed(export_onnx(model, tmp_path / "n.onnx"), onnx_inputs(model, table))
    assert list(found) == ["predicted label", "probabilities"]
    rents = of_table(table, {"c": np.arange(12.0), "t1": np.arange(12.0)})
    found = computed(export_onnx(rents, tmp_path / "n.onnx"), onnx_inputs(rents, table))
    assert list(found) == ["c", "predicted t1"]
    nameless = of_table({"": [1.5, 2.0, 3.0] * 4}, ["a", "b", "c"] * 4)
    with pytest.raises(ValueError, match="column without a name"):
        export_onnx(nameless, tmp_path / "n.onnx")


# ---------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(("export", "suffix"), [(export_onnx, ".onnx"), (export_program, ".py")])
def test_what_can_not_be_exported_is_refused(export, suffix, tmp_path):
    network = Network([2, 1], seed=0)
    for name in ("n", "n.safetensors", "n.ONNX.txt"):
        with pytest.raises(ValueError, match=f"must end in {suffix}"):
            export(network, tmp_path / name)
    path = tmp_path / f"n{suffix}"
    with pytest.raises(ValueError, match="learned nothing yet"):
        export(TableModel(), path)
    with pytest.raises(TypeError, match=r"not a list.*to_network"):
        export([1], path)
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named_where_onnx_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"onnx is not installed.*bp_xp\[onnx\]"):
        export_onnx(Network([2, 1], seed=0), tmp_path / "n.onnx")
