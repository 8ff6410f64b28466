"""scikit-learn's multi-layer perceptrons on the networks and the training of bp_xp."""

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, column_or_1d, compute_sample_weight
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, dtype_name, place, to_numpy
from bp_xp.errors import DeviceError
from bp_xp.estimators import _settings as settings
from bp_xp.estimators._arrays import array_library, as_scikit_takes, place_of
from bp_xp.estimators._prepared import take_prepared
from bp_xp.estimators._run import drawn_alike, forget_runs, take_steps
from bp_xp.estimators._samples import Samples, blocks_of_inputs, place_inputs, weights_of
from bp_xp.estimators._solvers import minimize
from bp_xp.math.model import Model
from bp_xp.network import Network
from bp_xp.ranks import find_ranks, over_devices
from bp_xp.sources.sparse import SparseInputs, cut_rows, is_sparse
from bp_xp.training.evaluation import feed

__all__ = ["MLP"]


class MLP(BaseEstimator):
    """What both estimators share."""

    loss: Any
    hidden_layer_sizes: Any
    activation: Any
    solver: Any
    alpha: float
    batch_size: Any
    learning_rate: Any
    learning_rate_init: Any
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: Any
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    device: str | None
    backend: Any
    dtype: Any
    dropout: Any
    callbacks: Any
    progress: bool
    restore_best_weights: bool
    distributed: Any

    # What a fit sets.
    coefs_: list[Array]
    intercepts_: list[Array]
    classes_: Any
    n_features_in_: int
    n_outputs_: int
    n_layers_: int
    out_activation_: str
    n_iter_: int
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_loss_curve_: Any
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    # The device of a fit, and whether its samples were arrays on it.
    _where: Placement | None = None
    _in_arrays: bool = False

    def _store(self, given: dict[str, Any]) -> None:
        """Store the arguments of the constructor as they are."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # -----------------------------------------------------------------------------------------
    # What a subclass defines

    def _encode(self, y: Any, placement: Placement, *, fresh: bool) -> tuple[np.ndarray, Any]:
        """Return targets (N, O) and what predictions are compared with, both on the host."""
        raise NotImplementedError

    def _output(self) -> str:
        """Return the name of the output activation."""
        raise NotImplementedError

    def _decode(self, a: np.ndarray) -> Any:
        """Return the predictions of outputs on the host."""
        raise NotImplementedError

    def _score_of(self, truth: Any, predicted: Any, weights: Any) -> float:
        """Return the score of predictions."""
        raise NotImplementedError

    # -----------------------------------------------------------------------------------------
    # Training

    @staticmethod
    def _as_validation_data(
        validation_data: Any, X_val: Any, y_val: Any, sample_weight_val: Any
    ) -> Any:
        """Return validation samples passed in parts in the form of those passed together."""
        parts = {"X_val": X_val, "y_val": y_val, "sample_weight_val": sample_weight_val}
        given = [name for name, part in parts.items() if part is not None]
        if not given:
            return validation_data
        if validation_data is not None:
            raise ValueError(f"pass validation_data or {given[0]}, not both.")
        if X_val is None or y_val is None:
            raise ValueError(f"X_val and y_val go together, but only {', '.join(given)} was given.")
        return X_val, y_val, sample_weight_val

    def _check_incremental(self) -> None:
        """Refuse settings that ``partial_fit`` does not support."""
        if self.early_stopping:
            raise ValueError(
                "partial_fit does not support early_stopping=True: there is no validation set to "
                "hold out from samples that come in parts. Use fit, or set early_stopping=False."
            )

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Any = None,
        *,
        incremental: bool = False,
    ) -> Any:
        alone = incremental or validation_data is not None
        if not alone and take_prepared(self, X, y, sample_weight):
            return self
        settings.check_parameters(self)
        hidden = settings.hidden_sizes(self.hidden_layer_sizes)
        fresh = not incremental and not self.warm_start
        first = fresh or not hasattr(self, "coefs_")
        X, y = self._validate(X, y, reset=first)
        placement = self._place_for(X)
        if not first and self._where is not None:
            self._check_same_kind(X, self._where, "partial_fit" if incremental else "fit")
        dtype = self._dtype_for(X) if first else dtype_name(self.coefs_[0].dtype)
        self._in_arrays = array_library(X) is not None
        ranks = find_ranks(self.distributed, placement)
        self._random_state = drawn_alike(check_random_state(self.random_state), ranks)

        def prepare() -> tuple[Network, Samples, Samples | None]:
            samples = self._samples(X, y, sample_weight, placement, dtype, fresh=fresh)
            network = self._begun(samples, hidden, placement, dtype, first=first)
            if validation_data is None:
                return network, samples, None
            if self.solver == "lbfgs":
                raise ValueError("solver='lbfgs' has no epochs to evaluate validation_data after.")
            return network, samples, self._validation(validation_data, placement, dtype)

        with placement.active():
            network, samples, validation = ranks.together(prepare)
            if self.solver == "lbfgs":
                self._fit_lbfgs(network, samples, placement, dtype)
            else:
                if self.early_stopping and validation is None:
                    samples, validation = self._hold_out(samples, placement)
                layers = take_steps(
                    self,
                    network,
                    samples,
                    validation,
                    placement=over_devices(self.distributed, placement),
                    dtype=dtype,
                    incremental=incremental,
                    ranks=ranks,
                )
                self._keep(layers, placement)
            if is_sparse(X):  # the next prediction stores all layers in the order of its products
                self._on_device = ([], [])
        return self

    def _begun(
        self,
        samples: Samples,
        hidden: Sequence[int],
        placement: Placement,
        dtype: str,
        *,
        first: bool,
    ) -> Network:
        """Return the network to train, with newly drawn parameters in the first call."""
        outputs = samples.y.shape[1]
        sizes = [samples.inputs.shape[1], *hidden, outputs]
        settings.check_loss(self.loss, self._output() if first else self.out_activation_, outputs)
        if first:
            self._start(sizes, dtype, self._random_state)
        self.n_outputs_ = outputs
        network = self._network(placement, dtype)
        if network.sizes != tuple(sizes):
            raise ValueError(
                f"coefs_ are those of a network {list(network.sizes)}, but the samples and "
                f"hidden_layer_sizes make it {sizes}: call fit with warm_start=False."
            )
        return network

    def _validate(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        """Return samples as arrays that scikit-learn has checked."""
        X, y = as_scikit_takes(X, "X"), as_scikit_takes(y, "y")
        xp = array_library(X) or np
        # A device such as Apple's has no float64, which the standard's inspection functions show.
        wanted = [dtype_name(self.dtype)] if self.dtype is not None else ["float64", "float32"]
        dtypes = [getattr(xp, name) for name in wanted if hasattr(xp, name)]
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=is_regressor(self),
            dtype=dtypes,
            reset=reset,
        )
        if not hasattr(y, "tocsr"):
            y = to_numpy(y)
        if y.ndim == 2 and y.shape[1] == 1 and not hasattr(y, "tocsr"):
            y = column_or_1d(y, warn=True)
        return X, y

    def _samples(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        placement: Placement,
        dtype: str,
        *,
        fresh: bool,
    ) -> Samples:
        """Return the samples of a call on the device."""
        weights = None
        if sample_weight is not None:
            sample_weight = as_scikit_takes(sample_weight, "sample_weight")
            weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            weights = to_numpy(weights).astype(np.float64)
        targets, truth = self._encode(y, placement, fresh=fresh)
        score_weights = weights
        class_weight = getattr(self, "class_weight", None)
        if class_weight is not None:
            of_class = self._class_weights(class_weight, y)
            weights = of_class if weights is None else weights * of_class
        if weights is not None and not weights.any():
            raise ValueError("the weights of all samples are zero: there is nothing to learn from.")
        inputs = place_inputs(X, placement, dtype)
        return Samples(inputs, placement.asarray(targets, dtype), truth, weights, score_weights)

    def _class_weights(self, class_weight: Any, y: Any) -> np.ndarray:
        """Return the weight of each sample's class, shape (N,)."""
        if isinstance(class_weight, str):
            return compute_sample_weight(class_weight, y)
        if y.ndim == 2:
            raise ValueError(
                "class_weight as a dictionary is for one label per sample: for several, use "
                "'balanced' or sample_weight."
            )
        classes = to_numpy(self.classes_).tolist()
        unknown = [label for label in class_weight if label not in classes]
        if unknown:
            raise ValueError(
                f"class_weight has the label {unknown[0]!r}, but the classes are {classes}."
            )
        # A call of partial_fit may lack samples of a class, which scikit-learn's function refuses.
        return np.asarray([class_weight.get(label, 1.0) for label in y.tolist()], np.float64)

    def _start(self, sizes: Sequence[int], dtype: str, random: np.random.RandomState) -> None:
        """Start from the beginning: draw parameters, and forget earlier runs."""
        self.n_iter_ = 0
        self.t_ = 0
        self.n_outputs_ = sizes[-1]
        self.n_layers_ = len(sizes)
        self.out_activation_ = self._output()
        each = settings.as_list(self.activation)
        names = [getattr(one, "name", one) for one in (each if isinstance(each, list) else [each])]
        names = names or ["identity"]
        self.coefs_, self.intercepts_ = [], []
        for l, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):  # noqa: E741
            # Glorot's, as in scikit-learn; the output layer uses the last hidden activation.
            name = names[min(l, len(names) - 1)]
            bound = np.sqrt((2.0 if name in ("logistic", "sigmoid") else 6.0) / (n_in + n_out))
            self.coefs_.append(random.uniform(-bound, bound, (n_in, n_out)).astype(dtype))
            self.intercepts_.append(random.uniform(-bound, bound, n_out).astype(dtype))
        if self.solver != "lbfgs":
            forget_runs(self)

    def _network(self, placement: Placement, dtype: str) -> Network:
        """Return a network with the parameters, fully checked."""
        # Copied in C order, in which the squares of the weights are summed.
        layers = [
            (np.ascontiguousarray(to_numpy(coef).T), to_numpy(intercept))
            for coef, intercept in zip(self.coefs_, self.intercepts_, strict=True)
        ]
        output = settings.output_named(self.out_activation_)
        return Network.from_layers(
            layers,
            activation=settings.activations_of(self.activation, len(layers) - 1),
            output_activation=output,
            cost=settings.cost_of(self.loss, self.out_activation_),
            device=placement.device_name,
            backend=placement.backend_word,
            dtype=dtype,
            seed=0,
        )

    def _to_network(self) -> Network:
        """Return a network with the parameters, on the device for predictions."""
        placement = self._where or place(self.device, self.backend)
        return self._network(placement, dtype_name(self.coefs_[0].dtype))

    def _validation(self, given: Any, placement: Placement, dtype: str) -> Samples:
        """Return the validation samples of the caller."""
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            size = f" of {len(given)}" if isinstance(given, tuple | list) else ""
            raise TypeError(
                "validation_data must be (X, y) or (X, y, sample_weight), not a "
                f"{type(given).__name__}{size}."
            )
        X, y, weights = (*given, None)[:3]
        X, y = self._validate(X, y, reset=False)
        if weights is not None:
            weights = as_scikit_takes(weights, "the sample_weight of validation_data")
            weights = _check_sample_weight(weights, X, ensure_non_negative=True)
            weights = to_numpy(weights).astype(np.float64)
        targets, truth = self._encode(y, placement, fresh=False)
        inputs = place_inputs(X, placement, dtype)
        return Samples(inputs, placement.asarray(targets, dtype), truth, weights, weights)

    def _hold_out(self, samples: Samples, placement: Placement) -> tuple[Samples, Samples]:
        """Return training and validation samples, split as in scikit-learn."""
        rows, held = self._rows_to_hold_out(samples, self._random_state)
        return samples.rows(rows, placement), samples.rows(held, placement)

    def _rows_to_hold_out(
        self, samples: Samples, random: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the rows to train on, and of those to hold out."""
        one_class_each = is_classifier(self) and self.n_outputs_ == 1
        parts = train_test_split(
            np.arange(samples.inputs.shape[0]),
            random_state=random,
            test_size=self.validation_fraction,
            stratify=to_numpy(samples.y).astype(bool) if one_class_each else None,
        )
        rows, held = map(np.asarray, parts)
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return rows, held

    def _loss_scale(self) -> float:
        """Return the factor that turns the cost into scikit-learn's loss."""
        # Its squared error is a mean over outputs, though its gradient is that of the sum.
        return 1.0 / self.n_outputs_ if self.loss == "squared_error" else 1.0

    def _fit_lbfgs(
        self, network: Network, samples: Samples, placement: Placement, dtype: str
    ) -> None:
        """Minimize the loss over all samples at once."""
        weights = samples.weights
        there = None if weights is None else placement.asarray(weights, dtype)

        def blocks() -> Iterator[tuple[Array, ...]]:
            given = [samples.y] if there is None else [samples.y, there]
            for rows, x in samples.blocks(placement):
                yield x, *(cut_rows(values, rows, placement) for values in given)

        found = minimize(
            network.model,
            [Layer(to_numpy(W), to_numpy(b)) for W, b in network.layers],
            blocks,
            alpha=self.alpha,
            weight=float(samples.inputs.shape[0] if weights is None else weights.sum()),
            placement=placement,
            dtype=dtype,
            options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
            by_columns=isinstance(samples.inputs, SparseInputs),
        )
        parts = [part for layer in found.layers for part in layer]
        if not (math.isfinite(found.cost) and all(np.isfinite(part).all() for part in parts)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        self.n_iter_ = min(found.iterations, self.max_iter)
        self.loss_ = found.cost * self._loss_scale() + found.penalty
        if found.complaint:
            warnings.warn(
                f"lbfgs failed to converge after {found.iterations} iteration(s): "
                f"{found.complaint}. Increase max_iter or max_fun, or scale the data.",
                ConvergenceWarning,
                stacklevel=4,
            )
        if self.verbose:
            print(f"lbfgs: {self.n_iter_} iterations, loss = {self.loss_:.8f}")
        self._keep(map_leaves(lambda part: placement.asarray(part, dtype), found.layers), placement)

    # -----------------------------------------------------------------------------------------
    # Devices

    def _place_for(self, X: Any) -> Placement:
        """Return the library and device for checked samples."""
        if array_library(X) is None:
            return place(self.device, self.backend)
        here = place_of(X)
        if self.device is not None or self.backend is not None:
            asked = place(self.device, self.backend)
            if asked != here:
                raise ValueError(
                    f"X is an array of {here}, but the estimator was asked to compute with "
                    f"{asked}: move X, or leave device and backend None to follow it."
                )
        return here

    def _dtype_for(self, X: Any) -> str:
        if self.dtype is not None:
            return dtype_name(self.dtype)
        # SciPy's L-BFGS works in float64, so scikit-learn's parameters end in it.
        return "float64" if self.solver == "lbfgs" else dtype_name(X.dtype)

    def _keep(self, layers: Sequence[Layer], placement: Placement) -> None:
        """Set parameters as attributes: arrays of the samples' library and device."""
        self._where = placement
        home = (lambda array: array) if self._in_arrays else to_numpy
        transpose = placement.xp.matrix_transpose if self._in_arrays else np.transpose
        self.coefs_ = [transpose(home(W)) for W, _ in layers]
        self.intercepts_ = [home(b) for _, b in layers]
        self._on_device = (self._parameters(), list(layers))

    def _parameters(self) -> list[Array]:
        return [*self.coefs_, *self.intercepts_]

    def _layers(self, placement: Placement, dtype: str, X: Any) -> Sequence[Layer]:
        """Return the parameters on the device, in the memory order that products with X read best.

        The arrays of the last call are reused while they are unchanged.
        """
        known, layers = getattr(self, "_on_device", ([], []))
        now = self._parameters()
        if len(known) != len(now) or any(a is not b for a, b in zip(known, now, strict=True)):
            layers = [
                Layer(weights_of(coef, X, placement, dtype), placement.asarray(to_numpy(b), dtype))
                for coef, b in zip(self.coefs_, self.intercepts_, strict=True)
            ]
        layers = placement.library.laid_out(layers, X)
        self._on_device = (now, layers)
        return layers

    def _outputs(self, X: Any, method: str) -> Array:
        """Return the outputs for samples, shape (N, O), on the device."""
        check_is_fitted(self)
        X = as_scikit_takes(X, "X")
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        placement = self._where or place(self.device, self.backend)
        self._check_same_kind(X, placement, method)
        dtype = dtype_name(self.coefs_[0].dtype)
        with placement.active():
            layers = self._layers(placement, dtype, X)
            hidden = settings.activations_of(self.activation, len(layers) - 1)
            output = settings.output_named(self.out_activation_)
            cost = settings.cost_of(self.loss, self.out_activation_)
            model = Model((), (*hidden, output), cost)
            blocks = blocks_of_inputs(X, placement, dtype)
            return feed(model, layers, blocks, placement=placement)

    def _check_same_kind(self, X: Any, placement: Placement, method: str) -> None:
        """Refuse samples whose library or device is not that of fit."""
        here = "NumPy" if array_library(X) is None else str(place_of(X))
        there = str(placement) if self._in_arrays else "NumPy"
        if here != there:
            raise ValueError(
                f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace "
                f"and the same device as those passed to fit(): they are of {here}, and those "
                f"were of {there}."
            )

    def _home(self, array: Array) -> Array:
        """Return a result as an array of the samples' library."""
        return array if self._in_arrays else to_numpy(array)

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[Namespace]:
        """Yield the namespace of such results, with their device as the current one."""
        where = self._where if self._in_arrays else None
        with where.active() if where else contextlib.nullcontext():
            yield where.xp if where else np

    # -----------------------------------------------------------------------------------------
    # scikit-learn's protocols

    def __getstate__(self) -> dict[str, Any]:
        """Return the content of a pickle: arrays on the host, so that any machine can read it."""
        inherited: Any = super().__getstate__()
        state = dict(inherited)
        state.pop("_on_device", None)
        placement = state.pop("_where", None)
        if placement is None:
            return state
        state["_where"] = (placement.device_name, placement.backend)
        if "_optimizer" in state:
            state["_optimizer"] = state["_optimizer"].on_host()
        for name in ("coefs_", "intercepts_"):
            state[name] = [to_numpy(array) for array in state[name]]
        if "classes_" in state:
            state["classes_"] = to_numpy(state["classes_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the content of a pickle; if its device is missing, the CPU predicts.

        An estimator with arrays of another library is restored with such arrays.
        """
        state = dict(state)
        placement = state.pop("_where", None)
        super().__setstate__(state)
        if placement is None:
            return
        try:
            self._where = place(*placement)
        except (DeviceError, ImportError, ValueError) as error:
            self._where, self._in_arrays = place("cpu"), False
            warnings.warn(
                f"this {type(self).__name__} was fitted with {placement[1]} on {placement[0]}, "
                f"which is not here ({error}) It predicts with NumPy on the CPU; to fit it here, "
                "set its device and backend.",
                UserWarning,
                stacklevel=2,
            )
        if self._in_arrays:
            with self._where.active():
                self.coefs_ = [self._where.asarray(W) for W in self.coefs_]
                self.intercepts_ = [self._where.asarray(b) for b in self.intercepts_]
                if hasattr(self, "classes_"):
                    self.classes_ = self._labels_at(self.classes_, self._where)

    def __sklearn_array_api_convert__(self, convert: Callable[[Any], Array]) -> Any:
        """Return a copy that predicts from samples of another library or device.

        Args:
            convert: converts an array to that library and device.
        """
        made: Any = clone(self)
        left = {*self.get_params(deep=False), "_on_device", "_where"}
        for name, value in vars(self).items():
            if name not in left:
                setattr(made, name, value.on_host() if name == "_optimizer" else deepcopy(value))
        if not hasattr(self, "coefs_"):
            return made
        made.coefs_ = [convert(W) for W in self.coefs_]
        made.intercepts_ = [convert(b) for b in self.intercepts_]
        made._in_arrays = not isinstance(made.coefs_[0], np.ndarray)
        made._where = (
            place_of(made.coefs_[0]) if made._in_arrays else place(self.device, self.backend)
        )
        if hasattr(self, "classes_"):
            made.classes_ = made._labels_at(to_numpy(self.classes_), made._where)
        return made

    def _labels_at(self, labels: np.ndarray, placement: Placement) -> Any:
        """Return labels as an array of the samples' library; text is always a NumPy array."""
        there = self._in_arrays and labels.dtype.kind in "iufb"
        return placement.asarray(labels) if there else labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags
