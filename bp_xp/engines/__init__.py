"""Engines: ways to take many training steps, each suited to its library.

This folder has what engines share: the interface (``engine``), the plain loop (``plain``), the
report of a run (``report``), and for engines that record a step, the recorder, the replayed program
and the writer of CUDA kernels. The engines themselves are in the folders of their libraries
(:mod:`bp_xp.backends`): ``backends/NAME/engine.py``.

    step ──► recorder ──► program ──► replay
    pure     operations   lines, a     every mini-batch,
    function go past it   kernel       on the same memory
"""

from bp_xp.engines.engine import Elementwise, Engine, Loop, OneByOne, Step, argmax
from bp_xp.engines.plain import PLAIN
from bp_xp.engines.report import Report

__all__ = ["PLAIN", "Elementwise", "Engine", "Loop", "OneByOne", "Report", "Step", "argmax"]
