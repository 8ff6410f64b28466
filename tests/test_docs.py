"""What the pages of docs/ show is what is so."""

import ast
import importlib
import importlib.util
import inspect
import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import write_as_mnist

from bp_xp import SGD, Network
from bp_xp.export import export_program

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_the_generated_program_of_the_page_is_the_one_that_runs():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    network = Network([3, 2], seed=0)
    x, y = np.ones((40, 3)), np.ones((40, 2))
    network.fit(x, y, epochs=10, batch_size=10, optimizer=SGD(3.0), progress=False)
    assert network.explain().program == shown.rstrip()


# What is put after the programs of a page: they have learned, or say the same.
HOLDS = {
    "book.md": """
assert net.accuracy(test_data) > 0.8 * len(test_data)
assert network2.load("digits.json", device="cpu").sizes == [784, 30, 10]
""",
    "checkpoints.md": """
whole = Network([64, 30, 10], cost="categorical_cross_entropy", seed=0)
whole.fit(data.x_train, data.y_train, epochs=4, optimizer=SGD(0.5), progress=False)
assert len(history) == 4
assert np.array_equal(net.layers[0].W, whole.layers[0].W)
""",
    "coming-from.md": """
assert history["validation_cost"][-1] < 0.7 * history["validation_cost"][0]
assert net.layers[0].W.shape == (30, 64)
""",
    "distributed.md": """
assert net.evaluate(data.x_test, data.y_test)["accuracy"] > 0.9
""",
    "ensembles.md": """
for learned in (ensemble, several, folds):
    assert learned.evaluate(data.x_test, data.y_test)["accuracy"] > 0.8
""",
    "equations.md": """
assert abs(carried - hidden.delta).max() < 1e-9
""",
    "exporting.md": """
expected = model.predict({"size": [48.5, None], "town": ["Ulm", None]})
np.testing.assert_allclose(predicted, expected, rtol=1e-5)
assert plain.score(x, data.y_train) > 0.9
""",
    "gpu.md": """
assert to_numpy(outputs).shape == (360, 10)
""",
    "inspection.md": """
from pathlib import Path
from matplotlib import pyplot

pyplot.close("all")
assert Path("confusion.png").exists()
assert net.evaluate(data.x_test, data.y_test)["accuracy"] > 0.85
""",
    "own-functions.md": """
from bp_xp import SGD

x = np.asarray([[0, 0], [0, 1], [1, 0], [1, 1]])
history = net.fit(x, x[:, :1], epochs=20, optimizer=SGD(0.01), progress=False)
assert history["cost"][-1] < history["cost"][0]
""",
    "scikit-learn.md": """
assert model.score(data.x_test, data.y_test) > 0.95
assert net.evaluate(x, data.y_test)["accuracy"] == fitted.score(x, data.y_test)
""",
    "start.md": """
assert net.evaluate(data.x_test, data.y_test)["accuracy"] > 0.95
assert model.predict({"size": [95], "town": ["Bonn"]})[0] > 600
""",
    "streams.md": """
assert net.evaluate(data.x_test, data.y_test)["accuracy"] > 0.85
""",
    "sweeps.md": """
from pathlib import Path
from matplotlib import pyplot

pyplot.close("all")
assert Path("sweep.png").exists()
for learned in (net, halved.best_network):
    assert learned.evaluate(data.x_test, data.y_test)["accuracy"] > 0.85
assert search.score(data.x_test, data.y_test) > 0.8
assert bagging.score(data.x_test, data.y_test) > 0.9
""",
    "tables.md": """
assert model.predict({"size": [95], "town": ["Bonn"]})[0] > 600
""",
    "testing.md": """
from bp_xp.backends import place
test_rows_are_centered(np, place("cpu"), "float64")
""",
    "training.md": """
assert net.evaluate(data.x_test, data.y_test)["accuracy"] > 0.85
""",
}


def programs_of(name):
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def _mnist(tmp_path, monkeypatch):
    """Let the small digits be MNIST, and seed the generators that the book's classes draw from."""
    drawn, np_drawn = random.getstate(), np.random.get_state()
    write_as_mnist(tmp_path, width=28, images=600)  # 60 epochs of MNIST take minutes
    monkeypatch.setenv("BP_XP_DATA_DIR", str(tmp_path))
    random.seed(0)
    np.random.seed(0)
    yield
    random.setstate(drawn)
    np.random.set_state(np_drawn)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
