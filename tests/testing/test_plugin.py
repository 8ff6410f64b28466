"""The plugin, as pytest finds it by its entry point in packages that know nothing of this one."""

import os
import re
import subprocess
import sys
import textwrap
import warnings
from typing import NamedTuple

import pytest

# What is imported within a run in this process is forgotten after it, and would be there twice.
pytest.importorskip("array_api_strict")

from bp_xp.backends import LIBRARIES
from bp_xp.testing import assertions, pytest_plugin  # noqa: F401
from bp_xp.testing.targets import (
    Target,
    default_targets,
    expand_target,
    parse_target,
    probe_targets,
)

pytest_plugins = ["pytester"]

STRICT = "array_api_strict-device1"


class Result(NamedTuple):
    code: int
    output: str

    def lines(self, start):
        return [line for line in self.output.splitlines() if line.startswith(start)]

    def outcomes(self):
        """Return the outcome of each test, as ``pytest -v`` tells it."""
        words = "PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS"
        return dict(re.findall(rf"^\S+?\.py::(.+?) ({words})", self.output, re.MULTILINE))


def half_installed(*_):
    warnings.warn("said while it is imported", DeprecationWarning, stacklevel=2)
    raise OSError("libcudart.so is missing")


HALF_INSTALLED = """
import warnings
warnings.warn("said while it is imported", DeprecationWarning)
raise OSError("libcudart.so is missing")
"""
# With these a machine has NumPy and array_api_strict only, and tests are quick.
BARE = {
    f"stubs/{name}/__init__.py": HALF_INSTALLED for name in ("torch", "jax", "cupy", "dpnp", "mlx")
}
ON_BARE = ["numpy-cpu", "array_api_strict-cpu", STRICT]

# What a run inside must not be told of the run outside: pytest in continuous integration prints
# its summary whole, in color where that is asked for.
UNTOLD = ("PYTEST_", "CI", "BUILD_NUMBER", "COLUMNS", "FORCE_COLOR", "PY_COLORS")


@pytest.fixture
def pytest_in(request, pytester, monkeypatch):
    """Return a function that writes files to a folder, and runs pytest there as a user would.

    A text alone is that of the file of tests. Where the test is marked ``process``, pytest has a
    process of its own; elsewhere a session, with settings and plugins of its own, in this one.
    """
    for name in os.environ:
        # The run outside takes this one away itself, when a test of its own is over.
        if name.startswith(UNTOLD) and name != "PYTEST_CURRENT_TEST":
            monkeypatch.delenv(name)
    in_process = request.node.get_closest_marker("process") is not None

    def run(files, *arguments):
        files = {"test_it.py": files} if isinstance(files, str) else files
        for name, text in files.items():
            path = pytester.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        # Hypothesis would be imported for each.
        arguments = ("-v", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments)
        with monkeypatch.context() as patch:
            if BARE.keys() <= files.keys():
                patch.setenv("PYTHONPATH", "stubs")
                for name in ("torch", "jax", "cupy"):
                    patch.setattr(LIBRARIES[name], "namespace", half_installed)
            start = pytester.runpytest_subprocess if in_process else pytester.runpytest_inprocess
            done = start(*arguments)
        return Result(done.ret, f"{done.stdout}\n{done.stderr}")

    return run


# ---------------------------------------------------------------------------------------------
# An outside package

