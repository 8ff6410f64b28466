import contextlib
import errno
import importlib
import json
import ntpath
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import widest

from bp_xp import (
    SGD,
    Adam,
    AdamW,
    Checkpoint,
    CosineDecay,
    EarlyStopping,
    LinearWarmUp,
    NAdam,
    Network,
    OneCycle,
    ReduceOnPlateau,
    Regularization,
    RMSprop,
    StepDecay,
    __version__,
)
from bp_xp.cli import export_npz, main
from bp_xp.datasets import load_digits
from bp_xp.storage.tensors import read_tensors, write_tensors
from bp_xp.tables import TableModel

PROGRAM = [sys.executable, "-m", "bp_xp"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BP_XP_DATA_DIR", raising=False)
    # Set by the program for JAX, in what it takes for its own process.
    monkeypatch.setenv("JAX_ENABLE_X64", "1")


@pytest.fixture(scope="module")
def digits_network(tmp_path_factory):
    """The file of a network that can read digits."""
    path = tmp_path_factory.mktemp("networks") / "digits.safetensors"
    assert CliRunner().invoke(main, ["train", "-q", "-o", str(path)]).exit_code == 0
    return path


def run(command, *more):
    """Run a command line in this process."""
    return CliRunner().invoke(main, [*shlex.split(command), *map(str, more)])


def run_well(command, *more):
    """Run a command line that must succeed, and return its stdout and stderr."""
    result = run(command, *more)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@contextlib.contextmanager
def sigint_as(handler):
    """Let processes inherit a disposition of SIGINT; tests in the background have it ignored."""
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def start(*arguments, program=PROGRAM, sigint=signal.default_int_handler, **settings):
    """Start a process of the program."""
    with sigint_as(sigint):
        return subprocess.Popen(
            [*program, *map(str, arguments)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings},
        )


@contextlib.contextmanager
def long_run(*arguments, **settings):
    """A process in the midst of a training that would take hours."""
    with start("train", "--epochs", 10**7, "-o", "left.safetensors", *arguments, **settings) as p:
        try:
            for line in p.stderr:
                if line.startswith("epoch 3 "):
                    break
            yield p
        finally:
            p.kill()


def finish(process):
    """Wait for the end of a process; return its exit status and what it still had to say."""
    _, stderr = process.communicate(timeout=30)
    return process.returncode, stderr


def accuracy(stdout, part):
    return float(re.search(rf"{part} part.*accuracy ([\d.]+)%", stdout)[1])


# ---------------------------------------------------------------------------------------------
# train


@pytest.mark.parametrize("seed", range(5))
def test_training_without_further_options_reads_96_percent_of_the_test_digits(seed):
    stdout, _ = run_well(f"train --seed {seed}")
    assert accuracy(stdout, "test") >= 96
    assert accuracy(stdout, "train") >= 99


@pytest.mark.process
def test_training_takes_less_than_ten_seconds_with_its_start():
    start_time = time.perf_counter()
    with start("train") as process:
        stdout, stderr = process.communicate(timeout=60)
    assert time.perf_counter() - start_time < 10
    assert process.returncode == 0, stderr
    assert accuracy(stdout, "test") >= 96
    assert Path("digits.safetensors").is_file()


def test_training_tells_library_device_and_reason_and_what_to_type_next(monkeypatch):
    monkeypatch.setattr("bp_xp.backends.placement._GPUS", {})
    stdout, stderr = run_well("train --epochs 2")
    assert "computing with numpy on cpu (no driver of a GPU on this machine)" in stderr
    assert len(re.findall(r"^epoch \d  cost ", stderr, re.MULTILINE)) == 2
    assert "network written to digits.safetensors" in stdout
    for command in re.findall(r"bp-xp (.*)", stderr):
        run_well(command)


def test_device_named_by_the_user_needs_no_reason():
    _, stderr = run_well("train --epochs 1 --device cpu")
    assert re.search(r"^computing with numpy on cpu$", stderr, re.MULTILINE)


def test_quiet_leaves_results_only():
    stdout, stderr = run_well("train --epochs 1 --quiet")
    assert stderr == ""
    assert [line.split()[0] for line in stdout.splitlines()] == ["digits,", "digits,", "network"]


def test_quiet_does_not_outlast_its_command():
    run_well("train --epochs 1 --quiet")
    assert "epoch 1" in run_well("train --epochs 1")[1]


def test_options_reach_the_network():
    run_well(
        "train -q --sizes 64,12,7,10 --activation tanh --cost quadratic --epochs 1 --batch-size 50 "
        "--learning-rate 0.5 --momentum 0 --l2 0.001 --dtype float64 --seed 7 -o own.safetensors"
    )
    network = Network.load("own.safetensors")
    assert network.sizes == (64, 12, 7, 10)
    assert [sigma.name for sigma in network.model.activations] == ["tanh", "tanh", "sigmoid"]
    assert network.model.cost.name == "quadratic"
    assert (network.dtype, network.seed) == ("float64", 7)


def test_same_seed_gives_the_same_file_and_replaces_the_older_one():
    run_well("train -q --epochs 1")
    run_well("train -q --epochs 2")
    first = Path("digits.safetensors").read_bytes()
    run_well("train -q --epochs 2")
    assert Path("digits.safetensors").read_bytes() == first
    run_well("train -q --epochs 2 --seed 1")
    assert Path("digits.safetensors").read_bytes() != first


@pytest.mark.needs_float64("it is asked for")
def test_float64_trains_alike_on_every_backend_that_works_here(backend, device):
    scores = []
    for place in (["--device", "cpu"], ["--backend", backend, "--device", device]):
        stdout, _ = run_well("train -q --epochs 2 --dtype float64 -o net", *place)
        scores.append(stdout)
        assert run_well("evaluate net -q", *place)[0].strip() in stdout
    assert scores[0] == scores[1]


@pytest.mark.process
def test_program_lets_jax_compute_in_float64():
    pytest.importorskip("jax")
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    command = "train -q --backend jax --dtype float64 --epochs 1 -o net"
    with start(*command.split(), env=environment) as process:
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert Network.load("net").dtype == "float64"


def test_float64_is_asked_of_jax_before_a_network_of_a_file_goes_to_its_device(monkeypatch):
    run_well("train -q --dtype float64 --epochs 1 -o net")
    move, asked = Network.to, []

    def watched(self, *arguments, **options):
        asked.append(os.environ.get("JAX_ENABLE_X64"))
        return move(self, *arguments, **options)

    monkeypatch.setattr(Network, "to", watched)
    monkeypatch.delenv("JAX_ENABLE_X64")
    run_well("predict -q net")
    assert asked == ["1"]


@pytest.mark.filterwarnings("default")
def test_batch_larger_than_the_data_is_a_warning_of_one_line():
    _, stderr = run_well("train -q --epochs 1 --batch-size 5000")
    assert re.fullmatch(r"warning: .*5000.*1437.*\n", stderr)


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_terminal_shows_a_bar_with_the_running_cost():
    import pty
    import termios

    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the terminal is gone
            while text := os.read(controller, 4096):
                shown.append(text)

    reader = threading.Thread(target=read)
    with start("train", "--epochs", 60, stderr=terminal) as process:
        os.close(terminal)
        reader.start()
        process.communicate(timeout=60)
        reader.join()
    os.close(controller)
    screen = b"".join(shown).decode()
    assert process.returncode == 0
    assert re.search(r"epoch \d+/60: .*cost 0\.\d{4}.*samples/s", screen)
    assert "epoch 1  cost" not in screen


# ---------------------------------------------------------------------------------------------
# One's own data


@pytest.fixture
def points(rng):
    x = rng.normal(size=(200, 3))
    return x, x @ [1.0, 2.0, -1.0] + 0.5


def test_classes_of_a_file_are_inferred_from_its_labels(points):
    x, y = points
    np.savez("three.npz", x=x, y=np.digitize(y, [-1, 1]))
    stdout, stderr = run_well("train --data three.npz")
    assert Network.load("three.safetensors").sizes == (3, 64, 3)
    assert accuracy(stdout, "test") > 85
    for command in re.findall(r"bp-xp (.*)", stderr):
        assert "--data three.npz" in command
        run_well(command)


def test_labels_may_be_in_any_column_of_a_table(points):
    x, y = points
    table = np.column_stack([y > 0, x])
    np.savetxt("t.csv", table, "%.4f", ",", header="good,a,b,c", comments="")
    for target in ("good", 0):
        stdout, stderr = run_well(f"train --data t.csv --target {target}")
        assert accuracy(stdout, "test") > 85
        for command in re.findall(r"bp-xp (.*)", stderr):
            run_well(command)


def test_one_output_is_enough_for_two_classes(points):
    x, y = points
    np.savez("two.npz", x=x, y=(y > 0).astype(int))
    stdout, _ = run_well("train --data two.npz --sizes 3,8,1")
    assert accuracy(stdout, "test") > 85
    network = Network.load("two.safetensors")
    assert network.model.cost.name == "binary_cross_entropy"
    lines, _ = run_well("predict two.safetensors --proba --data two.npz")
    assert all(line.count(",") == 1 for line in lines.splitlines())


def test_one_hot_targets_are_classes(points):
    x, _ = points
    np.savez("hot.npz", x=x, y=np.eye(3)[x.argmax(axis=1)])
    assert accuracy(run_well("train --data hot.npz")[0], "test") > 85


@pytest.mark.parametrize("cost", ["", "quadratic", "huber", "huber:delta=2"])
def test_numbers_are_fitted_by_outputs_without_activation(points, cost):
    x, y = points
    np.savez("numbers.npz", x=x, y=y)
    stdout, _ = run_well("train --data numbers.npz", *(["--cost", cost] if cost else []))
    assert "accuracy" not in stdout
    network = Network.load("numbers.safetensors")
    assert network.model.activations[-1].name == "identity"
    lines, _ = run_well("predict numbers.safetensors --data numbers.npz")
    assert np.corrcoef(np.array(lines.split(), float), y)[0, 1] > 0.99


def test_whole_numbers_too_large_for_classes_are_refused_unless_the_cost_is_huber(points):
    x, y = points
    np.savez("prices.npz", x=x, y=np.round(1000 + 10 * y).astype(int))
    result = run("train --data prices.npz")
    assert result.exit_code == 1
    assert "--cost huber" in result.stderr
    run_well("train -q --data prices.npz --cost huber:delta=5")
    run_well("train -q --config prices.toml")
    assert Network.load("prices.safetensors").sizes == (3, 64, 1)


# ---------------------------------------------------------------------------------------------
# evaluate, predict, devices


def test_evaluate_tells_which_part_it_looked_at(digits_network):
    stdout, _ = run_well("evaluate", digits_network)
    assert re.match(r"digits, test part, 360 samples: cost 0\.\d{4}  accuracy 9\d\.\d\d%", stdout)


def test_predict_writes_a_label_a_line_and_nothing_else_to_stdout(digits_network):
    stdout, stderr = run_well("predict", digits_network)
    digits = load_digits()
    labels = np.array([int(line) for line in stdout.splitlines()])
    assert np.array_equal(labels, Network.load(digits_network).predict(digits.x_test))
    assert "computing with" in stderr


def test_predicted_probabilities_read_back_as_they_were(digits_network):
    run_well("predict --proba -o p.csv", digits_network)
    expected = Network.load(digits_network).predict_proba(load_digits().x_test)
    written = np.loadtxt("p.csv", delimiter=",", dtype=np.float32)
    assert np.array_equal(written, expected)


def test_predictions_go_to_a_file_whole_or_not_at_all(digits_network, monkeypatch):
    Path("labels.csv").write_text("something older")

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        result = run("predict -q -o labels.csv", digits_network)
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: labels.csv: No space left on device; it was not written"
    )
    assert Path("labels.csv").read_text() == "something older"
    assert os.listdir() == ["labels.csv"]


