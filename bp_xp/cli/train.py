"""``bp-xp train``: train a network and write it to a file."""

import logging
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from click.core import ParameterSource

from bp_xp import (
    METRICS,
    EarlyStopping,
    History,
    Metric,
    Network,
    Regularization,
    StopWhen,
    checks,
)
from bp_xp.backends import SUPPORTED_DTYPES, place
from bp_xp.cli import _tables as tables
from bp_xp.cli import config
from bp_xp.cli._completion import complete
from bp_xp.cli._data import LOADERS, load_data
from bp_xp.cli._defaults import Defaults, defaults_of
from bp_xp.cli._files import as_checkpoint, check_files
from bp_xp.cli._logs import epoch_log
from bp_xp.cli._networks import allow_float64, make_network, score, tell_device
from bp_xp.cli._options import (
    CLASS_WEIGHT,
    COLUMNS,
    DROPOUT,
    FILE,
    SIZES,
    Sections,
    activation_option,
    backend_option,
    cost_option,
    data_option,
    debug_option,
    device_option,
    metric_option,
    of_files,
    of_network,
    of_optimizer,
    of_regularization,
    of_run,
    of_table,
    of_validation,
    optimizer_option,
    quiet_option,
    target_option,
    use_config,
)
from bp_xp.cli._pictures import drawing
from bp_xp.cli._program import Termination, logger, main, stop
from bp_xp.cli._ranks import distributed_option, ranks_of
from bp_xp.datasets import Dataset
from bp_xp.optim import Optimizer
from bp_xp.plotting import training_curves
from bp_xp.tables.targets import TASKS
from bp_xp.training.arguments import as_metrics

__all__ = ["train"]


