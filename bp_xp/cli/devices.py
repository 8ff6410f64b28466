"""``bp-xp devices``: the array libraries and devices on this machine."""

from bp_xp.backends import devices, place
from bp_xp.cli._options import debug_option
from bp_xp.cli._program import main

__all__ = ["list_devices"]


@main.command("devices")
@debug_option
def list_devices() -> None:
    """List the array libraries and their devices, or why they can't be used."""
    print(devices())
    chosen = place("auto")
    print(f"--device auto takes {chosen}: {chosen.reason}", flush=True)
