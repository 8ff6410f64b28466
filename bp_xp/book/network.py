"""The network of chapters 1 and 2: the book's module ``network``.

    >>> from bp_xp import book as network
    >>> net = network.Network([784, 30, 10], device="cpu")  # or "cuda", or "auto"

References:
    M. Nielsen, *Neural Networks and Deep Learning*, Determination Press, 2015, chapters 1 and 2.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from bp_xp import checks
from bp_xp._typing import Array, Namespace
from bp_xp.book._base import BookNetwork, overrides
from bp_xp.book._functions import sigmoid, sigmoid_prime
from bp_xp.book._samples import Samples
from bp_xp.math.costs import COSTS, Cost
from bp_xp.math.model import Model

__all__ = ["Network", "sigmoid", "sigmoid_prime"]


class Network(BookNetwork):
    """A sigmoid network with the quadratic cost, trained as in the book.

    The initial weights are drawn from NumPy's global generator (``np.random.seed``) as in the book,
    all biases before all weights; the order of the samples is shuffled by ``random.shuffle``.

    A subclass may override any method. :meth:`SGD` calls :meth:`update_mini_batch` and
    :meth:`evaluate`, :meth:`evaluate` calls :meth:`feedforward`, and the equations take ∇ₐC from
    :meth:`cost_derivative`. If :meth:`backprop` is overridden, it is called for each sample.

    Args:
        sizes: neurons of each layer, inputs first: ``[784, 30, 10]``.
        device: the device of the network, as for :class:`bp_xp.Network`.
        backend: the array library, as for :class:`bp_xp.Network`.
        dtype: ``"float64"``, as in the book, or ``"float32"``, which is faster.

    Attributes:
        num_layers: the number of layers, including the inputs.
        sizes: neurons of each layer.

    Raises:
        ValueError: a size, name or option that does not exist.
        DeviceError: the device does not work on this machine.
        ImportError: the backend is not installed.

    Examples:
        Exclusive or; four samples, each a pair of columns:

        >>> import random
        >>> import numpy as np
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
        super().__init__(sizes, device=device, backend=backend, dtype=dtype)
        self.biases, self.weights = self._draw_normal()

    def _has_own_functions(self) -> bool:
        return overrides(self.cost_derivative, Network.cost_derivative)

    def _model(self) -> Model:
        cost = COSTS["quadratic"]
        if self._has_own_functions():

            def gradient(a: Array, y: Array, *, xp: Namespace) -> Array:
                # Samples are rows in the equations, and columns in the book.
                return self.cost_derivative(a.mT, y.mT).mT

            # The book never computes the cost itself, and neither does this class.
            cost = Cost("overridden", value=gradient, gradient=gradient)
        return self._sigmoid_model(cost)

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
            test_data: pairs (x, y) with y a whole number, evaluated after each epoch; this takes
                time.

        Raises:
            ValueError: a shape or a number is wrong, or a value is not finite.
            TypeError: an array of another library, or an argument of the wrong type.
            DivergenceError: a parameter is no longer finite after an epoch. The network keeps
                those from before that epoch.

        References:
            Nielsen, ch. 1, 'Implementing our network to classify digits'.
        """
        eta = checks.check_number(eta, "eta")
        with self._placement.active():
            data = self._intake.training(training_data, "training_data")
            test_pairs = list(test_data) if test_data is not None else []
            test = self._labeled(test_pairs) if test_pairs else None
            for j in self._epochs(
                data,
                epochs,
                mini_batch_size,
                update=lambda batch: self.update_mini_batch(batch, eta),
                remedy=f"eta below {eta:g}",
            ):
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
        self._descend(mini_batch, eta)

    def evaluate(self, test_data: Iterable[tuple[Any, Any]]) -> int:
        """Return how many samples are correctly classified, by the largest output.

        Args:
            test_data: pairs (x, y), x a column of shape (n, 1), y a whole number.

        Raises:
            ValueError: a shape is wrong, a y is not one of the outputs, a value is not finite.
            TypeError: an array of another library.
        """
        with self._placement.active():
            test = self._labeled(test_data)
            return self._count_right(test.x, test.y)

    def _labeled(self, test_data: Iterable[tuple[Any, Any]]) -> Samples:
        return self._intake.labeled(test_data, "test_data", "numpy.argmax(y) for y")

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
