"""Data sets whose rows stay in their file until they are sliced."""

import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bp_xp import DataFormatError
from bp_xp.datasets import load_file
from bp_xp.datasets.stored import open_file, open_inputs

N = 3000


class H5Dataset:
    """What a file of HDF5 holds."""

    def __init__(self, values):
        self._values, self.chunks = values, (100, *values.shape[1:])
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, rows):
        return self._values[rows]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def samples(rng):
    """Images of one byte a pixel, shape (3000, 2, 3), and labels of three classes."""
    return rng.integers(0, 256, (N, 2, 3), dtype=np.uint8), np.arange(N) % 3


def write(kind, samples, monkeypatch) -> dict[str, Any]:
    """Write samples in some form; return how they are named."""
    x, y = samples
    if kind == "npy":
        np.save("x.npy", x)
        np.save("y.npy", y)
        return {"path": "x.npy", "targets": "y.npy"}
    if kind == "folder":
        write("npy", samples, monkeypatch)
        return {"path": "."}
    if kind == "table":
        np.save("table.npy", np.column_stack([x.reshape(N, -1), y]).astype(np.uint8))
        return {"path": "table.npy"}
    if kind == "npz":
        np.savez("data.npz", x=x, y=y)
        return {"path": "data.npz"}
    # h5py itself need not be there.
    members = {"x": H5Dataset(x), "y": H5Dataset(y), "note": "text"}
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=lambda *_: members))
    open("data.h5", "wb").close()
    return {"path": "data.h5"}


def rows_of(dataset, part):
    """All rows of a part, images and labels side by side."""
    x, y = (getattr(dataset, f"{letter}_{part}") for letter in "xy")
    return np.column_stack([x[0 : len(x)], y[0 : len(y)]])


KINDS = ["npy", "folder", "table", "npz", "h5"]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_hold_each_row_once_in_the_form_of_a_data_set_in_memory(samples, kind, monkeypatch):
    x, y = samples
    given = write(kind, samples, monkeypatch)
    dataset = open_file(**given, test_fraction=0.2, validation_fraction=0.25)
    parts = [rows_of(dataset, part) for part in ("train", "test", "validation")]
    assert [len(part) for part in parts] == [1800, 600, 600]
    whole = np.column_stack([x.reshape(N, -1) / np.float32(255), y])
    if kind == "table":
        # Bytes are images, but a column of labels is none.
        assert dataset.n_features == 6
    assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, whole))
    assert (dataset.n_features, dataset.n_outputs) == (6, 3)
    assert dataset.x_train.dtype == np.float32
    if kind in ("table", "npz"):
        in_memory = load_file(given["path"])
        assert (in_memory.x_train.dtype, in_memory.y_train.dtype) == (np.float32, np.int64)
        assert dataset.y_train[:1].dtype == np.int64


