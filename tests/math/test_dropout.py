import itertools

import numpy as np
import pytest
from helpers import widest

from bp_xp import to_numpy
from bp_xp.backends import place
from bp_xp.backends.numpy import engine as numpy_engine
from bp_xp.backends.torch import engine as torch_engine
from bp_xp.engines import plain
from bp_xp.math.dropout import counters, draw_masks, init_masks, keep_scale, seed_words, step_key

RECORDERS = {"numpy": numpy_engine._record, "torch": torch_engine._record}
SEED = 20140614
RATES = (0.2, 0.5, 0.0)  # inputs, first and second hidden layer
SIZES = (7, 12, 5, 3)

# ---------------------------------------------------------------------------------------------
# The definition once more, in Python's integers, which do not wrap

BITS = 2**32 - 1


def lowbias32(x):
    x ^= x >> 16
    x = x * 0x7FEB352D & BITS
    x ^= x >> 15
    x = x * 0x846CA68B & BITS
    return x ^ x >> 16


def reference_mask(seed, step, layer, shape, rate):
    first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
    key = lowbias32(step ^ first) ^ second
    mask = np.zeros(shape)
    for number, index in enumerate(np.ndindex(*shape)):
        word = (lowbias32((number + layer * 0x9E3779B9) & BITS) ^ key) * 0x7FEB352D & BITS
        copies_of_the_sign = 0xFFFE0000 if word >> 31 else 0
        word ^= word >> 15 | copies_of_the_sign
        word = word * 0x846CA68B & BITS
        # As int32, the words with the upper bit come before those without.
        if (word + 2**31) % 2**32 >= round(rate * 2**32):
            mask[index] = 1 / (1 - rate)
    return mask


def test_hash_is_lowbias32():
    # What the published C function returns.
    published = {
        0x00000000: 0x00000000,
        0x00000001: 0x688990C0,
        0x00000002: 0xD1132181,
        0x80000000: 0xCC4B4124,
        0xFFFFFFFF: 0x6768824A,
    }
    assert {x: lowbias32(x) for x in published} == published
    assert counters(0, (1, 3)).view(np.uint32).tolist() == [[lowbias32(x) for x in range(3)]]


# ---------------------------------------------------------------------------------------------
# The same bits everywhere


def masks_of(where, steps, dtype="float32", n=6, rates=RATES, seed=SEED):
    """Return for each step the masks on the device."""
    state = init_masks(rates, SIZES, 6, seed, asarray=where.asarray)
    drawn = []
    for _ in range(steps):
        masks, state = draw_masks(state, rates, n, xp=where.xp, dtype=where.dtype(dtype))
        drawn.append(masks)
    return drawn


def test_masks_are_those_of_the_definition(where, dtype):
    for step, masks in enumerate(masks_of(where, 4, dtype)):
        for layer, (mask, rate) in enumerate(zip(masks, RATES, strict=True)):
            if not rate:
                assert mask is None
                continue
            assert mask.dtype == where.dtype(dtype)
            wanted = reference_mask(SEED, step, layer, (6, SIZES[layer]), rate).astype(dtype)
            assert to_numpy(mask).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("rate", [0.0, 1e-12, 0.1, 1 / 3, 0.9, 1 - 1e-12])
def test_masks_are_those_of_the_definition_at_any_rate(where, rate):
    key = step_key(where.asarray(seed_words(1)), where.asarray(np.full(1, 5, np.int32)))
    mask = keep_scale(
        where.asarray(counters(2, (9, 8))), key, rate, xp=where.xp, dtype=where.dtype(widest(where))
    )
    if rate <= 0.9:
        assert np.array_equal(
            to_numpy(mask), reference_mask(1, 5, 2, (9, 8), rate).astype(widest(where))
        )
    assert set(np.unique(to_numpy(mask)).tolist()) <= {
        0.0,
        float(np.asarray(1 / (1 - rate), widest(where))),
    }


