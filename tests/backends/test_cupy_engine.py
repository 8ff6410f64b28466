"""The CuPy engine's kernels, run on a CPU: the same source, each thread of it a processor's thread.

The last part needs a GPU.
"""

import os
import re
import shutil
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import random_layers
from test_optimizers import RULES

from bp_xp import (
    ACTIVATIONS,
    COSTS,
    SGD,
    Adam,
    DeviceError,
    Layer,
    Network,
    OutOfMemoryError,
    engines,
    to_numpy,
)
from bp_xp._trees import leaves_of, map_leaves
from bp_xp.backends import place
from bp_xp.backends.cupy import engine as cupy
from bp_xp.backends.cupy.engine import new_loop
from bp_xp.engines import Engine, plain
from bp_xp.engines.kernel import PRELUDE, write_kernel
from bp_xp.engines.operations import list_operations
from bp_xp.engines.replay import CannotRecordError
from bp_xp.math import dropout
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.training.step import Rule, State, make_step

HERE = place("cpu")
SIZES, STEPS, BATCH = (4, 5, 3), 12, 6
MODEL = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
TERMS = Regularization(
    l1=0.1, l2=0.1, dropout=(0.1, 0.5), clip_norm=1.0, clip_value=1.0, max_norm=1.0
)
# Rounding grows along a trajectory, but a net that learns is no chaos.
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


