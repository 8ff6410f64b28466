import builtins
import contextlib
import re
import subprocess
import sys
import types
import weakref
from dataclasses import replace

import numpy as np
import pytest

import bp_xp
from bp_xp import _optional
from bp_xp.backends import LIBRARIES, Library, dtype_name, place, placement, to_numpy
from bp_xp.backends.cupy import library as cupy_library
from bp_xp.errors import DeviceError, OutOfMemoryError


def test_a_placement_makes_arrays_of_its_library_on_its_device(where, backend, device, dtype):
    array = where.asarray([[1, 2], [3, 4]], dtype)

    assert where.library.owns(array)
    assert where.library.device_name(where.library.device_of(array)) == device
    assert array.dtype == where.dtype(dtype)
    assert np.array_equal(to_numpy(array), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda a: a[::-1, ::-1],
        lambda a: a.astype(">f8"),
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    ],
    ids=["fortran", "reversed", "big-endian", "strided"],
)
def test_a_placement_takes_host_arrays_of_any_layout(where, layout):
    host = layout(np.arange(12.0).reshape(3, 4))

    assert np.array_equal(to_numpy(where.asarray(host)), host)


def test_a_placement_takes_read_only_memory_without_a_warning(where):
    host = np.arange(3.0)
    host.flags.writeable = False

    assert np.array_equal(to_numpy(where.asarray(host)), host)


def test_each_array_is_claimed_by_one_library(where):
    array = where.asarray([1.0])

    assert [name for name, library in LIBRARIES.items() if library.owns(array)] == [where.backend]


def test_a_device_is_found_by_the_name_that_it_reports(where, backend, device):
    assert place(where.device_name, backend) == where


def test_auto_takes_a_device_of_the_backend_that_was_asked_for(backend):
    chosen = place("auto", backend)

    assert chosen.backend == backend
    assert chosen.reason


def test_a_namespace_module_stands_for_its_backend(where, backend):
    assert place(backend=where.xp).backend == backend


def test_auto_without_a_driver_is_numpy_and_says_why(monkeypatch):
    monkeypatch.setattr(placement, "_GPUS", {("cupy", "torch"): lambda: False})

    chosen = place("auto")

    assert (chosen.backend, chosen.device_name) == ("numpy", "cpu")
    assert "driver" in chosen.reason


def test_auto_falls_back_to_numpy_when_no_library_reaches_the_gpu(monkeypatch):
    def broken(self):
        raise DeviceError(f"no device for {self.name}")

    names = ("cupy", "torch", "jax", "dpnp", "mlx")
    monkeypatch.setattr(placement, "_GPUS", {names: lambda: True})
    for name in names:
        monkeypatch.setattr(type(LIBRARIES[name]), "best_device", broken)

    chosen = place("auto")

    assert chosen.backend == "numpy"
    assert all(f"no device for {name}" in chosen.reason for name in names)


def test_auto_takes_the_first_library_that_reaches_a_gpu(monkeypatch):
    monkeypatch.setattr(
        placement, "_GPUS", {("torch",): lambda: False, ("numpy", "array_api_strict"): lambda: True}
    )
    strict = LIBRARIES["array_api_strict"]
    device = strict.find("device1")
    monkeypatch.setattr(type(strict), "best_device", lambda self: device)

    chosen = place("auto")

    assert (chosen.backend, chosen.device_name) == ("array_api_strict", "device1")
    assert chosen.reason == "a GPU answers; numpy has no GPU"


@pytest.mark.parametrize("word", ["gpu", "cuda:x", "tpu", "", "cuda:", "CPU"])
def test_an_unknown_device_is_refused_with_the_forms_and_the_devices_found(word):
    with pytest.raises(ValueError, match="unknown device") as error:
        bp_xp.Network([2, 1], device=word)

    message = str(error.value)
    assert repr(word) in message
    assert all(form in message for form in ("'cpu'", "'cuda'", "'cuda:N'", "'auto'"))
    assert "Found here: 'cpu'" in message


