"""The systems that bp_xp set out to cover, through its public names, against published figures."""

import functools
import itertools
import os
import random
from pathlib import Path

import numpy as np
import pytest
from helpers import tolerance, widest

from bp_xp import SGD, Network, to_numpy
from bp_xp.book import mnist_loader, network2
from bp_xp.datasets import load_mnist
from bp_xp.testing.parity import assert_parity

# ---------------------------------------------------------------------------------------------
# The deep ReLU classifier in vector form, 12288-20-7-5-1


def there(where):
    """Return the options that put a network on a library and device, in its widest dtype."""
    return {"backend": where.backend, "device": where.device_name, "dtype": widest(where)}


DEEP_SIZES = [12288, 20, 7, 5, 1]
DEEP_COSTS = [
    0.69301356, 0.69204859, 0.68890952, 0.66534268, 0.63627974, 0.59864491, 0.57399670,
    0.55455259, 0.53362871, 0.52812387, 0.52214822, 0.50656239, 0.51940142, 0.51177312,
    0.50393255, 0.50938580, 0.54099861, 0.51454733, 0.50515268, 0.50401095,
]  # fmt: skip
DEEP_WEIGHTS = [0.01638766, 0.01138265, -0.02091715, 0.00165189, -0.01230952, 0.00682659]


def train_deep(iterations, **options):
    """Return the network and the cost before each iteration."""
    generator = np.random.RandomState(1)
    x, y = generator.rand(DEEP_SIZES[0], 200).T, generator.rand(1, 200).T
    generator = np.random.RandomState(10)
    layers = []
    for n_in, n_out in itertools.pairwise(DEEP_SIZES):
        scale = np.sqrt(2 / n_in) if n_out > 1 else 0.01
        layers.append((generator.randn(n_out, n_in) * scale, np.zeros(n_out)))
    net = Network.from_layers(
        layers,
        activation="relu",
        cost="binary_cross_entropy",
        **({"dtype": "float64"} | options),
    )
    history = net.fit(
        x,
        y,
        epochs=iterations,
        batch_size=200,
        shuffle=False,
        optimizer=SGD(0.01),
        l2=0.0 / 200,  # λ/m
        progress=False,
    )
    return net, history["cost"]


# An iteration reads 20 MB twice and takes up to 35 ms: a few of them here, all in the slow tests.
# Rounding of the published costs to eight digits accounts for 5e-9.


@functools.cache
def deep_on_numpy():
    """Return the costs of the first iterations."""
    return train_deep(301)[1]


def test_the_deep_classifier_repeats_the_first_published_costs():
    np.testing.assert_allclose(deep_on_numpy()[::100], DEEP_COSTS[:4], rtol=0, atol=5.1e-9)


@pytest.mark.slow
def test_the_deep_classifier_repeats_all_twenty_published_costs_and_the_weights():
    net, costs = train_deep(2000)
    np.testing.assert_allclose(costs[::100], DEEP_COSTS, rtol=0, atol=5.1e-9)
    W = to_numpy(net.layers[0].W)
    np.testing.assert_allclose([*W[0, :3], *W[0, -3:]], DEEP_WEIGHTS, rtol=0, atol=5.1e-9)


def test_the_deep_classifier_costs_the_same_on_every_backend(where):
    _, costs = train_deep(41, **there(where))
    assert abs(costs[0] - DEEP_COSTS[0]) < 1e-6
    np.testing.assert_allclose(
        costs, deep_on_numpy()[:41], rtol=0, atol=tolerance(widest(where), 1e-12)
    )


@pytest.mark.slow
@pytest.mark.needs_float64("rounding takes units of ReLU elsewhere")
def test_the_deep_classifier_repeats_the_published_run_on_every_backend(where):
    net, costs = train_deep(2000, **there(where))
    np.testing.assert_allclose(costs[::100], DEEP_COSTS, rtol=0, atol=1e-6)
    W = to_numpy(net.layers[0].W)
    np.testing.assert_allclose([*W[0, :3], *W[0, -3:]], DEEP_WEIGHTS, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------
# The logical-NOT network, 2-2-2

PAIRS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


def train_not(seed, steps, activation="sigmoid", **options):
    """Return the network after one random pair a step."""
    net = Network(
        [2, 2, 2],
        activation=activation,
        cost="quadratic",
        initializer="normal",
        seed=seed,
        **({"dtype": "float64"} | options),
    )
    x = PAIRS[np.random.default_rng(seed).integers(4, size=steps)]
    net.fit(x, 1 - x, epochs=1, batch_size=1, shuffle=False, optimizer=SGD(0.2), progress=False)
    return net


def largest_error(net):
    return np.abs(to_numpy(net.feedforward(PAIRS)) - (1 - PAIRS)).max()


@pytest.mark.parametrize("seed", range(5))
def test_the_not_network_learns_from_every_seed(seed):
    assert largest_error(train_not(seed, 40_000)) < 0.1


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 4))]
)
def test_the_not_network_learns_with_tanh_as_well(seed):
    assert largest_error(train_not(seed, 40_000, "tanh")) < 0.1


