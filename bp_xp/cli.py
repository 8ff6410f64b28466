"""The program ``bp-xp``: train, evaluate and use networks from the shell.

Results go to stdout; notes, progress, warnings and errors go to stderr. An error of the library is
one line and exit status 1, a command line that can't be read is exit status 2, and a training run
that Ctrl-C or SIGTERM ends leaves its network behind with exit status 130 or 143.
"""

import contextlib
import errno
import functools
import io
import logging
import math
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click
import numpy as np

from bp_xp import ACTIVATIONS, COSTS, SGD, Network, __version__, to_numpy
from bp_xp.arrays import LIBRARIES, SUPPORTED_DTYPES, devices, place
from bp_xp.datasets import Dataset, load_csv, load_digits, load_file, load_mnist, load_npy, load_npz
from bp_xp.persistence import check_replaceable

__all__ = ["main"]

logger = logging.getLogger("bp_xp")

# What the library raises for a wrong argument, file, device or run. Anything else is a mistake of
# the library's own, and shows its traceback.
_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
)


# ---------------------------------------------------------------------------------------------
# The program: how every command talks, fails and ends


class _Program(click.Group):
    """A group of commands whose errors are one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A name that the terminal can't show is escaped.
                stream.reconfigure(errors="backslashreplace")
        with _messages():
            try:
                return super().invoke(ctx)
            except (click.exceptions.Exit, click.Abort):  # to Python these are RuntimeErrors
                raise
            except KeyboardInterrupt:
                _stop("interrupted", signal.SIGINT)
            except _ERRORS as error:
                if isinstance(error, OSError) and error.errno == errno.EPIPE:
                    raise  # nobody reads on: click ends quietly
                if ctx.meta.get("bp_xp.debug"):
                    traceback.print_exc()
                click.echo(f"error: {_one_line(error)}", err=True)
                raise click.exceptions.Exit(1) from None


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Send what the library logs and warns of to stderr, a line each."""
    handler, level = logging.StreamHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            # Numbers that overflow end in an error, which says it better.
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.showwarning = lambda message, *_: click.echo(
                f"warning: {_one_line(message)}", err=True
            )
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _one_line(error: Exception | str) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


class _Termination(contextlib.AbstractContextManager["_Termination"]):
    """Ends the program at the first SIGTERM; a run under way completes its step before.

    A second SIGTERM ends the process at once.

    Attributes:
        number: SIGTERM once it came, SIGINT before.
        training: whether there is a run to be completed.
    """

    def __init__(self) -> None:
        self.number = signal.SIGINT
        self.training = False
        self._handles = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "_Termination":
        if self._handles:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)
        if kind is KeyboardInterrupt:
            _stop("interrupted: nothing was written", self.number)

    def asked(self) -> bool:
        """Whether SIGTERM came."""
        return self.number == signal.SIGTERM

    def _ask(self, *_: object) -> None:
        self.number = signal.SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not self.training:
            raise KeyboardInterrupt


def _stop(message: str, number: int) -> NoReturn:
    """End the program as one that the signal of this number has ended."""
    click.echo(message, err=True)
    raise click.exceptions.Exit(128 + number)


# ---------------------------------------------------------------------------------------------
# The data: two sets that are known by name, and files


class _Defaults(NamedTuple):
    """The settings that train takes where none are given."""

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float


_LOADERS: dict[str, Callable[[], Dataset]] = {"digits": load_digits, "mnist": load_mnist}
_DEFAULTS = {"digits": _Defaults((64,), 30, 32, 0.1), "mnist": _Defaults((128,), 10, 128, 0.1)}
# The inputs of a file may be of any size, so the steps are shorter.
_FILE_DEFAULTS = _Defaults((64,), 50, 32, 0.02)


def _load_data(data: str, target: int | str) -> Dataset:
    return _LOADERS[data]() if data in _LOADERS else load_file(data, target=target)


def _load_inputs(data: str, target: int | str, n_inputs: int) -> np.ndarray:
    """Return the inputs to predict from, in the order of the file; labels among them are left out.

    Args:
        data: a data set by its name, which gives its test part, or a file.
        target: the column of the labels, in a table of one column more than ``n_inputs``.
        n_inputs: how many inputs the network takes.
    """
    if data in _LOADERS:
        return _LOADERS[data]().x_test
    suffix, columns = Path(data).suffix.lower(), None
    if suffix == ".npz":
        arrays = load_npz(data)
        if not (names := [name for name in ("x", "x_test") if name in arrays]):
            raise ValueError(f"{data} has the members {sorted(arrays)}: x or x_test is expected.")
        x = arrays[names[0]]
    elif suffix == ".npy":
        x = load_npy(data)
    else:
        x, columns = load_csv(data)
    if x.dtype == np.uint8:  # images, scaled as load_file does
        x = x / np.float32(255)
    if x.ndim > 2:
        x = x.reshape(len(x), -1)
    if x.ndim == 2 and x.shape[1] == n_inputs + 1 and suffix != ".npz":
        if isinstance(target, str):
            if target not in (columns := columns or ()):
                raise ValueError(f"--target {target}: {data} has no column of that name.")
            target = columns.index(target)
        x = np.delete(x, target, axis=1)
    return x