OUTSIDE = {
    "pyproject.toml": """
        [project]
        name = "outside"
        version = "1.0"

        [tool.pytest.ini_options]
        pythonpath = ["."]
        addopts = ["--strict-markers", "--strict-config"]
        filterwarnings = ["error"]
    """,
    "outside.py": """
        def centered(x, xp):
            return x - xp.mean(x, axis=1, keepdims=True)

        def doubled(x):
            return 3 * x
    """,
    "tests/test_outside.py": """
        from bp_xp.testing import assert_close
        from outside import centered, doubled

        def test_rows_are_centered(placement, xp):
            x = placement.asarray([[1.0, 3.0], [2.0, 6.0]])
            assert_close(centered(x, xp), placement.asarray([[-1.0, 1.0], [-2.0, 2.0]]))

        def test_a_centered_row_stays(placement, xp):
            x = placement.asarray([[-1.0, 1.0]])
            assert_close(centered(x, xp), x)

        def test_values_are_doubled(placement, backend, device):
            assert (placement.backend, placement.device_name) == (backend, device)
            x = placement.asarray([1.0, 2.0], "float32")
            assert_close(doubled(x), placement.asarray([2.0, 4.0], "float32"))
    """,
}


@pytest.mark.process
def test_the_tests_of_an_outside_package_run_on_two_backends(pytest_in):
    result = pytest_in(OUTSIDE, "--bp-xp-backends", f"numpy,{STRICT}")

    assert result.code == 1
    assert result.outcomes() == {
        f"{test}[{target}]": outcome
        for test, outcome in [
            ("test_rows_are_centered", "PASSED"),
            ("test_a_centered_row_stays", "PASSED"),
            ("test_values_are_doubled", "FAILED"),
        ]
        for target in ("numpy-cpu", STRICT)
    }
    for place in ("numpy on cpu", "array_api_strict on device1"):
        assert f"actual and expected differ ({place}, float32, shape (2,))" in result.output
    assert result.output.count("worst at [1]: actual 6.0, expected 4.0, off by 2") == 2
    versions = re.findall(r"^backend (\w+) \d\S*, device (\w+)$", result.output, re.MULTILINE)
    assert versions == [("numpy", "cpu"), ("array_api_strict", "device1")]


def test_a_failure_of_any_kind_is_reported_with_backend_and_device(pytest_in):
    tests = """
        import pytest

        @pytest.fixture
        def broken(xp):
            raise OSError("in a fixture")

        def test_setup(broken): pass
        def test_call(xp): raise OSError("in a test")
        def test_other(): raise OSError("without a backend")
    """
    result = pytest_in(tests, "--bp-xp-backends", STRICT)

    assert result.outcomes() == {
        f"test_setup[{STRICT}]": "ERROR",
        f"test_call[{STRICT}]": "FAILED",
        "test_other": "FAILED",
    }
    assert len(result.lines("backend array_api_strict")) == 2


def test_fixtures_of_a_session_may_depend_on_those_of_the_plugin(pytest_in):
    tests = """
        import pytest

        @pytest.fixture(scope="session")
        def data(placement, dtype):
            return placement.asarray([1.0], dtype)

        def test_data(data, xp, dtype): assert data.dtype == getattr(xp, dtype)
    """
    result = pytest_in(tests, "--bp-xp-backends", "numpy")

    assert result.outcomes() == {
        "test_data[numpy-cpu-float32]": "PASSED",
        "test_data[numpy-cpu-float64]": "PASSED",
    }


def test_the_device_is_the_current_one_while_a_test_runs(pytest_in, monkeypatch):
    numpy = LIBRARIES["numpy"]
    monkeypatch.setattr(numpy, "active", numpy.active)  # as it is now, once the test is over
    # CuPy computes on the current device, whichever device its operands are on.
    conftest = """
        import contextlib
        import bp_xp.backends

        current = []

        @contextlib.contextmanager
        def active(device):
            current.append(device)
            yield
            current.pop()

        bp_xp.backends.LIBRARIES["numpy"].active = active
    """
    tests = """
        import pytest
        from conftest import current

        @pytest.fixture
        def data(xp):
            assert current == ["cpu"]
            yield
            assert current == ["cpu"]

        def test_with_fixture(data): pass
        def test_with_backend(backend): assert current == ["cpu"]
        def test_without(): assert current == []
    """
    result = pytest_in({"conftest.py": conftest, "test_it.py": tests}, "--bp-xp-backends", "numpy")

    assert list(result.outcomes().values()) == ["PASSED"] * 3