@pytest.fixture(scope="module")
def cpu():
    """What runs kernels on this processor."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    from cuda_on_cpu import CPU

    return CPU


def begin(model, optimizer, terms=None, dtype="float64", *, weighted=False, scheduled=False):
    """Return a step, its state and mini-batches."""
    terms = terms or Regularization()
    rng = np.random.default_rng(5)
    layers = [
        Layer(*(part.astype(dtype) for part in layer)) for layer in random_layers(model.sizes, rng)
    ]
    masks = ()
    if terms.dropout:
        masks = dropout.init_masks(terms.dropout, model.sizes, BATCH, 0, place=HERE)
    state = State(layers, optimizer.init(layers, place=HERE, dtype=dtype), masks)
    batches = [
        rng.normal(size=(STEPS, BATCH, model.sizes[0])),
        rng.dirichlet(np.ones(model.sizes[-1]), size=(STEPS, BATCH)),
    ]
    batches += [rng.random((STEPS, BATCH))] if weighted else []
    batches += [np.linspace(0.1, 0.0, STEPS)] if scheduled else []
    given = ("learning_rate",) if scheduled else ()
    step = make_step(Rule(model, optimizer.update, terms, weighted=weighted, given=given))
    return step, state, [part.astype(dtype) for part in batches]


def copied(tree):
    return map_leaves(np.copy, tree)


def assert_taken_by_a_kernel(cpu, step, state, batches, tolerance=TOLERANCE["float64"]):
    """Check that a kernel takes the steps, and that it gives what the plain loop gives."""
    compiled, taken = [], []

    def compile_kernel(kernel, configuration):
        compiled.append(kernel)
        launch = cpu.compile(kernel, configuration)
        return lambda arguments, n_steps: (taken.append(n_steps), launch(arguments, n_steps))

    loop = new_loop(lambda: [replace(cpu, compile=compile_kernel)])
    ours = loop(step, copied(state), batches, xp=np)
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in zip(leaves_of(ours), leaves_of(theirs), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
    assert taken == [2, len(batches[0])]  # beside the plain loop, and instead of it
    [kernel] = compiled
    return kernel


# ---------------------------------------------------------------------------------------------
# The trajectory of the plain loop


@pytest.mark.parametrize("activation", [one for one in ACTIVATIONS.values() if not one.coupled])
def test_every_activation(cpu, activation):
    model = Model(SIZES, (activation, ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
    assert_taken_by_a_kernel(cpu, *begin(model, SGD(0.1)))


@pytest.mark.parametrize("cost", COSTS)
def test_every_cost(cpu, cost):
    output = "softmax" if cost == "quadratic" else COSTS[cost].output
    model = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS[output]), COSTS[cost])
    assert_taken_by_a_kernel(cpu, *begin(model, SGD(0.1)))


@pytest.mark.parametrize("rule", RULES)
def test_every_optimizer(cpu, rule):
    assert_taken_by_a_kernel(cpu, *begin(MODEL, RULES[rule]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dropout_penalties_limits_weights_and_a_schedule(cpu, dtype):
    setting = begin(MODEL, Adam(0.01), TERMS, dtype, weighted=True, scheduled=True)
    assert_taken_by_a_kernel(cpu, *setting, TOLERANCE[dtype])


def test_sums_in_blocks_and_sums_by_a_warp(cpu, monkeypatch):
    monkeypatch.setattr("bp_xp.backends._ROWS_SUMMED_AT_ONCE", 2)
    model = Model((70, 3, 2), MODEL.activations, COSTS["quadratic"])
    assert_taken_by_a_kernel(cpu, *begin(model, SGD(0.1)))


def test_blocks_of_entries_at_once(cpu, monkeypatch):
    monkeypatch.setattr("test_engines_cupy.BATCH", 16)
    model = Model((64, 48, 16), MODEL.activations, COSTS["quadratic"])
    step, state, batches = begin(model, SGD(0.1, momentum=0.5), Regularization(l2=0.1))
    kernel = assert_taken_by_a_kernel(cpu, step, state, [part[:8] for part in batches])
    # z¹ is shared by warps, and the descent by threads; δ¹ has fewer entries.
    assert {int(n) for n in re.findall(r"t < (\d+)", kernel.source)} == {4, 16}
    assert "of_neighbour<32>(v0[t]" in kernel.source


def test_fit_takes_its_steps_in_kernels(cpu, monkeypatch):
    # 46 samples in batches of 5: nine steps an epoch, and a short mini-batch for the plain loop.
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(46, 4)), rng.integers(3, size=46)
    runs = []
    for engine in (engines.ENGINES["numpy"], Engine(lambda: new_loop(lambda: [cpu]))):
        monkeypatch.setitem(engines.ENGINES, "numpy", engine)
        network = Network([4, 6, 3], cost="categorical_cross_entropy", dtype="float64", seed=1)
        history = network.fit(
            x, y, epochs=3, batch_size=5, optimizer=Adam(0.05), dropout=0.2, progress=False
        )
        runs.append([*history["cost"], *(part.sum() for part in leaves_of(network.layers))])
    np.testing.assert_allclose(*runs, rtol=1e-12)


# ---------------------------------------------------------------------------------------------
# Operations, each against NumPy


def _functions(a, b, n, m, xp):
    """Return what one step makes of two arrays of numbers and two of integers."""
    on = b > 0.3
    return [
        *(f(a) for f in (xp.exp, xp.exp2, xp.expm1, xp.tanh, xp.sin, xp.cos, xp.sinh, xp.cosh)),
        *(f(b) for f in (xp.log, xp.log2, xp.log1p, xp.sqrt, xp.cbrt, xp.reciprocal, xp.tan)),
        *(f(a) for f in (xp.abs, xp.sign, xp.square, xp.negative, xp.positive, xp.arctan)),
        *(f(a, b) for f in (xp.maximum, xp.minimum, xp.add, xp.subtract, xp.divide)),
        *(b**2, b**1.5, 2.0**a, xp.maximum(a, 0.25), xp.minimum(-0.5, a), xp.clip(a, -0.5, 0.5)),
        *(xp.clip(a, min=-b, max=b), xp.add(on, on, out=1.0 * a), on + (a > 0)),
        *(xp.astype(f, a.dtype) for f in (a > b, a >= b, a < b, a <= b, a == a, a != b)),
        *(xp.astype(f, a.dtype) for f in (on & (a > 0), on | (a > 0), ~on, on ^ (a > 0))),
        *(xp.astype(f, a.dtype) for f in (xp.logical_and(on, a), xp.logical_or(on, a))),
        *(xp.where(a > b, a, 2.0), xp.where(on, -1.0, b), xp.tril(a), xp.triu(a, k=1)),
        *(xp.stack([a[0, :], b[1, :]], axis=1), xp.concat([a[:, :2], b], axis=1)),
        *(xp.zeros_like(a), xp.ones_like(a), xp.sum(a), xp.max(a, axis=0), xp.min(a, axis=-1)),
        *(xp.sum(a, axis=(0, 1), keepdims=True), xp.sum(xp.stack([a, b]), axis=(0, 2))),
        *(a @ b.mT, a.mT @ (b + 1.0), a[:2, :] @ a.mT, a[None, ...] @ xp.stack([b.mT, a.mT])),
        *(a + xp.asarray([1.0, 2.0, 3.0, 4.0], dtype=a.dtype), xp.reshape(a, (2, -1)) * 1.0),
        *(
            n * m,
            n + m,
            n - m,
            n ^ m,
            n & m,
            n | m,
            n >> 3,
            n * 0x7FEB352D,
            -n,
            n**2,
            ~n,
            xp.maximum(n, m),
        ),
        *(xp.astype(n >= 12, a.dtype), xp.astype(a, n.dtype), xp.astype(n, a.dtype)),
    ]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_operation_is_that_of_numpy(cpu, dtype):
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(4, 4)).astype(dtype), (rng.random((4, 4)) + 0.1).astype(dtype)
    a[0, 0], a[1, 1], a[2, 2], b[3, 3] = 0.0, b[1, 1], np.nan, a[3, 3]
    n, m = rng.integers(-(2**31), 2**31, size=(2, 5)).astype(np.int32)
    with np.errstate(all="ignore"):
        wanted = _functions(a, b, n, m, np)

    def step(state, _, *, xp):
        inputs, _ = state
        results = _functions(*(1 * part for part in inputs), xp)
        return (inputs, results), inputs[0] * 1.0

    state = [a, b, n, m], [np.empty_like(one) for one in wanted]
    with np.errstate(all="ignore"):
        kernel = write_kernel(list_operations(step, state, [a]), threads=cpu.threads)
    z = np.empty((1, 4, 4), dtype)
    memory = {f"s{i}": np.ascontiguousarray(leaf) for i, leaf in enumerate(leaves_of(state))}
    memory |= {"z": z, "scratch": np.zeros(kernel.scratch, np.uint8)} | kernel.constants
    cpu.compile(kernel, cpu)([memory[name] for name in kernel.arguments], 1)

    eps = np.finfo(dtype).eps
    for i, one in enumerate(wanted):
        found = memory[f"s{i + 4}"].reshape(one.shape)
        if one.dtype.kind == "f":
            np.testing.assert_allclose(found, one, rtol=8 * eps, atol=8 * eps, err_msg=str(i))
        else:
            np.testing.assert_array_equal(found, one, err_msg=str(i))
    np.testing.assert_array_equal(z[0], a)


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


@pytest.mark.parametrize(
    "function",
    [
        lambda w, xp: xp.cumulative_sum(w, axis=0),
        lambda w, xp: xp.arctan2(w, w),
        lambda w, xp: xp.sum(w > 0),
        lambda w, xp: xp.sum(w, dtype=xp.float64),
        lambda w, xp: xp.reshape(xp.tanh(w.mT), (-1,)),
        lambda w, xp: xp.matmul(w, w.mT, out=w @ w.mT),
        lambda w, xp: w[True],
        lambda w, xp: w * xp.inf,
        lambda w, xp: w * (1.0 if xp.max(w) > 0 else 2.0),
        lambda w, xp: w + xp.asarray(1j),
        lambda w, xp: xp.astype(xp.astype(w, xp.int32) ** 3, w.dtype),
    ],
    ids=[
        "scan",
        "rare",
        "count",
        "wider",
        "copy",
        "product",
        "true",
        "infinite",
        "branch",
        "complex",
        "integers",
    ],
)
def test_what_no_kernel_does_is_told(function):
    """Or taken for an error by the recorder: the plain loop serves in any case."""

    def step(state, x, *, xp):
        return state - 0.0 * xp.sum(function(state, xp)), x

    with pytest.raises((CannotRecordError, TypeError, AttributeError)):
        list_operations(step, np.ones((2, 3), np.float32), [np.ones((2, 3), np.float32)])


# ---------------------------------------------------------------------------------------------
# Phases and memory


def kernel_of(sizes, optimizer, terms=None, threads=8192, batch=10, cost="quadratic"):
    """Return the kernel of a network in float32."""
    model = Model(sizes, (ACTIVATIONS["sigmoid"],) * (len(sizes) - 1), COSTS[cost])
    step, state, batches = begin(model, optimizer, terms, "float32")
    alike = [np.ones((batch, part.shape[-1]), part.dtype) for part in batches]
    return write_kernel(list_operations(step, state, alike), threads=threads)


def test_the_book_s_network_waits_four_times_a_step():
    kernel = kernel_of((784, 30, 10), SGD(3.0))
    assert kernel.n_phases == kernel.source.count("barrier(") == 4
    # What lives from one phase to the next is a¹, δ² and δ¹; no gradient is ever stored.
    entries = 10 * (30 + 10 + 30)
    assert kernel.scratch == 16 + 4 * entries
    products = 10 * (2 * 784 * 30 + 3 * 30 * 10)
    assert products < kernel.n_operations < 1.2 * products


def test_a_deeper_network_waits_twice_more_a_layer():
    depths = [kernel_of((20,) + (8,) * n + (3,), SGD(1.0)).n_phases for n in (1, 2, 3)]
    assert depths == [4, 6, 8]


def test_a_sum_along_rows_is_shared_by_a_warp_and_others_by_who_is_idle():
    source = kernel_of((784, 30, 10), SGD(3.0)).source
    loops = re.findall(r"// (\d+ × \d+)\n.*?\n(?=\s+(?://|barrier))", source, re.DOTALL)
    assert loops.count("30 × 784") == 1
    forward = source[source.index("// 10 × 30") :]
    assert forward.index("of_neighbour<32>") < forward.index("// 10 × 10")
    descent = source[source.index("// 30 × 784") :]
    assert "of_neighbour" not in descent[: descent.index("s0[i0 * 784 + i1] = ")]


# ---------------------------------------------------------------------------------------------
# What is wrong is noticed


@pytest.fixture(scope="module")
def racing():
    """A kernel, and the number of entries that each of its arguments has for two steps."""
    model = Model((5, 40, 3), MODEL.activations, COSTS["quadratic"])
    step, state, batches = begin(model, Adam(0.1), TERMS, "float32")
    operations = list_operations(step, state, [part[0] for part in batches])
    kernel = write_kernel(operations, threads=128)
    sizes = {name: operations.sizes[name] for name in kernel.arguments if name != "scratch"}
    moving = {name: 2 * size for name, size in sizes.items() if name[0] in "xz"}
    return kernel, sizes | moving | {"scratch": kernel.scratch}


def checked_run(kernel, sizes, folder, sanitizer):
    """Compile a kernel to a program with a checker, run it, and return what the checker says."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    from cuda_on_cpu import SOURCES, build, source_of

    memory = ", ".join(
        f"calloc({sizes[name]}, sizeof({kind}))" for name, kind in kernel.arguments.items()
    )
    main = f"""
        #include <cstdlib>
        int main() {{
            void* arguments[] = {{ {memory} }};
            on_every_thread(128, call, arguments, 2);
        }}
    """
    threads = (SOURCES / "cuda_on_cpu.cpp").read_text()
    program = folder / "checked"
    try:
        build(threads + source_of(kernel) + main, program, f"-fsanitize={sanitizer}", "-g")
    except subprocess.CalledProcessError as error:
        if "cannot find" in error.stderr:
            pytest.skip(f"no sanitizer of {sanitizer} here")
        raise AssertionError(error.stderr) from error
    # The checkers know the addresses of a process whose memory is laid out as ever.
    as_ever = ["setarch", "-R"]
    if not shutil.which("setarch") or subprocess.run([*as_ever, "true"], check=False).returncode:
        as_ever = []  # not here, or not allowed
    env = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [*as_ever, program], capture_output=True, text=True, timeout=120, env=env, check=False
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip(f"the sanitizer of {sanitizer} does not run here: {done.stderr}")
    return done


