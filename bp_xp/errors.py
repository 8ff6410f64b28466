"""The exceptions of bp_xp, each a subclass of the built-in exception that fits.

If a built-in exception is specific enough (``ValueError`` for a wrong shape, ``ImportError`` for a
missing library), it is raised instead.
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
    """A requested device does not work here; the message says why and what to do."""


class OutOfMemoryError(MemoryError):
    """A device has too little free memory; the message says how much was requested."""


class DataFormatError(ValueError):
    """A data file is damaged, or is not in the expected format."""


class DownloadError(OSError):
    """A data set could not be downloaded; the message says where to put the files manually."""


class CheckpointError(ValueError):
    """A file of saved parameters is damaged, or lacks something that it should contain."""


class DivergenceError(FloatingPointError):
    """Training reached a cost that is infinite or not a number."""
