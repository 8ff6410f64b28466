"""The program ``bp-xp``: train, evaluate, use and look into networks from the shell.

Results go to stdout; notes, progress, warnings and errors go to stderr. An error of the library is
one line and exit status 1, a command line that can't be read is exit status 2, and a training run
that Ctrl-C or SIGTERM ends leaves its network behind with exit status 130 or 143.
"""

import contextlib
import errno
import functools
import io
import itertools
import json
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import click
import numpy as np
from click.core import ParameterSource

from bp_xp import (
    ACTIVATIONS,
    COSTS,
    METRICS,
    CheckpointError,
    EarlyStopping,
    History,
    Metric,
    Network,
    __version__,
    checks,
    config,
    to_numpy,
)
from bp_xp.arrays import LIBRARIES, SUPPORTED_DTYPES, devices, place
from bp_xp.checkpoints import record_of
from bp_xp.datasets import Dataset, load_csv, load_digits, load_file, load_mnist, load_npy, load_npz
from bp_xp.metrics import metric_named
from bp_xp.optimizers import Optimizer
from bp_xp.persistence import check_replaceable, read_tensors, replace_file

__all__ = ["export_npz", "main"]

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


class _Type(click.ParamType):
    """What the text of an option stands for.

    Args:
        parse: makes the value of the text, or raises a ValueError.
        kind: what a file of settings may hold in place of the text; a list stands for its items,
            separated by commas.
    """

    def __init__(self, parse: Callable[[str], Any], kind: config.Kind) -> None:
        self.name = parse.__name__.removeprefix("_parse_")
        self.parse, self.kind = parse, kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value of a text."""
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        try:
            return self.parse(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Setting(click.Option):
    """An option that a file of settings may hold.

    Attributes:
        section: the heading under which the help has it.
    """

    def __init__(self, *names: Any, section: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.section = section

    @property
    def kind(self) -> config.Kind:
        """What the file may hold."""
        if self.is_flag:
            return config.SWITCH
        if isinstance(self.type, _Type):
            return self.type.kind
        kind = {"integer": config.INTEGER, "float": config.NUMBER}.get(self.type.name, config.TEXT)
        return kind.or_list("them") if self.multiple else kind


class _Sections(click.Command):
    """A command whose help has its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section in the order in which they first come."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(option, "section", "Program"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def _parse_data(text: str) -> str:
    if text not in _LOADERS and not text.lower().endswith((".npz", ".npy", ".csv")):
        raise ValueError(
            f"{text!r} is neither {' nor '.join(_LOADERS)} nor a .npz, .npy or .csv file."
        )
    return text