# ---------------------------------------------------------------------------------------------
# Which backends

ON_EACH = "def test_it(xp): pass"


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (f"{STRICT}, numpy", [STRICT, "numpy-cpu"]),
        ("array_api_strict", ["array_api_strict-cpu", STRICT]),
        ("numpy,array_api_strict-device2,numpy", ["numpy-cpu", "array_api_strict-device2"]),
    ],
)
def test_a_name_chooses_all_devices_of_a_backend_and_a_pair_one(pytest_in, names, targets):
    result = pytest_in(ON_EACH, "--bp-xp-backends", names)

    assert list(result.outcomes()) == [f"test_it[{target}]" for target in targets]


@pytest.mark.parametrize("value", [f'"{STRICT},numpy"', f'["{STRICT}", "numpy"]'])
def test_a_project_may_choose_in_its_settings(pytest_in, value):
    settings = f"[tool.pytest.ini_options]\nbp_xp_backends = {value}"
    result = pytest_in({"pyproject.toml": settings, "test_it.py": ON_EACH})

    assert list(result.outcomes()) == [f"test_it[{STRICT}]", "test_it[numpy-cpu]"]
    assert result.lines("bp_xp runs on: ")


def test_the_option_takes_precedence_over_the_settings(pytest_in):
    result = pytest_in(ON_EACH, "-o", "bp_xp_backends=numpy", "--bp-xp-backends", STRICT)

    assert list(result.outcomes()) == [f"test_it[{STRICT}]"]


def test_a_dtype_that_a_library_can_not_compute_in_is_skipped_for_the_library_s_reason(
    pytest_in, monkeypatch
):
    strict = LIBRARIES["array_api_strict"]
    dtype_of = strict.dtype

    def only_float32(name, device):
        if name == "float64":
            raise ValueError("only float32 until a switch is set")
        return dtype_of(name, device)

    tests = "def test_it(dtype, xp): pass\ndef test_alone(dtype): pass"
    arguments = ("--bp-xp-backends", f"numpy,{STRICT}", "-rs")
    with monkeypatch.context() as patch:
        patch.setattr(strict, "dtype", only_float32)
        result = pytest_in(tests, *arguments)

    skipped = [name for name, outcome in result.outcomes().items() if outcome == "SKIPPED"]
    assert skipped == [f"test_it[{STRICT}-float64]"]
    assert "only float32 until a switch is set" in result.output
    assert "5 passed, 1 skipped" in result.output
    assert "6 passed" in pytest_in(tests, *arguments).output


def test_where_no_backend_works_tests_are_skipped_for_the_reasons(pytest_in):
    result = pytest_in(BARE | {"test_it.py": ON_EACH}, "-rs", "--bp-xp-backends", "torch-cpu")

    assert result.outcomes() == {"test_it[none]": "SKIPPED"}
    assert "none of the backends to run on works here: torch-cpu: OSError" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--require-backends=numpy,torch", "torch does not work here: torch-cpu: OSError"),
        ("--require-backends=torch-cpu", "torch-cpu does not work here: torch-cpu: OSError"),
        pytest.param(
            "--require-backends=cupy -n2",
            "cupy does not work here: cupy-cuda:0: OSError",
            marks=pytest.mark.process,
        ),
        (
            "--bp-xp-backends=numpy --require-backends=jax",
            "jax is not among the backends to run on: numpy-cpu",
        ),
        ("--require-backends=torhc", "--require-backends: unknown backend 'torhc'"),
        ("--bp-xp-backends=numpy,torhc", "Did you mean 'torch'?"),
        ("--bp-xp-backends=torch-", "names no device"),
        ("--bp-xp-backends=numpy-cuda", "backend 'numpy' has no device 'cuda'"),
        ("-o bp_xp_backends=torhc", "bp_xp_backends: unknown backend 'torhc'"),
    ],
)
def test_what_is_required_and_absent_or_not_known_is_a_usage_error(pytest_in, arguments, words):
    result = pytest_in(BARE | {"test_it.py": "def test_it(): pass"}, *arguments.split())

    assert result.code == pytest.ExitCode.USAGE_ERROR
    (line,) = result.lines("ERROR: ")
    assert words in line
    assert not result.outcomes()


