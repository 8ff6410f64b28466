"""MLX's room."""

import numpy as np
import pytest

from bp_xp import Network, to_numpy
from bp_xp.backends import LIBRARIES, place
from bp_xp.backends.mlx import library as room
from bp_xp.errors import DeviceError


@pytest.fixture
def mx():
    return pytest.importorskip("mlx.core")


def test_half_an_installation_tells_what_is_missing(monkeypatch):
    def import_module(name):
        raise ImportError("libmlx.so: cannot open shared object file")

    monkeypatch.setattr(room, "require", lambda module, extra: None)
    monkeypatch.setattr(room.importlib, "import_module", import_module)
    with pytest.raises(ImportError, match=r"half installed \(libmlx.*mlx\[cpu\]"):
        Network([2, 1], backend="mlx")


def test_float64_is_refused_by_name(mx):
    with pytest.raises(ValueError, match=r"'mlx' has no float64.*dtype='float32'"):
        Network([2, 1], backend="mlx", dtype="float64")


def test_a_missing_gpu_is_a_device_error_and_another_word_a_value_error(mx):
    if not mx.is_available(mx.gpu):
        with pytest.raises(DeviceError, match="MLX finds no GPU"):
            place("gpu", "mlx")
    with pytest.raises(ValueError, match=r"'cpu' or 'gpu'.*found here: 'cpu'"):
        place("cuda", "mlx")


def test_what_comes_home_may_be_written_to_and_is_a_copy(mx):
    array = mx.array([1.0, 2.0])

    home = to_numpy(array)
    home += 1.0

    assert array.tolist() == [1.0, 2.0]
    assert to_numpy(array.astype(mx.bfloat16)).dtype == np.float32


def test_the_standards_words_are_taken(mx):
    xp = place("cpu", "mlx").xp
    array = xp.asarray(np.ones((2, 2), np.float32), device=None)

    assert xp.asarray(array) is array
    assert xp.astype(array, array.dtype, copy=False) is array
    assert xp.astype(array, xp.int32).dtype == mx.int32
    assert xp.zeros((1,), device=None, dtype=xp.bool).dtype == mx.bool_
    copy = xp.asarray(array, copy=True)
    copy += 1.0
    assert to_numpy(array).tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("shape", "axis", "keepdims", "wanted"),
    [((5, 0), -1, False, (5,)), ((0, 5), -2, True, (1, 5)), ((2, 0), None, False, ())],
)
def test_a_sum_of_nothing_ends_and_is_zero(mx, shape, axis, keepdims, wanted):
    xp = place("cpu", "mlx").xp
    nothing = xp.zeros(shape[::-1]).T

    found = xp.sum(nothing, axis=axis, keepdims=keepdims)

    assert found.dtype == mx.float32
    assert np.array_equal(to_numpy(found), np.zeros(wanted))


def test_memory_stays_what_it_is_while_a_run_goes_on(mx):
    x = np.ones((640, 8), np.float32)
    network = Network([8, 16, 2], backend="mlx", seed=0)
    y = np.arange(640) % 2
    used = []

    network.fit(
        x,
        y,
        epochs=6,
        batch_size=10,
        optimizer="adam",
        callbacks=lambda *_: used.append(mx.get_active_memory()),
        progress=False,
    )

    assert network.explain().ran == "mlx"
    assert max(used[1:]) <= 1.1 * used[1]


def test_a_step_is_compiled_once_for_each_shape(mx, monkeypatch):
    calls = []
    xp = LIBRARIES["mlx"].namespace()
    compile_ = xp.compile
    monkeypatch.setattr(xp, "compile", lambda f: calls.append(f) or compile_(f))
    x, y = np.ones((23, 3), np.float32), np.arange(23) % 2

    Network([3, 2], backend="mlx", seed=0).fit(x, y, epochs=4, batch_size=5, progress=False)

    assert len(calls) == 2  # mini-batches of five, and the last one of three
