import contextlib
import importlib
import importlib.util
import itertools
import math
import subprocess
import sys
import textwrap
import threading

import cupy_like
import numpy as np
import pytest
from helpers import random_layers, widest

from bp_xp import (
    ACTIVATIONS,
    COSTS,
    SGD,
    Activation,
    Adam,
    Callback,
    Cost,
    Layer,
    Network,
    RMSprop,
    StepDecay,
    to_numpy,
)
from bp_xp.backends import place
from bp_xp.engines import plain
from bp_xp.errors import DeviceError
from bp_xp.math import dropout
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.sources.memory import MemoryEpoch
from bp_xp.testing.transfers import HostTransferError, no_host_transfer
from bp_xp.training.evaluation import totals_of
from bp_xp.training.step import Rule, State, make_step

# Each library and device that can tell of a read-back.
TELLING = {
    "array_api_strict-device1": ("array_api_strict", "device1"),
    "array_api_strict-cpu": ("array_api_strict", "cpu"),
    "torch-meta": ("torch", "meta"),
    "torch-cpu": ("torch", "cpu"),
    "jax": ("jax", "cpu:0"),
    **{name: (name, "cpu") for name in ("dpnp", "mlx") if importlib.util.find_spec(name)},
    "cupy_like": (cupy_like, cupy_like.GPU),
}


@pytest.fixture(params=TELLING)
def there(request):
    """A library and device that can tell."""
    backend, device = TELLING[request.param]
    if isinstance(backend, str):
        pytest.importorskip(backend)
    try:
        placement = place(device, backend)
    except DeviceError as error:  # dpnp without a driver
        pytest.skip(str(error))
    with placement.active():
        yield placement


def watched(placement):
    """Return the context, told of the library if it is none that bp_xp knows."""
    known = placement.backend in ("array_api_strict", "torch", "jax", "dpnp", "mlx")
    return no_host_transfer() if known else no_host_transfer(placement.xp)


def values_of(placement):
    """Return a matrix, a number, a whole number and a mask."""
    host = (np.arange(6.0).reshape(2, 3), np.asarray(2.0), np.asarray(1), np.asarray([True, False]))
    return [
        placement.asarray(one, widest(placement) if one.dtype == np.float64 else None)
        for one in host
    ]


# ---------------------------------------------------------------------------------------------
# One call

READ_BACKS = {
    "float": lambda xp, a, s, i: float(s),
    "int": lambda xp, a, s, i: int(i),
    "bool": lambda xp, a, s, i: bool(s),
    "if": lambda xp, a, s, i: 1 if xp.any(a > 0.0) else 2,
    "math.sqrt": lambda xp, a, s, i: math.sqrt(s),
    "numpy.asarray": lambda xp, a, s, i: np.asarray(a),
    "numpy.array": lambda xp, a, s, i: np.array(a, dtype=np.float32),
    "list of numbers": lambda xp, a, s, i: np.array([s, s]),
    "to_numpy": lambda xp, a, s, i: to_numpy(a),
    "str": lambda xp, a, s, i: str(a),
    "format": lambda xp, a, s, i: f"cost {s}",
    "print": lambda xp, a, s, i: print(s),
    "any": lambda xp, a, s, i: any(part == 5.0 for part in (s, s)),
}
OF_SOME = {
    "index": lambda xp, a, s, i: [10, 20][i],
    "range": lambda xp, a, s, i: list(range(i)),
    "complex": lambda xp, a, s, i: complex(s),
    "item": lambda xp, a, s, i: s.item(),
    "tolist": lambda xp, a, s, i: a.tolist(),
    "numpy.exp": lambda xp, a, s, i: np.exp(a),
    "numpy + array": lambda xp, a, s, i: np.add(np.ones(3), a),
    "assignment to numpy": lambda xp, a, s, i: np.ones((2, 3)).__setitem__(slice(None), a),
    "numpy.from_dlpack": lambda xp, a, s, i: np.from_dlpack(a),
    "get": lambda xp, a, s, i: a.get(),
}
LACK = {
    "array_api_strict": {"item", "tolist", "get"},
    "torch": {"get"},
    # NumPy reads the memory of a JAX or an MLX array on a CPU without asking.
    "jax": {"get", "numpy.exp", "numpy + array", "assignment to numpy"},
    "mlx": {"get", "numpy.exp", "numpy + array", "assignment to numpy"},
    # dpnp's arrays refuse these by themselves, in words of their own.
    "dpnp": {"get", "numpy.exp", "numpy + array", "numpy.from_dlpack"},
    "cupy_like": {"index", "range", "complex"},
}


