import functools
import pickle

import mpmath
import numpy as np
import pytest
from helpers import EVERY_COST, PROPERTY, assert_agrees, central_difference, random_targets
from hypothesis import given
from hypothesis import strategies as st

from bp_xp import (
    ACTIVATIONS,
    COSTS,
    Cost,
    MatchedCost,
    Network,
    binary_cross_entropy,
    categorical_cross_entropy,
    huber,
    to_numpy,
)
from bp_xp.math import equations
from bp_xp.math.costs import cost_named, cross_entropy_of_outputs

PLAIN = [name for name, cost in EVERY_COST.items() if isinstance(cost, Cost)]
MATCHED = [name for name, cost in EVERY_COST.items() if isinstance(cost, MatchedCost)]


def value(name, z_or_a, y, where):
    """Return the cost of each sample; the floating-point unit may not raise a flag on the way."""
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        return EVERY_COST[name].value(z_or_a, y, xp=where.xp)


def derivative(name, z_or_a, y, where):
    """Return ∇ₐC, or for a matched cost δᴸ from the weighted input."""
    cost = EVERY_COST[name]
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        if isinstance(cost, Cost):
            return cost.gradient(z_or_a, y, xp=where.xp)
        return cost.error(ACTIVATIONS[cost.output].sigma(z_or_a, xp=where.xp), y, xp=where.xp)


# ---------------------------------------------------------------------------------------------
# The definitions, in digits enough for e⁻²⁰⁰⁰⁰


def mp_quadratic(a, y):
    return mpmath.fsum((a_k - y_k) ** 2 for a_k, y_k in zip(a, y, strict=True)) / 2


def mp_huber(a, y, delta=1):
    residuals = [abs(a_k - y_k) for a_k, y_k in zip(a, y, strict=True)]
    return mpmath.fsum(
        r**2 / 2 if r <= delta else delta * (r - mpmath.mpf(delta) / 2) for r in residuals
    )


def mp_sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def mp_softmax(z):
    powers = [mpmath.exp(z_k) for z_k in z]
    return [power / mpmath.fsum(powers) for power in powers]


def mp_binary_cross_entropy(z, y, weight=1, smoothing=0):
    # ln(1 − a) is ln σ(−z): a itself would need as many digits as e⁻ᶻ is small.
    y = [(1 - smoothing) * y_k + mpmath.mpf(smoothing) / 2 for y_k in y]
    return -mpmath.fsum(
        weight * y_k * mpmath.log(mp_sigmoid(z_k)) + (1 - y_k) * mpmath.log(mp_sigmoid(-z_k))
        for z_k, y_k in zip(z, y, strict=True)
    )


def mp_categorical_cross_entropy(z, y, smoothing=0):
    y = [(1 - smoothing) * y_k + mpmath.mpf(smoothing) / len(y) for y_k in y]
    return -mpmath.fsum(
        y_k * mpmath.log(a_k) for y_k, a_k in zip(y, mp_softmax(z), strict=True) if y_k
    )


DEFINITIONS = {
    "quadratic": mp_quadratic,
    "huber": mp_huber,
    "huber:delta=0.5": functools.partial(mp_huber, delta=mpmath.mpf(0.5)),
    "categorical_cross_entropy:label_smoothing=0.25": functools.partial(
        mp_categorical_cross_entropy, smoothing=mpmath.mpf(0.25)
    ),
    "binary_cross_entropy": mp_binary_cross_entropy,
    "binary_cross_entropy:positive_weight=3.0": functools.partial(
        mp_binary_cross_entropy, weight=3
    ),
    "binary_cross_entropy:positive_weight=0.5:label_smoothing=0.25": functools.partial(
        mp_binary_cross_entropy, weight=mpmath.mpf(0.5), smoothing=mpmath.mpf(0.25)
    ),
    "categorical_cross_entropy": mp_categorical_cross_entropy,
}


def in_many_digits(function, *matrices):
    """Apply a function of rows in many digits, row by row."""
    with mpmath.workdps(60):
        rows = zip(*([[mpmath.mpf(float(v)) for v in row] for row in m] for m in matrices))  # noqa: B905
        return np.array([np.asarray(function(*row), dtype=float) for row in rows])


def test_every_cost_has_a_definition():
    assert set(DEFINITIONS) == set(EVERY_COST)
    assert all(name == cost.name for name, cost in EVERY_COST.items())
    assert all(cost.output in ACTIVATIONS for cost in EVERY_COST.values())


