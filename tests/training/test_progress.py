import contextlib
import logging
import os
import re
import signal

import numpy as np
import pytest
from helpers import cut_chunks, parameters

from bp_xp import Network
from bp_xp.training import looks, progress

# ---------------------------------------------------------------------------------------------
# Interruption


@pytest.fixture
def interrupt_at(monkeypatch):
    """A function that has the process sent SIGINT in the middle of a chunk of one step."""
    cut_chunks(monkeypatch, 1)
    chunk, steps = looks._chunk, iter(range(1, 10**6))

    def install(step: int, times: int = 1) -> None:
        def interrupted(*arguments):
            if next(steps) == step:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            return chunk(*arguments)

        monkeypatch.setattr(looks, "_chunk", interrupted)

    return install


def test_an_interruption_completes_the_step_and_returns_the_history(data, interrupt_at):
    x, y = data
    net, twin = Network([3, 2], seed=1), Network([3, 2], seed=1)
    twin.fit(x, y, epochs=1, batch_size=4, shuffle=False)
    twin.fit(x[:8], y[:8], epochs=1, batch_size=4, shuffle=False)

    interrupt_at(8)  # six steps an epoch: the second step of the second epoch
    history = net.fit(x, y, epochs=9, batch_size=4, shuffle=False)

    assert history.stopped == "interrupt"
    assert len(history) == 1
    assert np.array_equal(parameters(net), parameters(twin))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interruption_ends_at_once_with_whole_parameters(data, interrupt_at):
    x, y = data
    net = Network([3, 2], seed=1)
    before = parameters(net)

    interrupt_at(3, times=2)
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, epochs=9, batch_size=4)

    assert np.array_equal(parameters(net), before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_program_s_own_is_left_in_place(data, interrupt_at):
    called = []
    previous = signal.signal(signal.SIGINT, lambda *_: called.append(1))
    interrupt_at(1)
    try:
        history = Network([3, 2], seed=1).fit(*data, epochs=2)
    finally:
        signal.signal(signal.SIGINT, previous)

    assert called == [1]
    assert history.stopped == "epochs"


# ---------------------------------------------------------------------------------------------
# Progress


def test_without_a_terminal_each_epoch_is_a_log_line(data, caplog):
    with caplog.at_level(logging.INFO, logger="bp_xp"):
        history = Network([3, 2], seed=0).fit(*data, epochs=2, validation_data=data)

    assert [record.getMessage() for record in caplog.records] == [str(r) for r in history]
    assert "validation accuracy" in caplog.text


def test_silence_is_kept_on_request(data, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="bp_xp"):
        Network([3, 2], seed=0).fit(*data, epochs=2, progress=False)

    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_epoch_and_running_cost(data, capsys, monkeypatch, make):
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with contextlib.suppress(AttributeError):
        monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)

    make([3, 2], seed=0).fit(*data, epochs=2, batch_size=4)

    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown
    assert re.search(r"cost \d\.\d{4}  accuracy \d", shown)