def test_a_device_must_be_a_word():
    with pytest.raises(TypeError, match="device must be a string"):
        place(0)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("word", ["cuda", "mps", "device1", "cuda:1"])
def test_numpy_has_no_other_device_than_the_cpu(word):
    with pytest.raises(ValueError, match=rf"'numpy' has no device '{word}'"):
        bp_xp.Network([2, 1], backend="numpy", device=word)


def test_a_backend_names_the_devices_that_it_has_instead(where, backend):
    with pytest.raises(ValueError, match=f"'{backend}' has no device 'toaster'"):
        place("toaster", backend)


def test_an_unknown_backend_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"unknown backend 'nunpy'.*'numpy', 'cupy', 'torch'"):
        place(backend="nunpy")


def test_a_backend_that_is_no_namespace_is_refused():
    with pytest.raises(TypeError, match="array API standard"):
        place(backend=types.ModuleType("empty"))


class _NotInstalled:
    """An import hook that behaves as if a library were not installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextlib.contextmanager
def not_installed(name: str):
    """Hide a library, loaded or not."""
    hidden = {key: sys.modules.pop(key) for key in list(sys.modules) if key.split(".")[0] == name}
    hook = _NotInstalled(name)
    sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        sys.meta_path.remove(hook)
        sys.modules.update(hidden)


@pytest.mark.parametrize("name", ["cupy", "torch", "jax", "dpnp", "mlx", "array_api_strict"])
def test_a_missing_library_is_an_import_error_naming_the_extra(name):
    with not_installed(name), pytest.raises(ImportError) as error:
        bp_xp.Network([2, 1], backend=name)

    assert f"{name} is not installed" in str(error.value)
    assert f"bp_xp[{LIBRARIES[name].extra}]" in str(error.value)
    assert "python -m pip install" in str(error.value)


def test_cuda_without_cupy_is_a_device_error_naming_the_extra():
    with not_installed("cupy"), pytest.raises(DeviceError) as error:
        bp_xp.Network([2, 1], device="cuda")

    assert "'cuda'" in str(error.value)
    assert "bp_xp[cuda13]" in str(error.value)


def test_cuda_where_no_gpu_answers_is_a_device_error_for_real():
    """No stand-in here: CuPy as it is installed, or not, on this machine."""
    cupy = next(report for report in bp_xp.devices() if report.backend == "cupy")
    if cupy.devices:
        pytest.skip("a CUDA device answers")

    with pytest.raises(DeviceError) as error:
        bp_xp.Network([2, 1], device="cuda")

    assert "'cuda'" in str(error.value)
    assert cupy.reason.removesuffix(".") in str(error.value)
    assert bp_xp.Network([2, 1], device="auto").backend in ("numpy", "torch", "jax")


def test_a_broken_dependency_of_a_library_keeps_its_own_message(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'libhidden'", name="libhidden")

    monkeypatch.setattr(_optional.importlib, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="libhidden"):
        _optional.require("cupy", "cuda13")


class FakeDevice(contextlib.nullcontext):
    """A device, as far as the probe looks at it."""

    __hash__ = None  # pyright: ignore[reportAssignmentType] - as in CuPy

    def __init__(self, number):
        super().__init__()
        self.id = number


@pytest.fixture(autouse=True)
def no_device_is_known(monkeypatch):
    """Let each device be tried again."""
    monkeypatch.setattr(LIBRARIES["cupy"], "_works", set())


class CompileException(Exception):  # noqa: N818 - the name that CuPy gives it
    """CuPy's, which is none of the built-in errors."""


def fake_cupy(**changes) -> types.SimpleNamespace:
    """CuPy's face, as far as the probe looks at it, over NumPy."""
    parts = {
        "is_available": lambda: True,
        "ones": np.ones,
        "float32": np.float32,
        "cuda": types.SimpleNamespace(
            runtime=types.SimpleNamespace(driverGetVersion=lambda: 13000, getDeviceCount=lambda: 2),
            Device=FakeDevice,
        ),
    }
    return types.SimpleNamespace(**(parts | changes))


