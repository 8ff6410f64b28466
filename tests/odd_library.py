"""An array library that nobody has heard of: it follows the standard, and is odd where it may be.

Its arrays have other device objects than it lists, refuse ``numpy.asarray``, come to the host only
by its name, and are float32 at most. What computes is array_api_strict.
"""

import sys
from typing import Any

import array_api_strict as strict

_HOST = (1, 0)  # what DLPack calls the memory of the processor


class Card:
    """A device as the library lists it."""

    def __init__(self, number: int) -> None:
        self.number = number


class Tile:
    """A device as an array names it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tile) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __str__(self) -> str:
        return f"tile {self.number}"


class Array:
    """An array on a tile."""

    def __init__(self, inside: Any, device: Tile) -> None:
        self._inside, self.device = inside, device

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return sys.modules[__name__]

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError("arrays of odd_library are not converted silently")

    def __dlpack__(self, *, dl_device: Any = None, **options: Any) -> Any:
        if dl_device != _HOST:
            raise RuntimeError("Unsupported device in DLTensor")
        return self._inside.to_device(strict.Device("CPU_DEVICE")).__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (14, self.device.number)

    def __getattr__(self, name: str) -> Any:
        return _wrap(getattr(self._inside, name), self.device)

    def __getitem__(self, key: Any) -> Any:
        return _wrap(self._inside[_unwrap(key)], self.device)

    def __bool__(self) -> bool:
        return bool(self._inside)

    def __float__(self) -> float:
        return float(self._inside)


def _operator(name: str) -> Any:
    def operate(self: Array, *others: Any) -> Any:
        return _wrap(getattr(self._inside, name)(*map(_unwrap, others)), self.device)

    return operate


_BINARY = ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor", "rshift")
_names = ["neg", "invert", "lt", "le", "gt", "ge", "eq", "ne", "setitem"]
for _name in _names + [prefix + name for prefix in ("", "r", "i") for name in _BINARY]:
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))


def _wrap(value: Any, device: Tile) -> Any:
    return Array(value, device) if isinstance(value, strict._array_object.Array) else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_unwrap, value))
    return value._inside if isinstance(value, Array) else value


def _device_of(values: Any) -> Tile | None:
    if isinstance(values, list | tuple):
        return next(filter(None, map(_device_of, values)), None)
    return getattr(values, "device", None) if isinstance(values, Array) else None


def __getattr__(name: str) -> Any:
    function = getattr(strict, name)
    if not callable(function) or isinstance(function, type):
        return function

    def called(*args: Any, device: Card | Tile | None = None, **options: Any) -> Any:
        tile = Tile(getattr(device, "number", 0)) if device else _device_of(args) or Tile(0)
        if name in ("asarray", "empty", "zeros", "ones", "arange", "full"):
            options["device"] = strict.Device("no_float64")
        value = function(*_unwrap(args), **options)
        return (
            tuple(_wrap(v, tile) for v in value) if isinstance(value, tuple) else _wrap(value, tile)
        )

    return called


class __array_namespace_info__:  # noqa: N801
    """What the standard asks of a library."""

    def devices(self) -> list[Card]:
        return [Card(0), Card(1)]

    def default_device(self) -> Card:
        return Card(0)
