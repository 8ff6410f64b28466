"""What a command says is wrong, and advises, is about what its user has typed and can type.

``conftest.py`` checks each message that these command lines print, and those of the other files.
"""

import gzip
import shlex
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from messages import strange_to_command
from safetensors.numpy import save_file

from bp_xp import Network
from bp_xp.backends.cupy import library as cupy_library
from bp_xp.cli import main
from bp_xp.math import equations
from bp_xp.storage.tensors import read_tensors, write_tensors

WITH_NUMBERS_AND_A_NAME = "1,2,kind\n1,2,0\n3,4,1\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of which each is wrong in a way of its own, beside some that are not."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(30, 2)), np.arange(30) % 3
    _write_tables(folder, x, labels)
    _write_archives(folder, x, labels)
    for name, sizes, more in (
        ("two", [2, 4, 3], {"cost": "categorical_cross_entropy"}),
        ("line", [2, 1], {"output_activation": "identity"}),
        ("plane", [2, 2], {"output_activation": "identity"}),
        ("one", [2, 1], {"cost": "binary_cross_entropy"}),
        ("odd", [65, 3], {"cost": "categorical_cross_entropy"}),
        ("digits", [64, 10], {"cost": "categorical_cross_entropy"}),
    ):
        Network(sizes, seed=0, **more).save(folder / f"{name}.safetensors")
    tensors, header = read_tensors(folder / "two.safetensors")
    write_tensors(folder / "nan.safetensors", {n: a * np.nan for n, a in tensors.items()}, header)
    write_tensors(folder / "pie.safetensors", tensors, header | {"kind": "pie"})
    unmatched = header["network"] | {"activations": ["sigmoid", "tanh"]}
    write_tensors(folder / "unmatched.safetensors", tensors, header | {"network": unmatched})
    save_file(tensors, folder / "foreign.safetensors")
    (folder / "pickle.safetensors").write_bytes(b"\x80\x04 and no more")
    (folder / "empty").mkdir()
    (folder / "mnist").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        # A header alone, which promises much.
        content = struct.pack(">4B3I", 0, 0, 8, 3, 10**6, 28, 28)
        (folder / "mnist" / f"{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return folder


def _write_tables(folder, x, labels):
    table = "\n".join(f"{a},{b},{label}" for (a, b), label in zip(x, labels, strict=True))
    for name, text in {
        "good": f"a,b,kind\n{table}\n",
        "header": WITH_NUMBERS_AND_A_NAME,
        "gap": "a,b\n1,\n",
        "nan": "a,b\nnan,1\n2,0\n",
        "uneven": "1,2\n3\n",
        "word": "a,b\n1,2\nx,3\n",
        "short": "1,2,0\n3,4,1\n",
        "narrow": "1\n2\n",
    }.items():
        (folder / f"{name}.csv").write_text(text)
    np.save(folder / "flat.npy", np.ones(5))
    np.save(folder / "nan.npy", np.full((5, 2), np.nan))
    np.save(folder / "none.npy", np.ones((0, 2)))
    np.save(folder / "text.npy", np.array([["a", "b"]] * 3))
    np.save(folder / "complex.npy", np.ones((3, 2)) * 1j)
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)


def _write_archives(folder, x, labels):
    for name, arrays in {
        "good": {"x": x, "y": labels},
        "numbers": {"x": x, "y": 5.0 * x[:, 0]},
        "shares": {"x": x, "y": np.abs(x[:, :1]) @ np.ones((1, 3)) % 1.0},
        "many": {"x": x, "y": np.arange(30) % 12},
        "binary": {"x": x, "y": np.arange(30) % 2},
        "nan": {"x": x * np.nan, "y": labels},
        "nan-target": {"x": x, "y": x[:, 0] * np.nan},
        "rows": {"x": x, "y": labels[:-1]},
        "one-part": {"x_train": x, "y_train": labels},
        "lonely": {"x": x},
        "cubes": {"x": x.reshape(30, 2, 1), "y": x},
        "far": {"x": x * 1e9, "y": x[:, 0]},
    }.items():
        np.savez(folder / f"{name}.npz", **arrays)
    np.savez_compressed(folder / "bomb.npz", x=np.zeros((10**5, 2)), y=np.zeros(10**5))


