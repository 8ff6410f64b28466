"""The runs that a parity check compares: the reference, and the others."""

import math
from typing import Any, NamedTuple

import numpy as np

from bp_xp._caller import in_python
from bp_xp._typing import Layer
from bp_xp.backends import Placement, to_numpy
from bp_xp.errors import DivergenceError
from bp_xp.network import Network
from bp_xp.training.callbacks import Callback
from bp_xp.training.history import EpochRecord, History

__all__ = ["Difference", "Other", "Quantity", "Reference", "Values", "difference"]

# A bias whose gradient cancels holds only rounding errors. So a tensor's differences are relative
# to its own largest value, or to a thousandth of that of its layer if that is larger.
_LEAST_OF_LAYER = 1e-3


class Quantity(NamedTuple):
    """What an array holds: ``Quantity("W", 1)`` is W of layer 1; layer 0 means no layer."""

    name: str
    layer: int = 0

    def __str__(self) -> str:
        return f"{self.name} of layer {self.layer}" if self.layer else self.name


Values = dict[Quantity, np.ndarray]
"""The parameters of a network on the host, layer by layer, W and b; or the costs of an epoch."""


def _parameters(network: Network) -> Values:
    """Return the parameters on the host; training makes new arrays, so these are not copied."""
    return {
        Quantity(name, l): to_numpy(values)
        for l, layer in enumerate(network.layers, start=1)  # noqa: E741 - the book's index
        for name, values in zip(Layer._fields, layer, strict=True)
    }


def _costs(record: EpochRecord) -> Values:
    costs = {"cost": record.cost, "validation cost": record.validation_cost}
    return {
        Quantity(f"{name} of the epoch"): np.asarray(cost)
        for name, cost in costs.items()
        if cost is not None
    }


def _are_costs(values: Values) -> bool:
    return next(iter(values)).layer == 0


class Difference(NamedTuple):
    """Where, and by how much, an array differs the most from the reference's.

    Attributes:
        quantity: what the array holds.
        at: where in the array.
        values: the reference's value there, and the other one.
        absolute: how far apart they are.
        relative: the same, relative to the scale of the array.
    """

    quantity: Quantity
    at: tuple[int, ...]
    values: tuple[Any, Any]
    absolute: float
    relative: float


def difference(
    quantity: Quantity, ours: np.ndarray, theirs: np.ndarray, scale: float
) -> Difference:
    """Return the largest difference, which is infinite if only one side has a finite value."""
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    gaps = np.where((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)), 0.0, gaps)
    gaps = np.where(np.isnan(gaps), np.inf, gaps)
    at = tuple(int(i) for i in np.unravel_index(np.argmax(gaps), gaps.shape))
    absolute = float(gaps[at])
    relative = absolute / scale if scale else math.inf if absolute else 0.0
    return Difference(quantity, at, (ours[at], theirs[at]), absolute, relative)


class _Look(NamedTuple):
    """What the reference holds at one moment.

    Attributes:
        step: the steps taken.
        values: the parameters, or the costs of the epoch that has just ended.
        scales: what differences are relative to.
    """

    step: int
    values: Values
    scales: dict[Quantity, float]


class _Run(Callback):
    """Looks at the parameters of a run after every ``every`` steps, and at the costs of each epoch.

    Attributes:
        network: the network.
        placement: where it is.
        limit: the steps to take.
        every: the steps between two looks.
        step: the steps taken so far.
        epochs: the complete epochs.
        orders: for each epoch, the steps before it, and the state of the generator that draws its
            order.
    """

    def __init__(self, network: Network, placement: Placement, limit: int, every: int) -> None:
        self.network, self.placement = network, placement
        self.limit, self.every = limit, every
        self.step, self.epochs = 0, 0
        self.orders: list[tuple[int, Any]] = []

    def __str__(self) -> str:
        return f"{self.placement.backend}-{self.placement.device_name}"

    def look(self, values: Values) -> bool:
        """Look at parameters or costs; return whether the run should end."""
        raise NotImplementedError

    def train(self, x: Any, y: Any, options: dict[str, Any]) -> None:
        """Train the network, and look at it during training."""
        if self.look(_parameters(self.network)):
            return
        options = {"progress": False} | options
        try:
            # An epoch has at least one step; the callback ends the run after ``limit`` steps.
            history = self.network.fit(x, y, epochs=self.limit, callbacks=[self], **options)
        except Exception as error:
            error.add_note(f"raised while training on {self}, in assert_parity")
            raise
        if history.stopped == "interrupt":
            raise KeyboardInterrupt

    def on_epoch_start(self, network: Network, history: History) -> None:
        """Keep the state of the generator that draws the order of the samples."""
        self.orders.append((self.step, network._generator.bit_generator.state))

    def on_steps(self, network: Network, history: History, step: int) -> bool:
        """Look at the parameters; the run ends one look later, so that its last epoch can end."""
        if step > self.limit:
            return True
        self.step = step
        return self.look(_parameters(network))

    def on_epoch_end(self, network: Network, history: History) -> bool:
        """Look at the costs."""
        self.epochs = len(history)
        return self.look(_costs(history[-1])) or self.step == self.limit


