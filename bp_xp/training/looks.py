"""Steps, chunk by chunk, and the looks at a run between them.

A *step* takes one mini-batch. A *chunk* is several steps that an engine takes together. A *look* is
a moment between two steps at which observers see the run: after each epoch, after numbers of steps
that an observer requests, and when the run is interrupted.

Samples are on the device before a chunk starts, and cost and accuracy are summed there; the host
fetches them once per epoch.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np

from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement
from bp_xp.engines import Engine, Loop, OneByOne, Report
from bp_xp.errors import DivergenceError
from bp_xp.math import dropout
from bp_xp.math.metrics import Metric
from bp_xp.math.model import Model
from bp_xp.optim import Optimizer
from bp_xp.optim.schedules import is_scheduled, rates
from bp_xp.ranks import Ranks
from bp_xp.sources import Source
from bp_xp.sources.ahead import StoppedError, stopping
from bp_xp.training.arguments import Settings
from bp_xp.training.divergence import check_finite, diverged_members, row_of
from bp_xp.training.evaluation import evaluate, means_of, measure, totals_of
from bp_xp.training.groups import (
    Chunk,
    Part,
    are_cut_on_host,
    form_of_one,
    groups_of,
    in_groups,
    is_stack,
    networks_at_once,
    networks_of,
    one_by_one,
    parts_of,
)
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.progress import Interruption, Progress
from bp_xp.training.reading import Reading
from bp_xp.training.reduction import rows_of_share, total_on_first, totals_of_all
from bp_xp.training.step import Rule, State, make_step

__all__ = ["Look", "Position", "copied", "start", "steps_at_once", "take_looks"]

# Steps, and numbers in their mini-batches: on a CPU, a gathered chunk should stay in a cache.
# On other devices, gathering a chunk and summing its costs takes some 20 launches at any size.
_CHUNK_ON_CPU = 64, 1 << 20
_CHUNK_ELSEWHERE = 512, 1 << 23


class Position(NamedTuple):
    """The position of a run between two steps: what it needs to continue, besides its settings.

    Attributes:
        state: the state of the steps; the next step consumes it.
        epoch: the current epoch, from 1.
        place: the source's place in that epoch; 0 at its start.
        step: the number of steps taken in the run.
        totals: those of the chunks of the epoch so far, shape (steps, 3) each.
        order: the generator's state before the epoch's order was drawn.
    """

    state: State
    epoch: int
    place: Any
    step: int
    totals: list[Array]
    order: Any


class Look(NamedTuple):
    """What observers see of a run between two steps.

    Attributes:
        layers: a copy of the parameters.
        position: the position of the run.
        record: that of the epoch that has just ended, if any; for a stack its values are arrays of
            shape (M,).
        interrupted: whether the run ends here, by Ctrl-C or at the request of a callback.
        diverged: the errors of the networks of a stack that diverged in the epoch, by their row.
    """

    layers: list[Layer]
    position: Position
    record: EpochRecord | None = None
    interrupted: bool = False
    diverged: Mapping[int, DivergenceError] = MappingProxyType({})


def start(
    model: Model,
    layers: Sequence[Layer],
    settings: Settings,
    *,
    placement: Placement,
    dtype: str,
    generator: np.random.Generator,
) -> Position:
    """Return the position before the first step, whose arrays are copies.

    The generator draws the seed of dropout, if there is any.
    """
    masks = ()
    if dropout_rates := settings.regularization.dropout_rates:
        seed = int(generator.integers(2**63))
        masks = dropout.init_masks(
            dropout_rates, model.sizes, settings.batch_size, seed, asarray=placement.asarray
        )
    trainable = settings.trainable or (True,) * len(layers)
    learning = [layer for layer, learns in zip(layers, trainable, strict=True) if learns]
    optimizer = settings.optimizer.init(learning, placement=placement, dtype=dtype)
    return Position(
        state=copied(State(list(layers), optimizer, masks), placement.xp),
        epoch=1,
        place=0,
        step=0,
        totals=[],
        order=generator.bit_generator.state,
    )


def copied(tree: Any, xp: Namespace) -> Any:
    """Return a nesting of tuples and lists with copies of the arrays in it."""
    return map_leaves(lambda array: xp.asarray(array, copy=True), tree)


def steps_at_once(placement: Placement, entries: int) -> int:
    """Return the number of steps in a chunk, for mini-batches with so many entries."""
    most_steps, most_entries = _CHUNK_ON_CPU if placement.on_cpu else _CHUNK_ELSEWHERE
    return max(1, min(most_steps, most_entries // entries))


def take_looks(
    model: Model,
    source: Source,
    validation: Source | Sequence[Source] | None,
    settings: Settings,
    history: History,
    *,
    position: Position,
    placement: Placement,
    dtype: str,
    generator: np.random.Generator,
    report: Report,
    look_every: Sequence[int] = (),
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> Generator[Look, State | None, None]:
    """Take the steps of a run, and yield looks after each epoch and at the requested steps.

    Args:
        model: what the network computes.
        source: where mini-batches come from.
        validation: what to evaluate after each epoch, or None; one for each network of a stack.
        settings: the settings.
        history: the epochs so far, to which the caller adds each new record; schedules use it.
        position: where to start; see :func:`start`.
        placement: library and device of all arrays.
        dtype: the network's dtype.
        generator: draws the order of the samples, on the host.
        report: the engine's report of the run.
        look_every: numbers of steps after which the caller wants a look.
        should_stop: called between chunks; returns whether the run should end.
        ranks: the processes that share the run; None for a single process. All have the same looks,
            and end at the same step.

    Yields:
        A look after each epoch and each ``look_every`` steps. After an interruption (Ctrl-C, or
        ``should_stop``) the last one has the parameters of the last complete step. A value sent
        back is the state to continue from.

    Raises:
        ValueError: the optimizer returns parameters of another shape or dtype, or the schedule
            gives no learning rate.
        TypeError: there is a schedule, and the optimizer's state has no learning rate.
        DivergenceError: the cost, a parameter or the optimizer's state is no longer finite at the
            end of an epoch.
    """
    rate: Any = getattr(settings.optimizer, "learning_rate", None)
    if scheduled := is_scheduled(rate):
        _check_can_be_scheduled(settings.optimizer, position.state.optimizer)
    ranks = ranks or Ranks()
    where: dict[str, Any] = {"ranks": ranks, "placement": placement}
    rule = _rule_of(model, source, settings, scheduled=scheduled, **where)
    rows = _rows_of_an_epoch(source, ranks)
    report.epoch = _mini_batches_of_an_epoch(rows, settings.batch_size)
    judged = {"model": model, "source": source, "validation": validation, "settings": settings}
    take = ranks.guarded(_chunk_taker(rule, source, report, placement))
    look = functools.partial(_look, ranks, placement)
    end_epoch = functools.partial(_end_epoch, **judged, **where)
    until_look = _until_look(source, settings, look_every, **where)
    state, first, place, step, totals, order = position
    generator.bit_generator.state = order
    last_rates = np.zeros(1)
    with (
        Interruption() as interruption,
        Progress(settings.epochs, rows, show=settings.progress) as progress,
    ):
        asked = functools.partial(_is_asked, interruption, should_stop)
        begin = _reader(model, source, settings, generator, asked, dtype=dtype, **where)
        for epoch in range(first, settings.epochs + 1):
            begun, n_samples = time.perf_counter(), 0
            progress.start(epoch)
            order = generator.bit_generator.state
            with contextlib.closing(begin(place)) as reading:
                while isinstance(batches := reading.take(until_look(step)), list):
                    taken = batches[0].shape[0]
                    size = report.rows = reading.rows
                    if scheduled:
                        last_rates = rates(rate, step, taken, history)
                        batches.append(placement.asarray(last_rates, dtype))
                    state, chunk_totals = take(state, batches)
                    step += taken
                    n_samples += size * math.prod(chunk_totals.shape[:-1])
                    totals.append(chunk_totals)
                    progress.advance(taken * size, chunk_totals)
                    stop = any(ranks.each(asked))
                    if stop or any(step % every == 0 for every in look_every):
                        here = Position(state, epoch, reading.place, step, totals, order)
                        shown = look(here, interrupted=stop)
                        totals, state = shown.position.totals, (yield shown) or state
                        if stop:
                            return
            told = {"epoch": epoch, "rates": last_rates, "begun": begun, "n_samples": n_samples}
            ended = end_epoch(state, totals, asked, **told) if batches is None else batches
            if isinstance(ended, Exception):
                stopped = isinstance(ended, StoppedError)
                if step or stopped:  # what was learned is kept
                    here = Position(state, epoch, reading.place, step, totals, order)
                    yield look(here, interrupted=True)
                if stopped:
                    return
                raise ended
            record, diverged = ended
            progress.finish(record.mean())
            place, totals = 0, []
            here = Position(state, epoch + 1, 0, step, [], generator.bit_generator.state)
            state = (yield look(here, record, diverged=diverged)) or state


def _look(
    ranks: Ranks,
    placement: Placement,
    position: Position,
    record: EpochRecord | None = None,
    **more: Any,
) -> Look:
    """Return a look at a position, with copies of the parameters, since the run continues."""
    totals = total_on_first(position.totals, ranks, placement=placement)
    layers = copied(position.state.layers, placement.xp)
    return Look(layers, position._replace(totals=totals), record, **more)


def _chunk_taker(rule: Rule, source: Source, report: Report, placement: Placement) -> Chunk:
    """Return a function that takes the steps of a chunk, of a stack in groups of networks."""
    engine, xp, library = placement.engine, placement.xp, placement.library
    loop = engine.new_loop(report)
    given, n_samples = (rule, source.has_classes, engine, loop, xp), 2 + source.weighted
    chunk = engine.compile(_chunk, *given, consumes=True)
    each = engine.compile(_chunk_of_each, given, n_samples, consumes=True)

    def take(state: State, batches: Sequence[Array]) -> tuple[State, Array]:
        batches = [library.aligned(part) for part in batches]
        state = library.laid_out(state, batches[0])
        _keep_account(report, engine, rule, state, batches, xp=xp)
        state, totals = chunk(state, batches)
        library.compute(leaves_of((state, totals)))
        return state, totals

    # An overflow ends in a DivergenceError, which is clearer than a warning.
    @np.errstate(over="ignore", invalid="ignore")
    def take_all(state: State, batches: Sequence[Array]) -> tuple[State, Array]:
        at_once = networks_at_once(state, batches[0].shape[-2], placement)
        in_one_program = engine.one_by_one is not None and not any(map(are_cut_on_host, batches))
        if at_once == 1 and in_one_program and is_stack(state):
            parts = parts_of(batches)
            form = form_of_one(state, parts, n_samples=n_samples)
            _keep_account(report, engine, rule, *form, xp=xp)
            return each(state, parts)
        groups = groups_of(networks_of(state), at_once)
        return in_groups(take, groups, state, batches, n_samples=n_samples, xp=xp)

    return take_all


def _rule_of(
    model: Model,
    source: Source,
    settings: Settings,
    *,
    scheduled: bool,
    ranks: Ranks,
    placement: Placement,
) -> Rule:
    """Return what the steps of a run do."""
    return Rule(
        model=_fused(model, placement.engine),
        update=settings.optimizer.update,
        regularization=settings.regularization,
        trainable=settings.trainable,
        weighted=source.weighted,
        given=(*source.given, "learning_rate") if scheduled else source.given,
        total=ranks.total,
        share=(ranks.rank, ranks.size),
        own_terms=settings.own_terms,
    )


def _check_can_be_scheduled(optimizer: Optimizer, state: Any) -> None:
    """Refuse a schedule if the optimizer's state has no field for its rate."""
    if not hasattr(state, "learning_rate"):
        raise TypeError(
            "a schedule needs an optimizer whose state is a NamedTuple with a learning_rate, not "
            f"{type(state).__name__}, that of {type(optimizer).__name__}."
        )


