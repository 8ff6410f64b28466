"""Each example runs alone, in a process of its own, and prints what its docstring says."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bp_xp import Network
from bp_xp.datasets import load_digits

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# Refuses silent conversion to NumPy: it stands in for a GPU.
STRICT = ["--backend", "array_api_strict", "--device", "device1"]
needs_strict = pytest.mark.skipif(
    importlib.util.find_spec("array_api_strict") is None, reason="needs array_api_strict"
)


def environment(folder):
    """Return an environment without MNIST, in which a small product takes one thread."""
    removed = ("BP_XP_DATA_DIR", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "LOCALAPPDATA": str(folder)}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return kept | home | threads | {"PYTHONPATH": str(EXAMPLES.parent), "PYTHONUTF8": "1"}


def command(name, *arguments):
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]


def run(folder, name, *arguments, expect=0):
    """Return what an example prints; ``expect`` is its exit code."""
    done = subprocess.run(
        command(name, *arguments),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == expect, done.stderr
    if not expect:
        assert done.stderr == ""
        return done.stdout
    return done.stderr


def numbers(line):
    """Return the numbers of a line of a table."""
    return [float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,]*\.?\d*(?:e[+-]\d+)?", line)]


def test_every_example_explains_itself_and_takes_a_device():
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""')
        assert '"--device"' in text
        assert '"--backend"' in text


def test_book_network_learns_the_small_digits(tmp_path):
    lines = run(tmp_path, "book_network.py", "--epochs", 3).splitlines()
    assert lines[0].startswith("1,437 training and 360 test images: the small digits")
    epochs = [line for line in lines if line.startswith("Epoch")]
    assert [line.split(":")[0] for line in epochs] == ["Epoch 0", "Epoch 1", "Epoch 2"]
    _, right, total = numbers(epochs[-1])
    assert total == 360
    assert right / total > 0.85


def test_book_network_takes_a_folder_of_mnist(tmp_path):
    assert "FileNotFoundError" in run(
        tmp_path, "book_network.py", "--data-dir", tmp_path / "none", expect=1
    )


def check_equations(text):
    rows = re.findall(r"^   BP(\d) .* (\S+) +(\S+)$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    for _, largest, off in rows:
        assert float(off) < 1e-8 < float(largest)
    nudges = [numbers(line) for line in text.splitlines() if re.match(r"   0\.0?0?1 ", line)]
    assert len(nudges) == 3
    # The smaller the nudge, the nearer is the change of the cost to δ Δz.
    off = [abs(change / expected - 1) for _, change, expected in nudges]
    assert off[0] < 0.1
    assert off[1] < 0.01


def test_four_equations_hold_and_cost_less_than_differences(tmp_path):
    text = run(tmp_path, "four_equations.py", "--widths", 4, 32)
    check_equations(text)
    small, large = (
        numbers(line)[-4:] for line in text.splitlines() if re.match(r"   \[(4|32), ", line)
    )
    assert (small[0], large[0]) == (32, 2048)
    assert large[-1] > small[-1] > 1
    slopes = {
        line.split("=")[0] + line.split("=")[1].split()[0]: numbers(line)[-4:]
        for line in text.splitlines()
        if "input a = " in line
    }
    quadratic, small_input, _, cross_entropy = slopes.values()
    assert quadratic == sorted(quadratic, reverse=True)
    assert cross_entropy == sorted(cross_entropy)
    np.testing.assert_allclose(small_input, np.multiply(quadratic, 0.1), atol=1e-6)


@pytest.mark.parametrize(
    "options", [["--activation", "gelu"], ["--activation", "tanh", "--cost", "huber"]]
)
def test_four_equations_hold_for_other_functions(tmp_path, options):
    check_equations(run(tmp_path, "four_equations.py", "--widths", 2, *options))


def test_four_equations_draws_what_it_measured(tmp_path):
    pytest.importorskip("matplotlib")
    run(tmp_path, "four_equations.py", "--widths", 2, "--plot", tmp_path / "slow.png")
    assert (tmp_path / "slow.png").stat().st_size > 1000


def test_deep_relu_classifier_prints_published_beside_computed(tmp_path):
    text = run(tmp_path, "deep_relu_classifier.py", "--iterations", 101)
    table = [line.split() for line in text.splitlines() if re.match(r" +\d+  0\.", line)]
    assert table == [
        ["0", "0.69301356", "0.69301356"],
        ["100", "0.69204859", "0.69204859"],
    ]


def test_matrix_minibatch_gives_the_same_gradients_faster(tmp_path):
    text = run(tmp_path, "matrix_minibatch.py", "--batch-sizes", 1, 50, "--repeats", 3)
    for size, differ, *_, times in (numbers(line) for line in text.splitlines()[2:]):
        assert differ < 1e-13
        assert times > (3 if size == 50 else 0)


def test_logical_not_ends_near_the_negated_inputs(tmp_path):
    text = run(tmp_path, "logical_not.py", "--seed", 3)
    rows = [numbers(line) for line in text.splitlines() if re.match(r" [01] [01] ", line)]
    assert [row[:2] for row in rows] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    for a, b, not_a, not_b, *outputs in rows:
        assert (not_a, not_b) == (1 - a, 1 - b)
        assert np.abs(np.subtract(outputs[:2], [not_a, not_b])).max() < 0.1
        assert np.abs(np.subtract(outputs[2:], [not_a, not_b])).max() < 0.1  # the published ones


@needs_strict
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("book_network.py", ["--epochs", 1]),
        ("four_equations.py", ["--widths", 2]),
        ("deep_relu_classifier.py", ["--iterations", 2]),
        ("matrix_minibatch.py", ["--batch-sizes", 3, "--repeats", 1]),
        ("logical_not.py", ["--steps", 100]),
        ("train_on_gpu.py", ["--data", "digits", "--epochs", 1]),
    ],
)
def test_every_example_runs_on_a_device_that_is_not_the_hosts(tmp_path, name, options):
    assert run(tmp_path, name, *STRICT, *options)


# ---------------------------------------------------------------------------------------------
# The script for a job queue

DIGITS = ("train_on_gpu.py", "--device", "cpu", "--data", "digits", "--hidden", 32, "--seed", 1)


def test_train_on_gpu_logs_each_epoch_and_saves_the_network(tmp_path):
    saved = tmp_path / "runs" / "digits.safetensors"
    text = run(tmp_path, *DIGITS, "--epochs", 6, "--output", saved)
    assert [line for line in text.splitlines() if "validation accuracy" in line][5]
    accuracy = numbers(text.partition("test accuracy")[2].splitlines()[0])[0] / 100
    digits = load_digits()
    judged = Network.load(saved).evaluate(digits.x_test, digits.y_test)["accuracy"]
    assert abs(judged - accuracy) < 1e-3
    assert accuracy > 0.85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "nonesuch"], "ValueError: unknown backend 'nonesuch'"),
        (["--device", "cuda", "--backend", "numpy"], "has no device 'cuda'"),
        (["--data", "mnist", "--data-dir", "none"], "OSError: There is no none"),
        (["--hidden", 0], r"sizes\[1\] must be at least 1"),
    ],
)
def test_train_on_gpu_tells_an_error_in_one_line(tmp_path, options, message):
    error = run(tmp_path, *DIGITS, *options, expect=1)
    assert len(error.splitlines()) == 1
    assert re.search(message, error)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can catch")
@pytest.mark.parametrize("ctrl_c", [signal.SIG_DFL, signal.SIG_IGN], ids=["front", "background"])
def test_train_on_gpu_saves_what_there_is_when_terminated(tmp_path, ctrl_c):
    """A shell starts its background jobs with Ctrl-C ignored, and queues their jobs likewise."""
    saved = tmp_path / "digits.safetensors"
    previous = signal.signal(signal.SIGINT, ctrl_c)  # the child inherits it
    try:
        process = subprocess.Popen(
            command(*DIGITS, "--epochs", 100_000, "--output", saved),
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        assert process.stdout is not None
        while "epoch 2" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped after" in rest
    assert Network.load(saved).sizes == (64, 32, 10)