def test_masks_are_the_same_on_jax_with_32_bits():
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    wanted = masks_of(place("cpu"), 3)
    jax.config.update("jax_enable_x64", False)
    try:
        found = masks_of(place("cpu", "jax"), 3)
        found = [[None if m is None else to_numpy(m) for m in masks] for masks in found]
    finally:
        jax.config.update("jax_enable_x64", before)
    for mine, theirs in zip(*map(itertools.chain.from_iterable, (found, wanted)), strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or mine.tobytes() == theirs.tobytes()


def test_shorter_mini_batch_has_the_first_rows_of_the_mask(where):
    for full, short in zip(masks_of(where, 2), masks_of(where, 2, n=4), strict=True):
        for whole, rows in zip(full[:2], short[:2], strict=True):
            assert np.array_equal(to_numpy(whole)[:4], to_numpy(rows))


def test_rate_of_zero_keeps_everything_as_it_is(where, dtype):
    key = step_key(where.asarray(seed_words(0)), where.asarray(np.zeros(1, np.int32)))
    places = where.asarray(counters(1, (20, 30)))
    mask = keep_scale(places, key, 0.0, xp=where.xp, dtype=where.dtype(dtype))
    assert np.all(to_numpy(mask) == 1.0)


def test_arguments_are_left_alone(where):
    places, seed = where.asarray(counters(1, (5, 4))), where.asarray(seed_words(0))
    step = where.asarray(np.full(1, 3, np.int32))
    before = [to_numpy(part).copy() for part in (places, seed, step)]
    key = step_key(seed, step)
    keep_scale(places, key, 0.5, xp=where.xp, dtype=where.dtype("float32"))
    for part, old in zip((places, seed, step), before, strict=True):
        assert np.array_equal(to_numpy(part), old)


# ---------------------------------------------------------------------------------------------
# Engines


def make_step(where):
    dtype = where.dtype("float32")

    def step(state, x, y, *, xp):
        masks, state = draw_masks(state, RATES, x.shape[-2], xp=xp, dtype=dtype)
        return state, xp.concat([x * masks[0], y * masks[1]], axis=-1)

    return step


def batches(where, steps, n):
    return [where.asarray(np.ones((steps, n, size), np.float32)) for size in SIZES[:2]]


def test_engine_draws_the_masks_of_the_plain_loop(where):
    loop = where.engine.new_loop(where.new_report())
    start = [init_masks(RATES, SIZES, 6, SEED, asarray=where.asarray) for _ in range(2)]
    seen = []
    for n in (6, 6, 2):  # chunks, the last with a short mini-batch
        ends = [
            one(make_step(where), state, batches(where, 5, n), xp=where.xp)
            for one, state in zip((loop, plain.loop), start, strict=True)
        ]
        start = [state for state, _ in ends]
        replayed, plainly = (to_numpy(zs) for _, zs in ends)
        assert replayed.tobytes() == plainly.tobytes()
        seen += [z.tobytes() for z in replayed]
    assert len(set(seen)) == len(seen)
    assert all(to_numpy(state.step).tolist() == [15] for state in start)


@pytest.mark.parametrize("name", RECORDERS)
def test_step_with_masks_can_be_recorded(name):
    pytest.importorskip(name)
    where = place("cpu", name)
    state = init_masks(RATES, SIZES, 6, SEED, asarray=where.asarray)
    batch = [part[0] for part in batches(where, 1, 6)]
    RECORDERS[name](make_step(where), state, batch, xp=where.xp)


def test_jax_compiles_a_step_once_for_all_steps():
    jax = pytest.importorskip("jax")
    where = place("cpu", "jax")
    traced = 0

    def step(state):
        nonlocal traced
        traced += 1
        return draw_masks(state, RATES, 6, xp=where.xp, dtype=where.dtype("float32"))

    compiled, state = jax.jit(step), init_masks(RATES, SIZES, 6, SEED, asarray=where.asarray)
    for masks in masks_of(where, 4):
        found, state = compiled(state)
        assert all(np.array_equal(a, b) for a, b in zip(found[:2], masks[:2], strict=True))
    assert traced == 1


# ---------------------------------------------------------------------------------------------
# Chance. The masks are fixed, so these tests either pass for ever or never; the bounds are those
# that independent draws would break about once in a million times.

N, WIDTH, STEPS = 32, 128, 600


@pytest.fixture(scope="module", params=[0.5, 0.2, 0.05])
def rate(request):
    return request.param


def keeps(rate, seed=SEED, layer=1, steps=STEPS, shape=(N, WIDTH)):
    """Return which neurons are kept, one row of places for each step."""
    keys = step_key(seed_words(seed), np.arange(steps, dtype=np.int32))
    places = counters(layer, shape)
    return np.stack(
        [
            keep_scale(places, keys[t : t + 1], rate, xp=np, dtype=np.float32).ravel() > 0
            for t in range(steps)
        ]
    )


def standardised(kept, rate):
    return ((kept - (1 - rate)) / np.sqrt(rate * (1 - rate))).astype(np.float32)


@pytest.fixture(scope="module")
def draws(rate):
    """Keeps with mean 0 and variance 1, shape (STEPS, N · WIDTH)."""
    return standardised(keeps(rate), rate)


def test_share_kept_is_one_less_the_rate(rate):
    n = STEPS * N * WIDTH
    for seed, layer in itertools.product((0, 1, 2, 10**15), (0, 1, 7)):
        z = standardised(keeps(rate, seed, layer, steps=100), rate)
        assert abs(z.sum()) < 5 * np.sqrt(z.size), (seed, layer)
    z = standardised(keeps(rate), rate)
    assert abs(z.sum()) < 5 * np.sqrt(n)


def test_share_kept_varies_over_steps_and_neurons_as_chance_has_it(draws):
    for axis in (0, 1):
        sums = draws.sum(axis=axis) / np.sqrt(draws.shape[axis])
        assert abs(sums).max() < 5.5
        # The variance of the sums is 1, with a spread of √(2/number of sums).
        assert abs(sums.var() - 1) < 5 * np.sqrt(2 / sums.size)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 16, 64, 127, 128, 129, 256, 1024, 2048])
