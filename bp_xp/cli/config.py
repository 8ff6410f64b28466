"""The settings of a run as text: optimizers, schedules, and settings files.

A settings file is TOML, with a key for each setting. The program reads files that users write, and
writes a file for each run, which repeats the run.
"""

import dataclasses
import difflib
import errno
import functools
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bp_xp import checks
from bp_xp._caller import advice, named, speaking
from bp_xp._files import read_regular
from bp_xp.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop
from bp_xp.optim.cycles import CosineDecayRestarts, OneCycle
from bp_xp.optim.schedules import (
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    LearningRate,
    LinearWarmUp,
    ReduceOnPlateau,
    StepDecay,
    check_learning_rate,
)
from bp_xp.storage.files import check_replaceable, replace_file

__all__ = [
    "INTEGER",
    "NUMBER",
    "OPTIMIZERS",
    "SCHEDULES",
    "SWITCH",
    "TEXT",
    "Kind",
    "WrittenSchedule",
    "check_settings_file",
    "default_rate",
    "make_schedule",
    "optimizer_settings",
    "parse_class_weight",
    "parse_optimizer",
    "read_settings",
    "settings_text",
    "write_settings",
]

# ---------------------------------------------------------------------------------------------
# Optimizers

OPTIMIZERS: dict[str, type] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
}

# The settings that have their own options, and are not in the optimizer's text.
_APART = ("learning_rate", "momentum", "nesterov", "weight_decay")


def parse_optimizer(text: str, **apart: float | bool | None) -> "functools.partial[Any]":
    """Return a function that makes an optimizer from a learning rate.

    Args:
        text: its name, and then its own settings, if any: ``"adam:beta2=0.99:amsgrad=true"``.
        apart: momentum, nesterov and weight_decay; None, or False, if they were not given. sgd has
            a momentum of 0.9 unless another one is given.

    Raises:
        ValueError: there is no such optimizer, or it has no such setting.

    Examples:
        >>> parse_optimizer("adam:beta2=0.99")(0.01).beta2
        0.99
        >>> parse_optimizer("sgd", nesterov=True)(0.1)
        SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    """
    name, *parts = text.split(":")
    kind = checks.check_choice(name, OPTIMIZERS, "optimizer")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    options: dict[str, Any] = {"momentum": 0.9} if kind is SGD else {}
    for key, value in apart.items():
        if value is None or (value is False and key not in fields):
            continue
        if key not in fields:
            others = [other for other, one in OPTIMIZERS.items() if key in _field_names(one)]
            raise ValueError(
                f"{named(key)} is not a setting of {name}, but of {' and '.join(others)}: leave it "
                "out, or choose another optimizer."
            )
        options[key] = value
    known = [key for key in fields if key not in _APART]
    for part in parts:
        key, _, value = part.partition("=")
        if key in _APART:
            raise ValueError(
                f"optimizer {text!r}: {key.replace('_', ' ')} can't be set after a colon"
                f"{advice('; use {} instead', key)}."
            )
        if key not in known:
            which = f"NAME=VALUE, with one of {', '.join(known)}" if known else "nothing"
            raise ValueError(
                f"optimizer {text!r}: {name} takes {which} after a colon, not {part!r}."
            )
        options[key] = _option(text, key, value, type(fields[key].default))
    return functools.partial(kind, **options)


def _field_names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _option(text: str, key: str, value: str, kind: type) -> float | bool:
    if kind is bool:
        if value not in ("true", "false"):
            raise ValueError(f"optimizer {text!r}: {key} must be true or false, not {value!r}.")
        return value == "true"
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"optimizer {text!r}: {key} must be a number, not {value!r}.") from None


def default_rate(text: str) -> float | None:
    """Return the default learning rate of an optimizer; None if it has none.

    Args:
        text: as for :func:`parse_optimizer`, and checked by it.

    Examples:
        >>> default_rate("adam"), default_rate("sgd")
        (0.001, None)
    """
    fields = dataclasses.fields(OPTIMIZERS[text.partition(":")[0]])
    (rate,) = (field.default for field in fields if field.name == "learning_rate")
    return None if rate is dataclasses.MISSING else rate


def optimizer_settings(optimizer: Optimizer) -> dict[str, Any]:
    """Return the settings from which :func:`parse_optimizer` makes an equal optimizer.

    Examples:
        >>> optimizer_settings(SGD(0.1, 0.5))
        {'optimizer': 'sgd', 'momentum': 0.5, 'nesterov': False}
        >>> optimizer_settings(Adam(0.1, beta2=0.99))
        {'optimizer': 'adam:beta2=0.99'}
    """
    text = next(name for name, kind in OPTIMIZERS.items() if kind is type(optimizer))
    apart = {}
    for field in dataclasses.fields(OPTIMIZERS[text]):
        value = getattr(optimizer, field.name)
        if field.name == "learning_rate":
            continue
        if field.name in _APART:
            apart[field.name] = value
        elif value != field.default:
            text += f":{field.name}={str(value).lower()}"
    return {"optimizer": text} | apart


# ---------------------------------------------------------------------------------------------
# Schedules


