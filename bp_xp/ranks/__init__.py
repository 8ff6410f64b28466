"""Ranks: the processes that share a run, each of which takes a part of every mini-batch.

They communicate through existing systems, never through sockets of bp_xp: MPI (``mpi``) for NumPy,
and the array library's own system, in its folder under :mod:`bp_xp.backends`. The trainer uses the
processes as :class:`Ranks`, and the system as a :class:`Communicator`.
"""

from bp_xp.ranks.communicator import Communicator
from bp_xp.ranks.finding import WORDS, find_ranks, launched, over_devices
from bp_xp.ranks.ranks import Digest, Ranks, Word

__all__ = [
    "WORDS",
    "Communicator",
    "Digest",
    "Ranks",
    "Word",
    "find_ranks",
    "launched",
    "over_devices",
]
