"""MNIST: 70,000 handwritten digits, the data set of the book."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bp_xp._caller import own_arguments
from bp_xp.datasets.dataset import Dataset, scaled_rows
from bp_xp.datasets.download import Archive, fetch
from bp_xp.datasets.idx import read_idx
from bp_xp.errors import DataFormatError

__all__ = ["load_mnist"]

_ARCHIVES = (
    Archive(
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
    ),
    Archive(
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
    ),
    Archive(
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
    ),
    Archive(
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
    ),
)
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


@own_arguments
def load_mnist(
    folder: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    mirrors: Sequence[str] = _MIRRORS,
) -> Dataset:
    """Load MNIST with the split of the book: 50,000 train, 10,000 validation, 10,000 test.

    The four gzip archives are read from the given folder; without one, from the folder that the
    environment variable BP_XP_DATA_DIR names; and otherwise from the user's cache folder, to which
    they are downloaded (11.6 MB) if they are missing. The cache holds only MNIST: its files are
    checked against the published SHA-256 sums on every load, and replaced if damaged. Your own
    folder is only read, and only the format is checked, so data sets that were published under the
    same four names (Fashion-MNIST, KMNIST) load too.

    Args:
        folder: where the archives are: "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz" and "t10k-labels-idx1-ubyte.gz".
        download: False to use only existing files.
        mirrors: addresses of folders to download from, in the order to try them.

    Returns:
        A :class:`Dataset`. x has shape (N, 784), the pixels row by row, byte / 255, so 0 (paper)
        to 1 (ink); y is the digit, shape (N,). The last sixth of the published training images is
        the validation part.

    Raises:
        DownloadError: an archive must be downloaded and none of the mirrors provides it; the
            message says where to put it by hand.
        DataFormatError: a file is damaged, or the files do not belong together.
        FileNotFoundError: an archive is missing from your own folder, or from the cache if download
            is False.

    References:
        Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, *Gradient-based learning applied to
        document recognition*, Proceedings of the IEEE 86, 1998.
    """
    train_images, train_labels, test_images, test_labels = _paths(folder, download, mirrors)
    x, y = _read_pair(train_images, train_labels)
    x_test, y_test = _read_pair(test_images, test_labels)
    if x.shape[1] != x_test.shape[1]:
        raise DataFormatError(
            f"{train_images} has {x.shape[1]} pixels an image, but {test_images} has "
            f"{x_test.shape[1]}: put files of one data set together."
        )
    n_train = len(x) - len(x) // 6
    return Dataset("mnist", x[:n_train], y[:n_train], x_test, y_test, x[n_train:], y[n_train:])


def _paths(
    folder: str | os.PathLike[str] | None, download: bool, mirrors: Sequence[str]
) -> list[Path]:
    """Return the paths of the four archives, in the order of _ARCHIVES."""
    own = folder or os.environ.get("BP_XP_DATA_DIR")
    if not own:
        from pooch import os_cache

        cache = Path(os_cache("bp_xp")) / "mnist"
        return [fetch(one, cache, mirrors=mirrors, download=download) for one in _ARCHIVES]
    paths = [Path(own) / one.name for one in _ARCHIVES]
    remedy = "unset BP_XP_DATA_DIR" if folder is None else "pass no folder, with no BP_XP_DATA_DIR,"
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"There is no {path}. Put the four archives of MNIST in that folder, or {remedy} "
                "to have them downloaded."
            )
    return paths


def _read_pair(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read images and their labels; return x (N, pixels), float32, and y (N,), int64."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, n_dimensions in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.ndim != n_dimensions or array.dtype != np.uint8:
            raise DataFormatError(
                f"{path} should hold bytes in {n_dimensions} dimensions, but holds {array.dtype} "
                f"of shape {array.shape}: have the files been exchanged?"
            )
    if len(images) != len(labels):
        raise DataFormatError(
            f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} "
            "labels: put files of one data set together."
        )
    return scaled_rows(images, white=255), labels.astype(np.int64)
