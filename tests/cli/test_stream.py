"""Samples that stay in their file: ``train``, ``evaluate`` and ``predict`` with --stream."""

import os
import re
import shlex
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bp_xp import Network
from bp_xp.cli import main
from bp_xp.datasets import load_digits

N = 600


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def samples():
    """600 images of one byte a pixel, (600, 8, 8), and their digits, in x.npy and y.npy."""
    digits = load_digits()
    x = (digits.x_train[:N].reshape(N, 8, 8) * 255).astype(np.uint8)
    y = digits.y_train[:N]
    np.save("x.npy", x)
    np.save("y.npy", y)
    return x, y


def run(command, *more):
    return CliRunner().invoke(main, [*shlex.split(command), *map(str, more)])


def run_well(command, *more):
    result = run(command, *more)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def fails(command, status=2):
    result = run(command)
    assert result.exit_code == status, result.output
    return result.stderr


STREAM = "--data x.npy --targets y.npy --stream"


def test_a_network_learns_from_files_and_what_is_told_can_be_typed(samples):
    stdout, stderr = run_well(f"train {STREAM} --epochs 4 --learning-rate 0.1 --buffer-size 200")
    found = re.search(r"test part, 120 samples:.*accuracy ([\d.]+)%", stdout)
    assert found
    assert float(found[1]) > 75
    assert "train part" not in stdout
    assert "x.npy has bytes: 0 to 255 become inputs from 0 to 1" in stderr
    commands = re.findall(r"bp-xp (.*)", stderr)
    assert len(commands) == 2
    told = [run_well(command)[0] for command in commands]
    assert told[0] in stdout
    predicted = np.load("predictions.npy")
    images = samples[0].reshape(N, -1) / np.float32(255)
    assert np.array_equal(predicted, Network.load("x.safetensors").predict(images))


def test_a_buffer_of_all_rows_in_the_form_of_a_table_is_the_run_in_memory(samples):
    x, y = samples
    table = np.column_stack([x.reshape(N, -1) / np.float32(255), y])
    np.save("table.npy", table[:480])
    options = "--epochs 2 -q --target -1"
    run_well(f"train --data table.npy --stream --test-fraction 0 -o one.safetensors {options}")
    train, test = table[:480], table[480:]
    np.savez("parts.npz", x_train=train[:, :-1], y_train=train[:, -1], x_test=test[:, :-1],
             y_test=test[:, -1])  # fmt: skip
    for name, stream in (("two", ""), ("three", "--stream")):
        run_well(f"train --data parts.npz -o {name}.safetensors {stream} {options}")
    networks = [Network.load(f"{name}.safetensors") for name in ("one", "two", "three")]
    for other in networks[1:]:
        for layer, twin in zip(networks[0].layers, other.layers, strict=True):
            assert np.array_equal(layer.W, twin.W)


def test_settings_that_are_written_repeat_the_run(samples):
    run_well(f"train {STREAM} --epochs 2 -q --split-last --validation-fraction 0.1")
    settings = tomllib.loads(Path("x.toml").read_text())
    assert (settings["stream"], settings["targets"]) == (True, "y.npy")
    first = Path("x.safetensors").read_bytes()
    run_well("train --config x.toml -q")
    assert Path("x.safetensors").read_bytes() == first


def test_a_run_goes_on_from_its_checkpoint(samples):
    options = f"{STREAM} -q --buffer-size 100 --checkpoint run.safetensors -o net.safetensors"
    run_well(f"train {options} --epochs 3")
    whole = Path("net.safetensors").read_bytes()
    run_well(f"train {options} --epochs 1 --overwrite")
    run_well(f"train {options} --epochs 3 --resume")
    assert Path("net.safetensors").read_bytes() == whole


def test_the_last_rows_are_tested_on_and_a_share_of_one_is_all(samples):
    stdout, _ = run_well(f"train {STREAM} --epochs 1 -q --split-last --test-fraction 0.5")
    assert "test part, 300 samples" in stdout
    evaluate = f"evaluate x.safetensors {STREAM} --split-last"
    assert run_well(f"{evaluate} --test-fraction 0.5")[0] in stdout
    assert "600 samples" in run_well(f"{evaluate} --test-fraction 1")[0]


