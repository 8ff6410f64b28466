"""How all commands print messages, report errors and exit."""

import contextlib
import errno
import io
import logging
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from bp_xp import __version__
from bp_xp._caller import NO_VALUE, Words, speaking

__all__ = ["Command", "Termination", "logger", "main", "stop"]

logger = logging.getLogger("bp_xp")

# What the library raises for a wrong argument, file, device or run. Anything else is a bug in the
# library, and shows its traceback.
_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
    ArithmeticError,
)


# Arguments that a command calls by another name than the function does.
_FLAGS = {
    "validation_data": "validation_fraction",
    "patience": "early_stopping",
    "every": "checkpoint_every",
    "metrics": "metric",
    "out": "output",
    "text": "categorical",  # what is read as text is taken for categories
}


class Command(click.Command):
    """A command whose messages name its flags and the file that it was given."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with speaking(_words(ctx), to_program=False):
            return super().invoke(ctx)


def _words(ctx: click.Context) -> Words:
    """Return what arguments are called in a command."""
    options = {one.name: one for one in ctx.command.params if isinstance(one, click.Option)}
    data = ctx.params.get("data")
    targets = ctx.params.get("targets")
    samples = {"x": f"{data}", "y": f"the target of {data}" if targets is None else f"{targets}"}

    def words(argument: str, value: Any) -> str | None:
        part, _, letter = argument.rpartition(" ")  # "x", or "validation x"
        if letter in samples and data is not None:
            return f"{samples[letter]}{part and f', {part} part,'}"
        # A part of an argument has its flag: sizes[1], optimizer.learning_rate.
        name, bracket, index = argument.rpartition(".")[2].partition("[")
        option = options.get(name) or options.get(_FLAGS.get(name, name))
        if option is None:
            return None
        flag = max(option.opts, key=len)
        if value is NO_VALUE or option.is_flag:
            return flag + bracket + index
        return f"{flag} {','.join(map(str, value)) if isinstance(value, list | tuple) else value}"

    return words


class _Program(click.Group):
    """A group of commands whose errors are one line each."""

    command_class = Command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A name that the terminal can't show is escaped.
                stream.reconfigure(errors="backslashreplace")
        with _messages():
            try:
                return super().invoke(ctx)
            except (click.exceptions.Exit, click.Abort):  # to Python these are RuntimeErrors
                raise
            except KeyboardInterrupt:
                stop("interrupted", signal.SIGINT)
            except _ERRORS as error:
                if isinstance(error, OSError) and error.errno == errno.EPIPE:
                    raise  # the reader is gone: click exits quietly
                if ctx.meta.get("bp_xp.debug"):
                    traceback.print_exc()
                click.echo(f"error: {_one_line(error)}", err=True)
                raise click.exceptions.Exit(1) from None


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Send the library's log lines and warnings to stderr, one line each."""
    handler, level = logging.StreamHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            # An overflow ends in an error, whose message is clearer.
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.showwarning = lambda message, *_: click.echo(
                f"warning: {_one_line(message)}", err=True
            )
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _one_line(error: Exception | str) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


class Termination(contextlib.AbstractContextManager["Termination"]):
    """Ends the program at the first SIGTERM, after a run in progress has completed its step.

    A second SIGTERM ends the process immediately. On Windows, SIGBREAK (Ctrl-Break) does the same.

    Attributes:
        number: the signal that was received; SIGINT until then.
        training: whether a run is in progress, which must complete its step.
    """

    def __init__(self) -> None:
        self.number: int = signal.SIGINT
        self.training = False
        self._handled: list[int] = []
        if threading.current_thread() is threading.main_thread():
            named = (getattr(signal, name, None) for name in ("SIGTERM", "SIGBREAK"))
            self._handled = [number for number in named if number is not None]

    def __enter__(self) -> "Termination":
        self._previous = [signal.signal(number, self._ask) for number in self._handled]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, previous in zip(self._handled, self._previous, strict=True):
            signal.signal(number, previous or signal.SIG_DFL)
        if kind is KeyboardInterrupt:
            stop("interrupted: nothing was written", self.number)

    def asked(self) -> bool:
        """Whether SIGTERM or SIGBREAK was received."""
        return self.number in self._handled

    def _ask(self, number: int, _: object) -> None:
        self.number = number
        for handled in self._handled:
            signal.signal(handled, signal.SIG_DFL)
        if not self.training:
            raise KeyboardInterrupt


def stop(message: str, number: int) -> NoReturn:
    """Exit with the status of a program that the signal with this number ended."""
    click.echo(message, err=True)
    raise click.exceptions.Exit(128 + number)


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Each command has its own --help, with examples.",
)
@click.version_option(__version__, prog_name="bp-xp")
def main() -> None:
    """Train neural networks by backpropagation, on any array library and device.

    \b
    Examples:
      bp-xp train                         learn to read digits, in a second
      bp-xp evaluate digits.safetensors   cost and accuracy on the test images
      bp-xp predict digits.safetensors    the digits that it reads there
      bp-xp inspect digits.safetensors    what is in the file
      bp-xp plot weights digits.safetensors  what its first neurons look for
      bp-xp devices                       the array libraries and devices here
    """  # noqa: D301
