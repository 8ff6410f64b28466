"""The pytest plugin: tests that run on each array library and device that works here.

pytest finds it as soon as bp_xp is installed. In a project that does not use its fixtures or
options, it does nothing. A test that takes one of the fixtures ``xp``, ``placement``, ``backend``
and ``device`` runs once on each target (see :func:`bp_xp.testing.targets.default_targets`), and one
that takes ``dtype`` runs in float32 and in float64::

    def test_rows_are_centered(placement, dtype):
        x = placement.asarray([[1.0, 3.0], [2.0, 6.0]], dtype)
        assert_close(centered(x), placement.asarray([[-1.0, 1.0], [-2.0, 2.0]], dtype))

``--bp-xp-backends`` chooses among the targets (``torch`` for all of its devices, ``torch-cuda:0``
for one), and the ini option ``bp_xp_backends`` does so for a whole project. A target that does not
work on a machine is left out, and the report gives the reason; ``--require-backends`` makes this an
error. The markers ``skip_xp_backends`` and ``xfail_xp_backends`` take names of the same
form and a reason. A project's own fixtures of these names take precedence; ``-p no:bp_xp`` turns
the plugin off.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from bp_xp.backends import SUPPORTED_DTYPES, Placement
from bp_xp.testing.targets import (
    Target,
    default_targets,
    expand_target,
    parse_target,
    probe_targets,
)

__all__ = ["backend", "bp_xp_dtype", "bp_xp_target", "device", "dtype", "placement", "xp"]


# ---------------------------------------------------------------------------------------------
# Fixtures


@pytest.fixture(scope="session")
def bp_xp_target(request: pytest.FixtureRequest) -> Target:
    """The backend and the device under test, as a pair of names."""
    return _parameter(request)


@pytest.fixture(scope="session")
def placement(bp_xp_target: Target, request: pytest.FixtureRequest) -> Placement:
    """The library and the device under test: xp, device, asarray(values, dtype), dtype(name)."""
    return _selection(request.config).works[bp_xp_target]


@pytest.fixture(scope="session")
def xp(placement: Placement) -> Any:
    """The namespace under test: the functions of the array API standard."""
    return placement.xp


@pytest.fixture(scope="session")
def backend(bp_xp_target: Target) -> str:
    """The name of the library under test, as Network(backend=...) takes it."""
    return bp_xp_target.backend


@pytest.fixture(scope="session")
def device(placement: Placement) -> str:
    """The name of the device under test, as Network(device=...) takes it.

    The library's own object, which functions of xp take, is ``placement.device``.
    """
    return placement.device_name


@pytest.fixture(scope="session")
def bp_xp_dtype(request: pytest.FixtureRequest) -> str:
    """What ``dtype`` is, unless a project parametrizes that itself."""
    return _parameter(request)


@pytest.fixture(scope="session")
def dtype(bp_xp_dtype: str) -> str:
    """The name of the dtype under test, "float32" and "float64".

    The library's own object, which functions of xp take, is ``placement.dtype(dtype)``.
    """
    return bp_xp_dtype


def _parameter(request: pytest.FixtureRequest) -> Any:
    if not hasattr(request, "param"):
        pytest.fail(
            f"{request.fixturename} has no value here: a test runs on each backend only if it "
            "requests one of the fixtures xp, placement, backend, device, dtype as an argument or "
            "with pytest.mark.usefixtures; getfixturevalue is too late.",
            pytrace=False,
        )
    return request.param


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the fixtures on each target, and in each dtype."""
    if not {"bp_xp_target", "bp_xp_dtype"}.intersection(metafunc.fixturenames):
        return
    # If another hook has given a value to a fixture such as device, the test no longer needs the
    # fixtures that it depends on. pytest drops them too, but only after this hook.
    metafunc.definition._fixtureinfo.prune_dependency_tree()
    if "bp_xp_target" in metafunc.fixturenames:
        targets = _parameters(_selection(metafunc.config))
        metafunc.parametrize("bp_xp_target", targets, indirect=True, scope="session")
    if "bp_xp_dtype" in metafunc.fixturenames:
        metafunc.parametrize("bp_xp_dtype", SUPPORTED_DTYPES, indirect=True, scope="session")


