"""``bp-xp predict``: the label of each sample."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from bp_xp import Network, to_numpy
from bp_xp.cli import _tables as tables
from bp_xp.cli._completion import complete
from bp_xp.cli._data import check_inputs, check_output, load_inputs
from bp_xp.cli._networks import load_model
from bp_xp.cli._options import shared_options, stream_option
from bp_xp.cli._program import Termination, main
from bp_xp.cli._stream import check_stream, open_rows
from bp_xp.storage.files import check_replaceable, replace_file
from bp_xp.tables import TableModel

__all__ = ["predict"]

_LINES_AT_ONCE = 1 << 16


@main.command()
@click.argument("network", metavar="FILE", shell_complete=complete(files=True))
@shared_options
@stream_option
@click.option(
    "--proba",
    is_flag=True,
    help="Write the probability of each class, separated by commas; for a table, after the class.",
)
@click.option(
    "--output",
    "-o",
    default="-",
    show_default=True,
    metavar="FILE",
    help="- is stdout. A .npy file holds the labels, outputs or probabilities as an array.",
)
@click.pass_context
def predict(
    ctx: click.Context,
    *,
    network: str,
    data: str,
    target: int | str,
    stream: bool,
    device: str,
    backend: str | None,
    proba: bool,
    output: str,
) -> None:
    """Write the label of each sample, one per line.

    FILE is a network or a checkpoint that train wrote. Of digits and mnist, the test part is used;
    of a .npz file, the member x or x_test; and of a table (.csv, .npy), every row, with or without
    a column of labels. A network that predicts numbers instead of classes writes its outputs,
    separated by commas.

    With --stream, rows are read as they are needed, and the predictions are written to the .npy
    file of --output block by block; the file appears once it is complete. Predictions from a table
    are written as CSV.

    A network that was trained on a table takes tables, and finds their columns by name: their order
    does not matter, and other columns are ignored. The output is a CSV table: a header, and a line
    for each row, in order. The first column is the target; --proba adds a column for each class,
    under its name.

    \b
    Examples:
      bp-xp predict digits.safetensors | head
      bp-xp predict houses.safetensors --data new.csv --output prices.csv
      bp-xp predict large.safetensors --data x.npy --stream --output labels.npy
      bp-xp predict flowers.safetensors --data new.csv --proba --output flowers.csv
    """  # noqa: D301
    check_stream(ctx, stream=stream, data=data)
    to_array = output.lower().endswith(".npy")
    if stream and not to_array and not tables.is_table(data):
        raise click.UsageError("--stream writes a .npy file: name one with --output.", ctx)
    if output != "-":
        check_output(Path(output), network, data)
        check_replaceable(Path(output))
    model = load_model(network, device, backend)
    net = model if isinstance(model, Network) else model.network
    if proba and not net.classifies:
        raise ValueError(f"--proba is for classes, and the outputs of {network} are numbers.")
    if to_array and not isinstance(model, Network):
        raise ValueError(
            f"--output {output}: {network} predicts a table, in CSV: name a .csv file."
        )
    if isinstance(model, TableModel):
        tables.refuse_target(ctx, network)
        columns = tables.columns_for(model, network, data, with_target=False)
        rows = tables.predictions(model, columns, proba=proba)
        tables.warn_of_ranges(model, columns, data)
    else:
        x = (open_rows if stream else load_inputs)(data, target, net.sizes[0])
        check_inputs(net, network, x, data)
        predict_from = net.predict_proba if proba else net.predict
        if to_array:
            with Termination():
                predict_from(x, out=output)
            return
        values = to_numpy(predict_from(x))
        rows = values.reshape(len(values), -1)
    if output == "-":
        for part in _texts(rows):
            print(part, end="", flush=True)
    else:
        replace_file(Path(output), (part.encode() for part in _texts(rows)))


def _texts(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a CSV file, many at a time."""
    lines = iter(rows)
    while some := list(itertools.islice(lines, _LINES_AT_ONCE)):
        text = io.StringIO()
        # str of a NumPy number is the shortest text that reads back as the same number.
        csv.writer(text, lineterminator="\n").writerows([map(str, row) for row in some])
        yield text.getvalue()
