"""What tests of the book's networks share: samples in columns, the plain algorithm."""

import io
import random
from contextlib import redirect_stdout

import numpy as np
from helpers import tolerance, widest

from bp_xp import book, to_numpy

SIZES = [5, 4, 3]


def columns(rng, n, sizes=SIZES):
    """Return n training samples: pairs of columns, y one-hot."""
    unit = np.eye(sizes[-1])[:, :, None]
    return [(rng.normal(size=(sizes[0], 1)), unit[rng.integers(sizes[-1])]) for _ in range(n)]


def labeled(pairs):
    """Return the pairs as test data."""
    return [(x, int(np.argmax(y))) for x, y in pairs]


def make(sizes, where=None, *args, seed=3, kind=book.Network, **options):
    """Return a network of the book with a seed of its own."""
    np.random.seed(seed)
    if where is not None:
        there = {"backend": where.backend, "device": where.device_name, "dtype": widest(where)}
        options = there | options
    return kind(sizes, *args, **options)


def printed(net, *args, **kwargs):
    """Return the lines that SGD prints."""
    return run(net, *args, **kwargs)[0]


def run(net, *args, **kwargs):
    """Return the lines that SGD prints, and its result."""
    with redirect_stdout(io.StringIO()) as out:
        result = net.SGD(*args, **kwargs)
    return out.getvalue().splitlines(), result


class Plain:
    """The book's algorithm, one sample after the other, straight from the equations.

    Args:
        net: the network to start from.
        matched: whether δᴸ is a − y, that of the cross-entropy, and not that of the quadratic cost.
    """

    def __init__(self, net, *, matched=False):
        self.biases = [np.array(to_numpy(b)) for b in net.biases]
        self.weights = [np.array(to_numpy(w)) for w in net.weights]
        self.matched = matched

    def outputs(self, x):
        a = [x]
        for b, w in zip(self.biases, self.weights, strict=True):
            a.append(1 / (1 + np.exp(-(w @ a[-1] + b))))
        return a

    def gradient(self, x, y):
        a = self.outputs(x)
        delta = a[-1] - y
        if not self.matched:
            delta = delta * a[-1] * (1 - a[-1])
        nabla_b, nabla_w = [delta], [delta @ a[-2].T]
        for l in range(len(self.weights) - 1, 0, -1):  # noqa: E741
            delta = (self.weights[l].T @ delta) * a[l] * (1 - a[l])
            nabla_b.insert(0, delta)
            nabla_w.insert(0, delta @ a[l - 1].T)
        return nabla_b, nabla_w

    def step(self, batch, eta, l2=0.0):
        nablas = [self.gradient(x, y) for x, y in batch]
        for l, w in enumerate(self.weights):  # noqa: E741
            self.biases[l] = self.biases[l] - eta / len(batch) * sum(nb[l] for nb, _ in nablas)
            share = eta / len(batch) * sum(nw[l] for _, nw in nablas)
            self.weights[l] = w * (1 - eta * l2) - share

    def train(self, data, epochs, size, eta, lmbda=0.0, after_epoch=lambda: None):
        data = list(data)
        for _ in range(epochs):
            random.shuffle(data)
            for k in range(0, len(data), size):
                self.step(data[k : k + size], eta, lmbda / len(data))
            after_epoch()

    def cost(self, pairs, lmbda):
        """Return the mean cost, and λ/2N times the squares of the weights."""
        total = 0.0
        for x, y in pairs:
            a = self.outputs(x)[-1]
            if self.matched:
                total -= float(np.sum(y * np.log(a) + (1 - y) * np.log(1 - a)))
            else:
                total += 0.5 * float(np.sum((a - y) ** 2))
        squares = sum(float(np.sum(w * w)) for w in self.weights)
        return total / len(pairs) + 0.5 * lmbda * squares / len(pairs)

    def right(self, pairs):
        return sum(int(np.argmax(self.outputs(x)[-1]) == np.argmax(y)) for x, y in pairs)


def assert_same_parameters(net, plain, in_float64=1e-12):
    for name in ("biases", "weights"):
        for ours, theirs in zip(getattr(net, name), getattr(plain, name), strict=True):
            assert ours.shape == theirs.shape
            ours = to_numpy(ours)
            atol = tolerance(ours.dtype.name, in_float64)
            assert np.abs(ours - to_numpy(theirs)).max() < atol
