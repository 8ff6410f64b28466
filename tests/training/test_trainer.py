import signal

import numpy as np
from helpers import parameters

from bp_xp import Network, StopWhen


def test_a_run_ends_when_it_should_stop(data):
    """As a script does at SIGTERM, which may come where Ctrl-C is ignored."""
    x, y = data
    net, twin = Network([3, 2], seed=1), Network([3, 2], seed=1)
    answers = iter([False, False, True])
    twin.fit(x, y, epochs=2, batch_size=23, progress=False)
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history = net.fit(
            x, y, epochs=9, batch_size=23, progress=False, callbacks=StopWhen(lambda: next(answers))
        )
    finally:
        signal.signal(signal.SIGINT, previous)

    assert history.stopped == "interrupt"
    assert len(history) == 2
    assert np.isfinite(parameters(net)).all()
    assert not np.array_equal(parameters(net), parameters(twin))  # a third step was completed
