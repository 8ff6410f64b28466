"""The parts of ``ci/gpu``: what to check first on a GPU, each part in its own process.

    python ci/gpu_parts.py PART [--device cuda]

A part prints what it does and what it finds, and ends in an error if a result is wrong.
``--device cpu`` rehearses with NumPy, and with the kernels on threads of the processor.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp import SGD, Adam, Checkpoint, CosineDecay, Network, OutOfMemoryError, to_numpy
from bp_xp._trees import leaves_of, map_leaves
from bp_xp.backends import Placement, place
from bp_xp.backends.cupy.engine import Known, new_loop
from bp_xp.backends.cupy.launching import LaunchConfiguration, configurations, seconds_of
from bp_xp.engines import Report, plain
from bp_xp.inspection import GradientFlow, sensitivity
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.testing import assert_parity, no_host_transfer
from bp_xp.training.arguments import Settings
from bp_xp.training.looks import start
from bp_xp.training.step import Rule, make_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

BOOK = ([784, 30, 10], "sigmoid", "quadratic", 10)
MEDIUM = ([784, 512, 512, 10], "relu", "categorical_cross_entropy", 128)


def samples(n: int, inputs: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((n, inputs), dtype=np.float32), rng.integers(classes, size=n)


def begin(
    where: Placement, workload: Any, optimizer: Any, n: int, terms: Regularization | None = None
) -> tuple[Any, Any, list[Any]]:
    """Return a step, its state and n mini-batches on the device."""
    sizes, activation, cost, batch = workload
    network = Network(
        sizes,
        activation=activation,
        cost=cost,
        device=where.device_name,
        backend=where.backend,
        seed=0,
    )
    model: Model = network.model
    terms = terms or Regularization()
    settings = Settings(optimizer=optimizer, epochs=1, batch_size=batch, regularization=terms)
    generator = np.random.default_rng(0)
    position = start(
        model, network.layers, settings, placement=where, dtype="float32", generator=generator
    )
    x = generator.random((n, batch, sizes[0]))
    y = np.eye(sizes[-1])[generator.integers(sizes[-1], size=(n, batch))]
    batches = [where.asarray(part, "float32") for part in (x, y)]
    return make_step(Rule(model, optimizer.update, terms)), position.state, batches


def ways(where: Placement) -> list[tuple[str, LaunchConfiguration]]:
    """Return how kernels can be launched, so that each is taken for the best."""
    if where.backend == "cupy":
        found = configurations()
    else:
        from cuda_on_cpu import CPU  # pyright: ignore[reportMissingImports]

        found = [CPU, replace(CPU, whole=False)]
    names = [
        f"{'whole steps' if one.whole else 'phase by phase'}, {one.blocks} blocks of {one.block}"
        f"{', one cluster' if one.clustered else ''}"
        for one in found
    ]
    forced = (replace(one, seconds_per_phase=0.0, seconds_per_operation=0.0) for one in found)
    return list(zip(names, forced, strict=True))


def furthest(one: Any, other: Any) -> float:
    """Return how far two nestings of arrays are apart, relative to the largest entry of each."""
    gaps = []
    for mine, theirs in zip(leaves_of(one), leaves_of(other), strict=True):
        a, b = (to_numpy(part).astype(np.float64) for part in (mine, theirs))
        gaps.append(
            float(np.abs(a - b).max(initial=0.0)) / (float(np.abs(b).max(initial=0.0)) or 1)
        )
    return max(gaps)


def copies(tree: Any, xp: Any) -> Any:
    return map_leaves(lambda leaf: xp.asarray(leaf, copy=True), tree)


def forced_loop(report: Report, way: LaunchConfiguration) -> Any:
    """Return a loop in which one configuration is taken, however long it takes."""
    seconds = iter([1e9])  # of the plain loop

    def clock(run: Callable[[], Any]) -> float:
        run()
        return next(seconds, 0.0)

    return new_loop(report, lambda: [way], clock, Known())


# ---------------------------------------------------------------------------------------------
# The parts, in their order


def first(where: Placement) -> None:
    """A device is found and a small run, too short for a kernel, learns something."""
    print(f"placed: {where}")
    x, y = samples(1000, 20, 3)
    y = x[:, :3].argmax(axis=1)
    network = Network([20, 16, 3], device=where.device_name, backend=where.backend, seed=0)
    history = network.fit(x, y, epochs=2, batch_size=10, optimizer="adam", progress=False)
    print(history)
    print(network.explain())
    assert history[-1].cost < history[0].cost
    assert not network.explain().unfused, network.explain().unfused


def forced(where: Placement, many: int = 10_000) -> None:
    """Each way to launch, forced: 2 steps, then thousands, and again, against the plain loop."""
    on_gpu = where.backend == "cupy"
    workload, n = (BOOK, 512) if on_gpu else (([9, 5, 3], "sigmoid", "quadratic", 4), 4)
    terms = Regularization(l1=1e-4, l2=1e-4, dropout=(0.0, 0.2), clip_norm=5.0, max_norm=4.0)
    for name, way in ways(where):
        for optimizer, more in ((SGD(0.5), None), (Adam(), terms)):
            step, state, batches = begin(where, workload, optimizer, n, more)
            report, begun = Report("cupy", "forced"), time.perf_counter()
            report.epoch = {workload[3]: 1 << 20}  # enough to record at once
            loop = forced_loop(report, way)
            ours, theirs = copies(state, where.xp), copies(state, where.xp)
            chunks = [2, *[n] * (many // n if on_gpu else 2)]
            for taken, k in zip(np.cumsum(chunks), chunks, strict=True):
                part = [one[:k, ...] for one in batches]
                ours, _ = loop(step, ours, part, xp=where.xp)
                theirs, _ = plain.loop(step, theirs, part, xp=where.xp)
                if taken <= 2 + n:
                    off = furthest(ours, theirs)
                    print(f"  after {taken} steps off by {off:.2g}", flush=True)
            off, seconds = furthest(ours.layers, theirs.layers), time.perf_counter() - begun
            kind = type(optimizer).__name__
            print(f"{name}, {kind}: {sum(chunks)} steps, off by {off:.2g}, {seconds:.1f} s")
            account = report.account((workload[3], workload[0][0]))
            assert not account.reason, account.reason
            assert np.isfinite(off), "not finite"
            assert off < 0.1, "rounding grows along a run, but not so far"


def parity(where: Placement) -> None:
    """The same runs as on NumPy, compared every 50 steps."""
    x, y = samples(4000, 30, 5)
    weights = np.random.default_rng(1).random(4000)
    runs: dict[str, dict[str, Any]] = {
        "SGD": {"optimizer": SGD(0.5)},
        "Adam": {"optimizer": Adam(0.001)},
        "dropout": {"optimizer": SGD(0.5), "dropout": 0.5},
        "weights": {"optimizer": SGD(0.5), "sample_weight": weights},
        "schedule": {"optimizer": SGD(CosineDecay(0.5, steps=400))},
        "L1": {"optimizer": SGD(0.5), "l1": 1e-4},
        "limits": {"optimizer": SGD(0.5), "clip_norm": 0.1, "clip_value": 0.05, "max_norm": 2.0},
    }
    other = f"{where.backend}-{where.device_name}"
    for name, options in runs.items():
        report = assert_parity(
            lambda **place: Network([30, 20, 5], seed=0, **place),
            x,
            y,
            backends=["numpy", other] if where.backend != "numpy" else ["numpy", "torch"],
            steps=500,
            every=50,
            batch_size=10,
            **options,
        )
        print(f"{name}: {report}", flush=True)


def transfers(where: Placement) -> None:
    """A step in the plain loop, and the engine's own, read nothing back."""
    terms = Regularization(l1=1e-3, dropout=(0.1, 0.5))
    for loop in (plain.loop, where.engine.new_loop(where.new_report())):
        step, state, batches = begin(where, BOOK, Adam(), 16, terms)
        with no_host_transfer():
            loop(step, state, batches, xp=where.xp)
    print("nothing was read back")