def _failing(error):
    def fail(*_, **__):
        raise error

    return fail


NO_DRIVER = types.SimpleNamespace(
    runtime=types.SimpleNamespace(driverGetVersion=lambda: 0, getDeviceCount=lambda: 0)
)


@pytest.mark.parametrize(
    ("cupy", "reason"),
    [
        (fake_cupy(is_available=lambda: False, cuda=NO_DRIVER), "no NVIDIA driver"),
        (fake_cupy(is_available=lambda: False), "no CUDA device"),
        (fake_cupy(ones=_failing(RuntimeError("nvrtc not found"))), "nvrtc not found"),
        (fake_cupy(ones=_failing(ImportError("libcublas.so.13"))), "libcublas.so.13"),
        (fake_cupy(ones=lambda *_, **__: np.zeros((2, 2))), "wrong 2 × 2 product"),
        (types.SimpleNamespace(), "half installed"),
        (fake_cupy(ones=_failing(CompileException("nvrtc: error"))), "CompileException: nvrtc"),
        (fake_cupy(ones=_failing(MemoryError("Out of memory"))), "no memory left .*nvidia-smi"),
        (
            fake_cupy(ones=_failing(RuntimeError("cudaErrorMemoryAllocation: out of memory"))),
            "no memory left",
        ),
    ],
    ids=[
        *("no driver", "no device", "no nvrtc", "no cublas", "wrong product", "empty package"),
        *("does not compile", "no memory", "no memory below"),
    ],
)
def test_a_cupy_that_can_not_compute_is_a_device_error_with_the_reason(monkeypatch, cupy, reason):
    monkeypatch.setattr(cupy_library, "require", lambda module, extra: cupy)
    monkeypatch.setattr(type(LIBRARIES["cupy"]), "namespace", lambda self: np)

    with pytest.raises(DeviceError, match=reason) as error:
        place("cuda")

    assert "'cuda'" in str(error.value)
    monkeypatch.setattr(placement, "_has_nvidia_or_amd_driver", lambda: True)
    for name in ("torch", "jax"):
        monkeypatch.setattr(type(LIBRARIES[name]), "best_device", _failing(OSError("not loaded")))
    chosen = place("auto")
    assert chosen.backend == "numpy"
    assert re.search(reason, chosen.reason)
    assert "torch fails (OSError: not loaded)" in chosen.reason


def test_each_device_is_tried_once_and_by_itself(monkeypatch):
    tried = []

    class Device(FakeDevice):
        def __enter__(self):
            tried.append(self.id)

    fake = fake_cupy()
    fake.cuda.Device = Device
    monkeypatch.setattr(cupy_library, "require", lambda module, extra: fake)
    cupy = LIBRARIES["cupy"]

    assert [cupy.find(word).id for word in ("cuda:1", "cuda:1", "cuda", "cuda:1")] == [1, 1, 0, 1]
    assert cupy.best_device().id == 0
    assert len(cupy.devices()) == 2
    assert tried == [1, 0]


def test_auto_passes_over_a_gpu_that_does_not_work(monkeypatch):
    class Device(FakeDevice):
        def __enter__(self):
            if self.id == 0:
                raise RuntimeError("cudaErrorECCUncorrectable")

    fake = fake_cupy()
    fake.cuda.Device = Device
    monkeypatch.setattr(cupy_library, "require", lambda module, extra: fake)
    cupy = LIBRARIES["cupy"]

    assert cupy.best_device().id == 1
    assert [device.id for device in cupy.devices()] == [1]
    with pytest.raises(DeviceError, match="cudaErrorECCUncorrectable"):
        cupy.find("cuda:0")


def test_placements_are_equal_by_name_and_can_be_hashed():
    here, there = (
        placement.Placement(LIBRARIES["cupy"], np, FakeDevice(number)) for number in (0, 1)
    )
    again = placement.Placement(LIBRARIES["cupy"], np, FakeDevice(0), "asked for")

    assert here == again
    assert len({here, again, there, place("cpu")}) == 3
    assert here != "cupy on cuda:0"