def test_predictions_in_a_file_have_the_same_bytes_on_every_system(digits_network):
    run_well("predict -q -o labels.csv", digits_network)
    labels = Network.load(digits_network).predict(load_digits().x_test)
    assert Path("labels.csv").read_bytes() == b"".join(b"%d\n" % label for label in labels)


def test_predict_works_on_every_backend_that_works_here(digits_network, backend, device):
    expected, _ = run_well("predict --device cpu", digits_network)
    assert run_well(f"predict --backend {backend} --device {device}", digits_network)[0] == expected


@pytest.mark.parametrize("kind", ["npz", "npy", "csv", "images"])
@pytest.mark.parametrize("labeled", [False, True])
def test_predict_takes_files_with_and_without_labels(digits_network, kind, labeled):
    digits = load_digits()
    x, y = digits.x_test[:20], digits.y_test[:20]
    if kind == "images":
        images = np.round(255 * x).astype(np.uint8).reshape(-1, 8, 8)
        np.savez("new.npz", x=images, **({"y": y} if labeled else {}))
    elif kind == "npz":
        np.savez("new.npz", x=x, **({"y": y} if labeled else {}))
    else:
        table = np.column_stack([x, y]) if labeled else x
        np.save("new.npy", table)
        np.savetxt("new.csv", table, "%.6f", ",")
    file = "new.npz" if kind == "images" else f"new.{kind}"
    stdout, _ = run_well(f"predict --data {file}", digits_network)
    expected = Network.load(digits_network).predict(x)
    assert np.array_equal(np.array(stdout.split(), int), expected)


def test_devices_are_listed_with_reasons_and_with_what_auto_takes(monkeypatch):
    monkeypatch.setattr("bp_xp.backends.placement._GPUS", {})
    stdout, _ = run_well("devices")
    lines = stdout.splitlines()
    names = ["numpy", "cupy", "torch", "jax", "dpnp", "mlx", "array_api_strict"]
    assert [line.split()[0] for line in lines[:7]] == names
    assert lines[7] == "--device auto takes numpy on cpu: no driver of a GPU on this machine"


# ---------------------------------------------------------------------------------------------
# The options of fit


@pytest.fixture
def fitted(monkeypatch):
    """Call a command line of train and return what fit was given."""

    class StopError(Exception):
        pass

    def fitted(command):
        seen = {}

        def fit(*_, **arguments):
            seen.update(arguments)
            raise StopError

        monkeypatch.setattr(Network, "fit", fit)
        result = run(f"train -q {command}")
        assert isinstance(result.exception, StopError), result.output
        return seen

    return fitted


