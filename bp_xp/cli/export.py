"""``bp-xp export``: the parameters of a network as a NumPy archive."""

import io
import json
import os
from pathlib import Path

import click
import numpy as np

from bp_xp import Network, to_numpy
from bp_xp.cli._data import check_output
from bp_xp.cli._networks import counted
from bp_xp.cli._options import FILE, debug_option
from bp_xp.cli._program import main
from bp_xp.storage.files import check_replaceable, replace_file

__all__ = ["export", "export_npz"]


@main.command()
@click.argument("file", metavar="FILE")
@click.argument("out", metavar="OUT.npz", type=FILE)
@debug_option
def export(file: str, out: Path) -> None:
    """Write the weights and biases of a network as a NumPy archive.

    FILE is what train wrote, a network or a checkpoint. OUT.npz gets the arrays W0 (outputs,
    inputs) and b0 (outputs) of the first layer, W1 and b1 of the second, and so on; and a text,
    about, which is JSON with the sizes, activations and cost. numpy.load reads it, without this
    library.

    \b
    Examples:
      bp-xp export digits.safetensors digits.npz
    """  # noqa: D301
    if out.suffix != ".npz":
        raise click.BadParameter(f"{str(out)!r} must end in .npz.", param_hint="'OUT.npz'")
    check_output(out, file, name="the archive")
    check_replaceable(out)
    network = Network.load(file)
    export_npz(network, out)
    print(f"{counted(len(network.layers), 'layer')} written to {out}", flush=True)


def export_npz(network: Network, path: str | os.PathLike[str]) -> Path:
    """Write the parameters of a network to a NumPy archive, which needs no pickle to be read.

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
