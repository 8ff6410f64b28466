"""Samples as estimators meet them: dense or sparse, in scikit-learn's order."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bp_xp._typing import Array
from bp_xp.arrays import Placement, library_of, row_blocks
from bp_xp.training import Cut, make_cut

__all__ = ["Batches", "Inputs", "Samples", "blocks_of"]

# Samples that go through the network at once where no gradient step follows; sparse ones take
# memory only while they do.
_ROWS_AT_ONCE = 4096
_SPARSE_BYTES = 1 << 25


class Inputs:
    """Inputs, shape (N, I): dense on the device, or sparse on the host and made dense by batch.

    Args:
        x: a NumPy array, a sparse matrix, or an array on the device.
        place: library and device.
        dtype: the network's dtype.
    """

    def __init__(self, x: Any, place: Placement, dtype: str) -> None:
        self._place, self._dtype = place, dtype
        self.sparse = hasattr(x, "tocsr")
        self.shape: tuple[int, int] = tuple(x.shape)
        if self.sparse:
            self.values = x.tocsr()
        elif library_of(x) is place.library and not isinstance(x, np.ndarray):
            self.values = place.xp.astype(x, place.dtype(dtype), copy=False)
        else:
            self.values = place.asarray(x, dtype)

    def rows(self, index: np.ndarray) -> "Inputs":
        """Return the inputs of some rows, whose numbers are on the host."""
        if self.sparse:
            return Inputs(self.values[index], self._place, self._dtype)
        taken = self._place.xp.take(self.values, self._place.asarray(index), axis=0)
        return Inputs(taken, self._place, self._dtype)

    def dense(self, rows: slice | np.ndarray) -> Array:
        """Return some rows as an array on the device; of dense inputs a slice only."""
        if self.sparse:
            return self._place.asarray(self.values[rows].toarray(), self._dtype)
        return self.values[rows, :]

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield all rows, some at a time, each with where they are."""
        for rows in _row_blocks(self.values):
            yield rows, self.dense(rows)


def blocks_of(x: Any, place: Placement, dtype: str) -> Iterator[Array]:
    """Yield inputs that are needed once, dense on the device, some rows at a time."""
    x = x.tocsr() if hasattr(x, "tocsr") else x
    for rows in _row_blocks(x):
        yield Inputs(x[rows, :], place, dtype).dense(slice(None))


def _row_blocks(x: Any) -> Iterator[slice]:
    """Cut inputs into blocks of rows that take some memory, and no more, when they are dense."""
    n, columns = x.shape
    most = _SPARSE_BYTES // (8 * columns) if hasattr(x, "tocsr") else _ROWS_AT_ONCE
    return row_blocks(n, max(1, min(most, _ROWS_AT_ONCE)))


class Samples(NamedTuple):
    """Samples, checked, on the device.

    Attributes:
        inputs: the inputs.
        y: the targets, shape (N, O).
        truth: what ``score`` compares predictions with, on the host.
        weights: how much each sample counts in training, shape (N,), on the host; or None.
        score_weights: how much it counts in a score: the same but for ``class_weight``.
    """

    inputs: Inputs
    y: Array
    truth: Any
    weights: np.ndarray | None
    score_weights: np.ndarray | None

    def rows(self, index: np.ndarray, where: Placement) -> "Samples":
        """Return some of the samples."""
        return Samples(
            self.inputs.rows(index),
            where.xp.take(self.y, where.asarray(index), axis=0),
            self.truth[index],
            *(None if w is None else w[index] for w in (self.weights, self.score_weights)),
        )


class Batches:
    """Mini-batches in scikit-learn's order, each with its share of scikit-learn's L2 term.

    A :class:`bp_xp.training.Supply`. The weights of a mini-batch are scaled to add to its samples:
    the gradient is the same, and the loss of an epoch becomes scikit-learn's, in which a
    mini-batch counts by its samples and not by their weight.

    Args:
        inputs: the inputs, N of them.
        y: targets on the device, shape (N, O).
        weights: how much each sample counts, shape (N,), on the host, or None.
        alpha: strength of the L2 term; without one, nothing is given.
        batch_size: samples in a mini-batch.
        random: draws the order, each from the one before; None takes the samples as they come.
        place: library and device.
        dtype: the network's dtype.
    """

    def __init__(
        self,
        inputs: Inputs,
        y: Array,
        weights: np.ndarray | None,
        *,
        alpha: float,
        batch_size: int,
        random: np.random.RandomState | None,
        place: Placement,
        dtype: str,
    ) -> None:
        n = inputs.shape[0]
        self.given: tuple[str, ...] = ("decay", "share", "kept") if alpha else ()
        self._inputs, self._y, self._weights, self._alpha = inputs, y, weights, alpha
        self._batch_size, self._random, self._place, self._dtype = batch_size, random, place, dtype
        self._order = np.arange(n)
        self._starts = np.arange(0, n, batch_size)
        self._counts = np.diff(self._starts, append=n).astype(np.float64)
        self._numbers = [] if weights is not None else self._numbers_of(self._counts)

    def start_epoch(self) -> Cut:
        """Return what cuts the mini-batches of the next epoch."""
        if self._random is not None:
            draw = np.arange(len(self._order))
            self._random.shuffle(draw)
            self._order = self._order[draw]
        cut_data, weights = self._cut_data(), None
        if self._weights is not None:
            ordered = self._weights[self._order]
            sums = np.add.reduceat(ordered, self._starts)
            self._numbers = self._numbers_of(sums)
            scales = np.divide(self._counts, sums, out=np.zeros_like(sums), where=sums > 0.0)
            scaled = ordered * np.repeat(scales, self._counts.astype(int))
            weights = self._place.asarray(scaled, self._dtype)

        def cut(first: int, steps: int, size: int) -> list[Array]:
            batches = cut_data(first, steps, size)
            if weights is not None:
                part = weights[first : first + steps * size]
                batches.append(self._place.xp.reshape(part, (steps, size)))
            k = first // self._batch_size
            return [*batches, *(values[k : k + steps] for values in self._numbers)]

        return cut

    def _cut_data(self) -> Cut:
        """Return what cuts inputs and targets."""
        order = None if self._random is None else self._order
        inputs = self._inputs
        if not inputs.sparse:
            return make_cut([inputs.values, self._y], order, self._place)
        cut_targets = make_cut([self._y], order, self._place)

        def cut(first: int, steps: int, size: int) -> list[Array]:
            x = inputs.dense(self._order[first : first + steps * size])
            x = self._place.xp.reshape(x, (steps, size, inputs.shape[1]))
            return [x, *cut_targets(first, steps, size)]

        return cut

    def _numbers_of(self, weights: np.ndarray) -> list[Array]:
        """Return what is given with each mini-batch of an epoch, from their weights."""
        if not self.given:
            return []
        decay = np.divide(
            self._alpha, weights, out=np.zeros_like(self._counts), where=weights > 0.0
        )
        share = decay * self._counts / self._counts.sum()
        kept = (np.arange(len(decay)) > 0).astype(np.float64)
        return [self._place.asarray(values, self._dtype) for values in (decay, share, kept)]
