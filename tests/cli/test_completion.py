"""What a shell completes after ``bp-xp``."""

import pytest
from click.shell_completion import ShellComplete

from bp_xp.cli import main


def completed(*words):
    """Return what completes the last of some words: values, and types such as "file"."""
    *before, incomplete = words
    shell = ShellComplete(main, {}, "bp-xp", "_BP_XP_COMPLETE")
    found = shell.get_completions(list(before), incomplete)
    return {one.value for one in found if one.type == "plain"}, {one.type for one in found}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["pr"], {"predict"}),
        (["train", "--opt"], {"--optimizer"}),
        (["train", "--optimizer", "adam"], {"adam", "adamw"}),
        (["train", "--schedule", "co"], {"constant", "cosine"}),
        (["train", "--activation", "soft"], {"softplus"}),
        (["train", "--cost", "h"], {"huber"}),
        (["train", "--backend", "nu"], {"numpy"}),
        (["evaluate", "net", "--metric", "f1"], {"f1", "f1_macro"}),
    ],
    ids=lambda value: " ".join(sorted(value) if isinstance(value, set) else value),
)
def test_names_are_completed(words, values):
    assert completed(*words) == (values, {"plain"})


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "d"],
        ["train", "--output", ""],
        *([command, ""] for command in ("evaluate", "predict", "inspect", "export", "sweep")),
        ["plot", "curves", ""],
    ],
    ids=" ".join,
)
def test_files_are_completed(words):
    assert "file" in completed(*words)[1]
