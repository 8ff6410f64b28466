"""MPI: processes started by ``mpiexec``, ``srun`` or a queue, for host arrays.

``mpiexec -n 4 python -m mpi4py script.py``: with ``-m mpi4py``, an uncaught error on one process
ends all of them.
"""

import functools
import os
import time
import traceback
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._optional import require

__all__ = ["WORD", "MPICommunicator", "is_launched", "world"]

WORD = "mpi"
"""Its name in ``distributed=``."""

# The variables in which MPI launchers store the number of processes.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
_SECONDS_FOR_OTHERS, _SECONDS_TO_BE_READ = 5.0, 1.0
_SECONDS_UNTIL_TOLD, _LONGEST_NAP = 60.0, 0.1
_WATCHERS = 8  # enough to report even if rank 0 is missing, and few messages
_HERE = 20803  # the tag of a rank's message that it is present, which no other message has


def is_launched() -> bool:
    """Whether this process is one of several that MPI has started."""
    sizes = [os.environ.get(name, "") for name in _SIZES]
    return any(size.isdecimal() and int(size) > 1 for size in sizes)


@functools.cache
def world() -> "MPICommunicator":
    """Return all processes of the job.

    Raises:
        ImportError: mpi4py is not installed; the message names the extra that installs it.
    """
    require("mpi4py", "mpi")
    from mpi4py import MPI

    return MPICommunicator(MPI.COMM_WORLD)


class MPICommunicator:
    """Processes that communicate through MPI; see :class:`bp_xp.ranks.Communicator`.

    Args:
        comm: a communicator of mpi4py: ``MPI.COMM_WORLD``, or a result of its ``Split``.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())

    def meet(self) -> None:
        """Wait for all before a run; if that takes long, a rank reports which are missing.

        All tell the first few ranks that they are present. The lowest rank present reports.
        """
        watchers = range(min(_WATCHERS, self.size))
        others = [rank for rank in watchers if rank != self.rank]
        sent = [self._comm.isend(None, dest=rank, tag=_HERE) for rank in others]
        if self.rank in watchers:
            self._wait_for_others()
        for one in sent:
            one.wait()
        _twin(self._comm)  # while all are present to make it

    def _wait_for_others(self) -> None:
        missing = [rank for rank in range(self.size) if rank != self.rank]
        waited, nap, told = time.monotonic(), 0.0, False
        while missing := [rank for rank in missing if not self._is_here(rank)]:
            is_late = time.monotonic() - waited > _SECONDS_UNTIL_TOLD
            if is_late and not told and missing[: self.rank] == [*range(self.rank)]:
                told = True
                ranks = "rank" if len(missing) == 1 else "ranks"
                checks.warn(
                    f"rank {self.rank} has waited {_SECONDS_UNTIL_TOLD:.0f} seconds for {ranks} "
                    f"{', '.join(map(str, missing))} to begin the run: check what they do, or end "
                    "the job. docs/distributed.md says how."
                )
            time.sleep(nap)
            nap = min(nap + 0.001, _LONGEST_NAP)

    def _is_here(self, rank: int) -> bool:
        here = self._comm.Iprobe(source=rank, tag=_HERE)
        if here:
            self._comm.recv(source=rank, tag=_HERE)
        return here

    def total(self, array: np.ndarray) -> np.ndarray:
        """Return the sum over all processes, in the same memory."""
        from mpi4py import MPI

        self._comm.Allreduce(MPI.IN_PLACE, array)
        return array

    def gather(self, value: Any) -> list[Any]:
        """Return the value from each process."""
        return self._comm.allgather(value)

    def fail(self, error: BaseException) -> None:
        """End the job, unless all processes have failed in the same place."""
        request, waited = _twin(self._comm).Ibarrier(), time.monotonic()
        while not request.Test():
            if time.monotonic() - waited > _SECONDS_FOR_OTHERS:
                traceback.print_exception(error)
                time.sleep(_SECONDS_TO_BE_READ)  # what mpiexec has not read by then is lost
                self._comm.Abort(1)
            time.sleep(0.01)


def _twin(comm: Any) -> Any:
    """Return a second communicator of the same processes, the same one in each call.

    A process that has failed must not mistake other messages for an answer.
    """
    twin = comm.Get_attr(_twin_key())
    if twin is None:
        twin = comm.Dup()
        comm.Set_attr(_twin_key(), twin)
    return twin


@functools.cache
def _twin_key() -> int:
    """Return the key under which MPI keeps it."""
    from mpi4py import MPI

    return MPI.Comm.Create_keyval()
