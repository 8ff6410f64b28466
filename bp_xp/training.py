"""Training: epochs over shuffled mini-batches.

Data is on the device before it starts, is shuffled and sliced there, and cost and accuracy are
summed there; the host asks for them once an epoch.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from bp_xp import dropout, schedules
from bp_xp._trees import forms_of, map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.arrays import Placement, are_finite, row_blocks, sum_rows, to_numpy
from bp_xp.backprop import Model, backpropagate, cost_of_samples, feedforward, forward
from bp_xp.console import Interruption, Progress
from bp_xp.engines import Engine, Loop, Step, engine_for
from bp_xp.errors import DivergenceError
from bp_xp.history import EpochRecord, History
from bp_xp.metrics import Metric
from bp_xp.optimizers import Optimizer, Update
from bp_xp.regularization import Regularization

__all__ = [
    "Cut",
    "Data",
    "Look",
    "Position",
    "Rule",
    "Run",
    "State",
    "Supply",
    "evaluate",
    "make_cut",
    "make_step",
    "measure",
    "split_rows",
    "start",
    "steps_at_once",
    "train",
]

# Steps, and numbers in their mini-batches: on a CPU, a chunk is gathered that stays in a cache.
# Elsewhere, to gather a chunk and to sum its costs up takes some 20 launches, whatever its size.
_CHUNK_ON_CPU = 64, 1 << 20
_CHUNK_ELSEWHERE = 512, 1 << 23

_EVALUATION_ROWS = 4096


class Data(NamedTuple):
    """Samples with their targets, on one device.

    Attributes:
        x: inputs, shape (N, I).
        y: targets, shape (N, O).
        classes: whether each target is one class, so that an accuracy can be told.
        weights: how much each sample counts, shape (N,), or None where all count alike.
    """

    x: Array
    y: Array
    classes: bool
    weights: Array | None = None

    @property
    def arrays(self) -> list[Array]:
        """What each mini-batch is cut from."""
        return [self.x, self.y] if self.weights is None else [self.x, self.y, self.weights]


class State(NamedTuple):
    """What changes from step to step.

    Attributes:
        layers: the parameters.
        optimizer: the optimizer's state.
        masks: dropout's state; empty without dropout.
    """

    layers: list[Layer]
    optimizer: Any
    masks: Any


@dataclass(frozen=True)
class Rule:
    """What a step does: all of it that is no array. Equal rules are compiled once.

    Attributes:
        model: what the network computes.
        update: the optimizer's step.
        regularization: what else shapes the gradients and the parameters.
        weighted: whether a mini-batch comes with weights of its samples.
        given: what fields of the optimizer's state it comes with; a schedule's learning rate last.
    """

    model: Model
    update: Update
    regularization: Regularization
    weighted: bool = False
    given: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------
# Pure functions of arrays: one step, one chunk of steps, one evaluation


def make_step(rule: Rule) -> Step:
    """Return the training step: (state, x, y, *extras, xp=xp) -> (state, zᴸ).

    The extras are the weights of the samples, where there are any, and what ``rule.given`` names.
    """
    terms = rule.regularization

    def step(
        state: State, x: Array, y: Array, *extras: Array, xp: Namespace
    ) -> tuple[State, Array]:
        layers, optimizer, mask_state = state
        weights, values = (extras[0], extras[1:]) if rule.weighted else (None, extras)
        if rule.given:
            optimizer = optimizer._replace(**dict(zip(rule.given, values, strict=True)))
        masks = None
        if terms.dropout:
            masks, mask_state = dropout.draw_masks(
                mask_state, terms.dropout, x.shape[0], xp=xp, dtype=x.dtype
            )
        gradients, z = backpropagate(rule.model, layers, x, y, weights=weights, masks=masks, xp=xp)
        gradients = terms.shape_gradients(gradients, layers, xp=xp)
        before = forms_of([layers, optimizer])
        layers, optimizer = rule.update(layers, gradients, optimizer, xp=xp)
        _check_form(rule.update, before, [layers, optimizer], n_parameters=2 * len(layers))
        layers = terms.bound_parameters(layers, xp=xp)
        if rule.given:
            own = {name: getattr(state.optimizer, name) for name in rule.given}
            optimizer = optimizer._replace(**own)
        return State(layers, optimizer, mask_state), z

    return step


def _check_form(
    update: Update, before: Sequence[tuple[Any, Any]], after: Any, *, n_parameters: int
) -> None:
    """Refuse parameters or a state of other shapes or dtypes: an optimizer's of a user's own."""
    name, found = getattr(update, "__qualname__", update), forms_of(after)
    if len(found) != len(before):
        raise ValueError(f"{name} returns {len(found)} arrays, where it was given {len(before)}.")
    for i, ((shape, dtype), form) in enumerate(zip(found, before, strict=True)):
        if (shape, dtype) != form:
            what = "a parameter" if i < n_parameters else "an array of its state"
            hint = " Beware of numpy.float64 numbers: they make arrays float64."
            raise ValueError(
                f"{name} returns {what} of shape {shape} and dtype {dtype}, where it was given "
                f"{form[0]} and {form[1]}.{hint if dtype != form[1] else ''}"
            )


def _chunk(
    rule: Rule, classes: bool, loop: Loop, xp: Namespace, state: State, batches: Sequence[Array]
) -> tuple[State, Array]:
    """Take a step for each mini-batch of a chunk; return the new state and the totals."""
    state, zs = loop(make_step(rule), state, batches, xp=xp)
    z = xp.reshape(zs, (-1, zs.shape[-1]))
    y = xp.reshape(batches[1], z.shape)
    weights = xp.reshape(batches[2], (-1,)) if rule.weighted else None
    return state, _totals(rule.model, classes, xp, z, y, weights)


def _gather(xp: Namespace, steps: int, rows: Array, *arrays: Array) -> list[Array]:
    """Return the mini-batches of some rows of each array, shapes (steps, batch, ...)."""
    return [
        xp.reshape(xp.take(values, rows, axis=0), (steps, -1, *values.shape[1:]))
        for values in arrays
    ]


def _evaluation(
    model: Model, classes: bool, xp: Namespace, layers: Sequence[Layer], x: Array, *given: Array
) -> Array:
    """Return the totals of samples that are not trained on, given y and perhaps weights."""
    return _totals(model, classes, xp, forward(model, layers, x, xp=xp).zs[-1], *given)


def _totals(
    model: Model, classes: bool, xp: Namespace, z: Array, y: Array, weights: Array | None = None
) -> Array:
    """Return the sums over samples of cost, of whether they are told right, of weight: (3,)."""
    cost = cost_of_samples(model, z, y, xp=xp)
    right = xp.zeros_like(cost)
    if classes:
        a = model.activations[-1].sigma(z, xp=xp)
        if a.shape[-1] == 1:
            told = ((a > 0.5) == (y > 0.5))[:, 0]
        else:
            told = xp.argmax(a, axis=-1) == xp.argmax(y, axis=-1)
        right = xp.astype(told, z.dtype)
    if weights is None:
        weights = xp.ones_like(cost)
    else:
        cost, right = cost * weights, right * weights
    return sum_rows(xp.stack([cost, right, weights], axis=-1), xp=xp)


def evaluate(
    model: Model, layers: Sequence[Layer], data: Data, *, place: Placement
) -> tuple[float, float | None]:
    """Return mean cost and accuracy over data; the accuracy is None where there are no classes."""
    judge = engine_for(place.backend).compile(_evaluation, model, data.classes, place.xp)
    totals = [
        judge(layers, *(values[rows, ...] for values in data.arrays))
        for rows in row_blocks(data.x.shape[0], _EVALUATION_ROWS)
    ]
    return _means(totals, data.classes, place)


def _means(totals: Sequence[Array], classes: bool, place: Placement) -> tuple[float, float | None]:
    """Bring totals to the host, all at once, and divide by the weight of the samples."""
    cost, right, weight = to_numpy(place.xp.stack(list(totals))).astype(np.float64).sum(axis=0)
    return float(cost / weight), float(right / weight) if classes else None


def measure(
    model: Model,
    layers: Sequence[Layer],
    data: Data,
    metrics: Sequence[Metric],
    *,
    place: Placement,
) -> dict[str, Any]:
    """Return the value of each metric over data: a number, or a NumPy array."""
    if not metrics:
        return {}
    xp = place.xp
    predict = engine_for(place.backend).compile(_outputs, model, xp)
    rows = row_blocks(data.x.shape[0], _EVALUATION_ROWS)
    a = xp.concat([predict(layers, data.x[block, :]) for block in rows], axis=0)
    values = {m.name: to_numpy(m.function(a, data.y, xp=xp)) for m in metrics}
    return {name: value if value.ndim else float(value) for name, value in values.items()}


def _outputs(model: Model, xp: Namespace, layers: Sequence[Layer], x: Array) -> Array:
    return feedforward(model, layers, x, xp=xp)


# ---------------------------------------------------------------------------------------------
# The loop over epochs


Cut = Callable[[int, int, int], list[Array]]
"""Cuts mini-batches from an epoch: (first row in its order, steps, samples in a mini-batch) to the
inputs, shape (steps, batch, I), the targets, the weights if there are any, and what is given."""


class Supply(Protocol):
    """Where mini-batches come from, if not from the data in an order that ``train`` draws.

    Attributes:
        given: the fields of the optimizer's state whose values come with each mini-batch.
    """

    given: tuple[str, ...]

    def start_epoch(self) -> Cut:
        """Return what cuts the mini-batches of the next epoch."""
        ...


@dataclass(frozen=True)
class Run:
    """The settings of a training run, checked.

    Attributes:
        optimizer: how gradients move parameters.
        epochs: passes over the data.
        batch_size: samples in a mini-batch; the last of an epoch may be shorter.
        shuffle: whether each epoch has an order of its own.
        regularization: penalties, dropout, clipping.
        metrics: what to measure after each epoch, besides cost and accuracy.
        look_every: numbers of steps after which the caller wants to look.
        progress: whether to show a bar on a terminal, or log a line an epoch without one.
        should_stop: asked between chunks of steps whether the run shall end.
        supply: where mini-batches come from, or None; ``shuffle`` then means nothing.
    """

    optimizer: Optimizer
    epochs: int
    batch_size: int
    shuffle: bool
    regularization: Regularization = field(default_factory=Regularization)
    metrics: Sequence[Metric] = ()
    look_every: Sequence[int] = ()
    progress: bool = False
    should_stop: Callable[[], bool] = lambda: False
    supply: Supply | None = None


class Position(NamedTuple):
    """Where a run is between two steps: what it needs to go on, besides its settings and data.

    Attributes:
        state: what the steps carry on; the next step uses it up.
        epoch: the epoch under way, from 1.
        steps: steps taken in that epoch.
        step: steps taken in the run.
        totals: those of the chunks of the epoch so far, shape (3,) each.
        order: the generator's state before the epoch's order was drawn.
    """

    state: State
    epoch: int
    steps: int
    step: int
    totals: list[Array]
    order: Any


class Look(NamedTuple):
    """What a run shows between two steps.

    Attributes:
        layers: a copy of the parameters.
        position: where the run is.
        record: that of the epoch just over, if one is.
        interrupted: whether the run ends here, by Ctrl-C or ``should_stop``.
    """

    layers: list[Layer]
    position: Position
    record: EpochRecord | None = None
    interrupted: bool = False


def train(
    model: Model,
    data: Data,
    validation: Data | None,
    run: Run,
    history: History,
    position: Position,
    *,
    place: Placement,
    dtype: str,
    generator: np.random.Generator,
) -> Generator[Look, None, None]:
    """Train, handing over the parameters and the record after each epoch.

    Args:
        model: what the network computes.
        data: the training data.
        validation: data to evaluate after each epoch, or None.
        run: the settings.
        history: the epochs so far, to which the caller adds each record as it comes; schedules
            look at it.
        position: where to begin; see :func:`start`.
        place: library and device of all arrays.
        dtype: the network's dtype.
        generator: draws the order of the samples, on the host.

    Yields:
        A look after each epoch and each ``look_every`` steps. After an interruption (Ctrl-C, or
        ``should_stop``) the last one holds the parameters of the last complete step.

    Raises:
        ValueError: the optimizer returns parameters of another shape or dtype, or the schedule
            gives no learning rate.
        TypeError: there is a schedule, and the optimizer's state has no learning rate.
        DivergenceError: the cost or a parameter is no longer finite at the end of an epoch.
    """
    xp = place.xp
    engine = engine_for(place.backend)
    rate: Any = getattr(run.optimizer, "learning_rate", None)
    scheduled, supplied = callable(rate), run.supply.given if run.supply else ()
    rule = Rule(
        _fused(model, engine),
        run.optimizer.update,
        run.regularization,
        weighted=data.weights is not None,
        given=(*supplied, "learning_rate") if scheduled else supplied,
    )
    chunk = engine.compile(_chunk, rule, data.classes, engine.new_loop(), xp, consumes=True)
    state, first, steps, step, totals, order = position
    if scheduled and not hasattr(state.optimizer, "learning_rate"):
        raise TypeError(
            "a schedule needs an optimizer whose state is a NamedTuple with a learning_rate, not "
            f"{type(state.optimizer).__name__}, that of {type(run.optimizer).__name__}."
        )
    rates = np.zeros(1)
    generator.bit_generator.state = order
    with (
        Interruption() as interruption,
        Progress(run.epochs, data.x.shape[0], show=run.progress) as progress,
    ):
        for epoch in range(first, run.epochs + 1):
            start = time.perf_counter()
            progress.start(epoch)
            order = generator.bit_generator.state
            for batches in _chunks(data, run, generator, place, steps, step):
                taken, size = batches[0].shape[:2]
                if scheduled:
                    rates = schedules.rates(rate, step, taken, history)
                    batches.append(place.asarray(rates, dtype))
                # A run that overflows ends in a DivergenceError, which says more than a warning.
                with np.errstate(over="ignore", invalid="ignore"):
                    state, total = chunk(state, batches)
                steps, step = steps + taken, step + taken
                totals.append(total)
                progress.advance(taken * size, total)
                stop = interruption.asked or run.should_stop()
                if stop or any(step % every == 0 for every in run.look_every):
                    here = Position(state, epoch, steps, step, totals, order)
                    yield Look(_copy(state.layers, xp), here, interrupted=stop)
                    if stop:
                        return
            cost, accuracy = _means(totals, data.classes, place)
            last_rate = float(rates[-1]) if scheduled else rate
            _check_finite(cost, state.layers, epoch, run, last_rate, place)
            judged, metrics = (None, None), {}
            if validation is not None:
                judged = evaluate(model, state.layers, validation, place=place)
                metrics = measure(model, state.layers, validation, run.metrics, place=place)
            seconds = time.perf_counter() - start
            record = EpochRecord(
                epoch,
                cost,
                accuracy,
                *judged,
                seconds,
                data.x.shape[0] / seconds,
                {f"validation_{name}": value for name, value in metrics.items()},
            )
            progress.finish(record)
            steps, totals = 0, []
            here = Position(state, epoch + 1, 0, step, [], generator.bit_generator.state)
            yield Look(_copy(state.layers, xp), here, record)


def split_rows(
    n: int, fraction: float, labels: np.ndarray | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Part the rows 0 .. n − 1 in two at random.

    Args:
        n: number of rows.
        fraction: the share of the second part.
        labels: the class of each row, shape (n,), to take the share of each class; or None.
        generator: draws.

    Returns:
        The numbers of the rows of both parts, in order.

    Raises:
        ValueError: a part would be empty.
    """
    order = generator.permutation(n)
    groups = [order] if labels is None else [order[labels[order] == c] for c in np.unique(labels)]
    # Rounding each class by itself could leave none: the shares are rounded as they add up.
    ends = np.round(np.cumsum([fraction * len(group) for group in groups])).astype(int)
    counts = np.diff(ends, prepend=0)
    second = [group[:k] for group, k in zip(groups, counts, strict=True)]
    first = [group[k:] for group, k in zip(groups, counts, strict=True)]
    parts = np.sort(np.concatenate(first)), np.sort(np.concatenate(second))
    if not all(map(len, parts)):
        raise ValueError(
            f"validation_fraction={fraction:g} leaves {len(parts[0])} of {n} samples to train on "
            f"and {len(parts[1])} to validate on: both need some."
        )
    return parts


