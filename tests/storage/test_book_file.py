"""Files of the book's networks: what is written, and what is refused."""

import copy
import json

import numpy as np
import pytest

from bp_xp import CheckpointError
from bp_xp.storage.book_file import BookFile, read_book, write_book

FIELDS = {
    "sizes": [2, 2, 1],
    "weights": [[[0.5, -1e-17], [2, 3.25]], [[1.5, 0.0]]],
    "biases": [[[0.25], [1]], [[-3.0]]],
    "cost": "CrossEntropyCost",
}


def network(weight=0.1 + 0.2):
    weights = [np.array([[weight, 2.0**-1074], [1.0, 1e300]]), np.ones((1, 2), np.float32) / 3]
    return BookFile([2, 2, 1], weights, [np.zeros((2, 1)), np.ones((1, 1))], "QuadraticCost")


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    written = network()
    write_book(tmp_path / "net", written)
    read = read_book(tmp_path / "net")
    assert (read.sizes, read.cost) == (written.sizes, written.cost)
    for ours, theirs in zip(
        read.weights + read.biases, written.weights + written.biases, strict=True
    ):
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_numbers_that_json_lacks_are_not_written_over_an_older_file(tmp_path, weight):
    write_book(tmp_path / "net", network())
    before = (tmp_path / "net").read_bytes()
    with pytest.raises(ValueError, match="net was not written: a weight or bias is NaN or inf"):
        write_book(tmp_path / "net", network(weight))
    assert (tmp_path / "net").read_bytes() == before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"it is not JSON \(Expecting value"),
        (b"\x80\x04\x95 a pickle", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1, 2]", r"its content must be a mapping of names to values, not \[1, 2\]"),
        (b"null", "its content must be a mapping"),
        (json.dumps(FIELDS).encode()[:-9], "it is not JSON"),
    ],
)
def test_what_is_no_json_of_a_network_is_refused(tmp_path, data, message):
    (tmp_path / "net").write_bytes(data)
    with pytest.raises(
        CheckpointError, match=f"net can't be read as a network of the book: {message}"
    ):
        read_book(tmp_path / "net")


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_missing_is_named(tmp_path, name):
    (tmp_path / "net").write_text(json.dumps({k: v for k, v in FIELDS.items() if k != name}))
    with pytest.raises(CheckpointError, match=f"of the book: '{name}' is missing"):
        read_book(tmp_path / "net")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("sizes",), [2], "its sizes must be a list of at least 2"),
        (("sizes", 1), 2.0, r"its sizes\[1\] must be a whole number from 1"),
        (("sizes", 0), 10**15, r"its weights\[0\] must be 2 rows of 1000000000000000, to fit"),
        (("sizes",), [2, 1], r"its 2 weights do not fit its sizes \[2, 1\]"),
        (("weights",), {}, "its weights must be a list"),
        (("weights", 0), [[1.0, 2.0]], r"its weights\[0\] must be 2 rows of 2"),
        (("weights", 0, 1), [1.0], r"its weights\[0\] must be 2 rows of 2"),
        (("weights", 0, 1, 1), "3", r"its weights\[0\]\[1\]\[1\] must be a finite number, not '3'"),
        (("weights", 0, 1, 1), True, "must be a finite number, not True"),
        (("weights", 0, 1, 1), float("nan"), "must be a finite number, not nan"),
        (("weights", 1, 0, 0), 10**400, r"its weights\[1\]\[0\]\[0\] must be a finite number"),
        (("biases", 0), [0.25, 1], r"its biases\[0\]\[0\] must be a list, not 0.25"),
        (("biases", 1), [[1.0, 2.0]], r"its biases\[1\] must be 1 rows of 1"),
        (("biases",), [], "its 0 biases do not fit"),
        (("cost",), None, "its cost must be a text, not None"),
    ],
)
def test_a_value_that_can_not_be_is_named(tmp_path, place, value, message):
    fields = copy.deepcopy(FIELDS)
    *path, last = place
    part = fields
    for key in path:
        part = part[key]
    part[last] = value
    (tmp_path / "net").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=message):
        read_book(tmp_path / "net")


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_book(tmp_path / "net")
    with pytest.raises(IsADirectoryError):
        read_book(tmp_path)
