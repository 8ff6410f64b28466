"""Optimizers: how the gradients move the parameters.

An optimizer has two parts. ``init`` makes its state; ``update``, a pure function of arrays, maps
parameters, gradients and state to new parameters and a new state. Everything that may change from
step to step, above all the learning rate, is an array in the state, so that a library that compiles
the step compiles it only once. All numbers of a rule are in the state too, so that two optimizers
that differ only in numbers share one compiled step.

``update`` consumes its arguments: libraries that can reuse memory do so. Gradients are temporary
arrays; to keep parameters, copy them. Only the learning rate is not overwritten.

In the formulas w is any parameter, g is the gradient of the mean cost over the mini-batch, and all
arithmetic is elementwise. All accumulated values start at 0.

Papers use a moving average, v ← β v + (1 − β) g². The state holds the sum v ← β v + g² instead. The
factor between the two is a single number, which is applied to the learning rate and to ε: this
saves a pass over all parameters.

A learning rate may also be a list with one for each layer; in a stack of networks all numbers of a
rule may be arrays with one for each network (:mod:`bp_xp.math.settings`).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement
from bp_xp.math.settings import each_layer
from bp_xp.optim.schedules import LearningRates, initial_rate

__all__ = [
    "Optimizer",
    "Update",
    "accumulate",
    "constant",
    "descend",
    "descend_along",
    "each_parameter",
    "initial_rates",
    "root",
    "scale",
]


class Update(Protocol):
    """One step, as a pure function of arrays."""

    def __call__(
        self, layers: Sequence[Layer], gradients: Sequence[Layer], state: Any, *, xp: Namespace
    ) -> tuple[list[Layer], Any]:
        """Return the new parameters and the new state; the arguments may be overwritten.

        ``xp`` is the namespace of all these arrays.

        Engines record or compile this function, so it must only compute with arrays: anything else
        that it does happens once, not at each step.
        """
        ...


class Optimizer(Protocol):
    """An optimizer: anything with these two members."""

    @property
    def update(self) -> Update:
        """The step: hashable, and the same object for the same rule, whatever its numbers."""
        ...

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> Any:
        """Make the state of a run, a nesting of tuples of arrays on the device of the layers."""
        ...


# ---------------------------------------------------------------------------------------------
# The building blocks of rules. Only arrays that are no longer needed are modified in place.


def each_parameter(
    rule: Callable[..., tuple[Any, ...]], *trees: Sequence[Layer], settings: Sequence[Any] = ()
) -> list[list[Layer]]:
    """Apply a rule to corresponding parameters, and return each of its results as layers.

    An accumulator that is not used is an empty tree: the rule gets None, returns None, and the tree
    stays empty.

    Args:
        rule: takes a parameter of each tree, and each setting in a form that broadcasts against it.
        trees: parameters, gradients, accumulators; one Layer for each layer.
        settings: numbers of the rule, as :func:`bp_xp.math.settings.each_layer` takes them.
    """
    nothing = [Layer(None, None)] * len(trees[0])
    given = [*(tree or nothing for tree in trees), *(each_layer(s, trees[0]) for s in settings)]
    results = [
        [Layer(*pair) for pair in zip(*map(rule, *corresponding), strict=True)]
        for corresponding in zip(*given, strict=True)
    ]
    return [[] if tree[0].W is None else list(tree) for tree in zip(*results, strict=True)]


def initial_rates(learning_rate: LearningRates, layers: Sequence[Layer], number: Any) -> Any:
    """Return the learning rate of step 0 in the form for a state: one array, or one for each layer.

    Args:
        learning_rate: a number, a schedule, or a list of these.
        layers: the parameters.
        number: makes an array of a number.

    Raises:
        ValueError: the list does not have one for each layer.
    """
    if isinstance(learning_rate, list | tuple) and len(learning_rate) != len(layers):
        raise ValueError(
            f"learning_rate has {len(learning_rate)} rates, but there are {len(layers)} layers to "
            "train: give one for all, or one for each."
        )
    rates = initial_rate(learning_rate)
    return map_leaves(number, rates)


def constant(value: float, layers: Sequence[Layer]) -> list[Layer]:
    """Return layers with the same shapes, filled with a number."""
    return [Layer(0.0 * W + value, 0.0 * b + value) for W, b in layers]


def accumulate(total: Array, kept: Array, term: Array | float) -> Array:
    """Return kept · total + term, in the memory of the total if the library allows it."""
    total *= kept
    total += term
    return total


def root(square: Array, epsilon: Array, xp: Namespace) -> Array:
    """Return √s + ε."""
    root = xp.sqrt(square)
    root += epsilon
    return root


def scale(array: Array, factor: Array) -> Array:
    """Return the array times a factor, in its memory if the library allows it."""
    array *= factor
    return array


def descend(parameter: Array, step: Array) -> Array:
    """Return the parameter minus a step, in its memory if the library allows it."""
    parameter -= step
    return parameter


def descend_along(parameter: Array, direction: Array, eta: Array) -> Array:
    """Return w − η d, in the memory of both.

    PyTorch's engine recognizes these lines, and never computes η d as a separate array:
    backends/torch/operators.py. Change both together.
    """
    return descend(parameter, scale(direction, eta))
