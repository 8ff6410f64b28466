"""A deep ensemble that knows what it does not know: digits upside down, and no digits at all.

Several networks learn the same images, each with its own initial weights and its own order, and the
ensemble predicts the mean of their outputs. The entropy of that mean measures how uncertain the
ensemble is. A part of it is the mutual information, which measures how much the members disagree:
they have not learned such an image, and each predicts something else.

The ensemble predicts the test images; the test images turned upside down; and the test images with
shuffled pixels, which have as much ink as a digit but show none:

    python examples/deep_ensemble.py --members 10 --epochs 20 --plot ensemble.png

It prints accuracy and calibration of one member and of the mean. Then it prints how uncertain one
member and the ensemble are about the three sets, and how well that distinguishes an unfamiliar set
from the test images: the area under the ROC curve, where a guess has 50 %. With --plot, it draws
histograms. It uses MNIST if it finds the archives, as book_network.py does, and otherwise the small
digits.

On MNIST, the mean classifies more images correctly than a member, and distinguishes unfamiliar
images better from the test images. Calibration depends on the confidence of the members: after 10
epochs, it matches their accuracy closely, and their mean is underconfident; from 20 epochs on, they
are overconfident, and their mean is about right. An ensemble does not notice everything: a fifth of
the digits upside down look like a digit to all members.

References:
    Lakshminarayanan, Pritzel and Blundell, *Simple and scalable predictive uncertainty estimation
    using deep ensembles*, NeurIPS 2017.
"""

import argparse
import time

import numpy as np

from bp_xp import SGD, Ensemble, to_numpy
from bp_xp.datasets import Dataset, load_digits, load_mnist

CALIBRATION = "expected_calibration_error"

Measures = dict[str, np.ndarray]
"""By name, how uncertain one member or the ensemble is about each image of a set."""


def load_images(folder: str | None) -> Dataset:
    """Return MNIST if its archives are found, and otherwise the small digits."""
    try:
        return load_mnist(folder, download=False)
    except FileNotFoundError:
        if folder is not None:
            raise
    return load_digits()


def strange_sets(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return images, shape (N, pixels), as they are, upside down, and with shuffled pixels."""
    return {
        "test images": x,
        # Pixels are in rows from the top: reversing their order rotates by 180 degrees.
        "upside down": np.ascontiguousarray(x[:, ::-1]),
        "shuffled pixels": np.random.default_rng(0).permuted(x, axis=1),
    }


def measures(ensemble: Ensemble, x: np.ndarray) -> Measures:
    """Return how uncertain the first member and the ensemble are about images, in nats."""
    alone, together = ensemble[[0]].uncertainty(x), ensemble.uncertainty(x)
    return {
        "entropy of one member": to_numpy(alone.entropy),
        "entropy of the ensemble": to_numpy(together.entropy),
        "mutual information": to_numpy(together.mutual_information),
    }


def area_under_roc(strange: np.ndarray, usual: np.ndarray) -> float:
    """Return how often an unfamiliar image has more than a usual one; a tie counts half."""
    usual = np.sort(usual)
    less, at_most = (np.searchsorted(usual, strange, side) for side in ("left", "right"))
    return float((less + at_most).mean() / (2 * len(usual)))


def print_quality(ensemble: Ensemble, x: np.ndarray, y: np.ndarray) -> None:
    """Print accuracy and calibration error of the members, on the mean, and of their mean."""
    each = [network.evaluate(x, y, metrics=CALIBRATION) for network in ensemble]
    rows = {
        "one member": {k: np.mean([one[k] for one in each]) for k in ("accuracy", CALIBRATION)},
        "their mean": ensemble.evaluate(x, y),
    }
    print(f"\n{'':16}  accuracy  calibration error")
    for name, found in rows.items():
        print(f"{name:16}  {found['accuracy']:8.2%}  {found[CALIBRATION]:17.2%}")


def print_measures(found: dict[str, Measures]) -> None:
    """Print the mean of each measure by set, and the area under the ROC curve."""
    usual = next(iter(found.values()))
    print(f"\n{'':16}" + "".join(f"  {name:>24}" for name in usual))
    for name, of_set in found.items():
        cells = [
            f"{values.mean():.3f}  ({area_under_roc(values, usual[k]):6.2%})"
            for k, values in of_set.items()
        ]
        print(f"{name:16}" + "".join(f"  {cell:>24}" for cell in cells))
    print("in nats; in parentheses: how often it is more than for a test image")


def draw(found: dict[str, Measures], path: str) -> None:
    """Draw a histogram of each measure, with a line for each set."""
    from matplotlib import pyplot

    from bp_xp.plotting._style import PALETTE, panels, style

    names = list(next(iter(found.values())))
    for name, panel in panels(None, names, len(names), (4.3, 3.8)).items():
        bins = np.linspace(0.0, max(of_set[name].max() for of_set in found.values()), 31)
        for label, color, dash in zip(found, PALETTE, ("-", "--", ":"), strict=False):
            values = found[label][name]
            share = np.full(len(values), 100 / len(values))
            drawn = {"histtype": "step", "lw": 2, "ls": dash, "color": color, "label": label}
            panel.hist(values, bins, weights=share, **drawn)
        panel.set_yscale("log")
        style(panel, title=name[0].upper() + name[1:], x="nats", y="images, %")
        panel.legend(frameon=False)
    pyplot.savefig(path, dpi=150)
    pyplot.close()
    print(f"plot saved to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--data-dir", help="folder of the four MNIST archives")
    parser.add_argument("--members", type=int, default=10, help="how many networks")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--plot", help="a .png, .svg or .pdf file for the histograms")
    args = parser.parse_args()

    images = load_images(args.data_dir)
    print(f"{images.name}: {len(images.x_train):,} training and {len(images.x_test):,} test images")
    ensemble = Ensemble(
        [images.n_features, 100, 10],
        members=args.members,
        activation="relu",
        cost="categorical_cross_entropy",
        device=args.device,
        backend=args.backend,
        seed=0,
    )
    begun = time.perf_counter()
    ensemble.fit(
        images.x_train,
        images.y_train,
        epochs=args.epochs,
        batch_size=32,
        optimizer=SGD(0.1),
        progress=False,
    )
    print(f"{args.members} networks in {time.perf_counter() - begun:.1f} s")
    print_quality(ensemble, images.x_test, images.y_test)
    found = {name: measures(ensemble, x) for name, x in strange_sets(images.x_test).items()}
    print_measures(found)
    if args.plot:
        draw(found, args.plot)


if __name__ == "__main__":
    main()
