"""What the parameters of an estimator stand for, and what is said when they stand for nothing."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._typing import Array, Namespace
from bp_xp.activations import ACTIVATIONS, Activation
from bp_xp.costs import COSTS, Cost, MatchedCost

__all__ = [
    "ACTIVATION_NAMES",
    "POISSON",
    "activations_of",
    "check_parameters",
    "cost_of",
    "hidden_sizes",
    "known",
    "output_named",
]


def _exp(z: Array, *, xp: Namespace) -> Array:
    return xp.exp(z)


def _exp_prime(z: Array, a: Array, *, xp: Namespace) -> Array:
    return 1.0 * a


def _poisson(z: Array, y: Array, *, xp: Namespace) -> Array:
    # Half the deviance, Σ y ln(y/a) − y + a with a = eᶻ; 0 ln 0 is 0.
    return xp.sum(y * (xp.log(xp.maximum(y, 1e-30)) - z) - y + xp.exp(z), axis=-1)


def _poisson_error(a: Array, y: Array, *, xp: Namespace) -> Array:
    return a - y


EXP = Activation("exp", _exp, _exp_prime)
POISSON = MatchedCost("poisson", _poisson, _poisson_error, output="exp")

# scikit-learn's word for the sigmoid, and the output of its Poisson regression.
ACTIVATION_NAMES = ACTIVATIONS | {"logistic": ACTIVATIONS["sigmoid"]}
_OUTPUTS = ACTIVATION_NAMES | {"exp": EXP}


def known(own: Any, names: dict[str, Any]) -> Any:
    """Return the function of bp_xp that an equal object stands for: clones make copies."""
    ours = names.get(getattr(own, "name", ""))
    return ours if ours == own else own


def hidden_sizes(sizes: Any) -> list[int]:
    """Return the neurons of each hidden layer.

    Raises:
        ValueError: one is not above 0.
        TypeError: one is no integer.
    """
    each = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    if any(isinstance(size, numbers.Real) and size <= 0 for size in each):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {each}.")
    return [checks.check_integer(size, "hidden_layer_sizes") for size in each]


def activations_of(activation: Any, n_hidden: int) -> list[Any]:
    """Return the activation of each hidden layer."""
    each = checks.one_for_each(activation, n_hidden, "activation", "hidden layers")
    chosen = [checks.check_choice(one, ACTIVATION_NAMES, "activation") for one in each]
    return [known(one, ACTIVATIONS) for one in chosen]


def output_named(name: str) -> Activation:
    """Return the output activation that ``out_activation_`` names."""
    return _OUTPUTS[name]


def cost_of(loss: Any, out_activation: str) -> Cost | MatchedCost:
    """Return the cost that ``loss`` stands for, beside an output activation."""
    ours: dict[str, Any] = COSTS | {
        "squared_error": COSTS["quadratic"],
        "poisson": POISSON,
        "log_loss": COSTS[
            "categorical_cross_entropy" if out_activation == "softmax" else "binary_cross_entropy"
        ],
    }
    return known(checks.check_choice(loss, ours, "loss"), COSTS)


_NUMBERS = {
    "alpha": {"least": 0.0},
    "learning_rate_init": {"above": 0.0},
    "power_t": {"least": 0.0},
    "tol": {"least": 0.0},
    "validation_fraction": {"least": 0.0, "below": 1.0},
    "beta_1": {"least": 0.0, "below": 1.0},
    "beta_2": {"least": 0.0, "below": 1.0},
    "epsilon": {"above": 0.0},
}
_SWITCHES = (
    "shuffle",
    "warm_start",
    "nesterovs_momentum",
    "early_stopping",
    "progress",
    "restore_best_weights",
)
_SOLVERS = ("lbfgs", "sgd", "adam")
_RATES = ("constant", "invscaling", "adaptive")


def check_parameters(estimator: Any) -> None:
    """Refuse parameters that are out of their range; ``fit`` asks, as scikit-learn wants it.

    Raises:
        ValueError: a number is out of range, a name is not known, or two do not go together.
        TypeError: a value of the wrong kind.
    """
    given = estimator.get_params(deep=False)
    for name, bounds in _NUMBERS.items():
        checks.check_number(given[name], name, **bounds)
    if given["momentum"] != 1:  # which scikit-learn allows
        checks.check_number(given["momentum"], "momentum", least=0.0, below=1.0)
    for name in ("max_iter", "max_fun"):
        checks.check_integer(given[name], name)
    if given["n_iter_no_change"] != math.inf:
        checks.check_integer(given["n_iter_no_change"], "n_iter_no_change")
    if given["batch_size"] != "auto":
        checks.check_integer(given["batch_size"], "batch_size")
    for name in _SWITCHES:
        if not isinstance(given[name], bool | np.bool_):
            raise TypeError(f"{name} must be True or False, not {given[name]!r}.")
    if not isinstance(given["callbacks"], list | tuple | None):
        raise TypeError(f"callbacks must be a list or None, not {given['callbacks']!r}.")
    solver, rate = given["solver"], given["learning_rate"]
    if isinstance(solver, str):
        checks.check_choice(solver, dict.fromkeys(_SOLVERS), "solver")
    elif isinstance(solver, type) or not (hasattr(solver, "init") and hasattr(solver, "update")):
        raise TypeError(
            f"solver must be 'lbfgs', 'sgd', 'adam' or an optimizer such as bp_xp.RMSprop(0.01), "
            f"not {solver!r}."
        )
    if isinstance(rate, str):
        checks.check_choice(rate, dict.fromkeys(_RATES), "learning_rate")
    elif isinstance(rate, type) or not callable(rate):
        raise TypeError(
            "learning_rate must be 'constant', 'invscaling', 'adaptive' or a schedule such as "
            f"bp_xp.CosineDecay(0.1, steps=1000), not {rate!r}; a number is learning_rate_init."
        )
    elif solver not in ("sgd", "adam"):
        raise ValueError(
            f"a schedule as learning_rate goes with solver 'sgd' or 'adam', not {solver!r}: give "
            "an optimizer its schedule as its own learning rate."
        )
    if solver == "lbfgs":
        asked = [name for name in ("dropout", "callbacks", "progress") if given[name]]
        if asked:
            raise ValueError(
                f"solver='lbfgs' takes no mini-batches, so {asked[0]} has nothing to act on: use "
                "'sgd', 'adam' or an optimizer."
            )
