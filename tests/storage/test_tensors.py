import io
import json
import pickle
import random
import re
import struct
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from bp_xp.errors import CheckpointError
from bp_xp.storage import tensors as tensor_files
from bp_xp.storage.tensors import read_tensors, write_tensors

TENSORS = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.5, -2.0])}
HEADER = {"sizes": [3, 2], "eta": 1e-05, "note": 'σ "quoted" \x1f\\'}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def data():
    return tensor_files._encode(TENSORS, HEADER)


@pytest.fixture
def saved(path):
    """Return the path of a file, and what is in it."""
    write_tensors(path, TENSORS, HEADER)
    return path, path.read_bytes()


def layout(header, data=b"", length=None):
    """Lay out a safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def assert_same(result, expected):
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(result[name], array, strict=True)


# What is written comes back


def test_arrays_and_header_come_back_as_they_were(path):
    assert write_tensors(str(path), TENSORS, HEADER) == path
    tensors, header = read_tensors(path)
    assert_same(tensors, TENSORS)
    assert header == HEADER


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(24.0).reshape(4, 6)[::2, ::-3],
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.broadcast_to(np.float32(7), (3, 2)),
        np.arange(6, dtype=">f4").reshape(2, 3).T,
        np.arange(6, dtype=">i8")[::-1],
        np.array(2.5),
        np.array(3, dtype=">u2"),
        np.zeros((0,), dtype=np.float32),
        np.zeros((3, 0, 2)),
    ],
    ids=[
        "transposed",
        "strided",
        "fortran",
        "broadcast",
        "big_endian_transposed",
        "big_endian_reversed",
        "0d",
        "0d_big_endian",
        "empty",
        "empty_3d",
    ],
)
def test_any_memory_layout_comes_back_equal_in_native_order(path, array):
    write_tensors(path, {"a": array}, {})
    result = read_tensors(path)[0]["a"]
    np.testing.assert_array_equal(result, array.astype(array.dtype.newbyteorder("=")), strict=True)
    assert result.dtype.isnative


@pytest.mark.parametrize(
    "dtype", [np.dtype(code) for code in tensor_files._DTYPES.values()], ids=str
)
def test_every_dtype_of_the_table_comes_back(path, dtype):
    write_tensors(path, {"a": np.array([0, 1, 1], dtype=dtype)}, {})
    np.testing.assert_array_equal(
        read_tensors(path)[0]["a"], np.array([0, 1, 1], dtype=dtype), strict=True
    )


def test_returned_arrays_are_writable_and_the_callers_own(saved):
    path, content = saved
    first = read_tensors(path)[0]["W"]
    assert first.flags.writeable
    assert first.flags.owndata
    first[:] = -1
    assert_same(read_tensors(path)[0], TENSORS)
    assert path.read_bytes() == content


def test_no_tensors_and_no_header_are_a_file_too(path):
    write_tensors(path, {}, {})
    assert read_tensors(path) == ({}, {})


def test_equal_content_gives_equal_bytes(data):
    assert tensor_files._encode(dict(reversed(TENSORS.items())), HEADER) == data


def test_the_file_opens_with_plain_safetensors(saved):
    assert_same(load_file(saved[0]), TENSORS)


def test_the_header_comes_back_as_json_types(path):
    write_tensors(path, {}, {"shape": (2, 3), "table": {1: "one"}, "none": None, 3: True})
    assert read_tensors(path)[1] == {
        "shape": [2, 3],
        "table": {"1": "one"},
        "none": None,
        "3": True,
    }


@pytest.mark.parametrize(
    "header",
    [{"a": float("nan")}, {"a": [float("inf")]}, {"a": np.float32(1)}, {"a": {1, 2}}],
)
def test_a_header_that_json_cannot_hold_is_refused_before_writing(saved, header):
    path, content = saved
    with pytest.raises((TypeError, ValueError), match="JSON"):
        write_tensors(path, TENSORS, header)
    assert path.read_bytes() == content


@pytest.mark.parametrize("dtype", [np.float16, np.complex64, np.longdouble, object, "U3", "M8[s]"])
def test_another_dtype_is_refused_naming_tensor_and_dtype(path, dtype):
    with pytest.raises(TypeError, match=rf"'W' has dtype {re.escape(str(np.dtype(dtype)))}"):
        write_tensors(path, {"W": np.zeros(2, dtype=dtype)}, {})
    assert not path.exists()


@pytest.mark.parametrize("name", ["__metadata__", "a\x1f", "a\n", "\ud800"])
def test_a_name_that_would_not_come_back_is_refused(path, name):
    with pytest.raises(ValueError, match="tensor name"):
        write_tensors(path, {name: np.zeros(2)}, {})
    assert not path.exists()


def test_a_header_that_safetensors_refuses_is_refused_before_writing(path, monkeypatch):
    def too_large(*args, **kwargs):
        raise SafetensorError("header too large")

    monkeypatch.setattr(tensor_files, "save", too_large)
    with pytest.raises(ValueError, match="cannot be saved: header too large"):
        write_tensors(path, TENSORS, HEADER)
    assert not path.exists()


# Damaged files


def test_a_file_cut_at_any_length_is_refused(data):
    for n in range(len(data)):
        with pytest.raises(CheckpointError):
            tensor_files._decode(data[:n])


def test_the_error_names_path_reason_and_remedy(saved):
    path, content = saved
    for n in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:n])
        with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} is damaged.*copy"):
            read_tensors(path)


def test_a_file_with_any_one_bit_flipped_is_refused(data):
    for i in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[i] ^= 1 << bit
            with pytest.raises(CheckpointError):
                tensor_files._decode(bytes(flipped), allow_nonfinite=True)


def test_a_flipped_bit_in_the_numbers_is_put_down_to_the_checksum(data):
    with pytest.raises(CheckpointError, match="SHA-256"):
        tensor_files._decode(data[:-1] + bytes([data[-1] ^ 1]))


def test_bytes_after_the_end_are_refused(data):
    with pytest.raises(CheckpointError, match="damaged"):
        tensor_files._decode(data + b"\0")


@pytest.mark.parametrize(
    "content",
    [
        layout({}, length=2**63),
        layout({}, length=2**64 - 1),
        layout({}, length=100_000_001),
        layout({}, length=5000),
        layout(b"hello world"),
        layout(b"[1, 2]"),
        layout(b'{"\xff\xfe": 1}'),
        layout(b"[" * 100_000),
        layout(b'{"a":' * 100_000),
        layout(b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        layout(b'{"a": ' + b"9" * 5000 + b"}"),
        layout({"__metadata__": {"bp_xp": 1}}),
    ],
    ids=[
        "2**63",
        "2**64-1",
        "over_limit",
        "over_file",
        "not_json",
        "list",
        "not_utf8",
        "deep_list",
        "deep_object",
        "deep_metadata",
        "long_integer",
        "metadata_not_text",
    ],
)
def test_a_malformed_header_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} is damaged, or not a"):
        read_tensors(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
def test_a_header_length_beyond_the_file_allocates_nothing():
    # In a process of its own, whose peak of memory no other test has raised.
    code = """
        import resource
        from bp_xp.storage.tensors import _decode
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for length in (2**63, 100_000_001, 99_000_000):
            try:
                _decode(length.to_bytes(8, "little") + b"{}")
            except ValueError:
                print("refused")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    *refused, kibibytes = done.stdout.split()
    assert refused == ["refused"] * 3
    assert int(kibibytes) < 20_000