def test_cuda_devices_are_found_by_number(monkeypatch):
    monkeypatch.setattr(cupy_library, "require", lambda module, extra: fake_cupy())
    cupy = LIBRARIES["cupy"]

    assert [cupy.device_name(cupy.find(word)) for word in ("cuda", "cuda:1")] == [
        "cuda:0",
        "cuda:1",
    ]
    with pytest.raises(DeviceError, match=r"'cuda:7' does not exist.*2 CUDA device"):
        cupy.find("cuda:7")


def test_the_report_lists_every_library_with_devices_or_the_reason():
    reports = {report.backend: report for report in bp_xp.devices()}

    assert list(reports) == list(LIBRARIES)
    for report in reports.values():
        assert bool(report.devices) != bool(report.reason)
        assert report.backend in str(bp_xp.devices())
    assert reports["numpy"].version == np.__version__
    assert reports["numpy"].devices == ("cpu",)


def test_the_report_survives_a_library_that_breaks_on_import(monkeypatch):
    monkeypatch.setattr(
        type(LIBRARIES["torch"]), "namespace", _failing(OSError("libtorch.so is damaged"))
    )

    report = next(report for report in bp_xp.devices() if report.backend == "torch")

    assert report.devices == ()
    assert "libtorch.so is damaged" in report.reason


def test_the_reported_devices_work(backend):
    report = next(report for report in bp_xp.devices() if report.backend == backend)

    for name in report.devices:
        assert bp_xp.Network([2, 1], backend=backend, device=name).device == name


def test_to_numpy_brings_arrays_home_from_every_device(where, dtype):
    host = np.arange(6, dtype=dtype).reshape(2, 3)

    home = to_numpy(where.asarray(host))

    assert type(home) is np.ndarray
    assert home.dtype == dtype
    assert np.array_equal(home, host)


def test_to_numpy_takes_a_torch_tensor_that_records_gradients():
    torch = pytest.importorskip("torch")

    assert np.array_equal(to_numpy(torch.ones(2, requires_grad=True)), [1, 1])


def test_any_other_namespace_of_the_standard_is_a_backend(monkeypatch):
    """A namespace that bp_xp has never heard of: array_api_strict under another name."""
    strict = pytest.importorskip("array_api_strict")
    other = types.ModuleType("unheard_of")
    vars(other).update({k: v for k, v in vars(strict).items() if not k.startswith("__name")})
    other.__version__ = "0"
    monkeypatch.setattr(
        Library, "owns", lambda self, array: type(array) is strict._array_object.Array
    )
    for name in LIBRARIES:
        if name == "array_api_strict":
            monkeypatch.setattr(type(LIBRARIES[name]), "owns", lambda self, array: False)

    where = place(backend=other)
    net = bp_xp.Network([2, 3, 1], backend=other, seed=0)
    reference = bp_xp.Network([2, 3, 1], seed=0)
    x = np.asarray([[0.5, 1.0], [2.0, -1.0]])

    assert where.backend == "unheard_of"
    assert net.backend == "unheard_of"
    assert np.allclose(np.asarray(net.feedforward(x)), reference.feedforward(x))


@pytest.mark.parametrize("spelling", ["float32", np.float32, np.dtype("float32")])
def test_a_dtype_has_many_spellings(spelling):
    assert dtype_name(spelling) == "float32"


def test_a_library_s_own_dtype_is_understood(where, dtype):
    assert dtype_name(where.dtype(dtype)) == dtype


@pytest.mark.parametrize("spelling", ["float16", np.float16, "bfloat16", "int32", np.int64, None])
def test_other_dtypes_are_refused_with_the_ones_there_are(spelling):
    with pytest.raises(ValueError, match=r"dtype .* 'float32', 'float64'") as error:
        bp_xp.Network([2, 1], dtype=spelling)

    assert str(getattr(spelling, "__name__", spelling)) in str(error.value)


