"""Samples in files and stores: their order, what is read when, and what is refused."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import InFile, parameters, tolerance

from bp_xp import (
    SGD,
    Adam,
    Callback,
    Checkpoint,
    CheckpointError,
    Ensemble,
    Network,
    Stream,
    to_numpy,
)
from bp_xp.sources import stored
from bp_xp.sources.making import make_source
from bp_xp.sources.stored import is_stored

N, COLUMNS = 90, 5


@pytest.fixture
def samples(rng):
    """Inputs (90, 5) and labels of three classes."""
    return rng.standard_normal((N, COLUMNS)), rng.integers(0, 3, N)


@pytest.fixture
def mapped(samples, tmp_path):
    """The inputs in a file, mapped to memory."""
    np.save(tmp_path / "x.npy", samples[0])
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def in_float64(sizes, **options):
    return Network(sizes, dtype="float64", **options)


def network(make=in_float64, **options):
    settings = {"cost": "categorical_cross_entropy", "seed": 3} | options
    return make([COLUMNS, 4, 3], **settings)


def fitted(x, y, make=in_float64, buffer_size=None, **options):
    net = network(make)
    x = x if buffer_size is None else Stream(x, buffer_size)
    options = {"epochs": 3, "batch_size": 8, "optimizer": SGD(0.5), "progress": False} | options
    history = net.fit(x, y, **options)
    return net, history


def assert_same_run(one, other):
    (net, history), (twin, record) = one, other
    assert all(np.array_equal(a, b) for a, b in zip(parameters(net), parameters(twin), strict=True))
    assert history["cost"] == record["cost"]


# ---------------------------------------------------------------------------------------------
# The run


@pytest.mark.parametrize("buffer_size", [None, N, 10 * N])
def test_a_buffer_as_large_as_the_data_gives_the_run_of_samples_in_memory(
    samples, mapped, buffer_size
):
    options = {"validation_data": 0.25, "class_weight": "balanced"}
    in_memory = fitted(*samples, **options)
    assert_same_run(fitted(mapped, samples[1], buffer_size=buffer_size, **options), in_memory)


def test_a_small_buffer_gives_the_same_run_on_every_backend(samples, make):
    x, y = InFile(samples[0]), samples[1]
    options = {"buffer_size": 20, "validation_data": (Stream(x, 20), y)}
    net, history = fitted(x, y, make, **options)
    twin, record = fitted(x, y, **options)
    for one, other in zip(parameters(net), parameters(twin), strict=True):
        assert np.allclose(one, other, rtol=0, atol=tolerance(net.dtype, 1e-12))
    for name in ("cost", "validation_cost", "validation_accuracy"):
        assert history[name] == pytest.approx(record[name], abs=tolerance(net.dtype, 1e-12))


@pytest.mark.parametrize("weighted", [False, True])
def test_in_order_samples_that_are_read_are_those_in_memory(samples, rng, weighted):
    x, y = samples
    options = {"shuffle": False, "class_weight": {0: 2.0}}
    if weighted:
        options["sample_weight"] = rng.integers(0, 2, N)  # some blocks weigh nothing
    streamed = fitted(InFile(x), InFile(y), buffer_size=16, **options)
    assert_same_run(streamed, fitted(x, y, **options))


def test_bytes_are_moved_as_bytes(rng, samples, monkeypatch):
    x = rng.integers(0, 256, (N, COLUMNS), dtype=np.uint8)
    in_memory = fitted(x, samples[1], shuffle=False)
    moved = []
    asarray = stored.Placement.asarray
    monkeypatch.setattr(
        stored.Placement,
        "asarray",
        lambda self, values, dtype=None: moved.append(values) or asarray(self, values, dtype),
    )
    streamed = fitted(InFile(x), samples[1], shuffle=False, buffer_size=16)
    assert_same_run(streamed, in_memory)
    inputs = [one for one in moved if getattr(one, "shape", (0,))[-1] == COLUMNS and one.ndim == 3]
    assert inputs
    assert {one.dtype for one in inputs} == {np.dtype(np.uint8)}


def test_balanced_classes_are_counted_over_all_samples(samples):
    x, y = samples
    net = network()
    where = {"placement": net.placement, "dtype": net.dtype}
    source = make_source(
        net.model, Stream(InFile(x), 9), y, class_weight="balanced", shuffle=False, **where
    )
    weights = np.concatenate([weights for _, _, weights in source.blocks(7)])
    assert np.allclose(weights, (N / 3 / np.bincount(y))[y])


@pytest.mark.parametrize("kind", [str, Path, Stream])
def test_a_path_is_refused_with_what_to_pass(samples, kind):
    net, path = network(), kind("x.npy")
    for call in (
        lambda: net.fit(path, samples[1]),
        lambda: net.fit(path),
        lambda: net.evaluate(path, samples[1]),
        lambda: net.predict(path),
    ):
        with pytest.raises(TypeError, match=r"Pass np\.load\('x\.npy', mmap_mode='r'\) then"):
            call()


class StopAt(Callback):
    def __init__(self, step):
        self.every = step

    def on_steps(self, network, history, step):
        return True


@pytest.mark.parametrize("step", [1, 7, 12, 13, 29, 36])
def test_a_run_goes_on_at_any_step_with_equal_bits(samples, tmp_path, step):
    x, y = InFile(samples[0]), samples[1]
    options = {"buffer_size": 20, "optimizer": Adam(0.05), "dropout": 0.2}
    whole = fitted(x, y, **options)
    path = tmp_path / "run.safetensors"
    kept = Checkpoint(path, every=step)
    _, history = fitted(x, y, checkpoint=kept, callbacks=[StopAt(step)], **options)
    assert history.steps == step

    again = fitted(x, y, checkpoint=Checkpoint(path, resume=True), **options)

    assert_same_run(again, whole)


def test_targets_in_memory_are_compared_one_by_one(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_ROWS_IN_A_FINGERPRINT", 1)
    monkeypatch.setattr(stored, "_BLOCKS_IN_A_FINGERPRINT", 2)
    x, y = InFile(samples[0]), samples[1]
    path = tmp_path / "run.safetensors"
    fitted(x, y, buffer_size=20, checkpoint=path)
    y = y.copy()
    y[45] = (y[45] + 1) % 3
    with pytest.raises(CheckpointError, match="data is not the same"):
        fitted(x, y, buffer_size=20, checkpoint=Checkpoint(path, resume=True))


def test_another_buffer_or_other_data_is_another_run(samples, tmp_path):
    x, y = samples
    path = tmp_path / "run.safetensors"
    fitted(InFile(x), y, buffer_size=20, checkpoint=path)
    resume = Checkpoint(path, resume=True)
    with pytest.raises(CheckpointError, match="buffer_size was 20 and is now 30"):
        fitted(InFile(x), y, buffer_size=30, checkpoint=resume)
    with pytest.raises(CheckpointError, match="had a buffer of 20 rows and now has all samples"):
        fitted(x, y, checkpoint=resume)
    x = x.copy()
    x[-1] += 1.0
    with pytest.raises(CheckpointError, match="the data is not the same"):
        fitted(InFile(x), y, buffer_size=20, checkpoint=resume)


# ---------------------------------------------------------------------------------------------
# What is read


def source_of(x, y, buffer_size, **options):
    net = network()
    where = {"placement": net.placement, "dtype": net.dtype}
    return make_source(net.model, Stream(x, buffer_size), y, **where, **options)


def order_of(source, seed=0):
    """Return the numbers of the rows of an epoch, which the first column holds."""
    epoch = source.start_epoch(10, np.random.default_rng(seed))
    found = []
    while batches := epoch.take(3):
        found += batches[0][..., 0].ravel().tolist()
    return np.array(found, dtype=int)


def test_a_buffer_holds_blocks_from_anywhere_shuffled_among_each_other():
    x = np.repeat(np.arange(400.0)[:, None], COLUMNS, axis=1)
    source = source_of(InFile(x), np.zeros(400, int), 64)
    assert source.block_rows == 4

    order = order_of(source)

    assert sorted(order) == list(range(400))
    first = order[:64]
    blocks = set(first // 4)
    assert len(blocks) == 16
    assert np.ptp(first) > 64
    assert sum(np.diff(first) == 1) < 8  # no block is left as it lies
    assert not np.array_equal(order, order_of(source, seed=1))


def test_chunks_of_a_store_are_read_whole():
    x = InFile(np.zeros((400, COLUMNS)), chunks=(10, COLUMNS))
    source = source_of(x, np.zeros(400, int), 64)
    assert source.block_rows == 10
    x.reads.clear()
    order_of(source)
    assert sorted((rows[0], len(rows)) for rows in x.reads) == [(k, 10) for k in range(0, 400, 10)]


def test_no_more_than_two_buffers_are_read_before_they_are_used():
    x = InFile(np.zeros((400, COLUMNS)))
    source = source_of(x, np.zeros(400, int), 64)
    x.reads.clear()
    epoch = source.start_epoch(10, np.random.default_rng(0))
    epoch.take(1)
    epoch.close()
    assert sum(map(len, x.reads)) <= 128


def test_an_epoch_that_goes_on_reads_nothing_of_the_buffers_before():
    x = InFile(np.zeros((400, COLUMNS)))
    epoch = source_of(x, np.zeros(400, int), 64).start_epoch(10, np.random.default_rng(0))
    x.reads.clear()
    epoch.seek(20)
    while epoch.take(7):
        pass
    assert sum(map(len, x.reads)) == 400 - 3 * 64


@pytest.mark.parametrize(
    ("make_it", "wanted"),
    [
        (lambda mapped: mapped, True),
        (lambda mapped: mapped[3:], True),
        (lambda mapped: mapped[[0, 1]], False),
        (np.asarray, False),
        (lambda mapped: InFile(mapped), True),
        (lambda mapped: mapped.tolist(), False),
        (lambda mapped: memoryview(np.array(mapped)), False),
    ],
)
def test_what_is_stored_is_told_from_what_is_in_memory(mapped, make_it, wanted):
    assert is_stored(make_it(mapped)) is wanted


def test_a_data_frame_is_in_memory(samples):
    pandas = pytest.importorskip("pandas")
    assert not is_stored(pandas.DataFrame(samples[0]))
    assert not is_stored(pandas.Series(samples[1]))


def test_the_default_buffer_is_a_number_of_bytes():
    assert stored.buffer_rows_of(None, 64, "float32") == 2**20
    assert stored.buffer_rows_of(7, 64, "float32") == 7
    assert stored.buffer_rows_of(None, 2**40, "float32") == 1


# ---------------------------------------------------------------------------------------------
# Without training


def test_what_is_stored_is_evaluated_and_predicted_chunk_by_chunk(samples, mapped, make):
    x, y = samples
    net = network(make)
    assert net.evaluate(mapped, y, metrics=["f1_macro"]) == net.evaluate(x, y, metrics=["f1_macro"])
    file = InFile(x)
    assert net.evaluate(Stream(file, 20), y) == net.evaluate(x, y)
    file.reads.clear()
    assert np.array_equal(
        to_numpy(net.predict(file, batch_size=40)), to_numpy(net.predict(x, batch_size=40))
    )
    assert max(map(len, file.reads)) == 40


def test_many_blocks_are_evaluated_as_few(samples, monkeypatch):
    from bp_xp.training import evaluation

    net = network()
    whole = net.evaluate(*samples)
    monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", 8)
    monkeypatch.setattr(evaluation, "_BLOCKS_AT_ONCE", 5)
    assert net.evaluate(*samples) == pytest.approx(whole, rel=1e-13)


# ---------------------------------------------------------------------------------------------
# What is refused


def test_a_number_that_is_not_finite_is_named_by_row_and_file(samples, tmp_path):
    x, y = samples
    x[61, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    wanted = re.escape(f"{mapped.filename}: x contains NaN at row 61, column 2.")
    with pytest.raises(ValueError, match=wanted):
        fitted(mapped, y, buffer_size=20)
    with pytest.raises(ValueError, match=wanted):
        network().predict(mapped, batch_size=20)


def test_all_targets_are_checked_before_the_first_step(samples, monkeypatch):
    monkeypatch.setattr(stored, "_ROWS_CHECKED_AT_ONCE", 16)
    x, y = samples
    y[80] = 7
    with pytest.raises(ValueError, match="label 7 at row 80 of y"):
        fitted(InFile(x), y, buffer_size=20)
    y = y / 2.0
    y[:] = 0.0
    y[50] = 0.5
    with pytest.raises(ValueError, match=r"y\[50\] is 0.5"):
        fitted(InFile(x), y, buffer_size=20)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"y": np.zeros(7, int)}, "y has 7 rows but the samples have 90"),
        ({"x": InFile(np.zeros((N, 3)))}, "x has 3 features"),
        ({"x": InFile(np.zeros((N, 3, 2)))}, "flatten images"),
        ({"sample_weight": np.ones(3)}, "sample_weight must have shape"),
        ({"sample_weight": -np.ones(N)}, "sample_weight is negative at row 0: -1."),
        ({"validation_data": 0.2}, "read when needed"),
        ({"buffer_size": 0}, "buffer_size must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(samples, change, error):
    given = {"x": InFile(samples[0]), "y": samples[1], "buffer_size": 80} | change
    with pytest.raises(ValueError, match=error):
        fitted(**given)


def test_the_file_of_a_data_set_is_watched_unless_it_is_open_for_writing(samples, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"as it was")
    x = InFile(samples[0])
    for mode, watched in (("r", [str(path)]), ("r+", [])):
        x.file = SimpleNamespace(filename=str(path), mode=mode)
        assert [file.path for file in stored.files_of(x)] == watched


@pytest.mark.parametrize("change", ["cut", "written"])
def test_a_file_that_changes_while_it_is_read_ends_the_run(samples, mapped, change):
    path, size = mapped.filename, os.path.getsize(mapped.filename)
    now = size - 800 if change == "cut" else size

    def alter(network, history):
        if change == "cut":
            os.truncate(path, now)
        os.utime(path, ns=(1, 1))

    how = f"it had {size:,} bytes when the run began, and has {now:,} now"
    if change == "written":
        how = "it was written to after the run began"
    wanted = re.escape(f"{path} changed while it was read: {how}.")
    with pytest.raises(OSError, match=wanted):
        fitted(mapped, samples[1], buffer_size=20, callbacks=alter)


def test_who_takes_arrays_alone_says_who_takes_a_stream(samples):
    x, y = samples
    net = Network([x.shape[1], 3, 3])
    for use in (net.trace, Ensemble.from_networks([net, net]).fit):
        with pytest.raises(TypeError, match="fit, partial_fit, evaluate and predict of Network"):
            use(Stream(x), y)


@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_the_file_is_named_if_all_of_it_fits_in_the_buffer(tmp_path, call):
    path = tmp_path / "small.npy"
    x = np.ones((20, 6), np.float32)
    x[7, 2] = np.nan
    np.save(path, x)
    method = getattr(Network([6, 3], seed=0), call)
    with pytest.raises(ValueError, match=r"small\.npy: x contains NaN.*at row 7, column 2"):
        method(np.load(path, mmap_mode="r"), np.zeros(20, int))
