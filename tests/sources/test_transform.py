"""Inputs that a function makes of rows as they are read: ``Stream(x, transform=)``."""

import threading
from typing import Any

import numpy as np
import pytest
from helpers import InFile, parameters, tolerance

from bp_xp import SGD, Callback, Checkpoint, CheckpointError, Network, Stream, to_numpy

N, COLUMNS = 90, 5


@pytest.fixture
def images(rng):
    """Images of one byte a pixel, (90, 5, 2), and labels of three classes."""
    return rng.integers(0, 256, (N, COLUMNS, 2), dtype=np.uint8), rng.integers(0, 3, N)


def scaled(x):
    """The inputs of some images, (n, 5): the mean of two pixels, from 0 to 1."""
    return x.mean(axis=2) / 255


def network(make=None, **options):
    make = make or (lambda sizes, **more: Network(sizes, dtype="float64", **more))
    return make([COLUMNS, 4, 3], cost="categorical_cross_entropy", seed=3, **options)


def fitted(x, y=None, make=None, **options):
    net = network(make)
    options = {"epochs": 2, "batch_size": 8, "optimizer": SGD(0.5), "progress": False} | options
    return net, net.fit(x, y, **options)


def assert_same_run(one, other):
    (net, history), (twin, record) = one, other
    for some, others in zip(parameters(net), parameters(twin), strict=True):
        assert np.allclose(some, others, rtol=0, atol=tolerance(net.dtype, 0.0))
    for name in ("cost", "validation_cost") if history[0].validation_cost else ("cost",):
        assert history[name] == pytest.approx(record[name], rel=tolerance(net.dtype, 1e-14))


def batches_of(x, y):
    return lambda: ((x[k : k + 8], y[k : k + 8]) for k in range(0, N, 8))


@pytest.mark.parametrize("lies", ["stored", "stored-in-a-buffer", "in-memory", "in-batches"])
def test_what_it_returns_is_learned_validated_and_predicted_as_such_inputs_are(images, lies):
    x, y = images
    x_in_memory = scaled(x)
    options = {"shuffle": False, "validation_data": (x_in_memory, y)}
    net, history = fitted(x_in_memory, y, **options)
    given = {
        "stored": (Stream(InFile(x), 20, transform=scaled), y),
        "stored-in-a-buffer": (Stream(InFile(x), N, transform=scaled), y),
        "in-memory": (Stream(x, transform=scaled), y),
        "in-batches": (Stream(batches_of(x, y), transform=scaled),),
    }[lies]
    options["validation_data"] = given if len(given) == 2 else given[0]
    streamed = fitted(*given, **options)
    assert_same_run(streamed, (net, history))
    assert streamed[0].evaluate(*given) == pytest.approx(net.evaluate(x_in_memory, y))
    assert np.array_equal(streamed[0].predict(given[0], batch_size=32), net.predict(x_in_memory))


def test_it_is_called_for_rows_that_any_library_takes(images, make):
    x, y = images
    streamed = fitted(Stream(InFile(x), 20, transform=scaled), y, make, shuffle=False)
    assert_same_run(streamed, fitted(scaled(x), y, make, shuffle=False))
    predicted = to_numpy(streamed[0].predict(Stream(x, transform=scaled)))
    assert np.array_equal(predicted, to_numpy(streamed[0].predict(scaled(x))))


def test_batches_of_a_cpu_are_given_to_it_as_numpy_arrays_and_others_are_refused(images, make):
    x, y = images
    net = network(make)
    placed = [(net.placement.asarray(x[k : k + 30]), y[k : k + 30]) for k in (0, 30, 60)]
    kinds = []

    def transform(rows):
        kinds.append(type(rows))
        return scaled(rows)

    stream = Stream(lambda: placed, transform=transform)
    if not net.placement.on_cpu:
        with pytest.raises(TypeError, match="transform works on NumPy arrays, but x is on device"):
            net.fit(stream, epochs=1, progress=False)
        return
    history = net.fit(stream, epochs=1, progress=False)
    assert history.steps == 3
    assert set(kinds) == {np.ndarray}


