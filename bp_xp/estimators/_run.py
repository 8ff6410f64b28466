"""A run of gradient steps, noted down in an estimator as scikit-learn does."""

import contextlib
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning

from bp_xp import backprop, checks, training
from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.arrays import Placement, to_numpy
from bp_xp.backprop import Model
from bp_xp.callbacks import as_callback, due
from bp_xp.engines import engine_for
from bp_xp.errors import DivergenceError
from bp_xp.estimators._samples import Batches, Samples
from bp_xp.estimators._settings import as_list
from bp_xp.estimators._solvers import Momentum, Penalized, PlainAdam, Rate, Solver
from bp_xp.history import EpochRecord, History
from bp_xp.initializers import make_generator
from bp_xp.network import Network
from bp_xp.regularization import Regularization
from bp_xp.training import Data, Look, Position, Run

__all__ = ["StepRun", "forget_runs"]


def forget_runs(estimator: Any) -> None:
    """Begin the record of an estimator's runs anew."""
    estimator.loss_curve_ = []
    _forget_best(estimator)


def _forget_best(estimator: Any) -> None:
    """Forget the best so far, which is a score with early stopping and a loss without."""
    early = estimator.early_stopping
    estimator._no_improvement_count = 0
    estimator.validation_scores_ = [] if early else None
    estimator.best_validation_score_ = -np.inf if early else None
    estimator.best_loss_ = None if early else np.inf
    estimator.validation_loss_curve_ = None


