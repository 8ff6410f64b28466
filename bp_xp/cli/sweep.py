"""``bp-xp sweep``: train networks with many settings, and show which are the best."""

import functools
from collections.abc import Callable, Mapping, Sequence
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
from bp_xp.cli._sweep_table import sweep_rows
from bp_xp.cli._tables import OF_TABLES, TABLE_ENDS, is_table
from bp_xp.cli.train import train
from bp_xp.datasets import Dataset
from bp_xp.plotting import sweep_curves, sweep_heat_map
from bp_xp.storage import network_file
from bp_xp.storage.files import check_replaceable
from bp_xp.sweeps import Distribution, SweepResult, choice, integers, log_uniform, uniform

__all__ = ["KEYS", "sweep"]

# The settings of train that a run may have here, and those that may differ between runs.
_DATA = ("data", "target", "validation_fraction", "metric", "monitor", "backend", "device", "dtype")
_SEARCHED = (
    *("sizes", "activation", "cost", "epochs", "batch_size", "shuffle", "optimizer"),
    *("learning_rate", "momentum", "nesterov", "weight_decay", "schedule", "warm_up"),
    *("l1", "l2", "dropout", "clip_norm", "clip_value", "max_norm", "class_weight"),
    *("early_stopping", "hidden_layer_sizes"),
)
_OPTIONS: dict[str, Any] = {
    str(one.name): one for one in train.params if one.name in (*_DATA, *OF_TABLES, *_SEARCHED)
}
# The inputs of a table are not known beforehand, and may differ from fold to fold.
_OPTIONS["hidden_layer_sizes"] = _OPTIONS["sizes"]
_NOT_OF_TABLES = {
    "sizes": "the inputs follow from the columns of each fold: write hidden-layer-sizes = [64]",
    "cost": "it follows from the task",
    "early_stopping": "the rows to judge by can't also choose an epoch",
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
# Arguments that a file calls by another name than the function does.
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
    help="A .csv or .parquet file for the table, which replaces an older one.",
)
@click.option(
    "--best",
    type=FILE,
    metavar="FILE",
    help="A file for the network of the best settings, or for the model of a table, which replaces "
    "an older one.",
)
@click.option(
    "--plot",
    type=FILE,
    metavar="PICTURE",
    help="Draw the learning curves of the best settings and, if two or more settings are searched, "
    "a heat map of the first two, to this .png, .svg or .pdf file.",
)
@click.option(
    "--jobs", type=int, default=1, show_default=True, help="Processes; -1 is one for each core."
)
@click.option(
    "--folder",
    type=FILE,
    metavar="FOLDER",
    help="Keep finished runs here: the same command resumes where it was.",
)
@quiet_option
@debug_option
def sweep(file: Path, jobs: int, **files: Path | None) -> None:
    """Train networks with many settings, and show which are the best.

    FILE is TOML. It has the settings of train that all runs share (except files), and a table
    [space] of the settings to search, with a list of values for each. Several tables [[space]] are
    searched one after the other, for example one for each optimizer, with its own settings. A value
    of sizes or of dropout may itself be a list.

    \b
    Other keys      what they are
    seeds           how many networks to train with each of the settings, or a list of seeds
    folds           how many parts to divide the samples into; each part judges once.
                    Default: the validation part judges, or a validation-fraction (0.2)
    sort-by         the value that settings are judged by. Default: validation_accuracy, or
                    validation_cost if there are no classes
    draws           how many settings to draw at random. Default: all are tried
    halving         of this many settings one continues, repeatedly
    seed            seed of what is drawn: settings and folds

    With draws, a setting may have a distribution instead of its list, as in
    learning-rate = {log-uniform = [1e-3, 1]}: uniform, log-uniform or integers, with the least and
    the largest number, or choice, with the values.

    If data is a table (.csv, .tsv, .parquet), each fold learns from its own rows how to prepare the
    columns, and the other defaults are those of train; hidden-layer-sizes replaces sizes. A fifth
    of the rows is held out from all folds for testing (test-fraction); split-by and split-last
    apply to folds too. Settings are judged by accuracy or r2.

    The table is printed, with the best settings first, and with the mean and the standard deviation
    over seeds and folds. Runs that differ only in numbers are trained as one stack. The table shows
    which runs diverged. Ctrl-C or SIGTERM ends the sweep with the runs that are finished (exit
    status 130, 143); settings with fewer runs then come after those with all, and there is no best
    network.

    \b
    A file, digits.toml:
      data = "digits"
      epochs = 20
      seeds = 3
      [[space]]
      optimizer = ["sgd"]
      momentum = [0.5, 0.9]
      schedule = ["constant", "cosine", "step:0.5:1000"]
      [[space]]
      optimizer = ["adam"]
      learning-rate = [1e-3, 3e-3]

    \b
    Examples:
      bp-xp sweep digits.toml
      bp-xp sweep digits.toml --output table.csv --plot table.png --jobs -1
      bp-xp sweep digits.toml --folder runs --best best.safetensors
      bp-xp sweep rents.toml --best rents.safetensors --output table.parquet
    """  # noqa: D301
    if not jobs:
        raise click.UsageError("--jobs 0 leaves no process to train: use 1, or -1 for each core.")
    given = SimpleNamespace(file=file, jobs=jobs, **files)
    settings = _read(file)
    _check_files(given, settings["data"])
    allow_float64(settings.get("dtype", "float32"))
    words = functools.partial(_words, data=settings["data"])
    with speaking(words, to_program=False), Termination() as termination:
        make = sweep_rows if is_table(settings["data"]) else _sweep
        table, tell = make(settings, _common(given, settings))
    for one in table.settings:
        _as_written(one)
    print(table)
    _write(given, table, tell)
    if not table.complete:
        missing = "" if given.best is None else f", and {given.best} is not written"
        stop(
            f"interrupted: the table holds the runs that were finished{missing}", termination.number
        )


