"""Files that are none: pipes, which may never give anything, and devices, which may never end."""

import os
import signal

import pytest

from bp_xp import Checkpoint, Network
from bp_xp._files import open_regular, read_regular
from bp_xp.cli import config
from bp_xp.datasets import load_csv, load_file, load_npy, load_npz
from bp_xp.datasets.idx import read_idx
from bp_xp.storage.tensors import read_tensors
from bp_xp.tables import read_table

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")


def resumed(path):
    kept = Checkpoint(path.parent / "run.safetensors", resume=path)
    Network([2, 1]).fit([[0.0, 1.0]], [1], checkpoint=kept)


READERS = {
    "load_npz": load_npz,
    "load_npy": load_npy,
    "load_csv": load_csv,
    "load_file": load_file,
    "read_table": read_table,
    "read_idx": read_idx,
    "read_tensors": read_tensors,
    "Network.load": Network.load,
    "resume": resumed,
    "read_settings": lambda path: config.read_settings(path, {}),
    "read_regular": read_regular,
}


@pytest.fixture
def no_waiting():
    """Turn a read that hangs into an error."""

    def ring(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_is_refused_at_once(tmp_path, no_waiting, read):
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    with pytest.raises(OSError, match=r"not a regular file, but a pipe .*pipe\.csv"):
        READERS[read](path)


@pytest.mark.parametrize("read", READERS)
def test_a_device_is_refused_before_any_of_it_is_read(tmp_path, no_waiting, read):
    path = tmp_path / "zero.csv"
    path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file, but a device"):
        READERS[read](path)


@pytest.mark.parametrize("read", READERS)
def test_a_folder_is_refused_as_one(tmp_path, read):
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.csv"):
        READERS[read](folder)


def test_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"abc"
    assert read_regular(str(tmp_path / "a")) == b"abc"
