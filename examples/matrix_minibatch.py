"""Backpropagation of a mini-batch: a loop over samples, and one matrix product per layer.

The book's code backpropagates a mini-batch sample by sample, and chapter 2 leaves the matrix form
as an exercise. This script is the exercise. Both ways call the same equations of bp_xp, the loop
with one row at a time and the matrix form with the whole batch, so that they give the same
gradients, to rounding. The loop pays for the interpreter (on a GPU, for a kernel launch) at each
sample, the matrix form once.

For several batch sizes, the script prints by how much the two gradients differ, relative to the
largest entry, and the best time of some repetitions of each, in milliseconds.
"""

import argparse
import os
import time

import numpy as np

from bp_xp import Layer, Network, to_numpy
from bp_xp.backends import place
from bp_xp.math.backprop import backpropagate


def by_sample(net, x, y):
    """Return the gradient of the mean cost, from one pass for each sample."""
    total = None
    for n in range(x.shape[0]):
        gradients, _ = backpropagate(
            net.model, net.layers, x[n : n + 1, :], y[n : n + 1, :], xp=net.xp
        )
        total = gradients if total is None else add(total, gradients)
    return [Layer(W / x.shape[0], b / x.shape[0]) for W, b in total or []]


def add(first, second):
    return [Layer(p.W + q.W, p.b + q.b) for p, q in zip(first, second, strict=True)]


def by_matrix(net, x, y):
    """Return the same from one pass for all samples: rows are samples, Z = A Wᵀ + b."""
    gradients, _ = backpropagate(net.model, net.layers, x, y, xp=net.xp)
    return gradients


def timed(way, net, x, y, repeats):
    """Return the gradients on the host, and the best time in seconds."""
    gradients = way(net, x, y)  # the first call warms up
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        gradients = way(net, x, y)
        to_numpy(gradients[0].b)  # read back, so that a GPU has finished
        best = min(best, time.perf_counter() - start)
    return [to_numpy(p) for layer in gradients for p in layer], best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--dtype", default="float64", help="float32 or float64")
    parser.add_argument("--sizes", type=int, nargs="+", default=[784, 30, 10])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX needs this for float64

    rng = np.random.default_rng(0)
    where = place(args.device, args.backend)
    net = Network(args.sizes, device=args.device, backend=args.backend, dtype=args.dtype, seed=0)
    print(net)
    print("batch   gradients differ by   loop, ms   matrix, ms   times as fast")
    for size in args.batch_sizes:
        x = where.asarray(rng.random((size, args.sizes[0])), net.dtype)
        y = where.asarray(rng.random((size, args.sizes[-1])), net.dtype)
        with where.active():
            one_by_one, slow = timed(by_sample, net, x, y, args.repeats)
            at_once, fast = timed(by_matrix, net, x, y, args.repeats)
        differ = max(
            np.abs(a - b).max() / np.abs(b).max() for a, b in zip(one_by_one, at_once, strict=True)
        )
        print(f"{size:5} {differ:21.1e} {1e3 * slow:10.3f} {1e3 * fast:12.3f} {slow / fast:15.1f}")


if __name__ == "__main__":
    main()
