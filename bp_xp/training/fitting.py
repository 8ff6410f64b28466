"""Fitting: turn the arguments of ``fit`` into a run that the trainer drives."""

import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._caller import advice, named
from bp_xp.architecture import check_same_functions
from bp_xp.backends import Placement
from bp_xp.math.initializers import restore_generator
from bp_xp.math.metrics import METRICS, Metric
from bp_xp.optim.schedules import LinearWarmUp, ReduceOnPlateau
from bp_xp.ranks import Digest, Ranks, Word, find_ranks, over_devices
from bp_xp.sources import MemorySource, Samples, Source, intake, make_source, validation_source
from bp_xp.sources.batches import BatchesSource
from bp_xp.sources.making import AnySource
from bp_xp.sources.samples import hold_out
from bp_xp.storage import network_file
from bp_xp.storage.files import keep_previous
from bp_xp.storage.network_file import NetworkFile, Section
from bp_xp.training import arguments, checkpoint, evaluation
from bp_xp.training.agreement import (
    START,
    advice_on_samples,
    begin_alike,
    check_samples_alike,
    check_settings_alike,
)
from bp_xp.training.arguments import Settings
from bp_xp.training.callbacks import Callback, EarlyStopping
from bp_xp.training.checkpoint import Checkpoint, SavedRun
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.looks import Position, copied, start
from bp_xp.training.trainer import (
    EarlyStop,
    KeepCheckpoint,
    Observer,
    Recorder,
    Run,
    TellCallbacks,
    train,
)

__all__ = [
    "WarmStart",
    "check_measured",
    "check_metrics",
    "check_monitored",
    "check_same_network",
    "fit",
    "go_on",
    "go_on_counting",
]

logger = logging.getLogger("bp_xp")


class WarmStart(NamedTuple):
    """The state that a call with ``warm_start`` keeps for the next one.

    Attributes:
        settings: the settings of its run.
        position: the position at its end.
    """

    settings: Settings
    position: Position

    def check(self, settings: Settings) -> None:
        """Refuse settings that do not fit the state."""
        ours = self.settings
        if settings.optimizer != ours.optimizer:
            raise ValueError(
                f"warm_start continues with the optimizer of the last call, {ours.optimizer!r}, "
                f"not {settings.optimizer!r}: pass the same one in each call (partial_fit is such "
                "a call), or start again with a fit without warm_start."
            )
        if settings.trainable != ours.trainable:
            raise ValueError(
                "warm_start continues with the layers that learned in the last call, trainable="
                f"{list(ours.trainable) or None}, not {list(settings.trainable) or None}."
            )
        dropout, before = settings.regularization.dropout, ours.regularization.dropout
        if dropout != before or (dropout and settings.batch_size != ours.batch_size):
            raise ValueError(
                f"warm_start continues with the dropout {before or 0.0} and batch_size "
                f"{ours.batch_size} of the last call (partial_fit is such a call), not "
                f"{dropout or 0.0} and {settings.batch_size}."
            )


