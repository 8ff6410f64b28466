"""``bp-xp sweep``: train networks with many settings, and tell which are the best."""

import functools
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

import bp_xp
from bp_xp import EarlyStopping, checks
from bp_xp._caller import NO_VALUE, speaking
from bp_xp.cli import config
from bp_xp.cli._data import LOADERS, check_output, load_data
from bp_xp.cli._defaults import defaults_of
from bp_xp.cli._networks import allow_float64, make_network, score, tell_device
from bp_xp.cli._options import FILE, debug_option, quiet_option
from bp_xp.cli._pictures import check_picture, drawing
from bp_xp.cli._program import Termination, logger, main, stop
from bp_xp.cli.train import train
from bp_xp.datasets import Dataset
from bp_xp.plotting import sweep_curves, sweep_heat_map
from bp_xp.storage import network_file
from bp_xp.storage.files import check_replaceable
from bp_xp.sweeps import Distribution, SweepResult, choice, integers, log_uniform, uniform

__all__ = ["KEYS", "sweep"]

# The settings of train that a run may have here, and of these what each run can have its own of.
_DATA = ("data", "target", "validation_fraction", "metric", "monitor", "backend", "device", "dtype")
_SEARCHED = (
    *("sizes", "activation", "cost", "epochs", "batch_size", "shuffle", "optimizer"),
    *("learning_rate", "momentum", "nesterov", "weight_decay", "l1", "l2", "dropout"),
    *("clip_norm", "clip_value", "max_norm", "class_weight", "early_stopping"),
)
_OPTIONS: dict[str, Any] = {
    str(one.name): one for one in train.params if one.name in (*_DATA, *_SEARCHED)
}
_TABLES = config.Kind(
    "a table, or several",
    lambda value: all(isinstance(one, dict) for one in (value if _is_list(value) else [value])),
)
_OWN = {
    "space": _TABLES,
    "draws": config.INTEGER,
    "seeds": config.INTEGER.or_list("them"),
    "seed": config.INTEGER,
    "folds": config.INTEGER,
    "sort_by": config.TEXT,
    "halving": config.INTEGER,
}
KEYS = {name.replace("_", "-") for name in (*_OPTIONS, *_OWN)}
"""What a file may hold."""

_DISTRIBUTIONS = {
    "uniform": uniform,
    "log-uniform": log_uniform,
    "integers": integers,
    "choice": lambda *values: choice(values),
}
# What a file calls differently than the function does.
_NAMES = {"metric": "sort_by", "validation_data": "validation_fraction", "metrics": "metric"}


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


@main.command()
@click.argument("file", type=FILE)
@click.option(
    "--output",
    "-o",
    type=FILE,
    metavar="FILE",
    help="A .csv file for the table, in place of an older one.",
)
@click.option(
    "--best",
    type=FILE,
    metavar="FILE",
    help="Where the network of the best settings goes, in place of an older file.",
)
@click.option(
    "--plot",
    type=FILE,
    metavar="PICTURE",
    help="Draw how the best settings learn and, where two or more settings are searched, a heat "
    "map of the first two, to this .png, .svg or .pdf file.",
)
@click.option(
    "--jobs", type=int, default=1, show_default=True, help="Processes; -1 is one for each core."
)
@click.option(
    "--folder",
    type=FILE,
    metavar="FOLDER",
    help="Keep finished runs here: the same command goes on where it was.",
)
@quiet_option
@debug_option
def sweep(file: Path, jobs: int, **files: Path | None) -> None:
    """Train networks with many settings, and tell which are the best.

    FILE is TOML, with the settings of train that all runs share (but for schedules and files), and
    a table [space] of those that are searched: a list of values for each. Several tables [[space]]
    are searched one after the other. A value of sizes or of dropout may itself be a list.

    \b
    Other keys      what they are
    seeds           how many networks to train with each of the settings, or a list of seeds
    folds           into how many parts to divide the samples, of which each judges once;
                    without it, the validation part judges, or a validation-fraction (0.2)
    sort-by         what settings are judged by; without it, validation_accuracy, or
                    validation_cost where there are no classes
    draws           how many settings to draw at random; without it, all are tried
    halving         of so many settings one goes on, again and again
    seed            of what is drawn: settings and folds

    To be drawn, a setting may have a distribution in the place of its list, as in
    learning-rate = {log-uniform = [1e-3, 1]}: uniform, log-uniform or integers, with the least and
    the largest number, or choice, with the values.

    The table is printed, the best settings first, with the mean over seeds and folds and the
    standard deviation. Runs that differ in numbers alone are trained as one stack. A run that
    diverges is told in the table. Ctrl-C ends the sweep with what is finished (exit status 130).

    \b
    A file, digits.toml:
      data = "digits"
      epochs = 20
      seeds = 3
      [space]
      learning-rate = [0.1, 0.3, 1.0]
      l2 = [0.0, 1e-4, 1e-3]

    \b
    Examples:
      bp-xp sweep digits.toml
      bp-xp sweep digits.toml --output table.csv --plot table.png --jobs -1
      bp-xp sweep digits.toml --folder runs --best best.safetensors
    """  # noqa: D301
    given = SimpleNamespace(file=file, jobs=jobs, **files)
    settings = _read(file)
    _check_files(given, settings["data"])
    allow_float64(settings.get("dtype", "float32"))
    words = functools.partial(_words, data=settings["data"])
    with speaking(words, to_program=False), Termination():
        dataset = load_data(settings["data"], settings.get("target", -1))
        table = _sweep(given, settings, dataset)
    print(table)
    _write(given, table, dataset)
    if not table.complete:
        stop("interrupted: the table is of the runs that were finished", signal.SIGINT)


