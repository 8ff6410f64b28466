import errno
import io
import os
import random
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import bp_xp
from bp_xp.storage import files
from bp_xp.storage.tensors import read_tensors, write_tensors

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
def saved(path):
    """Return the path of a file, and what is in it."""
    write_tensors(path, TENSORS, HEADER)
    return path, path.read_bytes()


def assert_same(result, expected):
    assert result.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(result[name], array, strict=True)


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

    monkeypatch.setattr(files, "open", open_, raising=False)


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

    monkeypatch.setattr(files, "open", open_, raising=False)


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
def test_a_fault_at_any_step_keeps_the_previous_file(saved, step, code):
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
def test_a_fault_at_the_first_write_leaves_nothing(path, step):
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
def test_a_real_refusal_of_the_disk_keeps_the_previous_file(saved):
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
def test_the_file_is_synced_then_renamed_then_the_folder_is_synced(path, monkeypatch):
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


def test_old_leftovers_of_this_path_are_removed_and_others_stay(tmp_path):
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
        cwd=Path(bp_xp.__file__).parents[1],
    )


PRELUDE = """
import os, signal, sys
import numpy as np
from bp_xp.storage.tensors import write_tensors
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


@pytest.mark.process
@posix
def test_a_writer_killed_at_any_instant_leaves_a_whole_file(tmp_path):
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


@pytest.mark.process
@posix
@pytest.mark.parametrize(
    ("function", "call", "n"),
    [("fsync", 1, 5), ("replace", 1, 5), ("fsync", 2, 9)],
    ids=["before_file_sync", "before_replace", "before_folder_sync"],
)
def test_a_writer_killed_between_two_steps_leaves_the_old_or_the_new_file(path, function, call, n):
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


@pytest.mark.process
@posix
def test_two_processes_writing_one_path_always_leave_one_whole_file(path):
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


# ---------------------------------------------------------------------------------------------
# One owner


def leftovers(folder):
    return sorted(one.name for one in folder.iterdir() if one.name.endswith((".tmp", ".lock")))


def test_a_file_has_one_owner_who_is_named_to_others(path):
    with files.locked(path):
        named = f"process {os.getpid()} on .*{path.name}"
        with pytest.raises(BlockingIOError, match=named), files.locked(path):
            pass
        with files.locked(path.with_name("other")):
            pass
    with files.locked(path):
        pass
    assert leftovers(path.parent) == []


def test_an_owner_clears_what_a_killed_one_left_however_young(path):
    left = path.with_name(f".{path.name}.{'0' * 16}.tmp")
    stranger = path.with_name(f".other.{'0' * 16}.tmp")
    for one in (left, stranger):
        one.write_bytes(b"half")
    with files.locked(path):
        assert leftovers(path.parent) == [f".{path.name}.lock", stranger.name]


@pytest.mark.process
@posix
def test_a_lock_goes_with_its_owner(path):
    program = f"""
        import pathlib, time
        from bp_xp.storage import files
        with files.locked(pathlib.Path({str(path)!r})):
            print("mine", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(BlockingIOError, match=f"process {owner.pid} "), files.locked(path):
            pass
        owner.kill()
        owner.wait()
        with files.locked(path):
            pass
    assert leftovers(path.parent) == []


@posix
def test_a_file_system_without_locks_keeps_nobody_out(path, monkeypatch):
    import fcntl

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.locked(path), files.locked(path):
        pass
    assert leftovers(path.parent) == []


def test_a_file_that_is_kept_twice_leaves_nothing_behind(saved):
    path, content = saved
    for _ in range(3):  # of the second on, both names are links of one file
        files.keep_previous(path)
    assert files.previous_of(path).read_bytes() == content
    assert leftovers(path.parent) == []


def test_where_the_one_before_can_t_be_kept_nothing_is_left_behind(saved, monkeypatch):
    path, content = saved

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(files.shutil, "copy2", full)
    with pytest.raises(OSError, match="no space left"):
        files.keep_previous(path)
    assert path.read_bytes() == content
    assert leftovers(path.parent) == []
