"""What every source of mini-batches keeps to, and a stream whose length nobody knows."""

import ast
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import InFile, parameters, tolerance, widest

import bp_xp
from bp_xp import SGD, Adam, Network, to_numpy
from bp_xp.sources import Epoch, MemorySource, Samples
from bp_xp.sources.batches import BatchesSource
from bp_xp.sources.parts import PartMaker
from bp_xp.sources.stored import make_stored
from bp_xp.training import progress
from bp_xp.training.arguments import Settings
from bp_xp.training.history import History
from bp_xp.training.looks import copied, start, take_looks
from bp_xp.training.trainer import Recorder, Run, train

SIZES = (4, 4, 7, 3, 3, 3, 1)  # of the mini-batches of an epoch of the stream


class Stream:
    """A source of mini-batches that come one after the other, each of its own size."""

    n_rows = None
    row_entries = 5
    dtype = "float64"
    has_classes = True
    weighted = False
    given = ()
    sharded = False

    def __init__(self, open_stream, placement):
        self.open_stream, self.placement = open_stream, placement

    def start_epoch(self, batch_size, generator):
        return StreamEpoch(self.open_stream(), self.placement)

    def blocks(self, rows):
        for x, y in self.open_stream():
            for first in range(0, len(x), rows):
                some = slice(first, first + rows)
                yield [self.placement.asarray(x[some]), self.placement.asarray(y[some])]

    def fingerprint(self):
        return None


class StreamEpoch(Epoch):
    place = 0

    def __init__(self, batches, placement):
        self.batches, self.placement = batches, placement

    def seek(self, place):
        self.batches = itertools.islice(self.batches, place - self.place, None)
        self.place = place

    def take(self, at_most):
        taken = []
        while len(taken) < at_most and (batch := next(self.batches, None)):
            if taken and len(batch[0]) != len(taken[0][0]):
                self.batches = itertools.chain([batch], self.batches)
                break
            taken.append(batch)
        self.place += len(taken)
        return [self.placement.asarray(np.stack(part)) for part in zip(*taken, strict=True)] or None


@pytest.fixture
def batches():
    """The mini-batches of an epoch: inputs (n, 3) and targets (n, 2) of two classes."""
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, 3)) for n in SIZES]
    return [(one, np.eye(2)[(one[:, 0] > 0).astype(int)]) for one in x]


@pytest.fixture
def stream(batches, where):
    return Stream(lambda: iter(batches), where)


@pytest.fixture
def make(where):
    def make():
        return Network(
            [3, 4, 2], backend=where.backend, device=where.device_name, dtype=widest(where), seed=1
        )

    return make


def run_of(network, source, where, **options):
    settings = Settings(**({"optimizer": SGD(0.5), "epochs": 3, "batch_size": 4} | options))
    rest = {"placement": where, "dtype": widest(where), "generator": network._generator}
    position = start(network.model, network.layers, settings, **rest)
    return Run(network, network.model, source, source, settings, position, **rest)


def taken_one_by_one(network, batches, epochs, rate):
    """Take the steps by hand; return the parameters and the mean cost of each epoch."""
    hand = Network.from_layers(
        [tuple(map(to_numpy, layer)) for layer in network.layers], dtype="float64"
    )
    costs = []
    for _ in range(epochs):
        costs.append([])
        for x, y in batches:
            costs[-1].append(hand.evaluate(x, y)["cost"])
            gradients = hand.backprop(x, y)
            hand.layers = [
                (W - rate * dW, b - rate * db)
                for (W, b), (dW, db) in zip(hand.layers, gradients, strict=True)
            ]
    return parameters(hand), [np.average(cost, weights=SIZES) for cost in costs]


# ---------------------------------------------------------------------------------------------
# A stream of unknown length


def test_a_stream_of_unknown_length_is_trained_on_like_a_list_of_batches(
    make, stream, batches, where
):
    net = make()
    wanted, costs = taken_one_by_one(net, batches, epochs=3, rate=0.5)

    history = train(run_of(net, stream, where), [Recorder()])

    assert np.allclose(
        parameters(net), wanted, rtol=tolerance(net.dtype, 1e-12), atol=tolerance(net.dtype, 1e-14)
    )
    assert history["cost"] == pytest.approx(costs, rel=tolerance(net.dtype, 1e-12))
    assert (len(history), history.steps) == (3, 3 * len(SIZES))
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    scores = net.evaluate(x, y)
    assert history[-1].validation_cost == pytest.approx(
        scores["cost"], rel=tolerance(net.dtype, 1e-12)
    )
    assert history[-1].validation_accuracy == pytest.approx(scores["accuracy"])


