"""What is told of a run: which engine took its steps, how many, and why not all of them."""

import logging

import numpy as np
import pytest
from helpers import assert_layers_agree, on_host, units_between_engines, widest

from bp_xp import ACTIVATIONS, Activation, Network
from bp_xp.backends.numpy import engine as numpy_engine
from bp_xp.backends.torch import engine as torch_engine
from bp_xp.engines import Report, replay
from bp_xp.engines.replay import CannotRecordError, PlainIsBetterError

# Rounding grows along a trajectory, but a net that learns is no chaos.


RECORDERS = {"numpy": numpy_engine, "torch": torch_engine}

TANH = ACTIVATIONS["tanh"]
LOOKING = Activation(
    "looking", lambda z, *, xp: xp.tanh(z) if xp.sum(z) > 0 else 1.0 * xp.tanh(z), TANH.sigma_prime
)


@pytest.fixture(autouse=True)
def recorded_at_the_first_step(monkeypatch):
    """Let even a CUDA kernel be made before there are many steps."""
    monkeypatch.setattr(replay, "_STEPS_BEFORE", 0)


def samples(n):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, 4)), rng.integers(3, size=n)


def fitted(where, *, engine="auto", n=48, epochs=3, **options):
    """Train a network in batches of 8; return it with its history."""
    there = {"backend": where.backend, "device": where.device_name, "engine": engine}
    network = Network([4, 5, 3], **there, dtype=widest(where), seed=1, **options)
    return network, network.fit(*samples(n), epochs=epochs, batch_size=8, progress=False)


