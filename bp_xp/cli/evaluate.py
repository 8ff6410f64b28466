"""``bp-xp evaluate``: cost and accuracy of a network on test data."""

import json
from pathlib import Path
from typing import Any

import click

from bp_xp import checks
from bp_xp.cli import _tables as tables
from bp_xp.cli._completion import complete
from bp_xp.cli._data import LOADERS, check_inputs
from bp_xp.cli._held_out import open_test_part
from bp_xp.cli._networks import load_model, scored
from bp_xp.cli._options import (
    metric_option,
    shared_options,
    split_options,
    stream_option,
    targets_option,
)
from bp_xp.cli._program import main
from bp_xp.cli._stream import check_stream
from bp_xp.tables import TableModel
from bp_xp.training.arguments import metric_named

__all__ = ["evaluate"]


@main.command()
@click.argument("network", metavar="FILE", shell_complete=complete(files=True))
@shared_options
@targets_option
@stream_option
@split_options
@metric_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def evaluate(
    ctx: click.Context,
    *,
    network: str,
    data: str,
    target: int | str,
    targets: Path | None,
    stream: bool,
    test_fraction: float | None,
    split_last: bool,
    device: str,
    backend: str | None,
    metric: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the cost and the accuracy of a network on test data.

    FILE is a network or a checkpoint that train wrote. The network is evaluated on the part of the
    data that train held out for testing, which the file records. With --stream, rows are read as
    they are needed; other --test-fraction and --split-last than those of train take other rows,
    with a warning. --test-fraction 1 takes all rows.

    A network that was trained on a table takes tables, and is evaluated on all of their rows, in
    the classes and units of the target: R² and the mean absolute error for numbers; accuracy,
    balanced accuracy and F1 for classes.

    \b
    Examples:
      bp-xp evaluate digits.safetensors
      bp-xp evaluate digits.safetensors --metric f1 --metric recall
      bp-xp evaluate large.safetensors --data x.npy --targets y.npy --stream
      bp-xp evaluate houses.safetensors --data new.csv --json
    """  # noqa: D301
    held_out: dict[str, Any] = {"test_fraction": test_fraction, "split_last": split_last}
    takes_all = test_fraction == 1.0 and data not in LOADERS and not tables.is_table(data)
    check_stream(ctx, stream=stream or takes_all, data=data, targets=targets, **held_out)
    if test_fraction is not None:
        checks.check_number(test_fraction, "test_fraction", above=0.0, most=1.0)
    metrics = [metric_named(name) for name in metric]
    model = load_model(network, device, backend)
    if isinstance(model, TableModel):
        tables.refuse_target(ctx, network)
        columns = tables.columns_for(model, network, data)
        values = model.evaluate(columns, metrics=metrics)
        n = len(next(iter(columns.values())))
        tables.warn_of_ranges(model, columns, data)
        text = tables.told(tables.stem(data), "all", n, values)
    else:
        files: dict[str, Any] = {"target": target, "targets": targets, "stream": stream}
        dataset = open_test_part(network, data, **files, **held_out)
        x, y = dataset.x_test, dataset.y_test
        check_inputs(model, network, x, data)
        n, values = len(x), model.evaluate(x, y, metrics=metrics)
        text = scored(dataset.name, "test", n, values)
    if as_json:
        text = json.dumps({"file": network, "data": data, "rows": n, "metrics": values}, indent=2)
    print(text, flush=True)
