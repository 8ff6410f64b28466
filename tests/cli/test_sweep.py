"""``bp-xp sweep``: from a file of settings to a table."""

import csv
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import bp_xp
from bp_xp import SGD, Adam, CosineDecay, EarlyStopping, Network, ReduceOnPlateau
from bp_xp.cli import main
from bp_xp.datasets import load_digits
from bp_xp.sweeps import making
from bp_xp.sweeps.runs import train_stack
from bp_xp.tables import TableModel, read_table

SMALL = """
data = "digits"
device = "cpu"
sizes = [64, 10]
epochs = 2
batch-size = 100
"""
TWO = SMALL + "[space]\nlearning-rate = [0.001, 0.1]\nl2 = [0.0, 1e-3]\n"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")


def run(content, *options):
    """Run the command with a file of this content."""
    Path("sweep.toml").write_text(content)
    return CliRunner().invoke(main, ["sweep", "sweep.toml", *options])


@pytest.fixture
def asked(monkeypatch):
    """What the function is asked for by the command, by name."""
    found = {}
    function = bp_xp.sweep

    def kept(x, y, space, **given):
        found.update(given, space=space)
        return function(x, y, space, **given)

    monkeypatch.setattr(bp_xp, "sweep", kept)
    return found


def test_the_table_is_printed_and_written():
    result = run(TWO, "-o", "table.csv", "--best", "best.safetensors")
    assert result.exit_code == 0, result.output
    with open("table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert {row["learning_rate"] for row in rows[:2]} == {"0.1"}
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["learning_rate", "l2", "validation_accuracy"]
    assert len([line for line in lines if line.endswith("epochs")]) == 4
    assert "4 of 4 runs" in result.stderr
    data = load_digits()
    accuracy = Network.load("best.safetensors").evaluate(data.x_test, data.y_test)["accuracy"]
    assert f"accuracy {accuracy:.2%}" in result.stdout


def test_settings_are_those_of_train(asked):
    result = run(
        SMALL
        + """
optimizer = "adam:beta2=0.99"
early-stopping = 3
monitor = "validation_f1"
metric = "f1"
sort-by = "validation_f1"
seeds = [4, 5]
draws = 2
seed = 1
dropout = 0.1
class-weight = "0:2"
validation-fraction = 0.3
[[space]]
learning-rate = {log-uniform = [1e-3, 1]}
sizes = [[64, 10], [64, 5, 10]]
[[space]]
optimizer = ["sgd"]
early-stopping = {choice = [2]}
dropout = [0.0, 0.2]
"""
    )
    assert result.exit_code == 0, result.output
    first, second = asked["space"]
    assert repr(first["learning_rate"]) == "log_uniform(0.001, 1.0)"
    assert first["sizes"] == [(64, 10), (64, 5, 10)]
    assert second == {
        "optimizer": [SGD(0.1, 0.9)],
        "early_stopping": [EarlyStopping("validation_f1", 2)],
        "dropout": [0.0, 0.2],
    }
    given = {name: asked[name] for name in ("seeds", "draws", "seed", "metric", "validation_data")}
    assert given == {
        "seeds": [4, 5],
        "draws": 2,
        "seed": 1,
        "metric": "validation_f1",
        "validation_data": 0.3,
    }
    assert asked["class_weight"] == {0: 2.0}
    assert asked["early_stopping"] == EarlyStopping("validation_f1", 3)
    assert (asked["activation"], asked["epochs"], asked["batch_size"]) == ("relu", 2, 100)
    assert asked["optimizer"] == Adam(beta2=0.99)


def test_the_table_may_be_a_parquet_file():
    result = run(SMALL + "[space]\nl2 = [0.1]\n", "-o", "table.parquet")
    assert result.exit_code == 0, result.output
    assert read_table("table.parquet")["l2"].tolist() == [0.1]


def test_a_schedule_is_written_as_for_train(asked):
    result = run(
        SMALL
        + """
monitor = "cost"
[[space]]
schedule = ["constant", "cosine"]
warm-up = [0, 5]
[[space]]
optimizer = ["adam"]
schedule = ["plateau:0.2:3"]
""",
        *("-o", "table.csv"),
    )
    assert result.exit_code == 0, result.output
    steps = 2 * 12  # four fifths of 1437 rows, by hundreds
    made, plateau = (one["schedule"] for one in asked["space"])
    assert [one(0.1, steps) for one in made] == [0.1, CosineDecay(0.1, steps=steps)]
    assert plateau[0](0.1, steps) == ReduceOnPlateau(0.1, 0.2, 3, "cost")
    with open("table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    written = sorted((row["optimizer"], row["schedule"], row["warm_up"]) for row in rows)
    sgd = [("", schedule, f"{steps}") for schedule in ("constant", "cosine") for steps in (0, 5)]
    assert written == [*sgd, ("adam", "plateau:0.2:3", "")]


RENTS = """
data = "rents.csv"
target = "rent"
drop = ["id"]
device = "cpu"
epochs = 5
"""


@pytest.fixture
def rents():
    """A table with text and what is missing in it."""
    size = np.random.default_rng(0).uniform(20, 150, 60)
    lines = ["id,size,town,kind,rent"]
    for i, one in enumerate(size):
        town, kind = ("", "Köln", "Ulm")[i % 3], "large" if one > 80 else "small"
        lines.append(f"{i},{'' if i % 7 == 2 else one},{town},{kind},{9 * one + 300}")
    Path("rents.csv").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.usefixtures("rents")
def test_the_best_model_of_a_table_is_what_train_makes():
    result = run(f"{RENTS}folds = 2\n[space]\nepochs = [5]", "--best", "best.safetensors")
    assert result.exit_code == 0, result.output
    command = "train --data rents.csv --target rent --drop id --epochs 5 --device cpu -o t"
    said = CliRunner().invoke(main, shlex.split(command)).stdout
    best, trained = map(TableModel.load, ("best.safetensors", "t"))
    np.testing.assert_array_equal(best.predict("rents.csv"), trained.predict("rents.csv"))
    assert best.card == trained.card
    (line,) = [line for line in said.splitlines() if "test part" in line]
    assert line in result.stdout
    assert "town  2 categories" in result.stderr


@pytest.mark.usefixtures("rents")
def test_settings_of_a_table_are_those_of_train():
    result = run(
        RENTS.replace('"rent"', '"kind"')
        + """
validation-fraction = 0.3
test-fraction = 0
class-weight = "large:2"
metric = "f1"
sort-by = "f1"
[[space]]
hidden-layer-sizes = [[8], [4, 4]]
[[space]]
optimizer = ["sgd"]
momentum = [0.5]
schedule = ["cosine", "plateau"]
warm-up = [3]
""",
        *("--best", "best.safetensors", "--plot", "table.png"),
    )
    assert result.exit_code == 0, result.output
    assert len([line for line in result.stdout.splitlines() if line.endswith("epochs")]) == 4
    assert "training part, 60 rows" in result.stdout
    card = TableModel.load("best.safetensors").card
    assert card is not None
    assert (card.data, set(card.metrics)) == ("rents.csv", {"training"})
    assert "f1" in card.metrics["training"]


@pytest.mark.usefixtures("rents")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("target = 'rnt'", "target needs a column 'rnt'"),
        ("target = 7", "target = 7: "),
        ("class-weight = 'big:2'\ntarget = 'kind'", "class-weight names the class 'big'"),
        ("validation-fraction = 1.5", "validation-fraction must be"),
        ("folds = 50", "folds"),
        ("drop = ['rom']", "drop names 'rom'"),
        ("folds = 2\nsplit-by = 'kind'", "folds = 2 is too many for groups of 'kind'"),
        ("momentum = 0.5", "momentum is not a setting of Adam"),
        ("hidden-layer-sizes = [8, 0]", "hidden-layer-sizes must be"),
    ],
)
def test_an_error_of_a_table_names_what_the_file_has(content, words):
    data = "" if "target" in content else "target = 'rent'\n"
    result = run(f"data = 'rents.csv'\n{data}{content}\n[space]\nl2 = [0.1]")
    assert result.exit_code == 1, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in error


