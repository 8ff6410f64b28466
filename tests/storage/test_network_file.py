"""What is in the file of a network and of a run, in this version of the format and before."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import parameters

from bp_xp import (
    Activation,
    Adam,
    Checkpoint,
    CheckpointError,
    CosineDecay,
    Cost,
    Network,
    to_numpy,
)
from bp_xp.storage import tensors as tensor_files
from bp_xp.storage.network_file import NetworkFile, Section, read, write
from bp_xp.storage.tensors import read_tensors, write_tensors

DATA = Path(__file__).parent / "data"


@pytest.fixture
def expected():
    with np.load(DATA / "v1-expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


# ---------------------------------------------------------------------------------------------
# Version 1


def header_of(path):
    """Return version and header of a file as they are written there."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    record = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["bp_xp"])
    return record["format_version"], record["header"]


@pytest.mark.parametrize("name", ["network-v1", "run-v1", "run-v1-within-an-epoch"])
def test_the_files_kept_are_of_version_1(name):
    version, header = header_of(DATA / f"{name}.safetensors")
    assert version == 1
    assert "network" not in header


def test_a_network_of_version_1_is_loaded(target, expected):
    net = Network.load(
        DATA / "network-v1.safetensors", backend=target.backend, device=target.device
    )
    assert (net.sizes, net.seed, net.dtype) == ((5, 4, 3), 7, "float32")
    assert [sigma.name for sigma in net.model.activations] == ["tanh", "softmax"]
    outputs = to_numpy(net.feedforward(expected["x"]))
    np.testing.assert_allclose(outputs, expected["outputs"], rtol=1e-5)


def test_a_network_of_version_1_is_saved_in_this_version(path, expected):
    net = Network.load(DATA / "network-v1.safetensors")
    again = Network.load(net.save(path))
    assert header_of(path)[0] == tensor_files.FORMAT_VERSION == 2
    assert np.array_equal(parameters(again), parameters(net))
    assert again._generator.random() == net._generator.random()


def resumed(expected, path, kept, **options):
    """Return a network after its run has gone on from a file, and the history."""
    x, y = expected["x"], expected["y"]
    net = Network([5, 4, 3], activation="relu", cost="categorical_cross_entropy", seed=3, **options)
    history = net.fit(
        x,
        y,
        epochs=6,
        batch_size=8,
        optimizer=Adam(CosineDecay(0.01, steps=30)),
        l2=1e-3,
        dropout=0.25,
        validation_data=(x[:10], y[:10]),
        metrics=["f1"],
        checkpoint=Checkpoint(kept, resume=path),
        progress=False,
    )
    return net, history


@pytest.mark.parametrize("name", ["run-v1", "run-v1-within-an-epoch"])
def test_a_run_of_version_1_is_resumed_and_ends_as_it_would_have(target, tmp_path, expected, name):
    net, history = resumed(
        expected,
        DATA / f"{name}.safetensors",
        tmp_path / "run.safetensors",
        backend=target.backend,
        device=target.device,
    )
    assert history.stopped == "epochs"
    assert history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert history["cost"] == pytest.approx(expected["costs"].tolist(), rel=1e-4)
    outputs = to_numpy(net.feedforward(expected["x"]))
    np.testing.assert_allclose(outputs, expected["final"], rtol=1e-4)
    assert header_of(tmp_path / "run.safetensors")[0] == 2


def test_a_run_of_version_1_with_layers_frozen_now_is_refused(tmp_path, expected):
    net = Network([5, 4, 3], activation="relu", cost="categorical_cross_entropy", seed=3)
    kept = Checkpoint(tmp_path / "run.safetensors", resume=DATA / "run-v1.safetensors")
    with pytest.raises(CheckpointError, match=r"trainable was None and is now \[False, True\]"):
        net.fit(expected["x"], expected["y"], trainable=[False, True], checkpoint=kept)


def test_a_network_of_version_1_with_functions_of_one_s_own_is_loaded(path):
    """Version 1 kept nothing that tells functions of one name apart."""
    tensors, header = read_tensors(DATA / "network-v1.safetensors")
    write_tensors(path, tensors, header | {"activations": ["sine", "softmax"]})
    assert Network.load(path, custom=sine()).model.activations[0].name == "sine"


# ---------------------------------------------------------------------------------------------
# Sections


@pytest.fixture
def preparation():
    return Section(
        {"columns": ["age", "size"], "kinds": {"age": "number"}, "note": None},
        {"mean": np.array([1.5, -2.0]), "table.codes": np.arange(3, dtype=np.int64)},
    )


def assert_same_section(section, wanted):
    assert section.fields == wanted.fields
    assert section.tensors.keys() == wanted.tensors.keys()
    for name, array in wanted.tensors.items():
        np.testing.assert_array_equal(section.tensors[name], array, strict=True)


