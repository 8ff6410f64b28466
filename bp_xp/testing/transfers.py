"""A context that forbids transfers from the device to the host.

Reading a value back makes the host wait for the device: one ``float(cost)`` per step can cost more
than the step. On a CPU this goes unnoticed, so such a line is found late. In this context it fails,
even if the device is the CPU.
"""

import contextlib
import functools
import importlib
import linecache
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from bp_xp._typing import Array, Namespace

__all__ = ["HostTransferError", "no_host_transfer"]

_PRINTING = ("__repr__", "__str__", "__format__")

# The methods that read back: those that Python and NumPy call, and those that people call.
_CONVERSIONS = (
    *("__array__", "__dlpack__"),
    *("__bool__", "__int__", "__float__", "__complex__", "__index__"),
    *_PRINTING,
    *("item", "tolist", "tobytes", "numpy", "get", "to_device"),
)

_DLPACK_CPU = 1

# A message points to the innermost line that is not in one of these packages and modules.
_NOT_USERS = (
    *("numpy", "cupy", "torch", "jax", "jaxlib", "dpnp", "mlx", "array_api_strict"),
    *("array_api_compat", "array_api_extra", "contextlib"),
    *("bp_xp.backends", "bp_xp.engines", "bp_xp.testing.transfers"),
)


class HostTransferError(AssertionError):
    """A value was read back to the host inside :func:`no_host_transfer`.

    It is an ``AssertionError`` because it fails a test, and so that code that tries one conversion
    after another and catches ``TypeError`` does not hide it.
    """


@contextlib.contextmanager
def no_host_transfer(*namespaces: Namespace) -> Iterator[None]:
    """Make every conversion to NumPy, and every other read-back to the host, fail.

    Inside, arrays may be made from host values and used in computations. Reading their values
    raises a :class:`HostTransferError` that names the call and the line: ``float``, ``bool``,
    ``int``, an array as an index of a list, ``numpy.asarray``, NumPy's functions, ``item``,
    ``tolist``, printing, export by DLPack to the CPU, a copy from another device to the CPU. If a
    library other than NumPy computes on the CPU, all of these except the last fail there too, so
    that tests on any machine find most of what would stall a GPU.

    What fails with each library:

    - array_api_strict, on each of its devices: all of the above.
    - PyTorch, on each of its devices, including ``meta``: all of the above, and operations whose
      result has a size that depends on values (``x[mask]``, ``nonzero``). Reading memory by its
      address and pickling are not detected.
    - JAX: all of the above for arrays, and reading a traced value inside ``jax.jit``. On a CPU,
      NumPy's functions read a JAX array's memory directly: ``numpy.asarray`` and ``numpy.array``
      fail, ``numpy.exp`` does not. On a GPU, JAX's own transfer guard is also on. Callbacks of a
      compiled function are not detected.
    - CuPy: all of the above. Copies by ``MemoryPointer``, and merely waiting for the device, are
      not detected.
    - dpnp, MLX: all of the above; with MLX, NumPy's functions are as with JAX.
    - NumPy: nothing, because its arrays are on the host.
    - Another library: pass it as an argument. Arrays that refuse conversion to NumPy themselves do
      so here too, with their own message.

    The context applies to whatever its thread runs inside it; other threads are not affected.
    Contexts may be nested, and may overlap in different threads. Only libraries that are already
    imported are watched. At the end, everything is as it was before.

    Args:
        namespaces: other libraries that follow the array API standard, whose arrays are to be
            watched as well.

    Raises:
        HostTransferError: a value is read back.
        TypeError: a namespace is not an array library, or its arrays can't be watched.

    Examples:
        >>> import array_api_strict as xp
        >>> a = xp.asarray([1.0, 2.0])
        >>> with no_host_transfer():
        ...     b = xp.where(a > 1.0, a, 0.0)
        >>> with no_host_transfer():  # doctest: +IGNORE_EXCEPTION_DETAIL
        ...     b = a if xp.any(a > 1.0) else 0.0
        Traceback (most recent call last):
        HostTransferError: __bool__ of array_api_strict reads a value back to the host
    """
    handled = sys.exception()  # an exception handled around the context, not one from it
    with contextlib.ExitStack() as stack:
        for call in _calls_to_refuse(namespaces):
            stack.enter_context(_refused(call))
        for context in (*_torch_modes(), *_jax_guards(), _inside()):
            stack.enter_context(context)
        try:
            yield
        except Exception as error:
            if refusal := _refusal_behind(error, handled):
                raise refusal from error
            raise


# ---------------------------------------------------------------------------------------------
# Messages


