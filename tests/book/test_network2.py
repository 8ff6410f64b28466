"""Chapter 3's network against the plain algorithm, sample by sample."""

import json
import random

import numpy as np
import pytest
from columns import SIZES, Plain, assert_same_parameters, columns, labeled, make, printed, run
from helpers import tolerance, widest

from bp_xp import CheckpointError, DivergenceError, book, to_numpy
from bp_xp.book.network2 import CrossEntropyCost, Network, QuadraticCost, load

EVERYTHING = {
    f"monitor_{which}_{what}": True
    for which in ("evaluation", "training")
    for what in ("cost", "accuracy")
}


class Quartic:
    """A user-defined cost, for arrays of any library: ¼ Σ (a − y)⁴."""

    @staticmethod
    def fn(a, y):
        return 0.25 * np.sum(to_numpy(a - y) ** 4)

    @staticmethod
    def delta(z, a, y):
        assert z.shape == a.shape == y.shape == (SIZES[-1], a.shape[1])  # columns are samples
        return (a - y) ** 3 * book.sigmoid_prime(z)


def net_of(where=None, cost=CrossEntropyCost, sizes=SIZES, kind=Network, **options):
    return make(sizes, where, cost, kind=kind, **options)


# ---------------------------------------------------------------------------------------------
# A run


