"""The libraries that bp_xp knows. To add one: a room beside this file, and a line in the table."""

from types import ModuleType
from typing import Any

import numpy as np

from bp_xp._typing import Array, Namespace
from bp_xp.backends.array_api_strict.library import ArrayAPIStrict
from bp_xp.backends.cupy.library import CuPy
from bp_xp.backends.jax.library import JAX
from bp_xp.backends.library import Library
from bp_xp.backends.numpy.library import NumPy
from bp_xp.backends.torch.library import Torch

__all__ = ["LIBRARIES", "find_library", "library_of", "to_numpy"]

LIBRARIES: dict[str, Library] = {
    library.name: library for library in (NumPy(), CuPy(), Torch(), JAX(), ArrayAPIStrict())
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


def find_library(backend: str | Namespace) -> Library:
    """The library that a name or a module stands for.

    Raises:
        ValueError: no library has that name.
        TypeError: it is neither a name nor a module.
    """
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
