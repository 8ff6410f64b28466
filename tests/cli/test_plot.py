import itertools
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bp_xp import Network, plotting
from bp_xp.cli import main
from bp_xp.cli._program import Termination
from bp_xp.datasets import load_digits
from bp_xp.storage.tensors import read_tensors, write_tensors

pytest.importorskip("matplotlib")

from matplotlib import pyplot

BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The program sets these in what it takes for its own process.
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    yield
    assert pyplot.get_fignums() == []


def run(command, *more):
    """Run a command line in this process."""
    return CliRunner().invoke(main, [*shlex.split(command), *map(str, more)])


def run_well(command, *more):
    """Run a command line that must succeed, and return its stdout."""
    result = run(command, *more)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(command, *more, status=1):
    """Run a command line that must fail, and return what it says."""
    result = run(command, *more)
    assert result.exit_code == status, result.output
    return result.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network that reads digits, its checkpoint, and one for a table of two inputs."""
    folder = tmp_path_factory.mktemp("networks")
    digits, checkpoint = folder / "digits.safetensors", folder / "run.safetensors"
    train = "train -q --epochs 3 --validation-fraction 0.1 --early-stopping 3 --metric f1"
    run_well(train, "-o", digits, "--checkpoint", checkpoint)
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    table = np.column_stack([rng.normal(size=(100, 2)) + 2 * y[:, None], y])
    np.savetxt(folder / "two.csv", table, "%.4f,%.4f,%d", header="a,b,kind", comments="")
    run_well("train -q --epochs 3 --data", folder / "two.csv", "-o", folder / "two.safetensors")
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The arguments with which a function of plotting was called."""
    calls = {}

    def watch(name):
        function = getattr(plotting, name)

        def watched(*args, **options):
            calls[name] = (args, options)
            return function(*args, **options)

        monkeypatch.setattr(plotting, name, watched)
        monkeypatch.setattr(f"bp_xp.cli._run.{name}", watched, raising=False)

    for name in plotting.__all__:
        watch(name)
    return calls


# ---------------------------------------------------------------------------------------------
# plot


@pytest.mark.parametrize("kind", ["weights", "confusion", "misclassified", "graph"])
def test_network_is_drawn_to_a_file_named_for_it_and_the_kind(files, kind):
    stdout = run_well(f"plot {kind}", files / "digits.safetensors")
    assert stdout == f"{kind} drawn to digits-{kind}.png\n"
    assert Path(f"digits-{kind}.png").read_bytes().startswith(BEGINNINGS[".png"])


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_suffix_says_the_format(files, suffix):
    run_well("plot weights", files / "digits.safetensors", "-o", f"picture{suffix}")
    start = BEGINNINGS[suffix.lower()]
    assert Path(f"picture{suffix}").read_bytes().startswith(start)


def test_curves_are_those_of_the_run_in_the_checkpoint(files, drawn):
    run_well("plot curves", files / "run.safetensors")
    assert Path("run-curves.png").is_file()
    (history,), _ = drawn["training_curves"]
    run = read_tensors(files / "run.safetensors")[1]["run"]
    assert history["cost"] == [record["cost"] for record in run["history"]]
    assert len(history["validation_f1"]) == 3
    assert history.best_epoch == run["best_epoch"]


def test_regions_are_drawn_of_the_data_that_is_named(files, drawn):
    network, data = files / "two.safetensors", files / "two.csv"
    run_well("plot regions", network, "--data", data, "--class-names", "left,right")
    (_, x, _), options = drawn["decision_regions"]
    assert x.shape == (100, 2)
    assert options["class_names"] == ["left", "right"]


def test_options_reach_the_picture(files, drawn):
    file = files / "digits.safetensors"
    run_well("plot weights --shape 4,16 --units 5", file)
    (_, shape), options = drawn["first_layer_weights"]
    assert (shape, options) == ((4, 16), {"units": 5})
    run_well("plot misclassified --shape 4,16 --class-names a,b,c,d,e,f,g,h,i,j", file)
    (*_, shape), options = drawn["misclassified"]
    assert (shape, options) == ((4, 16), {"class_names": list("abcdefghij")})
    run_well("plot graph --sample 7 --units 3", file)
    (_, x, y), options = drawn["network_graph"]
    digits = load_digits()
    np.testing.assert_array_equal(x, digits.x_test[7:8])
    assert y == digits.y_test[7]
    assert options == {"units": 3}


def test_network_is_drawn_from_the_backend_that_is_named(files, drawn):
    pytest.importorskip("array_api_strict")
    place = "--backend array_api_strict --device device1"
    run_well("plot confusion", files / "digits.safetensors", *place.split())
    (network, *_), _ = drawn["confusion_matrix"]
    assert (network.backend, network.device) == ("array_api_strict", "device1")


def test_older_picture_is_replaced_and_kept_where_drawing_fails(files):
    picture = Path("old.png")
    picture.write_bytes(b"older")
    message = fail("plot weights -o old.png --shape 5,5", files / "digits.safetensors")
    assert "shape 5 × 5 has 25 pixels" in message
    assert picture.read_bytes() == b"older"
    run_well("plot weights -o old.png", files / "digits.safetensors")
    assert picture.read_bytes().startswith(BEGINNINGS[".png"])
    assert [path.name for path in Path().iterdir()] == ["old.png"]


