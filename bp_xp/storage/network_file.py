"""The content of the file of a network, and of a run, which only this module knows.

A file of :mod:`bp_xp.storage.tensors` has sections. The header is JSON with the kind of the file
(``"network"`` or ``"run"``) and a part for each section; a section's arrays are named for it.

    network       sizes, activations, cost, dtype, seed, generator, own; ``layers.0.W`` ...
    run           place, history, settings; ``state.0`` ..., ``totals``, ``best.0.W`` ...
    any other     what a caller adds, such as the preparation of a table

Version 1 of the format had the entries of both sections together; it can be read too.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp._caller import in_python
from bp_xp._typing import Layer
from bp_xp.errors import CheckpointError
from bp_xp.storage.fields import (
    check_fields_of_network,
    check_fields_of_run,
    check_fields_of_section,
)
from bp_xp.storage.tensors import read_tensors, write_tensors

__all__ = [
    "NetworkFile",
    "NetworkSection",
    "RunSection",
    "Section",
    "check_suffix",
    "layer_tensors",
    "of_another_kind",
    "put_sections",
    "read",
    "records_in",
    "records_out",
    "run_fields",
    "run_parts",
    "run_tensors",
    "take_layers",
    "take_sections",
    "take_tensor",
    "unfit",
    "write",
]


@dataclass(frozen=True)
class NetworkSection:
    """A network, on the host.

    Attributes:
        sizes: neurons of each layer, the inputs first.
        activations: names, one for each layer after the inputs.
        cost: its name.
        dtype: the name of the parameters' dtype.
        seed: the seed.
        generator: the state of the generator.
        own: what distinguishes user-defined functions from others with the same names.
        layers: the parameters.
    """

    sizes: Sequence[int]
    activations: Sequence[str]
    cost: str
    dtype: str
    seed: int
    generator: Any
    own: Mapping[str, Any]
    layers: Sequence[Layer]


@dataclass(frozen=True)
class RunSection:
    """A training run, on the host; its state does not depend on how many processes share it.

    Attributes:
        epoch: the current epoch, from 1.
        place: the source's position in that epoch: the number of mini-batches taken.
        step: the number of steps taken in the run.
        order: the generator's state before the order of the epoch was drawn.
        begun: the generator's state when the run began.
        taken: for each shape of mini-batch, the shape and then the number of steps with it.
        state: the state of the steps besides the parameters, as a list of arrays.
        totals: the totals of the epoch so far, shape (n, 3).
        best: the best parameters so far, or None.
        best_epoch: their epoch, or None.
        history: the fields of each record.
        settings: the settings that must be the same to resume the run.
    """

    epoch: int
    place: int
    step: int
    order: Any
    begun: Any
    taken: Sequence[Sequence[int]]
    state: Sequence[np.ndarray]
    totals: np.ndarray
    best: Sequence[Layer] | None
    best_epoch: int | None
    history: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """Additional content of a file.

    Attributes:
        fields: values that JSON can hold.
        tensors: arrays by name.
    """

    fields: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkFile:
    """The content of a file.

    Attributes:
        network: the network.
        run: the run whose checkpoint it is, or None.
        others: further sections by name.
    """

    network: NetworkSection
    run: RunSection | None = None
    others: Mapping[str, Section] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``"network"`` or ``"run"``."""
        return "network" if self.run is None else "run"


