"""What the sum over processes takes of a step, and what several processes reach together.

    OMP_NUM_THREADS=1 mpiexec -n 2 python -m mpi4py ci/benchmarks/ranks.py

Each process has one thread. "Alone" is what a process takes for a step on its own share of the
mini-batch, while all others do the same: so many processes can't be faster than that together.
"""

import itertools
import sys
import time

import numpy as np
from mpi4py import MPI

from bp_xp import SGD, Network

NETWORKS = {
    "784,30,10": (10, 6000),
    "784,512,512,10": (128, 12800),
    "784,2048,2048,2048,10": (512, 4096),
}


def seconds_of_an_epoch(
    sizes: list[int], batch_size: int, n: int, distributed: MPI.Comm | None
) -> float:
    """Return the shortest of three epochs after one that records the step."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, sizes[0]), np.float32), rng.integers(0, sizes[-1], n)
    net = Network(sizes, activation="relu", cost="categorical_cross_entropy", seed=0)
    options = {"batch_size": batch_size, "optimizer": SGD(0.01), "progress": False}
    history = net.fit(x, y, epochs=4, distributed=distributed, **options)
    return min(history["seconds"][1:])


def seconds_of_a_sum(n: int, comm: MPI.Comm) -> float:
    """Return what a sum of so many numbers takes."""
    ours, summed, times = np.ones(n, np.float32), np.empty(n, np.float32), []
    for _ in range(20):
        comm.Barrier()
        begun = time.perf_counter()
        comm.Allreduce(ours, summed)
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def main() -> None:
    comm = MPI.COMM_WORLD
    rank, ranks = comm.Get_rank(), comm.Get_size()
    if rank == 0:
        print(f"{ranks} processes; milliseconds a step")
        print(f"{'network':24}{'batch':>6}{'one':>9}{'alone':>9}{'shared':>9}{'sum':>9}  reached")
    for word in sys.argv[1:] or NETWORKS:
        batch_size, n = NETWORKS[word]
        sizes, steps = list(map(int, word.split(","))), -(-n // batch_size)
        one = seconds_of_an_epoch(sizes, batch_size, n, None) if rank == 0 else 0.0
        comm.Barrier()
        alone = seconds_of_an_epoch(sizes, batch_size // ranks, n // ranks, None)
        alone = comm.allreduce(alone, MPI.MAX)
        shared = seconds_of_an_epoch(sizes, batch_size, n, comm)
        n_parameters = sum(o * (i + 1) for i, o in itertools.pairwise(sizes))
        summed = seconds_of_a_sum(n_parameters, comm)
        if rank == 0:
            times = [1e3 * one / steps, 1e3 * alone / steps, 1e3 * shared / steps, 1e3 * summed]
            columns = "".join(f"{value:9.3f}" for value in times)
            print(f"{word:24}{batch_size:6}{columns}  {alone / shared:.2f}", flush=True)


if __name__ == "__main__":
    main()
