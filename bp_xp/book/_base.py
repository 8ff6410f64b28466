"""What the networks of all chapters share: parameters in columns, and one step of descent."""

import functools
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import dtype_name, place, to_numpy
from bp_xp.book._functions import SIGMOID
from bp_xp.book._samples import Intake, Samples
from bp_xp.engines import PLAIN
from bp_xp.errors import DivergenceError
from bp_xp.math import backprop
from bp_xp.math.costs import COSTS, Cost, MatchedCost
from bp_xp.math.model import Model
from bp_xp.math.regularization import add_l2_gradient
from bp_xp.math.rows import row_blocks
from bp_xp.sources import intake
from bp_xp.training.divergence import are_finite
from bp_xp.training.evaluation import ROWS_AT_ONCE

__all__ = ["BookNetwork", "overrides"]

# Mini-batches are gathered from the shuffled data several at a time: this takes a single look-up,
# and on a CPU they stay in its cache.
_BATCHES_AT_ONCE = 64


class BookNetwork:
    """A sigmoid network whose parameters are columns and matrices, as in the book.

    The network of a chapter draws its own initial parameters, and defines its cost in
    :meth:`_model` and :meth:`_has_own_functions`.
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

    def __repr__(self) -> str:
        count = sum(n_out * (n_in + 1) for n_out, n_in in self._shapes())
        words = [f"{self.sizes}", *self._words(), f"{self._placement}", self._dtype]
        return f"{type(self).__name__}({', '.join(words)}, {count:,} parameters)"

    def _words(self) -> list[str]:
        """Return what a repr shows besides the sizes and the device."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        # Arrays on the host, set last: reading a pickle needs no other library.
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

    def _draw_normal(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Draw N(0, 1) biases and weights, all biases before all weights as the book does."""
        biases = [np.random.randn(n_out, 1) for n_out in self.sizes[1:]]
        return biases, [np.random.randn(n_out, n_in) for n_out, n_in in self._shapes()]

    def _shapes(self) -> list[tuple[int, int]]:
        """Return the shapes of the weights."""
        return list(zip(self.sizes[1:], self.sizes[:-1], strict=True))

    def _check_biases(self, biases: Iterable[Any]) -> list[Array]:
        return self._check_parameters(biases, "biases", [(n, 1) for n in self.sizes[1:]])

    def _check_weights(self, weights: Iterable[Any]) -> list[Array]:
        return self._check_parameters(weights, "weights", self._shapes())

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

    @property
    def _intake(self) -> Intake:
        return Intake(self._placement, self._dtype, self.sizes[0], self.sizes[-1])

    # -----------------------------------------------------------------------------------------
    # The equations

    def _model(self) -> Model:
        """Return the model that the network trains."""
        raise NotImplementedError

    def _has_own_functions(self) -> bool:
        """Whether the cost consists of user-defined functions."""
        raise NotImplementedError

    def _sigmoid_model(self, cost: Cost | MatchedCost) -> Model:
        return Model(tuple(self.sizes), (SIGMOID,) * (self.num_layers - 1), cost)

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
            x = self._intake.rows(a, "a")
            model = self._sigmoid_model(COSTS["quadratic"])  # the cost is not used
            return backprop.feedforward(model, self._layers(), x, xp=self._placement.xp).mT

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
            sample = self._intake.training([(x, y)], "sample")
            gradients, _ = backprop.backpropagate(
                self._model(), self._layers(), sample.x, sample.y, xp=self._placement.xp
            )
            return _in_columns(gradients)

    def _descend(
        self, mini_batch: Iterable[tuple[Any, Any]], eta: Any, l2: float | None = None
    ) -> None:
        """Take one step of gradient descent over a mini-batch."""
        eta = checks.check_number(eta, "eta")
        with self._placement.active():
            samples = self._intake.training(mini_batch, "mini_batch")
            if overrides(self.backprop, BookNetwork.backprop):
                moved = _moved(self._layers(), self._mean_gradient(samples), eta, l2)
            else:
                # A compiler takes only pure functions, and user-defined ones need not be pure.
                engine = PLAIN if self._has_own_functions() else self._placement.engine
                step = engine.compile(_step, self._model(), self._placement.xp)
                moved = step(list(self._biases), list(self._weights), samples.x, samples.y, eta, l2)
            self._biases = _Parameters(moved[0], self._check_biases)
            self._weights = _Parameters(moved[1], self._check_weights)

    def _mean_gradient(self, samples: Samples) -> list[Layer]:
        """Average the results of a subclass's backprop for all samples, as the book does."""
        nablas = [self.backprop(x, y) for x, y in samples]
        share = 1.0 / len(nablas)
        nabla_b, nabla_w = (
            [share * functools.reduce(operator.add, layer) for layer in zip(*part, strict=True)]
            for part in zip(*nablas, strict=True)
        )
        return _as_layers(nabla_b, nabla_w)

    def _epochs(
        self,
        data: Samples,
        epochs: Any,
        mini_batch_size: Any,
        *,
        update: Callable[[Samples], None],
        remedy: str,
    ) -> Iterator[int]:
        """Train epoch by epoch, and yield the number of each epoch after its steps.

        Args:
            data: the training samples, shuffled by ``random.shuffle`` before each epoch.
            epochs: the number of passes over them.
            mini_batch_size: samples in a mini-batch; the last of an epoch may be shorter.
            update: takes the step for a mini-batch.
            remedy: what to try if a run diverges.

        Raises:
            ValueError: a number is out of range.
            TypeError: a number is not an integer.
            DivergenceError: a parameter is no longer finite after an epoch. The network keeps
                those from before that epoch.
        """
        epochs = checks.check_integer(epochs, "epochs", least=0)
        mini_batch_size = checks.check_integer(mini_batch_size, "mini_batch_size")
        xp = self._placement.xp
        order = list(range(len(data)))
        for j in range(epochs):
            before = self._biases, self._weights
            random.shuffle(order)
            index = self._placement.asarray(order)
            for rows in row_blocks(len(data), mini_batch_size * _BATCHES_AT_ONCE):
                x = xp.take(data.x, index[rows], axis=0)
                y = xp.take(data.y, index[rows], axis=0)
                for k in row_blocks(x.shape[0], mini_batch_size):
                    update(Samples(x[k, :], y[k, :]))
            parts = [*self._biases, *self._weights]
            if not are_finite(parts, placement=self._placement).all():
                self._biases, self._weights = before
                raise DivergenceError(
                    f"the run diverged in epoch {j}: a weight or bias is no longer finite. Try "
                    f"{remedy}. The network keeps the parameters from before that epoch."
                )
            yield j

    def _count_right(self, x: Array, labels: np.ndarray) -> int:
        """Return how many rows of x have their largest output at the index of their label."""
        told = [
            self._placement.xp.argmax(self.feedforward(x[rows, :].mT), axis=0)
            for rows in row_blocks(x.shape[0], ROWS_AT_ONCE)
        ]
        return int((np.concatenate([to_numpy(part) for part in told]) == labels).sum())


class _Parameters(list[Any]):
    """A list of parameters that checks an item when it is assigned."""

    def __init__(self, arrays: Iterable[Array], check: Callable[[Iterable[Any]], list[Array]]):
        super().__init__(arrays)
        self.check = check

    def __setitem__(self, index: Any, values: Any) -> None:
        changed = list(self)
        changed[index] = values
        super().__setitem__(slice(None), self.check(changed))


def overrides(method: Any, original: Any) -> bool:
    """Whether a network's method is overridden by a subclass, or assigned to the network."""
    return getattr(method, "__func__", None) is not original


# ---------------------------------------------------------------------------------------------
# One step, as a pure function of arrays


def _as_layers(biases: Iterable[Array], weights: Iterable[Array]) -> list[Layer]:
    """Return the parameters as the equations take them, b as a row."""
    return [Layer(w, b[:, 0]) for b, w in zip(biases, weights, strict=True)]


def _in_columns(layers: Sequence[Layer]) -> tuple[list[Array], list[Array]]:
    """Return biases and weights as in the book, b as a column."""
    return [b[:, None] for _, b in layers], [w for w, _ in layers]


def _moved(
    layers: Sequence[Layer], gradients: Sequence[Layer], eta: float, l2: float | None
) -> tuple[list[Array], list[Array]]:
    """Return the biases and weights after a step, in new arrays; the gradients are used up.

    w ← w − η(∂C/∂w + (λ/n) w) with l2 = λ/n, and b ← b − η ∂C/∂b
    """
    if l2 is not None:
        gradients = add_l2_gradient(gradients, layers, l2)
    moved = []
    for layer, gradient in zip(layers, gradients, strict=True):
        parts = []
        for part, step in zip(layer, gradient, strict=True):
            step *= -eta
            step += part
            parts.append(step)
        moved.append(Layer(*parts))
    return _in_columns(moved)


def _step(
    model: Model,
    xp: Namespace,
    biases: list[Array],
    weights: list[Array],
    x: Array,
    y: Array,
    eta: float,
    l2: float | None,
) -> tuple[list[Array], list[Array]]:
    """Return the biases and weights after one step of gradient descent."""
    layers = _as_layers(biases, weights)
    gradients, _ = backprop.backpropagate(model, layers, x, y, xp=xp)
    return _moved(layers, gradients, eta, l2)