class _Form(NamedTuple):
    """How a schedule is written.

    Attributes:
        kind: the schedule.
        numbers: the arguments that follow its name, in order.
        least: how many of them there must be.
        text: the whole form, for people to read.
    """

    kind: Callable[..., Any]
    numbers: tuple[str, ...]
    least: int
    text: str

    @property
    def words(self) -> dict[str, str]:
        """The name of each argument in the text: ``{"factor": "FACTOR", "every": "STEPS"}``."""
        return dict(zip(self.numbers, re.findall("[A-Z]+", self.text), strict=True))


_FORMS = {
    "constant": _Form(float, (), 0, "constant"),
    "step": _Form(StepDecay, ("factor", "every"), 2, "step:FACTOR:STEPS"),
    "exponential": _Form(ExponentialDecay, ("factor", "every"), 1, "exponential:FACTOR[:STEPS]"),
    "cosine": _Form(CosineDecay, ("steps", "final"), 0, "cosine[:STEPS[:FINAL]]"),
    "restarts": _Form(
        CosineDecayRestarts,
        ("steps", "cycle_factor", "final"),
        1,
        "restarts:STEPS[:FACTOR[:FINAL]]",
    ),
    "onecycle": _Form(OneCycle, ("steps", "rise"), 0, "onecycle[:STEPS[:SHARE]]"),
    "inverse": _Form(InverseScaling, ("power",), 0, "inverse[:POWER]"),
    "plateau": _Form(ReduceOnPlateau, ("factor", "patience"), 0, "plateau[:FACTOR[:EPOCHS]]"),
}
_COUNTS = ("every", "steps", "cycle_factor", "patience")

SCHEDULES: dict[str, str] = {name: form.text for name, form in _FORMS.items()}
"""How each schedule is written."""


def make_schedule(
    text: str, rate: float, *, warm_up: int | None, monitor: str, steps: int
) -> LearningRate:
    """Return the learning rate that a text describes.

    Args:
        text: name and numbers, as in ``"step:0.5:1000"``; see :data:`SCHEDULES`.
        rate: the rate that it begins with; for ``onecycle``, the largest.
        warm_up: the number of steps over which the rate rises first, or None.
        monitor: the value that ``plateau`` watches.
        steps: the steps of the whole run, which ``cosine`` and ``onecycle`` take by default.

    Raises:
        ValueError: there is no such schedule, or its numbers are not numbers or out of range.

    Examples:
        >>> make_schedule("cosine", 0.1, warm_up=None, monitor="cost", steps=500)
        CosineDecay(initial=0.1, steps=500, final=0.0)
    """
    check_learning_rate(rate)
    name, *numbers = text.split(":")
    form = checks.check_choice(name, _FORMS, "schedule")
    if not form.least <= len(numbers) <= len(form.numbers):
        came = "nothing" if not numbers else f"{len(numbers)} number(s)"
        raise ValueError(f"schedule {text!r} has {came} after its name: write {form.text}.")
    if warm_up is not None:
        checks.check_integer(warm_up, "warm_up", least=0)
    try:
        given: dict[str, Any] = {
            key: _number(form, key, number)
            for key, number in zip(form.numbers, numbers, strict=False)
        }
        if form.kind in (CosineDecay, OneCycle) and not numbers:
            given["steps"] = steps - (warm_up or 0)
            if given["steps"] < 1:
                raise ValueError(
                    f"a warm-up of {warm_up:,} steps leaves none of the run's {steps:,}."
                )
        if form.kind is ReduceOnPlateau:
            given["monitor"] = monitor
        # Its errors name the numbers as the text does.
        with speaking(lambda argument, _: form.words.get(argument), to_program=False):
            schedule = form.kind(rate, **given)
    except ValueError as error:
        raise ValueError(f"schedule {text!r}, for {form.text}: {error}") from None
    return LinearWarmUp(warm_up, schedule) if warm_up else schedule


@dataclasses.dataclass(frozen=True)
class WrittenSchedule:
    """A schedule in its text form, which a sweep makes for the steps of each run.

    Args:
        text: as for :func:`make_schedule`.
        monitor: the value that ``plateau`` watches.

    Raises:
        ValueError: as for :func:`make_schedule`.

    Examples:
        >>> WrittenSchedule("cosine")(0.1, 500)
        CosineDecay(initial=0.1, steps=500, final=0.0)
    """

    text: str
    monitor: str = "cost"

    def __post_init__(self) -> None:
        self(1.0, 1)

    def __call__(self, rate: float, steps: int) -> LearningRate:
        """Return the learning rate that begins with a rate, for a run of this many steps."""
        return make_schedule(self.text, rate, warm_up=None, monitor=self.monitor, steps=steps)

    def __str__(self) -> str:
        return self.text


def _number(form: _Form, key: str, text: str) -> int | float:
    whole = key in _COUNTS
    try:
        return int(text) if whole else float(text)
    except ValueError:
        what = "a whole number" if whole else "a number"
        raise ValueError(f"{form.words[key]} must be {what}, not {text!r}.") from None


# ---------------------------------------------------------------------------------------------
# Class weights


