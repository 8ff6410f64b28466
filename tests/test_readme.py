"""The programs of the README run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import write_as_mnist

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


# What is shown learns: these lines are put after the programs that train.
LEARNS = dict.fromkeys(
    ("bp_xp.datasets", "bp_xp.inspection", "bp_xp.sweeps"),
    '\nassert net.evaluate(data.x_test, data.y_test)["accuracy"] > 0.85',
) | {
    "sklearn.preprocessing": "\nassert model.score(data.x_test, data.y_test) > 0.85",
    "bp_xp.book": """
assert net.accuracy(test_data) > 0.8 * len(test_data)
assert network2.load("digits.json", device="cpu").sizes == [784, 30, 10]
""",
    "Ensemble": '\nassert ensemble.evaluate(data.x_test, data.y_test)["accuracy"] > 0.85',
}


def title(program):
    imported = re.findall(r"^from (\S+)", program, re.MULTILINE)
    return "Ensemble" if "Ensemble(" in program else imported[-1]


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS, ids=title)
def test_program_runs(program, tmp_path, monkeypatch):
    name = title(program)
    if "load_data_wrapper" in program:  # 60 epochs of MNIST take minutes
        write_as_mnist(tmp_path, width=28, images=600)
        # The book's classes draw from the generators that all of a process shares.
        program = f"import random, numpy\nrandom.seed(0), numpy.random.seed(0)\n{program}"
        monkeypatch.setenv("BP_XP_DATA_DIR", str(tmp_path))
    if "backend" in program:
        pytest.importorskip("torch")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    file = tmp_path / "test_program.py"
    file.write_text(program + LEARNS.get(name, ""), encoding="utf-8")
    command = [sys.executable, str(file)]
    if "def test_" in program:  # on the libraries that it names, without plugins that take long
        options = ["--bp-xp-backends", "numpy,torch", "-p", "no:hypothesispytest"]
        command = [sys.executable, "-m", "pytest", "-q", *options, str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("plotting" in program) == any(tmp_path.glob("*.png"))


def test_there_are_programs():
    assert len(PROGRAMS) > 4
    assert set(map(title, PROGRAMS)) >= set(LEARNS)
