import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bp_xp import Network, __version__
from bp_xp.cli import main
from bp_xp.datasets import load_digits

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


def test_training_takes_less_than_ten_seconds_with_its_start():
    start_time = time.perf_counter()
    with start("train") as process:
        stdout, stderr = process.communicate(timeout=60)
    assert time.perf_counter() - start_time < 10
    assert process.returncode == 0, stderr
    assert accuracy(stdout, "test") >= 96
    assert Path("digits.safetensors").is_file()


def test_training_tells_library_device_and_reason_and_what_to_type_next(monkeypatch):
    monkeypatch.setattr("bp_xp.arrays._has_nvidia_driver", lambda: False)
    stdout, stderr = run_well("train --epochs 2")
    assert "computing with numpy on cpu (no NVIDIA driver on this machine)" in stderr
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
    Path("digits.safetensors").write_text("something older")
    run_well("train -q --epochs 2")
    first = Path("digits.safetensors").read_bytes()
    run_well("train -q --epochs 2")
    assert Path("digits.safetensors").read_bytes() == first
    run_well("train -q --epochs 2 --seed 1")
    assert Path("digits.safetensors").read_bytes() != first


def test_float64_trains_alike_on_every_backend_that_works_here(backend, device):
    scores = []
    for place in (["--device", "cpu"], ["--backend", backend, "--device", device]):
        stdout, _ = run_well("train -q --epochs 2 --dtype float64 -o net", *place)
        scores.append(stdout)
        assert run_well("evaluate net -q", *place)[0].strip() in stdout
    assert scores[0] == scores[1]


def test_program_lets_jax_compute_in_float64():
    pytest.importorskip("jax")
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    for command in (
        "train -q --backend jax --dtype float64 --epochs 1 -o net",
        "predict -q --backend jax net",
    ):
        with start(*command.split(), env=environment) as process:
            _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
    assert Network.load("net").dtype == "float64"


def test_batch_larger_than_the_data_is_a_warning_of_one_line():
    with start("train", "-q", "--epochs", 1, "--batch-size", 5000) as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.fullmatch(r"warning: .*5000.*1437.*\n", stderr)


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
    with start("train", "--epochs", 300, stderr=terminal) as process:
        os.close(terminal)
        reader.start()
        process.communicate(timeout=60)
        reader.join()
    os.close(controller)
    screen = b"".join(shown).decode()
    assert process.returncode == 0
    assert re.search(r"epoch \d+/300: .*samples.*cost 0\.\d{4}", screen)
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
        assert f"--target {target}" in stderr
        score, _ = run_well(f"evaluate t.safetensors --data t.csv --target {target}")
        assert score.strip() in stdout


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


@pytest.mark.parametrize("cost", ["", "quadratic", "huber"])
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
    run_well("train -q --data prices.npz --cost huber")
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


def test_predict_works_on_every_backend_that_works_here(digits_network, backend, device):
    expected, _ = run_well("predict --device cpu", digits_network)
    assert run_well(f"predict --backend {backend} --device {device}", digits_network)[0] == expected


@pytest.mark.parametrize("kind", ["npz", "npy", "csv", "images"])
@pytest.mark.parametrize("labelled", [False, True])
def test_predict_takes_files_with_and_without_labels(digits_network, kind, labelled):
    digits = load_digits()
    x, y = digits.x_test[:20], digits.y_test[:20]
    if kind == "images":
        images = np.round(255 * x).astype(np.uint8).reshape(-1, 8, 8)
        np.savez("new.npz", x=images, **({"y": y} if labelled else {}))
    elif kind == "npz":
        np.savez("new.npz", x=x, **({"y": y} if labelled else {}))
    else:
        table = np.column_stack([x, y]) if labelled else x
        np.save("new.npy", table)
        np.savetxt("new.csv", table, "%.6f", ",")
    file = "new.npz" if kind == "images" else f"new.{kind}"
    stdout, _ = run_well(f"predict --data {file}", digits_network)
    expected = Network.load(digits_network).predict(x)
    assert np.array_equal(np.array(stdout.split(), int), expected)


