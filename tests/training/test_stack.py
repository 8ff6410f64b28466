"""A stack of M networks takes a step together: the same M steps as the networks alone."""

import numpy as np
import pytest
from helpers import random_layers, widest

from bp_xp import ACTIVATIONS, COSTS, SGD, Adagrad, Adam, AdamW, Layer, NAdam, RMSprop, to_numpy
from bp_xp.backends import place
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.training.step import Rule, State, make_step

M, N, SIZES = 3, 7, (4, 5, 2)
RATES = np.array([0.5, 0.1, 0.02])
MOMENTA = np.array([0.9, 0.5, 0.1])

OPTIMIZERS = {
    "SGD": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "Nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "Adagrad": Adagrad(0.1, learning_rate_decay=0.1),
    "RMSprop": RMSprop(0.1),
    "RMSprop in full": RMSprop(0.1, momentum=0.5, centered=True),
    "Adam": Adam(0.1),
    "AMSGrad": Adam(0.1, amsgrad=True),
    "NAdam": NAdam(0.1),
    "AdamW": AdamW(0.1, weight_decay=0.5),
    "AdamW without biases": AdamW(0.1, weight_decay=0.5, decay_biases=False),
}
STRENGTHS = np.array([0.1, 0.0, 0.3])
TERMS = {
    "none": {},
    "l1 and l2": {"l1": STRENGTHS, "l2": STRENGTHS[::-1]},
    "one l2 for all": {"l2": 0.1},
    "clip_norm": {"clip_norm": 0.05},
    "clip_norm of each": {"clip_norm": np.array([0.05, 1e3, 0.01])},
    "clip_value": {"clip_value": np.array([0.01, 0.1, 0.001])},
    "max_norm": {"max_norm": 0.5},
    "max_norm of each": {"max_norm": np.array([0.5, 1e3, 0.1])},
    "all": {"l1": STRENGTHS, "l2": STRENGTHS, "clip_norm": 0.1, "max_norm": 0.7},
}
MODELS = {
    "quadratic": Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]), COSTS["quadratic"]),
    "softmax": Model(
        SIZES, (ACTIVATIONS["relu"], ACTIVATIONS["softmax"]), COSTS["categorical_cross_entropy"]
    ),
    "coupled": Model(SIZES, (ACTIVATIONS["gelu"], ACTIVATIONS["softmax"]), COSTS["quadratic"]),
}


@pytest.fixture(params=["numpy", "array_api_strict"])
def here(request):
    """A library that refuses nothing, and one that refuses what the standard does not have."""
    pytest.importorskip(request.param)
    return place(backend=request.param)


@pytest.fixture
def networks():
    """The layers of M networks."""
    return [random_layers(SIZES, np.random.default_rng(seed)) for seed in range(M)]


@pytest.fixture
def batches(rng):
    """Two mini-batches of each network: inputs (M, N, I), targets (M, N, O), weights (M, N)."""
    return [
        (rng.standard_normal((M, N, 4)), rng.dirichlet([1.0, 1.0], (M, N)), rng.random((M, N)))
        for _ in range(2)
    ]


def steps_of(where, model, optimizer, layers, batches, *, settings, terms, weighted, trainable=()):
    """Take a step for each mini-batch; return the state's arrays and the last zᴸ on the host."""
    rule = Rule(
        model,
        optimizer.update,
        Regularization(**terms),
        weighted=weighted,
        trainable=trainable,
    )
    learns = trainable or (True,) * len(layers)
    learning = [layer for layer, one in zip(layers, learns, strict=True) if one]
    begun = optimizer.init(learning, placement=where, dtype=widest(where))._replace(**settings)
    state, step = State(layers, begun, ()), make_step(rule)
    for batch in batches:
        parts = [where.asarray(part) for part in batch[: 3 if weighted else 2]]
        state, z = step(state, *parts, xp=where.xp)
    return [tuple(map(to_numpy, layer)) for layer in state.layers], to_numpy(z)


def on_device(layers, where):
    return [Layer(*map(where.asarray, layer)) for layer in layers]


def stacked(networks):
    return [
        Layer(*map(np.stack, zip(*corresponding, strict=True)))
        for corresponding in zip(*networks, strict=True)
    ]


def of_network(m, values):
    """Return the numbers of one network of the stack."""
    return {
        name: value[m] if isinstance(value, np.ndarray) else value for name, value in values.items()
    }


def assert_like_the_single_ones(
    where, networks, batches, *, model, optimizer, settings, terms, weighted=False, trainable=()
):
    def run(layers, batches, settings, terms):
        return steps_of(
            where,
            model,
            optimizer,
            on_device(layers, where),
            batches,
            settings={name: where.asarray(value) for name, value in settings.items()},
            terms={
                name: where.asarray(value) if isinstance(value, np.ndarray) else value
                for name, value in terms.items()
            },
            weighted=weighted,
            trainable=trainable,
        )

    layers, z = run(stacked(networks), batches, settings, terms)
    assert z.shape == (M, N, SIZES[-1])
    for m, network in enumerate(networks):
        own = [tuple(part[m] for part in batch) for batch in batches]
        plain = {name: float(v) for name, v in of_network(m, settings).items()}
        own_terms = {
            name: None if v is None else float(v) for name, v in of_network(m, terms).items()
        }
        wanted, wanted_z = run(network, own, plain, own_terms)
        np.testing.assert_allclose(z[m], wanted_z, rtol=1e-12, atol=1e-14)
        for (W, b), (wanted_W, wanted_b) in zip(layers, wanted, strict=True):
            np.testing.assert_allclose(W[m], wanted_W, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(b[m], wanted_b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_stack_steps_like_its_networks_each_at_its_own_rate(here, networks, batches, optimizer):
    settings = {"learning_rate": RATES}
    if getattr(optimizer, "momentum", 0.0):
        settings["momentum"] = MOMENTA
    assert_like_the_single_ones(
        here,
        networks,
        batches,
        model=MODELS["quadratic"],
        optimizer=optimizer,
        settings=settings,
        terms=TERMS["all"],
        weighted=True,
    )


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_each_network_of_a_stack_has_its_own_terms(here, networks, batches, terms, weighted):
    assert_like_the_single_ones(
        here,
        networks,
        batches,
        model=MODELS["softmax"],
        optimizer=SGD(0.1, momentum=0.9),
        settings={"learning_rate": RATES, "momentum": MOMENTA},
        terms=terms,
        weighted=weighted,
    )


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_stack_of_any_model_steps_like_its_networks(here, networks, batches, model):
    assert_like_the_single_ones(
        here,
        networks,
        batches,
        model=model,
        optimizer=Adam(0.1),
        settings={"learning_rate": RATES},
        terms={},
    )


def test_a_stack_with_frozen_layers_steps_like_its_networks(here, networks, batches):
    assert_like_the_single_ones(
        here,
        networks,
        batches,
        model=MODELS["quadratic"],
        optimizer=AdamW(0.1),
        settings={"learning_rate": RATES},
        terms={"l2": STRENGTHS, "clip_norm": 0.1},
        trainable=(False, True),
    )
