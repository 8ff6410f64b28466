"""The NumPy engine: what is recorded, and how its program reads."""

import re

import numpy as np
import pytest
from steps import MODEL, RULES, TERMS, Own, begin, copied, pairs_of

from bp_xp import ACTIVATIONS, COSTS, SGD
from bp_xp._trees import leaves_of
from bp_xp.backends.numpy import engine
from bp_xp.engines.replay import CannotRecordError
from bp_xp.math.model import Model


@pytest.mark.parametrize(
    "rule",
    [
        lambda w, g, m, xp: (w - 0.1 * np.asarray(g), m),
        lambda w, g, m, xp: (w - 0.1 * g[..., [0]], m),
        lambda w, g, m, xp: (w - np.add.accumulate(g), m),
    ],
    ids=["asarray", "fancy index", "accumulate"],
)
def test_numpy_does_not_record_what_is_no_list_of_operations(rule):
    step, state, batches = begin(MODEL, Own(rule))
    with pytest.raises((CannotRecordError, TypeError, AttributeError)):
        engine._record(step, state, [part[0, ...] for part in batches], xp=np)


def test_the_program_of_a_step_is_its_operations_in_their_order():
    # Of one layer: z = x Wᵀ + b, a = tanh z, (a − y)(1 − a²), the gradients, and the descent.
    model = Model((3, 2), (ACTIVATIONS["tanh"],), COSTS["quadratic"])
    step, state, batches = begin(model, SGD(0.1))
    program = engine._record(step, state, [part[0] for part in batches], xp=np)
    called = re.findall(r"^        (\w+?)\d*\(", program.text, re.MULTILINE)
    assert called == [
        *("dot", "add", "tanh", "subtract", "multiply", "subtract", "multiply", "multiply"),
        *("dot", "add_reduce", "multiply", "subtract", "multiply", "subtract", "copyto"),
    ]
    assert program.z.shape == (6, 2)


@pytest.mark.parametrize("rule", RULES)
def test_a_program_leaves_mini_batches_and_what_it_was_recorded_with_alone(rule):
    step, state, batches = begin(MODEL, RULES[rule], TERMS, scheduled=True, weighted=True)
    before = copied([state, batches])
    program = engine._record(step, state, [part[0, ...] for part in batches], xp=np)
    for one, other in pairs_of([state, batches], before):
        assert np.array_equal(one, other)
    program.run([np.copy(leaf) for leaf in leaves_of(state)], batches, np.empty((12, 6, 3)))
    for one, other in pairs_of([state, batches], before):
        assert np.array_equal(one, other)
