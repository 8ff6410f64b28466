"""User-defined functions that return their arguments: nobody writes to these."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import parameters, tolerance, widest

from bp_xp import SGD, Activation, Cost, Layer, MatchedCost, Metric, Network, to_numpy

SIZES = [3, 4, 2]

# Each returns an argument of its own, or what it always returns.
IDENTICAL = Activation("as is", lambda z, *, xp: z, lambda z, a, *, xp: a, probability=True)
COUPLED = Activation(
    "as is, coupled",
    lambda z, *, xp: z,
    lambda z, a, *, xp: xp.broadcast_to(a[..., None, :], (*a.shape, a.shape[-1])),
    coupled=True,
    probability=True,
)
COSTS = {
    "targets": MatchedCost("t", lambda z, y, *, xp: y[..., 0], lambda a, y, *, xp: y, "as is"),
    "outputs": MatchedCost("o", lambda z, y, *, xp: z[..., 0], lambda a, y, *, xp: a, "as is"),
    "gradient": Cost("g", lambda a, y, *, xp: y[..., 0], lambda a, y, *, xp: y, "as is"),
    "coupled": Cost("c", lambda a, y, *, xp: a[..., 0], lambda a, y, *, xp: a, "as is, coupled"),
}


def fresh(function):
    """Return a function that does the same and returns what is new."""
    return lambda *arrays, xp: 1.0 * function(*arrays, xp=xp)


def fresh_cost(cost):
    if isinstance(cost, MatchedCost):
        return MatchedCost(cost.name, fresh(cost.value), fresh(cost.error), cost.output)
    return Cost(cost.name, fresh(cost.value), fresh(cost.gradient), cost.output)


def fresh_activation(one):
    return replace(one, sigma=fresh(one.sigma), sigma_prime=fresh(one.sigma_prime))


def build(make, cost, *, copying=False, **options):
    hidden, output = IDENTICAL, COUPLED if cost.output == COUPLED.name else IDENTICAL
    if copying:
        cost, hidden, coupled = fresh_cost(cost), fresh_activation(hidden), fresh_activation(output)
        output = coupled if output is COUPLED else hidden
    return make(SIZES, activation=hidden, output_activation=output, cost=cost, seed=3, **options)


@pytest.fixture
def samples(where, rng):
    """Inputs, targets and weights on the device, and a check that they are as they were."""
    x, y = 0.1 * rng.standard_normal((12, 3)), np.eye(2)[rng.integers(0, 2, 12)]
    placed = [where.asarray(v, widest(where)) for v in (x, y, rng.random(12) + 0.5)]
    before = [to_numpy(values).copy() for values in placed]

    def check():
        for values, old in zip(placed, before, strict=True):
            assert np.array_equal(to_numpy(values), old)

    return (*placed, check)


@pytest.mark.parametrize("name", COSTS)
def test_backprop_and_trace_leave_the_arguments_of_own_functions_alone(make, samples, name):
    x, y, weights, check = samples
    net, twin = (build(make, COSTS[name], copying=copying) for copying in (False, True))

    found, wanted = net.backprop(x, y), twin.backprop(x, y)
    net.trace(x, y).equations()
    net.evaluate(x, y, sample_weight=weights)
    net.feedforward(x)

    check()
    for layer, other in zip(found, wanted, strict=True):
        for part, values in zip(layer, other, strict=True):
            # What is new may lie otherwise in memory, and a product of it round otherwise.
            np.testing.assert_allclose(
                to_numpy(part),
                to_numpy(values),
                rtol=tolerance(net.dtype, 1e-12),
                atol=tolerance(net.dtype, 1e-15),
            )


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize(
    "options",
    [{}, {"sample_weight": True, "l2": 0.01, "dropout": [0.2, 0.3]}, {"max_norm": 1.0}],
    ids=["plain", "weights-and-terms", "max-norm"],
)
def test_a_run_leaves_the_arguments_of_own_functions_alone(make, samples, name, options, engine):
    x, y, weights, check = samples
    options = options | ({"sample_weight": weights} if "sample_weight" in options else {})
    found = []
    for copying in (False, True):
        net = build(make, COSTS[name], copying=copying, engine=engine)
        settings = {"epochs": 3, "batch_size": 4, "shuffle": False, "progress": False}
        net.fit(x, y, optimizer=SGD(0.01), validation_data=(x, y), **settings, **options)
        check()
        found.append(parameters(net))
    assert np.allclose(*found, rtol=tolerance(net.dtype, 1e-12), atol=tolerance(net.dtype, 1e-14))


def test_a_metric_may_return_an_argument(make, samples):
    x, y, _, check = samples
    net = build(make, COSTS["gradient"])
    metric = Metric("targets", lambda a, y, *, xp: y, needs_classes=True, higher_is_better=True)

    assert np.array_equal(net.evaluate(x, y, metrics=metric)["targets"], to_numpy(y))
    check()


def test_an_initializer_may_return_what_it_keeps(make, data):
    kept = Layer(np.full((2, 3), 0.5), np.zeros(2))
    net = make([3, 2], initializer=lambda generator, n_out, n_in: kept, seed=0)

    net.fit(*data, epochs=2, progress=False)

    assert np.all(kept.W == 0.5)
    assert np.all(kept.b == 0.0)


# ---------------------------------------------------------------------------------------------
# Optimizers


class Optimizer:
    """An optimizer from a function of (parameters, gradients, memory, xp)."""

    def __init__(self, rule, copying):
        self._rule, self._copying = rule, copying

    def init(self, layers, *, placement, dtype):
        return list(layers)

    def update(self, layers, gradients, state, *, xp):
        new = self._rule(layers, gradients, state, xp)
        if not self._copying:
            return new
        return tuple([Layer(*(1.0 * part for part in layer)) for layer in part] for part in new)


def descend(layers, gradients, eta=0.1):
    return [
        Layer(W - eta * dW, b - eta * db)
        for (W, b), (dW, db) in zip(layers, gradients, strict=True)
    ]


def descend_in_place(layers, gradients, eta=0.1):
    """Let bp_xp's own rule overwrite the parameters, as it may."""
    from bp_xp.optim.optimizer import descend as less

    return [
        Layer(less(W, eta * dW), less(b, eta * db))
        for (W, b), (dW, db) in zip(layers, gradients, strict=True)
    ]


