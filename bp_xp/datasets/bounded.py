"""Reading files that nobody has vouched for: never more than a checked header promised."""

import math
from io import BufferedIOBase
from typing import IO, Literal

import numpy as np

__all__ = ["expansion_limit", "read_array"]

_HARMLESS = 64 * 2**20
_LARGEST_RATIO = 100
_CHUNK = 2**20


def expansion_limit(n_stored: int, max_bytes: int | None) -> int:
    """How many bytes a compressed file may expand to.

    Args:
        n_stored: the size of the file on disk, in bytes.
        max_bytes: what the caller allows; None for 100 times the file's size, or 64 MiB where
            that is more: numbers seldom compress so well, and what small files expand to is
            harmless.

    Returns:
        The limit, in bytes.
    """
    if max_bytes is not None:
        return max_bytes
    return max(_HARMLESS, _LARGEST_RATIO * n_stored)


def read_array(
    stream: IO[bytes] | BufferedIOBase,
    shape: tuple[int, ...],
    dtype: np.dtype,
    order: Literal["C", "F"] = "C",
) -> tuple[np.ndarray, int]:
    """Read an array whose size the caller has checked against what may come.

    Args:
        stream: where its bytes begin.
        shape: its shape.
        dtype: how a number is stored there, byte order included.
        order: "C" for rows after one another, "F" for columns.

    Returns:
        The array, in this machine's byte order, and how many bytes came before the stream ended;
        where these are too few, the rest of the array is not set.
    """
    flat = np.empty(math.prod(shape), dtype)
    octets = flat.view(np.uint8)
    n_read = 0
    # In pieces: read(size) would hold everything a second time.
    while chunk := stream.read(min(_CHUNK, octets.size - n_read)):
        octets[n_read : n_read + len(chunk)] = np.frombuffer(chunk, np.uint8)
        n_read += len(chunk)
    array = flat.reshape(shape, order=order)
    return array.astype(dtype.newbyteorder("="), copy=False), n_read
