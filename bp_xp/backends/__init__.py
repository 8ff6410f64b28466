"""Backends: which array library, which of its devices. A room for each library; only these know.

Everything else receives a :class:`Placement` (a namespace and a device) and computes with it. A
library that has no room is served by :class:`Library` as it stands.
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
