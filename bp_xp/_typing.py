"""Names for the types in signatures.

The array API standard has no common base class, so ``Array`` is an alias of ``Any``. The name
documents what is meant; the public functions check it.
"""

from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Array", "Layer", "Namespace"]

Array: TypeAlias = Any
"""An array of any library that follows the array API standard."""

Namespace: TypeAlias = ModuleType | Any
"""The functions of such a library: ``numpy``, ``cupy``, ``jax.numpy``, ..."""


class Layer(NamedTuple):
    """The parameters of one layer, or one value for each of them: derivatives, velocities.

    Attributes:
        W: weights, shape (O, I): row j holds the weights into neuron j, as in the book.
        b: biases, shape (O,).
    """

    W: Array
    b: Array