def test_a_required_backend_that_works_is_no_error(pytest_in):
    arguments = ("--bp-xp-backends", "array_api_strict", "--require-backends", STRICT)

    assert pytest_in(ON_EACH, *arguments).code == 0


# ---------------------------------------------------------------------------------------------
# Markers

MARKED = """
    import pytest

    pytestmark = pytest.mark.skip_xp_backends("jax-cpu", reason="of the module")

    @pytest.mark.skip_xp_backends("numpy", "torch", reason="it copies")
    @pytest.mark.skip_xp_backends("array_api_strict-device1", reason="it converts")
    def test_skipped(xp): raise OSError

    @pytest.mark.xfail_xp_backends("array_api_strict", reason="not yet")
    def test_expected(backend): assert backend == "numpy"

    @pytest.mark.xfail_xp_backends("numpy", reason="not any more", strict=True)
    def test_strict(xp): pass

    @pytest.mark.xfail_xp_backends("numpy", reason="at times", strict=False)
    def test_lenient(xp): pass

    @pytest.mark.parametrize(
        "case", [1, pytest.param(2, marks=pytest.mark.skip_xp_backends("numpy", reason="slow"))]
    )
    def test_case(xp, case): pass

    def test_without_a_backend(): pass
"""


def test_markers_skip_and_xfail_backends_and_devices_with_their_reason(pytest_in):
    result = pytest_in(MARKED, "--strict-markers", "--bp-xp-backends", f"numpy,{STRICT}", "-rsxX")

    assert result.outcomes() == {
        "test_skipped[numpy-cpu]": "SKIPPED",
        f"test_skipped[{STRICT}]": "SKIPPED",
        "test_expected[numpy-cpu]": "PASSED",
        f"test_expected[{STRICT}]": "XFAIL",
        "test_strict[numpy-cpu]": "FAILED",
        f"test_strict[{STRICT}]": "PASSED",
        "test_lenient[numpy-cpu]": "XPASS",
        f"test_lenient[{STRICT}]": "PASSED",
        "test_case[1-numpy-cpu]": "PASSED",
        f"test_case[1-{STRICT}]": "PASSED",
        "test_case[2-numpy-cpu]": "SKIPPED",
        f"test_case[2-{STRICT}]": "PASSED",
        "test_without_a_backend": "PASSED",
    }
    for reason in (
        "numpy-cpu: it copies",
        f"{STRICT}: it converts",
        f"{STRICT}: not yet",
        "[XPASS(strict)] numpy-cpu: not any more",
    ):
        assert reason in result.output


NEEDS = "needs names of backends and a reason"


@pytest.mark.parametrize(
    ("marker", "words", "arguments"),
    [
        ('skip_xp_backends("torch")', NEEDS, []),
        # The error of a worker reaches the terminal as well.
        pytest.param('skip_xp_backends("torch")', NEEDS, ["-n2"], marks=pytest.mark.process),
        ('xfail_xp_backends("torch", reason=" ")', NEEDS, []),
        ('skip_xp_backends(reason="why")', NEEDS, []),
        ('skip_xp_backends("numpy", reason="why", strict=True)', "does not take strict", []),
        ('xfail_xp_backends("torhc", reason="why")', "Did you mean 'torch'?", []),
        ('skip_xp_backends(3, reason="why")', "not 3", []),
    ],
)
def test_a_marker_that_says_too_little_is_a_usage_error_naming_the_test(
    pytest_in, marker, words, arguments
):
    tests = f"import pytest\n@pytest.mark.{marker}\ndef test_bad(xp): pass"
    result = pytest_in(tests, "--bp-xp-backends", "numpy", *arguments)

    assert result.code == pytest.ExitCode.USAGE_ERROR
    (line,) = result.lines("ERROR: ")
    assert "test_it.py::test_bad[numpy-cpu]" in line
    assert words in line


