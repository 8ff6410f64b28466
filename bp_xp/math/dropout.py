"""Dropout: neurons left out at random during training, with masks that are the same everywhere.

Inverted dropout multiplies activations by a mask m whose entries are 1/(1 − rate) with probability
1 − rate and 0 otherwise, so that their mean is 1 and no scaling is needed at inference:

    forward:   ãˡ = aˡ ⊙ mˡ, and zˡ⁺¹ = ãˡ (Wˡ⁺¹)ᵀ + bˡ⁺¹
    backward:  δˡ = (δˡ⁺¹ Wˡ⁺¹) ⊙ mˡ ⊙ σ′(zˡ), and ∂C/∂Wˡ⁺¹ = (δˡ⁺¹)ᵀ ãˡ

σ′ is taken at the activation before the mask. The outputs have no mask.

A mask is a pure function of the run's seed, the step's number, the layer and the position in the
array; no generator state has to be kept. Each position has a *counter*, a hashed 32-bit integer
that is computed once on the host; each step has a *key*, which is a bijection of its number. A
position is kept if a hash of counter ⊕ key is high enough. All of this is arithmetic on int32,
which wraps in the same way in every array library, so the masks are equal to the bit. (JAX has at
most 32 bits by default, and PyTorch little unsigned arithmetic.) No two of the first 2³² steps of a
run have the same key.

References:
    Srivastava et al., *Dropout: a simple way to prevent neural networks from overfitting*, Journal
    of Machine Learning Research 15, 2014.

    Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011: stateless generators.

    Jarzynski and Olano, *Hash functions for GPU rendering*, Journal of Computer Graphics Techniques
    9, 2020: nested hashes of several coordinates.

    Wellons, *Prospecting for hash functions*, 2018: the hash, lowbias32.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from bp_xp._typing import Array, Namespace

__all__ = [
    "MaskState",
    "counters",
    "draw_masks",
    "init_masks",
    "keep_scale",
    "seed_words",
    "step_key",
    "threshold",
]

# 2³² over the golden ratio: its multiples are spread evenly over all 32-bit numbers.
_GOLDEN = 0x9E3779B9

# lowbias32, a bijection of unsigned 32-bit numbers:
#     x ^= x >> 16; x *= first; x ^= x >> 15; x *= second; x ^= x >> 16
# On int32 a shift fills in copies of the sign bit, which are masked off.
_FIRST = 0x7FEB352D
_SECOND = 0x846CA68B - 2**32


class MaskState(NamedTuple):
    """The state of dropout; only ``step`` changes from step to step.

    Attributes:
        seed: two words, int32, shape (2,); in a stack of M networks two for each, (M, 1, 2).
        step: the number of the next step, int32, shape (1,). It wraps after 2³¹ steps.
        counters: int32, shape (batch, sizes[l]), for each layer l that has dropout.
    """

    seed: Array
    step: Array
    counters: list[Array]


# ---------------------------------------------------------------------------------------------
# On the host, once


def seed_words(seed: int) -> np.ndarray:
    """Return two words, int32, shape (2,), for a nonnegative seed of any size.

    Examples:
        >>> seed_words(0)
        array([-1326155586,  -617818137], dtype=int32)
    """
    return np.random.SeedSequence(seed).generate_state(2, np.uint32).view(np.int32)


def counters(layer: int, shape: Sequence[int]) -> np.ndarray:
    """Return a different number for each position of a layer's mask: int32, of the given shape.

    The positions are numbered row by row, so the mask of a shorter mini-batch is the first rows of
    a longer one's. The numbers of different layers differ as well, as long as each layer has fewer
    than 2³² / (3 × number of layers) positions.

    Args:
        layer: l, 0 for the inputs.
        shape: (N, sizes[l]).
    """
    with np.errstate(over="ignore"):
        places = np.arange(np.prod(shape), dtype=np.uint32) + np.uint32(layer * _GOLDEN % 2**32)
    places ^= places >> 16
    places *= np.uint32(_FIRST)
    places ^= places >> 15
    places *= np.uint32(_SECOND % 2**32)
    places ^= places >> 16
    return np.reshape(places, tuple(shape)).view(np.int32)


def init_masks(
    rates: Sequence[float],
    sizes: Sequence[int],
    batch_size: int,
    seed: int,
    *,
    asarray: Callable[[np.ndarray], Array],
) -> MaskState:
    """Make the state of a run.

    Args:
        rates: the probability with which a neuron of layer l is left out, from 0 to below 1; the
            inputs' first, none for the outputs.
        sizes: neurons of each layer, the inputs first.
        batch_size: the largest number of samples in a mini-batch.
        seed: an integer of at least 0.
        asarray: moves a host array to the network's device.
    """
    return MaskState(
        asarray(seed_words(seed)),
        asarray(np.zeros(1, dtype=np.int32)),
        [
            asarray(counters(layer, (batch_size, sizes[layer])))
            for layer, rate in enumerate(rates)
            if rate
        ],
    )


# ---------------------------------------------------------------------------------------------
# In every step: pure functions of arrays

Threshold: TypeAlias = tuple[Array, Array]
"""What :func:`threshold` returns, for each network of a stack: two arrays of shape (M, 1, 1)."""


def step_key(seed: Array, step: Array) -> Array:
    """Return the key of a step, a bijection of its number: int32, with the shape of ``step``.

    key = P(step ⊕ seed₀) ⊕ seed₁, where P is lowbias32

    Args:
        seed: two words, int32, shape (2,); or (M, 1, 2), which makes keys of shape (M, 1, 1).
        step: numbers of steps, int32, shape (1,) or any other except ().

    References:
        Even and Mansour, *A construction of a cipher from a single pseudorandom permutation*,
        Journal of Cryptology 10, 1997.
    """
    key = step ^ seed[..., 0:1]
    key ^= (key >> 16) & 0xFFFF
    key *= _FIRST
    key ^= (key >> 15) & 0x1FFFF
    key *= _SECOND
    key ^= (key >> 16) & 0xFFFF
    key ^= seed[..., 1:2]
    return key


def threshold(rate: float) -> tuple[int, float]:
    """Return the smallest int32 for which a position is kept, and 1/(1 − rate).

    A share ``rate`` of all words is below it.
    """
    return min(round(rate * 2**32), 2**32 - 1) - 2**31, 1.0 / (1.0 - rate)


def keep_scale(
    counters: Array, key: Array, rate: "float | Threshold", *, xp: Namespace, dtype: Any
) -> Array:
    """Return a mask: 1/(1 − rate) with probability 1 − rate, otherwise 0.

    This is the middle part of the hash that has mixed both words before. Its first shift is not
    needed again, and its last would move the upper bits, which decide the comparison, to the lower
    ones. Since nothing here has to be a bijection, the shift may copy the sign. All operations are
    elementwise, so that a compiler can fuse them into one kernel.

    Args:
        counters: int32, shape (N, O).
        key: that of the step, int32, shape (1,), or (M, 1, 1).
        rate: from 0 to below 1; or the result of :func:`threshold` for each network's rate.
        xp: their namespace.
        dtype: the dtype of the mask.

    Returns:
        The mask, shape (N, O), or (M, N, O).
    """
    least, scale = rate if isinstance(rate, tuple) else threshold(rate)
    word = counters ^ key
    word *= _FIRST
    word ^= word >> 15
    word *= _SECOND
    mask = xp.astype(word >= least, dtype)
    mask *= scale
    return mask


def draw_masks(
    state: MaskState,
    rates: Sequence[float | Threshold],
    n: int,
    *,
    share: tuple[int, int] = (0, 1),
    xp: Namespace,
    dtype: Any,
) -> tuple[list[Array | None], MaskState]:
    """Return the masks of a step, and the state of the next one.

    Args:
        state: that of this step.
        rates: as in :func:`init_masks`; or any rate that :func:`keep_scale` accepts.
        n: N, the number of samples in the mini-batch, at most the ``batch_size`` of
            :func:`init_masks`.
        share: (r, R): the samples are the rows r, r + R, r + 2R ... of the mini-batch.
        xp: the namespace of the state.
        dtype: the dtype of the masks.

    Returns:
        For each layer from the inputs to the last hidden one, a mask of shape (N, sizes[l]), or
        None if its rate is 0.
    """
    key = step_key(state.seed, state.step)
    places = iter(state.counters)
    masks = [
        keep_scale(_of_share(next(places), n, share), key, rate, xp=xp, dtype=dtype)
        if rate
        else None
        for rate in rates
    ]
    return masks, state._replace(step=state.step + 1)


def _of_share(counters: Array, n: int, share: tuple[int, int]) -> Array:
    """Return the counters of the first n rows of a share."""
    (rank, ranks), most = share, counters.shape[0]
    if ranks == 1:
        return counters[:n, :]
    return counters[min(rank, most) : min(rank + n * ranks, most) : ranks, :]
