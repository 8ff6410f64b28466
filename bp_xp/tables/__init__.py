"""Tables: from a file or a data frame to the numbers that a network takes.

:func:`read_table` reads a file.
"""

from bp_xp.tables.reader import MISSING_WORDS, read_table

__all__ = ["MISSING_WORDS", "read_table"]
