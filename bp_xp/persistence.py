"""Arrays in files: written whole or not at all, and verified before anything of them is used.

A file is in the safetensors format, which holds numbers and nothing that could run. Its metadata
has one entry, ``"bp_xp"``: a JSON document with the format version, a SHA-256 of the content, and
the caller's header. Equal content gives equal bytes.
"""

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from bp_xp.errors import CheckpointError

__all__ = [
    "check_replaceable",
    "keep_previous",
    "previous_of",
    "read_tensors",
    "replace_file",
    "write_tensors",
]

FORMAT_VERSION = 1

# The dtypes that may be saved, by their names in safetensors. Little-endian is the file's order.
_DTYPES = {
    "BOOL": "|b1",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "|u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "F32": "<f4",
    "F64": "<f8",
}

# How files begin that are taken for checkpoints. A pickle's second byte is its protocol.
_FOREIGN = {
    rb"\x80[\x02-\x05]": "is a pickle / PyTorch archive, which may run code when opened",
    rb"PK\x03\x04": "is a ZIP archive (PyTorch, Keras, .npz), which may run code when opened",
    rb"\x89HDF\r\n": "is an HDF5 file",
    rb"\x93NUMPY": "is a NumPy file (.npy)",
    rb"[\t\n\r -~]{8}": "is a text file",
}

_DAMAGED = (
    "is damaged: its content does not have the SHA-256 that was saved with it. Restore a copy."
)

_STALE_SECONDS = 3600


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]
) -> Path:
    """Write arrays and a header to one file, which replaces an earlier one in a single step.

    Whenever the process or the machine stops, ``path`` holds either what it held before or all of
    the new content. A new file gets the permissions that the umask gives; replacing a file never
    widens them. A writer that is killed leaves a temporary file beside ``path``, named
    ``.NAME.<16 hex digits>.tmp``; it is ignored, and a write to the same path removes it once it is
    an hour old.

    Args:
        path: where to write; its folder must exist.
        tensors: name to array, of bool, integers, float32 or float64, of any shape and memory
            layout. Names must be printable.
        header: values that JSON can hold, so finite numbers only; they come back as JSON's types,
            a tuple as a list.

    Returns:
        The path written.

    Raises:
        TypeError: A tensor has another dtype, or the header a value that JSON lacks.
        ValueError: A name cannot be saved, or the header holds NaN or infinity, or is too large.
        OSError: The file could not be written. The message names the path and says what it holds.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_tensors(f"{folder}/a.safetensors", {"b": np.zeros(2)}, {"epoch": 3})
        ...     read_tensors(path)
        ({'b': array([0., 0.])}, {'epoch': 3})
    """
    path = Path(path)
    replace_file(path, _encode(tensors, header))
    return path


def keep_previous(path: Path) -> None:
    """Keep what a file holds under another name as well, before it is replaced.

    At any moment there are a whole file at ``path`` and, after the first time, one at
    :func:`previous_of` it.

    Raises:
        OSError: it could not be kept.
    """
    if path.exists():
        link = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            os.link(path, link)
        except OSError:  # a file system without links
            shutil.copy2(path, link)
        os.replace(link, previous_of(path))


def previous_of(path: Path) -> Path:
    """Return where :func:`keep_previous` keeps a file: ``run.previous.safetensors``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_tensors(
    path: str | os.PathLike[str], *, allow_nonfinite: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what ``write_tensors`` wrote, after verifying all of it.

    Args:
        path: the file to read.
        allow_nonfinite: accept NaN and infinity in the tensors.

    Returns:
        The arrays by name, each a writable copy that the caller owns, and the header.

    Raises:
        CheckpointError: The file is damaged, is of a newer format version or another program's, or
            holds NaN or infinity that were not allowed. The message says which.
        OSError: The file cannot be read: FileNotFoundError, IsADirectoryError, PermissionError.
    """
    path = Path(path)
    try:
        return _decode(path.read_bytes(), allow_nonfinite=allow_nonfinite)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error