# NumPy warns of the way PyTorch answers it, and continues.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("call", READ_BACKS | OF_SOME)
def test_read_back_is_refused(there, call, capsys):
    if call in LACK[there.backend]:
        pytest.skip(f"{there.backend} has no such call, or can't tell")
    if call == "numpy.from_dlpack" and there.device_name == "meta":
        pytest.skip("PyTorch exports nothing from meta, and says so itself")
    a, s, i, _ = values_of(there)
    read_back = (READ_BACKS | OF_SOME)[call]
    with pytest.raises(HostTransferError) as caught, watched(there):
        read_back(there.xp, a, s, i)
    first = str(caught.value).splitlines()[0]
    assert there.backend in first
    assert f'"{call}": lambda xp, a, s, i: ' in first  # the line above
    assert "test_transfers.py:" in first
    assert capsys.readouterr().out == ""


def test_what_stays_on_the_device_is_allowed(there):
    xp = there.xp
    a, s, _, mask = values_of(there)
    rows = there.asarray(np.asarray([1, 0]))
    with watched(there):
        uploaded = there.asarray(np.ones((2, 3)), widest(there))
        b = xp.where(a > 1.0, a, uploaded) @ a.mT + s
        b *= 2.0
        b = xp.reshape(xp.take(b, rows, axis=0), (4,))[1:3]
        b = xp.stack([b, xp.sum(a, axis=1), xp.astype(mask, a.dtype)])
        copy = xp.asarray(b, copy=True)
        shape, size, dtype = copy.shape, copy.ndim, copy.dtype
        low = xp.minimum(xp.max(copy), xp.astype(xp.argmin(copy), a.dtype) + 0.5)
    assert (tuple(shape), size, dtype) == ((3, 2), 2, a.dtype)
    assert tuple(low.shape) == ()


def test_operations_whose_size_depends_on_values_are_refused_on_torch():
    torch = pytest.importorskip("torch")
    a, mask = torch.arange(3.0), torch.asarray([True, False, True])
    sized = [
        lambda: a[mask],
        lambda: torch.nonzero(a),
        lambda: torch.unique(a),
        lambda: torch.equal(a, a),
        lambda: a[: torch.asarray(2)],
        lambda: torch.masked_select(a, mask),
    ]
    for read_back in sized:
        with pytest.raises(HostTransferError, match=r"aten\.\w+"), no_host_transfer():
            read_back()
    with no_host_transfer():
        assert a[torch.asarray([2, 0])].shape == (2,)


def test_copy_to_the_cpu_is_refused_and_to_another_device_allowed():
    torch = pytest.importorskip("torch")
    strict = pytest.importorskip("array_api_strict")
    cpu = strict.Device("CPU_DEVICE")
    far = strict.ones(2, device=strict.Device("device1"))
    meta, near = torch.empty(2, device="meta"), torch.ones(2)
    gpu = cupy_like.asarray([1.0])
    copies = [
        lambda: far.to_device(cpu),
        lambda: strict.asarray(far, device=cpu),
        lambda: meta.cpu(),
        lambda: meta.to("cpu"),
        lambda: near.copy_(meta),
        lambda: gpu.to_device("cpu"),
    ]
    for copy in copies:
        with pytest.raises(HostTransferError), no_host_transfer(cupy_like):
            copy()
    with no_host_transfer(cupy_like):
        far.to_device(strict.Device("device2"))
        strict.ones(2).to_device(cpu)
        near.to("meta")
        near.cpu()
        gpu.to_device(cupy_like.GPU)


