"""Checkpoints: all that a training run needs to go on exactly where it was.

A checkpoint is a file of :mod:`bp_xp.persistence`: arrays and a header, whole or not there. The
arrays are the parameters (``layers.0.W`` ...), so that the file can be loaded as a network, the
rest of the state (``state.0`` ...), the best parameters so far (``best.0.W`` ...) and the totals
of the epoch under way. The header tells where the run is, its history, and what its settings were:
a run goes on with the same settings and data or not at all.
"""

import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks, persistence
from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Layer
from bp_xp.arrays import Placement, to_numpy
from bp_xp.errors import CheckpointError
from bp_xp.history import EpochRecord, History
from bp_xp.initializers import restore_generator
from bp_xp.training import Data, Position, Run, State

__all__ = [
    "Checkpoint",
    "SavedRun",
    "Saving",
    "check_saving",
    "history_of",
    "layer_tensors",
    "pack",
    "record_of",
    "settings_of",
    "unfit",
    "unpack",
]

logger = logging.getLogger("bp_xp")


class Checkpoint(NamedTuple):
    """What a checkpoint holds, back on the device.

    Attributes:
        position: where the run is.
        history: the epochs so far.
        best: the parameters of the best epoch so far, or None.
    """

    position: Position
    history: History
    best: list[Layer] | None


def layer_tensors(layers: Sequence[Layer], prefix: str = "layers") -> dict[str, np.ndarray]:
    """Return parameters on the host, by the names they have in a file."""
    return {
        f"{prefix}.{l}.{name}": to_numpy(part)
        for l, layer in enumerate(layers)  # noqa: E741
        for name, part in layer._asdict().items()
    }


# ---------------------------------------------------------------------------------------------
# Settings


def settings_of(run: Run, data: Data, validation: Data | None) -> dict[str, Any]:
    """Return what must be the same for a run to go on: its settings, and a digest of its data."""
    return {
        "optimizer": _described(run.optimizer),
        "batch_size": run.batch_size,
        "shuffle": run.shuffle,
        "regularization": _described(run.regularization),
        "metrics": [metric.name for metric in run.metrics],
        "data": _digest(data),
        "validation data": None if validation is None else _digest(validation),
    }


def _described(value: Any) -> Any:
    """Return what JSON can hold of a setting: fields of dataclasses, names of functions."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _digest(data: Data) -> str:
    """Return the SHA-256 of the samples."""
    digest = hashlib.sha256()
    for values in data.arrays:
        digest.update(str(tuple(values.shape)).encode())
        digest.update(np.ascontiguousarray(to_numpy(values)).data)
    return digest.hexdigest()


def _differences(saved: Any, now: Any, name: str = "") -> list[str]:
    """Return how settings differ, one line each."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping) and set(saved) == set(now):
        return [
            line
            for key in saved
            for line in _differences(saved[key], now[key], f"{name}.{key}" if name else key)
        ]
    if saved == now:
        return []
    if name.endswith("data"):
        return [f"the {name} is not the same"]
    return [f"{name} was {saved!r} and is now {now!r}"]


# ---------------------------------------------------------------------------------------------
# To a file, and back


