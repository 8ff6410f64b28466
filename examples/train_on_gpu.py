"""Train a digit classifier on a GPU, as one would submit it to a job queue.

The script needs no terminal: without one it logs a line an epoch instead of a progress bar. With
--device auto it takes a GPU if one works, says which device it took and why, and a CPU otherwise;
--device cuda is an error where there is none, so that a job never crawls along on a CPU unseen.

    python examples/train_on_gpu.py --device cuda --output runs/mnist.safetensors

It logs cost and accuracy on training and validation images after each epoch, judges the test images
once, at the end, and writes the network to --output. MNIST is read from --data-dir or from
$BP_XP_DATA_DIR, else downloaded once; a compute node without a network wants the four archives in
one of the two. --data digits is a stand-in that comes with the library: 1,797 images of 8 x 8.

Exit codes: 0 done; 1 an error, told in one line on stderr; 130 stopped. Ctrl-C and SIGTERM, which
queues send before time is up, complete the step under way; the network as it is then is saved.
"""

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from bp_xp import SGD, DownloadError, Network, StopWhen
from bp_xp.datasets import Dataset, load_digits, load_mnist

logger = logging.getLogger("train")


def load(name: str, folder: Path | None) -> Dataset:
    """Return a data set with a validation part."""
    if name == "mnist":
        try:
            return load_mnist(folder)
        except (DownloadError, FileNotFoundError) as error:
            raise OSError(f"{error} --data digits needs no files.") from error
    digits = load_digits()
    x, y = digits.x_train, digits.y_train
    n = len(x) - len(x) // 6
    return Dataset("digits", x[:n], y[:n], digits.x_test, digits.y_test, x[n:], y[n:])


def train(args: argparse.Namespace) -> int:
    # A folder that can't be made shall fail now, and not after hours of training.
    args.output.parent.mkdir(parents=True, exist_ok=True)
    data = load(args.data, args.data_dir)
    logger.info("%r", data)

    net = Network(
        [data.n_features, *args.hidden, data.n_outputs],
        activation="relu",
        cost="categorical_cross_entropy",
        device=args.device,
        backend=args.backend,
        seed=args.seed,
    )
    logger.info("%r, seed %d", net, net.seed)
    if net.device_reason:
        logger.info("--device %s took %s: %s", args.device, net.device, net.device_reason)

    # fit takes Ctrl-C as a request to stop after the step under way: let SIGTERM be the same.
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    history = net.fit(
        data.x_train,
        data.y_train,
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=SGD(args.learning_rate, momentum=args.momentum),
        validation_data=(data.x_validation, data.y_validation),
        callbacks=[StopWhen(terminated.is_set)],
    )
    logger.info("saved %s", net.save(args.output))
    if history.stopped == "interrupt":
        logger.warning("stopped after %d complete epochs", len(history))
        return 130
    logger.info("test accuracy %.2f %%", 100 * net.evaluate(data.x_test, data.y_test)["accuracy"])
    speed = sum(history["samples_per_second"]) / len(history)
    logger.info("%d samples a second on %s", speed, net.device)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, cpu (default: auto)")
    parser.add_argument("--backend", help="cupy, torch, jax, numpy (default: by the device)")
    parser.add_argument("--data", default="mnist", choices=("mnist", "digits"))
    parser.add_argument("--data-dir", type=Path, help="folder of the four MNIST archives")
    parser.add_argument("--hidden", type=int, nargs="*", default=[512], help="neurons a layer")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--seed", type=int, help="of weights and order (default: drawn, logged)")
    parser.add_argument("--output", type=Path, default=Path("model.safetensors"))
    args = parser.parse_args()

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout
    )
    try:
        return train(args)
    except KeyboardInterrupt:
        print("stopped before there was anything to save", file=sys.stderr)
        return 130
    except (RuntimeError, ImportError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
