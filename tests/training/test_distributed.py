"""Runs that several processes share; threads stand in for processes."""

import functools
import threading
import warnings

import numpy as np
import pytest
from helpers import parameters
from threads import on_ranks

from bp_xp import (
    SGD,
    Adam,
    AdamW,
    Callback,
    Checkpoint,
    DivergenceError,
    EarlyStopping,
    Network,
    RMSprop,
    StopWhen,
)
from bp_xp.backends.numpy.library import NumPy
from bp_xp.engines import replay
from bp_xp.optim.schedules import CosineDecay, ReduceOnPlateau

SIZES = [6, 8, 3]
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((83, 6)), RNG.integers(0, 3, 83)
WEIGHTS = RNG.integers(0, 3, 83).astype(float)
RUN = {"epochs": 4, "batch_size": 8, "progress": False}


def fitted(communicator=None, *, x=X, y=Y, seed=3, network=None, **options):
    """Return a network, and its history, after a fit."""
    net = Network(
        SIZES,
        **{"activation": "tanh", "cost": "categorical_cross_entropy", "dtype": "float64"}
        | (network or {}),
        seed=seed,
    )
    return net, net.fit(x, y, distributed=communicator, **RUN | options)


def records_of(history):
    """Return what a history holds, but for the seconds."""
    values = [
        [r.epoch, r.cost, r.accuracy, r.validation_cost, r.validation_accuracy, *r.metrics.values()]
        for r in history
    ]
    return [[-1.0 if value is None else value for value in row] for row in values]


def assert_same_run(found, wanted):
    """Check that runs of several processes are the one of a process alone."""
    alone, history = wanted
    for net, theirs in found:
        assert np.allclose(parameters(net), parameters(alone), rtol=0, atol=1e-11)
        assert [len(theirs), theirs.steps] == [len(history), history.steps]
        assert [theirs.stopped, theirs.best_epoch] == [history.stopped, history.best_epoch]
        for ours, others in zip(records_of(theirs), records_of(history), strict=True):
            assert ours == pytest.approx(others, rel=1e-11, abs=1e-12)


def assert_refused(found, error, *words):
    """Check that all processes have refused, and what each says."""
    for one in found:
        assert isinstance(one, error), one
        for word in words:
            assert word in str(one)


# ---------------------------------------------------------------------------------------------
# The run of one process

RUNS = {
    "momentum and l1": {"optimizer": SGD(0.2, momentum=0.9), "l1": 1e-3},
    "adam, l2 and clipping": {"optimizer": Adam(0.01), "l2": 1e-3, "clip_norm": 0.3},
    "dropout": {"optimizer": SGD(0.3), "dropout": [0.2, 0.4], "max_norm": 1.0},
    "weights": {"optimizer": RMSprop(0.01), "sample_weight": WEIGHTS, "class_weight": "balanced"},
    "a schedule": {"optimizer": AdamW(CosineDecay(0.02, steps=30)), "clip_value": 0.1},
    "a plateau, and its end": {
        "optimizer": SGD(ReduceOnPlateau(0.5, patience=1)),
        "validation_data": 0.3,
        "metrics": ["f1_macro"],
        "early_stopping": EarlyStopping(patience=2),
        "epochs": 9,
    },
    "batches smaller than the ranks": {"optimizer": SGD(0.1), "batch_size": 2, "epochs": 1},
    "in order": {"optimizer": SGD(0.1), "shuffle": False, "batch_size": 11},
    "frozen": {"optimizer": Adam(0.01), "trainable": [False, True]},
}


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_shared_run_is_that_of_one_process(options, ranks):
    found = on_ranks(ranks, functools.partial(fitted, **options))
    assert_same_run(found, fitted(**options))
    digests = {parameters(net).tobytes() for net, _ in found}
    assert len(digests) == 1
    assert len({str(records_of(history)) for _, history in found}) == 1


def test_sparse_inputs_are_shared_too():
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.csr_array(np.where(np.abs(X) > 0.7, X, 0.0))
    found = on_ranks(3, functools.partial(fitted, x=x, dropout=0.3))
    assert_same_run(found, fitted(x=x, dropout=0.3))


