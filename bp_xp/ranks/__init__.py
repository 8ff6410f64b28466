"""Ranks: the processes that share a run, each of which takes a part of every mini-batch.

They talk through what a machine has for that, never through sockets of this library: MPI
(``mpi``) for NumPy, and a library's own way, in its room under :mod:`bp_xp.backends`. The trainer
knows them as :class:`Ranks`, and what talks as a :class:`Communicator`.
"""

from bp_xp.ranks.communicator import Communicator
from bp_xp.ranks.finding import WORDS, find_ranks, launched, over_devices
from bp_xp.ranks.ranks import Ranks

__all__ = ["WORDS", "Communicator", "Ranks", "find_ranks", "launched", "over_devices"]
