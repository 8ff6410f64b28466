"""Threads instead of processes: what ``distributed=`` takes, within one process."""

import functools
import operator
import threading


class _Shared:
    """What the threads of one job share."""

    def __init__(self, size, seconds):
        self.size, self.given = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=seconds)


class ThreadCommunicator:
    """One of several threads that share a run; see :class:`bp_xp.ranks.Communicator`.

    Attributes:
        calls: how many sums and gatherings it took part in.
    """

    def __init__(self, rank, shared):
        self.rank, self.size, self._shared = rank, shared.size, shared
        self.calls = {"total": 0, "gather": 0}

    def _exchange(self, value, read):
        shared = self._shared
        shared.given[self.rank] = value
        shared.barrier.wait()
        found = read(shared.given)  # now: whoever gave an array may write to it again
        shared.barrier.wait()
        return found

    def total(self, array):
        self.calls["total"] += 1
        return self._exchange(array, lambda given: functools.reduce(operator.add, given, 0.0))

    def gather(self, value):
        self.calls["gather"] += 1
        return self._exchange(value, list)

    def fail(self, error):
        self._shared.barrier.abort()


def on_ranks(size, function, *, seconds=60):
    """Call ``function(communicator)`` in so many threads; return results or errors, by rank."""
    shared, results = _Shared(size, seconds), [None] * size

    def run(rank):
        try:
            results[rank] = function(ThreadCommunicator(rank, shared))
        except BaseException as error:
            results[rank] = error

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True)
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    return results
