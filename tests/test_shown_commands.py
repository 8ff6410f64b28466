"""Commands that the pages show are there, with the options that they are shown with.

None is run: its words are parsed, or looked up where its program declares them.
"""

import ast
import itertools
import os
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from bp_xp.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [
    *(path for name in ("README.md", "CONTRIBUTING.md") if (path := ROOT / name).exists()),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.py")),
]
COMMAND = re.compile(
    r"(?:bp-xp|python|pytest|mpiexec|torchrun|srun (?!bash)|pip|pre-commit|git|ci/\w)"
)
# What a page shows that is no part of bp_xp.
OTHERS = {"git", "cd", ".", "venv", "script.py", "rents.py", "pre-commit"}


def shown(path):
    """Return the lines of a page that are commands, and what is quoted within its text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    fenced = [
        line for kind, block in fence.findall(text) if not kind for line in block.splitlines()
    ]
    fenced += re.findall(r"  # (bp-xp .*)$", text, re.MULTILINE)  # beside the same in Python
    text = fence.sub("", text)
    lines = fenced + re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    quoted = re.findall(r"`([^`]+)`", text)
    return [line for line in lines if COMMAND.match(line)], [q for q in quoted if COMMAND.match(q)]


def program_of(words):
    """Return what is run in the end, by whatever starts processes and Python, and its arguments."""
    if words[0] in ("mpiexec", "torchrun", "srun"):
        words = words[1:]
        words = list(
            itertools.dropwhile(lambda w: w not in ("python", "-m") and ".py" not in w, words)
        )
    for dropped in (["python"], ["-m", "mpi4py"], ["-m"]):
        if words[: len(dropped)] == dropped:
            words = words[len(dropped) :]
    return ("bp-xp" if words[:1] == ["bp_xp"] else "".join(words[:1])), words[1:]


def check_command_line(arguments, *, is_whole):
    """Parse the arguments of bp-xp as it does itself."""
    stands_for = {"FILE": "table.csv", "NAME": "torch"}
    for word, meaning in stands_for.items():
        arguments = [argument.replace(word, meaning) for argument in arguments]
    name, *rest = arguments or [""]
    if name in ("", "COMMAND") or name.startswith("-"):
        return
    try:
        main.commands[name].make_context(name, rest)
    except click.MissingParameter:
        assert not is_whole


def check_extras(arguments):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = re.findall(
        r"[\w-]+", " ".join(re.findall(r"(?:\.|bp_xp)\[(.*?)\]", " ".join(arguments)))
    )
    assert set(asked) <= set(project["optional-dependencies"])


def check(command, config, *, is_whole):
    words = shlex.split(command, comments=True)
    program, arguments = program_of(list(itertools.takewhile(lambda w: w not in (">", "|"), words)))
    options = [word for word in arguments if re.match("--?[a-z]", word)]
    if program == "bp-xp":
        check_command_line(arguments, is_whole=is_whole)
    elif program == "pip":
        check_extras(arguments)
    elif program == "pytest":
        for option in options:
            config.getoption(option)
    elif re.match("(examples|ci)/", program) and "NAME" not in program:
        script = ROOT / program
        assert script.exists()
        assert script.suffix or script.is_dir() or os.access(script, os.X_OK) or os.name == "nt"
        text = script.read_text(encoding="utf-8") if script.is_file() else ""
        assert [option for option in options if f'"{option}"' not in text] == []
    else:
        assert program in OTHERS or "NAME" in program or not arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_there(page, tmp_path, monkeypatch, pytestconfig):
    monkeypatch.chdir(tmp_path)
    for name in ("digits.toml", "space.toml"):  # which a command reads to know its other options
        (tmp_path / name).touch()
    lines, quoted = shown(page)
    for whole, texts in ((True, lines), (False, quoted)):
        for text in texts:
            for command in text.partition("  #")[0].split("&&"):
                try:
                    check(command.strip(), pytestconfig, is_whole=whole)
                except (AssertionError, click.ClickException, KeyError, ValueError) as error:
                    pytest.fail(f"{page.name} shows {command.strip()!r}: {error!r}")


def test_commands_are_found():
    lines, quoted = map(list, zip(*map(shown, PAGES), strict=True))
    assert sum(map(len, lines)) > 40
    assert sum(map(len, quoted)) > 30


@pytest.mark.parametrize(
    "command",
    [
        "bp-xp train --epoch-count 3",
        "bp-xp teach",
        "mpiexec -n 4 python -m mpi4py -m bp_xp train --distributed slurm",
        "python examples/train_on_gpu.py --gpus 4",
        "python examples/train_on_tpu.py",
        "python -m pip install '.[tpu]'",
        "pytest --no-such-option",
        "ci/none",
        "python nonesuch.py --fast",
    ],
)
def test_a_command_that_is_not_there_is_noticed(command, pytestconfig):
    with pytest.raises((AssertionError, click.ClickException, KeyError, ValueError)):
        check(command, pytestconfig, is_whole=True)
