"""What a user would otherwise run: the same training step, written for one library.

Each peer is a function of a :class:`Workload` that returns a function taking one step for each of
its mini-batches. All get the same data, batch size, dtype and learning rate, plain gradient
descent, and the same network: one activation in the hidden layers, then sigmoid with the quadratic
cost or softmax with the categorical cross-entropy.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

RATE = 0.1

Run = Callable[[], object]


@dataclass
class Workload:
    """A network and its mini-batches.

    Attributes:
        name: what the table calls it.
        sizes: neurons of each layer.
        activation: of the hidden layers.
        cost: ``"quadratic"`` or ``"categorical_cross_entropy"``.
        batch: samples in a mini-batch.
        steps: mini-batches in a round.
        xs: inputs, shape (steps, batch, I), float32.
        ys: targets, shape (steps, batch, O), one 1 in each row.
    """

    name: str
    sizes: list[int]
    activation: str
    cost: str
    batch: int
    steps: int
    xs: np.ndarray = field(init=False, repr=False)
    ys: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.xs = rng.random((self.steps, self.batch, self.sizes[0]), dtype=np.float32)
        labels = rng.integers(0, self.sizes[-1], (self.steps, self.batch))
        self.ys = np.eye(self.sizes[-1], dtype=np.float32)[labels]

    def parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return new weights and biases, always the same."""
        rng = np.random.default_rng(1)
        return [
            (
                (rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32),
                np.zeros(n_out, dtype=np.float32),
            )
            for n_in, n_out in itertools.pairwise(self.sizes)
        ]

    @property
    def relu(self) -> bool:
        """Whether the hidden layers are rectified."""
        return self.activation == "relu"

    @property
    def quadratic(self) -> bool:
        """Whether the cost is quadratic."""
        return self.cost == "quadratic"


# ---------------------------------------------------------------------------------------------
# NumPy


def products_alone(work: Workload) -> Run:
    """Return the matrix products of a step and nothing else: the floor."""
    W = [w for w, _ in work.parameters()]
    A = [np.ones((work.batch, n), np.float32) for n in work.sizes]
    D = [np.empty_like(a) for a in A]
    dW = [np.empty_like(w) for w in W]

    def run() -> None:
        for _ in range(work.steps):
            for l, w in enumerate(W):  # noqa: E741
                np.matmul(A[l], w.T, out=D[l + 1])
            for l in range(len(W) - 1, -1, -1):  # noqa: E741
                np.matmul(A[l + 1].T, A[l], out=dW[l])
                if l:
                    np.matmul(A[l + 1], W[l], out=D[l])

    return run


def numpy_by_hand(work: Workload) -> Run:
    """Return what a patient programmer writes: every result in memory allocated once."""
    parameters = work.parameters()
    W, b = [w for w, _ in parameters], [c for _, c in parameters]
    Z, D, S = ([np.empty((work.batch, n), np.float32) for n in work.sizes[1:]] for _ in range(3))
    dW, db = [np.empty_like(w) for w in W], [np.empty_like(c) for c in b]
    last, share = len(W) - 1, 1.0 / work.batch

    def sigmoid(z: np.ndarray) -> None:
        z *= 0.5
        np.tanh(z, out=z)
        z *= 0.5
        z += 0.5

    def softmax(z: np.ndarray) -> None:
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)

    def times_slope(d: np.ndarray, a: np.ndarray, s: np.ndarray) -> None:
        np.subtract(1.0, a, out=s)
        s *= a
        d *= s

    def run() -> None:
        for x, y in zip(work.xs, work.ys, strict=True):
            A = [x]
            for l in range(last + 1):  # noqa: E741
                z = Z[l]
                np.matmul(A[l], W[l].T, out=z)
                z += b[l]
                if l == last:
                    sigmoid(z) if work.quadratic else softmax(z)
                elif work.relu:
                    np.maximum(z, 0.0, out=z)
                else:
                    sigmoid(z)
                A.append(z)
            d = D[last]
            np.subtract(A[-1], y, out=d)
            if work.quadratic:
                times_slope(d, A[-1], S[last])
            d *= share
            for l in range(last, -1, -1):  # noqa: E741
                np.matmul(d.T, A[l], out=dW[l])
                np.add.reduce(d, axis=0, out=db[l])
                if l:
                    below = D[l - 1]
                    np.matmul(d, W[l], out=below)
                    if work.relu:
                        below *= A[l] > 0
                    else:
                        times_slope(below, A[l], S[l - 1])
                    d = below
                dW[l] *= RATE
                W[l] -= dW[l]
                db[l] *= RATE
                b[l] -= db[l]

    return run