OPTIMIZERS = {
    "": SGD(0.1, 0.9),
    "--momentum 0.5 --nesterov --learning-rate 0.2": SGD(0.2, 0.5, nesterov=True),
    "--optimizer adam": Adam(0.001),
    "--optimizer adam:beta2=0.99:amsgrad=true": Adam(0.001, beta2=0.99, amsgrad=True),
    "--optimizer adamw --weight-decay 0.1": AdamW(0.001, weight_decay=0.1),
    "--optimizer rmsprop --momentum 0.3": RMSprop(0.01, momentum=0.3),
    "--schedule step:0.5:100": SGD(StepDecay(0.1, 0.5, 100), 0.9),
    # 10 epochs of 45 mini-batches.
    "--schedule cosine --epochs 10": SGD(CosineDecay(0.1, 450), 0.9),
    "--schedule onecycle --epochs 10 --optimizer nadam": NAdam(OneCycle(0.002, 450)),
    "--schedule cosine:99:0.01": SGD(CosineDecay(0.1, 99, 0.01), 0.9),
    # Of 1437 samples 287 are held out: 12 mini-batches of 100 are left.
    "--schedule cosine --epochs 2 --warm-up 5 --batch-size 100 --validation-fraction 0.2": SGD(
        LinearWarmUp(5, CosineDecay(0.1, 19)), 0.9
    ),
    "--schedule cosine --epochs 2 --batch-size 10000": SGD(CosineDecay(0.1, 2), 0.9),
    "--schedule plateau:0.5:3 --monitor cost": SGD(ReduceOnPlateau(0.1, 0.5, 3, "cost"), 0.9),
}


@pytest.mark.parametrize("command", OPTIMIZERS)
def test_optimizer_and_schedule_are_those_of_the_options(command, fitted):
    assert fitted(command)["optimizer"] == OPTIMIZERS[command]


def test_cosine_over_the_run_ends_with_its_last_step(monkeypatch):
    rates = []
    call = CosineDecay.__call__
    monkeypatch.setattr(
        CosineDecay,
        "__call__",
        lambda self, step: rates.append((step, self.steps)) or call(self, step),
    )
    run_well("train -q --epochs 2 --batch-size 100 --validation-fraction 0.3 --schedule cosine")
    last, steps = rates[-1]
    assert last == steps - 1


def test_every_option_of_fit_reaches_it(fitted):
    given = fitted(
        "--l1 0.1 --l2 0.2 --dropout 0.1,0.3 --clip-norm 1 --clip-value 2 --max-norm 3 "
        "--class-weight 0:2,1:0.5 --metric f1 --metric top_2 --validation-fraction 0.25 "
        "--early-stopping 4 --monitor validation_f1 --checkpoint run --checkpoint-every 7 --resume "
        "--no-shuffle --epochs 6 --batch-size 11"
    )
    assert [metric.name for metric in given.pop("metrics")] == ["f1", "top_2"]
    wanted = {
        "regularization": Regularization(
            l1=0.1, l2=0.2, dropout=[0.1, 0.3], clip_norm=1.0, clip_value=2.0, max_norm=3.0
        ),
        "class_weight": {0: 2.0, 1: 0.5},
        "validation_data": 0.25,
        "early_stopping": EarlyStopping("validation_f1", 4),
        "checkpoint": Checkpoint(Path("run"), every=7, resume=True),
        "shuffle": False,
        "epochs": 6,
        "batch_size": 11,
    }
    assert {name: given[name] for name in wanted} == wanted


def test_metrics_are_told_of_both_parts_and_by_evaluate():
    stdout, stderr = run_well("train --epochs 1 --metric f1 --metric top_2")
    train, test, _ = stdout.splitlines()
    assert all(re.search(r"  f1 0\.\d{4}  top_2 0\.\d{4}$", line) for line in (train, test))
    assert "validation" not in stderr.partition("epoch 1")[2]
    score, _ = run_well("evaluate -q digits.safetensors --metric f1 --metric top_2")
    assert score.strip() == test


def test_early_stopping_keeps_the_best_network_and_tells_its_epoch():
    command = "--learning-rate 0.5 --validation-fraction 0.2 --metric f1 --monitor validation_f1"
    _, stderr = run_well(f"train --epochs 200 --early-stopping 2 {command}")
    values = [float(v) for v in re.findall(r"validation f1 ([\d.]+)", stderr)]
    last, best = map(
        int,
        re.search(r"stopped after epoch (\d+); .* that of epoch (\d+), the best", stderr).groups(),
    )
    assert last == best + 2 == len(values) < 200
    assert values[best - 1] == max(values)
    stopped = read_tensors("digits.safetensors")[0]
    run_well(f"train -q --epochs {best} {command.partition('--monitor')[0]}")
    for name, tensor in read_tensors("digits.safetensors")[0].items():
        assert np.array_equal(tensor, stopped[name])


# ---------------------------------------------------------------------------------------------
# Files of settings


ALL_SETTINGS = (
    "--sizes 64,20,15,10 --activation tanh --dtype float64 --seed 5 --epochs 3 --batch-size 40 "
    "--optimizer adamw:beta1=0.8:decay_biases=false --weight-decay 0.02 --learning-rate 0.003 "
    "--schedule cosine --warm-up 10 --l1 1e-6 --l2 0.0001 --dropout 0.1,0.2 --clip-norm 1 "
    "--clip-value 0.5 --max-norm 4 --class-weight 0:2,3:0.5 --validation-fraction 0.1 --metric f1 "
    "--metric top_3 --early-stopping 9 --monitor validation_f1 --checkpoint run.safetensors "
    "--checkpoint-every 50 --plot curves.png --log run.jsonl"
)


@pytest.mark.parametrize(
    "command",
    ["--epochs 2", "--optimizer rmsprop --epochs 2", "--no-shuffle --epochs 2", ALL_SETTINGS],
    ids=["defaults", "rmsprop", "order", "all"],
)
def test_settings_beside_the_network_repeat_the_run_to_the_last_bit(command):
    run_well(f"train --device cpu -o net.safetensors {command}")
    written = {name: Path(name).read_bytes() for name in ("net.safetensors", "net.toml")}
    Path("net.safetensors").unlink()
    run_well("train --config net.toml --overwrite")
    assert {name: Path(name).read_bytes() for name in written} == written


@pytest.mark.parametrize("kind", ["classes", "numbers", "one-output"])
def test_settings_repeat_a_run_on_a_file(kind, points):
    x, y = points
    table = np.column_stack([y if kind == "numbers" else y > 0, x])
    np.savetxt("t.csv", table, "%.4f", ",", header="good,a,b,c", comments="")
    sizes = "--sizes 3,8,1" if kind == "one-output" else ""
    run_well(f"train -q --data t.csv --target good --epochs 2 {sizes}")
    written = {name: Path(name).read_bytes() for name in ("t.safetensors", "t.toml")}
    for target in ("'good'", "0"):
        text = written["t.toml"].decode().replace('target = "good"', f"target = {target}")
        Path("again.toml").write_text(text)
        Path("t.safetensors").unlink()
        run_well("train -q --config again.toml")
        assert Path("t.safetensors").read_bytes() == written["t.safetensors"]
        assert Path("t.toml").read_bytes() == written["t.toml"] or target == "0"