def pack(
    position: Position,
    history: History,
    best: Sequence[Layer] | None,
    settings: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the header of a checkpoint."""
    state = position.state
    tensors = layer_tensors(state.layers)
    rest = leaves_of([state.optimizer, state.masks])
    tensors |= {f"state.{i}": to_numpy(leaf) for i, leaf in enumerate(rest)}
    if best is not None:
        tensors |= layer_tensors(best, "best")
    totals = [to_numpy(total) for total in position.totals]
    dtype = to_numpy(state.layers[0].W).dtype
    tensors["totals"] = np.stack(totals) if totals else np.zeros((0, 3), dtype)
    header = {
        "position": {
            "epoch": position.epoch,
            "steps": position.steps,
            "step": position.step,
            "order": position.order,
        },
        "history": [_record_out(record) for record in history],
        "best_epoch": history.best_epoch,
        "settings": settings,
    }
    return tensors, header


def unpack(
    tensors: Mapping[str, np.ndarray],
    header: Mapping[str, Any],
    settings: Mapping[str, Any],
    fresh: State,
    *,
    place: Placement,
) -> Checkpoint:
    """Return what a checkpoint holds.

    Args:
        tensors: the arrays.
        header: the header.
        settings: those of the run that shall go on.
        fresh: the state that it would have at its start, whose form is taken.
        place: where the arrays shall be.

    Raises:
        ValueError: the settings differ, or an array does not have the form that it must have.
        KeyError, TypeError: something is missing, or is of another kind.
    """
    if differences := _differences(header["settings"], settings):
        raise ValueError("it is of a run with other settings: " + "; ".join(differences))
    names = iter([*layer_tensors(fresh.layers), *(f"state.{i}" for i in range(len(tensors)))])

    def restored(leaf: Any) -> Any:
        return _placed(tensors, next(names), leaf, place)

    state = map_leaves(restored, fresh)
    where = header["position"]
    dtype = tensors["totals"].dtype.name
    position = Position(
        state,
        int(where["epoch"]),
        int(where["steps"]),
        int(where["step"]),
        [place.asarray(total, dtype) for total in tensors["totals"]],
        where["order"],
    )
    best = None
    if header["best_epoch"] is not None:
        best_names = iter(layer_tensors(fresh.layers, "best"))
        best = map_leaves(
            lambda leaf: _placed(tensors, next(best_names), leaf, place), list(fresh.layers)
        )
    return Checkpoint(position, history_of(header), best)


def _placed(tensors: Mapping[str, np.ndarray], name: str, like: Any, place: Placement) -> Any:
    """Return an array of a file on the device; it must have the form of another."""
    wanted, came = to_numpy(like), tensors[name]
    if (came.shape, came.dtype) != (wanted.shape, wanted.dtype):
        raise ValueError(
            f"tensor {name!r} has shape {came.shape} and dtype {came.dtype}, where this run has "
            f"{wanted.shape} and {wanted.dtype}"
        )
    return place.asarray(came)


def _record_out(record: EpochRecord) -> dict[str, Any]:
    """Return a record as JSON can hold it, which knows no NaN."""
    fields = record._asdict() | {"metrics": dict(record.metrics)}
    return _map_values(_number_out, fields)


def record_of(fields: Mapping[str, Any]) -> EpochRecord:
    """Return the record that is in a header."""
    return EpochRecord(**_map_values(_number_in, fields))


def history_of(header: Mapping[str, Any]) -> History:
    """Return the history that is in a header."""
    records = [record_of(record) for record in header["history"]]
    return History(records, best_epoch=header["best_epoch"], steps=header["position"]["step"])


def _map_values(function: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dictionary, and those in it, with a function applied to the values."""
    return {
        name: _map_values(function, value) if isinstance(value, Mapping) else function(value)
        for name, value in fields.items()
    }


def _number_out(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number_in(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


# ---------------------------------------------------------------------------------------------
# What fit is told of checkpoints


class SavedRun(NamedTuple):
    """The content of a checkpoint, as it was read: tensors and header of a file."""

    path: Path
    tensors: dict[str, np.ndarray]
    header: dict[str, Any]


class Saving(NamedTuple):
    """Where a run is kept.

    Attributes:
        path: the checkpoint to write, or None.
        every: a number of steps after which it is written as well, or None.
        saved: the checkpoint to go on from, or None.
        begun: the generator's state when the run began.
    """

    path: Path | None
    every: int | None
    saved: SavedRun | None
    begun: Any


def check_saving(checkpoint: Any, every: Any, resume: Any, generator: Any) -> Saving:
    """Check what fit is told of checkpoints, and read the one to go on from.

    Args:
        checkpoint: the file to write, or None.
        every: a number of steps, or None.
        resume: whether to go on from that file if it is there, or the path of another.
        generator: that of the network.

    Raises:
        ValueError: they do not fit each other, or a number is out of its range.
        CheckpointError: the file to go on from is damaged, or holds no run.
        OSError: a file can't be read, or could not be written.
    """
    path = None if checkpoint is None else Path(checkpoint)
    if path is None and (every is not None or resume is True):
        argument = "resume=True" if resume is True else "checkpoint_every"
        raise ValueError(f"{argument} needs checkpoint=, the path of the file.")
    if every is not None:
        checks.check_integer(every, "checkpoint_every")
    if path is not None:
        persistence.check_replaceable(path)  # now, and not after an epoch
    if resume is None or isinstance(resume, bool):
        saved = _read_latest(path) if resume and path else None
    else:
        saved = _read_run(Path(resume))
    begun = saved.header["begun"] if saved else generator.bit_generator.state
    return Saving(path, every, saved, begun)


def _read_latest(path: Path) -> SavedRun | None:
    """Return the newest checkpoint that is whole, or None where there is none at all."""
    there = [file for file in (path, persistence.previous_of(path)) if file.exists()]
    for file in there:
        try:
            return _read_run(file)
        except CheckpointError as error:
            if file == there[-1]:
                raise
            logger.warning("%s; going on from the one before.", error)
    return None


def _read_run(path: Path) -> SavedRun:
    tensors, header = persistence.read_tensors(path)
    try:
        if header["kind"] != "run":
            raise ValueError(f"it holds a {header['kind']} and no run")
        restore_generator(header["begun"])
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(path, "be gone on with", error) from error
    return SavedRun(path, tensors, header)


def unfit(path: str | os.PathLike[str], purpose: str, error: Exception) -> CheckpointError:
    """Return the error of a whole file whose content does not serve."""
    what = f"{error} is missing" if type(error) is KeyError else error
    return CheckpointError(f"{path} can't {purpose}: {what}")
