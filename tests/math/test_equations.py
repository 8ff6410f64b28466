import functools

import numpy as np
import pytest
from helpers import PROPERTY, assert_agrees
from hypothesis import given
from hypothesis import strategies as st

from bp_xp import Layer, Network, to_numpy
from bp_xp.math import equations
from bp_xp.math.rows import sum_rows

N, I, O = 5, 4, 3  # noqa: E741 - the letters of all shapes
STACKS = pytest.mark.parametrize("stack", [(), (2, 3)], ids=["one", "grid"])

# ---------------------------------------------------------------------------------------------
# The equations as the book writes them: one network, one sample, columns


def book_weighted_input(a, W, b):
    return np.stack([(W @ a_n[:, None] + b[:, None])[:, 0] for a_n in a])


def book_output_error(nabla_a, sigma_prime_z):
    delta = np.empty_like(nabla_a)
    for n, j in np.ndindex(nabla_a.shape):
        delta[n, j] = nabla_a[n, j] * sigma_prime_z[n, j]
    return delta


def book_coupled_error(nabla_a, jacobian):
    delta = np.zeros_like(nabla_a)
    for n, k, j in np.ndindex(jacobian.shape):
        delta[n, j] += nabla_a[n, k] * jacobian[n, k, j]
    return delta


def book_hidden_error(delta_next, W_next, sigma_prime_z):
    return np.stack(
        [
            ((W_next.T @ delta[:, None]) * slope[:, None])[:, 0]
            for delta, slope in zip(delta_next, sigma_prime_z, strict=True)
        ]
    )


def book_bias_gradient(delta):
    nabla_b = np.zeros((delta.shape[1], 1))
    for delta_n in delta:
        nabla_b = nabla_b + delta_n[:, None]
    return nabla_b[:, 0]


def book_weight_gradient(delta, a_below):
    nabla_w = np.zeros((delta.shape[1], a_below.shape[1]))
    for delta_n, a_n in zip(delta, a_below, strict=True):
        nabla_w = nabla_w + delta_n[:, None] @ a_n[None, :]
    return nabla_w


def over_stack(equation, *arguments, stack):
    """Apply an equation to each network of a stack."""
    results = [equation(*(a[index] for a in arguments)) for index in np.ndindex(stack)]
    return np.reshape(results, (*stack, *results[0].shape))


CASES = {
    "weighted_input": (book_weighted_input, [(N, I), (O, I), (O,)]),
    "output_error": (book_output_error, [(N, O), (N, O)]),
    "coupled_error": (book_coupled_error, [(N, O), (N, O, O)]),
    "hidden_error": (book_hidden_error, [(N, O), (O, I), (N, I)]),
    "bias_gradient": (book_bias_gradient, [(N, O)]),
    "weight_gradient": (book_weight_gradient, [(N, O), (N, I)]),
}


def call(name, arguments, xp):
    takes_xp = {"xp": xp} if name == "bias_gradient" else {}
    return getattr(equations, name)(*arguments, **takes_xp)


def test_every_equation_has_a_case():
    assert set(CASES) == set(equations.__all__)


@STACKS
@pytest.mark.parametrize("name", CASES)
def test_equation_equals_the_books_loop_over_samples(where, dtype, rng, name, stack):
    book, shapes = CASES[name]
    arguments = [rng.normal(size=(*stack, *shape)).astype(dtype) for shape in shapes]
    result = call(name, [where.asarray(a) for a in arguments], where.xp)
    wide = [a.astype(np.float64) for a in arguments]
    assert_agrees(result, over_stack(book, *wide, stack=stack), where, dtype)


@pytest.mark.parametrize("name", CASES)
def test_equation_leaves_its_arguments_alone(where, dtype, rng, name):
    _, shapes = CASES[name]
    arguments = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    placed = [where.asarray(a.copy()) for a in arguments]
    call(name, placed, where.xp)
    for before, after in zip(arguments, placed, strict=True):
        assert np.array_equal(before, to_numpy(after))