def fit(
    network: Any,
    x: Any,
    y: Any,
    *,
    checkpoint_argument: Any,
    distributed: Any,
    warm_start: Any,
    **given: Any,
) -> History:
    """Train a network; the arguments are those of :meth:`bp_xp.Network.fit`.

    If several processes share the run, each prepares it, and an error on one of them ends the run
    on all.
    """
    ranks = find_ranks(distributed, network.placement)
    with contextlib.ExitStack() as entered:
        kept, saved = ranks.first(functools.partial(_open, checkpoint_argument, entered))
        entered.enter_context(
            network.placement.active(
                advice("Use a smaller {}; no step was left incomplete.", "batch_size")
            )
        )
        begin_alike(network, ranks)
        given |= {"saved": saved, "ranks": ranks, "warm_start": warm_start}
        parts = ranks.together(functools.partial(_look_through, network, (x, y), **given))
        described = _describe(network, parts, ranks) if kept or ranks.are_several else {}
        placement = over_devices(distributed, network.placement)
        where: dict[str, Any] = {"ranks": ranks, "placement": placement}
        prepare = functools.partial(_prepare, network, parts, described, kept, saved, **where)
        run, observers = ranks.together(prepare)
        if ranks.are_several:
            others = {"epochs": run.settings.epochs, "step": run.position.step}
            looks = {"looks": [one.looks_at() for one in observers]}
            settings = {key: one for key, one in described.items() if key not in checkpoint.DATA}
            check_settings_alike(settings | others | looks, network, ranks)
            digests = {key: described[key] for key in checkpoint.DATA}
            sources = dict(zip(digests, (parts.source, parts.validation), strict=True))
            check_samples_alike(digests, sources, ranks, shards=True)
        network._report = run.report
        history = train(run, observers)
        if warm_start:
            # The totals of the past do not matter for the next call.
            network._warm = WarmStart(replace(run.settings, metrics=()), run.position)
    return history


class _Parts(NamedTuple):
    """The checked parts of a run.

    Attributes:
        settings: its settings.
        told: its callbacks.
        stopping: its early stopping, if any.
        source: the source of its samples.
        validation: the source of its validation data, if any.
        warm: the end of the previous run, if this one continues from there.
        begun: the state of the network's generator at the start of the run.
    """

    settings: Settings
    told: Sequence[Callback]
    stopping: EarlyStopping | None
    source: AnySource
    validation: AnySource | None
    warm: WarmStart | None
    begun: Any


def _open(argument: Any, entered: contextlib.ExitStack) -> tuple[Checkpoint | None, Any]:
    """Return the checkpoint of a run, locked against other runs, and the run to resume, if any."""
    kept = checkpoint.as_checkpoint(argument)
    entered.enter_context(checkpoint.owned(kept))
    return kept, checkpoint.read_saved(kept)


def _look_through(
    network: Any,
    data: tuple[Any, Any],
    *,
    saved: SavedRun | None,
    ranks: Ranks,
    sample_weight: Any,
    class_weight: Any,
    epochs: Any,
    batch_size: Any,
    shuffle: Any,
    optimizer: Any,
    regularization: Any,
    trainable: Any,
    validation_data: Any,
    metrics: Any,
    early_stopping: Any,
    callbacks: Any,
    warm_start: Any,
    progress: Any,
    terms: dict[str, Any],
) -> _Parts:
    """Return the parts of a run, each checked."""
    hidden = len(network.sizes) - 2
    for name, switch in (("shuffle", shuffle), ("progress", progress), ("warm_start", warm_start)):
        arguments.check_switch(switch, name)
    told, stopping = arguments.as_callbacks(callbacks, early_stopping)
    make_settings = functools.partial(
        Settings,
        optimizer=arguments.as_optimizer(optimizer),
        epochs=checks.check_integer(epochs, "epochs"),
        regularization=arguments.as_regularization(regularization, terms, hidden),
        trainable=arguments.as_trainable(trainable, hidden + 1),
        metrics=arguments.as_metrics(metrics),
        shuffle=shuffle,
        progress=progress and ranks.rank == 0,
    )
    if saved and warm_start:
        raise ValueError("pass Checkpoint(resume=...) or warm_start, not both.")
    begun = saved.run.begun if saved else network._generator.bit_generator.state
    source, validation = _sources(
        network,
        (*data, sample_weight),
        validation_data,
        # A resumed run holds out the same samples as at its start.
        generator=restore_generator(begun) if saved else network._generator,
        class_weight=class_weight,
        shuffle=shuffle,
    )
    settings = make_settings(
        batch_size=_batch_size(batch_size, source, ranks),
        buffer_size=getattr(source, "buffer_rows", None),
    )
    check_measured(network, settings.metrics, source, validation)
    check_monitored(settings, stopping, source, validation)
    warm = network._warm if warm_start else None
    if warm:
        warm.check(settings)
    return _Parts(settings, told, stopping, source, validation, warm, begun)


