"""Elementwise functions as one launch, on a stand-in for CuPy; and as the real one traces them."""

import re

import cupy_like
import numpy as np
import pytest

from bp_xp import ACTIVATIONS, Activation, Network, OutOfMemoryError
from bp_xp.backends import LIBRARIES
from bp_xp.backends.cupy import fusing
from bp_xp.engines import Report

ELEMENTWISE = [one for one in ACTIVATIONS.values() if not one.coupled]


@pytest.fixture(autouse=True)
def nothing_fused_yet():
    fusing._fused.cache_clear()
    yield
    fusing._fused.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(LIBRARIES["cupy"], "_works", set())
    with cupy_like.installed(monkeypatch) as library:
        yield library


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=lambda one: one.name)
def test_an_activation_is_one_launch_and_leaves_its_argument_alone(gpu, activation):
    host = np.linspace(-3.0, 3.0, 7)
    z = gpu.asarray(host)
    plainly = activation.sigma(host, xp=np)
    with gpu.counted_launches() as launched:
        a = fusing.fuse(activation.sigma)(z, xp=gpu)
        slope = fusing.fuse(activation.sigma_prime)(z, a, xp=gpu)
    assert len(launched) == 2
    np.testing.assert_array_equal(a.get(), plainly)
    np.testing.assert_array_equal(slope.get(), activation.sigma_prime(host, plainly, xp=np))
    np.testing.assert_array_equal(z.get(), host)


class CompileException(Exception):  # noqa: N818 - the name that CuPy gives it
    """CuPy's, which is none of the built-in errors."""


def failing(gpu, monkeypatch, error):
    """Let what is fused fail; return how often it was tried."""
    tried = []

    def fuse(*, kernel_name):
        def fused(*arrays):
            tried.append(kernel_name)
            raise error

        return lambda function: fused

    monkeypatch.setattr(gpu, "fuse", fuse)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        TypeError("Unsupported type"),
        CompileException("nvrtc: error: invalid kernel name"),
        KeyError("d"),
        RuntimeError("CUDA_ERROR_INVALID_SOURCE"),
        AssertionError(),
    ],
    ids=lambda one: type(one).__name__,
)
def test_whatever_fusing_fails_with_the_function_serves_as_it_is(gpu, monkeypatch, error):
    tried = failing(gpu, monkeypatch, error)
    z, sigma = gpu.asarray([-1.0, 2.0]), ACTIVATIONS["relu"].sigma
    for _ in range(2):  # a later run is told as well, and tries no more
        report = Report("cupy", "kernels")
        with fusing.told_to(report):
            a = fusing.fuse(sigma)(z, xp=gpu)
        np.testing.assert_array_equal(a.get(), [0.0, 2.0])
        assert report.unfused.keys() == {"relu"}
        assert f"relu is not fused: {type(error).__name__}" in str(report)
    assert len(tried) == 1
    assert tried[0].isidentifier()


@pytest.mark.parametrize(
    "error", [UserWarning("slow"), MemoryError("8 GB"), RuntimeError("cudaErrorMemoryAllocation")]
)
def test_warnings_and_memory_are_no_fault_of_the_function(gpu, monkeypatch, error):
    failing(gpu, monkeypatch, error)
    with pytest.raises(type(error)):
        fusing.fuse(ACTIVATIONS["relu"].sigma)(gpu.asarray([1.0]), xp=gpu)


def test_a_run_tells_which_function_of_a_user_s_is_not_fused(gpu):
    def centered(z, *, xp):
        return z - xp.mean(z)

    own = Activation("centered", centered, lambda z, a, *, xp: xp.ones_like(z))
    network = Network([2, 3, 1], activation=own, device="cuda", seed=0)
    network.fit([[0.0, 1.0], [1.0, 0.0]], [[0.0], [1.0]], epochs=1, progress=False)
    told = str(network.explain())
    assert "centered is not fused: NotImplementedError: mean is not an elementwise function" in told
    assert told.count("is not fused") == 1


def test_a_run_that_has_no_memory_for_a_fused_function_says_so(gpu, monkeypatch):
    failing(gpu, monkeypatch, MemoryError("Out of memory allocating 512 bytes"))
    network = Network([2, 3, 1], device="cuda", seed=0)
    with pytest.raises(OutOfMemoryError, match="allocating 512 bytes"):
        network.fit([[0.0, 1.0]], [[0.0]], epochs=1, progress=False)


def test_a_function_without_a_hash_serves_as_it_is(gpu):
    class Sigma:
        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def __call__(self, z, *, xp):
            return xp.exp(z)

    sigma = Sigma()
    assert fusing.fuse(sigma) is sigma


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=lambda one: one.name)
def test_cupy_traces_every_activation(activation):
    # Tracing needs arrays with a shape and a dtype, but no device: these lie on the host.
    real = pytest.importorskip("cupy")
    namespace = pytest.importorskip("array_api_compat.cupy")
    from cupy._core import _fusion_thread_local, fusion

    host = np.zeros((2, 2))
    memory = real.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    array = real.ndarray((2, 2), np.float32, real.cuda.MemoryPointer(memory, 0))
    thread = _fusion_thread_local.thread_local

    def traced(function, *arrays):
        fused = fusing.fuse(function)
        fused._xp = namespace
        history = fusion._FusionHistory()
        thread.history, thread.is_old_fusing = history, True
        try:
            return history.get_fusion(fused._kernel.func, arrays, fused._kernel.name)[0]
        finally:
            thread.history, thread.is_old_fusing = None, False

    for kernel in (traced(activation.sigma, array), traced(activation.sigma_prime, array, array)):
        assert [str(p.dtype) for p in kernel.out_params] == ["float32"]
        assert all(p.is_const for p in kernel.in_params)  # nothing of them is written to
        assert re.fullmatch(r"fused_\w+", kernel.name)
