"""Networks: layers of parameters on a device, and what can be done with them."""

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
        output_activation: σ of the output layer; None takes the one that belongs to the cost
            (sigmoid for ``"quadratic"`` and ``"binary_cross_entropy"``, softmax for
            ``"categorical_cross_entropy"``, identity for ``"huber"``).
        cost: C, as a name (``"huber:delta=2"`` has settings) or a :class:`~bp_xp.Cost`.
        initializer: a name or a function (:data:`bp_xp.INITIALIZERS`), or a list with one for each
            layer; None takes He for the ReLU family and the book's scaled normal weights elsewhere.
        device: where the network lives: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``; with a
            backend, in that library's words. None is the CPU or the backend's default.
        backend: the array library: None chooses by the device (NumPy, or CuPy for CUDA); else a
            name or a module. See :func:`bp_xp.backends.place`.
        engine: how training steps are taken: ``"auto"`` is the library's own way, ``"plain"`` one
            step after the other; the name of an engine insists on it. All give the same run, within
            rounding.
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
        """Make a network of given parameters.

        These alone do not tell what the layers do with them: name the activations and the cost, or
        ask a network that has them for :meth:`with_layers`.

        Args:
            layers: pairs (W, b), or Layers, with W of shape (O, I) and b of shape (O,). They are
                copied; integers become floats.
            activation: as for :class:`Network`, like all that follow.
            output_activation: likewise.
            cost: likewise.
            device: likewise.
            backend: likewise.
            engine: likewise.
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
            x: inputs, shape (N, I): host values, sparse or not, or an array on the device; or what
                is stored or comes in batches, as for :meth:`fit`.
            batch_size: samples taken through the network at once, which bounds the memory.

        Returns:
            aᴸ, shape (N, O), on the network's device.

        Raises:
            ValueError: the shape is wrong, a value is not finite, or x is on another device.
            TypeError: x is an array of another library.
            OutOfMemoryError: the device has too little memory for so many samples at once.
        """
        return prediction.predict(self, x, batch_size)

    def predict_proba(self, x: Any, *, batch_size: int = 4096, out: OutFile = None) -> Array:
        """Return the probability of each class.

        Args:
            x: inputs, shape (N, I).
            batch_size: samples taken through the network at once.
            out: as for :meth:`predict`.

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
        return prediction.predict(self, x, batch_size, classes.probabilities, out)

    def predict(self, x: Any, *, batch_size: int = 4096, out: OutFile = None) -> Array:
        """Return the class of each sample; without classes, the outputs.

        Args:
            x: inputs, shape (N, I); stored or in batches, as for :meth:`fit`.
            batch_size: samples taken through the network at once.
            out: a .npy file to write to, block by block, which is there once it is whole; what
                comes back is its array, mapped. None returns an array on the device.

        Returns:
            Labels, shape (N,): the largest output, or for one output whether it is above ½. Where
            the output activation is neither sigmoid nor softmax, the outputs, shape (N, O). For
            classes that do not exclude each other, use ``predict_proba(x) > 0.5``.

        Raises:
            ValueError: as for :meth:`feedforward`; or ``out`` is what x is read from.
            OSError: ``out`` could not be written; an older file is left as it was.
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
        """Return the mean cost, the accuracy where the targets are classes, and other metrics.

        Args:
            x: inputs, shape (N, I); stored or in batches, as for :meth:`fit`.
            y: labels, shape (N,), or targets, shape (N, O).
            sample_weight: how much each sample counts, shape (N,): for the cost, the accuracy, and
                each metric that takes weights, as all of bp_xp's do.
            metrics: names of :data:`bp_xp.METRICS`, or functions of (outputs, targets, xp), or of
                (outputs, targets, weights, xp); one or a list.

        Returns:
            ``{"cost": ..., "accuracy": ..., ...}``; the cost has no L2 term. The accuracy is the
            share of samples whose label :meth:`predict` gives; it is left out where the outputs are
            no probabilities, or the targets are not one class each. Metrics are numbers, the
            confusion matrix is a NumPy array.

        Raises:
            ValueError: shapes do not fit, a label is not a class, a value is not finite.
            TypeError: an array of another library.
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
            ValueError: shapes do not fit, a label is not a class, a value is not finite.
            TypeError: an array of another library.

        References:
            Nielsen, ch. 2: BP1 to BP4.
        """
        with self._placement.active():
            samples = self._samples(x, y)
            return evaluation.gradients(
                self.model, self._layers, samples.x, samples.y, placement=self._placement
            )

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
            x: inputs, shape (N, I), never changed; moved once, a sparse matrix batch by batch. What
                is stored (``numpy.memmap``, a data set of HDF5 or Zarr) is read as it is needed. Or
                batches, with ``y`` None: a function that returns, or an object that is, an iterable
                of (x, y) or (x, y, weights), begun again at each epoch. Mini-batches are cut from
                these rows in their order; ``batch_size`` None is that of the first. A
                :class:`~bp_xp.Stream` of either says how it is read.
            y: labels, shape (N,), or targets, shape (N, O).
            sample_weight: how much each sample counts, shape (N,). Weight k is k copies of the
                sample in its mini-batch, and 0 its absence.
            class_weight: how much each class counts, ``{label: weight}`` (others 1), times the
                sample's own weight; ``"balanced"`` lets all classes count alike, N / (K · count).
            epochs: passes over the data.
            batch_size: samples in a mini-batch; None is 32, or all where there are fewer. The last
                of an epoch may be shorter: its gradient is the mean over the samples it holds.
            shuffle: whether each epoch has a new order, drawn from the network's generator.
            optimizer: an optimizer, or the name of one with its defaults: ``"sgd"`` (``SGD(0.1)``),
                ``"adagrad"``, ``"rmsprop"``, ``"adam"``, ``"adamw"``. Its learning rate may be a
                schedule, or a list with a rate or schedule for each layer that learns.
            regularization: penalties, dropout and limits together; or pass its fields by name, as
                in ``fit(x, y, l2=1e-4, dropout=0.5)``.
            trainable: whether each layer learns, as in ``[False, True]``; None lets all learn. A
                layer that does not is as it was, to the bit: no penalty, limit or decay acts on it,
                and the norms of gradients leave it out.
            validation_data: (x, y) or (x, y, sample weights) to evaluate after each epoch, or what
                yields batches of these; or a number, the share of samples in memory to hold out for
                it, drawn from the network's generator, each class its share.
            metrics: what to measure on the validation data after each epoch: names of
                :data:`bp_xp.METRICS`, or functions of (outputs, targets, xp), or of (outputs,
                targets, weights, xp); one or a list. Each is one number.
            early_stopping: ends the run when a value has stopped improving; a number n is
                ``EarlyStopping(patience=n)``.
            callbacks: objects of :class:`~bp_xp.Callback`, or functions of (network, history) that
                are called after each epoch, one or a list; one that returns True ends the run, and
                one that assigns ``network.layers`` is heard. An EarlyStopping may stand among them.
            checkpoint: a file to keep the run in, or a :class:`~bp_xp.Checkpoint`, which says how
                often and whether to resume.
            warm_start: whether the optimizer goes on from where the call before left it, the step
                of its schedule included, if that had warm_start as well.
            progress: whether to show a bar on a terminal and in a notebook, and otherwise a line an
                epoch: in the log, where logger ``"bp_xp"`` has level INFO, or on standard error.
            distributed: how those that share the run talk: ``"mpi"``, ``"torch"``, ``"jax"``, a
                communicator, or ``"auto"`` for what there is; see docs/distributed.md.
            terms: fields of :class:`~bp_xp.Regularization` by name: ``l1``, ``l2``, ``dropout``,
                ``clip_norm``, ``clip_value``, ``max_norm``.

        Returns:
            A record for each epoch. Ctrl-C completes the step under way and returns what there is,
            with ``history.stopped == "interrupt"``. The next call goes on from these parameters and
            with the next data order; an optimizer starts at rest unless ``warm_start``.

        Raises:
            ValueError: shapes do not fit, a label is not a class, a value is not finite, a number
                is out of range.
            TypeError: an array of another library, an argument of the wrong kind, an iterator,
                which can't begin again.
            TimeoutError: samples took longer than their :class:`~bp_xp.Stream` allows. This and any
                error of who reads them leave the network, and its checkpoint, as the last whole
                step did.
            CheckpointError: the checkpoint is damaged, or is of a run with other settings.
            OSError: a checkpoint could not be written; the one before is left as it was. Or a file
                of samples changed while it was read.
            DivergenceError: the cost, a parameter or what early stopping monitors is no longer
                finite. The network keeps the parameters of the last epoch before, or the best ones
                with early stopping.
            RuntimeError: those that share the run do not agree, or one of the others failed.
            OutOfMemoryError: a mini-batch needs more memory than the device has. The network keeps
                the parameters of the last epoch before; a smaller ``batch_size`` can be tried.

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
        """Return a copy of the network on another device; this one stays as it is.

        The copy's generator continues where this one's is.

        Args:
            device: as for :class:`Network`.
            backend: likewise.
            engine: likewise.
            dtype: the dtype of the copy; None keeps it.

        Raises:
            DeviceError: the device does not work on this machine.
        """
        copy = Network.__new__(type(self))
        copy._settle(self.model, place(device, backend, engine), dtype or self._dtype, self.seed)
        copy._generator = restore_generator(self._generator.bit_generator.state)
        copy.layers = map_leaves(to_numpy, self._layers)
        return copy

    def with_layers(self, layers: Iterable[tuple[Any, Any]]) -> "Network":
        """Return a copy with other parameters; activations, cost, place and seed are this one's.

        Args:
            layers: pairs (W, b) of the shapes of this network's; they are copied.

        Raises:
            ValueError: the shapes do not fit, or a value is not finite.
        """
        here = self._placement
        copy = self.to(here.device_name, backend=here.backend_word, engine=here.engine_word)
        copy.layers = layers
        return copy

    def __copy__(self) -> "Network":
        # A copy that shared the generator would change what this one draws.
        return deepcopy(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network to a safetensors file, which any backend can load.

        The file is complete or not there: it is written beside its place and then renamed.

        Args:
            path: the file, which ends in .safetensors or in nothing; an older one is replaced.

        Returns:
            The path.

        Raises:
            ValueError: the name promises another format.
            OSError: it could not be written; an older file is left as it was.
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
            device: where the network shall live, wherever it was saved; as for :class:`Network`.
            backend: likewise.
            engine: likewise.
            custom: the activations and costs of one's own that the network was made with.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, or is no network, or a function of ``custom`` is another
                than the one of that name then; the message says what is wrong.
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