@pytest.mark.parametrize("kind", ["curves", "weights"])
def test_checkpoint_of_a_run_without_epochs_is_no_curve_but_a_network(files, kind):
    tensors, header = read_tensors(files / "run.safetensors")
    header["run"] |= {"history": [], "best_epoch": None, "epoch": 1}
    tensors = {name: one for name, one in tensors.items() if not name.startswith("best.")}
    write_tensors("begun.safetensors", tensors, header)
    if kind == "curves":
        assert "the history is empty" in fail("plot curves begun.safetensors")
    else:
        run_well("plot weights begun.safetensors")


def test_curves_of_a_network_are_refused_with_the_ways_to_get_them(files):
    message = fail("plot curves", files / "digits.safetensors")
    assert "it holds a network without its history" in message
    assert "--checkpoint" in message
    assert "--plot" in message


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("plot curves run --data mnist", "--data does not apply to curves"),
        ("plot weights run --sample 3", "--sample does not apply to weights"),
        ("plot graph run --class-names a,b", "--class-names does not apply to graph"),
        ("plot confusion run --units 3", "--units does not apply to confusion"),
        ("plot pie run", "'pie' is not one of 'curves', 'weights'"),
        ("plot weights run --shape 8x8", "is not a list of whole numbers"),
        ("plot weights", "Missing argument 'FILE'"),
    ],
)
def test_command_line_that_makes_no_sense_is_refused(command, message):
    assert message in fail(command, status=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("plot weights -o picture.jpg", "picture.jpg must end in .png, .svg or .pdf"),
        ("plot weights -o picture", "picture must end in .png, .svg or .pdf"),
        ("plot weights -o nowhere/picture.png", "nowhere: there is no such folder"),
        ("plot graph --sample 360", "digits has 360 test samples, 0 to 359"),
        ("plot graph --sample -1", "--sample must be at least 0"),
        ("plot graph --units 1", "--units must be at least 2"),
        ("plot weights --shape 64", "--shape must be two numbers"),
        ("plot confusion --class-names a,b", "--class-names has 2 names, but there are 10 classes"),
        ("plot regions", "networks of two inputs: this one has 64"),
    ],
)
def test_what_can_not_be_drawn_is_one_line_and_leaves_nothing(files, options, message):
    stderr = fail(options, files / "digits.safetensors", "-q")
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert list(Path().iterdir()) == []


def test_data_of_another_network_is_refused(files):
    message = fail("plot confusion", files / "digits.safetensors", "--data", files / "two.csv")
    assert "takes 64 inputs, but" in message


def test_picture_does_not_replace_the_file_it_is_made_of(files):
    file = Path("network.png")
    file.write_bytes((files / "digits.safetensors").read_bytes())
    assert "is an input of this command" in fail("plot weights network.png -o network.png")
    assert Network.load(file).sizes == (64, 64, 10)


def test_missing_file_is_named():
    assert "absent.safetensors: No such file" in fail("plot weights absent.safetensors")


def test_notebook_that_wants_to_show_all_pictures_is_not_asked(files, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://no_such_backend")
    run_well("plot weights", files / "digits.safetensors")


# ---------------------------------------------------------------------------------------------
# train --plot


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_training_draws_its_curves_at_the_end(suffix, drawn):
    stdout = run_well(f"train -q --epochs 2 --plot curves{suffix}")
    assert stdout.splitlines()[-1] == f"curves drawn to curves{suffix}"
    assert Path(f"curves{suffix}").read_bytes().startswith(BEGINNINGS[suffix])
    (history,), _ = drawn["training_curves"]
    assert len(history) == 2


def test_settings_of_the_run_draw_the_curves_again_beside_them():
    Path("runs").mkdir()
    run_well("train -q --epochs 1 --plot curves.png -o runs/net.safetensors")
    assert re.search(r'^plot = "\.\./curves\.png"$', Path("runs/net.toml").read_text(), re.M)
    Path("curves.png").unlink()
    run_well("train -q --config runs/net.toml")
    assert Path("curves.png").is_file()


def test_run_without_the_option_draws_nothing_and_needs_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run_well("train -q --epochs 1")
    assert {path.suffix for path in Path().iterdir()} == {".safetensors", ".toml"}
    assert "plot" not in Path("digits.toml").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--plot curves.jpeg", "--plot curves.jpeg must end in .png, .svg or .pdf"),
        ("--plot nowhere/curves.png", "nowhere: there is no such folder"),
        ("--plot a.png -o a.png", "--plot a.png is a result of the run already"),
        ("--plot ./a.png --checkpoint a.png", "--plot a.png is a result of the run already"),
        ("--plot a.previous.png --checkpoint a.png", "is a result of the run already"),
    ],
)
def test_picture_that_could_not_be_written_is_refused_before_the_training(options, message):
    stderr = fail("train --epochs 1 " + options)
    assert message in stderr
    assert "epoch 1" not in stderr
    assert list(Path().iterdir()) == []


def test_missing_matplotlib_is_told_before_the_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    stderr = fail("train --epochs 1 --plot curves.png")
    assert "bp_xp[plot]" in stderr
    assert "epoch 1" not in stderr
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("calls", "there"), [(0, False), (5, True)])
def test_interrupted_run_draws_the_epochs_it_has(monkeypatch, calls, there):
    count = itertools.count()
    monkeypatch.setattr(Termination, "asked", lambda self: next(count) >= calls)
    result = run("train -q --epochs 100000 --plot curves.png")
    assert result.exit_code == 130
    assert Path("digits.safetensors").is_file()
    assert Path("curves.png").is_file() == there
