import inspect
import math

import numpy as np
import pytest
from helpers import assert_layers_agree

from bp_xp import ACTIVATIONS, INITIALIZERS, Layer, Network, to_numpy
from bp_xp.math.initializers import (
    Initializer,
    make_generator,
    restore_generator,
    suited_initializer,
)

N_IN, N_OUT = 400, 300
MEAN = (N_IN + N_OUT) / 2

# Standard deviations of weights and biases.
SPREAD = {
    "normal": (1.0, 1.0),
    "scaled_normal": (math.sqrt(1 / N_IN), 1.0),
    "he_normal": (math.sqrt(2 / N_IN), 0.0),
    "he_uniform": (math.sqrt(2 / N_IN), 0.0),
    "glorot_normal": (math.sqrt(1 / MEAN), 0.0),
    "glorot_uniform": (math.sqrt(1 / MEAN), 0.0),
    "lecun_normal": (math.sqrt(1 / N_IN), 0.0),
    "lecun_uniform": (math.sqrt(1 / N_IN), 0.0),
    "zeros": (0.0, 0.0),
}
# Half widths, as the papers give them.
HALF_WIDTHS = {
    "he_uniform": math.sqrt(6 / N_IN),
    "glorot_uniform": math.sqrt(6 / (N_IN + N_OUT)),
    "lecun_uniform": math.sqrt(3 / N_IN),
}

# What seed 0 draws for Network([3, 2]): weights before biases.
OF_SEED_0 = {
    "normal": (
        [0.1257302210933933, -0.1321048632913019, 0.6404226504432821],
        [0.10490011715303971, -0.535669373161111, 0.36159505490948474],
        [1.3040000451301372, 0.9470809631292422],
    ),
    "scaled_normal": (
        [0.07259037699354177, -0.07627077838249186, 0.3697481896285625],
        [0.06056411087633075, -0.30926885679120547, 0.20876700228962852],
        [1.3040000451301372, 0.9470809631292422],
    ),
}


@pytest.fixture(params=INITIALIZERS)
def name(request):
    return request.param


def draw(name, seed=0, n_out=N_OUT, n_in=N_IN):
    return INITIALIZERS[name](make_generator(seed), n_out, n_in)


def test_every_initializer_has_its_spread_written_down():
    assert set(SPREAD) == set(INITIALIZERS)
    assert set(HALF_WIDTHS) == {name for name in INITIALIZERS if name.endswith("uniform")}


def test_initializer_has_the_signature_that_is_asked_of_users(name):
    wanted = list(inspect.signature(Initializer.__call__).parameters)[1:]
    assert list(inspect.signature(INITIALIZERS[name]).parameters) == wanted


@pytest.mark.parametrize(("n_out", "n_in"), [(1, 1), (1, 5), (5, 1), (3, 4)])
def test_layer_has_one_row_of_weights_for_each_neuron(name, n_out, n_in):
    layer = draw(name, n_out=n_out, n_in=n_in)
    assert isinstance(layer, Layer)
    assert layer.W.shape == (n_out, n_in)
    assert layer.b.shape == (n_out,)
    assert layer.W.dtype == layer.b.dtype == np.float64


def test_weights_and_biases_have_their_standard_deviations(name):
    W, b = draw(name)
    for values, spread in zip((W, b), SPREAD[name], strict=True):
        # Five standard errors: of a standard deviation σ/√(2n), and of a mean σ/√n.
        assert values.std() == pytest.approx(spread, rel=5 / math.sqrt(2 * values.size), abs=0)
        assert abs(values.mean()) <= 5 * spread / math.sqrt(values.size)


@pytest.mark.parametrize("uniform", HALF_WIDTHS)
def test_uniform_weights_fill_their_interval_and_stay_within(uniform):
    sizes = np.abs(draw(uniform).W)
    assert 0.999 * HALF_WIDTHS[uniform] < sizes.max() <= HALF_WIDTHS[uniform]


def test_same_seed_draws_the_same_and_another_seed_does_not(name):
    first, again, other = draw(name, seed=1), draw(name, seed=1), draw(name, seed=2)
    assert np.array_equal(first.W, again.W)
    assert np.array_equal(first.b, again.b)
    if name != "zeros":
        assert not np.array_equal(first.W, other.W)


