"""``bp-xp inspect``: what is in a file that train wrote."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from bp_xp.cli._completion import complete
from bp_xp.cli._networks import counted
from bp_xp.cli._options import debug_option
from bp_xp.cli._program import main
from bp_xp.storage import network_file
from bp_xp.tables.files import read_sections
from bp_xp.training.history import EpochRecord

__all__ = ["inspect"]


@main.command()
@click.argument("file", metavar="FILE", shell_complete=complete(files=True))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@debug_option
def inspect(file: str, as_json: bool) -> None:
    """Show what is in a file that train wrote: a network, or the checkpoint of a run.

    For a network that was trained on a table, it shows what is done with each column, and a card:
    the rows that it was trained on, the ranges and counts in them, and how good it was.

    \b
    Examples:
      bp-xp inspect digits.safetensors
      bp-xp inspect run.safetensors --json
    """  # noqa: D301
    facts, of_table = _facts(file)
    if as_json:
        print(json.dumps(facts, indent=2), flush=True)
        return
    lines = _lines(facts)
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:{width}}  {text}" for name, text in lines))
    print("".join(f"\n{part}\n" for part in of_table), end="", flush=True)


def _facts(file: str) -> tuple[dict[str, Any], list[Any]]:
    """Return the facts about a file, as JSON can hold them, and its preparation and card."""
    content = network_file.read(file)
    network, run = content.network, content.run
    facts: dict[str, Any] = {
        "file": file,
        "kind": content.kind,
        "sizes": network.sizes,
        "activations": network.activations,
        "cost": network.cost,
        "dtype": network.dtype,
        "seed": network.seed,
        "parameters": sum(part.size for layer in network.layers for part in layer),
    }
    if run is not None:
        facts |= {
            "epoch": run.epoch if run.place else run.epoch - 1,
            "steps_of_epoch": run.place,
            "step": run.step,
            "last_record": run.history[-1] if run.history else None,
            "best_epoch": run.best_epoch,
            "settings": run.settings,
        }
    if content.others:
        facts["sections"] = sorted(content.others)
    preparation, card = read_sections(content.others, file)
    if preparation is not None:
        facts |= {"columns": preparation.told, "target": str(preparation.targets)}
    if card is not None:
        facts["card"] = asdict(card)
    return facts, [part for part in (preparation, card) if part is not None]


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts for people to read, each as a name and a text."""
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
        ("last record", "none yet" if record is None else str(EpochRecord(**record))),
        ("best epoch", "not asked for" if best is None else str(best)),
    ]
    return lines + [(name, _shown(value)) for name, value in facts["settings"].items()]


def _shown(value: Any) -> str:
    """Return a setting of a run for people to read."""
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
