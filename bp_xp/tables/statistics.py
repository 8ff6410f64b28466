"""Statistics of a column of numbers, in memory that does not grow with its rows.

A column may be a file: it is read block by block, once or a few times for each statistic. Columns
in memory are processed the same way, so that both give the same results, to the last bit.
"""

import functools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp.tables.columns import ROWS_AT_ONCE, blocks, numbers_of

__all__ = ["Distinct", "Values"]

_SORTED_AT_ONCE = 1 << 20
"""Up to this many values are sorted; among more, the relevant ones are found first."""

_BITS = 16
"""How many bits of a number are processed together to find a position in the order."""

_MOST_DISTINCT = 1 << 16


class Distinct(NamedTuple):
    """The different values of a column.

    Attributes:
        values: the values in order, shape (K,); only some if there are very many.
        counts: how often each value occurs, shape (K,).
        more: whether there are more than these.
        whole: whether all are whole numbers.
    """

    values: np.ndarray
    counts: np.ndarray
    more: bool
    whole: bool


class Values:
    """The numbers of a column in some rows, without those that are missing.

    Args:
        column: the column; dates are days since 1970.
        name: what it is called, for messages.
        rows: the numbers of the rows.

    Raises:
        ValueError: when the values are read, one that is not a number, or infinite; the message
            names the row and the column.
    """

    def __init__(self, column: Any, name: str, rows: Sequence[int] | np.ndarray) -> None:
        self._column, self._name, self._rows = column, name, rows

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the numbers in the order of the rows; no block is empty."""
        for k, block in enumerate(blocks(self._column, self._rows)):
            first = k * ROWS_AT_ONCE
            found = numbers_of(block, self._name, self._rows[first : first + len(block)])
            found = found[~np.isnan(found)]
            if len(found):
                yield found

    @functools.cached_property
    def _told(self) -> tuple[int, float, float]:
        n, lowest, highest = 0, math.inf, -math.inf
        for block in self.blocks():
            n += len(block)
            lowest, highest = min(lowest, block.min()), max(highest, block.max())
        return n, float(lowest), float(highest)

    @property
    def n(self) -> int:
        """The number of values."""
        return self._told[0]

    @property
    def lowest(self) -> float:
        """The smallest value."""
        return self._told[1]

    @property
    def highest(self) -> float:
        """The largest value."""
        return self._told[2]

    def mean_and_deviation(self, unit: float) -> tuple[float, float]:
        """Return mean and standard deviation of the values, each divided by a unit beforehand."""
        mean = _total(np.add.reduce(block / unit) for block in self.blocks()) / self.n
        deviations = ((block / unit - mean) for block in self.blocks())
        squares = _total(np.add.reduce(deviation * deviation) for deviation in deviations)
        return mean, math.sqrt(squares / self.n)

    @functools.cached_property
    def median(self) -> float:
        """The median: the mean of the two middle values, if their number is even."""
        middle = self.in_order([(self.n - 1) // 2, self.n // 2])
        return float(np.mean(middle))

    def quantiles(self, shares: Sequence[float], unit: float) -> np.ndarray:
        """Return quantiles of the values, each divided by a unit beforehand.

        They are interpolated linearly between two values, as by ``numpy.quantile``.

        Args:
            shares: the quantiles, from 0 to 1.
            unit: the values are divided by it.
        """
        places = [share * (self.n - 1) for share in shares]
        below = [int(place) for place in places]
        pairs = self.in_order([k for i in below for k in (i, min(i + 1, self.n - 1))]) / unit
        return np.array(
            [
                np.quantile(pair, place - i)
                for pair, place, i in zip(pairs.reshape(-1, 2), places, below, strict=True)
            ]
        )

    def in_order(self, places: Sequence[int]) -> np.ndarray:
        """Return the values at some positions, from 0, in the sorted order."""
        if self.n <= _SORTED_AT_ONCE:
            values = np.concatenate(list(self.blocks()))
            return np.partition(values, sorted(set(places)))[list(places)]
        new = set(places) - self._known.keys()
        if new:
            self._known |= self._found(new)
        return np.array([self._known[place] for place in places])

    @functools.cached_property
    def _known(self) -> dict[int, float]:
        return {}

    def _found(self, places: Collection[int]) -> dict[int, float]:
        """Return the values at positions in the sorted order, by their bits, the highest first.

        Values whose leading bits are equal are counted together, until few enough are left to be
        sorted. All positions are searched together, because each pass reads all values.
        """
        found: dict[int, float] = {}
        # By the leading bits: the position in the order, and the position among these values.
        wanted: dict[int, list[tuple[int, int]]] = {0: [(place, place) for place in places]}
        for shift in range(64 - _BITS, -1, -_BITS):
            counts = {prefix: np.zeros(1 << _BITS, np.int64) for prefix in wanted}
            for prefix, keys in self._keys(wanted, shift + _BITS):
                digits = (keys >> np.uint64(shift)) & np.uint64((1 << _BITS) - 1)
                counts[prefix] += np.bincount(digits.astype(np.int64), minlength=1 << _BITS)
            few: dict[int, list[tuple[int, int]]] = {}
            many: dict[int, list[tuple[int, int]]] = {}
            for prefix, pairs in wanted.items():
                ends = np.cumsum(counts[prefix])
                for place, among in pairs:
                    digit = int(np.searchsorted(ends, among, side="right"))
                    n = int(counts[prefix][digit])
                    group = few if n <= _SORTED_AT_ONCE or not shift else many
                    rest = among - int(ends[digit]) + n
                    group.setdefault((prefix << _BITS) | digit, []).append((place, rest))
            if not shift:  # all bits are known
                return found | {
                    place: _number(prefix) for prefix, pairs in few.items() for place, _ in pairs
                }
            left: dict[int, list[np.ndarray]] = {prefix: [] for prefix in few}
            for prefix, keys in self._keys(few, shift):
                left[prefix].append(keys)
            for prefix, pairs in few.items():
                keys = np.sort(np.concatenate(left[prefix]))
                found |= {place: _number(int(keys[among])) for place, among in pairs}
            wanted = many
            if not wanted:
                break
        return found

    def _keys(self, prefixes: Collection[int], shift: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield values, as whole numbers in their order, by their leading bits."""
        for block in self.blocks() if prefixes else ():
            keys = _key(block)
            for prefix in prefixes:
                yield (
                    prefix,
                    keys if shift == 64 else keys[keys >> np.uint64(shift) == np.uint64(prefix)],
                )

    def distinct(self, most: int = _MOST_DISTINCT) -> Distinct:
        """Return the different values, and how often each occurs."""
        values, counts, more, whole = np.zeros(0), np.zeros(0, np.int64), False, True
        for block in self.blocks():
            whole = whole and not (block % 1).any()
            if more:
                continue
            new, n = np.unique(block, return_counts=True)
            values, place = np.unique(np.concatenate([values, new]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([counts, n])).astype(np.int64)
            more = len(values) > most
        return Distinct(values, counts, more, whole)

    def number_the_rows(self) -> bool:
        """Return whether the values are whole numbers, all different and dense.

        Half of the numbers in their range must occur, because some rows may be held out.
        """
        spread = self.highest - self.lowest
        if not self.n > spread / 2:
            return False
        seen = np.zeros(int(spread) + 1, bool)
        for block in self.blocks():
            if (block % 1).any():
                return False
            seen[(block - self.lowest).astype(np.int64)] = True
        return int(seen.sum()) == self.n


def _total(parts: Iterator[Any]) -> float:
    return math.fsum(map(float, parts))


def _key(values: np.ndarray) -> np.ndarray:
    """Return whole numbers in the order of the values, uint64; −0 and 0 are the same."""
    bits = (values + 0.0).view(np.uint64)
    negative = bits >> np.uint64(63) == 1
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


def _number(key: int) -> float:
    """Return the value of a whole number of :func:`_key`."""
    bits = key & ((1 << 63) - 1) if key >> 63 else key ^ ((1 << 64) - 1)
    return float(np.array(bits, np.uint64).view(np.float64))
