"""The program ``bp-xp``: train, evaluate, use and inspect networks from the shell.

Each command has its own module. Results go to stdout; notes, progress, warnings and errors go to
stderr. A library error prints one line and exits with status 1. A command line that can't be parsed
exits with status 2. A training run that Ctrl-C or SIGTERM ends still writes its network, and exits
with status 130 or 143.
"""

# Importing a module registers its command.
from bp_xp.cli import devices, evaluate, inspect, parity, plot, predict, sweep, train  # noqa: F401
from bp_xp.cli._program import main
from bp_xp.cli.export import export_npz

__all__ = ["export_npz", "main"]