def test_settings_are_written_as_they_were_used():
    run_well(f"train {ALL_SETTINGS} --device cpu")
    settings = tomllib.loads(Path("digits.toml").read_text())
    assert settings == {
        "data": "digits",
        "sizes": [64, 20, 15, 10],
        "activation": "tanh",
        "cost": "categorical_cross_entropy",
        "dtype": "float64",
        "seed": 5,
        "epochs": 3,
        "batch-size": 40,
        "shuffle": True,
        "optimizer": "adamw:beta1=0.8:decay_biases=false",
        "weight-decay": 0.02,
        "learning-rate": 0.003,
        "schedule": "cosine",
        "warm-up": 10,
        "l1": 1e-6,
        "l2": 0.0001,
        "dropout": [0.1, 0.2],
        "clip-norm": 1.0,
        "clip-value": 0.5,
        "max-norm": 4.0,
        "class-weight": "0:2.0,3:0.5",
        "validation-fraction": 0.1,
        "metric": ["f1", "top_3"],
        "early-stopping": 9,
        "monitor": "validation_f1",
        "backend": "numpy",
        "device": "cpu",
        "output": "digits.safetensors",
        "checkpoint": "run.safetensors",
        "checkpoint-every": 50,
        "plot": "curves.png",
        "log": "run.jsonl",
    }
    known = {o.name.replace("_", "-") for o in main.commands["train"].params}
    outside = {
        "config",
        "debug",
        "quiet",
        "resume",
        "overwrite",
        "distributed",  # the run is the same
        *("target", "task", "numeric", "categorical", "drop", "test-fraction"),  # of tables only
        *("targets", "stream", "buffer-size"),  # of files only
        *("split-by", "split-last", "importance"),
    }
    assert known - set(settings) - outside == {"momentum", "nesterov"}


def test_device_in_the_settings_is_the_one_that_was_taken(placement, backend, device):
    run_well(
        f"train -q --epochs 1 --dtype {widest(placement)} --backend {backend} --device {device}"
    )
    first = Path("digits.toml").read_bytes()
    settings = tomllib.loads(first.decode())
    assert settings["backend"] == backend
    score = run_well("evaluate -q digits.safetensors --device cpu")
    run_well("train -q --config digits.toml")
    assert Path("digits.toml").read_bytes() == first
    assert run_well("evaluate -q digits.safetensors --device cpu") == score


def test_command_line_wins_over_the_file():
    Path("run.toml").write_text("epochs = 4\nbatch_size = 50\nmetric = 'f1'\nseed = 3\n")
    run_well("train -q --config run.toml --epochs 1 --metric recall --seed 0")
    settings = tomllib.loads(Path("digits.toml").read_text())
    wanted = {"epochs": 1, "batch-size": 50, "metric": ["recall"], "seed": 0}
    assert {name: settings[name] for name in wanted} == wanted


def test_optimizer_on_the_command_line_leaves_that_of_the_file_out():
    run_well("train -q --epochs 1 --nesterov -o net.safetensors")
    _, stderr = run_well("train --config net.toml --optimizer adam --learning-rate 0.01")
    assert "momentum of net.toml is left out" in stderr
    settings = tomllib.loads(Path("net.toml").read_text())
    assert settings["optimizer"] == "adam"
    assert "momentum" not in settings


def test_paths_in_a_file_start_from_its_folder(points, monkeypatch):
    x, y = points
    Path("data").mkdir()
    Path("runs").mkdir()
    np.savez("data/x.npz", x=x, y=(y > 0).astype(int))
    run_well("train -q --data data/x.npz -o runs/a.safetensors --checkpoint runs/r --epochs 2")
    settings = tomllib.loads(Path("runs/a.toml").read_text())
    paths = {name: Path(settings[name]).as_posix() for name in ("data", "output", "checkpoint")}
    assert paths == {"data": "../data/x.npz", "output": "a.safetensors", "checkpoint": "r"}
    first = Path("runs/a.safetensors").read_bytes()
    Path("runs/a.safetensors").unlink()
    Path("elsewhere").mkdir()
    Path("moved").mkdir()
    os.rename("data", "moved/data")
    os.rename("runs", "moved/runs")
    monkeypatch.chdir("elsewhere")
    run_well("train -q --config ../moved/runs/a.toml --overwrite")
    assert Path("../moved/runs/a.safetensors").read_bytes() == first


def test_paths_in_the_settings_have_slashes_on_windows_too(monkeypatch):
    module = importlib.import_module("bp_xp.cli._settings")
    # Windows' own rules, which know nothing of the folders here.
    windows = SimpleNamespace(join=ntpath.join, relpath=ntpath.relpath, realpath=str)
    monkeypatch.setattr(module, "os", SimpleNamespace(path=windows))
    monkeypatch.setattr(module, "Path", PureWindowsPath)
    for path, wanted in (
        (r"C:\data\x.npz", "../data/x.npz"),
        (r"C:\runs\deep\r", "deep/r"),
        (r"D:\data\x.npz", "D:/data/x.npz"),
    ):
        assert module._relative(PureWindowsPath(path), PureWindowsPath(r"C:\runs")) == wanted


def test_results_of_names_that_mean_one_file_are_refused(monkeypatch):
    # As where names are compared without regard to capitals.
    monkeypatch.setattr("os.path.normcase", str.lower)
    for option in ("--checkpoint NET.safetensors", "--checkpoint Net.toml"):
        result = run(f"train -o net.safetensors {option}")
        assert result.exit_code == 1
        assert "is a result of the run already: name another file" in result.stderr


def test_lists_and_text_mean_the_same_in_a_file():
    for number, text in enumerate(("sizes = [64, 10]", "sizes = '64,10'")):
        Path("run.toml").write_text(f"{text}\nepochs = 1\noutput = '{number}.safetensors'")
        run_well("train -q --config run.toml")
    assert Path("0.safetensors").read_bytes() == Path("1.safetensors").read_bytes()


