"""The libraries that bp_xp supports by name, and functions for their arrays.

To add a library, add a folder next to this file, and a line in the table.
"""

import contextlib
from types import ModuleType
from typing import Any

import numpy as np

from bp_xp._caller import in_python
from bp_xp._typing import Array, Namespace
from bp_xp.backends.array_api_strict.library import ArrayAPIStrict
from bp_xp.backends.cupy.library import CuPy
from bp_xp.backends.dpnp.library import DPNP
from bp_xp.backends.jax.library import JAX
from bp_xp.backends.library import Form, Library, is_foreign_number
from bp_xp.backends.mlx.library import MLX
from bp_xp.backends.numpy.library import NumPy
from bp_xp.backends.torch.library import Torch

__all__ = [
    "LIBRARIES",
    "active_for",
    "as_array",
    "as_host_array",
    "check_form",
    "find_library",
    "library_of",
    "to_numpy",
]

LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (NumPy(), CuPy(), Torch(), JAX(), DPNP(), MLX(), ArrayAPIStrict())
}
"""The libraries that ``backend=`` accepts by name."""


def library_of(array: Any) -> Library | None:
    """The library that ``array`` belongs to, or None if it does not follow the standard."""
    for library in LIBRARIES.values():
        if library.owns(array):
            return library
    if hasattr(array, "__array_namespace__"):
        return Library(array.__array_namespace__())
    return None


def active_for(array: Any) -> contextlib.AbstractContextManager[Any]:
    """A context in which the library of an array computes on the array's device."""
    library = library_of(array)
    if library is None:
        return contextlib.nullcontext()
    return library.active(library.device_of(array))


def _form_of(values: Any) -> Form | None:
    """The form of an argument if it cannot be used for computations directly."""
    if any(hasattr(values, word) for word in ("tocsr", "toarray", "todense")):
        word = (
            "todense" if not hasattr(values, "tocsr") and hasattr(values, "todense") else "toarray"
        )
        return Form("a sparse matrix", f"pass {{0}}.{word}()")
    library = library_of(values)
    return None if library is None else library.odd_form(values)


def check_form(values: Any, name: str) -> None:
    """Refuse a form of array that cannot be used for computations directly.

    Args:
        values: the user's argument.
        name: the caller's name for it.

    Raises:
        TypeError: it is sparse, masked, sharded ...; the message says how to convert it.
    """
    _refuse_form(values, name)


def _refuse_form(values: Any, name: str, *, to_bring_home: bool = False) -> None:
    form = _form_of(values)
    if form and not (to_bring_home and form.comes_home):
        raise TypeError(f"{name} is {form.words}: {form.remedy.format(name)}.")
    if isinstance(values, list | tuple):
        for i, row in enumerate(values):
            if isinstance(row, np.ma.MaskedArray):
                _refuse_form(row, f"{name}[{i}]")


def as_array(values: Any, name: str) -> Array:
    """Return an array of any library unchanged, and host values as a host array.

    Raises:
        TypeError: as for :func:`check_form`.
    """
    check_form(values, name)
    library = library_of(values)
    foreign = library is not None and library.name != "numpy"
    return values if foreign else as_host_array(values)


def as_host_array(values: Any) -> np.ndarray:
    """Return host values as ``numpy.asarray`` does, in a dtype that NumPy has."""
    host = np.asarray(values)
    return host.astype(np.float32) if is_foreign_number(host.dtype) else host


def to_numpy(array: Array) -> np.ndarray:
    """Copy an array of any library and device to the host.

    Args:
        array: an array of any shape, of any library that follows the standard; or values that
            ``numpy.asarray`` accepts.

    Returns:
        The same values as a NumPy array, without a copy if the memory can be shared. The result for
        another library's array is writable. Floats that NumPy lacks, such as bfloat16, become
        float32.

    Raises:
        TypeError: the array is sparse or masked, so that its values are not all of its content.

    Examples:
        >>> to_numpy([1.0, 2.0])
        array([1., 2.])
    """
    _refuse_form(array, "array", to_bring_home=True)
    library = library_of(array)
    if library is None or library.name == "numpy":
        return as_host_array(array)
    host = library.to_numpy(array)
    # Memory that another library owns, and exposes as read-only.
    return host if host.flags.writeable else host.copy()


def find_library(backend: str | Namespace) -> Library:
    """Return the library for a name or a module.

    Raises:
        ValueError: no library has that name.
        TypeError: the value is neither a name nor a module.
    """
    if isinstance(backend, str):
        if backend not in LIBRARIES:
            raise ValueError(
                f"unknown backend {backend!r}: choose one of {', '.join(map(repr, LIBRARIES))}"
                f"{in_python(', or pass a module that follows the array API standard')}."
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