def test_the_first_weights_are_the_books():
    net = net_of(sizes=[3, 4, 2], seed=11)
    first = net.biases + net.weights
    net.large_weight_initializer()
    np.random.seed(11)
    for drawn, scales in ((first, np.sqrt([3, 4])), (net.biases + net.weights, np.ones(2))):
        biases = [np.random.randn(4, 1), np.random.randn(2, 1)]
        weights = [np.random.randn(4, 3) / scales[0], np.random.randn(2, 4) / scales[1]]
        for ours, theirs in zip(drawn, biases + weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert (net.num_layers, net.sizes, net.cost) == (3, [3, 4, 2], CrossEntropyCost)


def check_run(net, rng, *, matched, lmbda):
    """Check parameters, lists and lines of a run against the plain algorithm."""
    plain = Plain(net, matched=matched)
    data, evaluation = columns(rng, 77), columns(rng, 30)  # the last of 8 mini-batches is shorter
    random.seed(5)
    lines, results = run(
        net, data, 6, 10, 0.5, lmbda, evaluation_data=labeled(evaluation), **EVERYTHING
    )
    expected = [], [], [], []

    def look():
        for costs, rights, pairs in ((*expected[:2], evaluation), (*expected[2:], data)):
            costs.append(plain.cost(pairs, lmbda))
            rights.append(plain.right(pairs))

    random.seed(5)
    plain.train(data, 6, 10, 0.5, lmbda, look)
    assert_same_parameters(net, plain)
    for values, wanted in zip(results, expected, strict=True):
        assert [type(value) for value in values] == [type(value) for value in wanted]
        np.testing.assert_allclose(
            values, wanted, rtol=tolerance(to_numpy(net.weights[0]).dtype.name, 1e-11)
        )
    told = []
    for j, (cost, right, own_cost, own_right) in enumerate(zip(*results, strict=True)):
        told += [
            f"Epoch {j} training complete",
            f"Cost on training data: {own_cost}",
            f"Accuracy on training data: {own_right} / 77",
            f"Cost on evaluation data: {cost}",
            f"Accuracy on evaluation data: {right} / 30",
            "",
        ]
    assert lines == told


def test_a_watched_run_is_that_of_the_plain_loop(where, rng):
    net = net_of(where)
    check_run(net, rng, matched=True, lmbda=2.0)
    assert all(where.library.owns(a) for a in net.biases + net.weights)


@pytest.mark.parametrize("cost", [CrossEntropyCost(), QuadraticCost, QuadraticCost()])
@pytest.mark.parametrize("lmbda", [0.0, 5.0])
def test_both_costs_with_and_without_lambda_are_those_of_the_plain_loop(rng, cost, lmbda):
    check_run(net_of(cost=cost), rng, matched=isinstance(cost, CrossEntropyCost), lmbda=lmbda)


def test_what_is_not_monitored_is_neither_printed_nor_returned(rng):
    data = columns(rng, 20)
    lines, results = run(net_of(), zip(*zip(*data, strict=True), strict=True), 2, 5, 0.5)
    assert lines == ["Epoch 0 training complete", "", "Epoch 1 training complete", ""]
    assert results == ([], [], [], [])
    test_data = iter(labeled(data))
    _, results = run(
        net_of(), iter(data), 2, 5, 0.5, evaluation_data=test_data, monitor_evaluation_accuracy=True
    )
    assert [len(values) for values in results] == [0, 2, 0, 0]


def test_float32_stays_float32(rng):
    net = net_of(dtype="float32")
    data = columns(rng, 20)
    _, results = run(net, data, 1, 5, 0.5, 1.0, labeled(data), **EVERYTHING)
    assert {to_numpy(a).dtype.name for a in net.biases + net.weights} == {"float32"}
    assert type(results[0][0]) is float
    assert results[0] == results[2] == [pytest.approx(Plain(net, matched=True).cost(data, 1.0))]


def test_a_network_tells_what_it_is():
    shown = repr(net_of(cost=QuadraticCost()))
    assert shown == "Network([5, 4, 3], cost=QuadraticCost, numpy on cpu, float64, 39 parameters)"


def test_one_step_is_taken_with_the_lambda_and_n_that_are_given(where, rng):
    net = net_of(where)
    plain = Plain(net, matched=True)
    batch = columns(rng, 6)
    plain.step(batch, 2.0, 3.0 / 50)
    net.update_mini_batch(batch, 2.0, 3.0, 50)
    assert_same_parameters(net, plain)
    for ours, theirs in zip(net.backprop(*batch[0]), plain.gradient(*batch[0]), strict=True):
        for nabla, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(
                to_numpy(nabla), expected, rtol=0, atol=tolerance(widest(where), 1e-14)
            )


# ---------------------------------------------------------------------------------------------
# Early stopping


class Scripted(Network):
    """Tells accuracies that a test has thought of, those of training data as 0."""

    def accuracy(self, data, convert=False):
        return 0 if convert else self.script.pop(0)


@pytest.mark.parametrize(
    ("script", "epochs"),
    [
        ([3, 4, 4, 3, 5, 5, 4, 4, 9], 8),  # 3 epochs after the 5 there was nothing better
        ([0, 0, 0, 9], 3),  # none is no better than none
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 9),
    ],
)
def test_training_ends_when_the_accuracy_has_not_improved_for_n_epochs(rng, script, epochs):
    net, data = net_of(kind=Scripted), columns(rng, 4)
    net.script = list(script)
    flags = {"monitor_evaluation_accuracy": True, "monitor_training_accuracy": True}
    _, results = run(net, data, 9, 2, 0.5, 0.0, labeled(data), early_stopping_n=3, **flags)
    assert results[1] == script[:epochs]
    assert len(net.script) == len(script) - epochs


def test_the_accuracy_of_the_training_data_judges_where_no_other_is_monitored(rng):
    net, data = net_of(kind=Scripted), columns(rng, 4)
    lines = printed(net, data, 9, 2, 0.5, monitor_training_accuracy=True, early_stopping_n=2)
    assert lines[-3:] == ["Epoch 1 training complete", "Accuracy on training data: 0 / 4", ""]


# ---------------------------------------------------------------------------------------------
# Costs