def test_values_that_jax_does_not_have_yet_are_refused_alike():
    jax = pytest.importorskip("jax")
    xp = jax.numpy

    @jax.jit
    def step(z):
        return z if xp.any(z > 0.0) else -z

    with (
        pytest.raises(HostTransferError, match=r"in step: return z if xp\.any"),
        no_host_transfer(),
    ):
        step(xp.ones(3))


def test_cupy_is_watched_without_a_gpu():
    cupy = pytest.importorskip("cupy")

    def on_host(values):  # CuPy asks for a device only when it computes
        host = np.asarray(values)
        memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
        return cupy.ndarray(host.shape, host.dtype, cupy.cuda.MemoryPointer(memory, 0))

    a, s = on_host([1.0, 2.0]), on_host(2.0)
    before = dict(vars(cupy.ndarray))
    read_backs = [
        lambda: float(s),
        lambda: bool(s),
        lambda: s.item(),
        lambda: a.get(),
        lambda: a.tolist(),
        lambda: cupy.asnumpy(a),
        lambda: np.asarray(a),
        lambda: f"{s:.2f}",
        lambda: to_numpy(a),
    ]
    for read_back in read_backs:
        with pytest.raises(HostTransferError, match="of an array of cupy"), no_host_transfer():
            read_back()
    assert dict(vars(cupy.ndarray)) == before
    with pytest.raises(RuntimeError, match="CUDA"):
        a.get()


# ---------------------------------------------------------------------------------------------
# The training step

SIZES = (3, 5, 4, 2)
N, STEPS = 6, 5
OPTIMIZERS = [SGD(0.1, momentum=0.9, nesterov=True), RMSprop(0.1, momentum=0.9), Adam(0.1)]
TERMS = Regularization(
    l1=0.1, l2=0.1, dropout=(0.1, 0.5, 0.5), clip_norm=1.0, clip_value=1.0, max_norm=1.0
)
LOOPS = {
    "plain": lambda placement: plain.loop,
    "engine": lambda placement: placement.engine.new_loop(placement.new_report()),
}


def sigmoid_model(activation="sigmoid", cost="quadratic"):
    hidden = ACTIVATIONS.get(activation, activation)
    return Model(SIZES, (hidden, hidden, ACTIVATIONS["sigmoid"]), COSTS.get(cost, cost))


def take_steps(placement, model, optimizer, terms, loop, rng):
    """Return a function that takes some steps on the device, and what it returns."""
    layers = [
        Layer(*(placement.asarray(part, widest(placement)) for part in layer))
        for layer in random_layers(SIZES, rng)
    ]
    masks = ()
    if terms.dropout:
        masks = dropout.init_masks(terms.dropout, SIZES, N, 0, asarray=placement.asarray)
    state = State(
        layers, optimizer.init(layers, placement=placement, dtype=widest(placement)), masks
    )
    shapes = (STEPS, N, SIZES[0]), (STEPS, N, SIZES[-1]), (STEPS, N), (STEPS,)
    batches = [placement.asarray(rng.random(shape), widest(placement)) for shape in shapes]
    rule = Rule(model, optimizer.update, terms, weighted=True, given=("learning_rate",))
    step = make_step(rule)
    run = LOOPS[loop](placement)
    return lambda: run(step, state, batches, xp=placement.xp)


# JAX compiles each operation of a plain step: it takes a compiled one below, and whatever
# ``where`` brings.
WITHOUT_JAX = pytest.mark.parametrize(
    "there", [one for one in TELLING if one != "jax"], indirect=True
)


def test_a_compiled_training_step_reads_nothing_back(rng):
    pytest.importorskip("jax")
    there = place("cpu", "jax")
    steps = take_steps(there, sigmoid_model("elu"), OPTIMIZERS[-1], TERMS, "engine", rng)
    with no_host_transfer():
        _, zs = steps()
    assert tuple(zs.shape) == (STEPS, N, SIZES[-1])


@WITHOUT_JAX
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: type(one).__name__)
def test_training_steps_read_nothing_back(there, rng, optimizer, loop):
    steps = take_steps(there, sigmoid_model("elu"), optimizer, TERMS, loop, rng)
    with watched(there):
        state, zs = steps()
    assert tuple(zs.shape) == (STEPS, N, SIZES[-1])
    assert tuple(state.layers[0].W.shape) == (5, 3)


