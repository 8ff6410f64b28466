"""``bp-xp train``: train a network and write it to a file."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from bp_xp.backends import SUPPORTED_DTYPES, place
from bp_xp.cli import _tables as tables
from bp_xp.cli import config
from bp_xp.cli._completion import complete
from bp_xp.cli._defaults import defaults_of
from bp_xp.cli._files import check_files
from bp_xp.cli._networks import allow_float64
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
    split_options,
    stream_option,
    target_option,
    targets_option,
    use_config,
)
from bp_xp.cli._program import Termination, main, stop
from bp_xp.cli._ranks import distributed_option, ranks_of
from bp_xp.cli._run import fit, load, tell_result
from bp_xp.cli._settings import check_numbers, check_together, make_optimizer
from bp_xp.cli._stream import check_stream
from bp_xp.tables.targets import TASKS

__all__ = ["train"]


@main.command(cls=Sections)
@data_option
@target_option
@targets_option
@stream_option
@of_network(
    "--sizes",
    type=SIZES,
    metavar="N,N,...",
    help="Neurons of every layer, inputs and outputs included, as in 64,30,10.",
)
@activation_option("relu")
@cost_option()
@of_network("--dtype", default="float32", metavar="NAME", help=f"{' or '.join(SUPPORTED_DTYPES)}.")
@of_network("--seed", type=int, default=0, help="Seed of the initial weights and data order.")
@of_table(
    "--task",
    type=click.Choice(TASKS),
    help="What to learn. By default, the values of the target decide.",
)
@of_table("--numeric", type=COLUMNS, metavar="A,B...", help="Columns to treat as numbers.")
@of_table("--categorical", type=COLUMNS, metavar="A,B...", help="Columns to treat as categories.")
@of_table("--drop", type=COLUMNS, metavar="A,B...", help="Columns to leave out.")
@of_table(
    "--split-by",
    metavar="COLUMN",
    help="Hold out rows by groups: equal values of this column stay together.",
)
@split_options
@of_table(
    "--importance",
    is_flag=True,
    help="Print how much each column matters on the test part, and draw it next to the output.",
)
@of_run("--epochs", type=int, help="Passes over the data.")
@of_run("--batch-size", type=int, help="Samples in a mini-batch.")
@of_run(
    "--buffer-size",
    type=int,
    metavar="ROWS",
    help="With --stream: the number of rows that are shuffled together; twice as many are in "
    "memory. Default: as many as take 256 MiB.",
)
@of_run("--shuffle/--no-shuffle", default=True, help="Whether each epoch has a new order.")
@distributed_option
@optimizer_option
@of_optimizer(
    "--learning-rate",
    type=float,
    help="η, the length of a step. Default: see above for sgd, 0.001 for adam and adamw, 0.002 "
    "for nadam, 0.01 for adagrad and rmsprop.",
)
@of_optimizer(
    "--momentum",
    type=float,
    help="μ of sgd and rmsprop, from 0 (none) to below 1. Default: 0.9 for sgd, 0 for rmsprop.",
)
@of_optimizer("--nesterov", is_flag=True, help="Nesterov's momentum, for sgd.")
@of_optimizer(
    "--weight-decay", type=float, help="λ of adamw. Default: 0.01. For the others, use --l2."
)
@of_optimizer(
    "--schedule",
    default="constant",
    metavar="FORM",
    shell_complete=complete(config.SCHEDULES),
    help=f"How the learning rate changes: {', '.join(config.SCHEDULES.values())}.",
)
@of_optimizer(
    "--warm-up", type=int, metavar="STEPS", help="Number of steps over which the rate rises first."
)
@of_regularization("--l1", type=float, default=0.0, help="Strength of the L1 term l1 Σ |w|.")
@of_regularization("--l2", type=float, default=0.0, help="Strength of the L2 term (l2/2) Σ w².")
@of_regularization(
    "--dropout",
    type=DROPOUT,
    default="0.0",
    metavar="P[,P...]",
    help="Probability of leaving a hidden neuron out of a step: one for all hidden layers, or one "
    "for each; an additional one in front is that of the inputs.",
)
@of_regularization("--clip-norm", type=float, help="Largest norm of the whole gradient.")
@of_regularization("--clip-value", type=float, help="Largest absolute value of a derivative.")
@of_regularization("--max-norm", type=float, help="Largest norm of the weights into a neuron.")
@of_regularization(
    "--class-weight",
    type=CLASS_WEIGHT,
    metavar="WEIGHTS",
    help="Weights of the classes: balanced, or LABEL:WEIGHT,... as in 0:1,3:2.5 (others 1).",
)
@of_validation(
    "--validation-fraction",
    type=float,
    default=0.0,
    help="Share of the training samples to hold out and evaluate each epoch on.",
)
@metric_option
@of_validation(
    "--early-stopping",
    type=int,
    metavar="EPOCHS",
    help="Stop after this many epochs without an improvement, and keep the best network.",
)
@of_validation(
    "--monitor",
    metavar="VALUE",
    help="What --early-stopping and --schedule plateau watch: cost, accuracy, validation_cost, "
    "validation_accuracy, validation_METRIC. Default: validation_cost.",
)
@device_option
@backend_option
@of_files(
    "--output",
    "-o",
    type=FILE,
    metavar="FILE",
    help="The file for the network; an older one is replaced. Default: <data>.safetensors, here.",
)
@of_files(
    "--checkpoint",
    type=FILE,
    metavar="FILE",
    help="Save the run here, after each epoch and when it is interrupted.",
)
@of_files("--checkpoint-every", type=int, metavar="STEPS", help="Save after this many steps too.")
@of_files("--resume", is_flag=True, help="Resume from the checkpoint, if there is one.")
@of_files(
    "--overwrite",
    is_flag=True,
    help="Replace the checkpoint of another run, or an output that is not a bp_xp network.",
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
    help="Write each epoch to this .csv or .jsonl file, which replaces an older one.",
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

    A table (.csv, .tsv, .parquet) has columns of numbers, text, dates, and empty fields. The
    command prints what it does with each, and --task, --numeric, --categorical and --drop change
    it. Numbers are scaled, text becomes categories, and the target may be text or numbers in any
    unit; the network keeps all of that. A fifth of the rows is held out for testing, always the
    same, and --validation-fraction holds out a share of the others to choose the best epoch.
    Defaults for tables: sizes 128,128 between inputs and outputs, 150 epochs in mini-batches of at
    most 128 rows, adam with a learning rate that falls from 0.006 along a cosine, dropout 0.2, and
    an l2 of 6 / rows, limited to 0.002 to 0.01.

    A .npz file holds x and y, of which a fifth is held out for testing, always the same; or
    x_train, y_train, x_test and y_test. A .npy file has a row for each sample, and the labels in a
    column or in a separate file (--targets). Bytes are treated as images: 0 to 255 become inputs
    from 0 to 1. Whole numbers from 0 up are classes: each has an output, and the cost is
    categorical_cross_entropy. Other numbers are fitted as they are: the cost is quadratic and the
    outputs have no activation; --cost huber is less sensitive to outliers, and fits whole numbers
    too. It is best to scale large inputs to about 1 beforehand.

    With --stream, the samples stay in their file and need not fit in memory. Blocks of rows are
    read in a new order each epoch, and shuffled in a buffer. Blocks of rows for testing and for
    --validation-fraction are drawn from the whole file, always the same (of 1,000 blocks, so that
    neighboring rows stay together); --split-last takes the last rows. A .npz or .h5 file, or a
    folder of .npy files, may have its own parts: x_train, y_train, x_test and so on.

    The learning rate is constant unless --schedule changes it. step multiplies it by FACTOR after
    every STEPS steps; exponential does so gradually; cosine lowers it to FINAL (0) over STEPS steps
    (those of the run); restarts does so repeatedly, each time over FACTOR (1) times as many steps;
    onecycle raises it from 1/25 of --learning-rate to --learning-rate over a SHARE (0.3) of STEPS
    steps (those of the run), and then lowers it almost to 0; inverse divides it by (steps + 1) to
    the POWER (0.5); and plateau multiplies it by FACTOR (0.5) after EPOCHS (10) without an
    improvement. An epoch has samples / batch size steps, rounded up.

    A file for --config has a key for each option, as in batch-size = 32. Options given here take
    precedence, and --optimizer drops the file's momentum, nesterov and weight-decay. Paths in the
    file are relative to its folder. The settings of each run, except --resume and --overwrite, are
    written next to its network, as NAME.toml for NAME.safetensors; that file, given to --config,
    repeats the run.

    Ctrl-C or SIGTERM ends the run after the step in progress, and the network is still written
    (exit status 130, 143); a second one ends it immediately. With --checkpoint, the same command
    with --resume then resumes as if nothing had happened.

    \b
    Examples:
      bp-xp train --epochs 5 --seed 1
      bp-xp train --data mnist --sizes 784,512,512,10 --device cuda
      bp-xp train --activation sigmoid --cost quadratic --learning-rate 0.5 --sizes 64,30,10
      bp-xp train --data houses.csv --target price --output houses.safetensors
      bp-xp train --data visits.csv --target ill --drop name --split-by patient --importance
      bp-xp train --optimizer adam --schedule cosine --warm-up 100 --dropout 0.2
      bp-xp train --validation-fraction 0.1 --early-stopping 5 --metric f1 --plot curves.png
      bp-xp train --data x.npy --targets y.npy --stream --epochs 3
      bp-xp train --epochs 500 --checkpoint run.safetensors --resume
      bp-xp train --config digits.toml --seed 2 --output second.safetensors
    """  # noqa: D301
    given = SimpleNamespace(**options, is_table=tables.is_table(options["data"]))
    if given.is_table:
        tables.use_defaults(ctx, given)
    else:
        held_out = ("test_fraction", "split_last") if given.stream else ()
        tables.check_options(ctx, given.data, allowed=held_out)
    files: dict[str, Any] = {"data": given.data, "targets": given.targets}
    check_stream(ctx, stream=given.stream, **files, buffer_size=given.buffer_size)
    check_together(ctx, given)
    given.path = given.output or Path(f"{tables.stem(given.data)}.safetensors")
    given.settings_path = check_files(given, given.path)
    defaults = defaults_of(given.data, is_table=given.is_table)
    # What can be checked without the data is checked before it is loaded.
    check_numbers(given, defaults)
    optimizer = make_optimizer(given, defaults)
    optimizer(1 + (given.warm_up or 0))
    allow_float64(given.dtype)
    given.ranks = ranks_of(given, place(given.device, given.backend))
    with Termination() as termination:
        network, dataset = given.ranks.together(lambda: load(given, defaults))
        history = fit(given, network, dataset, optimizer, termination)
        number = max(given.ranks.gather(termination.number))  # SIGTERM, if one of them got it
    if given.ranks.rank:
        return
    if history.stopped == "interrupt" or termination.asked():
        epoch = history.best_epoch
        which = "the last complete step" if epoch is None else f"epoch {epoch}, the best,"
        go_on = "" if given.checkpoint is None else "; the same command with --resume resumes it"
        stop(f"interrupted: the network of {which} is in {given.path}{go_on}", number)
    tell_result(given, network, dataset, history)
