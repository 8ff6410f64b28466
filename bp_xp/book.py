"""The network of the book, with the book's names and shapes, on any library and device.

A script that was written for the class of Nielsen's *Neural Networks and Deep Learning*, chapters 1
and 2, runs on a GPU by changing its import:

    >>> from bp_xp import book as network
    >>> net = network.Network([784, 30, 10], device="cpu")  # or "cuda", or "auto"

A sample is a pair (x, y) of columns, x of shape (n, 1) and y of shape (k, 1); in test data y is a
whole number. Weights and order come from the generators that the book uses, so the book's seeds
give the book's run. Only the arithmetic differs: a mini-batch is backpropagated as one matrix
product a layer (the exercise that chapter 2 leaves open), and the data goes to the device once.

References:
    M. Nielsen, *Neural Networks and Deep Learning*, Determination Press, 2015, chapters 1 and 2.
"""

import functools
import operator
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import dtype_name, library_of, place, to_numpy
from bp_xp.backends.registry import active_for, as_array
from bp_xp.datasets import load_mnist
from bp_xp.engines import PLAIN
from bp_xp.errors import DataFormatError, DivergenceError
from bp_xp.math import backprop
from bp_xp.math.activations import ACTIVATIONS
from bp_xp.math.costs import COSTS, Cost
from bp_xp.math.model import Model
from bp_xp.math.rows import row_blocks
from bp_xp.sources import intake
from bp_xp.training.divergence import are_finite
from bp_xp.training.evaluation import ROWS_AT_ONCE

__all__ = ["Network", "load_data_wrapper", "sigmoid", "sigmoid_prime"]

_SIGMOID = ACTIVATIONS["sigmoid"]

# Mini-batches are gathered from the shuffled data some at a time: one look-up serves them all, and
# on a CPU they stay in its cache.
_BATCHES_AT_ONCE = 64


