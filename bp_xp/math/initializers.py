"""Initial weights and biases, drawn on the host.

The array API standard has no random numbers. All libraries start from the same weights because
NumPy draws them, in float64, from the network's only generator; they are rounded to the network's
dtype when they move to its device.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bp_xp._typing import Layer

__all__ = [
    "INITIALIZERS",
    "Initializer",
    "make_generator",
    "restore_generator",
    "suited_initializer",
]


class Initializer(Protocol):
    """Draws the parameters of a layer; any function with this signature can be used."""

    def __call__(self, generator: np.random.Generator, n_out: int, n_in: int) -> Layer:
        """Return W of shape (n_out, n_in) and b of shape (n_out,), in float64 on the host."""
        ...


@dataclass(frozen=True)
class _Normal:
    """Normal weights with standard deviation √(gain / fan), normal or zero biases."""

    gain: float
    fan: str  # "in", "mean" of in and out, or "none"
    biases: float = 0.0

    def __call__(self, generator: np.random.Generator, n_out: int, n_in: int) -> Layer:
        scale = _scale(self.gain, self.fan, n_out, n_in)
        W = generator.standard_normal((n_out, n_in)) * scale
        b = generator.standard_normal(n_out) * self.biases if self.biases else np.zeros(n_out)
        return Layer(W, b)


@dataclass(frozen=True)
class _Uniform:
    """Uniform weights with standard deviation √(gain / fan), zero biases."""

    gain: float
    fan: str

    def __call__(self, generator: np.random.Generator, n_out: int, n_in: int) -> Layer:
        # A uniform variable on ±h has standard deviation h/√3.
        half_width = math.sqrt(3.0) * _scale(self.gain, self.fan, n_out, n_in)
        return Layer(generator.uniform(-half_width, half_width, (n_out, n_in)), np.zeros(n_out))


def _scale(gain: float, fan: str, n_out: int, n_in: int) -> float:
    fans = {"in": n_in, "mean": (n_in + n_out) / 2, "none": 1.0}
    return math.sqrt(gain / fans[fan])


def _zeros(generator: np.random.Generator, n_out: int, n_in: int) -> Layer:
    """Return zeros; in a hidden layer, all neurons would then learn the same."""
    del generator
    return Layer(np.zeros((n_out, n_in)), np.zeros(n_out))


INITIALIZERS: dict[str, Initializer] = {
    "normal": _Normal(1.0, "none", biases=1.0),
    "scaled_normal": _Normal(1.0, "in", biases=1.0),
    "he_normal": _Normal(2.0, "in"),
    "he_uniform": _Uniform(2.0, "in"),
    "glorot_normal": _Normal(1.0, "mean"),
    "glorot_uniform": _Uniform(1.0, "mean"),
    "lecun_normal": _Normal(1.0, "in"),
    "lecun_uniform": _Uniform(1.0, "in"),
    "zeros": _zeros,
}
"""The built-in initializers, by name.

``normal`` is the book's first choice, N(0, 1) for weights and biases (Nielsen, ch. 1);
``scaled_normal`` is its better one, with weights N(0, 1)/√n_in (ch. 3). He: He et al., 2015, ICCV,
variance 2/n_in, for the ReLU family. Glorot: Glorot and Bengio, 2010, AISTATS, variance
2/(n_in + n_out). LeCun: LeCun et al., 1998, *Efficient BackProp*, variance 1/n_in.

In PyTorch: He is ``kaiming_normal_`` and ``kaiming_uniform_`` with ``nonlinearity="relu"``, Glorot
is ``xavier_normal_`` and ``xavier_uniform_``, LeCun is He's with ``nonlinearity="linear"``. None of
them is the default of ``torch.nn.Linear``, uniform on ±1/√n_in for weights and biases. Keras draws
the normal ones from a truncated normal distribution with the same variance.
"""


def suited_initializer(activation: str) -> str:
    """Return the name of the initializer that suits the layer's activation.

    It is He for the functions that pass half of their inputs, and the book's scaled normal for the
    others.
    """
    rectifiers = ("relu", "leaky_relu", "elu", "silu", "gelu", "gelu_exact", "softplus")
    return "he_normal" if activation in rectifiers else "scaled_normal"


def make_generator(seed: int) -> np.random.Generator:
    """Return the host's generator, from which weights and data order are drawn."""
    return np.random.default_rng(seed)


def restore_generator(state: Any) -> np.random.Generator:
    """Return a generator that continues from the ``bit_generator.state`` of another one.

    Raises:
        ValueError: the value is not such a state.
    """
    generator = make_generator(0)
    try:
        generator.bit_generator.state = state
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"the state of its generator is damaged ({error})") from error
    return generator
