import errno
import io
import json
import os
import pickle
import random
import re
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from bp_xp.errors import CheckpointError
from bp_xp.storage import files as persistence
from bp_xp.storage.files import read_tensors, write_tensors

TENSORS = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([0.5, -2.0])}
HEADER = {"sizes": [3, 2], "eta": 1e-05, "note": 'σ "quoted" \x1f\\'}

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX file semantics")
not_root = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="root may write in a read-only folder"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def data():
    return persistence._encode(TENSORS, HEADER)


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
    "dtype", [np.dtype(code) for code in persistence._DTYPES.values()], ids=str
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
    assert persistence._encode(dict(reversed(TENSORS.items())), HEADER) == data


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
    monkeypatch.setattr(persistence, "save", raising(SafetensorError("header too large")))
    with pytest.raises(ValueError, match="cannot be saved: header too large"):
        write_tensors(path, TENSORS, HEADER)
    assert not path.exists()


# Damaged files


def test_p05_a_file_cut_at_any_length_is_refused(data):
    for n in range(len(data)):
        with pytest.raises(CheckpointError):
            persistence._decode(data[:n])


def test_p05_the_error_names_path_reason_and_remedy(saved):
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
                persistence._decode(bytes(flipped), allow_nonfinite=True)


def test_a_flipped_bit_in_the_numbers_is_put_down_to_the_checksum(data):
    with pytest.raises(CheckpointError, match="SHA-256"):
        persistence._decode(data[:-1] + bytes([data[-1] ^ 1]))


