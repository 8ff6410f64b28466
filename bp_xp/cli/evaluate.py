"""``bp-xp evaluate``: cost and accuracy of a network on test data."""

import click

from bp_xp.cli._data import check_inputs, load_data
from bp_xp.cli._networks import load_network, score
from bp_xp.cli._options import metric_option, shared_options
from bp_xp.cli._program import main
from bp_xp.training.arguments import metric_named

__all__ = ["evaluate"]


@main.command()
@click.argument("network", metavar="FILE")
@shared_options
@metric_option
def evaluate(
    *,
    network: str,
    data: str,
    target: int | str,
    device: str,
    backend: str | None,
    metric: tuple[str, ...],
) -> None:
    """Tell the cost and the accuracy of a network on test data.

    FILE is what train wrote, a network or a checkpoint. The part of the data that train set apart
    for testing is used.

    \b
    Examples:
      bp-xp evaluate digits.safetensors
      bp-xp evaluate flowers.safetensors --data flowers.csv --metric f1 --metric recall
    """  # noqa: D301
    metrics = [metric_named(name) for name in metric]
    net = load_network(network, device, backend)
    dataset = load_data(data, target)
    check_inputs(net, network, dataset.x_test, data)
    print(
        score(net, dataset.name, "test", dataset.x_test, dataset.y_test, metrics=metrics),
        flush=True,
    )
