"""Sources: turn the samples that users pass into the mini-batches of a step.

``intake`` checks arrays and moves them to the device, ``samples`` makes inputs, targets and weights
from them, and ``source`` defines what a source of mini-batches is. There are three: ``memory`` for
samples on the device, ``stored`` for samples that are read from a file or a store, and ``batches``
for samples that arrive in batches; ``making`` chooses among them. Nothing outside this folder reads
all rows of anything.
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