def test_float64_on_jax_needs_its_switch():
    pytest.importorskip("jax")
    code = (
        "import bp_xp\n"
        "bp_xp.Network([2, 1], backend='jax')\n"
        "try:\n"
        "    bp_xp.Network([2, 1], backend='jax', dtype='float64')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )

    assert "jax_enable_x64" in run.stdout


def test_importing_the_library_does_not_need_the_optional_ones(monkeypatch):
    real_import = builtins.__import__

    def guarded(name, *args, **kwargs):
        assert name.split(".")[0] not in ("cupy", "torch", "jax"), name
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)

    bp_xp.Network([2, 2, 1], device="cpu").feedforward([[1.0, 2.0]])


# ---------------------------------------------------------------------------------------------
# While a device computes


def _on_a_gpu():
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")


ALLOCATE = {
    "numpy": lambda library: library.empty(1 << 50),
    "torch": lambda library: library.empty(1 << 50),
    "torch on a GPU": lambda library: _on_a_gpu(),
    "jax": lambda library: library.numpy.zeros(1 << 50, dtype="int8").block_until_ready(),
}


@pytest.mark.parametrize("case", ALLOCATE)
def test_too_little_memory_is_one_error_on_every_library(case):
    library = case.split()[0]
    module = pytest.importorskip(library)
    where = place(backend=library, device="cpu")

    class Batch:
        """What a function holds while it fails."""

    held = []

    def compute():
        batch = Batch()
        held.append(weakref.ref(batch))
        ALLOCATE[case](module)

    message = rf"^out of memory \({library} on .*\): .*\d.*\. Take less\.$"
    raised = pytest.raises(OutOfMemoryError, match=message)
    with raised, where.active("Lost."), where.active("Take less."):  # said once
        compute()
    assert held[0]() is None  # what it held is free for the next try, while the error is at hand


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("CUBLAS_STATUS_ALLOC_FAILED", True),
        ("CUSPARSE_STATUS_ALLOC_FAILED", True),
        ("CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
        ("cudaErrorMemoryAllocation: out of memory", True),
        ("CUBLAS_STATUS_EXECUTION_FAILED", False),
        ("cudaErrorIllegalAddress: an illegal memory access was encountered", False),
    ],
)
def test_too_little_memory_is_known_by_the_names_of_every_library_below_cupy(text, known):
    there = placement.Placement(LIBRARIES["cupy"], np, FakeDevice(0))
    error = OutOfMemoryError if known else RuntimeError
    with pytest.raises(error, match=text), there.active("Take less."):
        raise RuntimeError(text)


def test_other_errors_pass_unchanged(where):
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError) as caught, where.active():
        raise error
    assert caught.value is error


def test_jax_multiplies_with_all_digits_wherever_it_runs(monkeypatch):
    jax = pytest.importorskip("jax")
    where = place(backend="jax")
    device = types.SimpleNamespace(platform="gpu", id=0)
    there = replace(where, device=device)
    x = where.asarray(np.ones((2, 2), np.float32))

    def product():
        return str(jax.make_jaxpr(lambda a: a @ a)(x))

    with there.active():
        assert "HIGHEST" in product()
    with where.active():
        assert "HIGHEST" not in product()  # a processor has no other digits
    with jax.default_matmul_precision("tensorfloat32"), there.active():
        assert "HIGHEST" not in product()  # who asks for fewer gets them


def test_float32_products_have_all_their_digits(where, rng):
    a, b = rng.normal(size=(2, 300, 300))
    with where.active():
        product = to_numpy(where.asarray(a, "float32") @ where.asarray(b, "float32"))
    # With the 10 bits of TF32 the error is some 3e-4.
    assert np.linalg.norm(product - a @ b) <= 1e-5 * np.linalg.norm(a @ b)


def test_a_masked_array_comes_home_if_nothing_of_it_is_masked():
    whole = np.ma.masked_array([1.0, 2.0])
    assert type(to_numpy(whole)) is np.ndarray
    whole[0] = np.ma.masked
    with pytest.raises(TypeError, match=r"a masked array, .*array\.filled\(0\)"):
        to_numpy(whole)
