"""Arrays that are written row by row."""

import numpy as np
import pytest

from bp_xp.datasets import load_npy
from bp_xp.storage.array_file import write_rows


@pytest.mark.parametrize("shape", [(7,), (7, 3), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, ">f8"])
def test_rows_are_read_back_whatever_blocks_they_came_in(tmp_path, shape, dtype):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    write_rows(tmp_path / "p.npy", (values[k : k + 2] for k in range(0, len(values), 2)))
    for read in (np.load, load_npy):
        np.testing.assert_array_equal(read(tmp_path / "p.npy"), values)


def test_columns_that_lie_in_any_order_are_written_as_rows(tmp_path):
    values = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    write_rows(tmp_path / "p.npy", [values[:2], values[2:]])
    assert np.array_equal(np.load(tmp_path / "p.npy"), values)


def test_an_error_of_who_makes_the_blocks_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "p.npy"
    path.write_bytes(b"older")

    def blocks():
        yield np.ones((2, 3))
        raise TimeoutError("nothing came")

    with pytest.raises(TimeoutError, match=r"^nothing came$"):
        write_rows(path, blocks())
    assert [one.name for one in tmp_path.iterdir()] == ["p.npy"]
    assert path.read_bytes() == b"older"