class Network:
    """A sigmoid network with the quadratic cost, trained as in the book.

    The first weights are drawn from NumPy's global generator (``np.random.seed``) as the book draws
    them, all biases before all weights; the order of the samples is shuffled by ``random.shuffle``.

    A subclass may override any method. :meth:`SGD` calls :meth:`update_mini_batch` and
    :meth:`evaluate`, :meth:`evaluate` calls :meth:`feedforward`, and the equations take ∇ₐC from
    :meth:`cost_derivative`. Where :meth:`backprop` is overridden, it is called for each sample.

    Args:
        sizes: neurons of each layer, inputs first: ``[784, 30, 10]``.
        device: where the network lives, as for :class:`bp_xp.Network`.
        backend: the array library, likewise.
        dtype: ``"float64"``, as in the book, or ``"float32"``, which is faster.

    Attributes:
        num_layers: how many layers there are, the inputs counted.
        sizes: neurons of each layer.

    Raises:
        ValueError: a size, name or option that does not exist.
        DeviceError: the device does not work on this machine.
        ImportError: the backend is not installed.

    Examples:
        Exclusive or; four samples, each a pair of columns:

        >>> np.random.seed(1)
        >>> random.seed(1)
        >>> net = Network([2, 4, 1])
        >>> pairs = [([[i], [j]], [[i ^ j]]) for i in (0, 1) for j in (0, 1)]
        >>> net.SGD(pairs * 250, epochs=3, mini_batch_size=4, eta=3.0)
        Epoch 0 complete
        Epoch 1 complete
        Epoch 2 complete
        >>> [round(float(net.feedforward(x)[0, 0])) for x, _ in pairs]
        [0, 1, 1, 0]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        device: str | None = None,
        backend: str | Namespace | None = None,
        dtype: Any = "float64",
    ) -> None:
        self.sizes: list[int] = list(checks.check_sizes(sizes))
        self.num_layers: int = len(self.sizes)
        checks.check_memory(self.sizes)
        self._placement = place(device, backend)
        self._dtype = dtype_name(dtype)
        self._placement.dtype(self._dtype)
        self.biases = [np.random.randn(y, 1) for y in self.sizes[1:]]
        self.weights = [
            np.random.randn(y, x) for x, y in zip(self.sizes[:-1], self.sizes[1:], strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        # Arrays of the host, set last: no library need be there to read a pickle.
        home = {name: list(map(to_numpy, getattr(self, name))) for name in ("biases", "weights")}
        return {k: v for k, v in vars(self).items() if k[1:] not in home} | home

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    # -----------------------------------------------------------------------------------------
    # Parameters

    @property
    def biases(self) -> list[Array]:
        """The biases of each layer after the inputs, columns of shape (n_out, 1).

        The list or an item of it can be assigned. Training makes new lists and new arrays.
        """
        return self._biases

    @biases.setter
    def biases(self, biases: Iterable[Any]) -> None:
        self._biases = _Parameters(self._check_biases(biases), self._check_biases)

    @property
    def weights(self) -> list[Array]:
        """The weights of each layer after the inputs, shape (n_out, n_in).

        The list or an item of it can be assigned. Training makes new lists and new arrays.
        """
        return self._weights

    @weights.setter
    def weights(self, weights: Iterable[Any]) -> None:
        self._weights = _Parameters(self._check_weights(weights), self._check_weights)

    def _check_biases(self, biases: Iterable[Any]) -> list[Array]:
        return self._check_parameters(biases, "biases", [(n, 1) for n in self.sizes[1:]])

    def _check_weights(self, weights: Iterable[Any]) -> list[Array]:
        shapes = zip(self.sizes[1:], self.sizes[:-1], strict=True)
        return self._check_parameters(weights, "weights", list(shapes))

    def _check_parameters(
        self, values: Iterable[Any], name: str, shapes: Sequence[tuple[int, int]]
    ) -> list[Array]:
        """Return copies of parameters on the device."""
        arrays = list(values)
        if len(arrays) != len(shapes):
            raise ValueError(
                f"{name} must hold {len(shapes)} arrays, one for each layer after the inputs, not "
                f"{len(arrays)}."
            )
        with self._placement.active():
            checked = [
                intake.check_parameter(
                    array, f"{name}[{l}]", placement=self._placement, dtype=self._dtype, ndim=2
                )
                for l, array in enumerate(arrays)  # noqa: E741 - the book's index of layers
            ]
        for l, (array, shape) in enumerate(zip(checked, shapes, strict=True)):  # noqa: E741
            if tuple(array.shape) != shape:
                raise ValueError(f"{name}[{l}] must have shape {shape}, not {tuple(array.shape)}.")
        return checked

    def _layers(self) -> list[Layer]:
        return _as_layers(self._biases, self._weights)

    def _model(self) -> Model:
        """Return what the network computes; ∇ₐC is that of :meth:`cost_derivative`."""
        cost = COSTS["quadratic"]
        if self._overrides("cost_derivative"):

            def gradient(a: Array, y: Array, *, xp: Namespace) -> Array:
                # Rows are samples in the equations, columns are in the book.
                return self.cost_derivative(a.mT, y.mT).mT

            # The book never computes the cost itself, and neither does this class.
            cost = Cost("overridden", value=gradient, gradient=gradient)
        return Model(tuple(self.sizes), (_SIGMOID,) * (self.num_layers - 1), cost)

    def _overrides(self, method: str) -> bool:
        """Whether a subclass, or an assignment to this network, replaces one of the methods."""
        return getattr(getattr(self, method), "__func__", None) is not getattr(Network, method)

    # -----------------------------------------------------------------------------------------
    # What the book's class does

    def feedforward(self, a: Any) -> Array:
        """Return the outputs for the inputs a.

        Args:
            a: a column of shape (n, 1), or N of them side by side, shape (n, N).

        Returns:
            The activations of the output layer, shape (k, 1) or (k, N), on the device.

        Raises:
            ValueError: the shape is wrong, or a value is not finite.
            TypeError: an array of another library.
        """
        with self._placement.active():
            x = self._rows(a, "a", self.sizes[0])
            return backprop.feedforward(self._model(), self._layers(), x, xp=self._placement.xp).mT

    def SGD(  # noqa: N802 - the book's name
        self,
        training_data: Iterable[tuple[Any, Any]],
        epochs: int,
        mini_batch_size: int,
        eta: float,
        test_data: Iterable[tuple[Any, Any]] | None = None,
    ) -> None:
        """Train by stochastic gradient descent, and print a line for each epoch.

        Args:
            training_data: pairs of columns (x, y), in a list or an iterator; not changed.
            epochs: passes over the data.
            mini_batch_size: samples in a mini-batch; the last of an epoch may be shorter.
            eta: η, the learning rate.
            test_data: pairs (x, y) with y a whole number, judged after each epoch; this takes
                time.

        Raises:
            ValueError: a shape or a number is wrong, or a value is not finite.
            TypeError: an array of another library, an argument of the wrong kind.
            DivergenceError: a parameter is no longer finite after an epoch. The network keeps
                those from before that epoch.

        References:
            Nielsen, ch. 1, 'Implementing our network to classify digits'.
        """
        epochs = checks.check_integer(epochs, "epochs", least=0)
        mini_batch_size = checks.check_integer(mini_batch_size, "mini_batch_size")
        eta = checks.check_number(eta, "eta")
        xp = self._placement.xp
        with self._placement.active():
            data = self._training_samples(training_data, "training_data")
            test_pairs = list(test_data) if test_data is not None else []
            test = self._test_samples(test_pairs, "test_data") if test_pairs else None
            order = list(range(len(data)))
            for j in range(epochs):
                before = self._biases, self._weights
                random.shuffle(order)
                index = self._placement.asarray(order)
                for rows in row_blocks(len(data), mini_batch_size * _BATCHES_AT_ONCE):
                    x = xp.take(data.x, index[rows], axis=0)
                    y = xp.take(data.y, index[rows], axis=0)
                    for k in row_blocks(x.shape[0], mini_batch_size):
                        self.update_mini_batch(_Samples(x[k, :], y[k, :]), eta)
                if not are_finite([*self._biases, *self._weights], xp=xp).all():
                    self._biases, self._weights = before
                    raise DivergenceError(
                        f"the run diverged in epoch {j}: a weight or bias is no longer finite. "
                        f"Try eta below {eta:g}. The network keeps the parameters of before that "
                        "epoch."
                    )
                if test is None:
                    print(f"Epoch {j} complete")
                else:
                    print(f"Epoch {j}: {self.evaluate(test)} / {len(test)}")

    def update_mini_batch(self, mini_batch: Iterable[tuple[Any, Any]], eta: float) -> None:
        """Take one step of gradient descent.

        w ← w − (η/m) Σ δ aᵀ, b ← b − (η/m) Σ δ

        Args:
            mini_batch: m pairs of columns (x, y).
            eta: η, the learning rate.

        Raises:
            ValueError: a shape is wrong, or a value is not finite.
            TypeError: an array of another library.

        References:
            Nielsen, ch. 1, eq. (20), (21).
        """
        eta = checks.check_number(eta, "eta")
        with self._placement.active():
            samples = self._training_samples(mini_batch, "mini_batch")
            biases, weights = list(self._biases), list(self._weights)
            if self._overrides("backprop"):
                nabla_b, nabla_w = self._mean_gradient(samples)
                moved = _descend(biases, nabla_b, eta), _descend(weights, nabla_w, eta)
            else:
                # A compiler takes pure functions only, and a subclass's need not be one.
                own = self._overrides("cost_derivative")
                engine = PLAIN if own else self._placement.engine
                step = engine.compile(_step, self._model(), self._placement.xp)
                moved = step(biases, weights, samples.x, samples.y, eta)
            self._biases = _Parameters(moved[0], self._check_biases)
            self._weights = _Parameters(moved[1], self._check_weights)

    def _mean_gradient(self, samples: "_Samples") -> tuple[list[Array], list[Array]]:
        """Average what a subclass's own backprop returns for each sample, as the book does."""
        nablas = [self.backprop(x, y) for x, y in samples]
        share = 1.0 / len(nablas)
        nabla_b, nabla_w = (
            [share * functools.reduce(operator.add, layer) for layer in zip(*part, strict=True)]
            for part in zip(*nablas, strict=True)
        )
        return nabla_b, nabla_w

    def backprop(self, x: Any, y: Any) -> tuple[list[Array], list[Array]]:
        """Return the gradient of one sample's cost.

        Args:
            x: inputs, a column of shape (n, 1).
            y: target, a column of shape (k, 1).

        Returns:
            ``(nabla_b, nabla_w)``: ∂C/∂b and ∂C/∂w of each layer, shaped as :attr:`biases` and
            :attr:`weights`.

        Raises:
            ValueError: a shape is wrong, or a value is not finite.
            TypeError: an array of another library.

        References:
            Nielsen, ch. 2, BP1 to BP4.
        """
        with self._placement.active():
            sample = self._training_samples([(x, y)], "sample")
            return _nabla(self._model(), self._layers(), sample.x, sample.y, xp=self._placement.xp)

    def evaluate(self, test_data: Iterable[tuple[Any, Any]]) -> int:
        """Return how many samples are told right, by the largest output.

        Args:
            test_data: pairs (x, y), x a column of shape (n, 1), y a whole number.

        Raises:
            ValueError: a shape is wrong, a y is not one of the outputs, a value is not finite.
            TypeError: an array of another library.
        """
        with self._placement.active():
            test = self._test_samples(test_data, "test_data")
            told = [
                self._placement.xp.argmax(self.feedforward(test.x[rows, :].mT), axis=0)
                for rows in row_blocks(len(test), ROWS_AT_ONCE)
            ]
            return int((np.concatenate([to_numpy(part) for part in told]) == test.y).sum())

    def cost_derivative(self, output_activations: Array, y: Array) -> Array:
        """Return ∂C/∂a for the outputs: a − y for the quadratic cost.

        A subclass with another cost overrides this.

        Args:
            output_activations: aᴸ, each column a sample, shape (k, m).
            y: targets, of the same shape.

        Returns:
            ∇ₐC of each sample, of the same shape.
        """
        with self._placement.active():
            return output_activations - y

    # -----------------------------------------------------------------------------------------
    # The edge

    def _rows(self, columns: Any, name: str, size: int) -> Array:
        """Return columns side by side, shape (size, N), as rows on the device, shape (N, size)."""
        values = as_array(columns, name)
        shape = tuple(values.shape)
        if len(shape) != 2 or shape[0] != size:
            hint = f": reshape it with {name}.reshape({size}, 1)" if shape == (size,) else ""
            raise ValueError(f"{name} must be a column of shape ({size}, 1), not {shape}{hint}.")
        return intake.check_samples(
            values.mT, name, placement=self._placement, dtype=self._dtype, columns=size
        )

    def _stacked(self, columns: Sequence[Any], name: str, size: int) -> Array:
        """Return a list of columns as rows on the device, shape (N, size)."""
        arrays = [as_array(column, f"{name} of sample {i}") for i, column in enumerate(columns)]
        for i, array in enumerate(arrays):
            if tuple(array.shape) != (size, 1):
                raise ValueError(
                    f"{name} of sample {i} must be a column of shape ({size}, 1), not "
                    f"{tuple(array.shape)}."
                )
        if all(isinstance(array, np.ndarray) for array in arrays):
            values = np.stack(arrays)[:, :, 0]
        else:
            owns = self._placement.library.owns
            # Host values among arrays of the device are moved; arrays of another library refused.
            rows = [a.mT if owns(a) else self._rows(a, name, size) for a in arrays]
            values = self._placement.xp.concat(rows, axis=0)
        return intake.check_samples(
            values, name, placement=self._placement, dtype=self._dtype, columns=size
        )

    def _training_samples(self, pairs: Iterable[tuple[Any, Any]], name: str) -> "_Samples":
        if isinstance(pairs, _Samples):
            return pairs
        xs, ys = _unzip(pairs, name)
        if np.ndim(ys[0]) == 0:
            raise ValueError(
                f"{name}: y of a training sample is a column of shape ({self.sizes[-1]}, 1), not "
                f"the number {ys[0]!r}: that is how test data is written."
            )
        return _Samples(
            self._stacked(xs, f"{name}: x", self.sizes[0]),
            self._stacked(ys, f"{name}: y", self.sizes[-1]),
        )

    def _test_samples(self, pairs: Iterable[tuple[Any, Any]], name: str) -> "_Samples":
        if isinstance(pairs, _Samples):
            return pairs
        xs, ys = _unzip(pairs, name)
        alike = len({np.shape(y) for y in ys}) == 1
        labels = np.asarray([to_numpy(y) for y in ys]) if alike else np.empty((0, 0))
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{name}: y of a test sample is a whole number, the index of the right output, not "
                f"{ys[0]!r}; training data is judged with numpy.argmax(y) for y."
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= self.sizes[-1]))
        if wrong.size:
            raise ValueError(
                f"{name}: y of sample {wrong[0]} is {labels[wrong[0]]}, and the network has "
                f"outputs 0 to {self.sizes[-1] - 1}."
            )
        return _Samples(self._stacked(xs, f"{name}: x", self.sizes[0]), labels)