def test_targets_of_their_own_are_read_into_memory_as_well(samples):
    stdout, _ = run_well("train --data x.npy --targets y.npy --epochs 2 -q")
    assert run_well("evaluate x.safetensors --data x.npy --targets y.npy")[0] in stdout
    assert "train part, 480 samples" in stdout


def test_probabilities_and_labels_go_to_an_array_from_memory_too(samples):
    run_well(f"train {STREAM} --epochs 1 -q")
    printed = run_well("predict x.safetensors --data x.npy")[0].split()
    for stream in ("", "--stream"):
        run_well(f"predict x.safetensors --data x.npy --output p.npy {stream}")
        assert np.load("p.npy").tolist() == list(map(int, printed))
        run_well(f"predict x.safetensors --data x.npy --output p.npy --proba {stream}")
        assert np.allclose(np.load("p.npy").sum(axis=1), 1.0)


posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


@posix
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_leaves_no_predictions(samples, monkeypatch, number, status):
    run_well(f"train {STREAM} --epochs 1 -q")
    before = set(os.listdir())
    monkeypatch.setattr("os.fsync", lambda _: signal.raise_signal(number))
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("predict x.safetensors --data x.npy --stream --output p.npy -q")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert (result.exit_code, result.stderr) == (status, "interrupted: nothing was written\n")
    assert set(os.listdir()) == before


def test_inputs_of_another_number_are_told(samples):
    run_well(f"train {STREAM} --epochs 1 -q")
    np.save("wide.npy", np.ones((9, 70)))
    stderr = fails("predict x.safetensors --data wide.npy --stream --output p.npy -q", 1)
    assert "takes 64 inputs, but wide.npy has 70 features" in stderr
    stderr = fails("predict x.safetensors --data x.npy --stream --output x.npy -q", 1)
    assert "is an input of this command" in stderr


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("train --stream", 2, "--stream is for files, and digits is in memory"),
        ("train --data x.npy --target y.npy --stream", 1, "name it with --targets"),
        ("train --data x.npy --targets y.csv", 1, "y.csv is not a .npy file"),
        ("train --targets y.npy", 2, "--targets is for inputs in a .npy file, not digits"),
        ("train --data x.npy --buffer-size 9", 2, "--buffer-size is for data that --stream reads"),
        ("train --data x.npy --test-fraction 0.1", 2, "--test-fraction is for tables"),
        ("evaluate n --data x.npy --split-last", 2, "--split-last is for data that --stream reads"),
        ("predict n --data x.npy --stream", 2, "name one with --output"),
        ("train --data .", 1, ". is only read row by row: add --stream"),
        (f"train {STREAM} --test-fraction 1", 1, "--test-fraction must be"),
        (f"train {STREAM} --validation-fraction 0.0001", 1, "leaves no rows to train on"),
        (f"train {STREAM} --buffer-size 0", 1, "--buffer-size must be"),
    ],
)
def test_what_does_not_belong_together_is_refused(samples, command, status, message):
    assert message in fails(command, status)


@pytest.mark.parametrize(
    "split",
    ["--stream", "--stream --split-last", "--stream --split-last --test-fraction 0.5", ""],
    ids=["blocks", "last rows", "half", "in memory"],
)
def test_a_network_is_evaluated_on_the_rows_that_it_did_not_learn(samples, split):
    files = "--data x.npy --targets y.npy"
    stdout, _ = run_well(f"train {files} {split} --epochs 1 -q")
    for stream in ("", "--stream"):
        told, stderr = run_well(f"evaluate x.safetensors {files} {stream} -q")
        assert told in stdout
        assert not stderr
    checkpoint = "--checkpoint run.safetensors -o other.safetensors"
    run_well(f"train {files} {split} --epochs 1 -q {checkpoint}")
    assert run_well(f"evaluate run.safetensors {files} -q")[0] in stdout


