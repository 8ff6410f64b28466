"""The network of chapter 3: the book's module ``network2``.

    >>> from bp_xp.book import network2
    >>> net = network2.Network([784, 30, 10], cost=network2.CrossEntropyCost, device="cpu")

New since chapter 2 are the cross-entropy and user-defined costs, L2 regularization, smaller initial
weights, four values to monitor a run, and files.

References:
    M. Nielsen, *Neural Networks and Deep Learning*, Determination Press, 2015, chapter 3.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._typing import Array, Namespace
from bp_xp.backends import to_numpy
from bp_xp.backends.registry import active_for
from bp_xp.book._base import BookNetwork
from bp_xp.book._functions import (
    SIGMOID,
    beside,
    own_kind,
    sigmoid,
    sigmoid_prime,
    vectorized_result,
)
from bp_xp.book._samples import Samples
from bp_xp.errors import CheckpointError
from bp_xp.math import equations
from bp_xp.math.activations import ACTIVATIONS
from bp_xp.math.costs import COSTS, Cost, MatchedCost, cross_entropy_of_outputs
from bp_xp.math.model import Model
from bp_xp.math.regularization import l2_penalty
from bp_xp.math.rows import row_blocks
from bp_xp.storage.book_file import BookFile, read_book, write_book
from bp_xp.training.evaluation import ROWS_AT_ONCE

__all__ = [
    "CrossEntropyCost",
    "Network",
    "QuadraticCost",
    "load",
    "sigmoid",
    "sigmoid_prime",
    "vectorized_result",
]


# ---------------------------------------------------------------------------------------------
# Costs


class QuadraticCost:
    """C = ½‖a − y‖²."""

    @staticmethod
    def fn(a: Any, y: Any) -> Array:
        """Return the cost, shape (), of the outputs a for the targets y.

        Args:
            a: outputs, a column of shape (k, 1), as :meth:`Network.feedforward` returns them.
            y: targets, of the same shape; on the host or where a is.

        References:
            Nielsen, ch. 2, eq. (26).
        """
        return _of_a_column(QuadraticCost, a, y)

    @staticmethod
    def delta(z: Any, a: Any, y: Any) -> Array:
        """Return the error of the output layer, δ = (a − y) ⊙ σ′(z), shape (k, 1).

        Args:
            z: weighted inputs of the output layer, a column of shape (k, 1).
            a: its outputs σ(z), of the same shape.
            y: targets, of the same shape.

        References:
            Nielsen, ch. 2, eq. (BP1).
        """
        difference, slope = _difference(a, y), sigmoid_prime(z)
        with active_for(slope):
            return equations.output_error(difference, slope)


class CrossEntropyCost:
    """C = −Σ y ln a + (1 − y) ln(1 − a)."""

    @staticmethod
    def fn(a: Any, y: Any) -> Array:
        """Return the cost, shape (), of the outputs a for the targets y.

        An output of 0 or 1 adds 0 if that is its target, and otherwise the largest number of its
        dtype.

        Args:
            a: outputs from 0 to 1, a column of shape (k, 1).
            y: targets from 0 to 1, of the same shape; on the host or where a is.

        References:
            Nielsen, ch. 3, eq. (63).
        """
        return _of_a_column(CrossEntropyCost, a, y)

    @staticmethod
    def delta(z: Any, a: Any, y: Any) -> Array:
        """Return the error of the output layer, δ = a − y, shape (k, 1).

        Args:
            z: weighted inputs of the output layer, which are not used.
            a: its outputs, a column of shape (k, 1).
            y: targets, of the same shape.

        References:
            Nielsen, ch. 3, eq. (68).
        """
        del z
        return _difference(a, y)


class _Known(NamedTuple):
    """A cost that the equations and the files know.

    Attributes:
        cost: the cost of the equations.
        value: C of each sample from its outputs, ``value(a, y, xp=xp)``.
    """

    cost: Cost | MatchedCost
    value: Callable[..., Array]


_KNOWN: dict[type, _Known] = {
    QuadraticCost: _Known(COSTS["quadratic"], COSTS["quadratic"].value),
    CrossEntropyCost: _Known(COSTS["binary_cross_entropy"], cross_entropy_of_outputs),
}


def _of_a_column(kind: type, a: Any, y: Any) -> Array:
    a, xp = own_kind(a, "a")
    with active_for(a):
        y = beside(a, y, "y")
        return _value(kind, xp.reshape(a, (-1,)), xp.reshape(y, (-1,)), xp=xp)


def _value(kind: type, a: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the cost of each sample, shape (...,), for outputs and targets of shape (..., k)."""
    # ln 0 needs no warning: its effect is known.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _KNOWN[kind].value(a, y, xp=xp)


