import ast
import csv
import datetime
import io
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from bp_xp import Network
from bp_xp.export import export_program
from bp_xp.tables import TableModel

N = 24
TABLE = {
    "size": [30.0, 48.5, None] * 8,
    "town": ["Köln; Süd", None, "Ulm"] * 8,
    "garden": [True, False] * 12,
    "floor": [1.0, 2.5, None] * 8,
    "built": [datetime.datetime(2024, 1, 1 + i) for i in range(N)],
}
WISHES = {
    "categorical": ["floor"],
    "validation_fraction": 0,
    "epochs": 2,
    "seed": 0,
    "scaling": "standard",
}


@pytest.fixture(scope="module")
def model():
    return TableModel((5,), **WISHES).fit(TABLE, {"kind": ["groß, teuer", "klein"] * 12})


def run(path, *arguments, monkeypatch, capsys):
    """Run a program, and return what it writes as rows."""
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    runpy.run_path(str(path), run_name="__main__")
    return list(csv.reader(io.StringIO(capsys.readouterr().out)))


def test_it_reads_like_the_chapter(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(def sigma.*?)```", page, re.DOTALL)
    path = export_program(Network([784, 30, 10], seed=0), tmp_path / "n.py")
    assert shown in path.read_text(encoding="utf-8")
    path = export_program(Network([9, 5, 5, 2], activation="relu", seed=0), tmp_path / "n.py")
    text = path.read_text(encoding="utf-8")
    assert "return np.maximum(z, 0.0)\n" in text
    assert text.count("def sigma_") == 2


def test_it_imports_nothing_but_numpy_and_python(model, tmp_path):
    for one in (model, model.network):
        tree = ast.parse(export_program(one, tmp_path / "n.py").read_text(encoding="utf-8"))
        imported = {
            a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
        }
        assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
        assert imported <= {"base64", "csv", "numbers", "re", "sys", "numpy"}


def test_networks_predict_as_before(backend, device, dtype, tmp_path, loaded):
    network = Network([3, 4, 2], backend=backend, device=device, dtype=dtype, seed=0)
    host = Network([3, 4, 2], dtype=dtype, seed=0)
    program = loaded(export_program(network, tmp_path / "n.py"))
    x = np.linspace(-2, 2, 30).reshape(10, 3)
    assert program.predict_proba(x).dtype == dtype
    np.testing.assert_allclose(program.predict_proba(x), host.predict_proba(x), atol=1e-6)
    np.testing.assert_array_equal(program.predict(x), host.predict(x))


@pytest.mark.parametrize("header", ["", "a,b,c\n"])
def test_a_network_predicts_from_the_shell(header, tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text(header + "1,2,3\n\n-1,0.5,1e2\n")
    x = [[1, 2, 3], [-1, 0.5, 1e2]]
    network = Network([3, 1], seed=3)
    path = export_program(network, tmp_path / "n.py")
    names, *found = run(path, rows, monkeypatch=monkeypatch, capsys=capsys)
    assert names == ["label", "probability of 0", "probability of 1"]
    values = np.array(found, float)
    np.testing.assert_array_equal(values[:, 0], network.predict(x))
    np.testing.assert_allclose(values[:, 1:], network.predict_proba(x), atol=1e-6)
    lines = Network([3, 2], output_activation="identity", seed=3)
    path = export_program(lines, tmp_path / "n.py")
    names, *found = run(path, rows, monkeypatch=monkeypatch, capsys=capsys)
    assert names == ["output 1", "output 2"]
    np.testing.assert_allclose(np.array(found, float), lines.feedforward(x), rtol=1e-5)


def test_a_model_of_a_table_predicts_from_the_shell(model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("duckdb")
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "built;more;town;garden;floor;size\n"
        '2024-01-05;x;"Köln; Süd";TRUE;2.50;48.5\n'
        "2024-02-05;x;NA;False;1;\n"
        "2023-12-31;x;Rome;true;7;?\n",
        encoding="utf-8",
    )
    path = export_program(model, tmp_path / "n.py")
    names, *found = run(path, rows, monkeypatch=monkeypatch, capsys=capsys)
    assert names == ["kind", "probability of groß, teuer", "probability of klein"]
    assert [row[0] for row in found] == model.predict(rows).tolist()
    values = np.array([row[1:] for row in found], float)
    np.testing.assert_allclose(values, model.predict_proba(rows), atol=1e-6)


def test_numbers_are_written_in_their_units(tmp_path, monkeypatch, capsys):
    rents = {"rent": np.linspace(300, 900, N), "deposit": np.linspace(9e3, 1e3, N)}
    model = TableModel((5,), **WISHES).fit(
        {"size": TABLE["size"]} | {"floor": TABLE["floor"]}, rents
    )
    rows = tmp_path / "rows.csv"
    rows.write_text("floor,size\n1,40\n,\n")
    path = export_program(model, tmp_path / "n.py")
    names, *found = run(path, rows, monkeypatch=monkeypatch, capsys=capsys)
    assert names == ["rent", "deposit"]
    expected = model.predict({"floor": [1, None], "size": [40, None]})
    np.testing.assert_allclose(np.array(found, float), expected, rtol=1e-6)


def test_data_frames_and_their_missing_values_are_taken(model, tmp_path, loaded):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TABLE).convert_dtypes()
    frame.loc[3, "built"] = pandas.NaT
    program = loaded(export_program(model, tmp_path / "n.py"))
    np.testing.assert_allclose(program.predict_proba(frame), model.predict_proba(frame), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,town\n3,Ulm\n", "has no column 'built'"),
        ("size,town\n3\n", "row 2: 1 fields, but the first has 2"),
        ("", "has no rows"),
        ("size,town,garden,floor,built\nold,Ulm,true,1,2024-01-01\n", "could not convert .*'old'"),
        ("size,town,garden,floor,built\n1e300,Ulm,true,1,2024-01-01\n", "row 1: a number is too"),
        (None, "No such file"),
    ],
)
def test_bad_rows_are_told_in_a_line(text, message, model, tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.csv"
    if text is not None:
        rows.write_text(text)
    path = export_program(model, tmp_path / "n.py")
    with pytest.raises(SystemExit, match=message):
        run(path, rows, monkeypatch=monkeypatch, capsys=capsys)
    with pytest.raises(SystemExit, match=r"usage: python .* rows\.csv"):
        run(path, monkeypatch=monkeypatch, capsys=capsys)


def test_names_are_data_and_no_lines_of_the_program(tmp_path, loaded):
    evil = '"""\nraise SystemExit\n"""\\'
    model = TableModel((2,), **WISHES | {"categorical": [evil]})
    model.fit({evil: [evil, "b", "c"] * 8, "x": range(0, 48, 2)}, {evil + "?": [evil, "'"] * 12})
    program = loaded(export_program(model, tmp_path / "n.py"))
    table = {evil: [evil, "d"], "x": [1, 2]}
    np.testing.assert_array_equal(program.predict(table), model.predict(table))
