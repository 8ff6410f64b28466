import numpy as np
import pytest
from helpers import on_host, parameters, tolerance, widest

from bp_xp import (
    SGD,
    Callback,
    Checkpoint,
    DivergenceError,
    EarlyStopping,
    EpochRecord,
    History,
    LinearWarmUp,
    Network,
    ReduceOnPlateau,
    StopWhen,
    to_numpy,
)
from bp_xp.training.callbacks import as_callback


def record(epoch, cost, **values):
    fields = {"accuracy": None, "validation_cost": None, "validation_accuracy": None} | values
    return EpochRecord(epoch, cost, **fields, seconds=1.0, samples_per_second=1.0)


def history_of(*costs):
    return History([record(i, cost) for i, cost in enumerate(costs, start=1)])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    return x, (x[:, 0] + x[:, 1] > 0).astype(int)


@pytest.fixture
def make(where, dtype):
    def make(**options):
        return Network(
            [4, 6, 2], backend=where.backend, device=where.device_name, dtype=dtype, **options
        )

    return make


# ---------------------------------------------------------------------------------------------
# Early stopping: a function of the history


@pytest.mark.parametrize(
    ("costs", "best", "over"),
    [
        ([], None, False),
        ([0.5], 1, False),
        ([0.5, 0.4, 0.3], 3, False),
        ([0.5, 0.4, 0.45], 2, False),
        ([0.5, 0.4, 0.45, 0.41], 2, True),
        ([0.5, 0.4, 0.4, 0.4], 2, True),  # as good is no better
        ([0.5, 0.6, 0.4, 0.5], 3, False),
        ([np.inf, np.inf], None, True),
    ],
)
def test_a_run_is_over_when_nothing_improves(costs, best, over):
    stopping = EarlyStopping("cost", patience=2)
    assert stopping.best_epoch(history_of(*costs)) == best
    assert stopping.is_over(history_of(*costs)) is over


def test_a_small_improvement_does_not_count():
    stopping = EarlyStopping("cost", patience=2, min_delta=0.1)
    assert stopping.best_epoch(history_of(0.5, 0.45, 0.41)) == 1
    assert stopping.best_epoch(history_of(0.5, 0.45, 0.39)) == 3


def test_an_accuracy_improves_upwards_and_a_cost_downwards():
    history = History([record(i, 1.0, accuracy=a) for i, a in enumerate([0.5, 0.9, 0.7], start=1)])
    assert EarlyStopping("accuracy").best_epoch(history) == 2
    assert EarlyStopping("accuracy", higher_is_better=False).best_epoch(history) == 1


def test_not_a_number_ends_the_run_and_names_epoch_and_value():
    with pytest.raises(DivergenceError, match="cost is NaN after epoch 2"):
        EarlyStopping("cost").best_epoch(history_of(0.5, np.nan, 0.1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"patience": 1.5}, TypeError, "patience must be an integer"),
        ({"min_delta": -1.0}, ValueError, "min_delta"),
        ({"monitor": "quality"}, ValueError, "does not show"),
    ],
)
def test_bad_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        EarlyStopping(**options)


# ---------------------------------------------------------------------------------------------
# Early stopping in a run


def test_the_best_parameters_are_restored(make, data):
    best = {}

    def remember(network, history):
        if history[-1].validation_cost == min(history["validation_cost"]):
            best["layers"] = on_host(network.layers)

    net = make(seed=1)
    history = net.fit(
        *data,
        epochs=200,
        batch_size=5,
        optimizer=SGD(3.0),
        validation_data=0.5,
        early_stopping=EarlyStopping(patience=4),
        callbacks=[remember],
        progress=False,
    )
    assert history.stopped == "early"
    assert len(history) < 200
    assert history.best_epoch == int(np.argmin(history["validation_cost"])) + 1
    assert len(history) == history.best_epoch + 4
    for ours, wanted in zip(on_host(net.layers), best["layers"], strict=True):
        assert np.array_equal(ours.W, wanted.W)
        assert np.array_equal(ours.b, wanted.b)


