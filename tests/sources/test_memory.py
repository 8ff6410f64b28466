import contextlib
import itertools
import os
import threading

import numpy as np
import pytest

from bp_xp import to_numpy
from bp_xp.sources import MemorySource, Samples


def test_one_permutation_orders_samples_labels_and_weights(where, rng):
    """Row i holds i everywhere, so that a torn pair would show."""
    seen = []
    rows = np.arange(17.0)
    x = np.stack([rows, rows], axis=1)
    samples = Samples(where.asarray(x), where.asarray(rows[:, None]), False, where.asarray(rows))
    source = MemorySource(samples, where)
    for _ in range(3):
        epoch = source.start_epoch(5, rng)
        while batches := epoch.take(2):
            x, y, w = (
                to_numpy(part).reshape(-1, k) for part, k in zip(batches, (2, 1, 1), strict=True)
            )
            assert np.array_equal(x, np.repeat(y, 2, axis=1))
            assert np.array_equal(y, w)
            seen += y[:, 0].tolist()

    epochs = np.reshape(seen, (3, 17))
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.fixture
def large(where):
    """Chunks of 24 mini-batches of it are worth a thread."""
    rows = np.arange(2500.0)[:, None] % 977
    x = np.tile(rows, (1, 600))
    samples = Samples(where.asarray(x, "float32"), where.asarray(rows, "float32"), False)
    return MemorySource(samples, where)


def taken(epoch, sizes):
    """Return the targets, and how many threads there were."""
    seen, threads, sizes = [], set(), itertools.cycle(sizes)
    with contextlib.closing(epoch):
        while batches := epoch.take(next(sizes)):
            threads |= {t.name for t in threading.enumerate() if "mini-batches" in t.name}
            x, y = (to_numpy(part).reshape(-1, part.shape[-1]) for part in batches)
            assert np.array_equal(x[:, 7:8], y)
            seen.append(y[:, 0])
    return np.concatenate(seen), threads


@pytest.mark.parametrize("sizes", [[24], [24, 24, 7], [1, 24]], ids=str)
def test_what_is_gathered_ahead_comes_in_the_order(large, sizes, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    where, before = large.placement, set(threading.enumerate())
    found, threads = taken(large.start_epoch(10, np.random.default_rng(3)), sizes)
    order = np.random.default_rng(3).permutation(2500)
    assert np.array_equal(found, order % 977)
    assert bool(threads) == (where.on_cpu and where.library.threads_run_beside)
    assert set(threading.enumerate()) == before


def test_an_epoch_goes_on_elsewhere_than_was_gathered(large):
    epoch, order = large.start_epoch(10, np.random.default_rng(3)), np.arange(2500)
    np.random.default_rng(3).shuffle(order)
    with contextlib.closing(epoch):
        epoch.take(24)
        epoch.seek(100)
        y = to_numpy(epoch.take(24)[1]).ravel()
    assert np.array_equal(y, order[1000:1240] % 977)


def test_an_epoch_does_without_a_thread(large, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    found, threads = taken(large.start_epoch(10, np.random.default_rng(3)), [24])
    assert len(found) == 2500
    assert not threads
