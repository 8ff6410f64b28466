"""The trainer and its observers: who is told what, in which order, and what ends a run."""

import itertools
import signal

import numpy as np
import pytest
from helpers import cut_chunks, parameters

from bp_xp import SGD, Callback, Checkpoint, EarlyStopping, Network, StopWhen
from bp_xp.sources import MemorySource
from bp_xp.sources.samples import make_samples
from bp_xp.training.arguments import Settings
from bp_xp.training.looks import start
from bp_xp.training.trainer import Observer, Recorder, Run, train


class Recording(Observer):
    """Notes down what it is told, and answers as it is asked to."""

    def __init__(self, name, log, *, every=(), answers=None, stops=lambda: False):
        self.name, self.log, self.every, self.stops = name, log, every, stops
        self.answers = answers or {}

    def note(self, moment):
        self.log.append(f"{self.name} {moment}")
        return self.answers.get(moment)

    def looks_at(self):
        return self.every

    def should_stop(self):
        return self.stops()

    def on_train_start(self, run):
        self.note("start")

    def before_first(self, run):
        return self.note("before first")

    def on_epoch_start(self, run):
        self.note(f"epoch {run.position.epoch}")

    def on_steps(self, run):
        return self.note(f"step {run.position.step}")

    def on_epoch_end(self, run, record):
        return self.note(f"end of {record.epoch}")

    def on_train_end(self, run):
        self.note(f"over {run.history.stopped}")


@pytest.fixture
def make_run(data):
    """A function that makes a run of 23 samples, by default 2 epochs of 3 steps."""

    def make_run(**options):
        net = Network([3, 2], seed=1)
        settings = Settings(**({"optimizer": SGD(0.1), "epochs": 2, "batch_size": 10} | options))
        where = {"placement": net.placement, "dtype": net.dtype}
        samples = make_samples(net.model, *data, **where)
        position = start(net.model, net.layers, settings, **where, generator=net._generator)
        return Run(
            net,
            net.model,
            MemorySource(samples, net.placement),
            None,
            settings,
            position,
            **where,
            generator=net._generator,
        )

    return make_run


# ---------------------------------------------------------------------------------------------
# Observers


def test_each_observer_is_told_of_each_moment_in_the_order_in_which_they_stand(make_run):
    log = []
    train(make_run(), [Recording("a", log, every=[2]), Recording("b", log)])
    moments = [
        "start", "before first",
        "epoch 1", "step 2", "end of 1",
        "epoch 2", "step 4", "step 6", "end of 2",
        "over epochs",
    ]  # fmt: skip
    assert log == [f"{name} {moment}" for moment in moments for name in "ab"]


def test_all_are_told_before_the_run_ends_and_the_first_who_asks_gives_the_reason(make_run):
    log = []
    observers = [
        Recording("a", log),
        Recording("b", log, answers={"end of 1": "early"}),
        Recording("c", log, answers={"end of 1": "callback"}),
        Recording("d", log),
    ]
    history = train(make_run(), observers)
    assert history.stopped == "early"
    assert log[-8:] == [*(f"{n} end of 1" for n in "abcd"), *(f"{n} over early" for n in "abcd")]


def test_a_run_can_be_over_before_its_first_step(make_run):
    log, run = [], make_run()
    before = parameters(run.network)
    observers = [Recording("a", log, answers={"before first": "early"}), Recording("b", log)]
    history = train(run, observers)
    assert (history.stopped, history.steps, len(history)) == ("early", 0, 0)
    assert log == ["a start", "b start", "a before first", "b before first", "a over early",
                   "b over early"]  # fmt: skip
    assert np.array_equal(parameters(run.network), before)


def test_an_observer_can_end_a_run_between_two_steps(make_run):
    log = []
    history = train(
        make_run(), [Recorder(), Recording("a", log, every=[1], answers={"step 4": "callback"})]
    )
    assert (history.stopped, history.steps, len(history)) == ("callback", 4, 1)
    assert log[-2:] == ["a step 4", "a over callback"]


@pytest.mark.parametrize("asks", [0, 1])
def test_any_observer_may_say_that_the_run_shall_stop(make_run, asks):
    """All are told of the interruption: two mini-batches of 10 are a chunk, the third is short."""
    log = []
    observers = [Recording("a", log), Recording("b", log)]
    observers[asks].stops = lambda: "a end of 1" in log
    history = train(make_run(), observers)
    assert (history.stopped, history.steps) == ("interrupt", 5)
    assert log[-4:] == ["a step 5", "b step 5", "a over interrupt", "b over interrupt"]


def test_a_run_that_should_stop_ends_between_two_chunks(make_run, monkeypatch):
    cut_chunks(monkeypatch, 1)
    answers = iter([False, True])
    history = train(make_run(), [Recorder(), Recording("a", [], stops=lambda: next(answers))])
    assert (history.stopped, history.steps, len(history)) == ("interrupt", 2, 0)


