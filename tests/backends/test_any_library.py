"""A library that nobody has heard of, with device objects and refusals of its own."""

import numpy as np
import odd_library
import pytest

from bp_xp import Checkpoint, Network, to_numpy
from bp_xp.backends import place


@pytest.fixture
def samples(rng):
    return rng.standard_normal((50, 4)).astype(np.float32), rng.integers(0, 2, 50)


SETTINGS = {
    "batch_size": 7,
    "optimizer": "adam",
    "dropout": 0.2,
    "l1": 1e-3,
    "clip_norm": 1.0,
    "validation_data": 0.2,
    "metrics": "f1",
    "progress": False,
}


def test_devices_go_by_what_arrays_call_them():
    where = place("tile 1", odd_library)

    assert [where.library.device_name(d) for d in where.library.devices()] == ["tile 0", "tile 1"]
    assert place(backend=odd_library).device_name == "tile 0"
    assert where.library.device_of(where.asarray([1.0], "float32")) == where.device
    with pytest.raises(ValueError, match=r"no device 'cuda'.*found here: 'tile 0', 'tile 1'"):
        place("cuda", odd_library)


def test_a_dtype_that_a_device_lacks_is_refused_before_a_network_is_made():
    message = r"'odd_library' has no float64 on device 'tile 0': use dtype='float32'"

    with pytest.raises(ValueError, match=message):
        Network([2, 1], backend=odd_library, dtype="float64")


@pytest.mark.parametrize("device", [None, "tile 1"])
def test_a_run_is_that_of_numpy(samples, device, tmp_path):
    x, y = samples
    ours = Network([4, 5, 2], backend=odd_library, device=device, seed=1)
    theirs = Network([4, 5, 2], seed=1)

    file = tmp_path / "run.safetensors"
    ours.fit(x, y, epochs=2, checkpoint=file, **SETTINGS)
    again = Network([4, 5, 2], backend=odd_library, device=device, seed=1)
    history = again.fit(x, y, epochs=3, checkpoint=Checkpoint(file, resume=True), **SETTINGS)
    expected = theirs.fit(x, y, epochs=3, **SETTINGS)

    assert np.allclose([e.cost for e in history], [e.cost for e in expected], rtol=1e-6)
    assert again.evaluate(x, y) == pytest.approx(theirs.evaluate(x, y), rel=1e-6)
    assert np.array_equal(to_numpy(again.predict(x)), theirs.predict(x))
    again.save(file.with_name("saved.safetensors"))
    loaded = Network.load(file.with_name("saved.safetensors"), backend=odd_library)
    assert np.array_equal(to_numpy(loaded.feedforward(x)), to_numpy(again.feedforward(x)))
