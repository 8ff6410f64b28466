"""Checkpoints: everything that a training run needs to resume exactly where it was.

A run can only resume with the same settings and samples. The module
:mod:`bp_xp.storage.network_file` defines the content of the file.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._caller import in_python, named
from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Layer
from bp_xp.backends import Placement, dtype_name, to_numpy
from bp_xp.engines import Report
from bp_xp.errors import CheckpointError
from bp_xp.math.initializers import restore_generator
from bp_xp.math.metrics import METRICS
from bp_xp.sources import Source
from bp_xp.storage import network_file
from bp_xp.storage.files import check_replaceable, locked, previous_of
from bp_xp.storage.network_file import NetworkSection, RunSection, Section
from bp_xp.training.arguments import Settings
from bp_xp.training.callbacks import EarlyStopping
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.looks import Position, copied
from bp_xp.training.step import State

__all__ = [
    "DATA",
    "Checkpoint",
    "SavedRun",
    "as_checkpoint",
    "describe_settings",
    "describe_training",
    "described",
    "history_of",
    "owned",
    "pack",
    "read_saved",
    "records_of",
    "restore_generators",
    "unpack",
]

logger = logging.getLogger("bp_xp")

DATA = ("data", "validation data")
"""The keys of the digests of samples and validation data in :func:`describe_settings`."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where to keep a run, and whether to resume from there.

    Args:
        path: the file, which is written after each epoch, and when the run is interrupted. It is
            complete at any moment, and :meth:`bp_xp.Network.load` reads it as a network. The
            previous one is kept in the same folder (``run.previous.safetensors``).
        every: also write the file after every this many steps; None for epochs only.
        resume: with True, the run resumes from the file if it exists, or from the previous one if
            the file is damaged, and otherwise starts from the beginning; or the path of a file that
            must exist. Settings and samples must be those of the saved run, except for the number
            of epochs. The result is that of an uninterrupted run: to the last bit with the same
            library on a CPU, to rounding with another library or on a GPU.
        overwrite: whether a run that does not resume from a file at ``path`` may replace it.
        sections: additional sections to store in the file, by name.

    Raises:
        ValueError: ``every`` is out of range, or the path has another extension than
            .safetensors.
        TypeError: an argument has the wrong type.
        OSError: the file could not be written.

    Examples:
        >>> Checkpoint("run.safetensors", every=1000).resume
        False
    """

    path: str | os.PathLike[str]
    every: int | None = None
    resume: bool | str | os.PathLike[str] = False
    overwrite: bool = False
    sections: Mapping[str, Section] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path must be the path of a file, not {self.path!r}.")
        network_file.check_suffix(self.path)
        if not isinstance(self.resume, bool | str | os.PathLike):
            raise TypeError(f"resume must be True, False or a path, not {self.resume!r}.")
        if not isinstance(self.overwrite, bool):
            raise TypeError(f"overwrite must be True or False, not {self.overwrite!r}.")
        if self.every is not None:
            checks.check_integer(self.every, "every")


def as_checkpoint(checkpoint: Any) -> Checkpoint | None:
    """Return a checkpoint, made from a path if necessary, or None.

    Raises:
        FileExistsError: the run would replace a file without permission to do so.
        OSError: the file could not be written.
        TypeError: the value is neither a path nor a checkpoint.
    """
    if checkpoint is None:
        return None
    if isinstance(checkpoint, str | os.PathLike):
        checkpoint = Checkpoint(checkpoint)
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"checkpoint must be a path, or Checkpoint(path, ...), not {checkpoint!r}.")
    path = Path(checkpoint.path)
    check_replaceable(path)  # now, not after an epoch
    if path.exists() and not checkpoint.overwrite and not _goes_on(checkpoint):
        raise FileExistsError(
            errno.EEXIST,
            "the run would replace this file: pass Checkpoint(path, resume=True) to resume it, "
            "overwrite=True to replace it, or another path",
            str(path),
        )
    return checkpoint


def _goes_on(checkpoint: Checkpoint) -> bool:
    """Return whether a run resumes from the file at its path, or from the previous one."""
    if isinstance(checkpoint.resume, bool):
        return checkpoint.resume
    path, source = Path(checkpoint.path), Path(checkpoint.resume)
    return any(
        one.exists() and source.exists() and one.samefile(source)
        for one in (path, previous_of(path))
    )


def owned(checkpoint: Checkpoint | None) -> contextlib.AbstractContextManager[None]:
    """Return a context in which no other run can write the same checkpoint.

    Raises:
        BlockingIOError: another run writes it; the message names it.
    """
    return contextlib.nullcontext() if checkpoint is None else locked(Path(checkpoint.path))


# ---------------------------------------------------------------------------------------------
# Settings


def describe_settings(
    settings: Settings,
    stopping: EarlyStopping | None,
    source: Source,
    validation: Source | None,
) -> dict[str, Any]:
    """Return what must be the same for a run to resume: settings, and a digest of the samples.

    It omits what does not change the steps: callbacks, the progress bar and the number of epochs.
    """
    of_samples = (one and one.fingerprint() for one in (source, validation))
    return describe_training(settings, stopping) | dict(zip(DATA, of_samples, strict=True))


def describe_training(settings: Settings, stopping: EarlyStopping | None) -> dict[str, Any]:
    """Return the part of :func:`describe_settings` that does not concern samples."""
    return {
        "optimizer": described(settings.optimizer),
        "batch_size": settings.batch_size,
        "shuffle": settings.shuffle,
        "buffer_size": settings.buffer_size,
        "regularization": described(settings.regularization),
        "trainable": list(settings.trainable) or None,
        "metrics": [
            metric.name if METRICS.get(metric.name) == metric else described(metric)
            for metric in settings.metrics
        ],
        "early_stopping": described(stopping),
    }


def described(value: Any) -> Any:
    """Return a setting in a form that fits JSON: numbers, fields of objects, code of functions.

    Any other value is represented by the name of its type.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if inspect.isfunction(value):
        return _described_function(value)
    if isinstance(value, functools.partial):
        return {"kind": "partial", "of": [described(v) for v in (value.func, value.args)]} | {
            name: described(item) for name, item in value.keywords.items()
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    name = getattr(value, "__qualname__", type(value).__qualname__)
    own = vars(value) if hasattr(value, "__dict__") and not isinstance(value, type) else {}
    settled = {key: described(item) for key, item in own.items() if _is_plain(item)}
    return {"kind": name, **settled} if settled else name


def _described_function(function: Any) -> Any:
    """Return a function's name, and a digest of its code, valid for one version of Python."""
    code = function.__code__
    constants = [one for one in code.co_consts if not inspect.iscode(one)]
    inner = [one.co_code.hex() for one in code.co_consts if inspect.iscode(one)]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    parts = [code.co_code.hex(), inner, code.co_names, constants]
    parts += [function.__defaults__, function.__kwdefaults__]
    # The text of anything else that it closes over has an address, which differs by process.
    parts += [cell if _is_plain(cell) else type(cell).__qualname__ for cell in cells]
    text = repr(parts)
    return {
        "function": function.__qualname__,
        "python": ".".join(map(str, sys.version_info[:2])),
        "code": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, a string or a sequence of these."""
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, int | float | str | np.generic)


def _differences(saved: Any, now: Any, name: str = "") -> list[str]:
    """Return the differences between settings, one line each."""
    if _is_code(saved) and _is_code(now):
        same = saved["python"] != now["python"] or saved["code"] == now["code"]
        if saved["function"] == now["function"]:
            return (
                []
                if same
                else [f"{named(name)} is another function with the name {now['function']!r}"]
            )
    if isinstance(saved, Mapping) and isinstance(now, Mapping) and set(saved) == set(now):
        return [
            line
            for key in saved
            for line in _differences(saved[key], now[key], f"{name}.{key}" if name else key)
        ]
    if saved == now:
        return []
    if name == "buffer_size" and None in (saved, now):
        ways = [
            "all samples in memory" if rows is None else f"a buffer of {rows} rows"
            for rows in (saved, now)
        ]
        return [f"it had {ways[0]} and now has {ways[1]}"]
    if name in DATA:
        before, ranks = _ranks_of(saved), _ranks_of(now)
        if before != ranks:
            return [f"the {name} was shards of {before} ranks and is now those of {ranks}"]
        return [f"the {name} is not the same"]
    return [f"{named(name)} was {saved!r} and is now {now!r}"]


def _ranks_of(digests: Any) -> int:
    """Return how many ranks have a digest of their own, which is 1 if all have the same."""
    return len(digests) if isinstance(digests, list) else 1


def _is_code(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"function", "python", "code"}


# ---------------------------------------------------------------------------------------------
# To a file, and back


class SavedRun(NamedTuple):
    """A run that was read from a file, of a network or of an ensemble."""

    path: Path
    network: NetworkSection
    run: RunSection


def read_saved(
    checkpoint: Checkpoint | None, read: Callable[[Path, str], Any] = network_file.read
) -> SavedRun | None:
    """Return the run that a checkpoint says to resume from, or None if there is none.

    Args:
        checkpoint: the checkpoint, if there is one.
        read: reads a file for a purpose.

    Raises:
        CheckpointError: the file is damaged, or does not hold a run.
        OSError: the file cannot be read.
    """
    if checkpoint is None or checkpoint.resume is False:
        return None
    if checkpoint.resume is not True:
        return _read_run(Path(checkpoint.resume), read)
    path = Path(checkpoint.path)
    there = [file for file in (path, previous_of(path)) if file.exists()]
    for file in there:
        try:
            return _read_run(file, read)
        except CheckpointError as error:
            # A complete file was not left by a killed run: it is a file of another kind.
            is_damaged = isinstance(error.__cause__, CheckpointError)
            if file == there[-1] or not is_damaged:
                raise
            found = str(error).removesuffix(".")
            logger.warning("%s; resuming from the previous checkpoint.", found)
    return None


_RESUME = "be resumed"


def _read_run(path: Path, read: Callable[[Path, str], Any]) -> SavedRun:
    content = read(path, _RESUME)
    try:
        if content.run is None:
            what = "an ensemble" if hasattr(content.network, "seeds") else "a network"
            raise ValueError(
                f"it holds {what}, not a run" + in_python(": pass the path of a checkpoint of fit")
            )
        restore_generators(content.run.begun)
    except ValueError as error:
        raise network_file.unfit(path, _RESUME, error) from error
    return SavedRun(path, content.network, content.run)


def restore_generators(states: Any) -> list[np.random.Generator]:
    """Return a generator for each state; a network has one, an ensemble has several."""
    return [restore_generator(one) for one in (states if isinstance(states, list) else [states])]


def pack(
    position: Position,
    history: History,
    best: Sequence[Layer] | None,
    settings: Mapping[str, Any],
    *,
    begun: Any,
    report: Report,
) -> RunSection:
    """Return a run in the form that files store."""
    state = position.state
    totals = [to_numpy(total) for total in position.totals]
    b = state.layers[0].b
    dtype, stack = dtype_name(b.dtype), b.shape[:-1]
    return RunSection(
        epoch=position.epoch,
        place=position.place,
        step=position.step,
        order=position.order,
        begun=begun,
        taken=[[*shape, one.before + one.steps] for shape, one in report.accounts.items()],
        state=[to_numpy(leaf) for leaf in leaves_of([state.optimizer, state.masks])],
        totals=np.concatenate(totals) if totals else np.zeros((0, *stack, 3), dtype),
        best=None if best is None else map_leaves(to_numpy, list(best)),
        best_epoch=history.best_epoch,
        history=records_of(history),
        settings=settings,
    )


def records_of(history: History) -> list[dict[str, Any]]:
    """Return the fields of each record of a history."""
    return [record._asdict() | {"metrics": dict(record.metrics)} for record in history]


def unpack(
    saved: SavedRun,
    settings: Mapping[str, Any],
    fresh: State,
    all_layers: Sequence[Layer],
    *,
    placement: Placement,
) -> tuple[Position, History, list[Layer] | None]:
    """Return the position of a saved run, its history, and its best parameters so far.

    Args:
        saved: the run.
        settings: the settings of the run to resume.
        fresh: the state that the run would have at its start, used as a template.
        all_layers: parameters of the same form as the best ones: for a stack, those of all members.
        placement: where to put the arrays.

    Raises:
        CheckpointError: the settings differ, or an array has the wrong shape or dtype.
    """
    run, network = saved.run, saved.network
    try:
        # The first files did not store early stopping, and all samples were in memory then.
        theirs = {"early_stopping": settings["early_stopping"], "buffer_size": None, **run.settings}
        ours = dict(settings)
        sizes = theirs["buffer_size"], ours["buffer_size"]
        if (kept := theirs.get("data")) and _ranks_of(kept) != _ranks_of(ours["data"]):
            theirs, ours = {"data": kept}, {"data": ours["data"]}  # it changes others too
        # Of other buffers, the digests differ too. Shards have a list of them.
        elif sizes[0] != sizes[1] and not any(isinstance(size, list) for size in sizes):
            theirs, ours = ({**one, **dict.fromkeys(DATA)} for one in (theirs, ours))
        if differences := _differences(theirs, ours):
            raise ValueError("it belongs to a run with other settings: " + "; ".join(differences))
        leaves = iter(enumerate(run.state))

        def restored(leaf: Any) -> Any:
            i, came = next(leaves, (len(run.state), None))
            return _placed(came, f"state.{i}", leaf, placement)

        optimizer, masks = map_leaves(restored, (fresh.optimizer, fresh.masks))
        layers = _placed_layers(network.layers, fresh.layers, placement)
        best = None if run.best is None else _placed_layers(run.best, all_layers, placement)
        restore_generators(run.order)
        position = Position(
            state=copied(State(layers, optimizer, masks, fresh.terms), placement.xp),
            epoch=int(run.epoch),
            place=run.place,
            step=int(run.step),
            totals=[placement.asarray(run.totals)] if len(run.totals) else [],
            order=run.order,
        )
        return position, history_of(run), best
    except (KeyError, TypeError, ValueError) as error:
        raise network_file.unfit(saved.path, _RESUME, error) from error


def _placed_layers(
    layers: Sequence[Layer], like: Sequence[Layer], placement: Placement
) -> list[Layer]:
    """Return the parameters of a file on the device; they must have the form of a template."""
    return [
        Layer(
            _placed(W, f"layers.{l}.W", form.W, placement),
            _placed(b, f"layers.{l}.b", form.b, placement),
        )
        for l, ((W, b), form) in enumerate(zip(layers, like, strict=True))  # noqa: E741
    ]


def _placed(came: np.ndarray | None, name: str, like: Any, placement: Placement) -> Any:
    """Return an array of a file on the device; it must have the form of a template."""
    # Only the shape and dtype of an array on a device are needed.
    wanted = like if hasattr(like, "dtype") else to_numpy(like)
    form = tuple(wanted.shape), str(wanted.dtype).rpartition(".")[2]
    if came is None:
        raise ValueError(f"tensor {name!r} is missing")
    if (came.shape, came.dtype.name) != form:
        raise ValueError(
            f"tensor {name!r} has shape {came.shape} and dtype {came.dtype}, but this run has "
            f"{form[0]} and {form[1]}"
        )
    return placement.asarray(came)


def history_of(run: RunSection) -> History:
    """Return the history that a file holds."""
    records = [EpochRecord(**record) for record in run.history]
    return History(records, best_epoch=run.best_epoch, steps=run.step)
