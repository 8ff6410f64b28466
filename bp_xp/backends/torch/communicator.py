"""Processes that ``torchrun`` has started: gloo on CPUs, NCCL between GPUs."""

import atexit
import os
import sys
from typing import Any

from bp_xp._typing import Array

__all__ = ["TorchCommunicator", "is_launched", "of_group", "own_gpu"]


def is_launched() -> bool:
    """Whether this process is one of several started by torchrun or a similar launcher."""
    size = os.environ.get("WORLD_SIZE", "")
    return size.isdecimal() and int(size) > 1 and "MASTER_ADDR" in os.environ


def own_gpu() -> str:
    """Return the name of the GPU that belongs to this process of a machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def of_group(group: Any) -> "TorchCommunicator | None":
    """Return a communicator for the processes of a group.

    Args:
        group: a ``ProcessGroup``; None for all processes.

    Returns:
        The communicator, or None if ``group`` is something else.

    Raises:
        RuntimeError: the processes were not started in a way that lets them communicate.
    """
    if group is None:
        _begin()
    # There cannot be a group before this module is imported.
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not isinstance(group, distributed.ProcessGroup | None):
        return None
    return TorchCommunicator(distributed, group)


def _begin() -> None:
    """Connect the processes, unless the program has done so itself."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ or "MASTER_ADDR" not in os.environ:
        raise RuntimeError(
            "this process was not started by torchrun: use torchrun --nproc-per-node 2 script.py, "
            "or call torch.distributed.init_process_group() before."
        )
    both = torch.cuda.is_available() and distributed.is_nccl_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo")
    atexit.register(_end)


def _end() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


class TorchCommunicator:
    """Processes that communicate through torch.distributed; see :class:`bp_xp.ranks.Communicator`.

    Args:
        distributed: the module.
        group: the processes; None for all.
    """

    def __init__(self, distributed: Any, group: Any) -> None:
        self._distributed, self._group = distributed, group
        self.rank = int(distributed.get_rank(group))
        self.size = int(distributed.get_world_size(group))

    def total(self, array: Array) -> Array:
        """Return the sum over all processes, in the same memory."""
        self._distributed.all_reduce(array, group=self._group)
        return array

    def gather(self, value: Any) -> list[Any]:
        """Return the value from each process."""
        found: list[Any] = [None] * self.size
        self._distributed.all_gather_object(found, value, group=self._group)
        return found

    def fail(self, error: BaseException) -> None:
        """Close the group: waiting processes fail as well, and torchrun ends the others."""
        del error
        self._distributed.destroy_process_group()
