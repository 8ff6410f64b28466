"""Checkpoints of a stack's run: everything that its members need to resume exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bp_xp._typing import Layer
from bp_xp.sources import MemorySource
from bp_xp.sources.stack import StackSource, digest_of_rows
from bp_xp.storage import ensemble_file, network_file
from bp_xp.storage.ensemble_file import EnsembleFile, EnsembleSection, StackSection
from bp_xp.storage.files import keep_previous
from bp_xp.storage.network_file import Section
from bp_xp.training import checkpoint
from bp_xp.training.arguments import Settings
from bp_xp.training.callbacks import EarlyStopping
from bp_xp.training.checkpoint import SavedRun, describe_settings, pack, unpack
from bp_xp.training.divergence import not_finite
from bp_xp.training.fitting import check_same_network, go_on_counting
from bp_xp.training.history import EpochRecord
from bp_xp.training.stack import StackRun
from bp_xp.training.stack_data import StackData
from bp_xp.training.trainer import KeepCheckpoint, Run

__all__ = ["KeepStack", "describe_stack", "resume", "write"]


class KeepStack(KeepCheckpoint):
    """Writes the checkpoint of a stack's run; see :class:`KeepCheckpoint`."""

    def on_steps(self, run: Run) -> None:
        """Write if it is time and no member has diverged (it will leave after the epoch)."""
        if self.is_due(run) and not not_finite(run.position.state, None, placement=run.placement):
            self._keep(run)


def describe_stack(
    settings: Sequence[Settings],
    stopping: Sequence[EarlyStopping | None],
    run: StackRun,
    data: StackData,
) -> dict[str, Any]:
    """Return what must be the same for a run to resume, as :func:`describe_settings` does.

    A setting that differs between members is a list with one value for each.
    """
    validation = None
    if data.validation is not None:
        validation = MemorySource(data.validation, run.placement)
    common = describe_settings(settings[0], None, run.source, validation)
    each = [
        checkpoint.describe_training(one, stops)
        for one, stops in zip(settings, stopping, strict=True)
    ]
    own = {
        name: each[0][name]
        if all(one[name] == each[0][name] for one in each)
        else [one[name] for one in each]
        for name in each[0]
    }
    if data.held_out is not None:
        common["validation data"] = digest_of_rows(data.held_out)
    return common | own | {"shared_order": cast(StackSource, run.source).shared_order}


def write(
    ensemble: Any,
    path: Path,
    run: StackRun,
    *,
    described: Mapping[str, Any],
    begun: Any,
    others: Mapping[str, Section],
) -> None:
    """Write the checkpoint of a run, and keep the previous one."""
    section = pack(run.position, run.history, run.best, described, begun=begun, report=run.report)
    members = [
        {
            "history": checkpoint.records_of(own),
            "stopped": own.stopped,
            "best_epoch": own.best_epoch,
            "steps": own.steps,
        }
        for own in run.history.members
    ]
    stack = StackSection(**vars(section), rows=list(run.rows), members=members)
    keep_previous(path)
    ensemble_file.write(path, EnsembleFile(ensemble.describe(), stack, others))


def resume(ensemble: Any, run: StackRun, saved: SavedRun, described: Mapping[str, Any]) -> None:
    """Put a run at the position of a saved one, and give the ensemble its parameters and seeds.

    Raises:
        CheckpointError: the run belongs to another ensemble, or has other settings.
    """
    check_same_network(saved, ensemble)
    theirs, stack = cast(EnsembleSection, saved.network), cast(StackSection, saved.run)
    if len(theirs.seeds) != len(ensemble):
        raise network_file.unfit(
            saved.path,
            "be resumed",
            ValueError(f"it has {len(theirs.seeds)} members, and this ensemble {len(ensemble)}"),
        )
    rows = list(stack.rows)
    if len(rows) < len(ensemble):
        run.keep(rows)
        run.take_assigned()
    in_stack = [Layer(W[rows], b[rows]) for W, b in theirs.layers]
    run.position, history, run.best = unpack(
        saved._replace(network=replace(theirs, layers=in_stack)),
        described,
        run.position.state,
        ensemble._layers,
        placement=run.placement,
    )
    run.history.records[:], run.history.steps = history.records, history.steps
    for own, kept in zip(run.history.members, stack.members, strict=True):
        own.records[:] = [EpochRecord(**record) for record in kept["history"]]
        own.stopped, own.best_epoch, own.steps = (
            kept[name] for name in ("stopped", "best_epoch", "steps")
        )
    ensemble.layers = theirs.layers
    run.show_all(ensemble._layers)
    run.last = run.layers
    go_on_counting(run, saved)
    ensemble._go_on_as(theirs)
