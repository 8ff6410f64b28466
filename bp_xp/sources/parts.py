"""A part of many samples: read, checked and made targets and weights, on the host where it can be.

What streams goes through here part by part, by the same checks as what lies in memory.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bp_xp.backends import Placement, place, to_numpy
from bp_xp.backends.registry import library_of
from bp_xp.math.model import Model
from bp_xp.sources.intake import rows_from
from bp_xp.sources.samples import Samples, make_samples, weigh

__all__ = ["PartMaker", "at_home", "host", "told_of"]


@dataclass(frozen=True)
class PartMaker:
    """What is asked of samples, and where they go.

    Attributes:
        model: what the network computes.
        placement: its library and device.
        dtype: its dtype.
        prefix: what messages put before ``x`` and ``y``.
        per_class: how much each class counts, shape (K,), or None.
    """

    model: Model
    placement: Placement
    dtype: str
    prefix: str = ""
    per_class: np.ndarray | None = None

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
        with rows_from(first_row):
            samples = make_samples(
                self.model, x, y, weights, prefix=self.prefix, partial=True, **where
            )
        return samples if self.per_class is None else weigh(samples, self.per_class, **where)

    @property
    def outputs(self) -> int:
        """O."""
        return self.model.sizes[-1]

    @property
    def row_entries(self) -> int:
        """I + O."""
        return self.model.sizes[0] + self.outputs


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