def start(
    model: Model,
    layers: Sequence[Layer],
    run: Run,
    *,
    place: Placement,
    dtype: str,
    generator: np.random.Generator,
) -> Position:
    """Return the position before the first step, whose arrays are copies.

    The generator draws the seed of dropout, if there is any.
    """
    masks = ()
    if rates := run.regularization.dropout:
        seed = int(generator.integers(2**63))
        masks = dropout.init_masks(rates, model.sizes, run.batch_size, seed, place=place)
    state = State(list(layers), run.optimizer.init(layers, place=place, dtype=dtype), masks)
    return Position(_copy(state, place.xp), 1, 0, 0, [], generator.bit_generator.state)


def _fused(model: Model, engine: Engine) -> Model:
    """Return the model with each σ and σ′ as one operation, where the engine can do that."""
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


def _copy(tree: Any, xp: Namespace) -> Any:
    """Return a nesting of tuples and lists with copies of the arrays in it."""
    return map_leaves(lambda array: xp.asarray(array, copy=True), tree)


def _chunks(
    data: Data, run: Run, generator: np.random.Generator, place: Placement, steps: int, step: int
) -> Iterator[list[Array]]:
    """Yield an epoch's mini-batches, chunk by chunk, the short last one as its own chunk.

    A chunk ends where the caller wants to look. ``steps`` are taken of this epoch, ``step`` of the
    run.
    """
    n, size = data.x.shape[0], run.batch_size
    if run.supply:
        cut = run.supply.start_epoch()
    else:
        cut = make_cut(data.arrays, generator.permutation(n) if run.shuffle else None, place)
    at_once = steps_at_once(place, size * (data.x.shape[1] + data.y.shape[1]))
    full, k = n // size, steps
    while k < full:
        to_look = (every - (step - steps + k) % every for every in run.look_every)
        at_most = min(at_once, full - k, *to_look)
        yield cut(k * size, at_most, size)
        k += at_most
    if k == full and (rest := n % size):
        yield cut(full * size, 1, rest)


