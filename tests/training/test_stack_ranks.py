"""Ensembles whose members are dealt out to processes; threads stand in for processes."""

import functools
import logging
from typing import Any

import numpy as np
import pytest
from helpers import parameters
from threads import on_ranks

from bp_xp import SGD, Adam, DivergenceError, Ensemble, PerMember
from bp_xp.engines import Report

M, SIZES = 5, [6, 4, 3]
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((29, 6)), RNG.integers(0, 3, 29)

RUNS = {
    "rates and dropout": {
        "optimizer": PerMember(Adam(rate) for rate in (0.1, 0.01, 0.2, 0.05, 0.3)),
        "dropout": PerMember([0.0, 0.3, 0.1, 0.2, 0.0]),
        "sample_weight": RNG.random((M, 29)),
    },
    "stops of its own": {
        "optimizer": SGD(5.0),
        "epochs": 7,
        "early_stopping": PerMember([1, None, 2, 1, 3]),
        "validation_data": 0.3,
        "metrics": "f1_macro",
    },
    "all stop": {"optimizer": SGD(9.0), "epochs": 50, "early_stopping": 1, "validation_data": 0.3},
    "a shared order": {"optimizer": SGD(0.5), "shared_order": True, "validation_data": 0.3},
    "bootstrap samples": {"optimizer": "adam", "rows": "bootstrap", "validation_rows": [1, 2, 3]},
    "one diverges": {"optimizer": SGD(0.5), "l2": PerMember([0.0, 0.0, 1e30, 0.0, 0.0])},
}


def fitted(distributed=None, *, seed=0, **options):
    """Return an ensemble, and its history, after a fit."""
    kinds = {"cost": "categorical_cross_entropy", "dtype": "float64"}
    ensemble: Any = Ensemble(SIZES, members=M, seed=seed, **kinds)
    return ensemble, fit(ensemble, distributed, **options)


def fit(ensemble, distributed, **options):
    given = {"epochs": 3, "batch_size": 4, "progress": False, "distributed": distributed}
    return ensemble.fit(X, Y, **given | options)


def told(history):
    """Return all that a history says but for the seconds, of all and of each member."""
    ended = history.stopped, history.best_epoch, history.steps, history.engine
    records = [one._replace(seconds=0.0, samples_per_second=0.0) for one in history]
    return str((ended, records, [told(one) for one in history.members]))


def states(ensemble):
    each = [ensemble._generator, *ensemble._generators]
    return [one.bit_generator.state for one in each]


@pytest.mark.parametrize("ranks", [2, 7])
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_dealt_out_members_learn_what_they_do_on_one_process_to_the_bit(options, ranks):
    alone, wanted = fitted(**options)
    for ensemble, history in on_ranks(ranks, functools.partial(fitted, **options)):
        assert np.array_equal(parameters(ensemble), parameters(alone))
        assert told(history) == told(wanted)
        assert states(ensemble) == states(alone)
        assert all(one.seconds > 0.0 < one.samples_per_second for one in history)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": PerMember(Adam(rate) for rate in (0.1, 0.01, 0.2, 0.05, 0.3))},
        {"optimizer": Adam(0.1), "dropout": 0.3},
    ],
    ids=["own rates", "dropout"],
)
def test_a_warm_start_goes_on_with_other_ranks_and_with_one(options):
    def twice(distributed=None, again=None, **others):
        ensemble, _ = fitted(distributed, warm_start=True, **options)
        fit(ensemble, again, warm_start=True, **options)
        return parameters(ensemble)

    alone = twice()
    for found in [
        *on_ranks(3, lambda communicator: twice(communicator, communicator)),
        *on_ranks(2, lambda communicator: twice(communicator, None)),
    ]:
        assert np.array_equal(found, alone)


def test_each_rank_trains_its_own_members_alone_and_begins_as_rank_0(monkeypatch):
    taken = []
    account = Report.account

    def noted(self, shape):
        taken.append(shape)
        return account(self, shape)

    monkeypatch.setattr(Report, "account", noted)
    found = on_ranks(2, lambda one: fitted(one, seed=one.rank))
    assert {shape[0] for shape in taken} == {3, 2}
    for ensemble, _ in found:
        assert ensemble.seeds == found[0][0].seeds
        assert np.array_equal(parameters(ensemble), parameters(fitted()[0]))


def test_a_run_in_which_all_diverge_is_an_error_on_all(caplog):
    with caplog.at_level(logging.ERROR, "bp_xp"):
        found = on_ranks(2, lambda one: fitted(one, l2=1e30))
    assert all(isinstance(one, DivergenceError) for one in found)
    assert str(found[0]) == str(found[1])


def test_an_error_of_one_rank_ends_all():
    def fit_and_fail(communicator):
        def fail(ensemble, history):
            if communicator.rank:
                raise OSError("a full disk")

        fitted(communicator, callbacks=fail)

    first, second = on_ranks(2, fit_and_fail)
    assert isinstance(second, OSError)
    assert isinstance(first, Exception)


def test_what_can_not_be_dealt_out_is_refused(tmp_path):
    def differ(communicator):
        fitted(communicator, optimizer=SGD(0.1 + communicator.rank))

    for one in on_ranks(2, differ):
        assert "optimizer.learning_rate is 0.1 on rank 0" in str(one)
    path = tmp_path / "run.safetensors"
    for one in on_ranks(2, lambda one: fitted(one, checkpoint=path)):
        assert isinstance(one, ValueError)
        assert "checkpoint keeps the run of an ensemble on a single process" in str(one)
    with pytest.raises(ValueError, match="distributed='mpi' is for networks of backend 'numpy'"):
        Ensemble(SIZES, backend=pytest.importorskip("array_api_strict")).fit(
            X, Y, distributed="mpi"
        )