def _error(what: str, frames: Iterable[FrameType], module: str = "") -> HostTransferError:
    """Return an error that points to the innermost of these frames that is a user's code."""
    where = ""
    for frame in frames:
        name = frame.f_globals.get("__name__", "") + "."
        users = not any(name.startswith(f"{one}.") for one in (*_NOT_USERS, module))
        if users and frame.f_code.co_filename != "<string>":  # generated code
            file, line = frame.f_code.co_filename, frame.f_lineno
            source = linecache.getline(file, line).strip()
            where = f" at {file}:{line}, in {frame.f_code.co_name}: {source}"
            break
    return HostTransferError(
        f"{what}{where}\nInside no_host_transfer(), values stay where they are: compute with "
        "array functions (where, minimum, ...), and read results after the block."
    )


def _refusal_of(name: str, library: str, module: str = "") -> HostTransferError:
    """Return the error of a call that is being made."""
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    return _error(f"{name} of an array of {library} reads it back to the host", frames, module)


def _refusal_behind(error: Exception, handled: Any) -> HostTransferError | None:
    """Return the error to raise instead of another, or None.

    A library may wrap a refusal in its own error, and JAX itself refuses to read a value that it
    does not have yet.
    """
    seen: BaseException | None = error.__cause__ or error.__context__
    while seen not in (None, handled) and not isinstance(error, HostTransferError):
        if isinstance(seen, HostTransferError):
            return seen
        seen = seen.__cause__ or seen.__context__
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(
        error,
        jax.errors.ConcretizationTypeError
        | jax.errors.TracerArrayConversionError
        | jax.errors.NonConcreteBooleanIndexError,
    ):
        return None
    frames = (frame for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]))
    reason = str(error).splitlines()[0]
    return _error(f"jax can't read a value inside a compiled function ({reason})", frames)


# ---------------------------------------------------------------------------------------------
# Methods and functions that refuse


class _Call(NamedTuple):
    """A method of an array class, or a function of arrays, to refuse.

    Attributes:
        owner: the class or module that has it.
        name: its name.
        array_type: the class of the arrays for which it is refused.
        library: what a message calls the library.
    """

    owner: Any
    name: str
    array_type: type
    library: str

    @property
    def label(self) -> str:
        """What a message calls it."""
        method = self.owner is self.array_type
        return self.name if method else f"{self.owner.__name__}.{self.name}"

    def refuses(self, array: Any = None, *args: Any, **options: Any) -> bool:
        """Return whether it reads an array back, given these arguments."""
        if not isinstance(array, self.array_type):
            return False
        if self.name in _PRINTING:
            # A library's error message may show an array.
            caller = sys._getframe(2).f_globals.get("__name__", "")
            return caller.split(".")[0] != self.array_type.__module__.split(".")[0]
        if self.library == "array_api_strict" and self.name == "asarray":
            return _is_to_cpu(array, options.get("device"))
        return _reads_back(self.name, array, *args, **options)


def _calls_to_refuse(namespaces: Iterable[Namespace]) -> Iterator[_Call]:
    """Yield the calls of all imported libraries except PyTorch, and of the given ones."""
    if xp := sys.modules.get("array_api_strict"):
        array_type = type(xp.zeros(1))
        yield from _methods(array_type, "array_api_strict", "__buffer__")
        yield _Call(xp, "asarray", array_type, "array_api_strict")
    if sys.modules.get("jax"):
        # Every public way to get this class makes an array, which takes a GPU's memory.
        array_type = importlib.import_module("jax._src.array").ArrayImpl
        yield from _methods(array_type, "jax", "__reduce__", "copy_to_host_async")
        yield from _reads_by_buffer(array_type, "jax")
    if dpnp := sys.modules.get("dpnp"):
        array_type = dpnp.ndarray
        yield from _methods(array_type, "dpnp")
        yield _Call(dpnp, "asnumpy", array_type, "dpnp")
    if mlx := sys.modules.get("mlx.core"):
        yield from _methods(mlx.array, "mlx")
        yield from _reads_by_buffer(mlx.array, "mlx")
    if cupy := sys.modules.get("cupy"):
        # CuPy's own cupyx.allow_synchronize notices only get and waiting for a device, does not
        # name the call or the line, and warns that it will be removed.
        yield from _methods(cupy.ndarray, "cupy", "tofile", "dump", "dumps", "__reduce__")
    for xp in namespaces:
        if not hasattr(xp, "zeros"):
            raise TypeError(f"{xp!r} is not an array library: pass the module itself.")
        yield from _methods(type(xp.zeros(1)), xp.__name__, "__buffer__")


