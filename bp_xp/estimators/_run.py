"""What an estimator records of a run of gradient steps, as scikit-learn does."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning

from bp_xp import checks
from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.backends import Placement, library_of, to_numpy
from bp_xp.errors import DivergenceError
from bp_xp.estimators._samples import Samples, ScikitSource
from bp_xp.estimators._settings import as_list
from bp_xp.estimators._solvers import Momentum, Penalized, PlainAdam, Rate, Solver
from bp_xp.math import backprop
from bp_xp.math.initializers import make_generator
from bp_xp.math.model import Model
from bp_xp.network import Network
from bp_xp.ranks import Ranks
from bp_xp.sources.sparse import SparseInputs, cut_rows
from bp_xp.training.agreement import check_samples_alike, check_settings_alike, digest_of
from bp_xp.training.arguments import Settings, as_regularization
from bp_xp.training.callbacks import as_callback
from bp_xp.training.checkpoint import described
from bp_xp.training.evaluation import ROWS_AT_ONCE
from bp_xp.training.history import EpochRecord
from bp_xp.training.looks import Position, start
from bp_xp.training.trainer import Observer, Run, TellCallbacks, train

__all__ = [
    "Bookkeeper",
    "drawn_alike",
    "forget_runs",
    "make_solver",
    "settings_of",
    "take_steps",
    "warn_of_no_convergence",
]

_HINT = (
    "A callback sees a Network: the classes of a classifier are 0, 1, ... there, in the order of "
    "classes_."
)


def forget_runs(estimator: Any) -> None:
    """Start a new record of an estimator's runs."""
    estimator.loss_curve_ = []
    _forget_best(estimator)


def _forget_best(estimator: Any) -> None:
    """Reset the best value so far: a score with early stopping, and a loss without."""
    early = estimator.early_stopping
    estimator._no_improvement_count = 0
    estimator.validation_scores_ = [] if early else None
    estimator.best_validation_score_ = -np.inf if early else None
    estimator.best_loss_ = None if early else np.inf
    estimator.validation_loss_curve_ = None


def drawn_alike(random: np.random.RandomState, ranks: Ranks) -> np.random.RandomState:
    """Return a generator that draws the same on every process as on rank 0."""
    if not ranks.are_several:
        return random
    state = ranks.first(random.get_state)
    if ranks.rank:
        random = np.random.RandomState()
        random.set_state(state)
    return random


def take_steps(
    estimator: Any,
    network: Network,
    samples: Samples,
    validation: Samples | None,
    *,
    placement: Placement,
    dtype: str,
    incremental: bool,
    ranks: Ranks,
) -> Sequence[Layer]:
    """Train for ``fit`` or ``partial_fit`` with a solver that takes steps, using the trainer.

    Args:
        estimator: the estimator, with the parameters of the run; its attributes record the run.
        network: its network, with the parameters to start from.
        samples: what to train on.
        validation: the samples to evaluate after each epoch, or None.
        placement: library and device.
        dtype: the network's dtype.
        incremental: whether to take one pass, with the optimizer of the previous call.
        ranks: the processes that share the run.

    Returns:
        The parameters to keep.
    """
    if not incremental or not hasattr(estimator, "_optimizer"):
        estimator._optimizer = make_solver(estimator)
    solver: Solver = estimator._optimizer
    settings = settings_of(
        estimator,
        network,
        samples.inputs.shape[0],
        solver,
        epochs=1 if incremental else None,
        by_columns=isinstance(samples.inputs, SparseInputs),
    )
    masked = bool(settings.regularization.dropout)
    generator = make_generator(estimator._random_state.randint(2**31) if masked else 0)
    where: dict[str, Any] = {"placement": placement, "dtype": dtype, "generator": generator}
    position = start(network.model, network.layers, settings, **where)
    if solver.state is not None:
        position = _go_on(position, solver, estimator.alpha, placement, dtype)
    source = ScikitSource(
        samples,
        alpha=estimator.alpha,
        random=estimator._random_state if estimator.shuffle else None,
        placement=placement,
        dtype=dtype,
    )
    if ranks.are_several:
        _check_alike(estimator, network, source, ranks)
    run = Run(
        network=network,
        model=network.model,
        source=source.share(ranks.rank, ranks.size),
        validation=None,
        settings=replace(settings, progress=settings.progress and ranks.rank == 0),
        position=position,
        layers=network.layers,
        ranks=ranks,
        **where,
    )
    notes = Bookkeeper(estimator, samples.inputs.shape[0], validation, network.layers)
    callbacks = [as_callback(one) for one in estimator.callbacks or ()]
    estimator.n_iter_ = 0
    try:
        history = train(run, [notes, TellCallbacks(callbacks, _HINT)])
    except DivergenceError as error:
        notes.diverge(error)
        solver.keep(None)
    else:
        solver.keep(run.position)
        if history.stopped == "interrupt":
            warnings.warn("Training interrupted by user.", UserWarning, stacklevel=4)
        elif history.stopped == "epochs" and not incremental:
            warn_of_no_convergence(estimator, stacklevel=5)
    return run.layers if notes.best_layers is None else notes.best_layers