def test_progress_counts_the_samples_of_a_stream_without_a_total(
    make, stream, where, monkeypatch, capsys
):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)
    monkeypatch.setenv("COLUMNS", "100")

    train(run_of(make(), stream, where, progress=True), [Recorder()])

    shown = capsys.readouterr().err
    assert "epoch 3/3" in shown
    assert f" {3 * sum(SIZES)}.0 samples" in f" {shown.split(chr(13))[-1]}"
    assert "%|" not in shown  # how far it is, nobody knows


@pytest.mark.parametrize("stop", range(1, 3 * len(SIZES), 4))
def test_a_run_on_a_stream_goes_on_from_a_place_with_equal_bits(make, stream, where, stop):
    options = {"optimizer": Adam(0.05), "look_every": [1]}
    whole, _ = positions(make(), stream, where, **options)
    _, saved = positions(make(), stream, where, stop=stop, **options)

    place = json.loads(json.dumps(saved.place))
    again, _ = positions(make(), stream, where, begin=saved._replace(place=place), **options)

    assert again == whole


def positions(network, source, where, *, optimizer, look_every, begin=None, stop=None):
    """Take the looks of a run; return the last bits, and a copy of the position after a step."""
    settings = Settings(optimizer, epochs=3, batch_size=4)
    rest = {"placement": where, "dtype": widest(where), "generator": network._generator}
    position = begin or start(network.model, network.layers, settings, **rest)
    history, kept, layers = History(), None, []
    for look in take_looks(
        network.model,
        source,
        None,
        settings,
        history,
        position=position,
        report=where.new_report(),
        look_every=look_every,
        **rest,
    ):
        layers = look.layers
        if look.position.step == stop and kept is None:
            kept = look.position._replace(state=copied(look.position.state, where.xp))
    return [to_numpy(part).tobytes() for layer in layers for part in layer], kept


# ---------------------------------------------------------------------------------------------
# What an epoch gives does not depend on how it is taken


def memory(where, n, *, weighted=False, shuffle=True):
    """A source of samples whose inputs and targets tell their row."""
    rows = np.arange(float(n))
    weights = where.asarray(rows + 1.0) if weighted else None
    samples = Samples(
        where.asarray(np.stack([rows, -rows], axis=1)),
        where.asarray(100.0 + rows[:, None]),
        False,
        weights,
    )
    return MemorySource(samples, where, shuffle)


def maker_of(where):
    model = Network([2, 1], cost="quadratic", output_activation="identity", seed=0).model
    return PartMaker(model, where, widest(where))


def stored(where, n, *, weighted=False, shuffle=True):
    """The same samples, read in blocks of one row into a buffer of eleven."""
    parts = [to_numpy(part) for part in memory(where, n, weighted=weighted).samples.arrays]
    x, y, weights = (*map(InFile, parts), None)[:3]
    return make_stored(maker_of(where), x, y, weights, shuffle=shuffle, buffer_rows=11)


def in_batches(where, n, size):
    """The same samples, in batches of other sizes than the mini-batches'."""
    x, y = (to_numpy(part) for part in memory(where, n).samples.arrays)
    batches = [(x[k : k + size], y[k : k + size]) for k in range(0, n, size)]
    return BatchesSource(lambda: iter(batches), maker_of(where), name="x")


def epoch_of(source, batch_size=5, place=0):
    epoch = source.start_epoch(batch_size, np.random.default_rng(3))
    epoch.seek(place)
    return epoch


def mini_batches(epoch, at_most):
    """Return each mini-batch as arrays of the host."""
    found = []
    while taken := epoch.take(at_most):
        steps = taken[0].shape[0]
        assert 1 <= steps <= at_most
        assert all(part.shape[:2] == taken[0].shape[:2] for part in taken)
        found += [[to_numpy(part)[k] for part in taken] for k in range(steps)]
    return found


