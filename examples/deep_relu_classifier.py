"""A deep ReLU classifier in vector form, and a published run reproduced digit by digit.

The network is 12288-20-7-5-1: ReLU in the hidden layers, one sigmoid output, binary cross-entropy,
full-batch gradient descent at rate 0.01. All 200 samples go through each layer as one matrix
product. The published run is an exercise on random numbers: the "images" are uniform noise, and so
are the 200 "labels", which are real numbers rather than classes. Its costs, printed every 100
iterations, are exactly reproducible in float64. Hidden weights are He's, N(0, 1) √(2/n_in), output
weights are N(0, 1) / 100, and biases are 0, all from NumPy's legacy generator with seed 10.

The script prints the published costs next to those computed here, six of the weights of the first
neuron, and the fraction of samples on the correct side of ½. L2 regularization, λ/(2m) Σ‖W‖² for m
samples, has λ = 0 in the published run. --l2-lambda sets another λ, and passes l2 = λ/m to fit.
"""

import argparse
import itertools
import os
import time

import numpy as np

from bp_xp import SGD, Network, to_numpy

PUBLISHED_COSTS = [
    0.69301356, 0.69204859, 0.68890952, 0.66534268, 0.63627974, 0.59864491, 0.57399670,
    0.55455259, 0.53362871, 0.52812387, 0.52214822, 0.50656239, 0.51940142, 0.51177312,
    0.50393255, 0.50938580, 0.54099861, 0.51454733, 0.50515268, 0.50401095,
]  # fmt: skip
PUBLISHED_WEIGHTS = [0.01638766, 0.01138265, -0.02091715, 0.00165189, -0.01230952, 0.00682659]
PUBLISHED_ITERATIONS = 2000

SIZES = [12288, 20, 7, 5, 1]


def published_data():
    """Return x, shape (200, 12288), and y, shape (200, 1); the run stores samples as columns."""
    generator = np.random.RandomState(1)
    X, Y = generator.rand(SIZES[0], 200), generator.rand(1, 200)
    return X.T, Y.T


def published_start():
    """Return pairs (W, b) of each layer."""
    generator = np.random.RandomState(10)
    layers = []
    for n_in, n_out in itertools.pairwise(SIZES):
        scale = np.sqrt(2 / n_in) if n_out != SIZES[-1] else 0.01
        layers.append((generator.randn(n_out, n_in) * scale, np.zeros(n_out)))
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--dtype", default="float64", help="float64, or float32 to see it drift")
    parser.add_argument("--iterations", type=int, default=PUBLISHED_ITERATIONS)
    parser.add_argument("--l2-lambda", type=float, default=0.0, help="λ (default: 0)")
    args = parser.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX needs this for float64

    x, y = published_data()
    net = Network.from_layers(
        published_start(),
        activation="relu",
        cost="binary_cross_entropy",
        device=args.device,
        backend=args.backend,
        dtype=args.dtype,
    )
    print(net)

    start = time.perf_counter()
    # One batch per epoch, and the cost of each epoch is computed before its step.
    history = net.fit(
        x,
        y,
        epochs=args.iterations,
        batch_size=len(x),
        shuffle=False,
        optimizer=SGD(0.01),
        l2=args.l2_lambda / len(x),
        progress=False,
    )
    seconds = time.perf_counter() - start

    print("iteration   published    computed")
    costs = history["cost"][::100]
    for k, cost in enumerate(costs):
        published = f"{PUBLISHED_COSTS[k]:.8f}" if k < len(PUBLISHED_COSTS) else ""
        print(f"{100 * k:9}  {published:10}  {cost:.8f}")
    off = max(abs(a - b) for a, b in zip(costs, PUBLISHED_COSTS, strict=False))
    print(f"largest difference: {off:.1e} (rounding to 8 digits makes 5.0e-09)")

    print(f"first and last three weights of the first neuron after {args.iterations} iterations")
    W = to_numpy(net.layers[0].W)
    if args.iterations == PUBLISHED_ITERATIONS:
        print("published", *(f"{w:11.8f}" for w in PUBLISHED_WEIGHTS))
    print("computed ", *(f"{w:11.8f}" for w in (*W[0, :3], *W[0, -3:])))

    right = to_numpy(net.feedforward(x) > 0.5) == (y > 0.5)
    print(f"on the correct side of 0.5: {right.mean():.1%} of the samples")
    print(f"{1e3 * seconds / args.iterations:.1f} ms an iteration")


if __name__ == "__main__":
    main()