def test_no_two_threads_use_memory_at_once(racing, tmp_path):
    done = checked_run(*racing, tmp_path, "thread")
    assert done.returncode == 0, done.stderr


BARRIER = "        barrier((unsigned*)scratch);\n"


@pytest.mark.parametrize("missing", range(14))  # of 15: nothing waits for the last, with dropout
def test_a_barrier_less_is_a_race(racing, tmp_path, missing):
    kernel, sizes = racing
    parts = kernel.source.split(BARRIER)
    assert len(parts) == kernel.n_phases + 1 == 16
    joined = [*parts[:missing], parts[missing] + parts[missing + 1], *parts[missing + 2 :]]
    fewer = replace(kernel, source=BARRIER.join(joined))
    assert "data race" in checked_run(fewer, sizes, tmp_path, "thread").stderr


def test_no_thread_leaves_its_memory(racing, tmp_path):
    kernel, sizes = racing
    done = checked_run(kernel, sizes, tmp_path, "address,undefined")
    assert (done.returncode, done.stderr) == (0, "")
    small = sizes | {"s0": sizes["s0"] - 1}
    assert "heap-buffer-overflow" in checked_run(kernel, small, tmp_path, "address").stderr


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
        (lambda source: source.replace("x0 += 24;", "x0 += 25;"), "is off by"),
        (lambda source: source.replace("tanh(", "tanhh("), "CalledProcessError"),
    ],
    ids=["function", "sign", "not moved", "NaN", "next batch", "does not compile"],
)
def test_a_kernel_that_is_wrong_is_left_to_the_plain_loop(cpu, change, why):
    # The rate is small: what is wrong must show in what a step changes.
    step, state, batches = begin(MODEL, SGD(1e-5), dtype="float32")
    loop = new_loop(lambda: [replace(cpu, compile=disturbed(cpu.compile, change))])
    with pytest.warns(RuntimeWarning, match=f"not to be trusted: .*{why}"):
        ours = loop(step, copied(state), batches, xp=np)
    again = loop(step, copied(state), batches, xp=np)  # it is said once
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, two, other in zip(*map(leaves_of, (ours, again, theirs)), strict=True):
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
        new_loop(lambda: [cpu])(step, state, batches, xp=np)