def _describe(network: Any, parts: _Parts, ranks: Ranks) -> dict[str, Any]:
    """Return what must be the same for a run to resume, and on every process.

    It covers all samples: the common ones, or the shards of all processes.

    Raises:
        RuntimeError: the processes differ in the number or the kind of their samples.
    """
    given = {"validation_data": None if parts.validation is None else Word("given")}
    check_settings_alike(given, network, ranks)
    for source, of in ((parts.source, ""), (parts.validation, " of validation_data")):
        if source is not None:
            ranks.check_alike(
                _form_of(source, of), when=START, advice=advice_on_samples(shards=True)
            )
    described = ranks.together(
        lambda: checkpoint.describe_settings(
            parts.settings, parts.stopping, parts.source, parts.validation
        )
    )
    # One shard may fit in its buffer while another does not.
    sources = (parts.source, parts.validation)
    own = dict(zip(checkpoint.DATA, sources, strict=True)) | {"buffer_size": parts.source}
    for name, source in own.items():
        if source is not None and source.sharded and ranks.are_several:
            described[name] = ranks.gather(described[name])
    return described


def _form_of(source: AnySource, of: str) -> dict[str, Any]:
    """Return the properties of samples that must be the same on all processes, in words.

    They are compared before the digests, since a number of rows is more informative.
    """
    form: dict[str, Any] = {
        f"sharded{of}": source.sharded,
        f"the kind of targets{of}": Word("classes" if source.has_classes else "numbers"),
        f"the weight of each sample{of}": Word("given") if source.weighted else None,
    }
    if not source.sharded:
        form[f"the number of rows{of}"] = source.n_rows
        if isinstance(source, BatchesSource):
            form[f"the number of rows of the first batch{of}"] = source.first.x.shape[0]
            each = zip(("x", "y", "weights"), source.fingerprint_of_each(), strict=False)
            form |= {f"{one} of the first batch{of}": Digest(digest) for one, digest in each}
    return form


def _prepare(
    network: Any,
    parts: _Parts,
    described: Mapping[str, Any],
    kept: Checkpoint | None,
    saved: SavedRun | None,
    **where: Any,
) -> tuple[Run, list[Observer]]:
    """Return a run at its start, or where it resumes, and its observers."""
    settings, told, stopping, source, validation, warm, begun = parts
    network._warm = None  # a run that fails leaves nothing to continue from
    run = _make_run(network, settings, source, validation, **where)
    if warm:
        run.position = go_on(run.position, warm.position)
    observers = [Recorder(), *([EarlyStop(stopping)] if stopping else []), TellCallbacks(told)]
    if saved:
        _resume(network, run, saved, described)
    if kept:
        more = {"described": described, "begun": begun, "others": kept.sections}
        own = run.ranks.rank == 0
        write = functools.partial(_write, network, **more) if own else _write_nothing
        observers.append(KeepCheckpoint(Path(kept.path), kept.every, write))
    return run, observers


def _sources(
    network: Any,
    data: Sequence[Any],
    validation_data: Any,
    *,
    generator: np.random.Generator,
    **options: Any,
) -> tuple[AnySource, AnySource | None]:
    """Return the sources of samples and validation data; the generator draws held-out samples."""
    where: dict[str, Any] = {"placement": network.placement, "dtype": network.dtype}
    source = make_source(network.model, *data, **where, **options)
    if validation_data is None:
        return source, None
    if not isinstance(validation_data, int | float):
        return source, validation_source(network.model, validation_data, **where)
    if not isinstance(source, MemorySource) or source.sharded:
        how = "each process has a shard" if source.sharded else "these are read when needed"
        raise ValueError(
            f"{named('validation_data', validation_data)} can only hold out samples in memory, "
            f"and {how}: pass separate validation data, as (x, y) or in batches."
        )
    first, second = hold_out(
        source.samples, validation_data, generator, placement=network.placement
    )
    return replace(source, samples=first), MemorySource(second, network.placement)