@pytest.fixture
def run(files, monkeypatch):
    """Run a command line beside the files, and return its result."""
    monkeypatch.chdir(files)
    monkeypatch.delenv("BP_XP_DATA_DIR", raising=False)
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("bp_xp.datasets.bounded._HARMLESS", 1000)
    there = set(files.iterdir())

    def run(command):
        arguments = shlex.split(command)
        before = set(files.iterdir())
        result = CliRunner().invoke(main, arguments)
        assert set(files.iterdir()) == before or result.exit_code == 0
        return result

    yield run
    for path in set(files.iterdir()) - there:
        path.unlink()


def of(command, *rests):
    """Return command lines that begin alike."""
    return [f"{command} {rest}" for rest in rests]


BAD_DATA = (
    *("header.csv", "gap.csv", "nan.csv", "uneven.csv", "word.csv", "absent.csv", "empty.csv"),
    *("flat.npy", "nan.npy", "none.npy", "text.npy", "complex.npy", "objects.npy", "narrow.csv"),
    *("nan.npz", "nan-target.npz", "rows.npz", "one-part.npz", "bomb.npz"),
)
# Beside those of test_cli.py, test_plot.py and test_parity_command.py.
BAD = [
    *of("train --data", *BAD_DATA, "short.csv", "lonely.npz"),
    *of("train --data good.csv --target", "nope", "9", "-4"),
    *of("train --data numbers.npz --cost", "binary_cross_entropy", "categorical_cross_entropy"),
    *of("train --data shares.npz --cost", "categorical_cross_entropy"),
    *of("train --data far.npz --learning-rate 5", "--momentum 0", "--l2 1", "--schedule inverse"),
    *of("train --sizes", "64", "64,0,10", "64,1"),
    "train --data binary.npz --sizes 2,1 --cost categorical_cross_entropy",
    *of("train --activation", "softmax", "relo"),
    *of("train --optimizer", "adam:beta2=2", "rmsprop:alpha=3", "adagrad:learning_rate_decay=-1"),
    *of("train --optimizer", "adam:momentum=1", "adamw --weight-decay -1", "sgd:rate=1"),
    "train --nesterov --momentum 0",
    "train --optimizer adam --weight-decay 0.1",
    *of("train --schedule", "step:0:5", "step:0.5:0", "step:x:5", "cosine:0", "cosine:10:-1"),
    *of("train --schedule", "inverse:-1", "exponential:0", "exponential:0.5:x", "plateau:0.5:0"),
    *of("train", "--warm-up -1", "--clip-norm 0", "--clip-value nan", "--max-norm -1", "--l1 -1"),
    *of("train", "--dropout 1", "--dropout 0.1,2", "--dropout 0.1,0.1,0.1", "--batch-size 0"),
    *of("train", "--epochs 0", "--seed -1", "--learning-rate 0", "--early-stopping 0"),
    *of("train --class-weight", "0:-1", "11:1", "1:2 --cost huber"),
    *of("train --data good.npz --validation-fraction", "0.999", "-1", "nan", "0.001"),
    *of("train --checkpoint", "run.npz", "run --checkpoint-every 0", "run --checkpoint-every -1"),
    *of("train", "--backend tensorflow", "--device gpu", "--dtype float16"),
    *of("train --backend", "numpy --device cuda", "torch --device mars", "torch --device cuda"),
    *of("train --metric", "f2", "top_0"),
    *of(
        "predict two.safetensors --data",
        *(one for one in BAD_DATA if one[:3] not in ("nan", "row", "one")),
    ),
    *of("sweep", "absent.toml", "good.csv", "empty"),
    *of("predict two.safetensors --data", "nan.csv", "nan.npy", "nan.npz", "good.csv --target x"),
    *of(
        "predict",
        "nan.safetensors",
        "pie.safetensors",
        "foreign.safetensors",
        "unmatched.safetensors",
    ),
    *of(
        "predict",
        "pickle.safetensors",
        "absent.safetensors",
        "two.safetensors",
        "line.safetensors --proba",
    ),
    *of("evaluate two.safetensors --data", *BAD_DATA, "numbers.npz", "many.npz", "shares.npz"),
    *of("evaluate two.safetensors --data good.npz", "--metric f2", "--device gpu", "--backend x"),
    *of("evaluate", "nan.safetensors", "two.safetensors", "one.safetensors --data numbers.npz"),
    *of("evaluate line.safetensors --data numbers.npz --metric", "f1", "top_2"),
    *of(
        "inspect", "nan.safetensors", "pie.safetensors", "foreign.safetensors", "good.npz", "empty"
    ),
    *of("export", "nan.safetensors out.npz", "two.safetensors empty/no/out.npz", "empty out.npz"),
    *of("export", "nan.safetensors out.onnx", "pie.safetensors out.py", "good.npz out.py"),
    *of("export two.safetensors", "empty/no/out.py"),
    *of("plot", "curves two.safetensors", "weights odd.safetensors", "weights nan.safetensors"),
    *of("plot weights two.safetensors --shape", "3,3", "2", "0,2", "1,1,2"),
    *of("plot weights digits.safetensors --units", "0", "-1"),
    *of(
        "plot graph digits.safetensors", "--units 1", "--units 1000", "--sample -1", "--sample 999"
    ),
    *of("plot regions", "digits.safetensors", "plane.safetensors --data cubes.npz"),
    *of("plot confusion", "line.safetensors --data numbers.npz", "two.safetensors --data many.npz"),
    *of("plot misclassified", "odd.safetensors", "line.safetensors --data numbers.npz"),
    *of("plot misclassified digits.safetensors", "--shape 3,3", "--class-names a,b"),
    *of("plot confusion two.safetensors --data good.npz", "--class-names a,b", "--device gpu"),
    *of("parity --sizes 4,2", "--steps 0", "--steps 10 --every 3", "--samples 0", "--rtol -1"),
    *of("parity --sizes 4,2", "--optimizer sgd:momentum=0.5", "--optimizer adam:beta1=1"),
    *of("parity --sizes 4,2", "--backends numpy,torch-cuda", "--backends numpy,numpy-cuda"),
    *of("parity --sizes 4,3,2 --steps 1", "--dropout 3", "--batch-size 0", "--learning-rate 0"),
    *of("parity --steps 1 --sizes", "4", "4,1 --cost categorical_cross_entropy"),
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", BAD)
def test_an_error_names_what_can_be_typed(command, run):
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    result = run(command)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert result.stdout == ""


def test_every_command_that_can_fail_is_driven_into_errors():
    assert {line.split()[0] for line in BAD} == set(main.commands) - {"devices"}


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--learning-rate 0.2", "--learning-rate was 0.1 and is now 0.2"),
        ("--batch-size 9", "--batch-size was 8 and is now 9"),
        ("--momentum 0.5", "--momentum was 0.9 and is now 0.5"),
        ("--clip-norm 2", "--clip-norm was 1.0 and is now 2.0"),
        ("--early-stopping 5", "--early-stopping was 4 and is now 5"),
        ("--no-shuffle", "--shuffle was True and is now False"),
        ("--metric r2", "--metric was"),
        ("--optimizer adam", "--optimizer was"),
        ("--validation-fraction 0.3", "the data is not the same"),
        ("--schedule cosine", "--learning-rate was 0.1 and is now {"),
    ],
)
def test_what_is_another_setting_of_a_resumed_run_has_its_flag(option, named, run):
    whole = (
        "train -q --data good.npz -o resumed --checkpoint run --epochs 1 --batch-size 8 "
        "--learning-rate 0.1 --clip-norm 1 --validation-fraction 0.2 --early-stopping 4"
    )
    assert run(whole).exit_code == 0
    result = run(f"{whole} --resume {option}")
    assert result.exit_code == 1
    assert named in result.stderr


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("train --data good.npz", "Use a smaller --batch-size; no step was left incomplete."),
        ("predict two.safetensors --data good.npz", ""),
        ("evaluate two.safetensors --data good.npz", ""),
    ],
)
@pytest.mark.filterwarnings("default")
def test_too_little_memory_is_no_reason_to_name_a_size_that_cannot_be_chosen(
    command, advice, run, monkeypatch
):
    def fail(*_, **__):
        raise MemoryError("so much")

    monkeypatch.setattr(equations, "weighted_input", fail)
    result = run(f"{command} -q --device cpu")
    last = result.stderr.splitlines()[-1]
    assert last == f"error: out of memory (numpy on cpu): so much. {advice}".rstrip()