def _end_epoch(
    state: State,
    totals: Sequence[Array],
    shall_stop: Callable[[], bool],
    *,
    epoch: int,
    rates: np.ndarray,
    begun: float,
    n_samples: int,
    model: Model,
    source: Source,
    validation: Source | Sequence[Source] | None,
    settings: Settings,
    ranks: Ranks,
    placement: Placement,
) -> tuple[EpochRecord, Mapping[int, DivergenceError]] | StoppedError:
    """Return the record of an epoch, and the networks of a stack that diverged in it.

    If the run must end while it waits for validation data, return that error.
    """
    of_ranks = totals_of_all(totals, ranks, placement=placement)
    found = {"totals": of_ranks, "rates": rates, "placement": placement}
    diverged = ranks.together(lambda: _diverged(state, epoch, settings, **found))

    try:
        with stopping(shall_stop):
            where: dict[str, Any] = {"ranks": ranks, "placement": placement}
            judged = _judged(model, state.layers, validation, settings.metrics, **where)
    except StoppedError as error:
        return error

    def record() -> EpochRecord:
        seconds = time.perf_counter() - begun
        cost, accuracy = means_of(of_ranks.sum(axis=0), source.has_classes)
        return EpochRecord(
            epoch=epoch,
            cost=cost,
            accuracy=accuracy,
            seconds=seconds,
            samples_per_second=n_samples / seconds,
            **judged,
        )

    # The result of rank 0 counts: another machine may round differently.
    return ranks.first(record), diverged


