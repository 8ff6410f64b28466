"""Samples that several processes read, all the same or each its own; threads stand in for them."""

import functools
import threading

import numpy as np
import pytest
from helpers import InFile, parameters
from threads import on_ranks

from bp_xp import Adam, Callback, Checkpoint, CheckpointError, Network, StopWhen, Stream

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((83, 6)), RNG.integers(0, 3, 83)
WEIGHTS = RNG.integers(0, 3, 83).astype(float)
X_TEST, Y_TEST = RNG.standard_normal((31, 6)), RNG.integers(0, 3, 31)
RUN = {"epochs": 3, "batch_size": 9, "optimizer": Adam(0.01), "progress": False}


def fitted(communicator, x, y=None, *, network=None, **options):
    """Return a network, and its history, after a fit."""
    settings = {"activation": "tanh", "cost": "categorical_cross_entropy", "dtype": "float64"}
    net = Network([6, 8, 3], seed=3, **settings | (network or {}))
    return net, net.fit(x, y, distributed=communicator, **RUN | options)


def records_of(history):
    values = [
        [r.cost, r.accuracy, r.validation_cost, r.validation_accuracy, *r.metrics.values()]
        for r in history
    ]
    return [[-1.0 if value is None else value for value in row] for row in values]


def assert_same_run(found, wanted):
    """Check that runs of several processes are the one of a process alone."""
    alone, history = wanted
    for net, theirs in found:
        assert np.allclose(parameters(net), parameters(alone), rtol=0, atol=1e-11)
        assert (theirs.steps, theirs.stopped) == (history.steps, history.stopped)
        assert len(theirs) == len(history)
        for ours, others in zip(records_of(theirs), records_of(history), strict=True):
            assert ours == pytest.approx(others, rel=1e-11, abs=1e-12)
    assert len({parameters(net).tobytes() for net, _ in found}) == 1
    assert len({str(records_of(history)) for _, history in found}) == 1


def assert_all_end(found, rank, error, *words):
    """Check that all end with the error of one, who raises it, and the others tell of it."""
    for number, one in enumerate(found):
        assert isinstance(one, error if number == rank else RuntimeError), one
        for word in (*words, *([] if number == rank else [f"rank {rank} on "])):
            assert word in str(one)


def batches_of(x, y, size=7):
    """Return what begins to yield batches of an odd size."""

    def begin():
        for k in range(0, len(x), size):
            yield x[k : k + size], y[k : k + size]

    return begin


def shard_of(rank, ranks, *parts):
    return [part[rank::ranks] for part in parts]


# ---------------------------------------------------------------------------------------------
# All read the same

STREAMS = {
    "stored": lambda: (Stream(InFile(X), 20), Y),
    "stored, with its targets": lambda: (Stream(InFile(X), 20), InFile(Y)),
    "batches": lambda: (batches_of(X, Y), None),
    "a list of batches": lambda: (list(batches_of(X, Y)()), None),
}
OPTIONS = {
    "plain": {"validation_data": (X_TEST, Y_TEST)},
    "weights": {"class_weight": {0: 2.0}, "dropout": 0.3},
    "stored validation": {
        "validation_data": (Stream(InFile(X_TEST), 10), Y_TEST, np.arange(31) % 3),
        "metrics": ["f1", "expected_calibration_error"],
        "early_stopping": 1,
    },
    "batches of validation": {
        "validation_data": batches_of(X_TEST, Y_TEST),
        "metrics": ["top_2", "accuracy"],
    },
    "less validation than ranks": {
        "validation_data": batches_of(X_TEST[:2], Y_TEST[:2]),
        "metrics": ["f1_macro"],
    },
}


RUNS = {
    **{name: ("stored", name, 3) for name in OPTIONS},
    "stored targets": ("stored, with its targets", "plain", 2),
    "batches": ("batches", "weights", 3),
    "batches and validation": ("batches", "batches of validation", 2),
    "a list": ("a list of batches", "stored validation", 2),
}