def test_the_last_parameters_are_kept_on_request(data):
    settings = {"epochs": 60, "batch_size": 5, "optimizer": SGD(3.0), "progress": False}
    runs = []
    for restore in (True, False):
        net = Network([4, 6, 2], seed=1)
        stopping = EarlyStopping(patience=4, restore_best=restore)
        history = net.fit(*data, validation_data=0.5, early_stopping=stopping, **settings)
        runs.append((net, history))
    assert runs[0][1]["cost"] == runs[1][1]["cost"]
    assert not np.array_equal(runs[0][0].layers[0].W, runs[1][0].layers[0].W)


@pytest.mark.parametrize("ending", ["interrupt", "epochs", "divergence"])
def test_the_best_parameters_are_restored_whatever_ends_the_run(data, ending):
    net = Network([4, 6, 2], seed=1)
    seen = []

    def look(network, history):
        seen.append([layer.W.copy() for layer in network.layers])

    settings = {"epochs": 3, "batch_size": 5, "optimizer": SGD(3.0), "progress": False}
    stop = [StopWhen(lambda: len(seen) == 2)] if ending == "interrupt" else []
    # A value that says the first epoch was the best.
    rising = [1.0, 2.0, np.nan if ending == "divergence" else 3.0]

    def loss(a, y, *, xp):
        return xp.sum(a) * 0.0 + rising[len(seen)]

    def run():
        return net.fit(
            *data,
            validation_data=data,
            metrics=[loss],
            early_stopping=EarlyStopping("validation_loss", patience=10),
            callbacks=[look, *stop],
            **settings,
        )

    if ending == "divergence":
        with pytest.raises(DivergenceError, match="validation_loss is NaN after epoch 3"):
            run()
    else:
        assert run().stopped == ending
    assert all(np.array_equal(W, layer.W) for W, layer in zip(seen[0], net.layers, strict=True))


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ("validation_cost", "give it validation data"),
        ("validation_accuracy", "give it validation data"),
        ("validation_f1", "'validation_f1': a record has .*cost"),
    ],
)
@pytest.mark.parametrize("by", ["early-stopping", "schedule", "schedule-of-a-layer"])
def test_what_is_not_recorded_can_not_be_monitored(data, monitor, message, by):
    options = {"early_stopping": EarlyStopping(monitor)}
    if by != "early-stopping":
        rate = LinearWarmUp(2, ReduceOnPlateau(0.1, monitor=monitor))
        options = {"optimizer": SGD(rate if by == "schedule" else [0.1, rate])}
    net = Network([4, 3, 2], seed=1)
    before = parameters(net)
    steps = []
    with pytest.raises(ValueError, match=f"monitors .*{message}"):
        net.fit(*data, epochs=2, callbacks=lambda *_: steps.append(1), progress=False, **options)
    assert not steps
    assert np.array_equal(parameters(net), before)


def test_an_accuracy_can_not_be_monitored_where_there_are_no_classes(data, rng):
    net = Network([4, 2], output_activation="identity", seed=1)
    numbers = data[0], rng.standard_normal((len(data[0]), 2))
    with pytest.raises(ValueError, match="give it validation data"):
        net.fit(
            *numbers,
            validation_data=numbers,
            early_stopping=EarlyStopping("validation_accuracy"),
            progress=False,
        )


def test_all_that_is_recorded_can_be_monitored(data):
    for monitor in ("cost", "accuracy", "validation_cost", "validation_accuracy", "validation_f1"):
        history = Network([4, 2], seed=1).fit(
            *data,
            epochs=2,
            validation_data=data,
            metrics="f1",
            optimizer=SGD(ReduceOnPlateau(0.1, monitor=monitor)),
            early_stopping=EarlyStopping(monitor),
            progress=False,
        )
        assert history.best_epoch is not None


# ---------------------------------------------------------------------------------------------
# Callbacks


class Log(Callback):
    def __init__(self, every=0, stop_at=None):
        self.every, self.stop_at, self.log = every, stop_at, []

    def note(self, moment):
        self.log.append(moment)
        return moment == self.stop_at

    def on_train_start(self, network, history):
        self.note("start")

    def on_epoch_start(self, network, history):
        self.note(f"epoch {len(history) + 1}")

    def on_steps(self, network, history, step):
        return self.note(f"step {step}")

    def on_epoch_end(self, network, history):
        return self.note(f"end of {len(history)}")

    def on_train_end(self, network, history):
        self.note(f"over: {history.stopped}")


