import contextlib
import logging
import os
import re
import signal
import threading

import numpy as np
import pytest

import bp_xp
from bp_xp import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    DivergenceError,
    EpochRecord,
    ExponentialDecay,
    History,
    Network,
    ReduceOnPlateau,
    RMSprop,
    to_numpy,
)
from bp_xp.engines import plain
from bp_xp.math import dropout
from bp_xp.math.regularization import Regularization
from bp_xp.training import progress as console
from bp_xp.training import trainer as training
from bp_xp.training.step import Rule, State, make_step


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


def cut_chunks(monkeypatch, steps):
    """Let no more steps than these be taken at a time."""
    for limits in ("_CHUNK_ON_CPU", "_CHUNK_ELSEWHERE"):
        monkeypatch.setattr(training, limits, (steps, 1 << 20))


def test_the_chunks_of_an_epoch_do_not_show(make, data, monkeypatch):
    x, y = data
    whole, cut = make([3, 4, 2], seed=1), make([3, 4, 2], seed=1)
    options = {"epochs": 2, "batch_size": 2, "progress": False}

    whole.fit(x, y, **options)
    cut_chunks(monkeypatch, 3)
    cut.fit(x, y, **options)

    assert np.allclose(parameters(whole), parameters(cut), rtol=1e-13, atol=0)


def test_one_permutation_orders_samples_labels_and_weights(where, rng):  # N22
    """Row i holds i everywhere, so that a torn pair would show."""
    seen = []
    rows = np.arange(17.0)
    x = np.stack([rows, rows], axis=1)
    data = training.Data(*(where.asarray(part) for part in (x, rows[:, None])), False)
    data = data._replace(weights=where.asarray(rows))
    run = training.Run(SGD(0.1), 1, 5, shuffle=True)
    for _ in range(3):
        for batches in training._chunks(data, run, rng, where, 0, 0):
            x, y, w = (
                to_numpy(part).reshape(-1, k) for part, k in zip(batches, (2, 1, 1), strict=True)
            )
            assert np.array_equal(x, np.repeat(y, 2, axis=1))
            assert np.array_equal(y, w)
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
    cut_chunks(monkeypatch, 1)
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
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with contextlib.suppress(AttributeError):
        monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setattr(console.tqdm, "monitor_interval", 0)

    make([3, 2], seed=0).fit(*data, epochs=2, batch_size=4)

    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown
    assert re.search(r"cost \d\.\d{4}  accuracy \d", shown)


# ---------------------------------------------------------------------------------------------
# Weights of samples and of classes


