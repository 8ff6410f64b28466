"""Runs that processes with a GPU each share, on a stand-in for CuPy; threads stand in for them."""

import threading

import cupy_like
import numpy as np
import pytest
from helpers import parameters
from threads import on_ranks

from bp_xp import Adam, Network
from bp_xp.backends import LIBRARIES, place
from bp_xp.backends.cupy import communicator
from bp_xp.ranks import mpi

X, Y = np.random.default_rng(0).standard_normal((21, 3)), np.arange(21) % 2
RUN = {"batch_size": 4, "optimizer": Adam(0.01), "dropout": 0.2, "progress": False}


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch):
    communicator._nccl_among.cache_clear()
    cupy_like.NcclCommunicator.streams.clear()
    monkeypatch.setattr(LIBRARIES["cupy"], "_works", set())
    with cupy_like.installed(monkeypatch):
        yield
    communicator._nccl_among.cache_clear()


def fitted(distributed=None, epochs=30, **where):
    """Return a network after a fit of enough steps for an engine to record one."""
    net = Network([3, 4, 2], cost="categorical_cross_entropy", dtype="float64", seed=0, **where)
    net.fit(X, Y, distributed=distributed, epochs=epochs, **RUN)
    return net


def of_mpi(devices, monkeypatch, **options):
    """Return the networks of two ranks of MPI that share a run, and the host's sums of each."""
    here = threading.local()
    monkeypatch.setattr(mpi, "world", lambda: here.world)

    def fit(world):
        world.meet = lambda: None
        here.world = world
        return fitted("mpi", device=devices[world.rank], **options), world.calls["total"]

    return zip(*on_ranks(2, fit), strict=True)


def test_nccl_adds_up_on_the_stream_of_the_steps(monkeypatch):
    nets, host_sums = of_mpi(["cuda:0", "cuda:1"], monkeypatch)
    alone = fitted()
    for net in nets:
        assert np.allclose(parameters(net), parameters(alone), rtol=0, atol=1e-11)
        told = net.explain()
        assert told.ran == "plain"
        assert "the step sums over processes, which a kernel cannot do" in str(told)
    assert host_sums == (0, 0)
    streams = cupy_like.NcclCommunicator.streams
    assert {one: streams.count(one) for one in streams} == {17: 180, 18: 180}


@pytest.mark.parametrize(
    ("devices", "missing", "why"),
    [
        (["cuda:1", "cuda:1"], False, "some of them share a GPU"),
        (["cuda:0", "cuda:1"], True, "rank 0 has no NCCL"),
    ],
    ids=["one GPU", "no NCCL"],
)
def test_the_host_adds_up_where_nccl_can_not(devices, missing, why, monkeypatch):
    monkeypatch.setattr(cupy_like.nccl, "available", not missing)
    with pytest.warns(RuntimeWarning, match=f"go through the host, since {why}") as told:
        nets, host_sums = of_mpi(devices, monkeypatch, epochs=2)
    assert len(told) == 1
    alone = parameters(fitted(epochs=2))
    assert all(np.allclose(parameters(net), alone, rtol=0, atol=1e-11) for net in nets)
    assert (host_sums, cupy_like.NcclCommunicator.streams) == ((12, 12), [])


def test_runs_of_the_same_processes_find_each_other_once(monkeypatch):
    monkeypatch.setattr(cupy_like.nccl, "get_unique_id", lambda made=[]: made.append(1) or b"one")

    def twice(world):
        cuda = LIBRARIES["cupy"]
        device = cuda.find(f"cuda:{world.rank}")
        return [cuda.among(world, device)._nccl for _ in range(2)]

    for first, second in on_ranks(2, twice):
        assert first is second is not None


@pytest.mark.parametrize("variable", communicator._LOCAL_RANKS)
def test_each_process_of_a_machine_has_a_gpu_of_its_own(variable, monkeypatch):
    for name in communicator._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    assert place("cuda").device_name == "cuda:0"
    for local, number in {"1": 1, "2": 0, "": 0}.items():
        monkeypatch.setenv(variable, local)
        assert place("cuda").device_name == place("auto", "cupy").device_name == f"cuda:{number}"
    assert place("cuda:0").device_name == "cuda:0"