def test_neighbouring_neurons_and_rows_are_independent(draws, lag):
    # Places are numbered row by row: 128 on is the row below.
    products = draws[:, :-lag] * draws[:, lag:]
    assert abs(products.sum(dtype=np.float64)) < 5 * np.sqrt(products.size)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 16, 100, 256, 512])
def test_steps_are_independent(draws, lag):
    products = draws[:-lag] * draws[lag:]
    assert abs(products.sum(dtype=np.float64)) < 5 * np.sqrt(products.size)


def test_any_two_steps_are_independent(draws):
    pairs = (draws @ draws.T)[np.triu_indices(len(draws), 1)] / np.sqrt(draws.shape[1])
    # 180,000 of them; sums of skew products reach a bit farther out than normal ones.
    assert abs(pairs).max() < 6.5
    assert abs(pairs.var() - 1) < 5 * np.sqrt(2 / pairs.size)


def test_any_two_neurons_are_independent(draws):
    some = draws[:, ::4]
    pairs = (some.T @ some)[np.triu_indices(some.shape[1], 1)] / np.sqrt(len(some))
    assert abs(pairs.mean()) < 5 / np.sqrt(pairs.size)
    # Pairs that share a neuron are not quite independent of each other, hence the wider bound.
    assert abs(pairs.var() - 1) < 0.02


def test_squares_of_neurons_and_steps_are_independent(draws):
    # A word that is one number for the place ⊕ one for the step would give itself away here.
    for apart in (1, 2, 128):
        rows = draws[:-1, :-apart] * draws[:-1, apart:]
        products = rows * draws[1:, :-apart] * draws[1:, apart:]
        assert abs(products.sum(dtype=np.float64)) < 5 * np.sqrt(products.size)


def test_layers_and_seeds_are_independent(rate, draws):
    others = {
        "next layer": keeps(rate, layer=2),
        "layer below": keeps(rate, layer=0),
        "next seed": keeps(rate, seed=SEED + 1),
        "seed 0": keeps(rate, seed=0),
    }
    for name, other in others.items():
        products = draws * standardised(other, rate)
        assert abs(products.sum(dtype=np.float64)) < 5 * np.sqrt(products.size), name


@pytest.mark.parametrize("along", ["neurons", "steps"])
def test_eight_keeps_in_a_row_are_all_as_likely(along):
    kept = keeps(0.5)
    rows = kept if along == "neurons" else kept.T
    counts = np.bincount(np.packbits(rows, axis=1).ravel(), minlength=256)
    expected = counts.sum() / 256
    chi_square = np.sum((counts - expected) ** 2 / expected)
    # Of 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


def test_steps_do_not_repeat():
    steps = np.arange(500_000, dtype=np.int32)
    ranges = [steps, steps + np.int32(-(2**31)), -steps - 1]  # with no step in common
    keys = step_key(seed_words(SEED), np.concatenate(ranges))
    assert np.unique(keys).size == keys.size


def test_no_counter_occurs_twice():
    places = np.concatenate([counters(layer, (128, 512)).ravel() for layer in range(16)])
    assert np.unique(places).size == places.size


def test_seeds_give_different_masks():
    seen = {keeps(0.5, seed, steps=1).tobytes() for seed in (*range(50), 2**32, 2**48 + 1, 10**40)}
    assert len(seen) == 53


# ---------------------------------------------------------------------------------------------
# What dropout does to a network


def test_mean_over_masks_is_the_activation_without(rng):
    a = rng.random((N, WIDTH))
    kept = keeps(0.2, steps=4000)
    mean = kept.mean(axis=0).reshape(N, WIDTH) * a / 0.8
    # Each mean has a relative standard deviation of √(0.25/4000).
    assert abs(mean / a - 1).max() < 5.5 * np.sqrt(0.25 / 4000)


@pytest.mark.needs_float64("a finite difference")
def test_masked_gradients_equal_central_differences(where, rng):
    # forward ãˡ = aˡ ⊙ m, backward δˡ ⊙ m: as the module's docstring has it.
    from helpers import central_difference

    from bp_xp.math.activations import ACTIVATIONS

    xp, tanh = where.xp, ACTIVATIONS["tanh"]
    x, y = (where.asarray(rng.normal(size=shape)) for shape in ((6, 12), (6, 3)))
    W1, W2, direction = (
        where.asarray(rng.normal(size=shape)) for shape in ((5, 12), (3, 5), (5, 12))
    )
    state = init_masks((0.0, 0.5), (12, 5, 3), 6, SEED, asarray=where.asarray)
    (_, m), _ = draw_masks(state, (0.0, 0.5), 6, xp=xp, dtype=where.dtype("float64"))

    def output(t):
        a = tanh.sigma(x @ (W1 + t * direction).mT, xp=xp)
        return a, (a * m) @ W2.mT

    def cost(t):
        residual = output(t)[1] - y
        return float(to_numpy(0.5 * xp.sum(residual * residual)))

    a, z = output(0.0)
    delta = ((z - y) @ W2) * m * tanh.sigma_prime(z, a, xp=xp)
    claimed = float(to_numpy(xp.sum((delta.mT @ x) * direction)))
    assert central_difference(cost) == pytest.approx(claimed, rel=1e-9)