class _Parameters(list[Any]):
    """A list of parameters that checks an item when it is assigned."""

    def __init__(self, arrays: Iterable[Array], check: Callable[[Iterable[Any]], list[Array]]):
        super().__init__(arrays)
        self.check = check

    def __setitem__(self, index: Any, values: Any) -> None:
        changed = list(self)
        changed[index] = values
        super().__setitem__(slice(None), self.check(changed))


class _Samples(Sequence[tuple[Array, Any]]):
    """Samples that are checked and on the device: rows to the equations, pairs to everyone else.

    Attributes:
        x: inputs, shape (N, n).
        y: targets, shape (N, k); or labels on the host, shape (N,).
    """

    def __init__(self, x: Array, y: Array):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        y = int(self.y[i]) if self.y.ndim == 1 else self.y[i, :][:, None]
        return self.x[i, :][:, None], y


# ---------------------------------------------------------------------------------------------
# One step, as a pure function of arrays


def _as_layers(biases: Iterable[Array], weights: Iterable[Array]) -> list[Layer]:
    """Return the parameters as the equations take them, b as a row."""
    return [Layer(w, b[:, 0]) for b, w in zip(biases, weights, strict=True)]


def _nabla(
    model: Model, layers: Sequence[Layer], x: Array, y: Array, *, xp: Namespace
) -> tuple[list[Array], list[Array]]:
    """Return the gradient of the mean cost, that of the biases as columns."""
    gradients, _ = backprop.backpropagate(model, layers, x, y, xp=xp)
    return [db[:, None] for _, db in gradients], [dw for dw, _ in gradients]