def _diverged(
    state: State, epoch: int, settings: Settings, **found: Any
) -> Mapping[int, DivergenceError]:
    """Return the networks of a stack that diverged; a single one raises its error."""
    if is_stack(state):
        totals = found.pop("totals")[0]  # no other process shares the run of a stack
        return diverged_members(state, epoch, settings, totals=totals, **found)
    check_finite(state, epoch, settings, **found)
    return {}


def _judged(
    model: Model,
    layers: Sequence[Layer],
    validation: Source | Sequence[Source] | None,
    metrics: Sequence[Metric],
    **where: Any,
) -> dict[str, Any]:
    """Return the entries of an epoch's record for the validation data, by name."""
    if validation is None:
        return {"validation_cost": None, "validation_accuracy": None}
    if isinstance(validation, Sequence):
        return _judged_members(model, layers, validation, metrics, **where)
    cost, accuracy = evaluate(model, layers, validation, **where)
    measured = measure(model, layers, validation, metrics, **where)
    return {
        "validation_cost": cost,
        "validation_accuracy": accuracy,
        "metrics": {f"validation_{name}": value for name, value in measured.items()},
    }


def _judged_members(
    model: Model,
    layers: Sequence[Layer],
    validation: Sequence[Source],
    metrics: Sequence[Metric],
    **where: Any,
) -> dict[str, Any]:
    """Return the same for a stack, as arrays of shape (M,): each network is evaluated alone."""
    with np.errstate(over="ignore", invalid="ignore"):  # one of them may have diverged
        each = [
            _judged(model, row_of(layers, row), validation[row], metrics, **where)
            for row in range(layers[0].b.shape[0])
        ]
    accuracies = [one["validation_accuracy"] for one in each]
    return {
        "validation_cost": np.array([one["validation_cost"] for one in each]),
        "validation_accuracy": None if accuracies[0] is None else np.array(accuracies),
        "metrics": {
            name: np.array([one["metrics"][name] for one in each]) for name in each[0]["metrics"]
        },
    }