def _words(argument: str, value: Any, *, data: str) -> str | None:
    """Return what an argument is called in the file, or the samples of a data set."""
    part, _, letter = argument.rpartition(" ")  # "x", or "validation x"
    if letter in ("x", "y"):
        return f"{'the target of ' if letter == 'y' else ''}{data}{part and f', {part} part,'}"
    name, bracket, index = argument.rpartition(".")[2].partition("[")
    if name == "sizes" and is_table(data):  # the first and the last size are not in the file
        return "hidden-layer-sizes"
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
        ValueError: a key is unknown, or a value is of another kind.
        OSError: the file can't be read.
    """
    kinds = {name: option.kind for name, option in _OPTIONS.items()} | _OWN
    settings = config.read_settings(path, kinds, "sweep")
    if "space" not in settings:
        raise ValueError(f"{path} has no table [space], which says what to search.")
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
    for name in dict.fromkeys(name for one in (settings, *settings["space"]) for name in one):
        _check_data(path, name, settings["data"])
    if "folds" in settings and "validation_fraction" in settings:
        raise ValueError("folds and validation-fraction both say what to judge by: leave one out.")
    return settings


def _check_data(path: Path, name: str, data: str) -> None:
    """Refuse a setting that is only for tables, or not for tables.

    Raises:
        ValueError: it does not fit the data.
    """
    key, ends = name.replace("_", "-"), ", ".join(TABLE_ENDS[:3])
    if is_table(data) and name in _NOT_OF_TABLES:
        raise ValueError(f"{path}: {key} is not for tables ({ends}): {_NOT_OF_TABLES[name]}.")
    if not is_table(data) and name in (*OF_TABLES, "hidden_layer_sizes"):
        raise ValueError(f"{path}: {key} is for tables ({ends}), not {data}.")


def _space(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space of values as runs take them."""
    space = {}
    for key, values in table.items():
        name = key.replace("-", "_")
        if name not in _SEARCHED:
            known = [one.replace("_", "-") for one in _SEARCHED]
            raise ValueError(
                f"{path}: {key!r} in [space] is not one of {', '.join(known)}."
                f"{checks.did_you_mean(key, known)}"
            )
        if name in space:
            dashed = name.replace("_", "-")
            raise ValueError(f"{path}: {dashed} is given twice, once with an underscore.")
        space[name] = _values(path, name, values)
    return space


