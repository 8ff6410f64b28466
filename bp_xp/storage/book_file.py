"""The content of the file of a network of the book, which only this module knows.

The program of chapter 3 saves a network as JSON: ``sizes``, ``weights`` and ``biases``, a list of
rows for each layer after the inputs, and ``cost``, the name of a class.

References:
    Nielsen, *Neural Networks and Deep Learning*, 2015, ch. 3, ``save`` and ``load``.
"""

import itertools
import json
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bp_xp._files import read_regular
from bp_xp.storage.fields import check_fields_of_book
from bp_xp.storage.files import replace_file
from bp_xp.storage.network_file import unfit

__all__ = ["BookFile", "read_book", "write_book"]


class BookFile(NamedTuple):
    """A network of the book, on the host.

    Attributes:
        sizes: neurons of each layer, the inputs first.
        weights: the weights of each layer after the inputs, shape (n_out, n_in), float64.
        biases: the biases of each layer after the inputs, shape (n_out, 1), float64.
        cost: the name of its cost's class.
    """

    sizes: list[int]
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    cost: str


def write_book(path: str | os.PathLike[str], network: BookFile) -> None:
    """Write a file, completely or not at all.

    Raises:
        ValueError: a weight or bias is not finite, which JSON can't represent.
        OSError: it could not be written; an older file is left as it was.
    """
    fields: dict[str, Any] = network._asdict()
    for name in ("weights", "biases"):
        fields[name] = [array.tolist() for array in fields[name]]
    try:
        text = json.dumps(fields, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} was not written: a weight or bias is NaN or infinite.") from error
    replace_file(Path(path), text.encode())


def read_book(path: str | os.PathLike[str]) -> BookFile:
    """Read a file that this or the book's own program wrote.

    Raises:
        CheckpointError: it does not hold a network of the book; the message says what is wrong.
        OSError: it can't be read.
    """
    try:
        return _content(_parsed(read_regular(path)))
    except (KeyError, ValueError) as error:
        raise unfit(path, "be read as a network of the book", error) from error


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from error


def _content(fields: Any) -> BookFile:
    check_fields_of_book(fields)
    sizes = fields["sizes"]
    pairs = list(itertools.pairwise(sizes))
    weights = _matrices(fields, "weights", [(n_out, n_in) for n_in, n_out in pairs])
    biases = _matrices(fields, "biases", [(n_out, 1) for _, n_out in pairs])
    return BookFile(sizes, weights, biases, fields["cost"])


def _matrices(fields: Any, name: str, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return the arrays of a field, which must have the shapes that the sizes give."""
    matrices, sizes = fields[name], reprlib.repr(fields["sizes"])
    if len(matrices) != len(shapes):
        raise ValueError(f"its {len(matrices)} {name} do not fit its sizes {sizes}")
    for l, (rows, (n, m)) in enumerate(zip(matrices, shapes, strict=True)):  # noqa: E741
        if len(rows) != n or any(len(row) != m for row in rows):
            raise ValueError(f"its {name}[{l}] must be {n} rows of {m}, to fit its sizes {sizes}")
    return [np.array(rows, dtype=np.float64) for rows in matrices]