def remember_the_new(layers, gradients, state, xp):
    new = descend(layers, gradients)
    return new, new


def remember_what_is_written_to(layers, gradients, state, xp):
    new = descend_in_place(layers, gradients)
    moved = [Layer(W - 0.5 * V, b - 0.5 * v) for (W, b), (V, v) in zip(new, state, strict=True)]
    return moved, moved


RULES = {
    "parameters": lambda layers, gradients, state, xp: (layers, state),
    "gradients": lambda layers, gradients, state, xp: (gradients, gradients),
    "places-changed": lambda layers, gradients, state, xp: (state, layers),
    "memory": lambda layers, gradients, state, xp: (descend(layers, gradients), layers),
    "both": remember_the_new,
    "both-written-to": remember_what_is_written_to,
}


@pytest.mark.parametrize("engine", ["auto", "plain"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.7}], ids=["plain", "max-norm"])
def test_an_optimizer_may_return_its_arguments(make, data, name, options, engine):
    found = []
    for copying in (False, True):
        net = make(SIZES, seed=1, engine=engine)
        optimizer = Optimizer(RULES[name], copying)
        net.fit(*data, epochs=2, batch_size=5, optimizer=optimizer, progress=False, **options)
        found.append(parameters(net))
    assert np.allclose(*found, rtol=tolerance(net.dtype, 1e-12), atol=tolerance(net.dtype, 1e-14))


def test_an_optimizer_may_return_what_it_keeps(data):
    kept = [Layer(np.ones((2, 3)), np.ones(2))]

    class Keeper:
        def init(self, layers, *, placement, dtype):
            return kept

        def update(self, layers, gradients, state, *, xp):
            return kept, kept

    Network([3, 2], dtype="float64", seed=0).fit(
        *data, epochs=2, optimizer=Keeper(), max_norm=0.5, progress=False
    )

    assert np.all(kept[0].W == 1.0)
    assert np.all(kept[0].b == 1.0)


def test_a_schedule_may_return_an_array_that_it_keeps(make, data):
    kept = np.asarray(0.1)
    runs = []
    for rate in (lambda step: kept, 0.1):
        net = make([3, 2], seed=0)
        net.fit(*data, epochs=2, optimizer=SGD(rate, momentum=0.9), progress=False)
        runs.append(parameters(net))
    assert kept == 0.1
    assert np.allclose(*runs, rtol=tolerance(net.dtype, 1e-14))
