"""The settings of ``bp-xp train``: which belong together, fit the data, and were used."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from click.core import ParameterSource

from bp_xp import METRICS, EarlyStopping, Metric, Network, checks
from bp_xp.cli import config
from bp_xp.cli._data import LOADERS
from bp_xp.cli._defaults import Defaults
from bp_xp.cli._program import logger
from bp_xp.datasets import Dataset
from bp_xp.optim import Optimizer
from bp_xp.training.arguments import as_metrics

__all__ = [
    "check_numbers",
    "check_together",
    "check_validation",
    "make_optimizer",
    "used_settings",
]


def check_together(ctx: click.Context, given: SimpleNamespace) -> None:
    """Check options that belong together.

    An optimizer from the command line also drops the settings that belong to the file's optimizer,
    such as its momentum.
    """

    def came_from(name: str) -> ParameterSource | None:
        return ctx.get_parameter_source(name)

    if came_from("optimizer") is ParameterSource.COMMANDLINE:
        for name in ("momentum", "nesterov", "weight_decay"):
            if came_from(name) is ParameterSource.DEFAULT_MAP:
                setattr(given, name, None)
                key = name.replace("_", "-")
                logger.info("%s of %s is left out: --optimizer is given", key, given.config)
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


def check_numbers(given: SimpleNamespace, defaults: Defaults) -> None:
    """Check the settings that need no data, and fill in the defaults."""
    for name in ("epochs", "batch_size"):
        value = getattr(given, name)
        value = getattr(defaults, name) if value is None else value
        setattr(given, name, checks.check_integer(value, name))
    given.metrics = as_metrics(given.metric)
    _check_monitor(given, given.metrics)
    given.stopping = None
    if given.early_stopping is not None:
        patience = checks.check_integer(given.early_stopping, "early_stopping")
        given.stopping = EarlyStopping(given.monitor, patience)
    if given.buffer_size is not None:
        checks.check_integer(given.buffer_size, "buffer_size")
    if given.stream and given.test_fraction is not None:
        checks.check_number(given.test_fraction, "test_fraction", least=0.0, below=1.0)
    given.validation_fraction = checks.check_number(
        given.validation_fraction, "validation_fraction", least=0.0, below=1.0
    )


def make_optimizer(given: SimpleNamespace, defaults: Defaults) -> Callable[[int], Optimizer]:
    """Return a function that makes the optimizer for a number of steps."""
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
    """Refuse to watch a value that a run with these metrics does not record."""
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


def check_validation(
    given: SimpleNamespace, dataset: Dataset, network: Network, metrics: Sequence[Metric]
) -> bool:
    """Return whether there are samples to evaluate epochs on; check the metrics."""
    held_out = given.is_table or given.stream  # when the data was loaded
    if given.validation_fraction and dataset.x_validation is not None and not held_out:
        raise ValueError(
            f"{dataset.name} has a validation part of {len(dataset.x_validation):,} samples: leave "
            "out --validation-fraction."
        )
    validated = bool(given.validation_fraction) or dataset.x_validation is not None
    if metrics:  # a metric that can't be measured is an error now, not after the run
        network.evaluate(dataset.x_train[:1], dataset.y_train[:1], metrics=metrics)
    if given.watches and given.monitor.startswith("validation_") and not validated:
        raise ValueError(
            f"{given.monitor} is to be watched, but {dataset.name} has no validation part: hold "
            "samples out with --validation-fraction 0.1, or watch the training cost with "
            "--monitor cost."
        )
    if given.watches and given.monitor.endswith("accuracy") and not network.classifies:
        raise ValueError(
            f"{given.monitor} is to be watched, but the outputs are numbers, not classes: watch "
            "a cost."
        )
    return validated


def used_settings(
    given: SimpleNamespace, network: Network, optimizer: Optimizer, path: Path
) -> dict[str, Any]:
    """Return the settings that were used, in the order of the help."""
    is_file = given.data not in LOADERS
    classes = given.class_weight
    if isinstance(classes, Mapping):
        classes = ",".join(f"{label}:{weight}" for label, weight in classes.items())
    return {
        "data": _relative(Path(given.data), path.parent) if is_file else given.data,
        "target": given.target if is_file else None,
        "targets": given.targets and _relative(given.targets, path.parent),
        "stream": given.stream or None,
        **{name: getattr(given, name) or None for name in ("numeric", "categorical", "drop")},
        **{name: getattr(given, name) for name in ("task", "test_fraction", "split_by")},
        **{name: getattr(given, name) or None for name in ("split_last", "importance")},
        "sizes": network.sizes,
        "activation": given.activation,
        "cost": network.model.cost.name,
        "dtype": network.dtype,
        "seed": network.seed,
        "epochs": given.epochs,
        "batch_size": given.batch_size,
        "buffer_size": given.buffer_size,
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
        "plot": given.plot and _relative(given.plot, path.parent),
        "log": given.log and _relative(given.log, path.parent),
    }


def _relative(path: Path, folder: Path) -> str:
    """Return a path relative to a folder, with slashes, which every system accepts."""
    # A link keeps its own name, but ".." is relative to where the folders really are.
    place = os.path.join(os.path.realpath(path.parent), path.name)
    try:
        return Path(os.path.relpath(place, os.path.realpath(folder))).as_posix()
    except ValueError:  # another drive
        return Path(place).as_posix()
