import functools
import inspect
import itertools
import os
import subprocess
import sys
import textwrap
from dataclasses import fields

import numpy as np
import pytest
from helpers import on_host, tolerance, widest

from bp_xp import (
    SGD,
    Adam,
    Checkpoint,
    CheckpointError,
    CosineDecay,
    DivergenceError,
    EarlyStopping,
    Network,
    ReduceOnPlateau,
    Regularization,
    RMSprop,
    StepDecay,
    StopWhen,
    to_numpy,
)
from bp_xp.engines import replay
from bp_xp.storage.tensors import read_tensors, write_tensors
from bp_xp.training.arguments import Settings

STEPS = 60  # 10 epochs of 6 mini-batches, the last of them short

OPTIMIZERS = {
    "SGD": SGD(CosineDecay(0.5, steps=STEPS), momentum=0.9),
    "Adam": Adam(ReduceOnPlateau(0.05, factor=0.5, patience=1, monitor="validation_cost")),
    "RMSprop": RMSprop(0.01),
}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(23, 3))
    return x, (x[:, 0] > 0).astype(int)


@pytest.fixture
def make(target):
    def make(**options):
        settings = {"backend": target.backend, "device": target.device, "seed": 1}
        if "output_activation" not in options:
            settings["cost"] = "categorical_cross_entropy"
        return Network([3, 5, 2], **(settings | options))

    return make


def run(net, data, **options):
    settings = {
        "epochs": 10,
        "batch_size": 4,
        "dropout": 0.3,
        "validation_data": data,
        "metrics": ["f1"],
        "early_stopping": EarlyStopping(patience=9),
        "progress": False,
    }
    if "regularization" in options:
        del settings["dropout"]
    return net.fit(*data, **(settings | options))


def going_on(path):
    """A checkpoint that resumes from a file, which must be there."""
    return Checkpoint(path, resume=path)


def odd(a, y, *, xp):
    """A user-defined metric."""
    return xp.mean(a)


def half(step):
    """A user-defined schedule."""
    return 0.5


def constantly(rate):
    """Return a schedule that knows its rate from outside."""
    return lambda step: rate


def at(rate, step):
    """A schedule once its rate is given."""
    return rate


