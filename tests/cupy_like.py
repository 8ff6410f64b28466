"""Stands in for CuPy where there is no GPU: what refuses NumPy, and keeps devices apart, as CuPy.

There are two devices. An array is in truth a NumPy array that nobody else gets hold of, and
``numpy.asarray`` of it is a TypeError. ``get``, ``item``, ``float`` and their like bring values
home, as CuPy's do; so does a mask as an index, since the host has to know how many there are.

As in CuPy, a new array is on the device that is *current* in a thread. CuPy computes there
whatever its operands are on, and fails or is slow elsewhere: here that is an error. ``made``
counts what was made on each device; ``counted_launches`` counts what a GPU would be asked to do.

:func:`installed` lets bp_xp take it for CuPy itself.
"""

import collections
import contextlib
import ctypes
import operator
import os
import sys
import threading
import types
import typing

import numpy as np

__version__ = "0"

N_DEVICES = 2


class _Current(threading.local):
    """The devices that a thread has made the current one, the last of them last."""

    def __init__(self):
        self.numbers = [0]


_current = _Current()
made: collections.Counter[int] = collections.Counter()
"""How many arrays were made on each device."""
_launches: list[str] = []
_reads: list[tuple[int, ...]] = []


class Device:
    """A device, which as in CuPy has no hash."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, device=None):
        self.id = _current.numbers[-1] if device is None else int(getattr(device, "id", device))

    pci_bus_id = property(lambda self: f"0000:0{self.id}:00.0")

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __enter__(self):
        _current.numbers.append(self.id)
        return self

    def __exit__(self, *_):
        _current.numbers.pop()

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


GPU = repr(Device(0))


@contextlib.contextmanager
def _counted(log):
    begun = len(log)
    found = []
    yield found
    found += log[begun:]


def counted_launches():
    """Count what a GPU would be asked to do: the context of a list of the launches."""
    return _counted(_launches)


def counted_reads():
    """Count how often the host waits for the GPU: the context of a list of the shapes read."""
    return _counted(_reads)


class ndarray:  # noqa: N801 - the name that CuPy gives it
    def __init__(self, host, of=None):
        self._host = np.asarray(host)
        if of is None:  # no view of another
            made[_current.numbers[-1]] += 1
        self._on = _current.numbers[-1] if of is None else of._on

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: Device(self._on))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))
    T = property(lambda self: ndarray(self._host.T, self))

    @property
    def mT(self):  # noqa: N802 - the standard's name
        return ndarray(self._host.mT, self)

    def __array_namespace__(self, api_version=None):
        import cupy_like

        return cupy_like

    def to_device(self, device, stream=None):
        return self.get() if str(device) == "cpu" else self

    def __getitem__(self, key):
        part = self._host[_key(key)]
        return ndarray(part, self if np.shares_memory(part, self._host) else None)

    def __setitem__(self, key, value):
        _launches.append("copy")
        self._host[_key(key)] = _inside(value)

    def sum(self):
        return _computed("sum", np.sum, self)

    # What CuPy refuses, and what it does not.

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def get(self):
        _reads.append(self.shape)
        return self._host.copy()

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __repr__(self):
        return repr(self.get())

    # Only bp_xp.to_numpy asks for this, of a library that it does not know.

    def __dlpack__(self, **options):
        return self._host.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._host.__dlpack_device__()


def _inside(value):
    """Return the NumPy arrays of a nesting of arrays; NumPy's own are refused."""
    if isinstance(value, _Traced):
        return value._host
    if isinstance(value, ndarray):
        if value._on != _current.numbers[-1]:
            raise ValueError(
                "Array device must be same as the current device: array device = "
                f"{value._on} while current = {_current.numbers[-1]}"
            )
        return value._host
    if isinstance(value, list | tuple):
        return type(value)(map(_inside, value))
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _key(key):
    """Return an index; the entries of a mask are counted on the host."""
    for one in key if isinstance(key, tuple) else (key,):
        if isinstance(one, ndarray) and one.dtype == bool:
            one.get()
    return _inside(key)


def _outside(value):
    if isinstance(value, list | tuple):
        return type(value)(map(_outside, value))
    return ndarray(value) if isinstance(value, np.ndarray | np.generic) else value


def _computed(name, function, *args, **options):
    """Return what a function of NumPy gives, computed on the current device."""
    found = function(*_inside(args), **{key: _inside(one) for key, one in options.items()})
    if any(isinstance(one, _Traced) for one in args):
        return _Traced(np.asarray(found))
    _launches.append(name)
    return _outside(found)


class _Traced:
    """What a function to be fused is given: no shape, no parts, no values."""

    def __init__(self, host):
        self._host, self.dtype, self.ndim = host, host.dtype, host.ndim

    def __bool__(self):
        raise TypeError("Cannot convert to Python scalar in cupy.fuse")

    def copy(self):
        return _Traced(self._host.copy())

    def astype(self, dtype, copy=True):
        return _Traced(self._host.astype(dtype, copy=copy))


def fuse(function=None, *, kernel_name=None):
    """Make one launch of an elementwise function."""
    if function is None:
        return lambda function: fuse(function, kernel_name=kernel_name)

    def fused(*arrays):
        name = kernel_name or function.__name__
        if not name.isidentifier():
            raise ValueError(f'Invalid kernel name: "{name}"')
        given = [a if a is None else _Traced(_inside(a)) for a in arrays]
        found = function(*given)
        _launches.append(name)
        if not isinstance(found, tuple):
            return ndarray(found._host.copy())
        return tuple(ndarray(one._host.copy()) for one in found if one is not None)

    return fused


