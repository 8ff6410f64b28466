"""Data sets for training: two of handwritten digits, and readers for your own files.

All data are NumPy arrays on the host; a network moves them to its device when it gets them.
"""

from bp_xp.datasets.dataset import Dataset
from bp_xp.datasets.digits import load_digits
from bp_xp.datasets.files import load_file
from bp_xp.datasets.mnist import load_mnist
from bp_xp.datasets.npy import load_npy, load_npz
from bp_xp.datasets.table import load_csv

__all__ = [
    "Dataset",
    "load_csv",
    "load_digits",
    "load_file",
    "load_mnist",
    "load_npy",
    "load_npz",
]
