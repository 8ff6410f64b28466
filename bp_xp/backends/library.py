"""What bp_xp asks of an array library, and of an engine for it.

The rooms beside this file each hold one library: ``library.py`` with its devices, its dtypes and
its way to NumPy, and ``engine.py`` where it has an engine of its own.
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
    """A form of array that can't be computed with as it is.

    Attributes:
        words: what the array is, for messages: ``"a sparse tensor"``.
        remedy: what makes another of it, with ``{0}`` for its name: ``"pass {0}.to_dense()"``.
        comes_home: whether its values are all there is to it, so that they can be had on the host.
    """

    words: str
    remedy: str
    comes_home: bool = False


class Library:
    """What bp_xp asks of an array library beyond the standard's own functions.

    The base class serves any namespace that follows the standard. A subclass overrides what its
    library words differently.
    """

    name: str = ""
    extra: str | None = None
    engine: Engine = PLAIN
    """How it takes many training steps."""
    device_words: str = "one of its own devices"
    """The forms of ``device=`` that the library takes, for messages."""
    talks_by: str = ""
    """What ``distributed=`` calls the way in which its processes talk; empty without one."""
    started_by: str = ""
    """The command that starts what shares a run so; empty where nothing does."""

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
        return namespace is not None and namespace().__name__ == self.name

    def default_device(self) -> Any:
        """The device that the library uses when none is named."""
        return self.device_of(self.namespace().empty(0))

    def best_device(self) -> Any:
        """The fastest device that the library has here."""
        return self.default_device()

    def devices(self) -> list[Any]:
        """Every device that works here, in the objects that the library's arrays name."""
        xp, found = self.namespace(), []
        for device in xp.__array_namespace_info__().devices():
            # What a library lists need not be what its arrays say of themselves, nor work.
            with contextlib.suppress(Exception):
                found.append(self.device_of(xp.empty(0, device=device)))
        return found

    def device_name(self, device: Any) -> str:
        """The word for ``device`` that ``device=`` takes."""
        return str(device)

    def is_cpu(self, device: Any) -> bool:
        """Whether ``device`` is a processor of this machine."""
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
        """The device that ``array`` lies on."""
        return array_api_compat.device(array)

    def lies_on(self, array: Array, device: Any) -> bool:
        """Whether ``array`` can be computed with on ``device`` as it is."""
        return self.device_of(array) == device

    def dtype(self, name: str, device: Any) -> Any:
        """The library's dtype object; ValueError where it can't compute in it on ``device``."""
        if self.has_dtype(name, device):
            return getattr(self.namespace(), name)
        others = [named("dtype", one) for one in SUPPORTED_DTYPES if one != name]
        raise ValueError(
            f"backend {self.name!r} has no {name} on device {self.device_name(device)!r}: use "
            f"{' or '.join(others)}."
        )

    def has_dtype(self, name: str, device: Any) -> bool:
        """Whether ``device`` has numbers of a dtype."""
        xp = self.namespace()
        with contextlib.suppress(Exception):  # in whatever way it says that there is none
            xp.empty(0, dtype=getattr(xp, name), device=device)
            return True
        return False

    def from_numpy(self, array: np.ndarray, device: Any) -> Array:
        """``array`` (C-contiguous, native byte order) as an array on ``device``."""
        return self.namespace().asarray(array, device=device)

    def odd_form(self, array: Array) -> Form | None:
        """The form of ``array`` if it is one that can't be computed with as it is."""
        del array
        return None

    def by_value(self, array: Array) -> Array:
        """``array`` as plain values: not recorded, nor repeated by strides of 0."""
        return array

    def to_numpy(self, array: Array) -> np.ndarray:
        """``array`` as a NumPy array on the host; it may be one that can't be written to."""
        try:
            return np.asarray(array)
        except (TypeError, ValueError, RuntimeError):
            # The host by name: without one, a library may hand out memory of its device.
            return np.from_dlpack(array, device="cpu")

    def cut(self, array: Array, rows: slice) -> Array:
        """Some rows of ``array``, shape (n, ...), at least one; the memory may be shared."""
        return array[rows, ...]

    def join(self, parts: Sequence[Array]) -> Array:
        """Arrays of the same columns as one, the rows of each below those of the one before."""
        return parts[0] if len(parts) == 1 else self.namespace().concat(parts, axis=0)

    def aligned(self, batches: Array) -> Array:
        """Mini-batches, shape (steps, ...), each lying where a step rounds as it does elsewhere."""
        return batches

    def compute(self, arrays: Iterable[Array]) -> None:
        """Have arrays computed where a library puts that off; it need not wait for them."""
        del arrays

    def sparse_batches(self, matrix: Any, axes: tuple[int, ...], device: Any) -> Array:
        """Mini-batches, shape ``(*axes, batch, I)``, of the rows of a matrix of SciPy's in CSR.

        Dense ones on ``device``, where the library has nothing better. The axes are (steps,), and
        of a stack (steps, M).
        """
        dense = matrix.toarray().reshape(*axes, -1, matrix.shape[1])
        return self.from_numpy(dense, device)

    def sparse_row_entries(self, matrix: Any) -> float:
        """How many numbers a row of :meth:`sparse_batches` holds, on average."""
        return matrix.shape[1]

    def laid_out(self, tree: Any, x: Array) -> Any:
        """A nesting of arrays, the same, in the order that products with inputs ``x`` read best."""
        del x
        return tree

    def is_launched(self) -> bool:
        """Whether this process is one of several that were started to talk in the library's way."""
        return False

    def communicator(self, group: Any = None) -> Any:
        """What lets processes talk in the library's own way, a :class:`bp_xp.ranks.Communicator`.

        Args:
            group: the library's own object for some processes; None for all.

        Returns:
            The communicator; None where ``group`` is no such object.
        """
        del group

    def among(self, host: Any, device: Any) -> Any:
        """What adds up arrays on ``device`` over processes that MPI lets talk.

        Args:
            host: lets them talk, and adds up arrays of the host.
            device: that of this process.
        """
        del device
        return host

    def engine_over_devices(self, device: Any) -> Engine | None:
        """The engine that shares mini-batches among the devices of this process, or None.

        None where ``device`` is the only one of its kind, or the library can't do that.
        """
        del device

    def active(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        """A context in which the library's kernels run on ``device``."""
        del device
        return contextlib.nullcontext()

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Whether ``error`` is how the library says that a device has too little memory."""
        return isinstance(error, MemoryError)


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


def is_foreign_number(dtype: np.dtype) -> bool:
    """Whether a dtype is a small number that another package has taught NumPy: bfloat16, ...

    Examples:
        >>> is_foreign_number(np.dtype("float16")), is_foreign_number(np.dtype("V2"))
        (False, False)
    """
    return dtype.kind == "V" and np.can_cast(dtype, np.float32)


def adapted(module: ModuleType, **functions: Any) -> ModuleType:
    """Return a namespace with all that a module has, and functions in the place of some of its."""
    namespace = ModuleType(module.__name__, f"{module.__name__}, with functions of bp_xp.")
    # What the module has is looked up when it is asked for, as somebody may listen in there.
    vars(namespace).update(functions, __getattr__=functools.partial(getattr, module))
    return namespace