def test_a_run_that_overflows_is_not_mistrusted(cpu):
    step, state, batches = begin(MODEL, SGD(0.5))
    batches[0][0, 0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        new_loop(lambda: [cpu])(step, state, batches, xp=np)


@pytest.mark.parametrize("reason", ["few", "slow", "large", "not recorded", "shared"])
def test_where_a_kernel_does_not_serve_the_plain_loop_does(cpu, monkeypatch, reason):
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

    loop = new_loop(lambda: [replace(configuration, compile=refuse)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = loop(step, map_leaves(lambda leaf: leaf, state), batches, xp=np)
    assert ours[1].shape == (len(batches[0]), BATCH, SIZES[-1])


def test_arrays_of_another_layout_are_taken_too(cpu):
    # Steps in the plain loop, such as those of a short last mini-batch, may return them.
    step, state, batches = begin(MODEL, SGD(0.5, momentum=0.5))
    turned = map_leaves(np.asfortranarray, copied(state.layers))
    assert not turned[0].W.flags.c_contiguous
    loop = new_loop(lambda: [cpu])
    ours, our_zs = loop(step, copied(state)._replace(layers=turned), batches, xp=np)
    theirs, their_zs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in zip(leaves_of([ours, our_zs]), leaves_of([theirs, their_zs]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_of_several_configurations_the_one_that_takes_less_time_is_chosen(cpu):
    chosen = []

    def noting(kernel, configuration):
        chosen.append(configuration.blocks)
        return cpu.compile(kernel, cpu)

    step, state, batches = begin(MODEL, SGD(0.5))
    near = replace(cpu, compile=noting)
    far = replace(near, blocks=4, seconds_per_phase=2e-6, seconds_per_operation=1e-13)
    new_loop(lambda: [near, far])(step, copied(state), batches, xp=np)
    slow = replace(near, seconds_per_operation=1e-7)
    new_loop(lambda: [slow, far])(step, copied(state), batches, xp=np)
    assert chosen == [2, 4]


# ---------------------------------------------------------------------------------------------
# CUDA's compiler, which needs no GPU

WAYS = {"one block": (1, 0), "cluster": (8, 1), "whole device": (132, 0)}


@pytest.mark.parametrize(
    ("architecture", "way"),
    [
        (75, "one block"),
        (80, "whole device"),
        (90, "cluster"),
        (90, "whole device"),
        (120, "cluster"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nvrtc_compiles_a_kernel_without_a_warning(architecture, way, dtype):
    nvrtc = pytest.importorskip("cupy.cuda").nvrtc
    try:
        nvrtc.getVersion()
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"NVRTC is not installed: {type(error).__name__}")
    blocks, clustered = WAYS[way]
    step, state, batches = begin(MODEL, Adam(0.1), TERMS, dtype, weighted=True, scheduled=True)
    operations = list_operations(step, state, [part[0] for part in batches])
    kernel = write_kernel(operations, threads=1024 * blocks)
    defined = f"#define BLOCK 1024\n#define BLOCKS {blocks}\n#define CLUSTERED {clustered}\n"
    program = nvrtc.createProgram(defined + PRELUDE + kernel.source, "kernel.cu", (), ())
    options = ("--std=c++17", f"-arch=compute_{architecture}", "-Werror", "all-warnings")
    nvrtc.compileProgram(program, options)
    ptx = nvrtc.getPTX(program)
    ptx = ptx.decode() if isinstance(ptx, bytes) else ptx
    barriers = "barrier.cluster.wait" if clustered else "bar"
    assert ptx.count(barriers) >= kernel.n_phases
    assert (".f64" in ptx) == (dtype == "float64")  # no number of another width on the way
    assert ("atom" in ptx) == (way == "whole device")


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
@pytest.mark.parametrize("way", [0, 1], ids=["few processors", "all processors"])
def test_kernels_on_a_gpu(gpu, way, rule):
    step, state, batches = begin(MODEL, RULES[rule], TERMS)
    launched = replace(
        cupy._configurations()[way], seconds_per_phase=0.0, seconds_per_operation=0.0
    )
    with gpu.active():
        state_there = map_leaves(gpu.asarray, copied(state))
        batches_there = [gpu.asarray(part) for part in batches]
        ours = new_loop(lambda: [launched])(step, state_there, batches_there, xp=gpu.xp)
    theirs = plain.loop(step, copied(state), batches, xp=np)
    for one, other in zip(leaves_of(ours), leaves_of(theirs), strict=True):
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


def test_a_gpu_that_is_full_takes_a_smaller_mini_batch(gpu):  # D07, D08
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
