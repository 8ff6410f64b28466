"""Files: written completely or not at all."""

import contextlib
import errno
import glob
import math
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

__all__ = [
    "NewFile",
    "check_replaceable",
    "keep_previous",
    "locked",
    "previous_of",
    "replace_file",
    "replacing",
]

_WINDOWS = os.name == "nt"

_STALE_SECONDS = 3600
_KEPT = "it was not written, and what was there before is kept"
_TRIES, _SECONDS_BETWEEN_TRIES = 10, 0.1


def replace_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Give a file new content, in a single step.

    Args:
        path: the file.
        data: the content, or its parts, which need not be in memory together.

    Raises:
        OSError: it could not be written; the message names the path, whose content is unchanged.
    """
    with replacing(path) as file:
        for part in [data] if isinstance(data, bytes) else data:
            file.write(part)


class NewFile:
    """A file that is being written; an error names the path that it will replace."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, data: bytes | memoryview, *, at: int | None = None) -> None:
        """Write bytes, at a position or after the last write."""
        with _naming(self._path, _KEPT):
            if at is not None:
                self._file.seek(at)
            view = memoryview(data)
            while view:  # a disk may accept only a part
                view = view[self._file.write(view) :]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[NewFile]:
    """Yield a file to write to, which replaces a path at the end of the context.

    If the context ends with an error, the new content is removed, and the path is unchanged.

    Raises:
        OSError: it could not be written; the message names the path.
    """
    mode = check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _naming(path, _KEPT):
            # The name is unique and the file must be new, so two writers cannot share one.
            file = open(  # noqa: SIM115
                temporary, "xb", 0, opener=lambda name, flags: os.open(name, flags, mode)
            )
        try:
            _remove_left(path, older_than=os.fstat(file.fileno()).st_mtime - _STALE_SECONDS)
            yield NewFile(file, path)
            # The content must be on the disk before the name refers to it, and the name before
            # the caller learns that the file is safe.
            with _naming(path, _KEPT):
                os.fsync(file.fileno())
                file.close()
        finally:
            with contextlib.suppress(OSError):  # an error here is not the cause of the failure
                file.close()
        with _naming(path, _KEPT):
            _rename(temporary, path)
        with _naming(path, "the new content is there, but a power cut could still undo it"):
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _naming(path: Path, outcome: str) -> Iterator[None]:
    """Add a path, and its state, to an error of the system."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}; {outcome}", str(path)) from error


def check_replaceable(path: Path) -> int:
    """Return the permissions, before the umask, for a file that is about to be written.

    Raises:
        FileNotFoundError: its folder does not exist.
        OSError: the path is a folder, a symbolic link or a device, or on Windows is read-only.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, f"there is no folder to write {path.name} in: create it", str(path.parent)
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return 0o666
    # os.replace would replace a link or a device with a file, not write to it.
    if not stat.S_ISREG(mode):
        raise OSError(
            errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL,
            "only a regular file can be replaced, not a folder, symbolic link or device: name the "
            "file itself",
            str(path),
        )
    if _WINDOWS and not mode & stat.S_IWRITE:
        # On Windows, a read-only file can't be replaced or removed either.
        raise PermissionError(
            errno.EACCES, "the file is read-only: make it writable, or name another", str(path)
        )
    return stat.S_IMODE(mode)


def _rename(path: Path, new: Path) -> None:
    """Rename a file, replacing an older one.

    Windows refuses while another program has the older file open, such as a virus scanner that
    checks each new file; it closes the file shortly after.
    """
    for _ in range(_TRIES if _WINDOWS else 0):
        with contextlib.suppress(PermissionError):
            os.replace(path, new)
            return
        time.sleep(_SECONDS_BETWEEN_TRIES)
    os.replace(path, new)


def _remove_left(path: Path, older_than: float = math.inf) -> None:
    """Remove temporary files that killed writers left next to a path.

    If two processes may write at the same time, there is no portable way to know whether a writer
    is alive, so age decides, by the clock of the file system. A writer that was suspended for
    longer finds its file missing at ``os.replace`` and fails with an error; ``path`` is complete in
    that case too.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}.tmp"):
        with contextlib.suppress(OSError):  # another writer may be faster
            if leftover.stat().st_mtime < older_than:
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk."""
    if _WINDOWS:  # which cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse; then there is nothing to sync.
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def keep_previous(path: Path) -> None:
    """Keep the content of a file under another name as well, before it is replaced.

    At any time there is a complete file at ``path`` and, after the first call, one at
    :func:`previous_of` it.

    Raises:
        OSError: it could not be kept.
    """
    if path.exists():
        link = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            try:
                os.link(path, link)
            except OSError:  # a file system without links
                shutil.copy2(path, link)
            _rename(link, previous_of(path))
        finally:
            # Renaming a link of a file to another link of it does nothing, and is not an error.
            link.unlink(missing_ok=True)


def previous_of(path: Path) -> Path:
    """Return where :func:`keep_previous` keeps a file: ``run.previous.safetensors``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


# ---------------------------------------------------------------------------------------------
# One owner


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Own a file until the context ends; incomplete files of a killed owner are removed.

    The system releases the lock when its owner dies. If a file system has no locks, other owners
    are not excluded.

    Raises:
        BlockingIOError: another process owns the file; the message names it.
        OSError: the lock could not be written next to the file.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _take_lock(lock, path)
    try:
        _remove_left(path)
        yield
    finally:
        if _WINDOWS:  # where an open file can't be removed
            os.close(descriptor)
        with contextlib.suppress(OSError):
            lock.unlink()
        if not _WINDOWS:
            os.close(descriptor)


def _take_lock(lock: Path, path: Path) -> int:
    """Return the descriptor of a lock file that we own and that still has its name."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            # The previous owner may have removed it between these two lines.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f" process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BlockingIOError:
            os.lseek(descriptor, 1, os.SEEK_SET)  # Windows does not allow reading the locked byte
            owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise BlockingIOError(
                errno.EAGAIN, f"{owner} is writing it: wait, or name another file", str(path)
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock an open file, or raise BlockingIOError."""
    if _WINDOWS:
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError from error
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise
