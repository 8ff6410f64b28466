import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bp_xp.cli import main
from bp_xp.math import equations

PAIR = ["--backends", "numpy,array_api_strict-device1"]
SMALL = ["--sizes", "4,3,2", "--steps", "10", "--samples", "20"]


@pytest.fixture(autouse=True)
def _settings_of_jax(monkeypatch):
    # Set by the program for JAX, in what it takes for its own process.
    monkeypatch.setenv("JAX_ENABLE_X64", "1")


def parity(*arguments):
    return CliRunner().invoke(main, ["parity", *PAIR, *SMALL, *map(str, arguments)])


def test_equal_backends_are_a_table_and_status_0():
    result = parity()
    assert (result.exit_code, result.stderr) == (0, "")
    head, reference, other = result.stdout.splitlines()
    assert head.split()[:5] == ["backend", "device", "version", "dtype", "steps"]
    assert reference.split()[3:] == ["float64", "10", "10", "the", "reference"]
    assert other.split()[:2] == ["array_api_strict", "device1"]


def test_a_difference_is_told_on_stdout_with_status_1(monkeypatch):
    exact = equations.weighted_input

    def odd(a, W, b):
        z = exact(a, W, b)
        return z * 1.001 if type(a).__module__.startswith("array_api_strict") else z

    monkeypatch.setattr(equations, "weighted_input", odd)
    result = parity()
    assert (result.exit_code, result.stderr) == (1, "")
    assert "The first difference is after step 1, in W of layer 1 at" in result.stdout
    assert "Look at the weighted input" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "float32", "--every", 5],
        ["--optimizer", "adam:beta2=0.99", "--dropout", "0.5"],
        ["--cost", "categorical_cross_entropy", "--activation", "gelu", "--learning-rate", 0.5],
        ["--sizes", "4,1", "--cost", "huber"],
        ["--sizes", "4,1", "--cost", "binary_cross_entropy", "--seed", 3],
    ],
)
def test_the_network_and_its_training_can_be_chosen(options):
    result = parity(*options)
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_options_reach_the_comparison():
    lines = parity("--dtype", "float32", "--batch-size", 7, "--steps", 6).stdout.splitlines()
    assert lines[1].split()[3:6] == ["float32", "6", "2"]  # 20 samples: 3 mini-batches an epoch
    assert parity("--seed", 1, "--rtol", 0).exit_code == 0
    assert "--learning-rate must be" in parity("--learning-rate", -1).stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backends", "numpy"], "'numpy' is one target: name two or more"),
        (["--backends", "numpy,numpie"], "unknown backend 'numpie'"),
        (["--backends", "numpy,torch-"], "names no device"),
        (["--sizes", "4,x"], "'4,x' is not a list of whole numbers"),
        (["--steps", "ten"], "'ten' is not a valid integer"),
        (["--epochs", "3"], "No such option"),
    ],
)
def test_a_bad_command_line_is_status_2(options, words):
    result = parity(*options)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", 0], "error: --steps must be at least 1, not 0."),
        (["--steps", 10, "--every", 3], "error: --steps must be a multiple of --every, 3, not 10."),
        (["--samples", 0], "error: --samples must be at least 1"),
        (["--sizes", 4], "error: --sizes must hold at least the inputs and the outputs"),
        (["--activation", "tan"], "error: unknown activation 'tan'"),
        (["--optimizer", "sdg"], "error: unknown optimizer 'sdg'"),
        (["--seed", -1], "error: --seed must be at least 0"),
        (["--backends", "numpy,array_api_strict-mars"], "error: backend 'array_api_strict' has no"),
        (["--learning-rate", 1e300, "--activation", "relu", "--cost", "huber"], "error: the refer"),
    ],
)
def test_an_error_is_one_line_and_status_1(options, words):
    result = parity(*options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1


@pytest.mark.process
def test_jax_compares_in_float64_in_a_process_of_the_program():
    pytest.importorskip("jax")
    settings = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    command = [sys.executable, "-m", "bp_xp", "parity", *SMALL, "--backends", "numpy,jax"]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr
    assert "float64" in done.stdout.splitlines()[2]
