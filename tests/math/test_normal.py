import mpmath
import numpy as np
import pytest

from bp_xp import to_numpy
from bp_xp.math.normal import normal_cdf, normal_density

FURTHEST = {"float32": 13.0, "float64": 37.0}  # beyond, Φ is no normal number


@pytest.fixture
def points(dtype):
    """Points from one tail to the other, and some near 0."""
    near = np.logspace(-8, 0, 60)
    far = np.linspace(-FURTHEST[dtype], FURTHEST[dtype], 300)
    return np.concatenate([far, near, -near]).astype(dtype)


def in_many_digits(function, values):
    with mpmath.workdps(40):
        return np.array([float(function(mpmath.mpf(float(z)))) for z in values])


def test_distribution_and_density_are_right_to_the_digits_that_they_promise(where, dtype, points):
    z = where.asarray(points)
    density = normal_density(z, xp=where.xp)
    found = [density, normal_cdf(z, density, xp=where.xp)]
    eps, squares = float(np.finfo(dtype).eps), points.astype(np.float64) ** 2
    for result, function in zip(found, (mpmath.npdf, mpmath.ncdf), strict=True):
        assert result.dtype == where.dtype(dtype)
        error = np.abs(to_numpy(result) - (wanted := in_many_digits(function, points)))
        assert error.max() <= 2.0 * eps
        assert (error <= (4.0 + squares) * eps * wanted).all()


def test_nothing_is_left_far_from_zero(where, dtype):
    z = where.asarray([-1e38, -60.0, 60.0, 1e38], dtype)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        density = normal_density(z, xp=where.xp)
        found = normal_cdf(z, density, xp=where.xp)
    assert to_numpy(density).tolist() == [0.0] * 4
    assert to_numpy(found).tolist() == [0.0, 0.0, 1.0, 1.0]
