"""The regressor."""

import math
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from bp_xp.backends import Placement
from bp_xp.estimators import _settings as settings
from bp_xp.estimators._base import MLP
from bp_xp.math.costs import MatchedCost

__all__ = ["MLPRegressor"]


class MLPRegressor(RegressorMixin, MLP):
    """scikit-learn's ``MLPRegressor``, on any device.

    The first parameters are those of :class:`sklearn.neural_network.MLPRegressor`, with the same
    names, meanings and defaults; the same ``random_state`` gives the same run. The others are new,
    as in :class:`MLPClassifier`, which describes everything that is not described here.

    Args:
        loss: ``"squared_error"``, ``"poisson"``; or any of :data:`bp_xp.COSTS`, such as
            ``"huber"`` or ``"huber:delta=2"``, or a :class:`bp_xp.Cost`.
        hidden_layer_sizes: neurons of each hidden layer.
        activation: σ of the hidden layers.
        solver: how parameters are updated.
        alpha: strength of the L2 term.
        batch_size: samples in a mini-batch.
        learning_rate: how η changes.
        learning_rate_init: η at the start.
        power_t: the exponent of ``"invscaling"``.
        max_iter: the largest number of epochs.
        shuffle: whether each epoch has a new order.
        random_state: seed or generator.
        tol: the smallest change of loss or score that counts as an improvement.
        verbose: whether to print a line for each epoch.
        warm_start: whether ``fit`` continues from the parameters of the previous call.
        momentum: μ of ``"sgd"``.
        nesterovs_momentum: whether to use Nesterov's momentum.
        early_stopping: whether to hold out samples and stop by their score, R².
        validation_fraction: the share of samples held out.
        beta_1: β₁ of ``"adam"``.
        beta_2: β₂ of ``"adam"``.
        epsilon: ε of ``"adam"``.
        n_iter_no_change: how many epochs without an improvement end the run.
        max_fun: the largest number of evaluations of ``"lbfgs"``.
        device: where to compute.
        backend: the array library.
        dtype: ``"float32"``, ``"float64"`` or None.
        dropout: probability with which a neuron is left out of a step.
        callbacks: what is called after each epoch.
        progress: whether to show a bar on a terminal and in a notebook, or a line for each epoch.
        restore_best_weights: whether to restore the best epoch.
        distributed: what shares the run.

    Examples:
        >>> import numpy as np
        >>> X = np.linspace(-1.0, 1.0, 50)[:, None]
        >>> mlp = MLPRegressor(hidden_layer_sizes=10, activation="tanh", solver="lbfgs",
        ...                    random_state=0)
        >>> bool(mlp.fit(X, X[:, 0] ** 2).score(X, X[:, 0] ** 2) > 0.99)
        True
    """

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        device: str | None = None,
        backend: Any = None,
        dtype: Any = None,
        dropout: Any = 0.0,
        callbacks: Any = None,
        progress: bool = False,
        restore_best_weights: bool = False,
        distributed: Any = None,
    ) -> None:
        self._store(locals())

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        validation_data: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> "MLPRegressor":
        """Learn from samples.

        Args:
            X: inputs, shape (N, I): an array, a data frame, a sparse matrix.
            y: targets, shape (N,) or (N, O).
            sample_weight: how much each sample counts, shape (N,).
            validation_data: (X, y) or (X, y, sample_weight) to evaluate after each epoch; with
                ``early_stopping`` they replace the held-out samples.
            X_val: the inputs of ``validation_data`` as a separate argument, which a pipeline
                transforms with ``transform_input=["X_val"]``.
            y_val: the labels or targets that go with them.
            sample_weight_val: how much each of them counts.

        Returns:
            The estimator.

        Raises:
            ValueError: the samples or a parameter are not valid, or the run diverged.
            TypeError: a parameter has the wrong type.
            DeviceError: the device does not work on this machine.
        """
        given = self._as_validation_data(validation_data, X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, given)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MLPRegressor":
        """Learn from additional samples in one pass; the optimizer continues from its state.

        With ``solver="lbfgs"``, as in scikit-learn, this is a whole run over only these samples,
        from the parameters of the previous call.

        Args:
            X: inputs, shape (N, I).
            y: targets, shape (N,) or (N, O).
            sample_weight: how much each sample counts, shape (N,).

        Returns:
            The estimator.

        Raises:
            ValueError: as for ``fit``; or ``early_stopping`` is on, which needs all samples.
        """
        self._check_incremental()
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Return the prediction for each sample.

        Args:
            X: inputs, shape (N, I).

        Returns:
            Shape (N,), or (N, O) for several outputs.
        """
        a = self._home(self._outputs(X, "predict"))
        return a[:, 0] if a.shape[1] == 1 else a

    def _encode(self, y: Any, placement: Placement, *, fresh: bool) -> tuple[np.ndarray, Any]:
        del placement, fresh
        if hasattr(y, "tocsr"):
            raise TypeError("y is a sparse matrix: pass y.toarray().")
        targets = y if y.ndim == 2 else y[:, None]
        settings.check_targets(self.loss, targets)
        return targets, y

    def _output(self) -> str:
        if self.loss == "poisson":
            return "exp"
        cost = settings.cost_of(self.loss, "")
        return cost.output if isinstance(cost, MatchedCost) else "identity"

    def _decode(self, a: np.ndarray) -> Any:
        return a[:, 0] if a.shape[1] == 1 else a

    def _score_of(self, truth: Any, predicted: Any, weights: Any) -> float:
        if not np.isfinite(predicted).all():
            return math.nan
        return float(r2_score(truth, predicted, sample_weight=weights))
