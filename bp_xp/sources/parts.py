"""A part of many samples: read, checked and made targets and weights, on the host where it can be.

What streams goes through here part by part, by the same checks as what lies in memory.
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
"""What makes inputs (n, I) of n rows as they are stored."""

TRANSFORMED = "what transform returned"
"""What messages call inputs that went through a transform."""


@dataclass(frozen=True)
class PartMaker:
    """What is asked of samples, and where they go.

    Attributes:
        model: what the network computes.
        placement: its library and device.
        dtype: its dtype.
        prefix: what messages put before ``x`` and ``y``.
        per_class: how much each class counts, shape (K,), or None.
        transform: what makes the inputs of some rows, or None; see :func:`transformed`.
    """

    model: Model
    placement: Placement
    dtype: str
    prefix: str = ""
    per_class: np.ndarray | None = None
    transform: Transform | None = None

    def inputs(self, x: Any) -> Any:
        """Return the inputs of some rows, which :meth:`make` takes, of what is stored or yielded.

        What a user's function raises is not touched: its traceback says where.

        Raises:
            ValueError, TypeError: as for :func:`transformed`.
        """
        return transformed(x, self.transform, columns=self.model.sizes[0])

    def make(self, x: Any, y: Any, weights: Any = None, *, first_row: int = 0) -> Samples:
        """Return some samples: on the device if x lies there, otherwise on the host.

        Integers of one byte stay what they are on the host.

        Args:
            x: inputs, shape (n, I).
            y: labels, shape (n,), or targets, shape (n, O).
            weights: shape (n,), or None.
            first_row: the number of their first row, from which messages count.

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
        """What messages call the inputs."""
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
    """Return what a function of the user's makes of the inputs of some rows; None changes nothing.

    Args:
        x: rows on the host, shape (n, ...).
        transform: the function, which gets a copy.
        columns: I, how many columns it must return.

    Raises:
        TypeError: the rows lie on another device, or it returned no array.
        ValueError: it returned another shape than (n, columns).
    """
    if transform is None:
        return x
    library = library_of(x)
    if library is not None and not library.is_cpu(device := library.device_of(x)):
        raise TypeError(
            f"transform is given NumPy arrays, and x is on device "
            f"{library.device_name(device)!r}: do there what it does, and leave it out."
        )
    # What is mapped or held by others must not be changed by a function that works in place.
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
    """Return an array of a library that lies on a CPU, and not on our device, as NumPy's."""
    library = library_of(values)
    if library is None or library.name == "numpy" or _is_own(values, placement):
        return values
    on_cpu = library.is_cpu(library.device_of(values))
    return to_numpy(values) if on_cpu else values


def _is_own(values: Any, placement: Placement) -> bool:
    """Return whether values lie on a device as arrays of its library, which is not NumPy."""
    library, ours = library_of(values), placement.library
    return (
        library is not None
        and library.name == ours.name != "numpy"
        and library.lies_on(values, placement.device)
    )


def host() -> Placement:
    """Return where parts of samples are made: NumPy."""
    return place("cpu")


@contextlib.contextmanager
def told_of(where: str) -> Iterator[None]:
    """Let an error say where among the samples it was found."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{where}: {error}") from None
