"""Optional libraries: imported when needed; if one is missing, the error names its extra."""

import importlib
from types import ModuleType

__all__ = ["require"]

# Packages whose name differs from that of the module to import.
_WHEELS = {
    "cupy": "cupy-cuda13x[ctk]",
    "array_api_strict": "array-api-strict",
    "mlx": "mlx[cpu]",
    "sklearn": "scikit-learn",
}


def require(module: str, extra: str | None) -> ModuleType:
    """Import an optional library.

    Args:
        module: its import name.
        extra: the extra of bp_xp that installs it, or None if there is none.

    Raises:
        ImportError: it is not installed; the message names what installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        wheel = _WHEELS.get(module, module)
        hint = f", or as the extra bp_xp[{extra}]" if extra else ""
        raise ImportError(
            f'{module} is not installed: install it with python -m pip install "{wheel}"{hint}.'
        ) from error
