"""Predictions of a network, returned or written to a file."""

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
    """Return the outputs of a network, or the result of a function of them.

    Args:
        network: a :class:`bp_xp.Network`.
        x: inputs, in memory or stored.
        batch_size: the number of samples passed through the network at a time.
        read: as for :func:`bp_xp.training.evaluation.feed`.
        out: a file to write to, block by block, or None.

    Returns:
        Shape (N, ...), on the network's device; with ``out``, the memory-mapped array of the file.

    Raises:
        TypeError: ``out`` is not a path.
        ValueError: ``out`` has another extension than .npy, or is the file that x is read from.
        OSError: the file could not be written; an older file is unchanged.
    """
    size = checks.check_integer(batch_size, "batch_size")
    path = None if out is None else _as_path(out, x)
    placement = network.placement
    with placement.active(advice("Use a smaller {}.", "batch_size")):
        where: dict[str, Any] = {"placement": placement, "dtype": network.dtype}
        x, blocks = input_blocks(x, size, columns=network.sizes[0], **where)
        given = network.model, network._layers_for(x), blocks
        how: dict[str, Any] = {"read": read, "at_once": size, "placement": placement}
        if path is None:
            return evaluation.feed(*given, **how)
        write_rows(path, map(to_numpy, evaluation.feed_blocks(*given, **how)))
    return np.load(path, mmap_mode="r")


def _as_path(out: str | os.PathLike[str], x: Any) -> Path:
    """Return the path for predictions; refuse a file of another kind, or one that is being read."""
    if not isinstance(out, str | os.PathLike):
        raise TypeError(f"{named('out')} must be the path of a .npy file, not {out!r}.")
    path = Path(out)
    if path.suffix.lower() != ".npy":
        raise ValueError(f"{named('out', out)} must end in .npy, the format that is written.")
    if path.exists() and any(map(path.samefile, paths_of(x))):
        raise ValueError(f"{named('out', out)} is the file of the samples: name another file.")
    return path
