"""Tables in commands: from a file to a data set, and from a model to its report."""

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from bp_xp import History, Network, checks
from bp_xp._caller import named
from bp_xp.cli._pictures import drawing
from bp_xp.cli._program import logger
from bp_xp.datasets import Dataset
from bp_xp.datasets.table import CSV_ENDS
from bp_xp.plotting import column_importance
from bp_xp.storage.network_file import Section
from bp_xp.tables import TableModel
from bp_xp.tables.card import Card
from bp_xp.tables.columns import ROWS_AT_ONCE, Columns
from bp_xp.tables.files import write_sections
from bp_xp.tables.model import COST_OF_TASK
from bp_xp.tables.parts import Prepared, Split, ignored_by, prepare
from bp_xp.tables.preparation import select
from bp_xp.tables.recipe import Recipe, even_batch_size, suited_l2
from bp_xp.tables.stored import StoredInputs, open_columns

__all__ = [
    "OF_TABLES",
    "TABLE_ENDS",
    "TEST_FRACTION",
    "add_card",
    "as_model",
    "check_options",
    "class_weights",
    "columns_for",
    "is_table",
    "load",
    "predictions",
    "refuse_target",
    "samples_for",
    "sections_of",
    "split_names",
    "stem",
    "target_names",
    "tell_importance",
    "tell_scores",
    "told",
    "use_defaults",
    "warn_of_ranges",
]

TABLE_ENDS = (*CSV_ENDS[:2], ".parquet", *CSV_ENDS[2:])
"""The endings of the file names of tables."""

TEST_FRACTION = 0.2
"""The share of a table's rows to test on, by default."""

_MOST_TOLD = 5

OF_TABLES = ("task", "numeric", "categorical", "drop", "test_fraction", "split_by", "split_last")
"""The parameters of train that are only for tables, besides importance."""


def is_table(data: str) -> bool:
    """Return whether a file is a table, by its name."""
    return data.lower().endswith(TABLE_ENDS)


def stem(data: str) -> str:
    """Return the stem for the names of files that belong to a data set."""
    return Path(data.removesuffix(".gz")).stem or "data"


def check_options(ctx: click.Context, data: str, *, allowed: Sequence[str] = ()) -> None:
    """Refuse options for tables, except those allowed, if the data is not a table."""
    of_tables = {*OF_TABLES, "importance"} - set(allowed)
    for option in ctx.command.params:
        if option.name in of_tables and not _is_default(ctx, option.name):
            ends = ", ".join(TABLE_ENDS[:3])
            raise click.UsageError(f"{option.opts[0]} is for tables ({ends}), not {data}.", ctx)


def use_defaults(ctx: click.Context, given: SimpleNamespace) -> None:
    """Use the recipe of TableModel for options that were not given."""
    recipe = Recipe()
    defaults = {
        "activation": recipe.activation,
        "l2": recipe.l2,
        "dropout": recipe.dropout,
        "test_fraction": TEST_FRACTION,
    }
    if given.validation_fraction:  # the best epoch is restored
        defaults["early_stopping"] = recipe.patience or given.epochs or recipe.epochs
    if _is_default(ctx, "optimizer"):
        defaults |= {
            "optimizer": "adam",
            "schedule": "cosine",
            "learning_rate": recipe.learning_rate,
        }
    for name, value in defaults.items():
        if _is_default(ctx, name):
            setattr(given, name, value)
    if given.task is None and (given.cost or "").partition(":")[0] == "huber":
        given.task = "regression"