def test_a_cost_of_ones_own_is_learned_by_and_monitored(where, rng):
    net = net_of(where, Quartic)
    data = columns(rng, 9)
    (x, y), a = data[0], to_numpy(net.feedforward(data[0][0]))
    np.testing.assert_allclose(
        to_numpy(net.backprop(x, y)[0][-1]),
        (a - y) ** 3 * a * (1 - a),
        atol=tolerance(widest(where), 1e-15),
    )
    outputs = [to_numpy(net.feedforward(x)) for x, _ in data]
    values = [0.25 * np.sum((a - y) ** 4) for a, (_, y) in zip(outputs, data, strict=True)]
    assert net.total_cost(data, 0.0) == pytest.approx(
        np.mean(values), rel=tolerance(widest(where), 1e-12)
    )
    assert net.total_cost(labeled(data), 0.0, convert=True) == net.total_cost(data, 0.0)
    shares = [(a - y) ** 3 * a * (1 - a) for a, (_, y) in zip(outputs, data, strict=True)]
    before = to_numpy(net.biases[-1])
    net.update_mini_batch(data, 1.0, 0.0, 9)
    np.testing.assert_allclose(
        to_numpy(net.biases[-1]), before - np.mean(shares, 0), atol=tolerance(widest(where), 1e-14)
    )


def test_a_subclass_of_a_cost_is_a_cost_of_its_own(rng):
    class Doubled(CrossEntropyCost):
        @staticmethod
        def delta(z, a, y):
            return 2 * (a - y)

    ours, plain = net_of(cost=Doubled), net_of()
    batch = columns(rng, 4)
    ours.update_mini_batch(batch, 0.5, 0.0, 4)
    plain.update_mini_batch(batch, 1.0, 0.0, 4)
    assert_same_parameters(ours, plain, 1e-15)
    assert ours.total_cost(batch, 0.0) == pytest.approx(plain.total_cost(batch, 0.0))


@pytest.mark.parametrize("cost", ["quadratic", None, type("Half", (), {"fn": len}), 3])
def test_a_cost_without_the_two_functions_is_refused(cost):
    with pytest.raises(TypeError, match=r"cost must be a class with static functions fn\(a, y\)"):
        Network(SIZES, cost)


def test_the_functions_of_the_costs_are_those_of_the_book(where):
    z = where.asarray([[-2.0], [0.5], [3.0]], widest(where))
    a, y = book.sigmoid(z), where.asarray([[0.0], [1.0], [0.25]], widest(where))
    at, yt = to_numpy(a), to_numpy(y)
    entropy = -np.sum(yt * np.log(at) + (1 - yt) * np.log(1 - at))
    for cost, value, delta in (
        (QuadraticCost, 0.5 * np.sum((at - yt) ** 2), (at - yt) * at * (1 - at)),
        (CrossEntropyCost, entropy, at - yt),
    ):
        assert float(to_numpy(cost.fn(a, y))) == pytest.approx(
            value, rel=tolerance(widest(where), 1e-13)
        )
        np.testing.assert_allclose(
            to_numpy(cost.delta(z, a, y)), delta, atol=tolerance(widest(where), 1e-15)
        )
        assert where.library.owns(cost.fn(a, y))
        assert float(to_numpy(cost.fn(a, yt))) == float(to_numpy(cost.fn(a, y)))
        assert where.library.owns(cost.delta(z, a, y))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_cross_entropy_of_outputs_of_0_and_1_is_a_number(dtype):
    most = np.finfo(dtype).max
    a = np.array([[0.0], [1.0], [0.5]], dtype)
    for y, wanted in (
        ([[0], [1], [1]], np.log(2)),
        ([[1], [1], [1]], most),
        ([[0], [0], [1]], most),
        ([[0], [0.5], [1]], most),
        ([[1], [0], [1]], np.inf),  # the largest number, twice
    ):
        assert CrossEntropyCost.fn(a, np.array(y, dtype)) == pytest.approx(wanted, rel=1e-6)
    assert CrossEntropyCost.fn(a.tolist(), [[0], [1], [1]]) == pytest.approx(np.log(2))


