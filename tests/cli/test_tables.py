"""Tables from the shell: what people have on their disks, good and bad."""

import csv
import gzip
import io
import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bp_xp import plotting
from bp_xp.cli import main
from bp_xp.datasets.reader import read_table
from bp_xp.tables import TableModel

RNG = np.random.default_rng(3)
N = 90
KINDS = ["groß, teuer", "mittel", "klein"]
SIZE = RNG.uniform(20, 150, N)
TABLE = {
    "id": [*range(1, N + 1)],
    "size": ["" if i % 9 == 4 else f"{v:.1f}" for i, v in enumerate(SIZE)],
    "town": ["" if i % 13 == 5 else t for i, t in enumerate(RNG.choice(["Köln", "Ulm"], N))],
    "house": [f"h{i % 12}" for i in range(N)],
    "built": [f"{1 + i % 28}.03.{1990 + i % 30}" for i in range(N)],
    "kind": [KINDS[0 if v > 100 else 1 if v > 60 else 2] for v in SIZE],
    "rent": [f"{12 * v + 300:.2f}" for v in SIZE],
}
FAST = "--device cpu --epochs 25 --sizes"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")


def write(name, columns):
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return name


def run(command, *more):
    return CliRunner().invoke(main, [*shlex.split(command), *map(str, more)])