def _check_inputs(network: Network, file: str, x: np.ndarray, data: str) -> None:
    if x.ndim == 2 and x.shape[1] != network.sizes[0]:
        raise ValueError(
            f"the network in {file} takes {network.sizes[0]} inputs, but {data} has {x.shape[1]} "
            "features: name the data that it is for with --data."
        )


def _make_network(
    dataset: Dataset,
    sizes: tuple[int, ...] | None,
    hidden: tuple[int, ...],
    cost: str | None,
    **settings: Any,
) -> Network:
    """Return a network whose outputs and cost fit the targets.

    Labels are classes, unless the cost is huber, which is for numbers. Targets are classes where
    each row is one 1 among 0s, and numbers elsewhere.

    Args:
        dataset: the data.
        sizes: of all layers, as asked for, or None.
        hidden: sizes of the hidden layers where ``sizes`` is None.
        cost: as asked for, or None.
        settings: the other arguments of Network.
    """
    y = dataset.y_train
    labels = y.ndim == 1 and cost != "huber"
    n_outputs = max(2, dataset.n_outputs) if labels else math.prod(y.shape[1:])
    if labels and n_outputs > max(2, len(y)):
        raise ValueError(
            f"{dataset.name} has labels up to {n_outputs - 1:,}, but only {len(y):,} samples to "
            "train on: if they are numbers and no classes, fit them with --cost huber."
        )
    if labels and n_outputs == 2 and sizes and sizes[-1] == 1:  # one is enough for two classes
        n_outputs, cost = 1, cost or "binary_cross_entropy"
    if sizes and len(sizes) > 1 and (sizes[0], sizes[-1]) != (dataset.n_features, n_outputs):
        fitting = (dataset.n_features, *sizes[1:-1], n_outputs)
        raise ValueError(
            f"--sizes {_joined(sizes)} does not fit {dataset.name}, which has "
            f"{dataset.n_features} features and needs {n_outputs} outputs: write --sizes "
            f"{_joined(fitting)}"
        )
    classes = labels or bool(np.isin(y, (0, 1)).all() and np.all(y.sum(axis=-1) == 1))
    cost = cost or ("categorical_cross_entropy" if classes else "quadratic")
    return Network(
        (dataset.n_features, *hidden, n_outputs) if sizes is None else sizes,
        output_activation="identity" if cost == "quadratic" and not classes else None,
        cost=cost,
        **settings,
    )


def _joined(sizes: Iterable[int]) -> str:
    return ",".join(map(str, sizes))


# ---------------------------------------------------------------------------------------------
# Options, each written once


def _parse_data(_: Any, __: Any, text: str) -> str:
    if text not in _LOADERS and not text.lower().endswith((".npz", ".npy", ".csv")):
        raise click.BadParameter(
            f"{text!r} is neither {' nor '.join(_LOADERS)} nor a .npz, .npy or .csv file."
        )
    return text


