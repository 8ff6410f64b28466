"""dpnp's room: over a stand-in everywhere, and over dpnp where it is installed."""

import copy
import pickle
import types

import numpy as np
import pytest

from bp_xp import Network, to_numpy
from bp_xp.backends import LIBRARIES, place
from bp_xp.backends.dpnp import library as room
from bp_xp.errors import DeviceError


def fake_dpnp(devices):
    """What the room looks at: devices by filter strings, of which the first is the default."""
    found = {
        word: types.SimpleNamespace(
            sycl_device=types.SimpleNamespace(filter_string=word, is_cpu="cpu" in word)
        )
        for word in devices
    }

    def empty(shape, device=None, dtype="float32"):
        word = getattr(device, "word", device)
        if hasattr(device, "sycl_device"):
            word = device.sycl_device.filter_string
        matching = [one for name, one in found.items() if word is None or word in name]
        if not matching:
            raise Exception(f"no device with the selector string {word!r}")
        if dtype == "float64" and not matching[0].sycl_device.is_cpu:
            raise RuntimeError("no float64 aspect")
        return types.SimpleNamespace(device=matching[0])

    listed = [types.SimpleNamespace(word=word) for word in devices]
    info = types.SimpleNamespace(devices=lambda: listed)
    dpnp = types.ModuleType("dpnp")
    dpnp.__array_namespace_info__ = lambda: info
    dpnp.empty, dpnp.ndarray = empty, FakeArray
    dpnp.float32, dpnp.float64 = "float32", "float64"
    return dpnp


class FakeArray:
    """The type of its arrays."""


@pytest.fixture
def stand_in(monkeypatch):
    def install(*devices):
        monkeypatch.setattr(room, "require", lambda module, extra: fake_dpnp(devices))
        return LIBRARIES["dpnp"]

    return install


def test_devices_go_by_filter_strings_and_the_default_is_the_systems(stand_in):
    dpnp = stand_in("level_zero:gpu:0", "opencl:cpu:0")

    assert [dpnp.device_name(d) for d in dpnp.devices()] == ["level_zero:gpu:0", "opencl:cpu:0"]
    assert dpnp.device_name(dpnp.best_device()) == "level_zero:gpu:0"
    assert [dpnp.is_cpu(d) for d in dpnp.devices()] == [False, True]
    assert dpnp.device_name(dpnp.find("cpu")) == "opencl:cpu:0"


def test_a_word_that_is_no_filter_string_is_a_value_error_and_a_missing_device_a_device_error(
    stand_in,
):
    dpnp = stand_in("opencl:cpu:0")

    with pytest.raises(ValueError, match=r"no device 'fast'.*found here: 'opencl:cpu:0'"):
        dpnp.find("fast")
    with pytest.raises(DeviceError, match=r"'gpu:1'.*Found here: 'opencl:cpu:0'"):
        dpnp.find("gpu:1")


def test_float64_is_offered_where_the_device_has_it(stand_in):
    dpnp = stand_in("level_zero:gpu:0", "opencl:cpu:0")

    assert dpnp.dtype("float64", dpnp.find("cpu")) == "float64"
    with pytest.raises(ValueError, match="no float64 on device 'level_zero:gpu:0'"):
        dpnp.dtype("float64", dpnp.find("gpu"))


@pytest.mark.parametrize(
    ("exists", "advice"),
    [(True, r"set OCL_ICD_FILENAMES=.*libintelocl\.so before"), (False, "intel-opencl-rt")],
)
def test_no_device_is_an_error_that_tells_what_to_do(stand_in, monkeypatch, exists, advice):
    dpnp = stand_in()
    monkeypatch.setattr(room.pathlib.Path, "exists", lambda self: exists)

    for act in (dpnp.devices, dpnp.best_device, lambda: dpnp.find("cpu")):
        with pytest.raises(DeviceError, match=advice):
            act()


@pytest.mark.parametrize("missing", ["No module named 'dpctl'", "libsycl.so.9: cannot open"])
def test_dpnp_without_what_it_needs_says_what_installs_it(monkeypatch, missing):
    def broken(module, extra):
        raise ImportError(missing)

    monkeypatch.setattr(room, "require", broken)

    with pytest.raises(ImportError, match=rf"half installed \({missing}\): .*pip install --force"):
        LIBRARIES["dpnp"].namespace()


# ---------------------------------------------------------------------------------------------
# dpnp itself


@pytest.fixture
def dpnp():
    """The library, where it has a device."""
    library = pytest.importorskip("dpnp")
    try:
        place(backend=library)
    except DeviceError as error:
        pytest.skip(str(error))
    return library


def test_a_network_on_dpnp_takes_and_returns_its_arrays(dpnp):
    network = Network([3, 4, 2], backend="dpnp", seed=0)
    outputs = network.feedforward(dpnp.ones((5, 3), dtype=dpnp.float32))

    assert place(backend=dpnp).library is LIBRARIES["dpnp"]
    assert isinstance(outputs, dpnp.ndarray)
    expected = Network([3, 4, 2], seed=0).feedforward(np.ones((5, 3)))
    assert np.allclose(to_numpy(outputs), expected, rtol=1e-6)


def test_products_of_broadcast_arrays_are_right(dpnp):
    """In dpnp 0.20 those of arrays whose rows lie in one place are not."""
    where = place(backend=dpnp)
    a = np.random.default_rng(0).standard_normal((5, 2))
    rows = np.broadcast_to(a[:, None, :], (5, 2, 2))
    placed, xp = where.asarray(a), where.xp

    for wide in (
        xp.broadcast_to(placed[:, None, :], (5, 2, 2)),
        xp.broadcast_arrays(placed[:, None, :], xp.zeros_like(placed)[:, :, None])[0],
    ):
        np.testing.assert_allclose(to_numpy(placed[:, None, :] @ wide), a[:, None, :] @ rows)


@pytest.mark.parametrize("part", [np.s_[:1], np.s_[:, :1], np.s_[:1, :1]])
def test_inputs_that_repeat_memory_are_multiplied_like_others(dpnp, part):
    x = np.random.default_rng(0).random((5, 3))[part]
    network = Network([3, 4, 2], backend="dpnp", seed=0, dtype="float64")

    outputs = network.feedforward(dpnp.broadcast_to(dpnp.asarray(x), (5, 3)))

    expected = network.feedforward(np.broadcast_to(x, (5, 3)))
    assert np.allclose(to_numpy(outputs), to_numpy(expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("again", [lambda a: pickle.loads(pickle.dumps(a)), copy.deepcopy])
@pytest.mark.parametrize("view", [np.s_[...], np.s_[1:, ::-2], np.s_[0, 0]])
def test_arrays_are_pickled_and_copied_with_their_device(dpnp, again, view):
    where = place(backend=dpnp)
    array = where.asarray(np.arange(12.0).reshape(3, 4), "float32")[view]

    twin = again(array)

    assert (twin.dtype, twin.shape) == (array.dtype, array.shape)
    assert where.library.lies_on(twin, where.device)
    assert np.array_equal(to_numpy(twin), to_numpy(array))
