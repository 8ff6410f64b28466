"""How much memory a run of the book's network needs beyond its data, and whether it grows.

Prints JSON: megabytes of the data, of the process at its peak after one epoch, and after six more.
It runs as a separate process, whose peak it measures.
"""

import json
import resource
from pathlib import Path

import numpy as np

from bp_xp import SGD, Network

MEGABYTE = 2**20
TRAINED, EVALUATED = 50_000, 10_000


def peak() -> float:
    """Return the most memory that this process has had, in megabytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage counts what the process that started this one had
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((TRAINED + EVALUATED, 784), dtype=np.float32)
    labels = rng.integers(0, 10, len(x))
    net = Network([784, 30, 10], seed=0)
    peaks = []
    for epochs in (1, 6):
        net.fit(
            x[:TRAINED],
            labels[:TRAINED],
            epochs=epochs,
            batch_size=10,
            optimizer=SGD(3.0),
            validation_data=(x[TRAINED:], labels[TRAINED:]),
            progress=False,
        )
        peaks.append(round(peak(), 1))
    data = (x.nbytes + labels.nbytes) / MEGABYTE
    print(json.dumps({"data": round(data, 1), "peak": peaks[0], "peak after 6 more": peaks[1]}))


if __name__ == "__main__":
    main()