@pytest.mark.parametrize("name", EVERY_COST)
def test_cost_equals_its_definition(where, dtype, rng, name):
    inputs = (3.0 * rng.normal(size=(6, 4))).astype(dtype)
    y = random_targets(name, 6, 4, rng).astype(dtype)
    result = value(name, where.asarray(inputs), where.asarray(y), where)
    if name.startswith("categorical_cross_entropy"):
        y = y.astype(float) / y.sum(axis=-1, keepdims=True, dtype=float)
    assert_agrees(result, in_many_digits(DEFINITIONS[name], inputs, y), where, dtype)


@pytest.mark.parametrize("name", EVERY_COST)
@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (2, 4, 3)], ids=str)
def test_cost_is_one_number_a_sample_and_its_derivative_one_an_output(
    where, dtype, rng, name, shape
):
    inputs = where.asarray(rng.normal(size=shape), dtype)
    y = where.asarray(rng.random(shape), dtype)
    costs, slopes = value(name, inputs, y, where), derivative(name, inputs, y, where)
    for result, wanted in ((costs, shape[:-1]), (slopes, shape)):
        assert tuple(result.shape) == wanted
        assert_agrees(result, to_numpy(result), where, dtype)


@pytest.mark.parametrize("name", EVERY_COST)
def test_cost_leaves_its_arguments_alone(where, dtype, rng, name):
    hosts = [rng.random((4, 3)).astype(dtype) for _ in range(2)]
    inputs, y = (where.asarray(host.copy()) for host in hosts)
    value(name, inputs, y, where)
    # The error of the output layer is scaled in place, and may not share memory with a or y.
    slopes = derivative(name, inputs, y, where)
    slopes *= 0.0
    assert np.array_equal(to_numpy(inputs), hosts[0])
    assert np.array_equal(to_numpy(y), hosts[1])


@pytest.mark.parametrize("name", EVERY_COST)
@pytest.mark.needs_float64("a finite difference")
def test_derivative_equals_central_differences(where, rng, name):
    inputs, y = rng.normal(size=(6, 4)), random_targets(name, 6, 4, rng)
    if name.startswith("huber"):
        # A sample at a kink has no difference: all are moved away from |a − y| = δ.
        kink = 0.5 if name.endswith("=0.5") else 1.0
        y = y + np.where(np.abs(np.abs(inputs - y) - kink) < 0.02, 0.1, 0.0)
        assert (np.abs(np.abs(inputs - y) - kink) > 0.01).all()
    y = where.asarray(y)
    columns = [
        central_difference(
            lambda t, unit=unit: to_numpy(value(name, where.asarray(inputs + t * unit), y, where))
        )
        for unit in np.eye(4)
    ]
    claimed = to_numpy(derivative(name, where.asarray(inputs), y, where))
    # Rounding of costs of about 10 gives 1e-15 / step.
    np.testing.assert_allclose(claimed, np.stack(columns, axis=-1), rtol=0, atol=2e-11)


# ---------------------------------------------------------------------------------------------
# Cross-entropies

LOGITS = np.array([s * z for z in (0.0, 1e-8, 1.0, 8.0, 17.0, 30.0, 710.0, 1e4) for s in (1, -1)])


@pytest.mark.skip_xp_backends("mlx", reason="MLX's exp errs by 4e-6 there")
@pytest.mark.parametrize("truth", [0.0, 1.0, 0.25], ids=str)
@pytest.mark.parametrize(
    "name", ["binary_cross_entropy", "binary_cross_entropy:positive_weight=3.0"]
)
def test_binary_cross_entropy_is_right_at_extreme_logits(where, dtype, truth, name):
    z = LOGITS[:, None].astype(dtype)
    y = np.full_like(z, truth)
    result = value(name, where.asarray(z), where.asarray(y), where)
    desired = in_many_digits(DEFINITIONS[name], z, y)
    # Relative to the cost itself: a sure and right answer costs little, but not nothing. Costs
    # below the normal numbers may be flushed to zero.
    info = np.finfo(dtype)
    np.testing.assert_allclose(
        to_numpy(result).astype(float), desired, rtol=8 * float(info.eps), atol=float(info.tiny)
    )
    weight = 3 if name.endswith("3.0") else 1

    def mp_error(z, y):
        return [mp_sigmoid(z[0]) * (1 - y[0]) - weight * y[0] * mp_sigmoid(-z[0])]

    error = derivative(name, where.asarray(z), where.asarray(y), where)
    assert_agrees(error, in_many_digits(mp_error, z, y), where, dtype)


