"""The CuPy engine: its kernels run on a CPU, each of their threads a thread of the processor.

The last part needs a GPU.
"""

import contextlib
import re
import shutil
import sys
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from helpers import EVERY_COST
from steps import BATCH, MODEL, RULES, SIZES, TERMS, begin, copied, pairs_of

from bp_xp import (
    ACTIVATIONS,
    COSTS,
    SGD,
    Activation,
    Adam,
    DeviceError,
    Layer,
    Network,
    OutOfMemoryError,
    binary_cross_entropy,
    to_numpy,
)
from bp_xp._trees import leaves_of, map_leaves
from bp_xp.backends import LIBRARIES, place
from bp_xp.backends.cupy import engine as cupy
from bp_xp.backends.cupy import launching
from bp_xp.backends.cupy.engine import new_loop
from bp_xp.backends.cupy.launching import LaunchConfiguration
from bp_xp.engines import PLAIN, Engine, Report, plain
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.training import looks

pytestmark = pytest.mark.compiler

# What 16 steps take by a clock that tells nothing apart.
A_STEP = 16 * 250e-6

# Rounding grows along a trajectory, but a net that learns is no chaos.
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


@pytest.fixture(scope="module")
def cpu():
    """What runs kernels on this processor."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    from cuda_on_cpu import CPU

    return CPU


def loop_of(configurations):
    """Return the loop of a run that nobody asks about, and that knows of no other."""
    return alone(Report("cupy", "kernels"), configurations)


def alone(report, configurations, clock=lambda run: A_STEP, known=None):
    """Return a loop that knows of no other run, to which everything takes as long."""
    return new_loop(report, configurations, clock, cupy.Known() if known is None else known)


def kernels_on(configuration):
    """Return an engine that launches kernels in one way."""
    return Engine("cupy", "kernels", lambda report: alone(report, lambda: [configuration]))


def assert_taken_by_a_kernel(cpu, step, state, batches, tolerance=TOLERANCE["float64"]):
    """Check that a kernel takes the steps, and that it gives what the plain loop gives."""
    compiled, taken = [], []

    def compile_kernel(kernel, configuration):
        compiled.append(kernel)
        launch = cpu.compile(kernel, configuration)
        return lambda arguments, n_steps: (taken.append(n_steps), launch(arguments, n_steps))

    report = Report("cupy", "kernels")
    loop = alone(report, lambda: [replace(cpu, compile=compile_kernel)])
    ours = loop(step, copied(state), batches, xp=np)
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in pairs_of(ours, theirs):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
    assert taken == [2, len(batches[0])]  # beside the plain loop, and instead of it
    [kernel] = compiled
    assert report.program == kernel.source
    assert not any(one.plain or one.reason for one in report.accounts.values())
    return kernel


# ---------------------------------------------------------------------------------------------
# The trajectory of the plain loop


@pytest.mark.parametrize("activation", [one for one in ACTIVATIONS.values() if not one.coupled])
def test_every_activation(cpu, activation):
    model = Model(SIZES, (activation, ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
    assert_taken_by_a_kernel(cpu, *begin(model, SGD(0.1)))


@pytest.mark.parametrize(
    "cost", [*EVERY_COST.values(), binary_cross_entropy([0.5, 1.0, 2.0])], ids=lambda one: one.name
)
def test_every_cost(cpu, cost):
    output = "softmax" if cost is COSTS["quadratic"] else cost.output
    model = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS[output]), cost)
    assert_taken_by_a_kernel(cpu, *begin(model, SGD(0.1)))


@pytest.mark.parametrize("rule", RULES)
def test_every_optimizer(cpu, rule):
    assert_taken_by_a_kernel(cpu, *begin(MODEL, RULES[rule]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dropout_penalties_limits_weights_and_a_schedule(cpu, dtype):
    setting = begin(MODEL, Adam(0.01), TERMS, dtype, weighted=True, scheduled=True)
    assert_taken_by_a_kernel(cpu, *setting, TOLERANCE[dtype])


def test_sums_in_blocks_and_sums_by_a_warp(cpu, monkeypatch):
    monkeypatch.setattr("bp_xp.math.rows._ROWS_SUMMED_AT_ONCE", 2)
    model = Model((70, 3, 2), MODEL.activations, COSTS["quadratic"])
    assert_taken_by_a_kernel(cpu, *begin(model, SGD(0.1)))


@pytest.mark.slow
def test_blocks_of_entries_at_once(cpu):
    model = Model((64, 48, 16), MODEL.activations, COSTS["quadratic"])
    step, state, batches = begin(model, SGD(0.1, momentum=0.5), Regularization(l2=0.1), batch=16)
    kernel = assert_taken_by_a_kernel(cpu, step, state, [part[:8] for part in batches])
    # z¹ is shared by warps, and the descent by threads; δ¹ has fewer entries.
    assert {int(n) for n in re.findall(r"t < (\d+)", kernel.source)} == {4, 16}
    assert "of_neighbour<32>(v0[t]" in kernel.source


def test_fit_takes_its_steps_in_kernels(cpu, monkeypatch):
    # 46 samples in batches of 5: nine steps an epoch, and a short mini-batch for the plain loop.
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(46, 4)), rng.integers(3, size=46)
    runs = []
    for engine in (LIBRARIES["numpy"].engine, kernels_on(cpu)):
        monkeypatch.setattr(LIBRARIES["numpy"], "engine", engine, raising=False)
        network = Network([4, 6, 3], cost="categorical_cross_entropy", dtype="float64", seed=1)
        history = network.fit(
            x, y, epochs=3, batch_size=5, optimizer=Adam(0.05), dropout=0.2, progress=False
        )
        runs.append([*history["cost"], *(part.sum() for part in leaves_of(network.layers))])
    np.testing.assert_allclose(*runs, rtol=1e-12)


def test_an_array_that_is_changed_by_its_own_entries(cpu):
    def step(state, x, *, xp):
        (w,) = state
        rows, column = w[1:, :], w[:, 0]
        rows += w[:-1, :]
        w += w.mT
        column *= w[0, :]
        w *= 0.3
        return [w], 1.0 * x

    rng = np.random.default_rng(0)
    state, batches = [rng.normal(size=(9, 9))], [rng.normal(size=(8, 2, 2))]
    assert_taken_by_a_kernel(cpu, step, state, batches)


# ---------------------------------------------------------------------------------------------
# What is wrong is noticed


def disturbed(compile_kernel, change):
    """Return what compiles kernels whose source is changed."""
    return lambda kernel, configuration: compile_kernel(
        replace(kernel, source=change(kernel.source)), configuration
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda source: source.replace("tanh(", "sin("), "is off by"),
        (
            lambda source: re.sub(r"(v\d+) = \1 - (v\d+);\n", r"\1 = \1 + \2;\n", source),
            "is off by",
        ),
        (lambda source: source.replace("s0[i0 * 4 + i1] = ", "s0[4] = "), "is off by"),
        (lambda source: source.replace("tanh(", "(0.0 / 0.0) * tanh("), "is not finite"),
        # One number back: one further would be past the end of the last mini-batch.
        (lambda source: source.replace("x0 += 24;", "x0 += 23;"), "is off by"),
        (lambda source: source.replace("tanh(", "tanhh("), "CalledProcessError"),
    ],
    ids=["function", "sign", "not moved", "NaN", "next batch", "does not compile"],
)
def test_a_kernel_that_is_wrong_is_left_to_the_plain_loop(cpu, change, why):
    # The rate is small: what is wrong must show in what a step changes.
    step, state, batches = begin(MODEL, SGD(1e-5), dtype="float32")
    loop = loop_of(lambda: [replace(cpu, compile=disturbed(cpu.compile, change))])
    with pytest.warns(RuntimeWarning, match=f"not to be trusted: .*{why}"):
        ours = loop(step, copied(state), batches, xp=np)
    again = loop(step, copied(state), batches, xp=np)  # it is said once
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, two, other in pairs_of(ours, again, theirs):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(two, other)


def test_a_kernel_is_not_mistrusted_for_gradients_of_nothing_but_rounding(cpu):
    # Outputs that are all alike, and as many samples of each class: Adam makes large steps of it.
    model = Model(
        SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS["softmax"]), COSTS["categorical_cross_entropy"]
    )
    step, state, batches = begin(model, Adam(0.1), dtype="float32")
    (hidden, (W, b)) = state.layers
    batches[1][:] = np.eye(3, dtype=np.float32)[[0, 1, 2] * 2]
    state = state._replace(layers=[hidden, Layer(0.0 * W, 0.0 * b)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        loop_of(lambda: [cpu])(step, state, batches, xp=np)


def test_a_run_that_overflows_is_not_mistrusted(cpu):
    step, state, batches = begin(MODEL, SGD(0.5))
    batches[0][0, 0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        loop_of(lambda: [cpu])(step, state, batches, xp=np)


@pytest.mark.parametrize(
    ("reason", "told", "level"),
    [
        ("few", "recording takes as long as 8 steps", None),
        ("slow", "it is the fastest: 250 µs a step", "INFO"),
        ("large", "the network is too large for a kernel to be faster", "INFO"),
        ("not recorded", "the step looks at a value", "WARNING"),
        ("shared", "two parts of the state are one array", "WARNING"),
    ],
)
def test_where_a_kernel_does_not_serve_the_plain_loop_does_and_tells_why(
    cpu, monkeypatch, caplog, reason, told, level
):
    caplog.set_level("INFO", logger="bp_xp")
    step, state, batches = begin(MODEL, SGD(0.5))
    configuration = cpu
    match reason:
        case "few":
            batches = [part[:7] for part in batches]
        case "slow":
            configuration = replace(cpu, seconds_per_phase=1.0)
        case "large":
            monkeypatch.setattr("bp_xp.backends.cupy.engine._MOST_PRODUCTS", 6 * 43)
        case "not recorded":
            plainly = step

            def step(state, *batch, xp):
                assert float(xp.sum(batch[0])) != 0.0
                return plainly(state, *batch, xp=xp)

        case "shared":
            state = state._replace(masks=state.layers[0].b)

    def refuse(kernel, configuration):
        raise AssertionError("a kernel was compiled")

    report = Report("cupy", "kernels")
    loop = alone(report, lambda: [replace(configuration, compile=refuse)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = loop(step, map_leaves(lambda leaf: leaf, state), batches, xp=np)
    assert ours[1].shape == (len(batches[0]), BATCH, SIZES[-1])
    account = report.account((BATCH, SIZES[0]))
    assert (account.plain, account.reason) == (len(batches[0]), told)
    assert [record.levelname for record in caplog.records] == ([level] if level else [])


def fitted(engine, monkeypatch, **options):
    """Train a network on NumPy's arrays with an engine; return it and its history."""
    monkeypatch.setattr(LIBRARIES["numpy"], "engine", engine, raising=False)
    rng = np.random.default_rng(3)
    network = Network([4, 5, 3], dtype="float64", seed=1, **options)
    x, y = rng.normal(size=(80, 4)), rng.integers(3, size=80)
    return network, network.fit(x, y, epochs=3, batch_size=8, progress=False)


