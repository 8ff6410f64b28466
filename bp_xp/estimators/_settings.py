"""What the parameters of an estimator mean, and the errors if they are not valid."""

import inspect
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError

from bp_xp import checks
from bp_xp._typing import Array, Namespace
from bp_xp.backends import dtype_name
from bp_xp.math.activations import ACTIVATIONS, Activation
from bp_xp.math.costs import COSTS, Cost, MatchedCost, cost_named
from bp_xp.math.model import classify_pairing
from bp_xp.training.arguments import as_regularization, is_optimizer

__all__ = [
    "ACTIVATION_NAMES",
    "POISSON",
    "activations_of",
    "as_list",
    "check_loss",
    "check_parameters",
    "check_targets",
    "cost_of",
    "hidden_sizes",
    "known",
    "output_named",
    "parameters_of",
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

# scikit-learn's name for the sigmoid, and the output of its Poisson regression.
ACTIVATION_NAMES = ACTIVATIONS | {"logistic": ACTIVATIONS["sigmoid"]}
_OUTPUTS = ACTIVATION_NAMES | {"exp": EXP}


def known(own: Any, names: dict[str, Any]) -> Any:
    """Return the function of bp_xp that equals an object, because clones make copies."""
    ours = names.get(getattr(own, "name", ""))
    return ours if ours == own else own


def as_list(value: Any) -> Any:
    """Return any sequence as a list, and a value for all layers as it is."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def hidden_sizes(sizes: Any) -> list[int]:
    """Return the neurons of each hidden layer.

    Raises:
        ValueError: one is not above 0.
        TypeError: one is not an integer.
    """
    if isinstance(sizes, str):
        raise TypeError(
            f"hidden_layer_sizes must be an integer or a list of them, as in (100, 50), not "
            f"{sizes!r}."
        )
    each = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    if any(isinstance(size, numbers.Real) and size <= 0 for size in each):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {each}.")
    return [checks.check_integer(size, "hidden_layer_sizes") for size in each]


def activations_of(activation: Any, n_hidden: int) -> list[Any]:
    """Return the activation of each hidden layer."""
    each = checks.one_for_each(as_list(activation), n_hidden, "activation", "hidden layers")
    chosen = [checks.check_choice(one, ACTIVATION_NAMES, "activation") for one in each]
    for one in chosen:
        if not isinstance(one, Activation):
            raise TypeError(f"activation must be a name or a bp_xp.Activation, not {one!r}.")
        if one.coupled:
            raise ValueError(
                f"{one.name} couples the neurons of a layer: it can't be used in a hidden layer. "
                "Use another activation, such as 'relu'."
            )
    return [known(one, ACTIVATIONS) for one in chosen]


def output_named(name: str) -> Activation:
    """Return the output activation that ``out_activation_`` names."""
    return checks.check_choice(name, _OUTPUTS, "output activation of the loss")


def cost_of(loss: Any, out_activation: str) -> Cost | MatchedCost:
    """Return the cost that ``loss`` means, for an output activation."""
    ours: dict[str, Any] = COSTS | {
        "squared_error": COSTS["quadratic"],
        "poisson": POISSON,
        "log_loss": COSTS[
            "categorical_cross_entropy" if out_activation == "softmax" else "binary_cross_entropy"
        ],
    }
    cost = checks.check_choice(cost_named(loss), ours, "loss")
    if not isinstance(cost, Cost | MatchedCost):
        raise TypeError(
            f"loss must be a name or a bp_xp.Cost, not {loss!r}; the neurons of each hidden layer "
            "are hidden_layer_sizes=."
        )
    return known(cost, COSTS)


def check_loss(loss: Any, out_activation: str, n_outputs: int) -> None:
    """Refuse a loss that does not fit the outputs.

    Raises:
        ValueError: it is computed together with other outputs, or needs more of them.
    """
    cost, output = cost_of(loss, out_activation), output_named(out_activation)
    fault = classify_pairing(cost, output, n_outputs)
    if fault == "unmatched":
        raise ValueError(
            f"loss={cost.name!r} is for {cost.output} outputs, but this estimator has "
            f"{output.name} outputs for this y: use a loss for any outputs, such as 'quadratic'; "
            "or, to classify, 'log_loss'."
        )
    if fault == "one output":
        raise ValueError(
            f"loss={cost.name!r} is for two classes or more, with a column of y for each, but y "
            "has one column: use 'binary_cross_entropy' for one probability."
        )
    if fault == "weights":
        raise ValueError(
            f"loss={cost.name!r} has a list of positive_weight that does not fit the "
            f"{n_outputs} outputs of this y: give one for all, or one for each."
        )


def check_targets(loss: Any, targets: np.ndarray) -> None:
    """Refuse targets of a regression, shape (N, O), that the loss is not defined for.

    Raises:
        ValueError: they are not counts or probabilities, and the loss takes only these.
    """
    cost = cost_of(loss, "")
    if not isinstance(cost, MatchedCost):
        return
    name = loss if isinstance(loss, str) else cost.name
    low, high = targets.min(), targets.max()
    if cost is POISSON and low < 0.0:
        raise ValueError(
            f"loss={name!r} is for counts, but y has values below 0, down to {low:g}: use "
            "'squared_error' for numbers of any sign."
        )
    if cost.output in ("sigmoid", "softmax") and not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"loss={name!r} is for probabilities, from 0 to 1, but y goes from {low:g} to "
            f"{high:g}: scale it, or use 'squared_error' for numbers of any size."
        )
    if cost.output == "softmax" and targets.shape[1] > 1:
        sums = targets.sum(axis=1, dtype=np.float64)
        if not np.allclose(sums, 1.0, rtol=0.0, atol=1e-3):
            raise ValueError(
                f"loss={name!r} is for probabilities that add to 1 in each row, but the rows of y "
                f"add to numbers from {sums.min():g} to {sums.max():g}: use "
                "'binary_cross_entropy' for classes that do not exclude each other."
            )


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
# What an optimizer has itself.
_OF_SOLVERS = (
    "learning_rate",
    "learning_rate_init",
    "power_t",
    "momentum",
    "nesterovs_momentum",
    "beta_1",
    "beta_2",
    "epsilon",
)


def parameters_of(estimator: Any, kind: type) -> dict[str, Any]:
    """Return the parameters of an estimator that ``kind`` defines, from its attributes.

    A subclass may take fewer or others in its own constructor, which ``get_params`` uses.

    Args:
        estimator: an estimator.
        kind: the class of the estimator that defines the parameters.
    """
    return {name: getattr(estimator, name) for name in inspect.signature(kind).parameters}


def _own_class(estimator: Any) -> type:
    """Return the class of bp_xp that an estimator is an instance of."""
    package = __name__.rpartition(".")[0]
    return next(kind for kind in type(estimator).__mro__ if kind.__module__.startswith(package))


def check_parameters(estimator: Any) -> None:
    """Refuse parameters that are out of their range; ``fit`` calls this, as scikit-learn requires.

    Raises:
        InvalidParameterError: a number is out of range, a name is not known, a value is of the
            wrong type, or two do not fit together. It is a ValueError and a TypeError.
    """
    try:
        _check_parameters(parameters_of(estimator, _own_class(estimator)), _own_class(estimator))
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(str(error)) from error


def _check_parameters(given: dict[str, Any], kind: type) -> None:
    for name, bounds in _NUMBERS.items():
        checks.check_number(given[name], name, **bounds)
    if checks.check_number(given["momentum"], "momentum", least=0.0) > 1.0:
        raise ValueError(f"momentum must be at most 1, not {given['momentum']!r}.")
    for name in ("max_iter", "max_fun"):
        checks.check_integer(given[name], name)
    if given["n_iter_no_change"] != math.inf:
        checks.check_integer(given["n_iter_no_change"], "n_iter_no_change")
    _check_batch_size(given["batch_size"])
    _check_verbose(given["verbose"])
    _check_random_state(given["random_state"])
    _check_class_weight(given.get("class_weight"))
    hidden = len(hidden_sizes(given["hidden_layer_sizes"]))
    activations_of(given["activation"], hidden)
    as_regularization(None, {"dropout": as_list(given["dropout"])}, hidden)
    if given["dtype"] is not None:
        dtype_name(given["dtype"])
    cost_of(given["loss"], "")
    for name in _SWITCHES:
        if not isinstance(given[name], bool | np.bool_):
            raise TypeError(f"{name} must be True or False, not {given[name]!r}.")
    if not isinstance(given["callbacks"], list | tuple | None):
        raise TypeError(
            f"callbacks must be a list or None, not {given['callbacks']!r}: put it in a list, "
            "as in [callback]."
        )
    _check_solver(given["solver"], given["learning_rate"])
    _check_unused(given, kind)
    if given["solver"] == "lbfgs":
        names = ("dropout", "callbacks", "progress", "distributed")
        asked = [name for name in names if as_list(given[name])]
        if asked:
            raise ValueError(
                f"solver='lbfgs' takes no mini-batches, so {asked[0]} has nothing to act on: use "
                "'sgd', 'adam' or an optimizer."
            )


def _check_solver(solver: Any, rate: Any) -> None:
    if isinstance(solver, str):
        try:
            checks.check_choice(solver, dict.fromkeys(_SOLVERS), "solver")
        except ValueError as error:
            raise ValueError(
                f"{error} Others are given as objects, such as bp_xp.RMSprop(0.01)."
            ) from None
    elif not is_optimizer(solver):
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


def _check_unused(given: dict[str, Any], kind: type) -> None:
    """Refuse parameters that an optimizer or a schedule replaces: they would have no effect."""
    if not isinstance(given["solver"], str):
        names, instead = _OF_SOLVERS, "an optimizer as solver"
    elif not isinstance(given["learning_rate"], str):
        names, instead = ("learning_rate_init",), "a schedule as learning_rate"
    else:
        return
    defaults = inspect.signature(kind).parameters
    for name in names:
        if given[name] != defaults[name].default:
            raise ValueError(
                f"{name}={given[name]!r} has no effect with {instead}, which has "
                f"its own: leave it {defaults[name].default!r}."
            )


def _check_batch_size(batch_size: Any) -> None:
    if isinstance(batch_size, str) and batch_size == "auto":
        return
    if not isinstance(batch_size, numbers.Integral):
        raise TypeError(
            f"batch_size must be an integer of at least 1 or 'auto', not {batch_size!r}."
        )
    checks.check_integer(batch_size, "batch_size")


def _check_verbose(verbose: Any) -> None:
    if isinstance(verbose, bool | np.bool_):
        return
    if not isinstance(verbose, numbers.Integral) or verbose < 0:
        kind = ValueError if isinstance(verbose, numbers.Integral) else TypeError
        raise kind(f"verbose must be True, False or an integer of at least 0, not {verbose!r}.")


def _check_random_state(random_state: Any) -> None:
    try:
        check_random_state(random_state)
    except (TypeError, ValueError):
        raise ValueError(
            "random_state must be None, an integer from 0 to 2**32 - 1 or a "
            f"numpy.random.RandomState, not {random_state!r}."
        ) from None


def _check_class_weight(class_weight: Any) -> None:
    if class_weight is None or (isinstance(class_weight, str) and class_weight == "balanced"):
        return
    if not isinstance(class_weight, Mapping):
        kind = ValueError if isinstance(class_weight, str) else TypeError
        raise kind(
            "class_weight must be None, 'balanced' or a dictionary {label: weight}, not "
            f"{class_weight!r}."
        )
    for label, weight in class_weight.items():
        checks.check_number(weight, f"class_weight[{label!r}]", least=0.0)
