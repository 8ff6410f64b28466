"""``--stream``: samples stay in their file, and commands read them as they are needed."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from bp_xp.cli import _tables as tables
from bp_xp.cli._data import LOADERS, tell_target, warn_of_range
from bp_xp.cli._program import logger
from bp_xp.datasets import Dataset
from bp_xp.datasets.stored import open_file, open_inputs

__all__ = ["check_stream", "open_data", "open_rows"]


def check_stream(
    ctx: click.Context, *, stream: bool, data: str, targets: Path | None = None, **options: Any
) -> None:
    """Refuse options for samples in files if the data is not in a file.

    Args:
        ctx: the command.
        stream: whether rows are read as they are needed.
        data: the data set or file.
        targets: the file of the targets.
        options: those that need ``stream``.
    """
    if stream and data in LOADERS:
        raise click.UsageError(f"--stream is for files, and {data} is in memory.", ctx)
    if targets is not None and (data in LOADERS or tables.is_table(data)):
        raise click.UsageError(f"--targets is for inputs in a .npy file, not {data}.", ctx)
    for name, value in options.items():
        if value not in (None, False) and not stream:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} is for data that --stream reads row by row.", ctx)


def open_data(
    data: str,
    *,
    target: int | str,
    targets: Path | None,
    test_fraction: float | None,
    validation_fraction: float = 0.0,
    split_last: bool = False,
) -> Dataset:
    """Return the data set of a file whose rows are read as they are needed."""
    if isinstance(target, str) and target.lower().endswith(".npy"):
        raise ValueError(f"--target {target} is a file: name it with --targets.")
    dataset = open_file(
        data,
        target=target,
        targets=targets,
        test_fraction=tables.TEST_FRACTION if test_fraction is None else test_fraction,
        validation_fraction=validation_fraction,
        split_last=split_last,
    )
    _tell_scaling(dataset.x_train, data)
    tell_target(data, target, targets)
    return dataset


def open_rows(data: str, target: int | str, n_inputs: int) -> Any:
    """Return the inputs of a file to predict from; the arguments are those of load_inputs."""
    rows = open_inputs(data, target, n_inputs)
    _tell_scaling(rows, data)
    return rows


def _tell_scaling(rows: Any, data: str) -> None:
    if rows.raw_dtype == np.uint8:
        logger.info("%s has bytes: 0 to 255 become inputs from 0 to 1", data)
    elif rows.ndim == 2:
        warn_of_range(rows, data)
