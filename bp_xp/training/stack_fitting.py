"""Fitting an ensemble: turn the arguments of its ``fit`` into one run of a stack.

The settings, samples and start of each member are made by the same functions as for a single
network; :mod:`bp_xp.training.stack` combines them into one run.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from bp_xp import checks
from bp_xp._caller import advice
from bp_xp.errors import DivergenceError
from bp_xp.optim import Optimizer
from bp_xp.ranks import Ranks
from bp_xp.sources import MemorySource
from bp_xp.sources.stack import Generators, StackSource
from bp_xp.storage import ensemble_file
from bp_xp.training import arguments, checkpoint
from bp_xp.training.agreement import begin_alike, check_samples_alike, check_settings_alike
from bp_xp.training.arguments import Settings, per_member
from bp_xp.training.callbacks import EarlyStopping
from bp_xp.training.checkpoint import Checkpoint
from bp_xp.training.divergence import row_of
from bp_xp.training.fitting import check_measured, check_monitored, go_on
from bp_xp.training.groups import networks_at_once
from bp_xp.training.history import History
from bp_xp.training.looks import start
from bp_xp.training.stack import (
    MembersLeave,
    RecordMembers,
    StackRun,
    WarmStack,
    stack_positions,
    stack_settings,
)
from bp_xp.training.stack_checkpoint import KeepStack, describe_stack, resume, write
from bp_xp.training.stack_data import Judges, StackData, make_data
from bp_xp.training.stack_ranks import find_ranks_of_members, train_apart
from bp_xp.training.trainer import Observer, TellCallbacks, train

__all__ = ["fit"]


def fit(
    ensemble: Any,
    x: Any,
    y: Any,
    *,
    checkpoint_argument: Any,
    distributed: Any,
    warm_start: Any,
    **given: Any,
) -> History:
    """Train the members of an ensemble; the arguments are those of :meth:`bp_xp.Ensemble.fit`."""
    kept = checkpoint.as_checkpoint(checkpoint_argument)
    ranks = find_ranks_of_members(distributed, ensemble.placement, kept)
    with (
        checkpoint.owned(kept),
        ensemble.placement.active(
            advice("Use a smaller {}; no step was left incomplete.", "batch_size")
        ),
    ):
        begin_alike(ensemble, ranks)
        more = {"kept": kept, "warm_start": warm_start, "ranks": ranks}
        prepared = ranks.together(functools.partial(_prepare, ensemble, x, y, **more, **given))
        run = prepared.run
        if ranks.are_several:
            _check_alike(ensemble, prepared, ranks)
        ensemble._report = run.report

        def learn() -> None:
            train(run, prepared.observers)
            _tell_members(run)

        if ranks.are_several:
            train_apart(run, ranks, learn, warm=warm_start)
        else:
            learn()
        if warm_start:
            ensemble._warm = WarmStack(prepared.settings, run.position, list(run.rows))
    return _sound(run)


def _check_alike(ensemble: Any, prepared: "_Prepared", ranks: Ranks) -> None:
    """Refuse to train on several processes if anything differs between them."""
    run, described = prepared.run, dict(prepared.described)
    digests = {key: described.pop(key) for key in checkpoint.DATA}
    more = {"epochs": run.settings.epochs, "step": run.position.step}
    check_settings_alike(described | more, ensemble, ranks)
    check_samples_alike(digests, {"data": cast(StackSource, run.source)}, ranks)


class _Prepared(NamedTuple):
    """A run of all members before its first step.

    Attributes:
        run: the run.
        observers: its observers.
        settings: those of each member.
        described: what must be the same to resume it, or on every process; empty if not needed.
    """

    run: StackRun
    observers: Sequence[Observer]
    settings: Sequence[Settings]
    described: Mapping[str, Any]


def _prepare(
    ensemble: Any,
    x: Any,
    y: Any,
    *,
    kept: Checkpoint | None,
    ranks: Ranks,
    epochs: Any,
    batch_size: Any,
    shuffle: Any,
    shared_order: Any,
    optimizer: Any,
    regularization: Any,
    trainable: Any,
    metrics: Any,
    early_stopping: Any,
    callbacks: Any,
    warm_start: Any,
    progress: Any,
    terms: dict[str, Any],
    **samples: Any,
) -> _Prepared:
    """Return a run at its start, or where it resumes."""
    switches = {"shuffle": shuffle, "shared_order": shared_order, "progress": progress}
    for name, switch in (switches | {"warm_start": warm_start}).items():
        arguments.check_switch(switch, name)
    told, stopping = _told_and_stopping(callbacks, early_stopping, len(ensemble))
    make_settings = functools.partial(
        Settings,
        epochs=checks.check_integer(epochs, "epochs"),
        trainable=arguments.as_trainable(trainable, len(ensemble.sizes) - 1),
        metrics=arguments.as_metrics(metrics),
        shuffle=shuffle,
        progress=progress and ranks.rank == 0,
    )
    own_settings = _own_settings(ensemble, optimizer, regularization, terms)
    saved = checkpoint.read_saved(kept, ensemble_file.read)
    generators = [ensemble._generator, *ensemble._generators]
    begun = saved.run.begun if saved else [one.bit_generator.state for one in generators]
    # A resumed run holds out the same samples as at its start.
    drawing = checkpoint.restore_generators(begun) if saved else generators
    data = make_data(ensemble, x, y, shared_order=shared_order, generators=drawing, **samples)
    size = checks.check_batch_size(batch_size, data.n_rows)
    settings = [make_settings(batch_size=size, **own) for own in own_settings]
    _check(ensemble, settings[0], stopping, data)
    warm = ensemble._warm if warm_start else None
    if warm:
        warm.check(settings)
    ensemble._warm = None  # a run that fails leaves nothing to continue from
    run = _make_run(ensemble, settings, data, shared_order)
    if warm:  # a resumed run continues from its file, but its state has this form
        run.position = go_on(run.position, warm.position)
    observers = [RecordMembers(), MembersLeave(stopping), TellCallbacks(told)]
    described = describe_stack(settings, stopping, run, data) if kept or ranks.are_several else {}
    if saved:
        resume(ensemble, run, saved, described)
    if kept:
        more = {"described": described, "begun": begun, "others": kept.sections}
        keep: Any = functools.partial(write, ensemble, **more)
        observers.append(KeepStack(Path(kept.path), kept.every, keep))
    return _Prepared(run, observers, settings, described)


def _told_and_stopping(
    callbacks: Any, early_stopping: Any, n_members: int
) -> tuple[list[Any], list[EarlyStopping | None]]:
    """Return the callbacks, and the early stopping of each member, or None."""
    several = per_member(early_stopping, n_members, "early_stopping")
    each = [arguments.as_callbacks(callbacks, one) for one in several]
    return each[0][0], [stopping for _, stopping in each]


def _own_settings(
    ensemble: Any, optimizer: Any, regularization: Any, terms: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return for each member the settings that may differ between members."""
    n_members, hidden = len(ensemble), len(ensemble.sizes) - 2
    optimizers = _with_rates_alike(
        [arguments.as_optimizer(one) for one in per_member(optimizer, n_members, "optimizer")]
    )
    regularizations = per_member(regularization, n_members, "regularization")
    each_terms = {name: per_member(value, n_members, name) for name, value in terms.items()}
    return [
        {
            "optimizer": optimizers[m],
            "regularization": arguments.as_regularization(
                regularizations[m],
                {name: values[m] for name, values in each_terms.items()},
                hidden,
            ),
        }
        for m in range(n_members)
    ]