@pytest.mark.parametrize("loop", LOOPS)
def test_training_steps_read_nothing_back_wherever_the_tests_run(where, rng, loop):
    steps = take_steps(where, sigmoid_model("gelu"), SGD(0.1, momentum=0.5), TERMS, loop, rng)
    with no_host_transfer():
        _, zs = steps()
    assert np.isfinite(to_numpy(zs)).all()


@WITHOUT_JAX
@pytest.mark.parametrize(
    "activation", [s for s in ACTIVATIONS.values() if not s.coupled], ids=lambda one: one.name
)
@pytest.mark.parametrize("cost", COSTS.values(), ids=lambda one: one.name)
def test_every_activation_and_cost_stay_on_the_device(there, rng, activation, cost):
    xp = there.xp
    output = ACTIVATIONS[cost.output]
    model = Model(SIZES, (activation, activation, output), cost)
    steps = take_steps(there, model, SGD(0.1), Regularization(), "plain", rng)
    with watched(there):
        _, zs = steps()
        y = xp.reshape(zs, (-1, SIZES[-1]))
        totals_of(model, True, xp, 0.5 * y, y)


def cost_with(factor):
    return Cost(
        "own",
        COSTS["quadratic"].value,
        lambda a, y, *, xp: (a - y) * factor(a, xp),
    )


def sigma_with(sigma):
    return Activation("own", sigma, lambda z, a, *, xp: xp.ones_like(z))


class Descent:
    """Gradient descent with a user-defined rule for the rate."""

    def __init__(self, rate):
        def update(layers, gradients, state, *, xp):
            eta = rate(state.learning_rate)
            pairs = zip(layers, gradients, strict=True)
            return [Layer(W - eta * dW, b - eta * db) for (W, b), (dW, db) in pairs], state

        self.update = update

    def init(self, layers, *, placement, dtype):
        return SGD(0.1).init(layers, placement=placement, dtype=dtype)


def through_numpy(z, *, xp):
    return xp.asarray(np.tanh(np.asarray(z)))


def branch(z, *, xp):
    if xp.any(z > 0.0):
        return xp.tanh(z)
    return 1.0 * z


def logged(a, xp):
    print(xp.max(a))
    return 1.0


# What is planted, and the line of it that an error must show.
PLANTED = {
    "a cost that calls float": (
        lambda: {"cost": cost_with(lambda a, xp: 1.0 / float(xp.max(xp.abs(a))))},
        "1.0 / float(xp.max(xp.abs(a)))",
    ),
    "a cost that prints": (lambda: {"cost": cost_with(logged)}, "print(xp.max(a))"),
    "a cost that goes home": (
        lambda: {"cost": cost_with(lambda a, xp: xp.asarray(to_numpy(a).max()))},
        "to_numpy(a).max()",
    ),
    "an activation that goes through NumPy": (
        lambda: {"activation": sigma_with(through_numpy)},
        "np.asarray(z)",
    ),
    "a branch on values": (lambda: {"activation": sigma_with(branch)}, "if xp.any(z > 0.0):"),
    "an optimizer that calls item": (
        lambda: {"optimizer": Descent(lambda eta: eta.item())},
        "eta.item()",
    ),
    "an optimizer that calls float": (
        lambda: {"optimizer": Descent(lambda eta: min(float(eta), 0.05))},
        "float(eta)",
    ),
}


@pytest.mark.parametrize(
    "copy",
    [
        lambda a: a.cpu(),
        lambda a: a.to("cpu"),
        lambda a: a.to(device="cpu", dtype=a.dtype),
        lambda a: a.to("cpu", a.dtype),
        lambda a: a.to(a.new_empty(1, device="cpu")),
        lambda a: a.new_empty(2, device="cpu").copy_(a),
    ],
    ids=["cpu", "word", "option", "dtype", "like another", "into another"],
)
@pytest.mark.parametrize("inference", [False, True])
def test_pytorch_s_copies_to_the_host_are_caught_in_inference_mode_too(copy, inference):
    torch = pytest.importorskip("torch")
    a = torch.ones(2, device="meta")
    with torch.inference_mode(inference), no_host_transfer():
        a.to("meta", torch.float64).to(a)  # stays where it is
        with pytest.raises(HostTransferError):
            copy(a)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("planted", PLANTED)
