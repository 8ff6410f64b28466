"""The interface of an array library.

Each folder next to this file has one library: ``library.py`` with its devices, its dtypes and its
conversion to NumPy, and ``engine.py`` if it has its own engine.
"""

import contextlib
import functools
import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from bp_xp._caller import named
from bp_xp._typing import Array, Namespace
from bp_xp.engines import PLAIN, Engine

__all__ = ["SUPPORTED_DTYPES", "Form", "Library", "adapted", "dtype_name", "is_foreign_number"]

SUPPORTED_DTYPES = ("float32", "float64")
"""The dtypes that a network can have."""


class Form(NamedTuple):
    """A form of array that cannot be used for computations directly.

    Attributes:
        words: a description of the array, for messages: ``"a sparse tensor"``.
        remedy: how to convert it, with ``{0}`` for its name: ``"pass {0}.to_dense()"``.
        comes_home: whether its values are all of its content, so that it can be copied to the host.
    """

    words: str
    remedy: str
    comes_home: bool = False


class Library:
    """The functions that bp_xp needs of an array library beyond those of the standard.

    The base class works for any namespace that follows the standard. A subclass overrides what is
    different in its library.
    """

    name: str = ""
    extra: str | None = None
    engine: Engine = PLAIN
    """How it takes many training steps."""
    device_words: str = "one of its own devices"
    """The forms of ``device=`` that the library accepts, for messages."""
    talks_by: str = ""
    """The name in ``distributed=`` of its communication system; empty if it has none."""
    started_by: str = ""
    """The command that starts processes that share a run in this way; empty if there is none."""

    def __init__(self, xp: Namespace | None = None) -> None:
        self._xp = xp
        if xp is not None:
            self.name = xp.__name__

    def namespace(self) -> Namespace:
        """The functions of the standard; ImportError if the library is not installed."""
        return self._xp

    def version(self) -> str:
        """The version of the installed library."""
        return str(getattr(importlib.import_module(self.name), "__version__", "unknown"))

    def owns(self, array: Array) -> bool:
        """Whether ``array`` is one of this library's."""
        namespace = getattr(array, "__array_namespace__", None)
        return namespace is not None and namespace().__name__ == self.name

    def default_device(self) -> Any:
        """The device that the library uses when none is named."""
        return self.device_of(self.namespace().empty(0))

    def best_device(self) -> Any:
        """The fastest device that the library has here."""
        return self.default_device()

    def devices(self) -> list[Any]:
        """Every device that works here, as the objects that the library's arrays report."""
        xp, found = self.namespace(), []
        for device in xp.__array_namespace_info__().devices():
            # A listed device may differ from what arrays report, and need not work.
            with contextlib.suppress(Exception):
                found.append(self.device_of(xp.empty(0, device=device)))
        return found

    def device_name(self, device: Any) -> str:
        """The name of ``device`` that ``device=`` accepts."""
        return str(device)

    def is_cpu(self, device: Any) -> bool:
        """Whether ``device`` is a CPU of this machine."""
        return self.device_name(device).partition(":")[0] == "cpu"

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
        """The device that ``array`` is on."""
        return array_api_compat.device(array)

    def lies_on(self, array: Array, device: Any) -> bool:
        """Whether ``array`` can be used on ``device`` without a conversion."""
        return self.device_of(array) == device

    def dtype(self, name: str, device: Any) -> Any:
        """The library's dtype object; ValueError if ``device`` does not support it."""
        if self.has_dtype(name, device):
            return getattr(self.namespace(), name)
        others = [named("dtype", one) for one in SUPPORTED_DTYPES if one != name]
        raise ValueError(
            f"backend {self.name!r} has no {name} on device {self.device_name(device)!r}: use "
            f"{' or '.join(others)}."
        )

    def has_dtype(self, name: str, device: Any) -> bool:
        """Whether ``device`` supports a dtype."""
        xp = self.namespace()
        with contextlib.suppress(Exception):  # however the library reports that it does not
            xp.empty(0, dtype=getattr(xp, name), device=device)
            return True
        return False

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        """``array`` (C-contiguous, native byte order) as an array on ``device``."""
        return self.namespace().asarray(array, device=device)

    def odd_form(self, array: Array) -> Form | None:
        """The form of ``array`` if it cannot be used for computations directly."""
        del array
        return None

    def by_value(self, array: Array) -> Array:
        """``array`` as plain values: not recorded, and without strides of 0."""
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        """``array`` as a NumPy array on the host, which may be read-only."""
        try:
            return np.asarray(array)
        except (TypeError, ValueError, RuntimeError):
            # Name the host: otherwise a library may return memory of its device.
            return np.from_dlpack(array, device="cpu")

    def cut(self, array: Array, rows: slice) -> Array:
        """Some rows of ``array``, shape (n, ...), at least one; the memory may be shared."""
        return array[rows, ...]

    def join(self, parts: Sequence[Array]) -> Array:
        """Arrays with the same columns as one array, concatenated by rows."""
        return parts[0] if len(parts) == 1 else self.namespace().concat(parts, axis=0)

    def aligned(self, batches: Array) -> Array:
        """Mini-batches, shape (steps, ...), aligned so that a step rounds the same for each."""
        return batches

    def compute(self, arrays: Iterable[Array]) -> None:
        """Compute arrays if the library evaluates lazily; need not wait for the results."""
        del arrays

    def sparse_batches(self, matrix: Any, axes: tuple[int, ...], device: Any) -> Array:
        """Mini-batches, shape ``(*axes, batch, I)``, of the rows of a SciPy matrix in CSR format.

        They are dense arrays on ``device`` unless the library has something better. The axes are
        (steps,), or (steps, M) for a stack.
        """
        dense = matrix.toarray().reshape(*axes, -1, matrix.shape[1])
        return self.from_numpy(dense, device)

    def sparse_row_entries(self, matrix: Any) -> float:
        """The average number of values in a row of :meth:`sparse_batches`."""
        return matrix.shape[1]

    def laid_out(self, tree: Any, x: Array) -> Any:
        """A nesting of arrays, stored in the memory order that suits products with ``x``."""
        del x
        return tree

    def is_launched(self) -> bool:
        """Whether this process is one of several that use the library's communication system."""
        return False

    def communicator(self, group: Any = None) -> Any:
        """A :class:`bp_xp.ranks.Communicator` that uses the library's communication system.

        Args:
            group: the library's own object for some processes; None for all.

        Returns:
            The communicator; None if ``group`` is not such an object.
        """
        del group

    def among(self, host: Any, device: Any) -> Any:
        """A communicator that sums arrays on ``device`` over MPI processes.

        Args:
            host: lets the processes communicate, and sums host arrays.
            device: that of this process.
        """
        del device
        return host

    def engine_over_devices(self, device: Any) -> Engine | None:
        """The engine that shares mini-batches among the devices of this process, or None.

        None if ``device`` is the only one of its kind, or the library cannot do that.
        """
        del device

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        """A context in which the library's kernels run on ``device``."""
        del device
        return contextlib.nullcontext()

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Whether ``error`` means that a device has too little memory."""
        return isinstance(error, MemoryError)


def dtype_name(dtype: Any) -> str:
    """The name of a dtype that is given as a name or as any library's dtype object.

    Raises:
        ValueError: bp_xp does not support the dtype.

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


def is_foreign_number(dtype: np.dtype) -> bool:
    """Whether a dtype is a small number type that another package adds to NumPy: bfloat16, ...

    Examples:
        >>> is_foreign_number(np.dtype("float16")), is_foreign_number(np.dtype("V2"))
        (False, False)
    """
    return dtype.kind == "V" and np.can_cast(dtype, np.float32)


def adapted(module: ModuleType, **functions: Any) -> ModuleType:
    """Return a namespace with the content of a module, some of whose functions are replaced."""
    namespace = ModuleType(module.__name__, f"{module.__name__}, with functions of bp_xp.")
    # Attributes of the module are looked up on access, since other code may patch them.
    vars(namespace).update(functions, __getattr__=functools.partial(getattr, module))
    return namespace