# What may differ between the processes that share a run.
_OF_A_PROCESS = ("callbacks", "progress", "verbose", "random_state", "distributed", "device")


def _check_alike(estimator: Any, network: Network, source: ScikitSource, ranks: Ranks) -> None:
    """Refuse to train on several processes if their estimators differ."""
    given = estimator.get_params(deep=False)
    names = [name for name in given if name not in _OF_A_PROCESS]
    parameters = {name: described(given[name]) for name in names}
    settings = {"parameters": parameters, "coefs_": digest_of(network.layers)}
    check_settings_alike(settings, network, ranks)
    check_samples_alike({"data": source.fingerprint()}, {"data": source}, ranks)


def warn_of_no_convergence(estimator: Any, *, stacklevel: int) -> None:
    """Warn that a run has taken all its epochs, as scikit-learn does."""
    warnings.warn(
        f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and the "
        "optimization hasn't converged yet.",
        ConvergenceWarning,
        stacklevel=stacklevel,
    )


def settings_of(
    estimator: Any,
    network: Network,
    n: int,
    solver: Solver,
    *,
    epochs: int | None = None,
    by_columns: bool = False,
) -> Settings:
    """Return the settings of a run over n samples; see :class:`Penalized`."""
    automatic = isinstance(estimator.batch_size, str)
    dropout = as_list(estimator.dropout)
    penalized = Penalized(solver.optimizer, by_columns)
    return Settings(
        optimizer=penalized if estimator.alpha else solver.optimizer,
        epochs=estimator.max_iter if epochs is None else epochs,
        batch_size=min(200, n) if automatic else checks.check_batch_size(estimator.batch_size, n),
        regularization=as_regularization(None, {"dropout": dropout}, len(network.sizes) - 2),
        shuffle=estimator.shuffle,
        progress=estimator.progress,
    )


def _go_on(
    fresh: Position, solver: Solver, alpha: float, placement: Placement, dtype: str
) -> Position:
    """Return the position whose optimizer has the state of the previous call."""

    def move(leaf: Array) -> Array:
        if library_of(leaf) is placement.library and leaf.dtype == placement.dtype(dtype):
            return placement.xp.asarray(leaf, copy=True)  # in its memory order
        host = to_numpy(leaf)
        moved = placement.asarray(host, dtype if host.dtype.kind == "f" else None)
        return placement.xp.asarray(moved, copy=True)  # a step overwrites its state

    state = map_leaves(move, solver.state)
    if alpha:
        state = Penalized(solver.optimizer).around(state, placement, dtype)
    masks = fresh.state.masks
    if [m.shape for m in leaves_of(masks)] == [m.shape for m in leaves_of(solver.masks)]:
        masks = map_leaves(move, solver.masks)
    state = fresh.state._replace(optimizer=state, masks=masks)
    return fresh._replace(state=state, step=solver.step)


