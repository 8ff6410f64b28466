"""Find the processes that share a run, from ``distributed=``."""

from dataclasses import replace
from typing import Any

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.backends import Placement
from bp_xp.backends.registry import LIBRARIES
from bp_xp.ranks import mpi
from bp_xp.ranks.communicator import Communicator
from bp_xp.ranks.ranks import Ranks

__all__ = ["WORDS", "find_ranks", "launched", "over_devices"]

WORDS = ("auto", *dict.fromkeys(one.talks_by for one in LIBRARIES.values() if one.talks_by))
"""The words that ``distributed=`` accepts: ``"auto"``, and the libraries' communication systems."""


def find_ranks(distributed: Any, placement: Placement) -> Ranks:
    """Return the processes that share a run.

    Args:
        distributed: None for a single process; ``"mpi"``, ``"torch"``; ``"auto"`` for the system
            that started this process; a communicator of mpi4py, a process group of the library, or
            a :class:`Communicator`, which sums the arrays of the network itself.
        placement: library and device of the network.

    Raises:
        ValueError: there is no such word, or the network's library does not use that system.
        TypeError: it is neither a word nor a communicator.
        ImportError: mpi4py is not installed.
        RuntimeError: the processes were not started in the way that the library requires.
    """
    if distributed is None:
        return Ranks()
    if isinstance(distributed, str):
        word = checks.check_choice(distributed, {word: word for word in WORDS}, "distributed")
        if word == "auto":
            word = launched()
            _check_starter(placement, word)
        return Ranks(_communicator(word, placement))
    if hasattr(distributed, "Allreduce") and hasattr(distributed, "Get_rank"):
        _check_talks(placement, mpi.WORD)
        return Ranks(_over_mpi(mpi.MPICommunicator(distributed), placement))
    if (group := placement.library.communicator(distributed)) is not None:
        return Ranks(group)
    if isinstance(distributed, Communicator):
        return Ranks(distributed)
    raise TypeError(
        f"{named('distributed')} must be one of {', '.join(map(repr, WORDS))}, or a communicator, "
        f"not {distributed!r}."
    )


def over_devices(distributed: Any, placement: Placement) -> Placement:
    """Return where steps are taken: on all devices of this process, if the library supports it.

    Args:
        distributed: as for :func:`find_ranks`.
        placement: library and device of the network.

    Raises:
        ValueError: devices would have to share the steps of the plain loop.
    """
    library = placement.library
    if distributed not in ("auto", library.talks_by) or not library.talks_by:
        return placement
    engine = library.engine_over_devices(placement.device)
    if engine is None:
        return placement
    if placement.engine is not library.engine:
        raise ValueError(
            f"{named('distributed', distributed)} is for the engine of {library.name}: the plain "
            "loop takes its steps on one device."
        )
    return replace(placement, engine=engine)


def launched() -> str:
    """Return the word for the system that started this process as one of several, or empty."""
    found = [one.talks_by for one in LIBRARIES.values() if one.is_launched()]
    return mpi.WORD if mpi.is_launched() else next(iter(found), "")


def _communicator(word: str, placement: Placement) -> Communicator | None:
    if not word:
        return None
    _check_talks(placement, word)
    if word == mpi.WORD:
        return _over_mpi(mpi.world(), placement)
    return placement.library.communicator()


def _over_mpi(host: mpi.MPICommunicator, placement: Placement) -> Communicator:
    """Return a communicator that sums the arrays of a network over MPI processes."""
    if host.size == 1:
        return host
    host.meet()
    return placement.library.among(host, placement.device)


def _check_starter(placement: Placement, word: str) -> None:
    """Refuse processes that were started by a system that the network's library does not use."""
    ours = placement.library
    if not word or ours.talks_by == word:
        return
    theirs = next(one for one in LIBRARIES.values() if one.talks_by == word)
    start = f"Start it with {ours.started_by}, " if ours.started_by else ""
    raise ValueError(
        f"{named('distributed', 'auto')} finds one of several processes, started as by "
        f"{theirs.started_by}: in such, networks of backend {theirs.name!r} share a run, and this "
        f"one's is {placement.backend!r}. {start or 'Either '}take {named('backend', theirs.name)},"
        f" or leave {named('distributed')} out, so that each process trains for itself."
    )


def _check_talks(placement: Placement, word: str) -> None:
    """Refuse a communication system that the network's library does not have."""
    if (own := placement.library.talks_by) == word:
        return
    theirs = [one.name for one in LIBRARIES.values() if one.talks_by == word]
    raise ValueError(
        f"{named('distributed', word)} is for networks of backend {' or '.join(map(repr, theirs))},"
        f" and this one's is {placement.backend!r}: take {named('backend', theirs[0])}"
        + (f", or {named('distributed', own)}." if own else ".")
    )