def test_bytes_after_the_end_are_refused(data):
    with pytest.raises(CheckpointError, match="damaged"):
        persistence._decode(data + b"\0")


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
def test_p07_a_malformed_header_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} is damaged, or not a"):
        read_tensors(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
def test_p07_a_header_length_beyond_the_file_allocates_nothing():
    # In a process of its own, whose peak of memory no other test has raised.
    code = """
        import resource
        from bp_xp.persistence import _decode
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for length in (2**63, 100_000_001, 99_000_000):
            try:
                _decode(length.to_bytes(8, "little") + b"{}")
            except ValueError:
                print("refused")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    with start(code) as reader:
        *refused, kibibytes = reader.stdout.read().split()
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
def test_p08_tensors_that_do_not_tile_the_data_are_refused_by_name(header, n_bytes, named):
    with pytest.raises(CheckpointError, match=rf"['`\"]{named}['`\"]"):
        persistence._decode(layout(header, bytes(n_bytes)))


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
        persistence._decode(layout({"__metadata__": metadata, "a": tensor}, bytes(n_bytes)))


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
        persistence._decode(save(TENSORS, metadata={"bp_xp": text}))


def test_p11_a_newer_format_version_is_refused_naming_both(path):
    # A later format may hold what this one does not know, and the version must be reported first.
    text = json.dumps({"format_version": 2, "digest": "of another kind"})
    save_file({"a": np.zeros(2, dtype=np.float16)}, path, metadata={"bp_xp": text})
    with pytest.raises(CheckpointError, match=r"version 2, .* reads only version 1") as error:
        read_tensors(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_safetensors_file_of_another_program_is_refused(path, metadata):
    save_file(TENSORS, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="bp_xp did not write: open it with") as error:
        read_tensors(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_p13_nan_and_infinity_are_refused_by_tensor_and_count_unless_allowed(path, dtype):
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
        content = persistence._encode({"a": np.ones(2)}, {"filler": "x" * n_filler})
        if struct.unpack("<Q", content[:8])[0] == n:
            break
    assert content[0] == 0x80
    assert persistence._decode(content)[1] == {"filler": "x" * n_filler}
    with pytest.raises(CheckpointError, match="damaged"):
        persistence._decode(content[:-1])


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
            tensors, header = persistence._decode(mutate(data, rng), allow_nonfinite=True)
        except CheckpointError:
            n_refused += 1
        else:
            # A space in the JSON, or a field that nobody reads, changes nothing.
            assert_same(tensors, TENSORS)
            assert header == HEADER
    assert n_refused > 19_000


# Paths that cannot be read or written


def test_a_missing_file_is_file_not_found_and_named(path):
    with pytest.raises(FileNotFoundError, match=re.escape(path.name)):
        read_tensors(path)


@posix
def test_a_folder_is_neither_read_nor_replaced(tmp_path):
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        read_tensors(tmp_path)
    with pytest.raises(IsADirectoryError, match=f"regular file.*{re.escape(str(tmp_path))}"):
        write_tensors(tmp_path, TENSORS, HEADER)


def test_a_missing_parent_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder to write a\.st in: create it.*absent"):
        write_tensors(tmp_path / "absent" / "a.st", TENSORS, HEADER)


@posix
@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_refused_and_left_as_it_is(saved, dangling):
    path, content = saved
    link = path.with_name("link")
    link.symlink_to("nowhere" if dangling else path.name)
    with pytest.raises(OSError, match="symbolic link"):
        write_tensors(link, {}, {})
    assert link.is_symlink()
    assert path.read_bytes() == content
    assert sorted(p.name for p in path.parent.iterdir()) == ["link", path.name]


@posix
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="regular file"):
        write_tensors(fifo, TENSORS, HEADER)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@not_root
def test_a_read_only_folder_is_a_permission_error_naming_the_path(saved):
    path, content = saved
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match=f"is kept.*{re.escape(str(path))}"):
            write_tensors(path, {}, {})
    finally:
        path.parent.chmod(0o755)
    assert path.read_bytes() == content


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_the_umask(path, umask, mode):
    previous = os.umask(umask)
    try:
        write_tensors(path, TENSORS, HEADER)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_replacing_a_private_file_leaves_it_private(saved):
    path, _ = saved
    path.chmod(0o600)
    write_tensors(path, {}, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# A write that fails or is killed


def failing_write(monkeypatch, error):
    """Let the file of the next write take half of its content."""
    real_open = open

    def open_(*args, **kwargs):
        file = real_open(*args, **kwargs)

        class Full(io.FileIO):
            def write(self, content):
                super().write(content[: len(content) // 2])
                raise error

        full = Full(os.dup(file.fileno()), "wb")
        file.close()
        return full

    monkeypatch.setattr(persistence, "open", open_, raising=False)


def failing_close(monkeypatch, error):
    real_open = open

    def open_(*args, **kwargs):
        class LateError(io.FileIO):
            def close(self):
                was_open = not self.closed
                super().close()
                if was_open:
                    raise error

        with real_open(*args, **kwargs) as file:
            return LateError(os.dup(file.fileno()), "wb")

    monkeypatch.setattr(persistence, "open", open_, raising=False)


def raising(error):
    def raise_(*args, **kwargs):
        raise error

    return raise_


FAULTS = {
    "open": lambda patch, error: patch.setattr(os, "open", raising(error)),
    "write": failing_write,
    "fsync": lambda patch, error: patch.setattr(os, "fsync", raising(error)),
    "close": failing_close,
    "replace": lambda patch, error: patch.setattr(os, "replace", raising(error)),
}


@pytest.mark.parametrize("step", FAULTS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_p02_a_fault_at_any_step_keeps_the_previous_file(saved, step, code):
    path, content = saved
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[step](patch, OSError(code, os.strerror(code)))
        with pytest.raises(OSError, match="what was there before is kept") as error:
            write_tensors(path, {"a": np.ones(5000)}, {})
    assert error.value.errno == code
    assert error.value.filename == str(path)
    assert os.strerror(code) in str(error.value)
    assert isinstance(error.value, PermissionError) == (code == errno.EACCES)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", FAULTS)
def test_p02_a_fault_at_the_first_write_leaves_nothing(path, step):
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[step](patch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(OSError, match="No space left"):
            write_tensors(path, TENSORS, HEADER)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_an_interrupt_keeps_the_previous_file_and_leaves_nothing_behind(saved, step):
    path, content = saved
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[step](patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_tensors(path, {}, {})
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@posix
def test_p02_a_real_refusal_of_the_disk_keeps_the_previous_file(saved):
    import resource

    path, content = saved
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large; .* before is kept") as error:
            write_tensors(path, {"a": np.ones(5000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.errno == errno.EFBIG
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@posix
def test_a_fault_in_syncing_the_folder_says_that_the_new_content_is_there(saved):
    path, _ = saved
    real_fsync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="the new content is there, but a power cut"):
            write_tensors(path, {}, {"epoch": 2})
    assert read_tensors(path)[1] == {"epoch": 2}
    assert list(path.parent.iterdir()) == [path]


@posix
def test_a_file_system_that_cannot_sync_folders_will_do(path, monkeypatch):
    real_fsync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_tensors(path, TENSORS, HEADER)
    assert_same(read_tensors(path)[0], TENSORS)


@posix
def test_p04_the_file_is_synced_then_renamed_then_the_folder_is_synced(path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        status = os.fstat(descriptor)
        # All of the content has left Python's buffer when the file is synced.
        calls.append("sync folder" if stat.S_ISDIR(status.st_mode) else status.st_size)
        real_fsync(descriptor)

    def replace(source, target):
        assert Path(source).parent == path.parent
        calls.append(("replace", Path(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_tensors(path, TENSORS, HEADER)
    assert calls == [path.stat().st_size, ("replace", path), "sync folder"]


def leftover(path, age, digits="0123456789abcdef"):
    file = path.with_name(f".{path.name}.{digits}.tmp")
    file.write_bytes(b"half a file")
    os.utime(file, (time.time() - age,) * 2)
    return file


def test_p01_old_leftovers_of_this_path_are_removed_and_others_stay(tmp_path):
    path = tmp_path / "a[1]*.st"
    stale = leftover(path, 2 * 3600), leftover(path, 4000, "f" * 16)
    kept = (
        leftover(path, 60, "1" * 16),
        leftover(tmp_path / "a[1]*.st.b", 7200),
        leftover(tmp_path / "a1x.st", 7200),
        leftover(path, 7200, "my notes"),
    )
    write_tensors(path, TENSORS, HEADER)
    assert not any(file.exists() for file in stale)
    assert all(file.exists() for file in kept)
    assert_same(read_tensors(path)[0], TENSORS)


@posix
def test_a_writer_whose_temporary_file_was_removed_fails_and_keeps_the_previous_file(saved):
    path, content = saved
    real_fsync = os.fsync

    def fsync(descriptor):
        real_fsync(descriptor)
        for temporary in path.parent.glob(".*.tmp"):
            temporary.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(FileNotFoundError, match="is kept"):
            write_tensors(path, {}, {})
    assert path.read_bytes() == content


def start(code, *args):
    """Start another process; it has the arguments in ``args``."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(persistence.__file__).parents[1],
    )


