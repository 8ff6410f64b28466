"""Sweeps: runs over settings, seeds and folds, which are trained as stacks where possible."""

from bp_xp.sweeps.halving import Halving
from bp_xp.sweeps.results import SweepResult
from bp_xp.sweeps.runs import SweepRun
from bp_xp.sweeps.search import sweep
from bp_xp.sweeps.space import Distribution, choice, integers, log_uniform, uniform

__all__ = [
    "Distribution",
    "Halving",
    "SweepResult",
    "SweepRun",
    "choice",
    "integers",
    "log_uniform",
    "sweep",
    "uniform",
]