@pytest.mark.parametrize(("stream", "options", "ranks"), RUNS.values(), ids=RUNS)
def test_streams_that_all_read_give_the_run_of_one_process(stream, options, ranks):
    samples, options = STREAMS[stream], OPTIONS[options]
    found = on_ranks(ranks, lambda one: fitted(one, *samples(), **options))
    assert_same_run(found, fitted(None, *samples(), **options))


def test_pytorch_shares_streams_too():
    pytest.importorskip("torch")
    options = {"network": {"backend": "torch"}, "epochs": 2, **OPTIONS["stored validation"]}
    found = on_ranks(2, lambda one: fitted(one, *STREAMS["stored"](), **options))
    assert_same_run(found, fitted(None, *STREAMS["stored"](), **options))


def test_what_is_stored_and_fits_the_buffer_is_shared_from_memory():
    found = on_ranks(2, lambda one: fitted(one, InFile(X), Y))
    assert_same_run(found, fitted(None, X, Y))


class StopAt(Callback):
    def __init__(self, step):
        self.every = step

    def on_steps(self, network, history, step):
        return True


@pytest.mark.parametrize("stream", [STREAMS["stored"], STREAMS["batches"]])
def test_a_run_of_a_stream_goes_on_with_another_number_of_ranks(stream, tmp_path):
    kept = Checkpoint(tmp_path / "run.safetensors", resume=True)
    options = {"dropout": 0.2, "checkpoint": kept}
    for ranks, step in ((3, 4), (1, 13), (2, 27)):
        stop = StopAt(step)
        fit = functools.partial(fitted, callbacks=[stop], **options)
        found = on_ranks(ranks, lambda one, fit=fit: fit(one, *stream()))
        assert [history.steps for _, history in found] == [step] * ranks
    found = on_ranks(4, lambda one: fitted(one, *stream(), **options))
    assert_same_run(found, fitted(None, *stream(), dropout=0.2))


def test_other_orders_of_batches_are_refused_before_the_first_step():
    def fit(one):
        order = np.random.default_rng(one.rank).permutation(83)
        return fitted(one, batches_of(X[order], Y[order]))

    for one in on_ranks(2, fit):
        assert isinstance(one, RuntimeError)
        assert "x of the first batch is not the same" in str(one)
        assert "Stream(samples, sharded=True)" in str(one)


@pytest.mark.parametrize(
    ("rows", "words"), [(72, "has no more"), (60, "has 3 row(s), rank 1 has 4")]
)
def test_batches_that_end_sooner_on_one_rank_end_all(rows, words):
    def fit(one):
        n = rows if one.rank == 0 else 83
        return fitted(one, batches_of(X[:n], Y[:n]))

    for one in on_ranks(2, fit):
        assert isinstance(one, RuntimeError)
        assert "must read the same samples" in str(one)
        assert words in str(one)


# ---------------------------------------------------------------------------------------------
# Each reads its own

SHARDS = {
    "batches": lambda x, y: (Stream(batches_of(x, y, 4), sharded=True), None),
    "stored": lambda x, y: (Stream(InFile(x), 10, sharded=True), y),
    "in memory": lambda x, y: (Stream(x, sharded=True), y),
}


@pytest.mark.parametrize("shard", SHARDS.values(), ids=SHARDS)
def test_shards_are_the_run_of_one_process_on_all_of_them(shard):
    options = {"shuffle": False, "dropout": 0.2, "metrics": ["f1"]}

    def fit(one):
        x, y, x_test, y_test = shard_of(one.rank, 3, X, Y, X_TEST, Y_TEST)
        validation = Stream(batches_of(x_test, y_test), sharded=True)
        return fitted(one, *shard(x, y), validation_data=validation, **options)

    wanted = fitted(None, X, Y, validation_data=(X_TEST, Y_TEST), **options)
    assert_same_run(on_ranks(3, fit), wanted)


UNEVEN = {name: (shard, "numpy") for name, shard in SHARDS.items()}
UNEVEN["on PyTorch"] = SHARDS["in memory"], "torch"