def copies_and_weights(seed, n=12):
    """Return samples with whole weights 0 to 3, and the same samples copied as often."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 3)), rng.integers(0, 2, n)
    weights = rng.integers(0, 4, n)
    weights[0] = 2  # not all are zero
    rows = np.repeat(np.arange(n), weights)
    return (x, y, weights.astype(float)), (x[rows], y[rows])


@pytest.mark.parametrize("seed", range(200))
def test_a_weight_is_a_number_of_copies_and_zero_is_absence(seed):
    (x, y, weights), copied = copies_and_weights(seed)
    weighted, copying = (Network([3, 4, 2], seed=seed, dtype="float64") for _ in range(2))
    settings = {
        "epochs": 3, "optimizer": SGD(0.5, momentum=0.5), "shuffle": False, "progress": False,
    }  # fmt: skip

    ours = weighted.fit(
        x, y, sample_weight=weights, batch_size=len(x),
        validation_data=(x, y, weights), **settings
    )  # fmt: skip
    theirs = copying.fit(*copied, batch_size=len(copied[0]), validation_data=copied, **settings)

    assert np.allclose(parameters(weighted), parameters(copying), rtol=1e-12, atol=1e-14)
    for name in ("cost", "accuracy", "validation_cost", "validation_accuracy"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-12)
    assert weighted.evaluate(x, y, sample_weight=weights) == pytest.approx(
        copying.evaluate(*copied), rel=1e-12
    )


def test_weights_train_alike_on_every_backend_and_in_every_order(make):
    (x, y, weights), _ = copies_and_weights(1, n=40)
    settings = {"epochs": 3, "batch_size": 8, "sample_weight": weights, "progress": False}
    here, reference = make([3, 4, 2], seed=2), Network([3, 4, 2], seed=2, dtype="float64")
    here.fit(x, y, **settings)
    reference.fit(x, y, **settings)
    assert np.allclose(parameters(here), parameters(reference), rtol=1e-11, atol=1e-13)


def test_a_mini_batch_without_weight_takes_no_step():
    x, y = np.ones((4, 3)), np.array([0, 1, 0, 1])
    net = Network([3, 2], seed=1)
    before = parameters(net)
    net.fit(x[:2], y[:2], epochs=1, batch_size=1, sample_weight=[0.0, 1.0], shuffle=False)
    once = Network([3, 2], seed=1)
    once.fit(x[1:2], y[1:2], epochs=1, batch_size=1, shuffle=False)
    assert not np.array_equal(parameters(net), before)
    assert np.array_equal(parameters(net), parameters(once))


def test_a_class_weight_is_a_weight_of_its_samples(make, data):
    x, y = data
    nets = [make([3, 2], seed=1), make([3, 1], seed=1, cost="binary_cross_entropy")]
    for net in nets:
        twin = net.to(net.device, backend=net.backend)
        settings = {"epochs": 2, "batch_size": 5, "progress": False}
        net.fit(x, y, class_weight={1: 3.0}, **settings)
        twin.fit(x, y, sample_weight=np.where(y == 1, 3.0, 1.0), **settings)
        assert np.allclose(parameters(net), parameters(twin), rtol=1e-13, atol=0)


def test_balanced_classes_improve_the_balanced_accuracy():
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.05).astype(int)
    x = rng.standard_normal((600, 2)) + 1.0 * y[:, None]
    scores = []
    for class_weight in (None, "balanced"):
        net = Network([2, 8, 2], cost="categorical_cross_entropy", seed=0)
        net.fit(x, y, epochs=30, batch_size=20, class_weight=class_weight, progress=False)
        scores.append(net.evaluate(x, y, metrics=["balanced_accuracy"])["balanced_accuracy"])
    assert scores[0] < 0.65
    assert scores[1] > 0.75


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 22 + [-1.0], r"sample_weight has 1 negative number\(s\), the least -1"),
        ([0.0] * 23, "sample_weight is zero for every sample"),
        ([1.0] * 22 + [np.nan], "sample_weight .*NaN"),
        ([1.0] * 22, r"sample_weight must have shape \(23,\), .* not \(22,\)"),
        ([[1.0]] * 23, r"sample_weight must have shape \(23,\)"),
    ],
)
def test_bad_weights_are_refused(make, data, weights, message):  # N17
    with pytest.raises(ValueError, match=message):
        make([3, 2]).fit(*data, sample_weight=weights)


@pytest.mark.parametrize(
    ("class_weight", "error", "message"),
    [
        ({2: 1.0}, ValueError, "has the label 2, but the classes are 0 to 1"),
        ({True: 1.0}, ValueError, "has the label True"),
        ({0: -1.0}, ValueError, r"class_weight\[0\] must be"),
        ({0: 0.0, 1: 0.0}, ValueError, "zero for every class"),
        ("fair", ValueError, "or 'balanced', not 'fair'"),
        ([1.0, 2.0], TypeError, "class_weight must be a dictionary"),
    ],
)
def test_bad_class_weights_are_refused(data, class_weight, error, message):
    with pytest.raises(error, match=message):
        Network([3, 2]).fit(*data, class_weight=class_weight)


def test_class_weights_need_classes(data):
    with pytest.raises(ValueError, match="class_weight needs targets"):
        Network([3, 2]).fit(data[0], np.full((23, 2), 0.3), class_weight="balanced")


# ---------------------------------------------------------------------------------------------
# Schedules


def test_a_schedule_gives_each_step_its_rate(make, data):
    x, y = data
    schedule = ExponentialDecay(1.0, factor=0.9)
    net = make([3, 2], seed=1)
    hand = Network.from_layers([(to_numpy(W), to_numpy(b)) for W, b in net.layers], dtype="float64")
    net.fit(x, y, epochs=2, batch_size=5, optimizer=SGD(schedule), shuffle=False, progress=False)
    step = 0
    for _ in range(2):
        for start in range(0, 23, 5):
            gradients = hand.backprop(x[start : start + 5], y[start : start + 5])
            rate = 0.9**step
            hand.layers = [
                (W - rate * dW, b - rate * db)
                for (W, b), (dW, db) in zip(hand.layers, gradients, strict=True)
            ]
            step += 1
    assert np.allclose(parameters(net), parameters(hand), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", [SGD, Adagrad, RMSprop, Adam, AdamW])
def test_a_constant_schedule_is_a_constant_rate(make, data, rule):
    nets = [make([3, 4, 2], seed=1) for _ in range(2)]
    for net, rate in zip(nets, (0.05, lambda step: 0.05), strict=True):
        net.fit(*data, epochs=2, batch_size=5, optimizer=rule(rate), progress=False)
    assert np.allclose(parameters(nets[0]), parameters(nets[1]), rtol=1e-12, atol=1e-14)


def test_the_rate_is_cut_where_the_run_stalls(data):
    def stuck(a, y, *, xp):
        return 0.0 * xp.sum(a)

    schedule = ReduceOnPlateau(
        1.0, factor=0.1, patience=1, monitor="validation_stuck", higher_is_better=True
    )
    moves, last = [], [None]

    def move(network, history):
        now = parameters(network)
        if last[0] is not None:
            moves.append(np.abs(now - last[0]).max())
        last[0] = now

    Network([3, 2], seed=1, dtype="float64").fit(
        *data, epochs=4, batch_size=23, optimizer=SGD(schedule), metrics=[stuck],
        validation_data=data, callbacks=[move], progress=False,
    )  # fmt: skip
    # Rates 1, 1 (the first epoch was the best), 0.1, 0.01.
    assert moves[1] < 0.2 * moves[0]
    assert moves[2] < 0.2 * moves[1]


def test_a_schedule_that_gives_no_rate_is_named(data):
    with pytest.raises(ValueError, match="step 3"):
        Network([3, 2]).fit(
            *data, batch_size=5, optimizer=SGD(lambda step: 0.1 if step < 3 else np.nan)
        )


# ---------------------------------------------------------------------------------------------
# Dropout, penalties and limits


REGULARIZATIONS = {
    "dropout": {"dropout": 0.5},
    "dropout of inputs": {"dropout": (0.2, 0.5)},
    "l1": {"l1": 0.01},
    "l2": {"l2": 0.01},
    "norm": {"clip_norm": 0.05},
    "value": {"clip_value": 0.01},
    "max norm": {"max_norm": 0.5},
    "all": {
        "dropout": 0.2, "l1": 1e-3, "l2": 1e-3, "clip_norm": 0.1, "clip_value": 0.05,
        "max_norm": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", REGULARIZATIONS.values(), ids=REGULARIZATIONS)
@pytest.mark.parametrize("optimizer", [SGD(0.5, momentum=0.5), Adam(0.05)], ids=["SGD", "Adam"])
def test_every_option_trains_alike_on_every_backend(make, data, options, optimizer):
    x, y = data
    settings = {"epochs": 3, "batch_size": 5, "optimizer": optimizer, "progress": False} | options
    here, reference = make([3, 6, 2], seed=4), Network([3, 6, 2], seed=4, dtype="float64")
    plain_run = Network([3, 6, 2], seed=4, dtype="float64")
    here.fit(x, y, **settings)
    reference.fit(x, y, **settings)
    plain_run.fit(x, y, epochs=3, batch_size=5, optimizer=optimizer, progress=False)
    assert np.allclose(parameters(here), parameters(reference), rtol=1e-10, atol=1e-12)
    assert not np.allclose(parameters(reference), parameters(plain_run), rtol=1e-4)


@pytest.mark.parametrize("options", REGULARIZATIONS.values(), ids=REGULARIZATIONS)
def test_every_option_is_recorded(options, monkeypatch):
    """With the plain loop forbidden, what runs is the recorded step."""
    monkeypatch.setattr(plain, "loop", None)
    net = Network([3, 6, 2], seed=4)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), rng.integers(0, 2, 20)
    for optimizer in (SGD(lambda step: 0.1, momentum=0.9), Adam(0.01), RMSprop(0.01)):
        net.fit(x, y, epochs=2, batch_size=5, optimizer=optimizer, sample_weight=y + 1.0, **options)


def test_max_norm_holds_after_training(make, data):
    net = make([3, 6, 2], seed=4)
    net.fit(*data, epochs=5, optimizer=SGD(5.0), max_norm=0.5, progress=False)
    norms = [np.linalg.norm(to_numpy(W), axis=1) for W, _ in net.layers]
    assert max(norm.max() for norm in norms) <= 0.5 * (1 + 1e-12)


def test_dropout_is_for_training_alone(make, data):
    x, y = data
    net = make([3, 50, 2], seed=4)
    net.fit(x, y, epochs=1, dropout=0.5, progress=False)
    assert np.array_equal(to_numpy(net.feedforward(x)), to_numpy(net.feedforward(x)))


def test_dropout_repeats_with_the_seed_and_differs_without(make, data):
    nets = [make([3, 20, 2], seed=seed) for seed in (1, 1, 2)]
    for net in nets:
        net.layers = [(np.ones(W.shape), np.zeros(b.shape)) for W, b in net.layers]
        net.fit(*data, epochs=1, batch_size=23, dropout=0.5, shuffle=False, progress=False)
    assert np.array_equal(parameters(nets[0]), parameters(nets[1]))
    assert not np.allclose(parameters(nets[0]), parameters(nets[2]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dropout": 1.0}, ValueError, "dropout must be"),
        ({"dropout": -0.1}, ValueError, "dropout must be"),
        ({"dropout": (0.1, 0.1, 0.1)}, ValueError, "one for each of the 1 hidden layers"),
        ({"dropout": "half"}, TypeError, "dropout must be a number"),
        ({"l1": -1}, ValueError, "l1 must be"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be"),
        ({"clip_value": np.nan}, ValueError, "clip_value must be"),
        ({"max_norm": -1.0}, ValueError, "max_norm must be"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must be"),
        ({"validation_fraction": 0.01}, ValueError, "leaves 23 of 23 samples .* and 0 to"),
        ({"metrics": ["f1"]}, ValueError, "metrics are measured on validation data"),
        ({"metrics": ["f2"], "validation_fraction": 0.5}, ValueError, "unknown metric 'f2'"),
        ({"early_stopping": 3}, TypeError, "early_stopping must be"),
        ({"callbacks": [3]}, TypeError, "a callback must be"),
    ],
)
def test_bad_settings_are_refused_before_training(data, options, error, message):
    net = Network([3, 4, 2], seed=1)
    before = parameters(net)
    with pytest.raises(error, match=message):
        net.fit(*data, **options)
    assert np.array_equal(parameters(net), before)


# ---------------------------------------------------------------------------------------------
# Validation


def test_a_fraction_is_held_out_of_each_class(make):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 30, 10])
    first, second = training.split_rows(100, 0.2, y, rng)
    assert sorted([*first, *second]) == list(range(100))
    assert np.bincount(y[second]).tolist() == [12, 6, 2]
    net = make([2, 3], seed=1)
    history = net.fit(rng.random((100, 2)), y, epochs=1, validation_data=0.2, progress=False)
    assert history[0].validation_cost is not None


def test_the_rows_held_out_are_drawn_at_random_and_repeat_with_the_seed():
    parts = [
        training.split_rows(50, 0.3, None, np.random.default_rng(seed))[1] for seed in (1, 1, 2)
    ]
    assert len(parts[0]) == 15
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


def test_small_classes_add_up_to_the_fraction():
    labels = np.arange(10)  # one sample of each class
    first, second = training.split_rows(10, 0.3, labels, np.random.default_rng(0))
    assert (len(first), len(second)) == (7, 3)


def test_metrics_are_recorded_and_evaluated(make, data):
    def confidence(a, y, *, xp):
        return xp.mean(xp.max(a, axis=1))

    net = make([3, 4, 2], seed=1)
    history = net.fit(
        *data, epochs=2, validation_data=data, metrics=["f1", confidence], progress=False
    )
    values = net.evaluate(*data, metrics=["f1", confidence])
    assert history["validation_f1"][-1] == values["f1"]
    assert history["validation_confidence"][-1] == pytest.approx(values["confidence"])
    assert "validation f1" in str(history)


def test_metrics_of_classes_need_classes(data):
    net = Network([3, 2], seed=1)
    with pytest.raises(ValueError, match="'f1' needs targets that are one class each"):
        net.evaluate(data[0], np.full((23, 2), 0.3), metrics=["f1"])


# ---------------------------------------------------------------------------------------------
# The step as a pure function


def test_a_step_is_a_function_of_arrays_alone(where, target, data, dtype):
    """Nothing goes in but the state, x and y, and nothing is read back."""
    x, y = data
    net = Network([3, 2], backend=target.backend, device=target.device, dtype=dtype, seed=1)
    optimizer = SGD(0.1, momentum=0.5)
    step = make_step(Rule(net.model, optimizer.update, Regularization()))
    state = State(net.layers, optimizer.init(net.layers, place=where, dtype=dtype), ())

    state, z = step(state, where.asarray(x, dtype), where.asarray(np.eye(2)[y], dtype), xp=where.xp)

    assert tuple(z.shape) == (23, 2)
    assert z.dtype == where.dtype(dtype)
    for layer in state[0]:
        assert where.library.owns(layer.W)
        assert layer.W.dtype == where.dtype(dtype)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, momentum=0.9, nesterov=True),
        Adagrad(0.1),
        RMSprop(0.1, momentum=0.9, centered=True),
        Adam(0.1, amsgrad=True),
        AdamW(0.1, decay_biases=False),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_a_step_runs_where_nothing_can_be_read_back(optimizer):
    """PyTorch's meta device has shapes and no values: float(), bool() and int() fail on it."""
    torch = pytest.importorskip("torch")
    where = bp_xp.backends.place("meta", "torch")
    xp = where.xp
    model = Network([3, 4, 2], activation="elu", cost="categorical_cross_entropy", seed=0).model
    layers = [
        bp_xp.Layer(torch.empty((o, i), device="meta"), torch.empty(o, device="meta"))
        for i, o in ((3, 4), (4, 2))
    ]
    terms = Regularization(
        l1=0.1, l2=0.1, dropout=(0.1, 0.5), clip_norm=1.0, clip_value=1.0, max_norm=1.0
    )
    rule = Rule(model, optimizer.update, terms, weighted=True, given=("learning_rate",))
    masks = dropout.init_masks(terms.dropout, model.sizes, 6, 0, place=where)
    state = State(layers, optimizer.init(layers, place=where, dtype="float32"), masks)
    shapes = ((5, 6, 3), (5, 6, 2), (5, 6), (5,))
    batches = [torch.empty(shape, device="meta") for shape in shapes]

    state, zs = plain.loop(make_step(rule), state, batches, xp=xp)
    flat = [part.reshape(-1, *part.shape[2:]) for part in (zs, *batches[1:3])]
    totals = training._totals(model, True, xp, *flat)

    assert zs.shape == (5, 6, 2)
    assert totals.device.type == "meta"


def test_a_record_prints_what_it_has():
    assert str(EpochRecord(3, 0.5, None, None, None, 1.0, 10.0)) == "epoch 3  cost 0.5000  1.00 s"
    assert str(History()) == ""
