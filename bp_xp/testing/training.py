"""Training compared with a plain reference: a run of ``fit``, and the same run in textbook form.

The reference is a second implementation, in NumPy and float64: sample by sample, as in the book,
with the rules of optimizers and schedules from their papers. It shares no code with the step, the
optimizers, the schedules and the totals of an epoch; it takes σ, σ′, C and ∇C from the network,
which :func:`bp_xp.testing.check_gradients` checks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._typing import Layer
from bp_xp.backends import to_numpy
from bp_xp.network import Network
from bp_xp.testing._plainly import PlainRun
from bp_xp.training.arguments import as_optimizer
from bp_xp.training.callbacks import Callback
from bp_xp.training.history import History

__all__ = ["TrainingReport", "check_training"]

_TOLERANCES = {"float32": 1e-3, "float64": 1e-9}


@dataclass(frozen=True)
class TrainingReport:
    """How far a run is from the plain reference; prints as a line.

    Attributes:
        network: the network, in words.
        steps: the steps compared.
        epochs: the epochs whose costs and accuracies were compared.
        tolerance: the largest difference that passes, relative to the largest value of a tensor.
        difference: the largest difference.
    """

    network: str
    steps: int
    epochs: int
    tolerance: float
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.network}: {self.steps} steps and {self.epochs} epochs are those of the plain "
            f"reference, to {self.difference:.1e} (tolerance {self.tolerance:g})"
        )


def check_training(
    network: Network,
    x: Any,
    y: Any,
    *,
    optimizer: Any = "sgd",
    rule: Callable[..., Any] | None = None,
    epochs: int = 3,
    tolerance: float | None = None,
    **options: Any,
) -> TrainingReport:
    """Compare a run of ``fit`` with a plain reference in NumPy.

    The parameters are compared after each step. The mean cost and the accuracy, also of the
    validation data, are compared after each epoch. A copy is trained; the network does not change.

    Args:
        network: on any backend.
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets, shape (N, O).
        optimizer: as for ``fit``: one of bp_xp's, or one of your own with its ``rule``.
        rule: the rule of an optimizer of your own, for one parameter: a function (w, g, memory,
            rate) that returns the new w, all of them NumPy arrays but the learning rate, a number;
            memory is a dictionary for its own use, empty at first.
        epochs: passes over the samples.
        tolerance: the largest difference that passes, relative to the largest value of the tensor;
            None is 1e-9 for a network in float64, 1e-3 in float32.
        options: others of ``fit``: batch_size, shuffle, sample_weight, validation_data as (x, y) or
            (x, y, sample weights), trainable, l1, l2, clip_norm, clip_value, max_norm.

    Returns:
        A report, which prints as a line.

    Raises:
        AssertionError: the run differs; the message says after which step, where, and what to check
            first.
        TypeError: the reference does not have an option, or an optimizer has no rule.
        ValueError: as for ``fit``.

    Examples:
        >>> from bp_xp import Adam
        >>> network = Network([2, 3, 1], dtype="float64", seed=0)
        >>> x, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [[0], [1], [1], [0]]
        >>> check_training(network, x, y, optimizer=Adam(0.1), batch_size=2).steps
        6
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bp_xp.Network, not {network!r}.")
    for name in options:
        if name not in _TAKEN:
            hint = " (check_gradients takes it)" if name == "dropout" else ""
            raise TypeError(
                f"check_training does not take {name}{hint}: it takes {', '.join(_TAKEN)}."
            )
    if not isinstance(options.get("validation_data", ()), tuple | list):
        raise TypeError("check_training takes validation_data as (x, y) or (x, y, sample weights).")
    optimizer = as_optimizer(optimizer)
    tolerance = checks.check_number(
        _TOLERANCES[network.dtype] if tolerance is None else tolerance, "tolerance", above=0.0
    )
    here = network.placement
    trained = network.to(here.device_name, backend=here.backend_word, engine=here.engine_word)
    with here.active():
        samples = trained._samples(x, y, options.get("sample_weight"))
        plain = PlainRun(
            trained,
            [to_numpy(part).astype(np.float64) for part in samples.arrays],
            optimizer,
            rule,
            options,
        )
    watch = _Watch(plain, tolerance)
    history = trained.fit(
        x,
        y,
        optimizer=optimizer,
        epochs=epochs,
        callbacks=watch,
        progress=False,
        **options,
    )
    if watch.steps != plain.steps:
        raise AssertionError(f"fit took {watch.steps} steps, and the reference {plain.steps}.")
    return TrainingReport(repr(network), watch.steps, len(history), tolerance, watch.largest)