def steps_at_once(place: Placement, entries: int) -> int:
    """Return how many steps are taken in a chunk, where a mini-batch has so many entries."""
    most_steps, most_entries = _CHUNK_ON_CPU if place.on_cpu else _CHUNK_ELSEWHERE
    return max(1, min(most_steps, most_entries // entries))


def make_cut(arrays: Sequence[Array], order: np.ndarray | None, place: Placement) -> Cut:
    """Return what cuts mini-batches from arrays.

    Args:
        arrays: arrays on the device, shape (N, ...) each; one order serves all.
        order: the numbers of the rows in the order of the epoch, on the host; None takes them as
            they come.
        place: library and device.
    """
    engine = engine_for(place.backend)
    rows_in_order = None if order is None else place.asarray(order)

    def cut(first: int, steps: int, size: int) -> list[Array]:
        rows = slice(first, first + steps * size)
        if rows_in_order is not None:
            return list(engine.compile(_gather, place.xp, steps)(rows_in_order[rows], *arrays))
        return [place.xp.reshape(v[rows, ...], (steps, size, *v.shape[1:])) for v in arrays]

    return cut


def _check_finite(
    cost: float,
    layers: Sequence[Layer],
    epoch: int,
    run: Run,
    rate: float | None,
    place: Placement,
) -> None:
    parts = are_finite((part for layer in layers for part in layer), xp=place.xp)
    finite = parts.reshape(-1, 2).all(axis=1)
    if math.isfinite(cost) and finite.all():
        return
    where = (
        "" if finite.all() else f"; the first layer that is not finite is layer {finite.argmin()}"
    )
    remedy = "a smaller learning rate" if rate is None else f"a learning rate below {rate:g}"
    if run.regularization.l2:
        remedy += f", l2 below {run.regularization.l2:g}"
    raise DivergenceError(
        f"the run diverged in epoch {epoch}: its mean cost is {cost:g}{where}. Try {remedy}, "
        "scaled inputs, or another initializer. The network keeps its parameters from "
        f"{f'epoch {epoch - 1}' if epoch > 1 else 'before the run'}."
    )
