"""The logical-NOT network: two inputs, two hidden neurons, two outputs, each the opposite.

Each step picks one of the four input pairs at random: online learning with mini-batches of one,
learning rate 0.2, 40,000 steps, sigmoid outputs with the quadratic cost. The hidden neurons are
sigmoid or tanh. The picks are drawn in advance and passed to fit as its data, in their order
(shuffle=False), so that the same seed takes the same steps on every library and device.

The script prints the outputs for the four pairs next to those of the published run, and the largest
error. The published run has sigmoid neurons and other initial weights, so the outputs are similar
but not equal digit by digit.
"""

import argparse
import time

import numpy as np

from bp_xp import SGD, Network, to_numpy

INPUTS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
PUBLISHED = ["0.984 0.975", "0.977 0.016", "0.031 0.977", "0.013 0.024"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--activation", default="sigmoid", help="sigmoid or tanh, hidden neurons")
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--rate", type=float, default=0.2, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and picks")
    args = parser.parse_args()

    net = Network(
        [2, 2, 2],
        activation=args.activation,
        cost="quadratic",
        initializer="normal",  # N(0, 1) weights and biases
        device=args.device,
        backend=args.backend,
        seed=args.seed,
    )
    print(net)

    picks = np.random.default_rng(args.seed).integers(len(INPUTS), size=args.steps)
    x = INPUTS[picks]
    start = time.perf_counter()
    net.fit(
        x,
        1.0 - x,
        epochs=1,
        batch_size=1,
        shuffle=False,
        optimizer=SGD(args.rate),
        progress=False,
    )
    seconds = time.perf_counter() - start

    outputs = to_numpy(net.feedforward(INPUTS))
    print("inputs   wanted   computed      published (40,000 steps)")
    for pair, a, published in zip(INPUTS, outputs, PUBLISHED, strict=True):
        print(
            f" {pair[0]:.0f} {pair[1]:.0f}      {1 - pair[0]:.0f} {1 - pair[1]:.0f}   "
            f"{a[0]:.3f} {a[1]:.3f}   {published}"
        )
    print(f"largest error {np.abs(outputs - (1.0 - INPUTS)).max():.3f}")
    print(f"{args.steps:,} steps in {seconds:.2f} s, {1e6 * seconds / args.steps:.0f} µs a step")


if __name__ == "__main__":
    main()
