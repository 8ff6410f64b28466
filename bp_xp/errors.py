"""The exceptions of bp_xp, each a subclass of the built-in that fits.

Wherever a built-in says it all (``ValueError`` for a wrong shape, ``ImportError`` for a missing
library), the built-in is raised.
"""

__all__ = [
    "CheckpointError",
    "DataFormatError",
    "DeviceError",
    "DivergenceError",
    "DownloadError",
    "OutOfMemoryError",
]


class DeviceError(RuntimeError):
    """A device that was asked for does not work here; the message says why and what helps."""


class OutOfMemoryError(MemoryError):
    """A device has too little memory left; the message says how much was asked for."""


class DataFormatError(ValueError):
    """A data file is damaged, or is not of the format that was expected."""


class DownloadError(OSError):
    """A data set could not be downloaded; the message says where to put it by hand."""


class CheckpointError(ValueError):
    """A file of saved parameters is damaged, or does not hold what it should."""


class DivergenceError(FloatingPointError):
    """Training reached a cost that is infinite or not a number."""
