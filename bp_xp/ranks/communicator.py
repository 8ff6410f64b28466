"""What is asked of a way in which processes talk."""

from typing import Any, Protocol, runtime_checkable

from bp_xp._typing import Array

__all__ = ["Communicator"]


@runtime_checkable
class Communicator(Protocol):
    """Lets processes talk. All of them call the same methods in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def total(self, array: Array) -> Array:
        """Return the sum of an array over all processes; each gets the same bits.

        The array is flat, on the device of the steps, and may be overwritten.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return what each process gives, in their order; values can be pickled."""
        ...

    def fail(self, error: BaseException) -> None:
        """End all processes, since this one failed where others wait for it.

        It may return where no process waits: all have failed alike, or will notice by themselves.
        """
        ...
