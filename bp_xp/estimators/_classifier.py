"""The classifier."""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from bp_xp.backends import Placement, to_numpy
from bp_xp.estimators import _settings as settings
from bp_xp.estimators._base import MLP
from bp_xp.math.classes import probabilities

__all__ = ["MLPClassifier"]


class MLPClassifier(ClassifierMixin, MLP):
    """scikit-learn's ``MLPClassifier``, on any device.

    The first parameters are those of :class:`sklearn.neural_network.MLPClassifier`, with the same
    names, meanings and defaults; the same ``random_state`` gives the same run. The others are new.

    Args:
        hidden_layer_sizes: neurons of each hidden layer.
        activation: σ of the hidden layers: ``"identity"``, ``"logistic"``, ``"tanh"``, ``"relu"``;
            or any of :data:`bp_xp.ACTIVATIONS`, an :class:`bp_xp.Activation`, or a list with one
            for each hidden layer.
        solver: ``"sgd"``, ``"adam"``, ``"lbfgs"``; or an optimizer, such as
            ``bp_xp.RMSprop(0.01)``, which has its own learning rate.
        alpha: strength of the term ½ α ‖W‖²/n that is added to the loss, where n is the number of
            samples in the mini-batch.
        batch_size: samples in a mini-batch; ``"auto"`` is 200, or all if there are fewer.
        learning_rate: ``"constant"``, ``"invscaling"``, ``"adaptive"`` for ``solver="sgd"``; or a
            schedule, such as ``bp_xp.CosineDecay(0.1, steps=1000)``, for ``"sgd"`` and ``"adam"``.
        learning_rate_init: η at the start.
        power_t: the exponent of ``"invscaling"``.
        max_iter: the largest number of epochs; for ``"lbfgs"``, of iterations.
        shuffle: whether each epoch has a new order.
        random_state: seed or generator of weights, order and held-out samples.
        tol: the smallest change of loss or score that counts as an improvement.
        verbose: whether to print a line for each epoch.
        warm_start: whether ``fit`` continues from the parameters of the previous call.
        momentum: μ of ``"sgd"``.
        nesterovs_momentum: whether to use Nesterov's momentum.
        early_stopping: whether to hold out samples, end the run when their score stops improving,
            and restore the best parameters.
        validation_fraction: the share of samples held out.
        beta_1: β₁ of ``"adam"``.
        beta_2: β₂ of ``"adam"``.
        epsilon: ε of ``"adam"``.
        n_iter_no_change: how many epochs without an improvement end the run.
        max_fun: the largest number of evaluations of ``"lbfgs"``.
        loss: ``"log_loss"``, the cross-entropy; or any of :data:`bp_xp.COSTS`, or a
            :class:`bp_xp.Cost`.
        device: where to compute: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"auto"``; see
            :func:`bp_xp.backends.place`. None is the CPU or, with ``array_api_dispatch``, the
            device of the samples.
        backend: the array library; None chooses by the device, or is that of the samples.
        dtype: ``"float32"`` or ``"float64"``; None is that of the samples, or float64 if they are
            integers.
        class_weight: how much each class counts in training, ``{label: weight}`` or
            ``"balanced"``.
        dropout: probability with which a hidden neuron is left out of a step: one for all hidden
            layers, or one for each; an additional one in front is that of the inputs.
        callbacks: objects of :class:`bp_xp.Callback`, or functions of (network, history) that are
            called after each epoch; one that returns True ends the run.
        progress: whether to show a bar on a terminal and in a notebook, or a line for each epoch.
        restore_best_weights: whether to restore the parameters of the best epoch also without
            ``early_stopping``: the epoch with the smallest validation loss, or with the smallest
            loss if there is no ``validation_data``.
        distributed: what shares the run: ``"mpi"``, ``"torch"``, ``"jax"`` or ``"auto"``, as for
            :meth:`bp_xp.Network.fit`. Each process calls ``fit`` with all samples, and gets the
            whole result.

    Attributes:
        classes_: the labels, shape (n_classes,).
        loss_: the loss of the last epoch, with its penalty.
        best_loss_: the smallest loss; None with ``early_stopping``.
        loss_curve_: the loss of each epoch.
        validation_scores_: the accuracy on the validation samples after each epoch, or None.
        best_validation_score_: the best of them with ``early_stopping``; otherwise None.
        validation_loss_curve_: the loss on the validation samples, without the penalty, or None.
        t_: the number of samples seen in training.
        coefs_: weights of each layer, shape (I, O) each.
        intercepts_: biases of each layer, shape (O,) each.
        n_features_in_: the number of columns of the samples.
        feature_names_in_: their names, if the samples have any.
        n_iter_: the number of epochs of the last call.
        n_layers_: the number of layers, including inputs and outputs.
        n_outputs_: the number of neurons of the output layer.
        out_activation_: ``"softmax"``, or ``"logistic"`` for two classes and for several labels.

    Examples:
        >>> import numpy as np
        >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> mlp = MLPClassifier((8,), "tanh", solver="lbfgs", random_state=0)
        >>> mlp.fit(X, ["same", "other", "other", "same"]).predict(X[:2])
        array(['same', 'other'], dtype='<U5')
    """

    class_weight: Any

    def __init__(
        self,
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
        loss: Any = "log_loss",
        device: str | None = None,
        backend: Any = None,
        dtype: Any = None,
        class_weight: Any = None,
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
    ) -> "MLPClassifier":
        """Learn from samples.

        Args:
            X: inputs, shape (N, I): an array, a data frame, a sparse matrix.
            y: labels, shape (N,); or for several labels per sample, zeros and ones, shape (N, K).
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

    def _takes_steps(self) -> bool:
        """Return whether there is a ``partial_fit``."""
        if self.solver == "lbfgs":
            raise AttributeError(
                "partial_fit is only available for solvers that take steps; 'lbfgs' needs all "
                "samples at the same time."
            )
        return True

    @available_if(lambda self: self._takes_steps())
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> "MLPClassifier":
        """Learn from additional samples in one pass; the optimizer continues from its state.

        Args:
            X: inputs, shape (N, I).
            y: labels, shape (N,), or (N, K) for several per sample.
            sample_weight: how much each sample counts, shape (N,).
            classes: all labels of all calls, which the first call needs.

        Returns:
            The estimator.

        Raises:
            ValueError: as for ``fit``; or ``early_stopping`` is on, which needs all samples.
        """
        settings.check_parameters(self)
        self._check_incremental()
        if isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' needs all samples, and partial_fit has some: give the "
                "weights as {label: weight}."
            )
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is not None:
            labels = unique_labels(to_numpy(classes))
            if not hasattr(self, "classes_"):
                several = type_of_target(y).startswith("multilabel")
                self._label_binarizer = LabelBinarizer().fit(y if several else labels)
                self.classes_ = labels
            elif not np.array_equal(to_numpy(self.classes_), labels):
                raise ValueError(
                    f"classes={classes!r} is not the same as on last call to partial_fit, was: "
                    f"{self.classes_!r}."
                )
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Return the label of each sample.

        Args:
            X: inputs, shape (N, I).

        Returns:
            Labels, shape (N,); for several per sample, zeros and ones, shape (N, K).
        """
        a = self._outputs(X, "predict")
        labels = self.classes_
        if not self._in_arrays or isinstance(labels, np.ndarray):  # or they are text
            return self._decode(to_numpy(a))
        with self._at_home() as xp:
            if a.shape[1] > 1 and self.out_activation_ == "logistic":
                return xp.astype(a > 0.5, xp.int64)
            a = probabilities(a, xp=xp)
            return xp.take(labels, xp.argmax(a[:, : labels.shape[0]], axis=1), axis=0)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, in the order of ``classes_``.

        Args:
            X: inputs, shape (N, I).

        Returns:
            Shape (N, n_classes).
        """
        return self._probabilities(X, "predict_proba")

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of the probability of each class.

        Args:
            X: inputs, shape (N, I).

        Returns:
            Shape (N, n_classes).
        """
        with self._at_home() as xp, np.errstate(divide="ignore"):
            return xp.log(self._probabilities(X, "predict_log_proba"))

    def _probabilities(self, X: Any, method: str) -> Any:
        a = self._home(self._outputs(X, method))
        with self._at_home() as xp:
            # With a single class, the other of the two columns means no class.
            return probabilities(a, xp=xp)[:, : self.classes_.shape[0]]

    def _encode(self, y: Any, placement: Placement, *, fresh: bool) -> tuple[np.ndarray, Any]:
        if fresh or not hasattr(self, "classes_"):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_labels(unique_labels(y))
        if self._in_arrays:
            self.classes_ = self._labels_at(self._label_binarizer.classes_, placement)
        targets = self._label_binarizer.transform(y).astype(bool)
        return targets, self._label_binarizer.inverse_transform(targets.astype(np.int64))

    def _check_labels(self, labels: np.ndarray) -> None:
        """Refuse labels that are not those of the previous calls."""
        ours = to_numpy(self.classes_)
        if self.warm_start:
            if set(labels) != set(ours):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {ours}, `y` has {labels}"
                )
        elif len(np.setdiff1d(labels, ours, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {ours}. 'y' has {labels}."
            )

    def _output(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _decode(self, a: np.ndarray) -> Any:
        return self._label_binarizer.inverse_transform(a.ravel() if a.shape[1] == 1 else a)

    def _score_of(self, truth: Any, predicted: Any, weights: Any) -> float:
        return float(accuracy_score(truth, predicted, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
