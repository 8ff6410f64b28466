"""Reading ahead: errors, waiting, Ctrl-C, and the end of the thread."""

import signal
import threading
import traceback

import numpy as np
import pytest
from helpers import parameters

from bp_xp import SGD, Callback, Checkpoint, Network, StopWhen, Stream
from bp_xp.backends import place
from bp_xp.sources.ahead import Ahead

X, Y = np.arange(80.0).reshape(40, 2) / 80.0, np.arange(40) % 2


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def batches():
    for k in range(0, 40, 4):
        yield X[k : k + 4], Y[k : k + 4]


def broken_after(n):
    def read():
        for k, batch in enumerate(batches()):
            if k == n:
                raise OSError("the disk is gone")
            yield batch

    return read


def network():
    return Network([2, 3, 2], cost="categorical_cross_entropy", dtype="float64", seed=1)


OPTIONS = {"epochs": 3, "optimizer": SGD(0.5), "progress": False}


class StopAt(Callback):
    def __init__(self, step):
        self.every = step

    def on_steps(self, network, history, step):
        return True


def test_the_error_of_a_reader_has_its_traceback_and_nothing_learned_is_lost(tmp_path):
    path, net = tmp_path / "run.safetensors", network()
    with pytest.raises(OSError, match="the disk is gone") as caught:
        net.fit(broken_after(7), checkpoint=path, **OPTIONS)
    assert "in read" in "".join(traceback.format_tb(caught.value.__traceback__))

    assert_taken(net, 7)
    whole, again = network(), network()
    whole.fit(batches, **OPTIONS)
    again.fit(batches, checkpoint=Checkpoint(path, resume=True), **OPTIONS)
    assert all(map(np.array_equal, parameters(again), parameters(whole)))


@pytest.fixture
def stuck(no_thread_is_left):
    """What a reader waits for until the test is over."""
    released, before = threading.Event(), set(threading.enumerate())
    yield released
    released.set()
    for thread in set(threading.enumerate()) - before:
        thread.join()


def test_a_run_that_took_no_step_leaves_no_checkpoint(tmp_path):
    path, net = tmp_path / "run.safetensors", network()
    before = parameters(net)

    def read():
        yield X[:4], Y[:4]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        net.fit(read, batch_size=8, checkpoint=path, **OPTIONS)
    assert not path.exists()
    assert all(map(np.array_equal, parameters(net), before))


def test_a_reader_that_takes_too_long_is_named(stuck):
    def read():
        yield from list(batches())[:2]
        stuck.wait()

    net = network()
    with pytest.raises(TimeoutError, match=r"nothing came from x for 0\.05 seconds"):
        net.fit(Stream(read, timeout=0.05), **OPTIONS)
    assert_taken(net, 2)
    never = Stream(lambda: (stuck.wait() for _ in range(2)), timeout=0.05)
    with pytest.raises(TimeoutError, match="nothing came from validation_data"):
        network().fit(batches, validation_data=never, **OPTIONS)
    with pytest.raises(TimeoutError, match="nothing came from x"):
        network().predict(Stream(read, timeout=0.05))
    with pytest.raises(ValueError, match="timeout must be finite and above 0"):
        Stream(read, timeout=0)


def assert_taken(net, steps):
    stopped = network()
    stopped.fit(batches, callbacks=[StopAt(steps)], **OPTIONS)
    assert all(map(np.array_equal, parameters(net), parameters(stopped)))


@pytest.mark.parametrize("batches_before", [2, 1, 0])
def test_an_interruption_ends_a_run_that_waits(stuck, batches_before):
    main = threading.main_thread().ident

    def read():
        yield from list(batches())[:1]
        if read_on:
            yield from list(batches())[1:batches_before]
            signal.pthread_kill(main, signal.SIGINT)
            stuck.wait()
        yield from list(batches())[1:]

    read_on = batches_before > 0
    net, options = network(), OPTIONS
    if not read_on:  # the interruption comes in the second epoch

        def again(network, history):
            nonlocal read_on
            read_on = True

        options = OPTIONS | {"callbacks": again}
    history = net.fit(read, **options)
    assert history.stopped == "interrupt"
    assert history.steps == (batches_before or 11)
    assert_taken(net, history.steps)


def test_an_interruption_ends_a_run_that_waits_for_validation_data(stuck, tmp_path):
    main = threading.main_thread().ident
    kept = Checkpoint(tmp_path / "run.safetensors", resume=True)

    def read():
        yield X[:4], Y[:4]
        if not stuck.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            stuck.wait()
        yield X[4:8], Y[4:8]

    net = network()
    history = net.fit(batches, validation_data=read, checkpoint=kept, **OPTIONS)
    assert (history.stopped, history.steps, len(history)) == ("interrupt", 10, 0)
    assert_taken(net, 10)
    stuck.set()
    again, whole = network(), network()
    history = again.fit(batches, validation_data=read, checkpoint=kept, **OPTIONS)
    wanted = whole.fit(batches, validation_data=read, **OPTIONS)
    assert all(map(np.array_equal, parameters(again), parameters(whole)))
    for name in ("cost", "accuracy", "validation_cost"):
        assert history[name] == wanted[name]


def test_who_gives_up_waiting_does_not_wait_for_a_reader_that_is_stuck(stuck):
    main, made = threading.main_thread().ident, []

    def pieces():
        while not (made and made[0]._changed._waiters):
            pass  # until the main thread waits
        signal.pthread_kill(main, signal.SIGINT)
        stuck.wait()
        yield []

    made.append(Ahead(pieces, place("cpu"), name="x"))
    with pytest.raises(KeyboardInterrupt):
        next(made[0])
    made[0].close()
    assert made[0]._thread.is_alive()


def test_a_clock_ends_a_run_that_waits(stuck):
    asked = []

    def read():
        yield from list(batches())[:3]
        asked.append(True)
        stuck.wait()

    net = network()
    history = net.fit(read, callbacks=StopWhen(lambda: bool(asked)), **OPTIONS)
    assert (history.stopped, history.steps) == ("interrupt", 3)
    assert_taken(net, 3)


@pytest.mark.parametrize("stop", [1, 4, 10])
def test_no_thread_is_left_where_a_run_stops(stop):
    net = network()
    net.fit(batches, callbacks=[StopAt(stop)], validation_data=batches, **OPTIONS)
    net.evaluate(batches)
    net.predict(batches)


def test_a_reader_is_closed_where_nobody_reads_on():
    closed = []

    def read():
        try:
            while True:
                yield X[:4], Y[:4]
        finally:
            closed.append(threading.current_thread().name)

    network().fit(read, callbacks=[StopAt(3)], **OPTIONS)
    assert closed == ["bp_xp reads x"]


def test_no_more_waits_than_was_said():
    read, taken = [], []

    def pieces():
        for k in range(20):
            read.append(k)
            yield [np.full((4, 2), k)]

    reading = Ahead(pieces, place("cpu"), name="x", most=3 * 8 * 8)
    for piece in reading:
        taken.append(piece[0][0, 0])
        assert len(read) - len(taken) <= 4
    assert taken == list(range(20))
    reading.close()