def test_devices_are_listed_with_reasons_and_with_what_auto_takes(monkeypatch):
    monkeypatch.setattr("bp_xp.arrays._has_nvidia_driver", lambda: False)
    stdout, _ = run_well("devices")
    lines = stdout.splitlines()
    names = ["numpy", "cupy", "torch", "jax", "array_api_strict"]
    assert [line.split()[0] for line in lines[:5]] == names
    assert lines[5] == "--device auto takes numpy on cpu: no NVIDIA driver on this machine"


# ---------------------------------------------------------------------------------------------
# Help


@pytest.mark.parametrize("command", ["", "train", "evaluate", "predict", "devices"])
def test_help_names_every_command_or_has_examples(command):
    stdout, _ = run_well(f"{command} --help")
    assert "Usage: " in stdout
    if command != "devices":
        assert "Examples:\n" in stdout


def test_every_example_in_the_help_is_a_command_line_that_can_be_read():
    for command in ("", "train", "evaluate", "predict"):
        examples = re.findall(
            r"^ +bp-xp (.*?)(?:\s{2,}.*| \| .*)?$", run(f"{command} --help").stdout, re.M
        )
        assert examples
        for example in examples:
            name, *arguments = shlex.split(example)
            main.commands[name].make_context(name, arguments)


def test_defaults_in_the_help_are_those_that_train_takes():
    from bp_xp.cli import _DEFAULTS, _FILE_DEFAULTS

    stdout, _ = run_well("train --help")
    columns = [_DEFAULTS["digits"], _DEFAULTS["mnist"], _FILE_DEFAULTS]
    for words, values in (
        ("epochs", [d.epochs for d in columns]),
        ("batch size", [d.batch_size for d in columns]),
        ("learning rate", [d.learning_rate for d in columns]),
        ("sizes", ["64,64,10", "784,128,10", "features,64,outputs"]),
    ):
        assert re.search(rf"^ *{words} +{' +'.join(map(str, values))}$", stdout, re.MULTILINE)
    assert [d.hidden for d in columns] == [(64,), (128,), (64,)]


def test_version_is_that_of_the_package():
    assert run_well("--version")[0] == f"bp-xp, version {__version__}\n"


