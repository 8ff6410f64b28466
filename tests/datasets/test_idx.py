import gzip
import re
import struct
import tracemalloc

import numpy as np
import pytest

from bp_xp.datasets.idx import read_idx
from bp_xp.errors import DataFormatError

IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, 3, 2)


def idx_bytes(array: np.ndarray, code: int = 0x08) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("compressed", [True, False])
def test_array_is_read_as_it_was_written(tmp_path, compressed):
    path = tmp_path / ("images.gz" if compressed else "images")
    content = idx_bytes(IMAGES)
    path.write_bytes(gzip.compress(content) if compressed else content)
    array = read_idx(path)
    assert array.dtype == np.uint8
    assert np.array_equal(array, IMAGES)
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("code", "stored"),
    [(0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")],
)
def test_every_type_of_number_comes_in_this_machines_byte_order(tmp_path, code, stored):
    numbers = np.array([-1, 2, 100], stored)
    path = tmp_path / "numbers"
    path.write_bytes(idx_bytes(numbers, code))
    array = read_idx(path)
    assert array.dtype.isnative
    assert array.dtype == np.dtype(stored).newbyteorder("=")
    assert array.tolist() == [-1, 2, 100]


def test_every_way_to_cut_an_archive_short_is_refused_as_truncated(tmp_path):
    path = tmp_path / "images.gz"
    content = gzip.compress(idx_bytes(IMAGES))
    for length in range(2, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataFormatError, match=r"truncated.* bytes expected, .* read") as caught:
            read_idx(path)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value.__cause__, EOFError)


def test_truncated_archive_tells_how_many_bytes_came(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 10, 10), np.uint8)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx_bytes(noise))[:60_000])
    with pytest.raises(DataFormatError, match="100,016 bytes expected") as caught:
        read_idx(path)
    read = int(re.search(r"([\d,]+) read", str(caught.value))[1].replace(",", ""))
    assert 40_000 < read <= 60_000


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>404</html>", b""])
def test_web_page_saved_as_archive_is_refused(tmp_path, content):
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match="not a gzip file") as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert repr(content[:16]) in str(caught.value)


@pytest.mark.parametrize(
    "magic", [b"\x01\0\x08\x03", b"\0\0\x07\x03", b"\0\0\x08\0", b"\0\0\x08\xff"]
)
def test_wrong_magic_is_refused(tmp_path, magic):
    path = tmp_path / "images"
    path.write_bytes(magic + bytes(1020))
    with pytest.raises(DataFormatError, match=r"not an IDX file.*expected") as caught:
        read_idx(path)
    assert magic.hex(" ") in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_body_shorter_than_the_header_says_is_refused(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(idx_bytes(IMAGES)[:-1]))
    with pytest.raises(DataFormatError, match=r"46 bytes expected, 45 read"):
        read_idx(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_body_longer_than_the_header_says_is_refused(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(idx_bytes(IMAGES) + b"\0\0"))
    with pytest.raises(DataFormatError, match="46 bytes is expected, and at least 47 are there"):
        read_idx(path)


def test_header_without_data_is_refused(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES[:0]))
    with pytest.raises(DataFormatError, match=r"holds no data.*\(0, 3, 2\)"):
        read_idx(path)


def test_bomb_is_read_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx_bytes(IMAGES) + bytes(2**25), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(DataFormatError, match=r"longer than its header says.* limit of 46 bytes"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_header_that_claims_too_much_is_refused_before_anything_is_allocated(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2**20, 28, 28)))
    tracemalloc.start()
    with pytest.raises(DataFormatError, match=r"822,083,584 bytes.*limit of 67,108,864") as caught:
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert str(path) in str(caught.value)


def test_limit_is_a_parameter(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES))
    with pytest.raises(DataFormatError, match="30 bytes, above the limit of 29"):
        read_idx(path, max_bytes=29)
    assert read_idx(path, max_bytes=30).shape == IMAGES.shape


def test_flipped_byte_is_refused_or_harmless(tmp_path):
    path = tmp_path / "images.gz"
    content = gzip.compress(idx_bytes(IMAGES))
    n_refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_idx(path), IMAGES)
        except DataFormatError as error:
            assert str(path) in str(error)  # noqa: PT017
            n_refused += 1
    # Only the time, the level and the system in the gzip header may change unseen.
    assert n_refused >= len(content) - 6


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.gz"):
        read_idx(tmp_path / "nowhere.gz")