def test_rows_that_were_learned_are_evaluated_with_a_warning(samples):
    run_well(f"train {STREAM} --epochs 1 -q --split-last")
    _, stderr = run_well(f"evaluate x.safetensors {STREAM} --test-fraction 0.5 -q")
    assert (
        "trained with another test part (with --stream --split-last --test-fraction 0.2)" in stderr
    )
    run_well("train --data x.npy --targets y.npy --epochs 1 -q")
    _, stderr = run_well(f"evaluate x.safetensors {STREAM} --split-last -q")
    assert "trained with another test part (without --stream)" in stderr


def test_all_rows_are_evaluated_with_and_without_stream(samples):
    run_well("train --data x.npy --targets y.npy --epochs 1 -q")
    evaluate = "evaluate x.safetensors --data x.npy --targets y.npy --test-fraction"
    told, stderr = run_well(f"{evaluate} 1 -q")
    assert "600 samples" in told
    assert not stderr
    assert run_well(f"{evaluate} 1 -q --stream")[0] == told
    assert "must be finite and above 0 and at most 1" in fails(f"{evaluate} 1.5 --stream", 1)


def test_pictures_are_of_the_rows_that_were_not_learned(samples, monkeypatch):
    pytest.importorskip("matplotlib")
    x, y = samples
    np.savez("parts.npz", x=x, y=y)
    run_well("train --data parts.npz --stream --split-last --epochs 1 -q")
    shown = []
    monkeypatch.setattr(
        "bp_xp.plotting.confusion_matrix", lambda _, x, y, **__: shown.append((x, y))
    )
    run_well("plot confusion parts.safetensors --data parts.npz")
    assert np.array_equal(shown[0][0], x[480:].reshape(120, -1) / np.float32(255))
    assert np.array_equal(shown[0][1], y[480:])


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_labels_that_may_be_in_a_file_of_their_own_are_told(samples, stream):
    np.save("flat.npy", samples[0].reshape(N, -1).clip(0, 9))
    _, stderr = run_well(f"train --data flat.npy {stream} --epochs 1")
    assert (
        "the last column of flat.npy is the label (labels in a file of their own: --targets)"
        in (stderr)
    )
    assert "name the file of the labels with --targets" in fails(
        f"train --data flat.npy {stream} --sizes 64,10 --epochs 1", 1
    )
    run_well(f"train {STREAM} --epochs 1 -q")
    stderr = fails(f"evaluate x.safetensors --data flat.npy {stream}", 1)
    assert "flat.npy has 63 features" in stderr
    assert "name the file of the labels with --targets" in stderr
    assert "name it with --targets" in fails(f"train --data x.npy {stream}", 1)


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_an_error_in_the_targets_names_their_file(samples, stream):
    y = samples[1].astype(float)
    y[41] = np.nan
    np.save("y.npy", y)
    stderr = fails(f"train --data x.npy --targets y.npy {stream} --epochs 1 -q", 1)
    assert stderr.startswith("error: y.npy, row 41, column 0 (counted from 0): nan")


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_pixels_that_are_not_bytes_are_told_once(samples, stream):
    run_well(f"train {STREAM} --epochs 1 -q")
    np.save("wide.npy", samples[0].astype(np.int64))
    options = f"x.safetensors --data wide.npy {stream}"
    for command in (
        f"train --data wide.npy {stream} --targets y.npy --epochs 1 -q --learning-rate 1e-6",
        f"evaluate {options} --targets y.npy -q",
        f"predict {options} -o p.npy -q",
    ):
        _, stderr = run_well(command)
        assert stderr.count("wide.npy has inputs up to 255, which are used as they are") == 1


def test_a_run_that_held_out_other_rows_is_not_resumed(samples):
    files = "train --data x.npy --targets y.npy -q --checkpoint run.safetensors"
    run_well(f"{files} --stream --epochs 1")
    for option, now in (("", "without --stream"), ("--stream --split-last", "--split-last")):
        stderr = fails(f"{files} --epochs 2 --resume {option}", 1)
        assert "is of a run with --stream --test-fraction 0.2, not" in stderr
        assert now in stderr
    stderr = fails(f"{files} --epochs 2 --resume --stream --buffer-size 50", 1)
    assert "it had all samples in memory and now has a buffer of 50 rows" in stderr
    assert "not the same" not in stderr
