"""What only this project's tests need: the backends come from the plugin of bp_xp.testing.

``--bp-xp-backends`` chooses among them; ``--require-backends`` makes the absence of one an error,
so that a skip can't hide.
"""

import contextlib

import numpy as np
import pytest

from bp_xp.backends import Placement
from bp_xp.engines import replay
from bp_xp.testing.targets import Target

with contextlib.suppress(ImportError):
    import jax

    # The tests compare float64 trajectories on every backend.
    jax.config.update("jax_enable_x64", True)

# Tests take few steps, and are of what is recorded: at the first step, and CuPy's at the eighth.
replay._STEPS_BEFORE = 1


@pytest.fixture(scope="session")
def target(bp_xp_target: Target) -> Target:
    """The backend and the device under test, as a pair of names."""
    return bp_xp_target


@pytest.fixture(scope="session")
def where(placement: Placement) -> Placement:
    """The library and device under test; arrays come from ``where.asarray``."""
    return placement


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator on the host, with a fixed seed."""
    return np.random.default_rng(20150625)
