import contextlib
import types

import numpy as np
import pytest
from helpers import widest

from bp_xp import Layer
from bp_xp.testing import assert_close


def message_of(actual, expected, **options):
    with pytest.raises(AssertionError) as caught:
        assert_close(actual, expected, **options)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------
# Of one kind


def of_another_library(array, where):
    if where.backend != "numpy":
        return np.asarray(where.library.to_numpy(array))
    strict = pytest.importorskip("array_api_strict")
    return strict.asarray(array)


def of_another_dtype(array, where):
    return where.xp.astype(array, where.dtype("int32"))


def of_another_shape(array, where):
    return where.xp.reshape(array, (1, 3))


def on_another_device(array, where):
    if where.backend == "torch":
        return array.to("meta")
    return array.to_device(where.library.find("device2"))


KINDS = {
    "library": of_another_library,
    "dtype": of_another_dtype,
    "shape": of_another_shape,
    "device": on_another_device,
}


FIELDS = [
    "library",
    "dtype",
    "shape",
    pytest.param(
        "device",
        marks=pytest.mark.skip_xp_backends(
            *("numpy", "jax", "cupy", "dpnp"),
            reason="a machine may have no second device of this library",
        ),
    ),
]


@pytest.mark.skip_xp_backends("mlx", reason="its arrays have no device")
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_of_another_kind_differs_although_its_values_are_equal(where, field):
    expected = where.asarray([1.0, 2.0, 3.0], "float32")
    actual = KINDS[field](expected, where)

    message = message_of(actual, expected)
    assert field in message.rpartition("not the same")[2]
    assert f"{where.backend} on {where.device_name}, float32, shape (3,)" in message


@pytest.mark.skip_xp_backends("mlx", reason="its arrays have no device")
@pytest.mark.parametrize("field", [None, *FIELDS])
def test_array_api_extra_comes_to_the_same_verdict_on_kinds(where, field):
    reference = pytest.importorskip("array_api_extra.testing").assert_close
    if where.backend == "dpnp" and field is None:
        pytest.skip("array_api_extra does not bring dpnp's arrays to the host")
    expected = where.asarray([1.0, 2.0, 3.0], "float32")
    actual = expected if field is None else KINDS[field](expected, where)

    differs = contextlib.nullcontext() if field is None else pytest.raises(AssertionError)
    for function in (assert_close, reference):
        with differs:
            function(actual, expected)


def test_the_message_names_where_the_result_lies_and_its_worst_value(where, dtype):
    expected = np.linspace(1.0, 2.0, 12).reshape(3, 4)
    actual = expected.copy()
    actual[0, 1] += 0.25
    actual[2, 3] = 2.5

    message = message_of(where.asarray(actual, dtype), where.asarray(expected, dtype))
    assert f"({where.backend} on {where.device_name}, {dtype}, shape (3, 4))" in message
    assert "worst at [2, 3]: actual 2.5, expected 2.0, off by 0.5" in message
    assert "2 of 12 value(s) off" in message


def test_a_python_number_is_compared_with_a_python_number_only():
    assert_close(0.5, 0.5 + 1e-12)
    assert_close(3, 3)
    assert "off by 0.1" in message_of(0.5, 0.6)
    assert "not the same dtype" in message_of(1.0, 1)
    assert "library" in message_of(np.float64(1.0), 1.0)


@pytest.mark.parametrize(
    "nonsense", [None, "a", {"cost": 1.0}, np.asarray(["a"]), [1.0, None]], ids=repr
)
def test_what_is_neither_array_nor_number_is_a_type_error(nonsense):
    with pytest.raises(TypeError, match="assert_close compares"):
        assert_close(nonsense, nonsense)


class CuPyLike:
    """An array that refuses conversion to NumPy in CuPy's words, and goes home through DLPack."""

    device = "gpu:0"

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape, self.dtype = self.values.shape, self.values.dtype

    def __array_namespace__(self, api_version=None):
        del api_version
        return CUPY_LIKE

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


