"""From scikit-learn's own estimators, back to them, and to a network."""

import copy
from typing import Any

from sklearn import neural_network

from bp_xp.backends import place, to_numpy
from bp_xp.estimators._base import MLP
from bp_xp.estimators._classifier import MLPClassifier
from bp_xp.estimators._regressor import MLPRegressor
from bp_xp.estimators._settings import as_list, parameters_of
from bp_xp.network import Network

__all__ = ["from_sklearn", "to_network", "to_sklearn"]

# scikit-learn's names, which may differ from those of bp_xp.
_ACTIVATIONS = {"sigmoid": "logistic"} | {
    name: name for name in ("identity", "logistic", "tanh", "relu")
}
_CHOICES = {
    "solver": ("lbfgs", "sgd", "adam"),
    "learning_rate": ("constant", "invscaling", "adaptive"),
    "loss": ("squared_error", "poisson"),
}
_OUTPUTS = {"identity", "exp", "logistic", "softmax"}
_OWN_ATTRIBUTES = ("_optimizer", "_where", "_in_arrays", "_on_device", "validation_loss_curve_")


def from_sklearn(
    fitted: Any, *, device: str | None = None, backend: Any = None, dtype: Any = None
) -> MLPClassifier | MLPRegressor:
    """Return an estimator of bp_xp with the parameters of a fitted estimator of scikit-learn.

    The copy makes the same predictions; ``partial_fit`` continues from its weights, with a new
    state of the optimizer.

    Args:
        fitted: a fitted ``MLPClassifier`` or ``MLPRegressor`` of scikit-learn.
        device: the device of the copy, as for :class:`MLPClassifier`.
        backend: its array library, as for :class:`MLPClassifier`.
        dtype: the dtype of the copy; None keeps it.

    Raises:
        TypeError: it is something else.
        ValueError: it is not fitted.
        DeviceError: the device does not work on this machine.
    """
    if not isinstance(fitted, neural_network.MLPClassifier | neural_network.MLPRegressor):
        ours = " of bp_xp.estimators, which needs no change" if isinstance(fitted, MLP) else ""
        raise TypeError(
            "from_sklearn takes an MLPClassifier or MLPRegressor of sklearn.neural_network, not a "
            f"{type(fitted).__name__}{ours}."
        )
    classifies = isinstance(fitted, neural_network.MLPClassifier)
    ours = MLPClassifier if classifies else MLPRegressor
    theirs = neural_network.MLPClassifier if classifies else neural_network.MLPRegressor
    _check_fitted(fitted)
    place(device, backend)  # an error now rather than at the first prediction
    given = parameters_of(fitted, theirs)
    made = ours(**given, device=device, backend=backend, dtype=dtype)
    _copy_attributes(fitted, made, given)
    made.validation_loss_curve_ = None
    if dtype is not None:
        made.coefs_ = [W.astype(dtype) for W in made.coefs_]
        made.intercepts_ = [b.astype(dtype) for b in made.intercepts_]
    return made


def to_sklearn(fitted: MLPClassifier | MLPRegressor) -> Any:
    """Return an estimator of scikit-learn with the parameters of a fitted estimator of bp_xp.

    Parameters of the constructor that scikit-learn does not have are left out, and an optimizer or
    a schedule becomes its default: they matter for later fits, not for predictions.

    Args:
        fitted: a fitted :class:`MLPClassifier` or :class:`MLPRegressor`.

    Raises:
        TypeError: it is something else.
        ValueError: it is not fitted, or has an activation that scikit-learn does not have.
    """
    if not isinstance(fitted, MLP):
        raise TypeError(
            "to_sklearn takes an MLPClassifier or MLPRegressor of bp_xp.estimators, not a "
            f"{type(fitted).__name__} of {type(fitted).__module__.partition('.')[0]}"
            f"{_inside(fitted)}."
        )
    _check_fitted(fitted)
    activation = as_list(fitted.activation)
    each = activation if isinstance(activation, list) else [activation]
    names = {getattr(one, "name", one) for one in each} or {"relu"}
    odd = [name for name in names if name not in _ACTIVATIONS]
    if odd or len({_ACTIVATIONS[name] for name in names}) > 1:
        raise ValueError(
            f"scikit-learn has one activation for all hidden layers, one of 'identity', "
            f"'logistic', 'tanh' and 'relu', but this network has {sorted(names)}."
        )
    if fitted.out_activation_ not in _OUTPUTS:
        raise ValueError(f"scikit-learn has no output activation {fitted.out_activation_!r}.")
    classifies = isinstance(fitted, MLPClassifier)
    made: Any = neural_network.MLPClassifier() if classifies else neural_network.MLPRegressor()
    ours = parameters_of(fitted, MLPClassifier if classifies else MLPRegressor)
    kept = {name: ours[name] for name in made.get_params(deep=False)}
    kept["activation"] = _ACTIVATIONS[names.pop()]
    for name, theirs in _CHOICES.items():
        if kept.get(name) not in theirs:
            kept.pop(name, None)
    made.set_params(**kept)
    _copy_attributes(fitted, made, ours)
    for name in ("coefs_", "intercepts_"):
        setattr(made, name, [to_numpy(array).copy() for array in getattr(fitted, name)])
    if isinstance(fitted, MLPClassifier):
        made.classes_ = to_numpy(fitted.classes_)
    return made


def to_network(fitted: MLPClassifier | MLPRegressor) -> Network:
    """Return a network with the parameters of a fitted estimator, to trace, draw, save or export.

    It computes what the estimator computes, on the same device; its classes are the positions of
    the labels in ``classes_``.

    Args:
        fitted: a fitted :class:`MLPClassifier` or :class:`MLPRegressor`.

    Raises:
        TypeError: it is something else.
        ValueError: it is not fitted.
    """
    if not isinstance(fitted, MLP):
        raise TypeError(
            "to_network takes an MLPClassifier or MLPRegressor of bp_xp.estimators, not a "
            f"{type(fitted).__name__}{_inside(fitted)}."
        )
    _check_fitted(fitted)
    return fitted._to_network()


def _inside(fitted: Any) -> str:
    """Return what to pass instead of an estimator that contains others."""
    names = {"estimators_": "one of its", "best_estimator_": "its", "steps": "the last of its"}
    found = [f": pass {which} {name}" for name, which in names.items() if hasattr(fitted, name)]
    return found[0] if found else ""


def _check_fitted(estimator: Any) -> None:
    if not hasattr(estimator, "coefs_"):
        raise ValueError(f"this {type(estimator).__name__} is not fitted: call its fit first.")


def _copy_attributes(source: Any, made: Any, given: dict[str, Any]) -> None:
    """Copy what a fit has set, except parameters and what belongs to a single library."""
    parameters = given.keys() | source.get_params(deep=False).keys()
    for name, value in vars(source).items():
        if name not in parameters and name not in _OWN_ATTRIBUTES and name != "loss":
            setattr(made, name, copy.deepcopy(value))
