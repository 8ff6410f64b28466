"""What several test files share: the comparison of results, nets to test on, finite differences."""

import gzip
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings

from bp_xp import COSTS, Layer, Network, to_numpy
from bp_xp.backends import Placement
from bp_xp.datasets import load_digits
from bp_xp.math.costs import cost_named
from bp_xp.testing import assert_close
from bp_xp.training import looks

# Costs with settings, and all that have a name.
SETTLED = [
    "huber:delta=0.5",
    "categorical_cross_entropy:label_smoothing=0.25",
    "binary_cross_entropy:positive_weight=3.0",
    "binary_cross_entropy:positive_weight=0.5:label_smoothing=0.25",
]
EVERY_COST = COSTS | {name: cost_named(name) for name in SETTLED}

# The fixtures that property tests take (where, dtype) hold nothing that an example could change.
PROPERTY = settings(
    max_examples=12,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def write_as_mnist(folder: Path, width: int = 8, images: int | None = None) -> None:
    """Write the small digits as the four archives of MNIST, amid paper where these are wider."""
    digits, margin = load_digits(), (width - 8) // 2
    for part, x, y in (
        ("train", digits.x_train, digits.y_train),
        ("t10k", digits.x_test, digits.y_test),
    ):
        pixels = np.rint(255 * x).astype(np.uint8).reshape(-1, 8, 8)[:images]
        pixels = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)))
        for kind, array in (("images-idx3", pixels), ("labels-idx1", y.astype(np.uint8)[:images])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))


def widest(where: Placement) -> str:
    """Return the dtype with the most digits that a library has: float64 but for MLX."""
    return "float64" if where.library.has_dtype("float64", where.device) else "float32"


def tolerance(dtype: str, in_float64: float, *, roundings: float = 64.0) -> float:
    """Return how far off a result may be: what is asked in float64, or float32's share.

    In float32 it is ``roundings`` units of the dtype's rounding. What tests compute are sums of
    tens of terms, through a few layers and steps, each of which rounds: 16 suffice for all but two
    tests on MLX. A test that needs more than 64 says why.
    """
    return in_float64 if dtype == "float64" else roundings * float(np.finfo(dtype).eps)


def units_between_engines(where: Placement) -> float:
    """Return how many units of rounding, an ``eps``, two engines' steps may differ by."""
    dtype = widest(where)
    return tolerance(dtype, 1e-11) / float(np.finfo(dtype).eps)


def assert_agrees(
    actual, desired, where: Placement, dtype: str | None = None, *, eps: float = 32.0
) -> None:
    """Check library, device, dtype (the widest, if none is named), shape and values of a result.

    The tolerance is ``eps`` units of the dtype's rounding, relative to the largest value: a matrix
    product rounds each entry by the size of its summands, not by its own.
    """
    dtype = dtype or widest(where)
    desired = np.asarray(desired, np.float64)
    assert np.isfinite(desired).all()
    atol = eps * np.finfo(dtype).eps * np.abs(desired).max(initial=np.finfo(dtype).tiny)
    assert_close(actual, where.asarray(desired, dtype), rtol=0.0, atol=float(atol))


def assert_layers_agree(
    actual, desired, where: Placement, dtype: str | None = None, *, eps: float = 32.0
) -> None:
    """Check parameters or gradients against those of the host, layer by layer."""
    assert len(actual) == len(desired)
    for layer, (W, b) in zip(actual, desired, strict=True):
        assert isinstance(layer, Layer)
        assert_agrees(layer.W, W, where, dtype, eps=eps)
        assert_agrees(layer.b, b, where, dtype, eps=eps)


def on_host(layers: Sequence[Layer]) -> list[Layer]:
    """Bring layers home, in float64."""
    return [Layer(*(to_numpy(part).astype(np.float64) for part in layer)) for layer in layers]


def combine(function: Callable, *networks: Sequence[Layer]) -> list[Layer]:
    """Apply a function to corresponding parameters of several networks."""
    return [
        Layer(*(function(*parts) for parts in zip(*layers, strict=True)))
        for layers in zip(*networks, strict=True)
    ]


def to_device(layers: Sequence[Layer], where: Placement, dtype: str | None = None) -> list[Layer]:
    """Copy layers of the host to the device, in the widest dtype if none is named."""
    dtype = dtype or widest(where)
    return [Layer(*(where.asarray(np.array(part, dtype)) for part in layer)) for layer in layers]


def relative_distance(layers: Sequence[Layer], others: Sequence[Layer]) -> float:
    """Return ‖a − b‖ / ‖b‖ over all parameters."""
    a, b = flat(on_host(layers)), flat(on_host(others))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def flat(layers: Sequence[Layer]) -> np.ndarray:
    """Return all parameters of the host as one vector."""
    return np.concatenate([np.ravel(part) for layer in layers for part in layer])


def parameters(net: Network) -> np.ndarray:
    """Return all parameters of a network as one vector of the host."""
    return flat([Layer(*map(to_numpy, layer)) for layer in net.layers])


def random_layers(sizes: Sequence[int], rng: np.random.Generator) -> list[Layer]:
    """Draw weights, and biases that are not zero, so that none of them escapes a test."""
    return [
        Layer(rng.normal(size=(n_out, n_in)) / np.sqrt(n_in), 0.5 * rng.normal(size=n_out))
        for n_in, n_out in itertools.pairwise(sizes)
    ]


def random_targets(cost: str, n: int, n_out: int, rng: np.random.Generator) -> np.ndarray:
    """Draw targets that the cost takes, shape (n, n_out), not only zeros and ones."""
    name = cost.partition(":")[0]
    if name == "categorical_cross_entropy":
        return rng.dirichlet(np.ones(n_out), n)
    if name == "huber":
        # Wide enough that residuals lie on both sides of the kinks at −δ and δ.
        return 2.0 * rng.normal(size=(n, n_out))
    return rng.random((n, n_out))


def random_network(where: Placement, sizes, rng, dtype: str | None = None, **options) -> Network:
    """Make a network of random layers on a library and device, in the widest dtype if none."""
    return Network.from_layers(
        random_layers(sizes, rng),
        backend=where.backend,
        device=where.device_name,
        dtype=dtype or widest(where),
        **options,
    )


def random_samples(network: Network, rng: np.random.Generator, n: int = 8):
    """Draw inputs of shape (n, I), and targets that the network's cost takes, shape (n, O)."""
    x = rng.normal(size=(n, network.sizes[0]))
    return x, random_targets(network.model.cost.name, n, network.sizes[-1], rng)


def cut_chunks(monkeypatch, steps):
    """Let no more steps than these be taken at a time."""
    for limits in ("_CHUNK_ON_CPU", "_CHUNK_ELSEWHERE"):
        monkeypatch.setattr(looks, limits, (steps, 1 << 20))


# ---------------------------------------------------------------------------------------------
# Finite differences


def central_difference(f: Callable[[float], float], step: float = 1e-3):
    """Return f′(0) from four values around 0.

    The error is step⁴ f⁽⁵⁾(0) / 30, about 1e-13 for the functions here, and rounding adds 1e-16 /
    step: both are well below what is asked.
    """
    h = step
    return (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)


class InFile:
    """What has shape, dtype and slicing by rows, and no more: as a data set of HDF5 has.

    Attributes:
        reads: the rows of each slice that was read.
    """

    def __init__(self, values, chunks=None):
        self._values, self.chunks, self.reads = np.asarray(values), chunks, []
        self.shape, self.dtype = self._values.shape, self._values.dtype

    def __getitem__(self, rows):
        self.reads.append(range(self.shape[0])[rows])
        return self._values[rows]
