"""Which rows of a file were held out for testing, recorded with the network that was trained.

The same rows must be taken later, in whichever way they are then read: other rows were learned.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import click

from bp_xp.cli import _tables as tables
from bp_xp.cli._data import LOADERS, is_streamed, load_data
from bp_xp.cli._stream import open_data
from bp_xp.datasets import Dataset
from bp_xp.errors import CheckpointError
from bp_xp.storage import network_file
from bp_xp.storage.network_file import Section

__all__ = ["check_resumed", "held_out_sections", "open_test_part"]

_SECTION = "held_out"


@dataclass(frozen=True)
class HeldOut:
    """How rows were held out for testing.

    Attributes:
        stream: whether blocks of rows were held out, as for --stream, or single rows.
        test_fraction: the share of the rows.
        split_last: whether they are the last ones.
    """

    stream: bool = False
    test_fraction: float = tables.TEST_FRACTION
    split_last: bool = False

    def __str__(self) -> str:
        last = " --split-last" if self.split_last else ""
        options = f"with --stream{last} --test-fraction {self.test_fraction:g}"
        return options if self.stream else "without --stream"


def held_out_sections(given: SimpleNamespace) -> dict[str, Section]:
    """Return the section that records how a run held out rows; none if its data has its own."""
    if given.is_table or given.data in LOADERS:
        return {}
    fraction = tables.TEST_FRACTION if given.test_fraction is None else given.test_fraction
    held = HeldOut(True, fraction, bool(given.split_last)) if given.stream else HeldOut()
    return {_SECTION: Section(asdict(held))}


def check_resumed(path: Path, sections: Mapping[str, Section]) -> None:
    """Refuse to resume a run that held out other rows than the run with these sections.

    Raises:
        CheckpointError: its options were different; the message has both.
    """
    known = _read_held_out(path)
    if known is not None and _SECTION in sections:
        now = HeldOut(**sections[_SECTION].fields)
        if now != known:
            raise CheckpointError(f"{path} is of a run {known}, not {now}.")


def _read_held_out(file: str | os.PathLike[str]) -> HeldOut | None:
    """Return how the rows to test a network on were held out, or None if its file lacks that.

    Raises:
        CheckpointError: the file is damaged, or does not hold a network.
        OSError: it can't be read.
    """
    section = network_file.read(file).others.get(_SECTION)
    if section is None:
        return None
    match dict(section.fields):
        case {"stream": bool(), "test_fraction": float(), "split_last": bool(), **more} if not more:
            return HeldOut(**section.fields)
    raise network_file.unfit(
        file, "be evaluated", ValueError(f"its {_SECTION} does not say which rows are for testing")
    )


def open_test_part(
    file: str,
    data: str,
    *,
    target: int | str,
    targets: Path | None = None,
    stream: bool = False,
    test_fraction: float | None = None,
    split_last: bool = False,
) -> Dataset:
    """Return a data set whose test part is the one that was held out when a network was trained.

    Options that ask for other rows are obeyed, with a warning.

    Args:
        file: the file of the network.
        data: the data set or file, like the following arguments as in ``bp-xp evaluate``.
        target: the column of the labels.
        targets: the file of the targets.
        stream: whether rows are read as they are needed.
        test_fraction: the share of the rows to test on, if given; 1 is all rows.
        split_last: whether they are the last ones.
    """
    known = None if data in LOADERS else _read_held_out(file)
    base = known or HeldOut(stream)
    is_asked = test_fraction is not None or split_last or (stream and is_streamed(data))
    part = HeldOut(
        (base.stream or is_asked) and data not in LOADERS and not tables.is_table(data),
        base.test_fraction if test_fraction is None else test_fraction,
        split_last or base.split_last,
    )
    if known is not None and part != known and test_fraction != 1.0:
        click.echo(
            f"warning: {file} was trained with another test part ({known}): if {data} is the data "
            "that it was trained on, it has learned some of these rows",
            err=True,
        )
    if not part.stream:
        return load_data(data, target, targets)
    return open_data(
        data,
        target=target,
        targets=targets,
        test_fraction=part.test_fraction,
        split_last=part.split_last,
    )