def assert_same_run(ours, theirs):
    (network, history), (wanted, wanted_history) = ours, theirs
    for one, other in pairs_of(network.layers, wanted.layers):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)
    np.testing.assert_allclose(history["cost"], wanted_history["cost"], rtol=1e-11)


def test_a_run_in_kernels_is_told_with_its_source(cpu, monkeypatch, caplog):
    ours = network, history = fitted(kernels_on(cpu), monkeypatch)
    report = network.explain()
    assert history.engine == report.ran == "cupy"
    assert "30 steps this way" in str(report)
    assert "KERNEL take_steps(" in report.program
    assert not caplog.records
    assert_same_run(ours, fitted(PLAIN, monkeypatch))


def test_an_activation_that_looks_at_a_value_is_told_and_taken_by_the_plain_loop(
    cpu, monkeypatch, caplog
):
    tanh = ACTIVATIONS["tanh"]
    looking = Activation(
        "looking",
        lambda z, *, xp: xp.tanh(z) if xp.sum(z) > 0 else 1.0 * xp.tanh(z),
        tanh.sigma_prime,
    )
    ours = network, history = fitted(kernels_on(cpu), monkeypatch, activation=looking)
    assert history.engine == "plain"
    assert "30 steps in the plain loop (the step looks at a value)" in str(network.explain())
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "in place of the cupy engine: the step looks at a value" in record.message
    assert_same_run(ours, fitted(PLAIN, monkeypatch, activation=looking))