@main.command(cls=Sections)
@data_option
@target_option
@of_network(
    "--sizes",
    type=SIZES,
    metavar="N,N,...",
    help="Neurons of every layer, inputs and outputs included, as in 64,30,10.",
)
@activation_option("relu")
@cost_option()
@of_network("--dtype", default="float32", metavar="NAME", help=f"{' or '.join(SUPPORTED_DTYPES)}.")
@of_network("--seed", type=int, default=0, help="Of initial weights and data order.")
@of_table(
    "--task",
    type=click.Choice(TASKS),
    help="What to learn; without it, the values of the target decide.",
)
@of_table("--numeric", type=COLUMNS, metavar="A,B...", help="Columns to take for numbers.")
@of_table("--categorical", type=COLUMNS, metavar="A,B...", help="Columns to take for categories.")
@of_table("--drop", type=COLUMNS, metavar="A,B...", help="Columns to leave out.")
@of_table("--test-fraction", type=float, help="Share of the rows to test on.  [default: 0.2]")
@of_table(
    "--split-by",
    metavar="COLUMN",
    help="Hold rows out by groups: equal values of this column stay together.",
)
@of_table("--split-last", is_flag=True, help="Hold the last rows out, as in a series in time.")
@of_table(
    "--importance",
    is_flag=True,
    help="Tell how much each column counts on the test part, and draw it beside the output.",
)
@of_run("--stream", is_flag=True, help="Read a table in parts; one of 512 MB is anyway.")
@of_run("--epochs", type=int, help="Passes over the data.")
@of_run("--batch-size", type=int, help="Samples in a mini-batch.")
@of_run("--shuffle/--no-shuffle", default=True, help="Whether each epoch has a new order.")
@distributed_option
@optimizer_option
@of_optimizer(
    "--learning-rate",
    type=float,
    help="η, the length of a step. Without it: see above for sgd, 0.001 for adam and adamw, 0.002 "
    "for nadam, 0.01 for adagrad and rmsprop.",
)
@of_optimizer(
    "--momentum",
    type=float,
    help="μ of sgd and rmsprop, from 0 (none) to below 1. Without it: 0.9 for sgd, 0 for rmsprop.",
)
@of_optimizer("--nesterov", is_flag=True, help="Nesterov's momentum, for sgd.")
@of_optimizer(
    "--weight-decay", type=float, help="λ of adamw. Without it: 0.01. For the others there is --l2."
)
@of_optimizer(
    "--schedule",
    default="constant",
    metavar="FORM",
    shell_complete=complete(config.SCHEDULES),
    help=f"How the learning rate changes: {', '.join(config.SCHEDULES.values())}.",
)
@of_optimizer(
    "--warm-up", type=int, metavar="STEPS", help="Over how many steps the rate rises before."
)
@of_regularization("--l1", type=float, default=0.0, help="Strength of the L1 term l1 Σ |w|.")
@of_regularization("--l2", type=float, default=0.0, help="Strength of the L2 term (l2/2) Σ w².")
@of_regularization(
    "--dropout",
    type=DROPOUT,
    default="0.0",
    metavar="P[,P...]",
    help="Probability of leaving a hidden neuron out of a step: one for all hidden layers, or one "
    "for each; one more, in front, is that of the inputs.",
)
@of_regularization("--clip-norm", type=float, help="Largest norm of the whole gradient.")
@of_regularization("--clip-value", type=float, help="Largest absolute value of a derivative.")
@of_regularization("--max-norm", type=float, help="Largest norm of the weights into a neuron.")
@of_regularization(
    "--class-weight",
    type=CLASS_WEIGHT,
    metavar="WEIGHTS",
    help="How much classes count: balanced, or LABEL:WEIGHT,... as in 0:1,3:2.5 (others 1).",
)
@of_validation(
    "--validation-fraction",
    type=float,
    default=0.0,
    help="Share of the training samples to hold out and judge each epoch by.",
)
@metric_option
@of_validation(
    "--early-stopping",
    type=int,
    metavar="EPOCHS",
    help="End after so many epochs without an improvement, and keep the best network.",
)
@of_validation(
    "--monitor",
    metavar="VALUE",
    help="What --early-stopping and --schedule plateau watch: cost, accuracy, validation_cost, "
    "validation_accuracy, validation_METRIC. Without it: validation_cost.",
)
@device_option
@backend_option
@of_files(
    "--output",
    "-o",
    type=FILE,
    metavar="FILE",
    help="Where the network goes, in place of an older file; else <data>.safetensors, here.",
)
@of_files(
    "--checkpoint",
    type=FILE,
    metavar="FILE",
    help="Keep the run here, after each epoch and when it is interrupted.",
)
@of_files("--checkpoint-every", type=int, metavar="STEPS", help="And after so many steps.")
@of_files("--resume", is_flag=True, help="Go on from the checkpoint, if there is one.")
@of_files(
    "--overwrite",
    is_flag=True,
    help="Replace the checkpoint of another run, and an output that is no network of this library.",
)
@of_files(
    "--plot",
    type=FILE,
    metavar="PICTURE",
    help="Draw cost and accuracy over the epochs to this .png, .svg or .pdf file, at the end.",
)
@of_files(
    "--log",
    type=FILE,
    metavar="FILE",
    help="Write each epoch to this .csv or .jsonl file, in place of an older one.",
)
@click.option(
    "--config",
    type=FILE,
    callback=use_config,
    is_eager=True,
    metavar="FILE",
    help="A TOML file of settings, for the options that are not given here.",
)
@quiet_option
@debug_option
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

    A table (.csv, .tsv, .parquet) has columns of numbers, text, dates, and empty fields. What is
    done with each is told, and can be changed: --task, --numeric, --categorical, --drop. Numbers
    are scaled, text becomes categories, the target may be text or numbers in any unit; the network
    keeps all of that. A fifth of the rows is held out for testing, always the same, and of the
    others the share --validation-fraction, for choosing the best epoch. Without other options:
    sizes 128,128 between inputs and outputs, 150 epochs in mini-batches of at most 128 rows, adam
    with a learning rate that falls from 0.006 along a cosine, dropout 0.2, and l2 of
    6 / rows, but 0.002 to 0.01.

    A .npz file holds x and y, of which a fifth is set apart for testing, always the same; or
    x_train, y_train, x_test and y_test. A .npy file has a row for each sample and the labels in a
    column. Whole numbers from 0 up are classes: one output each, and the cost is
    categorical_cross_entropy. Other numbers are fitted as they are: the cost is quadratic and the
    outputs have no activation; --cost huber minds outliers less, and fits whole numbers too. Large
    inputs are best scaled to about 1 beforehand.

    The learning rate stays as it is unless --schedule changes it: step multiplies it by FACTOR
    after every STEPS steps, exponential does so little by little, cosine lets it fall to FINAL (0)
    over STEPS steps (those of the run), restarts does so again and again, each time over FACTOR (1)
    times as many steps, onecycle lets it rise to --learning-rate from 1/25 of it, over a SHARE
    (0.3) of STEPS steps (those of the run), and then fall almost to 0, inverse divides it by
    (steps + 1) to the POWER (0.5), and plateau multiplies it by FACTOR (0.5) when EPOCHS (10) have
    brought no improvement. An epoch has samples / batch size steps, rounded up.

    A file for --config has a key for each option, as in batch-size = 32; options given here win,
    and --optimizer leaves out the file's momentum, nesterov and weight-decay. Paths in the file
    start from its folder. The settings of each run are written beside its network, as NAME.toml
    for NAME.safetensors, all but --resume and --overwrite: that file, given to --config, repeats
    the run.

    Ctrl-C or SIGTERM ends the run after the step under way and writes the network all the same
    (exit status 130, 143); the second one ends it at once. With --checkpoint, the same command and
    --resume then go on as if nothing had happened.

    \b
    Examples:
      bp-xp train --epochs 5 --seed 1
      bp-xp train --data mnist --sizes 784,512,512,10 --device cuda
      bp-xp train --activation sigmoid --cost quadratic --learning-rate 0.5 --sizes 64,30,10
      bp-xp train --data houses.csv --target price --output houses.safetensors
      bp-xp train --data visits.csv --target ill --drop name --split-by patient --importance
      bp-xp train --optimizer adam --schedule cosine --warm-up 100 --dropout 0.2
      bp-xp train --validation-fraction 0.1 --early-stopping 5 --metric f1 --plot curves.png
      bp-xp train --epochs 500 --checkpoint run.safetensors --resume
      bp-xp train --config digits.toml --seed 2 --output second.safetensors
    """  # noqa: D301
    given = SimpleNamespace(**options, is_table=tables.is_table(options["data"]))
    if given.is_table:
        tables.use_defaults(ctx, given)
    else:
        tables.check_options(ctx, given.data)
    _check_together(ctx, given)
    given.path = given.output or Path(f"{tables.stem(given.data)}.safetensors")
    given.settings_path = check_files(given, given.path)
    defaults = defaults_of(given.data, is_table=given.is_table)
    # What can be said without the data is said before it is loaded.
    _check_numbers(given, defaults)
    optimizer = _optimizer(given, defaults)
    optimizer(1 + (given.warm_up or 0))
    allow_float64(given.dtype)
    given.ranks = ranks_of(given, place(given.device, given.backend))
    with Termination() as termination:
        network, dataset = given.ranks.together(lambda: _load(given, defaults))
        history = _fit(given, network, dataset, optimizer, termination)
        number = max(given.ranks.gather(termination.number))  # SIGTERM, if one of them got it
    if given.ranks.rank:
        return
    if history.stopped == "interrupt" or termination.asked():
        epoch = history.best_epoch
        which = "the last complete step" if epoch is None else f"epoch {epoch}, the best,"
        go_on = "" if given.checkpoint is None else "; the same command with --resume goes on"
        stop(f"interrupted: the network of {which} is in {given.path}{go_on}", number)
    _tell_result(given, network, dataset, history)


def _load(given: SimpleNamespace, defaults: Defaults) -> tuple[Network, Dataset]:
    """Return the network, and the data that it learns from."""
    given.prepared = None
    if given.is_table:
        given.prepared, dataset = tables.load(given)
    else:
        dataset = load_data(given.data, given.target)
    network = make_network(
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
    tell_device(network)
    given.model = tables.as_model(given.prepared, network)
    return network, dataset


def _check_numbers(given: SimpleNamespace, defaults: Defaults) -> None:
    """Check what needs no data, and put defaults where nothing was given."""
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
    given.validation_fraction = checks.check_number(
        given.validation_fraction, "validation_fraction", least=0.0, below=1.0
    )


def _fit(
    given: SimpleNamespace,
    network: Network,
    dataset: Dataset,
    optimizer: Callable[[int], Optimizer],
    termination: Termination,
) -> History:
    """Train the network, and let rank 0 write it and its settings to files."""
    validated = _check_validation(given, dataset, network, given.metrics)
    fraction = given.validation_fraction if dataset.x_validation is None else 0.0
    n = len(dataset.x_train) - round(fraction * len(dataset.x_train))
    run_optimizer = optimizer(given.epochs * math.ceil(n / given.batch_size))
    settings = config.settings_text(_used(given, network, run_optimizer, given.path))
    checkpoint = as_checkpoint(given, tables.sections_of(given.model))
    validation: Any = fraction or None
    if dataset.x_validation is not None:
        validation = (dataset.x_validation, dataset.y_validation)
    termination.training, log = True, given.log if given.ranks.rank == 0 else None
    history = network.fit(
        dataset.x_train,
        dataset.y_train,
        class_weight=tables.class_weights(given.class_weight, given.prepared),
        epochs=given.epochs,
        batch_size=given.batch_size,
        shuffle=given.shuffle,
        optimizer=run_optimizer,
        regularization=Regularization(
            l1=given.l1,
            l2=given.l2,
            dropout=given.dropout,
            clip_norm=given.clip_norm,
            clip_value=given.clip_value,
            max_norm=given.max_norm,
        ),
        validation_data=validation,
        metrics=given.metrics if validated else (),
        early_stopping=given.stopping,
        callbacks=[StopWhen(termination.asked), *([epoch_log(log)] if log else [])],
        checkpoint=checkpoint,
        progress=logger.isEnabledFor(logging.INFO),
        distributed=given.distributed,
    )
    given.ranks.first(lambda: _write(given, history, settings))
    return history


def _write(given: SimpleNamespace, history: History, settings: str) -> None:
    """Write the network and its settings, and draw its curves."""
    # Whatever comes later can't lose it any more.
    if given.path.exists():
        logger.info("%s is replaced", given.path)
    given.model.save(given.path)
    if given.is_table:
        tables.add_card(given, history)
        given.model.save(given.path)
    config.write_settings(given.settings_path, settings)
    if given.plot is not None and history:
        with drawing(given.plot):
            training_curves(history)


def _tell_result(
    given: SimpleNamespace, network: Network, dataset: Dataset, history: History
) -> None:
    """Say how good the network is, where it is, and what can be done with it next."""
    _tell_best(history)
    if given.is_table:
        tables.tell_scores(given.model, dataset.name)
    else:
        for part, x, y in (
            ("train", dataset.x_train, dataset.y_train),
            ("test", dataset.x_test, dataset.y_test),
        ):
            print(score(network, dataset.name, part, x, y, metrics=given.metrics))
    if given.importance:
        tables.tell_importance(given.model, given.prepared, given.chart)
    print(f"network written to {given.path}, its settings to {given.settings_path}", flush=True)
    if given.plot is not None:
        print(f"curves drawn to {given.plot}", flush=True)
    arguments = [str(given.path)]
    arguments += [] if given.data == "digits" else ["--data", given.data]
    if given.target != -1 and not given.is_table:
        arguments += ["--target", str(given.target)]
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


def _optimizer(given: SimpleNamespace, defaults: Defaults) -> Callable[[int], Optimizer]:
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
    if given.validation_fraction and dataset.x_validation is not None and not given.is_table:
        raise ValueError(
            f"{dataset.name} has a validation part of {len(dataset.x_validation):,} samples: leave "
            "out --validation-fraction."
        )
    validated = bool(given.validation_fraction) or dataset.x_validation is not None
    if metrics:  # what can't be measured is an error now, and not after the run
        network.evaluate(dataset.x_train[:1], dataset.y_train[:1], metrics=metrics)
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
    is_file = given.data not in LOADERS
    classes = given.class_weight
    if isinstance(classes, Mapping):
        classes = ",".join(f"{label}:{weight}" for label, weight in classes.items())
    return {
        "data": _relative(Path(given.data), path.parent) if is_file else given.data,
        "target": given.target if is_file else None,
        **{name: getattr(given, name) or None for name in ("numeric", "categorical", "drop")},
        **{name: getattr(given, name) for name in ("task", "test_fraction", "split_by")},
        **{name: getattr(given, name) or None for name in ("split_last", "importance", "stream")},
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
        "plot": given.plot and _relative(given.plot, path.parent),
        "log": given.log and _relative(given.log, path.parent),
    }


def _relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder, with slashes, which every system reads."""
    # A link keeps its own name, but ".." leads out of where the folders really are.
    place = os.path.join(os.path.realpath(path.parent), path.name)
    try:
        return Path(os.path.relpath(place, os.path.realpath(folder))).as_posix()
    except ValueError:  # another drive
        return Path(place).as_posix()


def _tell_best(history: History) -> None:
    if history.best_epoch is not None:
        early = "no improvement: stopped" if history.stopped == "early" else "ended"
        logger.info(
            "%s after epoch %d; the network is that of epoch %d, the best",
            early,
            history[-1].epoch,
            history.best_epoch,
        )