ROWS = np.array(
    [
        [0.0, 0.0, 0.0],
        [1.0, 2.0, 3.0],
        [-1e4, -1e4, -1e4],
        [1e4, -1e4, 0.0],
        [-1e4, 1e4, 1e4],
        [710.0, 709.0, -710.0],
        [-710.0, -711.0, -1e4],
        [1e4, 1e4, 9999.0],
    ]
)


@pytest.mark.parametrize(
    "truth", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.25, 0.25, 0.5)], ids=str
)
def test_categorical_cross_entropy_is_right_at_extreme_logits(where, dtype, truth):
    z = ROWS.astype(dtype)
    y = np.tile(np.array(truth, dtype), (len(z), 1))
    result = value("categorical_cross_entropy", where.asarray(z), where.asarray(y), where)
    desired = in_many_digits(mp_categorical_cross_entropy, z, y)
    eps = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(to_numpy(result).astype(float), desired, rtol=eps, atol=eps)

    def error(z, y):
        return [a_k - y_k for a_k, y_k in zip(mp_softmax(z), y, strict=True)]

    result = derivative("categorical_cross_entropy", where.asarray(z), where.asarray(y), where)
    assert_agrees(result, in_many_digits(error, z, y), where, dtype)


@pytest.mark.parametrize(
    ("name", "z", "y"),
    [
        ("binary_cross_entropy", [[200.0]], [[0.0]]),
        ("binary_cross_entropy", [[-200.0]], [[1.0]]),
        ("categorical_cross_entropy", [[200.0, 0.0]], [[0.0, 1.0]]),
    ],
    ids=["binary-0", "binary-1", "categorical"],
)
def test_probability_of_exactly_one_for_the_wrong_class_has_a_finite_cost(where, dtype, name, z, y):
    z, y = where.asarray(z, dtype), where.asarray(y, dtype)
    a = to_numpy(ACTIVATIONS[COSTS[name].output].sigma(z, xp=where.xp))
    assert np.abs(a - to_numpy(y)).max() == 1.0
    assert_agrees(value(name, z, y, where), [200.0], where, dtype, eps=1)
    assert_agrees(derivative(name, z, y, where), a - to_numpy(y), where, dtype, eps=1)


def test_matched_error_of_sigmoid_equals_the_chain_through_its_slope(where, rng):
    z, y = where.asarray(rng.normal(size=(6, 4))), where.asarray(rng.random((6, 4)))
    sigmoid = ACTIVATIONS["sigmoid"]
    a = sigmoid.sigma(z, xp=where.xp)
    nabla_a = (a - y) / (a * (1.0 - a))
    chain = equations.output_error(nabla_a, sigmoid.sigma_prime(z, a, xp=where.xp))
    error = COSTS["binary_cross_entropy"].error(a, y, xp=where.xp)
    assert_agrees(error, to_numpy(chain), where)


def test_matched_error_of_softmax_equals_the_chain_through_its_jacobian(where, rng):
    z, y = where.asarray(rng.normal(size=(6, 4))), where.asarray(rng.dirichlet(np.ones(4), 6))
    softmax = ACTIVATIONS["softmax"]
    a = softmax.sigma(z, xp=where.xp)
    chain = equations.coupled_error(-y / a, softmax.sigma_prime(z, a, xp=where.xp))
    error = COSTS["categorical_cross_entropy"].error(a, y, xp=where.xp)
    assert_agrees(error, to_numpy(chain), where)


@pytest.mark.parametrize("name", MATCHED)
@PROPERTY
@given(
    z=st.lists(st.floats(-1e4, 1e4), min_size=8, max_size=8),
    label=st.integers(0, 3),
)
def test_cross_entropy_is_never_negative(where, dtype, name, z, label):
    y = np.tile(np.eye(4)[label], (2, 1))
    costs = value(name, where.asarray(np.reshape(z, (2, 4)), dtype), where.asarray(y, dtype), where)
    assert (to_numpy(costs) >= 0.0).all()


# ---------------------------------------------------------------------------------------------
# Quadratic and Huber


def test_quadratic_cost_is_half_the_squared_distance(where, dtype):
    a, y = where.asarray([[3.0, 4.0], [1.0, 1.0]], dtype), where.asarray([[0.0, 0.0]] * 2, dtype)
    assert_agrees(value("quadratic", a, y, where), [12.5, 1.0], where, dtype, eps=0)