def test_the_total_cost_stays_finite_where_an_output_is_wrong_beyond_its_digits(rng):
    net = net_of()
    net.biases = [np.zeros((4, 1)), [[100.0], [60.0], [0.0]]]
    net.weights = [np.zeros((4, 5)), np.zeros((3, 4))]
    x = rng.normal(size=(5, 1))
    both = np.array([[1.0], [1.0], [0.0]])
    assert net.total_cost([(x, both)] * 3, 0.0) == pytest.approx(np.log(2))
    most = np.finfo("float64").max
    first = np.array([[1.0], [0.0], [0.0]])
    assert net.total_cost([(x, first), (x, both)], 0.0) == pytest.approx(most / 2)
    assert net.total_cost([(x, 2)], 0.0, convert=True) == np.inf  # two of its outputs are wrong


def test_the_penalty_is_shared_among_the_samples_that_are_given(rng):
    net, data = net_of(), columns(rng, 10)
    squares = sum(np.sum(w * w) for w in net.weights)
    for part in (data, data[:4]):
        more = net.total_cost(part, 3.0) - net.total_cost(part, 0.0)
        assert more == pytest.approx(0.5 * 3.0 / len(part) * squares)


def test_convert_tells_which_form_the_targets_have(where, rng):
    net, data = net_of(where), columns(rng, 12)
    right = Plain(net, matched=True).right(data)
    assert net.accuracy(labeled(data)) == net.accuracy(data, convert=True) == right
    assert net.total_cost(labeled(data), 1.0, convert=True) == net.total_cost(data, 1.0)
    with pytest.raises(ValueError, match=r"(?s)whole number.* is evaluated with convert=True"):
        net.accuracy(data)
    with pytest.raises(ValueError, match="is how test data is written"):
        net.accuracy(labeled(data), convert=True)
    with pytest.raises(ValueError, match=r"(?s)whole number.* is evaluated with convert=False"):
        net.total_cost(data, 1.0, convert=True)
    with pytest.raises(ValueError, match="is how test data is written"):
        net.total_cost(labeled(data), 1.0)


# ---------------------------------------------------------------------------------------------
# Subclasses and refusals


def test_overridden_methods_are_called_as_the_book_calls_them(rng):
    class Heard(Network):
        def update_mini_batch(self, mini_batch, eta, lmbda, n):
            heard.append(("step", len(mini_batch), eta, lmbda, n))
            super().update_mini_batch(mini_batch, eta, lmbda, n)

        def backprop(self, x, y):
            nabla_b, nabla_w = super().backprop(x, y)
            return [2 * nb for nb in nabla_b], [2 * nw for nw in nabla_w]

        def total_cost(self, data, lmbda, convert=False):
            heard.append(("cost", len(data), lmbda, convert))
            x, y = data[0]
            assert x.shape == (5, 1)
            assert type(y) is int if convert else y.shape == (3, 1)
            with pytest.raises(ValueError, match="y of a t"):  # the other form stays the other
                super().total_cost(data, lmbda, not convert)
            return super().total_cost(data, lmbda, convert)

    heard = []
    data = columns(rng, 6)
    net, plain = net_of(kind=Heard), net_of()
    twice = Plain(plain, matched=True)
    once = twice.gradient
    twice.gradient = lambda x, y: [[2 * nabla for nabla in part] for part in once(x, y)]
    for seeded in (
        lambda: run(
            *(net, data, 1, 4, 0.5, 3.0),
            evaluation_data=labeled(data[:5]),
            monitor_evaluation_cost=True,
            monitor_training_cost=True,
        ),
        lambda: twice.train(data, 1, 4, 0.5, 3.0),
    ):
        random.seed(1)
        seeded()
    assert_same_parameters(net, twice)
    assert heard == [
        ("step", 4, 0.5, 3.0, 6),
        ("step", 2, 0.5, 3.0, 6),
        ("cost", 6, 3.0, False),
        ("cost", 5, 3.0, True),
    ]


