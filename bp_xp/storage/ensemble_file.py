"""The content of the file of an ensemble: the parameters and the generators of all members.

It is a file of :mod:`bp_xp.storage.tensors` of the kind ``"ensemble"``, with one section of that
name: the fields of a network, and ``seeds`` and ``generators`` with one for each member. The arrays
are ``layers.0.W`` of shape (members, O, I) and so on. The file of a run, ``"ensemble run"``, also
has a section ``run``. In addition to the fields for a network, it holds the numbers of the members
in the stack, and the history of each. Further sections are as in the file of a network.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp._typing import Layer
from bp_xp.storage.fields import (
    check_fields_of_ensemble,
    check_fields_of_section,
    check_fields_of_stack,
)
from bp_xp.storage.network_file import (
    NetworkSection,
    RunSection,
    Section,
    check_suffix,
    layer_tensors,
    of_another_kind,
    put_sections,
    records_in,
    records_out,
    run_fields,
    run_parts,
    run_tensors,
    take_layers,
    take_sections,
    take_tensor,
    unfit,
)
from bp_xp.storage.tensors import read_tensors, write_tensors

__all__ = ["EnsembleFile", "EnsembleSection", "StackSection", "read", "write"]

_FIELDS = ("sizes", "activations", "cost", "dtype", "seed", "generator", "own")
_OF_MEMBERS = ("seeds", "generators")


@dataclass(frozen=True)
class EnsembleSection(NetworkSection):
    """An ensemble, on the host: a network's fields, with parameters that have a leading axis.

    Attributes:
        seeds: the seed of each member.
        generators: the state of each member's generator.
    """

    seeds: Sequence[int]
    generators: Sequence[Any]


@dataclass(frozen=True)
class StackSection(RunSection):
    """A run of an ensemble, on the host; the state is that of the members in the stack.

    Attributes:
        rows: the numbers of the members in the stack.
        members: for each member its history, why it ended, its best epoch and its steps.
    """

    rows: Sequence[int]
    members: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class EnsembleFile:
    """The content of a file.

    Attributes:
        network: the ensemble.
        run: the run whose checkpoint it is, or None.
        others: further sections by name.
    """

    network: EnsembleSection
    run: StackSection | None = None
    others: Mapping[str, Section] = field(default_factory=dict)


def write(path: str | os.PathLike[str], content: EnsembleFile) -> Path:
    """Write a file, completely or not at all.

    Raises:
        ValueError: the name has another ending than .safetensors.
        OSError: it could not be written; an older file is left as it was.
    """
    check_suffix(path)
    ensemble, run = content.network, content.run
    tensors = layer_tensors(ensemble.layers, "layers")
    header: dict[str, Any] = {
        "kind": "ensemble",
        "ensemble": {name: getattr(ensemble, name) for name in (*_FIELDS, *_OF_MEMBERS)},
    }
    if run is not None:
        tensors |= run_tensors(run)
        members = [one | {"history": records_out(one["history"])} for one in map(dict, run.members)]
        header |= {
            "kind": "ensemble run",
            "run": run_fields(run) | {"rows": list(run.rows), "members": members},
        }
    put_sections(content.others, tensors, header)
    return write_tensors(path, tensors, header)


def read(path: str | os.PathLike[str], purpose: str = "be read as an ensemble") -> EnsembleFile:
    """Read a file, after verifying all of it.

    Args:
        path: the file.
        purpose: what the caller reads it for, for messages.

    Raises:
        CheckpointError: it is damaged or does not hold an ensemble; the message says what is wrong.
        OSError: it can't be read.
    """
    tensors, header = read_tensors(path)
    try:
        kind = header["kind"]
        if kind not in ("ensemble", "ensemble run"):
            raise of_another_kind(kind)
        fields = header["ensemble"]
        check_fields_of_ensemble(fields)
        ensemble = EnsembleSection(
            **{name: fields[name] for name in (*_FIELDS, *_OF_MEMBERS)},
            layers=_take_members(tensors, "layers", fields),
        )
        run = None if kind == "ensemble" else _run_of(header["run"], tensors, fields)
        others = take_sections(tensors, header, {"kind", "ensemble", "run"})
        if tensors:
            raise ValueError(f"tensor {min(tensors)!r} is not part of this ensemble")
        return EnsembleFile(ensemble, run, others)
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(path, purpose, error) from error


def _take_members(
    tensors: dict[str, np.ndarray], prefix: str, fields: Mapping[str, Any]
) -> list[Layer]:
    """Take the parameters of all members out of the tensors of a file."""
    members, sizes = len(fields["seeds"]), fields["sizes"]
    layers = take_layers(tensors, len(sizes) - 1, prefix, fields["dtype"])
    shapes = [(layer.W.shape, layer.b.shape) for layer in layers]
    if shapes != [((members, o, i), (members, o)) for i, o in itertools.pairwise(sizes)]:
        raise ValueError(f"its parameters do not fit its {members} members of sizes {sizes}")
    return layers


def _run_of(
    entries: Any, tensors: dict[str, np.ndarray], fields: Mapping[str, Any]
) -> StackSection:
    """Return the run of a file, whose arrays are taken out of its tensors."""
    check_fields_of_section(entries, "run")
    totals = take_tensor(tensors, "totals")
    check_fields_of_stack(entries, totals, fields["dtype"], len(fields["seeds"]))
    remembered = any(one["best_epoch"] is not None for one in entries["members"])
    return StackSection(
        **run_parts(entries, tensors),
        totals=totals,
        best=_take_members(tensors, "best", fields) if remembered else None,
        rows=entries["rows"],
        members=[one | {"history": records_in(one["history"])} for one in entries["members"]],
    )
