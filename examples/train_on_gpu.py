"""Train a classifier on one or several GPUs, as a job of a queue.

This is the command:

    python examples/train_on_gpu.py --output runs/mnist.safetensors

It trains on MNIST (from --data-dir or $BP_XP_DATA_DIR, or else downloaded once). --data digits
trains on the small digits that come with the library. --data x.npy --targets y.npy trains on the
rows of a file, which may be larger than memory: x of shape (N, I), numbers that need no scaling;
y of shape (N,), labels from 0. The last tenth of the rows is for testing and the tenth before it
for validation, so the rows should be in random order.

A device that does not work is an error, so that no job runs on a slow CPU unnoticed. --device auto
takes the best device, --device cpu needs no GPU, and --backend chooses the library.

Next to --output, NAME.safetensors, the script writes NAME.checkpoint.safetensors every
--checkpoint-every steps, after each epoch and when the run is stopped; and NAME.log, with a line
for each epoch. SIGTERM, SIGUSR1 and Ctrl-C complete the step under way. The same command resumes
the run, after a signal or a crash. Once the run is done, it does not train again. Exit status:

    0   done: the test rows are evaluated, and --output is written
    1   an error, in one line on stderr and in the log; the same command would fail again
    2   a wrong option
    75  stopped before the end, with the checkpoint written, or another job is writing the
        checkpoint: submit the same command again

75 is EX_TEMPFAIL of sysexits.h. With SLURM, on one GPU (sbatch train.sh, %j is the job's number):

    #!/bin/bash
    #SBATCH --gpus=1 --cpus-per-task=4 --time=01:00:00
    #SBATCH --signal=USR1@120 --requeue --open-mode=append --output=train-%j.out
    srun python examples/train_on_gpu.py --output runs/mnist.safetensors
    status=$?
    if [ $status -eq 75 ]; then scontrol requeue $SLURM_JOB_ID; fi
    exit $status

On four GPUs of a machine, PyTorch's processes share each mini-batch. The lines above and below srun
stay the same:

    #SBATCH --nodes=1 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=4 --time=01:00:00
    export MASTER_ADDR=$(hostname) MASTER_PORT=29500 WORLD_SIZE=$SLURM_NTASKS
    srun bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID
        exec python examples/train_on_gpu.py --backend torch --distributed auto'

Without a queue, and on CPUs with MPI (see bp_xp's docs/distributed.md):

    torchrun --nproc-per-node 4 examples/train_on_gpu.py --backend torch --distributed auto
    mpiexec -n 4 python -m mpi4py examples/train_on_gpu.py --device cpu --distributed auto

Send signals to the Python processes, as SLURM does. The program that starts them treats signals in
its own way, and torchrun ends with 1 when they end with 75.
"""

import argparse
import logging
import re
import signal
import sys
import threading
from pathlib import Path

stop = threading.Event()
if __name__ == "__main__":  # now, because a signal may come during the imports, which take seconds
    for name in {"SIGTERM", "SIGUSR1"} & set(dir(signal)):  # Windows has no SIGUSR1
        signal.signal(getattr(signal, name), lambda *_: stop.set())

import numpy as np  # noqa: E402

from bp_xp import (  # noqa: E402
    SGD,
    Callback,
    Checkpoint,
    CheckpointError,
    DownloadError,
    Network,
    StopWhen,
)
from bp_xp.backends import place  # noqa: E402
from bp_xp.datasets import Dataset, load_digits, load_mnist  # noqa: E402
from bp_xp.ranks import find_ranks  # noqa: E402

DONE, FAILED, SUBMIT_AGAIN = 0, 1, 75

logger = logging.getLogger("train")


def load(args: argparse.Namespace) -> Dataset:
    """Return a data set with a validation part."""
    if args.data == "mnist":
        try:
            return load_mnist(args.data_dir)
        except DownloadError as error:
            found = re.split(r":\s", str(error))[0]  # the rest lists each mirror
            raise OSError(
                f"{found}. Name the folder of MNIST's four archives with --data-dir, or pass "
                "--data digits, which needs no files."
            ) from error
        except FileNotFoundError as error:
            raise OSError(f"{error} --data digits needs no files.") from error
    if args.data == "digits":
        digits = load_digits()
        x, y = digits.x_train, digits.y_train
        n = len(x) - len(x) // 6
        return Dataset("digits", x[:n], y[:n], digits.x_test, digits.y_test, x[n:], y[n:])
    if not args.data.endswith(".npy"):
        raise ValueError(
            f"--data {args.data}: no such data set or file; pass mnist, digits or a .npy file."
        )
    if args.targets is None:
        raise ValueError(f"--data {args.data} needs --targets, a .npy file with one label per row.")
    x, y = rows_of(args.data), np.array(rows_of(args.targets))
    kinds = x.dtype.kind in "biuf" and y.dtype.kind in "iu"
    if x.ndim != 2 or y.shape != x.shape[:1] or not kinds or len(y) < 10:
        raise ValueError(
            f"{args.data} must hold numbers of shape (N, I), and {args.targets} N labels, with N "
            f"at least 10: they are {x.dtype} of shape {x.shape} and {y.dtype} of shape {y.shape}."
        )
    tenth = len(x) // 10
    train, validation, test = slice(0, -2 * tenth), slice(-2 * tenth, -tenth), slice(-tenth, None)
    return Dataset(args.data, x[train], y[train], x[test], y[test], x[validation], y[validation])