def test_the_thread_that_reads_calls_it_for_some_rows_at_a_time(images):
    called = []

    def transform(rows):
        called.append((threading.current_thread() is threading.main_thread(), len(rows)))
        return scaled(rows)

    fitted(Stream(InFile(images[0]), 20, transform=transform), images[1], epochs=1)
    # The first rows are looked at before the run.
    assert sum(n for is_main, n in called if not is_main) == N
    assert all(n < N for _, n in called)


def test_one_that_works_in_place_does_not_change_what_is_stored(images, tmp_path):
    x, y = images
    np.save(tmp_path / "x.npy", x.reshape(N, -1)[:, :COLUMNS].astype(float))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")

    def halve(rows):
        rows /= 512
        return rows

    fitted(Stream(mapped, 20, transform=halve), y)
    assert mapped.max() > 1.0


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda x: x[:, 0], r"transform returned shape \(\d+, 2\) for rows of shape \(\d+, 5, 2\)"),
        (lambda x: scaled(x)[:-1], r"transform returned shape .* the network takes \(\d+, 5\)"),
        (lambda x: None, r"transform returned shape \(\)"),
        (lambda x: scaled(x) / (x.min() < 0), "what transform returned contains"),
    ],
    ids=["columns", "rows", "nothing", "not-finite"],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_what_the_network_cannot_take_is_an_error_that_names_it(images, transform, message):
    x, y = images
    net = network()
    for samples in (Stream(InFile(x), 20, transform=transform), Stream(x, transform=transform)):
        with pytest.raises(ValueError, match=message):
            net.fit(samples, y, progress=False)
        with pytest.raises(ValueError, match=message):
            net.predict(samples)
    with pytest.raises(ValueError, match=message):
        net.fit(Stream(batches_of(x, y), transform=transform), progress=False)


def test_a_number_that_is_not_finite_is_told_with_its_row(images):
    def transform(rows):
        return np.where(rows[:, :, 0] == 255, np.nan, rows[:, :, 0])

    x = np.minimum(images[0], 254)
    x[77, 3, 0] = 255
    with pytest.raises(ValueError, match=r"what transform returned .* row 77, column 3"):
        fitted(Stream(InFile(x), 20, transform=transform), images[1])


def test_its_own_error_comes_with_its_own_traceback(images):
    def transform(rows):
        raise KeyError("no such pixel")

    with pytest.raises(KeyError, match="no such pixel") as raised:
        fitted(Stream(InFile(images[0]), 20, transform=transform), images[1])
    assert raised.traceback[-1].name == "transform"


def test_what_is_no_function_is_refused():
    number: Any = 255
    with pytest.raises(TypeError, match="transform must be a function"):
        Stream([[1.0]], transform=number)


class StopAfterAnEpoch(Callback):
    def on_epoch_end(self, network, history):
        return True


def test_a_run_does_not_go_on_with_another_transform(images, tmp_path):
    x, y = images
    path = tmp_path / "run.safetensors"
    stream = Stream(InFile(x), 20, transform=scaled)
    fitted(stream, y, checkpoint=path, callbacks=[StopAfterAnEpoch()])
    resumed = Checkpoint(path, resume=True)
    other = Stream(InFile(x), 20, transform=lambda rows: 1 - scaled(rows))
    with pytest.raises(CheckpointError, match="the data is not the same"):
        fitted(other, y, checkpoint=resumed)
    assert_same_run(fitted(stream, y, checkpoint=resumed), fitted(stream, y))


def test_an_error_of_a_transform_has_a_note_of_the_rows_and_the_file(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((40, 6), np.float32))

    def broken(rows):
        raise KeyError("mine")

    stream = Stream(np.load(path, mmap_mode="r"), 16, transform=broken)
    with pytest.raises(KeyError, match="mine") as caught:
        Network([6, 3], seed=0).fit(stream, np.zeros(40, int), progress=False)
    assert caught.value.__notes__ == [f"In transform, for rows 0 to 0 of {path}."]