class Bookkeeper(Observer):
    """Records in an estimator what happens in a run, and ends it as scikit-learn does.

    Args:
        estimator: the estimator.
        n_samples: how many samples are trained on.
        validation: the samples to evaluate after each epoch, or None.
        layers: the parameters at the start.

    Attributes:
        best_layers: the parameters to restore: those of the best score with early stopping, or of
            the smallest loss with ``restore_best_weights``; None without either.
    """

    def __init__(
        self,
        estimator: Any,
        n_samples: int,
        validation: Samples | None,
        layers: Sequence[Layer],
    ) -> None:
        self._estimator, self._n_samples, self._validation = estimator, n_samples, validation
        self._keeps_best = estimator.early_stopping or estimator.restore_best_weights
        self.best_layers: Sequence[Layer] | None = layers if self._keeps_best else None
        self._least = math.inf
        if not hasattr(estimator, "loss_curve_"):  # after a run of L-BFGS
            forget_runs(estimator)
        if estimator.early_stopping != (estimator.best_loss_ is None):
            _forget_best(estimator)  # of a run of the other kind
        if validation is not None and estimator.validation_loss_curve_ is None:
            estimator.validation_loss_curve_ = []
            estimator.validation_scores_ = []

    def on_epoch_end(self, run: Run, record: EpochRecord) -> str | None:
        """Record an epoch; return whether the run has stopped improving."""
        estimator = self._estimator
        estimator.n_iter_ += 1
        estimator.t_ += self._n_samples
        penalty = getattr(run.position.state.optimizer, "penalty", 0.0)
        loss = record.cost * estimator._loss_scale() + float(to_numpy(penalty))
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if self._speaks(run):
            print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        if self._validation is not None:
            record = self._judge(run, self._validation, record)
        else:
            self._see(loss, run.layers)
        run.history.records.append(record)
        if not estimator.early_stopping:
            self._count(worse=loss > estimator.best_loss_ - estimator.tol)
            estimator.best_loss_ = min(loss, estimator.best_loss_)
        return "early" if self._is_over(run) else None

    def _speaks(self, run: Run) -> bool:
        """Return whether to print: only one of the processes that share a run prints."""
        return self._estimator.verbose and run.ranks.rank == 0

    def _judge(self, run: Run, validation: Samples, record: EpochRecord) -> EpochRecord:
        """Record loss and score of the validation samples; return the record with both."""
        estimator = self._estimator
        loss, score = self._evaluate(run, validation)
        estimator.validation_loss_curve_.append(loss)
        estimator.validation_scores_.append(score)
        if self._speaks(run):
            print(f"Validation score: {score:f}")
        if estimator.early_stopping:
            self._count(worse=score < estimator.best_validation_score_ + estimator.tol)
            if score > estimator.best_validation_score_:
                estimator.best_validation_score_, self.best_layers = score, run.layers
        else:
            self._see(loss, run.layers)
        accuracy = score if is_classifier(estimator) else None
        return record._replace(
            validation_cost=loss, validation_accuracy=accuracy, metrics={"validation_score": score}
        )

    def _see(self, loss: float, layers: Sequence[Layer]) -> None:
        """Keep the parameters of the smallest loss."""
        if loss < self._least:
            self._least = loss
            self.best_layers = layers if self._keeps_best else None

    def _count(self, *, worse: bool) -> None:
        """Count the consecutive epochs without an improvement."""
        count = self._estimator._no_improvement_count
        self._estimator._no_improvement_count = count + 1 if worse else 0

    def _is_over(self, run: Run) -> bool:
        """Return whether the run has stopped improving; lower the learning rate if that helps."""
        estimator, rate = self._estimator, self._estimator._optimizer.rate
        if rate:
            rate.end_epoch(estimator.t_)
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return False
        lowered = rate is not None and rate.fall()
        if lowered:
            estimator._no_improvement_count = 0
        if self._speaks(run):
            what = "Validation score" if estimator.early_stopping else "Training loss"
            if lowered:
                then = f"Setting learning rate to {estimator._optimizer.learning_rate:f}"
            else:
                adaptive = rate is not None and rate.kind == "adaptive"
                then = "Learning rate too small. Stopping." if adaptive else "Stopping."
            print(
                f"{what} did not improve more than tol={estimator.tol:f} for "
                f"{estimator.n_iter_no_change} consecutive epochs. {then}"
            )
        return not lowered

    def _evaluate(self, run: Run, samples: Samples) -> tuple[float, float]:
        """Return the mean loss over samples, and the score."""
        estimator, placement = self._estimator, run.placement
        judge = placement.engine.map_rows(
            _costs_and_outputs, run.model, placement.xp, at_most=ROWS_AT_ONCE
        )
        with np.errstate(over="ignore", invalid="ignore"):
            judged = [
                judge(run.layers, x, cut_rows(samples.y, rows, placement))
                for rows, x in samples.blocks(placement)
            ]
        found = to_numpy(placement.library.join(judged))
        cost = np.average(found[:, 0].astype(np.float64), weights=samples.weights)
        predicted = estimator._decode(np.ascontiguousarray(found[:, 1:]))
        score = estimator._score_of(samples.truth, predicted, samples.score_weights)
        return float(cost) * estimator._loss_scale(), score

    def diverge(self, error: DivergenceError) -> None:
        """End a run that is no longer finite: in an error, unless a best epoch can be restored."""
        estimator = self._estimator
        if not estimator.early_stopping:
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                f"values and need to be preprocessed. In other words: {error}"
            ) from error
        estimator.n_iter_ += 1
        estimator.t_ += self._n_samples
        estimator.loss_ = math.nan
        for curve in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
            getattr(estimator, curve).append(math.nan)
        warnings.warn(
            f"{error} The weights of the best validation score are restored.",
            ConvergenceWarning,
            stacklevel=5,
        )


def make_solver(estimator: Any) -> Solver:
    """Return the optimizer that the parameters describe."""
    if not isinstance(estimator.solver, str):
        return Solver(estimator.solver)
    rate, eta = None, estimator.learning_rate_init
    if not isinstance(estimator.learning_rate, str):  # a schedule
        eta = estimator.learning_rate
    elif estimator.solver == "sgd":
        eta = rate = Rate(eta, estimator.learning_rate, estimator.power_t)
    if estimator.solver == "sgd":
        nesterov = bool(estimator.nesterovs_momentum)
        return Solver(Momentum(eta, float(estimator.momentum), nesterov), rate)
    return Solver(PlainAdam(eta, estimator.beta_1, estimator.beta_2, estimator.epsilon))


def _costs_and_outputs(
    model: Model, xp: Namespace, layers: Sequence[Layer], x: Array, y: Array
) -> Array:
    """Return the cost of each sample and its outputs, shape (N, 1 + O): one array to fetch."""
    trace = backprop.forward(model, layers, x, xp=xp)
    costs = backprop.cost_of_samples(model, trace.zs[-1], y, xp=xp)
    return xp.concat([costs[:, None], trace.activations[-1]], axis=1)
