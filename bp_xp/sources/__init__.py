"""Sources: from what people pass to the mini-batches of a step.

``intake`` checks arrays and moves them to the device, ``samples`` makes inputs, targets and weights
of them, ``source`` says what a source of mini-batches is. There are three: ``memory``, whose
samples lie on the device, ``stored``, whose samples are read from a file or a store, and
``batches``, whose samples come as they are made; ``making`` tells which it is. Nothing outside this
room reads all rows of anything.
"""

from bp_xp.sources.making import Stream, make_source, validation_source
from bp_xp.sources.memory import MemorySource
from bp_xp.sources.samples import Samples
from bp_xp.sources.source import Epoch, Source

__all__ = [
    "Epoch",
    "MemorySource",
    "Samples",
    "Source",
    "Stream",
    "make_source",
    "validation_source",
]
