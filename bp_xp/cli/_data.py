"""What the commands read and write: data sets known by name, and files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from bp_xp import Network
from bp_xp._caller import advice
from bp_xp.cli._program import logger
from bp_xp.datasets import (
    Dataset,
    load_csv,
    load_digits,
    load_file,
    load_mnist,
    load_npy,
    load_npz,
)
from bp_xp.datasets.files import H5_ENDS, told_members

__all__ = [
    "LOADERS",
    "check_inputs",
    "check_output",
    "hint_of_targets",
    "is_streamed",
    "load_data",
    "load_inputs",
    "tell_target",
    "warn_of_range",
]

_LARGE, _ROWS_IN_A_LOOK = 10.0, 1000

LOADERS: dict[str, Callable[[], Dataset]] = {"digits": load_digits, "mnist": load_mnist}


def load_data(data: str, target: int | str, targets: Path | None = None) -> Dataset:
    """Load a data set by name, or from a file."""
    if data in LOADERS:
        return LOADERS[data]()
    check_in_memory(data)
    tell_target(data, target, targets)
    dataset = load_file(data, target=target, targets=targets)
    warn_of_range(dataset.x_train, data)
    return dataset


def tell_target(data: str, target: int | str, targets: Path | None) -> None:
    """Log which column of a .npy file is the label: it may hold only inputs."""
    if targets is None and data.lower().endswith(".npy"):
        column = "the last column" if target == -1 else f"column {target}"
        more = advice(" (labels in a file of their own: {})", "targets")
        logger.info("%s of %s is the label%s", column, data, more)


def hint_of_targets(data: str, targets: Path | None) -> str:
    """Return advice for inputs that lack a column, which may have been taken as the label."""
    if targets is not None or not data.lower().endswith(".npy"):
        return ""
    return advice(", or name the file of the labels with {}", "targets")


def warn_of_range(x: Any, data: str) -> None:
    """Warn if the first inputs of a file are so large that a network hardly learns from them.

    Pixels are an example, if they are not stored as bytes: only bytes are scaled.
    """
    largest = float(np.nanmax(np.abs(x[:_ROWS_IN_A_LOOK]), initial=0.0))
    if largest > _LARGE:
        click.echo(
            f"warning: {data} has inputs up to {largest:g}, which are used as they are (only bytes "
            "become 0 to 1): a network learns best from inputs of about 1",
            err=True,
        )


def is_streamed(data: str) -> bool:
    """Return whether a path is a folder, or a file that is only read row by row."""
    return data.lower().endswith(H5_ENDS) or Path(data).is_dir()


def check_in_memory(data: str) -> None:
    """Refuse data that is only read row by row."""
    if is_streamed(data):
        raise ValueError(f"{data} is only read row by row{advice(': add {}', 'stream')}.")


def load_inputs(data: str, target: int | str, n_inputs: int) -> np.ndarray:
    """Return the inputs to predict from, in the order of the file; labels among them are left out.

    Args:
        data: the name of a data set, whose test part is used, or a file.
        target: the column of the labels, in a table with one column more than ``n_inputs``.
        n_inputs: the number of inputs that the network takes.
    """
    if data in LOADERS:
        return LOADERS[data]().x_test
    check_in_memory(data)
    suffix, columns = Path(data).suffix.lower(), None
    if suffix == ".npz":
        arrays = load_npz(data)
        if not (names := [name for name in ("x", "x_test") if name in arrays]):
            raise ValueError(f"{data} has {told_members(arrays)}: x or x_test is expected.")
        x = arrays[names[0]]
    elif suffix == ".npy":
        x = load_npy(data)
    else:
        x, columns = load_csv(data)
    if x.dtype == np.uint8:  # images, scaled as load_file does
        x = x / np.float32(255)
    if x.ndim > 2:
        x = x.reshape(len(x), -1)
    if x.ndim == 2 and x.shape[1] == n_inputs + 1 and suffix != ".npz":
        if isinstance(target, str):
            if target not in (columns := columns or ()):
                raise ValueError(f"--target {target}: {data} has no column of that name.")
            target = columns.index(target)
        x = np.delete(x, target, axis=1)
    if x.ndim == 2 and x.dtype.kind in "biuf":
        warn_of_range(x, data)
    return x


def check_inputs(network: Network, file: str, x: np.ndarray, data: str) -> None:
    """Refuse inputs that do not have as many columns as the network in a file takes."""
    if x.ndim == 2 and x.shape[1] != network.sizes[0]:
        hint = hint_of_targets(data, None) if x.shape[1] + 1 == network.sizes[0] else ""
        raise ValueError(
            f"the network in {file} takes {network.sizes[0]} inputs, but {data} has {x.shape[1]} "
            f"features: use --data to name the data that it is for{hint}."
        )


def check_output(path: Path, *inputs: str | Path, name: str = "--output") -> None:
    """Refuse an output file that can't be written or is an input, before any work is done."""
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder: create it", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder can't be written to", str(folder))
    if path.exists() and any(os.path.exists(one) and path.samefile(one) for one in inputs):
        raise ValueError(f"{name} {path} is an input of this command: name another file.")
