"""The interface that a way of communication between processes must have."""

from typing import Any, Protocol, runtime_checkable

from bp_xp._typing import Array

__all__ = ["Communicator"]


@runtime_checkable
class Communicator(Protocol):
    """Lets processes communicate. All of them call the same methods in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    def total(self, array: Array) -> Array:
        """Return the sum of an array over all processes; each gets the same bits.

        The array is flat, on the device of the steps, and may be overwritten.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return the value from each process, in their order; values can be pickled."""
        ...

    def fail(self, error: BaseException) -> None:
        """End all processes, since this one failed while others wait for it.

        It may return if no process waits: all have failed in the same way, or will notice it.
        """
        ...
