import numpy as np

from bp_xp import to_numpy
from bp_xp.sources import MemorySource, Samples


def test_one_permutation_orders_samples_labels_and_weights(where, rng):
    """Row i holds i everywhere, so that a torn pair would show."""
    seen = []
    rows = np.arange(17.0)
    x = np.stack([rows, rows], axis=1)
    samples = Samples(where.asarray(x), where.asarray(rows[:, None]), False, where.asarray(rows))
    source = MemorySource(samples, where)
    for _ in range(3):
        epoch = source.start_epoch(5, rng)
        while batches := epoch.take(2):
            x, y, w = (
                to_numpy(part).reshape(-1, k) for part, k in zip(batches, (2, 1, 1), strict=True)
            )
            assert np.array_equal(x, np.repeat(y, 2, axis=1))
            assert np.array_equal(y, w)
            seen += y[:, 0].tolist()

    epochs = np.reshape(seen, (3, 17))
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
