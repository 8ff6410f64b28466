"""Whoever called: what arguments are called in messages, and which of them there are to advise.

Python calls a function with arguments, the shell a command with flags, and what raises an error may
lie far below either. It names arguments by :func:`named` and advises them by :func:`advice`; who
was called says by :func:`speaking` what that is in its own words. Until somebody does, arguments
have the names that they have in Python.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

__all__ = ["NO_VALUE", "Words", "advice", "in_python", "named", "own_arguments", "speaking"]

P = ParamSpec("P")
R = TypeVar("R")

NO_VALUE: Any = object()
"""Stands for an argument that is named without a value."""

Words: TypeAlias = Callable[[str, Any], str | None]
"""What a caller calls an argument with a value, or with NO_VALUE; None if there is no such one."""


class _Caller(NamedTuple):
    """The one that messages speak to.

    Attributes:
        words: its words for arguments.
        is_program: whether it is a program in Python, or a user of the shell.
    """

    words: Words
    is_program: bool = True


def _in_python(argument: str, value: Any) -> str:
    return argument if value is NO_VALUE else f"{argument}={value!r}"


_NOBODY = _Caller(_in_python)
_caller: ContextVar[_Caller] = ContextVar("the caller of bp_xp", default=_NOBODY)


def named(argument: str, value: Any = NO_VALUE) -> str:
    """Return what the caller calls an argument; as in Python, if that is nothing.

    Examples:
        >>> named("batch_size"), named("batch_size", 3)
        ('batch_size', 'batch_size=3')
    """
    return _caller.get().words(argument, value) or _in_python(argument, value)


def advice(text: str, argument: str, value: Any = NO_VALUE) -> str:
    """Return advice to pass an argument; nothing where the caller has no such one.

    Args:
        text: the advice, with ``{}`` in the place of the argument.
        argument: its name in Python.
        value: what to pass.

    Examples:
        >>> advice(", or pass {}", "missing", "allow")
        ", or pass missing='allow'"
    """
    word = _caller.get().words(argument, value)
    return "" if word is None else text.format(word)


def in_python(text: str) -> str:
    """Return advice that only a program can follow; nothing where a command was called."""
    return text if _caller.get().is_program else ""


@contextlib.contextmanager
def speaking(words: Words, *, to_program: bool = True) -> Iterator[None]:
    """Speak to a caller in its words, as long as this context lasts.

    Args:
        words: the words.
        to_program: whether it is a program in Python, or a user of the shell.
    """
    before = _caller.set(_Caller(words, to_program))
    try:
        yield
    finally:
        _caller.reset(before)


def own_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Let the messages of a public function advise its own arguments, and no inner function's.

    Where a function so marked calls another, the arguments are those of the outer one.
    """
    known = frozenset(inspect.signature(function).parameters)

    def words(argument: str, value: Any) -> str | None:
        return _in_python(argument, value) if argument in known else None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _caller.get() is not _NOBODY:
            return function(*args, **kwargs)
        with speaking(words):
            return function(*args, **kwargs)

    return call
