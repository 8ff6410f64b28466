"""What a user would otherwise run: the same training step, written for one library.

Each peer is a function of a :class:`Workload` that returns a function taking one step for each of
its mini-batches. All get the same data, batch size, dtype and learning rate, plain gradient
descent, and the same network: one activation in the hidden layers, then sigmoid with the quadratic
cost or the binary cross-entropy, or softmax with the categorical cross-entropy.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

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
        cost: ``"quadratic"``, ``"binary_cross_entropy"`` or ``"categorical_cross_entropy"``.
        batch: samples in a mini-batch.
        steps: mini-batches in a round.
        xs: inputs, shape (steps, batch, I), float32.
        ys: targets, shape (steps, batch, O): one 1 in each row, or 0 and 1 where O is 1.
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
        classes = max(2, self.sizes[-1])
        labels = rng.integers(0, classes, (self.steps, self.batch))
        self.ys = np.eye(classes, dtype=np.float32)[labels][..., -self.sizes[-1] :]

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

    @property
    def softmax(self) -> bool:
        """Whether the outputs are a softmax, rather than sigmoids."""
        return self.cost == "categorical_cross_entropy"

    @property
    def x(self) -> np.ndarray:
        """The inputs of all mini-batches, shape (samples, I)."""
        return self.xs.reshape(-1, self.sizes[0])

    @property
    def y(self) -> np.ndarray:
        """The targets of all mini-batches, shape (samples, O)."""
        return self.ys.reshape(-1, self.sizes[-1])

    def labels(self) -> np.ndarray:
        """Return the class of each sample."""
        return self.y.argmax(axis=1) if self.sizes[-1] > 1 else self.y[:, 0].astype(int)


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


Step = Callable[[np.ndarray, np.ndarray], None]
"""Takes a mini-batch (x, y) of shapes (..., batch, I) and (..., batch, O)."""


def numpy_by_hand(work: Workload) -> Run:
    """Return what a patient programmer writes: every result in memory allocated once."""
    step = numpy_step(work, work.parameters())

    def run() -> None:
        for x, y in zip(work.xs, work.ys, strict=True):
            step(x, y)

    return run


def numpy_step(work: Workload, parameters: Sequence[tuple[np.ndarray, np.ndarray]]) -> Step:
    """Return a step that moves parameters in their memory, those of one network or of a stack.

    They are W of shape (..., O, I) and b of shape (..., O).
    """
    W, b = [w for w, _ in parameters], [c[..., None, :] for _, c in parameters]
    Z, D, S = (
        [np.empty((*w.shape[:-2], work.batch, w.shape[-2]), np.float32) for w in W]
        for _ in range(3)
    )
    dW, db = [np.empty_like(w) for w in W], [np.empty_like(c) for c in b]
    last, share = len(W) - 1, 1.0 / work.batch

    def sigmoid(z: np.ndarray) -> None:
        z *= 0.5
        np.tanh(z, out=z)
        z *= 0.5
        z += 0.5

    def softmax(z: np.ndarray) -> None:
        z -= z.max(axis=-1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=-1, keepdims=True)

    def times_slope(d: np.ndarray, a: np.ndarray, s: np.ndarray) -> None:
        np.subtract(1.0, a, out=s)
        s *= a
        d *= s

    def step(x: np.ndarray, y: np.ndarray) -> None:
        A = [x]
        for l in range(last + 1):  # noqa: E741
            z = Z[l]
            np.matmul(A[l], W[l].mT, out=z)
            z += b[l]
            if l == last:
                softmax(z) if work.softmax else sigmoid(z)
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
            np.matmul(d.mT, A[l], out=dW[l])
            np.add.reduce(d, axis=-2, out=db[l], keepdims=True)
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

    return step


class BookLoop:
    """The loop over samples of the book's code, in columns and float64."""

    def __init__(self, work: Workload) -> None:
        self.weights = [w.astype(float) for w, _ in work.parameters()]
        self.biases = [b[:, None].astype(float) for _, b in work.parameters()]

    @staticmethod
    def sigmoid(z: np.ndarray) -> np.ndarray:
        """Return 1/(1 + e⁻ᶻ)."""
        return 1.0 / (1.0 + np.exp(-z))

    def feedforward(self, a: np.ndarray) -> np.ndarray:
        """Return the outputs for one sample, shape (I, 1)."""
        for w, b in zip(self.weights, self.biases, strict=True):
            a = self.sigmoid(np.dot(w, a) + b)
        return a

    def gradient(self, x: np.ndarray, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the derivatives of the cost of one sample by the biases and the weights."""
        zs, activations = [], [x]
        for w, b in zip(self.weights, self.biases, strict=True):
            zs.append(np.dot(w, activations[-1]) + b)
            activations.append(self.sigmoid(zs[-1]))
        slope = self.sigmoid(zs[-1]) * (1 - self.sigmoid(zs[-1]))
        delta = (activations[-1] - y) * slope
        nabla_b, nabla_w = [delta], [np.dot(delta, activations[-2].T)]
        for l in range(2, len(self.weights) + 1):  # noqa: E741
            slope = self.sigmoid(zs[-l]) * (1 - self.sigmoid(zs[-l]))
            delta = np.dot(self.weights[-l + 1].T, delta) * slope
            nabla_b.insert(0, delta)
            nabla_w.insert(0, np.dot(delta, activations[-l - 1].T))
        return nabla_b, nabla_w

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take a step on a mini-batch, sample by sample."""
        total_b = [np.zeros(b.shape) for b in self.biases]
        total_w = [np.zeros(w.shape) for w in self.weights]
        for row, target in zip(x, y, strict=True):
            nabla_b, nabla_w = self.gradient(row[:, None], target[:, None])
            total_b = [t + n for t, n in zip(total_b, nabla_b, strict=True)]
            total_w = [t + n for t, n in zip(total_w, nabla_w, strict=True)]
        rate = RATE / len(x)
        self.weights = [w - rate * n for w, n in zip(self.weights, total_w, strict=True)]
        self.biases = [b - rate * n for b, n in zip(self.biases, total_b, strict=True)]


def book_loop(work: Workload) -> Run | None:
    """Return the steps of the book's loop."""
    if not work.quadratic or work.relu:
        return None
    loop = BookLoop(work)

    def run() -> None:
        for x, y in zip(work.xs, work.ys, strict=True):
            loop.step(x, y)

    return run


def sklearn_model(work: Workload, *, shuffle: bool):
    """Return an MLPClassifier; its cost is always the cross-entropy."""
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        hidden_layer_sizes=work.sizes[1:-1],
        activation="relu" if work.relu else "logistic",
        solver="sgd",
        alpha=0.0,
        batch_size=work.batch,  # pyright: ignore[reportArgumentType]
        learning_rate_init=RATE,
        momentum=0.0,
        shuffle=shuffle,
    )