def _descend(parameters: Iterable[Array], nabla: Iterable[Array], eta: float) -> list[Array]:
    """Return w − η ∇C in new arrays; ``nabla`` is used up."""
    moved = []
    for w, step in zip(parameters, nabla, strict=True):
        step *= -eta
        step += w
        moved.append(step)
    return moved


def _step(
    model: Model,
    xp: Namespace,
    biases: list[Array],
    weights: list[Array],
    x: Array,
    y: Array,
    eta: float,
) -> tuple[list[Array], list[Array]]:
    """Return the biases and weights after one step of gradient descent."""
    nabla_b, nabla_w = _nabla(model, _as_layers(biases, weights), x, y, xp=xp)
    return _descend(biases, nabla_b, eta), _descend(weights, nabla_w, eta)


def _unzip(pairs: Iterable[tuple[Any, Any]], name: str) -> tuple[list[Any], list[Any]]:
    """Return the x and the y of a list or an iterator of pairs."""
    listed = list(pairs)
    if not listed:
        raise ValueError(
            f"{name} is empty: pass pairs (x, y). An iterator, such as zip, serves only once."
        )
    for i, pair in enumerate(listed):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{name}: sample {i} must be a pair (x, y), not {type(pair).__name__}.")
    return [x for x, _ in listed], [y for _, y in listed]