def _words(argument: str, value: Any, *, data: str) -> str | None:
    """Return what an argument is called in the file, or the samples of a data set."""
    part, _, letter = argument.rpartition(" ")  # "x", or "validation x"
    if letter in ("x", "y"):
        return f"{'the target of ' if letter == 'y' else ''}{data}{part and f', {part} part,'}"
    name, bracket, index = argument.rpartition(".")[2].partition("[")
    key = _NAMES.get(name, name).replace("_", "-")
    if key not in KEYS:
        return None
    if value is NO_VALUE:
        return f"{key}{bracket}{index}"
    return f"{key} = {list(value) if isinstance(value, tuple) else value}"


# ---------------------------------------------------------------------------------------------
# The file


def _read(path: Path) -> dict[str, Any]:
    """Return the settings of a file, by name.

    Raises:
        ValueError: a key is none, or a value is of another kind.
        OSError: the file can't be read.
    """
    kinds = {name: option.kind for name, option in _OPTIONS.items()} | _OWN
    settings = config.read_settings(path, kinds, "sweep")
    if "space" not in settings:
        raise ValueError(f"{path} has no table [space]: it says what is searched.")
    settings = {
        name: value if name in _OWN else _value(path, name, value)
        for name, value in settings.items()
    }
    settings.setdefault("data", "digits")
    if settings["data"] not in LOADERS:
        settings["data"] = str(path.parent / settings["data"])
    tables = settings["space"]
    tables = tables if isinstance(tables, list) else [tables]
    settings["space"] = [_space(path, table) for table in tables]
    return settings