class Constantly:
    """A schedule that is an object."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate


def bits(net):
    return b"".join(to_numpy(part).tobytes() for layer in net.layers for part in layer)


def figures(history):
    return [record._replace(seconds=0.0, samples_per_second=0.0) for record in history]


# ---------------------------------------------------------------------------------------------
# Going on


@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in order"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    "stops", [(1, 5, 6, 7, 31, 60), pytest.param(range(1, STEPS + 1), marks=pytest.mark.slow)],
    ids=["some steps", "every step"],
)  # fmt: skip
def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted(
    make, data, target, tmp_path, optimizer, shuffle, stops
):
    if len(stops) == STEPS and target.backend == "array_api_strict":
        pytest.skip("array_api_strict resumes from some steps, like the others; it takes long")
    path, taken = tmp_path / "run.safetensors", []
    settings = {"optimizer": optimizer, "shuffle": shuffle}

    def keep():  # between any two steps, the file is that of the step before
        if path.exists():
            taken.append(path.read_bytes())
        return False

    whole = make()
    kept = Checkpoint(path, every=1)
    wanted = run(whole, data, checkpoint=kept, callbacks=StopWhen(keep), **settings)
    taken.append(path.read_bytes())
    assert len(taken) == STEPS
    assert len(wanted) == 10

    for stop in stops:
        saved = tmp_path / "saved.safetensors"
        saved.write_bytes(taken[stop - 1])
        again = make()
        resumed = Checkpoint(tmp_path / "again.safetensors", resume=saved, overwrite=True)
        history = run(again, data, checkpoint=resumed, **settings)
        assert bits(again) == bits(whole)
        assert figures(history) == figures(wanted)
        assert history.best_epoch == wanted.best_epoch
        # So does what comes after: the generator is where it would be.
        assert again._generator.random() == copy_of(whole._generator).random()


def copy_of(generator):
    twin = np.random.default_rng(0)
    twin.bit_generator.state = generator.bit_generator.state
    return twin


def whole_and_cut(make_network, samples, path, settings, *, epochs, seed):
    """Train twice: at one go, and cut at random moments; return both networks and histories."""
    rng = np.random.default_rng(seed)
    whole, cut = make_network(), None
    wanted = whole.fit(*samples, epochs=epochs, **settings)
    every = rng.choice([None, None, 1, 3, 17])
    now, history = int(rng.integers(1, epochs + 1)), []
    while len(history) < epochs:
        asked, at = itertools.count(1), int(rng.choice([10**9, *range(1, 40)]))
        cut = make_network()
        history = cut.fit(
            *samples,
            epochs=now,
            checkpoint=Checkpoint(path, every=every and int(every), resume=True),
            callbacks=StopWhen(lambda asked=asked, at=at: next(asked) >= at),
            **settings,
        )
        now = epochs
    return whole, wanted, cut, history


CUTS = [*range(3), *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, 70))]


@pytest.mark.filterwarnings("ignore:batch_size=32 is more than")
@pytest.mark.parametrize("seed", CUTS)
def test_a_run_cut_at_random_moments_is_the_whole_run(where, tmp_path, monkeypatch, seed):
    # Shapes whose mini-batches begin anywhere in memory; enough steps for what is recorded.
    monkeypatch.setattr(replay, "_STEPS_BEFORE", 32)
    rng = np.random.default_rng([1, seed])
    n = int(rng.choice([37, 100, 203, 640]))
    samples = rng.standard_normal((n, 7)), rng.integers(0, 3, n)
    settings = {
        "optimizer": list(OPTIMIZERS.values())[seed % 3] if seed % 2 else SGD(0.1, momentum=0.9),
        "batch_size": int(rng.choice([5, 8, 32])),
        "shuffle": bool(rng.random() < 0.7),
        "dropout": float(rng.choice([0.0, 0.3])),
        "l2": float(rng.choice([0.0, 1e-3])),
        "validation_data": 0.2,
        "progress": False,
    }
    options = {"activation": "tanh", "cost": "categorical_cross_entropy", "seed": seed}
    options |= {"dtype": str(rng.choice(["float32", widest(where)]))}
    options |= {"backend": where.backend, "device": where.device_name}
    whole, wanted, cut, history = whole_and_cut(
        lambda: Network([7, 9, 3], **options),
        samples,
        tmp_path / "run.safetensors",
        settings,
        epochs=int(rng.integers(3, 7)),
        seed=seed,
    )
    assert bits(cut) == bits(whole)
    assert figures(history) == figures(wanted)


def test_an_interrupted_run_goes_on(make, data, tmp_path):
    path = tmp_path / "run.safetensors"
    whole, cut = make(), make()
    wanted = run(whole, data)
    asked = iter([False, True])
    stop = StopWhen(lambda: next(asked))
    assert run(cut, data, checkpoint=path, callbacks=stop).stopped == "interrupt"
    history = run(make(seed=99), data, checkpoint=going_on(path))
    assert history["cost"] == pytest.approx(wanted["cost"], rel=1e-5)
    assert len(history) == len(wanted)


def test_a_run_goes_on_on_another_backend(where, make, data, tmp_path):
    path = tmp_path / "run.safetensors"
    here = Network([3, 5, 2], cost="categorical_cross_entropy", seed=1, dtype=widest(where))
    whole = Network([3, 5, 2], cost="categorical_cross_entropy", seed=1, dtype=widest(where))
    options = {"optimizer": OPTIMIZERS["Adam"]}
    run(here, data, epochs=4, checkpoint=path, **options)
    there = make(dtype=widest(where))
    history = run(there, data, checkpoint=going_on(path), **options)
    wanted = run(whole, data, **options)
    for ours, theirs in zip(on_host(there.layers), on_host(whole.layers), strict=True):
        np.testing.assert_allclose(
            ours.W, theirs.W, rtol=tolerance(there.dtype, 1e-10), atol=tolerance(there.dtype, 1e-12)
        )
        np.testing.assert_allclose(
            ours.b, theirs.b, rtol=tolerance(there.dtype, 1e-10), atol=tolerance(there.dtype, 1e-12)
        )
    assert history["cost"] == pytest.approx(wanted["cost"], rel=tolerance(there.dtype, 1e-11))


def test_a_fraction_held_out_is_the_same_when_a_run_goes_on(data, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"validation_data": 0.3}
    whole, cut = (Network([3, 5, 2], seed=1) for _ in range(2))
    wanted = run(whole, data, **settings)
    run(cut, data, epochs=4, checkpoint=path, **settings)
    for net in (cut, Network([3, 5, 2], seed=5), Network.load(path)):
        assert figures(run(net, data, checkpoint=going_on(path), **settings)) == figures(wanted)
        assert bits(net) == bits(whole)


def test_more_epochs_go_on_from_a_complete_run(data, tmp_path):
    path = tmp_path / "run.safetensors"
    net = Network([3, 5, 2], seed=1)
    first = run(net, data, epochs=3, checkpoint=path)
    again = Network([3, 5, 2], seed=1)
    assert figures(run(again, data, epochs=3, checkpoint=going_on(path))) == figures(first)
    assert bits(again) == bits(net)
    assert len(run(again, data, epochs=5, checkpoint=going_on(path))) == 5


def test_a_run_that_is_complete_says_so(data, tmp_path, caplog):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=3, checkpoint=path)
    with caplog.at_level("INFO", logger="bp_xp"):
        history = run(Network([3, 5, 2], seed=1), data, epochs=3, checkpoint=going_on(path))
    assert "run.safetensors: all 3 epochs are already complete" in caplog.text
    assert len(history) == 3


def test_a_damaged_checkpoint_gives_way_to_the_one_before(data, tmp_path, caplog):
    path = tmp_path / "run.safetensors"
    nets = [Network([3, 5, 2], seed=1) for _ in range(3)]
    wanted = run(nets[0], data)
    run(nets[1], data, epochs=4, checkpoint=path)
    previous = tmp_path / "run.previous.safetensors"
    assert read_tensors(previous)[1]["run"]["epoch"] == 4
    path.write_bytes(path.read_bytes()[:-1])
    history = run(nets[2], data, checkpoint=Checkpoint(path, resume=True))
    assert "resuming from the previous checkpoint" in caplog.text
    assert figures(history) == figures(wanted)
    assert bits(nets[2]) == bits(nets[0])

    for file in (path, previous):
        file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"run\.previous"):
        run(nets[2], data, checkpoint=Checkpoint(path, resume=True))


def test_without_links_the_checkpoint_before_is_copied(data, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=2, checkpoint=path)
    assert read_tensors(tmp_path / "run.previous.safetensors")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "run.previous.safetensors", path]


def test_a_run_that_was_over_early_is_over(data, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"epochs": 500, "optimizer": SGD(2.0), "early_stopping": EarlyStopping(patience=2)}
    net, again = Network([3, 5, 2], seed=1), Network([3, 5, 2], seed=1)
    wanted = run(net, data, checkpoint=path, **settings)
    history = run(again, data, checkpoint=going_on(path), **settings)
    assert wanted.stopped == history.stopped == "early"
    assert figures(history) == figures(wanted)
    assert bits(again) == bits(net)


def test_without_a_checkpoint_yet_a_run_begins(data, tmp_path):
    nets = [Network([3, 5, 2], seed=1) for _ in range(2)]
    run(nets[0], data, epochs=2)
    run(nets[1], data, epochs=2, checkpoint=Checkpoint(tmp_path / "run.safetensors", resume=True))
    assert bits(nets[0]) == bits(nets[1])


def test_a_metric_that_is_no_number_is_kept(data, tmp_path):
    path = tmp_path / "run.safetensors"

    def odd(a, y, *, xp):
        return xp.sum(a) * xp.asarray(np.inf, dtype=a.dtype)

    settings = {"metrics": [odd], "early_stopping": None, "epochs": 2}
    run(Network([3, 5, 2], seed=1), data, checkpoint=path, **settings)
    history = run(Network([3, 5, 2], seed=1), data, checkpoint=going_on(path), **settings)
    assert history["validation_odd"] == [np.inf, np.inf]


# ---------------------------------------------------------------------------------------------
# The file


def test_a_checkpoint_is_a_network(make, data, target, tmp_path):
    path = tmp_path / "run.safetensors"
    net = make()
    run(net, data, epochs=2, checkpoint=path, early_stopping=None)
    loaded = Network.load(path, backend=target.backend, device=target.device)
    assert bits(loaded) == bits(net)
    assert loaded.sizes == net.sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5}, "batch_size was 4 and is now 5"),
        ({"trainable": [True, False]}, r"trainable was None and is now \[True, False\]"),
        ({"regularization": Regularization(max_norm=1.0)}, "regularization.max_norm was None and"),
        ({"l2": 0.5}, "regularization.l2 was 0.0 and is now 0.5"),
        ({"early_stopping": EarlyStopping(patience=8)}, "early_stopping.patience was 9 and is"),
        ({"early_stopping": None}, "early_stopping was .*EarlyStopping.* and is now None"),
        ({"callbacks": EarlyStopping(), "early_stopping": None}, "early_stopping.patience was 9"),
        ({"class_weight": {0: 2.0}}, "the data is not the same"),
        ({"metrics": [odd]}, "metrics was"),
        ({"shuffle": False}, "shuffle was True and is now False"),
        ({"optimizer": SGD(0.3)}, r"optimizer.learning_rate was 0.1 and is now 0.3"),
        ({"optimizer": Adam(0.1)}, r"optimizer was .*SGD.* and is now .*Adam"),
        ({"dropout": 0.4}, r"regularization.dropout was \[0.0, 0.3\] and is now \[0.0, 0.4\]"),
        ({"metrics": []}, "metrics was"),
        ({"sample_weight": np.full(23, 2.0)}, "the data is not the same"),
        ({"validation_data": None, "metrics": [], "early_stopping": None}, "validation data"),
    ],
)
def test_other_settings_are_refused_by_name(data, tmp_path, options, message):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=1, checkpoint=path)
    net = Network([3, 5, 2], seed=2)
    before = bits(net)
    with pytest.raises(CheckpointError, match=message):
        run(net, data, checkpoint=going_on(path), **options)
    assert bits(net) == before


def test_every_setting_of_fit_is_compared_or_changes_no_step():
    compared = test_other_settings_are_refused_by_name.pytestmark[0].args[1]
    of_data = {"x", "y"}  # see below
    none = {"self", "epochs", "callbacks", "checkpoint", "progress", "terms"}
    none |= {"warm_start"}  # refused beside a run that is resumed
    none |= {"distributed"}  # the run is the same, to rounding: tests/training/test_distributed.py
    tried = {name for options, _ in compared for name in options}
    assert set(inspect.signature(Network.fit).parameters) - of_data - none <= tried
    # What each network of a stack has of its own, and what comes with stored samples.
    no_network = {"own_terms", "buffer_size"}
    settings = {field.name for field in fields(Settings)} - no_network
    assert settings - {"epochs", "progress"} <= tried


@pytest.mark.parametrize(
    ("saved", "same", "other"),
    [
        (SGD(np.float32(0.5)), SGD(0.5), SGD(np.float32(0.25))),
        (SGD(StepDecay(0.5, 0.1, every=np.int64(3))), SGD(StepDecay(0.5, 0.1, every=3)), None),
        (
            SGD(StepDecay(0.5, 0.1, every=np.int64(3))),
            None,
            SGD(StepDecay(0.5, 0.1, every=np.int64(9))),
        ),
        (SGD(half), SGD(half), SGD(lambda step: 0.25)),
        (SGD(constantly(0.5)), SGD(constantly(0.5)), SGD(constantly(0.25))),
        (SGD(functools.partial(at, 0.5)), SGD(functools.partial(at, 0.5)), None),
        (SGD(functools.partial(at, 0.5)), None, SGD(functools.partial(at, 0.25))),
        (SGD(Constantly(0.5)), SGD(Constantly(0.5)), SGD(Constantly(0.25))),
    ],
)
def test_numbers_and_functions_are_compared_by_what_they_do(data, tmp_path, saved, same, other):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=1, checkpoint=path, optimizer=saved)
    if other is not None:
        with pytest.raises(CheckpointError, match="other settings: optimizer"):
            run(Network([3, 5, 2]), data, epochs=2, checkpoint=going_on(path), optimizer=other)
    if same is not None:
        net = Network([3, 5, 2])
        history = run(net, data, epochs=2, checkpoint=going_on(path), optimizer=same)
        assert len(history) == 2


def test_a_function_s_code_is_compared_within_one_version_of_python(data, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2]), data, epochs=1, checkpoint=path, optimizer=SGD(constantly(0.5)))
    monkeypatch.setattr(sys, "version_info", (3, 99))
    other = SGD(constantly(0.25))
    assert run(Network([3, 5, 2]), data, epochs=2, checkpoint=going_on(path), optimizer=other)


def test_an_older_run_is_not_replaced_unless_asked(data, tmp_path):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=2, checkpoint=path)
    before = path.read_bytes()
    net = Network([3, 5, 2], seed=2)
    for kept in (path, str(path), Checkpoint(path, every=1), Checkpoint(path, resume=False)):
        with pytest.raises(FileExistsError, match=r"resume=True.*overwrite=True"):
            run(net, data, epochs=1, checkpoint=kept)
    other = tmp_path / "other.safetensors"
    other.write_bytes(before)
    with pytest.raises(FileExistsError):
        run(net, data, checkpoint=Checkpoint(path, resume=other))
    assert path.read_bytes() == before
    run(net, data, epochs=1, checkpoint=Checkpoint(path, overwrite=True))
    assert path.read_bytes() != before


@pytest.mark.parametrize("every", [None, 1, 3])
def test_what_is_not_finite_is_never_written(make, data, tmp_path, every):
    path = tmp_path / "run.safetensors"
    net = make(activation="relu", output_activation="identity", dtype="float32")
    x, y = data
    options = {"metrics": [], "dropout": 0.0, "early_stopping": None, "epochs": 1}
    run(net, (x, np.eye(2)[y]), checkpoint=path, **options)
    kept = Checkpoint(path, every=every, overwrite=True)
    with pytest.raises(DivergenceError, match="the run diverged in epoch 1: "):
        run(net, (x, np.eye(2)[y]), checkpoint=kept, optimizer=SGD(1e15), **options)
    left = [one for one in (path, tmp_path / "run.previous.safetensors") if one.exists()]
    for one in left:  # a file that is not finite could not be loaded
        Network.load(one)
    assert bits(Network.load(path)) == bits(net)
    assert all(np.isfinite(part).all() for layer in on_host(net.layers) for part in layer)


def test_a_second_run_on_a_checkpoint_is_refused_and_the_first_goes_on(data, tmp_path):
    path = tmp_path / "run.safetensors"
    refused = []

    def second(network, history):
        if not refused:
            with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on") as caught:
                run(Network([3, 5, 2]), data, checkpoint=Checkpoint(path, resume=True))
            refused.append(str(caught.value))

    history = run(Network([3, 5, 2]), data, epochs=3, checkpoint=path, callbacks=second)
    assert len(refused) == 1
    assert len(history) == 3
    assert [one.name for one in tmp_path.glob(".*")] == []


def test_other_data_is_refused(data, tmp_path):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=1, checkpoint=path)
    x, y = data
    with pytest.raises(CheckpointError, match="the data is not the same"):
        run(Network([3, 5, 2]), (x + 1e-3, y), validation_data=data, checkpoint=going_on(path))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: Network([3, 6, 2]), r"sizes \[3, 5, 2\], and this one has \[3, 6, 2\]"),
        (lambda: Network([3, 5, 2], activation="tanh"), "activations"),
        (lambda: Network([3, 5, 2], dtype="float64"), "and this one has 'float64'"),
    ],
)
def test_another_network_is_refused(data, tmp_path, net, message):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=1, checkpoint=path)
    with pytest.raises(CheckpointError, match=message):
        run(net(), data, checkpoint=going_on(path))


def test_what_is_no_run_is_refused(data, tmp_path):
    path = Network([3, 5, 2]).save(tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="holds a network, not a run"):
        run(Network([3, 5, 2]), data, checkpoint=going_on(path))
    with pytest.raises(FileNotFoundError):
        run(Network([3, 5, 2]), data, checkpoint=going_on(tmp_path / "none.safetensors"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be"),
        ({"every": 2.5}, TypeError, "every must be"),
        ({"resume": 1}, TypeError, "resume must be True, False or a path"),
        ({"path": None}, TypeError, "path must be the path of a file"),
    ],
)
def test_a_checkpoint_of_odd_settings_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        Checkpoint(**({"path": "run.safetensors"} | options))


def test_what_is_no_checkpoint_is_refused(data):
    with pytest.raises(TypeError, match=r"checkpoint must be a path, or Checkpoint\("):
        run(Network([3, 5, 2]), data, checkpoint=5)


def test_a_folder_that_is_not_there_is_named_before_training(data, tmp_path):
    net = Network([3, 5, 2], seed=1)
    before = bits(net)
    with pytest.raises(OSError, match="nowhere"):
        run(net, data, checkpoint=tmp_path / "nowhere" / "run.safetensors")
    assert bits(net) == before


@pytest.fixture
def small_run(data, tmp_path):
    path = tmp_path / "run.safetensors"
    net = Network([2, 1], seed=1)
    x, y = data
    net.fit(x[:4, :2], y[:4], epochs=1, checkpoint=path, progress=False)

    def resume():
        Network([2, 1], seed=1).fit(
            x[:4, :2], y[:4], epochs=2, checkpoint=going_on(path), progress=False
        )

    return path, resume


def test_every_truncation_is_refused(small_run):
    path, resume = small_run
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            resume()
    path.write_bytes(content)
    resume()


@pytest.mark.slow
def test_every_flipped_bit_is_refused(small_run):
    path, resume = small_run
    content = path.read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            resume()


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": "one"},
        {"epoch": None},
        {"history": [{"epoch": 1}]},
        {"history": 3},
        {"settings": {}},
        {"best_epoch": 1},
    ],
    ids=str,
)
def test_a_run_whose_fields_do_not_fit_is_refused(small_run, changes):
    path, resume = small_run
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, header | {"run": header["run"] | changes})
    with pytest.raises(CheckpointError, match=r"run\.safetensors can't be resumed"):
        resume()


@pytest.mark.parametrize(
    "lacking", ["epoch", "place", "step", "order", "begun", "history", "settings", "best_epoch"]
)
def test_a_run_that_lacks_a_field_is_refused(small_run, lacking):
    path, resume = small_run
    tensors, header = read_tensors(path)
    fields = {name: value for name, value in header["run"].items() if name != lacking}
    write_tensors(path, tensors, header | {"run": fields})
    with pytest.raises(CheckpointError, match=f"can't be resumed: '{lacking}' is missing"):
        resume()


@pytest.mark.parametrize("value", [{}, None])
def test_a_file_without_the_part_of_the_run_is_refused(small_run, value):
    path, resume = small_run
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, header | {"run": value})
    with pytest.raises(CheckpointError, match=r"run\.safetensors can't be resumed"):
        resume()


def test_a_state_of_another_form_is_refused(small_run):
    path, resume = small_run
    tensors, header = read_tensors(path)
    tensors["state.0"] = np.zeros(3, np.float32)
    write_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match=r"state\.0"):
        resume()


def test_a_failed_write_names_the_path_and_leaves_the_old_file(data, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    run(Network([3, 5, 2], seed=1), data, epochs=1, checkpoint=path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"run\.safetensors"):
        run(Network([3, 5, 2], seed=1), data, epochs=2, checkpoint=path)
    assert path.read_bytes() == before


def test_a_run_that_diverges_leaves_the_last_good_checkpoint(data, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"early_stopping": None, "metrics": [], "dropout": 0.0}
    net = Network([3, 5, 2], activation="relu", output_activation="identity", seed=1)
    x, y = data

    def rate(step):
        return 0.01 if step < 12 else 1e30

    with pytest.raises(DivergenceError, match="epoch 3"):
        run(net, (x, np.eye(2)[y]), optimizer=SGD(rate), checkpoint=path, **settings)
    assert bits(Network.load(path)) == bits(net)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    """SIGKILL at random moments while every step is saved: the file is whole and can be resumed."""
    program = textwrap.dedent(
        """
        import os, random, signal, sys, time
        import numpy as np
        from bp_xp import Adam, Checkpoint, Network
        from bp_xp.storage.tensors import read_tensors

        path, kills = sys.argv[1], random.Random(0)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(64, 20)), rng.integers(0, 2, 64)
        steps = [0]
        for _ in range(200):
            child = os.fork()
            if child == 0:
                net = Network([20, 200, 2], seed=1)
                net.fit(x, y, epochs=10**6, batch_size=16, optimizer=Adam(1e-3), progress=False,
                        checkpoint=Checkpoint(path, every=1, resume=True))
            time.sleep(0.02 + 0.1 * kills.random())
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if os.path.exists(path):
                steps.append(read_tensors(path)[1]["run"]["step"])
        assert steps == sorted(steps), "a run went on from before where it was"
        print(len(steps) - 1, steps[-1])
        """
    )
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run.safetensors")],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files, steps = map(int, done.stdout.split())
    assert files > 150
    assert steps > 200