@pytest.mark.parametrize(
    ("folder", "named"), [("empty", "unset BP_XP_DATA_DIR"), ("mnist", "file")]
)
def test_archives_of_mnist_that_are_missing_or_promise_too_much(folder, named, run, monkeypatch):
    monkeypatch.setenv("BP_XP_DATA_DIR", folder)
    result = run("train --data mnist")
    assert result.exit_code == 1
    assert named in result.stderr


@pytest.fixture
def _cupy_without_a_driver(monkeypatch):
    runtime = SimpleNamespace(driverGetVersion=lambda: 0)
    cuda = SimpleNamespace(runtime=runtime)
    cupy = SimpleNamespace(is_available=lambda: False, cuda=cuda, __version__="14")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cupy_library.CuPy, "namespace", lambda self: None)


@pytest.mark.usefixtures("_cupy_without_a_driver")
@pytest.mark.parametrize("command", ["train --device cuda", "parity --backends numpy,cupy"])
def test_another_device_is_advised_where_one_can_be_named(command, run):
    message = run(command).stderr.splitlines()[-1]
    assert "install the driver" in message
    assert ("or use --device cpu." in message) == command.startswith("train")


@pytest.mark.usefixtures("_cupy_without_a_driver")
def test_the_list_of_devices_advises_none(run):
    (line,) = (one for one in run("devices").stdout.splitlines() if one.startswith("cupy"))
    assert line.endswith("finds no NVIDIA driver: install the driver.")


