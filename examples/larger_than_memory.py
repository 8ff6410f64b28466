"""Learn a data set from disk, in a few megabytes of memory, and the same rows in memory.

The script writes a file of many small digits. Each is one of the training images, moved by at most
a pixel, darker or lighter, and with noise. A network learns them from the memory map, in buffers
whose rows are shuffled. Halfway, the run is stopped, and another network resumes from the
checkpoint. Then the rows are read into memory, and a third network learns them from there:

    python examples/larger_than_memory.py --megabytes 1000 --buffer 20 --plot memory.png

It prints samples per second, including the time to read the file; how much memory each run takes in
addition to what the process had before (on Linux only); and the accuracy on test images that are
changed in the same way. Two buffers are in memory at a time, because the next one is read while the
network learns. The system's cache of the file is not counted: the system releases it on demand.
"""

import argparse
import gc
import math
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from bp_xp import SGD, Callback, Checkpoint, Network, StopWhen, Stream
from bp_xp._optional import require
from bp_xp.datasets import load_digits

ROW = 64 * 4  # bytes of an image of 8 x 8 in float32
MB = 1_000_000


def varied(x: np.ndarray, y: np.ndarray, n: int, rng: np.random.Generator) -> tuple:
    """Return n images drawn from x, each changed a little, shape (n, 64), and their labels."""
    padded = np.pad(x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    moved = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), axis=(1, 2))
    drawn, (down, right) = rng.integers(len(x), size=n), rng.integers(3, size=(2, n))
    images = moved[drawn, down, right].reshape(n, 64)
    images = rng.uniform(0.7, 1.3, (n, 1)) * images + rng.normal(0.0, 0.1, (n, 64))
    return images.astype(np.float32), y[drawn]


def write_rows(folder: Path, n: int) -> None:
    """Write n images to x.npy, shape (n, 64), and their labels to y.npy, block by block."""
    digits, rng = load_digits(), np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (n, 64))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.uint8, (n,))
    for start in range(0, n, 10_000):
        rows = slice(start, min(start + 10_000, n))
        x[rows], y[rows] = varied(digits.x_train, digits.y_train, rows.stop - rows.start, rng)