def _binary(name, function):
    return lambda self, other: _computed(name, function, self, other)


def _binary_from_the_right(name, function):
    return lambda self, other: _computed(name, function, other, self)


def _in_place(name, function):
    def change(self, other):
        if isinstance(self, ndarray):
            _launches.append(name)
        self._host = function(_inside(self), _inside(other))
        return self

    return change


def _unary(name, function):
    return lambda self: _computed(name, function, self)


for _kind in (ndarray, _Traced):
    for _name in ("add", "sub", "mul", "truediv", "matmul", "pow", "and", "or", "xor", "rshift"):
        _function = getattr(operator, f"__{_name}__")
        setattr(_kind, f"__{_name}__", _binary(_name, _function))
        setattr(_kind, f"__r{_name}__", _binary_from_the_right(_name, _function))
        setattr(_kind, f"__i{_name}__", _in_place(_name, getattr(operator, f"__i{_name}__")))
    for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(_kind, f"__{_name}__", _binary(_name, getattr(operator, _name)))
    for _name in ("neg", "abs", "invert"):
        setattr(_kind, f"__{_name}__", _unary(_name, getattr(operator, _name)))


class ufunc:  # noqa: N801 - the name that CuPy gives it
    def __init__(self, name, function):
        self.__name__, self._function = name, function

    def __call__(self, *args):
        return _computed(self.__name__, self._function, *args)


def where(condition, one, other):
    return _computed("where", np.where, condition, one, other)


def asarray(values, *, dtype=None, device=None, copy=None, order=None):
    """Host values are uploaded to the device; an array is copied if its device is another."""
    with Device(device):
        if isinstance(values, ndarray):
            if not copy and dtype in (None, values.dtype) and values._on == _current.numbers[-1]:
                return values
            values = values._host
            _launches.append("copy")
        return ndarray(np.array(values, dtype=dtype, order=order))


def asnumpy(array):
    return array.get() if isinstance(array, ndarray) else np.asarray(array)


def reshape(array, shape, *, copy=None):
    return ndarray(np.reshape(_inside(array), shape), array)


def matrix_transpose(array):
    return array.mT


def sign(array):
    """As array_api_compat has it: CuPy's sign of NaN is 0, and is mended by a mask."""
    out = _computed("sign", np.sign, array)
    out[_computed("isnan", np.isnan, array)] = np.nan
    return out


def isdtype(dtype, kind):
    return np.isdtype(dtype, kind)


def __array_namespace_info__():  # noqa: N807 - the standard's name
    class Info:
        default_device = staticmethod(Device)
        devices = staticmethod(lambda: [Device(i) for i in range(N_DEVICES)])

    return Info


def is_available():
    return True


class NcclCommunicator:
    """One GPU of several, each of which belongs to a thread, that add up arrays by their places.

    Attributes:
        streams: on which stream each sum was asked for.
    """

    barriers: typing.ClassVar[dict[bytes, tuple[threading.Barrier, dict]]] = {}
    streams: typing.ClassVar[list[int]] = []

    def __init__(self, size, identity, rank):
        made = threading.Barrier(size, timeout=60), {}
        self._barrier, self._given = self.barriers.setdefault(identity, made)
        self._rank = rank

    def allReduce(self, send, receive, count, dtype, op, stream):  # noqa: N802 - CuPy's name
        kind = {7: ctypes.c_float, 8: ctypes.c_double}[dtype] * count
        self.streams.append(stream)
        self._given[self._rank] = np.ctypeslib.as_array(kind.from_address(send))
        self._barrier.wait()
        summed = sum(self._given[rank] for rank in sorted(self._given))
        self._barrier.wait()
        np.ctypeslib.as_array(kind.from_address(receive))[...] = summed


nccl = types.SimpleNamespace(
    available=True,
    NCCL_FLOAT32=7,
    NCCL_FLOAT64=8,
    NCCL_SUM=0,
    NcclCommunicator=NcclCommunicator,
    get_unique_id=lambda: os.urandom(8),
)

cuda = types.SimpleNamespace(
    Device=Device,
    nccl=nccl,
    get_current_stream=lambda: types.SimpleNamespace(ptr=17 + _current.numbers[-1]),
    runtime=types.SimpleNamespace(
        driverGetVersion=lambda: 13000, getDeviceCount=lambda: N_DEVICES, getDevice=lambda: Device()
    ),
)


def __getattr__(name):
    """NumPy's functions, of these arrays; dtypes and numbers are NumPy's own."""
    function = getattr(np, name)
    if isinstance(function, type) or not callable(function):
        is_dtype = isinstance(function, type) and issubclass(function, np.generic)
        return np.dtype(function) if is_dtype else function  # finfo is a type that is no dtype

    if isinstance(function, np.ufunc):
        return ufunc(name, function)

    def call(*args, device=None, **options):
        del device  # as array_api_compat does: a new array is on the current device
        if any(isinstance(one, _Traced) for one in args):
            raise NotImplementedError(f"{name} can't be fused")
        return _computed(name, function, *args, **options)

    return call


@contextlib.contextmanager
def installed(monkeypatch):
    """Let bp_xp take this module for CuPy and its namespace, with device 0 the current one."""
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", module)
    made.clear()
    yield module
