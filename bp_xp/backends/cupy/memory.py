"""Recognize CuPy's errors of too little GPU memory, which differ by the library below it."""

__all__ = ["ran_out_of_memory"]

# The names of the driver, of the runtime, and of cuBLAS and its like, which CuPy puts first in the
# message of a RuntimeError. Its own pool has a MemoryError.
_NAMES = ("_OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "_STATUS_ALLOC_FAILED")


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means too little memory.

    Examples:
        >>> ran_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))
        True
        >>> ran_out_of_memory(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"))
        False
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _NAMES)
