import contextlib
import importlib.util
import logging
import os
import re
import signal
import sys
from types import SimpleNamespace

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


def test_without_a_terminal_each_epoch_is_a_line(data, capsys, caplog):
    history = Network([3, 2], seed=0).fit(*data, epochs=2, validation_data=data)

    out, err = capsys.readouterr()
    assert err.splitlines() == [str(record) for record in history]
    assert "validation accuracy" in err
    assert out == ""
    assert not caplog.records


def test_the_line_is_a_log_line_where_somebody_listens(data, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="bp_xp"):
        history = Network([3, 2], seed=0).fit(*data, epochs=2, validation_data=data)

    assert [record.getMessage() for record in caplog.records] == [str(r) for r in history]
    assert capsys.readouterr() == ("", "")


def test_without_any_standard_error_a_run_goes_on(data, monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", None)
    assert len(Network([3, 2], seed=0).fit(*data, epochs=2)) == 2


@pytest.mark.parametrize("place", ["pipe", "terminal", "notebook"])
def test_silence_is_kept_on_request(data, caplog, capsys, monkeypatch, place):
    if place == "terminal":
        be_a_terminal(monkeypatch)
    elif place == "notebook":
        be_a_notebook(monkeypatch)
    with caplog.at_level(logging.INFO, logger="bp_xp"):
        Network([3, 2], seed=0).fit(*data, epochs=2, progress=False)

    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def be_a_terminal(monkeypatch, columns=100):
    """Let standard error be a terminal of some width, at which each look is late enough."""
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with contextlib.suppress(AttributeError):
        monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (columns, 30))
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)


def be_a_notebook(monkeypatch, *, widgets=False):
    """Let this process look as the kernel of a notebook does."""
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    module = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    find = importlib.util.find_spec

    def find_spec(name, *rest):
        return (True if widgets else None) if name == "ipywidgets" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)


def test_a_terminal_gets_a_bar_with_epoch_and_running_cost(data, capsys, monkeypatch, make):
    be_a_terminal(monkeypatch)

    make([3, 2], seed=0).fit(*data, epochs=2, batch_size=4)

    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown
    assert re.search(r"cost \d\.\d{4}  accuracy \d", shown)


VALUES = {
    "cost": r"cost \d\.\d{4} \(val \d\.\d{4}\)",
    "accuracy": r"accuracy [\d.]+% \(val [\d.]+%\)",
    "f1": r"val f1 \d\.\d{4}",
    "a_very_long_name": r"val a very long name \d\.\d{4}",
}


@pytest.mark.parametrize(
    ("columns", "seen"),
    [(160, 4), (80, 2), (60, 1), (50, 1)],
)
def test_the_bar_shows_whole_values_as_far_as_there_is_room(
    data, capsys, monkeypatch, columns, seen
):
    def a_very_long_name(a, y, *, xp):
        return xp.mean(a)

    be_a_terminal(monkeypatch, columns)
    history = Network([3, 2], seed=0).fit(
        *data, epochs=12, validation_data=data, metrics=["f1", a_very_long_name]
    )

    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if line]
    assert max(map(len, lines)) <= columns
    last = lines[-1]
    assert last.startswith("epoch 12/12: 100%|")
    assert [bool(re.search(value, last)) for value in VALUES.values()] == [True] * seen + [
        False
    ] * (4 - seen)
    assert f"(val {history[-1].validation_cost:.4f})" in last
    assert re.search(r"(\)|\d|\d\d:\d\d<\d\d:\d\d|samples/s) *$", last)  # nothing is cut off


def test_the_running_cost_stands_beside_the_last_validation(data, capsys, monkeypatch):
    cut_chunks(monkeypatch, 1)
    be_a_terminal(monkeypatch)
    monkeypatch.setattr(progress.tqdm, "__init__", eager(progress.tqdm.__init__))
    Network([3, 2], seed=0).fit(*data, epochs=2, batch_size=8, validation_data=data)

    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "epoch 2/2" in line]
    assert len(lines) >= 3
    assert all("(val " in line for line in lines[1:])


def eager(init):
    """Return an ``__init__`` of a bar that draws each update."""
    return lambda self, *a, **options: init(self, *a, **(options | {"mininterval": 0.0}))


def test_a_notebook_without_widgets_gets_a_bar_of_text(data, capsys, monkeypatch):
    be_a_notebook(monkeypatch)
    Network([3, 2], seed=0).fit(*data, epochs=2, validation_data=data)

    shown = capsys.readouterr().err
    assert "epoch 2/2: 100%|" in shown
    assert re.search(VALUES["cost"], shown)


def test_a_notebook_with_widgets_gets_their_bar(data, capsys, monkeypatch):
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            bars.append(self)

    be_a_notebook(monkeypatch, widgets=True)
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    Network([3, 2], seed=0).fit(*data, epochs=2, validation_data=data)

    assert [bar.n for bar in bars] == [46]
    assert re.search(VALUES["accuracy"], bars[0].bar_format)