def rows_of(path: str) -> np.ndarray:
    """Return the array of a .npy file, whose rows are read as they are needed."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} can't be read as a .npy file of numbers: {error}") from error


def log_to(path: Path, rank: int) -> None:
    """Let rank 0 log to standard output and to a file, and the other ranks only warnings."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if rank == 0:
        handlers.append(logging.FileHandler(path, delay=True))
    level = logging.WARNING if rank else logging.INFO
    text = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level, format=text, handlers=handlers)


class EpochLines(Callback):
    """Writes a line to the log for each epoch, and one when a run resumes."""

    def on_train_start(self, network, history):
        """Log the step that a run resumes at."""
        if history.steps:
            logger.info("resumes at step %d, after %d epochs", history.steps, len(history))

    def on_epoch_end(self, network, history):
        """Log the record of the epoch."""
        logger.info("%s  %.0f samples/s", history[-1], history[-1].samples_per_second)


def train(args: argparse.Namespace) -> int:
    """Train, test and save a network; return the exit status."""
    # A folder that can't be made must fail now, and not after hours of training.
    args.output.parent.mkdir(parents=True, exist_ok=True)
    ranks = find_ranks(args.distributed, place(args.device, args.backend))
    log_to(args.output.with_suffix(".log"), ranks.rank)
    data = load(args)
    net = Network(
        [data.n_features, *args.hidden, data.n_outputs],
        activation="relu",
        cost="categorical_cross_entropy",
        device=args.device,
        backend=args.backend,
        seed=args.seed,
    )
    logger.info("%r on %r, processes: %d", net, data, ranks.size)
    if net.device_reason:
        logger.info("--device %s took %s: %s", args.device, net.device, net.device_reason)

    history = net.fit(
        data.x_train,
        data.y_train,
        epochs=args.epochs,
        batch_size=args.batch_size,
        optimizer=SGD(args.learning_rate, momentum=args.momentum),
        validation_data=(data.x_validation, data.y_validation),
        callbacks=[EpochLines(), StopWhen(stop.is_set)],
        checkpoint=Checkpoint(
            args.output.with_suffix(".checkpoint.safetensors"),
            every=args.checkpoint_every,
            resume=True,
        ),
        distributed=args.distributed,
        progress=False,  # the log has a line for each epoch
    )
    if len(history) > args.epochs:
        logger.info("the checkpoint has %d epochs: this longer run is kept", len(history))
    if history.stopped == "interrupt":
        logger.warning("stopped after step %d: the same command resumes", history.steps)
        return SUBMIT_AGAIN
    if ranks.rank == 0:
        accuracy = net.evaluate(data.x_test, data.y_test)["accuracy"]
        logger.info("test accuracy %.2f %%; saved %s", 100 * accuracy, net.save(args.output))
    return DONE


def options() -> argparse.Namespace:
    """Return the options of the command, of which some are refused before anything is read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu, auto (default: cuda)")
    parser.add_argument("--backend", help="cupy, torch, jax, numpy (default: by the device)")
    parser.add_argument("--distributed", help="auto, mpi, torch, jax (default: one process)")
    parser.add_argument("--data", default="mnist", help="mnist, digits or a .npy file")
    parser.add_argument("--targets", help="the .npy file with the labels of --data")
    parser.add_argument("--data-dir", type=Path, help="folder of the four MNIST archives")
    parser.add_argument("--hidden", type=int, nargs="*", default=[512], help="neurons a layer")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument("--checkpoint-every", type=int, default=1000, help="steps (default: 1000)")
    parser.add_argument("--output", type=Path, default=Path("model.safetensors"))
    args = parser.parse_args()
    if args.output.suffix != ".safetensors" or args.output.is_dir():
        parser.error(f"--output must be the name of a .safetensors file, not {args.output}")
    if args.targets and args.data in ("mnist", "digits"):
        parser.error(f"--targets is for --data x.npy: --data {args.data} has its own labels")
    return args


def main() -> int:
    """Train as the options say; return the exit status."""
    args = options()
    try:
        return train(args)
    except KeyboardInterrupt:  # before the first step: fit itself completes the one under way
        return SUBMIT_AGAIN
    except (RuntimeError, ImportError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, CheckpointError):
            text = f"{text.removesuffix('.')}. Use another --output for another run."
        print(text, file=sys.stderr)
        if logging.root.handlers:  # an error may come before there is a log
            logger.error(text)
        # Another job has the checkpoint: this process, or rank 0, can't lock it.
        return SUBMIT_AGAIN if BlockingIOError.__name__ in text else FAILED


if __name__ == "__main__":
    sys.exit(main())
