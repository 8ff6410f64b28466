"""Open files by name for reading, if they are regular files and not pipes or devices."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = ["open_regular", "read_regular"]

_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read its bytes.

    A pipe may never deliver any, and a device may never end; both are refused before any is read.

    Raises:
        OSError: the file cannot be opened, or is not a regular file; the message says what it is.
    """
    return open(path, "rb", opener=_open)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Return all bytes of a file; see :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read()


def _open(name: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe blocks until a process writes to it.
    descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(Path(name)))
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    raise OSError(errno.EINVAL, f"not a regular file, but {kind}: name a file", str(Path(name)))
