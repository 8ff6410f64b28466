"""The IDX format, in which MNIST and its relatives are published."""

import gzip
import math
import os
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from bp_xp._files import open_regular
from bp_xp.datasets.bounded import expansion_limit, read_array
from bp_xp.errors import DataFormatError

__all__ = ["read_idx"]

# The third byte of a file gives the type of its numbers, the fourth the number of dimensions.
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 64  # what NumPy can hold


def read_idx(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> np.ndarray:
    """Read an array from an IDX file, as published (gzip) or unpacked.

    Args:
        path: the file; if its name ends in ".gz", it must be compressed.
        max_bytes: the largest array to read, in bytes; by default 100 times the size of the file,
            but at least 64 MiB.

    Returns:
        The array, of the shape and type that the file states: uint8 of shape (N, rows, columns)
        for images, uint8 of shape (N,) for labels.

    Raises:
        DataFormatError: the file is damaged, cut short, longer than it states, or not IDX.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with open_regular(path) as file:
        limit = expansion_limit(os.fstat(file.fileno()).st_size, max_bytes)
        start = file.read(16)
        file.seek(0)
        if start[:2] != b"\x1f\x8b":
            if path.suffix == ".gz":
                raise DataFormatError(
                    f"{path} is not a gzip file: it begins with {start!r}. It may be a web page "
                    "that was served instead of the file: get the file again."
                )
            return _read_stream(file, path, limit)
        with gzip.GzipFile(fileobj=file) as stream:
            try:
                return _read_stream(stream, path, limit)
            except (gzip.BadGzipFile, zlib.error) as error:
                raise DataFormatError(
                    f"{path} is damaged: it cannot be decompressed ({error}). Get the file again."
                ) from error


def _read_stream(stream: BufferedIOBase, path: Path, limit: int) -> np.ndarray:
    """Read header and body, and check that nothing follows."""
    n_expected = 4
    try:
        dtype, n_dimensions = _read_magic(stream, path)
        n_expected += 4 * n_dimensions
        sizes = stream.read(4 * n_dimensions)
        if len(sizes) < 4 * n_dimensions:
            raise EOFError("the header ends early")
        shape = struct.unpack(f">{n_dimensions}I", sizes)
        n_body = math.prod(shape) * dtype.itemsize
        n_expected += n_body
        if n_body == 0:
            raise DataFormatError(f"{path} holds no data: its header states the shape {shape}.")
        if n_body > limit:
            raise DataFormatError(
                f"{path} would expand to {n_body:,} bytes, above the limit of {limit:,}. Get the "
                "file again."
            )
        array, n_read = read_array(stream, shape, dtype)
        if n_read < n_body:
            raise EOFError("the body ends early")
        # One more byte is requested: there should be none, and at the end gzip checks its sums.
        if stream.read(1):
            raise DataFormatError(
                f"{path} is longer than its header says: for the shape {shape}, a limit of "
                f"{n_expected:,} bytes is expected, and at least {n_expected + 1:,} are there."
            )
    except EOFError as error:
        raise DataFormatError(
            f"{path} is truncated: {n_expected:,} bytes expected, {stream.tell():,} read "
            f"({error}). Get the file again."
        ) from error
    return array


def _read_magic(stream: BufferedIOBase, path: Path) -> tuple[np.dtype, int]:
    """Read the first four bytes: the type of the numbers and the number of dimensions."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise EOFError("the header ends early")
    zeros, code, n_dimensions = magic[:2], magic[2], magic[3]
    if zeros != b"\0\0" or code not in _DTYPES or not 0 < n_dimensions <= _MAX_DIMENSIONS:
        codes = ", ".join(f"{known:02x}" for known in _DTYPES)
        raise DataFormatError(
            f"{path} is not an IDX file: it begins with the bytes {magic.hex(' ')}; expected are "
            f"00 00, a type (one of {codes}) and a number of dimensions (01 to "
            f"{_MAX_DIMENSIONS:02x}), such as 00 00 08 03 for images."
        )
    return np.dtype(_DTYPES[code]), n_dimensions