def test_help_imports_no_array_library_but_numpy():
    code = (
        "import sys; from bp_xp.cli import main; main(['train', '--help'], standalone_mode=False); "
        "sys.exit(str({'torch', 'jax', 'cupy', 'sklearn', 'pooch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "set()\n"


def test_module_runs_as_the_program():
    with start("--help") as process:
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.startswith("Usage: bp-xp [OPTIONS] COMMAND")


# ---------------------------------------------------------------------------------------------
# C02: errors are one line


BAD = {
    "S01-zero": ("train --sizes 64,0,10", 1, "sizes[1] must be at least 1, not 0"),
    "S01-negative": ("train --sizes 64,-3,10", 1, "sizes[1] must be at least 1, not -3"),
    "S01-fraction": ("train --sizes 64,2.5,10", 2, "'64,2.5,10' is not a list of whole numbers"),
    "S03": ("train --sizes 64,1000000000,1000000000,10", 1, "(1000000000, 1000000000)"),
    "sizes-of-other-data": ("train --sizes 784,30,9", 1, "write --sizes 64,30,10"),
    "sizes-too-few": ("train --sizes 64", 1, "as in [784, 10]"),
    "S10-zero": ("train --learning-rate 0", 1, "learning_rate must be finite and above 0"),
    "S10-nan": (
        "train --learning-rate nan",
        1,
        "learning_rate must be finite and above 0, not nan",
    ),
    "S10-word": ("train --learning-rate fast", 2, "'--learning-rate': 'fast'"),
    "momentum": ("train --momentum 1", 1, "momentum must be"),
    "epochs": ("train --epochs 0", 1, "epochs must be at least 1"),
    "batch-size": ("train --batch-size -1", 1, "batch_size must be at least 1"),
    "l2": ("train --l2 -1", 1, "l2 must be"),
    "S12": ("train --seed -1", 1, "seed must be at least 0, not -1"),
    "S13-activation": ("train --activation relo", 1, "Did you mean 'relu'?"),
    "S13-cost": ("train --cost quadratik", 1, "Did you mean 'quadratic'?"),
    "dtype": ("train --dtype float16", 1, "'float32', 'float64'"),
    "D01": ("train --device gpu", 1, "unknown device 'gpu'"),
    "D02": ("train --device cuda:99", 1, "'cuda:99'"),
    "D04": ("train --backend numpy --device cuda", 1, "backend 'numpy' has no device 'cuda'"),
    "backend": ("train --backend tensorflow", 1, "unknown backend 'tensorflow'"),
    "data-name": ("train --data fashion", 2, "neither digits nor mnist nor a .npz"),
    "data-missing": ("train --data there-is-none.csv", 1, "there-is-none.csv: No such file"),
    "L24": ("train --data text.csv", 1, "line 3, column 1"),
    "L27": ("train --data empty.csv", 1, "no data rows"),
    "L21": ("train --data broken.npz", 1, "broken.npz"),
    "X02": ("train --data huge.npz", 1, "huge.npz"),
    "X10": ("predict net --data narrow.npz", 1, "takes 64 inputs, but narrow.npz has 2 features"),
    "X10-evaluate": ("evaluate net --data narrow.npz", 1, "takes 64 inputs, but narrow.npz has 2"),
    "divergence": ("train --data far.npz", 1, "the run diverged"),
    "target": ("predict net --data wide.csv --target label", 1, "no column of that name"),
    "npz-without-x": ("predict net --data other.npz", 1, "x or x_test is expected"),
    "proba": ("predict numbers --proba", 1, "--proba is for classes"),
    "checkpoint-missing": ("evaluate there-is-none", 1, "there-is-none: No such file"),
    "checkpoint-damaged": ("predict damaged", 1, "damaged"),
    "output-folder": ("train -o nowhere/net", 1, "nowhere: there is no such folder"),
    "output-is-a-folder": ("train -o .", 1, "only a regular file can be replaced"),
    "output-is-a-link": ("train -o link", 1, "only a regular file can be replaced"),
    "output-is-the-data": ("train --data text.csv -o text.csv", 1, "name another file"),
    "output-is-the-network": ("predict net -o net", 1, "name another file"),
    "predict-output": ("predict net -o nowhere/labels.csv", 1, "nowhere: there is no such folder"),
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
    Path("link").symlink_to("net")
    Path("text.csv").write_text("a,b\n1,0\noops,1\n")
    Path("empty.csv").write_text("a,b\n")
    Path("broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savetxt("wide.csv", np.zeros((5, 65)), "%d", ",")
    x, y = rng.normal(size=(50, 2)), np.arange(50) % 2
    np.savez("narrow.npz", x=x, y=y)
    np.savez("huge.npz", x=x * 1e300, y=y)
    np.savez("far.npz", x=x * 1e9, y=x[:, 0])
    np.savez("other.npz", images=x)


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

    monkeypatch.setattr("bp_xp.cli.load_file", fail)
    assert isinstance(run("train --data any.csv").exception, KeyError)


# ---------------------------------------------------------------------------------------------
# C03: signals


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


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


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_second_signal_ends_the_run_in_the_midst_of_a_step(number):
    # Stands for a step that takes long.
    code = (
        "import sys, time; from bp_xp import cli, training; "
        "training.backpropagate = lambda *_, **__: (print('step', flush=True), time.sleep(60)); "
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
    monkeypatch.setattr("bp_xp.cli.load_file", lambda *_, **__: signal.raise_signal(number))
    with sigint_as(signal.default_int_handler):
        result = run("train --data some.csv")
    assert result.exit_code == status
    assert result.stderr == "interrupted: nothing was written\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# ---------------------------------------------------------------------------------------------
# C05: stdout


@posix
@pytest.mark.parametrize(
    "command", ["--help", "train -q --epochs 1", "evaluate net", "predict net"]
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


@posix
def test_full_disk_under_stdout_is_an_error_of_one_line(digits_network):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("w") as stdout, start("predict", "-q", digits_network, stdout=stdout) as process:
        code, stderr = finish(process)
    assert code == 1
    assert re.fullmatch(r"error: .*No space left on device\n", stderr)


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
