"""Joint operations of the processes that share a run, so that none waits for another in vain."""

import functools
import socket
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from bp_xp.ranks.communicator import Communicator

__all__ = ["Digest", "Ranks", "Word"]

P = ParamSpec("P")
T = TypeVar("T")


class Digest(str):
    """A digest of something large; a message about a difference does not show it."""


class Word(str):
    """A word about a value that is not shown itself: "given", for example."""

    __repr__ = str.__str__


class Ranks:
    """The processes that share a run, from the point of view of one of them.

    With a single process, the methods only do their own part, without communication.

    Args:
        communicator: how they communicate; None for a single process.

    Attributes:
        rank: the number of this process, from 0; rank 0 shows progress and writes files.
        size: the number of processes.
        total: sums an array over all; None for a single process.

    Examples:
        >>> Ranks().gather("alone")
        ['alone']
    """

    def __init__(self, communicator: Communicator | None = None) -> None:
        if communicator is not None and communicator.size == 1:
            communicator = None
        self._communicator = communicator
        self.rank = 0 if communicator is None else communicator.rank
        self.size = 1 if communicator is None else communicator.size
        self.total = None if communicator is None else communicator.total

    @property
    def are_several(self) -> bool:
        """Whether there is another process."""
        return self._communicator is not None

    def gather(self, value: T) -> list[T]:
        """Return the value from each process, in their order."""
        return [value] if self._communicator is None else self._communicator.gather(value)

    def each(
        self, function: Callable[[], T], *, alike: type[Exception] | tuple[()] = ()
    ) -> list[T]:
        """Call a function on every process; return the results of all.

        The function must not communicate with other processes itself.

        Args:
            function: the function.
            alike: a type of exception that is raised on all processes if one raises it and none
                fails otherwise.

        Raises:
            RuntimeError: the function failed on another process; the message says on which, and
                how. If it failed on this one, its own error is raised.
        """
        if self._communicator is None:
            return [function()]
        found: Any = None
        failure, own, common = "", None, None
        try:
            found = function()
        except alike as error:
            common = error
        except BaseException as error:  # in any case, the others wait for an answer
            failure, own = self.told_of(error), error
        answers = self.gather((found, failure, common))
        if own is not None:
            raise own
        if failures := [failure for _, failure, _ in answers if failure]:
            raise RuntimeError("; ".join(failure.removesuffix(".") for failure in failures))
        if raised := next((error for *_, error in answers if error is not None), None):
            raise raised
        return [found for found, *_ in answers]

    def told_of(self, error: BaseException) -> str:
        """Return the error that the other processes raise for an error on this one."""
        return (
            f"rank {self.rank} on {_host()} failed, and all end with it: "
            f"{type(error).__name__}: {error}"
        )

    def together(self, function: Callable[[], T]) -> T:
        """Return the result of a function here; an error on one process is raised on all."""
        found = []
        self.each(lambda: found.append(function()))
        return found[0]

    def first(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 only, and return its result on every process."""
        return self.each(function if self.rank == 0 else _nothing)[0]

    def guarded(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a function whose error ends all processes, since others wait for this one."""
        communicator = self._communicator
        if communicator is None:
            return function

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                communicator.fail(error)
                raise

        return call

    def check_alike(self, described: Mapping[str, Any], *, when: str, advice: str) -> None:
        """Raise an error on all processes if their values differ.

        Args:
            described: the values by name, which must be the same everywhere.
            when: the moment of the check, for the message: ``"at the start"``.
            advice: a sentence that says what to do about a difference.

        Raises:
            RuntimeError: they differ; the message names the ranks, the value and both versions. Of
                a :class:`Digest` it shows neither, and of objects of two kinds only the kinds.
        """
        each = self.gather((_flat(described), _host()))
        theirs, first_host = each[0]
        differences: dict[str, str] = {}  # for each name, the first rank with another value
        for rank, (ours, host) in enumerate(each):
            for name in dict.fromkeys([*theirs, *ours]):
                if (first := theirs.get(name)) != (own := ours.get(name)):
                    hosts = f"on rank 0 ({first_host})", f"rank {rank} ({host})"
                    differences.setdefault(name, _difference(name, first, own, *hosts))
        if told := [text for name, text in differences.items() if _tells(name, differences)]:
            raise RuntimeError(
                f"the ranks of a run must agree, and {when} they do not: {'; '.join(told)}. "
                f"{advice}"
            )


_KIND = ".kind"


def _difference(name: str, first: Any, own: Any, there: str, here: str) -> str:
    """Return in words that a value is not the same in two places."""
    if isinstance(first, Digest) or isinstance(own, Digest):
        return f"{name} is not the same {there} and {here}"
    return f"{name.removesuffix(_KIND)} is {first!r} {there} and {own!r} on {here}"


def _tells(name: str, differences: Mapping[str, str]) -> bool:
    """Return whether a difference is more than a consequence of objects being of two kinds."""
    parts = name.split(".")
    above = (".".join(parts[:k]) + _KIND for k in range(1, len(parts)))
    return not any(kind in differences and kind != name for kind in above)


def _flat(described: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, with dots in its names."""
    flat: dict[str, Any] = {}
    for key, value in described.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _host() -> str:
    return socket.gethostname()


def _nothing() -> Any:
    return None
