import io
import stat
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bp_xp.datasets import load_npy, load_npz
from bp_xp.errors import DataFormatError

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_header(header: str, body: bytes = b"", version: int = 1) -> bytes:
    """A .npy file with a custom header."""
    length_format = "<H" if version == 1 else "<I"
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack(length_format, len(text)) + text + body


def claiming(shape: str, body: bytes = b"", descr: str = "'<f4'") -> bytes:
    return with_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", body)


def npz_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def npy(tmp_path):
    """Writes bytes to a .npy file and returns its path."""

    def write(content: bytes):
        path = tmp_path / "array.npy"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def npz(tmp_path):
    """Writes bytes to a .npz file and returns its path."""

    def write(content: bytes):
        path = tmp_path / "arrays.npz"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def peak_memory():
    """How many bytes were allocated at most since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# One array


@pytest.mark.parametrize(
    "array",
    [
        ARRAY,
        np.asfortranarray(ARRAY),
        ARRAY.astype(">f8"),
        np.array(7, np.int16),
        np.zeros((3, 0)),
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array(["zéro", "un"]),
        np.array([b"a", b"bc"]),
        np.arange(2**19, dtype=np.float64),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}{'F' if array.flags.fnc else ''}",
)
def test_array_is_read_as_numpy_saved_it(npy, array):
    read = load_npy(npy(npy_bytes(array)))
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.dtype.isnative
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("version", [2, 3])
def test_later_versions_of_the_format_are_read(npy, version):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
    np.testing.assert_array_equal(
        load_npy(npy(with_header(header, ARRAY.tobytes(), version))), ARRAY
    )


@pytest.mark.parametrize(
    "array", [np.array([{}], object), np.array([({}, 1)], "O,i4")], ids=["objects", "a field"]
)
def test_objects_are_refused_without_a_word_on_how_to_unpickle_them(npy, array):
    path = npy(npy_bytes(array))
    with pytest.raises(DataFormatError, match=r"object.*no pickle ever is") as caught:
        load_npy(path)
    assert str(path) in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros(1, "f4,i4"), np.zeros(1, "M8[s]")])
def test_other_dtypes_are_refused(npy, array):
    with pytest.raises(DataFormatError, match="numbers or text"):
        load_npy(npy(npy_bytes(array)))


@pytest.mark.parametrize("n", [10**9, 10**12])
def test_claim_beyond_the_file_is_refused_before_allocation(npy, peak_memory, n):
    path = npy(claiming(f"({n},)", bytes(4)))
    with pytest.raises(DataFormatError, match=f"claims {4 * n:,} bytes.* 4 are there"):
        load_npy(path)
    assert peak_memory() < 2**20


def test_header_of_nested_brackets_is_refused_by_its_length(npy):
    path = npy(with_header("[" * 200_000, version=2))
    with pytest.raises(DataFormatError, match=r"header length of 200,000.*limit is 10000"):
        load_npy(path)


def test_header_length_of_four_gigabytes_is_refused_before_allocation(npy, peak_memory):
    path = npy(b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(100))
    with pytest.raises(DataFormatError, match=r"header length of 4,294,967,295.*limit is 10000"):
        load_npy(path)
    assert peak_memory() < 2**20


@pytest.mark.parametrize(
    "header",
    [
        "[" * 9000,
        "(" * 90 + ")" * 90,
        "-" * 9000 + "1",
        "{}",
        "[1]",
        "{'descr': '<f4', 'fortran_order': False}",
        "1" * 9000,
        "__import__('os')",
        "'\\d",
        "",
    ],
    ids=lambda header: header[:30] or "empty",
)
def test_header_that_is_not_a_header_is_refused(npy, header):
    with pytest.raises(DataFormatError, match="header that cannot be read"):
        load_npy(npy(with_header(header)))


@pytest.mark.parametrize(
    "shape",
    [
        "3",
        "(-1,)",
        "(True,)",
        "(1.0,)",
        "[1]",
        f"({2**62}, 0)",
        "(0x" + "f" * 5000 + ",)",
        "(" + "1," * 65 + ")",
    ],
    ids=lambda shape: shape[:20],
)
def test_shape_that_no_array_has_is_refused(npy, shape):
    with pytest.raises(DataFormatError, match="an array that cannot exist"):
        load_npy(npy(claiming(shape, bytes(4))))


@pytest.mark.parametrize("descr", ["'<f3'", "'<i99999999999'", "'<U99999999999'"])
def test_dtype_that_does_not_exist_is_refused(npy, descr):
    with pytest.raises(DataFormatError, match="a dtype that does not exist"):
        load_npy(npy(claiming("(1,)", bytes(4), descr)))


@pytest.mark.parametrize("descr", ["'<U0'", "7", "None", "('<f4', (2,))", "'f4,f4'"])
def test_dtype_that_is_not_plain_is_refused(npy, descr):
    with pytest.raises(DataFormatError, match="numbers or text are read"):
        load_npy(npy(claiming("(1,)", bytes(4), descr)))


def test_bytes_after_the_array_are_refused(npy):
    with pytest.raises(DataFormatError, match="2 extra bytes after the 24"):
        load_npy(npy(npy_bytes(ARRAY) + b"ab"))


def test_every_way_to_cut_an_array_short_is_refused(npy):
    content = npy_bytes(ARRAY)
    for length in range(len(content)):
        with pytest.raises(DataFormatError, match=r"array.npy"):
            load_npy(npy(content[:length]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 127), value=st.integers(0, 255))
@example(position=6, value=9)
def test_changed_byte_in_a_header_is_refused_or_gives_an_array(npy, position, value):
    content = bytearray(npy_bytes(ARRAY))
    content[position] = value
    try:
        assert load_npy(npy(content)).nbytes == ARRAY.nbytes
    except DataFormatError as error:
        assert "array.npy" in str(error)  # noqa: PT017


@pytest.mark.parametrize(("load", "name"), [(load_npy, "a.npy"), (load_npz, "a.npz")])
def test_missing_file_is_named(tmp_path, load, name):
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


# Archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_archive_come_by_name(tmp_path, save):
    path = tmp_path / "arrays.npz"
    labels = np.array([1, 0])
    save(path, x=ARRAY, **{"sets/y": labels})
    arrays = load_npz(path)
    assert list(arrays) == ["x", "sets/y"]
    np.testing.assert_array_equal(arrays["x"], ARRAY)
    np.testing.assert_array_equal(arrays["sets/y"], labels)


def test_objects_in_an_archive_are_refused(npz):
    path = npz(npz_bytes({"x.npy": npy_bytes(np.array([{}], object))}))
    with pytest.raises(DataFormatError, match=r"member 'x.npy' holds Python objects"):
        load_npz(path)


def test_bomb_is_refused_before_it_expands(npz, peak_memory):
    header = claiming(f"({2**27 // 4},)")
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(header)
        for _ in range(2**7):
            member.write(bytes(2**20))
    path = npz(stream.getvalue())
    tracemalloc.reset_peak()
    n_bytes = 2**27 + len(header)
    with pytest.raises(DataFormatError, match=f"'x.npy' expands to {n_bytes:,}.*67,108,864"):
        load_npz(path)
    assert peak_memory() < 2 * path.stat().st_size + 2**20


def test_limit_on_expansion_is_a_parameter_and_counts_all_members(npz):
    content = npy_bytes(ARRAY)
    path = npz(npz_bytes({"x.npy": content, "y.npy": content}))
    with pytest.raises(DataFormatError, match=r"member 'y.npy'.*above the limit of \d+"):
        load_npz(path, max_bytes=2 * len(content) - 1)
    assert len(load_npz(path, max_bytes=2 * len(content))) == 2


def test_two_members_of_one_name_are_refused(npz):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", npy_bytes(ARRAY))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy_bytes(-ARRAY))
    with pytest.raises(DataFormatError, match=r"'x.npy': two members have this name"):
        load_npz(npz(stream.getvalue()))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_way_to_cut_an_archive_short_is_refused(npz, compression):
    content = npz_bytes({"x.npy": npy_bytes(ARRAY)}, compression)
    for length in range(len(content)):
        path = npz(content[:length])
        with pytest.raises(DataFormatError) as caught:
            load_npz(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_flipped_byte_is_refused_or_harmless(npz, compression, flip):
    content = npz_bytes({"x.npy": npy_bytes(ARRAY)}, compression)
    n_refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        path = npz(damaged)
        try:
            (array,) = load_npz(path).values()
            np.testing.assert_array_equal(array, ARRAY)
        except DataFormatError as error:
            assert str(path) in str(error)  # noqa: PT017
            n_refused += 1
    assert n_refused > len(content) / 2


def test_damaged_member_is_named(npz):
    content = bytearray(npz_bytes({"x.npy": npy_bytes(ARRAY)}, zipfile.ZIP_STORED))
    content[content.index(ARRAY.tobytes()) + 5] ^= 1
    with pytest.raises(DataFormatError, match=r"damaged.* member 'x.npy'") as caught:
        load_npz(npz(content))
    assert isinstance(caught.value.__cause__, zipfile.BadZipFile)


@pytest.mark.parametrize(
    "name",
    ["../../evil.npy", "/etc/evil.npy", "a/../../evil.npy", "C:\\evil.npy", "\\\\a\\b\\c.npy"],
)
def test_member_with_a_path_out_of_the_archive_is_refused(npz, tmp_path, name):
    path = npz(npz_bytes({name: npy_bytes(ARRAY)}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataFormatError, match="leads out of the archive") as caught:
        load_npz(path)
    assert repr(name) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_member_that_is_a_link_is_refused(npz):
    info = zipfile.ZipInfo("x.npy")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataFormatError, match=r"member 'x.npy': a link"):
        load_npz(npz(stream.getvalue()))


def test_member_that_is_not_an_array_is_refused(npz):
    with pytest.raises(DataFormatError, match=r"member 'notes.txt': not an array"):
        load_npz(npz(npz_bytes({"notes.txt": b"hello"})))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_numpy_does_not_write_is_refused(npz, compression):
    with pytest.raises(DataFormatError, match="other than deflate"):
        load_npz(npz(npz_bytes({"x.npy": npy_bytes(ARRAY)}, compression)))


def test_member_that_is_longer_than_its_array_is_refused(npz):
    with pytest.raises(DataFormatError, match=r"member 'x.npy' has 1 extra bytes"):
        load_npz(npz(npz_bytes({"x.npy": npy_bytes(ARRAY) + b"a"})))


def test_file_that_is_no_archive_is_refused(npz):
    with pytest.raises(DataFormatError, match=r"not a .npz file"):
        load_npz(npz(npy_bytes(ARRAY)))
