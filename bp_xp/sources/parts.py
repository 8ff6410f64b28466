"""Parts of large sample sets: read, checked and converted, on the host if possible.

Streamed samples pass through here part by part, with the same checks as samples in memory.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp.backends import Placement, place, to_numpy
from bp_xp.backends.registry import library_of
from bp_xp.math.model import Model
from bp_xp.sources.intake import rows_from
from bp_xp.sources.samples import Samples, make_samples, weigh

__all__ = ["TRANSFORMED", "PartMaker", "Transform", "at_home", "host", "told_of", "transformed"]

Transform = Callable[[np.ndarray], Any]
"""A function that makes inputs (n, I) from n rows as they are stored."""

TRANSFORMED = "what transform returned"
"""The name in messages for inputs that a transform returned."""


@dataclass(frozen=True)
class PartMaker:
    """The requirements for samples, and their destination.

    Attributes:
        model: what the network computes.
        placement: its library and device.
        dtype: its dtype.
        prefix: the prefix of ``x`` and ``y`` in messages.
        per_class: how much each class counts, shape (K,), or None.
        transform: a function that makes the inputs of some rows, or None; see :func:`transformed`.
    """

    model: Model
    placement: Placement
    dtype: str
    prefix: str = ""
    per_class: np.ndarray | None = None
    transform: Transform | None = None

    def inputs(self, x: Any) -> Any:
        """Return the inputs of stored or yielded rows, for :meth:`make`.

        An error in a user's function is raised unchanged: its traceback shows where.

        Raises:
            ValueError, TypeError: as for :func:`transformed`.
        """
        return transformed(x, self.transform, columns=self.model.sizes[0])

    def make(self, x: Any, y: Any, weights: Any = None, *, first_row: int = 0) -> Samples:
        """Return some samples: on the device if x is there, otherwise on the host.

        On the host, one-byte integers keep their dtype.

        Args:
            x: inputs, shape (n, I).
            y: labels, shape (n,), or targets, shape (n, O).
            weights: shape (n,), or None.
            first_row: the number of their first row, for messages.

        Raises:
            ValueError, TypeError: as for :func:`bp_xp.sources.samples.make_samples`.
        """
        placement = self.placement
        x, y, weights = (at_home(part, placement) for part in (x, y, weights))
        if not _is_own(x, placement):
            placement = host()
            y, weights = (
                to_numpy(part) if _is_own(part, self.placement) else part for part in (y, weights)
            )
        where: dict[str, Any] = {"placement": placement, "dtype": self.dtype}
        named: dict[str, Any] = {"prefix": self.prefix, "x_name": self.x_name}
        with rows_from(first_row):
            samples = make_samples(self.model, x, y, weights, **named, partial=True, **where)
        return samples if self.per_class is None else weigh(samples, self.per_class, **where)

    @property
    def x_name(self) -> str:
        """The name of the inputs in messages."""
        return f"{self.prefix}x" if self.transform is None else TRANSFORMED

    @property
    def outputs(self) -> int:
        """O."""
        return self.model.sizes[-1]

    @property
    def row_entries(self) -> int:
        """I + O."""
        return self.model.sizes[0] + self.outputs


def transformed(x: Any, transform: Transform | None, *, columns: int) -> Any:
    """Return the inputs that a user's function makes from some rows; None changes nothing.

    Args:
        x: rows on the host, shape (n, ...).
        transform: the function, which gets a copy.
        columns: I, the number of columns that it must return.

    Raises:
        TypeError: the rows are on another device, or the function did not return an array.
        ValueError: it returned another shape than (n, columns).
    """
    if transform is None:
        return x
    library = library_of(x)
    if library is not None and not library.is_cpu(device := library.device_of(x)):
        raise TypeError(
            f"transform works on NumPy arrays, but x is on device "
            f"{library.device_name(device)!r}: apply it on that device, and leave it out here."
        )
    # A function that works in place must not change mapped or shared memory.
    rows = np.array(to_numpy(x))
    found = transform(rows)
    if not hasattr(found, "shape"):
        found = np.asarray(found)
    if tuple(found.shape) != (len(rows), columns):
        raise ValueError(
            f"transform returned shape {tuple(found.shape)} for rows of shape {rows.shape}: the "
            f"network takes ({len(rows)}, {columns})."
        )
    return found


def at_home(values: Any, placement: Placement) -> Any:
    """Return an array that is on a CPU, but not on the network's device, as a NumPy array."""
    library = library_of(values)
    if library is None or library.name == "numpy" or _is_own(values, placement):
        return values
    on_cpu = library.is_cpu(library.device_of(values))
    return to_numpy(values) if on_cpu else values


def _is_own(values: Any, placement: Placement) -> bool:
    """Return whether values are arrays of a device's library other than NumPy."""
    library, ours = library_of(values), placement.library
    return (
        library is not None
        and library.name == ours.name != "numpy"
        and library.lies_on(values, placement.device)
    )


def host() -> Placement:
    """Return the placement where parts of samples are made: NumPy."""
    return place("cpu")


@contextlib.contextmanager
def told_of(where: str) -> Iterator[None]:
    """Add the location among the samples to an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{where}: {error}") from None