def _values(path: Path, name: str, values: Any) -> list[Any] | Distribution:
    """Return the values of a setting that is searched, or their distribution."""
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
        words = {"low": "the least number", "high": "the largest number"}
        try:
            with speaking(lambda argument, _: words.get(argument), to_program=False):
                drawn = _DISTRIBUTIONS[kind](*arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {kind} of {key}: {error}") from None
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


def _common(given: SimpleNamespace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the sweep function that do not depend on the kind of data."""
    defaults = defaults_of(settings["data"], is_table=is_table(settings["data"]))
    # A network trained on all samples has no samples left to watch.
    is_watched = "folds" not in settings and not is_table(settings["data"])
    as_runs_take = functools.partial(
        _as_runs_take,
        rate=defaults.learning_rate,
        monitor=settings.get("monitor", "validation_cost"),
        watched=settings.get("monitor", "validation_cost" if is_watched else "cost"),
    )
    space = [
        {
            name: values
            if isinstance(values, Distribution)
            else [as_runs_take(name, value) for value in values]
            for name, values in one.items()
        }
        for one in settings["space"]
    ]
    shared = {n: as_runs_take(n, settings[n]) for n in _SEARCHED if n in settings}
    return {
        **shared,
        "space": space,
        "draws": settings.get("draws"),
        "seeds": settings.get("seeds", 1),
        "metric": settings.get("sort_by"),
        "metrics": settings.get("metric", ()),
        "halving": settings.get("halving"),
        "seed": settings.get("seed", 0),
        "n_jobs": given.jobs,
        "folder": given.folder,
    }


def _sweep(
    settings: Mapping[str, Any], common: dict[str, Any]
) -> tuple[SweepResult, Callable[[], str]]:
    """Run the sweep; return its result, and a function that describes its network."""
    dataset = load_data(settings["data"], settings.get("target", -1))
    shared = _shared(settings, dataset, common["space"])
    table = bp_xp.sweep(
        dataset.x_train,
        dataset.y_train,
        folds=settings.get("folds"),
        validation_data=_validation(settings, dataset),
        **shared | {name: value for name, value in common.items() if name not in ("sizes", "cost")},
    )

    def tell() -> str:
        x, y = dataset.x_test, dataset.y_test
        network: Any = table.best_network
        return score(network, dataset.name, "test", x, y, metrics=())

    return table, tell


def _shared(
    settings: Mapping[str, Any], dataset: Dataset, spaces: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the settings that all runs share, including those that follow from the data."""
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
            make(one)  # which raises an error if they do not fit the data
    logger.info("%r", dataset)
    tell_device(network)
    shared = {
        **where,
        "sizes": network.sizes,
        "cost": network.model.cost,
        "backend": network.backend,
        "device": network.device,
        "optimizer": config.parse_optimizer("sgd")(defaults.learning_rate),
        "epochs": defaults.epochs,
        "batch_size": defaults.batch_size,
    }
    if not any("cost" in space for space in spaces):
        shared["output_activation"] = network.model.activations[-1]
    return shared


def _as_runs_take(name: str, value: Any, *, rate: float, monitor: str, watched: str) -> Any:
    """Return a setting of train as runs take it."""
    if name == "optimizer":
        return config.parse_optimizer(value)(config.default_rate(value) or rate)
    if name == "schedule":
        return config.WrittenSchedule(value, watched)
    return EarlyStopping(monitor, value) if name == "early_stopping" else value


def _as_written(settings: dict[str, Any]) -> None:
    """Replace the objects that runs take by the texts and numbers of the file."""
    if "optimizer" in settings:
        settings["optimizer"] = config.optimizer_settings(settings["optimizer"])["optimizer"]
    if "early_stopping" in settings:
        settings["early_stopping"] = settings["early_stopping"].patience


def _validation(settings: Mapping[str, Any], dataset: Dataset) -> Any:
    """Return the validation data of the runs: None if folds judge."""
    if "folds" in settings:
        return None
    if dataset.x_validation is not None:
        return dataset.x_validation, dataset.y_validation
    return settings.get("validation_fraction", 0.2)


# ---------------------------------------------------------------------------------------------
# What is written


def _check_files(given: SimpleNamespace, data: str) -> None:
    """Refuse files that can't be written, before any work is done."""
    inputs = [given.file, data]
    for name in ("output", "best"):
        path = getattr(given, name)
        if path is not None:
            check_output(path, *inputs, name=f"--{name}")
            check_replaceable(path)
    if given.output is not None and given.output.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(
            f"--output {given.output} must end in .csv or .parquet: these are its formats."
        )
    if given.best is not None:
        network_file.check_suffix(given.best)
    if given.plot is not None:
        check_picture(given.plot, *inputs, name="--plot")


def _write(given: SimpleNamespace, table: SweepResult, tell: Callable[[], str]) -> None:
    """Write what was asked for, and say where it is."""
    if given.output is not None:
        is_csv = given.output.suffix.lower() == ".csv"
        written = (table.to_csv if is_csv else table.to_parquet)(given.output)
        print(f"table written to {written}", flush=True)
    if given.plot is not None:
        _draw(given.plot, table)
        print(f"curves drawn to {given.plot}", flush=True)
    best, kind = table.best_model, "model"
    if best is None:
        best, kind = table.best_network, "network"
    if best is None and table.complete and given.best is not None:
        logger.warning("%s is not written: all runs diverged", given.best)
    if best is not None:
        print(tell())
        if given.best is not None:
            print(f"{kind} of the best settings written to {best.save(given.best)}", flush=True)


def _draw(path: Path, table: SweepResult) -> None:
    """Draw curves and, for two settings or more, a heat map."""
    with drawing(path):
        from matplotlib import pyplot

        two = len(table.searched) > 1
        figure = pyplot.figure(figsize=(12.0 if two else 6.4, 4.6), layout="constrained")
        sweep_curves(table, ax=figure.add_subplot(1, 1 + two, 1))
        if two:
            sweep_heat_map(table, ax=figure.add_subplot(1, 2, 2))