def _is_asked(interruption: Interruption, should_stop: Callable[[], bool]) -> bool:
    """Return whether the run should end, by Ctrl-C or at the request of an observer."""
    return interruption.asked or should_stop()


def _reader(
    model: Model,
    source: Source,
    settings: Settings,
    generator: np.random.Generator,
    shall_stop: Callable[[], bool],
    **options: Any,
) -> Callable[[Any], Reading]:
    """Return a function that starts to read an epoch, at a place in it."""
    forms = [(model.sizes[0],), (model.sizes[-1],), *([()] if source.weighted else [])]
    options |= {"shall_stop": shall_stop, "forms": forms}
    return lambda place: Reading(source, settings.batch_size, generator, place, **options)


def _until_look(
    source: Source,
    settings: Settings,
    look_every: Sequence[int],
    *,
    ranks: Ranks,
    placement: Placement,
) -> Callable[[int], int]:
    """Return a function of the steps so far: how many can be taken together until the next look."""
    most_rows = rows_of_share(settings.batch_size, 0, ranks.size)  # of any process
    at_once = steps_at_once(placement, most_rows * source.row_entries)
    return lambda step: min([at_once, *(every - step % every for every in look_every)])


def _rows_of_an_epoch(source: Source, ranks: Ranks) -> int | None:
    """Return the number of samples in an epoch; None if it is unknown, as with shards."""
    return None if source.sharded and ranks.are_several else source.n_rows