# ---------------------------------------------------------------------------------------------
# The targets


class _Selection(NamedTuple):
    """The targets that tests run on, and why the others do not work."""

    works: dict[Target, Placement]
    absent: dict[Target, str]


_SELECTION = pytest.StashKey[_Selection]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("bp_xp", "tests on several array libraries (bp_xp)")
    group.addoption(
        "--bp-xp-backends",
        metavar="NAMES",
        help="backends to run on if they work here, with or without a device: "
        "numpy,torch,cupy,torch-cuda:0",
    )
    group.addoption(
        "--require-backends",
        metavar="NAMES",
        help="fail unless these work here and are among the backends to run on",
    )
    parser.addini("bp_xp_backends", "the default of --bp-xp-backends", type="args")


def _names(config: pytest.Config, option: str) -> list[Target]:
    """Return the targets that an option names; ``bp_xp_backends`` is an ini option."""
    given = [config.getoption(option)] if option.startswith("--") else config.getini(option)
    try:
        words = [word for text in given if text for word in text.split(",")]
        return [parse_target(word) for word in words if word.strip()]
    except ValueError as error:
        raise pytest.UsageError(f"{option}: {error}") from error


def _is_asked(config: pytest.Config) -> bool:
    """Whether an option or the project's settings name backends."""
    options = ("--bp-xp-backends", "bp_xp_backends", "--require-backends")
    return any(_names(config, option) for option in options)


def _selection(config: pytest.Config) -> _Selection:
    """Return the targets. The first call imports their libraries and tries them."""
    if _SELECTION not in config.stash:
        config.stash[_SELECTION] = _select(config)
    return config.stash[_SELECTION]


def _select(config: pytest.Config) -> _Selection:
    chosen = _names(config, "--bp-xp-backends") or _names(config, "bp_xp_backends")
    targets = [target for name in chosen for target in expand_target(name)] or default_targets()
    try:
        selection = _Selection(*probe_targets(targets))
    except ValueError as error:
        raise pytest.UsageError(f"the backends to run on: {error}") from error
    for name in _names(config, "--require-backends"):
        if not any(name.covers(target) for target in selection.works):
            reasons = [
                f"{target}: {why}"
                for target, why in selection.absent.items()
                if name.covers(target)
            ]
            raise pytest.UsageError(
                f"--require-backends: {name} does not work here: {'; '.join(reasons)}"
                if reasons
                else f"--require-backends: {name} is not among the backends to run on: "
                f"{', '.join(map(str, targets))}."
            )
    return selection


def _parameters(selection: _Selection) -> list[Any]:
    """Return a parameter for each target, or one that skips the test if none works."""
    if selection.works:
        return [pytest.param(target, id=str(target)) for target in selection.works]
    reasons = "; ".join(f"{target}: {why}" for target, why in selection.absent.items())
    skip = pytest.mark.skip(reason=f"none of the backends to run on works here: {reasons}")
    return [pytest.param(None, id="none", marks=skip)]


# ---------------------------------------------------------------------------------------------
# Markers