@pytest.mark.parametrize("name", OF_SEED_0)
def test_a_seed_gives_the_very_network_that_it_gave_in_older_versions(name):
    first, second, biases = OF_SEED_0[name]
    (layer,) = Network([3, 2], initializer=name, dtype="float64", seed=0).layers
    assert to_numpy(layer.W).tolist() == [first, second]
    assert to_numpy(layer.b).tolist() == biases


def test_two_layers_of_one_generator_differ():
    generator = make_generator(0)
    first, second = (INITIALIZERS["normal"](generator, 3, 3) for _ in range(2))
    assert not np.array_equal(first.W, second.W)


def test_every_backend_starts_from_the_same_draws(where, dtype, name):
    network = Network(
        [3, 4, 2],
        initializer=name,
        backend=where.backend,
        device=where.device_name,
        dtype=dtype,
        seed=7,
    )
    generator = make_generator(7)
    drawn = [INITIALIZERS[name](generator, *shape) for shape in ((4, 3), (2, 4))]
    rounded = [Layer(W.astype(dtype), b.astype(dtype)) for W, b in drawn]
    assert_layers_agree(network.layers, rounded, where, dtype, eps=0)


def test_float32_start_is_the_float64_start_rounded():
    narrow, wide = (Network([3, 4, 2], seed=7, dtype=dtype) for dtype in ("float32", "float64"))
    for small, large in zip(narrow.layers, wide.layers, strict=True):
        assert np.array_equal(small.W, large.W.astype(np.float32))
        assert np.array_equal(small.b, large.b.astype(np.float32))


@pytest.mark.parametrize("activation", [n for n, s in ACTIVATIONS.items() if not s.coupled])
def test_network_starts_with_what_suits_each_activation(activation):
    network = Network([3, 4, 2], activation=activation, seed=7, dtype="float64")
    generator = make_generator(7)
    suited = [suited_initializer(activation), suited_initializer("sigmoid")]
    for layer, name, shape in zip(network.layers, suited, ((4, 3), (2, 4)), strict=True):
        assert np.array_equal(layer.W, INITIALIZERS[name](generator, *shape).W)


def test_rectifiers_start_with_he_and_the_others_with_the_books_scaled_weights():
    he = {name for name in ACTIVATIONS if suited_initializer(name) == "he_normal"}
    assert he == {"relu", "leaky_relu", "elu", "silu", "gelu", "gelu_exact", "softplus"}
    rest = {suited_initializer(name) for name in set(ACTIVATIONS) - he}
    assert rest == {"scaled_normal"}


def test_users_own_function_draws_a_layer(where, dtype):
    def halves(generator, n_out, n_in):
        return Layer(np.full((n_out, n_in), 0.5), np.full(n_out, float(generator.integers(9))))

    network = Network(
        [3, 2],
        initializer=halves,
        backend=where.backend,
        device=where.device_name,
        dtype=dtype,
        seed=3,
    )
    (layer,) = network.layers
    assert_layers_agree([layer], [halves(make_generator(3), 2, 3)], where, dtype, eps=0)
    assert to_numpy(layer.W).dtype == dtype


@pytest.mark.parametrize("state", [-1, 2**200, "1", None])
def test_a_generator_is_not_restored_from_numbers_that_are_no_state(state):
    damaged = make_generator(0).bit_generator.state
    damaged["state"]["state"] = state
    with pytest.raises(ValueError, match="state of its generator is damaged"):
        restore_generator(damaged)


@pytest.mark.parametrize(
    ("name", "of_torch", "options"),
    [
        ("he_normal", "kaiming_normal_", {"nonlinearity": "relu"}),
        ("he_uniform", "kaiming_uniform_", {"nonlinearity": "relu"}),
        ("glorot_normal", "xavier_normal_", {}),
        ("glorot_uniform", "xavier_uniform_", {}),
        ("lecun_normal", "kaiming_normal_", {"nonlinearity": "linear"}),
        ("lecun_uniform", "kaiming_uniform_", {"nonlinearity": "linear"}),
    ],
)
def test_spread_of_the_weights_is_that_of_pytorch(rng, name, of_torch, options):
    torch = pytest.importorskip("torch")
    W = INITIALIZERS[name](rng, 300, 400).W
    generator = torch.Generator().manual_seed(0)
    theirs = getattr(torch.nn.init, of_torch)(
        torch.empty(300, 400), generator=generator, **options
    ).numpy()
    # A standard deviation of 120,000 values is right to 1/√240,000: five of these.
    assert W.std() == pytest.approx(theirs.std(), rel=0.01)
    if "uniform" in name:
        assert np.abs(W).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3)
