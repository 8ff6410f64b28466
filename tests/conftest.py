"""Backends for the tests: every test of network mathematics runs on each that works here.

``--backends`` chooses among them; ``--require-backends`` makes the absence of one an error, so that
a skip can't hide.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from bp_xp.arrays import LIBRARIES, Placement, place
from bp_xp.errors import DeviceError

with contextlib.suppress(ImportError):
    import jax

    # The tests compare float64 trajectories on every backend.
    jax.config.update("jax_enable_x64", True)


class Target(NamedTuple):
    """A backend and a device that tests run on."""

    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.device}"


CPU_TARGETS = [
    Target("numpy", "cpu"),
    Target("array_api_strict", "cpu"),
    # Refuses silent conversion to NumPy and mixing of devices: it stands in for a GPU.
    Target("array_api_strict", "device1"),
    Target("torch", "cpu"),
    Target("jax", "cpu:0"),
]
GPU_TARGETS = [Target("cupy", "cuda:0"), Target("torch", "cuda:0"), Target("jax", "cuda:0")]


def _split(names: str) -> list[str]:
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := set(chosen) - set(LIBRARIES):
        raise pytest.UsageError(f"unknown backends {sorted(unknown)}: know {sorted(LIBRARIES)}")
    return chosen


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bp_xp")
    group.addoption("--backends", default="", help="run on these backends only: numpy,torch,...")
    group.addoption(
        "--require-backends", default="", help="fail unless these work here: numpy,torch,..."
    )


TARGETS = pytest.StashKey[list[Target]]()
ABSENT = pytest.StashKey[dict[Target, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than some seconds")
    wanted = _split(config.getoption("--backends")) or list(LIBRARIES)
    required = _split(config.getoption("--require-backends"))
    works: list[Target] = []
    absent: dict[Target, str] = {}
    for target in CPU_TARGETS + GPU_TARGETS:
        if target.backend not in wanted:
            absent[target] = "not among --backends"
            continue
        try:
            place(target.device, target.backend)
            works.append(target)
        except (ImportError, DeviceError) as error:
            absent[target] = str(error)
    for name in required:
        if not any(target.backend == name for target in works):
            reasons = [reason for target, reason in absent.items() if target.backend == name]
            raise pytest.UsageError(f"--require-backends: {name} does not work here: {reasons[0]}")
    config.stash[TARGETS], config.stash[ABSENT] = works, absent


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = [f"bp_xp runs on: {', '.join(map(str, config.stash[TARGETS]))}"]
    lines += [f"bp_xp not on {target}: {why}" for target, why in config.stash[ABSENT].items()]
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        targets = metafunc.config.stash[TARGETS]
        metafunc.parametrize("target", targets, ids=map(str, targets), scope="session")


@pytest.fixture
def backend(target: Target) -> str:
    """The name of the backend under test."""
    return target.backend


@pytest.fixture
def device(target: Target) -> str:
    """The name of the device under test."""
    return target.device


@pytest.fixture
def where(target: Target) -> Iterator[Placement]:
    """The library and device under test; arrays come from ``where.asarray``."""
    placement = place(target.device, target.backend)
    with placement.active():
        yield placement


@pytest.fixture
def xp(where: Placement):
    """The namespace under test."""
    return where.xp


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Each dtype that bp_xp computes in."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator on the host, with a fixed seed."""
    return np.random.default_rng(20150625)
