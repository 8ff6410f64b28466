"""Arrays in the forms that scikit-learn takes."""

from typing import Any

import numpy as np
from sklearn import get_config

from bp_xp._typing import Array, Namespace
from bp_xp.backends import Placement, library_of, to_numpy
from bp_xp.backends.registry import as_host_array, check_form

__all__ = ["array_library", "as_scikit_takes", "place_of"]


def as_scikit_takes(values: Any, name: str) -> Any:
    """Return samples in a form that scikit-learn takes without losing anything.

    scikit-learn takes sparse matrices, and drops the mask of a masked array. An array on the CPU
    may have a dtype that NumPy lacks.

    Raises:
        TypeError: they are masked, sharded, or a sparse array of an array library.
    """
    if hasattr(values, "tocsr"):
        return values
    check_form(values, name)
    if isinstance(values, np.ndarray):
        return as_host_array(values)
    library = library_of(values)
    if library is None or array_library(values) is not None:
        return values
    return to_numpy(values) if place_of(values).on_cpu else values


def array_library(X: Any) -> Namespace | None:
    """Return the namespace of an array that scikit-learn is set to keep as it is, or None."""
    if not get_config()["array_api_dispatch"] or isinstance(X, np.ndarray):
        return None
    library = library_of(X)
    return None if library is None or library.name == "numpy" else library.namespace()


def place_of(array: Array) -> Placement:
    """Return the library and device of an array."""
    library = library_of(array)
    assert library is not None
    return Placement(library, library.namespace(), library.device_of(array))