X, Y = np.zeros((5, 1)), np.zeros((3, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmbda": -1.0}, "lmbda must be finite and at least 0"),
        ({"eta": np.inf}, "eta must be finite"),
        ({"epochs": -1}, "epochs must be at least 0"),
        ({"mini_batch_size": 0}, "mini_batch_size must be at least 1"),
        ({"early_stopping_n": -1}, "early_stopping_n must be at least 0"),
        ({"early_stopping_n": 2, "monitor_training_cost": True}, "needs an accuracy"),
        ({"monitor_evaluation_cost": True}, "need evaluation_data"),
        ({"monitor_evaluation_accuracy": True, "evaluation_data": []}, "evaluation_data is empty"),
        (
            {"monitor_evaluation_accuracy": True, "evaluation_data": [(X, Y)]},
            "is evaluated with monitor_training_accuracy",
        ),
        ({"training_data": [(X, 1)]}, "is how test data is written"),
    ],
)
def test_what_can_not_be_meant_is_refused(options, message):
    given = {"training_data": [(X, Y)], "epochs": 1, "mini_batch_size": 1, "eta": 1.0}
    with pytest.raises(ValueError, match=message):
        net_of().SGD(**given | options)


def test_a_diverged_run_stops_and_keeps_the_parameters_of_before(rng):
    net = net_of()
    before = [w.copy() for w in net.weights]
    with (
        np.errstate(all="ignore"),
        pytest.raises(DivergenceError, match=r"epoch 0.* Try eta below 1e\+200, or lmbda below 30"),
    ):
        net.SGD(columns(rng, 20), 3, 5, 1e200, lmbda=30.0)
    for w, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(w, value)


# ---------------------------------------------------------------------------------------------
# Files


def test_a_saved_network_is_loaded_on_any_device(where, tmp_path, rng):
    net = net_of(where, QuadraticCost, dtype="float32")
    net.save(tmp_path / "net.json")
    fields = json.loads((tmp_path / "net.json").read_text())
    assert list(fields) == ["sizes", "weights", "biases", "cost"]
    assert (fields["sizes"], fields["cost"]) == (SIZES, "QuadraticCost")
    assert [np.shape(w) for w in fields["weights"]] == [(4, 5), (3, 4)]
    assert [np.shape(b) for b in fields["biases"]] == [(4, 1), (3, 1)]
    there = {"backend": where.backend, "device": where.device_name, "dtype": widest(where)}
    twin = load(tmp_path / "net.json", **there)
    assert all(map(np.array_equal, map(to_numpy, twin.weights), map(to_numpy, net.weights)))
    assert all(map(np.array_equal, map(to_numpy, twin.biases), map(to_numpy, net.biases)))
    assert twin.cost is QuadraticCost
    assert all(where.library.owns(w) for w in twin.weights)
    assert to_numpy(twin.weights[0]).dtype == widest(where)


def test_a_file_that_the_books_own_program_wrote_is_loaded(tmp_path):
    weights, biases = [[[0.5, -1e-17], [2, 3.25]], [[1.5, 0.0]]], [[[0.25], [1]], [[-3.0]]]
    fields = {"cost": "CrossEntropyCost", "biases": biases, "weights": weights, "sizes": [2, 2, 1]}
    (tmp_path / "MyNetwork").write_text(json.dumps(fields))
    net = load(str(tmp_path / "MyNetwork"))
    assert [w.tolist() for w in net.weights] == weights
    assert [b.tolist() for b in net.biases] == biases
    assert (net.sizes, net.cost) == ([2, 2, 1], CrossEntropyCost)


def test_a_network_with_a_cost_of_ones_own_is_loaded_with_it(tmp_path, rng):
    net = net_of(cost=Quartic)
    net.save(tmp_path / "net")
    data = columns(rng, 3)
    twin = load(tmp_path / "net", cost=Quartic)
    assert twin.total_cost(data, 1.0) == net.total_cost(data, 1.0)
    for cost, others in ((None, "QuadraticCost or CrossEntropyCost"), (QuadraticCost(), "Quad")):
        with pytest.raises(CheckpointError, match=f"with the cost 'Quartic', not {others}"):
            load(tmp_path / "net", cost=cost)