_NETWORK_FIELDS = ("sizes", "activations", "cost", "dtype", "seed", "generator", "own")
_RUN_FIELDS = ("epoch", "place", "step", "order", "begun", "taken", "best_epoch", "settings")


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse a name with the ending of another format.

    Raises:
        ValueError: the name has another ending than .safetensors.
    """
    suffix = Path(path).suffix
    if suffix not in ("", ".safetensors"):
        raise ValueError(
            f"{os.fspath(path)!r} ends in {suffix}, and networks are written as .safetensors files "
            "(bp_xp.export and the command bp-xp export write others)."
        )


def write(path: str | os.PathLike[str], content: NetworkFile) -> Path:
    """Write a file, completely or not at all.

    Raises:
        ValueError: the name has another ending than .safetensors.
        OSError: it could not be written; an older file is left as it was.
    """
    check_suffix(path)
    network, run = content.network, content.run
    header: dict[str, Any] = {
        "kind": content.kind,
        "network": {name: getattr(network, name) for name in _NETWORK_FIELDS},
    }
    tensors = layer_tensors(network.layers, "layers")
    if run is not None:
        header["run"] = run_fields(run)
        tensors |= run_tensors(run)
    put_sections(content.others, tensors, header)
    return write_tensors(path, tensors, header)


def read(path: str | os.PathLike[str], purpose: str = "be read as a network") -> NetworkFile:
    """Read a file, after verifying all of it.

    Args:
        path: the file.
        purpose: what the caller reads it for, for messages.

    Raises:
        CheckpointError: it is damaged, or does not hold a network; the message says what is wrong.
        OSError: it can't be read.
    """
    tensors, header = read_tensors(path)
    try:
        kind = header["kind"]
        if kind not in ("network", "run"):
            raise of_another_kind(kind)
        if "network" not in header:
            header = _from_version_1(header)
        return _content(kind, tensors, header)
    except (KeyError, TypeError, ValueError) as error:
        raise unfit(path, purpose, error) from error


_KINDS = {
    "network": ("a network", "Network.load reads"),
    "run": ("the run of a network", "Network.load reads and Network.fit resumes"),
    "ensemble": ("an ensemble", "Ensemble.load reads"),
    "ensemble run": ("the run of an ensemble", "Ensemble.load reads and Ensemble.fit resumes"),
}


def of_another_kind(kind: Any) -> ValueError:
    """Return the error for a file with another kind of content than it is read for."""
    if kind not in _KINDS:
        return ValueError(f"its kind is {kind!r}")
    what, reader = _KINDS[kind]
    return ValueError(f"it holds {what}" + in_python(f", which {reader}"))


def unfit(path: str | os.PathLike[str], purpose: str, error: Exception) -> CheckpointError:
    """Return the error for an undamaged file whose content can't be used."""
    what = f"{error} is missing" if type(error) is KeyError else error
    return CheckpointError(f"{path} can't {purpose}: {what}")


def _content(kind: str, tensors: dict[str, np.ndarray], header: dict[str, Any]) -> NetworkFile:
    """Return the sections of a file."""
    left = dict(tensors)
    described = header["network"]
    check_fields_of_network(described)
    names = described["activations"]
    layers = take_layers(left, len(names), "layers", described["dtype"])
    network = NetworkSection(**{name: described[name] for name in _NETWORK_FIELDS}, layers=layers)
    _check_shapes(layers, network.sizes)
    run = None
    if kind == "run":
        check_fields_of_section(header["run"], "run")
        entries = {"taken": []} | header["run"]  # the first files did not have this field
        totals, best = take_tensor(left, "totals"), None
        check_fields_of_run(entries, totals, network.dtype)
        if entries["best_epoch"] is not None:
            best = take_layers(left, len(names), "best", network.dtype)
            _check_shapes(best, network.sizes)
        run = RunSection(**run_parts(entries, left), totals=totals, best=best)
    others = take_sections(left, header, {"kind", "network", "run"})
    if left:
        raise ValueError(f"tensor {min(left)!r} is not part of this network")
    return NetworkFile(network, run, others)


def put_sections(
    others: Mapping[str, Section], tensors: dict[str, np.ndarray], header: dict[str, Any]
) -> None:
    """Add further sections to the content of a file."""
    for name, section in others.items():
        header[name] = dict(section.fields)
        tensors.update({f"{name}.{key}": array for key, array in section.tensors.items()})


