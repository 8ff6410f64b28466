import functools

import pytest

from bp_xp import ACTIVATIONS, COSTS, OPTIMIZERS
from bp_xp.math.costs import MatchedCost
from bp_xp.math.freshness import returns_fresh


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_bp_xp_return_what_is_fresh(name):
    assert returns_fresh(OPTIMIZERS[name].update)


@pytest.mark.parametrize("cost", [c for c in COSTS.values() if isinstance(c, MatchedCost)])
def test_costs_of_bp_xp_return_what_is_fresh(cost):
    assert returns_fresh(cost.error)


def test_rule_of_an_estimator_is_as_fresh_as_the_rule_in_it():
    pytest.importorskip("sklearn")
    from bp_xp.estimators._solvers import Penalized

    class Own:
        def update(self, layers, gradients, state, *, xp):
            return layers, state

    assert returns_fresh(Penalized(OPTIMIZERS["adam"]).update)
    assert not returns_fresh(Penalized(Own()).update)


def test_nothing_is_known_of_functions_of_a_users_own():
    error = COSTS["binary_cross_entropy"].error

    @functools.wraps(error)
    def wrapped(a, y, *, xp):
        return y

    assert wrapped.__module__ == error.__module__
    for function in (wrapped, lambda a, y, *, xp: y, functools.partial(error), abs, np_like().call):
        assert not returns_fresh(function)


def test_activations_keep_their_arguments(where, dtype):
    z = where.asarray([[-1.0, 0.0, 2.0]], dtype)
    for activation in ACTIVATIONS.values():
        a = activation.sigma(z, xp=where.xp)
        assert a is not z
        assert activation.sigma_prime(z, a, xp=where.xp) is not a


class np_like:  # noqa: N801
    def call(self, array):
        return array
