"""Samples in columns, as in the book, which are checked and moved to the device as rows."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp._typing import Array
from bp_xp.backends import Placement, to_numpy
from bp_xp.backends.registry import as_array
from bp_xp.sources import intake

__all__ = ["Intake", "Samples"]


class Samples(Sequence[tuple[Array, Any]]):
    """Checked samples on the device: rows for the equations, pairs for other code.

    Attributes:
        x: inputs, shape (N, n).
        y: targets, shape (N, k); or labels on the host, shape (N,).
    """

    def __init__(self, x: Array, y: Array):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        y = int(self.y[i]) if self.y.ndim == 1 else self.y[i, :][:, None]
        return self.x[i, :][:, None], y


class Intake(NamedTuple):
    """Takes the samples that users pass to a network.

    Attributes:
        placement: the network's library and device.
        dtype: its dtype.
        n_in: its number of inputs.
        n_out: its number of outputs.
    """

    placement: Placement
    dtype: str
    n_in: int
    n_out: int

    def rows(self, columns: Any, name: str) -> Array:
        """Return inputs side by side, shape (n, N), as rows on the device, shape (N, n)."""
        return self._rows(columns, name, self.n_in)

    def training(self, pairs: Iterable[tuple[Any, Any]], name: str) -> Samples:
        """Return pairs of columns as samples with targets."""
        if isinstance(pairs, Samples) and pairs.y.ndim == 2:
            return pairs
        xs, ys = _unzip(pairs, name)
        if np.ndim(ys[0]) == 0:
            raise ValueError(
                f"{name}: y of a training sample is a column of shape ({self.n_out}, 1), not "
                f"the number {ys[0]!r}: that is how test data is written."
            )
        return Samples(
            self._stacked(xs, f"{name}: x", self.n_in), self._stacked(ys, f"{name}: y", self.n_out)
        )

    def labeled(self, pairs: Iterable[tuple[Any, Any]], name: str, remedy: str) -> Samples:
        """Return pairs of a column and a whole number as samples with labels.

        Args:
            pairs: the samples.
            name: the caller's name for them, for messages.
            remedy: how to evaluate training data, for messages.
        """
        if isinstance(pairs, Samples) and pairs.y.ndim == 1:
            return pairs
        xs, ys = _unzip(pairs, name)
        alike = len({np.shape(y) for y in ys}) == 1
        labels = np.asarray([to_numpy(y) for y in ys]) if alike else np.empty((0, 0))
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{name}: y of a test sample is a whole number, the index of the right output, not "
                f"{ys[0]!r}; training data is evaluated with {remedy}."
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= self.n_out))
        if wrong.size:
            raise ValueError(
                f"{name}: y of sample {wrong[0]} is {labels[wrong[0]]}, and the network has "
                f"outputs 0 to {self.n_out - 1}."
            )
        return Samples(self._stacked(xs, f"{name}: x", self.n_in), labels)

    def _rows(self, columns: Any, name: str, size: int) -> Array:
        values = as_array(columns, name)
        shape = tuple(values.shape)
        if len(shape) != 2 or shape[0] != size:
            hint = f": reshape it with {name}.reshape({size}, 1)" if shape == (size,) else ""
            raise ValueError(f"{name} must be a column of shape ({size}, 1), not {shape}{hint}.")
        return self._checked(values.mT, name, size)

    def _stacked(self, columns: Sequence[Any], name: str, size: int) -> Array:
        """Return a list of columns as rows on the device, shape (N, size)."""
        arrays = [as_array(column, f"{name} of sample {i}") for i, column in enumerate(columns)]
        for i, array in enumerate(arrays):
            if tuple(array.shape) != (size, 1):
                raise ValueError(
                    f"{name} of sample {i} must be a column of shape ({size}, 1), not "
                    f"{tuple(array.shape)}."
                )
        if all(isinstance(array, np.ndarray) for array in arrays):
            return self._checked(np.stack(arrays)[:, :, 0], name, size)
        owns = self.placement.library.owns
        # Host values among arrays on the device are moved; arrays of another library are refused.
        rows = [a.mT if owns(a) else self._rows(a, name, size) for a in arrays]
        return self._checked(self.placement.xp.concat(rows, axis=0), name, size)

    def _checked(self, rows: Array, name: str, size: int) -> Array:
        return intake.check_samples(
            rows, name, placement=self.placement, dtype=self.dtype, columns=size
        )


def _unzip(pairs: Iterable[tuple[Any, Any]], name: str) -> tuple[list[Any], list[Any]]:
    """Return the x and the y of a list or an iterator of pairs."""
    listed = list(pairs)
    if not listed:
        raise ValueError(
            f"{name} is empty: pass pairs (x, y). An iterator, such as zip, serves only once."
        )
    for i, pair in enumerate(listed):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{name}: sample {i} must be a pair (x, y), not {type(pair).__name__}.")
    return [x for x, _ in listed], [y for _, y in listed]
