import contextlib
import logging
import os
import re
import signal
import threading

import numpy as np
import pytest

import bp_xp
from bp_xp import SGD, DivergenceError, EpochRecord, History, Network, to_numpy, training
from bp_xp.engines import plain
from bp_xp.training import make_step


@pytest.fixture
def make(target):
    """Network in float64, on the target."""

    def build(*args, **options):
        settings = {"backend": target.backend, "device": target.device, "dtype": "float64"}
        return Network(*args, **(settings | options))

    return build


@pytest.fixture
def data(rng):
    return rng.standard_normal((23, 3)), rng.integers(0, 2, 23)


def parameters(net: Network) -> np.ndarray:
    return np.concatenate([to_numpy(part).ravel() for layer in net.layers for part in layer])


def descend_by_hand(net: Network, x, y, order, batch_size, rate, l2=0.0) -> np.ndarray:
    """One epoch of plain SGD, written with nothing but Network.backprop."""
    hand = Network.from_layers(
        [(to_numpy(W), to_numpy(b)) for W, b in net.layers],
        activation=list(net.model.activations[:-1]),
        cost=net.model.cost,
        dtype="float64",
    )
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        gradients = hand.backprop(x[rows], y[rows])
        hand.layers = [
            (W - rate * (dW + l2 * W), b - rate * db)
            for (W, b), (dW, db) in zip(hand.layers, gradients, strict=True)
        ]
    return parameters(hand)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 22, 23])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_an_epoch_is_a_step_for_each_mini_batch_the_short_one_included(make, data, batch_size, l2):
    x, y = data
    net = make([3, 4, 2], activation="tanh", seed=1)
    expected = descend_by_hand(net, x, y, np.arange(23), batch_size, 0.3, l2)

    net.fit(
        x, y, epochs=1, batch_size=batch_size, optimizer=SGD(0.3), shuffle=False, l2=l2,
        progress=False,
    )  # fmt: skip

    assert np.allclose(parameters(net), expected, rtol=1e-12, atol=1e-14)


def test_the_chunks_of_an_epoch_do_not_show(make, data, monkeypatch):
    x, y = data
    whole, cut = make([3, 4, 2], seed=1), make([3, 4, 2], seed=1)
    options = {"epochs": 2, "batch_size": 2, "progress": False}

    whole.fit(x, y, **options)
    monkeypatch.setattr(training, "_CHUNK_STEPS", 3)
    cut.fit(x, y, **options)

    assert np.allclose(parameters(whole), parameters(cut), rtol=1e-13, atol=0)


def test_one_permutation_orders_samples_and_labels(monkeypatch, where, target, rng):  # N22
    """Row i holds i everywhere, so that a torn pair would show."""
    seen = []
    rows = np.arange(17.0)
    data = training.Data(
        where.asarray(np.stack([rows, rows], axis=1)), where.asarray(rows[:, None]), False
    )
    run = training.Run(SGD(0.1), 1, 5, True, 0.0, False, lambda: False)
    for _ in range(3):
        for xs, ys in training._chunks(data, run, rng, where):
            x, y = to_numpy(xs).reshape(-1, 2), to_numpy(ys).reshape(-1, 1)
            assert np.array_equal(x, np.repeat(y, 2, axis=1))
            seen += y[:, 0].tolist()

    epochs = np.reshape(seen, (3, 17))
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_each_epoch_has_an_order_of_its_own_from_the_seed(make, data):
    x, y = data
    runs = [make([3, 2], seed=seed) for seed in (1, 1, 2)]
    for net in runs:
        net.layers = [(np.zeros((2, 3)), np.zeros(2))]
        net.fit(x, y, epochs=2, batch_size=4, optimizer=SGD(1.0), progress=False)

    assert np.array_equal(parameters(runs[0]), parameters(runs[1]))
    assert not np.array_equal(parameters(runs[0]), parameters(runs[2]))


def test_the_same_seed_trains_alike_on_every_backend(make, data):
    x, y = data
    options = {
        "epochs": 3, "batch_size": 5, "optimizer": SGD(0.5, momentum=0.9, nesterov=True),
        "l2": 1e-3, "progress": False, "validation_data": data,
    }  # fmt: skip
    here = make([3, 4, 2], cost="categorical_cross_entropy", activation="gelu", seed=4)
    reference = Network(
        [3, 4, 2], cost="categorical_cross_entropy", activation="gelu", seed=4, dtype="float64"
    )

    ours, theirs = here.fit(x, y, **options), reference.fit(x, y, **options)

    assert np.allclose(parameters(here), parameters(reference), rtol=1e-11, atol=1e-13)
    for name in ("cost", "validation_cost", "accuracy", "validation_accuracy"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-11)


# ---------------------------------------------------------------------------------------------
# History


