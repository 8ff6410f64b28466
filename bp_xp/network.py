"""Networks: layers of parameters on a device, and what can be done with them."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bp_xp import backprop, checkpoints, checks, inspection, persistence, training
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.activations import ACTIVATIONS, Activation
from bp_xp.arrays import Placement, dtype_name, place, row_blocks, sum_rows, to_numpy
from bp_xp.backprop import Model
from bp_xp.callbacks import Callback, CallbackLike, EarlyStopping, as_callback, due
from bp_xp.costs import COSTS, Cost, MatchedCost
from bp_xp.history import EpochRecord, History
from bp_xp.initializers import (
    INITIALIZERS,
    Initializer,
    make_generator,
    restore_generator,
    suited_initializer,
)
from bp_xp.inspection import BackpropTrace
from bp_xp.metrics import Metric, metric_named
from bp_xp.optimizers import SGD, Optimizer
from bp_xp.regularization import Regularization
from bp_xp.training import Data, Position, Run

__all__ = ["Network"]

logger = logging.getLogger("bp_xp")


class Network:
    """A multi-layer perceptron, trained by backpropagation and gradient descent.

    Args:
        sizes: neurons of each layer, inputs first: ``[784, 30, 10]``.
        activation: σ of the hidden layers, as a name or an :class:`~bp_xp.activations.Activation`;
            or a list with one for each hidden layer.
        output_activation: σ of the output layer; None takes the one that belongs to the cost
            (sigmoid for ``"quadratic"`` and ``"binary_cross_entropy"``, softmax for
            ``"categorical_cross_entropy"``, identity for ``"huber"``).
        cost: C, as a name or a :class:`~bp_xp.costs.Cost`.
        initializer: a name or a function (:class:`~bp_xp.initializers.Initializer`), or a list
            with one for each layer; None takes He for the ReLU family and the book's scaled normal
            weights elsewhere.
        device: where the network lives: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``; with a
            backend, in that library's words. None is the CPU or the backend's default.
        backend: the array library: None chooses by the device (NumPy, or CuPy for CUDA); else a
            name or a module. See :func:`bp_xp.arrays.place`.
        dtype: ``"float32"`` or ``"float64"``.
        seed: seed of the generator of weights and data order. None draws one from the operating
            system, which the attribute ``seed`` records.

    Attributes:
        seed: the seed.
        model: what the network computes, without its parameters.

    Raises:
        ValueError: a name, size or option that does not exist; the message lists what does.
        TypeError: an argument of the wrong kind.
        DeviceError: the device does not work on this machine.
        ImportError: the backend is not installed.
        MemoryError: the parameters would not fit in this machine's memory.

    Examples:
        Four samples of exclusive or:

        >>> net = Network([2, 4, 1], activation="tanh", cost="binary_cross_entropy", seed=1)
        >>> x = [[0, 0], [0, 1], [1, 0], [1, 1]]
        >>> history = net.fit(x, [0, 1, 1, 0], epochs=500, optimizer=SGD(1.0), progress=False)
        >>> net.predict(x)
        array([0, 1, 1, 0])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str | Activation | Sequence[str | Activation] = "sigmoid",
        output_activation: str | Activation | None = None,
        cost: str | Cost | MatchedCost = "quadratic",
        initializer: str | Initializer | Sequence[str | Initializer] | None = None,
        device: str | None = None,
        backend: str | Namespace | None = None,
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> None:
        model = _make_model(checks.check_sizes(sizes), activation, output_activation, cost)
        initializers = _make_initializers(model, initializer)
        checks.check_memory(model.sizes)
        self._settle(model, place(device, backend), dtype, seed)
        self._layers = [
            self._check_layer(Layer(*draw(self._generator, n_out, n_in)), l)
            for l, (draw, n_out, n_in) in enumerate(  # noqa: E741
                zip(initializers, model.sizes[1:], model.sizes[:-1], strict=True)
            )
        ]

    @classmethod
    def from_layers(
        cls,
        layers: Iterable[tuple[Any, Any]],
        *,
        activation: str | Activation | Sequence[str | Activation] = "sigmoid",
        output_activation: str | Activation | None = None,
        cost: str | Cost | MatchedCost = "quadratic",
        device: str | None = None,
        backend: str | Namespace | None = None,
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> "Network":
        """Make a network of given parameters.

        Args:
            layers: pairs (W, b), or Layers, with W of shape (O, I) and b of shape (O,). They are
                copied; integers become floats.
            activation: as for :class:`Network`, like all that follow.
            output_activation: likewise.
            cost: likewise.
            device: likewise.
            backend: likewise.
            dtype: likewise.
            seed: seed of the generator of the data order.

        Raises:
            ValueError: the shapes do not fit each other, or a value is not finite.

        Examples:
            >>> net = Network.from_layers([([[2.0, 0.0]], [1.0])], output_activation="identity")
            >>> net.feedforward([[1.0, 5.0]])
            array([[3.]], dtype=float32)
        """
        pairs = list(layers)
        if not pairs or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
            raise ValueError("layers must be pairs (W, b), one for each layer, and at least one.")
        shapes = [tuple(to_numpy(W).shape) for W, _ in pairs]
        if any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"each W must be a matrix (O, I); these have shapes {shapes}.")
        sizes = checks.check_sizes([shapes[0][1], *(n_out for n_out, _ in shapes)])
        network = cls.__new__(cls)
        model = _make_model(sizes, activation, output_activation, cost)
        network._settle(model, place(device, backend), dtype, seed)
        network.layers = pairs
        return network

    def _settle(self, model: Model, placement: Placement, dtype: Any, seed: int | None) -> None:
        """Set everything but the parameters."""
        self.model = model
        self.seed = checks.check_seed(seed)
        self._generator = make_generator(self.seed)
        self._place = placement
        self._dtype = dtype_name(dtype)
        self._warm: _Warm | None = None
        placement.dtype(self._dtype)
        with placement.active():
            _check_own_functions(model, placement, self._dtype)

    # -----------------------------------------------------------------------------------------
    # What it is

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons of each layer, inputs first."""
        return self.model.sizes

    @property
    def backend(self) -> str:
        """Name of the array library."""
        return self._place.backend

    @property
    def device(self) -> str:
        """Name of the device, as ``device=`` takes it."""
        return self._place.device_name

    @property
    def placement(self) -> Placement:
        """Library and device together: ``placement.active()`` makes the device the current one."""
        return self._place

    @property
    def device_reason(self) -> str:
        """Why ``device="auto"`` took this device; empty where it was asked for by name."""
        return self._place.reason

    @property
    def dtype(self) -> str:
        """Name of the dtype of parameters and results."""
        return self._dtype

    @property
    def xp(self) -> Namespace:
        """The functions of the array library."""
        return self._place.xp

    @property
    def classifies(self) -> bool:
        """Whether the outputs are probabilities, so that :meth:`predict` gives classes."""
        return self.model.activations[-1].probability

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The parameters, Layer(W, b) for each layer; assign all of them to change any.

        Training makes new arrays: what was taken before is what the network was then.
        """
        return tuple(self._layers)

    @layers.setter
    def layers(self, layers: Iterable[tuple[Any, Any]]) -> None:
        pairs = list(layers)
        if len(pairs) != len(self.sizes) - 1:
            raise ValueError(f"expected {len(self.sizes) - 1} layers, not {len(pairs)}.")
        self._layers = [self._check_layer(Layer(*pair), l) for l, pair in enumerate(pairs)]  # noqa: E741

    def _check_layer(self, layer: Layer, l: int) -> Layer:  # noqa: E741
        """Return a layer's parameters on the device, copied and checked."""
        checked = Layer(
            *(
                checks.check_parameter(
                    values, f"layers[{l}].{name}", place=self._place, dtype=self._dtype, ndim=ndim
                )
                for name, values, ndim in (("W", layer.W, 2), ("b", layer.b, 1))
            )
        )
        n_in, n_out = self.sizes[l : l + 2]
        came = tuple(checked.W.shape), tuple(checked.b.shape)
        if came != ((n_out, n_in), (n_out,)):
            raise ValueError(
                f"layers[{l}] must have W of shape ({n_out}, {n_in}) and b of shape ({n_out},), "
                f"not {came[0]} and {came[1]}."
            )
        return checked

    def __repr__(self) -> str:
        activations = [activation.name for activation in self.model.activations]
        return (
            f"Network({list(self.sizes)}, activations={activations}, "
            f"cost={self.model.cost.name!r}, {self._place}, {self._dtype})"
        )

    def asarray(self, values: Any) -> Array:
        """Return host values as an array on the network's device, in its dtype.

        Every method takes host values as they are; this moves them once for several calls. On a
        CPU the memory may be shared: what is changed in one then changes in the other.

        Raises:
            ValueError: a value is not finite, or complex.
            TypeError: an array of another library, or no numbers.
        """
        with self._place.active():
            return checks.check_array(values, "values", place=self._place, dtype=self._dtype)

    # -----------------------------------------------------------------------------------------
    # What it computes

    def feedforward(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the activations of the output layer.

        Args:
            x: inputs, shape (N, I): host values, or an array on the network's device.
            batch_size: samples taken through the network at once, which bounds the memory.

        Returns:
            aᴸ, shape (N, O), on the network's device.

        Raises:
            ValueError: the shape is wrong, a value is not finite, or x is on another device.
            TypeError: x is an array of another library.
            OutOfMemoryError: the device has too little memory for so many samples at once.
        """
        size = checks.check_integer(batch_size, "batch_size")
        with self._place.active("Take a smaller batch_size."):
            x = self._check_samples(x)
            parts = [
                backprop.feedforward(self.model, self._layers, x[rows, :], xp=self.xp)
                for rows in row_blocks(x.shape[0], size)
            ]
            return self.xp.concat(parts) if len(parts) > 1 else parts[0]

    def predict_proba(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the probability of each class.

        Args:
            x: inputs, shape (N, I).
            batch_size: samples taken through the network at once.

        Returns:
            Shape (N, O): the outputs. One output is the probability of class 1, and becomes two
            columns. Sigmoid outputs are probabilities each by itself: they need not add to 1.

        Raises:
            ValueError: the outputs are no probabilities; or as for :meth:`feedforward`.
        """
        if not self.classifies:
            raise ValueError(
                f"the outputs of this network ({self.model.activations[-1].name}) are no "
                "probabilities: use feedforward, or make it with output_activation='softmax'."
            )
        a = self.feedforward(x, batch_size=batch_size)
        return a if a.shape[1] > 1 else self.xp.concat([1.0 - a, a], axis=1)

    def predict(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the class of each sample; without classes, the outputs.

        Args:
            x: inputs, shape (N, I).
            batch_size: samples taken through the network at once.

        Returns:
            Labels, shape (N,): the largest output, or for one output whether it is above ½. Where
            the output activation is neither sigmoid nor softmax, the outputs, shape (N, O). For
            classes that do not exclude each other, use ``predict_proba(x) > 0.5``.

        Raises:
            ValueError: as for :meth:`feedforward`.
        """
        a = self.feedforward(x, batch_size=batch_size)
        if not self.classifies:
            return a
        if a.shape[1] == 1:
            index = self.xp.argmax(a, axis=-1).dtype
            return self.xp.astype(a[:, 0] > 0.5, index)
        return self.xp.argmax(a, axis=-1)

    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        metrics: Sequence[str | Metric | Callable[..., Array]] = (),
    ) -> dict[str, Any]:
        """Return the mean cost, the accuracy where the targets are classes, and other metrics.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).
            sample_weight: how much each sample counts for cost and accuracy, shape (N,).
            metrics: names of :data:`bp_xp.metrics.METRICS`, or functions of (outputs, targets, xp).

        Returns:
            ``{"cost": ..., "accuracy": ..., ...}``; the cost has no L2 term. The accuracy is the
            share of samples whose label :meth:`predict` gives; it is left out where the outputs are
            no probabilities, or the targets are not one class each. Metrics are numbers, the
            confusion matrix is a NumPy array.

        Raises:
            ValueError: shapes do not fit, a label is not a class, a value is not finite.
            TypeError: an array of another library.
        """
        measured = [metric_named(one) for one in metrics]
        with self._place.active():
            data = self._check_data(x, y, sample_weight)
            _check_metrics(measured, data)
            cost, accuracy = training.evaluate(self.model, self._layers, data, place=self._place)
            values = training.measure(self.model, self._layers, data, measured, place=self._place)
        known = {"cost": cost} if accuracy is None else {"cost": cost, "accuracy": accuracy}
        return known | values

    def backprop(self, x: Any, y: Any) -> list[Layer]:
        """Return the derivatives of the mean cost over the samples.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).

        Returns:
            One Layer for each layer: ∂C/∂W of shape (O, I), ∂C/∂b of shape (O,).

        Raises:
            ValueError: shapes do not fit, a label is not a class, a value is not finite.
            TypeError: an array of another library.

        References:
            Nielsen, ch. 2: BP1 to BP4.
        """
        with self._place.active():
            data = self._check_data(x, y)
            gradients, _ = backprop.backpropagate(
                self.model, self._layers, data.x, data.y, xp=self.xp
            )
        return gradients

    def trace(self, x: Any, y: Any) -> BackpropTrace:
        """Return everything that backpropagation finds on its way.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).

        Returns:
            The mean cost, and for each layer W, b, z, a, σ′(z), δ and the derivatives of
            :meth:`backprop`, on the network's device. It prints as a table.

        Raises:
            ValueError: shapes do not fit, a label is not a class, a value is not finite.
            TypeError: an array of another library.

        References:
            Nielsen, ch. 2: BP1 to BP4.

        Examples:
            >>> net = Network([2, 3, 1], seed=0)
            >>> trace = net.trace([[0.0, 1.0], [1.0, 1.0]], [[1.0], [0.0]])
            >>> trace.layers[0].delta.shape
            (2, 3)
        """
        with self._place.active():
            data = self._check_data(x, y)
            return inspection.trace(self.model, self._layers, data.x, data.y, xp=self.xp)

    # -----------------------------------------------------------------------------------------
    # How it learns

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 10,
        batch_size: int | None = None,
        optimizer: Optimizer | None = None,
        validation_data: Sequence[Any] | None = None,
        validation_fraction: float = 0.0,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | str | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        dropout: float | Sequence[float] = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        max_norm: float | None = None,
        metrics: Sequence[str | Metric | Callable[..., Array]] = (),
        early_stopping: EarlyStopping | None = None,
        callbacks: Sequence[CallbackLike] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool | str | os.PathLike[str] = False,
        warm_start: bool = False,
        shuffle: bool = True,
        progress: bool = True,
        should_stop: Callable[[], bool] | None = None,
    ) -> History:
        """Train on mini-batches.

        Args:
            x: inputs, shape (N, I); moved to the device once, never changed.
            y: labels, shape (N,), or targets, shape (N, O).
            epochs: passes over the data.
            batch_size: samples in a mini-batch; None is 32, or all where there are fewer. The last
                of an epoch may be shorter: its gradient is the mean over the samples it holds.
            optimizer: None is ``SGD(0.1)``. Its learning rate may be a schedule.
            validation_data: (x, y) or (x, y, sample weights) to evaluate after each epoch.
            validation_fraction: the share of the samples to hold out as validation data, drawn
                from the network's generator; each class gives its share.
            sample_weight: how much each sample counts, shape (N,). Weight k is k copies of the
                sample in its mini-batch, and 0 its absence.
            class_weight: how much each class counts, ``{label: weight}`` (others 1), times the
                sample's own weight; ``"balanced"`` lets all classes count alike, N / (K · count).
            l1: adds l1 Σ |w| over the weights, not the biases, to the mean cost.
            l2: adds (l2/2) Σ w² likewise; the book's λ is l2 · N. Neither depends on the batch
                size.
            dropout: probability with which a hidden neuron is left out of a step: one for all
                hidden layers, or one for each; one more, in front, is that of the inputs.
            clip_norm: the largest Euclidean norm of the whole gradient; longer ones are shortened.
            clip_value: the largest absolute value of a derivative.
            max_norm: the largest norm of the weights into a neuron, kept after each step.
            metrics: what to measure on the validation data after each epoch: names of
                :data:`bp_xp.metrics.METRICS`, or functions of (outputs, targets, xp).
            early_stopping: ends the run when a value has stopped improving.
            callbacks: objects of :class:`~bp_xp.callbacks.Callback`, or functions of (network,
                history) that are called after each epoch; one that returns True ends the run.
            checkpoint: a file to keep the run in: written after each epoch, when the run is
                interrupted, and after each ``checkpoint_every`` steps. It is whole at any moment,
                and :meth:`load` reads it as a network.
            checkpoint_every: a number of steps, or None.
            resume: True goes on from the checkpoint if there is one, or from the one before it
                where it is damaged (``run.previous.safetensors``, kept beside), and begins
                otherwise; or the path of one that must be there. Settings and data must be those of
                the run that was saved, but for the number of epochs. The run is then that which was
                never interrupted: to the last bit on the same backend, to rounding on another.
            warm_start: whether the optimizer goes on from where the call before left it, the step
                of its schedule included, if that had warm_start as well.
            shuffle: whether each epoch has a new order, drawn from the network's generator.
            progress: whether to show a bar on a terminal; without one, each epoch is logged
                (logger ``"bp_xp"``, level INFO).
            should_stop: a function that is asked every few steps; once it returns True, the step
                under way is completed and the run ends, as with Ctrl-C. A script that must react to
                SIGTERM lets its handler set what this function returns.

        Returns:
            A record for each epoch. Ctrl-C completes the step under way and returns what there is,
            with ``history.stopped == "interrupt"``. The next call goes on from these parameters and
            with the next data order; an optimizer starts at rest unless ``warm_start``.

        Raises:
            ValueError: shapes do not fit, a label is not a class, a value is not finite, a number
                is out of range.
            TypeError: an array of another library, an argument of the wrong kind.
            CheckpointError: the checkpoint is damaged, or is of a run with other settings.
            OSError: a checkpoint could not be written; the one before is left as it was.
            DivergenceError: the cost, a parameter or what early stopping monitors is no longer
                finite. The network keeps the parameters of the last epoch before, or the best ones
                with early stopping.
            OutOfMemoryError: a mini-batch needs more memory than the device has. The network keeps
                the parameters of the last epoch before; a smaller ``batch_size`` can be tried.

        References:
            Nielsen, ch. 1, 'Learning with gradient descent'; ch. 3 on regularisation.
        """
        optimizer = SGD(0.1) if optimizer is None else optimizer
        if isinstance(optimizer, type) or not (
            hasattr(optimizer, "init") and hasattr(optimizer, "update")
        ):
            raise TypeError(f"optimizer must be one such as SGD(0.1), not {optimizer!r}.")
        switches = {"shuffle": shuffle, "progress": progress, "warm_start": warm_start}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {value!r}.")
        if not isinstance(early_stopping, EarlyStopping | None):
            raise TypeError(
                f"early_stopping must be one such as EarlyStopping(), not {early_stopping!r}."
            )
        terms = Regularization.checked(
            l1=l1,
            l2=l2,
            dropout=dropout,
            clip_norm=clip_norm,
            clip_value=clip_value,
            max_norm=max_norm,
            hidden=len(self.sizes) - 2,
        )
        saving = checkpoints.check_saving(checkpoint, checkpoint_every, resume, self._generator)
        if saving.saved and warm_start:
            raise ValueError("pass resume or warm_start, not both.")
        callbacks = [as_callback(one) for one in callbacks]
        measured = [metric_named(one) for one in metrics]
        with self._place.active("Take a smaller batch_size; no step was left half done."):
            data = self._check_data(x, y, sample_weight)
            if class_weight is not None:
                data = self._weigh_classes(data, class_weight)
            validation = None
            if validation_data is not None:
                validation = self._check_data(*_parts(validation_data), prefix="validation ")
            if fraction := checks.check_number(
                validation_fraction, "validation_fraction", least=0.0, below=1.0
            ):
                if validation is not None:
                    raise ValueError("pass validation_data or validation_fraction, not both.")
                generator = restore_generator(saving.begun) if saving.saved else self._generator
                data, validation = self._hold_out(data, fraction, generator)
            if measured and validation is None:
                raise ValueError(
                    "metrics are measured on validation data: pass validation_data or "
                    "validation_fraction."
                )
            _check_metrics(measured, validation or data)
            looks = [one.every for one in callbacks if one.every]
            run = Run(
                optimizer,
                checks.check_integer(epochs, "epochs"),
                checks.check_batch_size(batch_size, data.x.shape[0]),
                shuffle,
                terms,
                measured,
                looks if checkpoint_every is None else [*looks, checkpoint_every],
                progress,
                should_stop or (lambda: False),
            )
            if self.classifies:
                output = self.model.activations[-1].name
                checks.warn_of_unreachable(data.y, "y", output, xp=self.xp)
            self._warm = (self._warm or _Warm(run)) if warm_start else None
            if self._warm:
                self._warm.check(run)
            return self._train(data, validation, run, early_stopping, callbacks, saving)

    def partial_fit(self, x: Any, y: Any, **options: Any) -> EpochRecord:
        """Train on some samples more: one pass over them, the optimizer going on where it was.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).
            options: those of :meth:`fit`, but for ``epochs`` and ``warm_start``; the optimizer and
                dropout must be the same at each call.

        Returns:
            The record of the pass.

        Raises:
            ValueError, TypeError, DivergenceError, OutOfMemoryError: as for :meth:`fit`; the
                parameters are then those of before, and the optimizer starts at rest again.

        Examples:
            >>> net = Network([1, 1], cost="binary_cross_entropy", seed=0)
            >>> for _ in range(20):
            ...     record = net.partial_fit([[0.0], [1.0]], [0, 1], optimizer=SGD(5.0))
            >>> net.predict([[0.0], [1.0]])
            array([0, 1])
        """
        settings: dict[str, Any] = {"progress": False} | options
        return self.fit(x, y, epochs=1, warm_start=True, **settings)[-1]

    def _train(
        self,
        data: Data,
        validation: Data | None,
        run: Run,
        stopping: EarlyStopping | None,
        callbacks: Sequence[Callback],
        saving: checkpoints.Saving,
    ) -> History:
        """Run, keep the parameters as they come, and tell the callbacks."""
        where = {"place": self._place, "dtype": self._dtype, "generator": self._generator}
        position = training.start(self.model, self._layers, run, **where)
        warm, self._warm = self._warm, None
        if warm and warm.position:
            state = warm.position.state._replace(layers=position.state.layers)
            position = position._replace(state=state, step=warm.position.step)
        history, best, settings = History(), None, {}
        if saving.path or saving.saved:
            settings = checkpoints.settings_of(run, data, validation)
        if saving.saved:
            position, history, best = self._resume(saving.saved, settings, position)
        looks = training.train(self.model, data, validation, run, history, position, **where)

        def save(position: Position) -> None:
            if saving.path:
                tensors, header = checkpoints.pack(position, history, best, settings)
                header |= self._header() | {"kind": "run", "begun": saving.begun}
                persistence.keep_previous(saving.path)
                persistence.write_tensors(saving.path, tensors, header)

        for callback in callbacks:
            callback.on_train_start(self, history)
        try:
            if saving.saved and (position.epoch > run.epochs):
                logger.info("%s: all %d epochs are run already.", saving.saved.path, run.epochs)
            if stopping and stopping.is_over(history):
                history.stopped = "early"
                return history
            for callback in callbacks:
                callback.on_epoch_start(self, history)
            with contextlib.closing(looks):
                for look in looks:
                    self._layers = look.layers
                    position, history.steps = look.position, look.position.step
                    if look.record is None:
                        step, every = look.position.step, saving.every
                        if look.interrupted or (every and step % every == 0):
                            save(look.position)
                        asked = [
                            callback.on_steps(self, history, step)
                            for callback in due(callbacks, step)
                        ]
                    else:
                        history.records.append(look.record)
                        if stopping and stopping.best_epoch(history) == look.record.epoch:
                            best, history.best_epoch = look.layers, look.record.epoch
                        save(look.position)
                        asked = [callback.on_epoch_end(self, history) for callback in callbacks]
                        if stopping and stopping.is_over(history):
                            history.stopped = "early"
                            break
                    if any(asked):
                        history.stopped = "callback"
                        break
                    if look.interrupted:
                        history.stopped = "interrupt"
                    elif look.record is not None and look.record.epoch < run.epochs:
                        for callback in callbacks:
                            callback.on_epoch_start(self, history)
        finally:
            if stopping and stopping.restore_best and best is not None:
                self._layers = best
            for callback in callbacks:
                callback.on_train_end(self, history)
        if warm:
            self._warm = _Warm(run, position)
        return history

    def _resume(
        self, file: checkpoints.SavedRun, settings: dict[str, Any], fresh: Position
    ) -> checkpoints.Checkpoint:
        """Return what a checkpoint holds, and take its parameters."""
        path, tensors, header = file
        try:
            ours = self._header()
            for name in ("sizes", "activations", "cost", "dtype"):
                if header[name] != ours[name]:
                    raise ValueError(
                        f"its network has {name} {header[name]!r}, and this one {ours[name]!r}"
                    )
            saved = checkpoints.unpack(tensors, header, settings, fresh.state, place=self._place)
            restore_generator(saved.position.order)
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoints.unfit(path, "be gone on with", error) from error
        self.layers, self.seed = saved.position.state.layers, checks.check_seed(header["seed"])
        return saved

    def _weigh_classes(self, data: Data, class_weight: Any) -> Data:
        """Return the data with each sample's weight times that of its class."""
        if not data.classes:
            raise ValueError("class_weight needs targets that are one class each.")
        y = data.y if data.y.shape[1] > 1 else self.xp.concat([1.0 - data.y, data.y], axis=1)
        counts = to_numpy(sum_rows(y, xp=self.xp))
        per_class = checks.check_class_weight(class_weight, counts)
        weights = y @ self._place.asarray(per_class, self._dtype)
        if data.weights is not None:
            weights = weights * data.weights
        return data._replace(weights=weights)

    def _hold_out(self, data: Data, fraction: float, generator: Any) -> tuple[Data, Data]:
        """Return training and validation data, parted at random, by class where there are any."""
        labels = None
        if data.classes:
            y = data.y
            labels = to_numpy(self.xp.argmax(y, axis=1) if y.shape[1] > 1 else y[:, 0])
        parts = training.split_rows(data.x.shape[0], fraction, labels, generator)
        take = [
            [self.xp.take(values, self._place.asarray(rows), axis=0) for values in data.arrays]
            for rows in parts
        ]
        (x, y, *weights), (xv, yv, *validation_weights) = take
        return (
            Data(x, y, data.classes, *weights),
            Data(xv, yv, data.classes, *validation_weights),
        )

    # -----------------------------------------------------------------------------------------
    # Where it lives

    def to(
        self,
        device: str | None = None,
        *,
        backend: str | Namespace | None = None,
        dtype: Any = None,
    ) -> "Network":
        """Return a copy of the network on another device; this one stays as it is.

        The copy's generator continues where this one's is.

        Args:
            device: as for :class:`Network`.
            backend: likewise.
            dtype: the dtype of the copy; None keeps it.

        Raises:
            DeviceError: the device does not work on this machine.
        """
        copy = Network.__new__(type(self))
        copy._settle(self.model, place(device, backend), dtype or self._dtype, self.seed)
        copy._generator = restore_generator(self._generator.bit_generator.state)
        with copy._place.active():
            copy.layers = [Layer(to_numpy(W), to_numpy(b)) for W, b in self._layers]
        return copy

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network to a safetensors file, which any backend can load.

        The file is complete or not there: it is written beside its place and then renamed.

        Args:
            path: the file; an older one of that name is replaced.

        Returns:
            The path.

        Raises:
            OSError: it could not be written; an older file is left as it was.
        """
        tensors = checkpoints.layer_tensors(self._layers)
        return persistence.write_tensors(path, tensors, self._header() | {"kind": "network"})

    def _header(self) -> dict[str, Any]:
        """Return what a file tells of a network besides its parameters."""
        return {
            "sizes": list(self.sizes),
            "activations": [activation.name for activation in self.model.activations],
            "cost": self.model.cost.name,
            "dtype": self._dtype,
            "seed": self.seed,
            "generator": self._generator.bit_generator.state,
        }

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        backend: str | Namespace | None = None,
        custom: Iterable[Activation | Cost | MatchedCost] = (),
    ) -> "Network":
        """Read a network that :meth:`save` wrote, or the one in a checkpoint of a run.

        Args:
            path: the file.
            device: where the network shall live, wherever it was saved; as for :class:`Network`.
            backend: likewise.
            custom: the activations and costs of one's own that the network was made with.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, or is no network; the message says what is wrong.
            DeviceError: the device does not work on this machine.
        """
        own = list(custom) if isinstance(custom, Iterable) else [custom]
        for one in own:
            if not isinstance(one, Activation | Cost | MatchedCost):
                raise TypeError(f"custom must hold Activations and Costs, not {one!r}.")
        tensors, header = persistence.read_tensors(path)
        try:
            model, dtype, seed = _read_header(header, own)
            generator = restore_generator(header["generator"])
            if header["kind"] == "run":
                tensors = {name: t for name, t in tensors.items() if name.startswith("layers.")}
            layers = _read_layers(tensors, len(model.activations), dtype)
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoints.unfit(path, "be read as a network", error) from error
        network = cls.__new__(cls)
        network._settle(model, place(device, backend), dtype, seed)
        network._generator = generator
        try:
            with network._place.active():
                network.layers = layers
        except ValueError as error:
            raise checkpoints.unfit(path, "be read as a network", error) from error
        return network

    # -----------------------------------------------------------------------------------------
    # The edge

    def _check_samples(self, x: Any, name: str = "x") -> Array:
        return checks.check_samples(
            x, name, place=self._place, dtype=self._dtype, columns=self.sizes[0]
        )

    def _check_data(self, x: Any, y: Any, weights: Any = None, prefix: str = "") -> Data:
        """Return inputs and targets on the device, labels made targets."""
        x = self._check_samples(x, prefix + "x")
        y, classes = self._check_targets(y, prefix + "y", x.shape[0])
        if weights is not None:
            weights = checks.check_sample_weight(
                weights,
                prefix + "sample_weight",
                place=self._place,
                dtype=self._dtype,
                rows=x.shape[0],
            )
        return Data(x, y, classes, weights)

    def _check_targets(self, y: Any, name: str, rows: int) -> tuple[Array, bool]:
        outputs = self.sizes[-1]
        y = checks.check_targets(y, name, place=self._place, dtype=self._dtype, rows=rows)
        if y.ndim == 1 and (self.classifies or outputs > 1):  # labels
            targets = checks.one_hot(y, name, classes=outputs, place=self._place, dtype=self._dtype)
            return targets, self.classifies
        if y.ndim == 1:  # one number a sample, for the one output of a regression
            y = checks.check_samples(
                y[:, None], name, place=self._place, dtype=self._dtype, columns=1
            )
        if y.shape[1] != outputs:
            raise ValueError(
                f"{name} has {y.shape[1]} columns, but the network has {outputs} outputs: pass "
                f"targets of shape (n_samples, {outputs}), or labels of shape (n_samples,)."
            )
        matched = isinstance(self.model.cost, MatchedCost)
        one_class = checks.check_target_range(
            y,
            name,
            bounded=matched and self.classifies,
            exclusive=matched and self.model.activations[-1].coupled,
            xp=self.xp,
        )
        return y, one_class and self.classifies


class _Warm(NamedTuple):
    """What a call with ``warm_start`` leaves for the next.

    Attributes:
        run: its settings.
        position: where it ended; None before the first.
    """

    run: Run
    position: Position | None = None

    def check(self, run: Run) -> None:
        """Refuse settings that the state does not fit."""
        if run.optimizer != self.run.optimizer:
            raise ValueError(
                f"warm_start goes on with the optimizer of the last call, {self.run.optimizer!r}, "
                f"not {run.optimizer!r}."
            )
        dropout, before = run.regularization.dropout, self.run.regularization.dropout
        if dropout != before or (dropout and run.batch_size != self.run.batch_size):
            raise ValueError(
                f"warm_start goes on with the dropout {before} and batch_size "
                f"{self.run.batch_size} of the last call, not {dropout} and {run.batch_size}."
            )


def _check_metrics(metrics: Sequence[Metric], data: Data) -> None:
    """Refuse metrics of classes where the targets are none."""
    for metric in metrics:
        if metric.needs_classes and not data.classes:
            raise ValueError(
                f"the metric {metric.name!r} needs targets that are one class each, and outputs "
                "that are probabilities."
            )


def _parts(validation_data: Any) -> Sequence[Any]:
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        came = type(validation_data).__name__
        size = f" of {len(validation_data)}" if hasattr(validation_data, "__len__") else ""
        raise TypeError(
            f"validation_data must be (x, y) or (x, y, sample weights), not a {came}{size}."
        )
    return validation_data


def _make_model(
    sizes: tuple[int, ...],
    activation: Any,
    output_activation: Any,
    cost: Any,
) -> Model:
    """Return the model that the arguments of Network describe."""
    activation = checks.one_for_each(activation, len(sizes) - 2, "activation", "hidden layers")
    hidden = [checks.check_choice(sigma, ACTIVATIONS, "activation") for sigma in activation]
    for sigma in hidden:
        if not isinstance(sigma, Activation):
            raise TypeError(f"activation must be a name or an Activation, not {sigma!r}.")
        if sigma.coupled:
            raise ValueError(
                f"{sigma.name} ties the neurons of a layer together: it serves as "
                "output_activation, not as activation of a hidden layer."
            )
    cost = checks.check_choice(cost, COSTS, "cost")
    if not isinstance(cost, Cost | MatchedCost):
        raise TypeError(f"cost must be a name or a Cost, not {cost!r}.")
    output = checks.check_choice(
        cost.output if output_activation is None else output_activation,
        ACTIVATIONS,
        "output_activation",
    )
    if not isinstance(output, Activation):
        raise TypeError(f"output_activation must be a name or an Activation, not {output!r}.")
    for own, known in ((cost, COSTS), *((sigma, ACTIVATIONS) for sigma in (*hidden, output))):
        if known.get(own.name, own) is not own:
            raise ValueError(
                f"{own.name!r} is the name of a function of bp_xp, which a saved network would be "
                "loaded with: give yours another."
            )
    if isinstance(cost, MatchedCost) and output.name != cost.output:
        raise ValueError(
            f"cost {cost.name!r} is computed together with output_activation={cost.output!r}; "
            f"{output.name!r} needs another cost, such as 'quadratic'."
        )
    if output.coupled and sizes[-1] == 1:
        raise ValueError(
            f"{output.name} of one output is always 1: use two outputs, or one with "
            "cost='binary_cross_entropy'."
        )
    return Model(sizes, (*hidden, output), cost)


def _read_header(
    header: dict[str, Any], own: Sequence[Activation | Cost | MatchedCost]
) -> tuple[Model, str, int]:
    """Return model, dtype and seed from the header of a file."""
    if header["kind"] not in ("network", "run"):
        raise ValueError(f"it holds a {header['kind']}")
    sigmas = ACTIVATIONS | {s.name: s for s in own if isinstance(s, Activation)}
    costs = COSTS | {c.name: c for c in own if not isinstance(c, Activation)}
    if not header["activations"]:
        raise ValueError("it names no activations")
    *hidden, output = (
        checks.check_choice(str(name), sigmas, "activation") for name in header["activations"]
    )
    cost = checks.check_choice(str(header["cost"]), costs, "cost")
    model = _make_model(checks.check_sizes(header["sizes"]), hidden, output, cost)
    return model, dtype_name(header["dtype"]), checks.check_seed(header["seed"])


def _read_layers(tensors: dict[str, Any], n_layers: int, dtype: str) -> list[Layer]:
    """Return the parameters among the tensors of a file; nothing else may be there."""
    names = [Layer(f"layers.{l}.W", f"layers.{l}.b") for l in range(n_layers)]  # noqa: E741
    expected = {name for pair in names for name in pair}
    if odd := sorted(expected ^ set(tensors)):
        fault = "is missing" if odd[0] in expected else "is not part of this network"
        raise ValueError(f"tensor {odd[0]!r} {fault}")
    for name, tensor in tensors.items():
        if tensor.dtype.name != dtype:
            raise ValueError(f"tensor {name!r} is {tensor.dtype}, not {dtype}")
    return [Layer(tensors[pair.W], tensors[pair.b]) for pair in names]


def _check_own_functions(model: Model, placement: Placement, dtype: str) -> None:
    """Try activations and costs of a user's own on two samples of three neurons."""
    own = [sigma for sigma in model.activations if ACTIVATIONS.get(sigma.name) is not sigma]
    cost = None if COSTS.get(model.cost.name) is model.cost else model.cost
    if not own and cost is None:
        return
    xp, z, y = placement.xp, *(placement.asarray([[v] * 3] * 2, dtype) for v in (0.5, 0.25))

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
                f"{function} of {name!r} must return an array of the dtype that it is given, "
                f"{dtype}, not {array.dtype}."
            )

    for sigma in own:
        a = sigma.sigma(z, xp=xp)
        check(sigma.name, "sigma", a, 2, 3)
        slope = (2, 3, 3) if sigma.coupled else (2, 3)
        check(sigma.name, "sigma_prime", sigma.sigma_prime(z, a, xp=xp), *slope)
    if cost is not None:
        slopes = cost.error if isinstance(cost, MatchedCost) else cost.gradient
        check(cost.name, "value", cost.value(z, y, xp=xp), 2)
        name = "error" if isinstance(cost, MatchedCost) else "gradient"
        check(cost.name, name, slopes(z, y, xp=xp), 2, 3)


def _make_initializers(model: Model, initializer: Any) -> list[Initializer]:
    """Return an initialiser for each layer."""
    if initializer is None:
        initializer = [suited_initializer(sigma.name) for sigma in model.activations]
    initializer = checks.one_for_each(initializer, len(model.activations), "initializer", "layers")
    chosen = [checks.check_choice(draw, INITIALIZERS, "initializer") for draw in initializer]
    for draw in chosen:
        if not callable(draw):
            raise TypeError(f"initializer must be a name or a function, not {draw!r}.")
    return chosen
