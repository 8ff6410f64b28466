"""``python -m bp_xp``: the same program as ``bp-xp``."""

from bp_xp.cli import main

if __name__ == "__main__":
    main(prog_name="bp-xp")
