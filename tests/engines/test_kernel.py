"""The writer of kernels, whose source runs on a CPU as well."""

import os
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from steps import MODEL, TERMS, begin

from bp_xp import ACTIVATIONS, COSTS, SGD, Adam
from bp_xp._trees import leaves_of
from bp_xp.engines.kernel import PRELUDE, write_kernel
from bp_xp.engines.operations import list_operations
from bp_xp.engines.replay import CannotRecordError
from bp_xp.math.model import Model

pytestmark = pytest.mark.compiler


@pytest.fixture(scope="module")
def cpu():
    """What runs kernels on this processor."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    from cuda_on_cpu import CPU

    return CPU


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
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
# Races, and threads that leave their memory


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


# Of 15 barriers: nothing waits for the last, with dropout. A compiler takes 3 seconds for each.
BARRIERS = [pytest.param(k, marks=() if k in (0, 6, 13) else pytest.mark.slow) for k in range(14)]


@pytest.mark.parametrize("missing", BARRIERS)
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