class StepRun:
    """One call of ``fit`` or ``partial_fit`` with a solver that takes steps.

    :func:`bp_xp.training.train` takes them; here is what happens after each epoch.

    Args:
        estimator: the estimator, whose parameters say how, and in whose attributes it is noted.
        network: its network, with the parameters to start from.
        samples: what to train on.
        validation: what to look at after each epoch, or None.
        where: library and device.
        dtype: the network's dtype.
    """

    def __init__(
        self,
        estimator: Any,
        network: Network,
        samples: Samples,
        validation: Samples | None,
        where: Placement,
        dtype: str,
    ) -> None:
        self._estimator, self._network, self._where, self._dtype = estimator, network, where, dtype
        self._samples, self._validation = samples, validation
        self._callbacks = [as_callback(one) for one in estimator.callbacks or ()]
        self._history = History()
        self._best_layers: Sequence[Layer] = network.layers
        self._least = math.inf
        if not hasattr(estimator, "loss_curve_"):  # after a run of L-BFGS
            forget_runs(estimator)
        if estimator.early_stopping != (estimator.best_loss_ is None):
            _forget_best(estimator)  # of a run of the other kind
        if validation is not None and estimator.validation_loss_curve_ is None:
            estimator.validation_loss_curve_ = []
            estimator.validation_scores_ = []

    def take(self, *, incremental: bool) -> Sequence[Layer]:
        """Take the steps; return the parameters to keep.

        Args:
            incremental: whether to take one pass, with the optimizer of the call before.
        """
        estimator, network = self._estimator, self._network
        if not incremental or not hasattr(estimator, "_optimizer"):
            estimator._optimizer = _make_solver(estimator)
        solver: Solver = estimator._optimizer
        run = self._settings(solver, 1 if incremental else estimator.max_iter)
        masked = bool(run.regularization.dropout)
        generator = make_generator(estimator._random_state.randint(2**31) if masked else 0)
        where = {"place": self._where, "dtype": self._dtype, "generator": generator}
        position = training.start(network.model, network.layers, run, **where)
        if solver.state is not None:
            position = self._go_on(position, solver)
        data = Data(self._samples.inputs.values, self._samples.y, False, self._samples.weights)
        looks = training.train(network.model, data, None, run, self._history, position, **where)
        estimator.n_iter_ = 0
        layers: Sequence[Layer] = network.layers
        try:
            self._tell("on_train_start")
            self._tell("on_epoch_start")
            with contextlib.closing(looks):
                for look in looks:
                    layers, position = look.layers, look.position
                    self._history.steps = position.step
                    over = self._end_steps(look) if look.record is None else self._end_epoch(look)
                    if look.interrupted:
                        self._history.stopped = "interrupt"
                        warnings.warn("Training interrupted by user.", UserWarning, stacklevel=4)
                    elif over:
                        break
                    elif look.record is not None:
                        if incremental:
                            break
                        self._begin_epoch()
        except DivergenceError as error:
            self._diverge(error)
            position = None
        finally:
            self._tell("on_train_end")
        solver.keep(position)
        keeps_best = estimator.early_stopping or estimator.restore_best_weights
        return self._best_layers if keeps_best else layers

    def _settings(self, solver: Solver, epochs: int) -> Run:
        """Return the settings of the run."""
        estimator, n = self._estimator, self._samples.inputs.shape[0]
        automatic = isinstance(estimator.batch_size, str)
        size = min(200, n) if automatic else checks.check_batch_size(estimator.batch_size, n)
        terms = Regularization.checked(
            l1=0.0,
            l2=0.0,
            dropout=as_list(estimator.dropout),
            clip_norm=None,
            clip_value=None,
            max_norm=None,
            hidden=len(self._network.sizes) - 2,
        )
        batches = Batches(
            self._samples.inputs,
            self._samples.y,
            self._samples.weights,
            alpha=estimator.alpha,
            batch_size=size,
            random=estimator._random_state if estimator.shuffle else None,
            place=self._where,
            dtype=self._dtype,
        )
        return Run(
            Penalized(solver.optimizer) if estimator.alpha else solver.optimizer,
            epochs,
            size,
            estimator.shuffle,
            terms,
            look_every=[one.every for one in self._callbacks if one.every],
            progress=estimator.progress,
            supply=batches,
        )

    def _go_on(self, fresh: Position, solver: Solver) -> Position:
        """Return the position whose optimizer is where the call before left it."""

        def move(leaf: Array) -> Array:
            host = to_numpy(leaf)
            moved = self._where.asarray(host, self._dtype if host.dtype.kind == "f" else None)
            return self._where.xp.asarray(moved, copy=True)  # a step overwrites its state

        state = map_leaves(move, solver.state)
        if self._estimator.alpha:
            state = Penalized(solver.optimizer).around(state, self._where, self._dtype)
        masks = fresh.state.masks
        if [m.shape for m in leaves_of(masks)] == [m.shape for m in leaves_of(solver.masks)]:
            masks = map_leaves(move, solver.masks)
        state = fresh.state._replace(optimizer=state, masks=masks)
        return fresh._replace(state=state, step=solver.step)

    # -----------------------------------------------------------------------------------------
    # What happens after an epoch

    def _end_epoch(self, look: Look) -> bool:
        """Note down an epoch; return whether the run is over."""
        estimator, record = self._estimator, look.record
        assert record is not None
        estimator.n_iter_ += 1
        estimator.t_ += self._samples.inputs.shape[0]
        penalty = getattr(look.position.state.optimizer, "penalty", 0.0)
        loss = record.cost * estimator._loss_scale() + float(to_numpy(penalty))
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        if self._validation is not None:
            record = self._judge(look, self._validation, record)
        else:
            self._see(loss, look.layers)
        self._history.records.append(record)
        if not estimator.early_stopping:
            self._count(worse=loss > estimator.best_loss_ - estimator.tol)
            estimator.best_loss_ = min(loss, estimator.best_loss_)
        over = self._is_over()
        if over:
            self._history.stopped = "early"
        return self._asks_to_stop("on_epoch_end", look.layers) or over

    def _judge(self, look: Look, validation: Samples, record: EpochRecord) -> EpochRecord:
        """Note down loss and score of the validation samples; return the record with both."""
        estimator = self._estimator
        loss, score = self._evaluate(look.layers, validation)
        estimator.validation_loss_curve_.append(loss)
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        if estimator.early_stopping:
            self._count(worse=score < estimator.best_validation_score_ + estimator.tol)
            if score > estimator.best_validation_score_:
                estimator.best_validation_score_, self._best_layers = score, look.layers
        else:
            self._see(loss, look.layers)
        accuracy = score if is_classifier(estimator) else None
        return record._replace(
            validation_cost=loss, validation_accuracy=accuracy, metrics={"validation_score": score}
        )

    def _see(self, loss: float, layers: Sequence[Layer]) -> None:
        """Keep the parameters of the least loss."""
        if loss < self._least:
            self._least, self._best_layers = loss, layers

    def _count(self, *, worse: bool) -> None:
        """Count the epochs in a row that were no better."""
        count = self._estimator._no_improvement_count
        self._estimator._no_improvement_count = count + 1 if worse else 0

    def _is_over(self) -> bool:
        """Return whether the run has stopped improving; lower the learning rate if that helps."""
        estimator, rate = self._estimator, self._estimator._optimizer.rate
        if rate:
            rate.end_epoch(estimator.t_)
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return False
        lowered = rate is not None and rate.fall()
        if lowered:
            estimator._no_improvement_count = 0
        if estimator.verbose:
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

    def _begin_epoch(self) -> None:
        """Say that another epoch begins, or warn that none may."""
        if self._estimator.n_iter_ < self._estimator.max_iter:
            self._tell("on_epoch_start")
            return
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({self._estimator.max_iter}) reached and "
            "the optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=5,
        )

    def _evaluate(self, layers: Sequence[Layer], samples: Samples) -> tuple[float, float]:
        """Return the mean loss over samples, and the score."""
        estimator, xp = self._estimator, self._where.xp
        engine = engine_for(self._where.backend)
        judge = engine.compile(_costs_and_outputs, self._network.model, xp)
        costs, outputs = [], []
        with np.errstate(over="ignore", invalid="ignore"):
            for rows, x in samples.inputs.blocks():
                cost, a = judge(layers, x, samples.y[rows, :])
                costs.append(to_numpy(cost))
                outputs.append(to_numpy(a))
        cost = np.average(np.concatenate(costs).astype(np.float64), weights=samples.weights)
        predicted = estimator._decode(np.concatenate(outputs))
        score = estimator._score_of(samples.truth, predicted, samples.score_weights)
        return float(cost) * estimator._loss_scale(), score

    def _diverge(self, error: DivergenceError) -> None:
        """End a run that is no longer finite: in an error, unless there is a best to go back to."""
        estimator = self._estimator
        if not estimator.early_stopping:
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                f"values and need to be preprocessed. In other words: {error}"
            ) from error
        estimator.n_iter_ += 1
        estimator.t_ += self._samples.inputs.shape[0]
        estimator.loss_ = math.nan
        for curve in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
            getattr(estimator, curve).append(math.nan)
        warnings.warn(
            f"{error} The weights of the best validation score are restored.",
            ConvergenceWarning,
            stacklevel=5,
        )

    # -----------------------------------------------------------------------------------------
    # Callbacks

    def _tell(self, moment: str) -> None:
        """Call a method of each callback."""
        for callback in self._callbacks:
            try:
                getattr(callback, moment)(self._network, self._history)
            except (TypeError, ValueError) as error:
                error.add_note(
                    f"raised by {type(callback).__name__}. A callback sees a Network: the classes "
                    "of a classifier are 0, 1, ... there, in the order of classes_."
                )
                raise

    def _end_steps(self, look: Look) -> bool:
        """Tell the callbacks whose number of steps has been taken; return whether one stops."""
        step = look.position.step
        asked = due(self._callbacks, step)
        return self._asks_to_stop("on_steps", look.layers, step, callbacks=asked)

    def _asks_to_stop(
        self,
        moment: str,
        layers: Sequence[Layer],
        *arguments: Any,
        callbacks: Sequence[Any] | None = None,
    ) -> bool:
        """Call a method of callbacks with the parameters of now; return whether one asks to end."""
        callbacks = self._callbacks if callbacks is None else callbacks
        if not callbacks:
            return False
        self._network.layers = layers
        given = self._network, self._history, *arguments
        asked = any([getattr(one, moment)(*given) for one in callbacks])  # noqa: C419 - call all
        if asked:
            self._history.stopped = "callback"
        return asked


def _make_solver(estimator: Any) -> Solver:
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
) -> tuple[Array, Array]:
    """Return the cost of each sample, shape (N,), and the outputs, shape (N, O)."""
    trace = backprop.forward(model, layers, x, xp=xp)
    return backprop.cost_of_samples(model, trace.zs[-1], y, xp=xp), trace.activations[-1]