def test_planted_transfer_is_caught(there, rng, planted, loop, capsys):
    plant, line = PLANTED[planted]
    if "item" in line and there.backend == "array_api_strict":
        pytest.skip("array_api_strict has no item")
    parts = {"activation": "sigmoid", "cost": "quadratic", "optimizer": SGD(0.1)} | plant()
    model = sigmoid_model(parts["activation"], parts["cost"])
    steps = take_steps(there, model, parts["optimizer"], Regularization(), loop, rng)
    if "prints" in planted and (there.backend, loop) == ("jax", "engine"):
        # JAX prints a traced value without its number: nothing is read.
        with watched(there):
            steps()
        return
    with pytest.raises(HostTransferError) as caught, watched(there):
        steps()
    first = str(caught.value).splitlines()[0]
    assert line in first
    assert "test_transfers.py:" in first


# ---------------------------------------------------------------------------------------------
# A whole run


@pytest.fixture
def epochs(there, monkeypatch):
    """Refuse read-backs from the first to the last step of each epoch; return how many those are.

    A run takes mini-batches from an epoch until there are no more: steps are taken in between.
    """
    if there.device_name == "meta":
        pytest.skip("on meta there are no values to fit to")
    take, opened = MemoryEpoch.take, []
    with contextlib.ExitStack() as contexts:

        def watched_take(self, at_most):
            if self.place == 0:
                contexts.enter_context(watched(there))
                opened.append(0)
            batches = take(self, at_most)
            if batches is None:
                contexts.close()
            else:
                opened[-1] += batches[0].shape[0]
            return batches

        monkeypatch.setattr(MemoryEpoch, "take", watched_take)
        yield opened


def fit(placement, rng, **options):
    x, y = rng.normal(size=(100, 3)), rng.integers(0, 2, 100)
    network = Network(
        SIZES, cost="categorical_cross_entropy", backend=placement.xp, device=placement.device_name,
        seed=0,
    )  # fmt: skip
    settings = {
        "optimizer": SGD(StepDecay(0.1, every=7, factor=0.5), momentum=0.9),
        "dropout": 0.2,
        "l2": 1e-3,
        "max_norm": 3.0,
        "validation_data": 0.2,
        "batch_size": 16,
        "epochs": 3,
        "progress": False,
    } | options
    return network.fit(x, y, **settings)


def test_fit_reads_back_only_at_the_end_of_an_epoch(there, epochs, rng):
    history = fit(there, rng)
    assert epochs == [5, 5, 5]  # 80 samples
    assert len(history) == 3
    assert np.isfinite(history[-1].cost)


def test_callback_that_reads_back_between_steps_is_caught(there, epochs, rng):
    class Curious(Callback):
        every = 3

        def on_steps(self, network, history, step):
            self.seen = to_numpy(network.layers[0].W)

    with pytest.raises(HostTransferError, match=r"self\.seen = to_numpy"):
        fit(there, rng, callbacks=[Curious()])
    assert epochs == [3]


# ---------------------------------------------------------------------------------------------
# Afterwards everything is as it was


def state_of_the_libraries():
    """Return what the context changes."""
    import torch

    strict, jax = importlib.import_module("array_api_strict"), importlib.import_module("jax")
    owners = (type(strict.zeros(1)), strict, type(jax.numpy.zeros(1)), np, cupy_like.ndarray)
    modes = (
        torch.overrides._get_current_function_mode_stack(),
        torch.utils._python_dispatch._get_current_dispatch_mode_stack(),
    )
    return [*(dict(vars(owner)) for owner in owners), *modes]


@pytest.fixture
def unchanged():
    """Check that a test leaves the libraries as they were."""
    for name in ("torch", "jax", "array_api_strict"):
        pytest.importorskip(name)
    before = state_of_the_libraries()
    yield
    assert state_of_the_libraries() == before
    assert float(cupy_like.asarray(2.0)) == 2.0