def warnings_of(caplog):
    """Return what the logger of bp_xp has warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "bp_xp" and record.levelno >= logging.WARNING
    ]


def assert_same_run(one, other, where):
    (network, history), (wanted, wanted_history) = one, other
    assert_layers_agree(
        network.layers, on_host(wanted.layers), where, eps=units_between_engines(where)
    )
    np.testing.assert_allclose(history["cost"], wanted_history["cost"], rtol=1e-11)


@pytest.fixture
def recorder(where):
    """The module that records steps on the library under test."""
    if where.backend not in RECORDERS:
        pytest.skip("its engine has no recorder")
    return RECORDERS[where.backend]


# ---------------------------------------------------------------------------------------------
# A run as it should be


def test_a_run_is_taken_by_the_library_s_own_engine_which_is_told(where, caplog):
    network, history = fitted(where)
    report = network.explain()
    own = where.engine.name
    assert history.engine == report.engine == report.ran == own
    account = report.account((8, 4))
    assert account.steps == 18
    if own == "plain":
        assert (account.plain, report.program) == (18, "")
        assert f"{where.backend} has no engine of its own" in str(report)
    else:
        assert (account.plain, account.reason) == (0, "")
        assert "18 steps this way" in str(report)
        assert "steps in the plain loop" not in str(report)
    assert not warnings_of(caplog)


def test_the_program_of_a_run_holds_its_operations(where):
    operations = {
        "numpy": ["dot(", "exp(", "add_reduce", "copyto(z,"],
        "torch": ["addmm(", "sigmoid(", "copy_(z,"],
        "jax": ["dot_general", "exp", "reduce_sum"],
        "cupy": ["take_steps(", "exp(", "barrier("],
    }
    program = fitted(where)[0].explain().program
    assert all(name in program for name in operations.get(where.backend, []))
    assert bool(program) == (where.backend in operations)


def test_a_network_that_was_not_trained_yet_tells_of_its_engine(where):
    network = Network([2, 1], backend=where.backend, device=where.device_name, seed=0)
    report = network.explain()
    assert report.engine == where.engine.name
    assert (report.accounts, report.program) == ({}, "")
    assert str(report).startswith(f"engine {where.engine.name}: {where.engine.way}")


def test_the_plain_engine_tells_that_it_was_asked_for(where, caplog):
    network, history = fitted(where, engine="plain")
    report = network.explain()
    assert history.engine == report.ran == "plain"
    assert report.program == ""
    assert report.account((8, 4)).plain == report.account((8, 4)).steps == 18
    asked = where.engine.name != "plain"
    assert ("asked for by engine='plain'" in str(report)) == asked
    assert "18 steps in the plain loop" in str(report)
    assert not warnings_of(caplog)


def test_mini_batches_of_each_shape_have_an_account(where):
    network, _ = fitted(where, n=44)  # five of 8 samples and one of 4 in each epoch
    report = network.explain()
    steps = {shape: account.steps for shape, account in report.accounts.items()}
    assert steps == {(8, 4): 15, (4, 4): 3}
    assert "mini-batches of 8 × 4: 15 steps" in str(report)
    assert "mini-batches of 4 × 4: 3 steps" in str(report)


def test_explain_tells_of_the_last_fit_alone(where):
    network, _ = fitted(where)
    network.fit(*samples(16), epochs=1, batch_size=8, progress=False)
    assert network.explain().account((8, 4)).steps == 2


# ---------------------------------------------------------------------------------------------
# A run that falls back


def test_a_broken_recorder_is_told_and_logged_once_and_the_plain_loop_gives_the_run(
    where, recorder, monkeypatch, caplog
):
    def broken(step, state, batch, *, xp):
        raise RuntimeError("the tape is torn")

    monkeypatch.setattr(recorder, "_record", broken)
    ours = network, history = fitted(where)
    account = network.explain().account((8, 4))
    assert history.engine == "plain"
    assert account.reason == "RuntimeError while recording: the tape is torn"
    assert (account.plain, account.program) == (18, None)
    assert f"18 steps in the plain loop ({account.reason})" in str(network.explain())
    [message] = warnings_of(caplog)
    assert f"(8, 4) in place of the {where.backend} engine: RuntimeError" in message
    assert_same_run(ours, fitted(where, engine="plain"), where)


def test_an_activation_that_looks_at_a_value_is_told_and_taken_by_the_plain_loop(
    where, recorder, caplog
):
    ours = network, history = fitted(where, activation=LOOKING)
    account = network.explain().account((8, 4))
    assert history.engine == "plain"
    assert "looks at" in account.reason
    assert account.reason in str(network.explain())
    [message] = warnings_of(caplog)
    assert account.reason in message
    assert_same_run(ours, fitted(where, activation=LOOKING, engine="plain"), where)
    assert_same_run(ours, fitted(where, activation="tanh"), where)


@pytest.mark.parametrize(
    ("error", "level"),
    [(CannotRecordError("too odd"), "WARNING"), (PlainIsBetterError("too large"), "INFO")],
    ids=["cannot", "better"],
)
def test_a_fallback_that_is_as_it_should_be_is_no_warning(
    where, recorder, monkeypatch, caplog, error, level
):
    def refusing(step, state, batch, *, xp):
        raise error

    caplog.set_level(logging.INFO, logger="bp_xp")
    monkeypatch.setattr(recorder, "_record", refusing)
    network, history = fitted(where)
    assert history.engine == "plain"
    assert network.explain().account((8, 4)).reason == str(error)
    levels = [one.levelname for one in caplog.records if str(error) in one.getMessage()]
    assert levels == [level]


def test_each_shape_that_falls_back_is_logged(where, recorder, caplog):
    fitted(where, activation=LOOKING, n=44)
    messages = warnings_of(caplog)
    assert len(messages) == 2
    assert "(8, 4)" in messages[0]
    assert "(4, 4)" in messages[1]


def test_few_steps_are_taken_by_the_plain_loop_which_says_so(where, recorder, monkeypatch, caplog):
    monkeypatch.setattr(replay, "_STEPS_BEFORE", 32)
    network, history = fitted(where, epochs=1)
    assert history.engine == "plain"
    assert "6 steps in the plain loop (recording takes as long as 32 steps)" in str(
        network.explain()
    )
    assert not warnings_of(caplog)


def test_steps_before_the_recording_are_told(where, recorder, monkeypatch):
    monkeypatch.setattr(replay, "_STEPS_BEFORE", 12)
    network, history = fitted(where)  # six steps an epoch
    assert history.engine == where.backend
    assert (
        "6 steps this way, 12 steps in the plain loop (before there were enough to record a step)"
    ) in str(network.explain())


# ---------------------------------------------------------------------------------------------
# The report itself


def test_a_report_prints_as_a_line_and_one_for_each_shape():
    report = Report("tape", "it is played back", "asked for")
    assert str(report) == "engine tape: it is played back (asked for)"
    report.account((8, 4)).steps = 30
    slow = report.account((3, 4))
    slow.steps, slow.plain, slow.reason = 5, 2, "why not"
    report.account((1, 4))
    assert str(report).splitlines()[1:] == [
        "  mini-batches of 8 × 4: 30 steps this way",
        "  mini-batches of 3 × 4: 3 steps this way, 2 steps in the plain loop (why not)",
        "  mini-batches of 1 × 4: none yet",
    ]


def test_a_report_says_plain_where_the_plain_loop_took_all():
    report = Report("tape", "way")
    assert report.ran == "tape"
    account = report.account((8, 4))
    account.steps = account.plain = 5
    assert report.ran == "plain"
    account.steps += 1
    assert (report.ran, account.fast) == ("tape", 1)


def test_programs_of_a_report_are_written_when_they_are_asked_for():
    report, written = Report("tape", "way"), []
    assert report.program == ""
    for rows in (3, 2, 1):
        program = None if rows == 2 else lambda rows=rows: written.append(rows) or f"{rows} rows"
        report.account((rows, 4)).program = program
    assert not written
    assert report.program == "3 rows\n\n1 rows"
    assert written == [3, 1]


def test_a_reason_is_logged_once_for_each_shape_until_it_changes(caplog):
    report = Report("tape", "way")
    for shape, reason in [((8, 4), "a"), ((8, 4), "a"), ((2, 4), "a"), ((8, 4), "b")]:
        report.fall_back(shape, reason)
    assert [message.rpartition(": ")[2] for message in warnings_of(caplog)] == ["a", "a", "b"]
    assert report.account((8, 4)).reason == "b"
