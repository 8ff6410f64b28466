"""What is in the file of an ensemble: the parameters of all members, and what each goes on with.

A file of :mod:`bp_xp.storage.tensors` of the kind ``"ensemble"``, with one section of that name:
the fields of a network, and ``seeds`` and ``generators`` with one for each member. The arrays are
``layers.0.W`` of shape (members, O, I) and so on.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_xp.storage.fields import check_fields_of_ensemble
from bp_xp.storage.network_file import (
    NetworkSection,
    check_suffix,
    layer_tensors,
    take_layers,
    unfit,
)
from bp_xp.storage.tensors import read_tensors, write_tensors

__all__ = ["EnsembleSection", "read", "write"]

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


def write(path: str | os.PathLike[str], ensemble: EnsembleSection) -> Path:
    """Write a file, whole or not at all.

    Raises:
        ValueError: the name ends in something else than .safetensors.
        OSError: it could not be written; an older file is left as it was.
    """
    check_suffix(path)
    header = {name: getattr(ensemble, name) for name in (*_FIELDS, *_OF_MEMBERS)}
    tensors = layer_tensors(ensemble.layers, "layers")
    return write_tensors(path, tensors, {"kind": "ensemble", "ensemble": header})


def read(path: str | os.PathLike[str]) -> EnsembleSection:
    """Read a file, after verifying all of it.

    Raises:
        CheckpointError: it is damaged, or holds no ensemble; the message says what is wrong.
        OSError: it can't be read.
    """
    tensors, header = read_tensors(path)
    try:
        if header["kind"] != "ensemble":
            raise ValueError(f"its kind is {header['kind']!r}")
        fields = header["ensemble"]
        check_fields_of_ensemble(fields)
        layers = take_layers(tensors, len(fields["activations"]), "layers", fields["dtype"])
        members = len(fields["seeds"])
        shapes = [(layer.W.shape, layer.b.shape) for layer in layers]
        wanted = [((members, o, i), (members, o)) for i, o in itertools.pairwise(fields["sizes"])]
        if shapes != wanted:
            raise ValueError(
                f"its parameters do not fit its {members} members of sizes {fields['sizes']}"
            )
        if tensors:
            raise ValueError(f"tensor {min(tensors)!r} is not part of this ensemble")
        return EnsembleSection(
            **{name: fields[name] for name in (*_FIELDS, *_OF_MEMBERS)}, layers=layers
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(path, "be read as an ensemble", error) from error
