"""A sweep on a cluster: Dask's, on this machine, where it is installed."""

import numpy as np
import pytest

from bp_xp import sweep
from bp_xp.sweeps import making, runs
from bp_xp.tables import sweep_table

joblib = pytest.importorskip("joblib")
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def client():
    where = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**where) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.mark.usefixtures("client")
def test_a_cluster_makes_the_same_runs(rng, tmp_path, monkeypatch):
    x, y = rng.standard_normal((40, 5)), rng.integers(0, 3, 40)
    space = [{"learning_rate": [0.1, 0.5]}, {"sizes": [[5, 3]]}]
    shared = {"sizes": [5, 4, 3], "epochs": 4, "folds": 2, "progress": False, "refit": False}
    table = {"size": list(np.arange(30.0)), "town": ["Ulm", "Bonn", None] * 10}
    made = [sweep(x, y, space, **shared), sweep_table(table, "size", {"l2": [0.0]}, epochs=2)]
    pickled = []

    def counted(samples, protocol):
        pickled.append(samples)
        return object.__reduce_ex__(samples, protocol)

    monkeypatch.setattr(runs.Samples, "__reduce_ex__", counted)
    with joblib.parallel_config(backend="dask"):
        assert making._n_processes(None) == 2
        there = [
            sweep(x, y, space, n_jobs=None, **shared),
            sweep_table(table, "size", {"l2": [0.0]}, epochs=2, n_jobs=None),
        ]
        assert len(pickled) == 1  # what is large is sent once
        halved = [
            sweep(x, y, space, n_jobs=None, halving=2, folder=tmp_path, **shared) for _ in range(2)
        ]
    assert [one.runs for one in there] == [one.runs for one in made]
    assert halved[0].runs == halved[1].runs == sweep(x, y, space, halving=2, **shared).runs