def _parse_target(text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _parse_sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers such as 64,30,10.") from None


def _parse_dropout(text: str) -> float | list[float]:
    try:
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor a list such as 0.2,0.5.") from None
    return rates if "," in text else rates[0]


_DATA = _Type(_parse_data, config.TEXT)
_TARGET = _Type(
    _parse_target,
    config.Kind(
        "text in quotes or a whole number",
        lambda value: config.TEXT.accepts(value) or config.INTEGER.accepts(value),
    ),
)
_SIZES = _Type(
    _parse_sizes,
    config.Kind(
        "a list of whole numbers",
        lambda value: (
            config.TEXT.accepts(value)
            or (isinstance(value, list) and all(map(config.INTEGER.accepts, value)))
        ),
    ),
)
_DROPOUT = _Type(_parse_dropout, config.NUMBER.or_list("them"))
_CLASS_WEIGHT = _Type(config.parse_class_weight, config.TEXT)
_FILE = click.Path(path_type=Path)


def _set_quiet(_: Any, __: Any, value: bool) -> None:
    if value:
        logger.setLevel(logging.WARNING)


def _set_debug(ctx: click.Context, _: Any, value: bool) -> None:
    ctx.meta["bp_xp.debug"] = value


def _use_config(ctx: click.Context, _: Any, path: Path | None) -> Path | None:
    """Let the settings of a file be those of the options that are not given."""
    if path is None or ctx.resilient_parsing:
        return path
    options = {o.name: o for o in ctx.command.params if isinstance(o, _Setting) and o.name}
    settings = config.read_settings(path, {name: o.kind for name, o in options.items()})
    for name, value in settings.items():
        if options[name].multiple and not isinstance(value, list):
            settings[name] = value = [value]
        if name in _FILES and value and value not in _LOADERS:
            settings[name] = value = str(path.parent / str(value))
        try:
            options[name].type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise ValueError(f"{path}: {name.replace('_', '-')}: {error.message}") from None
    ctx.default_map = settings
    return path


# The settings that are files. In a file of settings their paths start from its folder.
_FILES = ("data", "output", "checkpoint")

_flag = functools.partial(click.option, is_flag=True, expose_value=False)


def _section(name: str) -> Callable[..., Any]:
    """Return what makes the options of a section of the help."""
    return functools.partial(click.option, cls=_Setting, section=name, show_default=True)


_of_network = _section("Data and network")
_of_run = _section("Run")
_of_optimizer = _section("Optimizer")
_of_regularisation = _section("Regularisation")
_of_validation = _section("Validation")
_of_place = _section("Device")
_of_files = _section("Files")

_data = _of_network(
    "--data",
    default="digits",
    type=_DATA,
    metavar="NAME|FILE",
    help="digits, mnist, or a .npz, .npy or .csv file.",
)
_target = _of_network(
    "--target",
    default="-1",
    type=_TARGET,
    metavar="COLUMN",
    help="Column of the labels in a table, by name or number; -1 is the last.",
)
_device = _of_place(
    "--device",
    default="auto",
    metavar="NAME",
    help="cpu, cuda, cuda:1 or auto; with --backend, a device of that library.",
)
_backend = _of_place(
    "--backend",
    metavar="LIBRARY",
    help=f"{', '.join(LIBRARIES)}; else the device decides: numpy, or cupy for cuda.",
)
_metric = _of_validation(
    "--metric",
    multiple=True,
    metavar="NAME",
    help=f"What to measure besides cost and accuracy: {', '.join(METRICS)}, top_5 (any number). "
    "May be repeated.",
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
      bp-xp inspect digits.safetensors    what is in the file
      bp-xp devices                       what there is to compute with
    """  # noqa: D301


# ---------------------------------------------------------------------------------------------
# train


@main.command(cls=_Sections)
@_data
@_target
@_of_network(
    "--sizes",
    type=_SIZES,
    metavar="N,N,...",
    help="Neurons of every layer, inputs and outputs included, as in 64,30,10.",
)
@_of_network(
    "--activation",
    default="relu",
    metavar="NAME",
    help="Of the hidden layers: "
    f"{', '.join(name for name, sigma in ACTIVATIONS.items() if not sigma.coupled)}.",
)
@_of_network("--cost", metavar="NAME", help=f"{', '.join(COSTS)}.")
@_of_network("--dtype", default="float32", metavar="NAME", help=f"{' or '.join(SUPPORTED_DTYPES)}.")
@_of_network("--seed", type=int, default=0, help="Of initial weights and data order.")
@_of_run("--epochs", type=int, help="Passes over the data.")
@_of_run("--batch-size", type=int, help="Samples in a mini-batch.")
@_of_run("--shuffle/--no-shuffle", default=True, help="Whether each epoch has a new order.")
@_of_optimizer(
    "--optimizer",
    default="sgd",
    metavar="NAME",
    help=f"{', '.join(config.OPTIMIZERS)}; further settings follow, as in adam:beta2=0.99.",
)
@_of_optimizer(
    "--learning-rate",
    type=float,
    help="η, the length of a step. Without it: see above for sgd, 0.001 for adam and adamw, 0.01 "
    "for adagrad and rmsprop.",
)
@_of_optimizer(
    "--momentum",
    type=float,
    help="μ of sgd and rmsprop, from 0 (none) to below 1. Without it: 0.9 for sgd, 0 for rmsprop.",
)
@_of_optimizer("--nesterov", is_flag=True, help="Nesterov's momentum, for sgd.")
@_of_optimizer(
    "--weight-decay", type=float, help="λ of adamw. Without it: 0.01. For the others there is --l2."
)
@_of_optimizer(
    "--schedule",
    default="constant",
    metavar="FORM",
    help=f"How the learning rate changes: {', '.join(config.SCHEDULES.values())}.",
)
@_of_optimizer(
    "--warm-up", type=int, metavar="STEPS", help="Over how many steps the rate rises before."
)
@_of_regularisation("--l1", type=float, default=0.0, help="Strength of the L1 term l1 Σ |w|.")
@_of_regularisation("--l2", type=float, default=0.0, help="Strength of the L2 term (l2/2) Σ w².")
@_of_regularisation(
    "--dropout",
    type=_DROPOUT,
    default="0.0",
    metavar="P[,P...]",
    help="Probability of leaving a hidden neuron out of a step: one for all hidden layers, or one "
    "for each; one more, in front, is that of the inputs.",
)
@_of_regularisation("--clip-norm", type=float, help="Largest norm of the whole gradient.")
@_of_regularisation("--clip-value", type=float, help="Largest absolute value of a derivative.")
@_of_regularisation("--max-norm", type=float, help="Largest norm of the weights into a neuron.")
@_of_regularisation(
    "--class-weight",
    type=_CLASS_WEIGHT,
    metavar="WEIGHTS",
    help="How much classes count: balanced, or LABEL:WEIGHT,... as in 0:1,3:2.5 (others 1).",
)
@_of_validation(
    "--validation-fraction",
    type=float,
    default=0.0,
    help="Share of the training samples to hold out and judge each epoch by.",
)
@_metric
@_of_validation(
    "--early-stopping",
    type=int,
    metavar="EPOCHS",
    help="End after so many epochs without an improvement, and keep the best network.",
)
@_of_validation(
    "--monitor",
    metavar="VALUE",
    help="What --early-stopping and --schedule plateau watch: cost, accuracy, validation_cost, "
    "validation_accuracy, validation_METRIC. Without it: validation_cost.",
)
@_device
@_backend
@_of_files(
    "--output",
    "-o",
    type=_FILE,
    metavar="FILE",
    help="Where the network goes, in place of an older file; else <data>.safetensors, here.",
)
@_of_files(
    "--checkpoint",
    type=_FILE,
    metavar="FILE",
    help="Keep the run here, after each epoch and when it is interrupted.",
)
@_of_files("--checkpoint-every", type=int, metavar="STEPS", help="And after so many steps.")
@_of_files("--resume", is_flag=True, help="Go on from the checkpoint, if there is one.")
@click.option(
    "--config",
    type=_FILE,
    callback=_use_config,
    is_eager=True,
    metavar="FILE",
    help="A TOML file of settings, for the options that are not given here.",
)
@_quiet
@_debug
@click.pass_context
def train(ctx: click.Context, **options: Any) -> None:
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

    The learning rate stays as it is unless --schedule changes it: step multiplies it by FACTOR
    after every STEPS steps, exponential does so little by little, cosine lets it fall to FINAL (0)
    over STEPS steps (those of the run), inverse divides it by (steps + 1) to the POWER (0.5), and
    plateau multiplies it by FACTOR (0.5) when EPOCHS (10) have brought no improvement. An epoch has
    samples / batch size steps, rounded up.

    A file for --config has a key for each option, as in batch-size = 32; options given here win,
    and --optimizer leaves out the file's momentum, nesterov and weight-decay. Paths in the file
    start from its folder. The settings of each run are written beside its network, as NAME.toml
    for NAME.safetensors, all but --resume: that file, given to --config, repeats the run.

    Ctrl-C or SIGTERM ends the run after the step under way and writes the network all the same
    (exit status 130, 143); the second one ends it at once. With --checkpoint, the same command and
    --resume then go on as if nothing had happened.

    \b
    Examples:
      bp-xp train --epochs 5 --seed 1
      bp-xp train --data mnist --sizes 784,512,512,10 --device cuda
      bp-xp train --activation sigmoid --cost quadratic --learning-rate 0.5 --sizes 64,30,10
      bp-xp train --data flowers.csv --target kind --output flowers.safetensors
      bp-xp train --optimizer adam --schedule cosine --warm-up 100 --dropout 0.2
      bp-xp train --validation-fraction 0.1 --early-stopping 5 --metric f1
      bp-xp train --epochs 500 --checkpoint run.safetensors --resume
      bp-xp train --config digits.toml --seed 2 --output second.safetensors
    """  # noqa: D301
    given = SimpleNamespace(**options)
    _check_together(ctx, given)
    path = given.output or Path(f"{Path(given.data).stem}.safetensors")
    settings_path = _check_files(given, path)
    # What can be said without the data is said before it is loaded.
    defaults = _DEFAULTS.get(given.data, _FILE_DEFAULTS)
    for name in ("epochs", "batch_size"):
        value = getattr(given, name)
        value = getattr(defaults, name) if value is None else value
        setattr(given, name, checks.check_integer(value, name))
    metrics = [metric_named(name) for name in given.metric]
    _check_monitor(given, metrics)
    early_stopping = None
    if given.early_stopping is not None:
        patience = checks.check_integer(given.early_stopping, "early_stopping")
        early_stopping = EarlyStopping(given.monitor, patience)
    optimizer = _optimizer(given, defaults)
    optimizer(1 + (given.warm_up or 0))
    fraction = checks.check_number(
        given.validation_fraction, "validation_fraction", least=0.0, below=1.0
    )
    _allow_float64(given.dtype)
    place(given.device, given.backend)
    with _Termination() as termination:
        dataset = _load_data(given.data, given.target)
        network = _make_network(
            dataset,
            given.sizes,
            defaults.hidden,
            given.cost,
            activation=given.activation,
            dtype=given.dtype,
            seed=given.seed,
            device=given.device,
            backend=given.backend,
        )
        logger.info("%r\n%r", dataset, network)
        _tell_device(network)
        validated = _check_validation(given, dataset, network, metrics)
        n = len(dataset.x_train) - round(fraction * len(dataset.x_train))
        run_optimizer = optimizer(given.epochs * math.ceil(n / given.batch_size))
        settings = config.settings_text(_used(given, network, run_optimizer, path))
        _tell_checkpoint(given)
        termination.training = True
        history = network.fit(
            dataset.x_train,
            dataset.y_train,
            epochs=given.epochs,
            batch_size=given.batch_size,
            optimizer=run_optimizer,
            validation_data=None
            if dataset.x_validation is None
            else (dataset.x_validation, dataset.y_validation),
            validation_fraction=fraction,
            class_weight=given.class_weight,
            l1=given.l1,
            l2=given.l2,
            dropout=given.dropout,
            clip_norm=given.clip_norm,
            clip_value=given.clip_value,
            max_norm=given.max_norm,
            metrics=metrics if validated else (),
            early_stopping=early_stopping,
            checkpoint=given.checkpoint,
            checkpoint_every=given.checkpoint_every,
            resume=given.resume,
            shuffle=given.shuffle,
            progress=logger.isEnabledFor(logging.INFO),
            should_stop=termination.asked,
        )
        # Whatever comes later can't lose it any more.
        if path.exists():
            logger.info("%s is replaced", path)
        network.save(path)
        config.write_settings(settings_path, settings)
    if history.stopped == "interrupt" or termination.asked():
        epoch = history.best_epoch
        which = "the last complete step" if epoch is None else f"epoch {epoch}, the best,"
        go_on = "" if given.checkpoint is None else "; the same command with --resume goes on"
        _stop(f"interrupted: the network of {which} is in {path}{go_on}", termination.number)
    _tell_best(history)
    print(_score(network, dataset.name, "train", dataset.x_train, dataset.y_train, metrics))
    print(_score(network, dataset.name, "test", dataset.x_test, dataset.y_test, metrics))
    print(f"network written to {path}, its settings to {settings_path}", flush=True)
    arguments = [str(path)]
    arguments += [] if given.data == "digits" else ["--data", given.data]
    arguments += [] if given.target == -1 else ["--target", str(given.target)]
    logger.info("next: bp-xp evaluate %s", shlex.join(arguments))
    logger.info("      bp-xp predict %s", shlex.join(arguments))


def _check_together(ctx: click.Context, given: SimpleNamespace) -> None:
    """Check options that others belong to; one that the command line overrules takes its own along.

    A file's momentum, for one, is not that of an optimizer from the command line.
    """

    def came_from(name: str) -> ParameterSource | None:
        return ctx.get_parameter_source(name)

    if came_from("optimizer") is ParameterSource.COMMANDLINE:
        for name in ("momentum", "nesterov", "weight_decay"):
            if came_from(name) is ParameterSource.DEFAULT_MAP:
                setattr(given, name, None)
                logger.info("%s of %s is left out: --optimizer is given", name, given.config)
    given.watches = given.early_stopping is not None or given.schedule.startswith("plateau")
    if came_from("monitor") is ParameterSource.COMMANDLINE and not given.watches:
        raise click.UsageError(
            "--monitor says what --early-stopping or --schedule plateau watches: give one of them.",
            ctx,
        )
    given.monitor = given.monitor or "validation_cost"
    if given.checkpoint is None:
        for name, flag in (("resume", "--resume"), ("checkpoint_every", "--checkpoint-every")):
            if getattr(given, name):
                raise click.UsageError(
                    f"{flag} needs --checkpoint FILE, where the run is kept.", ctx
                )


def _check_files(given: SimpleNamespace, path: Path) -> Path:
    """Refuse files that could not be written, or would be lost; return where the settings go."""
    inputs = [given.data, *([] if given.config is None else [given.config])]
    _check_output(path, *inputs)
    check_replaceable(path)
    settings_path = path.with_suffix(".toml")
    if path == settings_path:
        raise ValueError(
            f"--output {path} is the name of the file that the settings go into: let the "
            "network's end in .safetensors."
        )
    config.check_settings_file(settings_path)
    if given.checkpoint is not None:
        _check_output(given.checkpoint, *inputs, name="--checkpoint")
        for other in (path, settings_path):
            if os.path.realpath(other) == os.path.realpath(given.checkpoint):
                raise ValueError(
                    f"--checkpoint {given.checkpoint} is where the run's result goes: name "
                    "another file."
                )
        check_replaceable(given.checkpoint)
    return settings_path


def _optimizer(given: SimpleNamespace, defaults: _Defaults) -> Callable[[int], Optimizer]:
    """Return what makes the optimizer of a run of so many steps."""
    make = config.parse_optimizer(
        given.optimizer,
        momentum=given.momentum,
        nesterov=given.nesterov,
        weight_decay=given.weight_decay,
    )
    if given.learning_rate is None:
        given.learning_rate = config.default_rate(given.optimizer) or defaults.learning_rate

    def optimizer(steps: int) -> Optimizer:
        return make(
            config.make_schedule(
                given.schedule,
                given.learning_rate,
                warm_up=given.warm_up,
                monitor=given.monitor,
                steps=steps,
            )
        )

    return optimizer


def _check_monitor(given: SimpleNamespace, metrics: Sequence[Metric]) -> None:
    """Refuse to watch what no run with these metrics records."""
    if not given.watches:
        return
    names = ["cost", "accuracy", *(metric.name for metric in metrics)]
    known = dict.fromkeys([*names[:2], *(f"validation_{name}" for name in names)])
    metric = given.monitor.removeprefix("validation_")
    if given.monitor not in known and metric in METRICS:
        raise ValueError(
            f"{given.monitor} is to be watched, but is not measured: add --metric {metric}, and "
            f"watch validation_{metric}."
        )
    checks.check_choice(given.monitor, known, "value to monitor")


def _check_validation(
    given: SimpleNamespace, dataset: Dataset, network: Network, metrics: Sequence[Metric]
) -> bool:
    """Return whether there is anything to judge epochs by; check what is asked to be measured."""
    if given.validation_fraction and dataset.x_validation is not None:
        raise ValueError(
            f"{dataset.name} has a validation part of {len(dataset.x_validation):,} samples: leave "
            "out --validation-fraction."
        )
    validated = bool(given.validation_fraction) or dataset.x_validation is not None
    if metrics:  # what can't be measured is an error now, and not after the run
        network.evaluate(dataset.x_test[:1], dataset.y_test[:1], metrics=metrics)
    if given.watches and given.monitor.startswith("validation_") and not validated:
        raise ValueError(
            f"{given.monitor} is to be watched, but {dataset.name} has no validation part: hold "
            "samples out with --validation-fraction 0.1, or watch the training cost with "
            "--monitor cost."
        )
    if given.watches and given.monitor.endswith("accuracy") and not network.classifies:
        raise ValueError(
            f"{given.monitor} is to be watched, but the outputs are numbers and no classes: watch "
            "a cost."
        )
    return validated


def _used(
    given: SimpleNamespace, network: Network, optimizer: Optimizer, path: Path
) -> dict[str, Any]:
    """Return the settings as they are used, in the order of the help."""
    is_file = given.data not in _LOADERS
    classes = given.class_weight
    if isinstance(classes, Mapping):
        classes = ",".join(f"{label}:{weight}" for label, weight in classes.items())
    return {
        "data": _relative(Path(given.data), path.parent) if is_file else given.data,
        "target": given.target if is_file else None,
        "sizes": network.sizes,
        "activation": given.activation,
        "cost": network.model.cost.name,
        "dtype": network.dtype,
        "seed": network.seed,
        "epochs": given.epochs,
        "batch_size": given.batch_size,
        "shuffle": given.shuffle,
        **config.optimizer_settings(optimizer),
        "learning_rate": given.learning_rate,
        "schedule": given.schedule,
        "warm_up": given.warm_up,
        "l1": given.l1,
        "l2": given.l2,
        "dropout": given.dropout,
        "clip_norm": given.clip_norm,
        "clip_value": given.clip_value,
        "max_norm": given.max_norm,
        "class_weight": classes,
        "validation_fraction": given.validation_fraction,
        "metric": given.metric or None,
        "early_stopping": given.early_stopping,
        "monitor": given.monitor if given.watches else None,
        "backend": network.backend,
        "device": network.device,
        "output": path.name,
        "checkpoint": given.checkpoint and _relative(given.checkpoint, path.parent),
        "checkpoint_every": given.checkpoint_every,
    }


def _relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder."""
    # A link keeps its own name, but ".." leads out of where the folders really are.
    place = os.path.join(os.path.realpath(path.parent), path.name)
    try:
        return os.path.relpath(place, os.path.realpath(folder))
    except ValueError:  # another drive
        return place


def _tell_checkpoint(given: SimpleNamespace) -> None:
    """Say what happens to a checkpoint that is there; a run goes on with its own seed or not."""
    path = given.checkpoint
    if path is None or not path.exists():
        return
    if not given.resume:
        logger.info("%s is replaced: --resume would go on from it", path)
        return
    seed = read_tensors(path)[1].get("seed", given.seed)
    if seed != given.seed:
        raise CheckpointError(f"{path} is of a run with --seed {seed}, and not {given.seed}.")
    logger.info("going on from %s", path)


def _tell_best(history: History) -> None:
    if history.best_epoch is not None:
        early = "no improvement: stopped" if history.stopped == "early" else "ended"
        logger.info(
            "%s after epoch %d; the network is that of epoch %d, the best",
            early,
            history[-1].epoch,
            history.best_epoch,
        )


# ---------------------------------------------------------------------------------------------
# The other commands


@main.command()
@click.argument("network", metavar="FILE")
@_shared
@_metric
def evaluate(
    network: str,
    data: str,
    target: int | str,
    device: str,
    backend: str | None,
    metric: tuple[str, ...],
) -> None:
    """Tell the cost and the accuracy of a network on test data.

    FILE is what train wrote, a network or a checkpoint. The part of the data that train set apart
    for testing is used.

    \b
    Examples:
      bp-xp evaluate digits.safetensors
      bp-xp evaluate flowers.safetensors --data flowers.csv --metric f1 --metric recall
    """  # noqa: D301
    metrics = [metric_named(name) for name in metric]
    net = _load_network(network, device, backend)
    dataset = _load_data(data, target)
    _check_inputs(net, network, dataset.x_test, data)
    print(_score(net, dataset.name, "test", dataset.x_test, dataset.y_test, metrics), flush=True)


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

    FILE is what train wrote, a network or a checkpoint. Of digits and mnist the test part is taken,
    of a .npz file the member x or x_test, and of a table (.csv, .npy) every row, with or without a
    column of labels. A network of numbers instead of classes gives its outputs, separated by
    commas.

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


@main.command()
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@_debug
def inspect(file: str, as_json: bool) -> None:
    """Tell what is in a file that train wrote: a network, or the checkpoint of a run.

    \b
    Examples:
      bp-xp inspect digits.safetensors
      bp-xp inspect run.safetensors --json
    """  # noqa: D301
    facts = _facts(file)
    if as_json:
        print(json.dumps(facts, indent=2), flush=True)
        return
    lines = _lines(facts)
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:{width}}  {text}" for name, text in lines), flush=True)


@main.command()
@click.argument("file", metavar="FILE")
@click.argument("out", metavar="OUT.npz", type=_FILE)
@_debug
def export(file: str, out: Path) -> None:
    """Write the weights and biases of a network as a NumPy archive.

    FILE is what train wrote, a network or a checkpoint. OUT.npz gets the arrays W0 (outputs,
    inputs) and b0 (outputs) of the first layer, W1 and b1 of the second, and so on; and a text,
    about, which is JSON with the sizes, activations and cost. numpy.load reads it, without this
    library.

    \b
    Examples:
      bp-xp export digits.safetensors digits.npz
    """  # noqa: D301
    if out.suffix != ".npz":
        raise click.BadParameter(f"{str(out)!r} must end in .npz.", param_hint="'OUT.npz'")
    _check_output(out, file, name="the archive")
    check_replaceable(out)
    network = Network.load(file)
    export_npz(network, out)
    print(f"{_counted(len(network.layers), 'layer')} written to {out}", flush=True)


def export_npz(network: Network, path: str | os.PathLike[str]) -> Path:
    """Write the parameters of a network to a NumPy archive, which needs no pickle to be read.

    Args:
        network: the network, on any device.
        path: the file; an older one of that name is replaced, in a single step.

    Returns:
        The path. The archive has W of layer l (from 0) as ``W<l>``, shape (O, I), b as ``b<l>``,
        shape (O,), and ``about``: a text of shape (), which is JSON with sizes, activations and
        cost.

    Raises:
        OSError: it could not be written; an older file is left as it was.
    """
    arrays = {
        f"{name}{l}": to_numpy(values)
        for l, layer in enumerate(network.layers)  # noqa: E741
        for name, values in layer._asdict().items()
    }
    about = {
        "sizes": network.sizes,
        "activations": [sigma.name for sigma in network.model.activations],
        "cost": network.model.cost.name,
    }
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
    replace_file(Path(path), content.getvalue())
    return Path(path)


def _facts(file: str) -> dict[str, Any]:
    """Return what there is to say of a file, as JSON can hold it."""
    tensors, header = read_tensors(file)
    try:
        kind = header["kind"]
        if kind not in ("network", "run"):
            raise ValueError(f"it holds a {kind}")
        names = ("sizes", "activations", "cost", "dtype", "seed")
        sizes, activations, *rest = (header[name] for name in names)
        shapes = {
            f"layers.{l}.{name}": shape
            for l, (n_in, n_out) in enumerate(itertools.pairwise(sizes))  # noqa: E741
            for name, shape in (("W", (n_out, n_in)), ("b", (n_out,)))
        }
        if {n: t.shape for n, t in tensors.items() if n.startswith("layers.")} != shapes:
            raise ValueError(f"its parameters do not fit its sizes {sizes}")
        facts = {
            "file": file,
            "kind": kind,
            "sizes": sizes,
            "activations": activations,
            **dict(zip(names[2:], rest, strict=True)),
            "parameters": sum(math.prod(shape) for shape in shapes.values()),
        }
        if kind == "run":
            where, history = header["position"], header["history"]
            facts |= {
                "epoch": where["epoch"] if where["steps"] else where["epoch"] - 1,
                "steps_of_epoch": where["steps"],
                "step": where["step"],
                "last_record": history[-1] if history else None,
                "best_epoch": header["best_epoch"],
                "settings": header["settings"],
            }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"{error} is missing" if type(error) is KeyError else error
        raise CheckpointError(f"{file} can't be read as a network: {what}") from error
    return facts


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts for people: a name and a text each."""
    lines = [
        ("file", facts["file"]),
        ("kind", "network" if facts["kind"] == "network" else "checkpoint of a run"),
        ("sizes", ", ".join(map(str, facts["sizes"]))),
        ("activations", ", ".join(map(str, facts["activations"]))),
        *((name, str(facts[name])) for name in ("cost", "dtype", "seed")),
        ("parameters", f"{facts['parameters']:,}"),
    ]
    if facts["kind"] == "network":
        return lines
    complete = not facts["steps_of_epoch"]
    within = "complete" if complete else f"{_counted(facts['steps_of_epoch'], 'step')} taken"
    record, best = facts["last_record"], facts["best_epoch"]
    lines += [
        ("position", f"epoch {facts['epoch']}, {within}; {_counted(facts['step'], 'step')} in all"),
        ("last record", "none yet" if record is None else str(record_of(record))),
        ("best epoch", "not asked for" if best is None else str(best)),
    ]
    return lines + [(name, _shown(value)) for name, value in facts["settings"].items()]


def _shown(value: Any) -> str:
    """Return a setting of a run for people."""
    match value:
        case {"kind": str(kind), **fields}:
            inner = (f"{name}={_shown(one)}" for name, one in fields.items())
            return f"{kind}({', '.join(inner)})"
        case [*items]:
            return ", ".join(map(_shown, items)) if items else "none"
        case None:
            return "none"
        case str() if re.fullmatch("[0-9a-f]{64}", value):
            return f"SHA-256 {value[:16]}..."
        case _:
            return str(value)


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


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


def _score(
    network: Network,
    name: str,
    part: str,
    x: np.ndarray,
    y: np.ndarray,
    metrics: Sequence[Metric],
) -> str:
    score = network.evaluate(x, y, metrics=metrics)
    text = f"{name}, {part} part, {len(x)} samples: cost {score.pop('cost'):.4f}"
    if "accuracy" in score:
        text += f"  accuracy {score.pop('accuracy'):.2%}"
    return text + "".join(f"  {name} {value:.4f}" for name, value in score.items())


def _check_output(path: Path, *inputs: str | Path, name: str = "--output") -> None:
    """Refuse a file that could not be written, or is read, before there is anything to lose."""
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder: create it", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder can't be written to", str(folder))
    if path.exists() and any(os.path.exists(one) and path.samefile(one) for one in inputs):
        raise ValueError(f"{name} {path} is what this command reads: name another file.")
