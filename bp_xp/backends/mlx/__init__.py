"""MLX: the CPU, and the GPUs of Apple and others."""

__all__: list[str] = []