def take_sections(
    tensors: dict[str, np.ndarray], header: Mapping[str, Any], known: set[str]
) -> dict[str, Section]:
    """Take the sections with unknown names out of the content of a file."""
    others = {}
    for name in header.keys() - known:
        check_fields_of_section(header[name], name)
        own = [key for key in tensors if key.startswith(f"{name}.")]
        parts = {key.removeprefix(f"{name}."): tensors.pop(key) for key in own}
        others[name] = Section(header[name], parts)
    return others


def _from_version_1(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header in the form of version 2."""
    network = {name: header[name] for name in _NETWORK_FIELDS if name != "own"} | {"own": {}}
    upgraded: dict[str, Any] = {"kind": header["kind"], "network": network}
    if header["kind"] == "run":
        position = header["position"]
        upgraded["run"] = {
            "epoch": position["epoch"],
            "place": position["steps"],
            "step": position["step"],
            "order": position["order"],
            "settings": header["settings"] | {"trainable": None},
            **{name: header[name] for name in ("begun", "best_epoch", "history")},
        }
    return upgraded


def run_fields(run: RunSection) -> dict[str, Any]:
    """Return the fields of a run for a header."""
    fields = {name: getattr(run, name) for name in _RUN_FIELDS}
    return fields | {"history": records_out(run.history)}


def run_tensors(run: RunSection) -> dict[str, np.ndarray]:
    """Return the arrays of a run by their names in a file."""
    tensors = {f"state.{i}": leaf for i, leaf in enumerate(run.state)} | {"totals": run.totals}
    return tensors if run.best is None else tensors | layer_tensors(run.best, "best")


def run_parts(fields: Mapping[str, Any], tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Take a run's state out of the tensors of a file; return it with the fields of the header."""
    count = sum(name.startswith("state.") for name in tensors)
    return {name: fields[name] for name in _RUN_FIELDS} | {
        "state": [take_tensor(tensors, f"state.{i}") for i in range(count)],
        "history": records_in(fields["history"]),
    }


def records_out(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of epochs as JSON can hold them."""
    return [_map_values(_number_out, record) for record in records]


def records_in(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of epochs as they were."""
    return [_map_values(_number_in, record) for record in records]


def layer_tensors(layers: Sequence[Layer], prefix: str) -> dict[str, np.ndarray]:
    """Return parameters by their names in a file."""
    return {
        f"{prefix}.{l}.{name}": part
        for l, layer in enumerate(layers)  # noqa: E741
        for name, part in layer._asdict().items()
    }


def take_layers(
    tensors: dict[str, np.ndarray], n_layers: int, prefix: str, dtype: str
) -> list[Layer]:
    """Take parameters out of the tensors of a file; they must have the same dtype."""
    layers = []
    for l in range(n_layers):  # noqa: E741
        names = Layer(f"{prefix}.{l}.W", f"{prefix}.{l}.b")
        layer = Layer(*(take_tensor(tensors, name) for name in names))
        for name, part in zip(names, layer, strict=True):
            if part.dtype.name != dtype:
                raise ValueError(f"tensor {name!r} is {part.dtype}, not {dtype}")
        layers.append(layer)
    return layers


def take_tensor(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Take one of the tensors of a file."""
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing")
    return tensors.pop(name)


def _check_shapes(layers: Sequence[Layer], sizes: Any) -> None:
    """Refuse parameters that do not fit the sizes."""
    shapes = [(layer.W.shape, layer.b.shape) for layer in layers]
    wanted = [((o, i), (o,)) for i, o in itertools.pairwise(sizes)]
    if shapes != wanted:
        raise ValueError(f"its parameters do not fit its sizes {list(sizes)}")


def _map_values(function: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dictionary, and those in it, with a function applied to the values."""
    return {
        name: _map_values(function, value) if isinstance(value, Mapping) else function(value)
        for name, value in fields.items()
    }


# JSON has no NaN and no infinity.
def _number_out(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number_in(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value