def test_a_broken_recorder_is_told_and_the_plain_loop_gives_the_run(cpu, monkeypatch, caplog):
    def broken(*arguments):
        raise RuntimeError("the tape is torn")

    monkeypatch.setattr(cupy, "list_operations", broken)
    ours = network, history = fitted(kernels_on(cpu), monkeypatch)
    assert history.engine == "plain"
    reason = "RuntimeError while recording: the tape is torn"
    assert f"30 steps in the plain loop ({reason})" in str(network.explain())
    assert [reason in record.message for record in caplog.records] == [True]
    assert_same_run(ours, fitted(PLAIN, monkeypatch))


@pytest.mark.parametrize("launches", [1, 2, 4])  # the first is the trial beside the plain loop
def test_where_threads_wait_too_long_for_each_other_nothing_is_lost(
    cpu, monkeypatch, caplog, launches
):
    done = []

    def compile_kernel(kernel, configuration):
        launch = cpu.compile(kernel, configuration)

        def sometimes(arguments, n_steps):
            launch(arguments, n_steps)
            done.append(n_steps)
            if len(done) == launches:  # what a barrier does that was given up
                arguments[-1][4:8] = 1, 0, 0, 0
                for name, array in zip(kernel.arguments, arguments, strict=True):
                    if name != "scratch" and name[0] in "sz":
                        array[...] = np.nan

        return sometimes

    gives_up = kernels_on(replace(cpu, compile=compile_kernel))
    trusted = pytest.warns(RuntimeWarning) if launches == 1 else contextlib.nullcontext()
    monkeypatch.setattr(looks, "_CHUNK_ON_CPU", (10, 1 << 20))
    with trusted:
        ours = fitted(gives_up, monkeypatch)
    account = ours[0].explain().account((8, 4))
    assert "waited too long for each other" in account.reason
    assert account.fast == 10 * max(launches - 2, 0)
    assert account.program is None
    [record] = caplog.records
    assert "waited too long for each other" in record.message
    assert_same_run(ours, fitted(PLAIN, monkeypatch))