# ---------------------------------------------------------------------------------------------
# The functions beside the class


def sigmoid(z: Any) -> Array:
    """Return σ(z) = 1/(1 + e⁻ᶻ), elementwise, on the device that z is on.

    Examples:
        >>> float(sigmoid(0.0))
        0.5
    """
    z, xp = _own_kind(z)
    with active_for(z):
        return _SIGMOID.sigma(z, xp=xp)


def sigmoid_prime(z: Any) -> Array:
    """Return σ′(z) = σ(z)(1 − σ(z)), elementwise, on the device that z is on.

    Examples:
        >>> float(sigmoid_prime(0.0))
        0.25
    """
    z, xp = _own_kind(z)
    with active_for(z):
        return _SIGMOID.sigma_prime(z, _SIGMOID.sigma(z, xp=xp), xp=xp)


def _own_kind(z: Any) -> tuple[Array, Namespace]:
    library = library_of(z := as_array(z, "z"))
    if library is None or z.dtype == object:
        return np.asarray(z, dtype=np.float64), np
    return z, library.namespace()


def load_data_wrapper(
    folder: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[list[tuple[Any, Any]], list[tuple[Any, int]], list[tuple[Any, int]]]:
    """Return MNIST as the book's loader does.

    Args:
        folder: where the archives are, as for :func:`bp_xp.datasets.load_mnist`.
        download: False to use only files that are there.

    Returns:
        ``(training_data, validation_data, test_data)``: lists of 50,000, 10,000 and 10,000 pairs
        (x, y). x is a column of 784 pixels, float32, each byte / 256 as in the book's file; y is a
        column of shape (10, 1) with 1.0 for the digit in the training data, and the digit itself,
        an integer, in the other two.

    Raises:
        DownloadError: an archive is needed from the network and can't be had.
        FileNotFoundError: an archive is missing.
        DataFormatError: a file is damaged, or a label is no digit.
    """
    mnist = load_mnist(folder, download=download)
    if mnist.x_validation is None or mnist.y_validation is None:
        raise AssertionError("MNIST has a validation part")
    if mnist.n_outputs > 10:
        raise DataFormatError(
            f"labels go up to {mnist.n_outputs - 1}, and a digit is 0 to 9: load_mnist reads it."
        )
    targets = np.eye(10)[mnist.y_train][:, :, None]
    training_data = list(zip(_pixels(mnist.x_train), targets, strict=True))
    validation_data, test_data = (
        list(zip(_pixels(x), y.tolist(), strict=True))
        for x, y in ((mnist.x_validation, mnist.y_validation), (mnist.x_test, mnist.y_test))
    )
    return training_data, validation_data, test_data


def _pixels(x: np.ndarray) -> np.ndarray:
    """Return rows of byte / 255 as columns of byte / 256, exactly."""
    return (np.rint(x * np.float32(255)) * np.float32(1 / 256))[:, :, None]
