import functools

import mpmath
import numpy as np
import pytest
from helpers import PROPERTY, assert_agrees, central_difference
from hypothesis import given
from hypothesis import strategies as st

from bp_xp import ACTIVATIONS, to_numpy

ELEMENTWISE = [name for name, sigma in ACTIVATIONS.items() if not sigma.coupled]
RECTIFIED = {"silu", "gelu", "gelu_exact"}  # smooth, and below 0 for a while
KINKED = {"relu", "leaky_relu", "elu"}

POINTS = np.array(
    [0.0]
    + [s * z for z in (1e-8, 1e-3, 0.1, 0.5, 1.0, 2.5, 5.0, 9.0, 17.0, 30.0) for s in (1, -1)]
    + [s * z for z in (40.0, 88.0, 104.0, 710.0, 746.0, 1e4) for s in (1, -1)]
)

# ---------------------------------------------------------------------------------------------
# The definitions, in 60 digits: (σ, σ′)

one, half = mpmath.mpf(1), mpmath.mpf(1) / 2


def mp_sigmoid(z):
    return one / (1 + mpmath.exp(-z))


def mp_sigmoid_prime(z):
    return mp_sigmoid(z) * mp_sigmoid(-z)


def mp_gelu_parts(z):
    scale, cubic = mpmath.sqrt(2 / mpmath.pi), mpmath.mpf("0.044715")
    return mpmath.tanh(scale * (z + cubic * z**3)), scale * (1 + 3 * cubic * z**2)


def mp_gelu(z):
    return z / 2 * (1 + mp_gelu_parts(z)[0])


def mp_gelu_prime(z):
    t, u_prime = mp_gelu_parts(z)
    return (1 + t) / 2 + z / 2 * (1 - t * t) * u_prime


LEAK = mpmath.mpf("0.01")
DEFINITIONS = {
    "sigmoid": (mp_sigmoid, mp_sigmoid_prime),
    "tanh": (mpmath.tanh, lambda z: mpmath.sech(z) ** 2),
    "relu": (lambda z: z if z > 0 else 0 * z, lambda z: one if z > 0 else 0 * z),
    "leaky_relu": (lambda z: z if z > 0 else LEAK * z, lambda z: one if z > 0 else LEAK),
    "elu": (
        lambda z: z if z > 0 else mpmath.expm1(z),
        lambda z: one if z > 0 else mpmath.exp(z),
    ),
    "silu": (
        lambda z: z * mp_sigmoid(z),
        lambda z: mp_sigmoid(z) + z * mp_sigmoid_prime(z),
    ),
    "gelu": (mp_gelu, mp_gelu_prime),
    "gelu_exact": (
        lambda z: z * mpmath.ncdf(z),
        lambda z: mpmath.ncdf(z) + z * mpmath.npdf(z),
    ),
    "softplus": (lambda z: mpmath.log1p(mpmath.exp(z)), mp_sigmoid),
    "identity": (lambda z: z, lambda z: one),
}


def in_many_digits(function, values):
    with mpmath.workdps(60):
        return np.array([float(function(mpmath.mpf(float(z)))) for z in np.ravel(values)])


def apply(name, z, where):
    """Return σ(z) and σ′(z); the floating-point unit may not raise a flag on the way."""
    activation = ACTIVATIONS[name]
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        a = activation.sigma(z, xp=where.xp)
        return a, activation.sigma_prime(z, a, xp=where.xp)


def test_every_activation_has_a_definition():
    assert set(DEFINITIONS) == set(ELEMENTWISE)
    assert all(name == activation.name for name, activation in ACTIVATIONS.items())


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation_and_its_derivative_equal_their_definitions(where, dtype, name):
    z = POINTS.astype(dtype)
    for result, definition in zip(
        apply(name, where.asarray(z), where), DEFINITIONS[name], strict=True
    ):
        assert tuple(result.shape) == z.shape
        values = to_numpy(result)
        assert values.dtype == dtype
        desired = in_many_digits(definition, z)
        # Relative to 1 where the value is small: ½(1 + tanh ½z) rounds ½, and that is enough for
        # probabilities and slopes. The products with z and z³ of silu and gelu multiply it.
        eps = np.finfo(dtype).eps * (32 if name in RECTIFIED else 4)
        assert (np.abs(values - desired) <= eps * np.maximum(1.0, np.abs(desired))).all()


