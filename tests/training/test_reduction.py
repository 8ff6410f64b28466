"""Several processes on one mini-batch; another process is stood in for by what it would send."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from helpers import (
    assert_layers_agree,
    on_host,
    parameters,
    random_layers,
    random_targets,
    to_device,
    tolerance,
    widest,
)

from bp_xp import ACTIVATIONS, COSTS, SGD, Adam, Network, to_numpy
from bp_xp.backends import place
from bp_xp.engines import plain
from bp_xp.math.backprop import backpropagate
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.ranks import Ranks
from bp_xp.sources import MemorySource
from bp_xp.sources.samples import make_samples
from bp_xp.training.arguments import Settings
from bp_xp.training.looks import copied, start
from bp_xp.training.reduction import reduce_gradients
from bp_xp.training.step import Rule, State, make_step
from bp_xp.training.trainer import Recorder, Run, train

SIZES = (4, 5, 3)
MODEL = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]), COSTS["quadratic"])


@dataclass(frozen=True)
class Twice:
    """The sum over two processes that have found the same."""

    def __call__(self, array):
        return array + array


@dataclass(frozen=True, eq=False)
class OneLike:
    """A communicator of two processes, of which the other finds what this one does."""

    total: Callable
    rank: int = 0
    size: int = 2

    def gather(self, value):
        return [value, value]

    def fail(self, error):
        raise error


@dataclass(frozen=True, eq=False)
class Plus:
    """The sum over this process and others, whose arrays are known."""

    others: tuple

    def __call__(self, array):
        for other in self.others:
            array = array + other
        return array


def sent(gradients, weight, xp):
    """Return what a process hands over to be summed."""
    handed = []

    def total(array):
        handed.append(array)
        return array + 0.0

    reduce_gradients(gradients, weight, total, xp=xp)
    return handed[0]


# ---------------------------------------------------------------------------------------------
# The gradient of a mini-batch from those of its shares


SHARES = {
    "halves": [range(6), range(6, 12)],
    "unlike": [range(9), range(9, 12)],
    "three": [range(0, 12, 3), range(1, 12, 3), range(2, 12, 3)],
    "one empty": [range(12), range(0)],
}
WEIGHTS = {
    "alike": None,
    "weighted": np.array([1.0, 0.5, 2.0, 0.0, 3.0, 1.0, 0.25, 1.0, 1.0, 4.0, 0.0, 1.0]),
    "all on one": np.array([1.0] * 6 + [0.0] * 6),
}


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_the_shares_of_a_mini_batch_give_its_gradient(where, rng, shares, weights):
    xp = where.xp
    layers = to_device(random_layers(SIZES, rng), where)
    x, y = rng.standard_normal((12, 4)), random_targets("quadratic", 12, 3, rng)

    def gradients_of(rows, *, of_sum=True):
        rows = list(rows)
        given = [where.asarray(part[rows]) for part in (x, y)]
        counts = None if weights is None else where.asarray(weights[rows])
        found, _ = backpropagate(MODEL, layers, *given, weights=counts, of_sum=of_sum, xp=xp)
        total = float(len(rows)) if weights is None else weights[rows].sum()
        return found, where.asarray(np.array([total]))

    wanted, _ = gradients_of(range(12), of_sum=False)
    each = [gradients_of(rows) for rows in shares]
    handed = [sent(*one, xp) for one in each]
    assert all(array.shape == (4 * 5 + 5 + 5 * 3 + 3 + 1,) for array in handed)
    for rank, (gradients, weight) in enumerate(each):
        others = tuple(handed[:rank] + handed[rank + 1 :])
        found = reduce_gradients(gradients, weight, Plus(others), xp=xp)
        assert_layers_agree(found, on_host(wanted), where)


def test_processes_without_any_weight_find_no_gradient(where, rng):
    layers = to_device(random_layers(SIZES, rng), where)
    x, y = (where.asarray(rng.random((4, n))) for n in (4, 3))
    nothing = where.asarray(np.zeros(4))
    gradients, _ = backpropagate(MODEL, layers, x, y, weights=nothing, of_sum=True, xp=where.xp)
    for part in parts_of(reduce_gradients(gradients, nothing[:1], Twice(), xp=where.xp)):
        assert not to_numpy(part).any()


def parts_of(layers):
    return [part for layer in layers for part in layer]


@pytest.mark.parametrize("weighted", [False, True])
def test_steps_of_two_processes_are_the_step_of_one_on_the_whole_mini_batch(where, rng, weighted):
    xp, optimizer = where.xp, SGD(0.5, momentum=0.9)
    layers = random_layers(SIZES, rng)
    weights = [rng.random(10)] if weighted else []
    whole = [rng.standard_normal((10, 4)), rng.random((10, 3)), *weights]
    shares = [[part[rank::2][: 5 - rank] for part in whole] for rank in range(2)]
    whole = [np.concatenate(parts) for parts in zip(*shares, strict=True)]  # 5 rows and 4
    options = {"model": MODEL, "update": optimizer.update, "weighted": weighted}
    terms = Regularization(l2=0.1, clip_norm=0.5)

    def stepped(batch, total=None):
        device = to_device(layers, where)
        state = State(device, optimizer.init(device, placement=where, dtype=widest(where)), ())
        step = make_step(Rule(regularization=terms, total=total, **options))
        return step(state, *map(where.asarray, batch), xp=xp)[0].layers

    wanted = on_host(stepped(whole))
    handed = []

    def hand_over(array):
        handed.append(array + 0.0)
        return array + 0.0

    stepped(shares[1], hand_over)
    assert_layers_agree(stepped(shares[0], Plus(tuple(handed))), wanted, where)


def test_a_process_without_a_share_of_a_short_mini_batch_takes_the_step_too(where, rng):
    xp, optimizer = where.xp, SGD(0.5)
    layers = random_layers(SIZES, rng)
    x, y = where.asarray(rng.standard_normal((3, 4))), where.asarray(rng.random((3, 3)))

    def stepped(rows, total=None):
        device = to_device(layers, where)
        state = State(device, optimizer.init(device, placement=where, dtype=widest(where)), ())
        step = make_step(Rule(MODEL, optimizer.update, Regularization(), total=total))
        return step(state, x[:rows, :], y[:rows, :], xp=xp)[0].layers

    handed = []

    def hand_over(array):
        handed.append(array + 0.0)
        return array + 0.0

    wanted = on_host(stepped(3))
    stepped(3, hand_over)
    assert_layers_agree(stepped(0, Plus(tuple(handed))), wanted, where)


# ---------------------------------------------------------------------------------------------
# Runs


def trained(where, optimizer, total):
    """Return the parameters after a run of some epochs, its history and its report."""
    rng = np.random.default_rng(1)
    net = Network.from_layers(
        random_layers(SIZES, rng),
        backend=where.backend,
        device=where.device_name,
        dtype=widest(where),
        seed=1,
    )
    settings = Settings(optimizer, epochs=3, batch_size=5)
    rest = {"placement": where, "dtype": widest(where), "generator": net._generator}
    position = start(net.model, net.layers, settings, **rest)
    x, y = rng.standard_normal((23, 4)), rng.random((23, 3))
    samples = make_samples(net.model, x, y, placement=where, dtype=widest(where))
    source = MemorySource(samples, where)
    ranks = Ranks(total and OneLike(total))
    run = Run(net, net.model, source, None, settings, position, ranks=ranks, **rest)
    history = train(run, [Recorder()])
    return parameters(net), history, run.report


def test_two_processes_with_equal_samples_run_like_one(where):
    alone, history, _ = trained(where, Adam(0.05), None)
    together, their_history, report = trained(where, Adam(0.05), Twice())
    assert np.allclose(
        together, alone, rtol=tolerance(widest(where), 1e-9), atol=tolerance(widest(where), 1e-12)
    )
    assert their_history["cost"] == pytest.approx(
        history["cost"], rel=tolerance(widest(where), 1e-10)
    )
    assert report.ran == where.engine.name


def test_a_process_whose_gradient_is_zero_halves_each_step(where):
    nothing_but_weight = where.asarray(np.eye(4 * 5 + 5 + 5 * 3 + 3 + 1)[-1])

    @dataclass(frozen=True, eq=False)
    class WithOneThatFindsNothing:
        def __call__(self, array):
            return array + array * nothing_but_weight

    together, _, report = trained(where, SGD(0.5), WithOneThatFindsNothing())
    alone, _, _ = trained(where, SGD(0.25), None)
    assert np.allclose(
        together, alone, rtol=tolerance(widest(where), 1e-10), atol=tolerance(widest(where), 1e-12)
    )
    assert report.ran == where.engine.name


@pytest.mark.parametrize("optimizer", [SGD(0.5, momentum=0.9), Adam(0.05)], ids=["SGD", "Adam"])
def test_the_numpy_engine_records_the_sum_and_gives_the_bits_of_the_plain_loop(rng, optimizer):
    where = place("cpu")
    layers = random_layers(SIZES, rng)
    batches = [rng.standard_normal((50, 6, 4)), rng.random((50, 6, 3)), rng.random((50, 6))]
    calls = []

    def twice(array):
        assert isinstance(array, np.ndarray)  # not what a recorder puts in its place
        calls.append(array.shape)
        return array + array

    rule = Rule(MODEL, optimizer.update, Regularization(l2=0.1), weighted=True, total=twice)
    state = State(layers, optimizer.init(layers, placement=where, dtype=widest(where)), ())
    wanted, wanted_zs = plain.loop(make_step(rule), copied(state, np), batches, xp=np)
    assert len(calls) == 50

    report = where.new_report()
    loop = where.engine.new_loop(report)
    found, zs = loop(make_step(rule), copied(state, np), batches, xp=np)

    assert report.account((6, 4)).plain == 0
    assert len(calls) == 50 + 50  # to record it, other processes are not asked
    assert np.array_equal(zs, wanted_zs)
    for ours, theirs in zip(parts_of(found.layers), parts_of(wanted.layers), strict=True):
        assert np.array_equal(ours, theirs)
