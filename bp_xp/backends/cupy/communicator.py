"""MPI processes with a GPU each: NCCL sums between the GPUs.

MPI connects the processes, and exchanges everything except arrays. It does not support streams: if
NCCL cannot be used, sums go through the host, which first waits for the stream.
"""

import functools
import os
import socket
import warnings
from typing import Any

from bp_xp._typing import Array

__all__ = ["CuPyCommunicator", "own_gpu"]

# How the ways of starting processes number those of a machine: Open MPI, MPICH, MVAPICH, SLURM.
_LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
)


def own_gpu(n_gpus: int) -> int:
    """Return the number of the GPU that belongs to this process of a machine.

    If there are more processes than GPUs, the GPUs are assigned in turn.
    """
    numbers = [os.environ.get(name, "") for name in _LOCAL_RANKS]
    return next((int(one) for one in numbers if one.isdecimal()), 0) % n_gpus


class CuPyCommunicator:
    """Processes that sum arrays of GPUs; see :class:`bp_xp.ranks.Communicator`.

    Args:
        host: lets the same processes communicate, and sums host arrays.
        device: the GPU of this process.
    """

    def __init__(self, host: Any, device: Any) -> None:
        self.rank, self.size = host.rank, host.size
        self.gather, self.fail = host.gather, host.fail
        self._host, self._nccl = host, _nccl_among(host, device.id)

    def total(self, array: Array) -> Array:
        """Return the sum over all processes: the next operation on the current stream."""
        import cupy

        if self._nccl is None:
            return cupy.asarray(self._host.total(cupy.asnumpy(array)))  # waits for the stream
        nccl: Any = cupy.cuda.nccl
        summed = cupy.empty_like(array)
        dtype = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}[array.dtype.name]
        stream = cupy.cuda.get_current_stream().ptr
        self._nccl.allReduce(
            array.data.ptr, summed.data.ptr, array.size, dtype, nccl.NCCL_SUM, stream
        )
        return summed


# Setting up NCCL takes seconds, and memory: it is done once for runs of the same processes.
@functools.lru_cache(maxsize=4)
def _nccl_among(host: Any, number: int) -> Any:
    """Return NCCL's communicator of the processes, each with the GPU of a number, or None."""
    import cupy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that NCCL is missing is said below
        from cupy.cuda import nccl as module

    nccl: Any = module
    device = cupy.cuda.Device(number)
    found = host.gather((nccl.available, socket.gethostname(), device.pci_bus_id))
    missing = [rank for rank, (available, *_) in enumerate(found) if not available]
    if missing or len(set(found)) < len(found):
        why = f"rank {missing[0]} has no NCCL" if missing else "some of them share a GPU"
        if host.rank == 0:
            warnings.warn(
                f"sums over the processes go through the host, since {why}.",
                RuntimeWarning,
                stacklevel=2,
            )
        return None
    one = host.gather(nccl.get_unique_id() if host.rank == 0 else None)[0]
    with device:
        return nccl.NcclCommunicator(host.size, one, host.rank)
