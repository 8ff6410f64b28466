"""What a user runs in full: an epoch, with its shuffling, its gathering of mini-batches, its short
batch if there is one, and an evaluation after it.

Each contestant is a function of a :class:`peers.Workload`, whose mini-batches together are the
training data; it returns a function that runs one epoch. The first samples are evaluated on.
"""

import contextlib
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from peers import RATE, BookLoop, Run, Workload, keras_model, ours, sklearn_model, torch_model

EVALUATED, WATCHED = 10_000, 256


def fit(work: Workload, backend: str, *, progress: bool = False, flow: bool = False) -> Run:
    """Return an epoch of Network.fit, with a progress bar on a terminal, or a GradientFlow."""
    from bp_xp import SGD, Network
    from bp_xp.backends import place
    from bp_xp.inspection import GradientFlow

    where = place(backend=backend)
    net = Network.from_layers(
        work.parameters(), activation=work.activation, cost=work.cost, backend=backend
    )
    x, y = where.asarray(work.x), where.asarray(work.y)
    settings = {
        "epochs": 1,
        "batch_size": work.batch,
        "optimizer": SGD(RATE),
        "validation_data": (x[:EVALUATED, :], y[:EVALUATED, :]),
        "progress": progress,
        "callbacks": [GradientFlow(x[:WATCHED, :], y[:WATCHED, :])] if flow else [],
    }

    def run() -> None:
        with contextlib.redirect_stderr(_Terminal()):
            net.fit(x, y, **settings)

    return run


class _Terminal(io.StringIO):
    """What a progress bar takes for a terminal."""

    def isatty(self) -> bool:
        return True


def bare_steps(work: Workload, backend: str) -> Run:
    """Return as many steps as an epoch has, on mini-batches that are at hand."""
    few = Workload(work.name, work.sizes, work.activation, work.cost, work.batch, 100)
    run_few = ours(few, backend)

    def run() -> None:
        for _ in range(work.steps // few.steps):
            run_few()

    return run


def torch_epoch(work: Workload, *, loader: bool) -> Run:
    """Return autograd with torch.optim.SGD, mini-batches from a DataLoader or by indexing."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    model, optimizer, cost, targets = torch_model(work)
    x, target = torch.asarray(work.x), targets.reshape(len(work.x), *targets.shape[2:])
    labels = torch.asarray(work.labels())
    batches = DataLoader(TensorDataset(x, target), batch_size=work.batch, shuffle=True)

    def indexed():
        for rows in torch.randperm(len(x)).split(work.batch):
            yield x[rows], target[rows]

    def run() -> None:
        for part, wanted in batches if loader else indexed():
            optimizer.zero_grad()
            cost(part, wanted).backward()
            optimizer.step()
        with torch.no_grad():
            right = model(x[:EVALUATED]).argmax(dim=1) == labels[:EVALUATED]
            float(right.float().mean())

    return run


def keras_epoch(work: Workload) -> Run:
    """Return Keras's fit."""
    model = keras_model(work)
    settings: Any = {
        "batch_size": work.batch,
        "validation_data": (work.x[:EVALUATED], work.y[:EVALUATED]),
        "validation_batch_size": 1000,
        "verbose": 0,
    }
    return lambda: model.fit(work.x, work.y, **settings)


def sklearn_epoch(work: Workload) -> Run:
    """Return partial_fit and score."""
    model, labels = sklearn_model(work, shuffle=True), work.labels()

    def run() -> None:
        model.partial_fit(work.x, labels, classes=np.unique(labels))
        model.score(work.x[:EVALUATED], labels[:EVALUATED])

    return run


def book_epoch(work: Workload) -> Run | None:
    """Return SGD and evaluate, sample by sample."""
    if not work.quadratic or work.relu:
        return None
    loop, labels, rng = BookLoop(work), work.labels(), np.random.default_rng(0)

    def run() -> None:
        order = rng.permutation(len(work.x)).reshape(-1, work.batch)
        for rows in order:
            loop.step(work.x[rows], work.y[rows])
        evaluated = zip(work.x[:EVALUATED], labels, strict=False)
        sum(loop.feedforward(row[:, None]).argmax() == label for row, label in evaluated)

    return run


EPOCHS: dict[str, Callable[[Workload], Run | None]] = {
    "bp_xp, NumPy": functools.partial(fit, backend="numpy"),
    "... with a progress bar": functools.partial(fit, backend="numpy", progress=True),
    "... with GradientFlow": functools.partial(fit, backend="numpy", flow=True),
    "... the steps alone": functools.partial(bare_steps, backend="numpy"),
    "bp_xp, PyTorch": functools.partial(fit, backend="torch"),
    "bp_xp, JAX": functools.partial(fit, backend="jax"),
    "PyTorch, DataLoader": functools.partial(torch_epoch, loader=True),
    "PyTorch, indexing": functools.partial(torch_epoch, loader=False),
    "Keras on JAX": keras_epoch,
    "scikit-learn": sklearn_epoch,
    "the book's loop": book_epoch,
}
