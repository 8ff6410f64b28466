"""Which array library, and which of its devices: the only module that asks.

Everything else receives a :class:`Placement` (a namespace and a device) and computes with it. Each
library that bp_xp knows is one :class:`Library` in the table ``LIBRARIES``; any other module that
follows the array API standard is served by :class:`Library` as it stands.
"""

import contextlib
import ctypes
import importlib
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.errors import DeviceError, OutOfMemoryError

__all__ = [
    "LIBRARIES",
    "SUPPORTED_DTYPES",
    "DeviceTable",
    "Library",
    "LibraryReport",
    "Placement",
    "are_finite",
    "devices",
    "dtype_name",
    "library_of",
    "place",
    "require",
    "row_blocks",
    "sum_rows",
    "to_numpy",
]

SUPPORTED_DTYPES = ("float32", "float64")

_ROWS_SUMMED_AT_ONCE = 256

# Where the package to install is not named as the module to import.
_WHEELS = {
    "cupy": "cupy-cuda13x[ctk]",
    "array_api_strict": "array-api-strict",
    "sklearn": "scikit-learn",
}


def require(module: str, extra: str | None) -> ModuleType:
    """Import an optional library.

    Args:
        module: its import name.
        extra: the extra of bp_xp that installs it, or None where there is none.

    Raises:
        ImportError: it is not installed; the message names what installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        wheel = _WHEELS.get(module, module)
        hint = f", or as the extra bp_xp[{extra}]" if extra else ""
        raise ImportError(
            f'{module} is not installed: install it with python -m pip install "{wheel}"{hint}.'
        ) from error


# ---------------------------------------------------------------------------------------------
# The libraries


class Library:
    """What bp_xp asks of an array library beyond the standard's own functions.

    The base class serves any namespace that follows the standard. A subclass overrides what its
    library words differently.
    """

    name: str = ""
    extra: str | None = None
    device_words: str = "one of its own devices"
    """The forms of ``device=`` that the library takes, for messages."""

    def __init__(self, xp: Namespace | None = None) -> None:
        self._xp = xp
        if xp is not None:
            self.name = xp.__name__

    def namespace(self) -> Namespace:
        """The functions of the standard; ImportError where the library is not installed."""
        return self._xp

    def version(self) -> str:
        """The version of the installed library."""
        return str(getattr(importlib.import_module(self.name), "__version__", "unknown"))

    def owns(self, array: Array) -> bool:
        """Whether ``array`` is one of this library's."""
        namespace = getattr(array, "__array_namespace__", None)
        return namespace is not None and namespace() is self._xp

    def default_device(self) -> Any:
        """The device that the library uses when none is named."""
        return self.namespace().__array_namespace_info__().default_device()

    def best_device(self) -> Any:
        """The fastest device that the library has here."""
        return self.default_device()

    def devices(self) -> list[Any]:
        """Every device that works here, in the library's own objects."""
        return [d for d in self.namespace().__array_namespace_info__().devices() if d is not None]

    def device_name(self, device: Any) -> str:
        """The word for ``device`` that ``device=`` takes."""
        return str(device)

    def find(self, word: str) -> Any:
        """The device that ``word`` names.

        Raises:
            ValueError: the library has no device of that name.
            DeviceError: it has, but not on this machine.
        """
        for device in self.devices():
            if word == self.device_name(device):
                return device
        raise self._unknown(word)

    def _unknown(self, word: str) -> ValueError:
        found = ", ".join(repr(self.device_name(d)) for d in self.devices())
        return ValueError(
            f"backend {self.name!r} has no device {word!r}: it takes {self.device_words}, or "
            f"'auto'; found here: {found}."
        )

    def device_of(self, array: Array) -> Any:
        """The device that ``array`` lies on."""
        return array_api_compat.device(array)

    def dtype(self, name: str) -> Any:
        """The library's dtype object; ValueError where it can't compute in it."""
        return getattr(self.namespace(), name)

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        """``array`` (C-contiguous, native byte order) as an array on ``device``."""
        return self.namespace().asarray(array, device=device)

    def to_numpy(self, array: Array) -> np.ndarray:
        """``array`` as a NumPy array on the host."""
        try:
            return np.asarray(array)
        except (TypeError, ValueError, RuntimeError):
            return np.from_dlpack(array)

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        """A context in which the library's kernels run on ``device``."""
        del device
        return contextlib.nullcontext()

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Whether ``error`` is how the library says that a device has too little memory."""
        return isinstance(error, MemoryError)


class _NumPy(Library):
    name = "numpy"
    device_words = "'cpu'"

    def namespace(self) -> Namespace:
        return np

    def owns(self, array: Array) -> bool:
        return isinstance(array, np.ndarray | np.generic)

    def default_device(self) -> Any:
        return "cpu"

    def devices(self) -> list[Any]:
        return ["cpu"]

    def device_of(self, array: Array) -> Any:
        return "cpu"

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)


class _CuPy(Library):
    name = "cupy"
    extra = "cuda13"
    device_words = "'cuda' or 'cuda:N'"

    def namespace(self) -> Namespace:
        require("cupy", self.extra)
        return importlib.import_module("array_api_compat.cupy")

    def owns(self, array: Array) -> bool:
        return array_api_compat.is_cupy_array(array)

    def default_device(self) -> Any:
        return self.find("cuda")

    def devices(self) -> list[Any]:
        cupy = require("cupy", self.extra)
        self._probe(cupy)
        return [cupy.cuda.Device(i) for i in range(cupy.cuda.runtime.getDeviceCount())]

    def device_name(self, device: Any) -> str:
        return f"cuda:{device.id}"

    def find(self, word: str) -> Any:
        kind, _, index = word.partition(":")
        if kind != "cuda" or (word != "cuda" and not index.isdecimal()):
            raise ValueError(f"backend 'cupy' has no device {word!r}: it takes {self.device_words}")
        available = self.devices()
        if word != "cuda" and int(index) >= len(available):
            raise DeviceError(
                f"device {word!r} does not exist: this machine has {len(available)} CUDA "
                f"device(s), 'cuda:0' to 'cuda:{len(available) - 1}'."
            )
        return available[int(index or 0)]

    @staticmethod
    def _probe(cupy: Any) -> None:
        """Raise DeviceError unless CuPy computes: a missing part shows only at its first use."""
        try:
            if not cupy.is_available():
                driver = cupy.cuda.runtime.driverGetVersion()
                raise DeviceError(
                    "CuPy is installed but finds no CUDA device (is one visible to this process? "
                    "see nvidia-smi and CUDA_VISIBLE_DEVICES)."
                    if driver
                    else "CuPy is installed but finds no NVIDIA driver: install the driver, or "
                    "use device='cpu'."
                )
            ones = cupy.ones((2, 2), dtype=cupy.float32)
            if float((ones @ ones + ones).sum()) != 12.0:  # cuBLAS, NVRTC and a reduction
                raise DeviceError("CuPy computes a wrong 2 × 2 product on this device.")
        except DeviceError:
            raise
        except AttributeError as error:
            raise DeviceError(
                f"CuPy is only half installed ({error}): remove every cupy package and install "
                "one of bp_xp[cuda12] and bp_xp[cuda13]."
            ) from error
        except (RuntimeError, ImportError, OSError) as error:
            raise DeviceError(
                f"CuPy fails at its first product ({type(error).__name__}: {error}): a CUDA "
                "toolkit library is missing or does not fit the driver; the extras bp_xp[cuda12] "
                "and bp_xp[cuda13] bring them along."
            ) from error

    def to_numpy(self, array: Array) -> np.ndarray:
        return require("cupy", self.extra).asnumpy(array)

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        # CuPy launches on the current device, whichever device its operands are on.
        return device


class _Torch(Library):
    name = "torch"
    extra = "torch"
    device_words = "'cpu', 'cuda', 'cuda:N', 'mps', ..."

    def namespace(self) -> Namespace:
        require("torch", self.extra)
        return importlib.import_module("array_api_compat.torch")

    def owns(self, array: Array) -> bool:
        return array_api_compat.is_torch_array(array)

    def default_device(self) -> Any:
        return require("torch", self.extra).device("cpu")

    def best_device(self) -> Any:
        torch = require("torch", self.extra)
        return torch.device("cuda", 0) if torch.cuda.is_available() else self.default_device()

    def devices(self) -> list[Any]:
        torch = require("torch", self.extra)
        found = [torch.device("cpu")]
        if torch.cuda.is_available():
            found += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            found.append(torch.device("mps", 0))
        return found

    def find(self, word: str) -> Any:
        torch = require("torch", self.extra)
        try:
            device = torch.device(word)
        except RuntimeError as error:
            raise self._unknown(word) from error
        try:
            # An empty array fills in the index of the device: 'cuda' becomes 'cuda:0'.
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise DeviceError(
                f"device {word!r} of backend 'torch' does not work here: {error}"
            ) from error

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        torch = require("torch", self.extra)
        # PyTorch would warn of memory that it could write to and must not, so that is copied.
        make = torch.asarray if array.flags.writeable else torch.tensor
        return make(array, device=device)

    def to_numpy(self, array: Array) -> np.ndarray:
        return array.detach().cpu().numpy()

    def ran_out_of_memory(self, error: Exception) -> bool:
        torch = require("torch", self.extra)
        return (
            super().ran_out_of_memory(error)
            or isinstance(error, torch.OutOfMemoryError)
            or "DefaultCPUAllocator: can't allocate memory" in str(error)
        )


class _JAX(Library):
    name = "jax"
    extra = "jax"
    device_words = "'cpu', 'cuda', 'gpu', 'tpu', each also as 'cuda:N'"
    _platforms = ("cpu", "gpu", "cuda", "rocm", "tpu", "METAL")

    def namespace(self) -> Namespace:
        require("jax", self.extra)
        return importlib.import_module("jax.numpy")

    def owns(self, array: Array) -> bool:
        return array_api_compat.is_jax_array(array)

    def default_device(self) -> Any:
        return require("jax", self.extra).devices()[0]

    def devices(self) -> list[Any]:
        jax = require("jax", self.extra)
        others = [] if jax.default_backend() == "cpu" else jax.devices()
        return [*jax.devices("cpu"), *others]

    def device_name(self, device: Any) -> str:
        return f"{device.platform}:{device.id}"

    def find(self, word: str) -> Any:
        jax = require("jax", self.extra)
        platform, _, index = word.partition(":")
        if platform not in self._platforms or (":" in word and not index.isdecimal()):
            raise self._unknown(word)
        try:
            available = jax.devices(platform)
        except RuntimeError as error:
            raise DeviceError(
                f"device {word!r} of backend 'jax' does not work here: {error}"
            ) from error
        if int(index or 0) >= len(available):
            raise DeviceError(
                f"device {word!r} does not exist: JAX has {len(available)} device(s) "
                f"of platform {platform!r}."
            )
        return available[int(index or 0)]

    def dtype(self, name: str) -> Any:
        if name == "float64" and not require("jax", self.extra).config.jax_enable_x64:
            raise ValueError(
                "JAX computes in float32 until jax_enable_x64 is set: before the network is made, "
                'call jax.config.update("jax_enable_x64", True) or set JAX_ENABLE_X64=1, or '
                "use dtype='float32'."
            )
        return super().dtype(name)

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        # JAX multiplies float32 numbers with fewer digits where a device is faster so (TF32 on a
        # GPU), unless it is told otherwise. No other library does, and who wants it can say so.
        jax = require("jax", self.extra)
        if device.platform == "cpu" or jax.config.jax_default_matmul_precision is not None:
            return contextlib.nullcontext()
        return jax.default_matmul_precision("highest")

    def ran_out_of_memory(self, error: Exception) -> bool:
        jax = require("jax", self.extra)
        on_device = isinstance(error, jax.errors.JaxRuntimeError) and "Out of memory" in str(error)
        return on_device or super().ran_out_of_memory(error)


class _ArrayAPIStrict(Library):
    name = "array_api_strict"
    extra = "test"
    device_words = "'cpu', 'device1' or 'device2'"

    def namespace(self) -> Namespace:
        return require("array_api_strict", self.extra)

    def owns(self, array: Array) -> bool:
        namespace = getattr(array, "__array_namespace__", None)
        return namespace is not None and namespace().__name__ == self.name

    def devices(self) -> list[Any]:
        device = self.namespace().Device
        return [device("CPU_DEVICE"), device("device1"), device("device2")]

    def device_name(self, device: Any) -> str:
        return next(
            word
            for word, spelling in (("cpu", "CPU_DEVICE"), ("device1",) * 2, ("device2",) * 2)
            if device == self.namespace().Device(spelling)
        )

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array.to_device(self.namespace().Device("CPU_DEVICE")))


LIBRARIES: dict[str, Library] = {
    library.name: library for library in (_NumPy(), _CuPy(), _Torch(), _JAX(), _ArrayAPIStrict())
}
"""The libraries that ``backend=`` knows by name."""


def library_of(array: Any) -> Library | None:
    """The library that ``array`` belongs to, or None if it is no array of the standard's kind."""
    for library in LIBRARIES.values():
        if library.owns(array):
            return library
    if hasattr(array, "__array_namespace__"):
        return Library(array.__array_namespace__())
    return None