@pytest.mark.parametrize("moment", ["before first", "end of 1", "epoch 2"])
def test_all_are_told_that_the_run_is_over_after_an_error(make_run, moment):
    log = []

    class Failing(Recording):
        def note(self, now):
            if now == moment:
                raise RuntimeError("an observer's own error")
            return super().note(now)

    with pytest.raises(RuntimeError, match="own error"):
        train(make_run(), [Recording("a", log), Failing("b", log), Recording("c", log)])
    assert [entry.partition(" over")[0] for entry in log[-3:]] == ["a", "b", "c"]


def test_a_complete_run_takes_no_step_and_starts_no_epoch(make_run):
    log, run = [], make_run()
    run.position = run.position._replace(epoch=3)
    history = train(run, [Recording("a", log)])
    assert (history.stopped, history.steps) == ("epochs", 0)
    assert log == ["a start", "a before first", "a over epochs"]


def test_looking_at_a_run_does_not_change_it(make_run):
    runs = [make_run(epochs=3), make_run(epochs=3)]
    for run, every in zip(runs, ([], [1, 2]), strict=True):
        train(run, [Recording("a", [], every=every)])
    assert np.array_equal(parameters(runs[0].network), parameters(runs[1].network))


# ---------------------------------------------------------------------------------------------
# The observers of fit


def test_record_best_epoch_callbacks_and_checkpoint_come_in_this_order(data, tmp_path):
    path, seen = tmp_path / "run.safetensors", []

    def look(network, history):
        saved = Network.load(path) if path.exists() else None
        of_file = None if saved is None else parameters(saved)
        seen.append((len(history), history.best_epoch, of_file, parameters(network)))

    Network([3, 2], seed=1).fit(
        *data, epochs=3, validation_data=data, early_stopping=EarlyStopping("cost"),
        callbacks=look, checkpoint=path, progress=False,
    )  # fmt: skip

    assert [one[:2] for one in seen] == [(1, 1), (2, 2), (3, 3)]
    assert seen[0][2] is None
    for before, now in itertools.pairwise(seen):  # the file is that of the epoch before
        assert np.array_equal(now[2], before[3])
    assert np.array_equal(parameters(Network.load(path)), seen[-1][3])


def test_the_checkpoint_of_the_last_epoch_is_written_whoever_ends_the_run(data, tmp_path):
    path, last = tmp_path / "run.safetensors", []

    def end(network, history):
        last[:] = [parameters(network)]
        return len(history) == 2

    history = Network([3, 2], seed=1).fit(
        *data, epochs=9, callbacks=end, checkpoint=path, progress=False
    )
    assert (history.stopped, len(history)) == ("callback", 2)
    assert np.array_equal(parameters(Network.load(path)), last[0])


# ---------------------------------------------------------------------------------------------
# Ending a run from outside


def test_a_run_ends_when_it_should_stop(data):
    """As a script does at SIGTERM, which may come where Ctrl-C is ignored."""
    x, y = data
    net, twin = Network([3, 2], seed=1), Network([3, 2], seed=1)
    answers = iter([False, False, True])
    twin.fit(x, y, epochs=2, batch_size=23, progress=False)
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history = net.fit(
            x, y, epochs=9, batch_size=23, progress=False, callbacks=StopWhen(lambda: next(answers))
        )
    finally:
        signal.signal(signal.SIGINT, previous)

    assert history.stopped == "interrupt"
    assert len(history) == 2
    assert np.isfinite(parameters(net)).all()
    assert not np.array_equal(parameters(net), parameters(twin))  # a third step was completed


def test_any_callback_may_say_that_the_run_shall_stop(data):
    class Impatient(Callback):
        def on_epoch_end(self, network, history):
            self.epochs = len(history)

        def should_stop(self):
            return getattr(self, "epochs", 0) == 2

    history = Network([3, 2], seed=1).fit(
        *data, epochs=9, callbacks=[Callback(), Impatient()], progress=False
    )
    assert (history.stopped, len(history)) == ("interrupt", 2)


def test_a_run_that_was_stopped_is_resumed_from_the_step_where_it_was(make, data, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"epochs": 3, "batch_size": 4, "progress": False}
    whole, cut, again = (make([3, 4, 2], seed=1) for _ in range(3))
    whole.fit(*data, **settings)
    answers = iter([False, False, True])  # after the first chunk of the second epoch

    history = cut.fit(*data, checkpoint=path, callbacks=StopWhen(lambda: next(answers)), **settings)
    assert history.stopped == "interrupt"
    again.fit(*data, checkpoint=Checkpoint(path, resume=path), **settings)

    assert np.allclose(parameters(again), parameters(whole), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("condition", [True, None, "soon"])
def test_a_condition_that_is_no_function_is_refused(condition):
    with pytest.raises(TypeError, match="condition must be a function without arguments"):
        StopWhen(condition)