def test_the_test_part_is_drawn_from_all_over_the_file_and_always_the_same(samples, monkeypatch):
    given = write("npy", (samples[0], np.arange(N)), monkeypatch)
    tested, again = (rows_of(open_file(**given), "test") for _ in range(2))
    assert np.array_equal(tested, again)
    tenths = np.bincount(tested[:, -1].astype(int) * 10 // N, minlength=10)
    assert (tenths > 20).all()


def test_split_last_holds_out_the_last_rows_in_order(samples, monkeypatch):
    given = write("npy", (samples[0], np.arange(N)), monkeypatch)
    dataset = open_file(**given, test_fraction=0.2, validation_fraction=0.25, split_last=True)
    ends = [rows_of(dataset, part)[:, -1] for part in ("train", "validation", "test")]
    assert np.array_equal(np.concatenate(ends), np.arange(N))
    assert list(map(len, ends)) == [1800, 600, 600]


def test_all_rows_or_none_may_be_the_test_part(samples, monkeypatch):
    given = write("npy", samples, monkeypatch)
    assert len(open_file(**given, test_fraction=1.0).x_test) == N
    assert len(open_file(**given, test_fraction=0.0).x_train) == N


@pytest.mark.parametrize("cut", [slice(0, 5), slice(700, 1900), slice(2395, 9999), slice(5, 5)])
def test_any_slice_is_that_of_the_rows_in_memory(samples, monkeypatch, cut):
    dataset = open_file(**write("npy", samples, monkeypatch))
    rows = dataset.x_train
    assert np.array_equal(rows[cut], rows[0:N][cut])


def test_parts_of_an_archive_are_its_own(samples):
    x, y = samples
    np.savez("data.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    dataset = open_file("data.npz", validation_fraction=0.1)
    parts = ("train", "validation", "test")
    assert [len(rows_of(dataset, part)) for part in parts] == [81, 9, N - 90]
    np.savez(
        "data.npz",
        **{f"x_{part}": x for part in ("train", "test", "validation")},
        **{f"y_{part}": y for part in ("train", "test", "validation")},
    )
    assert len(rows_of(open_file("data.npz"), "validation")) == N
    with pytest.raises(ValueError, match="has a validation part of 3,000 samples"):
        open_file("data.npz", validation_fraction=0.1)


def test_targets_that_are_no_labels_become_columns_of_numbers(samples, monkeypatch):
    given = write("npz", (samples[0], np.linspace(-1, 1, N)), monkeypatch)
    dataset = open_file(**given)
    assert dataset.y_train.shape == (2400, 1)
    assert dataset.y_train[:9].dtype == np.float32


def test_a_number_that_is_not_finite_is_told_with_its_row_in_the_file(monkeypatch):
    x = np.ones((N, 2))
    x[1234, 1] = np.inf
    dataset = open_file(**write("npy", (x, np.zeros(N)), monkeypatch), test_fraction=0.0)
    with pytest.raises(DataFormatError, match=r"x\.npy, row 1234, column 1 .*: inf is"):
        dataset.x_train[1000:1300]


def test_an_archive_that_is_compressed_is_refused_with_what_to_do(samples):
    np.savez_compressed("data.npz", x=samples[0], y=samples[1])
    with pytest.raises(DataFormatError, match=r"compressed.*numpy\.savez"):
        open_file("data.npz")


def test_h5py_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="h5py is not installed"):
        open_file("data.h5")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"path": "x.npz", "targets": "y.npy"}, ValueError, "is not a .npy file"),
        ({"path": "x.csv"}, ValueError, "can't be read row by row"),
        ({"path": "cut.npy", "targets": "y.npy"}, DataFormatError, "truncated"),
        (
            {"path": "x.npy", "targets": "short.npy"},
            DataFormatError,
            "3000 rows, but short.npy has 9",
        ),
        ({"path": "x.npy"}, DataFormatError, "expected is a table of two dimensions"),
        ({"path": "x.npy", "targets": "y.npy", "test_fraction": 0.0001}, ValueError, "to test on"),
        ({"path": "missing.npy"}, FileNotFoundError, "missing"),
        ({"path": "empty"}, DataFormatError, "empty has no arrays at its top level.*Save each as"),
    ],
)
def test_what_is_no_data_set_is_refused(samples, monkeypatch, given: Any, error, message):
    write("npy", samples, monkeypatch)
    np.save("short.npy", samples[1][:9])
    os.mkdir("empty")
    with open("x.npy", "rb") as whole, open("cut.npy", "wb") as cut:
        cut.write(whole.read()[:-1])
    with pytest.raises(error, match=message):
        open_file(**given)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_to_predict_from_are_all_rows_in_order(samples, kind, monkeypatch):
    given = write(kind, samples, monkeypatch)
    rows = open_inputs(given["path"], -1, 6)
    assert np.array_equal(rows[0:N], samples[0].reshape(N, -1) / np.float32(255))


def test_an_archive_without_inputs_is_refused():
    np.savez("data.npz", a=np.ones(3))
    with pytest.raises(ValueError, match="x or x_test is expected"):
        open_inputs("data.npz", -1, 6)
