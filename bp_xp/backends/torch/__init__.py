"""PyTorch: its CPU, CUDA, ROCm and Apple devices."""

__all__: list[str] = []
