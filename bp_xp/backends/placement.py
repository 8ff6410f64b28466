"""A placement: the array library and the device of a network's arrays."""

import contextlib
import ctypes
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bp_xp._caller import named, own_arguments
from bp_xp._typing import Array, Namespace
from bp_xp.backends.library import Library
from bp_xp.backends.registry import LIBRARIES, find_library
from bp_xp.engines import PLAIN, Engine, Report
from bp_xp.errors import DeviceError, OutOfMemoryError

__all__ = ["DeviceTable", "LibraryReport", "Placement", "devices", "place"]


@dataclass(frozen=True, eq=False)
class Placement:
    """The array library and the device of a network's arrays.

    Two are equal if library and device have the same names: a device itself may have no hash.

    Attributes:
        library: the library.
        xp: its functions.
        device: the device, as the library's own object.
        reason: why this device was chosen, as text; empty if it was requested by name.
        engine: how training steps are taken here.
    """

    library: Library
    xp: Namespace
    device: Any
    reason: str = ""
    engine: Engine = PLAIN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placement) and self._names == other._names

    def __hash__(self) -> int:
        return hash(self._names)

    @property
    def _names(self) -> tuple[str, str]:
        return self.backend, self.device_name

    @property
    def backend(self) -> str:
        """The name of the library, as ``backend=`` accepts it."""
        return self.library.name

    @property
    def device_name(self) -> str:
        """The name of the device, as ``device=`` accepts it."""
        return self.library.device_name(self.device)

    def __str__(self) -> str:
        return f"{self.backend} on {self.device_name}"

    @property
    def on_cpu(self) -> bool:
        """Whether the device is a CPU of this machine."""
        return self.library.is_cpu(self.device)

    def new_report(self) -> Report:
        """A new report for the engine to fill in during a run."""
        why = ""
        if self.engine.name != self.library.engine.name:
            why = f"asked for by engine={self.engine.name!r}"
        elif self.engine is PLAIN:
            why = f"{self.backend} has no engine of its own"
        return Report(self.engine.name, self.engine.way, why)

    def dtype(self, name: str) -> Any:
        """The library's own dtype object for ``name``; ValueError if the device lacks it."""
        return self.library.dtype(name, self.device)

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """Move host values to the device; on a CPU the memory may be shared.

        Args:
            values: a NumPy array of any layout and byte order, or what ``numpy.asarray`` takes.
            dtype: the name of a dtype, or None for that of the values.
        """
        host = np.asarray(values)
        native = host.dtype.newbyteorder("=") if dtype is None else np.dtype(dtype)
        return self.library.from_numpy(np.asarray(host, dtype=native, order="C"), self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        # A namespace is a module, which cannot be copied or pickled; names can.
        return place, (self.device_name, self.backend_word, self.engine_word)

    @property
    def backend_word(self) -> str | Namespace:
        """The value of ``backend=`` for this library: its name, or the module itself."""
        return self.backend if self.backend in LIBRARIES else self.xp

    @property
    def engine_word(self) -> str:
        """The value of ``engine=`` for this engine."""
        return "auto" if self.engine is self.library.engine else self.engine.name

    @contextlib.contextmanager
    def active(self, advice: str = "") -> Iterator[None]:
        """A context in which the library computes on this device.

        Args:
            advice: a sentence that says what to do if there is too little memory.

        Raises:
            OutOfMemoryError: the device has too little memory, however the library reports it.
        """
        with self.library.active(self.device):
            try:
                yield
            except OutOfMemoryError:
                raise
            except Exception as error:
                if not self.library.ran_out_of_memory(error):
                    raise
                # The frames of the traceback hold arrays, whose memory the next try may need.
                traceback.clear_frames(error.__traceback__)
                why = str(error).rstrip(".") or "nothing is left"
                raise OutOfMemoryError(
                    f"out of memory ({self}): {why}. {advice}".rstrip()
                ) from error


def place(
    device: str | None = None, backend: str | Namespace | None = None, engine: str = "auto"
) -> Placement:
    """Choose an array library, a device and an engine.

    Args:
        device: without a backend: ``"cpu"`` is NumPy, ``"cuda"`` or ``"cuda:1"`` is CuPy,
            ``"auto"`` is the best that works here. With a backend: a device name of that library,
            or ``"auto"``. None is the CPU, or the backend's default device.
        backend: ``"numpy"``, ``"cupy"``, ``"torch"``, ``"jax"``, ``"dpnp"``, ``"mlx"``,
            ``"array_api_strict"``, or any module that follows the array API standard.
        engine: how training steps are taken: ``"auto"`` is the library's own engine, ``"plain"``
            the plain loop, one step after the other, and the name of an engine requires that one.

    Raises:
        ValueError: the backend or the device is unknown, or the library has no such engine.
        ImportError: the backend is not installed; the message names the extra that installs it.
        DeviceError: the device does not work on this machine; the message says why.

    Examples:
        >>> print(place("cpu"))
        numpy on cpu
    """
    if device is not None and not isinstance(device, str):
        raise TypeError(f"device must be a string such as 'cpu' or 'cuda:0', not {device!r}.")
    placement = _place(device, backend)
    return replace(placement, engine=_engine_named(engine, placement.library))


def _engine_named(word: str, library: Library) -> Engine:
    own = library.engine
    engines = {"auto": own, PLAIN.name: PLAIN, own.name: own}
    if word not in engines:
        raise ValueError(
            f"backend {library.name!r} has no engine {word!r}: choose one of "
            f"{', '.join(map(repr, engines))}."
        )
    return engines[word]


def _place(device: str | None, backend: str | Namespace | None) -> Placement:
    if backend is None:
        return _place_by_device("cpu" if device is None else device)
    library = find_library(backend)
    xp = library.namespace()
    if device is None:
        return Placement(library, xp, library.default_device())
    if device == "auto":
        return Placement(library, xp, library.best_device(), f"the best device of {library.name}")
    return Placement(library, xp, library.find(device))


def _place_by_device(word: str) -> Placement:
    numpy = LIBRARIES["numpy"]
    if word == "cpu":
        return Placement(numpy, numpy.namespace(), "cpu")
    if word == "auto":
        return _best_placement()
    kind, colon, index = word.partition(":")
    if kind == "cuda" and (not colon or index.isdecimal()):
        cupy = LIBRARIES["cupy"]
        try:
            return Placement(cupy, cupy.namespace(), cupy.find(word))
        except ImportError as error:
            raise DeviceError(
                f"device {word!r} needs CuPy: {error} An older driver needs cuda12 instead. "
                "Another library's GPU is chosen by name, as in "
                f"{named('backend', 'torch')}, {named('device', 'cuda')}."
            ) from error
        except DeviceError as error:
            raise DeviceError(f"device {word!r} can't be used: {error}") from error
    raise ValueError(
        f"unknown device {word!r}: use 'cpu' (NumPy), 'cuda' or 'cuda:N' (CuPy) or 'auto'; for "
        "the devices of another library name its backend as well. Found here: "
        f"{', '.join(_devices_found())}."
    )


def _devices_found() -> Iterator[str]:
    for report in devices():
        for name in report.devices:
            yield (
                repr(name)
                if report.backend in ("numpy", "cupy")
                else (f"{name!r} of backend {report.backend!r}")
            )


def _best_placement() -> Placement:
    """The first library with a GPU that works; otherwise NumPy."""
    numpy = LIBRARIES["numpy"]
    # No library is imported to look for a GPU that cannot be there.
    candidates = [name for names, is_there in _GPUS.items() if is_there() for name in names]
    reasons = [] if candidates else ["no driver of a GPU on this machine"]
    for name in candidates:
        library = LIBRARIES[name]
        try:
            device = library.best_device()
            if not library.is_cpu(device):
                reason = "; ".join(["a GPU answers", *reasons])
                return Placement(library, library.namespace(), device, reason)
            reasons.append(f"{name} has no GPU")
        except (ImportError, DeviceError) as error:
            reasons.append(str(error))
        except Exception as error:  # a library may fail to load in any way
            reasons.append(f"{name} fails ({type(error).__name__}: {error})")
    return Placement(numpy, numpy.namespace(), "cpu", "; ".join(reasons))


def _has_nvidia_or_amd_driver() -> bool:
    return _loads("libcuda.so.1", "nvcuda.dll") or os.path.exists("/dev/kfd")


def _has_level_zero() -> bool:
    return _loads("libze_loader.so.1", "ze_loader.dll")


def _is_apple() -> bool:
    return (sys.platform, platform.machine()) == ("darwin", "arm64")


def _loads(*libraries: str) -> bool:
    for name in libraries:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


_GPUS: dict[tuple[str, ...], Callable[[], bool]] = {
    ("cupy", "torch", "jax"): lambda: _has_nvidia_or_amd_driver(),
    ("dpnp",): lambda: _has_level_zero(),
    ("mlx",): lambda: _is_apple(),
}
"""The libraries that reach a kind of GPU, the fastest first, and whether there may be one."""


# ---------------------------------------------------------------------------------------------
# What works here


@dataclass(frozen=True)
class LibraryReport:
    """The devices of one array library on this machine.

    Attributes:
        backend: its name, as ``backend=`` accepts it.
        version: its version; None if it is not installed.
        devices: the names of its devices, as ``device=`` accepts them; empty if none works.
        reason: why it cannot be used; empty if it can.
    """

    backend: str
    version: str | None
    devices: tuple[str, ...]
    reason: str


class DeviceTable(tuple[LibraryReport, ...]):
    """A report for each library; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(
            f"{r.backend:17} {r.version or '-':14} {', '.join(r.devices) or r.reason}" for r in self
        )

    __repr__ = __str__


@own_arguments
def devices() -> DeviceTable:
    """List each array library with its devices, or with the reason why it cannot be used.

    This imports every installed library, which can take seconds.

    Examples:
        >>> devices()[0].devices
        ('cpu',)
    """
    return DeviceTable(_report(library) for library in LIBRARIES.values())


def _report(library: Library) -> LibraryReport:
    version = None
    try:
        library.namespace()
        version = library.version()
        names = tuple(library.device_name(d) for d in library.devices())
    except Exception as error:  # a library may fail to load in any way
        return LibraryReport(library.name, version, (), str(error))
    return LibraryReport(library.name, version, names, "")