def _encode(tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> bytes:
    """Return the content of a file."""
    arrays = {name: _little_endian(name, array) for name, array in tensors.items()}
    # JSON makes all keys strings: the header is recorded as it will be read back.
    header = json.loads(json.dumps(dict(header), allow_nan=False))
    try:
        return save(arrays, metadata={"bp_xp": _record(arrays, header)})
    except SafetensorError as error:
        raise ValueError(f"The header and the tensor names cannot be saved: {error}.") from error


def _little_endian(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array as it lies in a file: C-contiguous and little-endian."""
    # Printable names are stored literally. JSON has several spellings of the others, which would
    # leave bits of a file that can change unnoticed.
    if not name.isprintable() or name == "__metadata__":
        raise ValueError(
            f"tensor name {name!r} cannot be saved: use printable characters, and any name but "
            f"'__metadata__'."
        )
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES.values():
        raise TypeError(
            f"tensor {name!r} has dtype {array.dtype}, but only bool, integers, float32 and "
            f"float64 can be saved: convert it with astype."
        )
    return np.asarray(array, dtype=dtype, order="C")


def _record(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> str:
    """Return the text that describes some content, and no other content."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, header]).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).data)
    return json.dumps(
        {"format_version": FORMAT_VERSION, "sha256": digest.hexdigest(), "header": header}
    )


def _decode(
    data: bytes, *, allow_nonfinite: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the header in the content of a file, or say what is wrong with it."""
    try:
        # This refuses a malformed header, and tensors that overlap or do not cover the data.
        entries = deserialize(data)
    except SafetensorError as error:
        raise CheckpointError(_diagnosis(data, error)) from error
    match _safetensors_header(data):
        case {"__metadata__": {"bp_xp": str(text)}}:
            pass
        case _:
            raise CheckpointError(
                "is a safetensors file that bp_xp did not write: open it with "
                "safetensors.numpy.load_file and build the network from its arrays."
            )
    header = _header(text)
    arrays = {name: _array(name, entry) for name, entry in entries}
    try:
        intact = _record(arrays, header) == text
    except RecursionError:  # json writes a little less deep than it reads
        intact = False
    if not intact:
        raise CheckpointError(_DAMAGED)
    if not allow_nonfinite:
        _check_finite(arrays)
    # The copies are writable, and in the byte order of this machine.
    return {name: a.astype(a.dtype.newbyteorder("=")) for name, a in arrays.items()}, header


def _header(text: str) -> dict[str, Any]:
    """Return the header in the text of ``_record``, if this version can read it."""
    match _parse_json(text):
        case {"format_version": int(version)} if version != FORMAT_VERSION:
            raise CheckpointError(
                f"has format version {version}, but this bp_xp reads only version "
                f"{FORMAT_VERSION}: open it with a bp_xp that reads version {version}."
            )
        case {"header": dict(header)}:
            return header
        case _:
            raise CheckpointError(_DAMAGED)


def _array(name: str, entry: dict[str, Any]) -> np.ndarray:
    """Return a tensor as NumPy sees it."""
    try:
        return np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"holds tensor {name!r} of dtype {entry['dtype']} and shape {entry['shape']}, which "
            f"bp_xp does not write."
        ) from error


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse NaN and infinity."""
    for name, array in arrays.items():
        n_nonfinite = array.size - np.count_nonzero(np.isfinite(array))
        if n_nonfinite:
            raise CheckpointError(
                f"holds {n_nonfinite} NaN or infinite values of {array.size} in tensor {name!r}: "
                f"pass allow_nonfinite=True to read it all the same."
            )


def _diagnosis(data: bytes, error: SafetensorError) -> str:
    """Say why some bytes are not a safetensors file, more closely than the library does."""
    # A header of 640 bytes makes a file that begins like a pickle, but then there is a brace.
    if data[8:9] != b"{":
        for start, kind in _FOREIGN.items():
            if re.match(start, data):
                return f"{kind}; bp_xp reads only safetensors files, and of these its own."
    n_data = len(data) - 8 - int.from_bytes(data[:8], "little")
    header = _safetensors_header(data)
    entries = header.items() if isinstance(header, dict) else ()
    for name, entry in entries:
        match entry:
            case {
                "dtype": str(dtype),
                "shape": [*shape],
                "data_offsets": [int(begin), int(end)],
            } if dtype in _DTYPES and len(shape) <= 64 and all(isinstance(n, int) for n in shape):
                n_bytes = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
                if n_bytes != end - begin or end > n_data:
                    return (
                        f"is damaged or cut short: tensor {name!r} of dtype {dtype} and shape "
                        f"{shape} does not fit bytes {begin} to {end} of {n_data}. Restore a copy."
                    )
    return f"is damaged, or not a safetensors file ({error}). Restore a copy."


def _safetensors_header(data: bytes) -> Any:
    """Return the JSON document that a safetensors file begins with."""
    return _parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])


def _parse_json(text: str | bytes) -> Any:
    """Return the value that a JSON text stands for, None where it stands for none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also for integers of too many digits, and deep nesting
        return None


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content, all at once.

    Raises:
        OSError: it could not be written; the message names the path, which holds what it held.
    """
    mode = check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    outcome = "it was not written, and what was there before is kept"
    try:
        # The name is unique and the file must be new, so two writers cannot share one.
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            _remove_stale(path, now=os.fstat(file.fileno()).st_mtime)
            file.write(data)
            file.flush()
            # The content must be on the disk before the name refers to it, and the name before
            # the caller hears that the file is safe.
            os.fsync(file.fileno())
        os.replace(temporary, path)
        outcome = "the new content is there, but a power cut could still undo it"
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}; {outcome}", str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_replaceable(path: Path) -> int:
    """Return the permissions, before the umask, for a file that is about to be written.

    Raises:
        FileNotFoundError: there is no folder to write it in.
        OSError: the path is a folder, a symbolic link or a device.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, f"there is no folder to write {path.name} in: create it", str(path.parent)
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return 0o666
    # os.replace would put a file in the place of a link or a device, not write to it.
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL,
            "only a regular file can be replaced, not a folder, symbolic link or device: pass the "
            "path of the file itself",
            str(path),
        )
    return stat.S_IMODE(mode)


def _remove_stale(path: Path, now: float) -> None:
    """Remove temporary files that killed writers left beside a path.

    Nothing portable tells whether a writer lives, so age decides; ``now`` comes from the clock of
    the file system, as the ages do. A writer that was suspended for longer finds its file gone at
    ``os.replace`` and fails with an error: ``path`` is whole in that case too.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}.tmp"):
        with contextlib.suppress(OSError):  # another writer may be quicker
            if now - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk."""
    if os.name == "nt":  # Windows cannot open a folder.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse: there is nothing to sync then.
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
