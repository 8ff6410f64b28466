import dataclasses
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_xp.cli import config
from bp_xp.optim.cycles import CosineDecayRestarts, OneCycle
from bp_xp.optim.schedules import ExponentialDecay, InverseScaling, LinearWarmUp, ReduceOnPlateau

# ---------------------------------------------------------------------------------------------
# Optimizers


@pytest.mark.parametrize("name", config.OPTIMIZERS)
def test_settings_of_an_optimizer_make_it_again(name):
    kind = config.OPTIMIZERS[name]
    options = {}
    for field in dataclasses.fields(kind):
        if isinstance(field.default, bool):
            options[field.name] = not field.default
        else:
            options[field.name] = 0.123456789
    optimizer = kind(**options)
    settings = config.optimizer_settings(optimizer)
    again = config.parse_optimizer(settings.pop("optimizer"), **settings)
    assert again(0.123456789) == optimizer
    assert config.default_rate(name) == (None if name == "sgd" else kind().learning_rate)


def test_settings_that_are_not_given_may_be_no_settings_of_the_optimizer():
    make = config.parse_optimizer("adam", momentum=None, nesterov=False, weight_decay=None)
    assert make(0.1) == config.OPTIMIZERS["adam"](0.1)


# ---------------------------------------------------------------------------------------------
# Schedules


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("constant", 0.5),
        ("exponential:0.9", ExponentialDecay(0.5, 0.9, 1)),
        ("exponential:0.9:10", ExponentialDecay(0.5, 0.9, 10)),
        ("restarts:30", CosineDecayRestarts(0.5, 30)),
        ("restarts:30:2:0.1", CosineDecayRestarts(0.5, 30, 2, 0.1)),
        ("onecycle:80", OneCycle(0.5, 80)),
        ("onecycle:80:0.4", OneCycle(0.5, 80, 0.4)),
        ("inverse", InverseScaling(0.5, 0.5)),
        ("inverse:1", InverseScaling(0.5, 1.0)),
        ("plateau", ReduceOnPlateau(0.5, monitor="cost")),
        ("plateau:0.1:4", ReduceOnPlateau(0.5, 0.1, 4, "cost")),
    ],
)
def test_schedule_takes_the_numbers_after_its_name(text, schedule):
    values = {"monitor": "cost", "steps": 100}
    assert config.make_schedule(text, 0.5, warm_up=None, **values) == schedule
    assert config.make_schedule(text, 0.5, warm_up=0, **values) == schedule
    assert config.make_schedule(text, 0.5, warm_up=3, **values) == LinearWarmUp(3, schedule)


def test_learning_rate_is_called_by_its_name_whatever_the_schedule():
    with pytest.raises(ValueError, match=r"^learning_rate must be"):
        config.make_schedule("cosine", -1.0, warm_up=None, monitor="cost", steps=10)


# ---------------------------------------------------------------------------------------------
# Files

VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.lists(st.integers()),
    st.lists(st.text()),
)


@settings(deadline=None, database=None)
@given(value=VALUES)
def test_every_value_reads_back_as_it_was(value):
    read = tomllib.loads(config.settings_text({"batch_size": value, "l2": None}))
    assert read == {"batch-size": value}
    assert type(read["batch-size"]) is type(value)


def test_name_that_is_no_unicode_is_an_error():
    with pytest.raises(ValueError, match=r"Rename the file"):
        config.settings_text({"data": os.fsdecode(b"x\xff.csv")})


def test_written_settings_are_read_and_may_be_replaced(tmp_path):
    path = tmp_path / "a.toml"
    for epochs in (1, 2):
        config.check_settings_file(path)
        config.write_settings(path, config.settings_text({"epochs": epochs}))
        assert config.read_settings(path, {"epochs": config.INTEGER}) == {"epochs": epochs}
    path.write_text("epochs = 1")
    with pytest.raises(FileExistsError):
        config.check_settings_file(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"# only this", b"\xef\xbb\xbfepochs = 1", b"a = " + b"[" * 10**5, b"\x00", b"\xff"],
)
def test_any_content_is_read_or_refused_by_name(tmp_path, content):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    try:
        config.read_settings(path, {"epochs": config.INTEGER})
    except ValueError as error:
        assert str(error).startswith(f"{path} is not a TOML file: ")  # noqa: PT017
    else:
        assert content.startswith((b"#", b"\xef")) or not content


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path: Path = tmp_path / "run.toml"
    path.write_text("epochs = 3", encoding="utf-8-sig")
    assert config.read_settings(path, {"epochs": config.INTEGER}) == {"epochs": 3}