def _parse_target(_: Any, __: Any, text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _parse_sizes(_: Any, __: Any, text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(map(int, text.split(",")))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a list of whole numbers such as 64,30,10."
        ) from None


def _set_quiet(_: Any, __: Any, value: bool) -> None:
    if value:
        logger.setLevel(logging.WARNING)


def _set_debug(ctx: click.Context, _: Any, value: bool) -> None:
    ctx.meta["bp_xp.debug"] = value


_option = functools.partial(click.option, show_default=True)
_flag = functools.partial(click.option, is_flag=True, expose_value=False)

_data = _option(
    "--data",
    default="digits",
    callback=_parse_data,
    metavar="NAME|FILE",
    help="digits, mnist, or a .npz, .npy or .csv file.",
)
_target = _option(
    "--target",
    default="-1",
    callback=_parse_target,
    metavar="COLUMN",
    help="Column of the labels in a table, by name or number; -1 is the last.",
)
_device = _option(
    "--device",
    default="auto",
    metavar="NAME",
    help="cpu, cuda, cuda:1 or auto; with --backend, a device of that library.",
)
_backend = _option(
    "--backend",
    metavar="LIBRARY",
    help=f"{', '.join(LIBRARIES)}; else the device decides: numpy, or cupy for cuda.",
)
_quiet = _flag("--quiet", "-q", callback=_set_quiet, help="Only results, warnings and errors.")
_debug = _flag(
    "--debug", callback=_set_debug, is_eager=True, help="Show the traceback of an error."
)


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that each one has which computes."""
    for option in (_debug, _quiet, _backend, _device, _target, _data):
        command = option(command)
    return command


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command has a --help of its own, with examples.",
)
@click.version_option(__version__, prog_name="bp-xp")
def main() -> None:
    """Train neural networks by backpropagation, on any array library and device.

    \b
    Examples:
      bp-xp train                         learn to read digits, in a second
      bp-xp evaluate digits.safetensors   cost and accuracy on the test images
      bp-xp predict digits.safetensors    the digits that it reads there
      bp-xp devices                       what there is to compute with
    """  # noqa: D301


# ---------------------------------------------------------------------------------------------
# The commands


@main.command()
@_shared
@_option(
    "--sizes",
    callback=_parse_sizes,
    metavar="N,N,...",
    help="Neurons of every layer, inputs and outputs included, as in 64,30,10.",
)
@_option(
    "--activation",
    default="relu",
    metavar="NAME",
    help="Of the hidden layers: "
    f"{', '.join(name for name, sigma in ACTIVATIONS.items() if not sigma.coupled)}.",
)
@_option("--cost", metavar="NAME", help=f"{', '.join(COSTS)}.")
@_option("--epochs", type=int, help="Passes over the data.")
@_option("--batch-size", type=int, help="Samples in a mini-batch.")
@_option("--learning-rate", type=float, help="η, the length of a step.")
@_option("--momentum", type=float, default=0.9, help="μ, from 0 (none) to below 1.")
@_option("--l2", type=float, default=0.0, help="Strength of the L2 term (l2/2) Σ w².")
@_option("--seed", type=int, default=0, help="Of initial weights and data order.")
@_option("--dtype", default="float32", metavar="NAME", help=f"{' or '.join(SUPPORTED_DTYPES)}.")
@_option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the network goes, in place of an older file; else <data>.safetensors, here.",
)
def train(
    data: str,
    target: int | str,
    sizes: tuple[int, ...] | None,
    cost: str | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    momentum: float,
    l2: float,
    dtype: str,
    output: Path | None,
    **settings: Any,
) -> None:
    """Train a network and write it to a file.

    Without options: the digits that come with the library, on the best device here.

    \b
    Defaults       digits    mnist       files
    sizes          64,64,10  784,128,10  features,64,outputs
    epochs         30        10          50
    batch size     32        128         32
    learning rate  0.1       0.1         0.02

    mnist is downloaded once (11.6 MB), or read from the folder that the environment variable
    BP_XP_DATA_DIR names.

    A .npz file holds x and y, of which a fifth is set apart for testing, always the same; or
    x_train, y_train, x_test and y_test. A table (.csv, .npy) has a row for each sample and the
    labels in a column. Whole numbers from 0 up are classes (number those that are words): one
    output each, and the cost is categorical_cross_entropy. Other numbers are fitted as they are:
    the cost is quadratic and the outputs have no activation; --cost huber minds outliers less, and
    fits whole numbers too. Large inputs are best scaled to about 1 beforehand.

    Ctrl-C or SIGTERM ends the run after the step under way and writes the network all the same
    (exit status 130, 143); the second one ends it at once.

    \b
    Examples:
      bp-xp train --epochs 5 --seed 1
      bp-xp train --data mnist --sizes 784,512,512,10 --device cuda
      bp-xp train --activation sigmoid --cost quadratic --learning-rate 0.5 --sizes 64,30,10
      bp-xp train --data flowers.csv --target kind --output flowers.safetensors
    """  # noqa: D301
    path = output or Path(f"{Path(data).stem}.safetensors")
    _check_output(path, data)
    check_replaceable(path)
    defaults = _DEFAULTS.get(data, _FILE_DEFAULTS)
    # What can be said without the data is said before it is loaded.
    optimizer = SGD(defaults.learning_rate if learning_rate is None else learning_rate, momentum)
    _allow_float64(dtype)
    place(settings["device"], settings["backend"])
    with _Termination() as termination:
        dataset = _load_data(data, target)
        network = _make_network(dataset, sizes, defaults.hidden, cost, dtype=dtype, **settings)
        logger.info("%r\n%r", dataset, network)
        _tell_device(network)
        termination.training = True
        has_validation = dataset.x_validation is not None
        history = network.fit(
            dataset.x_train,
            dataset.y_train,
            epochs=defaults.epochs if epochs is None else epochs,
            batch_size=defaults.batch_size if batch_size is None else batch_size,
            optimizer=optimizer,
            l2=l2,
            validation_data=(dataset.x_validation, dataset.y_validation)
            if has_validation
            else None,
            progress=logger.isEnabledFor(logging.INFO),
            should_stop=termination.asked,
        )
        # Whatever comes later can't lose it any more.
        if path.exists():
            logger.info("%s is replaced", path)
        network.save(path)
    if history.stopped == "interrupt" or termination.asked():
        _stop(
            f"interrupted: the network of the last complete step is in {path}", termination.number
        )
    print(_score(network, dataset.name, "train", dataset.x_train, dataset.y_train))
    print(_score(network, dataset.name, "test", dataset.x_test, dataset.y_test))
    print(f"network written to {path}", flush=True)
    arguments = [str(path)]
    arguments += [] if data == "digits" else ["--data", data]
    arguments += [] if target == -1 else ["--target", str(target)]
    logger.info("next: bp-xp evaluate %s", shlex.join(arguments))
    logger.info("      bp-xp predict %s", shlex.join(arguments))


@main.command()
@click.argument("network", metavar="FILE")
@_shared
def evaluate(network: str, data: str, target: int | str, device: str, backend: str | None) -> None:
    """Tell the cost and the accuracy of a network on test data.

    FILE is what train wrote. The part of the data that train set apart for testing is used.

    \b
    Examples:
      bp-xp evaluate digits.safetensors
      bp-xp evaluate flowers.safetensors --data flowers.csv --device cpu
    """  # noqa: D301
    net = _load_network(network, device, backend)
    dataset = _load_data(data, target)
    _check_inputs(net, network, dataset.x_test, data)
    print(_score(net, dataset.name, "test", dataset.x_test, dataset.y_test), flush=True)


@main.command()
@click.argument("network", metavar="FILE")
@_shared
@click.option(
    "--proba", is_flag=True, help="Give the probability of each class, separated by commas."
)
@click.option("--output", "-o", default="-", show_default=True, metavar="FILE", help="- is stdout.")
def predict(
    network: str,
    data: str,
    target: int | str,
    device: str,
    backend: str | None,
    proba: bool,
    output: str,
) -> None:
    """Write the label of each sample, one a line.

    FILE is what train wrote. Of digits and mnist the test part is taken, of a .npz file the member
    x or x_test, and of a table (.csv, .npy) every row, with or without a column of labels. A
    network of numbers instead of classes gives its outputs, separated by commas.

    \b
    Examples:
      bp-xp predict digits.safetensors | head
      bp-xp predict flowers.safetensors --data new.csv --proba --output flowers.csv
    """  # noqa: D301
    if output != "-":
        _check_output(Path(output), network, data)
    net = _load_network(network, device, backend)
    if proba and not net.classifies:
        raise ValueError(f"--proba is for classes, and the outputs of {network} are numbers.")
    x = _load_inputs(data, target, net.sizes[0])
    _check_inputs(net, network, x, data)
    values = to_numpy(net.predict_proba(x) if proba else net.predict(x))
    rows = values.reshape(len(values), -1)
    # str of a NumPy number is the shortest text that reads back as the same number.
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    if output == "-":
        print(text, end="", flush=True)
    else:
        Path(output).write_text(text, encoding="utf-8")


@main.command("devices")
@_debug
def list_devices() -> None:
    """List the array libraries with their devices, or why they can't be used."""
    print(devices())
    chosen = place("auto")
    print(f"--device auto takes {chosen}: {chosen.reason}", flush=True)


def _load_network(path: str, device: str, backend: str | None) -> Network:
    network = Network.load(path)
    _allow_float64(network.dtype)
    network = network.to(device, backend=backend)
    _tell_device(network)
    return network


def _allow_float64(dtype: str) -> None:
    """Let JAX, where it is chosen, compute in float64: the process is the program's own."""
    if dtype == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"


def _tell_device(network: Network) -> None:
    reason = network.device_reason and f" ({network.device_reason})"
    logger.info("computing with %s on %s%s", network.backend, network.device, reason)


def _score(network: Network, name: str, part: str, x: np.ndarray, y: np.ndarray) -> str:
    score = network.evaluate(x, y)
    accuracy = f"  accuracy {score['accuracy']:.2%}" if "accuracy" in score else ""
    return f"{name}, {part} part, {len(x)} samples: cost {score['cost']:.4f}{accuracy}"


def _check_output(path: Path, *inputs: str) -> None:
    """Refuse a file that could not be written, before there is anything to lose."""
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder: create it", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder can't be written to", str(folder))
    if path.exists() and any(os.path.exists(one) and path.samefile(one) for one in inputs):
        raise ValueError(f"--output {path} is what this command reads: name another file.")
