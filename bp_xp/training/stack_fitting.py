"""Fitting an ensemble: from the arguments of its ``fit`` to one run of a stack.

Settings, samples and the start are those of each member, made by the same functions as for a
network alone; :mod:`bp_xp.training.stack` makes one run of them.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._caller import advice
from bp_xp.backends import Placement
from bp_xp.errors import DivergenceError
from bp_xp.sources import MemorySource, Samples, Source
from bp_xp.sources.intake import check_sample_weight
from bp_xp.sources.samples import (
    hold_out,
    make_samples,
    parts_of_validation,
    rows_to_hold_out,
    weigh_classes,
)
from bp_xp.sources.stack import Generators, RowsSource, StackSource
from bp_xp.training import arguments
from bp_xp.training.arguments import PerMember, Settings, per_member
from bp_xp.training.callbacks import EarlyStopping
from bp_xp.training.divergence import row_of
from bp_xp.training.fitting import check_measured, check_monitored
from bp_xp.training.history import History
from bp_xp.training.looks import start
from bp_xp.training.stack import (
    MembersLeave,
    RecordMembers,
    StackRun,
    stack_positions,
    stack_settings,
)
from bp_xp.training.trainer import TellCallbacks, train

__all__ = ["fit"]


class _Data(NamedTuple):
    """What the members learn and are judged by.

    Attributes:
        samples: the samples; weights may be of each member, shape (members, N).
        rows: the numbers of the rows that each member learns, (members, n), or None for all.
        validation: samples to judge all members by, or None.
        held_out: the numbers of the rows to judge each member by, or None.
    """

    samples: Samples
    rows: np.ndarray | None = None
    validation: Samples | None = None
    held_out: np.ndarray | None = None


def fit(
    ensemble: Any,
    x: Any,
    y: Any,
    *,
    sample_weight: Any,
    class_weight: Any,
    epochs: Any,
    batch_size: Any,
    shuffle: Any,
    shared_order: Any,
    optimizer: Any,
    regularization: Any,
    trainable: Any,
    validation_data: Any,
    metrics: Any,
    early_stopping: Any,
    callbacks: Any,
    progress: Any,
    terms: dict[str, Any],
) -> History:
    """Train the members of an ensemble; the arguments are those of :meth:`bp_xp.Ensemble.fit`."""
    switches = {"shuffle": shuffle, "shared_order": shared_order, "progress": progress}
    for name, switch in switches.items():
        arguments.check_switch(switch, name)
    if missing := sorted(terms.keys() & {"checkpoint", "warm_start"}):
        raise TypeError(f"the fit of an ensemble takes no {missing[0]}; that of a network does.")
    told, stopping = _told_and_stopping(callbacks, early_stopping, len(ensemble))
    make_settings = functools.partial(
        Settings,
        epochs=checks.check_integer(epochs, "epochs"),
        trainable=arguments.as_trainable(trainable, len(ensemble.sizes) - 1),
        metrics=arguments.as_metrics(metrics),
        shuffle=shuffle,
        progress=progress,
    )
    own_settings = _own_settings(ensemble, optimizer, regularization, terms)
    with ensemble.placement.active(
        advice("Take a smaller {}; no step was left half done.", "batch_size")
    ):
        weighed = _samples(ensemble, x, y, sample_weight, class_weight)
        data = _validated(ensemble, weighed, validation_data, shared_order)
        n = data.samples.x.shape[0] if data.rows is None else data.rows.shape[1]
        size = checks.check_batch_size(batch_size, n)
        settings = [make_settings(batch_size=size, **own) for own in own_settings]
        _check(ensemble, settings[0], stopping, data)
        run = _make_run(ensemble, settings, data, shared_order)
        ensemble._report = run.report
        train(run, [RecordMembers(), MembersLeave(stopping), TellCallbacks(told)])
    return _told_at_the_end(run)


def _told_and_stopping(
    callbacks: Any, early_stopping: Any, n_members: int
) -> tuple[list[Any], list[EarlyStopping | None]]:
    """Return the callbacks, and what stops each member early, or None."""
    several = per_member(early_stopping, n_members, "early_stopping")
    each = [arguments.as_callbacks(callbacks, one) for one in several]
    return each[0][0], [stopping for _, stopping in each]


def _own_settings(
    ensemble: Any, optimizer: Any, regularization: Any, terms: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the settings of each member that may differ from the others'."""
    n_members, hidden = len(ensemble), len(ensemble.sizes) - 2
    optimizers = per_member(optimizer, n_members, "optimizer")
    regularizations = per_member(regularization, n_members, "regularization")
    each_terms = {name: per_member(value, n_members, name) for name, value in terms.items()}
    return [
        {
            "optimizer": arguments.as_optimizer(optimizers[m]),
            "regularization": arguments.as_regularization(
                regularizations[m],
                {name: values[m] for name, values in each_terms.items()},
                hidden,
            ),
        }
        for m in range(n_members)
    ]


