"""Files that are downloaded once, checked, and kept."""

import errno
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from bp_xp._caller import named
from bp_xp._files import open_regular
from bp_xp.errors import DataFormatError, DownloadError

__all__ = ["Archive", "fetch"]

_TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of a response


# Errors that only writing a file can raise, not the network.
_OF_THE_DISK = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EFBIG)


class Archive(NamedTuple):
    """A published file.

    Attributes:
        name: its name, on the mirrors and on disk.
        sha256: the SHA-256 sum of its contents, in hexadecimal digits.
        n_bytes: its size in bytes.
    """

    name: str
    sha256: str
    n_bytes: int


def fetch(archive: Archive, folder: Path, *, mirrors: Sequence[str], download: bool = True) -> Path:
    """Return the path of a published file in a cache folder; download it if it is missing.

    An existing file is checked each time, and downloaded again with a warning if it is not what was
    published. A file is complete before it gets its name, so processes that fetch the same file at
    the same time do not disturb each other.

    Args:
        archive: the file.
        folder: where it is kept; created if it does not exist.
        mirrors: the addresses of the folders that hold it, in the order to try them.
        download: False to use only an existing file.

    Returns:
        folder / archive.name

    Raises:
        DownloadError: no mirror provided the file, or the folder can't be written to.
        FileNotFoundError: the file does not exist and download is False.
        DataFormatError: the file is damaged and download is False.
    """
    path = folder / archive.name
    try:
        found = _sha256(path) if path.exists() else None
    except PermissionError as error:
        raise _unusable(folder, "read", error) from error
    if found == archive.sha256:
        return path
    if found is None:
        if not download:
            raise FileNotFoundError(
                f"There is no {path}. Put the file there, or allow it to be downloaded with "
                f"{named('download', True)}."
            )
    else:
        problem = f"{path} is damaged: {_difference(path, found, archive)}"
        if not download:
            raise DataFormatError(f"{problem}. Get it again with {named('download', True)}.")
        warnings.warn(f"{problem}. It is downloaded again.", stacklevel=2)
    _download(archive, path, mirrors)
    return path


def _download(archive: Archive, path: Path, mirrors: Sequence[str]) -> None:
    """Put the complete and checked file at the path, or raise an error."""
    from pooch import HTTPDownloader

    # The files are already compressed; a server that unpacked one would change its checksum.
    get = HTTPDownloader(
        timeout=_TIMEOUT, chunk_size=2**16, headers={"Accept-Encoding": "identity"}
    )
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise _unusable(path.parent, "written to", error) from error
    failures: list[str] = []
    cause = None
    try:
        for mirror in mirrors:
            url = f"{mirror.rstrip('/')}/{archive.name}"
            try:
                get(url, str(part), None)
            except OSError as error:  # the errors of requests, from no network to a 404
                if error.errno in _OF_THE_DISK:
                    raise _unusable(path.parent, "written to", error) from error
                cause = error
                # pooch leaves the connection open when the response is, for example, a 404.
                if (answer := getattr(error, "response", None)) is not None:
                    answer.close()
                n_bytes = part.stat().st_size if part.exists() else 0
                failures.append(f"{url}: {n_bytes:,} of {archive.n_bytes:,} bytes came ({error})")
                continue
            found = _sha256(part)
            if found == archive.sha256:
                os.replace(part, path)
                return
            failures.append(f"{url}: {_difference(part, found, archive)}")
    finally:
        # Also after Ctrl-C: no incomplete file is left behind.
        part.unlink(missing_ok=True)
    listed = "\n  ".join(failures)
    raise DownloadError(
        f"{archive.name} could not be downloaded:\n  {listed}\n"
        f"Try again later, or put the file at {path} by hand."
    ) from cause


def _unusable(folder: Path, what: str, error: OSError) -> DownloadError:
    """Return the error for a folder that can't be used as a cache."""
    return DownloadError(
        f"{folder}, where downloads are kept, can't be {what} ({error.strerror or error}): allow "
        f"it to be {what}, move the cache with XDG_CACHE_HOME (on Linux), or download the archives "
        "by hand and name their folder with BP_XP_DATA_DIR."
    )


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(path: Path, found: str, archive: Archive) -> str:
    """Return how a file differs from what was published, in words."""
    return (
        f"{path.stat().st_size:,} bytes with SHA-256 {found}, expected {archive.n_bytes:,} bytes "
        f"with SHA-256 {archive.sha256}"
    )