# What is left of each function far from 0, where "z" is z: (σ left, σ right, σ′ left, σ′ right).
FAR = {
    "sigmoid": (0.0, 1.0, 0.0, 0.0),
    "tanh": (-1.0, 1.0, 0.0, 0.0),
    "relu": (0.0, "z", 0.0, 1.0),
    "leaky_relu": ("0.01 z", "z", 0.01, 1.0),
    "elu": (-1.0, "z", 0.0, 1.0),
    "silu": (0.0, "z", 0.0, 1.0),
    "gelu": (0.0, "z", 0.0, 1.0),
    "gelu_exact": (0.0, "z", 0.0, 1.0),
    "softplus": (0.0, "z", 0.0, 1.0),
    "identity": ("z", "z", 1.0, 1.0),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("size", [1e13, 1e20, 1e30, 1e38], ids=str)
def test_no_weighted_input_is_too_large_for_an_activation(where, dtype, name, size):
    words = {"z": size, "0.01 z": -0.01 * size}
    left, right, *slopes = (words.get(value, value) for value in FAR[name])
    left = -left if FAR[name][0] == "z" else left
    a, slope = apply(name, where.asarray([-size, size], dtype), where)
    for result, desired in ((a, [left, right]), (slope, slopes)):
        eps = 4 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(to_numpy(result).astype(float), desired, rtol=eps, atol=eps)


# What keeps every digit far to the left, where it is next to nothing: σ, or σ′.
TAILS = {"sigmoid": 0, "silu": 0, "softplus": 1}
FURTHEST = {"float32": 87.0, "float64": 700.0}
TAIL_EPS = 4  # units of rounding, relative to the value itself


@functools.cache
def tail(name, dtype):
    """Return 200 points, and the function with a left tail at each, in float64."""
    z = np.linspace(-FURTHEST[dtype], FURTHEST[dtype], 200).astype(dtype)
    return z, in_many_digits(DEFINITIONS[name][TAILS[name]], z)


@pytest.mark.skip_xp_backends("mlx", reason="MLX's exp errs by 4e-6 there")
@pytest.mark.parametrize("name", TAILS)
def test_a_left_tail_is_right_to_all_digits_however_small_it_is(where, dtype, name):
    z, desired = tail(name, dtype)
    found = to_numpy(apply(name, where.asarray(z), where)[TAILS[name]])
    assert desired.min() < (1e-30 if dtype == "float32" else 1e-290)
    relative = np.abs(found - desired) / np.abs(desired)
    assert relative.max() <= TAIL_EPS * np.finfo(dtype).eps


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.skip_xp_backends("mlx", reason="MLX's exp errs by 4e-6 there")
def test_a_left_tail_is_right_to_all_digits_in_the_engine_too(where, dtype, name):
    # PyTorch's recorder puts its own sigmoid in place of the one that it hears.
    z, desired = tail(name, dtype)
    activation = ACTIVATIONS[name]

    def step(state, z, *, xp):
        a = activation.sigma(z, xp=xp)
        return state, activation.sigma_prime(z, a, xp=xp) if TAILS[name] else a

    report = where.new_report()
    loop = where.engine.new_loop(report)
    take = where.engine.compile(lambda state, batches: loop(step, state, batches, xp=where.xp))
    batches = [where.asarray(np.stack([z.reshape(20, 10)] * 9))]
    with where.active():
        _, found = take([where.asarray(np.zeros(1))], batches)
    relative = np.abs(to_numpy(found).reshape(9, -1) - desired) / np.abs(desired)
    assert relative.max() <= TAIL_EPS * np.finfo(dtype).eps
    if where.backend in ("numpy", "torch"):
        assert not report.account((20, 10)).plain


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.needs_float64("a finite difference")
def test_derivative_equals_a_central_difference(where, name):
    z = np.linspace(-6.0, 6.0, 49)
    if name in KINKED:
        z = z[np.abs(z) > 0.01]  # five times the farthest point of the difference
    sigma = ACTIVATIONS[name].sigma
    slope = central_difference(
        lambda t: to_numpy(sigma(where.asarray(z + t), xp=where.xp)), step=2e-3
    )
    _, claimed = apply(name, where.asarray(z), where)
    # Rounding of σ ≤ 6 gives 1e-15 / step; the difference itself is right to step⁴ σ⁽⁵⁾ / 30.
    np.testing.assert_allclose(to_numpy(claimed), slope, rtol=0, atol=2e-11)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)], ids=str)
