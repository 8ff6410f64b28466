"""The program ``bp-xp``: train, evaluate, use and look into networks from the shell.

Each command is a module of its own. Results go to stdout; notes, progress, warnings and errors go
to stderr. An error of the library is one line and exit status 1, a command line that can't be read
is exit status 2, and a training run that Ctrl-C or SIGTERM ends leaves its network behind with exit
status 130 or 143.
"""

# A command is known to the program once its module is imported.
from bp_xp.cli import devices, evaluate, inspect, parity, plot, predict, sweep, train  # noqa: F401
from bp_xp.cli._program import main
from bp_xp.cli.export import export_npz

__all__ = ["export_npz", "main"]