def fit(data, *callbacks, **options):
    settings = {"epochs": 2, "batch_size": 10, "progress": False} | options
    return Network([4, 2], seed=1).fit(*data, callbacks=callbacks, **settings)


def test_callbacks_are_called_at_every_moment(data):
    log = Log(every=4)
    fit(data, log)
    assert log.log == [
        "start", "epoch 1", "step 4", "end of 1",
        "epoch 2", "step 8", "step 12", "end of 2", "over: epochs",
    ]  # fmt: skip


@pytest.mark.parametrize("stop_at", ["end of 1", "step 4"])
def test_a_callback_can_end_the_run(data, stop_at):
    log = Log(every=4, stop_at=stop_at)
    history = fit(data, log)
    assert history.stopped == "callback"
    assert log.log[-2:] == [stop_at, "over: callback"]


def test_callbacks_of_different_steps_do_not_disturb_each_other(data):
    logs = [Log(every=2), Log(every=3)]
    fit(data, *logs)
    assert [m for m in logs[0].log if "step" in m] == [f"step {k}" for k in (2, 4, 6, 8, 10, 12)]
    assert [m for m in logs[1].log if "step" in m] == [f"step {k}" for k in (3, 6, 9, 12)]


def test_looking_between_steps_does_not_change_the_run(data):
    nets = [Network([4, 2], seed=1) for _ in range(2)]
    for net, every in zip(nets, (0, 1), strict=True):
        net.fit(*data, epochs=2, batch_size=10, callbacks=[Log(every)], progress=False)
    assert np.array_equal(nets[0].layers[0].W, nets[1].layers[0].W)


def test_a_callback_sees_the_parameters_of_its_moment(make, data):
    costs = []

    def judge(network, history):
        costs.append((network.evaluate(*data)["cost"], history[-1].validation_cost))

    make(seed=1).fit(*data, epochs=3, validation_data=data, callbacks=[judge], progress=False)
    assert all(own == recorded for own, recorded in costs)
    assert len(costs) == 3


def test_the_end_is_told_even_after_an_error(data):
    log = Log()

    def fail(network, history):
        raise RuntimeError("a callback's own error")

    with pytest.raises(RuntimeError, match="own error"):
        fit(data, log, fail)
    assert log.log[-1].startswith("over")


@pytest.mark.parametrize("callback", [Callback, 3, "log", None])
def test_what_is_no_callback_is_refused(callback):
    with pytest.raises(TypeError, match="callback must be"):
        as_callback(callback)


def test_a_callback_with_a_bad_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="every of Log"):
        as_callback(Log(every=-1))


# ---------------------------------------------------------------------------------------------
# Callbacks that assign parameters


class Assign(Callback):
    """Assigns parameters after some steps, or after an epoch."""

    def __init__(self, layers, *, every=0, step=None, epoch=None):
        self.layers, self.every, self.step, self.epoch = layers, every, step, epoch

    def on_steps(self, network, history, step):
        if step == self.step:
            network.layers = self.layers

    def on_epoch_end(self, network, history):
        if len(history) == self.epoch:
            network.layers = self.layers


@pytest.fixture
def given():
    """Parameters that no training would lead to."""
    rng = np.random.default_rng(5)
    return [(rng.normal(size=(6, 4)), rng.normal(size=6)), (np.ones((2, 6)), np.zeros(2))]


RUN = {"batch_size": 10, "optimizer": SGD(0.5, momentum=0.9), "progress": False}


def assert_close(net, other, rtol=1e-5):
    """Up to what float32 rounds, where chunks of steps are cut otherwise."""
    assert np.allclose(parameters(net), parameters(other), rtol=rtol, atol=rtol)


