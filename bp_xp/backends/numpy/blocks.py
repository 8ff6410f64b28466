"""Sequences of elementwise operations, block by block, so that they stay in the CPU's cache.

An optimizer goes over all weights some ten times. If they do not fit in a cache, each pass waits
for the memory. Block by block, each number is read from memory once, and temporaries never leave
the cache. The results do not change.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Elementwise", "elementwise", "in_blocks"]

_LEAST_BYTES = 1 << 20  # of an array, for which it is worthwhile
_BLOCK = 1 << 14  # entries: those of some arrays are in the cache together

_WORD = re.compile(r"\w+")
_WRITTEN = re.compile(r"out=(\w+)|copyto\((\w+)")


class Elementwise(NamedTuple):
    """A line that computes each entry of a result from the same entry of others.

    Attributes:
        arrays: the name of each array in the line that has the form of the result.
        form: shape and strides of these.
    """

    arrays: frozenset[str]
    form: tuple[tuple[int, ...], tuple[int, ...]]


def elementwise(names: Sequence[str], values: Sequence[Any]) -> Elementwise | None:
    """Return the properties of an elementwise line, or None if it cannot run in blocks.

    Args:
        names: those of its inputs, and of its result.
        values: the inputs and the result; no array is a part of another one.
    """
    result = values[-1]
    form = result.shape, result.strides
    contiguous = result.flags.c_contiguous or result.flags.f_contiguous
    arrays = {n: value for n, value in zip(names, values, strict=True) if np.ndim(value)}
    alike = all((value.shape, value.strides) == form for value in arrays.values())
    large = result.nbytes >= _LEAST_BYTES
    return Elementwise(frozenset(arrays), form) if large and contiguous and alike else None


def in_blocks(
    lines: Sequence[str], known: Mapping[int, Elementwise], objects: dict[str, Any]
) -> list[str]:
    """Return the lines, with long sequences of elementwise ones converted to blocks.

    Args:
        lines: the lines of a program.
        known: the properties of some of them, by their number.
        objects: the arrays and functions that lines name; temporaries that are needed in only one
            sequence of lines become as short as a block.
    """
    written: list[str] = []
    rows = _joined(_rows_of(len(lines), known), lines, known, objects)
    for row in rows:
        some = [lines[i] for i in row]
        if len(some) == 1:
            written += some
            continue
        names = set().union(*(known[i].arrays for i in row))
        others = _words([line for i, line in enumerate(lines) if i not in row])
        short = sorted(name for name in names - others if _is_alone(name, objects))
        whole = sorted(names - set(short))
        objects["blocks"] = _blocks
        objects |= {name: np.empty(_BLOCK, objects[name].dtype) for name in short}
        given = ", ".join(f"[{', '.join(some)}]" for some in (whole, short))
        parts = ", ".join(f"{name}_" for name in [*whole, *short])
        written.append(f"for {parts} in blocks({given}):")
        name_of_array = re.compile(rf"\b({'|'.join(names)})\b")
        written += ["    " + name_of_array.sub(r"\1_", line) for line in some]
    return written


def _rows_of(n: int, known: Mapping[int, Elementwise]) -> list[list[int]]:
    """Return the numbers of lines 0 to n − 1, those of elementwise lines of one form together."""
    rows: list[list[int]] = []
    for i in range(n):
        this, before = known.get(i), known.get(i - 1)
        if this is not None and before is not None and this.form == before.form:
            rows[-1].append(i)
        else:
            rows.append([i])
    return rows


def _joined(
    rows: Sequence[list[int]],
    lines: Sequence[str],
    known: Mapping[int, Elementwise],
    objects: Mapping[str, Any],
) -> list[list[int]]:
    """Return the sequences; one that can be delayed is joined to the next one of its form.

    For example, a penalty's gradient is delayed until the optimizer's step.
    """
    after: list[list[int]] = []
    for row in reversed(rows):
        form = known[row[0]].form if row[0] in known else None
        next_one = (
            k for k, other in enumerate(after) if other[0] in known and known[other[0]].form == form
        )
        k = next(next_one, None)
        between = [lines[i] for other in after[:k] for i in other]
        if k is not None and _may_wait([lines[i] for i in row], between, objects):
            after[k] = [*row, *after[k]]
        else:
            after.insert(0, row)
    return after


def _may_wait(row: Sequence[str], between: Sequence[str], objects: Mapping[str, Any]) -> bool:
    """Return whether lines can be moved after others, because the two are independent."""
    ours, theirs = _written(row), _written(between)
    return (
        all(_is_alone(name, objects) for name in ours)
        and all(name.startswith("s") or _is_alone(name, objects) for name in theirs)
        and not ours & _words(between)
        and not theirs & _words(row)
    )


def _words(lines: Sequence[str]) -> set[str]:
    return set(_WORD.findall("\n".join(lines)))


def _written(lines: Sequence[str]) -> set[str]:
    """Return the names of the arrays that lines write to, except those that they create."""
    return {name for pair in _WRITTEN.findall("\n".join(lines)) for name in pair if name}


def _is_alone(name: str, objects: Mapping[str, Any]) -> bool:
    """Return whether a name belongs to a temporary that has no view with another name."""
    own = objects.get(name)
    return name.startswith("t") and not any(
        isinstance(other, np.ndarray) and np.may_share_memory(own, other)
        for known, other in objects.items()
        if known != name
    )


def _blocks(
    arrays: Sequence[np.ndarray], short: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield block after block of some arrays of one form, and temporaries for it."""
    first = arrays[0]
    contiguous = first.flags.c_contiguous or first.flags.f_contiguous
    if not contiguous or any(array.strides != first.strides for array in arrays):
        # Parameters that a callback assigns may have another order: then all in one block.
        yield (*arrays, *(np.empty(first.shape, one.dtype) for one in short))
        return
    flat = [np.reshape(array.T if array.flags.f_contiguous else array, -1) for array in arrays]
    whole = first.size - first.size % _BLOCK
    blocks = [np.reshape(one[:whole], (-1, _BLOCK)) for one in flat]
    yield from zip(*blocks, *map(itertools.repeat, short), strict=False)
    if rest := first.size - whole:
        yield (*(one[whole:] for one in flat), *(one[:rest] for one in short))
