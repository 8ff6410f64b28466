"""Plant faults in copies of the package, one at a time, and check whether the tests catch them.

    python ci/mutations.py --check              can all faults still be planted?
    python ci/mutations.py                      try all of them, which takes half an hour
    python ci/mutations.py silu-slope-sign      try some
    python ci/mutations.py --select='--bp-xp-backends numpy --whole-tables' silu-slope-sign

The faults are in ``mutations.toml``. Each is a replacement of a text that occurs once in the
package, with the reason why it is a fault and the test files that should catch it. These are found
by name, or by the end of their path, anywhere below ``tests``; name the one that fails soonest
first. ``--select`` passes more arguments to pytest: many faults show on NumPy alone, which is fast.
The final result is that of the suite as ``ci/check`` runs it, on NumPy, ``array_api_strict``,
PyTorch and JAX: which cases of a table run on a library depends on which others run.

A line for each fault shows whether it was

    caught   a test failed that passes without the fault; the line names it
    MISSED   all tests passed: a test is missing, or the change is not a fault
    INVALID  there is no verdict: the text to replace does not occur once, there are no such test
             files, or the test that failed also fails without the fault

The exit status is 0 if all were caught. When you move or reword code, update ``old`` and ``new`` so
that the same behavior goes wrong. When you remove tests, no fault may become MISSED.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from os import environ
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    *("bp_xp", "tests", "examples", "ci", "docs"),
    *("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"),
)
TIMEOUT = 1200  # seconds

PASSED, FAILED, INTERRUPTED, NOTHING = 0, 1, 2, 5  # exit statuses of pytest


def copy_repository(root: Path, folder: Path) -> None:
    """Copy what the tests need, without what is compiled."""
    for name in COPIED:
        there = root / name
        if there.is_dir():
            shutil.copytree(
                there, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
        elif there.exists():
            shutil.copy2(there, folder / name)


def with_fault(mutation: dict[str, Any], folder: Path) -> tuple[Path, str]:
    """Return the file in which a fault is planted, and its text with the fault.

    Raises:
        ValueError: the text to replace does not occur exactly once, or the result is not Python,
            which every test would catch.
    """
    old = mutation["old"]
    texts = {path: path.read_text("utf-8") for path in (folder / "bp_xp").rglob("*.py")}
    if (found := sum(text.count(old) for text in texts.values())) != 1:
        raise ValueError(f"'old' is found {found} times")
    path = next(path for path, text in texts.items() if old in text)
    text = texts[path].replace(old, mutation["new"])
    try:
        compile(text, str(path), "exec")
    except SyntaxError as error:
        raise ValueError(f"'new' is not valid Python: {error}") from error
    return path, text


def find_tests(name: str, folder: Path) -> list[Path]:
    """Return the test files of a name, or of a path that ends so."""
    return sorted((folder / "tests").rglob(name))


def check(mutation: dict[str, Any], root: Path) -> tuple[str, str]:
    """Return whether a mutation can be tried, ``"sound"`` or ``"INVALID"``, and where or why."""
    if missing := [name for name in mutation["tests"] if not find_tests(name, root)]:
        return "INVALID", f"no such test files: {', '.join(missing)}"
    try:
        return "sound", str(with_fault(mutation, root)[0].relative_to(root))
    except ValueError as error:
        return "INVALID", str(error)


def run_tests(folder: Path, *arguments: str) -> tuple[int, str]:
    """Return pytest's exit status and what it printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout + done.stderr


def judge(mutation: dict[str, Any], root: Path, options: list[str]) -> tuple[str, str]:
    """Return the verdict on a mutation, and details.

    The verdict is ``"caught"``, ``"MISSED"`` or ``"INVALID"``: the fault could not be planted,
    there were no tests, or the test that failed also fails without the fault.
    """
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        folder, sound = Path(name), Path(other)
        copy_repository(root, folder)
        tests = [
            str(file.relative_to(folder))
            for name in mutation["tests"]
            for file in find_tests(name, folder)
        ]
        if not tests:
            return "INVALID", "no such test files"
        try:
            path, text = with_fault(mutation, folder)
            path.write_text(text, "utf-8")
            status, output = run_tests(folder, *options, *tests)
        except ValueError as error:
            return "INVALID", str(error)
        except subprocess.TimeoutExpired:
            return "caught", f"the tests do not end within {TIMEOUT} s"
        if status == PASSED:
            return "MISSED", ""
        if status == NOTHING:
            return "INVALID", "no tests were collected"
        if status not in (FAILED, INTERRUPTED):
            return "INVALID", f"pytest ended with status {status}:\n{output[-2000:]}"
        failure = first_failure(output)
        copy_repository(root, sound)
        without = [failure] if failure and status == FAILED else ["--collect-only", *tests]
        if run_tests(sound, *options, *without)[0] in (FAILED, INTERRUPTED):
            return "INVALID", f"fails without the fault as well: {failure}"
        return "caught", ("at collection: " if status == INTERRUPTED else "") + failure


def first_failure(output: str) -> str:
    """Return the first test, or file, that pytest's summary says has failed."""
    found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", output, re.MULTILINE)
    return found[1] if found else ""


def main() -> int:
    """Try the mutations that are asked for, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="mutations; all by default")
    parser.add_argument("--select", default="", metavar="EXPR", help="more arguments of pytest")
    parser.add_argument("--check", action="store_true", help="only check whether they can be tried")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    arguments = parser.parse_args()
    text = Path(__file__).with_suffix(".toml").read_text("utf-8")
    known = {one["id"]: one for one in tomllib.loads(text)["mutation"]}
    if unknown := set(arguments.ids) - set(known):
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    verdicts: Counter[str] = Counter()
    for name in arguments.ids or known:
        start = time.perf_counter()
        root = arguments.root.resolve()
        if arguments.check:
            verdict, more = check(known[name], root)
        else:
            verdict, more = judge(known[name], root, shlex.split(arguments.select))
        verdicts[verdict] += 1
        print(f"{verdict:7}  {time.perf_counter() - start:5.0f} s  {name}  {more}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items())))
    return 0 if set(verdicts) <= {"caught", "sound"} else 1


if __name__ == "__main__":
    sys.exit(main())
