import numpy as np
import pytest

from bp_xp import to_numpy
from bp_xp.math.classes import labels, probabilities


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([[0.25], [0.5], [0.75]], [0, 0, 1]),
        ([[0.5, 0.5, 0.0], [0.0, 0.25, 0.5], [0.0, 0.5, 0.5]], [0, 2, 1]),
    ],
    ids=["one output", "three outputs"],
)
def test_a_label_is_the_first_of_the_largest_probabilities(where, dtype, outputs, expected):
    a = where.asarray(outputs, dtype)

    told, p = labels(a, xp=where.xp), to_numpy(probabilities(a, xp=where.xp))

    assert to_numpy(told).tolist() == expected
    assert told.dtype == where.xp.argmax(a, axis=-1).dtype
    assert p.tolist() == (outputs if len(outputs[0]) > 1 else [[1 - q, q] for (q,) in outputs])
    assert np.argmax(p, axis=1).tolist() == expected
