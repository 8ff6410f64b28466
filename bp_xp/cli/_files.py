"""The files of a run of ``bp-xp train``: what may be written, and what would be lost."""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from bp_xp import Checkpoint, CheckpointError
from bp_xp.cli import config
from bp_xp.cli._data import check_output
from bp_xp.cli._held_out import check_resumed
from bp_xp.cli._logs import check_log
from bp_xp.cli._pictures import check_picture, has_matplotlib
from bp_xp.cli._program import logger
from bp_xp.storage import network_file
from bp_xp.storage.files import check_replaceable, previous_of
from bp_xp.training.checkpoint import read_saved

__all__ = ["as_checkpoint", "check_files"]


def check_files(given: SimpleNamespace, path: Path) -> Path:
    """Refuse files that can't be written or would be lost; return the path of the settings."""
    inputs = [given.data, *(one for one in (given.targets, given.config) if one is not None)]
    check_output(path, *inputs)
    check_replaceable(path)
    if path.exists() and not given.overwrite:
        _check_is_network(path)
    settings_path = path.with_suffix(".toml")
    if path == settings_path:
        raise ValueError(
            f"--output {path} is the name of the settings file: give the network a name that ends "
            "in .safetensors."
        )
    config.check_settings_file(settings_path)
    results = [path, settings_path]
    if given.checkpoint is not None:
        check_output(given.checkpoint, *inputs, name="--checkpoint")
        _check_apart("--checkpoint", given.checkpoint, results)
        check_replaceable(given.checkpoint)
        if given.checkpoint.exists() and not (given.resume or given.overwrite):
            raise FileExistsError(
                errno.EEXIST,
                "a run would be lost: pass --resume to resume it, --overwrite to start a new one, "
                "or name another --checkpoint",
                str(given.checkpoint),
            )
        results += [given.checkpoint, previous_of(given.checkpoint)]
    if given.plot is not None:
        check_picture(given.plot, *inputs, name="--plot")
        _check_apart("--plot", given.plot, results)
        results.append(given.plot)
    if given.log is not None:
        check_log(given.log, *inputs)
        _check_apart("--log", given.log, results)
        results.append(given.log)
    given.chart = None
    if given.importance and has_matplotlib():
        given.chart = path.with_name(f"{path.stem}-importance.png")
        check_picture(given.chart, *inputs, name="the chart")
        _check_apart("the chart", given.chart, results)
    for file in (path, given.checkpoint):
        if file is not None:
            network_file.check_suffix(file)
    return settings_path


def _check_is_network(path: Path) -> None:
    """Refuse to replace a file that this command did not write."""
    try:
        kind = network_file.read(path).kind
    except CheckpointError:
        kind = "file that is not a network of bp-xp"
    if kind != "network":
        raise FileExistsError(
            errno.EEXIST,
            f"a {kind} would be lost: name another --output, or pass --overwrite",
            str(path),
        )


def _check_apart(name: str, path: Path, results: Sequence[Path]) -> None:
    """Refuse a file that the run uses for another result."""
    if _identity(path) in map(_identity, results):
        raise ValueError(f"{name} {path} is a result of the run already: name another file.")


def _identity(path: Path) -> str:
    """Return a text that is the same for all paths of one file, even if it does not exist."""
    return os.path.normcase(os.path.realpath(path))


def as_checkpoint(
    given: SimpleNamespace, sections: Mapping[str, network_file.Section]
) -> Checkpoint | None:
    """Return the checkpoint of the run with its sections, and log what the run resumes from."""
    if given.checkpoint is None:
        return None
    kept = Checkpoint(
        given.checkpoint,
        given.checkpoint_every,
        given.resume,
        overwrite=given.overwrite,
        sections=sections,
    )
    saved = read_saved(kept)
    if saved is None:
        return kept
    seed = saved.network.seed
    if seed != given.seed:
        raise CheckpointError(f"{saved.path} is of a run with --seed {seed}, not {given.seed}.")
    check_resumed(saved.path, sections)
    logger.info("resuming from %s", saved.path)
    return replace(kept, resume=saved.path)
