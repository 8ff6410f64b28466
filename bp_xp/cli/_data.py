"""What the commands read and write: data sets that are known by name, and files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bp_xp import Network
from bp_xp._caller import advice
from bp_xp.datasets import (
    Dataset,
    load_csv,
    load_digits,
    load_file,
    load_mnist,
    load_npy,
    load_npz,
)
from bp_xp.datasets.stored import H5_ENDS

__all__ = [
    "LOADERS",
    "check_inputs",
    "check_output",
    "is_streamed",
    "load_data",
    "load_inputs",
]

LOADERS: dict[str, Callable[[], Dataset]] = {"digits": load_digits, "mnist": load_mnist}


def load_data(data: str, target: int | str, targets: Path | None = None) -> Dataset:
    """Return a data set by its name, or that of a file."""
    if data in LOADERS:
        return LOADERS[data]()
    check_in_memory(data)
    return load_file(data, target=target, targets=targets)


def is_streamed(data: str) -> bool:
    """Return whether a name is that of a folder, or of a file that is only read row by row."""
    return data.lower().endswith(H5_ENDS) or Path(data).is_dir()


def check_in_memory(data: str) -> None:
    """Refuse what is only read row by row."""
    if is_streamed(data):
        raise ValueError(
            f"{data} is not read whole{advice(': add {}, which reads it row by row', 'stream')}."
        )


def load_inputs(data: str, target: int | str, n_inputs: int) -> np.ndarray:
    """Return the inputs to predict from, in the order of the file; labels among them are left out.

    Args:
        data: a data set by its name, which gives its test part, or a file.
        target: the column of the labels, in a table of one column more than ``n_inputs``.
        n_inputs: how many inputs the network takes.
    """
    if data in LOADERS:
        return LOADERS[data]().x_test
    check_in_memory(data)
    suffix, columns = Path(data).suffix.lower(), None
    if suffix == ".npz":
        arrays = load_npz(data)
        if not (names := [name for name in ("x", "x_test") if name in arrays]):
            raise ValueError(f"{data} has the members {sorted(arrays)}: x or x_test is expected.")
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
    return x


def check_inputs(network: Network, file: str, x: np.ndarray, data: str) -> None:
    """Refuse inputs of another number than the network of a file takes."""
    if x.ndim == 2 and x.shape[1] != network.sizes[0]:
        raise ValueError(
            f"the network in {file} takes {network.sizes[0]} inputs, but {data} has {x.shape[1]} "
            "features: name the data that it is for with --data."
        )


def check_output(path: Path, *inputs: str | Path, name: str = "--output") -> None:
    """Refuse a file that could not be written, or is read, before there is anything to lose."""
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder: create it", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder can't be written to", str(folder))
    if path.exists() and any(os.path.exists(one) and path.samefile(one) for one in inputs):
        raise ValueError(f"{name} {path} is what this command reads: name another file.")