_TAKEN = (
    *("batch_size", "shuffle", "sample_weight", "validation_data", "trainable"),
    *("l1", "l2", "clip_norm", "clip_value", "max_norm"),
)


class _Difference(NamedTuple):
    """The largest difference of an array from that of the reference.

    Attributes:
        relative: how far they are apart, relative to the largest value.
        at: where.
        values: the reference's value, and the run's.
    """

    relative: float
    at: tuple[int, ...]
    values: tuple[float, float]


def _difference(wanted: np.ndarray, found: np.ndarray) -> _Difference:
    gaps = np.abs(wanted - found)
    gaps = np.where(np.isnan(gaps), np.inf, gaps)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(gaps), gaps.shape))
    scale = float(np.abs(wanted).max()) or 1.0
    return _Difference(float(gaps[at]) / scale, at, (float(wanted[at]), float(found[at])))


class _Watch(Callback):
    """Lets the reference take each step that the run takes, and compares.

    Attributes:
        steps: the steps so far.
        largest: the largest difference so far.
    """

    every = 1

    def __init__(self, plain: PlainRun, tolerance: float) -> None:
        self._plain, self._tolerance = plain, tolerance
        self.steps, self.largest = 0, 0.0

    def on_epoch_start(self, network: Any, history: History) -> None:
        """Let the reference draw the order of the samples."""
        self._plain.start_epoch(history)

    def on_steps(self, network: Any, history: History, step: int) -> None:
        """Compare the parameters after a step."""
        self.steps = step
        self._plain.step()
        for l, (mine, layer) in enumerate(zip(self._plain.layers, network.layers, strict=True)):  # noqa: E741
            for name, wanted, found in zip(Layer._fields, mine, layer, strict=True):
                self._compare(f"{name} of layer {l + 1}", wanted, to_numpy(found), self._suspects())

    def on_epoch_end(self, network: Any, history: History) -> None:
        """Compare the totals of an epoch."""
        record = history[-1]
        for name, wanted in self._plain.totals().items():
            found = getattr(record, name)
            if (found is None) != (wanted is None):
                raise AssertionError(f"the record of epoch {record.epoch} has {name} {found!r}.")
            if wanted is not None and math.isfinite(wanted):
                self._compare(
                    f"{name.replace('_', ' ')} of epoch {record.epoch}",
                    np.asarray(wanted),
                    np.asarray(found, np.float64),
                    "how costs and accuracies are computed and added up",
                )

    def _suspects(self) -> str:
        rate = self._plain.rates
        names = [f"the optimizer {self._plain.optimizer!r}"]
        names += (
            [f"its schedule, which is {rate[0]:.6g} in this step"] if self._plain.scheduled else []
        )
        names += [name for name in ("l1", "l2", *_LIMITS) if self._plain.options.get(name)]
        names += ["the weights of the samples"] if self._plain.weighted else []
        return f"{', '.join(names)}; and at backpropagation, which check_gradients checks"

    def _compare(self, name: str, wanted: np.ndarray, found: np.ndarray, suspects: str) -> None:
        one = _difference(wanted, found.astype(np.float64))
        self.largest = max(self.largest, one.relative)
        if one.relative <= self._tolerance:
            return
        where = f" at {list(one.at)}" if one.at else ""
        raise AssertionError(
            f"after step {self.steps}, {name}{where} is {one.values[1]:.10g}, and "
            f"{one.values[0]:.10g} by the plain reference: off by {one.relative:.2g} of the "
            f"largest value (tolerance {self._tolerance:g}). Look at {suspects}."
        )


_LIMITS: Sequence[str] = ("clip_norm", "clip_value", "max_norm")