def _is_default(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT


# ---------------------------------------------------------------------------------------------
# From a table to a model


def load(given: SimpleNamespace) -> tuple[Prepared, Dataset]:
    """Read the table of a run, log the decisions about it, and return its parts.

    The names of the targets are stored in ``given``, and so are settings that follow from the data.
    """
    ignored = ignored_by(given.drop or (), given.split_by)
    columns = open_columns(
        given.data, given.categorical or (), given.stream or None, ignored=ignored
    )
    targets = target_names(given.target, columns, given.data)
    given.target = targets[0] if len(targets) == 1 else targets
    split = Split(
        given.validation_fraction, given.test_fraction, by=given.split_by, last=given.split_last
    )
    wishes: dict[str, Any] = {
        name: getattr(given, name) or () for name in ("numeric", "categorical", "drop")
    }
    seed = checks.check_seed(given.seed)
    wishes |= {"task": given.task, "scaling": Recipe().scaling}
    prepared = prepare(columns, targets, split=split, seed=seed, **wishes)
    logger.info("%s", prepared.preparation)
    if given.importance and not len(prepared.rows["test"]):
        raise ValueError("--importance needs rows to test on: leave out --test-fraction 0.")
    if (task := prepared.preparation.targets.task) != "classification":
        given.cost = given.cost or COST_OF_TASK[task]
    n_rows = len(prepared.rows["training"])
    given.batch_size = even_batch_size(n_rows, given.batch_size)
    given.l2 = suited_l2(n_rows) if given.l2 is None else given.l2
    train, validation, test = map(prepared.part, ("training", "validation", "test"))
    has_validation = len(validation[0]) > 0
    parts = (*train, *test, *(validation if has_validation else (None, None)))
    return prepared, Dataset(stem(given.data), *parts)


def target_names(target: int | str, columns: Columns, data: str) -> list[str]:
    """Return the names of the columns to predict, given a name, names, or a position."""
    names = list(columns)
    if f"{target}" in columns:
        return [f"{target}"]
    if isinstance(target, str):
        return list(select(columns, split_names(target), named("target")))
    if not -len(names) <= target < len(names):
        raise ValueError(
            f"{named('target', target)}: {data} has {len(names)} columns, {', '.join(names)[:400]}."
        )
    return [names[target]]


def split_names(text: str) -> list[str]:
    """Return the names in a list; a name that contains a comma is in quotes."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def as_model(prepared: Prepared | None, network: Network) -> Network | TableModel:
    """Return a network, or the model of tables that it is part of."""
    return network if prepared is None else TableModel.of(prepared.preparation, network)


def sections_of(model: Network | TableModel) -> dict[str, Section]:
    """Return the sections that a checkpoint needs to predict from tables."""
    return write_sections(model.preparation) if isinstance(model, TableModel) else {}


def class_weights(weights: Any, prepared: Prepared | None) -> Any:
    """Return the class weights by class number, as a network takes them.

    Raises:
        ValueError: a class is not in the table.
    """
    if prepared is None or not isinstance(weights, Mapping):
        return weights
    places = {f"{name}": i for i, name in enumerate(prepared.preparation.targets.classes)}
    for name in weights:
        if f"{name}" not in places:
            known = ", ".join(places) or "none"
            raise ValueError(
                f"{named('class_weight')} names the class {name!r}; the classes are {known}."
            )
    return {places[f"{name}"]: weight for name, weight in weights.items()}


def add_card(given: SimpleNamespace, history: History) -> None:
    """Evaluate the model of a run after training, and record the metrics on its card."""
    model, prepared = given.model, given.prepared
    parts = [part for part, rows in prepared.rows.items() if len(rows)]
    metrics = {part: model.judge(*prepared.part(part), given.metrics) for part in parts}
    model.history = history
    model.card = Card.learn(prepared, metrics, Path(given.data).name)


# ---------------------------------------------------------------------------------------------
# What a model reports


def columns_for(model: TableModel, file: str, data: str, *, with_target: bool = True) -> Columns:
    """Return the columns of a table for a model; without the target, it may have no rows."""
    if not is_table(data):
        raise ValueError(
            f"the model in {file} takes tables: name a {', '.join(TABLE_ENDS[:3])} file with "
            "--data."
        )
    preparation = model.preparation
    used = {*preparation.columns, *(preparation.targets.names if with_target else ())}
    return open_columns(data, preparation.text, only=used, allow_empty=not with_target)


def samples_for(model: TableModel, file: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows of a table as inputs and targets of a model's network."""
    columns = columns_for(model, file, data)
    return model.preparation.inputs(columns), model.preparation.outputs(columns)


def refuse_target(ctx: click.Context, file: str) -> None:
    """Refuse --target for a model of tables, which knows the name of its target."""
    if not _is_default(ctx, "target"):
        raise click.UsageError(f"--target is not for {file}: it knows the name of its target.", ctx)


def warn_of_ranges(model: TableModel, columns: Columns, data: str) -> None:
    """Warn once about values outside the ranges of the training data."""
    outside = model.outside(columns)
    if outside:
        told = "; ".join(f"{name}: {what}" for name, what in list(outside.items())[:_MOST_TOLD])
        if len(outside) > _MOST_TOLD:
            told += f"; and {len(outside) - _MOST_TOLD} more columns"
        click.echo(f"warning: {data} has values that training did not see: {told}", err=True)


def predictions(model: TableModel, columns: Columns, *, proba: bool) -> Iterator[Sequence[Any]]:
    """Return the lines of a table of predictions, with the names first.

    All rows are checked now, and predicted in blocks.

    Args:
        model: the model.
        columns: the rows to predict.
        proba: whether to add the probability of each class, under its name, or of each label.

    Raises:
        ValueError: a value is not what it must be; the message names row and column.
    """
    inputs = StoredInputs(model.preparation, columns)
    inputs.check()
    return _lines(model, inputs, proba)


def _lines(model: TableModel, inputs: StoredInputs, proba: bool) -> Iterator[Sequence[Any]]:
    targets = model.preparation.targets
    names = list(targets.names)
    prefix = "" if targets.classes else "probability of "
    more = [f"{prefix}{_text(name)}" for name in model.classes_.tolist()] if proba else []
    yield [*names, *more]
    for first in range(0, len(inputs), ROWS_AT_ONCE):
        x = inputs[first : first + ROWS_AT_ONCE]
        values = model.answers(x)
        cells = map(_cell(model), values.reshape(-1).tolist())
        lines = [[next(cells) for _ in names] for _ in values]
        if proba:
            for line, probabilities in zip(lines, model.outputs(x), strict=True):
                line += [str(p) for p in probabilities]
        yield from lines


def _cell(model: TableModel) -> Any:
    # This many digits distinguish all numbers of the dtype.
    digits = 9 if model.network.dtype == "float32" else 17
    return functools.partial(_text, digits=digits)


def _text(value: Any, digits: int = 17) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def told(name: str, part: str, n: int, values: Mapping[str, float | None]) -> str:
    """Return metrics on some rows as a line of text."""
    text = f"{name}, {part}, {n:,} {'row' if n == 1 else 'rows'}:"
    for metric, value in values.items():
        shown = (
            "nan" if value is None else f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"
        )
        text += f"  {metric.replace('_', ' ')} {shown}"
    return text


def tell_scores(model: TableModel, name: str) -> None:
    """Print how good a model is on each part of its table, in the units of the target."""
    if model.card is not None:
        for part, values in model.card.metrics.items():
            print(told(name, f"{part} part", model.card.rows[part], values))


def tell_importance(model: TableModel, prepared: Prepared, picture: Path | None) -> None:
    """Print how much each column matters on the test part, and draw it."""
    rows = prepared.rows["test"]
    columns = {**prepared.columns, **prepared.answers}
    falls = model.importance({name: values[rows] for name, values in columns.items()})
    width = max(map(len, falls))
    score = "R²" if model.preparation.targets.task == "regression" else "accuracy"
    print(f"importance: how much {score} falls on the test part when a column is shuffled")
    for name, fall in falls.items():
        print(f"  {name:{width}}  {fall:8.4f}")
    if picture is None:
        logger.info("no chart is drawn: matplotlib is not installed")
        return
    with drawing(picture):
        column_importance(falls, score=score)
    print(f"importance drawn to {picture}", flush=True)
