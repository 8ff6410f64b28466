"""Comparison of results: their kind, and their distance."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bp_xp.backends import library_of, to_numpy
from bp_xp.backends.registry import active_for
from bp_xp.checks import check_number

__all__ = ["assert_close"]

_SHOWN = 5
"""The number of tensors in a message: a wrong first layer makes all the others wrong as well."""


def assert_close(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
) -> None:
    """Check that two results have the same library, device, dtype and shape, and are close.

    |actual − expected| ≤ atol + rtol · |expected|, for each value.

    The default tolerances follow from the dtype, whose rounding is eps. rtol = eps^⅔, that is
    2.4e-5 in float32 and 3.7e-11 in float64: tight enough to detect products that a GPU computed in
    TF32. atol = 32 · eps · max |expected|, and at most rtol of it: a sum of terms of that size has
    this rounding error, however small the sum is. If all of ``expected`` is zero, so is the default
    atol: pass one. Integers and booleans must be equal.

    Args:
        actual: the computed result: an array of any library and shape, a Python number, or a list
            or tuple of these, such as a list of ``Layer``, nested to any depth.
        expected: the expected result, of the same kind; ``placement.asarray`` makes an array of it.
        rtol: relative tolerance, of each value; None for that of the dtype.
        atol: absolute tolerance; None for that of the dtype.
        equal_nan: whether NaN equals NaN.

    Raises:
        AssertionError: they differ. The message names library, device and dtype, the worst value,
            where it is and by how much it is off, and in a nesting the path to each tensor.
        TypeError: there is something other than arrays and numbers.

    Examples:
        >>> assert_close(np.asarray([1.0, 2.0]), np.asarray([1.0, 2.0 + 1e-12]))
        >>> assert_close(np.asarray([1.0, 2.5]), np.asarray([1.0, 2.0]), rtol=0.1)
        Traceback (most recent call last):
            ...
        AssertionError: actual and expected differ (numpy on cpu, float64, shape (2,)):
            worst at [1]: actual 2.5, expected 2.0, off by 0.5, allowed 0.2
            1 of 2 value(s) off, with rtol=0.1, atol=1.42e-14
    """
    __tracebackhide__ = True
    rtol = None if rtol is None else check_number(rtol, "rtol", least=0.0)
    atol = None if atol is None else check_number(atol, "atol", least=0.0)
    differences = list(_differences(actual, expected, "", _Tolerance(rtol, atol, equal_nan)))
    if differences:
        more = len(differences) - _SHOWN
        tail = [f"and {more} more differ"] if more > 0 else []
        raise AssertionError("\n".join([*differences[:_SHOWN], *tail]))


class _Tolerance(NamedTuple):
    """The tolerance that was asked for."""

    rtol: float | None
    atol: float | None
    equal_nan: bool


class _Kind(NamedTuple):
    """What two results must have in common before their values are compared."""

    library: str
    device: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.library} on {self.device}, {self.dtype}, shape {self.shape}"


def _differences(actual: Any, expected: Any, path: str, tolerance: _Tolerance) -> Iterator[str]:
    """Yield a message for each pair of tensors that differ, and for each mismatch of structure."""
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        if len(actual) != len(expected):
            yield (
                f"actual{path} has {len(actual)} item(s), but expected{path} has {len(expected)}."
            )
            return
        names = getattr(actual, "_fields", None)
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            step = f".{names[i]}" if names else f"[{i}]"
            yield from _differences(one, other, path + step, tolerance)
        return
    for name, value, partner in (("actual", actual, expected), ("expected", expected, actual)):
        if isinstance(value, list | tuple):
            other = "expected" if name == "actual" else "actual"
            yield (
                f"{name}{path} is a {type(value).__name__}, but {other}{path} is "
                f"{_kind_of(partner, f'{other}{path}')}: compare like with like, as in "
                "placement.asarray(values, dtype)."
            )
            return
    kind = _kind_of(actual, f"actual{path}")
    wanted = _kind_of(expected, f"expected{path}")
    if kind != wanted:
        fields = [f for f, a, b in zip(kind._fields, kind, wanted, strict=True) if a != b]
        yield (
            f"actual{path} is {kind}, but expected{path} is {wanted}: not the same "
            f"{' and '.join(fields)}."
        )
        return
    report = _compare(actual, expected, tolerance)
    if report:
        yield f"actual{path} and expected{path} differ ({kind}):\n{report}"


def _kind_of(value: Any, name: str) -> _Kind:
    library = library_of(value)
    if library is not None:
        dtype = str(value.dtype).rpartition(".")[2]  # torch.float32
        if not library.namespace().isdtype(value.dtype, ("numeric", "bool")):
            raise TypeError(f"assert_close compares numbers, but {name} is of dtype {dtype}.")
        device = library.device_name(library.device_of(value))
        return _Kind(library.name, device, dtype, tuple(value.shape))
    if isinstance(value, bool | int | float | complex):
        return _Kind("Python", "the host", type(value).__name__, ())
    raise TypeError(
        f"assert_close compares arrays, numbers, and lists and tuples of them, but {name} is "
        f"{type(value).__name__}."
    )


def _compare(actual: Any, expected: Any, tolerance: _Tolerance) -> str:
    """Return a report on two tensors of one kind, empty if they are close."""
    (a, eps), (e, _) = _on_host(actual), _on_host(expected)
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    size = np.abs(e.astype(wide))
    finite = np.isfinite(size)
    largest = float(np.max(size, where=finite, initial=0.0))
    rtol = eps ** (2 / 3) if tolerance.rtol is None else tolerance.rtol
    atol = min(32.0 * eps, eps ** (2 / 3)) * largest if tolerance.atol is None else tolerance.atol
    # Only an infinite value itself is close to it, and infinity − infinity is not a number.
    allowed = np.where(finite, atol + rtol * np.where(finite, size, 0.0), 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(a.astype(wide) - e.astype(wide))
    equal = a == e
    if tolerance.equal_nan:
        equal |= np.isnan(a) & np.isnan(e)
    # Large integers can differ and be the same float64: where nothing is allowed, they are equal
    # or not.
    close = equal | ((distance <= allowed) & (allowed > 0.0))
    if np.all(close):
        return ""
    excess = np.where(np.isnan(distance), np.inf, distance - allowed)
    worst = np.unravel_index(int(np.argmax(np.where(close, -np.inf, excess))), a.shape)
    at = f" at {[int(i) for i in worst]}" if a.ndim else ""
    lines = [
        f"    worst{at}: actual {a[worst]!s}, expected {e[worst]!s}, off by "
        f"{distance[worst]:.3g}, allowed {allowed[worst]:.3g}",
        f"    {np.sum(~close)} of {a.size} value(s) off, with rtol={rtol:.3g}, atol={atol:.3g}",
    ]
    both_nan = int(np.sum(np.isnan(a) & np.isnan(e)))
    if both_nan and not tolerance.equal_nan:
        lines.append(
            f"    {both_nan} NaN in both at one place: equal_nan=True takes these as equal"
        )
    return "\n".join(lines)


def _on_host(value: Any) -> tuple[np.ndarray, float]:
    """Return the values on the host, and the rounding of their dtype: 0 for integers."""
    library = library_of(value)
    xp = np if library is None else library.namespace()
    value = np.asarray(value) if library is None else value
    if not xp.isdtype(value.dtype, ("real floating", "complex floating")):
        return to_numpy(value), 0.0
    info = xp.finfo(value.dtype)
    if info.bits < 32:  # NumPy has no bfloat16
        with active_for(value):
            value = xp.astype(value, xp.float32)
    return to_numpy(value), float(info.eps)