def scikit_learn(work: Workload) -> Run:
    """Return an epoch of MLPClassifier."""
    x, labels = work.x, work.labels()
    model = sklearn_model(work, shuffle=False)
    return lambda: model.partial_fit(x, labels, classes=np.unique(labels))


# ---------------------------------------------------------------------------------------------
# PyTorch


def torch_model(work: Workload, device: str = "cpu"):
    """Return a model, its optimizer, its cost of (x, target), and the targets of all steps."""
    import torch
    from torch import nn

    modules: list[nn.Module] = []
    for w, b in work.parameters():
        linear = nn.Linear(w.shape[1], w.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.asarray(w))
            linear.bias.copy_(torch.asarray(b))
        modules += [linear, nn.ReLU() if work.relu else nn.Sigmoid()]
    model = nn.Sequential(*(modules if work.quadratic else modules[:-1])).to(device)

    def cost(x, target):
        if work.quadratic:
            return 0.5 * ((model(x) - target) ** 2).sum(dim=-1).mean()
        if work.softmax:
            return nn.functional.cross_entropy(model(x), target)
        return nn.functional.binary_cross_entropy_with_logits(model(x), target)

    targets = torch.asarray(work.ys, device=device)
    if work.softmax:
        targets = targets.argmax(dim=-1)
    return model, torch.optim.SGD(model.parameters(), lr=RATE), cost, targets


def torch_eager(
    work: Workload, *, compiled: bool = False, graphed: bool = False, device: str = "cpu"
) -> Run:
    """Return autograd with torch.optim.SGD, mini-batches by slicing."""
    import torch

    _, optimizer, cost, targets = torch_model(work, device)
    forward = torch.compile(cost) if compiled else cost
    xs = torch.asarray(work.xs, device=device)

    def steps() -> None:
        for k in range(work.steps):
            optimizer.zero_grad()
            forward(xs[k], targets[k]).backward()
            optimizer.step()

    return torch_graphed(steps, device) if graphed else torch_waited(steps, device)


def torch_waited(steps: Run, device: str) -> Run:
    """Return what takes the steps and waits until the device has."""
    import torch

    def run() -> None:
        steps()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def torch_graphed(steps: Run, device: str) -> Run:
    """Return the steps as one CUDA graph, on mini-batches that stay where they are."""
    import torch

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        steps()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()
    return torch_waited(graph.replay, device)