@pytest.mark.parametrize(("shard", "backend"), UNEVEN.values(), ids=UNEVEN)
def test_a_shard_that_is_shorter_counts_by_its_samples(shard, backend):
    pytest.importorskip(backend)
    ends, options = [0, 40, 45, 83], {"shuffle": False, "network": {"backend": backend}}

    def fit(one):
        rows = slice(ends[one.rank], ends[one.rank + 1])
        return fitted(one, *shard(X[rows], Y[rows]), **options)

    # The same on one process: where a shard has no more rows, there are rows of no weight.
    x, y, weights = np.zeros((40, 3, 6)), np.zeros((40, 3), int), np.zeros((40, 3))
    for rank in range(3):
        rows = slice(ends[rank], ends[rank + 1])
        n = rows.stop - rows.start
        x[:n, rank], y[:n, rank], weights[:n, rank] = X[rows], Y[rows], 1.0
    wanted = fitted(
        None, x.reshape(-1, 6), y.reshape(-1), sample_weight=weights.reshape(-1), **options
    )
    assert_same_run(on_ranks(3, fit), wanted)


def test_a_run_of_shards_goes_on_where_one_is_at_its_end(tmp_path):
    kept = Checkpoint(tmp_path / "run.safetensors", resume=True)

    def fit(one, **options):
        n = [10, 50][one.rank]  # two steps and thirteen
        return fitted(one, Stream(InFile(X[:n]), 5, sharded=True), Y[:n], **options)

    wanted = on_ranks(2, fit)
    found = on_ranks(2, lambda one: fit(one, callbacks=[StopAt(18)], checkpoint=kept))
    assert [history.steps for _, history in found] == [18, 18]
    found = on_ranks(2, lambda one: fit(one, checkpoint=kept))
    assert_same_run(found, wanted[0])
    assert found[0][1].steps == 3 * 13
    words = "other settings: the data was shards of 2 ranks and is now those of 1$"
    with pytest.raises(CheckpointError, match=words):
        fitted(None, Stream(InFile(X[:10]), 5, sharded=True), Y[:10], checkpoint=kept)


@pytest.mark.parametrize("shard", SHARDS.values(), ids=SHARDS)
def test_fewer_rows_in_a_mini_batch_than_shards_are_refused_by_all(shard):
    def fit(one):
        return fitted(one, *shard(*shard_of(one.rank, 3, X, Y)), batch_size=2)

    for one in on_ranks(3, fit):
        assert isinstance(one, ValueError)
        assert "batch_size=2 is smaller than the 3 ranks" in str(one)


def test_the_batch_size_of_shards_is_that_of_their_first_batches_together():
    def fit(one):
        x, y = shard_of(one.rank, 2, X, Y)
        return fitted(one, Stream(batches_of(x, y, 6), sharded=True), batch_size=None)

    assert [history.steps for _, history in on_ranks(2, fit)] == [21, 21]  # of 12, and one of 11


def test_what_shards_can_not_tell_is_refused():
    x = Stream(InFile(X), 20, sharded=True)
    with pytest.raises(ValueError, match="class_weight='balanced' counts all samples"):
        fitted(None, x, Y, class_weight="balanced")
    with pytest.raises(ValueError, match=r"hold out .* each process has a shard"):
        fitted(None, Stream(X, sharded=True), Y, validation_data=0.2)
    with pytest.raises(TypeError, match="sharded must be True or False"):
        Stream(X, sharded=1)
    found = on_ranks(2, lambda one: fitted(one, Stream(X, sharded=one.rank == 0), Y))
    assert all("sharded is True on rank 0" in str(one) for one in found)


# ---------------------------------------------------------------------------------------------
# What goes wrong on one


def broken(rank, error):
    """Return what yields batches, and fails on rank 1 after some."""

    def begin():
        for k, batch in enumerate(batches_of(X, Y)()):
            if rank == 1 and k == 5:
                raise error
            yield batch

    return begin