def _difference(a: Any, y: Any) -> Array:
    a, _ = own_kind(a, "a")
    with active_for(a):
        return a - beside(a, y, "y")


def _kind_of(cost: Any) -> type:
    """Return the class of a cost; the book passes a class, and its older scripts an object."""
    return cost if isinstance(cost, type) else type(cost)


def _check_cost(cost: Any) -> Any:
    if not all(callable(getattr(cost, name, None)) for name in ("fn", "delta")):
        raise TypeError(
            "cost must be a class with static functions fn(a, y) and delta(z, a, y), such as "
            f"CrossEntropyCost, not {cost!r}."
        )
    return cost


# ---------------------------------------------------------------------------------------------
# The network


class Network(BookNetwork):
    """A sigmoid network with a cost of your choice, trained and monitored as in chapter 3.

    The initial weights are drawn from NumPy's global generator (``np.random.seed``) by
    :meth:`default_weight_initializer`; the order of the samples is shuffled by ``random.shuffle``.

    A subclass may override any method. :meth:`SGD` calls :meth:`update_mini_batch`,
    :meth:`total_cost` and :meth:`accuracy`, which call :meth:`feedforward`. If
    :meth:`backprop` is overridden, it is called for each sample.

    Args:
        sizes: neurons of each layer, inputs first: ``[784, 30, 10]``.
        cost: :class:`CrossEntropyCost`, :class:`QuadraticCost`, or your own class with static
            functions ``fn(a, y)``, called with the columns of a sample, and ``delta(z, a, y)``,
            called with those of a mini-batch side by side, shape (k, m).
        device: the device of the network, as for :class:`bp_xp.Network`.
        backend: the array library, as for :class:`bp_xp.Network`.
        dtype: ``"float64"``, as in the book, or ``"float32"``, which is faster.

    Attributes:
        num_layers: the number of layers, including the inputs.
        sizes: neurons of each layer.
        cost: the cost.

    Raises:
        ValueError: a size, name or option that does not exist.
        TypeError: the cost has no such functions.
        DeviceError: the device does not work on this machine.
        ImportError: the backend is not installed.

    Examples:
        Which of two numbers is larger:

        >>> import random
        >>> import numpy as np
        >>> np.random.seed(1)
        >>> random.seed(1)
        >>> net = Network([2, 3, 2])
        >>> points = np.random.rand(200, 2, 1)
        >>> data = [(x, int(x.argmax())) for x in points]
        >>> pairs = [(x, np.eye(2)[:, [j]]) for x, j in data]
        >>> results = net.SGD(
        ...     pairs, 2, 10, 5.0, evaluation_data=data, monitor_evaluation_accuracy=True
        ... )
        Epoch 0 training complete
        Accuracy on evaluation data: 102 / 200
        <BLANKLINE>
        Epoch 1 training complete
        Accuracy on evaluation data: 194 / 200
        <BLANKLINE>
        >>> results
        ([], [102, 194], [], [])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        cost: Any = CrossEntropyCost,
        *,
        device: str | None = None,
        backend: str | Namespace | None = None,
        dtype: Any = "float64",
    ) -> None:
        super().__init__(sizes, device=device, backend=backend, dtype=dtype)
        self.default_weight_initializer()
        self.cost = _check_cost(cost)

    def _words(self) -> list[str]:
        return [f"cost={_kind_of(self.cost).__name__}"]

    def default_weight_initializer(self) -> None:
        """Draw new N(0, 1) biases and N(0, 1)/√n_in weights.

        References:
            Nielsen, ch. 3, 'Weight initialization'.
        """
        biases, weights = self._draw_normal()
        self.biases = biases
        self.weights = [w / np.sqrt(w.shape[1]) for w in weights]

    def large_weight_initializer(self) -> None:
        """Draw new N(0, 1) biases and weights, as in chapter 1."""
        self.biases, self.weights = self._draw_normal()

    def _has_own_functions(self) -> bool:
        return _kind_of(self.cost) not in _KNOWN

    def _model(self) -> Model:
        if not self._has_own_functions():
            return self._sigmoid_model(_KNOWN[_kind_of(self.cost)].cost)

        # For a user-defined cost δᴸ is known, but not ∇ₐC. So zᴸ is treated as the output, and σ as
        # a part of the cost: then its gradient is δᴸ, and BP1 does not change it.
        def delta(a: Array, y: Array, *, xp: Namespace) -> Array:
            # Samples are rows in the equations, and columns in the book.
            return self.cost.delta(a.mT, SIGMOID.sigma(a, xp=xp).mT, y.mT).mT

        hidden = (SIGMOID,) * (self.num_layers - 2)
        cost = Cost("own", value=delta, gradient=delta)  # fn gives its value
        return Model(tuple(self.sizes), (*hidden, ACTIVATIONS["identity"]), cost)

    def SGD(  # noqa: N802 - the book's name
        self,
        training_data: Iterable[tuple[Any, Any]],
        epochs: int,
        mini_batch_size: int,
        eta: float,
        lmbda: float = 0.0,
        evaluation_data: Iterable[tuple[Any, Any]] | None = None,
        monitor_evaluation_cost: bool = False,
        monitor_evaluation_accuracy: bool = False,
        monitor_training_cost: bool = False,
        monitor_training_accuracy: bool = False,
        early_stopping_n: int = 0,
    ) -> tuple[list[float], list[int], list[float], list[int]]:
        """Train by stochastic gradient descent, and print what is monitored after each epoch.

        Args:
            training_data: pairs of columns (x, y), in a list or an iterator; not changed.
            epochs: passes over the data.
            mini_batch_size: samples in a mini-batch; the last of an epoch may be shorter.
            eta: η, the learning rate.
            lmbda: λ, the strength of L2 regularization; at least 0.
            evaluation_data: pairs (x, y) with y a whole number: validation or test data.
            monitor_evaluation_cost: whether to measure the cost of the evaluation data.
            monitor_evaluation_accuracy: whether to count how many of them are correctly classified.
            monitor_training_cost: whether to measure the cost of the training data.
            monitor_training_accuracy: whether to count how many of them are correctly classified.
            early_stopping_n: epochs without a better accuracy after which training ends; 0 for
                never. The accuracy is that of the evaluation data if it is monitored, and otherwise
                that of the training data. The network keeps its last parameters, not its best.

        Returns:
            ``(evaluation_cost, evaluation_accuracy, training_cost, training_accuracy)``: a number
            for each epoch, as :meth:`total_cost` and :meth:`accuracy` return it; empty if it was
            not monitored.

        Raises:
            ValueError: a shape or a number is wrong, a value is not finite, or the data to monitor
                are missing.
            TypeError: an array of another library, or an argument of the wrong type.
            DivergenceError: a parameter is no longer finite after an epoch. The network keeps
                those from before that epoch.

        References:
            Nielsen, ch. 3, 'Handwriting recognition revisited: the code'; ``early_stopping_n`` is
            from the later versions of his program for Python 3.
        """
        eta = checks.check_number(eta, "eta")
        lmbda = checks.check_number(lmbda, "lmbda", least=0.0)
        patience = checks.check_integer(early_stopping_n, "early_stopping_n", least=0)
        if patience and not (monitor_evaluation_accuracy or monitor_training_accuracy):
            raise ValueError(
                "early_stopping_n needs an accuracy: pass monitor_evaluation_accuracy=True."
            )
        with self._placement.active():
            data = self._intake.training(training_data, "training_data")
            watches_evaluation = monitor_evaluation_cost or monitor_evaluation_accuracy
            evaluation = self._evaluated(evaluation_data) if watches_evaluation else []
            n, m = len(data), len(evaluation)
            training_cost = _Watch(
                monitor_training_cost,
                "Cost on training data: {}",
                lambda: self.total_cost(data, lmbda),
            )
            training_accuracy = _Watch(
                monitor_training_accuracy,
                f"Accuracy on training data: {{}} / {n}",
                lambda: self.accuracy(data, convert=True),
            )
            evaluation_cost = _Watch(
                monitor_evaluation_cost,
                "Cost on evaluation data: {}",
                lambda: self.total_cost(evaluation, lmbda, convert=True),
            )
            evaluation_accuracy = _Watch(
                monitor_evaluation_accuracy,
                f"Accuracy on evaluation data: {{}} / {m}",
                lambda: self.accuracy(evaluation),
            )
            judge = evaluation_accuracy if monitor_evaluation_accuracy else training_accuracy
            for j in self._epochs(
                data,
                epochs,
                mini_batch_size,
                update=lambda batch: self.update_mini_batch(batch, eta, lmbda, n),
                remedy=f"eta below {eta:g}" + (f", or lmbda below {lmbda:g}" if lmbda else ""),
            ):
                print(f"Epoch {j} training complete")
                for watch in (
                    *(training_cost, training_accuracy),
                    *(evaluation_cost, evaluation_accuracy),
                ):
                    watch.look()
                print()
                if patience and judge.looks_since_best() == patience:
                    break
        return (
            *(evaluation_cost.values, evaluation_accuracy.values),
            *(training_cost.values, training_accuracy.values),
        )

    def update_mini_batch(
        self, mini_batch: Iterable[tuple[Any, Any]], eta: float, lmbda: float, n: int
    ) -> None:
        """Take one step of gradient descent.

        w ← (1 − η λ/n) w − (η/m) Σ δ aᵀ, b ← b − (η/m) Σ δ

        Args:
            mini_batch: m pairs of columns (x, y).
            eta: η, the learning rate.
            lmbda: λ, the strength of L2 regularization; at least 0.
            n: how many samples the training data has.

        Raises:
            ValueError: a shape or a number is wrong, or a value is not finite.
            TypeError: an array of another library, or an argument of the wrong type.

        References:
            Nielsen, ch. 3, eq. (93), (94).
        """
        lmbda = checks.check_number(lmbda, "lmbda", least=0.0)
        n = checks.check_integer(n, "n")
        self._descend(mini_batch, eta, lmbda / n if lmbda else None)

    def accuracy(self, data: Iterable[tuple[Any, Any]], convert: bool = False) -> int:
        """Return how many samples are correctly classified, by the largest output.

        Args:
            data: pairs (x, y), x a column of shape (n, 1), y a whole number.
            convert: whether each y is a column of shape (k, 1) instead, as in training data.

        Raises:
            ValueError: a shape is wrong, a y is not one of the outputs, a value is not finite.
            TypeError: an array of another library.
        """
        with self._placement.active():
            if not convert:
                samples = self._intake.labeled(data, "data", "convert=True")
                return self._count_right(samples.x, samples.y)
            samples = self._intake.training(data, "data")
            labels = self._placement.xp.argmax(samples.y, axis=1)
            return self._count_right(samples.x, to_numpy(labels))

    def total_cost(
        self, data: Iterable[tuple[Any, Any]], lmbda: float, convert: bool = False
    ) -> float:
        """Return the mean cost of samples, and the L2 term of the weights.

        C = (1/N) Σ Cₓ + (λ/2N) Σ w², over the N given samples: for the same λ, the term for 10,000
        images is five times that for 50,000.

        Args:
            data: pairs of columns (x, y).
            lmbda: λ, the strength of L2 regularization; at least 0.
            convert: whether each y is a whole number instead, as in validation and test data.

        Raises:
            ValueError: a shape or a number is wrong, or a value is not finite.
            TypeError: an array of another library, or an argument of the wrong type.

        References:
            Nielsen, ch. 3, eq. (87).
        """
        lmbda = checks.check_number(lmbda, "lmbda", least=0.0)
        with self._placement.active():
            if convert:
                samples = self._intake.labeled(data, "data", "convert=False")
            else:
                samples = self._intake.training(data, "data")
            n = len(samples)
            # Each cost is divided before the sum: some may be the largest number of the dtype.
            cost = sum(
                c / n for rows in row_blocks(n, ROWS_AT_ONCE) for c in self._costs(samples, rows)
            )
            term = l2_penalty(self._layers(), lmbda / n, xp=self._placement.xp)
            return cost + float(to_numpy(term))

    def _costs(self, samples: Samples, rows: slice) -> list[float]:
        """Return the cost of each of some samples."""
        a = self.feedforward(samples.x[rows, :].mT)
        y = samples.y[rows, ...]
        if y.ndim == 1:
            y = self._placement.asarray(np.eye(self.sizes[-1])[y], self._dtype)
        if self._has_own_functions():
            columns = ((a[:, i][:, None], y[i, :][:, None]) for i in range(y.shape[0]))
            return [float(to_numpy(self.cost.fn(*column))) for column in columns]
        costs = _value(_kind_of(self.cost), a.mT, y, xp=self._placement.xp)
        return to_numpy(costs).tolist()

    def _evaluated(self, evaluation_data: Iterable[tuple[Any, Any]] | None) -> Samples:
        if evaluation_data is None:
            raise ValueError(
                "monitor_evaluation_cost and monitor_evaluation_accuracy need evaluation_data: "
                "pass validation or test data."
            )
        return self._intake.labeled(evaluation_data, "evaluation_data", "monitor_training_accuracy")

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write the network to a file, in the book's format, which the book's program reads too.

        Args:
            filename: where to write; an older file is replaced.

        Raises:
            ValueError: a parameter is not finite.
            OSError: it could not be written; an older file is left as it was.
        """
        weights, biases = (list(map(to_numpy, part)) for part in (self.weights, self.biases))
        write_book(filename, BookFile(self.sizes, weights, biases, _kind_of(self.cost).__name__))


