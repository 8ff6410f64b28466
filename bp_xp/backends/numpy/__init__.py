"""NumPy: the CPU of this machine."""

__all__: list[str] = []