def timed(where: Placement) -> None:
    """What a step takes: in the plain loop, and each way to launch."""
    if where.backend != "cupy":
        print("a rehearsal times nothing")
        return
    for workload in (BOOK, MEDIUM):
        for optimizer in (SGD(0.1), Adam()):
            print(f"{workload[0]}, batch {workload[3]}, {type(optimizer).__name__}, µs a step:")
            step, state, batches = begin(where, workload, optimizer, 256)
            loops = [("plain loop", plain.loop)]
            for name, way in ways(where):
                report = Report("cupy", "forced")
                report.epoch = {workload[3]: 1 << 20}
                loops.append((name, forced_loop(report, way)))
            for name, loop in loops:

                def run(loop: Any = loop, given: Any = (step, state, batches)) -> Any:
                    step, state, batches = given
                    return loop(step, copies(state, where.xp), batches, xp=where.xp)

                _, *times = (seconds_of(run) for _ in range(4))  # the first compiles
                print(f"  {name:45} {1e6 * min(times) / 256:8.1f}", flush=True)


def everything_else(where: Placement) -> None:
    """Metrics, checkpoint, resume, to, save, load, GradientFlow, sensitivity, estimators."""
    x, y = samples(2000, 20, 3)
    y = x[:, :3].argmax(axis=1)
    here: dict[str, Any] = {"device": where.device_name, "backend": where.backend}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.safetensors"
        options: dict[str, Any] = {
            "batch_size": 10,
            "optimizer": "adam",
            "validation_data": 0.2,
            "metrics": ["f1_macro", "top_2"],
            "progress": False,
        }
        flow = GradientFlow(x[:100], y[:100], every=100)
        network = Network([20, 16, 3], seed=0, **here)
        network.fit(
            x, y, epochs=2, checkpoint=Checkpoint(path, every=50), callbacks=flow, **options
        )
        print(flow)
        again = Network([20, 16, 3], seed=0, **here)
        resumed = Checkpoint(path, resume=True)
        history = again.fit(x, y, epochs=3, checkpoint=resumed, **options)
        print(history)
        loaded = Network.load(again.save(Path(folder) / "net"), **here)
        outputs = [to_numpy(one(x)) for one in (again, loaded, again.to("cpu"))]
        print("loaded, on the CPU:", *(np.abs(outputs[0] - one).max() for one in outputs[1:]))
        assert np.allclose(outputs[0], outputs[1], atol=1e-6)
        assert np.allclose(outputs[0], outputs[2], atol=1e-4)
        print(sensitivity(again, x, y, 1, 2))
    from bp_xp.estimators import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPClassifier((16,), max_iter=20, random_state=0, **here).fit(x, y)
        print("classifier:", model.score(x, y))
        assert model.score(x, y) > 0.7
        if where.backend == "cupy":
            from sklearn import config_context

            with config_context(array_api_dispatch=True):
                there = where.asarray(x), where.asarray(y)
                model = MLPClassifier((16,), max_iter=20, random_state=0).fit(*there)
                print("of CuPy's arrays:", type(model.predict(there[0])), model.coefs_[0].device)