def test_every_step_is_a_recorded_one_and_takes_one_sum():
    calls = []

    def fit(communicator):
        net, history = fitted(communicator, epochs=2)
        calls.append(communicator.calls["total"])
        return net.explain(), history.engine

    for report, engine in on_ranks(3, fit):
        assert engine == report.ran == "numpy"
        assert sum(one.plain for one in report.accounts.values()) == 0
        assert "copyto(" in report.program
    assert calls == [2 * 11] * 3


def test_a_process_alone_takes_the_run_of_nobody_else_to_the_bit():
    [(net, history)] = on_ranks(1, fitted)
    alone, wanted = fitted()
    assert np.array_equal(parameters(net), parameters(alone))
    assert records_of(history) == records_of(wanted)


def test_a_second_fit_goes_on_from_the_first():
    def twice(communicator=None):
        net, _ = fitted(communicator, optimizer=Adam(0.01), warm_start=True)
        options = {"optimizer": Adam(0.01), "warm_start": True, "distributed": communicator}
        return net, net.fit(X, Y, **RUN | options)

    assert_same_run(on_ranks(2, twice), twice())


@pytest.mark.parametrize("backend", ["torch", "array_api_strict"])
def test_other_libraries_share_a_run_too(backend):
    pytest.importorskip(backend)
    options = {"epochs": 2, "dropout": 0.3, "clip_norm": 0.3, "optimizer": Adam(0.01)}
    found = on_ranks(3, functools.partial(fitted, network={"backend": backend}, **options))
    assert_same_run(found, fitted(**options))
    found = on_ranks(9, functools.partial(fitted, network={"backend": backend}, **options))
    assert_same_run(found, fitted(**options))  # there are ranks without a row
    for net, history in found:
        assert history.engine == net.engine
        if net.engine != "plain":
            assert not any(account.plain for account in net.explain().accounts.values())


def test_ranks_with_shares_of_other_shapes_take_a_step_in_one_way(monkeypatch):
    # PyTorch's recorded step rounds otherwise than the plain loop. Rank 1 has as many rows of the
    # last mini-batch as of the others, and rank 0 has fewer.
    pytest.importorskip("torch")
    monkeypatch.setattr(replay, "_STEPS_BEFORE", 16)
    options = {
        "network": {"backend": "torch"},
        "batch_size": 3,
        "optimizer": SGD(0.1, momentum=0.9),
    }
    found = on_ranks(2, functools.partial(fitted, epochs=2, **options))
    assert len({parameters(net).tobytes() for net, _ in found}) == 1
    first, second = (net.explain().accounts for net, _ in found)
    assert first.keys() == second.keys() == {(3, 6), (2, 6)}
    assert [(one.steps, one.plain) for one in first.values()] == [(54, 0), (2, 2)]
    assert [(one.steps, one.plain) for one in second.values()] == [(54, 0), (2, 2)]


# ---------------------------------------------------------------------------------------------
# The start


@pytest.mark.parametrize("seeds", [(3, 4, 5), (3, None, None)])
def test_all_begin_with_what_rank_0_begins_with(seeds):
    found = on_ranks(3, lambda one: fitted(one, seed=seeds[one.rank], validation_data=0.2))
    assert_same_run(found, fitted(validation_data=0.2))
    assert {net.seed for net, _ in found} == {3}


OTHERS = {
    "epochs": ({"epochs": 5}, ("epochs is 4 on rank 0", "and 5 on rank 1")),
    "batch size": ({"batch_size": 9}, ("batch_size is 8 on rank 0", "and 9 on rank 1")),
    "optimizer": ({"optimizer": SGD(0.2)}, ("optimizer.learning_rate is 0.1", "and 0.2 on rank 1")),
    "data": ({"x": X[:, ::-1]}, ("they do not: x is not the same on rank 0 (", "rank 1 (")),
    "targets": (
        {"y": (Y + 1) % 3},
        ("they do not: y is not the same on rank 0 (", "pass Stream(samples, sharded=True)"),
    ),
    "weights": (
        {"sample_weight": WEIGHTS + 1},
        ("they do not: sample_weight or class_weight is not the same",),
    ),
    "no weights": (
        {"sample_weight": None},
        ("they do not: the weight of each sample is given on rank 0 (", "and None on rank 1"),
    ),
    "validation data": (
        {"validation_data": None, "metrics": ()},
        ("they do not: validation_data is given on rank 0 (", "and None on rank 1 ("),
    ),
    "other validation data": (
        {"validation_data": (X[:9] + 1, Y[:9])},
        ("they do not: x of validation_data is not the same on rank 0",),
    ),
    "kind of optimizer": (
        {"optimizer": Adam(0.1)},
        ("they do not: optimizer is 'SGD' on rank 0 (", ". Pass the same arguments on all ranks."),
    ),
    "number of rows": (
        {"x": X[:40], "y": Y[:40], "sample_weight": WEIGHTS[:40]},
        ("the number of rows is 83 on rank 0", "and 40 on rank 1"),
    ),
    "sizes": ({"network": {"activation": "relu"}}, ("network.activations is ['tanh'",)),
    "engine": ({"network": {"engine": "plain"}}, ("engine is 'numpy' on rank 0", "'plain' on")),
    "looks": ({"callbacks": []}, ("looks is [",)),
}


