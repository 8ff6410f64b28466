"""Reading untrusted files: never more than a checked header promised."""

import math
from io import BufferedIOBase
from typing import IO, Literal

import numpy as np

__all__ = ["expansion_limit", "read_array"]

_HARMLESS = 64 * 2**20
_LARGEST_RATIO = 100
_CHUNK = 2**20


def expansion_limit(n_stored: int, max_bytes: int | None) -> int:
    """Return how many bytes a compressed file may expand to.

    Args:
        n_stored: the size of the file on disk, in bytes.
        max_bytes: what the caller allows; None for 100 times the file's size, or 64 MiB if that is
            more: numbers rarely compress so well, and small files expand to harmless sizes.

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
    """Read an array whose size the caller has checked against the size of the file.

    Args:
        stream: a stream at the first byte of the array.
        shape: its shape.
        dtype: how a number is stored there, including the byte order.
        order: "C" for row after row, "F" for column after column.

    Returns:
        The array, in this machine's byte order, and the number of bytes before the stream ended; if
        these are too few, the rest of the array is not set.
    """
    flat = np.empty(math.prod(shape), dtype)
    octets = flat.view(np.uint8)
    n_read = 0
    # Read in pieces: read(size) would keep everything in memory twice.
    while chunk := stream.read(min(_CHUNK, octets.size - n_read)):
        octets[n_read : n_read + len(chunk)] = np.frombuffer(chunk, np.uint8)
        n_read += len(chunk)
    array = flat.reshape(shape, order=order)
    return array.astype(dtype.newbyteorder("="), copy=False), n_read