def _batch_size(batch_size: Any, source: AnySource, ranks: Ranks) -> int:
    """Return the batch size; for samples in batches, the default is the size of the first one.

    With shards, a mini-batch is the rows that all processes contribute, and their total number is
    unknown.

    Raises:
        ValueError: it is not positive, or there is not a row of a shard for each process.
    """
    n = ranks.size if source.sharded else 1
    if not isinstance(source, BatchesSource):
        size = checks.check_batch_size(batch_size, source.n_rows * n)
    elif batch_size is None:
        size = source.first.x.shape[0] * n
    else:
        size = checks.check_integer(batch_size, "batch_size")
    if size < n:
        raise ValueError(
            f"{named('batch_size', size)} is smaller than the {n} ranks: with shards, each needs "
            "at least one row of every mini-batch."
        )
    return size


def check_measured(
    network: Any, metrics: Any, source: AnySource, validation: AnySource | None
) -> None:
    """Refuse metrics that cannot be measured; warn of targets that cannot be reached."""
    if metrics and validation is None:
        raise ValueError(
            "metrics are measured on validation data: pass validation_data, as (x, y) or as the "
            "share of the samples to hold out."
        )
    if validation is not None:
        check_metrics(metrics, validation)
        _check_numbers(network, metrics, validation)
    if network.classifies:
        output = network.model.activations[-1].name
        intake.warn_of_unreachable(source.some_targets, "y", output, placement=network.placement)


def _check_numbers(network: Any, metrics: Sequence[Metric], validation: Source) -> None:
    """Refuse a custom metric that does not return a number, before the first step."""
    own = [metric for metric in metrics if METRICS.get(metric.name) is not metric]
    if not own:
        return
    blocks: Any = validation.blocks(evaluation.ROWS_AT_ONCE)
    with contextlib.closing(blocks):
        some = next(blocks)
    few = MemorySource(
        Samples(some[0], some[1], validation.has_classes, *some[2:]), network.placement
    )
    with np.errstate(all="ignore"):  # the network has not learned anything
        values = evaluation.measure(
            network.model, network._layers, few, own, placement=network.placement
        )
    for name, value in values.items():
        if not isinstance(value, float):
            raise ValueError(
                f"the metric {name!r} is an array of shape {value.shape}, but a run records "
                "numbers: compute it after the run, as in evaluate(x, y, metrics=...)."
            )


def check_monitored(
    settings: Settings,
    stopping: EarlyStopping | None,
    source: Source,
    validation: Source | None,
) -> None:
    """Refuse to monitor a value that the run does not record, before the first step."""
    validated = validation is not None
    record = EpochRecord(
        epoch=1,
        cost=1.0,
        accuracy=0.0 if source.has_classes else None,
        validation_cost=1.0 if validated else None,
        validation_accuracy=0.0 if validated and validation.has_classes else None,
        seconds=1.0,
        samples_per_second=1.0,
        metrics={f"validation_{metric.name}": 0.0 for metric in settings.metrics},
    )
    after_one_epoch = History([record])
    if stopping is not None:
        stopping.best_epoch(after_one_epoch)
    rate = getattr(settings.optimizer, "learning_rate", None)
    for schedule in rate if isinstance(rate, list | tuple) else [rate]:
        if isinstance(schedule, ReduceOnPlateau | LinearWarmUp):
            try:
                schedule.scale(after_one_epoch)
            except KeyError as error:
                raise ValueError(f"ReduceOnPlateau monitors {error.args[0]}.") from None


