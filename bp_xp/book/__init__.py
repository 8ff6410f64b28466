"""The networks of the book, with the book's names and shapes, on any library and device.

A script that was written for the modules ``network``, ``network2`` and ``mnist_loader`` in
Nielsen's *Neural Networks and Deep Learning* runs on a GPU by changing its imports and adding a
device:

    >>> from bp_xp.book import mnist_loader, network, network2
    >>> net = network.Network([784, 30, 10], device="cpu")  # or "cuda", or "auto"

:mod:`~bp_xp.book.network` is the program of chapters 1 and 2, whose names are also here, and
:mod:`~bp_xp.book.network2` is that of chapter 3: cross-entropy, L2 regularization, better initial
weights, and values to monitor a run. :mod:`~bp_xp.book.mnist_loader` reads the digits.

A sample is a pair (x, y) of columns, x of shape (n, 1) and y of shape (k, 1); in test data y is a
whole number. Weights and order come from the generators that the book uses, so the book's seeds
give the book's run. Only the arithmetic differs: a mini-batch is backpropagated with one matrix
product per layer (the exercise that chapter 2 leaves open), and the data is moved to the device
once.

References:
    M. Nielsen, *Neural Networks and Deep Learning*, Determination Press, 2015, chapters 1 to 3.
"""

from bp_xp.book import mnist_loader, network, network2
from bp_xp.book.mnist_loader import load_data_wrapper
from bp_xp.book.network import Network, sigmoid, sigmoid_prime

__all__ = [
    "Network",
    "load_data_wrapper",
    "mnist_loader",
    "network",
    "network2",
    "sigmoid",
    "sigmoid_prime",
]