def _with_rates_alike(optimizers: Sequence[Optimizer]) -> Sequence[Optimizer]:
    """Return the optimizers with a rate for each layer, if one of them has a list of rates."""
    rates = [getattr(one, "learning_rate", None) for one in optimizers]
    layers = max((len(rate) for rate in rates if isinstance(rate, list | tuple)), default=0)
    if not layers:
        return optimizers
    return [
        one
        if isinstance(rate, list | tuple)
        else replace(cast(Any, one), learning_rate=[rate] * layers)
        for one, rate in zip(optimizers, rates, strict=True)
    ]


def _check(
    ensemble: Any, settings: Settings, stopping: Sequence[EarlyStopping | None], data: StackData
) -> None:
    """Refuse values that cannot be measured or monitored, before the first step."""
    some, placement = data.some_validation, ensemble.placement
    source = MemorySource(data.samples, placement)
    validation = None if some is None else MemorySource(some, placement)
    check_measured(ensemble[0], settings.metrics, source, validation)
    for one in stopping:
        check_monitored(settings, one, source, validation)


def _make_run(
    ensemble: Any, settings: Sequence[Settings], data: StackData, shared_order: bool
) -> StackRun:
    """Return a run before its first step."""
    placement, n_members = ensemble.placement, len(ensemble)
    where: dict[str, Any] = {"placement": placement, "dtype": ensemble.dtype}
    positions = [
        start(
            ensemble.model,
            row_of(ensemble._layers, m),
            settings[m],
            generator=ensemble._generators[m],
            **where,
        )
        for m in range(n_members)
    ]
    members = list(range(n_members))
    stacked = stack_settings(settings, members)
    generator: Any = ensemble._generator if shared_order else Generators(ensemble._generators)
    position = stack_positions(positions, settings, stacked.own_terms, ensemble.sizes, **where)
    run = StackRun(
        network=ensemble,
        model=ensemble.model,
        source=StackSource(
            data.samples,
            placement,
            members,
            stacked.shuffle,
            shared_order,
            data.rows,
            networks_at_once(position.state, stacked.batch_size, placement),
        ),
        validation=Judges(data, members, placement) if data.is_validated else None,
        settings=stacked,
        position=position._replace(order=generator.bit_generator.state),
        generator=generator,
        history=History(members=[History(stopped="") for _ in members]),
        rows=members,
        **where,
    )
    run.layers = run.last = ensemble._layers
    return run


def _tell_members(run: StackRun) -> None:
    """Record why each member ended: those in the stack at the end ended like the run."""
    history = run.history
    for own in history.members:
        own.stopped = own.stopped or history.stopped
        own.engine = history.engine
    for m in run.rows:
        history.members[m].steps = history.steps


def _sound(run: StackRun) -> History:
    """Return the history.

    Raises:
        DivergenceError: every member diverged.
    """
    history = run.history
    if all(own.stopped == "divergence" for own in history.members):
        raise DivergenceError(
            "every member of the ensemble diverged; the last one: "
            f"{next(iter(run.diverged.values()), 'the value that early stopping monitors is NaN.')}"
        )
    return history
