"""A target is a backend and one of its devices, with names like ``torch`` or ``torch-cuda:0``."""

import warnings
from collections.abc import Iterable
from typing import NamedTuple

from bp_xp.backends import LIBRARIES, Placement, place
from bp_xp.checks import check_choice
from bp_xp.errors import DeviceError

__all__ = ["Target", "default_targets", "expand_target", "parse_target", "probe_targets"]


class Target(NamedTuple):
    """A backend and one of its devices.

    Attributes:
        backend: as ``backend=`` takes it: ``"torch"``.
        device: as ``device=`` takes it: ``"cuda:0"``; None for the backend's default device.
    """

    backend: str
    device: str | None = None

    def __str__(self) -> str:
        return self.backend if self.device is None else f"{self.backend}-{self.device}"

    def place(self) -> Placement:
        """Return library and device; the errors are those of :func:`bp_xp.backends.place`."""
        return place(self.device, self.backend)

    def covers(self, other: "Target") -> bool:
        """Return whether ``other`` is this target, or one of those that this one is short for.

        Examples:
            >>> cuda = Target("torch", "cuda:0")
            >>> Target("torch").covers(cuda), Target("torch", "cuda").covers(cuda)
            (True, True)
            >>> Target("torch", "cpu").covers(cuda)
            False
        """
        return self.backend == other.backend and (
            self.device in (None, other.device) or f"{other.device}".startswith(f"{self.device}:")
        )


def parse_target(text: str) -> Target:
    """Return the target that a text names: a backend, or a backend, a hyphen and a device.

    Raises:
        TypeError: not a text.
        ValueError: no such backend, or a hyphen without a device.

    Examples:
        >>> parse_target("torch-cuda:0")
        Target(backend='torch', device='cuda:0')
        >>> parse_target("jax")
        Target(backend='jax', device=None)
    """
    if not isinstance(text, str):
        raise TypeError(f"a target is a text such as 'torch' or 'torch-cuda:0', not {text!r}.")
    backend, hyphen, device = text.strip().partition("-")
    check_choice(backend, LIBRARIES, "backend")
    if hyphen and not device:
        raise ValueError(f"target {text!r} names no device: write {backend!r} or '{backend}-cpu'.")
    return Target(backend, device or None)


def default_targets() -> list[Target]:
    """Return the targets that tests run on unless others are chosen; not all work everywhere."""
    return [
        Target("numpy", "cpu"),
        Target("array_api_strict", "cpu"),
        # Refuses silent conversion to NumPy and mixing of devices: it stands in for a GPU.
        Target("array_api_strict", "device1"),
        Target("torch", "cpu"),
        Target("jax", "cpu:0"),
        Target("dpnp", None),
        Target("mlx", "cpu"),
        Target("cupy", "cuda:0"),
        Target("torch", "cuda:0"),
        Target("jax", "cuda:0"),
    ]


def expand_target(target: Target) -> list[Target]:
    """Return the default targets that a name is short for, or the target itself.

    Examples:
        >>> print(*expand_target(Target("torch")))
        torch-cpu torch-cuda:0
        >>> print(*expand_target(Target("torch", "cuda:1")))
        torch-cuda:1
    """
    return [known for known in default_targets() if target.covers(known)] or [target]


def probe_targets(targets: Iterable[Target]) -> tuple[dict[Target, Placement], dict[Target, str]]:
    """Try targets out, which imports their libraries.

    Returns:
        The placements of those that work here, and for each other one the reason why it does not,
        on one line.

    Raises:
        ValueError: a library has no device of that name, here or anywhere.
    """
    works: dict[Target, Placement] = {}
    absent: dict[Target, str] = {}
    for target in targets:
        reason = _load(target.backend)
        if not reason:
            try:
                placement = target.place()
                # The full name: torch-cuda is torch-cuda:0.
                works[Target(placement.backend, placement.device_name)] = placement
            except ValueError:
                raise
            except Exception as error:  # a device may fail in any way, too
                reason = _reason(error)
        if reason:
            absent[target] = reason
    return works, absent


def _load(backend: str) -> str:
    """Import a library; return why that fails, or an empty text."""
    # What a library warns of while it is imported is not about the tests, which may run with
    # warnings as errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            LIBRARIES[backend].namespace()
        except Exception as error:  # a library may fail to load in any way
            return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Our own errors are sentences; others may be a bare name.
    return (
        text if isinstance(error, ImportError | DeviceError) else f"{type(error).__name__}: {text}"
    )