def torch_by_hand(work: Workload, *, graphed: bool = False, device: str = "cpu") -> Run:
    """Return the equations in PyTorch without autograd, in place if that is safe."""
    import torch

    parameters = work.parameters()
    W = [torch.asarray(w, device=device) for w, _ in parameters]
    b = [torch.asarray(c, device=device) for _, c in parameters]
    xs, ys = (torch.asarray(values, device=device) for values in (work.xs, work.ys))
    last, share = len(W) - 1, 1.0 / work.batch

    @torch.inference_mode()
    def steps() -> None:
        for x, y in zip(xs, ys, strict=True):
            A = [x]
            for l in range(last + 1):  # noqa: E741
                z = torch.addmm(b[l], A[l], W[l].T)
                if l == last:
                    z = torch.softmax(z, dim=1) if work.softmax else z.sigmoid_()
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

    return torch_graphed(steps, device) if graphed else torch_waited(steps, device)


# ---------------------------------------------------------------------------------------------
# JAX


def jax_step(work: Workload) -> Callable[..., Any]:
    """Return a step by jax.grad: (parameters, (x, y)) -> (parameters, mean cost)."""
    import jax

    def cost(parameters, x, y):
        a = x
        for w, b in parameters[:-1]:
            z = a @ w.T + b
            a = jax.nn.relu(z) if work.relu else jax.nn.sigmoid(z)
        w, b = parameters[-1]
        z = a @ w.T + b
        if work.quadratic:
            return 0.5 * ((jax.nn.sigmoid(z) - y) ** 2).sum(axis=-1).mean()
        if work.softmax:
            return -(y * jax.nn.log_softmax(z)).sum(axis=-1).mean()
        return (jax.nn.softplus(z) - y * z).sum(axis=-1).mean()

    def step(parameters, batch):
        value, slopes = jax.value_and_grad(cost)(parameters, *batch)
        return jax.tree.map(lambda p, g: p - RATE * g, parameters, slopes), value

    return step


def jax_by_hand(work: Workload, *, scan: bool, device: str = "cpu") -> Run:
    """Return jax.grad of the cost under jit: one program a step, or one for all steps."""
    import jax

    place = functools.partial(jax.device_put, device=jax.devices(device)[0])
    parameters = [(place(w), place(b)) for w, b in work.parameters()]
    xs, ys = place(work.xs), place(work.ys)
    step = jax_step(work)
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


def keras_model(work: Workload):
    """Return a compiled Keras model."""
    import keras

    output, loss = {
        "quadratic": ("sigmoid", "mse"),
        "binary_cross_entropy": ("sigmoid", "binary_crossentropy"),
        "categorical_cross_entropy": ("softmax", "categorical_crossentropy"),
    }[work.cost]
    model = keras.Sequential(
        [
            keras.layers.Input((work.sizes[0],)),
            *(keras.layers.Dense(n, activation=work.activation) for n in work.sizes[1:-1]),
            keras.layers.Dense(work.sizes[-1], activation=output),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)
    return model


def keras_on_jax(work: Workload) -> Run:
    """Return an epoch of Keras on its JAX backend (set KERAS_BACKEND=jax)."""
    model = keras_model(work)
    settings: Any = {"batch_size": work.batch, "shuffle": False, "verbose": 0}
    return lambda: model.fit(work.x, work.y, **settings)


# ---------------------------------------------------------------------------------------------
# bp_xp


def ours(work: Workload, backend: str, *, device: str | None = None, engine: str = "auto") -> Run:
    """Return the engine of a library, on mini-batches that are on the device; costs included."""
    from bp_xp import SGD, Layer, Network, to_numpy
    from bp_xp.math.regularization import Regularization
    from bp_xp.training.looks import _chunk, _fused, steps_at_once
    from bp_xp.training.step import Rule, State

    net = Network.from_layers(
        work.parameters(),
        activation=work.activation,
        cost=work.cost,
        backend=backend,
        device=device,
        engine=engine,
    )
    where, optimizer = net.placement, SGD(RATE)
    own = where.engine
    rule = Rule(_fused(net.model, own), optimizer.update, Regularization())
    loop = own.new_loop(where.new_report())
    chunk = own.compile(_chunk, rule, True, own, loop, where.xp, consumes=True)
    layers = [
        Layer(where.xp.asarray(W, copy=True), where.xp.asarray(b, copy=True)) for W, b in net.layers
    ]
    states = [State(layers, optimizer.init(layers, placement=where, dtype="float32"), ())]
    at_once = steps_at_once(where, work.batch * (work.sizes[0] + work.sizes[-1]))
    chunks = [
        [where.asarray(values[first : first + at_once]) for values in (work.xs, work.ys)]
        for first in range(0, work.steps, at_once)
    ]

    def run() -> None:
        with where.active():
            state, totals = states.pop(), []
            for batches in chunks:
                state, total = chunk(state, batches)
                totals.append(total)
            to_numpy(where.xp.concat(totals, axis=0))
        states.append(state)

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
