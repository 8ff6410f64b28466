"""The options that several commands share, and the values that their texts mean."""

import csv
import functools
import io
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from bp_xp import ACTIVATIONS, COSTS, METRICS
from bp_xp.backends import LIBRARIES
from bp_xp.cli import config
from bp_xp.cli._completion import complete
from bp_xp.cli._data import LOADERS, is_streamed
from bp_xp.cli._program import Command, logger
from bp_xp.cli._tables import TABLE_ENDS, is_table, split_names
from bp_xp.datasets.files import H5_ENDS

__all__ = [
    "CLASS_WEIGHT",
    "COLUMNS",
    "DROPOUT",
    "FILE",
    "SIZES",
    "Sections",
    "activation_option",
    "backend_option",
    "cost_option",
    "data_option",
    "debug_option",
    "device_option",
    "metric_option",
    "of_files",
    "of_network",
    "of_optimizer",
    "of_regularization",
    "of_run",
    "of_table",
    "of_validation",
    "optimizer_option",
    "quiet_option",
    "shared_options",
    "split_options",
    "stream_option",
    "target_option",
    "targets_option",
    "use_config",
]


class _Type(click.ParamType):
    """The type of an option: how its text becomes a value.

    Args:
        parse: converts the text to the value, or raises a ValueError.
        kind: what a settings file may hold instead of the text; a list means its items, separated
            by commas.
    """

    def __init__(self, parse: Callable[[str], Any], kind: config.Kind) -> None:
        self.name = parse.__name__.removeprefix("_parse_")
        self.parse, self.kind = parse, kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value of a text."""
        text = _joined(value) if isinstance(value, list | tuple) else str(value)
        try:
            return self.parse(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Setting(click.Option):
    """An option that a settings file may hold.

    Attributes:
        section: the heading under which the help lists it.
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


class Sections(Command):
    """A command whose help lists its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section, with the sections in the order of their first options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(option, "section", "Program"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def _joined(values: Iterable[Any]) -> str:
    """Return a list as text; an item with a comma is in quotes, as in CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _parse_data(text: str) -> str:
    is_array = text.lower().endswith((".npz", ".npy")) or is_streamed(text)
    if text not in LOADERS and not is_table(text) and not is_array:
        raise ValueError(
            f"{text!r} is neither {' nor '.join(LOADERS)}, nor a file of arrays (.npz, .npy, "
            f"{', '.join(H5_ENDS)}), a folder of .npy files, or a table "
            f"({', '.join(TABLE_ENDS[:3])})."
        )
    return text


def _parse_target(text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _parse_columns(text: str) -> tuple[str, ...]:
    return tuple(split_names(text))


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
    ).or_list("them"),
)
COLUMNS = _Type(_parse_columns, config.TEXT.or_list("them"))
SIZES = _Type(
    _parse_sizes,
    config.Kind(
        "a list of whole numbers",
        lambda value: (
            config.TEXT.accepts(value)
            or (isinstance(value, list) and all(map(config.INTEGER.accepts, value)))
        ),
    ),
)
DROPOUT = _Type(_parse_dropout, config.NUMBER.or_list("them"))
CLASS_WEIGHT = _Type(config.parse_class_weight, config.TEXT)
FILE = click.Path(path_type=Path)


def _set_quiet(_: Any, __: Any, value: bool) -> None:
    if value:
        logger.setLevel(logging.WARNING)


def _set_debug(ctx: click.Context, _: Any, value: bool) -> None:
    ctx.meta["bp_xp.debug"] = value


def use_config(ctx: click.Context, _: Any, path: Path | None) -> Path | None:
    """Use the settings in a file for the options that are not given."""
    if path is None or ctx.resilient_parsing:
        return path
    options = {o.name: o for o in ctx.command.params if isinstance(o, _Setting) and o.name}
    settings = config.read_settings(path, {name: o.kind for name, o in options.items()})
    for name, value in settings.items():
        if options[name].multiple and not isinstance(value, list):
            settings[name] = value = [value]
        if name in _FILES and value and value not in LOADERS:
            settings[name] = value = str(path.parent / str(value))
        try:
            options[name].type_cast_value(ctx, value)
        except click.BadParameter as error:
            raise ValueError(f"{path}: {name.replace('_', '-')}: {error.message}") from None
    ctx.default_map = settings
    return path