class _Watch:
    """A value that is measured and printed after each epoch, if it is monitored.

    Attributes:
        values: the values of the epochs so far.
    """

    def __init__(self, is_on: bool, line: str, measure: Callable[[], Any]):
        self.is_on, self.line, self.measure = is_on, line, measure
        self.values: list[Any] = []

    def look(self) -> None:
        """Measure the value and print it."""
        if self.is_on:
            self.values.append(self.measure())
            print(self.line.format(self.values[-1]))

    def looks_since_best(self) -> int:
        """Return how many epochs ago the value was best: above 0, and above all earlier ones."""
        best = max([0, *self.values])
        return len(self.values) - [0, *self.values].index(best)


def load(
    filename: str | os.PathLike[str],
    *,
    cost: Any = None,
    device: str | None = None,
    backend: str | Namespace | None = None,
    dtype: Any = "float64",
) -> Network:
    """Return the network that :meth:`Network.save`, or the book's own program, wrote to a file.

    Args:
        filename: the file.
        cost: the cost, if the network was saved with your own class.
        device: the device of the network, as for :class:`Network`.
        backend: the array library, as for :class:`Network`.
        dtype: ``"float64"`` or ``"float32"``.

    Raises:
        CheckpointError: the file does not hold a network of the book, or one with another cost.
        OSError: it can't be read.
        ValueError: a name or option that does not exist.
        TypeError: the cost has no functions ``fn`` and ``delta``.
        DeviceError: the device does not work on this machine.
        ImportError: the backend is not installed.
    """
    content = read_book(filename)
    known = [*_KNOWN] if cost is None else [_check_cost(cost)]
    costs = {_kind_of(one).__name__: one for one in known}
    if content.cost not in costs:
        raise CheckpointError(
            f"{filename} was saved with the cost {content.cost!r}, not {' or '.join(costs)}: pass "
            f"the class of that name as cost."
        )
    net = Network(content.sizes, costs[content.cost], device=device, backend=backend, dtype=dtype)
    # The initial weights were drawn anyway, as by the book's load, so later draws are the same.
    net.weights, net.biases = content.weights, content.biases
    return net
