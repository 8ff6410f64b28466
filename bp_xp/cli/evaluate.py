"""``bp-xp evaluate``: cost and accuracy of a network on test data."""

import json

import click

from bp_xp.cli import _tables as tables
from bp_xp.cli._completion import complete
from bp_xp.cli._data import check_inputs, load_data
from bp_xp.cli._networks import load_model, scored
from bp_xp.cli._options import metric_option, shared_options
from bp_xp.cli._program import main
from bp_xp.tables import TableModel
from bp_xp.training.arguments import metric_named

__all__ = ["evaluate"]


@main.command()
@click.argument("network", metavar="FILE", shell_complete=complete(files=True))
@shared_options
@metric_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def evaluate(
    *,
    network: str,
    data: str,
    target: int | str,
    device: str,
    backend: str | None,
    metric: tuple[str, ...],
    as_json: bool,
) -> None:
    """Tell the cost and the accuracy of a network on test data.

    FILE is what train wrote, a network or a checkpoint. The part of the data that train set apart
    for testing is used.

    A network that was trained on a table takes tables, and is judged by all of their rows, in the
    words and units of the target: R² and the mean absolute error of numbers; accuracy, balanced
    accuracy and F1 of classes.

    \b
    Examples:
      bp-xp evaluate digits.safetensors
      bp-xp evaluate digits.safetensors --metric f1 --metric recall
      bp-xp evaluate houses.safetensors --data new.csv --json
    """  # noqa: D301
    metrics = [metric_named(name) for name in metric]
    model = load_model(network, device, backend)
    if isinstance(model, TableModel):
        columns = tables.columns_for(model, network, data)
        values = model.evaluate(columns, metrics=metrics)
        n = len(next(iter(columns.values())))
        tables.warn_of_ranges(model, columns, data)
        text = tables.told(tables.stem(data), "all", n, values)
    else:
        dataset = load_data(data, target)
        x, y = dataset.x_test, dataset.y_test
        check_inputs(model, network, x, data)
        n, values = len(x), model.evaluate(x, y, metrics=metrics)
        text = scored(dataset.name, "test", n, values)
    if as_json:
        text = json.dumps({"file": network, "data": data, "rows": n, "metrics": values}, indent=2)
    print(text, flush=True)
