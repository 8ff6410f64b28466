"""Samples of estimators: dense or sparse, in scikit-learn's order."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from bp_xp import sources
from bp_xp._typing import Array
from bp_xp.backends import Placement, library_of, to_numpy
from bp_xp.sources import Epoch, MemorySource
from bp_xp.sources.memory import MemoryEpoch
from bp_xp.sources.sparse import (
    SparseInputs,
    blocks_of,
    cut_rows,
    entries_of_row,
    is_sparse,
    take_rows,
)
from bp_xp.training.evaluation import ROWS_AT_ONCE

__all__ = [
    "Samples",
    "ScikitEpoch",
    "ScikitOrder",
    "ScikitSource",
    "blocks_of_inputs",
    "mini_batches",
    "penalty_numbers",
    "place_inputs",
    "scale_weights",
    "weights_of",
]


def place_inputs(x: Any, placement: Placement, dtype: str) -> Array | SparseInputs:
    """Return inputs, shape (N, I), on the device; sparse ones stay on the host.

    Args:
        x: a NumPy array, a sparse matrix, or an array on the device.
        placement: library and device.
        dtype: the network's dtype.
    """
    if is_sparse(x):
        return SparseInputs(x, placement, dtype)
    if library_of(x) is placement.library and not isinstance(x, np.ndarray):
        return placement.xp.astype(x, placement.dtype(dtype), copy=False)
    return placement.asarray(x, dtype)


def weights_of(coef: Any, x: Any, placement: Placement, dtype: str) -> Array:
    """Return the weights W, shape (O, I), of coefficients (I, O), on the device.

    With sparse inputs they keep their memory order: products read one input's weights at a time.
    """
    if is_sparse(x):
        return placement.xp.matrix_transpose(placement.asarray(to_numpy(coef), dtype))
    return placement.asarray(to_numpy(coef).T, dtype)


def blocks_of_inputs(x: Any, placement: Placement, dtype: str) -> Iterator[Array]:
    """Yield inputs that are needed only once, on the device, in blocks of rows."""
    x = SparseInputs(x, placement, dtype) if is_sparse(x) else x
    for rows in blocks_of(x, ROWS_AT_ONCE):
        block = x[rows, ...]
        yield block if isinstance(x, SparseInputs) else place_inputs(block, placement, dtype)


class Samples(NamedTuple):
    """Samples, checked, on the device.

    Attributes:
        inputs: the inputs, shape (N, I); sparse ones are on the host.
        y: the targets, shape (N, O).
        truth: what ``score`` compares predictions with, on the host.
        weights: how much each sample counts in training, shape (N,), on the host; or None.
        score_weights: how much each sample counts in a score, without ``class_weight``.
    """

    inputs: Array | SparseInputs
    y: Array
    truth: Any
    weights: np.ndarray | None
    score_weights: np.ndarray | None

    def rows(self, index: np.ndarray, placement: Placement) -> "Samples":
        """Return some of the samples."""
        inputs, y = take_rows([self.inputs, self.y], index, placement)
        return Samples(
            inputs,
            y,
            self.truth[index],
            *(None if w is None else w[index] for w in (self.weights, self.score_weights)),
        )

    def blocks(self, placement: Placement) -> Iterator[tuple[slice, Array]]:
        """Yield all inputs in blocks of rows, with the position of each block."""
        for rows in blocks_of(self.inputs, ROWS_AT_ONCE):
            yield rows, cut_rows(self.inputs, rows, placement)


def mini_batches(n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each mini-batch of n samples starts, and how many samples it has."""
    starts = np.arange(0, n, batch_size)
    return starts, np.diff(starts, append=n).astype(np.float64)