@pytest.mark.parametrize(("options", "words"), OTHERS.values(), ids=OTHERS)
def test_what_another_rank_has_otherwise_is_refused_by_all(options, words):
    class Looks(Callback):
        every = 3

    def fit(one):
        same = {"callbacks": Looks(), "optimizer": SGD(0.1), "sample_weight": WEIGHTS}
        same |= {"validation_data": (X[:9], Y[:9]), "metrics": ["f1_macro"]}
        return fitted(one, **(same | (options if one.rank == 1 else {})))

    found = on_ranks(3, fit)
    assert_refused(found, RuntimeError, *words)
    for one in found:
        assert len(str(one).partition("they do not: ")[2].partition(". ")[0].split(";")) == 1


def test_other_versions_are_refused_by_all(monkeypatch):
    def version(_):
        return "2.9.0" if threading.current_thread().name.endswith("1") else "2.4.6"

    monkeypatch.setattr(NumPy, "version", version)
    found = on_ranks(2, fitted)
    assert_refused(found, RuntimeError, "versions.numpy is '2.4.6'", "'2.9.0' on rank 1")


def test_what_is_wrong_on_one_rank_alone_ends_all():
    first, second = on_ranks(2, lambda one: fitted(one, **{"x": X[:0]} if one.rank else {}))
    assert_refused([first], RuntimeError, "rank 1 on ", "ValueError", "x has ")
    assert_refused([second], ValueError, "x has ")


def test_what_is_wrong_on_all_is_said_by_each_in_its_own_words():
    assert_refused(on_ranks(2, lambda one: fitted(one, l2=-1.0)), ValueError, "l2 must be")


# ---------------------------------------------------------------------------------------------
# The end