@pytest.mark.parametrize(
    ("header", "n_bytes", "named"),
    [
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12, "b"),
        ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, 20, "b"),
        ({"b": entry([2], 12, 20)}, 20, "b"),
        ({"a": entry([2], 0, 8), "b": entry([3], 8, 16)}, 16, "b"),
        ({"b": entry([2**62, 4], 0, 8)}, 8, "b"),
        ({"b": entry([2], 0, 8)}, 4, "b"),
        ({"b": entry([2], 8, 0)}, 8, "b"),
        ({"b": entry([-2], 0, 8)}, 8, "b"),
    ],
    ids=["overlap", "hole", "hole_first", "shape", "overflow", "short", "reversed", "negative"],
)
def test_tensors_that_do_not_tile_the_data_are_refused_by_name(header, n_bytes, named):
    with pytest.raises(CheckpointError, match=rf"['`\"]{named}['`\"]"):
        tensor_files._decode(layout(header, bytes(n_bytes)))


@pytest.mark.parametrize(
    ("tensor", "n_bytes"),
    [
        (entry([2**62, 0], 0, 0), 0),
        (entry([0, 2**62, 2**62], 0, 0), 0),
        (entry([1] * 100, 0, 4), 4),
        (entry([2], 0, 4, "BF16"), 4),
        (entry([2], 0, 4, "F16"), 4),
    ],
    ids=["huge_empty", "huge_empty_3d", "100_dims", "bfloat16", "float16"],
)
def test_a_tensor_that_safetensors_allows_and_bp_xp_does_not_is_refused_by_name(tensor, n_bytes):
    metadata = {"bp_xp": '{"format_version": 1, "header": {}}'}
    with pytest.raises(CheckpointError, match="tensor 'a' of dtype"):
        tensor_files._decode(layout({"__metadata__": metadata, "a": tensor}, bytes(n_bytes)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "not json",
        '{"format_version": 1}',
        '{"format_version": 1, "sha256": "", "header": []}',
        '{"format_version": 1, "sha256": 7, "header": {"a": NaN}}',
        '{"format_version": true, "sha256": "", "header": {}}',
        '{"format_version": "1", "sha256": "", "header": {}}',
        '{"header": {}}',
        '{"format_version": 1, "header": {"a": ' + "9" * 5000 + "}}",
        '{"format_version": ' + "9" * 5000 + "}",
        *(
            '{"format_version": 1, "header": ' + '{"a":' * n + "1" + "}" * (n + 1)
            for n in (500, *range(800, 1000, 3), 100_000)
        ),
    ],
    ids=lambda text: text if len(text) < 80 else f"{len(text)}_characters",
)
def test_a_malformed_record_is_refused(text):
    with pytest.raises(CheckpointError, match="damaged"):
        tensor_files._decode(save(TENSORS, metadata={"bp_xp": text}))