def test_markers_of_these_names_with_another_meaning_are_left_alone(pytest_in):
    # SciPy's own suite has an xp of its own, and markers of these names that take other arguments.
    tests = """
        import pytest

        @pytest.fixture
        def xp():
            return "ours"

        @pytest.mark.skip_xp_backends(np_only=True)
        def test_it(xp): assert xp == "ours"
    """
    assert pytest_in(tests).outcomes() == {"test_it": "PASSED"}


# ---------------------------------------------------------------------------------------------
# The report


def test_the_header_tells_what_runs_and_why_the_rest_does_not(pytest_in):
    # A warning of a library that is imported is no reason, even where warnings are errors.
    files = BARE | {"test_it.py": "def test_it(): pass"}
    result = pytest_in(files, "-W", "error", "--bp-xp-backends", "numpy,torch")

    header = result.output.partition("collecting")[0].splitlines()
    assert [line for line in header if line.startswith("bp_xp")] == [
        "bp_xp runs on: numpy-cpu",
        "bp_xp not on torch-cpu: OSError: libcudart.so is missing",
        "bp_xp not on torch-cuda:0: OSError: libcudart.so is missing",
        "bp_xp not asked to run on: array_api_strict-cpu, array_api_strict-device1, jax-cpu:0, "
        "dpnp, mlx-cpu, cupy-cuda:0, jax-cuda:0",
    ]
    assert len(result.lines("bp_xp ")) == 4
    assert result.outcomes() == {"test_it": "PASSED"}


def test_without_an_option_the_report_follows_the_collection_if_a_test_uses_the_fixtures(pytest_in):
    result = pytest_in(BARE | {"test_it.py": ON_EACH}, "-W", "error")

    assert result.outcomes() == {f"test_it[{target}]": "PASSED" for target in ON_BARE}
    after = result.output.partition("collected")[2].splitlines()
    report = [line for line in after if line.startswith("bp_xp")]
    assert report[0] == f"bp_xp runs on: {', '.join(ON_BARE)}"
    absent = [re.match("bp_xp not on ([^ ]+): ", line)[1] for line in report[1:]]
    assert set(absent) == {str(target) for target in default_targets()} - set(ON_BARE)


def test_a_quiet_run_has_no_report(pytest_in):
    assert "bp_xp" not in pytest_in(BARE | {"test_it.py": ON_EACH}, "-qq").output


@pytest.mark.process
@pytest.mark.parametrize("chosen", [["--bp-xp-backends", "numpy,array_api_strict"], []])
def test_workers_of_xdist_agree_and_the_report_is_shown_once(pytest_in, chosen):
    tests = "def test_it(xp, dtype): pass\ndef test_bad(device): assert 0"
    result = pytest_in(BARE | {"test_it.py": tests}, "-n2", *chosen)

    assert "3 failed, 6 passed" in result.output
    assert len(result.lines("backend ")) == 3
    assert result.lines("bp_xp runs on: ") == [f"bp_xp runs on: {', '.join(ON_BARE)}"]


# ---------------------------------------------------------------------------------------------
# Whom it does not concern

TELL_WHAT_IS_LOADED = """
    import sys

    def pytest_unconfigure():
        for name in ("bp_xp.testing.pytest_plugin", "torch", "jax", "cupy", "array_api_strict"):
            print("loaded:", name, name in sys.modules)
"""


