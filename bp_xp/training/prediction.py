"""What a network says of samples, returned or written to a file."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import advice, named
from bp_xp._typing import Array
from bp_xp.backends import to_numpy
from bp_xp.engines import Elementwise
from bp_xp.sources.making import input_blocks, paths_of
from bp_xp.storage.array_file import write_rows
from bp_xp.training import evaluation

__all__ = ["predict"]


def predict(
    network: Any,
    x: Any,
    batch_size: Any,
    read: Elementwise | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Array:
    """Return the outputs of a network, or what is read off them.

    Args:
        network: a :class:`bp_xp.Network`.
        x: inputs, wherever they lie.
        batch_size: how many go through the network at once.
        read: as for :func:`bp_xp.training.evaluation.feed`.
        out: a file to write them to, block by block, or None.

    Returns:
        Shape (N, ...), on the network's device; with ``out``, the array of the file, mapped.

    Raises:
        ValueError: ``out`` has another ending than .npy, or is what x is read from.
        OSError: it could not be written; an older file is left as it was.
    """
    size = checks.check_integer(batch_size, "batch_size")
    path = None if out is None else _as_path(out, x)
    placement = network.placement
    with placement.active(advice("Take a smaller {}.", "batch_size")):
        where: dict[str, Any] = {"placement": placement, "dtype": network.dtype}
        x, blocks = input_blocks(x, size, columns=network.sizes[0], **where)
        given = network.model, network._layers_for(x), blocks
        how: dict[str, Any] = {"read": read, "at_once": size, "placement": placement}
        if path is None:
            return evaluation.feed(*given, **how)
        write_rows(path, map(to_numpy, evaluation.feed_blocks(*given, **how)))
    return np.load(path, mmap_mode="r")


def _as_path(out: str | os.PathLike[str], x: Any) -> Path:
    """Return where predictions go; refuse a file of another kind, or one that is read."""
    path = Path(out)
    if path.suffix.lower() != ".npy":
        raise ValueError(f"{named('out', out)} must end in .npy, the format that is written.")
    if path.exists() and any(map(path.samefile, paths_of(x))):
        raise ValueError(f"{named('out', out)} is where the samples lie: name another file.")
    return path