_MARKERS = {
    "skip_xp_backends": 'skip_xp_backends("torch", "jax-cuda", reason="..."): skip a test on '
    "these backends, or backends with a device",
    "xfail_xp_backends": 'xfail_xp_backends("numpy", reason="...", strict=...): expect a test to '
    "fail on these; strict is as for xfail",
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for line in _MARKERS.values():
        config.addinivalue_line("markers", line)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what markers exclude, and dtypes that a library can't compute in."""
    try:
        for item in items:
            target = _parameter_of(item, "bp_xp_target")
            if target is not None:
                _mark(item, target)
    except pytest.UsageError as error:
        output = _output_of_worker(config)
        if output is None:
            raise
        # If a worker raised it, the message would be lost. The controller raises it instead.
        output["bp_xp_error"] = str(error)
        items.clear()


def _mark(item: pytest.Item, target: Target) -> None:
    for mark in list(item.iter_markers()):  # _apply adds to them
        if mark.name in _MARKERS:
            _apply(mark, item, target)
    dtype = _parameter_of(item, "bp_xp_dtype")
    if dtype is not None:
        try:
            _selection(item.config).works[target].dtype(dtype)
        except ValueError as error:
            item.add_marker(pytest.mark.skip(reason=str(error)))


def _apply(mark: pytest.Mark, item: pytest.Item, target: Target) -> None:
    options = dict(mark.kwargs)
    reason = options.pop("reason", None)
    strict = options.pop("strict", None) if mark.name == "xfail_xp_backends" else None
    if not mark.args or not isinstance(reason, str) or not reason.strip() or options:
        extra = f"; it does not take {', '.join(options)}" if options else ""
        raise pytest.UsageError(
            f"{item.nodeid}: {mark.name} needs names of backends and a reason, as in "
            f"{_MARKERS[mark.name].partition(':')[0]}{extra}."
        )
    try:
        names = [parse_target(name) for name in mark.args]
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{item.nodeid}: {mark.name}: {error}") from error
    if not any(name.covers(target) for name in names):
        return
    reason = f"{target}: {reason}"
    if mark.name == "skip_xp_backends":
        item.add_marker(pytest.mark.skip(reason=reason))
    elif strict is None:  # xfail_strict of the project decides
        item.add_marker(pytest.mark.xfail(reason=reason))
    else:
        item.add_marker(pytest.mark.xfail(reason=reason, strict=strict))


def _parameter_of(item: pytest.Item, name: str) -> Any:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(name)


# ---------------------------------------------------------------------------------------------
# While a test runs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test with its device as the current one, which CuPy needs."""
    target = _parameter_of(item, "bp_xp_target")
    if target is None:
        return (yield)
    with _selection(item.config).works[target].active():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add the library and the device to the report of a test that fails."""
    report = yield
    target = _parameter_of(item, "bp_xp_target")
    if target is not None and report.failed:
        library = _selection(item.config).works[target].library
        report.sections.append(
            ("bp_xp", f"backend {target.backend} {library.version()}, device {target.device}")
        )
    return report


# ---------------------------------------------------------------------------------------------
# The report


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find out before collection whether the requested backends work."""
    if _is_asked(session.config):
        _selection(session.config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Report the targets if an option or the settings name backends."""
    return _report(config) if _is_asked(config) else []


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Report the targets if a test uses the fixtures and the header did not show them."""
    if _SELECTION not in config.stash or _is_asked(config) or config.get_verbosity() < 0:
        return []
    return _report(config)


def _report(config: pytest.Config) -> list[str]:
    selection = _selection(config)
    runs = ", ".join(map(str, selection.works)) or "nothing"
    others = [
        target
        for target in default_targets()
        if target not in selection.works and target not in selection.absent
    ]
    return [
        f"bp_xp runs on: {runs}",
        *(f"bp_xp not on {target}: {why}" for target, why in selection.absent.items()),
        *([f"bp_xp not asked to run on: {', '.join(map(str, others))}"] if others else []),
    ]


# Under pytest-xdist the tests are collected by workers, which have no terminal, and the controller,
# which has one, collects nothing. If it has no header to show, a worker's report comes last.

_FROM_WORKERS = pytest.StashKey[Sequence[str]]()


def _output_of_worker(config: pytest.Config) -> dict[str, Any] | None:
    """Return what a worker sends to the controller when it ends, or None outside of a worker."""
    return getattr(config, "workeroutput", None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hand a worker's report to the controller."""
    output = _output_of_worker(session.config)
    if output is not None:
        output["bp_xp_report"] = pytest_report_collectionfinish(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep the report of a worker that ends, and raise the error that it could not raise."""
    output = getattr(node, "workeroutput", {})  # a worker that crashes has none
    if "bp_xp_error" in output:
        raise pytest.UsageError(output["bp_xp_error"])
    if output.get("bp_xp_report"):
        node.config.stash[_FROM_WORKERS] = output["bp_xp_report"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show the report of the workers."""
    for line in config.stash.get(_FROM_WORKERS, ()):
        terminalreporter.write_line(line)
