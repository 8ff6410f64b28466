"""Successive halving: settings that fall behind are dropped, and the others continue."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bp_xp import checks
from bp_xp.sweeps.runs import Stack, SweepRun

__all__ = ["Halving", "keep_settings"]


@dataclass(frozen=True)
class Halving:
    """How successive halving drops settings.

    All settings take a few epochs; the best share continues to ``factor`` times as many, and so on,
    until the few that are left take all epochs. A network continues from its current state.

    Args:
        factor: one in this many settings continues; at least 2.
        least_epochs: the number of epochs after which settings are first compared; None chooses it
            so that one setting is left at the end.

    Raises:
        ValueError, TypeError: a number is out of its range.

    References:
        Jamieson and Talwalkar, *Non-stochastic best arm identification and hyperparameter
        optimization*, AISTATS 2016. Li et al., *Hyperband*, JMLR 2018.

    Examples:
        >>> Halving(3).rungs(n_settings=27, epochs=30)
        [1, 3, 10, 30]
    """

    factor: int = 3
    least_epochs: int | None = None

    def __post_init__(self) -> None:
        checks.check_integer(self.factor, "factor", least=2)
        if self.least_epochs is not None:
            checks.check_integer(self.least_epochs, "least_epochs")

    def rungs(self, n_settings: int, epochs: int) -> list[int]:
        """Return the epochs after which settings are compared; the last of them is ``epochs``."""
        least = self.least_epochs or 1
        rungs, left, here = [epochs], n_settings, float(epochs)
        while left > 1:
            left, here = math.ceil(left / self.factor), here / self.factor
            if round(here) < max(least, 1):
                break
            rungs.insert(0, round(here))
        return rungs

    def n_kept(self, n_settings: int) -> int:
        """Return how many settings continue."""
        return math.ceil(n_settings / self.factor)


def keep_settings(
    stacks: Iterable[Stack], kept: Sequence[int]
) -> tuple[list[Stack], list[SweepRun]]:
    """Return the stacks of the runs that continue, and the results of those that do not.

    Args:
        stacks: all that have trained.
        kept: the numbers of the settings that continue; their runs that diverged do not.
    """
    going: list[Stack] = []
    ended: list[SweepRun] = []
    for stack in stacks:
        rows = [
            row
            for row, result in enumerate(stack.results)
            if result.number in kept and not result.diverged
        ]
        ended += [
            result if result.diverged else replace(result, stopped="dropped")
            for row, result in enumerate(stack.results)
            if row not in rows
        ]
        if rows:
            going.append(stack.take(rows))
    return going, ended