def test_a_run_goes_on_from_what_is_assigned_after_an_epoch(make, data, given):
    net, twin = make(seed=1), make(seed=1)
    net.fit(*data, epochs=3, callbacks=Assign(given, epoch=2), **RUN)

    twin.fit(*data, epochs=2, warm_start=True, **RUN)
    twin.layers = given
    twin.fit(*data, epochs=1, warm_start=True, **RUN)

    assert np.array_equal(parameters(net), parameters(twin))


def test_a_run_goes_on_from_what_is_assigned_between_steps(make, data, given):
    x, y = data
    settings = RUN | {"shuffle": False}
    net, twin = make(seed=1), make(seed=1)
    net.fit(x, y, epochs=1, callbacks=Assign(given, every=2, step=4), **settings)

    twin.fit(x[:40], y[:40], epochs=1, warm_start=True, **settings)
    twin.layers = given
    twin.fit(x[40:], y[40:], epochs=1, warm_start=True, **settings)

    assert_close(net, twin)


def test_the_values_of_an_epoch_are_those_of_what_was_assigned_at_its_last_step(make, data, given):
    net, judge = make(seed=1), make(seed=1)
    judge.layers = given
    assign = Assign(given, every=6, step=6)
    history = net.fit(*data, epochs=1, validation_data=data, callbacks=assign, **RUN)
    assert history[0].validation_cost == pytest.approx(judge.evaluate(*data)["cost"], rel=1e-6)
    assert np.array_equal(parameters(net), parameters(judge))


def test_what_is_assigned_after_the_last_epoch_is_what_the_network_has(make, data, given):
    net, other = make(seed=1), make(seed=1)
    other.layers = given
    net.fit(*data, epochs=2, callbacks=Assign(given, epoch=2), **RUN)
    assert np.array_equal(parameters(net), parameters(other))


def test_a_callback_that_assigns_and_ends_the_run_has_the_last_word(make, data, given):
    def assign(network, history):
        network.layers = given
        return True

    net, other = make(seed=1), make(seed=1)
    other.layers = given
    assert net.fit(*data, epochs=5, callbacks=assign, **RUN).stopped == "callback"
    assert np.array_equal(parameters(net), parameters(other))


def test_later_callbacks_see_what_an_earlier_one_assigned(make, data, given):
    seen, other = [], make(seed=1)
    other.layers = given
    make(seed=1).fit(
        *data,
        epochs=2,
        callbacks=[
            Assign(given, epoch=1),
            lambda network, history: seen.append(parameters(network)),
        ],
        **RUN,
    )
    assert np.array_equal(seen[0], parameters(other))
    assert not np.array_equal(seen[1], parameters(other))


@pytest.mark.parametrize("moment", [{"epoch": 2}, {"every": 4, "step": 8}], ids=["epoch", "steps"])
def test_a_checkpoint_holds_what_was_assigned_and_a_run_resumed_goes_on_from_it(
    make, data, given, tmp_path, moment
):
    path, kept = tmp_path / "run.safetensors", tmp_path / "kept.safetensors"
    whole, cut, again = (make(seed=1) for _ in range(3))

    stop = StopAfter(8) if "step" in moment else lambda network, history: len(history) == 2
    whole.fit(*data, epochs=4, callbacks=[Assign(given, **moment), EachStep()], **RUN)
    cut.fit(
        *data, epochs=4, callbacks=[Assign(given, **moment), EachStep(), stop],
        checkpoint=Checkpoint(path, every=4), **RUN,
    )  # fmt: skip
    other = make(seed=1)
    other.layers = given
    assert np.array_equal(parameters(Network.load(path)), parameters(other))

    again.fit(
        *data, epochs=4, callbacks=[EachStep()], checkpoint=Checkpoint(kept, resume=path), **RUN
    )
    assert np.array_equal(parameters(again), parameters(whole))


class EachStep(Callback):
    """Looks after each step: chunks of steps are then cut alike."""

    every = 1


class StopAfter(Callback):
    """Ends the run after so many steps."""

    def __init__(self, every):
        self.every = every

    def on_steps(self, network, history, step):
        return True