def test_the_not_network_takes_the_same_steps_on_every_backend(where):
    # 40,000 steps one at a time take up to 22 s (array_api_strict); they are in the slow test.
    net = train_not(0, 1000, **there(where))
    for ours, theirs in zip(net.layers, train_not(0, 1000).layers, strict=True):
        np.testing.assert_allclose(
            to_numpy(ours.W), theirs.W, rtol=0, atol=tolerance(widest(where), 1e-12)
        )
        np.testing.assert_allclose(
            to_numpy(ours.b), theirs.b, rtol=0, atol=tolerance(widest(where), 1e-12)
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_not_network_learns_on_every_backend(where, seed):
    if where.backend == "array_api_strict" and seed > 1:
        pytest.skip("array_api_strict checks every call: 15 to 30 s a seed, so two seeds serve")
    net = train_not(seed, 40_000, **there(where))
    assert largest_error(net) < 0.1


# ---------------------------------------------------------------------------------------------
# One seed, one run


@pytest.mark.parametrize(
    ("activation", "cost", "optimizer"),
    [
        ("sigmoid", "quadratic", SGD(3.0)),
        ("tanh", "binary_cross_entropy", SGD(0.1, momentum=0.9)),
        ("relu", "categorical_cross_entropy", SGD(0.1, momentum=0.9, nesterov=True)),
    ],
    ids=["plain", "momentum", "nesterov"],
)
def test_a_seed_gives_the_same_parameters_on_every_backend(
    target, where, activation, cost, optimizer
):
    generator = np.random.default_rng(4)
    x, y = generator.random((250, 64)), generator.integers(10, size=250)

    dtype = widest(where)
    rtol = 1e-11 if dtype == "float64" else None  # that of parity in float32

    def build(**options):
        return Network(
            [64, 30, 20, 10], activation=activation, cost=cost, dtype=dtype, seed=7, **options
        )

    # Looks only at the end of each epoch, so that the engines take its steps together.
    training = {"batch_size": 10, "optimizer": optimizer, "l2": 1e-3}
    backends = ["numpy", target]
    assert_parity(build, x, y, backends=backends, steps=100, every=25, rtol=rtol, **training)


# ---------------------------------------------------------------------------------------------
# The book's figures on MNIST


@functools.cache
def mnist(loaded_by=load_mnist):
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mnist"
    folder = os.environ.get("BP_XP_DATA_DIR") or (beside if beside.is_dir() else None)
    try:
        return loaded_by(folder, download=False)
    except FileNotFoundError as error:
        pytest.skip(f"needs MNIST: {error}")


def reaches(accuracy, hidden, cost, eta, seed, epochs):
    """Return whether a run with N(0, 1) weights, batch 10, has a test accuracy after some epoch."""
    data = mnist()
    net = Network([784, hidden, 10], cost=cost, initializer="normal", seed=seed)
    history = net.fit(
        data.x_train,
        data.y_train,
        epochs=epochs,
        batch_size=10,
        optimizer=SGD(eta),
        validation_data=(data.x_test, data.y_test),
        callbacks=lambda _, history: history[-1].validation_accuracy >= accuracy,
        progress=False,
    )
    return history[-1].validation_accuracy >= accuracy


def test_two_epochs_of_mnist_come_close_to_the_book():
    # The best of three seeds: some leave an output neuron saturated for many epochs.
    assert any(reaches(0.90, 30, "quadratic", 3.0, seed, 2) for seed in range(3))
    assert reaches(0.91, 30, "binary_cross_entropy", 0.5, 0, 2)


@pytest.mark.slow
def test_the_quadratic_cost_on_mnist_is_as_accurate_as_in_the_book():
    # Published: 95.42 %, for one seed.
    assert any(reaches(0.95, 30, "quadratic", 3.0, seed, 30) for seed in range(3))


@pytest.mark.slow
def test_the_cross_entropy_on_mnist_is_as_accurate_as_in_the_book():
    # Published: 96.82 %, for one seed.
    assert any(reaches(0.966, 100, "binary_cross_entropy", 0.5, seed, 30) for seed in (2, 1, 0))


def accuracies_of_chapter_3(epochs, **options):
    """Return the validation accuracy after each epoch of the book's regularized network."""
    training_data, validation_data, _ = mnist(mnist_loader.load_data_wrapper)
    np.random.seed(0)
    random.seed(0)
    net = network2.Network([784, 30, 10], cost=network2.CrossEntropyCost, **options)
    flags = {"evaluation_data": validation_data, "monitor_evaluation_accuracy": True}
    _, right, _, _ = net.SGD(training_data, epochs, 10, 0.1, lmbda=5.0, **flags)
    return np.array(right) / len(validation_data)


def test_an_epoch_of_the_books_class_of_chapter_3_is_as_accurate_as_in_the_book():
    assert accuracies_of_chapter_3(1, dtype="float32") >= 0.92  # published: 92.70 %


@pytest.mark.slow
def test_the_books_class_of_chapter_3_is_as_accurate_as_in_the_book():
    # Published: 96.53 %, for one seed.
    assert accuracies_of_chapter_3(30).max() >= 0.96