@pytest.mark.process
def test_the_plugin_is_inert_where_nothing_uses_it(pytest_in):
    files = {"conftest.py": TELL_WHAT_IS_LOADED, "test_it.py": "def test_it(tmp_path): pass"}
    arguments = ("-W", "error", "--strict-markers")
    result = pytest_in(files, *arguments)
    without = pytest_in(files, *arguments, "-p", "no:bp_xp")

    assert result.code == 0
    assert "loaded: bp_xp.testing.pytest_plugin True" in result.output
    assert "loaded: bp_xp.testing.pytest_plugin False" in without.output
    for library in ("torch", "jax", "cupy", "array_api_strict"):
        assert f"loaded: {library} False" in result.output

    def told(result):
        return re.sub(r"in [\d.]+s|loaded: bp_xp.*|=+|plugins:.*", "", result.output)

    assert told(result) == told(without)


def test_fixtures_and_parameters_of_a_project_take_precedence(pytest_in):
    conftest = """
        import pytest

        @pytest.fixture(params=["a", "b"])
        def target(request):
            return request.param

        @pytest.fixture
        def xp():
            return "ours"

        def pytest_generate_tests(metafunc):
            for name in ("device", "dtype"):
                if name in metafunc.fixturenames:
                    metafunc.parametrize(name, [f"our {name}"])
    """
    tests = """
        import pytest

        def test_fixtures(xp, target): assert (xp, target) in (("ours", "a"), ("ours", "b"))

        def test_hook(device, dtype, xp): assert (device, dtype) == ("our device", "our dtype")

        @pytest.mark.parametrize("backend", ["mine"])
        def test_mark(backend): assert backend == "mine"

        class TestClass:
            @pytest.fixture
            def backend(self): return "mine"

            def test_it(self, backend): assert backend == "mine"
    """
    result = pytest_in({"conftest.py": conftest, "test_it.py": tests})

    assert result.outcomes() == {
        "test_fixtures[a]": "PASSED",
        "test_fixtures[b]": "PASSED",
        "test_hook[our device-our dtype]": "PASSED",
        "test_mark[mine]": "PASSED",
        "TestClass::test_it": "PASSED",
    }
    assert not result.lines("bp_xp")


def test_a_fixture_that_is_asked_for_too_late_says_what_to_do(pytest_in):
    result = pytest_in("def test_it(request): request.getfixturevalue('xp')")

    assert result.outcomes() == {"test_it": "FAILED"}
    assert "a test runs on each backend only if it requests one of the fixtures" in result.output


# ---------------------------------------------------------------------------------------------
# Targets


@pytest.mark.process
def test_importing_the_kit_needs_neither_pytest_nor_an_array_library():
    program = """
        import sys
        sys.modules["pytest"] = sys.modules["array_api_extra"] = None
        import bp_xp
        assert "bp_xp.testing" not in sys.modules
        import bp_xp.testing.targets
        print(*{name.split(".")[0] for name in sys.modules})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert not {"torch", "jax", "cupy", "array_api_strict"} & set(done.stdout.split())


@pytest.mark.parametrize("target", default_targets(), ids=str)
def test_the_name_of_a_target_is_read_back(target):
    assert parse_target(str(target)) == target
    assert target in expand_target(Target(target.backend))


@pytest.mark.parametrize("text", ["", "torhc", "torch-", "numpy cpu"])
def test_a_text_that_names_no_target_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"unknown backend|names no device"):
        parse_target(text)


def test_a_target_that_is_no_text_is_a_type_error():
    with pytest.raises(TypeError, match="'torch-cuda:0'"):
        parse_target(3)  # type: ignore[arg-type]


def test_each_default_target_works_or_tells_why_not():
    works, absent = probe_targets(default_targets())

    assert {*works, *absent} == set(default_targets())
    assert Target("numpy", "cpu") in works
    assert all("\n" not in reason and reason for reason in absent.values())
    for target, placement in works.items():
        assert (placement.backend, placement.device_name) == target


def test_a_device_that_no_machine_has_is_a_value_error():
    with pytest.raises(ValueError, match="has no device 'cuda'"):
        probe_targets([Target("numpy", "cuda")])