def test_history_holds_the_mean_cost_and_accuracy_before_each_step(make, data):
    x, y = data
    net = make([3, 4, 2], seed=1)
    before = net.evaluate(x, y)

    # One batch an epoch: the first record is the network at its start.
    history = net.fit(x, y, epochs=2, batch_size=23, optimizer=SGD(1.0), progress=False)

    assert history[0].cost == pytest.approx(before["cost"], rel=1e-13)
    assert history[0].accuracy == pytest.approx(before["accuracy"])
    assert history[1].cost < history[0].cost


def test_the_mean_over_an_epoch_weighs_a_short_batch_by_its_samples(make, data):
    x, y = data
    net = make([3, 2], seed=1)
    tiny = SGD(1e-300)  # nothing moves, so every batch meets the same network

    history = net.fit(x, y, epochs=1, batch_size=10, optimizer=tiny, progress=False)

    assert history[0].cost == pytest.approx(net.evaluate(x, y)["cost"], rel=1e-13)


def test_validation_values_are_those_after_the_epoch(make, data):
    x, y = data
    net = make([3, 4, 2], seed=1)

    history = net.fit(x, y, epochs=3, validation_data=(x[:9], y[:9]), progress=False)

    scores = net.evaluate(x[:9], y[:9])
    assert history[-1].validation_cost == scores["cost"]
    assert history[-1].validation_accuracy == scores["accuracy"]


def test_history_is_a_sequence_of_records_and_columns(data):
    history = Network([3, 2], seed=0).fit(*data, epochs=3, progress=False)

    assert len(history) == 3
    assert [record.epoch for record in history] == history["epoch"] == [1, 2, 3]
    assert history["cost"] == [record.cost for record in history]
    assert history["validation_cost"] == [None] * 3
    assert history[-1] == history[1:][-1]
    assert all(record.seconds > 0 and record.samples_per_second > 0 for record in history)
    assert history.stopped == "epochs"
    assert str(history).count("\n") == 2
    with pytest.raises(KeyError, match="'loss': a record has epoch, cost"):
        history["loss"]


def test_regression_has_no_accuracy(data, rng):
    x, _ = data
    history = Network([3, 2], output_activation="identity", seed=0).fit(
        x, rng.standard_normal((23, 2)), epochs=1, progress=False
    )

    assert history[0].accuracy is None
    assert "accuracy" not in str(history)


def test_one_output_counts_classes_at_a_half(make):
    x, y = np.array([[-1.0], [1.0], [2.0], [-2.0]]), [0, 1, 1, 0]
    net = make([1, 1], cost="binary_cross_entropy", seed=0)
    net.layers = [([[1.0]], [0.0])]

    history = net.fit(x, y, epochs=1, optimizer=SGD(1e-9), batch_size=2, progress=False)

    assert history[0].accuracy == 1.0


# ---------------------------------------------------------------------------------------------
# Divergence


def test_divergence_stops_the_run_and_keeps_the_last_good_parameters(make, data):
    x, y = data
    net = make([3, 4, 2], activation="relu", output_activation="identity", dtype="float32", seed=1)
    net.fit(x, y, epochs=1, progress=False)
    good = parameters(net)

    with pytest.raises(DivergenceError) as caught:
        net.fit(x, y, epochs=50, optimizer=SGD(1e6), progress=False)

    assert isinstance(caught.value, FloatingPointError)
    assert "epoch" in str(caught.value)
    assert "learning rate below 1e+06" in str(caught.value)
    assert np.isfinite(parameters(net)).all()
    if "before the run" in str(caught.value):
        assert np.array_equal(parameters(net), good)


def test_divergence_names_the_first_layer_that_is_not_finite():
    net = Network([1, 1, 1], output_activation="identity", activation="identity", seed=0)
    net.layers = [([[1.0]], [0.0]), ([[1e30]], [0.0])]

    # The cost, 5e35, is finite; the step is not.
    with pytest.raises(DivergenceError, match="first layer that is not finite is layer 0"):
        net.fit([[1e-12]], [0.0], epochs=1, batch_size=1, optimizer=SGD(1e38), progress=False)

    assert to_numpy(net.layers[1].W) == np.float32(1e30)


# ---------------------------------------------------------------------------------------------
# Interruption


@pytest.fixture
def interrupt_at(monkeypatch):
    """A function that has the process sent SIGINT in the middle of a chunk of one step."""
    monkeypatch.setattr(training, "_CHUNK_STEPS", 1)
    chunk, steps = training._chunk, iter(range(1, 10**6))

    def install(step: int, times: int = 1) -> None:
        def interrupted(*arguments):
            if next(steps) == step:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            return chunk(*arguments)

        monkeypatch.setattr(training, "_chunk", interrupted)

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


def test_a_run_ends_when_it_should_stop(data):
    """As a script does at SIGTERM, which may come where Ctrl-C is ignored."""
    x, y = data
    net, twin = Network([3, 2], seed=1), Network([3, 2], seed=1)
    answers = iter([False, False, True])
    twin.fit(x, y, epochs=2, batch_size=23, progress=False)
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history = net.fit(
            x, y, epochs=9, batch_size=23, progress=False, should_stop=lambda: next(answers)
        )
    finally:
        signal.signal(signal.SIGINT, previous)

    assert history.stopped == "interrupt"
    assert len(history) == 2
    assert np.isfinite(parameters(net)).all()
    assert not np.array_equal(parameters(net), parameters(twin))  # a third step was completed