def test_a_reader_that_fails_on_one_rank_ends_all_and_what_was_learned_is_kept(tmp_path):
    kept = Checkpoint(tmp_path / "run.safetensors", resume=True)
    nets = [None] * 3

    def fit(one):
        net = nets[one.rank] = Network([6, 8, 3], seed=3, dtype="float64")
        x = broken(one.rank, OSError("a disk is gone"))
        net.fit(x, distributed=one, checkpoint=kept, **RUN)

    assert_all_end(on_ranks(3, fit), 1, OSError, "a disk is gone")
    assert len({parameters(net).tobytes() for net in nets}) == 1
    assert np.array_equal(parameters(Network.load(kept.path)), parameters(nets[0]))
    nets = [Network([6, 8, 3], seed=3, dtype="float64") for _ in range(2)]
    nets[0].fit(batches_of(X, Y), checkpoint=kept, **RUN)
    nets[1].fit(batches_of(X, Y), **RUN)
    assert np.allclose(*map(parameters, nets), rtol=0, atol=1e-11)


def test_a_number_that_is_none_in_one_shard_is_named_with_rank_file_and_row(tmp_path):
    def fit(one):
        x = X.copy()
        x[70, 1] = np.nan if one.rank == 1 else 0.0
        path = tmp_path / f"{one.rank}.npy"
        np.save(path, x)
        x = np.load(path, mmap_mode="r")
        return fitted(one, Stream(x, 20, sharded=True), Y)

    words = "1.npy: x contains NaN at row 70, column 1"
    assert_all_end(on_ranks(2, fit), 1, ValueError, words)


def test_a_shard_without_a_sample_is_named():
    def fit(one):
        n = 0 if one.rank == 1 else 83
        return fitted(one, Stream(batches_of(X[:n], Y[:n]), sharded=True))

    assert_all_end(on_ranks(2, fit), 1, ValueError, "x yielded no batches")


def test_a_file_that_is_cut_for_one_rank_ends_all(tmp_path):
    def fit(one):
        path = tmp_path / f"{one.rank}.npy"
        np.save(path, X)
        x = np.load(path, mmap_mode="r")

        def cut(network, history):
            if one.rank == 1:
                np.save(path, X[:40])

        return fitted(one, Stream(x, 20), Y, callbacks=cut)

    assert_all_end(on_ranks(2, fit), 1, OSError, "1.npy changed while it was read")


@pytest.fixture
def stuck():
    """What a reader waits for until the test is over."""
    released, before = threading.Event(), set(threading.enumerate())
    yield released
    released.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


def waits_on(one, stuck):
    """Return what yields batches, and is stuck on rank 1."""

    def begin():
        for k, batch in enumerate(batches_of(X, Y)()):
            if one.rank == 1 and k == 4:
                stuck.wait()
            yield batch

    return begin


@pytest.mark.parametrize("validated", [False, True])
def test_a_reader_that_is_stuck_on_one_rank_ends_all_in_time(stuck, validated):
    def fit(one):
        slow = Stream(waits_on(one, stuck), timeout=0.1)
        if validated:
            return fitted(one, batches_of(X, Y), validation_data=slow)
        return fitted(one, slow)

    words = f"nothing came from {'validation_data' if validated else 'x'} for 0.1 seconds"
    assert_all_end(on_ranks(2, fit), 1, TimeoutError, words)


@pytest.mark.parametrize("validated", [False, True])
def test_a_rank_that_waits_and_shall_stop_ends_all_at_the_same_step(stuck, tmp_path, validated):
    kept = Checkpoint(tmp_path / "run.safetensors", resume=True)

    def fit(one, stuck):
        asked = threading.Event()
        slow = waits_on(one, stuck)

        def begin():
            for k, batch in enumerate(slow()):
                if k == 3 and one.rank == 1:
                    asked.set()
                yield batch

        options = {"validation_data": begin if validated else batches_of(X, Y)}
        stop = StopWhen(lambda: asked.is_set() and not stuck.is_set())
        x = batches_of(X, Y) if validated else begin
        return fitted(one, x, callbacks=[stop], checkpoint=kept, **options)

    found = on_ranks(2, lambda one: fit(one, stuck))
    steps = {(history.steps, history.stopped) for _, history in found}
    assert steps == {(10 if validated else 3, "interrupt")}
    assert len({parameters(net).tobytes() for net, _ in found}) == 1
    stuck.set()
    found = on_ranks(2, lambda one: fit(one, stuck))
    assert_same_run(found, fitted(None, batches_of(X, Y), validation_data=batches_of(X, Y)))
