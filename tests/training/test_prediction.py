"""Predictions that go into a file: ``predict(x, out=)`` and ``predict_proba(x, out=)``."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import InFile

from bp_xp import Network, Stream, to_numpy

N, COLUMNS = 50, 4


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def x(rng):
    return rng.standard_normal((N, COLUMNS)).astype(np.float32)


def network(make=Network, outputs=3, **options):
    settings = {"cost": "categorical_cross_entropy", "seed": 0} | options
    return make([COLUMNS, outputs], **settings)


def test_what_is_written_is_what_is_returned_on_every_backend(make, x):
    net = network(make)
    for method in (net.predict, net.predict_proba):
        expected = to_numpy(method(x, batch_size=16))
        mapped = method(InFile(x), batch_size=16, out="p.npy")
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(np.load("p.npy"), expected, strict=True)
        np.testing.assert_array_equal(mapped, expected)


@pytest.mark.parametrize("lies", ["in-memory", "stored", "in-batches", "transformed"])
def test_samples_may_lie_anywhere(x, lies):
    net = network(outputs=2, cost="huber")
    x = x[:48]  # in blocks that round alike
    given = {
        "in-memory": x,
        "stored": InFile(x),
        "in-batches": lambda: iter([x[:16], x[16:32], x[32:]]),
        "transformed": Stream(InFile(2 * x), transform=lambda rows: rows / 2),
    }[lies]
    written = net.predict(given, batch_size=16, out=Path("p.npy"))
    np.testing.assert_array_equal(written, net.predict(x, batch_size=16))


def test_a_block_is_written_before_the_next_one_is_read(x):
    sizes = []

    def batches():
        for k in range(0, N, 10):
            sizes.append(sum(file.stat().st_size for file in Path().iterdir()))
            yield x[k : k + 10]

    network(outputs=1, cost="huber").predict(batches, out="p.npy")
    # The thread that reads is one block ahead, or two.
    assert sizes[-1] >= 10 * (len(sizes) - 4) * 4


def test_a_number_that_is_not_finite_leaves_the_older_file(x):
    x[40, 1] = np.nan
    Path("p.npy").write_bytes(b"older")
    with pytest.raises(ValueError, match="row 40, column 1"):
        network().predict(InFile(x), batch_size=16, out="p.npy")
    assert os.listdir() == ["p.npy"]
    assert Path("p.npy").read_bytes() == b"older"


def test_ctrl_c_leaves_nothing(x):
    def batches():
        yield x[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        network().predict(batches, out="p.npy")
    assert os.listdir() == []


def test_a_full_disk_leaves_nothing_and_names_the_file(x, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; it was not written.*p\.npy"):
        network().predict(x, out="p.npy")
    assert os.listdir() == []


def test_a_file_that_is_read_or_of_another_kind_is_refused(x):
    np.save("x.npy", x)
    stored = np.load("x.npy", mmap_mode="r")
    for given in (stored, Stream(stored)):
        with pytest.raises(ValueError, match="is the file of the samples"):
            network().predict(given, out="x.npy")
    with pytest.raises(ValueError, match=r"must end in \.npy"):
        network().predict_proba(x, out="p.csv")
    np.testing.assert_array_equal(np.load("x.npy"), x)
