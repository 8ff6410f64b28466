"""Arrays in files: written completely or not at all, and verified before use.

A file is in the safetensors format, which holds numbers and nothing that could run. Its metadata
has one entry, ``"bp_xp"``: a JSON document with the format version, a SHA-256 of the content, and
the caller's header. Equal content gives equal bytes.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from bp_xp._caller import in_python
from bp_xp._files import read_regular
from bp_xp.errors import CheckpointError
from bp_xp.storage.files import replace_file

__all__ = ["FORMAT_VERSION", "read_tensors", "write_tensors"]

FORMAT_VERSION = 2
"""The version that is written. Every version before is read as well."""

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

# First bytes of files that are mistaken for checkpoints. A pickle's second byte is its protocol.
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


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]
) -> Path:
    """Write arrays and a header to one file, which replaces an earlier one in a single step.

    Whenever the process or the machine stops, ``path`` holds either the old or all of the new
    content. A new file gets the permissions of the umask; replacing a file never widens them. A
    writer that is killed leaves a temporary file next to ``path``, named
    ``.NAME.<16 hex digits>.tmp``; it is ignored, and a write to the same path removes it once it is
    an hour old.

    Args:
        path: where to write; its folder must exist.
        tensors: arrays by name, of bool, integers, float32 or float64, with any shape and memory
            layout. Names must be printable.
        header: values that JSON can hold, so only finite numbers; they are read back as JSON's
            types, a tuple as a list.

    Returns:
        The path written.

    Raises:
        TypeError: A tensor has another dtype, or the header has a value that JSON lacks.
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
        CheckpointError: The file is damaged, has a newer format version, is from another program,
            or holds NaN or infinity that are not allowed. The message says which.
        OSError: The file cannot be read: FileNotFoundError, IsADirectoryError, PermissionError;
            or it is not a regular file, but a pipe or a device.
    """
    path = Path(path)
    try:
        return _decode(read_regular(path), allow_nonfinite=allow_nonfinite)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except FileNotFoundError as error:
        meant = path.with_name(f"{path.name}.safetensors")
        if not meant.exists():
            raise
        text = f"there is no such file, but {meant.name} next to it"
        raise FileNotFoundError(error.errno, text, str(path)) from None


def _encode(tensors: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> bytes:
    """Return the content of a file."""
    arrays = {name: _little_endian(name, array) for name, array in tensors.items()}
    # JSON converts all keys to strings: the header is recorded as it will be read back.
    header = json.loads(json.dumps(dict(header), allow_nan=False))
    try:
        return save(arrays, metadata={"bp_xp": _record(arrays, header)})
    except SafetensorError as error:
        raise ValueError(f"The header and the tensor names cannot be saved: {error}.") from error


def _little_endian(name: str, array: np.ndarray) -> np.ndarray:
    """Return an array as it is stored in a file: C-contiguous and little-endian."""
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


def _record(
    arrays: Mapping[str, np.ndarray], header: Mapping[str, Any], version: int = FORMAT_VERSION
) -> str:
    """Return the text that identifies some content, and no other content."""
    digest = hashlib.sha256(json.dumps([version, header]).encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).data)
    return json.dumps({"format_version": version, "sha256": digest.hexdigest(), "header": header})


def _decode(
    data: bytes, *, allow_nonfinite: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the header in the content of a file, or raise an error about it."""
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
                "is a safetensors file that bp_xp did not write"
                + in_python(
                    ": open it with safetensors.numpy.load_file and build the network from its "
                    "arrays"
                )
                + "."
            )
    version, header = _header(text)
    arrays = {name: _array(name, entry) for name, entry in entries}
    try:
        intact = _record(arrays, header, version) == text
    except RecursionError:  # json can write slightly less nesting than it can read
        intact = False
    if not intact:
        raise CheckpointError(_DAMAGED)
    if not allow_nonfinite:
        _check_finite(arrays)
    # The copies are writable, and in the byte order of this machine.
    return {name: a.astype(a.dtype.newbyteorder("=")) for name, a in arrays.items()}, header


def _header(text: str) -> tuple[int, dict[str, Any]]:
    """Return version and header in the text of ``_record``, if this bp_xp can read them."""
    match _parse_json(text):
        case {"format_version": int(version)} if not 1 <= version <= FORMAT_VERSION:
            raise CheckpointError(
                f"has format version {version}, but this bp_xp reads only versions 1 to "
                f"{FORMAT_VERSION}: open it with a bp_xp that reads version {version}."
            )
        case {"format_version": int(version), "header": dict(header)}:
            return version, header
        case _:
            raise CheckpointError(_DAMAGED)


def _array(name: str, entry: dict[str, Any]) -> np.ndarray:
    """Return a tensor as a NumPy array."""
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
                f"holds {n_nonfinite} NaN or infinite values of {array.size} in tensor {name!r}, "
                "which no network has. Restore a copy."
            )


def _diagnosis(data: bytes, error: SafetensorError) -> str:
    """Return why some bytes are not a safetensors file, more precisely than the library does."""
    # A header of 640 bytes makes a file that begins like a pickle, but then there is a brace.
    if data[8:9] != b"{":
        for start, kind in _FOREIGN.items():
            if re.match(start, data):
                return f"{kind}; bp_xp reads only safetensors files, and only its own."
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
    """Return the JSON document at the start of a safetensors file."""
    return _parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])


def _parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, None if it is not valid."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is a Python extension, and never written")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):  # also for integers with too many digits, and deep nesting
        return None