def test_huber_cost_meets_itself_at_the_kinks(where, dtype):
    step = 2.0**-20  # float32 holds 1 ± step exactly
    r = np.array([[-1.0 - step], [-1.0], [-1.0 + step], [0.0], [1.0 - step], [1.0], [1.0 + step]])
    y = where.asarray(np.zeros_like(r), dtype)
    inside = 0.5 * (1.0 - step) ** 2
    desired = [0.5 + step, 0.5, inside, 0.0, inside, 0.5, 0.5 + step]
    assert_agrees(value("huber", where.asarray(r, dtype), y, where), desired, where, dtype, eps=1)
    slopes = derivative("huber", where.asarray(r, dtype), y, where)
    assert_agrees(slopes, np.clip(r, -1.0, 1.0), where, dtype, eps=0)


@pytest.mark.parametrize("residual", [1e4, -1e4, 1e30, -1e30], ids=str)
def test_huber_cost_of_a_far_outlier_grows_with_its_distance_alone(where, dtype, residual):
    a, y = where.asarray([[residual]], dtype), where.asarray([[0.0]], dtype)
    assert_agrees(value("huber", a, y, where), [abs(residual) - 0.5], where, dtype, eps=1)
    assert_agrees(derivative("huber", a, y, where), [[np.sign(residual)]], where, dtype, eps=0)


@pytest.mark.parametrize("name", PLAIN)
def test_cost_of_a_perfect_answer_is_nothing(where, dtype, rng, name):
    a = where.asarray(rng.normal(size=(3, 2)), dtype)
    assert_agrees(value(name, a, a, where), np.zeros(3), where, dtype)
    assert_agrees(derivative(name, a, a, where), np.zeros((3, 2)), where, dtype)


# ---------------------------------------------------------------------------------------------
# From rounded outputs


def test_cross_entropy_of_outputs_is_that_of_the_weighted_input(where, dtype, rng):
    z = where.asarray(rng.normal(size=(7, 3)), dtype)
    y = where.asarray(rng.uniform(size=(7, 3)), dtype)
    a = ACTIVATIONS["sigmoid"].sigma(z, xp=where.xp)
    wanted = to_numpy(value("binary_cross_entropy", z, y, where))
    assert_agrees(cross_entropy_of_outputs(a, y, xp=where.xp), wanted, where, dtype)


def test_cross_entropy_of_outputs_of_0_and_1_is_a_number(where, dtype):
    a = where.asarray([[0, 1, 0.5]] * 4, dtype)
    y = where.asarray([[0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0.5, 1]], dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        costs = to_numpy(cross_entropy_of_outputs(a, y, xp=where.xp))
    most = float(np.finfo(dtype).max)
    np.testing.assert_allclose(costs, [np.log(2), most, most, most], rtol=1e-6)


# ---------------------------------------------------------------------------------------------
# Settings


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("huber:delta=2", huber(delta=2.0)),
        ("huber:delta=1", COSTS["huber"]),
        ("binary_cross_entropy:positive_weight=3", binary_cross_entropy(3)),
        ("binary_cross_entropy:positive_weight=3", binary_cross_entropy([3.0])),
        ("binary_cross_entropy:positive_weight=1,3", binary_cross_entropy(np.array([1.0, 3.0]))),
        ("binary_cross_entropy:label_smoothing=0.1", binary_cross_entropy(label_smoothing=0.1)),
        (
            "binary_cross_entropy:label_smoothing=0.1:positive_weight=3",
            binary_cross_entropy(3.0, label_smoothing=0.1),
        ),
        ("categorical_cross_entropy:label_smoothing=.1", categorical_cross_entropy(0.1)),
        ("categorical_cross_entropy:label_smoothing=0", COSTS["categorical_cross_entropy"]),
    ],
)
def test_a_name_with_settings_stands_for_the_cost_that_has_them(text, cost):
    assert cost_named(text) == cost == pickle.loads(pickle.dumps(cost))
    assert cost_named(cost.name) in (cost, cost.name)
    assert hash(cost_named(text)) == hash(cost)
    assert cost_named(cost) is cost