def _samples(ensemble: Any, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> Samples:
    """Return the samples with their weights, (N,), or (members, N) where each has its own."""
    where: dict[str, Any] = {"placement": ensemble.placement, "dtype": ensemble.dtype}
    n_members = len(ensemble)
    if np.ndim(sample_weight) == 2:
        sample_weight = PerMember(sample_weight)
    if not isinstance(sample_weight, PerMember):
        samples = make_samples(ensemble.model, x, y, sample_weight, **where)
        return samples if class_weight is None else weigh_classes(samples, class_weight, **where)
    samples = make_samples(ensemble.model, x, y, **where)
    each = [
        samples._replace(
            weights=check_sample_weight(one, "sample_weight", rows=samples.x.shape[0], **where)
        )
        for one in per_member(sample_weight, n_members, "sample_weight")
    ]
    if class_weight is not None:
        each = [weigh_classes(one, class_weight, **where) for one in each]
    return samples._replace(weights=ensemble.xp.stack([one.weights for one in each]))


def _validated(ensemble: Any, samples: Samples, validation_data: Any, shared_order: bool) -> _Data:
    """Return the samples, and those to validate on: given, or held out as each member draws."""
    where: dict[str, Any] = {"placement": ensemble.placement, "dtype": ensemble.dtype}
    if validation_data is None:
        return _Data(samples)
    if not isinstance(validation_data, int | float):
        parts = parts_of_validation(validation_data)
        validation = make_samples(ensemble.model, *parts, **where, prefix="validation ")
        return _Data(samples, validation=validation)
    one_for_all = samples.weights is None or samples.weights.ndim == 1
    if shared_order and one_for_all:
        first, second = hold_out(
            samples, validation_data, ensemble._generator, placement=ensemble.placement
        )
        return _Data(first, validation=second)
    generators = [ensemble._generator] if shared_order else ensemble._generators
    parts = rows_to_hold_out(samples, validation_data, generators, placement=ensemble.placement)
    learned, held_out = (np.stack(side) for side in zip(*parts, strict=True))
    if shared_order:
        learned, held_out = (np.tile(side, (len(ensemble), 1)) for side in (learned, held_out))
    return _Data(samples, rows=learned, held_out=held_out)


def _check(
    ensemble: Any, settings: Settings, stopping: Sequence[EarlyStopping | None], data: _Data
) -> None:
    """Refuse what can't be measured or monitored, before the first step."""
    validation = data.samples if data.held_out is not None else data.validation
    if validation is not None and validation.weights is not None and validation.weights.ndim > 1:
        validation = validation._replace(weights=validation.weights[0, ...])
    check_measured(ensemble[0], settings.metrics, data.samples, validation)
    for one in stopping:
        check_monitored(settings, one, data.samples, validation)


def _make_run(
    ensemble: Any, settings: Sequence[Settings], data: _Data, shared_order: bool
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
            data.samples, placement, members, stacked.shuffle, shared_order, data.rows
        ),
        validation=_Judges(data, members, placement) if _is_validated(data) else None,
        settings=stacked,
        position=position._replace(order=generator.bit_generator.state),
        generator=generator,
        history=History(members=[History(stopped="") for _ in members]),
        rows=members,
        **where,
    )
    run.layers = ensemble._layers
    return run


def _is_validated(data: _Data) -> bool:
    return data.validation is not None or data.held_out is not None


class _Judges(Sequence[Source]):
    """What each network of the stack is judged by, by its row.

    Args:
        data: the samples, and those to validate on.
        members: the numbers of the members in the stack; the list changes as they leave.
        placement: library and device.
    """

    def __init__(self, data: _Data, members: list[int], placement: Placement) -> None:
        self._data, self._members, self._placement = data, members, placement

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, row: Any) -> Any:
        if self._data.validation is not None:
            return MemorySource(self._data.validation, self._placement)
        assert self._data.held_out is not None
        samples, member = self._data.samples, self._members[row]
        if samples.weights is not None and samples.weights.ndim > 1:
            samples = samples._replace(weights=samples.weights[member, ...])
        return RowsSource(samples, self._data.held_out[member], self._placement)


def _told_at_the_end(run: StackRun) -> History:
    """Return the history; a member that was there to the end ended as the run did.

    Raises:
        DivergenceError: every member diverged.
    """
    history = run.history
    for own in history.members:
        own.stopped = own.stopped or history.stopped
        own.engine = history.engine
    for m in run.rows:
        history.members[m].steps = history.steps
    if all(own.stopped == "divergence" for own in history.members):
        raise DivergenceError(
            "every member of the ensemble diverged; of the last: "
            f"{next(iter(run.diverged.values()), 'what early stopping monitors is NaN.')}"
        )
    return history
