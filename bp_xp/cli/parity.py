"""``bp-xp parity``: whether a network takes the same steps on several backends."""

from typing import Any

import click
import numpy as np

from bp_xp import Network, checks
from bp_xp.backends import SUPPORTED_DTYPES
from bp_xp.cli import config
from bp_xp.cli._networks import allow_float64
from bp_xp.cli._options import (
    DROPOUT,
    SIZES,
    activation_option,
    cost_option,
    debug_option,
    optimizer_option,
)
from bp_xp.cli._program import main
from bp_xp.testing.parity import RTOL, assert_parity
from bp_xp.testing.targets import Target, parse_target

__all__ = ["parity"]


def _read_targets(ctx: click.Context, option: click.Parameter, text: str | None) -> Any:
    """Return the targets that a text names; None if there is no text."""
    if text is None:
        return None
    try:
        targets = [parse_target(word) for word in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, option) from None
    if len(targets) < 2:
        raise click.BadParameter(
            f"{text!r} is one target: name two or more, as in numpy,torch.", ctx, option
        )
    return targets


@main.command()
@click.option(
    "--backends",
    callback=_read_targets,
    metavar="NAME,NAME,...",
    help="Backends, or backends with a device, as in numpy,torch,torch-cuda:0; the first is the "
    "reference. Default: all that work here and have the dtype.",
)
@click.option(
    "--sizes",
    type=SIZES,
    default="784,30,10",
    show_default=True,
    metavar="N,N,...",
    help="Neurons of every layer.",
)
@click.option("--steps", default=100, show_default=True, help="Number of steps.")
@click.option(
    "--every",
    default=1,
    show_default=True,
    metavar="STEPS",
    help="Compare each time after this many steps; engines take up to that many at a time.",
)
@click.option(
    "--rtol",
    type=float,
    help="Largest difference that passes, relative to the largest value of a tensor. Default: "
    f"{', '.join(f'{rtol:g} in {dtype}' for dtype, rtol in RTOL.items())}.",
)
@click.option(
    "--dtype",
    default="float64",
    show_default=True,
    metavar="NAME",
    help=f"{' or '.join(SUPPORTED_DTYPES)}, which shows less: training amplifies its rounding.",
)
@activation_option("sigmoid")
@cost_option("quadratic")
@optimizer_option
@click.option(
    "--learning-rate", type=float, help="Default: 0.1 for sgd, otherwise that of the optimizer."
)
@click.option(
    "--dropout",
    type=DROPOUT,
    default="0.0",
    show_default=True,
    metavar="P[,P...]",
    help="Probability of leaving a hidden neuron out of a step.",
)
@click.option("--batch-size", type=int, help="Samples in a mini-batch. Default: 32.")
@click.option(
    "--samples",
    default=250,
    show_default=True,
    help="Number of samples to draw: normal inputs, random classes.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the samples, the weights and the data order.",
)
@debug_option
def parity(
    *,
    backends: list[Target] | None,
    sizes: tuple[int, ...],
    steps: int,
    every: int,
    rtol: float | None,
    optimizer: str,
    learning_rate: float | None,
    samples: int,
    seed: int,
    dtype: str,
    activation: str,
    cost: str,
    **fit_options: Any,
) -> None:
    """Check whether a network takes the same steps on several backends.

    The same network is trained on each, on random samples, and its parameters are compared before
    the first step and after each. A table shows the largest difference from the reference (exit
    status 0). If a difference is too large, the first step and tensor that have it are shown, and
    what the cause can be (exit status 1).

    \b
    Examples:
      bp-xp parity
      bp-xp parity --backends numpy,torch --sizes 784,30,10 --steps 100
      bp-xp parity --backends numpy,torch-cuda:0,cupy --dtype float32 --every 50 --steps 500
    """  # noqa: D301
    allow_float64(dtype)
    make_optimizer = config.parse_optimizer(optimizer)
    if learning_rate is None:
        learning_rate = config.default_rate(optimizer) or 0.1
    n_inputs, *_, n_outputs = checks.check_sizes(sizes)
    generator = np.random.default_rng(checks.check_seed(seed))
    x = generator.standard_normal((checks.check_integer(samples, "samples"), n_inputs))
    y = generator.integers(max(n_outputs, 2), size=samples)
    options = {"activation": activation, "cost": cost, "dtype": dtype, "seed": seed}
    try:
        report = assert_parity(
            lambda **where: Network(sizes, **options, **where),
            x,
            y,
            backends=backends,
            steps=steps,
            every=every,
            rtol=rtol,
            optimizer=make_optimizer(learning_rate),
            **fit_options,
        )
    except AssertionError as error:
        print(error, flush=True)
        raise click.exceptions.Exit(1) from None
    print(report, flush=True)
