"""Tables: from a file or a data frame to the numbers that a network takes.

:class:`Preparation` turns columns into numbers. :func:`read_table` reads a file.

Files, and data frames, need the extra ``bp_xp[table]``; mappings and arrays do not.
"""

from bp_xp.tables.preparation import Preparation
from bp_xp.tables.reader import MISSING_WORDS, read_table

__all__ = ["MISSING_WORDS", "Preparation", "read_table"]
