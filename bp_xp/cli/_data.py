"""What the commands read and write: data sets known by name, and files."""

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
    """Load a data set by name, or from a file."""
    if data in LOADERS:
        return LOADERS[data]()
    check_in_memory(data)
    return load_file(data, target=target, targets=targets)


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
    """Refuse inputs that do not have as many columns as the network in a file takes."""
    if x.ndim == 2 and x.shape[1] != network.sizes[0]:
        raise ValueError(
            f"the network in {file} takes {network.sizes[0]} inputs, but {data} has {x.shape[1]} "
            "features: use --data to name the data that it is for."
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