def test_a_report_of_parity_names_its_own_options(run, monkeypatch):
    exact = equations.weighted_input

    def odd(a, W, b):
        z = exact(a, W, b)
        return z * 1.001 if type(a).__module__.startswith("array_api_strict") else z

    monkeypatch.setattr(equations, "weighted_input", odd)
    command = "parity --backends numpy,array_api_strict --sizes 4,3,2 --steps 6 --every 3"
    stdout = run(command).stdout
    assert "Pass --every 1 to see which of 3 steps differs" in stdout
    for line in stdout.splitlines():
        assert not strange_to_command("parity", shlex.split(command), line)


def test_a_path_that_holds_a_name_of_an_argument_is_left_as_it_is(run):
    result = run("predict batch_size=3/learning_rate.safetensors")
    assert "batch_size=3/learning_rate.safetensors: No such file" in result.stderr


# ---------------------------------------------------------------------------------------------
# What is checked is checked


@pytest.mark.parametrize(
    ("message", "strange"),
    [
        ("the field is empty. Fill it, or pass missing='allow'.", ["missing"]),
        ("batch_size must be at least 1, not 0.", ["batch_size"]),
        ("x contains NaN: 3 value(s).", ["x"]),
        ("hold samples out with --validation-fraction 0.1.", ["--validation-fraction"]),
        ("draw the curves of a checkpoint (train --checkpoint).", []),
        ("see bp-xp curves.", ["bp-xp curves"]),
        ("is what came from elsewhere.csv.", ["elsewhere.csv"]),
        ("a share of 0.2 is none: pass a fraction that leaves some.", ["pass a fraction"]),
        ("unknown activation 'batch_size': choose one of 'relu'.", []),
        ("name the data that it is for with --data.", []),
    ],
)
def test_what_cannot_be_typed_is_found(message, strange):
    found = strange_to_command("predict", ["net", "--data", "new.csv"], message)
    assert all(any(part in one for one in found) for part in strange)
    assert bool(found) == bool(strange)
