"""Turn the arguments of a network into what it computes: activations, cost, initializers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from bp_xp import checks
from bp_xp._caller import advice
from bp_xp._typing import Array
from bp_xp.backends import Placement
from bp_xp.math.activations import ACTIVATIONS, Activation
from bp_xp.math.costs import COSTS, Cost, MatchedCost, cost_named
from bp_xp.math.initializers import INITIALIZERS, Initializer, suited_initializer
from bp_xp.math.model import Model, classify_pairing

__all__ = [
    "OwnFunction",
    "check_own_functions",
    "check_same_functions",
    "make_initializers",
    "make_model",
    "named_model",
    "own_functions",
]

OwnFunction: TypeAlias = Activation | Cost | MatchedCost
"""A custom function, supplied by the user."""


def make_model(sizes: Any, activation: Any, output_activation: Any, cost: Any) -> Model:
    """Return the model that the arguments of a network describe.

    Raises:
        ValueError: a size or a name is not valid, or the functions do not fit together.
        TypeError: an argument of the wrong kind.
    """
    sizes = checks.check_sizes(sizes)
    activation = checks.one_for_each(activation, len(sizes) - 2, "activation", "hidden layers")
    hidden = [checks.check_choice(sigma, ACTIVATIONS, "activation") for sigma in activation]
    for sigma in hidden:
        if not isinstance(sigma, Activation):
            raise TypeError(f"activation must be a name or an Activation, not {sigma!r}.")
        if sigma.coupled:
            raise ValueError(
                f"{sigma.name} couples the neurons of a layer: it can be used in the output "
                f"layer{advice(', as {}', 'output_activation', sigma.name)}, but not in a hidden "
                "layer."
            )
    cost = checks.check_choice(cost_named(cost), COSTS, "cost")
    if not isinstance(cost, Cost | MatchedCost):
        raise TypeError(f"cost must be a name or a Cost, not {cost!r}.")
    output = checks.check_choice(
        cost.output if output_activation is None else output_activation,
        ACTIVATIONS,
        "output_activation",
    )
    if not isinstance(output, Activation):
        raise TypeError(f"output_activation must be a name or an Activation, not {output!r}.")
    model = Model(sizes, (*hidden, output), cost)
    _check_names(model)
    fault = classify_pairing(cost, output, sizes[-1])
    if fault == "unmatched":
        raise ValueError(
            f"cost {cost.name!r} is computed together with the output activation "
            f"{cost.output!r}; {output.name!r} needs another cost, such as 'quadratic'."
        )
    if fault == "one output":
        raise ValueError(
            f"{output.name} of one output is always 1: make two outputs or more"
            f"{advice(', or one with {}', 'cost', 'binary_cross_entropy')}."
        )
    if fault == "weights":
        raise ValueError(
            f"cost {cost.name!r} has a list of positive_weight that does not fit the "
            f"{sizes[-1]} outputs: give one for all, or one for each."
        )
    return model


def _check_names(model: Model) -> None:
    """Refuse functions that cannot be told apart by name."""
    by_name: dict[tuple[type, str], Any] = {}
    for own in (model.cost, *model.activations):
        if _known_as(own) not in (None, own):
            raise ValueError(
                f"{own.name!r} is the name of a built-in function of bp_xp, which would be used "
                "when a saved network is loaded: give yours another name."
            )
        kind = Activation if isinstance(own, Activation) else Cost
        if by_name.setdefault((kind, own.name), own) != own:
            raise ValueError(
                f"two different activations are named {own.name!r}: a saved network could not tell "
                "them apart, so give one of them another name."
            )


def make_initializers(model: Model, initializer: Any) -> list[Initializer]:
    """Return an initializer for each layer; None takes the one that suits its activation.

    Raises:
        ValueError: a name does not exist, or there are too many or too few.
        TypeError: a value is neither a name nor a function.
    """
    if initializer is None:
        initializer = [suited_initializer(sigma.name) for sigma in model.activations]
    initializer = checks.one_for_each(initializer, len(model.activations), "initializer", "layers")
    chosen = [checks.check_choice(draw, INITIALIZERS, "initializer") for draw in initializer]
    for draw in chosen:
        if not callable(draw):
            raise TypeError(f"initializer must be a name or a function, not {draw!r}.")
    return chosen


# ---------------------------------------------------------------------------------------------
# Custom functions


def _own(model: Model) -> list[OwnFunction]:
    """Return the functions of a model that are not built into bp_xp, each once."""
    found = {
        (isinstance(one, Activation), one.name): one
        for one in (*model.activations, model.cost)
        if _known_as(one) != one
    }
    return list(found.values())


def _known_as(one: OwnFunction) -> OwnFunction | None:
    """Return the built-in function that has the same name as this one, if there is one."""
    if isinstance(one, Activation):
        return ACTIVATIONS.get(one.name)
    known = cost_named(one.name)
    return COSTS.get(known) if isinstance(known, str) else known


def check_own_functions(model: Model, placement: Placement, dtype: str) -> None:
    """Try custom activations and costs on two samples of three neurons.

    Raises:
        ValueError: a function returns the wrong shape or dtype.
    """
    if not (own := _own(model)):
        return
    xp = placement.xp
    z, y = (placement.asarray([[value] * 3] * 2, dtype) for value in (0.5, 0.25))

    def check(name: str, function: str, array: Array, *shape: int) -> None:
        came = getattr(array, "shape", None)
        given = "z and a" if function.startswith("sigma") else "outputs and targets"
        if came is None or tuple(came) != shape:
            hint = ": one cost for each sample, a sum over axis=-1" if function == "value" else ""
            raise ValueError(
                f"{function} of {name!r} must return an array of shape {shape} for {given} of "
                f"shape (2, 3), not {'no array' if came is None else tuple(came)}{hint}."
            )
        if array.dtype != placement.dtype(dtype):
            raise ValueError(
                f"{function} of {name!r} must return an array of the dtype of its input, "
                f"{dtype}, not {array.dtype}."
            )

    for one in own:
        if isinstance(one, Activation):
            a = one.sigma(z, xp=xp)
            check(one.name, "sigma", a, 2, 3)
            slope = (2, 3, 3) if one.coupled else (2, 3)
            check(one.name, "sigma_prime", one.sigma_prime(z, a, xp=xp), *slope)
        else:
            check(one.name, "value", one.value(z, y, xp=xp), 2)
            name, slopes = _slopes_of(one)
            check(one.name, name, slopes(z, y, xp=xp), 2, 3)


def _slopes_of(cost: Cost | MatchedCost) -> tuple[str, Callable[..., Array]]:
    """Return the name of the derivatives of a cost, and the function that computes them."""
    if isinstance(cost, MatchedCost):
        return "error", cost.error
    return "gradient", cost.gradient


# The points at which functions are compared, to detect another function with the same name.
_PROBES = np.array([[-2.5, -0.75, 0.4], [0.1, 1.2, 3.0]])
_PROBED_TARGETS = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])


def own_functions(model: Model, placement: Placement, dtype: str) -> dict[str, Any]:
    """Return some values of each custom function, to detect another one with the same name.

    Returns:
        For each kind and name, a list of values at fixed points, in a form that fits JSON.
    """
    xp = placement.xp
    described = {}
    for one in _own(model):
        z, y = (placement.asarray(values, dtype) for values in (_PROBES, _PROBED_TARGETS))
        is_sigma = isinstance(one, Activation)
        values = one.sigma(z, xp=xp) if is_sigma else one.value(z, y, xp=xp)
        numbers = placement.library.to_numpy(values).astype(np.float64).ravel()
        kind = "activation" if is_sigma else "cost"
        described[f"{kind} {one.name}"] = [
            float(f"{n:.6g}") if np.isfinite(n) else str(n) for n in numbers
        ]
    return described


def check_same_functions(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse functions that have the same names as those in a file, but other values.

    Raises:
        ValueError: a function differs; the message names it.
    """
    for name, values in now.items():
        if name not in saved:  # written by a version that did not store these
            continue
        before = np.array([float(value) for value in saved[name]])
        after = np.array([float(value) for value in values])
        if not np.allclose(before, after, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ValueError(
                f"the {name} is not the function that the network was saved with: its values "
                f"were {before.round(4).tolist()} and are now {after.round(4).tolist()}"
            )


def named_model(
    sizes: Any, activations: Sequence[str], cost: str, own: Iterable[OwnFunction]
) -> Model:
    """Return the model that the names in a file describe.

    Args:
        sizes: neurons of each layer.
        activations: a name for each layer after the inputs.
        cost: its name.
        own: custom functions.

    Raises:
        ValueError: a name is neither built in nor among the custom functions.
    """
    own = list(own)
    sigmas = ACTIVATIONS | {one.name: one for one in own if isinstance(one, Activation)}
    costs = COSTS | {one.name: one for one in own if not isinstance(one, Activation)}
    *hidden, output = (checks.check_choice(str(name), sigmas, "activation") for name in activations)
    return make_model(
        sizes, hidden, output, checks.check_choice(cost_named(str(cost)), costs, "cost")
    )