def _space(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space of values as runs take them."""
    space = {}
    for key, values in table.items():
        name = key.replace("-", "_")
        if name not in _SEARCHED:
            known = [one.replace("_", "-") for one in _SEARCHED]
            raise ValueError(
                f"{path}: {key!r} in [space] is none of {', '.join(known)}."
                f"{checks.did_you_mean(key, known)}"
            )
        space[name] = _values(path, name, values)
    return space


def _values(path: Path, name: str, values: Any) -> list[Any] | Distribution:
    """Return the values of a setting that is searched, or what they are drawn from."""
    key = name.replace("_", "-")
    if isinstance(values, Mapping):
        (kind, arguments), *others = [*values.items(), (None, None)]
        if kind not in _DISTRIBUTIONS or len(others) > 1 or not isinstance(arguments, list):
            raise ValueError(
                f"{path}: {key} must be a list of values, or one distribution such as "
                f"{{log-uniform = [1e-3, 1]}}; there are {', '.join(_DISTRIBUTIONS)}."
            )
        if kind != "choice" and len(arguments) != 2:
            raise ValueError(f"{path}: {kind} of {key} takes the least and the largest number.")
        drawn = _DISTRIBUTIONS[kind](*arguments)
        if kind != "choice":
            return drawn
        values = list(drawn.values)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: {key} in [space] must be a list of the values to try.")
    return [_value(path, name, value) for value in values]


def _value(path: Path, name: str, value: Any) -> Any:
    """Return a value of a file as a run takes it."""
    option, key = _OPTIONS[name], name.replace("_", "-")
    if not option.kind.accepts(value):
        raise ValueError(f"{path}: {key} must be {option.kind.words}, not {value!r}.")
    if option.multiple and not isinstance(value, list):
        value = [value]
    try:
        return option.type_cast_value(click.get_current_context(), value)
    except click.BadParameter as error:
        raise ValueError(f"{path}: {key}: {error.message}") from None


# ---------------------------------------------------------------------------------------------
# The sweep


def _sweep(given: SimpleNamespace, settings: dict[str, Any], dataset: Dataset) -> SweepResult:
    """Make the runs."""
    spaces = settings["space"]
    shared = _shared(settings, dataset, spaces)
    as_runs_take = functools.partial(
        _as_runs_take,
        rate=defaults_of(settings["data"]).learning_rate,
        monitor=settings.get("monitor", "validation_cost"),
    )
    return bp_xp.sweep(
        dataset.x_train,
        dataset.y_train,
        [
            {
                name: values
                if isinstance(values, Distribution)
                else [as_runs_take(name, value) for value in values]
                for name, values in one.items()
            }
            for one in spaces
        ],
        draws=settings.get("draws"),
        seeds=settings.get("seeds", 1),
        folds=settings.get("folds"),
        validation_data=_validation(settings, dataset),
        metric=settings.get("sort_by"),
        halving=settings.get("halving"),
        seed=settings.get("seed", 0),
        n_jobs=given.jobs,
        folder=given.folder,
        **{name: as_runs_take(name, value) for name, value in shared.items()},
    )


def _shared(
    settings: Mapping[str, Any], dataset: Dataset, spaces: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the settings that all runs have, those that follow from the data among them."""
    defaults = defaults_of(settings["data"])
    where = {
        "activation": settings.get("activation", "relu"),
        "dtype": settings.get("dtype", "float32"),
        "device": settings.get("device", "auto"),
        "backend": settings.get("backend"),
    }
    make = functools.partial(
        make_network, dataset, hidden=defaults.hidden, cost=settings.get("cost"), **where
    )
    network = make(settings.get("sizes"))
    for space in spaces:
        sizes = space.get("sizes", [])
        for one in sizes.values if isinstance(sizes, Distribution) else sizes:
            make(one)  # which tells if they do not fit the data
    logger.info("%r", dataset)
    tell_device(network)
    shared = {
        **where,
        "sizes": network.sizes,
        "cost": network.model.cost,
        "backend": network.backend,
        "device": network.device,
        "optimizer": "sgd",
        "epochs": defaults.epochs,
        "batch_size": defaults.batch_size,
        "metrics": settings.get("metric", ()),
    }
    if not any("cost" in space for space in spaces):
        shared["output_activation"] = network.model.activations[-1]
    given = {name: settings[name] for name in _SEARCHED if name in settings}
    return shared | {name: value for name, value in given.items() if name not in ("sizes", "cost")}


def _as_runs_take(name: str, value: Any, *, rate: float, monitor: str) -> Any:
    """Return a setting of train as runs take it."""
    if name == "optimizer":
        return config.parse_optimizer(value)(config.default_rate(value) or rate)
    return EarlyStopping(monitor, value) if name == "early_stopping" else value


def _validation(settings: Mapping[str, Any], dataset: Dataset) -> Any:
    """Return what judges the runs: None where folds do."""
    if "folds" in settings:
        if "validation_fraction" in settings:
            raise ValueError("folds and validation-fraction both say what judges: leave one out.")
        return None
    if dataset.x_validation is not None:
        return dataset.x_validation, dataset.y_validation
    return settings.get("validation_fraction", 0.2)


# ---------------------------------------------------------------------------------------------
# What is written


def _check_files(given: SimpleNamespace, data: str) -> None:
    """Refuse files that could not be written, before there is anything to lose."""
    inputs = [given.file, data]
    for name in ("output", "best"):
        path = getattr(given, name)
        if path is not None:
            check_output(path, *inputs, name=f"--{name}")
            check_replaceable(path)
    if given.output is not None and given.output.suffix.lower() != ".csv":
        raise ValueError(f"--output {given.output} must end in .csv: that is its format.")
    if given.best is not None:
        network_file.check_suffix(given.best)
    if given.plot is not None:
        check_picture(given.plot, *inputs, name="--plot")


def _write(given: SimpleNamespace, table: SweepResult, dataset: Dataset) -> None:
    """Write what was asked for, and say where it is."""
    if given.output is not None:
        print(f"table written to {table.to_csv(given.output)}", flush=True)
    if given.plot is not None:
        _draw(given.plot, table)
        print(f"curves drawn to {given.plot}", flush=True)
    network = table.best_network
    if network is not None:
        x, y = dataset.x_test, dataset.y_test
        print(score(network, dataset.name, "test", x, y, metrics=()))
        if given.best is not None:
            print(f"network of the best settings written to {network.save(given.best)}", flush=True)


def _draw(path: Path, table: SweepResult) -> None:
    """Draw curves and, of two settings or more, a heat map."""
    with drawing(path):
        from matplotlib import pyplot

        two = len(table.searched) > 1
        figure = pyplot.figure(figsize=(12.0 if two else 6.4, 4.6), layout="constrained")
        sweep_curves(table, ax=figure.add_subplot(1, 1 + two, 1))
        if two:
            sweep_heat_map(table, ax=figure.add_subplot(1, 2, 2))