def _mini_batches_of_an_epoch(rows: int | None, batch_size: int) -> dict[int, int] | None:
    """Return the number of mini-batches of so many rows in an epoch; None if it is unknown."""
    if rows is None:
        return None
    whole, rest = divmod(rows, batch_size)
    return {batch_size: whole} | ({rest: 1} if rest else {})


def _keep_account(
    report: Report,
    engine: Engine,
    rule: Rule,
    state: State,
    batches: Sequence[Array],
    *,
    xp: Namespace,
) -> None:
    """Record how many steps are about to be taken, and the text of their program."""
    taken, *shape = batches[0].shape
    account = report.account(tuple(shape))
    if not account.steps and engine.describe is not None:
        account.program = engine.describe(make_step(rule), state, batches, xp)
    account.remark = engine.remark(shape)
    account.steps += taken


def _chunk(
    rule: Rule,
    has_classes: bool,
    engine: Engine,
    loop: Loop,
    xp: Namespace,
    state: State,
    batches: Sequence[Array],
) -> tuple[State, Array]:
    """Take a step for each mini-batch of a chunk; return the new state and the totals of each."""
    state, zs = loop(make_step(rule), state, batches, xp=xp)
    weights = batches[2] if rule.weighted else None
    totals = totals_of(
        rule.model,
        has_classes,
        engine.over_rows(xp),
        zs,
        batches[1],
        weights,
        argmax=engine.argmax,
    )
    return state, totals


def _chunk_of_each(
    given: tuple[Rule, bool, Engine, Loop, Namespace],
    n_samples: int,
    state: State,
    parts: Sequence[Part],
) -> tuple[State, Array]:
    """Take the steps of a chunk, of a stack with one network after the other."""
    *_, engine, _, xp = given
    take, over = functools.partial(_chunk, *given), cast(OneByOne, engine.one_by_one)
    return one_by_one(take, over, state, parts, n_samples=n_samples, xp=xp)


def _fused(model: Model, engine: Engine) -> Model:
    """Return the model with each σ and σ′ as one operation, if the engine can do that."""
    fused = (
        activation
        if activation.coupled
        else replace(
            activation,
            sigma=engine.fuse(activation.sigma),
            sigma_prime=engine.fuse(activation.sigma_prime),
        )
        for activation in model.activations
    )
    return replace(model, activations=tuple(fused))