def test_a_newer_format_version_is_refused_naming_both(path):
    # A later format may hold what this one does not know, and the version must be reported first.
    text = json.dumps({"format_version": 3, "digest": "of another kind"})
    save_file({"a": np.zeros(2, dtype=np.float16)}, path, metadata={"bp_xp": text})
    with pytest.raises(CheckpointError, match=r"version 3, .* reads only versions 1 to 2") as error:
        read_tensors(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_safetensors_file_of_another_program_is_refused(path, metadata):
    save_file(TENSORS, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="bp_xp did not write: open it with") as error:
        read_tensors(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_refused_by_tensor_and_count_unless_allowed(path, dtype):
    bad = np.array([1, np.nan, np.inf, -np.inf, 2], dtype=dtype)
    write_tensors(path, {"a": np.arange(3), "layer.1.W": bad}, {})
    with pytest.raises(CheckpointError, match=r"3 NaN or infinite .* of 5 in tensor 'layer\.1\.W'"):
        read_tensors(path)
    result = read_tensors(path, allow_nonfinite=True)[0]["layer.1.W"]
    np.testing.assert_array_equal(result, bad, strict=True)


class RunsWhenOpened:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


MAY_RUN = "may run code when opened; bp_xp reads only safetensors"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((pickle.dumps(RunsWhenOpened(), protocol), MAY_RUN) for protocol in range(2, 6)),
        (pickle.dumps(RunsWhenOpened(), 0), "text file"),
        (zipped("archive/data.pkl", pickle.dumps(RunsWhenOpened())), MAY_RUN),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file; bp_xp reads only safetensors"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "a NumPy file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a text file"),
        (b'{"W": [[1.0, 2.0]], "b": [0]}', "a text file"),
        (random.Random(0).randbytes(200), "not a safetensors file"),
        (bytes(200), "not a safetensors file"),
        (b"", "damaged, or not a safetensors file"),
    ],
)
def test_files_of_other_formats_are_refused_by_their_content(path, content, reason):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as error:
        read_tensors(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("n", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(n):
    # safetensors pads its header to a multiple of 8, which all these lengths are.
    for n_filler in range(n):
        content = tensor_files._encode({"a": np.ones(2)}, {"filler": "x" * n_filler})
        if struct.unpack("<Q", content[:8])[0] == n:
            break
    assert content[0] == 0x80
    assert tensor_files._decode(content)[1] == {"filler": "x" * n_filler}
    with pytest.raises(CheckpointError, match="damaged"):
        tensor_files._decode(content[:-1])


PARTS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"0", b"-1", b"1e999", b"null", b"\0"),
    *(b"\xff", b"\\ud800", b"F16", b"BF16", b"F64", b"NaN", b"Infinity", b"format_version"),
    *(b"[[" * 70, b"9" * 4400, b"18446744073709551615", b'"shape":[]', b'"__metadata__":{}'),
]


def mutate(data, rng):
    """Change, delete, insert or repeat some bytes, mostly of the JSON, where the variety is."""
    n_header = struct.unpack("<Q", data[:8])[0]
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(mutant) if rng.random() < 0.2 else min(8 + n_header, len(mutant)))
        j = rng.randrange(len(mutant))
        match rng.randrange(5):
            case 0:
                mutant[i] = rng.randrange(256)
            case 1:
                del mutant[i : i + rng.randint(1, 12)]
            case 2:
                mutant[i:i] = rng.choice(PARTS)
            case 3:
                mutant[i : i + rng.randint(1, 8)] = rng.choice(PARTS)
            case 4:
                mutant[i:i] = mutant[j : j + rng.randint(1, 60)]
    if rng.random() < 0.7:
        # With the length put right, the mutation reaches the JSON parsers.
        n_header = max(0, n_header + len(mutant) - len(data))
        mutant[:8] = struct.pack("<Q", n_header)
    return bytes(mutant)


def test_a_mutated_file_raises_checkpoint_error_or_holds_the_same_content(data):
    rng = random.Random(20)
    n_refused = 0
    for _ in range(20_000):
        try:
            tensors, header = tensor_files._decode(mutate(data, rng), allow_nonfinite=True)
        except CheckpointError:
            n_refused += 1
        else:
            # A space in the JSON, or a field that nobody reads, changes nothing.
            assert_same(tensors, TENSORS)
            assert header == HEADER
    assert n_refused > 19_000
