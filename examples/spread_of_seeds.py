"""How much of the book's result is luck: its network of chapter 1, from many seeds.

The book trains [784, 30, 10] on MNIST (sigmoid, quadratic cost, mini-batches of 10, eta 3) and
reports 95.42 % for its best epoch. That is one seed. This script trains any number of seeds as one
stack, each with its own initial weights and its own order:

    python examples/spread_of_seeds.py --seeds 100 --epochs 30 --plot spread.png

It prints a histogram of the test accuracy after the last epoch, the mean, the standard deviation
and the range, and how many networks hardly ever classify one digit correctly. Those started with a
saturated output neuron, which recovers slowly with ten images at a time. The script uses MNIST if
it finds the archives, as book_network.py does, and otherwise the small digits.
"""

import argparse

import numpy as np

import bp_xp
from bp_xp.datasets import Dataset, load_digits, load_mnist

WIDTH = 50  # characters of the longest bar


def load_images(folder: str | None) -> Dataset:
    """Return MNIST if its archives are found, and otherwise the small digits."""
    try:
        return load_mnist(folder, download=False)
    except FileNotFoundError:
        if folder is not None:
            raise
    return load_digits()


def histogram(values: np.ndarray, bins: int) -> list[str]:
    """Return a line with a bar for each interval, from the smallest value to the largest."""
    counts, edges = np.histogram(values, bins)
    unit = max(1.0, counts.max() / WIDTH)
    return [
        f"{100 * low:6.2f} % - {100 * high:6.2f} %  {count:4}  {'#' * round(count / unit)}"
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]


def draw(accuracies: np.ndarray, epochs: int, path: str) -> None:
    """Draw a histogram of accuracies in percent."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    from bp_xp.plotting._style import PALETTE, new_axes, style

    ax = new_axes(None, (5.6, 3.8))
    ax.hist(accuracies, bins=20, color=PALETTE[0])
    ax.axvline(accuracies.mean(), color=PALETTE[1], ls="--", lw=2, label="their mean")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"{len(accuracies)} networks from different seeds, after {epochs} epochs"
    style(ax, title=title, x="accuracy on test images, %", y="networks")
    ax.legend(frameon=False, loc="upper left")
    pyplot.savefig(path, dpi=150)
    pyplot.close()
    print(f"plot saved to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--data-dir", help="folder of the four MNIST archives")
    parser.add_argument("--seeds", type=int, default=20, help="how many networks")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training images")
    parser.add_argument("--jobs", type=int, default=1, help="processes; -1 is one for each core")
    parser.add_argument("--plot", help="a .png, .svg or .pdf file for the histogram")
    args = parser.parse_args()

    images = load_images(args.data_dir)
    print(f"{images.name}: {len(images.x_train):,} training and {len(images.x_test):,} test images")
    table = bp_xp.sweep(
        images.x_train,
        images.y_train,
        {"learning_rate": [3.0]},
        seeds=args.seeds,
        validation_data=(images.x_test, images.y_test),
        n_jobs=args.jobs,
        refit=False,
        sizes=[images.n_features, 30, 10],
        initializer="normal",
        epochs=args.epochs,
        batch_size=10,
        device=args.device,
        backend=args.backend,
    )
    accuracies = np.array([run.value("validation_accuracy") for run in table.runs])
    print("\n".join(histogram(accuracies, min(20, max(5, args.seeds // 5)))))
    print(f"mean {accuracies.mean():.2%}, standard deviation {accuracies.std():.2%}")
    print(f"least {accuracies.min():.2%}, largest {accuracies.max():.2%}")
    # A network that never recognizes one of the ten digits has nine in ten images left.
    unlucky = int((accuracies < 0.905).sum())
    print(f"{unlucky} of {args.seeds} networks classify less than 90.5% correctly")

    if args.plot:
        draw(100 * accuracies, args.epochs, args.plot)


if __name__ == "__main__":
    main()