def check_metrics(metrics: Sequence[Metric], samples: Samples | Source) -> None:
    """Refuse metrics of classes if the targets are not; warn if a metric ignores the weights.

    Raises:
        ValueError: a metric needs classes.
    """
    for metric in metrics:
        if samples.weighted and not metric.takes_weights:
            checks.warn(
                f"the metric {metric.name!r} takes no sample weights, and counts all samples "
                "equally: give its function an argument weights, as in f(a, y, *, weights, xp)."
            )
        if metric.needs_classes and not samples.has_classes:
            raise ValueError(
                f"the metric {metric.name!r} needs targets that are one class each, and outputs "
                "that are probabilities."
            )


def _shared(source: Any, ranks: Ranks) -> Any:
    """Return the share of a source that a process takes, if there is a source."""
    return source.share(ranks.rank, ranks.size) if source and ranks.are_several else source


def _make_run(
    network: Any,
    settings: Settings,
    source: Source,
    validation: Source | None,
    *,
    ranks: Ranks,
    placement: Placement,
) -> Run:
    """Return a run before its first step."""
    if isinstance(source, MemorySource):  # it is gathered on the devices that take the steps
        source = replace(source, placement=placement)
    position = start(
        network.model,
        network._layers,
        settings,
        placement=placement,
        dtype=network.dtype,
        generator=network._generator,
    )
    return Run(
        network=network,
        model=network.model,
        source=_shared(source, ranks),
        validation=_shared(validation, ranks),
        settings=settings,
        position=position,
        placement=placement,
        dtype=network.dtype,
        generator=network._generator,
        ranks=ranks,
    )


def go_on(fresh: Position, ended: Position) -> Position:
    """Return a position with the optimizer, masks and step count of an earlier run's end."""
    state = fresh.state._replace(optimizer=ended.state.optimizer, masks=ended.state.masks)
    return fresh._replace(state=state, step=ended.step)


def _resume(network: Any, run: Run, saved: SavedRun, described: Mapping[str, Any]) -> None:
    """Put a run at the position of a saved one, and give the network its parameters and seed."""
    check_same_network(saved, network)
    run.position, run.history, run.best = checkpoint.unpack(
        saved, described, run.position.state, run.position.state.layers, placement=run.placement
    )
    if run.ranks.rank:  # the sums so far must count only once
        run.position = run.position._replace(totals=[one * 0 for one in run.position.totals])
    run.show(copied(run.position.state.layers, network.xp))
    go_on_counting(run, saved)
    network.seed = saved.network.seed


def check_same_network(saved: SavedRun, network: Any) -> None:
    """Refuse a saved run whose network or members do not match.

    Raises:
        CheckpointError: they do not match.
    """
    theirs, ours = saved.network, network.describe()
    try:
        for name in ("sizes", "activations", "cost", "dtype"):
            before, now = getattr(theirs, name), getattr(ours, name)
            if before != now:
                raise ValueError(f"its network has {name} {before!r}, and this one has {now!r}")
        check_same_functions(theirs.own, ours.own)
        checks.check_seed(theirs.seed)
    except (TypeError, ValueError) as error:
        raise network_file.unfit(saved.path, "be resumed", error) from error


def go_on_counting(run: Run, saved: SavedRun) -> None:
    """Add the earlier steps of a resumed run to its report; log it if no steps are left."""
    for *shape, steps in saved.run.taken:
        run.report.account(tuple(shape)).before = steps
    if run.is_over:
        epochs = run.settings.epochs
        logger.info("%s: all %d epochs are already complete.", saved.path, epochs)


def _write_nothing(path: Path, run: Run) -> None:
    """Leave the checkpoint to rank 0."""


def _write(
    network: Any,
    path: Path,
    run: Run,
    *,
    described: Mapping[str, Any],
    begun: Any,
    others: Mapping[str, Section],
) -> None:
    """Write the checkpoint of a run, and keep the previous one."""
    section = checkpoint.pack(
        run.position, run.history, run.best, described, begun=begun, report=run.report
    )
    content = NetworkFile(network.describe(run.position.state.layers), section, others)
    keep_previous(path)
    network_file.write(path, content)
