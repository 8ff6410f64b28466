"""The state that the members of an ensemble share: parameters in one stack, seeds, a device.

:class:`bp_xp.Ensemble` adds the operations on them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from bp_xp._trees import map_leaves
from bp_xp._typing import Layer
from bp_xp.backends import Placement, to_numpy
from bp_xp.math.initializers import restore_generator
from bp_xp.math.model import Model
from bp_xp.parameters import Parameters
from bp_xp.storage.ensemble_file import EnsembleSection
from bp_xp.training.stack import WarmStack, take_rows

__all__ = ["Members", "member_seed"]


def member_seed(seed: int, member: int) -> int:
    """Return the seed of one member of an ensemble, a whole number below 2⁵³.

    It is the first 53 bits that ``numpy.random.SeedSequence([seed, member])`` generates. The
    streams of the members are independent, and member k has the same seed in an ensemble of any
    size.

    Examples:
        >>> member_seed(0, 0) == member_seed(0, 0) != member_seed(0, 1)
        True
    """
    word = np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0]
    return int(word >> np.uint64(11))


class Members(Parameters):
    """The parameters of networks of the same shape on a device; each W has shape (members, O, I).

    Attributes:
        seeds: the seed of each member.
    """

    seeds: tuple[int, ...]
    _warm: WarmStack | None

    def _settle_members(
        self,
        model: Model,
        placement: Placement,
        dtype: Any,
        seed: int,
        *,
        seeds: Sequence[int],
        generators: Sequence[np.random.Generator],
    ) -> None:
        """Set everything but the parameters."""
        self._settle(model, placement, dtype, seed)
        self.seeds, self._generators = tuple(seeds), list(generators)
        self._leading = (len(seeds),)

    def __len__(self) -> int:
        return len(self.seeds)

    def _take(self, members: Sequence[int]) -> Self:
        """Return an ensemble of the given members."""
        if not members:
            raise ValueError("an ensemble has at least one member, and none was asked for.")
        ensemble = type(self).__new__(type(self))
        ensemble._settle_members(
            self.model,
            self._placement,
            self._dtype,
            self.seed,
            seeds=[self.seeds[m] for m in members],
            generators=[
                restore_generator(self._generators[m].bit_generator.state) for m in members
            ],
        )
        ensemble._generator = restore_generator(self._generator.bit_generator.state)
        with self._placement.active():
            ensemble._layers = take_rows(self._layers, members, self._placement)
            if self._warm is not None:
                ensemble._warm = self._warm.take(members, self._placement)
        return ensemble

    def describe(self, layers: Iterable[Layer] | None = None) -> Any:
        """Return the ensemble in the form that files store, an ``EnsembleSection`` on the host."""
        return EnsembleSection(
            **vars(super().describe(layers)),
            seeds=list(self.seeds),
            generators=[one.bit_generator.state for one in self._generators],
        )

    def _go_on_as(self, section: Any) -> None:
        """Take the seeds and the states of the generators from an :class:`EnsembleSection`."""
        self.seed, self.seeds = section.seed, tuple(section.seeds)
        self._generator.bit_generator.state = section.generator
        for generator, state in zip(self._generators, section.generators, strict=True):
            generator.bit_generator.state = state

    @classmethod
    def _made_of(
        cls, section: EnsembleSection, model: Model, placement: Placement, dtype: Any
    ) -> Self:
        """Return the ensemble that a file holds."""
        ensemble = cls.__new__(cls)
        ensemble._settle_members(
            model,
            placement,
            dtype,
            section.seed,
            seeds=section.seeds,
            generators=[restore_generator(state) for state in section.generators],
        )
        ensemble._generator = restore_generator(section.generator)
        ensemble.layers = map_leaves(to_numpy, section.layers)
        return ensemble
