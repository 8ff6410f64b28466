"""CuPy: CUDA GPUs."""

__all__: list[str] = []
