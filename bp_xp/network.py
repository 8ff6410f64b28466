"""Networks: layers of parameters on a device, and the operations on them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Unpack

from bp_xp import checks, inspection
from bp_xp._caller import own_arguments
from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.architecture import (
    OwnFunction,
    check_same_functions,
    make_initializers,
    make_model,
    named_model,
    own_functions,
)
from bp_xp.backends import dtype_name, place, to_numpy
from bp_xp.backends.registry import as_array, check_form
from bp_xp.inspection import BackpropTrace
from bp_xp.math import classes
from bp_xp.math.activations import Activation
from bp_xp.math.costs import Cost, MatchedCost
from bp_xp.math.initializers import Initializer, restore_generator
from bp_xp.math.regularization import Regularization
from bp_xp.optim import Optimizer
from bp_xp.parameters import Parameters
from bp_xp.sources import MemorySource, Samples, make_source
from bp_xp.sources.samples import make_samples
from bp_xp.storage import network_file
from bp_xp.training import evaluation, fitting, prediction
from bp_xp.training.arguments import MetricLike, RegularizationTerms, as_metrics
from bp_xp.training.callbacks import CallbackLike, EarlyStopping
from bp_xp.training.checkpoint import Checkpoint
from bp_xp.training.history import EpochRecord, History

__all__ = ["Network", "RegularizationTerms"]

OutFile = str | os.PathLike[str] | None


class Network(Parameters):
    """A multi-layer perceptron, trained by backpropagation and gradient descent.

    Args:
        sizes: neurons of each layer, inputs first: ``[784, 30, 10]``.
        activation: σ of the hidden layers, as a name or an :class:`~bp_xp.Activation`; or a list
            with one for each hidden layer.
        output_activation: σ of the output layer; None takes the one that goes with the cost
            (sigmoid for ``"quadratic"`` and ``"binary_cross_entropy"``, softmax for
            ``"categorical_cross_entropy"``, identity for ``"huber"``).
        cost: C, as a name (``"huber:delta=2"`` has settings) or a :class:`~bp_xp.Cost`.
        initializer: a name or a function (:data:`bp_xp.INITIALIZERS`), or a list with one for each
            layer; None takes He for the ReLU family and the book's scaled normal weights otherwise.
        device: the device of the network: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``; with a
            backend, a device name of that library. None is the CPU or the backend's default.
        backend: the array library, as a name or a module; None chooses by the device (NumPy, or
            CuPy for CUDA). See :func:`bp_xp.backends.place`.
        engine: how training steps are taken: ``"auto"`` takes the library's own engine, ``"plain"``
            takes one step after the other, and the name of an engine requires that one. All give
            the same run, within rounding.
        dtype: ``"float32"`` or ``"float64"``.
        seed: seed of the generator of weights and data order. None draws one from the operating
            system; the attribute ``seed`` records it.

    Attributes:
        seed: the seed.
        model: what the network computes, without its parameters.

    Raises:
        ValueError: a name, size or option is not valid; the message lists the valid ones.
        TypeError: an argument has the wrong type.
        DeviceError: the device does not work on this machine.
        ImportError: the backend is not installed.
        MemoryError: the parameters would not fit in this machine's memory.

    Examples:
        Four samples of exclusive or:

        >>> from bp_xp import SGD
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
        engine: str = "auto",
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> None:
        model = make_model(sizes, activation, output_activation, cost)
        initializers = make_initializers(model, initializer)
        checks.check_memory(model.sizes)
        self._settle(model, place(device, backend, engine), dtype, seed)
        shapes = zip(model.sizes[1:], model.sizes[:-1], strict=True)
        self.layers = [
            draw(self._generator, n_out, n_in)
            for draw, (n_out, n_in) in zip(initializers, shapes, strict=True)
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
        engine: str = "auto",
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> "Network":
        """Make a network from given parameters.

        The parameters do not determine the activations and the cost: pass these too, or call
        :meth:`with_layers` of a network that has them.

        Args:
            layers: pairs (W, b), or Layers, with W of shape (O, I) and b of shape (O,). They are
                copied; integers become floats.
            activation: as in :class:`Network`.
            output_activation: as in :class:`Network`.
            cost: as in :class:`Network`.
            device: as in :class:`Network`.
            backend: as in :class:`Network`.
            engine: as in :class:`Network`.
            dtype: as in :class:`Network`.
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
        for l, pair in enumerate(pairs):  # noqa: E741
            for name, values in zip(Layer._fields, pair, strict=True):
                check_form(values, f"layers[{l}].{name}")
        shapes = [tuple(as_array(W, "W").shape) for W, _ in pairs]
        if any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"each W must be a matrix (O, I); these have shapes {shapes}.")
        sizes = [shapes[0][1], *(n_out for n_out, _ in shapes)]
        network = cls.__new__(cls)
        model = make_model(sizes, activation, output_activation, cost)
        network._settle(model, place(device, backend, engine), dtype, seed)
        network.layers = pairs
        return network

    # -----------------------------------------------------------------------------------------
    # What it computes

    def __call__(self, x: Any) -> Array:
        """Return the activations of the output layer: :meth:`feedforward`."""
        return self.feedforward(x)

    def feedforward(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the activations of the output layer.

        Args:
            x: inputs, shape (N, I): host values, sparse or not, or an array on the device; or
                stored data or batches, as for :meth:`fit`.
            batch_size: samples passed through the network at a time, which bounds the memory.

        Returns:
            aᴸ, shape (N, O), on the network's device.

        Raises:
            ValueError: the shape is wrong, a value is not finite, or x is on another device.
            TypeError: x is an array of another library.
            OutOfMemoryError: the device has too little memory for so many samples at a time.
        """
        return prediction.predict(self, x, batch_size)

    def predict_proba(self, x: Any, *, batch_size: int = 4096, out: OutFile = None) -> Array:
        """Return the probability of each class.

        Args:
            x: inputs, shape (N, I).
            batch_size: the number of samples passed through the network at a time.
            out: as for :meth:`predict`.

        Returns:
            The outputs, shape (N, O). A single output is the probability of class 1, and becomes
            two columns. Several sigmoid outputs are separate probabilities: they need not sum to 1.

        Raises:
            ValueError: the outputs are not probabilities; or as for :meth:`feedforward`.
        """
        if not self.classifies:
            raise ValueError(
                f"the outputs of this network ({self.model.activations[-1].name}) are not "
                "probabilities: use feedforward, or make it with output_activation='softmax'."
            )
        return prediction.predict(self, x, batch_size, classes.probabilities, out)

    def predict(self, x: Any, *, batch_size: int = 4096, out: OutFile = None) -> Array:
        """Return the class of each sample, or the outputs if there are no classes.

        Args:
            x: inputs, shape (N, I); may be stored data or batches, as for :meth:`fit`.
            batch_size: the number of samples passed through the network at a time.
            out: a .npy file to write to, block by block; it appears once it is complete, and its
                memory-mapped array is returned. None returns an array on the device.

        Returns:
            Labels, shape (N,): the index of the largest output, or for a single output whether it
            is above ½. If the output activation is neither sigmoid nor softmax, the outputs, shape
            (N, O). For classes that are not mutually exclusive, use ``predict_proba(x) > 0.5``.

        Raises:
            ValueError: as for :meth:`feedforward`; or ``out`` is the file that x is read from.
            OSError: ``out`` could not be written; an older file is unchanged.
        """
        read = classes.labels if self.classifies else None
        return prediction.predict(self, x, batch_size, read, out)

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        metrics: MetricLike | Sequence[MetricLike] = (),
    ) -> dict[str, Any]:
        """Return the mean cost, the accuracy if the targets are classes, and other metrics.

        Args:
            x: inputs, shape (N, I); may be stored data or batches, as for :meth:`fit`.
            y: labels, shape (N,), or targets, shape (N, O).
            sample_weight: how much each sample counts, shape (N,), in the cost, the accuracy, and
                each metric that takes weights, as all metrics of bp_xp do.
            metrics: names of :data:`bp_xp.METRICS`, or functions of (outputs, targets, xp), or of
                (outputs, targets, weights, xp); one or a list.

        Returns:
            ``{"cost": ..., "accuracy": ..., ...}``; the cost has no L2 term. The accuracy is the
            share of samples whose label :meth:`predict` returns; it is omitted if the outputs are
            not probabilities, or the targets are not one class each. Metrics are numbers, except
            that the confusion matrix is a NumPy array.

        Raises:
            ValueError: shapes do not fit, a label is not a class, or a value is not finite.
            TypeError: an array belongs to another library.
        """
        measured = as_metrics(metrics)
        with self._placement.active():
            where: dict[str, Any] = {"placement": self._placement, "dtype": self._dtype}
            source = make_source(self.model, x, y, sample_weight, shuffle=False, **where)
            fitting.check_metrics(measured, source)
            x = source.samples.x if isinstance(source, MemorySource) else None
            given = self.model, self._layers_for(x), source
            cost, accuracy = evaluation.evaluate(*given, placement=self._placement)
            values = evaluation.measure(*given, measured, placement=self._placement)
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
            ValueError: shapes do not fit, a label is not a class, or a value is not finite.
            TypeError: an array belongs to another library.

        References:
            Nielsen, ch. 2: BP1 to BP4.
        """
        with self._placement.active():
            samples = self._samples(x, y)
            return evaluation.gradients(
                self.model, self._layers, samples.x, samples.y, placement=self._placement
            )

    def trace(self, x: Any, y: Any) -> BackpropTrace:
        """Return every intermediate quantity of backpropagation.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).

        Returns:
            The mean cost, and for each layer W, b, z, a, σ′(z), δ and the derivatives of
            :meth:`backprop`, on the network's device. It prints as a table.

        Raises:
            ValueError: shapes do not fit, a label is not a class, or a value is not finite.
            TypeError: an array belongs to another library.

        References:
            Nielsen, ch. 2: BP1 to BP4.

        Examples:
            >>> net = Network([2, 3, 1], seed=0)
            >>> trace = net.trace([[0.0, 1.0], [1.0, 1.0]], [[1.0], [0.0]])
            >>> trace.layers[0].delta.shape
            (2, 3)
        """
        with self._placement.active():
            samples = self._samples(x, y)
            return inspection.trace(self.model, self._layers, samples.x, samples.y, xp=self.xp)

    # -----------------------------------------------------------------------------------------
    # How it learns

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        class_weight: Mapping[Any, float] | str | None = None,
        epochs: int = 10,
        batch_size: int | None = None,
        shuffle: bool = True,
        optimizer: Optimizer | str = "sgd",
        regularization: Regularization | None = None,
        trainable: Sequence[bool] | None = None,
        validation_data: Any = None,
        metrics: MetricLike | Sequence[MetricLike] = (),
        early_stopping: EarlyStopping | int | None = None,
        callbacks: CallbackLike | Sequence[CallbackLike | EarlyStopping] = (),
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
        warm_start: bool = False,
        progress: bool = True,
        distributed: Any = None,
        **terms: Unpack[RegularizationTerms],
    ) -> History:
        """Train on mini-batches.

        Args:
            x: inputs, shape (N, I), never changed. They are moved once; a sparse matrix is moved
                batch by batch. Stored data (``numpy.memmap``, an HDF5 or Zarr data set) is read
                when it is needed. Or batches, with ``y`` None: an iterable of (x, y) or
                (x, y, weights), or a function that returns one, restarted at each epoch.
                Mini-batches are cut from these rows in order; with ``batch_size`` None they have
                the size of the first batch. A :class:`~bp_xp.Stream` of either sets how it is read.
            y: labels, shape (N,), or targets, shape (N, O).
            sample_weight: how much each sample counts, shape (N,). Weight k is the same as k copies
                of the sample in its mini-batch, and weight 0 leaves it out.
            class_weight: how much each class counts, ``{label: weight}`` (1 for the others), times
                the sample's own weight. With ``"balanced"`` all classes count equally: the weights
                are N / (K · count).
            epochs: the number of passes over the data.
            batch_size: samples in a mini-batch; None is 32, or all samples if there are fewer. The
                last one of an epoch may be shorter: its gradient is the mean over its own samples.
            shuffle: whether each epoch has a new order, drawn from the network's generator.
            optimizer: an optimizer, or the name of one with its defaults: ``"sgd"`` (``SGD(0.1)``),
                ``"adagrad"``, ``"rmsprop"``, ``"adam"``, ``"adamw"``, ``"nadam"``. Its learning
                rate may be a schedule, or a list with a rate or schedule for each layer.
            regularization: penalties, dropout and limits together; or pass its fields by name, as
                in ``fit(x, y, l2=1e-4, dropout=0.5)``.
            trainable: whether each layer learns, as in ``[False, True]``; None lets all learn. The
                parameters of a layer that does not learn keep their bits: no penalty, limit or
                decay acts on them, and the norms of gradients do not include them.
            validation_data: (x, y) or (x, y, sample weights) to evaluate after each epoch, or
                batches of these; or a number, the share of samples in memory to hold out. The
                network's generator draws them, the same share of each class.
            metrics: what to measure on the validation data after each epoch: names of
                :data:`bp_xp.METRICS`, or functions of (outputs, targets, xp), or of (outputs,
                targets, weights, xp); one or a list. Each returns one number.
            early_stopping: ends the run when a value has stopped improving; a number n is
                ``EarlyStopping(patience=n)``.
            callbacks: :class:`~bp_xp.Callback` objects, or functions of (network, history) that
                are called after each epoch; one or a list. A callback that returns True ends the
                run; if it assigns ``network.layers``, training continues with these. The list may
                include an EarlyStopping.
            checkpoint: a file to keep the run in, or a :class:`~bp_xp.Checkpoint`, which sets how
                often to write it and whether to resume.
            warm_start: whether the optimizer, including the step of its schedule, continues where
                the previous call left it, if that call had warm_start too.
            progress: whether to show a bar on a terminal or in a notebook, and otherwise a line per
                epoch: in the log if the logger ``"bp_xp"`` has level INFO, else on standard error.
            distributed: how the processes that share the run communicate: ``"mpi"``, ``"torch"``,
                ``"jax"``, a communicator, or ``"auto"`` to detect it; see docs/distributed.md.
            terms: fields of :class:`~bp_xp.Regularization` by name: ``l1``, ``l2``, ``dropout``,
                ``clip_norm``, ``clip_value``, ``max_norm``.

        Returns:
            A record for each epoch. Ctrl-C completes the current step and returns the history so
            far, with ``history.stopped == "interrupt"``. The next call continues from these
            parameters and with the next data order; the optimizer starts at rest unless
            ``warm_start`` is true.

        Raises:
            ValueError: shapes do not fit, a label is not a class, a value is not finite, or a
                number is out of range.
            TypeError: an array belongs to another library, an argument has the wrong type, or the
                samples are an iterator, which cannot restart.
            TimeoutError: samples took longer than their :class:`~bp_xp.Stream` allows. After this
                and after any error in reading samples, the network and its checkpoint are as the
                last complete step left them.
            CheckpointError: the checkpoint is damaged, or belongs to a run with other settings.
            OSError: a checkpoint could not be written; the previous one is unchanged. Or a file of
                samples changed while it was read.
            DivergenceError: the cost, a parameter or the value that early stopping monitors is no
                longer finite. The network keeps the parameters of the previous epoch, or the best
                ones with early stopping.
            RuntimeError: the processes that share the run do not agree, or another one failed.
            OutOfMemoryError: a mini-batch needs more memory than the device has. The network keeps
                the parameters of the previous epoch; try a smaller ``batch_size``.

        References:
            Nielsen, ch. 1, 'Learning with gradient descent'; ch. 3 on regularization.
        """
        return fitting.fit(
            self,
            x,
            y,
            sample_weight=sample_weight,
            class_weight=class_weight,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            optimizer=optimizer,
            regularization=regularization,
            trainable=trainable,
            validation_data=validation_data,
            metrics=metrics,
            early_stopping=early_stopping,
            callbacks=callbacks,
            checkpoint_argument=checkpoint,
            warm_start=warm_start,
            progress=progress,
            distributed=distributed,
            terms=dict(terms),
        )

    def partial_fit(self, x: Any, y: Any, **options: Any) -> EpochRecord:
        """Train on more samples: one pass over them; the optimizer continues where it was.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).
            options: those of :meth:`fit` except ``epochs`` and ``warm_start``; the optimizer and
                dropout must be the same in each call.

        Returns:
            The record of the pass.

        Raises:
            ValueError, TypeError, DivergenceError, OutOfMemoryError: as for :meth:`fit`; the
                parameters are then those from before the call, and the optimizer starts at rest.

        Examples:
            >>> from bp_xp import SGD
            >>> net = Network([1, 1], cost="binary_cross_entropy", seed=0)
            >>> for _ in range(20):
            ...     record = net.partial_fit([[0.0], [1.0]], [0, 1], optimizer=SGD(5.0))
            >>> net.predict([[0.0], [1.0]])
            array([0, 1])
        """
        quiet: dict[str, Any] = {"progress": False} | options
        return self.fit(x, y, epochs=1, warm_start=True, **quiet)[-1]

    # -----------------------------------------------------------------------------------------
    # Where it lives

    def to(
        self,
        device: str | None = None,
        *,
        backend: str | Namespace | None = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> "Network":
        """Return a copy of the network on another device; this one does not change.

        The copy's generator continues from the current state of this network's.

        Args:
            device: as in :class:`Network`.
            backend: as in :class:`Network`.
            engine: as in :class:`Network`.
            dtype: the dtype of the copy; None keeps this network's.

        Raises:
            DeviceError: the device does not work on this machine.
        """
        copy = Network.__new__(type(self))
        copy._settle(self.model, place(device, backend, engine), dtype or self._dtype, self.seed)
        copy._generator = restore_generator(self._generator.bit_generator.state)
        copy.layers = map_leaves(to_numpy, self._layers)
        return copy

    def with_layers(self, layers: Iterable[tuple[Any, Any]]) -> "Network":
        """Return a copy with other parameters, but the same activations, cost, device and seed.

        Args:
            layers: pairs (W, b) of the same shapes as this network's; they are copied.

        Raises:
            ValueError: the shapes do not fit, or a value is not finite.
        """
        here = self._placement
        copy = self.to(here.device_name, backend=here.backend_word, engine=here.engine_word)
        copy.layers = layers
        return copy

    def __copy__(self) -> "Network":
        # If a copy shared the generator, it would change what this network draws.
        return deepcopy(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network to a safetensors file, which any backend can load.

        The write is atomic: a temporary file in the same folder is written and then renamed.

        Args:
            path: the file, with the extension .safetensors or none; an older file is replaced.

        Returns:
            The path.

        Raises:
            ValueError: the extension belongs to another format.
            OSError: the file could not be written; an older file is unchanged.
        """
        return network_file.write(path, network_file.NetworkFile(self.describe()))

    @classmethod
    @own_arguments
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        backend: str | Namespace | None = None,
        engine: str = "auto",
        custom: Iterable[Activation | Cost | MatchedCost] = (),
    ) -> "Network":
        """Read a network that :meth:`save` wrote, or the one in a checkpoint of a run.

        Args:
            path: the file.
            device: where to put the network, on any device, as in :class:`Network`.
            backend: as in :class:`Network`.
            engine: as in :class:`Network`.
            custom: the custom activations and costs that the network was made with.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged, or does not hold a network, or a function in
                ``custom`` differs from the one of that name when the file was saved; the message
                says what is wrong.
            DeviceError: the device does not work on this machine.
        """
        own = list(custom) if isinstance(custom, Iterable) else [custom]
        for one in own:
            if not isinstance(one, OwnFunction):
                raise TypeError(f"custom must hold Activations and Costs, not {one!r}.")
        saved = network_file.read(path).network
        network = cls.__new__(cls)
        try:
            model = named_model(saved.sizes, saved.activations, saved.cost, own)
            dtype, seed = dtype_name(saved.dtype), checks.check_seed(saved.seed)
            generator = restore_generator(saved.generator)
        except (KeyError, TypeError, ValueError) as error:
            raise network_file.unfit(path, "be read as a network", error) from error
        network._settle(model, place(device, backend, engine), dtype, seed)
        network._generator = generator
        try:
            network.layers = saved.layers
            with network.placement.active():
                own_now = own_functions(model, network.placement, dtype)
            check_same_functions(saved.own, own_now)
        except (TypeError, ValueError) as error:
            raise network_file.unfit(path, "be read as a network", error) from error
        return network

    def _samples(self, x: Any, y: Any, weights: Any = None) -> Samples:
        """Return samples on the device, checked."""
        where: dict[str, Any] = {"placement": self._placement, "dtype": self._dtype}
        return make_samples(self.model, x, y, weights, **where)
