"""Optimizers: how the gradients move the parameters.

An optimizer is a pair. ``init`` makes its state; ``update``, a pure function of arrays, takes
parameters, gradients and state to new parameters and a new state. Whatever may change from step to
step, the learning rate above all, is an array in the state, so that a library which compiles the
step compiles it once; so are all numbers of a rule, and two optimizers that differ in numbers only
share one compiled step.

``update`` consumes what it is given: libraries that can reuse memory do. Gradients are fresh
temporaries, and whoever wants to keep parameters keeps a copy. Only the learning rate is left as it
is.

In the formulas w is any parameter, g the gradient of the mean cost over the mini-batch, and all
arithmetic is of each entry by itself. What is remembered starts at 0.

Where papers have a moving average, v ← β v + (1 − β) g², the state holds the sum v ← β v + g². The
factor that makes averages of sums is one number, which goes to the learning rate and to ε: that
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

        Engines record or compile it, so it must do nothing but compute with arrays: whatever else
        it does happens once, and not at each step.
        """
        ...


class Optimizer(Protocol):
    """An optimizer: anything with these two members."""

    @property
    def update(self) -> Update:
        """The step; hashable, and the same object for the same rule, whatever the rate."""
        ...

    def init(self, layers: Sequence[Layer], *, placement: Placement, dtype: str) -> Any:
        """Make the state of a run, a nesting of tuples of arrays on the device of the layers."""
        ...


# ---------------------------------------------------------------------------------------------
# What rules are made of. An array that is assigned to in place is one that nobody needs any more.


def each_parameter(
    rule: Callable[..., tuple[Any, ...]], *trees: Sequence[Layer], settings: Sequence[Any] = ()
) -> list[list[Layer]]:
    """Apply a rule to corresponding parameters, and return what it returns, each as layers again.

    An optional memory is an empty tree: the rule is given None, returns None, and it stays empty.

    Args:
        rule: takes a parameter of each tree, and each setting in a form that broadcasts against it.
        trees: parameters, gradients, memories; one Layer for each layer.
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
    """Return the learning rate of step 0 as a state holds it: one array, or a list by layer.

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
    """Return layers of the same form that are filled with a number."""
    return [Layer(0.0 * W + value, 0.0 * b + value) for W, b in layers]


def accumulate(total: Array, kept: Array, term: Array | float) -> Array:
    """Return kept · total + term, in the memory of the total where a library allows it."""
    total *= kept
    total += term
    return total


def root(square: Array, epsilon: Array, xp: Namespace) -> Array:
    """Return √s + ε."""
    root = xp.sqrt(square)
    root += epsilon
    return root


def scale(array: Array, factor: Array) -> Array:
    """Return the array times a factor, likewise."""
    array *= factor
    return array


def descend(parameter: Array, step: Array) -> Array:
    """Return the parameter less a step, in its memory where a library allows it."""
    parameter -= step
    return parameter


def descend_along(parameter: Array, direction: Array, eta: Array) -> Array:
    """Return w − η d, in the memory of both.

    PyTorch's engine knows these lines, and never makes η d: backends/torch/operators.py. Who
    changes one changes both.
    """
    return descend(parameter, scale(direction, eta))