def test_folds_are_halved():
    result = run(f"folds = 2\nhalving = 2\n{SMALL}[space]\nlearning-rate = [1e-9, 0.1]", "-q")
    assert result.exit_code == 0, result.output
    best, other = [line.split() for line in result.stdout.splitlines()[1:3]]
    assert (best[0], best[-1]) == ("0.1", "epochs")
    assert (other[0], other[-1]) == ("1e-09", "dropped")


def test_files_are_those_beside_the_file_of_settings(asked):
    Path("there").mkdir()
    rng = np.random.default_rng(0)
    np.savez("there/xy.npz", x=rng.normal(size=(30, 2)), y=rng.normal(size=30))
    Path("there/s.toml").write_text(
        'data = "xy.npz"\nbatch-size = 8\n[space]\nlearning-rate = [0.01]\n'
    )
    result = CliRunner().invoke(main, ["sweep", "there/s.toml", "-q"])
    assert result.exit_code == 0, result.output
    assert asked["sizes"] == (2, 64, 1)
    assert asked["output_activation"].name == "identity"
    assert "validation_cost" in result.stdout


@pytest.mark.parametrize("space", ["l2 = [0.0]", "l2 = [0.0, 1.0]\nl1 = [0.0, 1.0]"])
def test_a_picture_is_drawn(space):
    pytest.importorskip("matplotlib")
    result = run(f"{SMALL}[space]\n{space}", "--plot", "table.png")
    assert result.exit_code == 0, result.output
    assert Path("table.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_leaves_the_table_of_what_is_finished(monkeypatch, number, status):
    done = []

    def interrupted(stack, problem, *more):
        if done:
            signal.raise_signal(number)
        done.append(stack)
        return train_stack(stack, problem, *more)

    content = SMALL + "[space]\nbatch-size = [100, 200]\n"
    with monkeypatch.context() as patched:
        patched.setattr(making, "train_stack", interrupted)
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            options = ["-o", "table.csv", "--folder", "runs", "--best", "best.safetensors"]
            result = run(content, *options)
        finally:
            signal.signal(signal.SIGINT, previous)
    assert result.exit_code == status
    assert "interrupted" in result.stdout
    assert "finished, and best.safetensors is not written" in result.stderr
    assert not Path("best.safetensors").exists()
    assert len(Path("table.csv").read_text().splitlines()) == 2
    result = run(content, "--folder", "runs")
    assert result.exit_code == 0
    assert "2 of 2 runs" in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epochs = 1", "no table [space]"),
        ("epoch = 1\n[space]", "epochs"),
        ("schedule = 'cosin'\n[space]", "cosine"),
        ("[space]\nschedule = ['step:x:3']", "FACTOR must be a number"),
        ("[space]\nwarm-up = [0, 10000]", "warm-up = 10000 leaves none"),
        ("schedule = 'plateau'\nmonitor = 'validation_cost'\nfolds = 3\n[space]", "watch the cost"),
        ("task = 'regression'\n[space]", "task is for tables"),
        ("[space]\nhidden-layer-sizes = [[3]]", "hidden-layer-sizes is for tables"),
        ("data = 'a.csv'\n[space]\nsizes = [[3, 3]]", "write hidden-layer-sizes"),
        ("data = 'a.csv'\nearly-stopping = 3\n[space]", "early-stopping is not for tables"),
        ("seeds = 'x'\n[space]", "seeds must be a whole number"),
        ("[space]\nlearning-rat = [1.0]", "learning-rate"),
        ("[space]\nlearning-rate = 0.1", "list of the values"),
        ("[space]\nlearning-rate = ['x']", "must be a number"),
        ("[space]\nlearning-rate = {log = [0.1, 1.0]}", "log-uniform"),
        ("[space]\nlearning-rate = {uniform = [0.1]}", "the least and the largest"),
        ("[space]\nlearning-rate = {uniform = ['a', 1]}", "uniform of learning-rate: the least"),
        ("[space]\nlearning-rate = [0.1]\nlearning_rate = [0.2]", "learning-rate is given twice"),
        ("space = []", "nothing to try"),
        ("[spaces]", "the nearest is 'space'"),
        ("halving = 1\n[space]", "halving must be at least 2"),
        ("[space]\nlearning-rate = {uniform = [0.1, 1.0]}", "draws = 20"),
        ("[space]\nlearning-rate = [-1.0]", "learning-rate must be"),
        ("[space]\nmomentum = [0.5]\noptimizer = ['adam']", "momentum is not a setting of Adam"),
        ("[space]\nactivation = ['relo']", "relu"),
        ("[space]\nsizes = [[3, 10]]", "write sizes = [64, 10]"),
        ("seeds = 0\n[space]\nl2 = [0.0]", "seeds"),
        ("folds = 3\nvalidation-fraction = 0.1\n[space]\nl2 = [0.0]", "leave one out"),
        ("sort-by = 'validation_f1'\n[space]\nl2 = [0.0]", "sort-by = validation_f1"),
        ("halving = 2\nearly-stopping = 3\n[space]\nl2 = [0.0]", "early-stopping"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_an_error_names_what_the_file_can_have(content, words):
    result = run(f'device = "cpu"\n{content}')
    assert result.exit_code == 1, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in error


@pytest.mark.parametrize("options", ["-o table.txt", "-o no/table.csv", "--plot x.txt", "--jobs 0"])
def test_files_that_can_not_be_written_are_told_before_anything_is_made(options, asked):
    result = run(TWO, *shlex.split(options))
    assert result.exit_code in (1, 2)
    assert not asked


def test_an_adam_of_its_own_keeps_its_numbers(asked):
    assert run(f"optimizer = 'adam:beta2=0.9'\n{SMALL}[space]\nl2 = [0.0]").exit_code == 0
    assert asked["optimizer"] == Adam(beta2=0.9)
