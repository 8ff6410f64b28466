"""The programs of the README run as they stand, and it stays short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

# What is shown learns: these lines are put after the programs.
LEARNS = {
    "bp_xp.datasets": '\nassert net.evaluate(data.x_test, data.y_test)["accuracy"] > 0.85',
    "bp_xp.tables": "\nassert 500 < model.predict(rents[:3])[1] < 700",
}


def title(program):
    return re.findall(r"^from (\S+)", program, re.MULTILINE)[-1]


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS, ids=title)
def test_program_runs(program, tmp_path):
    if "pandas" in program:
        pytest.importorskip("pandas")
        pytest.importorskip("narwhals")
    file = tmp_path / "program.py"
    file.write_text(program + LEARNS[title(program)], encoding="utf-8")
    command = [sys.executable, str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_programs():
    assert set(map(title, PROGRAMS)) == set(LEARNS)


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(TEXT.splitlines()) <= 150
    assert (README.parent / "docs" / "images" / "sweep.png").stat().st_size < 100_000
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert len(links) > 10
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_it_links_to_every_page_of_the_documentation():
    pages = {path.name for path in (README.parent / "docs").glob("*.md")}
    copies = {"index.md", "changes.md", "contributing.md"}  # of what it links to itself
    assert pages - copies == set(re.findall(r"docs/([\w-]+\.md)", TEXT))