def to_numpy(array: Array) -> np.ndarray:
    """Bring an array of any library and device home.

    Args:
        array: an array of any shape, of any library that follows the standard; or what
            ``numpy.asarray`` takes.

    Returns:
        The same values as a NumPy array; no copy where the memory can be shared.

    Examples:
        >>> to_numpy([1.0, 2.0])
        array([1., 2.])
    """
    library = library_of(array)
    return np.asarray(array) if library is None else library.to_numpy(array)


# ---------------------------------------------------------------------------------------------
# A library and a device


@dataclass(frozen=True)
class Placement:
    """An array library and one of its devices: where the arrays of a network live.

    Attributes:
        library: the library.
        xp: its functions.
        device: the device, as the library's own object.
        reason: why this one, for people; empty where it was asked for by name.
    """

    library: Library
    xp: Namespace
    device: Any
    reason: str = field(default="", compare=False)

    @property
    def backend(self) -> str:
        """The name of the library, as ``backend=`` takes it."""
        return self.library.name

    @property
    def device_name(self) -> str:
        """The name of the device, as ``device=`` takes it."""
        return self.library.device_name(self.device)

    def __str__(self) -> str:
        return f"{self.backend} on {self.device_name}"

    @property
    def on_cpu(self) -> bool:
        """Whether the device is a processor of this machine."""
        return self.device_name.partition(":")[0] == "cpu"

    def dtype(self, name: str) -> Any:
        """The library's own dtype object for ``name``."""
        return self.library.dtype(name)

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """Move host values to the device; on a CPU the memory may be shared.

        Args:
            values: a NumPy array of any layout and byte order, or what ``numpy.asarray`` takes.
            dtype: name of a dtype, or None for that of the values.
        """
        host = np.asarray(values)
        native = host.dtype.newbyteorder("=") if dtype is None else np.dtype(dtype)
        return self.library.from_numpy(np.asarray(host, dtype=native, order="C"), self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        # A namespace is a module, which can't be copied or pickled; names can.
        backend = self.backend if self.backend in LIBRARIES else self.xp
        return place, (self.device_name, backend)

    @contextlib.contextmanager
    def active(self, advice: str = "") -> Iterator[None]:
        """A context in which the library computes on this device.

        Args:
            advice: what helps where there is too little memory: a sentence.

        Raises:
            OutOfMemoryError: the device has too little memory, in whatever way the library says so.
        """
        with self.library.active(self.device):
            try:
                yield
            except OutOfMemoryError:
                raise
            except Exception as error:
                if not self.library.ran_out_of_memory(error):
                    raise
                # The frames that it came through hold arrays, which the next try may need.
                traceback.clear_frames(error.__traceback__)
                why = str(error).rstrip(".") or "nothing is left"
                raise OutOfMemoryError(
                    f"out of memory ({self}): {why}. {advice}".rstrip()
                ) from error


def place(device: str | None = None, backend: str | Namespace | None = None) -> Placement:
    """Choose an array library and a device.

    Args:
        device: without a backend: ``"cpu"`` is NumPy, ``"cuda"`` or ``"cuda:1"`` is CuPy,
            ``"auto"`` is the best that works here. With one: a device in that library's words, or
            ``"auto"``. None is the CPU, or the backend's default device.
        backend: ``"numpy"``, ``"cupy"``, ``"torch"``, ``"jax"``, ``"array_api_strict"``, or any
            module that follows the array API standard.

    Raises:
        ValueError: the backend or the device is not known.
        ImportError: the backend is not installed; the message names the extra that installs it.
        DeviceError: the device does not work on this machine; the message says why.

    Examples:
        >>> print(place("cpu"))
        numpy on cpu
    """
    if device is not None and not isinstance(device, str):
        raise TypeError(f"device must be a string such as 'cpu' or 'cuda:0', not {device!r}.")
    if backend is None:
        return _place_by_device("cpu" if device is None else device)
    library = _find_library(backend)
    xp = library.namespace()
    if device is None:
        return Placement(library, xp, library.default_device())
    if device == "auto":
        return Placement(library, xp, library.best_device(), f"the best device of {library.name}")
    return Placement(library, xp, library.find(device))


def _find_library(backend: str | Namespace) -> Library:
    if isinstance(backend, str):
        if backend not in LIBRARIES:
            raise ValueError(
                f"unknown backend {backend!r}: choose one of {', '.join(map(repr, LIBRARIES))}, "
                "or pass a module that follows the array API standard."
            )
        return LIBRARIES[backend]
    if not isinstance(backend, ModuleType) or not hasattr(backend, "asarray"):
        raise TypeError(
            f"backend must be a name or a module with the functions of the array API standard, "
            f"not {backend!r}."
        )
    # torch, jax.numpy, array_api_compat.cupy, ...: a known library under any of its names.
    root, *rest = backend.__name__.split(".")
    known = rest[0] if root == "array_api_compat" and rest else root
    return LIBRARIES.get(known) or Library(backend)


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
                "Another library's GPU is chosen by name, as in backend='torch', device='cuda'."
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
    """A CUDA device through CuPy, PyTorch or JAX, whichever works first; otherwise NumPy."""
    numpy = LIBRARIES["numpy"]
    if not _has_nvidia_driver():
        # No library is imported to look for a GPU that can't be there.
        return Placement(numpy, numpy.namespace(), "cpu", "no NVIDIA driver on this machine")
    reasons = []
    for name in ("cupy", "torch", "jax"):
        library = LIBRARIES[name]
        try:
            device = library.best_device()
            if name == "cupy" or not library.device_name(device).startswith("cpu"):
                reason = "; ".join(["a CUDA device answers", *reasons])
                return Placement(library, library.namespace(), device, reason)
            reasons.append(f"{name} has no CUDA device")
        except (ImportError, DeviceError) as error:
            reasons.append(str(error))
    return Placement(numpy, numpy.namespace(), "cpu", "; ".join(reasons))


def _has_nvidia_driver() -> bool:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


# ---------------------------------------------------------------------------------------------
# What works here


@dataclass(frozen=True)
class LibraryReport:
    """What one array library offers on this machine.

    Attributes:
        backend: its name, as ``backend=`` takes it.
        version: its version; None where it is not installed.
        devices: the names of its devices, as ``device=`` takes them; empty where none works.
        reason: why it can't be used; empty where it can.
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


def devices() -> DeviceTable:
    """List each array library with its devices, or with the reason why it can't be used.

    Imports every library that is installed, which can take seconds.

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


# ---------------------------------------------------------------------------------------------
# What the standard leaves out


def dtype_name(dtype: Any) -> str:
    """The name of a dtype given as a name, or as any library's dtype object.

    Raises:
        ValueError: it is not one that bp_xp computes in.

    Examples:
        >>> dtype_name(np.float64)
        'float64'
    """
    if dtype is None or isinstance(dtype, str):  # to NumPy, None is float64
        name = str(dtype)
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = str(dtype).rpartition(".")[2]
    if name not in SUPPORTED_DTYPES:
        raise ValueError(
            f"dtype {name!r} is not supported: use one of {', '.join(map(repr, SUPPORTED_DTYPES))}."
        )
    return name


def sum_rows(values: Array, *, xp: Namespace) -> Array:
    """Sum over the rows, block by block.

    A running float32 sum of 5 million rows is 4 % off, since the sum outgrows its summands. The
    sums of short blocks do not, nor do the sums of blocks of those.

    Args:
        values: shape (..., N, K).
        xp: their namespace.

    Returns:
        The sums, shape (..., K).
    """
    n = values.shape[-2]
    whole = n - n % _ROWS_SUMMED_AT_ONCE
    if n <= _ROWS_SUMMED_AT_ONCE:
        return xp.sum(values, axis=-2)
    shape = (*values.shape[:-2], -1, _ROWS_SUMMED_AT_ONCE, values.shape[-1])
    blocks = xp.sum(xp.reshape(values[..., :whole, :], shape), axis=-2)
    return sum_rows(blocks, xp=xp) + xp.sum(values[..., whole:, :], axis=-2)


def are_finite(arrays: Iterable[Array], *, xp: Namespace) -> np.ndarray:
    """Return for each array whether it has neither NaN nor infinity, as its sum shows.

    The sums are fetched from the device all at once. A sum that overflows counts as not finite:
    parameters of that size are past saving.

    Args:
        arrays: arrays of any shapes, of one dtype.
        xp: their namespace.

    Returns:
        Booleans on the host, shape (number of arrays,).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [xp.sum(array) for array in arrays]
    return np.isfinite(to_numpy(xp.stack(sums)))


def row_blocks(n: int, size: int) -> Iterator[slice]:
    """Cut n rows into blocks of ``size``, the last one shorter.

    Examples:
        >>> list(row_blocks(5, 3))
        [slice(0, 3, None), slice(3, 5, None)]
    """
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))
