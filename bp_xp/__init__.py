"""One backpropagation for every array library.

Neural networks (multi-layer perceptrons) trained by backpropagation and stochastic gradient
descent, written once against the Python array API standard. NumPy runs it on a CPU, CuPy on a CUDA
GPU, and PyTorch, JAX or any other conforming namespace on every device that it supports. The device
is chosen when the network is constructed.

    >>> from bp_xp import SGD, Network
    >>> net = Network([2, 3, 1], seed=0, device="cpu")
"""

from bp_xp._typing import Layer
from bp_xp.backends import devices, to_numpy
from bp_xp.ensemble import Ensemble
from bp_xp.errors import (
    CheckpointError,
    DataFormatError,
    DeviceError,
    DivergenceError,
    DownloadError,
    OutOfMemoryError,
)
from bp_xp.inspection import GradientFlow
from bp_xp.math.activations import ACTIVATIONS, Activation
from bp_xp.math.costs import (
    COSTS,
    Cost,
    MatchedCost,
    binary_cross_entropy,
    categorical_cross_entropy,
    huber,
)
from bp_xp.math.initializers import INITIALIZERS
from bp_xp.math.metrics import METRICS, Metric, confusion_matrix, top_k
from bp_xp.math.regularization import Regularization
from bp_xp.network import Network
from bp_xp.optim import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from bp_xp.optim.cycles import CosineDecayRestarts, OneCycle
from bp_xp.optim.schedules import (
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    LinearWarmUp,
    ReduceOnPlateau,
    StepDecay,
)
from bp_xp.sources import Stream
from bp_xp.sweeps import sweep
from bp_xp.training.arguments import PerMember
from bp_xp.training.callbacks import Callback, EarlyStopping, StopWhen
from bp_xp.training.checkpoint import Checkpoint
from bp_xp.training.history import EpochRecord, History

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "COSTS",
    "INITIALIZERS",
    "METRICS",
    "OPTIMIZERS",
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CosineDecay",
    "CosineDecayRestarts",
    "Cost",
    "DataFormatError",
    "DeviceError",
    "DivergenceError",
    "DownloadError",
    "EarlyStopping",
    "Ensemble",
    "EpochRecord",
    "ExponentialDecay",
    "GradientFlow",
    "History",
    "InverseScaling",
    "Layer",
    "LinearWarmUp",
    "MatchedCost",
    "Metric",
    "NAdam",
    "Network",
    "OneCycle",
    "OutOfMemoryError",
    "PerMember",
    "RMSprop",
    "ReduceOnPlateau",
    "Regularization",
    "StepDecay",
    "StopWhen",
    "Stream",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "confusion_matrix",
    "devices",
    "huber",
    "sweep",
    "to_numpy",
    "top_k",
]
