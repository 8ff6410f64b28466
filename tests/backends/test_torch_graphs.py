"""How the PyTorch engine launches the steps of a chunk at once, as far as it goes without a GPU."""

import numpy as np
import pytest

from bp_xp.backends.torch import engine

torch = pytest.importorskip("torch")


def add_up(leaves, batches, zs):
    """Take steps that add x ⊙ y up, each zᴸ being x and the sum so far."""
    (total,), (xs, ys) = leaves, batches
    for x, y, z in zip(xs, ys, zs, strict=True):
        total += (x * y).sum()
        z.copy_(x + total)


def capture(run, *arguments):
    """Return what a graph does: the same operations, on the same memory."""
    return lambda: run(*arguments)


def test_chunks_are_left_as_they_are_and_each_is_taken_by_its_own_values():
    launch = engine._in_graphs(add_up, capture)
    rng = np.random.default_rng(1)
    chunks = [
        [torch.asarray(rng.integers(-8, 8, (steps, 3, 2))).float() for _ in "xy"]
        for steps in (4, 4, 2, 4, 2)
    ]
    kept = [[part.clone() for part in batches] for batches in chunks]
    state, wanted = [torch.zeros(1)], [torch.zeros(1)]
    for batches, copies in zip(chunks, kept, strict=True):
        zs, wanted_zs = torch.empty(len(copies[0]), 3, 2), torch.empty(len(copies[0]), 3, 2)
        launch(state, batches, zs)
        add_up(wanted, copies, wanted_zs)
        assert torch.equal(zs, wanted_zs)
        assert torch.equal(state[0], wanted[0])
    # Without shuffling, batches are views of the samples that the caller trains on.
    for batches, copies in zip(chunks, kept, strict=True):
        assert all(map(torch.equal, batches, copies))


def test_what_a_launch_returned_stays_after_the_next_one():
    launch = engine._in_graphs(add_up, capture)
    state = [torch.zeros(1)]
    first, second = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)
    launch(state, [torch.full((1, 1, 1), 2.0)] * 2, first)
    launch(state, [torch.full((1, 1, 1), 3.0)] * 2, second)
    assert (first.item(), second.item()) == (2 + 4, 3 + 4 + 9)