def _methods(array_type: type, library: str, *more: str) -> Iterator[_Call]:
    for name in (*_CONVERSIONS, *more):
        method = getattr(array_type, name, None)
        if callable(method) and method is not getattr(object, name, None):
            yield _Call(array_type, name, array_type, library)


def _reads_by_buffer(array_type: type, library: str) -> Iterator[_Call]:
    """Yield the functions with which NumPy reads an array's memory on a CPU directly."""
    numpy = sys.modules["numpy"]
    yield from (_Call(numpy, name, array_type, library) for name in ("asarray", "array"))


class _Refusal:
    """Replaces a call with a refusal for as long as a context of any thread needs it."""

    def __init__(self, call: _Call) -> None:
        self.contexts = 0
        self._call, self._before = call, vars(call.owner).get(call.name)
        original = getattr(call.owner, call.name)

        @functools.wraps(original)
        def refuse(*args: Any, **options: Any) -> Any:
            if getattr(_here, "depth", 0) and call.refuses(*args, **options):
                raise _refusal_of(call.label, call.library, call.array_type.__module__)
            return original(*args, **options)

        setattr(call.owner, call.name, refuse)

    def undo(self) -> None:
        """Restore what was there; what was inherited is inherited again."""
        if self._before is None:
            delattr(self._call.owner, self._call.name)
        else:
            setattr(self._call.owner, self._call.name, self._before)


_refusals: dict[tuple[Any, str], _Refusal] = {}
_lock = threading.Lock()

_here = threading.local()
"""``depth``: how many contexts this thread is in."""


@contextlib.contextmanager
def _refused(call: _Call) -> Iterator[None]:
    key = call.owner, call.name
    with _lock:
        if key not in _refusals:
            try:
                _refusals[key] = _Refusal(call)
            except TypeError as error:
                raise TypeError(
                    f"the arrays of {call.library} can't be watched: their class can't be changed "
                    f"({error})."
                ) from error
        _refusals[key].contexts += 1
    try:
        yield
    finally:
        with _lock:
            _refusals[key].contexts -= 1
            if not _refusals[key].contexts:
                _refusals.pop(key).undo()


@contextlib.contextmanager
def _inside() -> Iterator[None]:
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1


def _reads_back(name: str, array: Array, *args: Any, **options: Any) -> bool:
    """Return whether a call brings values to the host: exports and copies may stay on a device."""
    if name == "__dlpack__":
        device = options.get("dl_device") or array.__dlpack_device__()
        return device[0] == _DLPACK_CPU
    if name == "to_device":
        return _is_to_cpu(array, args[0] if args else options.get("device"))
    return True


def _is_to_cpu(array: Array, device: Any) -> bool:
    return "cpu" in str(device).lower() and device != array.device


# ---------------------------------------------------------------------------------------------
# What PyTorch and JAX themselves offer


def _torch_modes() -> list[contextlib.AbstractContextManager[Any]]:
    """Return modes that intercept each call of PyTorch in this thread."""
    if sys.modules.get("torch") is None:
        return []
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    telling = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    aten = torch.ops.aten

    def sized_by_values(operator: Any, args: Any) -> bool:
        if operator is aten.index.Tensor:  # with integers, the size is theirs
            return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        return bool(telling.intersection(getattr(operator, "tags", ())))

    def copied_to_cpu(operator: Any, args: Any, options: Any) -> bool:
        if operator.overloadpacket in (aten.to, aten._to_copy):  # to: in inference mode
            there = [one for one in (*args, *options.values()) if isinstance(one, torch.device)]
            there += [one.device for one in args[::-1] if isinstance(one, torch.Tensor)]
            to, of = there[0], args[0].device
        elif operator is aten.copy_.default:
            to, of = args[0].device, args[1].device
        else:
            return False
        return to.type == "cpu" and of.type != "cpu"

    class Functions(TorchFunctionMode):
        """Intercepts functions that are called from Python."""

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name, options = getattr(func, "__name__", ""), kwargs or {}
            if name in _CONVERSIONS and _reads_back(name, *args, **options):
                raise _refusal_of(name, "torch")
            return func(*args, **options)

    class Operators(TorchDispatchMode):
        """Intercepts operators that PyTorch's functions call in turn."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            options = kwargs or {}
            if sized_by_values(func, args) or copied_to_cpu(func, args, options):
                raise _refusal_of(str(func), "torch")
            return func(*args, **options)

    return [Functions(), Operators()]


def _jax_guards() -> list[contextlib.AbstractContextManager[Any]]:
    """Return JAX's own guard, which finds copies from a GPU that are not made by a method."""
    jax = sys.modules.get("jax")
    return [jax.transfer_guard_device_to_host("disallow_explicit")] if jax else []