def test_activation_keeps_shape_library_device_and_dtype(where, dtype, rng, name, shape):
    z = where.asarray(rng.normal(size=shape), dtype)
    a, slope = apply(name, z, where)
    assert_agrees(a, to_numpy(a), where, dtype)
    assert tuple(a.shape) == shape
    wide = (*shape, shape[-1]) if ACTIVATIONS[name].coupled else shape
    assert_agrees(slope, np.broadcast_to(to_numpy(slope), wide), where, dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_leaves_its_arguments_alone(where, dtype, rng, name):
    host = rng.normal(size=(4, 3)).astype(dtype)
    z = where.asarray(host.copy())
    a = ACTIVATIONS[name].sigma(z, xp=where.xp)
    outputs = to_numpy(a).copy()
    ACTIVATIONS[name].sigma_prime(z, a, xp=where.xp)
    assert np.array_equal(to_numpy(z), host)
    assert np.array_equal(to_numpy(a), outputs)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_results_are_fresh_arrays_that_may_be_overwritten(where, dtype, rng, name):
    host = rng.normal(size=(4, 3)).astype(dtype)
    z = where.asarray(host.copy())
    a, slope = apply(name, z, where)
    outputs = to_numpy(a).copy()
    slope += 1.0
    assert np.array_equal(to_numpy(z), host)
    assert np.array_equal(to_numpy(a), outputs)
    a += 1.0
    assert np.array_equal(to_numpy(z), host)


def test_slope_of_relu_at_its_kink_is_zero(where, dtype):
    _, slope = apply("relu", where.asarray([[0.0]], dtype), where)
    assert_agrees(slope, [[0.0]], where, dtype)


# ---------------------------------------------------------------------------------------------
# Properties

# Eight values at a time, so that libraries that compile for each shape compile once.
EIGHT = st.lists(st.floats(-1e4, 1e4), min_size=8, max_size=8).map(np.array)

BOUNDS = {
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, np.inf),
    "elu": (-1.0, np.inf),
    "silu": (-0.2785, np.inf),
    "gelu": (-0.1701, np.inf),
    "gelu_exact": (-0.16998, np.inf),
    "softplus": (0.0, np.inf),
}
SLOPES = {
    "sigmoid": (0.0, 0.25),
    "tanh": (0.0, 1.0),
    "relu": (0.0, 1.0),
    "leaky_relu": (0.0, 1.0),
    "elu": (0.0, 1.0),
    "silu": (-0.0999, 1.0999),
    "gelu": (-0.1290, 1.1290),
    "gelu_exact": (-0.1290, 1.1290),
    "softplus": (0.0, 1.0),
    "identity": (1.0, 1.0),
}
MONOTONE = [name for name in ELEMENTWISE if name not in RECTIFIED]


def rounding(dtype, values):
    return 32 * float(np.finfo(dtype).eps) * np.maximum(1.0, np.abs(values))


@pytest.mark.parametrize("name", MONOTONE)
@PROPERTY
@given(z=EIGHT)
def test_activation_never_falls(where, dtype, name, z):
    a, slope = apply(name, where.asarray(np.sort(z), dtype), where)
    a = to_numpy(a).astype(float)
    assert (np.diff(a) >= -rounding(dtype, a[1:])).all()
    assert (to_numpy(slope) >= 0.0).all()


@pytest.mark.parametrize("name", ELEMENTWISE)
@PROPERTY
@given(z=EIGHT)
def test_activation_and_slope_stay_within_their_bounds(where, dtype, name, z):
    a, slope = apply(name, where.asarray(z, dtype), where)
    for values, (low, high) in (
        (to_numpy(a).astype(float), BOUNDS.get(name, (-np.inf, np.inf))),
        (to_numpy(slope).astype(float), SLOPES[name]),
    ):
        slack = rounding(dtype, values)
        assert (values >= low - slack).all()
        assert (values <= high + slack).all()


@pytest.mark.parametrize(
    "name", ["sigmoid", "tanh", "relu", "silu", "gelu", "gelu_exact", "softplus"]
)
@PROPERTY
@given(z=EIGHT)
def test_activation_is_symmetric(where, dtype, name, z):
    z = z.astype(dtype)
    a, mirrored = (
        to_numpy(apply(name, where.asarray(values), where)[0]).astype(float) for values in (z, -z)
    )
    # σ(z) + σ(−z) is 1 or 0; σ(z) − σ(−z) is z for the smooth and the sharp rectifiers.
    error = {"sigmoid": a + mirrored - 1.0, "tanh": a + mirrored}.get(name, a - mirrored - z)
    assert (np.abs(error) <= rounding(dtype, z)).all()


@pytest.mark.parametrize(
    "name", ["sigmoid", "tanh", "silu", "gelu", "gelu_exact", "softplus", "elu"]
)
@PROPERTY
@given(z=EIGHT)
def test_activation_equals_its_definition_anywhere(where, dtype, name, z):
    z = z.astype(dtype)
    results = apply(name, where.asarray(z), where)
    for result, definition in zip(results, DEFINITIONS[name], strict=True):
        desired = in_many_digits(definition, z)
        assert (np.abs(to_numpy(result) - desired) <= rounding(dtype, desired)).all()