@pytest.mark.parametrize("name", HOLDS)
def test_the_programs_of_a_page_run_in_its_order(name, tmp_path, monkeypatch, request):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names: dict = {"np": np}
    programs = [*programs_of(name), HOLDS[name]]
    if "load_data_wrapper" in programs[0]:
        request.getfixturevalue("_mnist")
    if "plotting" in programs[0]:
        pytest.importorskip("matplotlib")
        monkeypatch.setenv("MPLBACKEND", "Agg")
    for program in programs:
        if "onnxruntime" in program:
            pytest.importorskip("onnxruntime")
        if "skl2onnx" in program and importlib.util.find_spec("skl2onnx") is None:
            # All but what it makes.
            program = re.sub(r"^(from skl2onnx|onnx =).*\n", "", program, flags=re.MULTILINE)
        exec(compile(program, name, "exec"), names)


def test_each_page_with_programs_is_run():
    shown = {page.name for page in PAGES if programs_of(page.name)}
    assert shown == {*HOLDS, "architecture.md"}


def test_the_exported_program_of_the_page_is_the_one_that_is_written(tmp_path):
    (shown,) = [one for one in programs_of("exporting.md") if "def feedforward" in one]
    path = export_program(Network([784, 30, 10], seed=0), tmp_path / "net.py")
    assert shown in path.read_text(encoding="utf-8")


# What CONTRIBUTING's list of words says is not used, as far as it can be searched for.
NOT_USED = (
    r"initialis|regularis|optimis(?:e|a)|normalis|behaviour|colour|learnt|worth while|"
    r"g(?:o|oing|one|oes) on with|in the place of|told right|has not been seen|can be told from"
)


def test_words_that_are_not_used_are_not_used():
    folders = ("bp_xp", "docs", "examples", "ci", "tests")
    files = [file for name in folders for file in (ROOT / name).rglob("*.*")]
    texts = [file for file in files if file.suffix in (".py", ".md", ".toml", ".rst", ".ipynb")]
    made = ("_build", "generated", "gallery")
    found = [
        f"{file.relative_to(ROOT)}: {word}"
        for file in [*texts, ROOT / "README.md", ROOT / "CHANGELOG.md"]
        if file != Path(__file__) and not set(made) & set(file.parts)
        for word in re.findall(NOT_USED, file.read_text(encoding="utf-8"), re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_folders_that_a_page_names_exist(page):
    places = ROOT, ROOT / "bp_xp", ROOT / "bp_xp" / "backends"
    named = re.findall(r"`([\w/]+(?:/|\.py|\.toml))`", page.read_text(encoding="utf-8"))
    assert named
    missing = [
        name
        for name in named
        if name != "engine.py"
        and not {"LIBRARY", "NAME"} & set(name.split("/"))
        and not any((place / name).exists() for place in places)
        and not list((ROOT / "bp_xp").rglob(name))
    ]
    assert missing == []


# ---------------------------------------------------------------------------------------------
# The reference

NAMES = (ROOT / "tests" / "public_names.txt").read_text(encoding="utf-8").splitlines()
PUBLIC = [name for name in NAMES if name and not name.startswith("#")]


def value_of(name):
    module, _, last = name.rpartition(".")
    if module == "bp_xp.estimators":
        pytest.importorskip("sklearn")
    if module == "bp_xp.plotting":
        pytest.importorskip("matplotlib")
    return getattr(importlib.import_module(module), last)


def test_every_public_name_has_its_place_in_the_reference():
    """Under one of its names: ``bp_xp.SGD`` is ``bp_xp.optim.SGD`` too. A module shows its own."""
    page = (ROOT / "docs" / "api" / "index.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (bp_xp\.[\w.]+)$", page, re.MULTILINE)
    assert len(listed) == len(set(listed))
    there = list(map(value_of, listed))
    for module in filter(inspect.ismodule, list(there)):
        there += [getattr(module, name) for name in module.__all__]
    missing = [name for name in PUBLIC if not any(value_of(name) is value for value in there)]
    assert missing == [], "enter them in docs/api/index.rst"


def documented(names):
    """Return which of the names are given, in some module, to a value with a docstring below it."""
    found = set()
    for path in (ROOT / "bp_xp").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not any(f"\n{name}" in text for name in names):
            continue
        for value, below in itertools.pairwise(ast.parse(text).body):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                targets = getattr(value, "targets", [getattr(value, "target", value)])
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found & names


def test_every_public_name_has_a_docstring():
    data = set()
    for name in PUBLIC:
        value = value_of(name)
        if inspect.ismodule(value) or callable(value):
            assert value.__doc__, name
        else:
            data.add(name.rpartition(".")[2])
    assert documented(data) == data