def assert_same_batches(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert len(one) == len(other)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


SOURCES = pytest.mark.parametrize(
    "make_source",
    [
        pytest.param(
            lambda where, stream, n=n, weighted=weighted, shuffle=shuffle: memory(
                where, n, weighted=weighted, shuffle=shuffle
            ),
            id="-".join(
                [
                    "whole" if n % 5 == 0 else "short last",
                    "weighted" if weighted else "alike",
                    "shuffled" if shuffle else "in order",
                ]
            ),
        )
        for n, weighted, shuffle in itertools.product((40, 43), (False, True), (False, True))
    ]
    + [
        pytest.param(lambda where, stream: stream, id="stream"),
        pytest.param(lambda where, stream: stored(where, 43), id="stored"),
        pytest.param(lambda where, stream: stored(where, 40, weighted=True), id="stored-weighted"),
        pytest.param(lambda where, stream: stored(where, 43, shuffle=False), id="stored-in-order"),
        pytest.param(lambda where, stream: in_batches(where, 43, 7), id="batches"),
        pytest.param(lambda where, stream: in_batches(where, 40, 1), id="batches-of-one"),
    ],
)


@SOURCES
def test_mini_batches_are_the_same_however_they_are_taken(make_source, where, stream):
    source = make_source(where, stream)
    one_by_one = mini_batches(epoch_of(source), 1)
    assert_same_batches(mini_batches(epoch_of(source), 7), one_by_one)
    assert_same_batches(mini_batches(epoch_of(source), 3), one_by_one)


@SOURCES
def test_an_epoch_goes_on_after_each_place(make_source, where, stream):
    source = make_source(where, stream)
    whole = mini_batches(epoch_of(source), 1)
    walked = epoch_of(source)
    for k in range(len(whole) + 1):
        place = json.loads(json.dumps(walked.place))
        assert_same_batches(mini_batches(epoch_of(source, place=place), 4), whole[k:])
        walked.take(1)


@SOURCES
def test_an_epoch_has_each_sample_once_and_keeps_its_parts_together(make_source, where, stream):
    source = make_source(where, stream)
    taken = [np.concatenate(part) for part in zip(*mini_batches(epoch_of(source), 2), strict=True)]
    blocks = [
        np.concatenate([to_numpy(one) for one in part])
        for part in zip(*source.blocks(6), strict=True)
    ]
    rows = [
        np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        for parts in (taken, blocks)
    ]
    assert sorted(map(tuple, rows[0])) == sorted(map(tuple, rows[1]))


def test_a_shuffled_epoch_follows_from_the_generator_and_no_other_is_like_it(where):
    source, generator = memory(where, 43), np.random.default_rng(3)
    first, second = (mini_batches(source.start_epoch(5, generator), 9) for _ in range(2))
    assert_same_batches(first, mini_batches(epoch_of(source), 9))
    assert not np.array_equal(first[0][0], second[0][0])


def test_samples_in_order_draw_nothing(where):
    generator = np.random.default_rng(3)
    found = mini_batches(memory(where, 12, shuffle=False).start_epoch(5, generator), 9)
    assert np.concatenate([y[:, 0] for _, y in found]).tolist() == list(range(100, 112))
    assert generator.random() == np.random.default_rng(3).random()


# ---------------------------------------------------------------------------------------------
# Shares


@pytest.mark.parametrize("n", [40, 43, 41], ids=["whole", "short", "fewer than ranks"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in order"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_shares_of_a_mini_batch_put_together_are_the_mini_batch(
    where, n, weighted, shuffle, ranks
):
    source = memory(where, n, weighted=weighted, shuffle=shuffle)
    whole = mini_batches(epoch_of(source), 4)
    shares = [mini_batches(epoch_of(source.share(rank, ranks)), 4) for rank in range(ranks)]
    assert all(len(share) == len(whole) for share in shares)
    for k, batch in enumerate(whole):
        for part, wanted in enumerate(batch):
            together = np.full_like(wanted, np.nan)
            for rank, share in enumerate(shares):
                together[rank::ranks] = share[k][part]
            assert np.array_equal(together, wanted)


@pytest.mark.parametrize("make_source", [stored, lambda where, n: in_batches(where, n, 7)])
def test_the_shares_of_what_streams_put_together_are_the_whole(where, make_source):
    source = make_source(where, 41)
    whole = mini_batches(epoch_of(source), 4)
    shares = [mini_batches(epoch_of(source.share(rank, 3)), 4) for rank in range(3)]
    for k, batch in enumerate(whole):
        for part, wanted in enumerate(batch):
            together = np.full_like(wanted, np.nan)
            for rank, share in enumerate(shares):
                together[rank::3] = share[k][part]
            assert np.array_equal(together, wanted)


def test_a_share_goes_on_where_the_whole_would(where):
    share = memory(where, 43).share(1, 3)
    whole = mini_batches(epoch_of(share), 2)
    assert_same_batches(mini_batches(epoch_of(share, place=4), 2), whole[4:])


# ---------------------------------------------------------------------------------------------
# Nobody else reads all samples


def test_training_takes_samples_from_sources_alone():
    """Only where arguments become a run are the arrays of all samples at hand."""
    folder = Path(bp_xp.__file__).parent / "training"
    reading = {
        path.stem
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("x", "samples")
    }
    assert reading == {"fitting", "stack_data", "stack_fitting"}
