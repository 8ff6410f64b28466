"""The functions of the book's modules."""

from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._typing import Array, Namespace
from bp_xp.backends import library_of
from bp_xp.backends.registry import active_for, as_array
from bp_xp.math.activations import ACTIVATIONS

__all__ = ["SIGMOID", "beside", "own_kind", "sigmoid", "sigmoid_prime", "vectorized_result"]

SIGMOID = ACTIVATIONS["sigmoid"]


def sigmoid(z: Any) -> Array:
    """Return σ(z) = 1/(1 + e⁻ᶻ), elementwise, on the device that z is on.

    Examples:
        >>> float(sigmoid(0.0))
        0.5
    """
    z, xp = own_kind(z, "z")
    with active_for(z):
        return SIGMOID.sigma(z, xp=xp)


def sigmoid_prime(z: Any) -> Array:
    """Return σ′(z) = σ(z)(1 − σ(z)), elementwise, on the device that z is on.

    Examples:
        >>> float(sigmoid_prime(0.0))
        0.25
    """
    z, xp = own_kind(z, "z")
    with active_for(z):
        return SIGMOID.sigma_prime(z, SIGMOID.sigma(z, xp=xp), xp=xp)


def own_kind(values: Any, name: str) -> tuple[Array, Namespace]:
    """Return an array of any library as it is, other values as float64 of the host, and xp."""
    values = as_array(values, name)
    library = library_of(values)
    if library is None or values.dtype == object:
        return np.asarray(values, dtype=np.float64), np
    return values, library.namespace()


def beside(a: Array, values: Any, name: str) -> Array:
    """Return values to compute with a: values on the host are moved to a's device and dtype."""
    values = as_array(values, name)
    library = library_of(a)
    if isinstance(a, np.ndarray) or library is None or not isinstance(values, np.ndarray):
        return values
    moved = library.from_numpy(values, library.device_of(a))
    return library.namespace().astype(moved, a.dtype)


def vectorized_result(j: int) -> np.ndarray:
    """Return the target of a digit: 1.0 in row j and 0.0 in the other nine, shape (10, 1).

    Raises:
        ValueError: j is not from 0 to 9.
        TypeError: j is not a whole number.

    Examples:
        >>> vectorized_result(2).ravel()
        array([0., 0., 1., 0., 0., 0., 0., 0., 0., 0.])
    """
    if (digit := checks.check_integer(j, "j", least=0)) > 9:
        raise ValueError(f"j must be a digit, 0 to 9, not {j!r}.")
    return np.eye(10)[:, [digit]]
