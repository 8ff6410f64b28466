"""A source whose samples are in a file or a store, and are read block by block.

The order of an epoch: the blocks are shuffled, as many as fit in the buffer are read, and their
rows are shuffled together. Both orders follow from the seed.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bp_xp._caller import named
from bp_xp._typing import Array
from bp_xp.backends import Placement, to_numpy
from bp_xp.backends.registry import library_of
from bp_xp.math.rows import row_blocks
from bp_xp.sources import intake
from bp_xp.sources.ahead import Ahead, Piece
from bp_xp.sources.parts import PartMaker, Transform, host, told_of
from bp_xp.sources.samples import count_classes, make_targets
from bp_xp.sources.source import Source
from bp_xp.sources.sparse import is_sparse
from bp_xp.sources.stream import StreamEpoch, on_device

__all__ = [
    "StoredSource",
    "buffer_rows_of",
    "check_stored",
    "files_of",
    "is_stored",
    "make_stored",
    "paths_of_stored",
    "read_whole",
    "told_of_files",
]

# Bytes, as the network's floats: the default size of the buffer, and the size of one read.
_BUFFER, _BLOCK = 1 << 28, 1 << 20
_LEAST_BLOCKS = 16  # in a buffer, so that its rows come from many places
_ROWS_CHECKED_AT_ONCE = 1 << 16
_BLOCKS_IN_A_FINGERPRINT, _ROWS_IN_A_FINGERPRINT = 32, 16


def is_stored(x: Any) -> bool:
    """Return whether x has shape, dtype and slicing by rows, and is not in memory.

    Memory-mapped files and HDF5 and Zarr data sets are examples.
    """
    if isinstance(x, np.memmap):
        return getattr(x, "_mmap", None) is not None  # rows picked out of one are in memory
    if library_of(x) is not None or is_sparse(x):
        return False
    in_memory = ("__array_interface__", "__dlpack__", "__cuda_array_interface__", "to_numpy")
    return all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__")) and not any(
        hasattr(x, name) for name in in_memory
    )


def check_stored(x: Any, transform: Transform | None, name: str, columns: int) -> None:
    """Refuse stored inputs with a shape that neither the network nor a transform accepts."""
    if transform is None:
        intake.check_matrix(x, named(name), columns)
    elif not all(x.shape) or len(x.shape) < 2:
        raise ValueError(
            f"{named(name)} has shape {tuple(x.shape)}, but transform takes rows of (n, ...)."
        )


def buffer_rows_of(buffer_size: int | None, columns: int, dtype: str) -> int:
    """Return how many rows of so many numbers the buffer holds; None means 256 MiB."""
    if buffer_size is not None:
        return buffer_size
    return max(1, _BUFFER // (columns * np.dtype(dtype).itemsize))


def read_whole(values: Any) -> Any:
    """Return stored data as an array in memory; anything else is returned unchanged."""
    return np.array(values[0 : values.shape[0]]) if is_stored(values) else values


class _File(NamedTuple):
    """The state of a file at the start of the run.

    Attributes:
        path: its path.
        size: its size in bytes.
        changed: the time of its last modification, in nanoseconds.
    """

    path: str
    size: int
    changed: int

    def check(self) -> None:
        """Raise OSError if the file was truncated or modified.

        If a file is truncated while a block is being read, the program ends with SIGBUS.
        """
        now = os.stat(self.path)
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            how = f"it had {self.size:,} bytes when the run began, and has {now.st_size:,} now"
            if now.st_size == self.size:
                how = "it was written to after the run began"
            raise OSError(
                f"{self.path} changed while it was read: {how}. Train on a file that nobody "
                "writes to."
            )


def files_of(*stored: Any) -> tuple[_File, ...]:
    """Return the files that contain the samples, as far as they are known."""
    # HDF5 may write to a file that is open for writing while rows are read.
    watched = [one for one in stored if getattr(getattr(one, "file", None), "mode", "r") == "r"]
    states = {path: os.stat(path) for path in paths_of_stored(*watched)}
    return tuple(_File(path, one.st_size, one.st_mtime_ns) for path, one in states.items())


def paths_of_stored(*stored: Any) -> list[str]:
    """Return the paths of the files that contain the samples, as far as they are known."""
    found: dict[str, None] = {}
    for one in stored:
        # numpy.memmap has a filename, and an HDF5 data set has that of its file.
        path = getattr(one, "filename", None)
        if path is None:
            path = getattr(getattr(one, "file", None), "filename", None)
        if isinstance(path, str | os.PathLike) and os.path.isfile(path):
            found[str(path)] = None
    return list(found)


def told_of_files(*stored: Any) -> contextlib.AbstractContextManager[None]:
    """Add the files that contain the samples to an error."""
    paths = paths_of_stored(*stored)
    return told_of(", ".join(paths)) if paths else contextlib.nullcontext()


def make_stored(
    maker: PartMaker,
    x: Any,
    y: Any,
    weights: Any,
    *,
    class_weight: Any = None,
    shuffle: bool = True,
    buffer_rows: int,
    timeout: float | None = None,
    sharded: bool = False,
) -> "StoredSource":
    """Return a source of stored samples. All targets are checked now, inputs when they are read.

    Args:
        maker: the requirements for samples.
        x: inputs, shape (N, I), with slicing by rows.
        y: labels or targets, (N,) or (N, O), in memory or stored.
        weights: shape (N,), or None.
        class_weight: as for :func:`bp_xp.sources.samples.weigh_classes`.
        shuffle: whether each epoch has a new order.
        buffer_rows: the number of rows that are shuffled together.
        timeout: seconds to wait for a read.
        sharded: whether the samples belong to only one of several processes.

    Raises:
        ValueError, TypeError: shapes do not fit, or a label is not a class; or an error of
            :meth:`PartMaker.make` for the first rows.
    """
    prefix = maker.prefix
    check_stored(x, maker.transform, f"{prefix}x", maker.model.sizes[0])
    n = x.shape[0]
    y = _sliced(y, f"{prefix}y", maker)
    intake.check_target_shape(y, named(f"{prefix}y"), n)
    if weights is not None:
        weights = _sliced(weights, f"{prefix}sample_weight", maker)
        intake.check_weight_shape(weights, named(f"{prefix}sample_weight"), n)
    has_classes, counts = _check_targets(maker, y, n)
    if class_weight is not None:
        if not has_classes:
            raise ValueError(f"{named('class_weight')} needs targets that are one class each.")
        per_class = intake.check_class_weight(class_weight, counts)
        maker = replace(maker, per_class=per_class)
    source = StoredSource(
        maker=maker,
        arrays=(x, y) if weights is None else (x, y, weights),
        has_classes=has_classes,
        shuffle=shuffle,
        buffer_rows=buffer_rows,
        timeout=timeout,
        files=files_of(x, y, weights),
        sharded=sharded,
    )
    source.read(source.first_rows)
    return source


def _sliced(values: Any, name: str, maker: PartMaker) -> Any:
    """Return targets or weights on the host, in a form with slicing by rows."""
    return values if is_stored(values) else to_numpy(intake.check_kind(values, name, host()))


def _check_targets(maker: PartMaker, y: Any, n: int) -> tuple[bool, np.ndarray]:
    """Return whether each target is one class, and how many samples each class has."""
    one_class, counts = True, np.zeros(max(maker.outputs, 2))
    for rows in row_blocks(n, _ROWS_CHECKED_AT_ONCE):
        with intake.rows_from(rows.start), told_of_files(y):
            targets, classes = make_targets(
                maker.model,
                np.asarray(y[rows]),
                f"{maker.prefix}y",
                rows.stop - rows.start,
                placement=host(),
                dtype=maker.dtype,
            )
        one_class = one_class and classes
        counts += count_classes(targets, host())
    return one_class, counts


@dataclass(frozen=True)
class StoredSource:
    """Samples that are read when they are needed; see :class:`Source`.

    Two buffers are in memory: the rows of the current mini-batches, and the next ones.

    Attributes:
        maker: the requirements for samples.
        arrays: inputs, targets and perhaps weights, each with slicing by rows.
        has_classes: whether each target is one class.
        shuffle: whether each epoch has a new order.
        buffer_rows: the number of rows that are shuffled together.
        timeout: seconds to wait for a read; None waits without a limit.
        files: the files that contain the samples, as far as they are known.
        ranks: (rank, ranks), the share of each mini-batch to take.
        sharded: whether the samples belong to a single process, and are not divided.
    """

    maker: PartMaker
    arrays: Sequence[Any]
    has_classes: bool
    shuffle: bool
    buffer_rows: int
    timeout: float | None = None
    files: tuple[_File, ...] = ()
    ranks: tuple[int, int] = (0, 1)
    sharded: bool = False

    given: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        """N."""
        return self.arrays[0].shape[0]

    @property
    def first_rows(self) -> slice:
        """The rows that are inspected before the first step."""
        return slice(0, min(self.n_rows, self.block_rows))

    @property
    def some_targets(self) -> Array:
        """Targets to inspect before the first step, shape (n, O)."""
        return on_device(self.read(self.first_rows)[1], self.placement, self.maker.dtype)

    @property
    def row_entries(self) -> int:
        """I + O."""
        return self.maker.row_entries

    @property
    def dtype(self) -> str:
        """The dtype of the stored inputs."""
        return str(self.arrays[0].dtype)

    @property
    def weighted(self) -> bool:
        """Whether a mini-batch has weights."""
        return len(self.arrays) > 2 or self.maker.per_class is not None

    @property
    def placement(self) -> Placement:
        """Library and device of the network."""
        return self.maker.placement

    @property
    def block_rows(self) -> int:
        """The number of rows in one read: a multiple of the chunks that they are stored in."""
        x = self.arrays[0]
        row_bytes = math.prod(x.shape[1:]) * np.dtype(self.maker.dtype).itemsize
        rows = max(1, min(self.buffer_rows // _LEAST_BLOCKS, _BLOCK // row_bytes))
        chunk = next(iter(getattr(x, "chunks", None) or ()), 1)
        if isinstance(chunk, int) and chunk > 1:
            rows = min(math.ceil(rows / chunk) * chunk, self.buffer_rows)
        return rows

    def start_epoch(self, batch_size: int, generator: np.random.Generator) -> StreamEpoch:
        """Return the next epoch, whose order the generator draws."""
        blocks, seed = np.arange(math.ceil(self.n_rows / self.block_rows)), None
        if self.shuffle:
            blocks, seed = generator.permutation(blocks), int(generator.integers(2**63))

        def read(first: int) -> Ahead:
            return self._ahead(partial(self._groups, blocks, seed, first))

        return StreamEpoch(read, batch_size, self.placement, self.maker.dtype, self.ranks)

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield all samples in their stored order."""
        spans = row_blocks(self.n_rows, rows, self.ranks)
        pieces = self._ahead(lambda: (self.read(span) for span in spans))
        try:
            for piece in pieces:
                yield [on_device(part, self.placement, self.maker.dtype) for part in piece]
        finally:
            pieces.close()

    def share(self, rank: int, ranks: int) -> Source:
        """Return the share of one of several processes, each of which reads all."""
        return self if self.sharded else replace(self, ranks=(rank, ranks))

    def fingerprint(self) -> str:
        """Return the SHA-256 of shapes, of the arrays in memory, and of some rows of the others."""
        digest = hashlib.sha256()
        for k in range(len(self.arrays)):
            self._update(digest, k)
        per_class = self.maker.per_class
        digest.update(b"" if per_class is None else per_class.tobytes())
        return digest.hexdigest()

    def fingerprint_of_each(self) -> list[str]:
        """Return the SHA-256 of inputs, of targets and, if there are any, of weights."""
        numbers = range(len(self.arrays))
        return [self._update(hashlib.sha256(), k).hexdigest() for k in numbers]

    def _update(self, digest: Any, k: int) -> Any:
        """Add an array, or some rows of it, to a digest, and return it."""
        values = self.arrays[k]
        digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
        if not is_stored(values):
            digest.update(np.ascontiguousarray(values).tobytes())
            return digest
        firsts = np.linspace(0, self.n_rows - 1, _BLOCKS_IN_A_FINGERPRINT, dtype=int)
        for first in map(int, firsts):
            rows: Any = np.asarray(values[first : first + _ROWS_IN_A_FINGERPRINT])
            if not k:  # so that another transform makes another run
                rows = np.asarray(self.maker.inputs(rows))
            digest.update(np.ascontiguousarray(rows).tobytes())
        return digest

    def read(self, rows: slice) -> Piece:
        """Return some consecutive rows, checked.

        Raises:
            OSError: the file changed since the run began.
            ValueError, TypeError: as for :meth:`PartMaker.make`; the message names row and file.
        """
        for file in self.files:
            file.check()
        cut = [np.asarray(values[rows]) for values in self.arrays]
        try:
            x = self.maker.inputs(cut[0])
        except Exception as error:
            where = ", ".join(paths_of_stored(self.arrays[0])) or f"{self.maker.prefix}x"
            error.add_note(f"In transform, for rows {rows.start} to {rows.stop - 1} of {where}.")
            raise
        with told_of_files(*self.arrays):
            return self.maker.make(x, *cut[1:], first_row=rows.start).arrays

    def _ahead(self, read: Any) -> Ahead:
        name = self.files[0].path if self.files else f"{self.maker.prefix}x"
        return Ahead(read, self.placement, name=name, timeout=self.timeout)

    def _groups(self, blocks: np.ndarray, seed: int | None, first_row: int) -> Iterator[Piece]:
        """Yield the rows of an epoch, a buffer at a time, from a row of the order on."""
        begin, at_once = 0, max(1, self.buffer_rows // self.block_rows)
        for k, first in enumerate(range(0, len(blocks), at_once)):
            starts = blocks[first : first + at_once] * self.block_rows
            spans = [slice(int(s), min(int(s) + self.block_rows, self.n_rows)) for s in starts]
            n = sum(span.stop - span.start for span in spans)
            if begin + n > first_row:
                # Each buffer has its own generator, so that a resumed run reads no earlier ones.
                drawn = None if seed is None else np.random.default_rng([seed, k])
                skip = max(first_row - begin, 0)
                yield [part[skip:] for part in self._filled(spans, n, drawn)]
            begin += n

    def _filled(
        self, spans: Sequence[slice], n: int, generator: np.random.Generator | None
    ) -> Piece:
        """Return the n rows of some blocks, shuffled among each other."""
        places = np.arange(n) if generator is None else generator.permutation(n)
        buffer: list[np.ndarray] = []
        done = 0
        for span in spans:
            parts = self.read(span)
            buffer = buffer or [np.empty((n, *part.shape[1:]), part.dtype) for part in parts]
            at = places[done : done + span.stop - span.start]
            for whole, part in zip(buffer, parts, strict=True):
                whole[at] = part
            done += span.stop - span.start
        return buffer
