"""Groups of a stack's networks: how many take a chunk together, and one after the other."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from bp_xp import SGD, Adam, Ensemble, PerMember, StepDecay
from bp_xp._trees import leaves_of, map_leaves
from bp_xp._typing import Layer
from bp_xp.backends import place
from bp_xp.training import groups
from bp_xp.training.groups import networks_at_once
from bp_xp.training.step import State

MEMBERS = 3
NUMPY, PLAIN = place(backend="numpy"), place(backend="numpy", engine="plain")
COMPILED = replace(PLAIN.engine, one_by_one=lambda function, n: stacked(map(function, range(n))))
"""An engine that goes through networks one by one, as a compiled program does."""

CASES = {
    "own terms and weights": {
        "optimizer": PerMember(SGD(rate, momentum=0.5) for rate in (0.1, 0.01, 0.2)),
        "dropout": PerMember([0.0, 0.3, 0.5]),
        "l2": PerMember([0.0, 0.1, 0.2]),
        "sample_weight": np.random.default_rng(1).random((MEMBERS, 23)),
    },
    "schedules and a clock": {
        "optimizer": PerMember(Adam(rate) for rate in (0.1, StepDecay(0.1, 0.5, every=2), 0.2)),
        "dropout": 0.3,
    },
    "one order for all": {"optimizer": SGD(0.5), "shared_order": True},
    "one of them left": {
        "optimizer": SGD(5.0),
        "epochs": 5,
        "early_stopping": PerMember([1, None, 1]),
        "validation_data": 0.3,
    },
}


def stacked(trees):
    leaves = zip(*map(list, map(leaves_of, trees := list(trees))), strict=True)
    return map_leaves(lambda _: np.stack(next(leaves)), trees[0])


def fitted(engine, options):
    """Return the parameters of each member, and its histories, after a run with an engine."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((23, 5)), rng.integers(0, 3, 23)
    ensemble = Ensemble([5, 4, 3], members=MEMBERS, seed=0, dtype="float64")
    ensemble._placement = replace(PLAIN, engine=engine)
    history = ensemble.fit(*samples, batch_size=4, progress=False, **{"epochs": 2} | options)
    report = str(ensemble.explain())
    return list(leaves_of(ensemble.layers)), [list(one["cost"]) for one in history.members], report


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_networks_one_after_the_other_learn_as_all_at_once(options, monkeypatch):
    wanted, costs, _ = fitted(PLAIN.engine, options)
    monkeypatch.setattr(groups, "_FIRST_CACHE", 0)
    found, own_costs, report = fitted(COMPILED, options)
    for part, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-12, atol=1e-14)
    for one, other in zip(own_costs, costs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert "mini-batches of 4 × 5: " in report  # of one network


def state_of(n, sizes):
    layers = [
        Layer(np.zeros((n, n_out, n_in), np.float32), np.zeros((n, n_out), np.float32))
        for n_in, n_out in itertools.pairwise(sizes)
    ]
    return State(layers, (), ())


@pytest.mark.parametrize(
    ("sizes", "recorded", "compiled"),
    [([64, 30, 10], 77, 128), ([784, 30, 10], 9, 1), ([784, 512, 10], 1, 1)],
    ids=str,
)
def test_as_many_networks_take_a_chunk_together_as_a_cache_holds(sizes, recorded, compiled):
    state = state_of(128, sizes)
    assert networks_at_once(state, 10, NUMPY) == recorded
    assert networks_at_once(state, 10, replace(PLAIN, engine=COMPILED)) == compiled
    assert networks_at_once(state, 10, PLAIN) == 128