def test_an_optimizer_that_changes_the_form_of_parameters_is_named(make, data):
    class Wide:
        def init(self, layers, *, place, dtype):
            return ()

        def update(self, layers, gradients, state, *, xp):
            doubled = [(xp.concat([W, W], axis=1), b) for W, b in layers]
            return [bp_xp.Layer(*pair) for pair in doubled], state

    net = make([3, 2], seed=1)
    before = parameters(net)

    with pytest.raises(ValueError, match=r"Wide.update .* shape \(2, 6\)"):
        net.fit(*data, epochs=1, batch_size=23, optimizer=Wide(), progress=False)

    assert np.array_equal(parameters(net), before)


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


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_keeps_its_velocity_from_step_to_step(make, data, nesterov):
    """On PyTorch, +v is v itself: a step that scales it in place would lose the velocity."""
    x, y = data
    net = make([3, 2], seed=1)
    (W, b), velocity = net.layers[0], 0.0
    W, b = to_numpy(W).copy(), to_numpy(b).copy()
    for _ in range(4):
        gradient = Network.from_layers([(W, b)], dtype="float64").backprop(x, y)[0]
        both = np.concatenate([gradient.W, gradient.b[:, None]], axis=1)
        velocity = 0.9 * velocity + both
        step = 0.1 * (both + 0.9 * velocity if nesterov else velocity)
        W, b = W - step[:, :-1], b - step[:, -1]

    optimizer = SGD(0.1, momentum=0.9, nesterov=nesterov)
    net.fit(x, y, epochs=4, batch_size=23, optimizer=optimizer, shuffle=False, progress=False)

    assert np.allclose(to_numpy(net.layers[0].W), W, rtol=1e-12, atol=0)


def test_training_works_in_a_thread(make, data):
    alone, threaded = make([3, 2], seed=1), make([3, 2], seed=1)
    options = {"epochs": 2, "batch_size": 4, "progress": False}
    worker = threading.Thread(target=lambda: threaded.fit(*data, **options))

    worker.start(), worker.join()
    alone.fit(*data, **options)

    assert np.array_equal(parameters(alone), parameters(threaded))


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
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    with contextlib.suppress(AttributeError):
        monkeypatch.setattr(training.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setattr(training.tqdm, "monitor_interval", 0)

    make([3, 2], seed=0).fit(*data, epochs=2, batch_size=4)

    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown
    assert re.search(r"cost \d\.\d{4}  accuracy \d", shown)


# ---------------------------------------------------------------------------------------------
# The step as a pure function


def test_a_step_is_a_function_of_arrays_alone(where, target, data, dtype):
    """(state, x, y) -> (state, z): nothing else goes in, and nothing is read back."""
    x, y = data
    net = Network([3, 2], backend=target.backend, device=target.device, dtype=dtype, seed=1)
    optimizer = SGD(0.1, momentum=0.5)
    step = make_step(net.model, optimizer.update, 0.0, where.xp)
    state = (net.layers, optimizer.init(net.layers, place=where, dtype=dtype))

    state, z = step(state, where.asarray(x, dtype), where.asarray(np.eye(2)[y], dtype))

    assert tuple(z.shape) == (23, 2)
    assert z.dtype == where.dtype(dtype)
    for layer in state[0]:
        assert where.library.owns(layer.W)
        assert layer.W.dtype == where.dtype(dtype)


def test_a_step_runs_where_nothing_can_be_read_back():
    """PyTorch's meta device has shapes and no values: float(), bool() and int() fail on it."""
    torch = pytest.importorskip("torch")
    where = bp_xp.arrays.place("meta", "torch")
    xp = where.xp
    model = Network([3, 4, 2], activation="elu", cost="categorical_cross_entropy", seed=0).model
    layers = [
        bp_xp.Layer(torch.empty((o, i), device="meta"), torch.empty(o, device="meta"))
        for i, o in ((3, 4), (4, 2))
    ]
    optimizer = SGD(0.1, momentum=0.9, nesterov=True)
    step = make_step(model, optimizer.update, 0.1, xp)
    state = (layers, optimizer.init(layers, place=where, dtype="float32"))
    xs, ys = torch.empty((5, 6, 3), device="meta"), torch.empty((5, 6, 2), device="meta")

    state, zs = plain.loop(step, state, (xs, ys), xp=xp)
    totals = training._totals(model, True, xp, zs.reshape(-1, 2), ys.reshape(-1, 2))

    assert zs.shape == (5, 6, 2)
    assert totals.device.type == "meta"


def test_a_record_prints_what_it_has():
    assert str(EpochRecord(3, 0.5, None, None, None, 1.0, 10.0)) == "epoch 3  cost 0.5000  1.00 s"
    assert str(History()) == ""