# ---------------------------------------------------------------------------------------------
# Softmax


def mp_softmax(row):
    with mpmath.workdps(60):
        powers = [mpmath.exp(mpmath.mpf(float(z))) for z in row]
        return [float(power / mpmath.fsum(powers)) for power in powers]


EXTREME_ROWS = [
    [0.0, 0.0, 0.0],
    [1.0, 2.0, 3.0],
    [-1e4, -1e4, -1e4],
    [1e4, -1e4, 0.0],
    [710.0, 709.0, -710.0],
    [-710.0, -711.0, -1e4],
    [1e4, 1e4, 9999.0],
]


def test_softmax_equals_its_definition_at_extreme_inputs(where, dtype):
    a, _ = apply("softmax", where.asarray(EXTREME_ROWS, dtype), where)
    assert_agrees(a, [mp_softmax(row) for row in EXTREME_ROWS], where, dtype, eps=4)


def test_very_negative_inputs_share_the_probability(where, dtype):
    a, _ = apply("softmax", where.asarray([[-1e4, -1e4]], dtype), where)
    assert_agrees(a, [[0.5, 0.5]], where, dtype, eps=1)


@PROPERTY
@given(z=EIGHT)
def test_rows_of_softmax_add_to_one(where, dtype, z):
    a, _ = apply("softmax", where.asarray(z.reshape(2, 4), dtype), where)
    values = to_numpy(a).astype(float)
    assert (values >= 0.0).all()
    assert (np.abs(values.sum(axis=-1) - 1.0) <= 4 * np.finfo(dtype).eps).all()


@PROPERTY
@given(z=st.lists(st.integers(-50, 50), min_size=8, max_size=8), shift=st.integers(-(2**10), 2**10))
def test_softmax_does_not_change_when_a_row_is_shifted(where, dtype, z, shift):
    # Whole numbers of this size are shifted without rounding, in float32 too.
    z = np.reshape(z, (2, 4)).astype(dtype)
    a, _ = apply("softmax", where.asarray(z), where)
    shifted, _ = apply("softmax", where.asarray(z + np.array(shift, dtype)), where)
    assert_agrees(shifted, to_numpy(a), where, dtype, eps=1)


@pytest.mark.needs_float64("a finite difference")
def test_jacobian_of_softmax_equals_central_differences(where, rng):
    z = rng.normal(size=(4, 3))
    softmax = ACTIVATIONS["softmax"].sigma
    columns = [
        central_difference(
            lambda t, unit=unit: to_numpy(softmax(where.asarray(z + t * unit), xp=where.xp))
        )
        for unit in np.eye(3)
    ]
    _, jacobian = apply("softmax", where.asarray(z), where)
    # Index [n, k, j] is ∂aₖ/∂zⱼ. Rounding gives 1e-16 / step.
    np.testing.assert_allclose(to_numpy(jacobian), np.stack(columns, axis=-1), rtol=0, atol=1e-12)


def test_jacobian_of_softmax_at_extreme_inputs_is_finite_and_its_rows_add_to_nothing(where, dtype):
    _, jacobian = apply("softmax", where.asarray(EXTREME_ROWS, dtype), where)
    sums = to_numpy(jacobian).astype(float).sum(axis=-1)
    assert (np.abs(sums) <= 2 * np.finfo(dtype).eps).all()


# ---------------------------------------------------------------------------------------------
# PyTorch's


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_pytorch(rng, name):
    torch = pytest.importorskip("torch")
    functional, z = torch.nn.functional, 3.0 * rng.normal(size=(20, 5))
    theirs = {
        "identity": lambda z: z,
        "gelu": lambda z: functional.gelu(z, approximate="tanh"),
        "gelu_exact": functional.gelu,
        "softplus": lambda z: functional.softplus(z, threshold=np.inf),
        "softmax": lambda z: functional.softmax(z, dim=-1),
    }
    wanted = theirs.get(name, getattr(functional, name, None))(torch.tensor(z)).numpy()
    np.testing.assert_allclose(ACTIVATIONS[name].sigma(z, xp=np), wanted, rtol=1e-13, atol=1e-14)


def test_softplus_of_pytorch_is_the_identity_beyond_its_threshold():
    torch = pytest.importorskip("torch")
    z = np.array([25.0])
    assert torch.nn.functional.softplus(torch.tensor(z)).item() == 25.0
    assert ACTIVATIONS["softplus"].sigma(z, xp=np)[0] > 25.0
