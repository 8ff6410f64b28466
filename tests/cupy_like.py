"""Stands in for CuPy where there is no GPU: a namespace whose arrays refuse NumPy as CuPy's do.

An array lies on device ``"gpu:0"``, in truth a NumPy array that nobody else gets hold of. It takes
part in nothing together with NumPy's arrays, and ``numpy.asarray`` of it is a TypeError. ``get``,
``item``, ``float`` and their like bring values home, as CuPy's do.
"""

import operator

import numpy as np

GPU = "gpu:0"


class ndarray:  # noqa: N801 - the name that CuPy gives it
    def __init__(self, host):
        self._host = np.asarray(host)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    T = property(lambda self: ndarray(self._host.T))
    device = GPU

    @property
    def mT(self):  # noqa: N802 - the standard's name
        return ndarray(self._host.mT)

    def __array_namespace__(self, api_version=None):
        import cupy_like

        return cupy_like

    def to_device(self, device, stream=None):
        return {GPU: self, "cpu": self._host}[device]

    def __getitem__(self, key):
        return ndarray(self._host[_inside(key)])

    def __setitem__(self, key, value):
        self._host[_inside(key)] = _inside(value)

    # What CuPy refuses, and what it does not.

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def get(self):
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
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, list | tuple):
        return type(value)(map(_inside, value))
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _outside(value):
    if isinstance(value, list | tuple):
        return type(value)(map(_outside, value))
    return ndarray(value) if isinstance(value, np.ndarray | np.generic) else value


def _binary(function):
    return lambda self, other: _outside(function(self._host, _inside(other)))


def _binary_from_the_right(function):
    return lambda self, other: _outside(function(_inside(other), self._host))


def _in_place(function):
    def change(self, other):
        self._host = function(self._host, _inside(other))
        return self

    return change


def _unary(function):
    return lambda self: ndarray(function(self._host))


for _name in ("add", "sub", "mul", "truediv", "matmul", "pow", "and", "or", "xor", "rshift"):
    _function = getattr(operator, f"__{_name}__")
    setattr(ndarray, f"__{_name}__", _binary(_function))
    setattr(ndarray, f"__r{_name}__", _binary_from_the_right(_function))
    setattr(ndarray, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__")))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _unary(getattr(operator, _name)))


def asarray(values, *, dtype=None, device=None, copy=None):
    """Host values are uploaded; on a GPU that is always a copy."""
    if device not in (None, GPU):
        raise ValueError(f"there is no device {device!r}")
    if isinstance(values, ndarray):
        if not copy and dtype in (None, values.dtype):
            return values
        values = values._host
    return ndarray(np.array(values, dtype=dtype))


def isdtype(dtype, kind):
    return np.isdtype(dtype, kind)


def __array_namespace_info__():  # noqa: N807 - the standard's name
    class Info:
        default_device = staticmethod(lambda: GPU)
        devices = staticmethod(lambda: [GPU])

    return Info


def __getattr__(name):
    """NumPy's functions, of these arrays; dtypes and numbers are NumPy's own."""
    function = getattr(np, name)
    if isinstance(function, type) or not callable(function):
        is_dtype = isinstance(function, type) and issubclass(function, np.generic)
        return np.dtype(function) if is_dtype else function  # finfo is a type that is no dtype

    def call(*args, device=None, **options):
        args, options = _inside(args), {key: _inside(value) for key, value in options.items()}
        return _outside(function(*args, **options))

    return call
