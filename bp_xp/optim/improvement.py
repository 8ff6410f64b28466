"""Whether a monitored value improves, for schedules and early stopping."""

import math
import re
from collections.abc import Iterable, Iterator

from bp_xp.checks import did_you_mean

__all__ = ["improvements", "improves_upwards"]

_UPWARDS = {"accuracy", "auc", "f1", "precision", "r2", "recall", "score", "top"}
_DOWNWARDS = {"cost", "error", "loss", "mae", "mse", "rmse"}
_ALWAYS = ("cost", "accuracy", "validation_cost", "validation_accuracy")


def improves_upwards(name: str) -> bool:
    """Return whether higher values of a metric are better, according to the words in its name.

    Args:
        name: such as ``"validation_accuracy"``, ``"top_5"`` or ``"mean_absolute_error"``.

    Raises:
        ValueError: the name does not show the direction.
        TypeError: the name is not a string.

    Examples:
        >>> improves_upwards("validation_accuracy"), improves_upwards("cost")
        (True, False)
    """
    if not isinstance(name, str):
        raise TypeError(f"a value is monitored by its name, such as 'cost', not by {name!r}.")
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    up, down = bool(words & _UPWARDS), bool(words & _DOWNWARDS)
    if up == down:
        raise ValueError(
            f"the name {name!r} does not show whether higher is better: it should have one of the "
            f"words {', '.join(sorted(_UPWARDS))} (higher is better) or "
            f"{', '.join(sorted(_DOWNWARDS))} (lower is).{did_you_mean(name, _ALWAYS)}"
        )
    return up


def improvements(values: Iterable[float], upwards: bool, min_delta: float = 0.0) -> Iterator[bool]:
    """Yield for each value whether it is better than the best one before it.

    Args:
        values: one for each epoch; NaN is never better.
        upwards: whether higher is better.
        min_delta: how much better a value must be to count.

    Examples:
        >>> list(improvements([0.8, 0.9, 0.85, 0.9], upwards=True))
        [True, True, False, False]
    """
    sign, best = 1.0 if upwards else -1.0, -math.inf
    for value in values:
        improved = sign * value > best + min_delta
        best = sign * value if improved else best
        yield improved
