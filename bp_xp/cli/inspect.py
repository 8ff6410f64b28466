"""``bp-xp inspect``: what is in a file that train wrote."""

import itertools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import click

from bp_xp import CheckpointError
from bp_xp.checkpoints import record_of
from bp_xp.cli._networks import counted
from bp_xp.cli._options import debug_option
from bp_xp.cli._program import main
from bp_xp.persistence import read_tensors

__all__ = ["inspect"]


@main.command()
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@debug_option
def inspect(file: str, as_json: bool) -> None:
    """Tell what is in a file that train wrote: a network, or the checkpoint of a run.

    \b
    Examples:
      bp-xp inspect digits.safetensors
      bp-xp inspect run.safetensors --json
    """  # noqa: D301
    facts = _facts(file)
    if as_json:
        print(json.dumps(facts, indent=2), flush=True)
        return
    lines = _lines(facts)
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:{width}}  {text}" for name, text in lines), flush=True)


def _facts(file: str) -> dict[str, Any]:
    """Return what there is to say of a file, as JSON can hold it."""
    tensors, header = read_tensors(file)
    try:
        kind = header["kind"]
        if kind not in ("network", "run"):
            raise ValueError(f"it holds a {kind}")
        names = ("sizes", "activations", "cost", "dtype", "seed")
        sizes, activations, *rest = (header[name] for name in names)
        shapes = {
            f"layers.{l}.{name}": shape
            for l, (n_in, n_out) in enumerate(itertools.pairwise(sizes))  # noqa: E741
            for name, shape in (("W", (n_out, n_in)), ("b", (n_out,)))
        }
        if {n: t.shape for n, t in tensors.items() if n.startswith("layers.")} != shapes:
            raise ValueError(f"its parameters do not fit its sizes {sizes}")
        facts = {
            "file": file,
            "kind": kind,
            "sizes": sizes,
            "activations": activations,
            **dict(zip(names[2:], rest, strict=True)),
            "parameters": sum(math.prod(shape) for shape in shapes.values()),
        }
        if kind == "run":
            where, history = header["position"], header["history"]
            facts |= {
                "epoch": where["epoch"] if where["steps"] else where["epoch"] - 1,
                "steps_of_epoch": where["steps"],
                "step": where["step"],
                "last_record": history[-1] if history else None,
                "best_epoch": header["best_epoch"],
                "settings": header["settings"],
            }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"{error} is missing" if type(error) is KeyError else error
        raise CheckpointError(f"{file} can't be read as a network: {what}") from error
    return facts


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts for people: a name and a text each."""
    lines = [
        ("file", facts["file"]),
        ("kind", "network" if facts["kind"] == "network" else "checkpoint of a run"),
        ("sizes", ", ".join(map(str, facts["sizes"]))),
        ("activations", ", ".join(map(str, facts["activations"]))),
        *((name, str(facts[name])) for name in ("cost", "dtype", "seed")),
        ("parameters", f"{facts['parameters']:,}"),
    ]
    if facts["kind"] == "network":
        return lines
    complete = not facts["steps_of_epoch"]
    within = "complete" if complete else f"{counted(facts['steps_of_epoch'], 'step')} taken"
    record, best = facts["last_record"], facts["best_epoch"]
    lines += [
        ("position", f"epoch {facts['epoch']}, {within}; {counted(facts['step'], 'step')} in all"),
        ("last record", "none yet" if record is None else str(record_of(record))),
        ("best epoch", "not asked for" if best is None else str(best)),
    ]
    return lines + [(name, _shown(value)) for name, value in facts["settings"].items()]


def _shown(value: Any) -> str:
    """Return a setting of a run for people."""
    match value:
        case {"kind": str(kind), **fields}:
            inner = (f"{name}={_shown(one)}" for name, one in fields.items())
            return f"{kind}({', '.join(inner)})"
        case [*items]:
            return ", ".join(map(_shown, items)) if items else "none"
        case None:
            return "none"
        case str() if re.fullmatch("[0-9a-f]{64}", value):
            return f"SHA-256 {value[:16]}..."
        case _:
            return str(value)
