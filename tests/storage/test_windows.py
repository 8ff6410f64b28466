"""What Windows does otherwise, played on any system."""

import os

import pytest

from bp_xp.storage import files


@pytest.fixture(autouse=True)
def on_windows(monkeypatch):
    monkeypatch.setattr(files, "_WINDOWS", True)
    monkeypatch.setattr(files, "_SECONDS_BETWEEN_TRIES", 0.0)


def refusing(monkeypatch, times: int) -> list[str]:
    """Let os.replace refuse some times, as where a scanner has the file open."""
    calls = []
    replace = os.replace

    def refuse(path, new):
        calls.append(str(new))
        if len(calls) <= times:
            raise PermissionError(13, "Access is denied")
        replace(path, new)

    monkeypatch.setattr(os, "replace", refuse)
    return calls


def test_a_file_that_is_open_elsewhere_is_replaced_once_it_is_let_go(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    calls = refusing(monkeypatch, 3)
    files.replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert len(calls) == 4


def test_a_file_that_is_never_let_go_is_an_error_and_keeps_its_content(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    refusing(monkeypatch, 10**9)
    with pytest.raises(OSError, match="it was not written"):
        files.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_read_only_file_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="read-only"):
        files.replace_file(path, b"new")
    assert os.listdir(tmp_path) == ["a.bin"]
