"""The network of the book, chapters 1 and 2: handwritten digits, by the book's own few lines.

The network has sigmoid neurons and the quadratic cost. Its initial weights are N(0, 1) numbers, and
stochastic gradient descent reduces the mean cost of ten images at a time. The calls below are the
book's. Only the import and ``device=`` are new, and they are all that it takes to run on a GPU:

    python examples/book_network.py --device cuda --epochs 30

It prints which images it found, and after each epoch how many test images the network classifies
correctly. It uses MNIST if it finds the archives (in --data-dir, in $BP_XP_DATA_DIR, or downloaded
before), and otherwise the 1,797 small digits that come with the library. The book reports 95.42 %
for [784, 30, 10] after at most 30 epochs of MNIST. The initial weights are a matter of luck: some
seeds leave an output neuron saturated, and then one digit is hardly ever classified correctly.
"""

import argparse
import random
import time

import numpy as np

import bp_xp.book as network
from bp_xp.datasets import load_digits


def load_images(folder: str | None) -> tuple[str, list, list]:
    """Return what the images are called, and (x, y) pairs to train and to test on."""
    try:
        training_data, _, test_data = network.load_data_wrapper(folder, download=False)
        return "MNIST, 28 x 28 pixels", training_data, test_data
    except FileNotFoundError:
        if folder is not None:
            raise
    digits = load_digits()
    # The book's shapes: every x and every y is a column; the y of test data is a number.
    one_hot = np.eye(10)[digits.y_train][:, :, None]
    training_data = list(zip(digits.x_train[:, :, None], one_hot, strict=True))
    test_data = list(zip(digits.x_test[:, :, None], digits.y_test.tolist(), strict=True))
    return "the small digits, 8 x 8 pixels (no MNIST found)", training_data, test_data


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--dtype", default="float32", help="float32, or the book's float64")
    parser.add_argument("--data-dir", help="folder of the four MNIST archives")
    parser.add_argument("--hidden", type=int, default=30, help="neurons of the hidden layer")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training images")
    parser.add_argument("--eta", type=float, default=3.0, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    args = parser.parse_args()

    name, training_data, test_data = load_images(args.data_dir)
    print(f"{len(training_data):,} training and {len(test_data):,} test images: {name}")

    # The book draws its weights and its order from the global generators.
    np.random.seed(args.seed)
    random.seed(args.seed)
    n_pixels = len(training_data[0][0])
    net = network.Network(
        [n_pixels, args.hidden, 10], device=args.device, backend=args.backend, dtype=args.dtype
    )
    print(f"network {net.sizes}, eta {args.eta:g}, mini-batches of 10, {args.dtype}")
    print(f"before training: {net.evaluate(test_data)} / {len(test_data)}")

    start = time.perf_counter()
    net.SGD(training_data, args.epochs, 10, args.eta, test_data=test_data)
    seconds = time.perf_counter() - start

    right = net.evaluate(test_data)
    print(f"correctly classified: {right / len(test_data):.2%} of the test images")
    steps = args.epochs * -(-len(training_data) // 10)
    if steps:
        print(f"{seconds:.2f} s, {1e6 * seconds / steps:.0f} µs a mini-batch, tests included")


if __name__ == "__main__":
    main()