def test_everything_is_restored(unchanged):
    before = state_of_the_libraries()
    with no_host_transfer(cupy_like):
        during = state_of_the_libraries()
    assert all(now != then for now, then in zip(during, before, strict=True))


def test_everything_is_restored_after_an_error(unchanged):
    for error in (HostTransferError, ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), no_host_transfer(cupy_like):
            raise error


def test_contexts_may_be_nested(unchanged):
    gpu = cupy_like.asarray(2.0)
    with no_host_transfer(cupy_like):
        with pytest.raises(HostTransferError), no_host_transfer(cupy_like):
            float(gpu)
        with pytest.raises(HostTransferError):
            float(gpu)
    assert float(gpu) == 2.0


def test_other_threads_go_on_and_contexts_may_overlap(unchanged):
    gpu = cupy_like.asarray(2.0)
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def other():
        with no_host_transfer(cupy_like):
            inside.set()
            leave.wait(60.0)
            with pytest.raises(HostTransferError):
                float(gpu)
        seen.append(float(gpu))

    thread = threading.Thread(target=other)
    with no_host_transfer(cupy_like):
        thread.start()
        inside.wait(60.0)
    seen.append(float(gpu))  # the other thread is inside, this one no longer
    leave.set()
    thread.join()
    assert seen == [2.0, 2.0]


def test_it_serves_as_a_decorator(unchanged):
    @no_host_transfer(cupy_like)
    def look(array):
        return float(array)

    for _ in range(2):
        with pytest.raises(HostTransferError):
            look(cupy_like.asarray(1.0))


@pytest.mark.process
def test_only_libraries_that_are_imported_are_touched():
    program = """
        import sys
        from bp_xp.testing.transfers import no_host_transfer
        with no_host_transfer():
            pass
        found = {"torch", "jax", "cupy", "array_api_strict"} & set(sys.modules)
        assert not found, found
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


# ---------------------------------------------------------------------------------------------
# What is said


def test_error_is_an_assertion_that_conversions_do_not_swallow():
    assert issubclass(HostTransferError, AssertionError)
    assert not issubclass(HostTransferError, TypeError | ValueError | RuntimeError)


def test_error_points_past_the_libraries_and_says_what_to_do():
    gpu = cupy_like.asarray([1.0])
    with pytest.raises(HostTransferError) as caught, no_host_transfer(cupy_like):
        to_numpy(gpu)
    first, second = str(caught.value).splitlines()
    assert first.startswith("__array__ of an array of cupy_like reads it back to the host at ")
    assert first.endswith(
        "in test_error_points_past_the_libraries_and_says_what_to_do: to_numpy(gpu)"
    )
    assert "compute with array functions" in second


def test_array_that_refuses_by_itself_does_so_in_its_own_words():
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy"), no_host_transfer():
        np.asarray(cupy_like.asarray([1.0]))


def test_error_of_a_library_may_show_an_array():
    xp = pytest.importorskip("array_api_strict")
    a, i = xp.ones((2, 3)), xp.asarray(1.5)
    with pytest.raises(IndexError), no_host_transfer():
        a[i, ...]


def test_error_that_a_refusal_caused_is_told_as_the_refusal():
    gpu = cupy_like.asarray(1.0)

    def wrapped():
        try:
            return float(gpu)
        except Exception as error:
            raise ValueError("no number") from error

    with pytest.raises(HostTransferError, match="__float__"), no_host_transfer(cupy_like):
        wrapped()
    try:
        with no_host_transfer(cupy_like):
            float(gpu)
    except HostTransferError:
        with pytest.raises(KeyError), no_host_transfer(cupy_like):
            {}["an error of its own"]


def test_library_whose_arrays_are_closed_is_refused():
    with pytest.raises(TypeError, match="arrays of numpy can't be watched"), no_host_transfer(np):
        pass
    with pytest.raises(TypeError, match="'cupy' is not an array library"), no_host_transfer("cupy"):
        pass


def test_pairs_of_contexts_do_not_disturb_each_other(unchanged):
    for first, second in itertools.permutations([(), (cupy_like,)]):
        with no_host_transfer(*first), no_host_transfer(*second), pytest.raises(HostTransferError):
            float(cupy_like.asarray(1.0))
