"""Training: epochs over shuffled mini-batches, and the record that they leave.

Data is on the device before it starts, is shuffled and sliced there, and cost and accuracy are
summed there; the host asks for them once an epoch.
"""

import contextlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, overload

import numpy as np
from tqdm import tqdm

from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.arrays import Placement, are_finite, row_blocks, sum_rows, to_numpy
from bp_xp.backprop import Model, backpropagate, cost_of_samples, forward
from bp_xp.engines import Engine, Loop, Step, engine_for
from bp_xp.errors import DivergenceError
from bp_xp.optimizers import Optimizer, Update
from bp_xp.regularization import add_l2_gradient

__all__ = ["Data", "EpochRecord", "History", "Run", "evaluate", "make_step", "train"]

logger = logging.getLogger("bp_xp")

# Mini-batches are gathered in chunks that stay in a processor's cache.
_CHUNK_BYTES = 1 << 20
_CHUNK_STEPS = 64

_EVALUATION_ROWS = 4096


class Data(NamedTuple):
    """Samples with their targets, on one device.

    Attributes:
        x: inputs, shape (N, I).
        y: targets, shape (N, O).
        classes: whether each target is one class, so that an accuracy can be told.
    """

    x: Array
    y: Array
    classes: bool


class EpochRecord(NamedTuple):
    """What is known of one epoch.

    Attributes:
        epoch: its number, from 1.
        cost: mean cost over the training samples, each taken as its mini-batch was used, before
            the step; without the L2 term.
        accuracy: share of training samples told right, likewise; None where there are no classes.
        validation_cost: mean cost over the validation data after the epoch; None without any.
        validation_accuracy: share told right, likewise.
        seconds: time it took, validation included.
        samples_per_second: training samples a second.
    """

    epoch: int
    cost: float
    accuracy: float | None
    validation_cost: float | None
    validation_accuracy: float | None
    seconds: float
    samples_per_second: float

    def __str__(self) -> str:
        return f"epoch {self.epoch}  {self.values()}  {self.seconds:.2f} s"

    def values(self) -> str:
        """Return cost and accuracy as text."""
        parts = [f"cost {self.cost:.4f}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.2%}")
        if self.validation_cost is not None:
            parts.append(f"validation cost {self.validation_cost:.4f}")
        if self.validation_accuracy is not None:
            parts.append(f"validation accuracy {self.validation_accuracy:.2%}")
        return "  ".join(parts)


