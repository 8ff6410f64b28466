"""Schedules that rise as well as fall: restarts, and one cycle."""

import itertools
from dataclasses import dataclass

from bp_xp import checks
from bp_xp.optim.schedules import half_wave

__all__ = ["CosineDecayRestarts", "OneCycle"]


@dataclass(frozen=True)
class CosineDecayRestarts:
    """A rate that falls along half a cosine wave, and restarts from the top in each cycle.

    η(t) = final + ½ (initial − final) (1 + cos(π s / T))

    where s counts the steps of a cycle and T is the length of the cycle: ``steps`` for the first,
    and for each further cycle ``cycle_factor`` times that of the one before. The network is best at
    the end of a cycle.

    Args:
        initial: the rate at the start of each cycle, above 0.
        steps: the length of the first cycle.
        cycle_factor: the length of a cycle divided by that of the one before, an integer of at
            least 1.
        final: the limit that the rate falls toward, at least 0; the step that would reach it
            restarts the cycle.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``CosineAnnealingWarmRestarts(T_0=steps, T_mult=cycle_factor, eta_min=final)``,
    stepped after each mini-batch.

    References:
        Loshchilov & Hutter, *SGDR: stochastic gradient descent with warm restarts*, ICLR 2017,
        eq. (5).

    Examples:
        >>> schedule = CosineDecayRestarts(0.5, steps=2, cycle_factor=2)
        >>> [round(schedule(step), 3) for step in range(7)]
        [0.5, 0.25, 0.5, 0.427, 0.25, 0.073, 0.5]
    """

    initial: float
    steps: int
    cycle_factor: int = 1
    final: float = 0.0

    def __post_init__(self) -> None:
        checks.check_number(self.initial, "initial", above=0.0)
        checks.check_integer(self.steps, "steps")
        checks.check_integer(self.cycle_factor, "cycle_factor")
        checks.check_number(self.final, "final", least=0.0)

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        length = self.steps
        if self.cycle_factor == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.cycle_factor
        return half_wave(self.initial, self.final, step / length)


@dataclass(frozen=True)
class OneCycle:
    """A rate that rises to its maximum and falls far below its start: one cycle for a whole run.

    The rate starts at largest / first_divisor, reaches ``largest`` at step ``rise`` · steps − 1,
    and falls to largest / (first_divisor · last_divisor) at the last step, and stays there. With
    three phases it first falls to its initial value, as fast as it rose, and then to its final
    value. A phase is half a cosine wave, or a straight line.

    The paper lowers the momentum while the rate rises. Here the momentum does not change.

    Args:
        largest: the largest rate, above 0.
        steps: the number of steps of the whole run.
        rise: the share of the steps in which the rate rises, from 0 to below 1; with three phases
            at most ½.
        first_divisor: the largest rate divided by the first, above 0.
        last_divisor: the first rate divided by the last, above 0.
        linear: whether the phases are straight lines.
        three_phases: whether the rate falls to its initial value before it falls further.

    Raises:
        ValueError: a number is out of range or not finite.
        TypeError: it is not a number.

    In PyTorch: ``OneCycleLR(max_lr=largest, total_steps=steps, pct_start=rise,
    div_factor=first_divisor, final_div_factor=last_divisor, cycle_momentum=False)``, stepped after
    each mini-batch, with ``anneal_strategy="linear"`` or ``three_phase=True``. A step beyond the
    last is an error there.

    References:
        Smith & Topin, *Super-convergence: very fast training of neural networks using large
        learning rates*, 2018. Defaults are those of ``torch.optim.lr_scheduler.OneCycleLR``.

    Examples:
        >>> schedule = OneCycle(1.0, steps=11, rise=0.5, linear=True)
        >>> [round(schedule(step), 3) for step in (0, 4, 5, 10, 99)]
        [0.04, 0.893, 0.909, 0.0, 0.0]
    """

    largest: float
    steps: int
    rise: float = 0.3
    first_divisor: float = 25.0
    last_divisor: float = 1e4
    linear: bool = False
    three_phases: bool = False

    def __post_init__(self) -> None:
        checks.check_number(self.largest, "largest", above=0.0)
        checks.check_integer(self.steps, "steps")
        checks.check_number(self.rise, "rise", least=0.0, below=1.0)
        checks.check_number(self.first_divisor, "first_divisor", above=0.0)
        checks.check_number(self.last_divisor, "last_divisor", above=0.0)
        if self.three_phases and self.rise > 0.5:
            raise ValueError(
                f"rise must be at most 0.5 with three phases, two of which have this length, not "
                f"{self.rise!r}."
            )

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        last, top = self.steps - 1, self.rise * self.steps - 1.0
        first = self.largest / self.first_divisor
        corners = [(0.0, first), (top, self.largest)]
        corners += [(2.0 * top, first)] if self.three_phases else []
        corners += [(float(last), first / self.last_divisor)]
        for (start, begin), (stop, end) in itertools.pairwise(corners):
            if step <= stop:
                share = (step - start) / (stop - start) if stop > start else 1.0
                if self.linear:
                    return (1.0 - share) * begin + share * end
                return half_wave(begin, end, share)
        return corners[-1][1]
