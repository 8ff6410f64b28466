"""Files: written whole or not at all."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
import stat
import time
from pathlib import Path

__all__ = ["check_replaceable", "keep_previous", "previous_of", "replace_file"]

_WINDOWS = os.name == "nt"

_STALE_SECONDS = 3600
_TRIES, _SECONDS_BETWEEN_TRIES = 10, 0.1


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
        _rename(temporary, path)
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
        OSError: the path is a folder, a symbolic link or a device; on Windows, or is read-only.
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
    if _WINDOWS and not mode & stat.S_IWRITE:
        # There a file that may not be written can't be replaced or removed either.
        raise PermissionError(
            errno.EACCES, "the file is read-only: let it be written, or name another", str(path)
        )
    return stat.S_IMODE(mode)


def _rename(path: Path, new: Path) -> None:
    """Rename a file, in place of an older one.

    Windows refuses while another program has the older one open, such as a scanner for viruses that
    looks at each new file: a little later it lets go.
    """
    for _ in range(_TRIES if _WINDOWS else 0):
        with contextlib.suppress(PermissionError):
            os.replace(path, new)
            return
        time.sleep(_SECONDS_BETWEEN_TRIES)
    os.replace(path, new)


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
    if _WINDOWS:  # which cannot open a folder
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
        _rename(link, previous_of(path))


def previous_of(path: Path) -> Path:
    """Return where :func:`keep_previous` keeps a file: ``run.previous.safetensors``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")