def memory(where: Placement) -> None:
    """A mini-batch that is too large gives a clear error, and a smaller one is taken."""
    if where.backend != "cupy":
        print("a rehearsal has memory enough")
        return
    pool = where.xp.get_default_memory_pool()
    network = Network([784, 4096, 10], device=where.device_name, seed=0)
    x, y = np.zeros((60_000, 784), np.float32), np.zeros(60_000, int)
    network.fit(x[:10], y[:10], epochs=1, batch_size=10, progress=False)
    pool.set_limit(size=pool.total_bytes() + (600 << 20))
    try:
        network.fit(x, y, epochs=1, batch_size=60_000, progress=False)
    except OutOfMemoryError as error:
        print(error)
    else:
        raise AssertionError("60,000 samples at a time had enough memory")
    print(network.fit(x, y, epochs=1, batch_size=100, progress=False))


def second(where: Placement) -> None:
    """A second GPU, if there is one: nothing lands on the first."""
    names = [where.library.device_name(device) for device in where.library.devices()]
    if len(names) < 2 or where.backend != "cupy":
        print(f"there is one: {names}")
        return
    x, y = samples(1000, 20, 3)
    network = Network([20, 16, 3], device=names[1], seed=0)
    network.fit(x, y, epochs=5, batch_size=10, progress=False)
    print(network.predict_proba(x)[:2].device, network.predict(x).device)
    assert {part.device.id for part in leaves_of(network.layers)} == {1}


PARTS: dict[str, Callable[[Placement], None]] = {
    "first": first,
    "forced": forced,
    "parity": parity,
    "transfers": transfers,
    "timed": timed,
    "else": everything_else,
    "memory": memory,
    "second": second,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, help="of the part 'forced'")
    given = parser.parse_args(arguments)
    part = PARTS[given.part]
    print(part.__doc__, flush=True)
    where = place(given.device)
    with where.active():
        if given.steps:
            forced(where, given.steps)
        else:
            part(where)


if __name__ == "__main__":
    main()
