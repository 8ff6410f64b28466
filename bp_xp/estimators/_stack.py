"""Estimators of one shape that are fitted as one stack; see :mod:`bp_xp.training.stack`.

Each is fitted as if it were alone: with its own weights, order, settings, held-out samples and end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import check_random_state

from bp_xp._typing import Layer
from bp_xp.backends import Placement, to_numpy
from bp_xp.estimators._arrays import array_library
from bp_xp.estimators._prepared import Fitted
from bp_xp.estimators._run import Bookkeeper, make_solver, settings_of
from bp_xp.estimators._samples import (
    Samples,
    ScikitEpoch,
    ScikitOrder,
    mini_batches,
    penalty_numbers,
    scale_weights,
)
from bp_xp.estimators._settings import as_list, check_parameters, hidden_sizes
from bp_xp.estimators._solvers import PenalizedState
from bp_xp.math.initializers import make_generator
from bp_xp.network import Network
from bp_xp.sources import Epoch
from bp_xp.sources import Samples as Trained
from bp_xp.sources.sparse import is_sparse
from bp_xp.sources.stack import OwnEpoch, StackSource
from bp_xp.training.arguments import Settings
from bp_xp.training.divergence import row_of
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.looks import Position, copied, start
from bp_xp.training.stack import StackRun, stack_positions, stack_settings
from bp_xp.training.trainer import Observer, Run, train

__all__ = ["fit_stack", "form_of", "stays_here"]

# Each estimator of a stack may have its own value of these.
_OWN = {
    *("alpha", "learning_rate", "learning_rate_init", "power_t", "random_state", "tol", "momentum"),
    *("beta_1", "beta_2", "epsilon", "n_iter_no_change", "dropout", "solver"),
    *("validation_fraction", "hidden_layer_sizes", "max_fun", "restore_best_weights"),
}


def form_of(estimator: Any, X: Any, y: Any) -> Mapping[str, Any] | None:
    """Return what estimators of a stack have in common, or None for one that can't be in a stack.

    Args:
        estimator: the estimator, not fitted.
        X: its inputs.
        y: its targets.
    """
    given = estimator.get_params(deep=False)
    if stays_here(estimator) or given.get("class_weight") is not None:
        return None
    if given["solver"] == "lbfgs" or is_sparse(X) or is_sparse(y) or array_library(X) is not None:
        return None
    check_parameters(estimator)
    solver = make_solver(estimator).optimizer
    return {name: value for name, value in given.items() if name not in _OWN} | {
        "kind": type(estimator),
        "X": (np.shape(X), getattr(X, "dtype", None)),
        "y": len(np.unique(y)) if is_classifier(estimator) and np.ndim(y) == 1 else np.shape(y),
        "hidden": hidden_sizes(estimator.hidden_layer_sizes),
        "update": solver.update,
        "rates by layer": isinstance(getattr(solver, "learning_rate", None), list | tuple),
        "penalized": bool(estimator.alpha),
        "held out": estimator.validation_fraction if estimator.early_stopping else None,
        "dropout of inputs": len(as_list(estimator.dropout)) if _is_list(estimator.dropout) else 0,
    }


def stays_here(estimator: Any) -> bool:
    """Return whether a fit must run in this process, because of its arguments or its start."""
    given = estimator.get_params(deep=False)
    names = ("callbacks", "progress", "verbose", "warm_start", "distributed")
    return any(given[name] for name in names)


def _is_list(value: Any) -> bool:
    return isinstance(as_list(value), list)


class _Member(NamedTuple):
    """An estimator before its first step.

    Attributes:
        estimator: the estimator.
        network: its network.
        settings: the settings of its run.
        position: the position that it starts from.
        rows: the numbers of the rows that it learns, in the samples of all estimators.
        weights: how much each sample counts, shape (N,), or None.
        validation: the samples to evaluate after each epoch, or None.
        random: the generator of its order, or None.
    """

    estimator: Any
    network: Network
    settings: Settings
    position: Position
    rows: np.ndarray
    weights: np.ndarray | None
    validation: Samples | None
    random: np.random.RandomState | None


def fit_stack(
    estimators: Sequence[Any],
    samples: Sequence[tuple[Any, Any]],
    which: Sequence[int],
    weights: Sequence[Any],
) -> list[Fitted | None]:
    """Fit estimators of one form as a stack.

    Args:
        estimators: the estimators, not fitted.
        samples: the samples that they learn, as (X, y).
        which: for each estimator, the number of its samples.
        weights: how much each of these counts, shape (N,), for each estimator; either all are None
            or none is.

    Returns:
        The estimators, fitted; None for one that diverged, which ends in an error if fitted alone.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the run.
        ValueError, TypeError: as for ``fit``.
    """
    first = np.cumsum([0, *(np.shape(X)[0] for X, _ in samples)])
    placed: dict[int, Samples] = {}
    members = []
    for estimator, number, own in zip(estimators, which, weights, strict=True):
        member = _prepare(estimator, *samples[number], own, placed=placed, number=number)
        members.append(_among_all(member, first[number], first[-1]))
    placement, dtype = estimators[0]._where, members[0].network.dtype
    with placement.active():
        xp = placement.xp
        sets = [placed[number] for number in range(len(samples))]
        data = Trained(
            xp.concat([one.inputs for one in sets]), xp.concat([one.y for one in sets]), False
        )
        run = _make_run(members, data, placement, dtype)
        books = _Books(members)
        history = train(run, [books])
    if history.stopped == "interrupt":
        raise KeyboardInterrupt
    return [
        None if layers is None else _keep(member.estimator, layers, placement, m in books.over)
        for m, (member, layers) in enumerate(zip(members, books.layers, strict=True))
    ]


def _among_all(member: _Member, first: int, n: int) -> _Member:
    """Return a member with its rows and weights among the n samples of all members."""
    weights = member.weights
    if weights is not None:
        weights = np.pad(weights, (first, n - first - len(weights)))
    return member._replace(rows=member.rows + first, weights=weights)


def _keep(estimator: Any, layers: Sequence[Layer], placement: Placement, over: bool) -> Fitted:
    """Set the parameters of an estimator."""
    estimator._keep(layers, placement)
    return Fitted(estimator, converged=over)


def _prepare(
    estimator: Any, X: Any, y: Any, weights: Any, *, placed: dict[int, Samples], number: int
) -> _Member:
    """Return an estimator before its first step, as its ``fit`` prepares it."""
    hidden = hidden_sizes(estimator.hidden_layer_sizes)
    X, y = estimator._validate(X, y, reset=True)
    placement = estimator._where = estimator._place_for(X)
    dtype = estimator._dtype_for(X)
    random = estimator._random_state = check_random_state(estimator.random_state)
    with placement.active():
        samples = estimator._samples(X, y, weights, placement, dtype, fresh=True)
        placed.setdefault(number, samples)
        outputs = samples.y.shape[1]
        estimator._start([samples.inputs.shape[1], *hidden, outputs], dtype, random)
        estimator.n_outputs_ = outputs
        network = estimator._network(placement, dtype)
        rows, validation = np.arange(samples.inputs.shape[0]), None
        if estimator.early_stopping:
            rows, held = estimator._rows_to_hold_out(samples, random)
            validation = samples.rows(held, placement)
        solver = estimator._optimizer = make_solver(estimator)
        settings = settings_of(estimator, network, len(rows), solver)
        masked = bool(settings.regularization.dropout)
        generator = make_generator(random.randint(2**31) if masked else 0)
        position = start(
            network.model,
            network.layers,
            settings,
            placement=placement,
            dtype=dtype,
            generator=generator,
        )
    orders = random if estimator.shuffle else None
    return _Member(
        estimator, network, settings, position, rows, samples.weights, validation, orders
    )


def _make_run(
    members: Sequence[_Member], data: Trained, placement: Placement, dtype: str
) -> StackRun:
    """Return the run of a stack before its first step."""
    numbers = list(range(len(members)))
    settings = [one.settings for one in members]
    stacked = stack_settings(settings, numbers)
    where: dict[str, Any] = {"placement": placement, "dtype": dtype}
    first = members[0].network
    position = stack_positions(
        [one.position for one in members], settings, stacked.own_terms, first.sizes, **where
    )
    state = position.state
    if isinstance(state.optimizer, PenalizedState):
        # Each network has its own numbers for a mini-batch, even if they are equal at the start.
        names = ("decay", "share", "kept", "penalty")
        zeros = {name: placement.asarray(np.zeros(len(members)), dtype) for name in names}
        optimizer = state.optimizer._replace(**zeros)
        position = position._replace(state=state._replace(optimizer=optimizer))
    alphas = tuple(float(one.estimator.alpha) for one in members)
    source = _ScikitStack(
        data,
        placement,
        numbers,
        stacked.shuffle,
        rows=np.stack([one.rows for one in members]),
        given=("decay", "share", "kept") if any(alphas) else (),
        alphas=alphas,
        own_weights=_own_weights(members),
    )
    shown: Any = SimpleNamespace(_layers=[])
    orders: Any = _Orders([ScikitOrder(one.random, len(one.rows)) for one in members])
    return _StackRun(
        network=shown,
        model=first.model,
        source=source,
        validation=None,
        settings=stacked,
        position=position._replace(order=None),
        generator=orders,
        history=History(members=[History() for _ in members]),
        rows=numbers,
        **where,
    )


def _own_weights(members: Sequence[_Member]) -> np.ndarray | None:
    """Return how much each sample counts for each member, shape (M, N); None if all are equal."""
    each = [(one.weights, one.rows) for one in members if one.weights is not None]
    if all((weights[rows] == 1.0).all() for weights, rows in each):
        return None
    return np.stack([weights for weights, _ in each])


class _StackRun(StackRun):
    """The run of a stack that shows only the members in it."""

    def show(self, layers: Sequence[Layer]) -> None:
        """Show the parameters of the networks in the stack."""
        Run.show(self, layers)


class _Orders:
    """The orders of the members, which the trainer treats as a generator with a state."""

    def __init__(self, each: Sequence[ScikitOrder]) -> None:
        self.each = list(each)
        self.bit_generator = SimpleNamespace(state=None)


@dataclass(frozen=True)
class _ScikitStack(StackSource):
    """The mini-batches of a stack, with the numbers for scikit-learn's L2 term.

    Attributes:
        alphas: the strength of the term for each member.
        own_weights: how much each sample counts for each member, shape (members, N), or None.
    """

    alphas: tuple[float, ...] = ()
    own_weights: np.ndarray | None = None

    @property
    def weighted(self) -> bool:
        """Whether mini-batches have weights."""
        return self.own_weights is not None

    def start_epoch(self, batch_size: int, generator: Any) -> Epoch:
        """Return the next epoch."""
        orders, own = self.orders(generator), []
        _, counts = mini_batches(self.n_rows, batch_size)
        n, sums = self.samples.x.shape[0], np.tile(counts, (len(self.members), 1))
        if self.own_weights is not None:
            weights = self.own_weights[self.members]
            scaled, sums = scale_weights(np.take_along_axis(weights, orders, axis=1), batch_size)
            np.put_along_axis(weights, orders, scaled, axis=1)
            own = [self.placement.asarray(weights.ravel(), self.dtype)]
        return ScikitEpoch(
            OwnEpoch(
                self.samples.arrays,
                own,
                orders,
                n * np.arange(len(self.members)),
                batch_size=batch_size,
                placement=self.placement,
            ),
            self._numbers(counts, sums) if self.given else [],
        )

    def _numbers(self, counts: np.ndarray, sums: np.ndarray) -> list[Any]:
        """Return the numbers for the mini-batches of an epoch, shape (steps, M) each."""
        each = [
            penalty_numbers(self.alphas[m], counts, own)
            for m, own in zip(self.members, sums, strict=True)
        ]
        return [
            self.placement.asarray(np.stack(column, axis=1), self.dtype)
            for column in zip(*each, strict=True)
        ]


class _Books(Observer):
    """Records the runs of all estimators of a stack, and removes those that are done or diverged.

    Args:
        members: the estimators.

    Attributes:
        layers: the parameters that each ended with; None for one that diverged.
        over: the numbers of the estimators that ended before all epochs were taken.
    """

    def __init__(self, members: Sequence[_Member]) -> None:
        self._books = [
            Bookkeeper(one.estimator, len(one.rows), one.validation, one.network.layers)
            for one in members
        ]
        self.layers: list[Sequence[Layer] | None] = [None] * len(members)
        self.over: set[int] = set()
        for one in members:
            one.estimator.n_iter_ = 0

    def on_epoch_end(self, run: Any, record: EpochRecord) -> str | None:
        """Record an epoch of each; continue the stack without those that leave."""
        penalty = getattr(run.position.state.optimizer, "penalty", None)
        penalties = np.zeros(len(run.rows)) if penalty is None else to_numpy(penalty)
        leaving = set(run.diverged)
        for row, member in enumerate(run.rows):
            if row in run.diverged:
                self.layers[member] = None
                continue
            layers = copied(row_of(run.layers, row), run.placement.xp)
            alone: Any = SimpleNamespace(
                position=_with_penalty(penalties[row]),
                layers=layers,
                history=History(),
                model=run.model,
                placement=run.placement,
            )
            books = self._books[member]
            reason = books.on_epoch_end(alone, record.of_member(row))
            self.layers[member] = layers if books.best_layers is None else books.best_layers
            if reason:
                self.over.add(member)
                leaving.add(row)
        if len(leaving) == len(run.rows):
            return "early"
        if leaving:
            run.keep([row for row in range(len(run.rows)) if row not in leaving])
        return None


def _with_penalty(penalty: Any) -> Any:
    """Return a position with nothing but the penalty of its optimizer."""
    return SimpleNamespace(state=SimpleNamespace(optimizer=SimpleNamespace(penalty=penalty)))