def memory() -> float:
    """Return the anonymous memory of this process in megabytes; NaN on systems other than Linux."""
    status = Path("/proc/self/status")
    found = re.search(r"RssAnon:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 / MB if found else math.nan


class Watch(Callback):
    """Records time, memory and accuracy on the test images about forty times in a run.

    Attributes:
        seen: for each record: seconds, megabytes beyond the start, epochs, accuracy.
        step: the steps so far.
    """

    def __init__(self, steps: int, epochs: int) -> None:
        self.every = max(1, steps // 40)
        self.epochs_a_step = epochs / steps
        self.seen: list[tuple[float, float, float, float]] = []
        self.step = 0
        digits = load_digits()
        self.test = varied(digits.x_test, digits.y_test, 5_000, np.random.default_rng(1))
        self.begun, self.before = time.perf_counter(), memory()

    def on_steps(self, network, history, step):
        """Record them."""
        self.step = step
        accuracy = network.evaluate(*self.test)["accuracy"]
        seconds, taken = time.perf_counter() - self.begun, memory() - self.before
        self.seen.append((seconds, taken, step * self.epochs_a_step, accuracy))


def train_from_disk(folder: Path, watch: Watch, steps: int, options: dict, fit: dict) -> int:
    """Train on the file, with another network from halfway on; return the step of the change."""
    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    fit |= {"checkpoint": Checkpoint(folder / "run.safetensors", resume=True)}
    stream = Stream(x, buffer_size=fit.pop("buffer"))
    halfway = StopWhen(lambda: watch.step >= steps // 2)
    stopped = Network(**options).fit(stream, y, callbacks=[watch, halfway], **fit).steps
    print(f"stopped after step {stopped:,} of {steps:,}")
    history = Network(**options).fit(stream, y, callbacks=[watch], **fit)
    print(f"resumed there, and continued to step {history.steps:,}")
    return stopped


def train_in_memory(folder: Path, watch: Watch, options: dict, fit: dict) -> None:
    """Train on the same rows as arrays."""
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    Network(**options).fit(x, y, callbacks=[watch], **fit)


def draw(watches: dict[str, Watch], stopped: float, megabytes: float, path: str) -> None:
    """Draw accuracy by epoch, with the epoch of the stop, and memory by time."""
    from matplotlib import pyplot

    from bp_xp.plotting._style import PALETTE, panels, style

    axes = panels(None, ("learning", "memory"), 2, (5.2, 3.8))
    learning, taken = axes["learning"], axes["memory"]
    for (name, watch), color, dash in zip(watches.items(), PALETTE, ("-", "--"), strict=False):
        seconds, megabytes_taken, epochs, accuracy = np.array(watch.seen).T
        learning.plot(epochs, 100 * accuracy, dash, color=color, lw=2, label=name)
        taken.plot(seconds, megabytes_taken, dash, color=color, lw=2, label=name)
    learning.axvline(stopped, color="0.5", ls=":", label="stopped and resumed")
    taken.axhline(megabytes, color="0.5", ls=":", label="the rows on disk")
    taken.set_ylim(0)
    style(learning, title="Learning", x="epochs", y="accuracy on test images, %")
    style(taken, title="Memory", x="seconds", y="memory beyond the start, MB")
    learning.legend(frameon=False, loc="lower right")
    taken.legend(frameon=False, loc="center right")
    pyplot.savefig(path, dpi=150)
    pyplot.close()
    print(f"plot saved to {path}")


def read_options() -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--megabytes", type=float, default=200, help="of the file (default: 200)")
    parser.add_argument("--buffer", type=float, default=10, help="megabytes (default: 10)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the file (default: 2)")
    parser.add_argument("--folder", type=Path, help="for the file (default: one that is removed)")
    parser.add_argument("--plot", help="a .png, .svg or .pdf file for the picture")
    args = parser.parse_args()
    for name in ("megabytes", "buffer"):
        rows = getattr(args, name) * MB / ROW
        if not 1 <= rows < math.inf:
            parser.error(f"--{name} must have room for at least one image of {ROW} bytes")
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, not {args.epochs}")
    if args.folder and not args.folder.is_dir():
        parser.error(f"--folder must be a folder that exists, not {args.folder}")
    free = shutil.disk_usage(args.folder or tempfile.gettempdir()).free / MB
    if args.megabytes > free:
        parser.error(f"--megabytes {args.megabytes:g} is more than the {free:,.0f} that are free")
    return args


def main() -> None:
    """Train from disk and in memory, and compare."""
    args = read_options()
    if args.plot:
        require("matplotlib", "plot").use("Agg")  # says what to install, before anything is made
    n, batch_size = int(args.megabytes * MB / ROW), 100
    steps = args.epochs * math.ceil(n / batch_size)
    options = {"sizes": [64, 128, 10], "activation": "relu", "cost": "categorical_cross_entropy"}
    options |= {"device": args.device, "backend": args.backend, "seed": 0}
    fit = {"epochs": args.epochs, "batch_size": batch_size, "optimizer": SGD(0.1, momentum=0.9)}
    fit |= {"progress": False}
    buffer = {"buffer": int(args.buffer * MB / ROW)}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_rows(folder, n)
        print(f"{n:,} images in {args.megabytes:g} MB, learned in buffers of {args.buffer:g} MB")
        disk = Watch(steps, args.epochs)
        stopped = train_from_disk(folder, disk, steps, options, fit | buffer)
        gc.collect()
        ram = Watch(steps, args.epochs)
        train_in_memory(folder, ram, options, fit)
    watches = {"from disk": disk, "in memory": ram}
    print(f"\n{'':9}  samples/s  most memory  test accuracy")
    for name, watch in watches.items():
        seconds, _, epochs, _ = watch.seen[-1]
        rate = epochs * n / seconds
        most = max(megabytes for _, megabytes, _, _ in watch.seen)
        print(f"{name}  {rate:9,.0f}  {most:8.0f} MB  {watch.seen[-1][-1]:13.2%}")
    if args.plot:
        draw(watches, stopped * disk.epochs_a_step, args.megabytes, args.plot)


if __name__ == "__main__":
    main()