class Reference(_Run):
    """The run that the others are compared with.

    Attributes:
        looks: everything it has looked at.
        parameters: the parameters before the first step, and after each step that it looks at.
    """

    def __init__(self, network: Network, placement: Placement, limit: int, every: int) -> None:
        super().__init__(network, placement, limit, every)
        self.looks: list[_Look] = []
        self.parameters: list[Values] = []
        self._largest: dict[Quantity, float] = {}

    def look(self, values: Values) -> bool:
        """Keep the values."""
        for quantity, array in values.items():
            largest = float(np.abs(array).max())
            if not math.isfinite(largest):
                raise DivergenceError(
                    f"the reference {self} diverges: {quantity} is not finite after step "
                    f"{self.step}, so nothing can be compared after that. Use a smaller "
                    f"learning rate, or fewer steps{in_python(', or scaled inputs')}."
                )
            self._largest[quantity] = max(largest, self._largest.get(quantity, 0.0))
        scales = {
            quantity: max(
                self._largest[quantity],
                *(_LEAST_OF_LAYER * self._largest[q] for q in values if q.layer == quantity.layer),
            )
            for quantity in values
        }
        self.looks.append(_Look(self.step, values, scales))
        if not _are_costs(values):
            self.parameters.append(values)
        return False


class Other(_Run):
    """A run that is compared with the reference.

    Attributes:
        reference: the run of the reference.
        rtol: the largest difference that passes.
        fault: what is wrong, as the table shows it; empty if nothing is.
        differing: the differences that are too large, in order.
        differences: the largest difference before the first step, and after each compared step.
        where: the step and the tensor of the largest of them.
        parameters: those of the last two comparisons.
        error: the error of the run if it diverged.
    """

    def __init__(
        self, network: Network, placement: Placement, reference: Reference, rtol: float
    ) -> None:
        super().__init__(network, placement, reference.limit, reference.every)
        self.reference, self.rtol = reference, rtol
        self.fault = ""
        self.differing: list[Difference] = []
        self.differences: list[float] = []
        self.where = ""
        self.parameters: list[Values] = []
        self.error: DivergenceError | None = None
        self._looks = 0

    def train(self, x: Any, y: Any, options: dict[str, Any]) -> None:
        """Train the network, and look at it; the reference has finished before."""
        try:
            super().train(x, y, options)
        except DivergenceError as error:
            self.fault, self.error = f"diverges in epoch {self.epochs + 1}", error
        if not self.fault and self._looks < len(self.reference.looks):
            self.fault = f"ends after step {self.step} of {self.reference.step}"

    def look(self, values: Values) -> bool:
        """Compare the values with those of the reference at the same moment."""
        if self._looks == len(self.reference.looks):
            self.fault = f"continues after step {self.reference.step}, where the reference ends"
            return True
        look = self.reference.looks[self._looks]
        self._looks += 1
        found = [difference(q, look.values[q], values[q], look.scales[q]) for q in values]
        worst = max(found, key=lambda one: one.relative)
        if worst.relative > max(self.differences, default=0.0):
            self.where = f"step {look.step}, {worst.quantity}"
        if _are_costs(values):
            self.differences[-1] = max(self.differences[-1], worst.relative)
        else:
            self.differences.append(worst.relative)
            self.parameters = [*self.parameters[-1:], values]
        self.differing = [one for one in found if one.relative > self.rtol]
        if self.differing:
            self.fault = f"step {look.step}, {self.differing[0].quantity}"
        return bool(self.differing)