def test_costs_of_other_settings_are_others():
    assert huber(0.5) != huber(0.25)
    assert huber(0.5) != COSTS["huber"] == huber()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("huber:delta=0", "delta must be finite and above 0, not 0.0"),
        ("huber:delta=nan", "delta must be finite and above 0"),
        ("huber:delta=wide", "delta must be a number, not 'wide'"),
        ("huber:delta", "delta must be a number, not ''"),
        ("huber:", "huber takes SETTING=VALUE after a colon, with delta once"),
        ("huber:epsilon=1", "with delta once for SETTING, not 'epsilon=1'"),
        ("huber:delta=1:delta=2", "once for SETTING, not 'delta=2'"),
        ("binary_cross_entropy:positive_weight=0", "positive_weight must be finite and above 0"),
        ("binary_cross_entropy:positive_weight=1,-2", r"positive_weight\[1\] must be finite and"),
        ("binary_cross_entropy:positive_weight=1,", "must be a number, not '1,'"),
        ("categorical_cross_entropy:label_smoothing=1", "at least 0 and below 1, not 1.0"),
        ("categorical_cross_entropy:label_smoothing=-0.1", "at least 0 and below 1, not -0.1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        cost_named(text)


@pytest.mark.parametrize("delta", ["1", None, True], ids=repr)
def test_a_setting_that_is_no_number_is_refused(delta):
    with pytest.raises(TypeError, match="delta must be a number"):
        huber(delta)


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_those_of_pytorch_but_for_the_mean_over_outputs(rng, name):
    torch = pytest.importorskip("torch")
    inputs, y = 2.0 * rng.normal(size=(6, 4)), random_targets(name, 6, 4, rng)
    kind, divisor = {
        "quadratic": (torch.nn.MSELoss, 2),
        "huber": (torch.nn.HuberLoss, 1),
        "binary_cross_entropy": (torch.nn.BCEWithLogitsLoss, 1),
        "categorical_cross_entropy": (torch.nn.CrossEntropyLoss, 1),
    }[name]
    arguments, ours = map(torch.tensor, (inputs, y)), COSTS[name].value(inputs, y, xp=np).mean()
    arguments = list(arguments)
    total = kind(reduction="sum")(*arguments).item()
    assert total / len(inputs) / divisor == pytest.approx(ours, rel=1e-13)
    outputs = 1 if name == "categorical_cross_entropy" else 4
    assert kind()(*arguments).item() * outputs / divisor == pytest.approx(ours, rel=1e-13)


@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_smooth_l1_of_pytorch_is_huber_divided_by_its_delta(rng, delta):
    torch = pytest.importorskip("torch")
    a, y = 2.0 * rng.normal(size=(2, 6, 4))
    theirs = torch.nn.SmoothL1Loss(beta=delta, reduction="sum")(torch.tensor(a), torch.tensor(y))
    assert theirs.item() == pytest.approx(huber(delta).value(a, y, xp=np).sum() / delta)


def test_smoothed_labels_are_those_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    z, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    ours = categorical_cross_entropy(label_smoothing=0.1).value(z, np.eye(4)[labels], xp=np)
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    assert theirs(torch.tensor(z), torch.tensor(labels)).item() == pytest.approx(ours.mean())


@pytest.mark.parametrize("weights", [3.0, (0.5, 1.0, 4.0)], ids=str)
def test_positive_weights_are_those_of_pytorch(where, rng, weights):
    torch = pytest.importorskip("torch")
    z, y = rng.normal(size=(6, 3)), rng.random((6, 3))
    cost = binary_cross_entropy(positive_weight=weights)
    logits = torch.tensor(z, requires_grad=True)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights), reduction="none")
    theirs = loss(logits, torch.tensor(y)).sum(dim=-1)
    theirs.sum().backward()
    here = where.asarray(z), where.asarray(y)
    a = ACTIVATIONS["sigmoid"].sigma(here[0], xp=where.xp)
    assert_agrees(cost.value(*here, xp=where.xp), theirs.detach().numpy(), where)
    assert_agrees(cost.error(a, here[1], xp=where.xp), logits.grad.numpy(), where)


def test_positive_weights_fit_the_outputs():
    assert Network([2, 3], cost=binary_cross_entropy([1.0, 2.0, 3.0])).sizes == (2, 3)
    with pytest.raises(ValueError, match="list of positive_weight that does not fit the 2 outputs"):
        Network([2, 2], cost=binary_cross_entropy([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match=r"positive_weight is an empty sequence"):
        binary_cross_entropy([])


@pytest.mark.parametrize("name", ["quadratic:delta=2", "quartic:x", "huber"])
def test_other_names_are_left_to_others(name):
    assert cost_named(name) == name