CUPY_LIKE = types.SimpleNamespace(__name__="cupy_like", isdtype=np.isdtype, finfo=np.finfo)


def test_an_array_of_any_other_library_is_compared_without_implicit_conversion():
    expected = CuPyLike(np.ones(3, np.float32))
    assert_close(CuPyLike(np.ones(3, np.float32)), expected)

    message = message_of(CuPyLike(np.asarray([1.0, 1.0, 1.5], np.float32)), expected)
    assert "cupy_like on gpu:0, float32" in message
    assert "worst at [2]: actual 1.5, expected 1.0, off by 0.5" in message


def test_an_array_that_records_its_gradient_is_compared():
    torch = pytest.importorskip("torch")
    assert_close(torch.ones(2, requires_grad=True), torch.ones(2))


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_dtype_that_numpy_may_lack_is_compared(name):
    torch = pytest.importorskip("torch")
    ones = torch.ones(2, dtype=getattr(torch, name))

    assert_close(ones * (1.0 + torch.finfo(ones.dtype).eps), ones)
    assert name in message_of(ones * 1.1, ones)


# ---------------------------------------------------------------------------------------------
# Close


def product(where, a, b, dtype):
    return where.asarray(a, dtype) @ where.asarray(b, dtype)


def test_the_rounding_of_a_product_is_within_the_tolerance_of_its_dtype(where, dtype, rng):
    a, b = rng.normal(size=(64, 784)), rng.normal(size=(784, 30))
    a, b = a.astype(dtype), b.astype(dtype)
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)

    assert_close(product(where, a, b, dtype), where.asarray(exact, dtype))


def test_a_product_of_factors_with_the_digits_of_tf32_is_found(where, rng):
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((64, 784), (784, 30)))
    # TF32 keeps 10 of the 23 digits.
    short = [(part.view(np.uint32) & 0xFFFFE000).view(np.float32) for part in (a, b)]

    message_of(product(where, *short, "float32"), product(where, a, b, "float32"))


@pytest.mark.needs_float64("the numbers are its own")
def test_each_value_is_held_against_its_own_size(where):
    # eps^⅔ in float64 is 3.7e-11.
    expected = where.asarray([1.0, 1e-3], "float64")

    assert_close(where.asarray([1.0, 1e-3 * (1.0 + 3e-11)], "float64"), expected)
    assert "at [1]" in message_of(where.asarray([1.0, 1e-3 * (1.0 + 1e-9)], "float64"), expected)


@pytest.mark.needs_float64("the numbers are its own")
def test_a_value_near_zero_is_held_against_the_rounding_of_the_largest(where):
    # 32 eps in float64 is 7.1e-15.
    expected = where.asarray([-1000.0, 0.0], "float64")

    assert_close(where.asarray([-1000.0, 7e-12], "float64"), expected)
    assert "at [1]" in message_of(where.asarray([-1000.0, 8e-12], "float64"), expected)


@pytest.mark.parametrize(
    ("options", "off"),
    [
        ({"rtol": 0.1, "atol": 0.0}, 0.2),
        ({"rtol": 0.0, "atol": 0.5}, 0.5),
        ({"rtol": 0.1, "atol": 0.5}, 0.7),
    ],
)
def test_the_tolerances_are_those_of_the_formula(options, off):
    expected = np.asarray([-2.0])

    assert_close(expected - 0.99 * off, expected, **options)
    assert f"allowed {off}" in message_of(expected - 1.01 * off, expected, **options)


def test_no_tolerance_asks_for_equality():
    assert_close(np.ones(2), np.ones(2), rtol=0, atol=0)
    message_of(np.ones(2), np.nextafter(np.ones(2), 2.0), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "bool"])
def test_whole_numbers_must_be_equal(dtype):
    expected = np.asarray([1, 0], dtype)
    assert_close(expected, expected)
    assert "worst at [1]: actual" in message_of(np.asarray([1, 1], dtype), expected)