def test_a_number_that_is_not_finite_on_one_rank_ends_all_at_the_same_step():
    x = X.copy()
    x[8 * 3 + 1] = 1e200  # in the fourth mini-batch, the second row
    network = {"output_activation": "identity", "cost": "quadratic", "activation": "identity"}
    nets = [None] * 2

    def fit(one):
        nets[one.rank] = net = Network(SIZES, dtype="float64", seed=0, **network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.fit(x, np.eye(3)[Y], shuffle=False, distributed=one, **RUN)

    found = on_ranks(2, fit)
    words = "in epoch 1: the cost is first not finite at its step 4 on rank 1"
    assert_refused(found, DivergenceError, words)
    assert np.array_equal(parameters(nets[0]), parameters(nets[1]))


def test_a_callback_of_one_rank_ends_all():
    def end(network, history):
        return len(history) == 2

    def fit(one):
        return fitted(one, callbacks=end if one.rank == 1 else ())

    for _, history in on_ranks(3, fit):
        assert (len(history), history.stopped) == (2, "callback")


def test_an_interruption_of_one_rank_ends_all_after_the_same_step():
    def fit(one):
        asked = iter([False] * 2 + [True] * 9)
        stop = [StopWhen(functools.partial(next, asked))] if one.rank == 2 else []
        return fitted(one, callbacks=stop)

    found = on_ranks(3, fit)
    assert {(history.stopped, history.steps) for _, history in found} == {("interrupt", 21)}
    assert len({parameters(net).tobytes() for net, _ in found}) == 1


def test_a_callback_that_fails_on_one_rank_ends_all():
    def fail(network, history):
        raise KeyError("lost")

    found = on_ranks(2, lambda one: fitted(one, callbacks=fail if one.rank else ()))
    assert_refused(found[:1], RuntimeError, "rank 1 on ", "KeyError: 'lost'")
    assert_refused(found[1:], KeyError)


def test_what_callbacks_assign_must_be_the_same_on_all():
    def assign(network, history, by):
        network.layers = [(W * by, b) for W, b in network.layers]

    def fit(one, by):
        return fitted(one, callbacks=functools.partial(assign, by=by(one.rank)))

    alone = fitted(callbacks=functools.partial(assign, by=0.5))
    assert_same_run(on_ranks(2, functools.partial(fit, by=lambda rank: 0.5)), alone)
    found = on_ranks(2, functools.partial(fit, by=lambda rank: 0.5 + rank))
    assert_refused(found, RuntimeError, "after step 11", "network.layers is not the same")
    assert_refused(found, RuntimeError, "Callbacks must assign the same parameters on all ranks")
    assert all("Stream" not in str(one) for one in found)


def test_an_error_within_a_step_ends_all():
    class Fails(SGD):
        def update(self, learning, gradients, state, *, xp):
            if threading.current_thread().name == "rank 1":
                raise MemoryError("no room")
            return super().update(learning, gradients, state, xp=xp)

    found = on_ranks(2, functools.partial(fitted, optimizer=Fails(0.1)))
    assert any(isinstance(one, MemoryError) for one in found)
    assert all(isinstance(one, MemoryError | threading.BrokenBarrierError) for one in found)


# ---------------------------------------------------------------------------------------------
# Files and progress


def interrupted(path, communicator, after, **options):
    """Return a run that is resumed if there is one, and ends after some chunks if that is said."""
    asked = iter([False] * after + [True] * 99)
    stop = [StopWhen(functools.partial(next, asked))] if after else []
    kept = Checkpoint(path, every=3, resume=True)
    return fitted(communicator, checkpoint=kept, callbacks=stop, dropout=0.2, **options)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    path, options = tmp_path / "run.safetensors", {"optimizer": Adam(0.01), "validation_data": 0.2}
    wanted = fitted(dropout=0.2, **options)
    steps = []
    for ranks, after in ((3, 1), (2, 2), (4, 3), (1, 1)):
        found = on_ranks(ranks, lambda one, n=after: interrupted(path, one, n, **options))
        assert all(history.stopped == "interrupt" for _, history in found)
        steps.append(found[0][1].steps)
        assert np.array_equal(parameters(Network.load(path)), parameters(found[-1][0]))
    assert steps == sorted(set(steps))
    assert any(step % 9 for step in steps)  # in the middle of an epoch
    assert_same_run(on_ranks(2, lambda one: interrupted(path, one, 0, **options)), wanted)


def test_rank_0_alone_writes_and_shows_progress(tmp_path, monkeypatch, capsys):
    writers = []
    from bp_xp.training import fitting

    write = fitting.network_file.write

    def told(path, content):
        writers.append(threading.current_thread().name)
        return write(path, content)

    monkeypatch.setattr(fitting.network_file, "write", told)
    path = tmp_path / "run.safetensors"
    found = on_ranks(3, lambda one: fitted(one, checkpoint=path, progress=True))
    assert all(len(history) == 4 for _, history in found)
    assert len(writers) == 4
    assert {name[-1] for name in writers} == {"0"}
    assert capsys.readouterr().err.count("epoch ") == 4


def test_a_checkpoint_that_can_not_be_written_ends_all(tmp_path, monkeypatch):
    from bp_xp.training import fitting

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fitting.network_file, "write", full)
    found = on_ranks(2, lambda one: fitted(one, checkpoint=tmp_path / "run.safetensors"))
    assert_refused(found[:1], OSError, "No space left")
    assert_refused(found[1:], RuntimeError, "rank 0 on ", "No space left")


def test_a_file_that_may_not_be_replaced_is_refused_by_all(tmp_path):
    path = tmp_path / "run.safetensors"
    fitted(checkpoint=path)
    found = on_ranks(2, lambda one: fitted(one, checkpoint=path))
    assert_refused(found[:1], FileExistsError, "would replace")
    assert_refused(found[1:], RuntimeError, "rank 0 on ", "would replace")