def test_arrays_of_another_layout_are_taken_too(cpu):
    # Steps in the plain loop, such as those of a short last mini-batch, may return them.
    step, state, batches = begin(MODEL, SGD(0.5, momentum=0.5))
    turned = map_leaves(np.asfortranarray, copied(state.layers))
    assert not turned[0].W.flags.c_contiguous
    loop = loop_of(lambda: [cpu])
    ours, our_zs = loop(step, copied(state)._replace(layers=turned), batches, xp=np)
    theirs, their_zs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in pairs_of([ours, our_zs], [theirs, their_zs]):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_of_several_configurations_the_one_that_takes_less_time_is_chosen(cpu):
    chosen = []

    def noting(kernel, configuration):
        chosen.append(configuration.blocks)
        return cpu.compile(kernel, cpu)

    step, state, batches = begin(MODEL, SGD(0.5))
    near = replace(cpu, compile=noting)
    far = replace(near, blocks=4, seconds_per_phase=2e-6, seconds_per_operation=1e-13)
    loop_of(lambda: [near, far])(step, copied(state), batches, xp=np)
    slow = replace(near, seconds_per_operation=1e-7)
    loop_of(lambda: [slow, far])(step, copied(state), batches, xp=np)
    assert chosen == [2, 4]


# ---------------------------------------------------------------------------------------------
# Few launches a step


def by_phase(cpu):
    """Return the configuration in which each phase of a step is a launch."""
    return replace(cpu, block=32, whole=False, seconds_per_phase=8e-6)


def test_launches_take_the_steps_of_the_plain_loop(cpu):
    cost = COSTS["categorical_cross_entropy"]
    model = Model((4, 5, 6, 3), (*MODEL.activations, ACTIVATIONS["softmax"]), cost)
    step, state, batches = begin(model, Adam(0.05), dtype="float32", steps=8)
    report = Report("cupy", "launches")
    ours = alone(report, lambda: [by_phase(cpu)])(step, copied(state), batches, xp=np)
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in pairs_of(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())
    assert report.program.startswith("# 19 launches a step")
    assert not any(one.plain or one.reason for one in report.accounts.values())


