import pytest

from bp_xp import Network


@pytest.fixture
def make(target):
    """Network in float64, on the target."""

    def build(*args, **options):
        settings = {"backend": target.backend, "device": target.device, "dtype": "float64"}
        return Network(*args, **(settings | options))

    return build


@pytest.fixture
def data(rng):
    return rng.standard_normal((23, 3)), rng.integers(0, 2, 23)