@dataclass
class History(Sequence[EpochRecord]):
    """The record of a training run: a sequence with an entry for each complete epoch.

    ``history["cost"]`` is the list of one value over all epochs, ``history[-1]`` the last epoch.

    Attributes:
        records: the entries.
        stopped: why the run ended: ``"epochs"`` (all were run) or ``"interrupt"`` (Ctrl-C, or
            ``should_stop``).
    """

    records: list[EpochRecord] = field(default_factory=list)
    stopped: str = "epochs"

    @overload
    def __getitem__(self, key: int) -> EpochRecord: ...
    @overload
    def __getitem__(self, key: slice | str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            if key not in EpochRecord._fields:
                raise KeyError(f"{key!r}: a record has {', '.join(EpochRecord._fields)}")
            return [getattr(record, key) for record in self.records]
        return self.records[key]

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        return "\n".join(map(str, self.records))


# ---------------------------------------------------------------------------------------------
# Pure functions of arrays: one step, one chunk of steps, one evaluation


def make_step(model: Model, update: Update, l2: float, xp: Namespace) -> Step:
    """Return the training step (state, x, y) -> (state, zᴸ); the state is (layers, optimizer's)."""

    def step(state: Any, x: Array, y: Array) -> tuple[Any, Array]:
        layers, optimizer_state = state
        gradients, z = backpropagate(model, layers, x, y, xp=xp)
        if l2:
            gradients = add_l2_gradient(gradients, layers, l2)
        forms = [(p.shape, p.dtype) for layer in layers for p in layer]
        state = update(layers, gradients, optimizer_state, xp=xp)
        _check_form(update, state[0], forms)
        return state, z

    return step


def _check_form(update: Update, layers: Sequence[Layer], forms: Sequence[tuple[Any, Any]]) -> None:
    """Refuse parameters of another shape or dtype than before: an optimizer's of a user's own."""
    for came, form in zip((p for layer in layers for p in layer), forms, strict=True):
        if (came.shape, came.dtype) != form:
            raise ValueError(
                f"{getattr(update, '__qualname__', update)} returns a parameter of shape "
                f"{tuple(came.shape)} and dtype {came.dtype}, where it was given {tuple(form[0])} "
                f"and {form[1]}. Beware of numpy.float64 numbers: they make arrays float64."
            )


def _chunk(
    model: Model,
    update: Update,
    l2: float,
    classes: bool,
    loop: Loop,
    xp: Namespace,
    state: Any,
    xs: Array,
    ys: Array,
) -> tuple[Any, Array]:
    """Take a step for each mini-batch of xs and ys; return the new state and the totals."""
    state, zs = loop(make_step(model, update, l2, xp), state, (xs, ys), xp=xp)
    flat = (-1, zs.shape[-1])
    return state, _totals(model, classes, xp, xp.reshape(zs, flat), xp.reshape(ys, flat))


def _gather(xp: Namespace, steps: int, rows: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the mini-batches of some rows of x and y, shapes (steps, batch, I) and (.., O)."""
    xs, ys = (xp.take(values, rows, axis=0) for values in (x, y))
    return xp.reshape(xs, (steps, -1, x.shape[1])), xp.reshape(ys, (steps, -1, y.shape[1]))


def _evaluation(
    model: Model, classes: bool, xp: Namespace, layers: Sequence[Layer], x: Array, y: Array
) -> Array:
    """Return the totals of samples that are not trained on."""
    return _totals(model, classes, xp, forward(model, layers, x, xp=xp).zs[-1], y)


def _totals(model: Model, classes: bool, xp: Namespace, z: Array, y: Array) -> Array:
    """Return the sum of the samples' costs and the number told right, shape (2,)."""
    costs = cost_of_samples(model, z, y, xp=xp)
    cost = sum_rows(costs[:, None], xp=xp)[0]
    if not classes:
        return xp.stack([cost, 0.0 * cost])
    a = model.activations[-1].sigma(z, xp=xp)
    if a.shape[-1] == 1:
        right = (a > 0.5) == (y > 0.5)
    else:
        right = xp.argmax(a, axis=-1) == xp.argmax(y, axis=-1)
    return xp.stack([cost, xp.sum(xp.astype(right, z.dtype))])


def evaluate(
    model: Model, layers: Sequence[Layer], data: Data, *, place: Placement
) -> tuple[float, float | None]:
    """Return mean cost and accuracy over data; the accuracy is None where there are no classes."""
    judge = engine_for(place.backend).compile(_evaluation, model, data.classes, place.xp)
    totals = [
        judge(layers, data.x[rows, :], data.y[rows, :])
        for rows in row_blocks(data.x.shape[0], _EVALUATION_ROWS)
    ]
    return _means(totals, data.x.shape[0], data.classes, place)


def _means(
    totals: Sequence[Array], n: int, classes: bool, place: Placement
) -> tuple[float, float | None]:
    """Bring totals to the host, all at once, and divide by the number of samples."""
    cost, right = to_numpy(place.xp.stack(list(totals))).astype(np.float64).sum(axis=0) / n
    return float(cost), float(right) if classes else None


# ---------------------------------------------------------------------------------------------
# The loop over epochs


@dataclass(frozen=True)
class Run:
    """The settings of a training run, checked.

    Attributes:
        optimizer: how gradients move parameters.
        epochs: passes over the data.
        batch_size: samples in a mini-batch; the last of an epoch may be shorter.
        shuffle: whether each epoch has an order of its own.
        l2: strength of the L2 term, (l2/2) Σ w².
        progress: whether to show a bar on a terminal, or log a line an epoch without one.
        should_stop: asked between chunks of steps whether the run shall end.
    """

    optimizer: Optimizer
    epochs: int
    batch_size: int
    shuffle: bool
    l2: float
    progress: bool
    should_stop: Callable[[], bool]


def train(
    model: Model,
    layers: Sequence[Layer],
    data: Data,
    validation: Data | None,
    run: Run,
    *,
    place: Placement,
    dtype: str,
    generator: np.random.Generator,
) -> Generator[tuple[list[Layer], EpochRecord | None], None, None]:
    """Train, handing over the parameters and the record after each epoch.

    Args:
        model: what the network computes.
        layers: its parameters at the start; left as they are.
        data: the training data.
        validation: data to evaluate after each epoch, or None.
        run: the settings.
        place: library and device of all arrays.
        dtype: the network's dtype.
        generator: draws the order of the samples, on the host.

    Yields:
        A copy of the parameters, and the record of the epoch. After an interruption (Ctrl-C, or
        ``should_stop``) the last pair holds the parameters of the last complete step, and None.

    Raises:
        ValueError: the optimizer returns parameters of another shape or dtype.
        DivergenceError: the cost or a parameter is no longer finite at the end of an epoch.
    """
    xp = place.xp
    n = data.x.shape[0]
    engine = engine_for(place.backend)
    settings = (
        _fused(model, engine),
        run.optimizer.update,
        run.l2,
        data.classes,
        engine.new_loop(),
        xp,
    )
    chunk = engine.compile(_chunk, *settings, consumes=True)
    state = _copy((layers, run.optimizer.init(layers, place=place, dtype=dtype)), xp)
    with _Interruption() as interruption, _Progress(run, n) as progress:
        for epoch in range(1, run.epochs + 1):
            start = time.perf_counter()
            progress.start(epoch)
            totals = []
            for xs, ys in _chunks(data, run, generator, place):
                # A run that overflows ends in a DivergenceError, which says more than a warning.
                with np.errstate(over="ignore", invalid="ignore"):
                    state, total = chunk(state, xs, ys)
                totals.append(total)
                progress.advance(xs.shape[0] * xs.shape[1], total)
                if interruption.asked or run.should_stop():
                    yield _copy(state[0], xp), None
                    return
            cost, accuracy = _means(totals, n, data.classes, place)
            _check_finite(cost, state[0], epoch, run, place)
            judged = (
                evaluate(model, state[0], validation, place=place) if validation else (None, None)
            )
            seconds = time.perf_counter() - start
            record = EpochRecord(epoch, cost, accuracy, *judged, seconds, n / seconds)
            progress.finish(record)
            yield _copy(state[0], xp), record


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
    data: Data, run: Run, generator: np.random.Generator, place: Placement
) -> Iterator[tuple[Array, Array]]:
    """Yield an epoch's mini-batches, chunk by chunk, the short last one as its own chunk.

    One permutation, drawn on the host, orders inputs and targets alike.
    """
    n, size, engine = data.x.shape[0], run.batch_size, engine_for(place.backend)
    order = place.asarray(generator.permutation(n)) if run.shuffle else None

    def cut(first: int, steps: int, size: int) -> tuple[Array, Array]:
        rows = slice(first, first + steps * size)
        if order is not None:
            return engine.compile(_gather, place.xp, steps)(order[rows], data.x, data.y)
        x, y = (
            place.xp.reshape(values[rows, :], (steps, size, values.shape[1]))
            for values in (data.x, data.y)
        )
        return x, y

    batch_bytes = size * (data.x.shape[1] + data.y.shape[1]) * 8
    at_once = max(1, min(_CHUNK_STEPS, _CHUNK_BYTES // batch_bytes))
    full = n // size
    for k in range(0, full, at_once):
        yield cut(k * size, min(at_once, full - k), size)
    if rest := n % size:
        yield cut(full * size, 1, rest)


def _check_finite(
    cost: float, layers: Sequence[Layer], epoch: int, run: Run, place: Placement
) -> None:
    parts = are_finite((part for layer in layers for part in layer), xp=place.xp)
    finite = parts.reshape(-1, 2).all(axis=1)
    if math.isfinite(cost) and finite.all():
        return
    where = (
        "" if finite.all() else f"; the first layer that is not finite is layer {finite.argmin()}"
    )
    rate = getattr(run.optimizer, "learning_rate", None)
    remedy = "a smaller learning rate" if rate is None else f"a learning rate below {rate:g}"
    if run.l2:
        remedy += f", l2 below {run.l2:g}"
    raise DivergenceError(
        f"the run diverged in epoch {epoch}: its mean cost is {cost:g}{where}. Try {remedy}, "
        "scaled inputs, or another initializer. The network keeps its parameters from "
        f"{f'epoch {epoch - 1}' if epoch > 1 else 'before the run'}."
    )


# ---------------------------------------------------------------------------------------------
# People: progress, and Ctrl-C


class _Progress:
    """A bar on a terminal; a log line an epoch where there is none."""

    def __init__(self, run: Run, n: int) -> None:
        self._run = run
        terminal = run.progress and sys.stderr is not None and sys.stderr.isatty()
        self._bar = (
            tqdm(total=run.epochs * n, unit=" samples", unit_scale=True, mininterval=0.2)
            if terminal
            else None
        )
        self._looked = time.monotonic()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, epoch: int) -> None:
        """Say which epoch it is."""
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {epoch}/{self._run.epochs}", refresh=False)

    def advance(self, samples: int, totals: Array) -> None:
        """Move the bar; the cost is fetched from the device a few times a second at the most."""
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._looked > 0.25:
            self._looked = now
            self._bar.set_postfix_str(f"cost {to_numpy(totals)[0] / samples:.4f}", refresh=False)
        self._bar.update(samples)

    def finish(self, record: EpochRecord) -> None:
        """Report an epoch."""
        if self._bar is not None:
            self._bar.set_postfix_str(record.values(), refresh=False)
        elif self._run.progress:
            logger.info("%s", record)


class _Interruption(contextlib.AbstractContextManager["_Interruption"]):
    """Turns the first Ctrl-C into a request that is looked at between chunks.

    A step that is under way is completed, so that no layer is ahead of another. The second Ctrl-C
    is the usual KeyboardInterrupt. Only the main thread may handle signals, and a handler of the
    program's own is left in place.
    """

    def __init__(self) -> None:
        self.asked = False
        self._handles = False

    def __enter__(self) -> "_Interruption":
        self._handles = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._handles:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._handles = False

    def _ask(self, *_: object) -> None:
        self.asked = True
        self._restore()
