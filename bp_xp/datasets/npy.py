"""NumPy's own files, .npy and .npz, read so that a bad file can do no harm.

``numpy.load`` trusts a header: it allocates what the header claims before it looks at the data,
expands archives without a limit and ignores bytes that follow an array. Here every claim is first
checked against the size of the file, and nothing is ever unpickled.
"""

import ast
import math
import os
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import IO, Literal, NamedTuple

import numpy as np

from bp_xp._caller import advice, own_arguments
from bp_xp._files import open_regular
from bp_xp.datasets.bounded import expansion_limit, read_array
from bp_xp.errors import DataFormatError

__all__ = ["load_npy", "load_npz", "map_npy", "map_npz"]

_HEADER_LIMIT = 10_000
_LOCAL_HEADER_BYTES = 30  # of a member of an archive; its name and more follow
# How the length of the header is stored, by version of the format.
_LENGTH_FORMATS = {1: "<H", 2: "<I", 3: "<I"}
# Numbers and fixed-width text: b1 is bool, U12 is text of 12 characters.
_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iufc]\d+|[SU][1-9]\d*)")


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the array of a .npy file; objects are refused.

    Args:
        path: the file.

    Returns:
        The array, with the shape and dtype that the file states, in this machine's byte order.

    Raises:
        DataFormatError: the file is damaged, cut short, longer than it states, or holds
            something other than numbers or text.
        FileNotFoundError: there is no such file.
    """
    with open_regular(path) as file:
        return _read_npy(file, os.fstat(file.fileno()).st_size, str(path))


def map_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array of a .npy file without reading it: a memory map of its numbers.

    Args:
        path: the file.

    Raises:
        DataFormatError, FileNotFoundError: as for :func:`load_npy`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header, start, _ = _checked_header(file, size, str(path))
        return _mapped(path, header, start)


def map_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file without reading them, by name.

    Args:
        path: the file, whose members are not compressed, as ``numpy.savez`` writes them.

    Raises:
        DataFormatError: the archive is damaged, or a member is compressed or not numeric.
        FileNotFoundError: there is no such file.
    """

    def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: IO[bytes]) -> np.ndarray:
        where = f"{path}, member {info.filename!r}"
        if info.compress_type != zipfile.ZIP_STORED:
            raise DataFormatError(
                f"{where}: it is compressed, and can't be read row by row. Write the file with "
                "numpy.savez, or the arrays with numpy.save, one to a file."
            )
        with archive.open(info) as stream:
            header, start, _ = _checked_header(stream, info.file_size, where)
        # The header of the member itself shows where its bytes begin.
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER_BYTES)
        begin = info.header_offset + len(local) + sum(struct.unpack("<HH", local[26:]))
        return _mapped(path, header, begin + start)

    return _members(path, None, read)


