import mpmath
import numpy as np
import pytest
from helpers import PROPERTY, assert_agrees, central_difference, random_targets
from hypothesis import given
from hypothesis import strategies as st

from bp_xp import ACTIVATIONS, COSTS, Cost, MatchedCost, to_numpy
from bp_xp.math import equations

PLAIN = [name for name, cost in COSTS.items() if isinstance(cost, Cost)]
MATCHED = [name for name, cost in COSTS.items() if isinstance(cost, MatchedCost)]


def value(name, z_or_a, y, where):
    """Return the cost of each sample; the floating-point unit may not raise a flag on the way."""
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        return COSTS[name].value(z_or_a, y, xp=where.xp)


def derivative(name, z_or_a, y, where):
    """Return ∇ₐC, or for a matched cost δᴸ from the weighted input."""
    cost = COSTS[name]
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        if isinstance(cost, Cost):
            return cost.gradient(z_or_a, y, xp=where.xp)
        return cost.error(ACTIVATIONS[cost.output].sigma(z_or_a, xp=where.xp), y, xp=where.xp)


# ---------------------------------------------------------------------------------------------
# The definitions, in digits enough for e⁻²⁰⁰⁰⁰


def mp_quadratic(a, y):
    return mpmath.fsum((a_k - y_k) ** 2 for a_k, y_k in zip(a, y, strict=True)) / 2


def mp_huber(a, y):
    residuals = [abs(a_k - y_k) for a_k, y_k in zip(a, y, strict=True)]
    return mpmath.fsum(r**2 / 2 if r <= 1 else r - mpmath.mpf(1) / 2 for r in residuals)


def mp_sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def mp_softmax(z):
    powers = [mpmath.exp(z_k) for z_k in z]
    return [power / mpmath.fsum(powers) for power in powers]


def mp_binary_cross_entropy(z, y):
    # ln(1 − a) is ln σ(−z): a itself would need as many digits as e⁻ᶻ is small.
    return -mpmath.fsum(
        y_k * mpmath.log(mp_sigmoid(z_k)) + (1 - y_k) * mpmath.log(mp_sigmoid(-z_k))
        for z_k, y_k in zip(z, y, strict=True)
    )


def mp_categorical_cross_entropy(z, y):
    return -mpmath.fsum(
        y_k * mpmath.log(a_k) for y_k, a_k in zip(y, mp_softmax(z), strict=True) if y_k
    )


DEFINITIONS = {
    "quadratic": mp_quadratic,
    "huber": mp_huber,
    "binary_cross_entropy": mp_binary_cross_entropy,
    "categorical_cross_entropy": mp_categorical_cross_entropy,
}


def in_many_digits(function, *matrices):
    """Apply a function of rows in many digits, row by row."""
    with mpmath.workdps(60):
        rows = zip(*([[mpmath.mpf(float(v)) for v in row] for row in m] for m in matrices))  # noqa: B905
        return np.array([np.asarray(function(*row), dtype=float) for row in rows])


def test_every_cost_has_a_definition():
    assert set(DEFINITIONS) == set(COSTS)
    assert all(name == cost.name for name, cost in COSTS.items())
    assert all(cost.output in ACTIVATIONS for cost in COSTS.values())


@pytest.mark.parametrize("name", COSTS)
def test_cost_equals_its_definition(where, dtype, rng, name):
    inputs = (3.0 * rng.normal(size=(6, 4))).astype(dtype)
    y = random_targets(name, 6, 4, rng).astype(dtype)
    result = value(name, where.asarray(inputs), where.asarray(y), where)
    if name == "categorical_cross_entropy":
        y = y.astype(float) / y.sum(axis=-1, keepdims=True, dtype=float)
    assert_agrees(result, in_many_digits(DEFINITIONS[name], inputs, y), where, dtype)


@pytest.mark.parametrize("name", COSTS)
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


@pytest.mark.parametrize("name", COSTS)
def test_cost_leaves_its_arguments_alone(where, dtype, rng, name):
    hosts = [rng.random((4, 3)).astype(dtype) for _ in range(2)]
    inputs, y = (where.asarray(host.copy()) for host in hosts)
    value(name, inputs, y, where)
    # The error of the output layer is scaled in place, and may not share memory with a or y.
    slopes = derivative(name, inputs, y, where)
    slopes *= 0.0
    assert np.array_equal(to_numpy(inputs), hosts[0])
    assert np.array_equal(to_numpy(y), hosts[1])


@pytest.mark.parametrize("name", COSTS)
def test_derivative_equals_central_differences(where, rng, name):
    inputs, y = rng.normal(size=(6, 4)), random_targets(name, 6, 4, rng)
    if name == "huber":
        # A sample at a kink has no difference: all are moved away from |a − y| = 1.
        residual = inputs - y
        y = y + np.where(np.abs(np.abs(residual) - 1.0) < 0.02, 0.1, 0.0)
        assert (np.abs(np.abs(inputs - y) - 1.0) > 0.01).all()
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
def test_binary_cross_entropy_is_right_at_extreme_logits(where, dtype, truth):
    z = LOGITS[:, None].astype(dtype)
    y = np.full_like(z, truth)
    result = value("binary_cross_entropy", where.asarray(z), where.asarray(y), where)
    desired = in_many_digits(mp_binary_cross_entropy, z, y)
    # Relative to the cost itself: a sure and right answer costs little, but not nothing. Costs
    # below the normal numbers may be flushed to zero.
    info = np.finfo(dtype)
    np.testing.assert_allclose(
        to_numpy(result).astype(float), desired, rtol=8 * float(info.eps), atol=float(info.tiny)
    )
    error = derivative("binary_cross_entropy", where.asarray(z), where.asarray(y), where)
    assert_agrees(error, in_many_digits(lambda z, y: [mp_sigmoid(z[0]) - y[0]], z, y), where, dtype)


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
    assert_agrees(error, to_numpy(chain), where, "float64")


def test_matched_error_of_softmax_equals_the_chain_through_its_jacobian(where, rng):
    z, y = where.asarray(rng.normal(size=(6, 4))), where.asarray(rng.dirichlet(np.ones(4), 6))
    softmax = ACTIVATIONS["softmax"]
    a = softmax.sigma(z, xp=where.xp)
    chain = equations.coupled_error(-y / a, softmax.sigma_prime(z, a, xp=where.xp))
    error = COSTS["categorical_cross_entropy"].error(a, y, xp=where.xp)
    assert_agrees(error, to_numpy(chain), where, "float64")


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
