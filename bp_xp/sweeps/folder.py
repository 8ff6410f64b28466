"""Finished runs in files, which an interrupted sweep does not repeat."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp.backends import to_numpy
from bp_xp.errors import CheckpointError
from bp_xp.storage.files import replace_file
from bp_xp.sweeps.runs import Problem, Run, SweepRun
from bp_xp.training.checkpoint import described

__all__ = ["KeptRuns"]

_FIELDS = ("stopped", "epoch", "curves", "scores")


class KeptRuns:
    """The runs in a folder: a file for each finished stack, or for each of its rungs.

    A run is recognized by its settings, its seed and the samples, whatever sweep it was made in.

    Args:
        folder: the folder of the files; it is created if it does not exist.
        problem: what the runs learn.

    Raises:
        CheckpointError: a file is damaged.
        OSError: the folder can't be read or created.
    """

    def __init__(self, folder: Path, problem: Problem) -> None:
        self._folder, self._problem = folder, problem
        self._digests: dict[int, str] = {}  # of the problem's arrays, each of which is read once
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: pass a folder for the runs.")
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("runs-*.json")):
            self._known |= _read(path)

    def result_of(self, run: Run) -> SweepRun | None:
        """Return the result of a run, if it was made before."""
        fields = self._known.get(self._key(run))
        return None if fields is None else SweepRun(run.number, run.seed, run.fold, **fields)

    def keep(self, runs: Sequence[Run], results: Iterable[SweepRun]) -> None:
        """Write the results of the runs of a stack."""
        content = {
            self._key(run): {name: getattr(result, name) for name in _FIELDS}
            for run, result in zip(runs, results, strict=True)
        }
        name = hashlib.sha256("".join(sorted(content)).encode()).hexdigest()[:16]
        replace_file(self._folder / f"runs-{name}.json", json.dumps(content).encode())

    def rung_file(self, runs: Sequence[Run], rungs: Sequence[int]) -> Path:
        """Return the file of the networks of a stack that successive halving continues.

        Args:
            runs: the runs of the stack.
            rungs: the numbers of epochs after which settings were compared, including the next one.
        """
        text = json.dumps([[self._key(run) for run in runs], list(rungs)])
        return self._folder / f"rung-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"

    def _key(self, run: Run) -> str:
        samples = [
            self._digests.get(id(one)) or self._digests.setdefault(id(one), _digest(one))
            for one in self._problem.told_by(run)
        ]
        text = json.dumps([described(run.settings._asdict()), run.seed, samples])
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
        for fields in content.values():
            SweepRun(0, 0, None, **fields)
            if set(fields) != set(_FIELDS):
                raise ValueError(f"a run has the fields {sorted(fields)}")
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} can't be read as runs of a sweep: {error}. Remove it, and its runs are made "
            "again."
        ) from error
    return content


def _digest(array: Any) -> str:
    """Return the SHA-256 of an array, with its shape and dtype."""
    host = np.ascontiguousarray(np.asarray(array) if _is_host(array) else to_numpy(array))
    digest = hashlib.sha256(f"{host.shape} {host.dtype}".encode())
    # The bytes of an array of objects are addresses, which differ between processes.
    digest.update(repr(host.tolist()).encode() if host.dtype.hasobject else host.tobytes())
    return digest.hexdigest()


def _is_host(array: Any) -> bool:
    return array is None or isinstance(array, list | tuple | int | float | np.ndarray)
