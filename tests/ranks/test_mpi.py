"""Runs in processes that mpiexec starts; the same and more, with threads, in training."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import parameters

from bp_xp import SGD, Adam, Ensemble, Network, Stream
from bp_xp.datasets import load_digits

# Beside the interpreter, where the package mpich puts it, or where the system has it.
PATHS = [str(Path(sys.executable).parent), os.environ["PATH"]]
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join(PATHS))
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not (MPIEXEC and find_spec("mpi4py")), reason="needs mpi4py and mpiexec"),
]

START = """
import os, signal, sys
import numpy as np
from bp_xp import Adam, Ensemble, Network, to_numpy
rng = np.random.default_rng(0)
x, y = rng.standard_normal((203, 6)), rng.integers(0, 3, 203)
net = Network([6, 8, 3], cost="categorical_cross_entropy", dtype="float64", seed=1)
options = {"batch_size": 16, "optimizer": Adam(0.01), "dropout": 0.2, "validation_data": 0.2}
"""


def started(program, folder, ranks, *, by_mpi4py=True):
    """Return a finished job, and the seconds that it took."""
    script = folder / "script.py"
    script.write_text(START + textwrap.dedent(program), encoding="utf-8")
    return finished([*(["-m", "mpi4py"] if by_mpi4py else []), str(script)], folder, ranks)


def finished(arguments, folder, ranks):
    """Return a finished job of Python with these arguments, and the seconds that it took."""
    begun = time.monotonic()
    done = subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, time.monotonic() - begun


def test_a_job_of_mpi_trains_what_one_process_does(tmp_path):
    program = """
    from mpi4py import MPI
    net.fit(x, y, epochs=4, distributed="auto", **options)
    assert net.explain().ran == "numpy"
    half = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.Get_rank() // 2)
    net.fit(x, y, epochs=1, distributed=half, progress=False, **options)
    net.save(f"{MPI.COMM_WORLD.Get_rank()}.safetensors")
    ensemble = Ensemble([6, 4, 3], members=5, dtype="float64", seed=1 + MPI.COMM_WORLD.Get_rank())
    for _ in range(2):
        ensemble.partial_fit(x, y, optimizer=Adam(0.01), distributed="mpi")
    ensemble.save(f"ensemble {MPI.COMM_WORLD.Get_rank()}.safetensors")
    """
    done, _ = started(program, tmp_path, 3)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch ") == 4
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((203, 6)), rng.integers(0, 3, 203)
    alone = Network([6, 8, 3], cost="categorical_cross_entropy", dtype="float64", seed=1)
    options = {"batch_size": 16, "optimizer": Adam(0.01), "dropout": 0.2, "validation_data": 0.2}
    for epochs in (4, 1):
        alone.fit(x, y, epochs=epochs, progress=False, **options)
    for rank in range(3):
        net = Network.load(tmp_path / f"{rank}.safetensors")
        assert np.allclose(parameters(net), parameters(alone), rtol=0, atol=1e-11)
    several: Any = Ensemble([6, 4, 3], members=5, dtype="float64", seed=1)
    for _ in range(2):
        several.partial_fit(x, y, optimizer=Adam(0.01))
    for rank in range(3):
        ensemble: Any = Ensemble.load(tmp_path / f"ensemble {rank}.safetensors")
        assert np.array_equal(parameters(ensemble), parameters(several))


def test_a_job_of_mpi_reads_streams_and_ends_where_one_reader_fails(tmp_path):
    program = """
    from bp_xp import Stream
    from mpi4py import MPI
    rank = MPI.COMM_WORLD.Get_rank()
    if rank == 0:
        np.save("x.npy", x)
    MPI.COMM_WORLD.Barrier()
    stored = Stream(np.load("x.npy", mmap_mode="r"), buffer_size=50)
    options |= {"validation_data": (x[:99], y[:99]), "metrics": ["f1"], "progress": False}
    net.fit(stored, y, distributed="mpi", epochs=2, **options)
    shard = Stream([(x[rank::2], y[rank::2])], sharded=True)
    net.fit(shard, distributed="mpi", epochs=2, **options)
    net.save(f"{rank}.safetensors")

    def breaks():
        yield from [(x, y)] * 3
        if rank == 1:
            raise OSError("a cut file")
        yield x, y

    try:
        net.fit(breaks, distributed="mpi", checkpoint="run.safetensors", **options)
    except (OSError, RuntimeError) as error:
        print(f"<{rank}: {error}>", file=sys.stderr)
    """
    done, seconds = started(program, tmp_path, 2, by_mpi4py=False)
    assert done.returncode == 0, done.stderr
    assert seconds < 30
    assert "<1: a cut file>" in done.stderr
    assert "and all end with it: OSError: a cut file>" in done.stderr
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((203, 6)), rng.integers(0, 3, 203)
    np.save(tmp_path / "x.npy", x)
    alone = Network([6, 8, 3], cost="categorical_cross_entropy", dtype="float64", seed=1)
    options = {"batch_size": 16, "optimizer": Adam(0.01), "dropout": 0.2, "progress": False}
    stored = Stream(np.load(tmp_path / "x.npy", mmap_mode="r"), buffer_size=50)
    alone.fit(stored, y, epochs=2, **options)
    alone.fit(x, y, epochs=2, shuffle=False, **options)
    for rank in range(2):
        net = Network.load(tmp_path / f"{rank}.safetensors")
        assert np.allclose(parameters(net), parameters(alone), rtol=0, atol=1e-11)
    assert np.isfinite(parameters(Network.load(tmp_path / "run.safetensors"))).all()


ENDS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "an error in its reader": "raise OSError('a cut file')",
}


@pytest.mark.parametrize(("end", "does"), ENDS.items(), ids=ENDS)
def test_a_rank_that_ends_alone_ends_the_job_and_the_checkpoint_loads(tmp_path, end, does):
    program = f"""
    from bp_xp.ranks import mpi
    from bp_xp.sources.memory import MemoryEpoch
    from mpi4py import MPI
    mpi._SECONDS_FOR_OTHERS = 0.5
    take, taken = MemoryEpoch.take, []
    def fail(self, at_most):
        taken.append(at_most)
        if len(taken) > 20 and MPI.COMM_WORLD.Get_rank() == 1:
            {does}
        return take(self, at_most)
    MemoryEpoch.take = fail
    net.fit(x, y, epochs=1000, distributed="mpi", checkpoint="run.safetensors", **options)
    """
    done, seconds = started(program, tmp_path, 2, by_mpi4py=False)
    assert done.returncode != 0
    assert seconds < 30
    assert end == "killed" or "OSError: a cut file" in done.stderr
    assert np.isfinite(parameters(Network.load(tmp_path / "run.safetensors"))).all()


def test_the_command_trains_what_it_does_alone_and_rank_0_alone_speaks(tmp_path):
    command = "-m mpi4py -m bp_xp train --distributed auto --epochs 3 --dtype float64"
    files = {f"--{name}": tmp_path / f"{name}{end}" for name, end in ENDINGS.items()}
    arguments = [*command.split(), *(str(one) for pair in files.items() for one in pair)]
    done, _ = finished(arguments, tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert (done.stderr.count("epoch "), done.stdout.count("test part")) == (3, 1)
    assert files["--log"].read_text(encoding="utf-8").count("\n") == 4
    data = load_digits()
    net = Network.load(files["--output"])
    alone = Network([64, 64, 10], activation="relu", cost=net.model.cost, dtype="float64", seed=0)
    alone.fit(
        data.x_train,
        data.y_train,
        epochs=3,
        batch_size=32,
        optimizer=SGD(0.1, momentum=0.9),
        progress=False,
    )
    assert np.allclose(parameters(net), parameters(alone), rtol=0, atol=1e-11)
    saved = Network.load(files["--checkpoint"])
    assert np.array_equal(parameters(net), parameters(saved))


def test_the_script_for_a_queue_logs_once_and_asks_to_be_submitted_again(tmp_path):
    """The stop is a signal to one process; the next job, which ends, is that of one process."""
    script = [str(EXAMPLES / "train_on_gpu.py"), "--device", "cpu", "--data", "digits"]
    program = f"""
    import runpy, threading, time
    from mpi4py import MPI
    def stop():
        while not (os.path.exists("model.log") and "epoch 2" in open("model.log").read()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
    if MPI.COMM_WORLD.Get_rank() == 1:
        threading.Thread(target=stop, daemon=True).start()
    sys.argv = {[*script, "--distributed", "auto", "--epochs", "100000"]}
    runpy.run_path(sys.argv[0], run_name="__main__")
    """
    stopped, _ = started(program, tmp_path, 2)
    assert stopped.returncode == 75, stopped.stderr
    log = (tmp_path / "model.log").read_text(encoding="utf-8")
    epochs = log.count("INFO epoch")
    assert f"INFO epoch {epochs} " in log
    done = subprocess.run(
        [sys.executable, *script, "--epochs", str(epochs + 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"INFO epoch {epochs + 1} " in done.stdout
    assert "test accuracy 9" in done.stdout


EXAMPLES = Path(__file__).parents[2] / "examples"
ENDINGS = {"output": ".safetensors", "checkpoint": ".safetensors", "log": ".csv"}
