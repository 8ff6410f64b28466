"""Backends: array libraries and their devices, with a folder for each library.

Only these folders depend on a library. Everything else receives a :class:`Placement` (a namespace
and a device) and computes with it. For a library without a folder, :class:`Library` is used
directly.
"""

from bp_xp.backends.library import SUPPORTED_DTYPES, Library, dtype_name
from bp_xp.backends.placement import DeviceTable, LibraryReport, Placement, devices, place
from bp_xp.backends.registry import LIBRARIES, library_of, to_numpy

__all__ = [
    "LIBRARIES",
    "SUPPORTED_DTYPES",
    "DeviceTable",
    "Library",
    "LibraryReport",
    "Placement",
    "devices",
    "dtype_name",
    "library_of",
    "place",
    "to_numpy",
]