def test_a_section_that_nobody_here_knows_comes_back_as_it_was(path, preparation):
    net = Network([3, 4, 2], seed=0)
    bare = Section({"version": 3})
    content = NetworkFile(net.describe(), others={"preparation": preparation, "more": bare})

    assert write(path, content) == path
    found = read(path)

    assert found.others.keys() == {"preparation", "more"}
    assert_same_section(found.others["preparation"], preparation)
    assert_same_section(found.others["more"], bare)
    assert (found.kind, found.run) == ("network", None)
    assert np.array_equal(parameters(Network.load(path)), parameters(net))


def test_a_section_beside_a_run_leaves_the_run_as_it_is(path, preparation, rng):
    x, y = rng.normal(size=(12, 3)), rng.integers(0, 2, 12)
    settings = {"batch_size": 4, "optimizer": Adam(0.01), "dropout": 0.5, "progress": False}
    whole, cut, again = (Network([3, 4, 2], seed=1) for _ in range(3))
    whole.fit(x, y, epochs=4, **settings)
    cut.fit(x, y, epochs=2, checkpoint=path, **settings)

    content = read(path)
    write(path, NetworkFile(content.network, content.run, {"preparation": preparation}))
    assert_same_section(read(path).others["preparation"], preparation)

    again.fit(x, y, epochs=4, checkpoint=Checkpoint(path, resume=path), **settings)
    assert np.array_equal(parameters(again), parameters(whole))


def test_what_was_written_is_what_is_read(path):
    content = NetworkFile(Network([3, 4, 2], activation="relu", seed=5).describe())
    write(path, content)
    first = path.read_bytes()
    write(path, read(path))
    assert path.read_bytes() == first


def test_a_tensor_of_no_section_is_refused(path, preparation):
    write(
        path, NetworkFile(Network([3, 2], seed=0).describe(), others={"preparation": preparation})
    )
    tensors, header = read_tensors(path)
    del header["preparation"]
    write_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match=r"'preparation\.mean' is not part of this network"):
        read(path)


def test_a_file_of_a_newer_version_is_refused(path, monkeypatch):
    monkeypatch.setattr(tensor_files._record, "__defaults__", (3,))
    Network([3, 2], seed=0).save(path)
    assert header_of(path)[0] == 3
    with pytest.raises(CheckpointError, match=r"has format version 3, .* versions 1 to 2") as error:
        Network.load(path)
    assert str(path) in str(error.value)


# ---------------------------------------------------------------------------------------------
# User-defined functions


def sine(scale=1.0):
    return Activation(
        "sine",
        lambda z, *, xp: scale * xp.sin(z),
        lambda z, a, *, xp: scale * xp.cos(z),
    )


def quartic(power=4):
    return Cost(
        "quartic",
        lambda a, y, *, xp: xp.sum((a - y) ** power, axis=-1),
        lambda a, y, *, xp: power * (a - y) ** (power - 1),
    )


@pytest.mark.parametrize(
    ("own", "what"),
    [
        ([sine(1.1), quartic()], "the activation sine is not the function"),
        ([sine(), quartic(2)], "the cost quartic is not the function"),
    ],
    ids=["activation", "cost"],
)
def test_a_function_of_the_same_name_and_other_values_is_refused(path, own, what, rng):
    x, y = rng.normal(size=(12, 3)), rng.integers(0, 2, 12)
    settings = {"activation": sine(), "cost": quartic(), "output_activation": "sigmoid", "seed": 1}
    Network([3, 4, 2], **settings).fit(x, y, epochs=1, checkpoint=path, progress=False)

    with pytest.raises(CheckpointError, match=f"can't be read as a network: {what}"):
        Network.load(path, custom=own)

    other = Network([3, 4, 2], **(settings | {"activation": own[0], "cost": own[1]}))
    before = parameters(other)
    with pytest.raises(CheckpointError, match=f"can't be resumed: {what}"):
        other.fit(x, y, epochs=2, checkpoint=Checkpoint(path, resume=True), progress=False)
    assert np.array_equal(parameters(other), before)


def test_the_same_functions_written_anew_are_taken(target, path, rng):
    x, y = rng.normal(size=(12, 3)), rng.integers(0, 2, 12)
    settings = {"activation": sine(), "cost": quartic(), "output_activation": "sigmoid", "seed": 1}
    net = Network([3, 4, 2], **settings)
    net.fit(x, y, epochs=1, checkpoint=path, progress=False)

    where = {"backend": target.backend, "device": target.device}
    loaded = Network.load(path, custom=[sine(), quartic()], **where)
    assert np.array_equal(parameters(loaded), parameters(net))

    again = Network([3, 4, 2], **(settings | {"activation": sine(), "cost": quartic()}), **where)
    kept = Checkpoint(path, resume=True)
    assert len(again.fit(x, y, epochs=2, checkpoint=kept, progress=False)) == 2


def test_two_activations_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two different activations are named 'sine'"):
        Network([3, 4, 4, 2], activation=[sine(), sine(2.0)])
