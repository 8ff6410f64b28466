"""Make a source from the samples that users pass, in memory or not."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp._typing import Array
from bp_xp.backends import Placement
from bp_xp.backends.registry import as_array, library_of
from bp_xp.math.model import Model
from bp_xp.math.rows import row_blocks
from bp_xp.sources import intake
from bp_xp.sources.ahead import Ahead, Piece
from bp_xp.sources.batches import BatchesSource, is_batches, open_batches
from bp_xp.sources.memory import MemorySource
from bp_xp.sources.parts import TRANSFORMED, PartMaker, Transform, at_home, told_of, transformed
from bp_xp.sources.samples import make_samples, parts_of_validation, weigh_classes
from bp_xp.sources.sparse import blocks_of, cut_rows
from bp_xp.sources.stored import (
    StoredSource,
    buffer_rows_of,
    check_stored,
    is_stored,
    make_stored,
    paths_of_stored,
    read_whole,
    told_of_files,
)
from bp_xp.sources.stream import on_device

__all__ = ["AnySource", "Stream", "input_blocks", "make_source", "paths_of", "validation_source"]

_ROWS_TRANSFORMED_AT_ONCE = 4096

AnySource = MemorySource | StoredSource | BatchesSource


@dataclass(frozen=True)
class Stream:
    """Samples that are not in memory, and how to read them.

    Samples that are not wrapped in a Stream are read with its defaults.

    Args:
        samples: stored data with shape, dtype and slicing by rows (``numpy.memmap``, an HDF5 or
            Zarr data set); or an iterable of batches that can restart at each epoch.
        buffer_size: the number of rows of stored data that are shuffled together; they come from
            blocks that are drawn at random. None is as many as take 256 MiB as the network's
            floats. Twice as many are in memory. A buffer for all rows gives the same run as samples
            in memory.
        timeout: seconds to wait for samples before the run ends with a TimeoutError; None waits
            without a limit.
        sharded: whether each of several processes that share a run passes its own samples, its
            *shard*. Then all of them contribute to a mini-batch: each takes as many rows of its
            shard as its share of the mini-batch has, until all shards have ended. If False, all
            pass the same samples. See docs/distributed.md.
        transform: a function that makes inputs from rows as they are read, such as
            ``lambda x: x / 255``. It gets a NumPy array of some rows, shape (n, ...), and returns a
            new one of shape (n, I); it must treat each row separately. It is called in the thread
            that reads. With batches, it gets the inputs. None uses the rows unchanged.

    Raises:
        ValueError: a number is out of range.
        TypeError: a value is not a number, or ``transform`` is not a function.

    Examples:
        >>> import tempfile, numpy as np
        >>> from bp_xp import Network, Stream
        >>> with tempfile.TemporaryFile() as file:
        ...     x = np.memmap(file, np.uint8, "w+", shape=(100, 3))
        ...     history = Network([3, 2]).fit(
        ...         Stream(x, 40, transform=lambda x: x / 255), np.arange(100) % 2, progress=False
        ...     )
        >>> len(history)
        10
    """

    samples: Any
    buffer_size: int | None = None
    timeout: float | None = None
    sharded: bool = False
    transform: Transform | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.sharded, bool):
            raise TypeError(f"{named('sharded')} must be True or False, not {self.sharded!r}.")
        if self.buffer_size is not None:
            checks.check_integer(self.buffer_size, "buffer_size")
        if self.timeout is not None:
            checks.check_number(self.timeout, "timeout", above=0.0)
        if self.transform is not None and not callable(self.transform):
            raise TypeError(
                f"transform must be a function of an array of rows, not {self.transform!r}."
            )

    def __array__(self, *_: Any, **__: Any) -> Any:
        """Refuse to be converted to an array by code that only accepts arrays."""
        raise TypeError(
            "a Stream is read when needed, by fit, partial_fit, evaluate and predict of "
            "Network: elsewhere pass the samples themselves, as an array."
        )


def _as_stream(x: Any) -> Stream:
    """Return samples, in memory or not, as a Stream.

    Raises:
        TypeError: the value is None; or a path, which does not show where the targets are or what
            its bytes mean.
    """
    stream = x if isinstance(x, Stream) else Stream(x)
    if isinstance(path := stream.samples, str | bytes | os.PathLike):
        raise TypeError(
            f"{named('x')} must be an array of numbers, not {path!r}. Is it a path? Pass "
            f"np.load({os.fspath(path)!r}, mmap_mode='r') then."
        )
    if path is None:
        raise TypeError(f"{named('x')} must be an array of numbers, not None.")
    return stream


def paths_of(x: Any) -> list[str]:
    """Return the files that inputs are read from, as far as they are known."""
    return paths_of_stored(x.samples if isinstance(x, Stream) else x)


def make_source(
    model: Model,
    x: Any,
    y: Any,
    weights: Any = None,
    *,
    placement: Placement,
    dtype: str,
    prefix: str = "",
    class_weight: Any = None,
    shuffle: bool = True,
) -> AnySource:
    """Return a source of samples: in memory, stored, or batch by batch if y is None.

    Args:
        model: what the network computes.
        x: inputs, shape (N, I); or an iterable of batches; or a :class:`Stream` of these. If its
            buffer holds all stored rows, they are read into memory.
        y: labels, shape (N,), or targets, shape (N, O); None for batches.
        weights: how much each sample counts, shape (N,), or None.
        placement: the network's library and device.
        dtype: the network's dtype.
        prefix: the prefix of ``x`` and ``y`` in messages.
        class_weight: as for :func:`bp_xp.sources.samples.weigh_classes`.
        shuffle: whether each epoch has a new order; batches keep their order.

    Raises:
        ValueError: shapes do not fit, a label is not a class, or a value is not finite.
        TypeError: an array belongs to another library, the values are not numbers, or an iterator
            cannot restart.
    """
    stream = _as_stream(x)
    x, timeout, sharded = stream.samples, stream.timeout, stream.sharded
    if sharded and isinstance(class_weight, str):
        raise ValueError(
            f"{named('class_weight', class_weight)} counts all samples, but a process that has a "
            "shard does not know the others: pass a dictionary {label: weight}."
        )
    where: dict[str, Any] = {"placement": placement, "dtype": dtype}
    maker = PartMaker(model, **where, prefix=prefix, transform=stream.transform)
    if y is None:
        return _of_batches(x, weights, maker, class_weight, timeout=timeout, sharded=sharded)
    if is_batches(x):
        raise TypeError(
            f"{prefix}x yields batches (x, y), which include targets: leave {prefix}y out."
        )
    if is_stored(x):
        buffer_rows = buffer_rows_of(stream.buffer_size, maker.row_entries, dtype)
        if buffer_rows < x.shape[0]:
            return make_stored(
                maker,
                x,
                y,
                weights,
                class_weight=class_weight,
                shuffle=shuffle,
                buffer_rows=buffer_rows,
                timeout=timeout,
                sharded=sharded,
            )
    told = told_of_files(x, y, weights)
    y, weights = map(read_whole, (y, weights))
    x = _whole(x, stream.transform, f"{prefix}x", model.sizes[0])
    named_so: dict[str, Any] = {"prefix": prefix, "x_name": maker.x_name}
    with told:
        samples = make_samples(model, x, y, weights, **named_so, **where, sparse=True)
    if class_weight is not None:
        samples = weigh_classes(samples, class_weight, **where)
    return MemorySource(samples, placement, shuffle, sharded=sharded)


def _whole(x: Any, transform: Transform | None, name: str, columns: int) -> Any:
    """Return all inputs as an array in memory, made block by block if there is a transform."""
    if transform is None:
        return read_whole(x)
    if not is_stored(x):
        x = as_array(x, named(name))
    check_stored(x, transform, name, columns)
    whole = None
    for rows in row_blocks(x.shape[0], _ROWS_TRANSFORMED_AT_ONCE):
        part = np.asarray(transformed(x[rows], transform, columns=columns))
        if whole is None:
            whole = np.empty((x.shape[0], columns), part.dtype)
        whole[rows] = part
    return whole


def _of_batches(
    x: Any, weights: Any, maker: PartMaker, class_weight: Any, **options: Any
) -> BatchesSource:
    """Return a source of batches."""
    if hasattr(x, "shape") or library_of(x) is not None:
        raise TypeError(
            f"{named('y')} is missing: x is {type(x).__name__}, and each sample needs a target."
        )
    if weights is not None:
        raise TypeError(
            f"{named('sample_weight')} is for arrays: batches have weights as (x, y, weights)."
        )
    name = "validation_data" if maker.prefix else "x"
    source = BatchesSource(x, maker, name=name, **options)
    if class_weight is None:
        return source
    if not source.has_classes:
        raise ValueError(f"{named('class_weight')} needs targets that are one class each.")
    if isinstance(class_weight, str):
        raise ValueError(
            f"{named('class_weight', class_weight)} counts all samples, but batches are not known "
            "in advance: pass a dictionary {label: weight}."
        )
    counts = np.ones(max(maker.outputs, 2))
    return source.weighed(intake.check_class_weight(class_weight, counts))


def validation_source(model: Model, validation_data: Any, **options: Any) -> AnySource:
    """Return the source of validation data: (x, y), (x, y, sample weights), or batches.

    Raises:
        TypeError: the value has another form; or as for :func:`make_source`.
    """
    if isinstance(validation_data, Stream) or is_batches(validation_data):
        parts: Sequence[Any] = (validation_data, None)
    else:
        parts = parts_of_validation(validation_data)
    return make_source(model, *parts, prefix="validation ", shuffle=False, **options)


def input_blocks(
    x: Any, size: int, *, placement: Placement, dtype: str, columns: int
) -> tuple[Any, Iterable[Array]]:
    """Return inputs, checked, and the blocks that they are cut into to be computed with.

    Args:
        x: inputs, shape (N, columns), in memory or stored; or an iterable of batches, which are
            inputs or tuples that begin with the inputs.
        size: the largest number of rows in a block; a batch is one block.
        placement: the network's library and device.
        dtype: the network's dtype.
        columns: I.

    Returns:
        The inputs if they are in memory, otherwise None; and the blocks on the device, shape
        (n, columns).

    Raises:
        ValueError, TypeError: as for :func:`bp_xp.sources.intake.check_inputs`; if the inputs are
            not in memory, when the block is taken.
    """
    where: dict[str, Any] = {"placement": placement, "dtype": dtype, "columns": columns}
    stream = _as_stream(x)
    x, transform = stream.samples, stream.transform
    if is_stored(x):
        check_stored(x, transform, "x", columns)
        return None, _stored_blocks(x, size, transform, **where)
    if is_batches(x):
        return None, _batch_blocks(stream, **where)
    x_name = "x" if transform is None else TRANSFORMED
    x = intake.check_inputs(_whole(x, transform, "x", columns), x_name, **where)
    return x, (cut_rows(x, rows, placement) for rows in blocks_of(x, size))


def _stored_blocks(
    x: Any, size: int, transform: Transform | None, *, columns: int, **where: Any
) -> Iterator[Array]:
    name = "x" if transform is None else TRANSFORMED
    for rows in row_blocks(x.shape[0], size):
        block = transformed(np.asarray(x[rows]), transform, columns=columns)
        with intake.rows_from(rows.start), told_of_files(x):
            block = _placed(block, name, columns=columns, **where)
        yield block


def _batch_blocks(
    stream: Stream, *, placement: Placement, columns: int, **where: Any
) -> Iterator[Array]:
    name = "x" if stream.transform is None else TRANSFORMED
    batches = open_batches(stream.samples, "x")

    def read() -> Iterator[Piece]:
        for batch in batches:
            yield [transformed(_inputs_of(batch), stream.transform, columns=columns)]

    ahead = Ahead(read, placement, name="x", timeout=stream.timeout)
    k = -1
    with contextlib.closing(ahead):
        for k, (x,) in enumerate(ahead):
            with told_of(f"x, batch {k}"):
                block = at_home(x, placement)
                block = _placed(block, name, placement=placement, columns=columns, **where)
            yield block
    if k < 0:
        raise ValueError("x yielded no batches.")


def _inputs_of(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


def _placed(x: Any, name: str, *, placement: Placement, dtype: str, columns: int) -> Array:
    checked = intake.check_samples(
        x, name, placement=placement, dtype=dtype, columns=columns, keep_bytes=True
    )
    return on_device(checked, placement, dtype)
