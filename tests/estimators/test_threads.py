import pytest
from helpers import widest

pytest.importorskip("sklearn")

import scipy.optimize
import threadpoolctl
from sklearn.datasets import load_iris

from bp_xp.estimators import MLPClassifier


def threads_of_blas():
    pools = threadpoolctl.threadpool_info()
    return {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}


def test_lbfgs_leaves_the_processor_to_the_library_that_computes_gradients(
    placement, backend, device, monkeypatch
):
    minimize, seen = scipy.optimize.minimize, []

    def watched(*arguments, **options):
        seen.append(threads_of_blas())
        return minimize(*arguments, **options)

    monkeypatch.setattr(scipy.optimize, "minimize", watched)
    x, y = load_iris(return_X_y=True)
    where = {"backend": backend, "device": device, "dtype": widest(placement)}
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        before = threads_of_blas()
        MLPClassifier((5,), solver="lbfgs", max_iter=300, random_state=0, **where).fit(x, y)
        assert threads_of_blas() == before
    assert seen == [before if backend == "numpy" else {1}]
