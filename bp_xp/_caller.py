"""Messages in the words of the caller: the names of arguments, and which ones can be suggested.

A Python program passes arguments to a function, a shell passes flags to a command, and the code
that raises an error may be far below either. That code names arguments with :func:`named` and
suggests them with :func:`advice`. The function or command that was called sets its own words with
:func:`speaking`. Until one does, arguments have their Python names.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

__all__ = [
    "NO_VALUE",
    "Words",
    "advice",
    "by_default",
    "in_python",
    "named",
    "own_arguments",
    "speaking",
]

P = ParamSpec("P")
R = TypeVar("R")

NO_VALUE: Any = object()
"""Means that an argument is named without a value."""

Words: TypeAlias = Callable[[str, Any], str | None]
"""Returns the caller's name for an argument and its value (or NO_VALUE); None if it has none."""


class _Caller(NamedTuple):
    """The caller that messages are written for.

    Attributes:
        words: its words for arguments.
        is_program: whether it is a Python program; otherwise it is a user of the shell.
    """

    words: Words
    is_program: bool = True


def _in_python(argument: str, value: Any) -> str:
    return argument if value is NO_VALUE else f"{argument}={value!r}"


_NOBODY = _Caller(_in_python)
_caller: ContextVar[_Caller] = ContextVar("the caller of bp_xp", default=_NOBODY)


def named(argument: str, value: Any = NO_VALUE) -> str:
    """Return the caller's name for an argument, or its Python name if the caller has none.

    Examples:
        >>> named("batch_size"), named("batch_size", 3)
        ('batch_size', 'batch_size=3')
    """
    return _caller.get().words(argument, value) or _in_python(argument, value)


def advice(text: str, argument: str, value: Any = NO_VALUE) -> str:
    """Return advice to pass an argument; an empty string if the caller has no such argument.

    Args:
        text: the advice, with ``{}`` as the placeholder for the argument.
        argument: its name in Python.
        value: what to pass.

    Examples:
        >>> advice(", or pass {}", "missing", "allow")
        ", or pass missing='allow'"
    """
    word = _caller.get().words(argument, value)
    return "" if word is None else text.format(word)


def in_python(text: str) -> str:
    """Return advice that only a program can follow; an empty string if a command was called."""
    return text if _caller.get().is_program else ""


@contextlib.contextmanager
def speaking(words: Words, *, to_program: bool = True) -> Iterator[None]:
    """Use a caller's words in messages while this context is active.

    Args:
        words: the words.
        to_program: whether the caller is a Python program; otherwise it is a user of the shell.
    """
    before = _caller.set(_Caller(words, to_program))
    try:
        yield
    finally:
        _caller.reset(before)


@contextlib.contextmanager
def by_default(words: Words) -> Iterator[None]:
    """Use words in messages while this context is active, unless a caller has set its own."""
    with contextlib.nullcontext() if _caller.get() is not _NOBODY else speaking(words):
        yield


def own_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Let messages suggest the arguments of a public function, not those of inner functions.

    If a function with this decorator calls another, messages use the arguments of the outer one.
    """
    known = frozenset(inspect.signature(function).parameters)

    def words(argument: str, value: Any) -> str | None:
        return _in_python(argument, value) if argument in known else None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with by_default(words):
            return function(*args, **kwargs)

    return call
