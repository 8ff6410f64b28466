import errno
import gzip
import hashlib
import http.server
import multiprocessing
import os
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pooch
import pytest

from bp_xp.datasets import download, load_mnist, mnist
from bp_xp.datasets.download import Archive, fetch
from bp_xp.errors import DataFormatError, DownloadError

CONTENT = np.random.default_rng(0).bytes(300_000)
ARCHIVE = Archive("file.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` (contents by name) from 127.0.0.1.

    ``announced`` is added to the length that an answer states, ``unsent`` bytes at its end are
    kept back, and ``before_end`` is called before the second half is sent.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {ARCHIVE.name: CONTENT}
        self.announced = 0
        self.unsent = 0
        self.before_end = lambda: None
        self.requests = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path.removeprefix("/"))
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + self.server.announced))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.server.before_end()
        self.wfile.write(content[half : len(content) - self.server.unsent])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    # A proxy would be asked for 127.0.0.1 otherwise, where one is configured.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder of load_mnist, moved to an empty place; not yet made."""
    monkeypatch.delenv("BP_XP_DATA_DIR", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    return tmp_path / "bp_xp" / "mnist"


@pytest.fixture(scope="module")
def published():
    """The folder with the four published archives."""
    candidates = [Path(__file__).parents[3] / "shared" / "data" / "mnist"]
    if "BP_XP_DATA_DIR" in os.environ:
        candidates.insert(0, Path(os.environ["BP_XP_DATA_DIR"]))
    for folder in candidates:
        if (folder / "train-images-idx3-ubyte.gz").exists():
            return folder
    pytest.skip("the MNIST archives are not here: set BP_XP_DATA_DIR to their folder")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def small(tmp_path):
    """A folder of the four names with 12 training and 3 test images of 2 x 2 pixels."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name, n in (("train", 12), ("t10k", 3)):
        write_idx(
            folder / f"{name}-images-idx3-ubyte.gz", 51 * (np.arange(4 * n) % 6).reshape(n, 2, 2)
        )
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    return folder


def remaining(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Loading


def test_mnist_has_the_split_of_the_book(published):
    data = load_mnist(published)
    assert data.x_train.shape == (50_000, 784)
    assert data.x_validation.shape == data.x_test.shape == (10_000, 784)
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert data.y_train.dtype == np.int64
    # The published order: these are the digits of the first and the last images.
    assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.y_validation[-3:].tolist() == [5, 6, 8]
    assert data.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.n_outputs == 10


def test_pixels_are_bytes_over_255_and_the_last_sixth_is_for_validation(small):
    data = load_mnist(small)
    assert data.y_train.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert data.y_validation.tolist() == [0, 1]
    assert data.y_test.tolist() == [0, 1, 2]
    expected = np.array([[0, 0.2, 0.4, 0.6], [0.8, 1, 0, 0.2]], np.float32)
    np.testing.assert_array_equal(data.x_train[:2], expected)


def test_folder_can_be_named_by_the_environment(small, monkeypatch):
    monkeypatch.setenv("BP_XP_DATA_DIR", str(small))
    assert len(load_mnist().x_train) == 10


def test_given_folder_comes_before_the_environment(small, monkeypatch, tmp_path):
    monkeypatch.setenv("BP_XP_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(load_mnist(small).x_train) == 10


def test_archive_missing_from_a_folder_of_ones_own_is_named_and_not_downloaded(small, server):
    path = small / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(small, mirrors=[server.url])
    assert str(path) in str(caught.value)
    assert server.requests == []


def test_images_and_labels_of_different_counts_are_refused(small):
    write_idx(small / "train-labels-idx1-ubyte.gz", np.zeros(11))
    with pytest.raises(DataFormatError, match=r"12 images.* 11 labels") as caught:
        load_mnist(small)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        assert str(small / name) in str(caught.value)


def test_exchanged_files_are_refused(small):
    images, labels = small / "train-images-idx3-ubyte.gz", small / "train-labels-idx1-ubyte.gz"
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)
    with pytest.raises(DataFormatError, match=r"3 dimensions, but holds uint8 of shape \(12,\)"):
        load_mnist(small)


def test_training_and_test_images_of_different_sizes_are_refused(small):
    write_idx(small / "t10k-images-idx3-ubyte.gz", np.zeros((3, 3, 3)))
    with pytest.raises(DataFormatError, match=r"4 pixels.* 9"):
        load_mnist(small)


def test_damaged_file_in_a_folder_of_ones_own_is_an_error_and_stays_as_it_is(small, server):
    path = small / "train-images-idx3-ubyte.gz"
    cut = path.read_bytes()[:-5]
    path.write_bytes(cut)
    with pytest.raises(DataFormatError, match=r"truncated"):
        load_mnist(small, mirrors=[server.url])
    assert path.read_bytes() == cut
    assert server.requests == []


def test_archives_are_downloaded_once_and_then_come_from_the_cache(
    small, cache, server, monkeypatch
):
    server.files = {path.name: path.read_bytes() for path in small.iterdir()}
    archives = [
        Archive(one.name, hashlib.sha256(content).hexdigest(), len(content))
        for one in mnist._ARCHIVES
        for content in [server.files[one.name]]
    ]
    monkeypatch.setattr(mnist, "_ARCHIVES", archives)
    first = load_mnist(mirrors=[server.url])
    assert len(first.x_train) == 10
    assert len(server.requests) == 4
    assert remaining(cache) == sorted(server.files)
    again = load_mnist(mirrors=[server.url], download=False)
    assert np.array_equal(again.x_test, first.x_test)
    assert len(server.requests) == 4


def test_published_archives_have_the_sums_that_a_download_is_checked_by(published):
    for archive in mnist._ARCHIVES:
        assert fetch(archive, published, mirrors=[], download=False).exists()
        assert (published / archive.name).stat().st_size == archive.n_bytes


def test_without_download_an_empty_cache_is_a_missing_file(cache, server):
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(download=False, mirrors=[server.url])
    assert str(cache / "train-images-idx3-ubyte.gz") in str(caught.value)
    assert server.requests == []


# Downloading


def test_download_makes_the_folder_and_leaves_only_the_file(tmp_path, server):
    folder = tmp_path / "a" / "b"
    path = fetch(ARCHIVE, folder, mirrors=[server.url + "/"])
    assert path == folder / ARCHIVE.name
    assert path.read_bytes() == CONTENT
    assert remaining(folder) == [ARCHIVE.name]


def test_mirrors_are_tried_in_order(tmp_path, server):
    path = fetch(ARCHIVE, tmp_path, mirrors=[f"{server.url}/gone", server.url])
    assert path.read_bytes() == CONTENT
    assert server.requests == ["/gone/file.gz", "/file.gz"]


def test_short_answer_leaves_nothing_and_tells_the_bytes_that_came(tmp_path, server):
    server.unsent = 100_000
    with pytest.raises(DownloadError) as caught:
        fetch(ARCHIVE, tmp_path, mirrors=[server.url])
    assert f"{server.url}/file.gz" in str(caught.value)
    assert "of 300,000 bytes" in str(caught.value)
    assert "200,000" in str(caught.value) or "200000" in str(caught.value)
    assert caught.value.__cause__ is not None
    assert remaining(tmp_path) == []


def test_answer_that_states_too_short_a_length_leaves_nothing(tmp_path, server):
    server.announced = -1000
    with pytest.raises(DownloadError, match=r"299,000 bytes.* expected 300,000 bytes"):
        fetch(ARCHIVE, tmp_path, mirrors=[server.url])
    assert remaining(tmp_path) == []


def test_connection_reset_on_the_way_leaves_nothing(tmp_path, server):
    def reset():
        raise ConnectionResetError

    server.before_end = reset
    server.handle_error = lambda request, address: None
    with pytest.raises(DownloadError, match="of 300,000 bytes"):
        fetch(ARCHIVE, tmp_path, mirrors=[server.url])
    assert remaining(tmp_path) == []


def test_interrupt_from_the_keyboard_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(url, output_file, pooch):
        Path(output_file).write_bytes(CONTENT[:1000])
        assert Path(output_file).parent == tmp_path
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **options: interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(ARCHIVE, tmp_path, mirrors=["http://127.0.0.1"])
    assert remaining(tmp_path) == []


def test_wrong_file_from_a_mirror_is_refused(tmp_path, server):
    server.files[ARCHIVE.name] = b"<html>log in first</html>"
    with pytest.raises(DownloadError, match=r"25 bytes with SHA-256 .* expected 300,000"):
        fetch(ARCHIVE, tmp_path, mirrors=[server.url])
    assert remaining(tmp_path) == []


@pytest.mark.parametrize("content", [b"", CONTENT[:-1]], ids=["empty", "cut"])
def test_damaged_file_in_the_cache_is_downloaded_again_with_a_warning(tmp_path, server, content):
    path = tmp_path / ARCHIVE.name
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged.* downloaded again") as warned:
        fetch(ARCHIVE, tmp_path, mirrors=[server.url])
    assert str(path) in str(warned[0].message)
    assert path.read_bytes() == CONTENT


def test_damaged_file_in_the_cache_is_an_error_without_download(tmp_path, server):
    (tmp_path / ARCHIVE.name).write_bytes(b"x")
    with pytest.raises(DataFormatError, match=r"is damaged: 1 bytes .* download=True"):
        fetch(ARCHIVE, tmp_path, mirrors=[server.url], download=False)
    assert server.requests == []


def test_refused_connection_names_the_address_and_where_to_put_the_file(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DownloadError) as caught:
            fetch(ARCHIVE, tmp_path, mirrors=[url])
    assert f"{url}/file.gz" in str(caught.value)
    assert str(tmp_path / "file.gz") in str(caught.value)


def test_silent_server_is_given_up_on(tmp_path, monkeypatch):
    assert download._TIMEOUT[0] <= 10
    monkeypatch.setattr(download, "_TIMEOUT", (0.3, 0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(DownloadError, match="timed out"):
            fetch(ARCHIVE, tmp_path, mirrors=[url])
    assert time.monotonic() - started < 5


@pytest.mark.process
def test_two_processes_that_download_at_once_both_get_the_file(tmp_path, server):
    # Neither answer is finished before both have begun.
    server.before_end = threading.Barrier(2, timeout=30).wait
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=fetch, args=(ARCHIVE, tmp_path), kwargs={"mirrors": [server.url]})
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / ARCHIVE.name).read_bytes() == CONTENT
    assert remaining(tmp_path) == [ARCHIVE.name]


def refuse_all_writing(monkeypatch, error):
    """Let nothing new be written, as on a disk that is read-only: even root can't then."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(Path, "touch", refuse)


@pytest.mark.parametrize("reason", ["Permission denied", "Read-only file system"])
def test_a_cache_that_cannot_be_written_to_is_named_with_what_to_set(
    tmp_path, server, monkeypatch, reason
):
    code = {"Permission denied": errno.EACCES, "Read-only file system": errno.EROFS}[reason]
    refuse_all_writing(monkeypatch, OSError(code, reason))
    with pytest.raises(DownloadError, match=rf"written to \({reason}\).*BP_XP_DATA_DIR") as caught:
        fetch(ARCHIVE, tmp_path, mirrors=[server.url])
    assert str(tmp_path) in str(caught.value)
    assert "later" not in str(caught.value)
    assert server.requests == []


def test_a_cache_in_the_place_of_a_file_is_named(tmp_path, server):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"file.cache, where downloads are kept"):
        fetch(ARCHIVE, tmp_path / "file" / "cache", mirrors=[server.url])


def test_a_disk_that_is_full_is_no_fault_of_a_mirror(tmp_path, server, monkeypatch):
    def fill(self, url, output, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fill)
    with pytest.raises(DownloadError, match=r"can't be written to \(No space left on device\)"):
        fetch(ARCHIVE, tmp_path, mirrors=[server.url, server.url])
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_read_is_named(tmp_path, server, monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(DownloadError, match=r"can't be read \(Permission denied\)"):
        fetch(ARCHIVE, tmp_path, mirrors=[server.url])
