import numpy as np
import pytest
from helpers import parameters

from bp_xp import Network
from bp_xp.sources.samples import split_rows


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 22 + [-1.0], r"negative at row 22: -1 \(1 negative number\(s\), the small"),
        ([0.0] * 23, "sample_weight is zero for every sample"),
        ([1.0] * 22 + [np.nan], "sample_weight .*NaN"),
        ([1.0] * 22, r"sample_weight must have shape \(23,\), .* not \(22,\)"),
        ([[1.0]] * 23, r"sample_weight must have shape \(23,\)"),
    ],
)
def test_bad_weights_are_refused(make, data, weights, message):
    with pytest.raises(ValueError, match=message):
        make([3, 2]).fit(*data, sample_weight=weights)


@pytest.mark.parametrize(
    ("class_weight", "error", "message"),
    [
        ({2: 1.0}, ValueError, "has the label 2, but the classes are 0 to 1"),
        ({0.5: 1.0}, ValueError, r"has the label 0\.5, but the classes are 0 to 1"),
        ({-1: 1.0}, ValueError, "has the label -1"),
        ({np.int64(-1): 1.0}, ValueError, r"has the label np\.int64\(-1\)"),
        ({np.nan: 1.0}, ValueError, "has the label nan"),
        ({"1": 1.0}, ValueError, "has the label '1'"),
        ({None: 1.0}, ValueError, "has the label None"),
        ({0: -1.0}, ValueError, r"class_weight\[0\] must be"),
        ({0: 0.0, 1: 0.0}, ValueError, "zero for every class"),
        ("fair", ValueError, "or 'balanced', not 'fair'"),
        ([1.0, 2.0], TypeError, "class_weight must be a dictionary"),
    ],
)
def test_bad_class_weights_are_refused(data, class_weight, error, message):
    with pytest.raises(error, match=message):
        Network([3, 2]).fit(*data, class_weight=class_weight)


TYPES = [bool, int, float, np.bool_, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float64]


@pytest.mark.parametrize("outputs", [2, 1])
@pytest.mark.parametrize("kind", TYPES)
def test_labels_and_the_keys_of_their_weights_are_compared_by_value(data, outputs, kind):
    x, y = data
    cost = "binary_cross_entropy"

    def run(labels, class_weight):
        net = Network([3, outputs], cost=cost, seed=0)
        settings = {"validation_data": 0.3, "metrics": "f1", "progress": False}
        history = net.fit(x, labels, epochs=2, class_weight=class_weight, **settings)
        return [*parameters(net), *history["cost"], *history["validation_f1"]]

    wanted = run(y, {0: 1.0, 1: 9.0})
    assert run(y, {kind(0): 1.0, kind(1): 9.0}) == wanted
    assert run(y.astype(kind), {kind(1): 9.0}) == wanted
    assert run([kind(label) for label in y], {0: 1, 1: 9}) == wanted


def test_class_weights_need_classes(data):
    with pytest.raises(ValueError, match="class_weight needs targets"):
        Network([3, 2]).fit(data[0], np.full((23, 2), 0.3), class_weight="balanced")


def test_a_fraction_is_held_out_of_each_class(make):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 30, 10])
    first, second = split_rows(100, 0.2, y, rng)
    assert sorted([*first, *second]) == list(range(100))
    assert np.bincount(y[second]).tolist() == [12, 6, 2]
    net = make([2, 3], seed=1)
    history = net.fit(rng.random((100, 2)), y, epochs=1, validation_data=0.2, progress=False)
    assert history[0].validation_cost is not None


def test_the_rows_held_out_are_drawn_at_random_and_repeat_with_the_seed():
    parts = [split_rows(50, 0.3, None, np.random.default_rng(seed))[1] for seed in (1, 1, 2)]
    assert len(parts[0]) == 15
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


def test_small_classes_add_up_to_the_fraction():
    labels = np.arange(10)  # one sample of each class
    first, second = split_rows(10, 0.3, labels, np.random.default_rng(0))
    assert (len(first), len(second)) == (7, 3)