def run_well(command, *more):
    result = run(command, *more)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def rows_of(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Models of classes and of numbers, and what train said."""
    folder = tmp_path_factory.mktemp("trained")
    said = {}
    for target, other in (("kind", "rent"), ("rent", "kind")):
        data = write(folder / f"{target}.csv", TABLE)
        command = f"train --device cpu --epochs 40 --validation-fraction 0.15 --drop {other}"
        result = run(command, "--data", data, "--target", target, "-o", folder / f"{target}")
        assert result.exit_code == 0, result.output
        said[target] = result
    return folder, said


# ---------------------------------------------------------------------------------------------
# train


def test_train_tells_its_decisions_and_judges_in_words_and_units(trained):
    _, said = trained
    told = said["kind"].stderr
    for line in (
        "id     left out: it numbers the rows",
        "size   number, with a column for what is missing",
        "town   2 categories, with a column for what is missing",
        "house  12 categories",
        "built  date, in days",
        "rent   left out: as was asked for",
        "kind   target: classification of kind: groß, teuer, klein, mittel; text",
    ):
        assert line in told
    for part, n in (("training", 61), ("validation", 11), ("test", 18)):
        assert f"kind, {part} part, {n} rows:  accuracy " in said["kind"].stdout
        assert f"rent, {part} part, {n} rows:  r2 " in said["rent"].stdout
    model = TableModel.load(trained[0] / "rent")
    mae = float(re.search(r"test part.*mae (\S+)", said["rent"].stdout)[1])
    assert mae == pytest.approx(model.card.metrics["test"]["mae"], rel=1e-3)


def test_recipe_is_that_of_the_class():
    run_well(f"train -q --epochs 20 --data {write('t.csv', TABLE)} --target rent --test-fraction 0")
    settings = tomllib.loads(Path("t.toml").read_text(encoding="utf-8"))
    assert settings["schedule"] == "cosine"
    model = TableModel(epochs=20, seed=0).fit("t.csv", target="rent")
    loaded = TableModel.load("t.safetensors")
    np.testing.assert_array_equal(loaded.predict("t.csv"), model.predict("t.csv"))
    # An explicit optimizer has its own rate.
    run_well("train -q --epochs 1 --data t.csv --target rent --optimizer sgd")
    settings = tomllib.loads(Path("t.toml").read_text(encoding="utf-8"))
    assert (settings["schedule"], settings["learning-rate"]) == ("constant", 0.02)


def test_table_in_parts_is_the_same_run_and_predicts_the_same(monkeypatch):
    write("table.csv", TABLE)
    train = "train -q --device cpu --epochs 2 --data table.csv --target kind --output"
    told, _ = run_well(f"{train} whole.safetensors")
    in_parts, _ = run_well(f"{train} parts.safetensors --stream")
    assert in_parts.replace("parts", "whole") == told
    assert "stream = true" in Path("parts.toml").read_text()
    models = [TableModel.load(name) for name in ("whole.safetensors", "parts.safetensors")]
    for mine, its in zip(*(model.network.layers for model in models), strict=True):
        np.testing.assert_array_equal(mine.W, its.W)
    predict = "predict -q whole.safetensors --data table.csv --proba"
    known, _ = run_well(predict)
    monkeypatch.setattr("bp_xp.datasets.stored_table._LARGE", 1)
    monkeypatch.setattr("bp_xp.cli._tables.ROWS_AT_ONCE", 32)
    assert len(rows_of(known)) > 64
    for one, other in zip(rows_of(known)[1:], rows_of(run_well(predict)[0])[1:], strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose([*map(float, one[1:])], [*map(float, other[1:])], rtol=1e-5)
    result = run("train --stream --epochs 1")
    assert result.exit_code == 2
    assert "--stream is for files, and digits is in memory" in result.stderr


def test_settings_beside_the_model_repeat_the_run():
    options = "--numeric id --categorical house --split-by built --class-weight"
    options += " mittel:2,klein:0.5 --metric precision --log run.jsonl --validation-fraction 0.15"
    write("t,1.csv", {"to,wn" if name == "town" else name: v for name, v in TABLE.items()})
    run_well(f"train -q {FAST} 19,8,3 --data t,1.csv --target kind -o m.safetensors {options}")
    settings = tomllib.loads(Path("m.toml").read_text(encoding="utf-8"))
    assert settings["target"] == "kind"
    assert settings["numeric"] == ["id"]
    written = Path("m.safetensors").read_bytes()
    run_well("train -q --config m.toml")
    assert Path("m.safetensors").read_bytes() == written
    epochs = [json.loads(line) for line in Path("run.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [*range(1, len(epochs) + 1)]
    assert "validation_precision" in epochs[0]


def test_several_targets_and_columns_with_commas_are_named():
    write("t.csv", {"a,b": TABLE["size"], "x": TABLE["rent"], "y,z": SIZE, "town": TABLE["town"]})
    command = f"train -q {FAST} 5,4,2 --data t.csv --target"
    run_well(command, 'x,"y,z"', "--drop", "town", "--sizes", "2,4,2")
    assert TableModel.load("t.safetensors").preparation.targets.names == ("x", "y,z")
    run_well("train -q --config t.toml")
    run_well("train -q --epochs 2 --data t.csv --target", "y,z")
    assert TableModel.load("t.safetensors").preparation.targets.names == ("y,z",)
    lines = rows_of(run_well("predict -q t.safetensors --data t.csv")[0])
    assert lines[0] == ["y,z"]
    assert len(lines) == N + 1


@pytest.mark.parametrize("name", ["t.tsv", "t.csv.gz", "t.parquet"])
def test_other_files_are_tables_too(name):
    write("t.csv", TABLE)
    if name.endswith("gz"):
        Path(name).write_bytes(gzip.compress(Path("t.csv").read_bytes()))
    elif name.endswith("tsv"):
        text = "\n".join("\t".join(row) for row in rows_of(Path("t.csv").read_text("utf-8")))
        Path(name).write_text(text, encoding="utf-8")
    else:
        import duckdb

        duckdb.sql(f"COPY (SELECT * FROM read_csv('t.csv')) TO '{name}' (FORMAT parquet)")
    run_well(f"train -q --epochs 1 --target rent --data {name}")
    assert len(rows_of(run_well(f"predict -q t.safetensors --data {name}")[0])) == N + 1


def test_rows_are_held_out_as_asked():
    write("t.csv", TABLE)
    held = "--validation-fraction 0.15"
    for options, rows in (
        ("", {"training": 72, "validation": 0, "test": 18}),
        (f"--test-fraction 0 {held}", {"training": 76, "validation": 14, "test": 0}),
        (f"--split-last {held}", {"training": 61, "validation": 11, "test": 18}),
        (f"--split-by house {held}", {"training": 68, "validation": 8, "test": 14}),
    ):
        stdout, _ = run_well(f"train -q --epochs 1 --data t.csv --target rent {options}")
        assert TableModel.load("t.safetensors").card.rows == rows
        assert ("test part" in stdout) == (rows["test"] > 0)
    assert run("train -q --data t.csv --test-fraction 0 --importance").exit_code == 1


def test_a_checkpoint_predicts_from_tables_and_resumes():
    write("t.csv", TABLE)
    command = "train -q --data t.csv --target kind --checkpoint run.safetensors --log log.csv"
    command += " --schedule constant"  # the recipe's has its end from the start
    run_well(f"{command} --epochs 3 -o whole")
    Path("run.safetensors").unlink()
    run_well(f"{command} --epochs 2 -o part")
    run_well(f"{command} --epochs 3 -o part --resume")
    whole = run_well("predict -q whole --data t.csv --proba")[0]
    assert run_well("predict -q part --data t.csv --proba")[0] == whole
    assert [row[0] for row in rows_of(Path("log.csv").read_text())] == ["epoch", "1", "2", "3"]
    rows = rows_of(run_well("predict -q run.safetensors --data t.csv")[0])
    assert rows[0] == ["kind"]
    assert "target  " not in run_well("inspect run.safetensors")[0]


def test_importance_is_told_and_drawn(monkeypatch):
    write("t.csv", TABLE)
    drawn = []
    monkeypatch.setattr("bp_xp.cli._tables.column_importance", lambda *a, **o: drawn.append(a))
    stdout, _ = run_well(
        "train -q --learning-rate 0.01 --data t.csv --target rent --drop kind --importance"
    )
    lines = stdout.partition("is shuffled\n")[2].splitlines()
    assert lines[0].split()[0] == "size"
    assert [line.split()[0] for line in lines[:4]] == [*drawn[0][0]]
    assert Path("t-importance.png").is_file()
    monkeypatch.setattr("bp_xp.cli._files.has_matplotlib", lambda: False)
    _, stderr = run_well("train --epochs 1 --data t.csv --target rent --importance -o u")
    assert "no chart is drawn: matplotlib is not installed" in stderr
    assert not Path("u-importance.png").exists()


# ---------------------------------------------------------------------------------------------
# predict, evaluate, inspect, plot


def test_predictions_are_a_table_in_words_and_units(trained):
    folder, _ = trained
    new = dict(reversed(TABLE.items())) | {"more": ["x"] * N}
    for target in ("kind", "rent"):
        del new["rent" if target == "kind" else "id"]
        model = TableModel.load(folder / target)
        write("new.csv", new)
        rows = rows_of(run_well(f"predict -q {folder / target} --data new.csv")[0])
        assert rows[0] == [target]
        predicted = model.predict("new.csv").tolist()
        if target == "kind":
            assert [row[0] for row in rows[1:]] == predicted
        else:
            np.testing.assert_allclose([float(row[0]) for row in rows[1:]], predicted, rtol=1e-8)
    rows = rows_of(run_well(f"predict -q {folder / 'kind'} --data new.csv --proba -o p.csv")[0])
    assert rows == []
    rows = rows_of(Path("p.csv").read_text(encoding="utf-8"))
    assert rows[0] == ["kind", "groß, teuer", "klein", "mittel"]
    probabilities = TableModel.load(folder / "kind").predict_proba("new.csv")
    np.testing.assert_array_equal(np.array([r[1:] for r in rows[1:]], np.float32), probabilities)
    assert run(f"predict {folder / 'rent'} --data new.csv --proba").exit_code == 1
    del new["size"]
    result = run(f"predict -q {folder / 'rent'} --data", write("less.csv", new))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "the model needs a column 'size'; the table has the columns kind, built" in result.stderr


def test_no_rows_get_a_header_alone(trained):
    Path("none.csv").write_text(",".join(TABLE) + "\n")
    stdout, stderr = run_well(f"predict -q {trained[0] / 'kind'} --data none.csv --proba")
    assert rows_of(stdout) == [["kind", "groß, teuer", "klein", "mittel"]]
    assert not stderr
    assert "no data rows" in run(f"evaluate -q {trained[0] / 'kind'} --data none.csv").stderr


def test_a_table_that_leaves_the_training_is_told_once(trained):
    folder, _ = trained
    new = {name: values[:4] for name, values in TABLE.items()}
    new |= {"size": ["999", "50", "-3", ""], "town": ["Rom", "Ulm", "", "Ulm"]}
    write("new.csv", new)
    for command in ("predict", "evaluate"):
        _, stderr = run_well(f"{command} -q {folder / 'rent'} --data new.csv")
        (warning,) = stderr.splitlines()
        assert warning.startswith(
            "warning: new.csv has values that training did not see: size: 2 values out"
        )
        assert "town: 1 value unseen: Rom" in warning
        refused = run(f"{command} -q {folder / 'rent'} --data new.csv --target size").stderr
        assert "--target is not for" in refused


def test_evaluate_judges_all_rows(trained):
    folder, _ = trained
    data = write("t.csv", TABLE)
    model = TableModel.load(folder / "rent")
    found = json.loads(run_well(f"evaluate -q {folder / 'rent'} --data {data} --json")[0])
    assert found["rows"] == N
    assert found["metrics"] == pytest.approx(model.evaluate(data))
    line, _ = run_well(f"evaluate -q {folder / 'kind'} --data {data} --metric precision_macro")
    assert line.startswith("t, all, 90 rows:  accuracy ")
    assert "precision macro 0." in line
    result = run(f"evaluate -q {folder / 'rent'} --data {data} --metric f1")
    assert "'f1' is for classes" in result.stderr


def test_evaluate_has_json_of_networks_too():
    run_well("train -q --epochs 1")
    found = json.loads(run_well("evaluate -q digits.safetensors --json")[0])
    assert found["rows"] == 360
    assert set(found["metrics"]) == {"cost", "accuracy"}


def test_inspect_shows_preparation_and_card(trained):
    folder, _ = trained
    text, _ = run_well(f"inspect {folder / 'rent'}")
    assert "\ntown   2 categories, with a column for what is missing\n" in text
    assert "\nrent   target: regression of rent; numbers with fractions\n" in text
    assert "61 for training, 11 for validation, 18 for test, of rent.csv" in text
    assert re.search(r"^trained +20\d\d-\d\d-\d\d, bp_xp ", text, re.MULTILINE)
    assert re.search(r"^built +1990-03-\d\d ... 2019-03-", text, re.MULTILINE)
    facts = json.loads(run_well(f"inspect {folder / 'rent'} --json")[0])
    assert facts["columns"]["id"] == "left out: it numbers the rows"
    assert facts["card"]["rows"] == {"training": 61, "validation": 11, "test": 18}
    assert facts["card"]["columns"]["town"]["counts"].keys() == {"Köln", "Ulm"}
    assert {"r2", "mae"} == set(facts["card"]["metrics"]["test"])


def test_pictures_of_a_table_have_its_names(trained, monkeypatch):
    folder, _ = trained
    data, calls = write("t.csv", TABLE), []
    draw = plotting.confusion_matrix
    monkeypatch.setattr(
        plotting, "confusion_matrix", lambda *a, **o: (calls.append((a, o)), draw(*a, **o))
    )
    run_well(f"plot -q confusion {folder / 'kind'} --data {data}")
    ((_, x, _), options) = calls[0]
    assert len(x) == N
    assert options["class_names"] == ["groß, teuer", "klein", "mittel"]


def test_models_of_tables_want_tables(trained):
    folder, _ = trained
    for command in ("predict", "evaluate", "plot confusion"):
        result = run(f"{command} {folder / 'kind'} --data digits")
        assert result.exit_code == 1
        assert "takes tables: name a .csv, .tsv, .parquet file with --data" in result.stderr
    result = run("train --data digits --numeric a")
    assert result.exit_code == 2
    assert "--numeric is for tables" in result.stderr


# ---------------------------------------------------------------------------------------------
# Bad tables


def lines(n, line="{i},x{two},{half}"):
    return "".join(f"{line}\n".format(i=i * i, two=i % 2, half=i / 2) for i in range(n))


GOOD = f"a,b,y\n{lines(40)}"
DAYS = "".join(f"2024-01-{i + 1:02d},{i / 2}\n" for i in range(19))
BAD = {
    "empty": ("", "no data rows"),
    "blank": ("\n \n\n", "no data rows"),
    "header only": ("a,b,y\n", "no data rows below its header"),
    "one row": ("a,b,y\n1,x,2\n", "of 1 rows leaves none"),
    "two rows": ("a,b,y\n1,x,2\n2,z,3\n", "of 2 rows leaves none"),
    "short line": (f"{GOOD}1,x\n", "line 42: 2 fields, but the first line has 3"),
    "long line": (f"{GOOD}1,x,2,3\n", "line 42: 4 fields"),
    "late long line": (f"a,b,y\n{lines(12_000)}1,x,2,3\n", "line 12002: 4 fields"),
    "name twice": ("a,b,a,y\n1,x,2,3\n", "columns 1 and 3 are both called 'a'"),
    "no such target": (GOOD.replace("y", "z"), "--target needs a column 'y'; the table has"),
    "space as separator": (GOOD.replace(",", " "), "--target needs a column 'y'"),
    "colon as separator": (GOOD.replace(",", ":"), "--target needs a column 'y'"),
    "target missing": (f"{GOOD}1,x,\n2,x,NA\n", "row 41, column 'y': the target is missing"),
    "target all missing": ("a,y\n" + "1,\n2,\n" * 9, "row 1, column 'y': the target is missing"),
    "one class": ("a,y\n" + "1,u\n2,u\n" * 9, "column 'y' holds 'u' in every row"),
    "one number": ("a,y\n" + "1,3\n2,3\n" * 9, "column 'y' holds 3 in every row"),
    "target alone": ("y\n1\n2\n3\n4\n5\n6\n7\n8\n9\n", "no column is left to learn from"),
    "constant column": ("a,y\n" + "1,u\n1,v\n" * 9, "no column is left"),
    "all missing column": ("a,y\n" + ",u\n,v\n" * 9, "no column is left"),
    "text on the 10,000th row": (
        f"a,b,y\n{lines(9_999)}oops,x,2\n",
        "row 10000, column 'a': 'oops' is not a number",
    ),
    "text in the target": (f"{GOOD}1,x,many\n", "row 41, column 'y': 'many' is not a number"),
    "word for infinity": (f"{GOOD}inf,x,2\n", "row 41, column 'a': the number is infinite"),
    "too large": (f"{GOOD}1e999,x,2\n", "row 41, column 'a': the number is infinite"),
    "too large a target": (f"{GOOD}1,x,-1e999\n", "row 41, column 'y': the number is infinite"),
    "two styles of dates": (f"a,y\n{DAYS}31.01.2024,5\n", "row 20, column 'a': '31.01.2024'"),
    "three styles of dates": (
        f"a,y\n{DAYS}01/31/2024,5\n20.1.2024,6\n",
        "row 20, column 'a': '01/31/2024' is not a date in the style year-month-day",
    ),
    "no such date": (f"a,y\n{DAYS}2024-02-30,5\n", "row 20, column 'a': '2024-02-30' is not"),
    "day or month": (
        "a,y\n" + "01/02/2024,1.5\n02/03/2024,2.5\n" * 9,
        "first: pass --categorical a",
    ),
    "open quote": (f'{GOOD}1,"open,2\n', 'line 42: a quote " opens a field'),
    "quote in a field": (f'{GOOD}1,"a"b,2\n', 'line 42: a quote " opens a field'),
    "NUL": (f"{GOOD}1,\0,2\n", "holds NUL, which is never text"),
    "late NUL": (f"a,b,y\n{lines(90_000)}1,\0,2\n", "row 90001: it holds NUL"),
    "mixed encodings": (GOOD.encode() + "1,Köln,2\n".encode("latin-1"), "line 42: not text in UT"),
    "latin-1": ("größe,y\n1,2\n".encode("latin-1"), "line 1: not text in UTF-8"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), "bad.csv"),
    "giant line": (f"{GOOD}1,{'x' * 3_000_000},2\n", "line 42: the line is longer than the limit"),
    "gzip by name": (b"a,b\n1,2\n", "can't be unpacked with gzip"),
    "gzip that is cut": (gzip.compress(GOOD.encode() * 9)[:-9], "can't be unpacked with gzip"),
    "Parquet by name": (b"a,b\n1,2\n", "no whole Parquet file"),
    "absent": (None, "No such file"),
    "folder": (None, "Is a directory"),
}
NAMES = {"gzip": "bad.csv.gz", "Parque": "bad.parquet"}


@pytest.mark.parametrize("case", BAD)
def test_bad_table_is_one_line_and_leaves_nothing(case):
    content, message = BAD[case]
    path = Path(NAMES.get(case[:4], NAMES.get(case[:6], "bad.csv")))
    if case == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    before = set(Path().iterdir())
    result = run(f"train -q --device cpu --epochs 1 --data {path} --target y --log log.csv")
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert set(Path().iterdir()) == before


def test_there_are_forty_bad_tables():
    assert len(BAD) >= 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--numeric b", "row 1, column 'b': 'x0' is not a number"),
        ("--numeric nope", "--numeric names 'nope'"),
        ("--drop a --numeric a", "column 'a' is in both --numeric and --drop"),
        ("--task classification --cost huber", "does not fit"),
        ("--task multilabel", "row 2, column 'y': 0.5 is neither 0 nor 1"),
        ("--split-by b --split-last", "--split-by and --split-last are two ways"),
        ("--split-by nope", "--split-by needs a column 'nope'"),
        ("--test-fraction 1", "--test-fraction must be"),
        ("--target 7", "--target 7: bad.csv has 3 columns"),
        ("--metric f1", "needs targets that are one class"),
        ("--class-weight u:2", "--class-weight names the class 'u'"),
        ("--log log.txt", "--log log.txt must end in .csv or .jsonl"),
        ("--log bad.csv", "--log bad.csv is an input of this command"),
    ],
)
def test_option_that_does_not_fit_the_table_is_one_line(options, message):
    Path("bad.csv").write_text(GOOD)
    result = run(f"train -q --epochs 1 --data bad.csv --target y {options}")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert message in line
    assert [path.name for path in Path().iterdir()] == ["bad.csv"]


def test_category_that_looks_like_a_number_can_be_asked_for():
    Path("t.csv").write_text(
        "a,y\n" + "".join(f"{i % 3},{i / 2}\n" for i in range(39)) + "2b,1.5\n"
    )
    result = run("train -q --data t.csv")
    assert "row 40, column 'a': '2b' is not a number. Correct it, or pass --categorical a if" in (
        result.stderr
    )
    run_well("train -q --data t.csv --epochs 1 --categorical a")
    assert read_table("t.csv", text=["a"])["a"][-1] == "2b"
    assert len(rows_of(run_well("predict -q t.safetensors --data t.csv")[0])) == 41
