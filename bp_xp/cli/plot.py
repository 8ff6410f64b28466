"""``bp-xp plot``: a picture of a network, its training or its errors."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bp_xp import History, Network, checks, plotting
from bp_xp.cli import _tables as tables
from bp_xp.cli._completion import complete
from bp_xp.cli._data import check_inputs
from bp_xp.cli._held_out import open_test_part
from bp_xp.cli._networks import load_model
from bp_xp.cli._options import FILE, SIZES, shared_options
from bp_xp.cli._pictures import check_picture, drawing
from bp_xp.cli._program import main
from bp_xp.storage import network_file
from bp_xp.tables import TableModel
from bp_xp.training.checkpoint import history_of

__all__ = ["plot"]

_DATA = {"data", "target", "device", "backend"}
# The kinds of picture, and the options that each takes.
_KINDS = {
    "curves": set(),
    "weights": {"shape", "units"},
    "confusion": {*_DATA, "class_names"},
    "misclassified": {*_DATA, "class_names", "shape"},
    "regions": {*_DATA, "class_names"},
    "graph": {*_DATA, "sample", "units"},
}


@main.command()
@click.argument("kind", type=click.Choice(list(_KINDS)), metavar="KIND")
@click.argument("file", metavar="FILE", shell_complete=complete(files=True))
@click.option(
    "--output",
    "-o",
    type=FILE,
    metavar="PICTURE",
    help="A .png, .svg or .pdf file, which replaces an older one. Default: <name of "
    "FILE>-<kind>.png, here.",
)
@click.option(
    "--shape",
    type=SIZES,
    metavar="HEIGHT,WIDTH",
    help="Size of the inputs as an image. Default: a square.",
)
@click.option("--units", type=int, help="Largest number of neurons of a layer to show.")
@click.option(
    "--sample", type=int, help="Which sample of the test part, from 0. Default: the first."
)
@click.option("--class-names", metavar="NAME,NAME,...", help="Names of the classes.")
@shared_options
@click.pass_context
def plot(ctx: click.Context, kind: str, file: str, output: Path | None, **options: Any) -> None:
    """Draw a picture of a network, of its training or of its errors.

    FILE is a network or a checkpoint that train wrote. The part of the data that train held out for
    testing is used; of a table, all rows. Needs matplotlib.

    \b
    KIND            shows                                          options
    curves          cost, accuracy and metrics over the epochs;
                    FILE must be a checkpoint
    weights         those into the first layer, as images          --shape --units
    confusion       which class was predicted for which                --class-names
    misclassified   misclassified samples, as images                  --class-names --shape
    regions         what is predicted where, for two inputs        --class-names
    graph           the network, with the activations and errors   --sample --units
                    of one sample

    \b
    Examples:
      bp-xp plot confusion digits.safetensors
      bp-xp plot misclassified digits.safetensors --output mistakes.pdf
      bp-xp plot graph digits.safetensors --sample 3 --units 10
      bp-xp plot curves run.safetensors
    """  # noqa: D301
    _check_options(ctx, kind)
    path = output or Path(f"{Path(file).stem}-{kind}.png")
    check_picture(path, file, *([options["data"]] if "data" in _KINDS[kind] else []))
    _draw(kind, file, path, **options)
    print(f"{kind} drawn to {path}", flush=True)


def _check_options(ctx: click.Context, kind: str) -> None:
    """Refuse options that this kind of picture does not use."""
    known = set().union(*_KINDS.values())
    for option in ctx.command.params:
        given = ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name in known - _KINDS[kind]:
            raise click.UsageError(f"{option.opts[0]} does not apply to {kind}.", ctx)


def _draw(
    kind: str,
    file: str,
    path: Path,
    *,
    data: str,
    target: int | str,
    device: str,
    backend: str | None,
    shape: tuple[int, int] | None,
    units: int | None,
    sample: int | None,
    class_names: str | None,
) -> None:
    """Draw a picture to a file."""
    size: dict[str, Any] = {} if units is None else {"units": units}
    if kind == "curves":
        history = _history(file)
        with drawing(path):
            plotting.training_curves(history)
        return
    if kind == "weights":
        network = Network.load(file)
        with drawing(path):
            plotting.first_layer_weights(network, shape, **size)
        return
    model = load_model(file, device, backend)
    names = None if class_names is None else class_names.split(",")
    if isinstance(model, TableModel):
        network, name, part = model.network, data, "rows"
        x, y = tables.samples_for(model, file, data)
        if names is None and model.preparation.targets.classes:
            names = list(map(str, model.classes_.tolist()))
    else:
        dataset = open_test_part(file, data, target=target)
        network, name, part = model, dataset.name, "test samples"
        x, y = dataset.x_test[:], dataset.y_test[:]  # into memory
        check_inputs(network, file, x, data)
    with drawing(path):
        if kind == "confusion":
            plotting.confusion_matrix(network, x, y, class_names=names)
        elif kind == "misclassified":
            plotting.misclassified(network, x, y, shape, class_names=names)
        elif kind == "regions":
            plotting.decision_regions(network, x, y, class_names=names)
        else:
            row = checks.check_integer(sample or 0, "--sample", least=0)
            if row >= len(x):
                raise ValueError(f"--sample {row}: {name} has {len(x)} {part}, 0 to {len(x) - 1}.")
            plotting.network_graph(network, x[row : row + 1], y[row : row + 1], **size)


_CURVES = "be drawn as curves"


def _history(file: str) -> History:
    """Return the history of the run that a checkpoint holds."""
    run = network_file.read(file, _CURVES).run
    if run is None:
        raise network_file.unfit(
            file,
            _CURVES,
            ValueError(
                "it holds a network without its history: draw the curves of a checkpoint (train "
                "--checkpoint), or when training (train --plot)"
            ),
        )
    try:
        return history_of(run)
    except (KeyError, TypeError, ValueError) as error:
        raise network_file.unfit(file, _CURVES, error) from error