@pytest.mark.slow
def test_launches_take_dropout_penalties_limits_weights_and_a_schedule(cpu):
    step, state, batches = begin(MODEL, Adam(0.01), TERMS, steps=8, weighted=True, scheduled=True)
    turned = map_leaves(np.asfortranarray, copied(state.layers))
    ours = loop_of(lambda: [by_phase(cpu)])(
        step, copied(state)._replace(layers=turned), batches, xp=np
    )
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in pairs_of(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * np.abs(other).max())


# ---------------------------------------------------------------------------------------------
# The choice


@pytest.mark.parametrize(
    ("seconds", "taken", "told"),
    [
        ((3e-4, 1e-4, 2e-4), "KERNEL take_steps", ""),
        ((3e-4, 2e-4, 1e-4), "# 9 launches a step", ""),
        ((1e-4, 2e-4, 3e-4), "", "it is the fastest: 100 µs a step"),
    ],
    ids=["kernel", "launches", "plain"],
)
def test_what_is_measured_to_be_the_fastest_takes_the_steps(cpu, seconds, taken, told):
    step, state, batches = begin(MODEL, SGD(0.5), steps=8)
    times = iter(seconds)  # of the plain loop, the kernel, the launches

    def clock(run):
        run()
        return 16 * next(times)

    report = Report("cupy", "kernels")
    loop = alone(report, lambda: [cpu, by_phase(cpu)], clock)
    ours = loop(step, copied(state), batches, xp=np)
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in pairs_of(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * np.abs(other).max())
    assert report.program.startswith(taken)
    assert report.account((BATCH, SIZES[0])).reason == told


def test_a_kernel_that_is_wrong_leaves_the_steps_to_launches(cpu):
    def change(source):
        return source.replace("step < n_steps", "step < 1")

    step, state, batches = begin(MODEL, SGD(0.5), steps=8)
    wrong = replace(cpu, compile=disturbed(cpu.compile, change))
    report = Report("cupy", "kernels")
    with pytest.warns(RuntimeWarning, match="a kernel does not take the steps"):
        alone(report, lambda: [wrong, by_phase(cpu)])(step, copied(state), batches, xp=np)
    assert report.program.startswith("# 9 launches")
    assert report.account((BATCH, SIZES[0])).plain == 0


def test_a_later_run_of_an_equal_rule_and_shape_begins_with_the_program_of_the_first(cpu):
    compiled, known = [], cupy.Known(most=2)

    def compile_kernel(kernel, configuration):
        compiled.append(kernel)
        return cpu.compile(kernel, configuration)

    def steps_of(n, optimizer=RULES["plain"], batch=BATCH):
        step, state, batches = begin(MODEL, optimizer, steps=n, batch=batch)
        report = Report("cupy", "kernels")
        way = replace(cpu, block=32, compile=compile_kernel)
        loop = alone(report, lambda: [way], known=known)
        ours = loop(step, copied(state), batches, xp=np)
        theirs = plain.loop(step, copied(state), batches, xp=np)
        for one, other in pairs_of(ours, theirs):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * np.abs(other).max())
        return report.account((batch, SIZES[0])).plain

    assert steps_of(8) == 0
    assert steps_of(3, SGD(0.25)) == 0  # though 3 steps are not worth recording; η is in the state
    assert len(compiled) == 1
    assert steps_of(3, Adam(0.1)) == 3
    assert steps_of(8, batch=4) == 0
    assert steps_of(8, batch=5) == 0
    assert len(compiled) == 3
    assert steps_of(3) == 3  # the first is forgotten