BAD_SETTINGS = {
    "unknown": ("epoch = 3", "unknown key 'epoch': the nearest is 'epochs'"),
    "unknown-dash": ("batchsize = 3", "the nearest is 'batch-size'"),
    "table": ("[train]\nepochs = 3", "'train' is a table"),
    "fraction": ("epochs = 2.5", "epochs must be a whole number, not 2.5"),
    "quoted": ("learning-rate = '0.1'", 'learning-rate must be a number, not "0.1"'),
    "true": ("seed = true", "seed must be a whole number, not true"),
    "number": ("shuffle = 1", "shuffle must be true or false, not 1"),
    "text": ("data = 3", "data must be text in quotes, not 3"),
    "date": ("seed = 1979-05-27", "seed must be a whole number, not 1979-05-27"),
    "list": ("sizes = [64, 1.5]", "sizes must be a list of whole numbers, not [64, 1.5]"),
    "metric": ("metric = [1]", "metric must be text in quotes or a list of them, not [1]"),
    "sizes": ("sizes = '64,a'", "sizes: '64,a' is not a list of whole numbers"),
    "data": ("data = 'nope'", "data: 'nope' is neither digits nor mnist"),
    "twice": ("batch-size = 3\nbatch_size = 4", "batch_size is given twice"),
    "syntax": ("epochs", "is not a TOML file: Expected '='"),
    "optimizer": ("optimizer = 'adam'\nmomentum = 0.5", "momentum is not a setting of adam"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_file_of_settings_is_one_line_that_names_file_and_key(case):
    text, named = BAD_SETTINGS[case]
    Path("run.toml").write_text(text)
    result = run("train --config run.toml")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert named in line
    if case != "optimizer":
        assert line.startswith("error: run.toml")


def test_settings_do_not_replace_a_file_that_the_program_did_not_write():
    for name in ("digits.toml", "mine.toml"):
        Path(name).write_text("# mine\nepochs = 1\n")
    for command in ("--config digits.toml", "--epochs 1", "-o mine.safetensors"):
        result = run(f"train {command}")
        assert result.exit_code == 1
        assert "which bp-xp did not write: move it" in result.stderr
    assert (
        Path("digits.toml").read_text() == Path("mine.toml").read_text() == "# mine\nepochs = 1\n"
    )
    assert not list(Path().glob("*.safetensors"))


# ---------------------------------------------------------------------------------------------
# inspect, export


def test_inspect_tells_what_a_network_is(digits_network):
    stdout, _ = run_well("inspect", digits_network)
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in stdout.splitlines())
    assert facts == {
        "file": str(digits_network),
        "kind": "network",
        "sizes": "64, 64, 10",
        "activations": "relu, softmax",
        "cost": "categorical_cross_entropy",
        "dtype": "float32",
        "seed": "0",
        "parameters": "4,810",
    }
    told = json.loads(run_well("inspect --json", digits_network)[0])
    assert told["sizes"] == [64, 64, 10]
    assert told["parameters"] == 64 * 64 + 64 + 64 * 10 + 10


def test_inspect_tells_where_a_run_is():
    run_well(
        "train --epochs 3 --checkpoint run --validation-fraction 0.1 --early-stopping 5 --l2 0.01 "
        "--schedule cosine --metric r2"
    )
    told = json.loads(run_well("inspect run --json")[0])
    assert (told["kind"], told["epoch"], told["steps_of_epoch"], told["step"]) == ("run", 3, 0, 123)
    assert told["best_epoch"] in (1, 2, 3)
    assert told["last_record"]["epoch"] == 3
    assert "validation_r2" in told["last_record"]["metrics"]
    assert told["settings"]["regularization"]["l2"] == 0.01
    stdout, _ = run_well("inspect run")
    assert "epoch 3, complete; 123 steps in all" in stdout
    assert re.search(
        r"^last record +epoch 3  cost 0\.\d{4}  accuracy .*validation r2", stdout, re.M
    )
    assert re.search(rf"^best epoch +{told['best_epoch']}$", stdout, re.M)
    assert "SGD(learning_rate=CosineDecay(initial=0.1, steps=123, final=0.0)" in stdout


def test_inspect_tells_of_functions_that_the_library_does_not_have(digits_network):
    tensors, header = read_tensors(digits_network)
    header["network"]["cost"] = "quartic"
    write_tensors("own", tensors, header)
    assert re.search("^cost +quartic$", run_well("inspect own")[0], re.M)


@pytest.mark.parametrize("change", [{"sizes": [64, 64, 9]}, {"sizes": 3}, {"kind": "pie"}, {}])
def test_inspect_and_export_refuse_what_is_no_network(change, digits_network):
    tensors, header = read_tensors(digits_network)
    if "sizes" in change:
        change = {"network": header["network"] | change}
    write_tensors("odd", tensors, header | change if change else {"kind": "network"})
    for command in ("inspect odd", "export odd odd.npz"):
        result = run(command)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: odd can't be read as a network: ")
    assert not Path("odd.npz").exists()


def test_exported_archive_computes_what_the_network_does(digits_network):
    stdout, _ = run_well("export", digits_network, "digits.npz")
    assert stdout == "2 layers written to digits.npz\n"
    with np.load("digits.npz", allow_pickle=False) as archive:
        assert set(archive) == {"W0", "b0", "W1", "b1", "about"}
        assert json.loads(str(archive["about"])) == {
            "sizes": [64, 64, 10],
            "activations": ["relu", "softmax"],
            "cost": "categorical_cross_entropy",
        }
        x = load_digits().x_test
        a = np.maximum(x @ archive["W0"].T + archive["b0"], 0)
        told = np.argmax(a @ archive["W1"].T + archive["b1"], axis=1)
        assert archive["W0"].dtype == np.float32
    assert np.array_equal(told, Network.load(digits_network).predict(x))


def test_export_gives_numpy_nothing_but_arrays_to_keep(monkeypatch):
    # NumPy 2.1 keeps whatever else it is given as an array of that name.
    savez, given = np.savez, {}

    def watched(file, **arrays):
        given.update(arrays)
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", watched)
    export_npz(Network([3, 2], seed=0), "n.npz")
    assert set(given) == {"W0", "b0", "about"}


def test_export_takes_networks_from_every_device_and_replaces_a_file(backend, device):
    network = Network([3, 2], backend=backend, device=device, seed=0)
    Path("n.npz").write_text("something older")
    assert export_npz(network, "n.npz") == Path("n.npz")
    with np.load("n.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["W0"], Network([3, 2], seed=0).layers[0].W)
    assert os.listdir() == ["n.npz"]


@pytest.mark.process
def test_exports_predict_what_the_network_does(digits_network):
    assert run_well("export", digits_network, "digits.py")[0] == "2 layers written to digits.py\n"
    x = load_digits().x_test[:9]
    np.savetxt("rows.csv", x, delimiter=";")
    done = subprocess.run(
        [sys.executable, "digits.py", "rows.csv"], capture_output=True, text=True, check=True
    )
    labels = [int(line.split(",")[0]) for line in done.stdout.splitlines()[1:]]
    assert labels == Network.load(digits_network).predict(x).tolist()
    runtime = pytest.importorskip("onnxruntime")
    run_well("export", digits_network, "digits.onnx")
    session = runtime.InferenceSession("digits.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["label"], {"inputs": x.astype("f4")})[0].tolist() == labels


def test_a_model_of_a_table_is_exported_with_its_preparation():
    table = {"town": ["Ulm", "Bonn", None] * 4, "size": [1.5, 2.5, 4.0] * 4}
    model = TableModel((3,), epochs=1, validation_fraction=0, seed=0)
    model.fit(table, target={"kind": ["a", "b", "c"] * 4}).save("m.safetensors")
    stdout, _ = run_well("export m.safetensors m.py")
    assert stdout == "the preparation of 2 columns and 2 layers written to m.py\n"
    assert "CATEGORIES = [" in Path("m.py").read_text(encoding="utf-8")
    assert run_well("export m.safetensors m.npz")[0] == "2 layers written to m.npz\n"
    pytest.importorskip("onnx")
    run_well("export m.safetensors m.onnx")
    assert b"town" in Path("m.onnx").read_bytes()


def test_export_names_the_extra_that_is_missing(digits_network, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run("export", digits_network, "digits.onnx")
    assert result.exit_code == 1
    assert re.fullmatch(r"error: onnx is not installed.*bp_xp\[onnx\].*\n", result.stderr)
    assert not Path("digits.onnx").exists()


# ---------------------------------------------------------------------------------------------
# Help


COMMANDS = ["", "train", "sweep", "evaluate", "predict", "inspect", "export"]


@pytest.mark.parametrize("command", [*COMMANDS, "devices"])
def test_help_names_every_command_or_has_examples(command):
    stdout, _ = run_well(f"{command} --help")
    assert "Usage: " in stdout
    if command != "devices":
        assert "Examples:\n" in stdout


def test_every_example_in_the_help_is_a_command_line_that_can_be_read():
    Path("digits.toml").touch()
    for command in COMMANDS:
        examples = re.findall(
            r"^ +bp-xp (.*?)(?:\s{2,}.*| \| .*)?$", run(f"{command} --help").stdout, re.M
        )
        assert examples
        for example in examples:
            name, *arguments = shlex.split(example)
            main.commands[name].make_context(name, arguments)


def test_defaults_in_the_help_are_those_that_train_takes():
    from bp_xp.cli._defaults import defaults_of

    stdout, _ = run_well("train --help")
    columns = [defaults_of(data) for data in ("digits", "mnist", "a.npz")]
    for words, values in (
        ("epochs", [d.epochs for d in columns]),
        ("batch size", [d.batch_size for d in columns]),
        ("learning rate", [d.learning_rate for d in columns]),
        ("sizes", ["64,64,10", "784,128,10", "features,64,outputs"]),
    ):
        assert re.search(rf"^ *{words} +{' +'.join(map(str, values))}$", stdout, re.MULTILINE)
    assert [d.hidden for d in columns] == [(64,), (128,), (64,)]


def test_every_option_of_train_has_a_section_and_a_text():
    stdout, _ = run_well("train --help")
    sections = re.findall(r"^(\w[\w ]*):$", stdout, re.MULTILINE)
    assert sections == [
        "Data and network",
        "Table",
        "Run",
        "Optimizer",
        "Regularization",
        "Validation",
        "Device",
        "Files",
        "Program",
    ]
    for option in main.commands["train"].params:
        assert option.opts[0] in stdout.partition("Data and network:")[2]
        assert option.help


def test_version_is_that_of_the_package():
    assert run_well("--version")[0] == f"bp-xp, version {__version__}\n"


@pytest.mark.process
def test_help_imports_no_array_library_but_numpy():
    code = (
        "import sys; from bp_xp.cli import main; main(['train', '--help'], standalone_mode=False); "
        "sys.exit(str({'torch', 'jax', 'cupy', 'sklearn', 'pooch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "set()\n"


@pytest.mark.process
def test_module_runs_as_the_program():
    with start("--help") as process:
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.startswith("Usage: bp-xp [OPTIONS] COMMAND")


# ---------------------------------------------------------------------------------------------
# Errors are one line


BAD = {
    "sizes-zero": ("train --sizes 64,0,10", 1, "--sizes[1] must be at least 1, not 0"),
    "sizes-negative": ("train --sizes 64,-3,10", 1, "--sizes[1] must be at least 1, not -3"),
    "sizes-fraction": ("train --sizes 64,2.5,10", 2, "'64,2.5,10' is not a list of whole numbers"),
    "sizes-huge": ("train --sizes 64,1000000000,1000000000,10", 1, "(1000000000, 1000000000)"),
    "sizes-of-other-data": ("train --sizes 784,30,9", 1, "write --sizes 64,30,10"),
    "sizes-too-few": ("train --sizes 64", 1, "as in --sizes 784,10"),
    "learning-rate-zero": (
        "train --learning-rate 0",
        1,
        "--learning-rate must be finite and above 0",
    ),
    "learning-rate-nan": (
        "train --learning-rate nan",
        1,
        "--learning-rate must be finite and above 0, not nan",
    ),
    "learning-rate-word": ("train --learning-rate fast", 2, "'--learning-rate': 'fast'"),
    "momentum": ("train --momentum 1", 1, "--momentum must be"),
    "epochs": ("train --epochs 0", 1, "--epochs must be at least 1"),
    "batch-size": ("train --batch-size -1", 1, "--batch-size must be at least 1"),
    "l2": ("train --l2 -1", 1, "--l2 must be"),
    "seed-negative": ("train --seed -1", 1, "--seed must be at least 0, not -1"),
    "activation-unknown": ("train --activation relo", 1, "Did you mean 'relu'?"),
    "cost-unknown": ("train --cost quadratik", 1, "Did you mean 'quadratic'?"),
    "dtype": ("train --dtype float16", 1, "'float32', 'float64'"),
    "device-unknown": ("train --device gpu", 1, "unknown device 'gpu'"),
    "device-not-here": ("train --device cuda:99", 1, "'cuda:99'"),
    "device-of-another-backend": (
        "train --backend numpy --device cuda",
        1,
        "backend 'numpy' has no device 'cuda'",
    ),
    "backend": ("train --backend tensorflow", 1, "unknown backend 'tensorflow'"),
    "data-name": (
        "train --data fashion",
        2,
        "neither digits nor mnist, nor a file of arrays (.npz",
    ),
    "data-missing": ("train --data there-is-none.csv", 1, "there-is-none.csv: No such file"),
    "data-few-rows": ("train --data text.csv", 1, "--test-fraction 0.2 of 2 rows"),
    "data-empty": ("train --data empty.csv", 1, "no data rows"),
    "data-broken-archive": ("train --data broken.npz", 1, "broken.npz"),
    "data-too-large-for-float32": ("train --data huge.npz", 1, "huge.npz"),
    "predict-other-features": (
        "predict net --data narrow.npz",
        1,
        "takes 64 inputs, but narrow.npz has 2 features",
    ),
    "evaluate-other-features": (
        "evaluate net --data narrow.npz",
        1,
        "takes 64 inputs, but narrow.npz has 2",
    ),
    "divergence": ("train --data far.npz", 1, "the run diverged"),
    "target": ("predict net --data wide.csv --target label", 1, "no column of that name"),
    "npz-without-x": ("predict net --data other.npz", 1, "x or x_test is expected"),
    "proba": ("predict numbers --proba", 1, "--proba is for classes"),
    "checkpoint-missing": ("evaluate there-is-none", 1, "there-is-none: No such file"),
    "checkpoint-damaged": ("predict damaged", 1, "damaged"),
    "output-name": ("train -o net.npz", 1, "networks are written as .safetensors files"),
    "output-folder": ("train -o nowhere/net", 1, "nowhere: there is no such folder"),
    "output-is-a-folder": ("train -o .", 1, "only a regular file can be replaced"),
    "output-is-a-link": ("train -o link", 1, "only a regular file can be replaced"),
    "output-is-the-data": ("train --data text.csv -o text.csv", 1, "name another file"),
    "output-is-the-network": ("predict net -o net", 1, "name another file"),
    "predict-output-is-a-link": ("predict numbers -o link", 1, "only a regular file can be"),
    "predict-output": ("predict net -o nowhere/labels.csv", 1, "nowhere: there is no such folder"),
    "optimizer": ("train --optimizer adm", 1, "Did you mean 'adam' or 'nadam'?"),
    "optimizer-setting": ("train --optimizer adam:gamma=1", 1, "one of beta1, beta2"),
    "optimizer-value": ("train --optimizer adam:beta1=big", 1, "beta1 must be a number, not 'big'"),
    "optimizer-switch": ("train --optimizer adam:amsgrad=1", 1, "amsgrad must be true or false"),
    "optimizer-momentum": ("train --optimizer sgd:momentum=0.5", 1, "use --momentum instead"),
    "momentum-of-adam": ("train --optimizer adam --momentum 0.5", 1, "of sgd and rmsprop"),
    "decay-of-sgd": (
        "train --weight-decay 0.1",
        1,
        "--weight-decay is not a setting of sgd, but of adamw",
    ),
    "schedule": ("train --schedule cosin", 1, "Did you mean 'cosine'?"),
    "schedule-short": ("train --schedule step:0.5", 1, "write step:FACTOR:STEPS"),
    "schedule-long": ("train --schedule inverse:1:2", 1, "write inverse[:POWER]"),
    "schedule-word": (
        "train --schedule step:0.5:1.5",
        1,
        "STEPS must be a whole number, not '1.5'",
    ),
    "schedule-range": (
        "train --schedule plateau:2",
        1,
        "FACTOR must be finite and above 0 and below 1",
    ),
    "warm-up": ("train --warm-up -1", 1, "--warm-up must be at least 0"),
    "warm-up-long": ("train --warm-up 1350 --schedule cosine", 1, "leaves none of the run's 1,350"),
    "dropout": ("train --dropout lots", 2, "'lots' is neither a number nor a list"),
    "dropout-many": ("train --dropout 0.1,0.1,0.1", 1, "--dropout must be a single value"),
    "class-weight": ("train --class-weight even", 2, "'even' is neither balanced nor a list"),
    "class-weight-twice": ("train --class-weight 0:1,0:2", 2, "the label 0 twice"),
    "class-weight-label": ("train --class-weight 11:3", 1, "the label 11"),
    "metric": ("train --metric f2", 1, "unknown metric 'f2'"),
    "metric-of-numbers": ("train --metric f1 --cost huber", 1, "needs targets that are one class"),
    "fraction": ("train --validation-fraction 1", 1, "--validation-fraction must be"),
    "fraction-of-parts": ("train --data parts.npz --validation-fraction 0.1", 1, "validation part"),
    "early-stopping": ("train --early-stopping 0", 1, "--early-stopping must be at least 1"),
    "no-validation": ("train --early-stopping 3", 1, "--validation-fraction 0.1"),
    "plateau-no-validation": ("train --schedule plateau", 1, "--validation-fraction 0.1"),
    "monitor": ("train --early-stopping 3 --monitor acuracy", 1, "Did you mean 'accuracy'?"),
    "monitor-unmeasured": ("train --early-stopping 3 --monitor f1", 1, "add --metric f1"),
    "monitor-no-classes": (
        "train --early-stopping 3 --monitor accuracy --cost huber",
        1,
        "the outputs are numbers",
    ),
    "monitor-alone": ("train --monitor cost", 2, "--monitor says what"),
    "resume-alone": ("train --resume", 2, "--resume needs --checkpoint"),
    "every-alone": ("train --checkpoint-every 9", 2, "--checkpoint-every needs --checkpoint"),
    "checkpoint-folder": ("train --checkpoint nowhere/run", 1, "nowhere: there is no such folder"),
    "checkpoint-is-output": ("train --checkpoint net -o net", 1, "is a result of the run already"),
    "checkpoint-is-settings": ("train --checkpoint net.toml -o net", 1, "of the run already"),
    "checkpoint-is-data": ("train --data text.csv --checkpoint text.csv", 1, "name another file"),
    "checkpoint-is-a-link": ("train --checkpoint link", 1, "only a regular file can be replaced"),
    "resume-network": ("train --checkpoint net --resume -o x", 1, "it holds a network, not a run"),
    "resume-damaged": ("train --checkpoint damaged --resume -o x", 1, "damaged"),
    "output-is-settings": ("train -o net.toml", 1, "a name that ends in .safetensors"),
    "config-missing": ("train --config there-is-none.toml", 1, "there-is-none.toml: No such file"),
    "config-is-a-folder": ("train --config .", 1, ".: Is a directory"),
    "config-is-no-text": ("train --config broken.npz", 1, "broken.npz is not a TOML file"),
    "inspect-missing": ("inspect there-is-none", 1, "there-is-none: No such file"),
    "inspect-damaged": ("inspect damaged", 1, "is damaged"),
    "inspect-text": ("inspect text.csv", 1, "text.csv is"),
    "export-damaged": ("export damaged out.npz", 1, "is damaged"),
    "export-folder": ("export net nowhere/out.npz", 1, "nowhere: there is no such folder"),
    "export-name": ("export net out.zip", 2, "must end in .npz, .onnx or .py"),
    "export-no-ending": ("export net out", 2, "must end in"),
    "export-of-nothing": ("export there-is-none out.onnx", 1, "there-is-none: No such file"),
    "export-of-text": ("export text.csv out.py", 1, "text.csv is"),
    "export-is-a-link": ("export net link.npz", 1, "is an input of this command"),
    "unknown-option": ("train --nope", 2, "--nope"),
    "unknown-command": ("nope", 2, "'nope'"),
    "no-file": ("predict", 2, "FILE"),
}


@pytest.fixture
def _bad_files(digits_network, rng):
    good = digits_network.read_bytes()
    Path("net").write_bytes(good)
    Path("damaged").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    Network([64, 1], output_activation="identity", seed=0).save("numbers")
    for link in ("link", "link.npz"):
        Path(link).symlink_to("net")
    Path("text.csv").write_text("a,b\n1,0\noops,1\n")
    Path("empty.csv").write_text("a,b\n")
    Path("broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savetxt("wide.csv", np.zeros((5, 65)), "%d", ",")
    x, y = rng.normal(size=(50, 2)), np.arange(50) % 2
    np.savez("narrow.npz", x=x, y=y)
    np.savez("huge.npz", x=x * 1e300, y=y)
    np.savez("far.npz", x=x * 1e9, y=x[:, 0])
    np.savez("other.npz", images=x)
    parts = ("train", "validation", "test")
    np.savez("parts.npz", **{f"{n}_{p}": v for p in parts for n, v in (("x", x), ("y", y))})


@pytest.mark.usefixtures("_bad_files")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_it(case):
    command, status, named = BAD[case]
    files = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    result = run(command)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    *_, last = result.stderr.splitlines()
    if status == 1:
        assert last.startswith("error: ")
        assert named in last
        assert "Traceback" not in result.stderr
    else:
        assert named in result.stderr
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == files


def test_missing_library_names_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    result = run("train --backend cupy")
    assert result.exit_code == 1
    assert re.match(r"error: cupy is not installed.*bp_xp\[cuda", result.stderr)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_folder_that_cannot_be_written_to_is_refused_before_training():
    Path("locked").mkdir(mode=0o500)
    result = run("train -o locked/net")
    assert result.exit_code == 1
    assert "can't be written to" in result.stderr
    assert "epoch" not in result.stderr


def test_debug_shows_the_traceback_as_well():
    result = run("evaluate there-is-none --debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: there-is-none")


def test_mistake_of_the_program_itself_is_not_hidden(monkeypatch):
    def fail(*_, **__):
        raise KeyError("mistake")

    monkeypatch.setattr("bp_xp.cli._data.load_file", fail)
    assert isinstance(run("train --data any.npz").exception, KeyError)


# ---------------------------------------------------------------------------------------------
# Signals


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.mark.process
@posix
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_signal_in_training_leaves_the_network_of_the_last_step(number, status):
    with long_run() as process:
        process.send_signal(number)
        code, stderr = finish(process)
    assert code == status
    assert stderr.splitlines()[-1].endswith("last complete step is in left.safetensors")
    assert "Traceback" not in stderr
    digits = load_digits()
    assert Network.load("left.safetensors").evaluate(digits.x_test, digits.y_test)["accuracy"] > 0.8


@pytest.mark.process
@posix
def test_sigterm_is_heard_where_ctrl_c_is_ignored():
    with long_run(sigint=signal.SIG_IGN) as process:
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        code, _ = finish(process)
    assert code == 143
    Network.load("left.safetensors")


@pytest.mark.process
@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_second_signal_ends_the_run_in_the_midst_of_a_step(number):
    # Stands for a step that takes long.
    code = (
        "import sys, time; from bp_xp import cli; from bp_xp.training import step; "
        "step.backpropagate = lambda *_, **__: (print('step', flush=True), time.sleep(60)); "
        "cli.main(['train', '-q'])"
    )
    with start(program=[sys.executable, "-c", code]) as process:
        assert process.stdout.readline() == "step\n"
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(number)
        code, stderr = finish(process)
    if number == signal.SIGINT:
        assert (code, stderr) == (130, "interrupted: nothing was written\n")
    else:
        assert (code, stderr) == (-signal.SIGTERM, "")
    assert not Path("digits.safetensors").exists()


@posix
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_signal_before_the_first_step_says_that_nothing_was_written(monkeypatch, number, status):
    monkeypatch.setattr("bp_xp.cli._data.load_file", lambda *_, **__: signal.raise_signal(number))
    with sigint_as(signal.default_int_handler):
        result = run("train --data some.npz")
    assert result.exit_code == status
    assert result.stderr == "interrupted: nothing was written\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@posix
def test_sigbreak_of_windows_ends_a_run_as_sigterm_does(monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    epochs = []

    def end_epoch(_, record):
        epochs.append(record.epoch)
        signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr("bp_xp.training.progress.Progress.finish", end_epoch)
    result = run("train -q --epochs 1000 -o left.safetensors")
    assert result.exit_code == 128 + signal.SIGUSR1
    assert result.stderr.endswith("the last complete step is in left.safetensors\n")
    assert len(epochs) < 3
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    Network.load("left.safetensors")


RUN = "--dropout 0.1 --optimizer adam --schedule cosine:900 --validation-fraction 0.1"


@pytest.mark.process
@posix
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_run_that_a_signal_interrupts_goes_on_as_if_nothing_had_happened(number, status):
    arguments = ["--device", "cpu", *RUN.split(), "--checkpoint", "run"]
    with long_run(*arguments) as process:
        process.send_signal(number)
        code, stderr = finish(process)
    assert code == status
    assert stderr.endswith("is in left.safetensors; the same command with --resume resumes it\n")
    epochs = f"--epochs {json.loads(run_well('inspect run --json')[0])['epoch'] + 3}"
    _, stderr = run_well(f"train --resume -o left.safetensors {epochs}", *arguments)
    assert "resuming from run" in stderr
    assert "epoch 1 " not in stderr
    run_well(f"train -q -o whole.safetensors --device cpu {epochs} {RUN}")
    assert Path("left.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()


def test_resume_begins_where_there_is_no_checkpoint_and_may_add_epochs():
    run_well("train -q --epochs 4 -o whole.safetensors")
    for epochs in (2, 4, 4):
        run_well(f"train -q --epochs {epochs} --checkpoint run --resume -o net.safetensors")
    assert Path("net.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()
    assert len(tomllib.loads(Path("net.toml").read_text()).keys() & {"checkpoint", "resume"}) == 1


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--learning-rate 0.2", "--learning-rate was 0.1 and is now 0.2"),
        ("--seed 1", "--seed 0, not 1"),
        ("--sizes 64,10", "its network has sizes"),
    ],
)
def test_resume_with_other_settings_is_refused(option, named):
    run_well("train -q --epochs 1 --checkpoint run")
    before = Path("run").read_bytes()
    result = run(f"train --epochs 2 --checkpoint run --resume {option}")
    assert result.exit_code == 1
    assert named in result.stderr.splitlines()[-1]
    assert Path("run").read_bytes() == before


def test_a_run_is_not_lost_by_forgetting_an_option():
    run_well("train -q --epochs 1 --checkpoint run")
    before = Path("run").read_bytes()
    result = run("train -q --epochs 1 --seed 1 --checkpoint run")
    assert result.exit_code == 1
    assert all(flag in result.stderr for flag in ("--resume", "--overwrite", "--checkpoint"))
    assert Path("run").read_bytes() == before
    run_well("train -q --epochs 1 --seed 1 --checkpoint run --overwrite")
    assert Path("run").read_bytes() != before


@pytest.mark.parametrize("kind", ["a text", "a run", "a damaged network"])
def test_an_output_of_somebody_else_is_not_replaced(kind):
    out = Path("out.safetensors")
    if kind == "a text":
        out.write_text("notes")
    else:
        run_well("train -q --epochs 1 -o out.safetensors --checkpoint run")
        data = out.read_bytes()[:-1] if "net" in kind else Path("run").read_bytes()
        out.write_bytes(data)
    before = out.read_bytes()
    result = run("train -q --epochs 1 -o out.safetensors")
    assert result.exit_code == 1
    assert "would be lost: name another --output, or pass --overwrite" in result.stderr
    assert out.read_bytes() == before
    run_well("train -q --epochs 1 -o out.safetensors --overwrite")
    assert out.read_bytes() != before


def test_resume_takes_the_checkpoint_before_where_the_newest_is_damaged():
    run_well("train -q --epochs 3 --checkpoint run.safetensors -o whole")
    whole = Path("whole").read_bytes()
    run_well("train -q --epochs 2 --checkpoint run.safetensors --overwrite -o part")
    path = Path("run.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    _, stderr = run_well("train --epochs 3 --checkpoint run.safetensors --resume -o part")
    assert stderr.count("resuming from the previous checkpoint") == 1
    assert "resuming from run.previous.safetensors" in stderr
    assert Path("part").read_bytes() == whole


# ---------------------------------------------------------------------------------------------
# Standard output


@pytest.mark.process
@posix
@pytest.mark.parametrize(
    "command", ["--help", "train -q --epochs 1", "evaluate net", "predict net", "inspect net"]
)
def test_closed_pipe_shows_no_traceback(command, digits_network):
    Path("net").write_bytes(digits_network.read_bytes())
    reader, writer = os.pipe()
    os.close(reader)
    with start(*command.split(), stdout=writer) as process:
        os.close(writer)
        code, stderr = finish(process)
    assert code in (0, 1)
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
    assert "Exception" not in stderr


@pytest.mark.process
@posix
def test_full_disk_under_stdout_is_an_error_of_one_line(digits_network):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("w") as stdout, start("predict", "-q", digits_network, stdout=stdout) as process:
        code, stderr = finish(process)
    assert code == 1
    assert re.fullmatch(r"error: .*No space left on device\n", stderr)


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_stdout_cannot_show_are_escaped(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    with start("train", "-q", "--epochs", 1, "-o", "δ.safetensors", env=environment) as process:
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert r"network written to \u03b4.safetensors" in stdout
    assert Path("δ.safetensors").is_file()
    with start("train", "--help", env=environment, text=False) as process:
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_says_what_the_scores_of_two_classes_are(command):
    text = " ".join(run(f"{command} --help").output.split())
    assert "f1_macro" in text
    assert "With two classes, precision, recall and f1 are those of class 1" in text
