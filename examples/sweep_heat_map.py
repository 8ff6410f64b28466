"""A heat map of learning rate and weight decay: chapter 3's search by hand, in one call.

The book searches its hyperparameters one after the other. This script tries each learning rate with
each L2 strength, on folds of the small digits. All networks with folds of the same size train as
one stack: [64, 30, 10] with sigmoid neurons and cross-entropy, in mini-batches of 32.

It prints the table, the best settings first, with the mean and the spread over the folds, and the
test accuracy of a network trained with the best settings on all training images. With --plot, it
draws the map, and the learning curves of the best settings.
"""

import argparse

import numpy as np

import bp_xp
from bp_xp.datasets import load_digits


def round_numbers(first: int, last: int, n: int) -> list[float]:
    """Return n numbers from 10^first to 10^last, rounded to two digits."""
    return [float(f"{number:.2g}") for number in np.logspace(first, last, n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--values", type=int, default=6, help="number of values of each setting")
    parser.add_argument("--folds", type=int, default=5, help="parts of the training images")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--plot", help="a .png, .svg or .pdf file")
    args = parser.parse_args()

    digits = load_digits()
    table = bp_xp.sweep(
        digits.x_train,
        digits.y_train,
        {
            "learning_rate": round_numbers(-2, 1, args.values),
            "l2": round_numbers(-6, -2, args.values),
        },
        folds=args.folds,
        sizes=[64, 30, 10],
        cost="categorical_cross_entropy",
        epochs=args.epochs,
        batch_size=32,
        device=args.device,
        backend=args.backend,
    )
    print(table)
    print(f"best: {table.best}")
    network = table.best_network
    if network is not None:
        accuracy = network.evaluate(digits.x_test, digits.y_test)["accuracy"]
        print(f"{accuracy:.2%} of the test images")

    if args.plot:
        from matplotlib import pyplot

        from bp_xp import plotting

        _, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
        plotting.sweep_curves(table, ax=left)
        title = {"loc": "left", "fontsize": "medium"}
        left.set_title("The best settings: mean and spread over the folds", **title)
        plotting.sweep_heat_map(table, ax=right)
        right.set_title("All settings: mean over the folds", **title)
        pyplot.savefig(args.plot, dpi=150)
        pyplot.close()
        print(f"plot saved to {args.plot}")


if __name__ == "__main__":
    main()