def test_programs_of_equal_steps_share_no_memory(cpu):
    step, state, batches = begin(MODEL, SGD(0.5), steps=8)
    known = cupy.Known()
    loops = [
        alone(Report("cupy", "kernels"), lambda: [by_phase(cpu)], known=known) for _ in range(2)
    ]
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(loop, step, copied(state), batches, xp=np) for loop in loops]
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for ours in runs:
        for one, other in pairs_of(ours.result(), theirs):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * np.abs(other).max())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Out of memory allocating 1,024 bytes"),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_too_little_memory_for_a_trial_is_told_as_that_and_tried_again(cpu, caplog, error):
    def compile_kernel(kernel, configuration):
        def launch(arguments, n_steps):
            raise error

        return launch

    step, state, batches = begin(MODEL, SGD(0.5), steps=8)
    report, known = Report("cupy", "kernels"), cupy.Known()
    full = replace(cpu, compile=compile_kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone(report, lambda: [full], known=known)(step, copied(state), batches, xp=np)
    assert report.account((BATCH, SIZES[0])).reason == f"too little memory to try a kernel: {error}"
    assert len(caplog.records) == 1
    later = Report("cupy", "kernels")
    alone(later, lambda: [cpu], known=known)(step, copied(state), batches, xp=np)
    assert later.account((BATCH, SIZES[0])).plain == 0


def test_blocks_that_wait_for_each_other_must_all_have_room(monkeypatch):
    asked = []

    class Driver:
        @staticmethod
        def occupancyMaxActiveBlocksPerMultiprocessor(function, block, shared):  # noqa: N802
            asked.append((function, block))
            return 1

    class Device:
        attributes: ClassVar = {"MultiProcessorCount": 4}

    cuda = types.SimpleNamespace(driver=Driver, Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    function = types.SimpleNamespace(ptr=17)
    fits = LaunchConfiguration(1024, 4, False, 0.0, 0.0, launching._compile)
    launching._check_room(function, fits)
    with pytest.raises(RuntimeError, match="room for 4 of the 5 blocks"):
        launching._check_room(function, replace(fits, blocks=5))
    assert asked == [(17, 1024)] * 2


# ---------------------------------------------------------------------------------------------
# On a GPU, where there is one


@pytest.fixture(scope="module")
def gpu():
    pytest.importorskip("cupy")
    try:
        return place("cuda")
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", [0, 1, 2], ids=["few processors", "all processors", "launches"])
def test_kernels_on_a_gpu(gpu, way, rule):
    step, state, batches = begin(MODEL, RULES[rule], TERMS)
    launched = replace(
        launching.configurations()[way], seconds_per_phase=0.0, seconds_per_operation=0.0
    )
    with gpu.active():
        state_there = map_leaves(gpu.asarray, copied(state))
        batches_there = [gpu.asarray(part) for part in batches]
        ours = loop_of(lambda: [launched])(step, state_there, batches_there, xp=gpu.xp)
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in pairs_of(ours, theirs):
        np.testing.assert_allclose(to_numpy(one), other, rtol=0, atol=1e-9 * np.abs(other).max())


def test_two_networks_train_on_a_gpu_at_once(gpu):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 20)), rng.integers(3, size=2000)

    def train(seed):
        network = Network([20, 30, 3], device="cuda", seed=seed)
        network.fit(x, y, epochs=5, batch_size=4, progress=False)
        return to_numpy(network.layers[0].W)

    alone = [train(seed) for seed in (0, 1)]
    with ThreadPoolExecutor() as pool:
        together = list(pool.map(train, (0, 1)))
    np.testing.assert_array_equal(alone, together)


def test_a_gpu_that_is_full_takes_a_smaller_mini_batch(gpu):
    pool = gpu.xp.get_default_memory_pool()
    network = Network([784, 4096, 10], device="cuda", seed=0)
    x, y = np.zeros((60_000, 784), np.float32), np.zeros(60_000, int)
    network.fit(x[:10], y[:10], epochs=1, batch_size=10, progress=False)
    before = to_numpy(network.layers[0].W)
    pool.set_limit(size=pool.total_bytes() + (600 << 20))
    try:
        with pytest.raises(OutOfMemoryError, match="bytes"):
            network.fit(x, y, epochs=1, batch_size=60_000, progress=False)
        assert np.array_equal(to_numpy(network.layers[0].W), before)
        assert len(network.fit(x, y, epochs=1, batch_size=100, progress=False)) == 1
    finally:
        pool.set_limit(size=0)