def scale_weights(weights: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights that add to the number of samples of each mini-batch, and their sums before.

    Args:
        weights: the weights of the samples in the order of the epoch, shape (..., N).
        batch_size: samples in a mini-batch.

    Returns:
        Weights, shape (..., N), and sums, shape (..., steps).
    """
    starts, counts = mini_batches(weights.shape[-1], batch_size)
    sums = np.add.reduceat(weights, starts, axis=-1)
    scales = np.divide(counts, sums, out=np.zeros_like(sums), where=sums > 0.0)
    return weights * np.repeat(scales, counts.astype(int), axis=-1), sums


def penalty_numbers(alpha: float, counts: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Return the numbers that :class:`~bp_xp.estimators._solvers.Penalized` needs for mini-batches.

    Args:
        alpha: strength of the L2 term.
        counts: the number of samples of each mini-batch of an epoch, shape (steps,).
        weights: the sum of their weights, shape (steps,).

    Returns:
        ``decay``, ``share`` and ``kept``, shape (steps,) each.
    """
    decay = np.divide(alpha, weights, out=np.zeros_like(counts), where=weights > 0.0)
    kept = (np.arange(len(decay)) > 0).astype(np.float64)
    return [decay, decay * counts / counts.sum(), kept]


class ScikitOrder:
    """The order of the samples from epoch to epoch, as scikit-learn shuffles them.

    Args:
        random: draws each order from the previous one; None keeps the order of the samples.
        n: how many samples there are.
    """

    def __init__(self, random: np.random.RandomState | None, n: int) -> None:
        self._random, self._order = random, np.arange(n)

    def permutation(self, n: int) -> np.ndarray:
        """Return the order of the next epoch of n samples."""
        if self._random is not None:
            draw = np.arange(n)
            self._random.shuffle(draw)
            self._order = self._order[draw]
        return self._order


class ScikitSource:
    """Mini-batches in scikit-learn's order, each with its share of scikit-learn's L2 term.

    A :class:`bp_xp.sources.Source`. The weights of a mini-batch are scaled so that they add to the
    number of its samples: the gradient is the same, and the loss of an epoch becomes that of
    scikit-learn, in which a mini-batch counts by its number of samples and not by their weight.

    Args:
        samples: the samples.
        alpha: strength of the L2 term; if 0, no such numbers are given.
        random: draws each order from the previous one; None keeps the order of the samples.
        placement: library and device.
        dtype: the network's dtype.
    """

    has_classes = sharded = False

    def __init__(
        self,
        samples: Samples,
        *,
        alpha: float,
        random: np.random.RandomState | None,
        placement: Placement,
        dtype: str,
    ) -> None:
        self.n_rows: int | None = samples.inputs.shape[0]
        self.row_entries = entries_of_row(samples.inputs) + samples.y.shape[1]
        self.dtype, self.weighted = dtype, samples.weights is not None
        self.given: tuple[str, ...] = ("decay", "share", "kept") if alpha else ()
        self._samples, self._alpha, self._placement = samples, alpha, placement
        self._shuffles, self._rank, self._ranks = random is not None, 0, 1
        self._orders = ScikitOrder(random, samples.inputs.shape[0])

    def start_epoch(self, batch_size: int, generator: np.random.Generator) -> "ScikitEpoch":
        """Return the next epoch; its order comes from scikit-learn's generator, not from ours."""
        del generator
        order = self._orders.permutation(self._samples.inputs.shape[0])
        _, counts = mini_batches(len(order), batch_size)
        sums, arrays = counts, [self._samples.inputs, self._samples.y]
        if self._samples.weights is not None:
            scaled, sums = scale_weights(self._samples.weights[order], batch_size)
            weights = np.empty_like(scaled)
            weights[order] = scaled
            arrays.append(self._placement.asarray(weights, self.dtype))
        taken = order if self._shuffles else None
        share = {"rank": self._rank, "ranks": self._ranks}
        return ScikitEpoch(
            MemoryEpoch(arrays, batch_size, taken, self._placement, **share),
            self._numbers_of(counts, sums),
        )

    def _numbers_of(self, counts: np.ndarray, weights: np.ndarray) -> list[Array]:
        """Return the numbers for each mini-batch of an epoch, from its samples and weights."""
        if not self.given:
            return []
        numbers = penalty_numbers(self._alpha, counts, weights)
        return [self._placement.asarray(values, self.dtype) for values in numbers]

    def blocks(self, rows: int) -> Iterator[list[Array]]:
        """Yield all samples in their stored order, without weights."""
        del rows  # the samples know how many rows fit in memory
        for block, x in self._samples.blocks(self._placement):
            yield [x, cut_rows(self._samples.y, block, self._placement)]

    def share(self, rank: int, ranks: int) -> "ScikitSource":
        """Return the source of one of several processes, which gets a part of each mini-batch.

        The numbers given with a mini-batch are those of the whole mini-batch.
        """
        shared = copy(self)
        shared._rank, shared._ranks = rank, ranks
        return shared

    def fingerprint(self) -> str:
        """Return the SHA-256 of the samples and their weights."""
        return self._in_memory().fingerprint()

    def fingerprint_of_each(self) -> list[str]:
        """Return the SHA-256 of inputs, of targets and, if there are any, of weights."""
        return self._in_memory().fingerprint_of_each()

    def _in_memory(self) -> MemorySource:
        parts: Any = (self._samples.inputs, self._samples.y, False, self._samples.weights)
        return MemorySource(sources.Samples(*parts), self._placement)


class ScikitEpoch(Epoch):
    """The mini-batches of one epoch; see :class:`bp_xp.sources.Epoch`.

    Args:
        cut: the mini-batches without the numbers that are added here.
        numbers: the numbers for each mini-batch, shape (steps, ...) each.
    """

    def __init__(self, cut: Epoch, numbers: Sequence[Array]) -> None:
        self._cut, self._numbers = cut, numbers

    @property
    def place(self) -> int:
        """The number of mini-batches taken."""
        return self._cut.place

    def seek(self, place: Any) -> None:
        """Continue after a number of mini-batches."""
        self._cut.seek(place)

    def take(self, at_most: int) -> list[Array] | None:
        """Return the next mini-batches, or None if there are no more."""
        k = self.place
        batches = self._cut.take(at_most)
        if batches is None:
            return None
        steps = batches[0].shape[0]
        return [*batches, *(values[k : k + steps, ...] for values in self._numbers)]