def parse_class_weight(text: str) -> str | dict[int | str, float]:
    """Return ``"balanced"`` as it is, and ``"0:1,3:2.5"`` as a dictionary; a label may be a name.

    Raises:
        ValueError: it is neither.
    """
    if text == "balanced":
        return text
    weights: dict[int | str, float] = {}
    for pair in text.split(","):
        label, _, weight = pair.rpartition(":")
        try:
            key, value = int(label) if label.isdecimal() else label, float(weight)
        except ValueError:
            raise ValueError(
                f"{text!r} is neither balanced nor a list of LABEL:WEIGHT such as 0:1,3:2.5."
            ) from None
        if key in weights:
            raise ValueError(f"{text!r} has the label {key} twice.")
        weights[key] = value
    return weights


# ---------------------------------------------------------------------------------------------
# Files


class Kind(NamedTuple):
    """What a value in a file may be.

    Attributes:
        words: what it must be, for messages: ``"a number"``.
        accepts: whether a value is that.
    """

    words: str
    accepts: Callable[[Any], bool]

    def or_list(self, of: str) -> "Kind":
        """Return the kind that is one of these, or a list of them."""

        def accepts(value: Any) -> bool:
            return all(map(self.accepts, value)) if isinstance(value, list) else self.accepts(value)

        return Kind(f"{self.words} or a list of {of}", accepts)


INTEGER = Kind("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool))
NUMBER = Kind("a number", lambda v: isinstance(v, int | float) and not isinstance(v, bool))
SWITCH = Kind("true or false", lambda v: isinstance(v, bool))
TEXT = Kind("text in quotes", lambda v: isinstance(v, str))

_MARK = "# The settings of a run"


def read_settings(
    path: str | os.PathLike[str], kinds: Mapping[str, Kind], command: str = "train"
) -> dict[str, Any]:
    """Read a settings file.

    Args:
        path: the file.
        kinds: the known settings, by name. In the file, a name may have dashes instead of
            underscores.
        command: the command that takes them.

    Raises:
        OSError: it can't be read.
        ValueError: it is not TOML, or has an unknown key, or a value of another kind.
    """
    try:
        content = tomllib.loads(read_regular(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        what = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{path} is not a TOML file: {what}") from None
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in kinds and isinstance(value, dict) and command == "train":
            raise ValueError(f"{path}: {key!r} is a table: write the settings without tables.")
        if name not in kinds:
            raise ValueError(f"{path}: unknown key {key!r}{_nearest(name, kinds, command)}")
        if name in settings:
            raise ValueError(f"{path}: {key} is given twice, with a dash and with an underscore.")
        if not kinds[name].accepts(value):
            raise ValueError(f"{path}: {key} must be {kinds[name].words}, not {_shown(value)}.")
        settings[name] = value
    return settings


def _nearest(name: str, kinds: Mapping[str, Kind], command: str) -> str:
    near = difflib.get_close_matches(name.lower(), kinds, n=1, cutoff=0.0)
    nearest = f"the nearest is {near[0].replace('_', '-')!r}, and " if near else ""
    return f": {nearest}bp-xp {command} --help lists them all."


def _shown(value: Any) -> str:
    """Return a value as TOML writes it, or the kind of a long one."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list" if any(isinstance(v, dict | list) for v in value) else _toml(value)
    return _toml(value) if isinstance(value, bool | int | float | str) else str(value)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return the text of a file with these settings, except those that are None.

    Args:
        settings: by name, with underscores; text, numbers, truth values and lists of them.

    Raises:
        ValueError: a text, such as the name of a file, can't be written in Unicode.

    Examples:
        >>> print(settings_text({"batch_size": 32, "l2": None, "sizes": [2, 1]}), end="")
        # The settings of a run as they were used: bp-xp train --config FILE repeats it.
        # It is replaced whenever the network next to it is.
        batch-size = 32
        sizes = [2, 1]
    """
    lines = [
        f"{_MARK} as they were used: bp-xp train --config FILE repeats it.",
        "# It is replaced whenever the network next to it is.",
    ]
    for name, value in settings.items():
        if value is not None:
            lines.append(f"{name.replace('_', '-')} = {_toml(value)}")
    text = "\n".join(lines) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = text[error.start : error.end]
        raise ValueError(
            f"the settings can't be written to a TOML file: a name has {broken!r} in it, which is "
            "no character. Rename the file."
        ) from None
    return text


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if not isinstance(value, str):
        return repr(value)
    # TOML has JSON's escapes, and requires one for DEL too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_settings_file(path: Path) -> None:
    """Refuse to replace a file that :func:`write_settings` did not write.

    Raises:
        OSError: it is such a file, or not a regular file; or its folder does not exist.
    """
    check_replaceable(path)
    if path.exists() and not read_regular(path).startswith(_MARK.encode()):
        raise FileExistsError(
            errno.EEXIST,
            "the settings of the run would go into this file, which bp-xp did not write: move it, "
            "or give the network another name with --output",
            str(path),
        )


def write_settings(path: Path, text: str) -> None:
    """Write a settings file, completely or not at all.

    Raises:
        OSError: it could not be written; an older file is left as it was.
    """
    replace_file(path, text.encode())
