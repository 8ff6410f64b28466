"""A scikit-learn program with its import swapped: the same run, on any device, and what is new.

The program is usual scikit-learn code: a pipeline that scales the small digits and trains an
MLPClassifier, [64, 100, 100, 10] with ReLU, Adam and early stopping. It runs twice, with the class
of sklearn.neural_network and with that of bp_xp.estimators. Only the import and device= differ.

The script prints the loss of both, epoch by epoch, and the largest difference between them. That is
rounding: about 1e-15 with float64 samples. A device that only has float32 needs --dtype float32,
which differs by about 1e-5. It also prints the test accuracy of both and what is new in the second
class, and converts the model back to a fitted scikit-learn estimator, which does not need bp_xp.
"""

import argparse
import time
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bp_xp import CosineDecay, estimators
from bp_xp.datasets import load_digits


def program(mlp_classifier: type, digits: Any, **new: Any) -> tuple[Any, float]:
    """Run the user's program: return the fitted pipeline, and the seconds it took."""
    pipeline = make_pipeline(
        StandardScaler(),
        mlp_classifier((100, 100), early_stopping=True, random_state=0, **new),
    )
    start = time.perf_counter()
    pipeline.fit(digits.x_train.astype(np.float64), digits.y_train)
    return pipeline, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--dtype", help="float32 or float64 (default: that of the samples)")
    args = parser.parse_args()
    where = {"device": args.device, "backend": args.backend, "dtype": args.dtype}

    digits = load_digits()
    theirs, their_seconds = program(neural_network.MLPClassifier, digits)
    ours, our_seconds = program(estimators.MLPClassifier, digits, **where)

    print("epoch  scikit-learn         bp_xp")
    curves = [np.array(one[-1].loss_curve_) for one in (theirs, ours)]
    for epoch in range(0, min(map(len, curves)), 5):
        print(f"{epoch + 1:5}  {curves[0][epoch]:.10f}  {curves[1][epoch]:.10f}")
    epochs = min(map(len, curves))
    off = np.abs(curves[1][:epochs] / curves[0][:epochs] - 1).max()
    print(f"largest relative difference in {epochs} epochs: {off:.1e}")
    test = digits.x_test.astype(np.float64), digits.y_test
    for name, one, seconds in (("theirs", theirs, their_seconds), ("ours", ours, our_seconds)):
        accuracy = one.score(*test)
        print(f"{name:6}  {one[-1].n_iter_} epochs  {accuracy:.2%} correct  {seconds:.2f} s")

    print("new: dropout, a schedule, and early stopping on your own validation data")
    scale = ours[0].transform
    mlp = estimators.MLPClassifier(
        (100, 100),
        learning_rate=CosineDecay(0.005, steps=500),
        early_stopping=True,
        dropout=0.2,
        random_state=0,
        **where,
    )
    halves = slice(None, None, 2), slice(1, None, 2)
    validation, held = ((scale(test[0][half]), test[1][half]) for half in halves)
    mlp.fit(scale(digits.x_train.astype(np.float64)), digits.y_train, validation_data=validation)
    least = min(mlp.validation_loss_curve_)
    print(f"{mlp.n_iter_} epochs, least validation loss {least:.4f}")
    print(f"on unseen images: {mlp.score(*held):.2%} correct")

    back = estimators.to_sklearn(mlp)
    same = float(np.abs(back.predict_proba(held[0]) - mlp.predict_proba(held[0])).max())
    kind = f"{type(back).__module__.partition('.')[0]}.{type(back).__name__}"
    print(f"back as {kind}: probabilities differ by {same:.1e} at most")


if __name__ == "__main__":
    main()
