"""Parameters on a device: the state of a network, without its operations."""

import itertools
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._trees import map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.architecture import check_own_functions, own_functions
from bp_xp.backends import Placement, dtype_name, library_of, to_numpy
from bp_xp.engines import Report
from bp_xp.math.initializers import make_generator, restore_generator
from bp_xp.math.model import Model
from bp_xp.sources import intake
from bp_xp.storage.network_file import NetworkSection
from bp_xp.training.looks import Position

__all__ = ["Parameters"]


class Parameters:
    """The parameters of a network on a device; :class:`bp_xp.Network` adds the operations on them.

    Attributes:
        seed: the seed of weights and data order.
        model: what the network computes, without its parameters.
    """

    seed: int
    model: Model
    _layers: list[Layer]
    _leading: tuple[int, ...] = ()  # in front of each parameter's shape: an ensemble's members

    def _settle(self, model: Model, placement: Placement, dtype: Any, seed: int | None) -> None:
        """Set everything but the parameters."""
        self.model = model
        self.seed = checks.check_seed(seed)
        self._generator = make_generator(self.seed)
        self._placement = placement
        self._dtype = dtype_name(dtype)
        self._warm: Any = None  # WarmStart, or an ensemble's WarmStack
        self._report: Report | None = None
        placement.dtype(self._dtype)
        with placement.active():
            check_own_functions(model, placement, self._dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: host arrays, which can be read without the array library.

        The library is imported when the network is restored; if it is missing, the error names it.
        """
        warm = self._warm
        if warm is not None:
            warm = warm._replace(position=_with_arrays(_brought_home, warm.position))
        layers = map_leaves(to_numpy, self._layers)
        return vars(self) | {"_layers": layers, "_warm": warm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the content of a pickle."""
        vars(self).update(state)

        def placed(leaf: Any) -> Any:
            return self._placement.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

        with self._placement.active():
            self._layers = map_leaves(placed, self._layers)
            if self._warm is not None:
                position = _with_arrays(placed, self._warm.position)
                self._warm = self._warm._replace(position=position)

    def _go_on_as(self, section: NetworkSection) -> None:
        """Take the seed and the state of the generator from a file or another process."""
        self.seed = section.seed
        self._generator = restore_generator(section.generator)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Neurons of each layer, inputs first."""
        return self.model.sizes

    @property
    def backend(self) -> str:
        """The name of the array library."""
        return self._placement.backend

    @property
    def device(self) -> str:
        """The name of the device, in the form that ``device=`` accepts."""
        return self._placement.device_name

    @property
    def placement(self) -> Placement:
        """The library and the device; ``placement.active()`` makes the device the current one."""
        return self._placement

    @property
    def device_reason(self) -> str:
        """Why ``device="auto"`` chose this device; empty if the device was requested by name."""
        return self._placement.reason

    @property
    def dtype(self) -> str:
        """The name of the dtype of parameters and results."""
        return self._dtype

    @property
    def xp(self) -> Namespace:
        """The functions of the array library."""
        return self._placement.xp

    @property
    def engine(self) -> str:
        """The name of the engine that takes training steps, as ``engine=`` accepts it."""
        return self._placement.engine.name

    @property
    def classifies(self) -> bool:
        """Whether the outputs are probabilities, so that :meth:`predict` gives classes."""
        return self.model.classifies

    @property
    def n_parameters(self) -> int:
        """The number of weights and biases."""
        return sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The parameters, a Layer(W, b) for each layer; to change any of them, assign all.

        Training makes new arrays, so arrays that were read before keep their values.
        """
        return tuple(self._layers)

    @layers.setter
    def layers(self, layers: Iterable[tuple[Any, Any]]) -> None:
        pairs = list(layers)
        if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
            raise TypeError(
                f"layers must be pairs (W, b), one for each layer, not {reprlib.repr(pairs)}."
            )
        if len(pairs) != len(self.sizes) - 1:
            raise ValueError(f"expected {len(self.sizes) - 1} layers, not {len(pairs)}.")
        with self._placement.active():
            self._layers = [self._check_layer(Layer(*pair), l) for l, pair in enumerate(pairs)]  # noqa: E741

    def _layers_for(self, x: Any) -> list[Layer]:
        """Return the parameters, stored from now on in the memory order that suits products with x.

        If the inputs are not known in advance (x is None), the order does not change.
        """
        if x is None:
            return self._layers
        # Keep the same list object: a new one would look like parameters assigned by a callback.
        self._layers[:] = self._placement.library.laid_out(self._layers, x)
        return self._layers

    def _check_layer(self, layer: Layer, l: int) -> Layer:  # noqa: E741
        """Return a layer's parameters on the device, copied and checked."""
        checked = Layer(
            *(
                intake.check_parameter(
                    values,
                    f"layers[{l}].{name}",
                    placement=self._placement,
                    dtype=self._dtype,
                    ndim=len(self._leading) + ndim,
                )
                for name, values, ndim in (("W", layer.W, 2), ("b", layer.b, 1))
            )
        )
        n_in, n_out = self.sizes[l : l + 2]
        wanted = (*self._leading, n_out, n_in), (*self._leading, n_out)
        came = tuple(checked.W.shape), tuple(checked.b.shape)
        if came != wanted:
            raise ValueError(
                f"layers[{l}] must have W of shape {wanted[0]} and b of shape {wanted[1]}, "
                f"not {came[0]} and {came[1]}."
            )
        return checked

    def __repr__(self) -> str:
        activations = [activation.name for activation in self.model.activations]
        return (
            f"Network({list(self.sizes)}, activations={activations}, "
            f"cost={self.model.cost.name!r}, {self._placement}, {self._dtype}, "
            f"{self.n_parameters:,} parameters)"
        )

    def summary(self) -> str:
        """Return a table of the layers: shapes, activations, parameters and their bytes.

        Examples:
            >>> from bp_xp import Network
            >>> print(Network([2, 3, 1], seed=0).summary())
            layer  inputs  outputs  activation  parameters  bytes
                1       2        3  sigmoid              9     36
                2       3        1  sigmoid              4     16
            total                                       13     52
        """
        size = int(self._dtype.removeprefix("float")) // 8
        rows = [("layer", "inputs", "outputs", "activation", "parameters", "bytes")]
        for l, (n_in, n_out) in enumerate(itertools.pairwise(self.sizes)):  # noqa: E741
            n, name = n_out * (n_in + 1), self.model.activations[l].name
            rows.append((str(l + 1), f"{n_in:,}", f"{n_out:,}", name, f"{n:,}", f"{n * size:,}"))
        total = self.n_parameters
        rows.append(("total", "", "", "", f"{total:,}", f"{total * size:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
            cells[3] = f"{row[3]:{widths[3]}}"
            lines.append("  ".join(cells))
        return "\n".join(lines)

    def explain(self) -> Report:
        """Return a report of how training steps are taken: which engine, and why not a faster one.

        After ``fit``, the report says how many steps were taken in which way, and why. It prints
        as a few lines; its ``program`` is the source text that the engine generated.

        Examples:
            >>> from bp_xp import Network
            >>> print(Network([2, 1], seed=0, engine="plain").explain())
            engine plain: one step after the other (asked for by engine='plain')
        """
        return self._report or self._placement.new_report()

    def asarray(self, values: Any) -> Array:
        """Return host values as an array on the network's device, in its dtype.

        Every method accepts host values; this method moves them once for several calls. On a CPU
        the two arrays may share memory: a change to one is then a change to the other.

        Raises:
            ValueError: a value is not finite, or is complex.
            TypeError: the values are an array of another library, or are not numbers.
        """
        with self._placement.active():
            return intake.check_array(
                values, "values", placement=self._placement, dtype=self._dtype
            )

    def describe(self, layers: Iterable[Layer] | None = None) -> NetworkSection:
        """Return the network in the form that files store: names, numbers, host parameters.

        Args:
            layers: parameters of the same shapes, to use instead of the network's own.
        """
        with self._placement.active():
            own = own_functions(self.model, self._placement, self._dtype)
        return NetworkSection(
            sizes=list(self.sizes),
            activations=[activation.name for activation in self.model.activations],
            cost=self.model.cost.name,
            dtype=self._dtype,
            seed=self.seed,
            generator=self._generator.bit_generator.state,
            own=own,
            layers=map_leaves(to_numpy, self._layers if layers is None else list(layers)),
        )


def _with_arrays(function: Callable[[Any], Any], position: Position) -> Position:
    """Return the position of a run with a function applied to its arrays."""
    state, totals = (map_leaves(function, part) for part in (position.state, position.totals))
    return position._replace(state=state, totals=totals)


def _brought_home(leaf: Any) -> Any:
    """Return an array on the host; anything that is not an array is returned unchanged."""
    return leaf if library_of(leaf) is None else to_numpy(leaf)