# The settings that are files. In a settings file, their paths are relative to its folder.
_FILES = ("data", "targets", "output", "checkpoint", "plot", "log")

_flag = functools.partial(click.option, is_flag=True, expose_value=False)


def _section(name: str) -> Callable[..., Any]:
    """Return a decorator for the options of one section of the help."""
    return functools.partial(click.option, cls=_Setting, section=name, show_default=True)


of_network = _section("Data and network")
of_table = _section("Table")
of_run = _section("Run")
of_optimizer = _section("Optimizer")
of_regularization = _section("Regularization")
of_validation = _section("Validation")
_of_place = _section("Device")
of_files = _section("Files")

data_option = of_network(
    "--data",
    default="digits",
    type=_DATA,
    metavar="NAME|FILE",
    shell_complete=complete(["digits", "mnist"], files=True),
    help="digits, mnist, a table (.csv, .tsv, .parquet; the first two with .gz too), a .npz or "
    ".npy file, or, with --stream, a .h5 file or a folder of .npy files.",
)
target_option = of_network(
    "--target",
    default="-1",
    type=_TARGET,
    metavar="COLUMN",
    help="Column to predict in a table, by name or number; -1 is the last. Give several names, as "
    "in a,b, to predict several columns.",
)


targets_option = of_network(
    "--targets",
    type=FILE,
    metavar="FILE",
    help="A separate .npy file with the labels or targets of the inputs in a .npy file.",
)
stream_option = of_network(
    "--stream",
    is_flag=True,
    help="Read rows as they are needed, from a .npy file, a .npz file that is not compressed, a "
    ".h5 file, or a folder with x.npy and y.npy. A table is read in parts, as one of 512 MB always "
    "is.",
)


def split_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which rows are for testing."""
    fraction = of_table(
        "--test-fraction",
        type=float,
        help="Share of the rows to test on; also with --stream.  [default: 0.2]",
    )
    last = of_table(
        "--split-last",
        is_flag=True,
        help="Hold out the last rows, as for a time series; also with --stream.",
    )
    return fraction(last(command))


def activation_option(default: str) -> Callable[..., Any]:
    """Return the option of σ; each command has its own default."""
    return of_network(
        "--activation",
        default=default,
        metavar="NAME",
        shell_complete=complete(name for name, sigma in ACTIVATIONS.items() if not sigma.coupled),
        help="Of the hidden layers: "
        f"{', '.join(name for name, sigma in ACTIVATIONS.items() if not sigma.coupled)}.",
    )


def cost_option(default: str | None = None) -> Callable[..., Any]:
    """Return the option of C; without a default it follows from the data."""
    return of_network(
        "--cost",
        default=default,
        metavar="NAME",
        shell_complete=complete(COSTS),
        help=f"{', '.join(COSTS)}; settings may follow, as in huber:delta=2.",
    )


optimizer_option = of_optimizer(
    "--optimizer",
    default="sgd",
    metavar="NAME",
    shell_complete=complete(config.OPTIMIZERS),
    help=f"{', '.join(config.OPTIMIZERS)}; further settings follow, as in adam:beta2=0.99.",
)
device_option = _of_place(
    "--device",
    default="auto",
    metavar="NAME",
    shell_complete=complete(["auto", "cpu", "cuda"]),
    help="cpu, cuda, cuda:1 or auto; with --backend, a device of that library.",
)
backend_option = _of_place(
    "--backend",
    metavar="LIBRARY",
    shell_complete=complete(LIBRARIES),
    help=f"{', '.join(LIBRARIES)}; by default the device decides: numpy, or cupy for cuda.",
)
metric_option = of_validation(
    "--metric",
    multiple=True,
    metavar="NAME",
    shell_complete=complete(METRICS),
    help=f"What to measure besides cost and accuracy: {', '.join(METRICS)}, top_5 (any number). "
    "With two classes, precision, recall and f1 are those of class 1; with more, they are means "
    "over the classes. ..._macro is always the mean. May be repeated.",
)
quiet_option = _flag(
    "--quiet", "-q", callback=_set_quiet, help="Print only results, warnings and errors."
)
debug_option = _flag(
    "--debug", callback=_set_debug, is_eager=True, help="Show the traceback of an error."
)


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that every command that computes has."""
    for option in (
        debug_option,
        quiet_option,
        backend_option,
        device_option,
        target_option,
        data_option,
    ):
        command = option(command)
    return command