def test_the_best_parameters_are_those_of_the_epoch_and_not_what_was_assigned(make, data, given):
    seen = []

    def remember(network, history):
        seen.append(parameters(network))

    net = make(seed=1)
    history = net.fit(
        *data, epochs=3, validation_data=data, early_stopping=5,
        callbacks=[remember, Assign(given, epoch=1), Assign(given, epoch=2)], **RUN,
    )  # fmt: skip
    assert np.array_equal(parameters(net), seen[history.best_epoch - 1])


def test_parameters_that_do_not_fit_are_refused_and_the_network_stays_whole(make, data, given):
    seen = []

    def assign(network, history):
        seen.append(parameters(network))
        network.layers = [*given[:1], (np.ones((3, 6)), np.zeros(3))]

    net = make(seed=1)
    with pytest.raises(ValueError, match=r"layers\[1\] must have W of shape"):
        net.fit(*data, epochs=2, callbacks=assign, **RUN)
    assert np.array_equal(parameters(net), seen[0])


def test_what_was_assigned_is_not_changed_by_the_steps_that_follow(make, data, given):
    net, shown = make(seed=1), []
    own = [tuple(net.asarray(part) for part in layer) for layer in given]

    def assign(network, history):
        if len(history) == 1:
            network.layers = own
            shown.extend(network.layers)

    before = [to_numpy(part).copy() for layer in own for part in layer]
    net.fit(*data, epochs=2, callbacks=assign, **RUN)
    for layers in (own, shown):
        after = [to_numpy(part) for layer in layers for part in layer]
        assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.fixture
def classifier(where):
    """A classifier of three classes that descends plainly, with all its callbacks given later."""
    pytest.importorskip("sklearn")
    from bp_xp.estimators import MLPClassifier

    def classifier(*callbacks, **options):
        settings = {
            "hidden_layer_sizes": (6,), "activation": "tanh", "solver": "sgd", "momentum": 0.0,
            "alpha": 0.0, "learning_rate_init": 0.1, "shuffle": False, "random_state": 0,
            "backend": where.backend, "device": where.device_name, "dtype": widest(where),
            "callbacks": list(callbacks),
        }  # fmt: skip
        return MLPClassifier(**(settings | options))

    return classifier


def descended(layers, x, y):
    """Return parameters after one step of the classifier, by hand, as scikit-learn holds them."""
    hand = Network.from_layers(
        layers, activation="tanh", cost="categorical_cross_entropy", dtype="float64"
    )
    return [
        ((W - 0.1 * dW).T, b - 0.1 * db)
        for (W, b), (dW, db) in zip(hand.layers, hand.backprop(x, y), strict=True)
    ]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("moment", "options"),
    [({"epoch": 1}, {"batch_size": 60, "max_iter": 2}),
     ({"every": 1, "step": 1}, {"batch_size": 30, "max_iter": 1})],
    ids=["epoch", "steps"],
)  # fmt: skip
def test_an_estimator_goes_on_from_what_is_assigned(classifier, data, moment, options):
    x, y = data[0], np.arange(60) % 3
    rng = np.random.default_rng(5)
    given = [(rng.normal(size=(6, 4)), np.zeros(6)), (rng.normal(size=(3, 6)), np.ones(3))]
    mlp = classifier(Assign(given, **moment), **options).fit(x, y)
    rtol, atol = (tolerance(mlp.coefs_[0].dtype.name, one) for one in (1e-12, 1e-14))
    rows = slice(None) if "epoch" in moment else slice(30, None)
    for (W, b), coefs, intercepts in zip(
        descended(given, x[rows], y[rows]), mlp.coefs_, mlp.intercepts_, strict=True
    ):
        assert np.allclose(coefs, W, rtol=rtol, atol=atol)
        assert np.allclose(intercepts, b, rtol=rtol, atol=atol)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_estimator_has_what_is_assigned_after_its_last_epoch(classifier, data):
    given = [(np.full((6, 4), 0.5), np.zeros(6)), (np.full((3, 6), 0.25), np.ones(3))]
    mlp = classifier(Assign(given, epoch=2), max_iter=2).fit(data[0], np.arange(60) % 3)
    assert all(
        np.array_equal(W, theirs.T) for (W, _), theirs in zip(given, mlp.coefs_, strict=True)
    )
    assert np.array_equal(mlp.intercepts_[1], np.ones(3))
