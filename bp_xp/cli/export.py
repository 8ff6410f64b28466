"""``bp-xp export``: a network as ONNX, as a file of plain NumPy, or as a NumPy archive."""

import io
import json
import os
from pathlib import Path

import click
import numpy as np

from bp_xp import Network, to_numpy
from bp_xp.cli._completion import complete
from bp_xp.cli._data import check_output
from bp_xp.cli._networks import counted
from bp_xp.cli._options import FILE, debug_option
from bp_xp.cli._program import main
from bp_xp.export import export_onnx, export_program
from bp_xp.storage import network_file
from bp_xp.storage.files import check_replaceable, replace_file
from bp_xp.tables import TableModel

__all__ = ["export", "export_npz"]


@main.command()
@click.argument("file", metavar="FILE", shell_complete=complete(files=True))
@click.argument("out", metavar="OUT", type=FILE)
@debug_option
def export(file: str, out: Path) -> None:
    """Write a network for use without this library.

    FILE is a network or a checkpoint that train wrote. The ending of OUT selects the format:

    \b
    .onnx  a graph for ONNX runtimes; needs the extra onnx
    .py    a Python file that predicts, and needs nothing but NumPy
    .npz   the weights and biases as a NumPy archive

    The first two predict as this library does. For a model of a table, they include its
    preparation: they take columns by name, and return class names, or numbers in the units of the
    target. The archive has the arrays W0 (outputs, inputs) and b0 (outputs) of the first layer, W1
    and b1 of the second, and so on; and a text named about, which is JSON with the sizes,
    activations and cost.

    \b
    Examples:
      bp-xp export digits.safetensors digits.onnx
      bp-xp export digits.safetensors digits.py && python digits.py rows.csv
      bp-xp export digits.safetensors digits.npz
    """  # noqa: D301
    write = {".npz": export_npz, ".onnx": export_onnx, ".py": export_program}.get(out.suffix)
    if write is None:
        message = f"{str(out)!r} must end in .npz, .onnx or .py."
        raise click.BadParameter(message, param_hint="'OUT'")
    check_output(out, file, name="the export")
    check_replaceable(out)
    has_table = bool(network_file.read(file).others)
    model = TableModel.load(file) if has_table and write is not export_npz else Network.load(file)
    write(model, out)
    network = model.network if isinstance(model, TableModel) else model
    told = f"{counted(len(network.layers), 'layer')} written to {out}"
    if isinstance(model, TableModel):
        told = f"the preparation of {counted(len(model.preparation.columns), 'column')} and {told}"
    print(told, flush=True)


def export_npz(network: Network, path: str | os.PathLike[str]) -> Path:
    """Write the parameters of a network to a NumPy archive, which loads without pickle.

    Args:
        network: the network, on any device.
        path: the file; an older one of that name is replaced, in a single step.

    Returns:
        The path. The archive has W of layer l (from 0) as ``W<l>``, shape (O, I), b as ``b<l>``,
        shape (O,), and ``about``: a text of shape (), which is JSON with sizes, activations and
        cost.

    Raises:
        OSError: it could not be written; an older file is left as it was.
    """
    arrays = {
        f"{name}{l}": to_numpy(values)
        for l, layer in enumerate(network.layers)  # noqa: E741
        for name, values in layer._asdict().items()
    }
    about = {
        "sizes": network.sizes,
        "activations": [sigma.name for sigma in network.model.activations],
        "cost": network.model.cost.name,
    }
    content = io.BytesIO()
    arrays["about"] = np.array(json.dumps(about))
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType] - it has no option "W0"
    replace_file(Path(path), content.getvalue())
    return Path(path)