def test_whole_numbers_beyond_the_digits_of_float64_are_told_apart():
    message = message_of(np.asarray([2**62 + 1]), np.asarray([2**62]))
    assert "actual 4611686018427387905, expected 4611686018427387904" in message


def test_infinite_values_are_close_to_themselves_alone(where):
    infinite = where.asarray([np.inf, -np.inf], widest(where))
    assert_close(infinite, infinite)

    for other in ([np.inf, np.inf], [np.inf, np.finfo(widest(where)).max], [np.nan, -np.inf]):
        message_of(where.asarray(other, widest(where)), infinite)
        message_of(infinite, where.asarray(other, widest(where)))


def test_an_infinite_value_does_not_widen_the_tolerance_of_others():
    message_of(np.asarray([np.inf, 1.0]), np.asarray([np.inf, 1.1]))


def test_nan_is_equal_to_nan_where_asked(where):
    values = where.asarray([np.nan, 1.0], widest(where))

    assert "1 NaN in both" in message_of(values, values)
    assert_close(values, values, equal_nan=True)
    message = message_of(where.asarray([0.0, np.nan], widest(where)), values, equal_nan=True)
    assert "2 of 2 value(s) off" in message


def test_complex_values_are_compared():
    expected = np.asarray([1 + 1j], np.complex64)
    assert_close(expected * np.complex64(1 + 1e-6j), expected)
    assert "off by 1" in message_of(expected + np.complex64(1j), expected)


def test_a_result_without_values_is_close(where):
    assert_close(where.asarray(np.zeros((0, 2))), where.asarray(np.zeros((0, 2))))
    assert "shape" in message_of(where.asarray(np.zeros((0, 2))), where.asarray(np.zeros((0, 3))))


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize(("value", "error"), [(-1.0, ValueError), ("a", TypeError)])
def test_a_tolerance_that_is_none_is_refused_by_name(name, value, error):
    with pytest.raises(error, match=name):
        assert_close(1.0, 1.0, **{name: value})


# ---------------------------------------------------------------------------------------------
# Nestings


def layers(where, n, dtype="float32"):
    return [
        Layer(where.asarray(np.ones((2, 3)), dtype), where.asarray(np.zeros(2), dtype))
        for _ in range(n)
    ]


def test_lists_of_layers_are_compared_tensor_by_tensor(where):
    assert_close(layers(where, 3), layers(where, 3))
    assert_close(tuple(layers(where, 3)), layers(where, 3))


def test_the_message_gives_the_path_to_each_tensor_that_differs(where):
    actual = layers(where, 3)
    actual[2] = actual[2]._replace(W=actual[2].W + 1.0)
    actual[0] = actual[0]._replace(b=actual[0].b + 1.0)

    message = message_of([actual], [layers(where, 3)])
    assert "actual[0][0].b and expected[0][0].b differ" in message
    assert "actual[0][2].W and expected[0][2].W differ" in message
    assert ".W" not in message.partition("[0][2]")[0]


def test_the_message_stops_after_some_tensors():
    message = message_of([np.ones(1)] * 9, [np.zeros(1)] * 9)
    assert message.count("worst") == 5
    assert message.endswith("and 4 more differ")


def test_each_tensor_has_a_tolerance_of_its_own():
    large, small = np.asarray([1e6]), np.asarray([0.0, 1e-6])
    message = message_of([large, small + 1e-12], [large, small])
    assert message.startswith("actual[1] and expected[1] differ")


@pytest.mark.parametrize(
    ("actual", "expected", "words"),
    [
        ([1.0, 2.0], [1.0], "actual has 2 item(s), but expected has 1"),
        ([[1.0]], [[1.0, 2.0]], "actual[0] has 1 item(s), but expected[0] has 2"),
        ([1.0], np.ones(1), "actual is a list, but expected is numpy on cpu, float64, shape (1,)"),
        ([np.ones(1)], [(1.0,)], "expected[0] is a tuple, but actual[0] is numpy on cpu"),
    ],
)
def test_nestings_of_different_form_differ(actual, expected, words):
    assert words in message_of(actual, expected)
