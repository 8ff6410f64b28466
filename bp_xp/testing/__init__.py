"""Tools to check that a computation gives the same results on every array library and device.

They are for this project's tests and for those of other projects. The pytest plugin
(:mod:`bp_xp.testing.pytest_plugin`) is available once bp_xp is installed; everything here works
without pytest as well.
"""

from bp_xp.testing.assertions import assert_close
from bp_xp.testing.gradients import GradientReport, check_gradients
from bp_xp.testing.parity import ParityReport, assert_parity
from bp_xp.testing.training import TrainingReport, check_training
from bp_xp.testing.transfers import HostTransferError, no_host_transfer

__all__ = [
    "GradientReport",
    "HostTransferError",
    "ParityReport",
    "TrainingReport",
    "assert_close",
    "assert_parity",
    "check_gradients",
    "check_training",
    "no_host_transfer",
]
