"""Mini-batches that JAX shares among the devices of one process."""

import os
import subprocess
import sys

import pytest

from bp_xp import Network
from bp_xp.backends import place
from bp_xp.backends.jax import sharding
from bp_xp.engines.report import Account, Report
from bp_xp.ranks import over_devices

jax = pytest.importorskip("jax")

# JAX has as many devices as it was told when it was imported.
PROGRAM = """
import jax
import numpy as np
from bp_xp import Adam, Network, Stream

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
x, y, weights = rng.standard_normal((54, 6)), rng.integers(0, 3, 54), rng.random(54)

def run(distributed=None, x=x, **backend):
    net = Network([6, 8, 3], dtype="float64", seed=3, cost="categorical_cross_entropy", **backend)
    options = {"epochs": 2, "batch_size": 9, "optimizer": Adam(0.02), "progress": False}
    options |= {"sample_weight": weights, "dropout": 0.3, "clip_norm": 0.3}
    return net, net.fit(x, y, distributed=distributed, **options)

class InFile:  # which is read as it is needed, in another order
    shape, dtype, __getitem__ = x.shape, x.dtype, x.__getitem__

for samples in (x, Stream(InFile(), buffer_size=20)):
    net, history = run("auto", samples, backend="jax", device="cpu:1")
    alone, wanted = run(None, samples)
    for ours, theirs in zip(net.layers, alone.layers):
        for a, b in zip(ours, theirs):
            assert a.devices() == {jax.devices()[1]}
            assert np.allclose(a, b, rtol=0, atol=1e-11)
    for name in ("cost", "accuracy"):
        assert np.allclose(history[name], wanted[name], rtol=1e-11, atol=0), name
    assert "3 devices share the rows" in str(net.explain()), net.explain()
"""


@pytest.mark.process
def test_several_devices_of_a_process_train_what_one_does(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | flags,
    )
    assert done.returncode == 0, done.stderr


def test_the_report_says_which_mini_batches_devices_do_not_share():
    assert sharding.remark(3, (9, 6)) == ""
    report = Report(
        "jax", "fast", accounts={(10, 6): Account(4, remark=sharding.remark(3, (10, 6)))}
    )
    assert "4 steps this way (each device takes all 10 rows, which can't be" in str(report)


def test_one_device_is_that_of_a_run_of_its_own():
    here = place("cpu:0", "jax")
    if len(jax.devices("cpu")) == 1:
        assert over_devices("jax", here) is here
    assert over_devices(None, here) is here


def test_devices_do_not_share_the_plain_loop(monkeypatch):
    plain = place("cpu:0", "jax", "plain")
    monkeypatch.setattr(type(plain.library), "engine_over_devices", lambda *_: plain.engine)
    with pytest.raises(ValueError, match="distributed='jax' is for the engine of jax"):
        over_devices("jax", plain)


def test_the_word_of_jax_is_refused_for_a_network_of_numpy():
    with pytest.raises(ValueError, match="distributed='jax' is for networks of backend 'jax'"):
        Network([1, 1]).fit([[0.0]], [[0.0]], distributed="jax")