def test_one_batch_serves_a_whole_stack_of_networks(where, dtype, rng):
    a, W, b = rng.normal(size=(N, I)), rng.normal(size=(2, O, I)), rng.normal(size=(2, O))
    z = equations.weighted_input(*(where.asarray(part, dtype) for part in (a, W, b)))
    desired = [book_weighted_input(a, *network) for network in zip(W, b, strict=True)]
    assert_agrees(z, np.stack(desired), where, dtype)


def test_coupled_error_of_a_diagonal_jacobian_is_the_output_error(where, dtype, rng):
    nabla_a, slope = (where.asarray(rng.normal(size=(N, O)), dtype) for _ in range(2))
    jacobian = to_numpy(slope)[:, :, None] * np.eye(O, dtype=dtype)
    coupled = equations.coupled_error(nabla_a, where.asarray(jacobian))
    assert_agrees(coupled, to_numpy(equations.output_error(nabla_a, slope)), where, dtype, eps=1)


@PROPERTY
@given(sizes=st.tuples(*[st.integers(1, 3)] * 3), seed=st.integers(0, 99))
def test_equations_hold_for_every_shape(where, sizes, seed):
    n, n_in, n_out = sizes
    rng = np.random.default_rng(seed)
    a, W, b = rng.normal(size=(n, n_in)), rng.normal(size=(n_out, n_in)), rng.normal(size=n_out)
    delta, slope = rng.normal(size=(n, n_out)), rng.normal(size=(n, n_in))
    on = where.asarray
    for name, arguments in (
        ("weighted_input", (a, W, b)),
        ("hidden_error", (delta, W, slope)),
        ("bias_gradient", (delta,)),
        ("weight_gradient", (delta, a)),
    ):
        result = call(name, [on(argument) for argument in arguments], where.xp)
        assert_agrees(result, CASES[name][0](*arguments), where)


# ---------------------------------------------------------------------------------------------
# Sums over very many samples

ROWS = 5_000_000
LONG = pytest.mark.parametrize("kind", ["equal", "unequal"])


@functools.cache
def long_rows(kind):
    """Return five million rows of float32."""
    # Equal values round alike at each addition, so that the errors add up instead of cancelling.
    if kind == "equal":
        return np.full((ROWS, 2), 0.1, np.float32)
    return np.random.default_rng(5).random((ROWS, 2), dtype=np.float32)


def test_five_million_equal_rows_are_hard_to_add():
    values = long_rows("equal")
    assert abs(values.sum(axis=0) / values.sum(axis=0, dtype=np.float64) - 1.0).min() > 0.01


@LONG
def test_bias_gradient_of_five_million_rows_is_right_to_five_digits(where, kind):
    delta = long_rows(kind)
    nabla_b = to_numpy(equations.bias_gradient(where.asarray(delta), xp=where.xp))
    assert nabla_b.dtype == np.float32
    np.testing.assert_allclose(nabla_b, delta.sum(axis=0, dtype=np.float64), rtol=1e-5)


@LONG
def test_epoch_cost_of_five_million_rows_is_right_to_five_digits(kind):
    # The identity network: its cost is the mean of x² / 2.
    network = Network.from_layers([Layer([[1.0]], [0.0])], output_activation="identity")
    x = long_rows(kind)[:, :1]
    cost = network.evaluate(x, np.zeros_like(x))["cost"]
    assert cost == pytest.approx(0.5 * np.mean(x.astype(np.float64) ** 2), rel=1e-5)


@pytest.mark.parametrize("n", [1, 255, 256, 257, 2049, 4096, 70_001])
def test_sum_over_rows_misses_none_at_the_edges_of_its_blocks(where, n):
    # Whole numbers that float32 holds exactly: not one row may be lost or counted twice.
    values = np.arange(n)[:, None] % 7.0 + np.array([0.0, 1.0])
    sums = sum_rows(where.asarray(values, "float32"), xp=where.xp)
    assert_agrees(sums, values.sum(axis=0), where, "float32", eps=0)


def test_sum_over_rows_takes_stacks(where, rng):
    values = rng.normal(size=(3, 4099, 2))
    result = sum_rows(where.asarray(values), xp=where.xp)
    # The sums of 4,099 numbers of both signs are small beside the sum of their sizes.
    assert_agrees(result, values.sum(axis=-2), where, eps=256)
