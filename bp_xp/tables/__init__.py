"""Tables: from a file or a data frame to a model, and back to its classes and units.

Most users need :class:`TableModel`. It combines a :class:`Preparation`, which turns columns into
numbers, and a network, which it trains by a :class:`Recipe`. :func:`read_table` reads a file.

Data frames need the extra ``bp_xp[table]``; files, mappings and arrays do not.
"""

from bp_xp.datasets.reader import MISSING_WORDS, read_table
from bp_xp.tables.model import TableModel
from bp_xp.tables.preparation import Preparation
from bp_xp.tables.recipe import Recipe
from bp_xp.tables.sweep import sweep_table

__all__ = ["MISSING_WORDS", "Preparation", "Recipe", "TableModel", "read_table", "sweep_table"]
