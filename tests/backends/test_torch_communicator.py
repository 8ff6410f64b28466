"""Runs that processes of torch.distributed share; the same and more, with threads, in training."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import parameters

from bp_xp import Adam, Network
from bp_xp.backends import place
from bp_xp.ranks import find_ranks, finding

torch = pytest.importorskip("torch")

# What torchrun does, with PyTorch imported once for all processes: that takes most of the time.
PROGRAM = """
import os, socket, sys
import numpy as np
import torch
from bp_xp import Adam, Network

with socket.socket() as one:
    one.bind(("localhost", 0))
    port = one.getsockname()[1]

def run(rank):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    os.environ |= {"MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((203, 6)), rng.integers(0, 3, 203)
    kinds = {"cost": "categorical_cross_entropy", "dtype": "float64", "backend": "torch"}
    net = Network([6, 8, 3], seed=1 + rank, **kinds)
    options = {"batch_size": 16, "optimizer": Adam(0.01), "dropout": 0.2, "validation_data": 0.2}
    net.fit(x, y, epochs=4, distributed="auto", **options)
    assert net.explain().ran == "torch"
    group = torch.distributed.new_group([0, 1])
    net.fit(x, y, epochs=1, distributed=group, progress=False, **options)
    net.save(f"{rank}.safetensors")

children = []
for rank in range(2):
    if not (child := os.fork()):
        run(rank)
        sys.exit()
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(max(codes))
"""


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_of_torchrun_train_what_one_process_does(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch ") == 4
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((203, 6)), rng.integers(0, 3, 203)
    alone = Network([6, 8, 3], cost="categorical_cross_entropy", dtype="float64", seed=1)
    options = {"batch_size": 16, "optimizer": Adam(0.01), "dropout": 0.2, "validation_data": 0.2}
    for epochs in (4, 1):
        alone.fit(x, y, epochs=epochs, progress=False, **options)
    for rank in range(2):
        net = Network.load(tmp_path / f"{rank}.safetensors")
        assert np.allclose(parameters(net), parameters(alone), rtol=0, atol=1e-11)


def test_a_process_that_torchrun_has_not_started_is_told_how(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError, match=r"not started by torchrun: use torchrun --nproc"):
        find_ranks("torch", place(backend="torch"))


def test_auto_finds_torchrun_and_refuses_a_network_of_another_library(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert finding.launched() == "torch"
    with pytest.raises(
        ValueError, match=r"networks of backend 'torch' share a run, and this one's is 'nu"
    ):
        find_ranks("auto", place("cpu"))


def test_each_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "empty", lambda _, device: SimpleNamespace(device=device))
    assert place("cuda", "torch").device_name == "cuda:3"
    assert place("cuda:1", "torch").device_name == "cuda:1"
