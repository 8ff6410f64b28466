"""JAX: its CPU, GPU and TPU devices."""

__all__: list[str] = []
