"""Files of one array (.npy), written row by row."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp.storage.files import replacing

__all__ = ["write_rows"]

_HEADER_BYTES = 128


def write_rows(path: Path, blocks: Iterable[np.ndarray]) -> None:
    """Write blocks of rows, as they arrive, to a .npy file, which appears once it is complete.

    Args:
        path: the file; an older one is replaced.
        blocks: one or more arrays of shape (n, ...), all with the dtype and columns of the first.

    Raises:
        OSError: it could not be written; an older file is left as it was.
    """
    with replacing(path) as file:
        n, form = 0, None
        for block in blocks:
            if form is None:  # the number of rows is known at the end
                form = block.dtype, block.shape[1:]
                file.write(_header(n, *form))
            file.write(np.ascontiguousarray(block, form[0]).data.cast("B"))
            n += len(block)
        assert form is not None
        file.write(_header(n, *form), at=0)


def _header(n: int, dtype: np.dtype, columns: tuple[int, ...]) -> bytes:
    """Return the start of a file of version 1.0; its length does not depend on the rows."""
    fields: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (n, *columns),
    }
    text = f"{fields}".ljust(_HEADER_BYTES - 11)
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + f"{text}\n".encode()