def _mapped(path: str | os.PathLike[str], header: "_Header", start: int) -> np.ndarray:
    """Return the numbers of a file, from a byte on, as a memory map."""
    if not all(header.shape):  # an empty array can't be mapped
        return np.empty(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", start, header.shape, header.order)


@own_arguments
def load_npz(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> dict[str, np.ndarray]:
    """Read the arrays of a .npz file; objects are refused, and nothing is extracted to disk.

    Args:
        path: the file.
        max_bytes: how many bytes the arrays may take together; by default 100 times the size of
            the file, but at least 64 MiB.

    Returns:
        The arrays by name.

    Raises:
        DataFormatError: the archive is damaged, would expand beyond the limit, or has a
            member that is not an array or does not belong in such a file.
        FileNotFoundError: there is no such file.
    """

    def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, _: IO[bytes]) -> np.ndarray:
        with archive.open(info) as stream:
            return _read_npy(stream, info.file_size, f"{path}, member {info.filename!r}")

    return _members(path, max_bytes, read)


def _members(
    path: str | os.PathLike[str],
    max_bytes: int | None,
    read: Callable[[zipfile.ZipFile, zipfile.ZipInfo, IO[bytes]], np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the results of a function for each member of an archive, by name.

    Raises:
        DataFormatError: the archive is damaged, or has a member that does not belong there.
    """
    member = "the table of contents"
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                limit = expansion_limit(os.fstat(file.fileno()).st_size, max_bytes)
                _check_members(members, limit, path)
                arrays = {}
                for info in members:
                    member = f"member {info.filename!r}"
                    arrays[info.filename.removesuffix(".npy")] = read(archive, info, file)
                return arrays
        except DataFormatError:
            raise
        # The errors of zipfile and zlib for damage, depending on the damaged byte.
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            ValueError,
            RuntimeError,
            struct.error,
        ) as error:
            raise DataFormatError(
                f"{path} is damaged or not a .npz file: {member} cannot be read ({error}). Save or "
                "fetch the file again."
            ) from error


def _check_members(members: list[zipfile.ZipInfo], limit: int, path: str | os.PathLike) -> None:
    """Refuse content that numpy.savez never writes, before any of it is read."""
    seen: set[str] = set()
    n_bytes = 0
    for info in members:
        name = info.filename
        where = f"{path}, member {name!r}"
        if name in seen:
            raise DataFormatError(f"{where}: two members have this name; keep one of them.")
        seen.add(name)
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        # Nothing is extracted, so such a name could do no harm here; but a file that has one was
        # not made to be read.
        if is_link or ".." in PurePosixPath(name).parts or PureWindowsPath(name).anchor:
            raise DataFormatError(
                f"{where}: a link or a path that leads out of the archive. Do not trust this file."
            )
        if not name.endswith(".npy"):
            raise DataFormatError(
                f"{where}: not an array (its name does not end in .npy). Write the file with "
                "numpy.savez."
            )
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise DataFormatError(
                f"{where}: encrypted, or compressed in a way other than deflate. Write the file "
                "with numpy.savez or numpy.savez_compressed."
            )
        n_bytes += info.file_size
        if n_bytes > limit:
            raise DataFormatError(
                f"{where} expands to {info.file_size:,} bytes, which makes {n_bytes:,} for the "
                f"archive so far, above the limit of {limit:,}."
                + advice(" If the file is what you expect, raise {}.", "max_bytes")
            )


class _Header(NamedTuple):
    """The content of a .npy header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]


def _read_npy(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """Read the array that is the whole content of a stream.

    Args:
        stream: its bytes, from the first.
        size: how many bytes there are.
        where: its name in messages.
    """
    header, _, n_claimed = _checked_header(stream, size, where)
    array, n_read = read_array(stream, header.shape, header.dtype, header.order)
    # An archive checks its sum when more than its content is requested.
    if n_read < n_claimed or stream.read(1):
        raise DataFormatError(
            f"{where} is damaged: {n_claimed:,} bytes expected, {n_read:,} came before its end. "
            "Save or fetch the file again."
        )
    return array


def _checked_header(stream: IO[bytes], size: int, where: str) -> tuple[_Header, int, int]:
    """Read a header; return it, the start of the numbers, and their size in bytes.

    The arguments are those of :func:`_read_npy`.
    """
    text, n_start = _read_header(stream, where)
    header = _parse_header(text, where)
    n_claimed = math.prod(header.shape) * header.dtype.itemsize
    n_actual = size - n_start
    if n_claimed > n_actual:
        raise DataFormatError(
            f"{where} is truncated: its header claims {n_claimed:,} bytes of numbers, and "
            f"{n_actual:,} are there. Save or fetch the file again."
        )
    if n_claimed < n_actual:
        raise DataFormatError(
            f"{where} has {n_actual - n_claimed:,} extra bytes after the {n_claimed:,} of its "
            "array. Save the array again, one to a file."
        )
    return header, n_start, n_claimed


def _read_header(stream: IO[bytes], where: str) -> tuple[str, int]:
    """Read the bytes before the numbers; return the header text and the start of the numbers."""
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY":
        raise DataFormatError(
            f"{where} is not a .npy file: it begins with {start!r}. Write it with numpy.save."
        )
    version = start[6] if len(start) == 8 else 0
    if version not in _LENGTH_FORMATS:
        raise DataFormatError(
            f"{where} has no version of the .npy format that is known (1, 2 or 3): it begins with "
            f"{start!r}. Write it with numpy.save."
        )
    length_format = _LENGTH_FORMATS[version]
    n_length = struct.calcsize(length_format)
    length_bytes = stream.read(n_length)
    length = int.from_bytes(length_bytes, "little")
    if length > _HEADER_LIMIT:
        raise DataFormatError(
            f"{where} states a header length of {length:,} bytes; the limit is {_HEADER_LIMIT}, "
            "and arrays of numbers need about 100. Save the array again."
        )
    text = stream.read(length)
    if len(length_bytes) < n_length or len(text) < length:
        raise DataFormatError(
            f"{where} is truncated: it ends inside its header. Save or fetch the file again."
        )
    return text.decode("latin1"), 8 + n_length + length


def _parse_header(text: str, where: str) -> _Header:
    """Check and parse the header, a dictionary in Python's notation."""
    shown = repr(text[:200])
    try:
        # The limit on its length keeps this from exhausting the parser; see numpy#22393.
        entries = ast.literal_eval(text.strip())
        descr, fortran_order, shape = (entries[k] for k in ("descr", "fortran_order", "shape"))
    except (ValueError, SyntaxError, TypeError, LookupError, MemoryError, RecursionError) as error:
        raise DataFormatError(
            f"{where} has a header that cannot be read ({type(error).__name__}): {shown}. Save the "
            "array again with numpy.save."
        ) from error
    if not isinstance(descr, str) or not _PLAIN_DTYPE.fullmatch(descr):
        kind = "Python objects (dtype object)" if "O" in str(descr) else f"dtype {str(descr)[:40]}"
        raise DataFormatError(
            f"{where} holds {kind}; arrays of numbers or text are read, and no pickle ever is. "
            "Convert the array, for instance with numpy.asarray(a, dtype='float32'), and save it "
            "again."
        )
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError) as error:
        raise DataFormatError(
            f"{where} states a dtype that does not exist: {descr[:40]}."
        ) from error
    if (
        not isinstance(shape, tuple)
        or not all(type(n) is int and n >= 0 for n in shape)
        or not isinstance(fortran_order, bool)
        or len(shape) > 64
        # NumPy counts bytes in a signed word, also for an array that is empty along one axis.
        or math.prod(max(n, 1) for n in shape) * dtype.itemsize > sys.maxsize
    ):
        raise DataFormatError(f"{where} states an array that cannot exist: {shown}.")
    return _Header(dtype, shape, "F" if fortran_order else "C")
