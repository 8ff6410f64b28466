"""What only this project's tests need: the backends come from the plugin of bp_xp.testing.

``--bp-xp-backends`` chooses among them; ``--require-backends`` makes the absence of one an error,
so that a skip can't hide.

Not every test runs everywhere. A table of cases (each activation beside each cost, say) is run
whole on NumPy in float64; on every other library and dtype a part is run, another one on each: a
mistake of a library shows in many cases, and a mistake of a case on any library. JAX compiles each
operation for each shape, and the strict checker is slow: of their two dtypes, a test is run in one,
unless it speaks of dtypes. Of the tests of what is written against the standard alone, and goes
through no engine, one in three is run on JAX; of the others that are not of its engine, one in two.
``--whole-tables`` runs everything everywhere.

A library without float64 runs the same tests in float32: what they compute in is ``widest(where)``,
and how far off it may be ``tolerance(dtype, ...)``, both of helpers.py.
"""

import contextlib
import functools
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from helpers import widest

from bp_xp import Network
from bp_xp.backends import Placement, place
from bp_xp.engines import replay
from bp_xp.testing.targets import Target

with contextlib.suppress(ImportError):
    import jax

    # The tests compare float64 trajectories on every backend.
    jax.config.update("jax_enable_x64", True)

# Tests take few steps, and are of what is recorded: at the first step, and CuPy's at the eighth.
replay._STEPS_BEFORE = 1


# A table has so many cases at least; each is run on one in so many of the other variants.
_TABLE, _TURNS, _TURNS_ON_JAX = 6, 5, 12

_NO_ENGINE = ("tests/math/", "tests/plotting/", "tests/test_inspection.py", "tests/book/")
_OF_ENGINES = (
    *("tests/backends/", "tests/engines/"),
    "tests/training/test_checkpoint.py::test_a_run_cut_at_random_moments_is_the_whole_run",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--whole-tables", action="store_true", help="run all cases of a table on all backends"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out cases of tables that other variants run, and dtypes that a library lacks."""
    _leave_out(config, items, [item for item in items if _lacks_its_dtype(item)])
    if config.getoption("--whole-tables"):
        return
    places = [_place_of(item) for item in items]
    cases: dict[Any, dict[Any, int]] = {}
    variants: dict[Any, dict[Any, int]] = {}
    for table, variant, case in places:
        cases.setdefault(table, {}).setdefault(case, len(cases[table]))
        variants.setdefault(table, {}).setdefault(variant, len(variants[table]))
    left_out = [
        item
        for item, (table, variant, case) in zip(items, places, strict=True)
        if variant != _reference(variants[table])
        and (
            _is_twin(table, variant, variants[table])
            or _is_left_to_others(table, variant)
            or _is_for_another(cases[table], case, variants[table], variant)
        )
    ]
    _leave_out(config, items, left_out)


def _leave_out(
    config: pytest.Config, items: list[pytest.Item], left_out: list[pytest.Item]
) -> None:
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(map(id, left_out))
        items[:] = [item for item in items if id(item) not in gone]


@functools.cache
def _has_dtype(target: Target, dtype: str) -> bool:
    """Return whether the device of a target has numbers of a dtype."""
    placement = target.place()
    return placement.library.has_dtype(dtype, placement.device)


def _lacks_its_dtype(item: pytest.Item) -> bool:
    """Return whether an item is the variant of a dtype that its library has not."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    target, dtype = (parameters.get(name) for name in ("bp_xp_target", "bp_xp_dtype"))
    return target is not None and dtype is not None and not _has_dtype(target, dtype)


def _is_twin(table: str, variant: tuple[str, str], variants: Mapping[Any, int]) -> bool:
    """Return whether the same test is run on a slow library in the other dtype."""
    backend, dtype = variant
    other = {"float32": "float64", "float64": "float32"}.get(dtype)
    if (backend, other) not in variants or "dtype" in table:
        return False
    if backend.startswith("jax"):
        return dtype != ("float32", "float64")[zlib.crc32(table.encode()) % 2]
    return backend.startswith("array_api_strict") and dtype == "float32"


def _is_left_to_others(table: str, variant: tuple[str, str]) -> bool:
    """Return whether a test is left to other libraries than JAX."""
    if not variant[0].startswith("jax") or table.startswith(_OF_ENGINES):
        return False
    return zlib.crc32(table.encode()) % (3 if table.startswith(_NO_ENGINE) else 2) != 0


def _is_for_another(
    cases: Mapping[Any, int], case: Any, variants: Mapping[Any, int], variant: Any
) -> bool:
    """Return whether a case of a table is for other variants to run."""
    turns = _TURNS_ON_JAX if variant[0].startswith("jax") else _TURNS
    return len(cases) >= _TABLE and (cases[case] + variants[variant]) % turns != 0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs float64 where the library or the device under test has none."""
    mark, callspec = item.get_closest_marker("needs_float64"), getattr(item, "callspec", None)
    if mark is not None and callspec is not None and "bp_xp_target" in callspec.params:
        target = callspec.params["bp_xp_target"]
        if widest(place(target.device, target.backend)) != "float64":
            pytest.skip(f"needs float64: {mark.args[0]}")


def _place_of(item: pytest.Item) -> tuple[Any, Any, Any]:
    """Return the table that an item is of, its backend and dtype, and its case."""
    table = item.nodeid.partition("[")[0]
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return table, ("", ""), ()
    variant = tuple(str(callspec.params.get(name)) for name in ("bp_xp_target", "bp_xp_dtype"))
    rest = {k: i for k, i in callspec.indices.items() if k not in ("bp_xp_target", "bp_xp_dtype")}
    return table, variant, tuple(sorted(rest.items()))


def _reference(variants: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return the variant that runs a whole table: NumPy in float64, or the first there is."""
    return min(
        variants,
        key=lambda variant: (not variant[0].startswith("numpy"), variant[1] == "float32"),
    )


@pytest.fixture(scope="session")
def target(bp_xp_target: Target) -> Target:
    """The backend and the device under test, as a pair of names."""
    return bp_xp_target


class _WithoutFloat64(Placement):
    """A placement where a test's own arrays, which NumPy makes in float64, are float32."""

    def asarray(self, values: Any, dtype: str | None = None) -> Any:
        host = np.asarray(values)
        if dtype is None and host.dtype.newbyteorder("=") == np.float64:
            dtype = "float32"
        return super().asarray(host, dtype)


@pytest.fixture(scope="session")
def where(placement: Placement) -> Placement:
    """The library and device under test; arrays come from ``where.asarray``."""
    return placement if widest(placement) == "float64" else _WithoutFloat64(**vars(placement))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator on the host, with a fixed seed."""
    return np.random.default_rng(20150625)


@pytest.fixture
def make(target, where):
    """Network in the widest dtype, on the target."""

    def build(*args, **options):
        settings = {"backend": target.backend, "device": target.device, "dtype": widest(where)}
        return Network(*args, **(settings | options))

    return build


@pytest.fixture
def data(rng):
    """Inputs of shape (23, 3), and labels of two classes."""
    return rng.standard_normal((23, 3)), rng.integers(0, 2, 23)


@pytest.fixture
def dense_shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the sparse matrices that are made dense, in their order."""
    sparse, shapes = pytest.importorskip("scipy.sparse"), []
    for kind in (sparse.csr_matrix, sparse.csr_array):

        def watched(self, *arguments, toarray=kind.toarray, **options):
            shapes.append(self.shape)
            return toarray(self, *arguments, **options)

        monkeypatch.setattr(kind, "toarray", watched)
        monkeypatch.setattr(kind, "todense", watched)
    return shapes