def book_loop(work: Workload) -> Run | None:
    """Return the loop over samples of the book's code, in columns and float64."""
    if not work.quadratic or work.relu:
        return None
    weights = [w.astype(float) for w, _ in work.parameters()]
    biases = [c[:, None].astype(float) for _, c in work.parameters()]

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-z))

    def gradient(x: np.ndarray, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        zs, activations = [], [x]
        for w, b in zip(weights, biases, strict=True):
            zs.append(np.dot(w, activations[-1]) + b)
            activations.append(sigmoid(zs[-1]))
        delta = (activations[-1] - y) * sigmoid(zs[-1]) * (1 - sigmoid(zs[-1]))
        nabla_b, nabla_w = [delta], [np.dot(delta, activations[-2].T)]
        for l in range(2, len(work.sizes)):  # noqa: E741
            slope = sigmoid(zs[-l]) * (1 - sigmoid(zs[-l]))
            delta = np.dot(weights[-l + 1].T, delta) * slope
            nabla_b.insert(0, delta)
            nabla_w.insert(0, np.dot(delta, activations[-l - 1].T))
        return nabla_b, nabla_w

    def run() -> None:
        for x, y in zip(work.xs, work.ys, strict=True):
            total_b = [np.zeros(b.shape) for b in biases]
            total_w = [np.zeros(w.shape) for w in weights]
            for row, target in zip(x, y, strict=True):
                nabla_b, nabla_w = gradient(row[:, None], target[:, None])
                total_b = [t + n for t, n in zip(total_b, nabla_b, strict=True)]
                total_w = [t + n for t, n in zip(total_w, nabla_w, strict=True)]
            weights[:] = [
                w - (RATE / work.batch) * n for w, n in zip(weights, total_w, strict=True)
            ]
            biases[:] = [b - (RATE / work.batch) * n for b, n in zip(biases, total_b, strict=True)]

    return run


def scikit_learn(work: Workload) -> Run | None:
    """Return an epoch of MLPClassifier, whose cost is always the cross-entropy."""
    from sklearn.neural_network import MLPClassifier

    x = work.xs.reshape(-1, work.sizes[0])
    labels = work.ys.reshape(-1, work.sizes[-1]).argmax(axis=1)
    model = MLPClassifier(
        hidden_layer_sizes=work.sizes[1:-1],
        activation="relu" if work.relu else "logistic",
        solver="sgd",
        alpha=0.0,
        batch_size=work.batch,  # pyright: ignore[reportArgumentType]
        learning_rate_init=RATE,
        momentum=0.0,
        shuffle=False,
    )
    return lambda: model.partial_fit(x, labels, classes=np.arange(work.sizes[-1]))


# ---------------------------------------------------------------------------------------------
# PyTorch


def _torch_modules(work: Workload):
    import torch
    from torch import nn

    modules: list[nn.Module] = []
    for w, b in work.parameters():
        linear = nn.Linear(w.shape[1], w.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.asarray(w))
            linear.bias.copy_(torch.asarray(b))
        modules += [linear, nn.ReLU() if work.relu else nn.Sigmoid()]
    return nn.Sequential(*(modules if work.quadratic else modules[:-1]))


def torch_eager(work: Workload, *, compiled: bool = False) -> Run:
    """Return autograd with torch.optim.SGD, mini-batches by slicing."""
    import torch

    model = _torch_modules(work)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    xs, ys = torch.asarray(work.xs), torch.asarray(work.ys)
    labels = ys.argmax(dim=-1)

    def cost(x, y, label):
        if work.quadratic:
            return 0.5 * ((model(x) - y) ** 2).sum(dim=-1).mean()
        return torch.nn.functional.cross_entropy(model(x), label)

    forward = torch.compile(cost) if compiled else cost

    def run() -> None:
        for k in range(work.steps):
            optimizer.zero_grad()
            forward(xs[k], ys[k], labels[k]).backward()
            optimizer.step()

    return run


def torch_by_hand(work: Workload) -> Run:
    """Return the equations in PyTorch without autograd, in place where that is safe."""
    import torch

    parameters = work.parameters()
    W = [torch.asarray(w) for w, _ in parameters]
    b = [torch.asarray(c) for _, c in parameters]
    xs, ys = torch.asarray(work.xs), torch.asarray(work.ys)
    last, share = len(W) - 1, 1.0 / work.batch

    @torch.inference_mode()
    def run() -> None:
        for x, y in zip(xs, ys, strict=True):
            A = [x]
            for l in range(last + 1):  # noqa: E741
                z = torch.addmm(b[l], A[l], W[l].T)
                if l == last:
                    z = z.sigmoid_() if work.quadratic else torch.softmax(z, dim=1)
                else:
                    z = z.relu_() if work.relu else z.sigmoid_()
                A.append(z)
            a = A[-1]
            d = a - y
            if work.quadratic:
                d *= a * (1.0 - a)
            d *= share
            for l in range(last, -1, -1):  # noqa: E741
                error, a = d, A[l]
                if l:
                    d = (error @ W[l]).mul_(a > 0 if work.relu else a * (1.0 - a))
                W[l].addmm_(error.T, a, alpha=-RATE)
                b[l].sub_(error.sum(dim=0), alpha=RATE)

    return run


# ---------------------------------------------------------------------------------------------
# JAX


def jax_by_hand(work: Workload, *, scan: bool) -> Run:
    """Return jax.grad of the cost under jit: one program a step, or one for all steps."""
    import jax
    import jax.numpy as jnp

    parameters = [(jnp.asarray(w), jnp.asarray(b)) for w, b in work.parameters()]
    xs, ys = jnp.asarray(work.xs), jnp.asarray(work.ys)

    def cost(parameters, x, y):
        a = x
        for w, b in parameters[:-1]:
            z = a @ w.T + b
            a = jax.nn.relu(z) if work.relu else jax.nn.sigmoid(z)
        w, b = parameters[-1]
        z = a @ w.T + b
        if work.quadratic:
            return 0.5 * ((jax.nn.sigmoid(z) - y) ** 2).sum(axis=-1).mean()
        return -(y * jax.nn.log_softmax(z)).sum(axis=-1).mean()

    def step(parameters, batch):
        value, slopes = jax.value_and_grad(cost)(parameters, *batch)
        return jax.tree.map(lambda p, g: p - RATE * g, parameters, slopes), value

    state = {"parameters": parameters}
    if scan:
        program = jax.jit(lambda p, xs, ys: jax.lax.scan(step, p, (xs, ys)), donate_argnums=0)

        def run() -> None:
            state["parameters"], costs = program(state["parameters"], xs, ys)
            costs.block_until_ready()

    else:
        program = jax.jit(lambda p, x, y: step(p, (x, y)), donate_argnums=0)
        batches = [(xs[k], ys[k]) for k in range(work.steps)]

        def run() -> None:
            value = None
            for x, y in batches:
                state["parameters"], value = program(state["parameters"], x, y)
            jax.block_until_ready(value)

    return run


def keras_on_jax(work: Workload) -> Run:
    """Return an epoch of Keras on its JAX backend (set KERAS_BACKEND=jax)."""
    import keras

    last = ("sigmoid", "mse") if work.quadratic else ("softmax", "categorical_crossentropy")
    model = keras.Sequential(
        [
            keras.layers.Input((work.sizes[0],)),
            *(keras.layers.Dense(n, activation=work.activation) for n in work.sizes[1:-1]),
            keras.layers.Dense(work.sizes[-1], activation=last[0]),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss=last[1])
    x, y = work.xs.reshape(-1, work.sizes[0]), work.ys.reshape(-1, work.sizes[-1])
    return lambda: model.fit(  # pyright: ignore[reportCallIssue]
        x,
        y,
        batch_size=work.batch,
        shuffle=False,
        verbose=0,  # pyright: ignore[reportArgumentType]
    )


# ---------------------------------------------------------------------------------------------
# bp_xp


def ours(work: Workload, backend: str) -> Run:
    """Return the engine of a library, on mini-batches that are on the device; costs included."""
    from bp_xp import SGD, Layer, Network, to_numpy
    from bp_xp.arrays import place
    from bp_xp.engines import engine_for
    from bp_xp.training import _chunk

    where = place(backend=backend)
    net = Network.from_layers(
        work.parameters(), activation=work.activation, cost=work.cost, backend=backend
    )
    engine, optimizer = engine_for(backend), SGD(RATE)
    chunk = engine.compile(
        _chunk, net.model, optimizer.update, 0.0, True, engine.new_loop(), where.xp
    )
    layers = [Layer(*layer) for layer in net.layers]
    state = {"state": (layers, optimizer.init(layers, place=where, dtype="float32"))}
    xs, ys = where.asarray(work.xs), where.asarray(work.ys)

    def run() -> None:
        state["state"], totals = chunk(state["state"], xs, ys)
        to_numpy(totals)

    return run


PEERS: dict[str, Callable[[Workload], Run | None]] = {
    "bp_xp, NumPy": functools.partial(ours, backend="numpy"),
    "bp_xp, PyTorch": functools.partial(ours, backend="torch"),
    "bp_xp, JAX": functools.partial(ours, backend="jax"),
    "NumPy by hand": numpy_by_hand,
    "PyTorch by hand": torch_by_hand,
    "PyTorch eager": torch_eager,
    "torch.compile": functools.partial(torch_eager, compiled=True),
    "JAX jit + scan": functools.partial(jax_by_hand, scan=True),
    "JAX jit a step": functools.partial(jax_by_hand, scan=False),
    "Keras on JAX": keras_on_jax,
    "scikit-learn": scikit_learn,
    "the book's loop": book_loop,
    "matrix products alone": products_alone,
}
