"""One backpropagation for every array library.

Neural networks (multi-layer perceptrons) trained by backpropagation and stochastic gradient
descent, written once against the Python array API standard. NumPy runs it on a CPU, CuPy on a CUDA
GPU, PyTorch, JAX and any other conforming namespace wherever they run; the device is chosen when
the network is constructed.

    >>> from bp_xp import SGD, Network
    >>> net = Network([2, 3, 1], seed=0, device="cpu")
"""

from bp_xp._typing import Layer
from bp_xp.activations import ACTIVATIONS, Activation
from bp_xp.arrays import devices, to_numpy
from bp_xp.costs import COSTS, Cost, MatchedCost
from bp_xp.errors import (
    CheckpointError,
    DataFormatError,
    DeviceError,
    DivergenceError,
    DownloadError,
)
from bp_xp.initializers import INITIALIZERS
from bp_xp.network import Network
from bp_xp.optimizers import SGD
from bp_xp.training import EpochRecord, History

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "COSTS",
    "INITIALIZERS",
    "SGD",
    "Activation",
    "CheckpointError",
    "Cost",
    "DataFormatError",
    "DeviceError",
    "DivergenceError",
    "DownloadError",
    "EpochRecord",
    "History",
    "Layer",
    "MatchedCost",
    "Network",
    "devices",
    "to_numpy",
]