PRELUDE = """
import os, signal, sys
import numpy as np
from bp_xp.persistence import write_tensors
args = sys.argv[1:]
def content(n):
    return {"a": np.full(n, float(n)), "b": np.full((n, 2), n)}, {"n": n}
"""


def assert_whole(path):
    """Check that a file is one that ``content`` of the prelude gives, and return its n."""
    tensors, header = read_tensors(path)
    n = header["n"]
    assert_same(tensors, {"a": np.full(n, float(n)), "b": np.full((n, 2), n)})
    return n


@posix
def test_p01_a_writer_killed_at_any_instant_leaves_a_whole_file(tmp_path):
    rng = random.Random(1)
    paths = [tmp_path / str(i) / "net.safetensors" for i in range(16)]
    for path in paths:
        path.parent.mkdir()
        write_tensors(path, {"a": np.full(1, 1.0), "b": np.full((1, 2), 1)}, {"n": 1})
    for i in range(0, len(paths), 4):
        writers = [
            start(
                """
                sizes = [20_000, 200_000, 3]
                for i in range(10**9):
                    write_tensors(args[0], *content(sizes[i % 3]))
                    if i == 0:
                        print("started", flush=True)
                """,
                path,
            )
            for path in paths[i : i + 4]
        ]
        for writer in writers:
            with writer:
                assert writer.stdout.readline() == "started\n"
                time.sleep(rng.uniform(0, 0.05))
                writer.kill()
    assert {assert_whole(path) for path in paths} <= {20_000, 200_000, 3}
    for path in paths:
        for file in path.parent.glob(".*.tmp"):
            os.utime(file, (time.time() - 7200,) * 2)
        write_tensors(path, TENSORS, HEADER)
        assert list(path.parent.iterdir()) == [path]


@posix
@pytest.mark.parametrize(
    ("function", "call", "n"),
    [("fsync", 1, 5), ("replace", 1, 5), ("fsync", 2, 9)],
    ids=["before_file_sync", "before_replace", "before_folder_sync"],
)
def test_p01_a_writer_killed_between_two_steps_leaves_the_old_or_the_new_file(
    path, function, call, n
):
    code = """
        write_tensors(args[0], *content(5))
        function, calls = args[1], int(args[2])
        real = getattr(os, function)
        def die(*arguments):
            global calls
            calls -= 1
            if calls == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        setattr(os, function, die)
        write_tensors(args[0], *content(9))
    """
    with start(code, path, function, call) as writer:
        assert writer.wait(timeout=20) == -signal.SIGKILL
    assert assert_whole(path) == n


@posix
def test_p20_two_processes_writing_one_path_always_leave_one_whole_file(path):
    code = """
        write_tensors(args[0], *content(int(args[1])))
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(150):
            write_tensors(args[0], *content(int(args[1]) + i % 3))
    """
    with start(code, path, 1000) as first, start(code, path, 20_000) as second:
        for writer in (first, second):
            assert writer.stdout.readline() == "ready\n"
        for writer in (first, second):
            writer.stdin.write("go\n")
            writer.stdin.flush()
        seen = set()
        while first.poll() is None or second.poll() is None:
            seen.add(assert_whole(path))
    assert first.returncode == second.returncode == 0
    assert seen <= {1000, 1001, 1002, 20_000, 20_001, 20_002}
    assert list(path.parent.iterdir()) == [path]
