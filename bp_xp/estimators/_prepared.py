"""Fits that a search needs and makes beforehand, many as one stack.

A search fits one estimator after the other. Here it first goes through all fits without training
(:func:`record_fits`), and so records what each network inside a pipeline would learn. It then
trains them together, and the fits use the results (:func:`using`).
"""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import joblib
import numpy as np

from bp_xp.estimators._run import warn_of_no_convergence

__all__ = ["Fit", "Fits", "Fitted", "is_prepared", "record_fits", "take_prepared", "using"]


class Fit(NamedTuple):
    """A fit that is needed.

    Attributes:
        estimator: a copy of the estimator, not fitted.
        samples: the number of its samples in :attr:`Fits.samples`.
        weights: how much each of them counts, shape (N,), or None.
    """

    estimator: Any
    samples: str
    weights: Any = None


class Fits:
    """Fits that are needed.

    Attributes:
        asked: the fits.
        samples: the different samples that they learn, as (X, y).
    """

    def __init__(self) -> None:
        self.asked: list[Fit] = []
        self.samples: dict[str, tuple[Any, Any]] = {}
        self._last: tuple[Any, Any, str] = (None, None, "")

    def ask(self, estimator: Any, X: Any, y: Any, weights: Any) -> None:
        """Add a fit."""
        last_X, last_y, samples = self._last
        if X is not last_X or y is not last_y:
            samples = _digest(X, y)
            self._last = (X, y, samples)
        self.asked.append(Fit(estimator, samples, weights))
        self.samples.setdefault(samples, (X, y))


class Fitted(NamedTuple):
    """A fit that was made.

    Attributes:
        estimator: the estimator, fitted.
        converged: whether it ended before all its epochs were taken.
    """

    estimator: Any
    converged: bool


_asked: ContextVar[Fits | None] = ContextVar("fits to be made", default=None)
_made: ContextVar[dict[str, list[Fitted]] | None] = ContextVar("fits made", default=None)


@contextlib.contextmanager
def record_fits() -> Iterator[Fits]:
    """Record the fits of this context, without training; yield them.

    There are no warnings: the fits give them when they are made.
    """
    fits = Fits()
    token = _asked.set(fits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield fits
    finally:
        _asked.reset(token)


@contextlib.contextmanager
def using(fits: Sequence[Fit], fitted: Sequence[Fitted | None]) -> Iterator[None]:
    """Use fits that were made before for the fits of this context; None was not made."""
    found: dict[str, list[Fitted]] = {}
    for fit, made in zip(fits, fitted, strict=True):
        if made is not None:
            found.setdefault(_key_of(*fit), []).append(made)
    token = _made.set(found)
    try:
        yield
    finally:
        _made.reset(token)


def is_prepared() -> bool:
    """Return whether fits of this context are recorded, or were made before."""
    return _asked.get() is not None or _made.get() is not None


def take_prepared(estimator: Any, X: Any, y: Any, weights: Any = None) -> bool:
    """Return whether a fit needs no training: it was made before, or it is only recorded."""
    fits, found = _asked.get(), _made.get()
    if fits is not None:
        fits.ask(estimator, X, y, weights)
        return True
    made = found.get(_key_of(estimator, _digest(X, y), weights)) if found else None
    if not made:
        return False
    fitted = made.pop(0)
    parameters = estimator.get_params(deep=False)
    for name, value in vars(fitted.estimator).items():
        if name not in parameters:
            setattr(estimator, name, value)
    if not fitted.converged:
        warn_of_no_convergence(estimator, stacklevel=6)
    return True


def _key_of(estimator: Any, samples: str, weights: Any) -> str:
    asked = str(joblib.hash((type(estimator), estimator.get_params(deep=False))))
    return asked + samples + ("" if weights is None else _digest_of(weights))


def _digest(X: Any, y: Any) -> str:
    """Return a key that distinguishes samples from others."""
    return "".join(map(_digest_of, (X, y)))


def _digest_of(array: Any) -> str:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        return str(joblib.hash(array))
    # It takes a tenth of the time of joblib's hash.
    digest = hashlib.sha1(f"{array.shape} {array.dtype}".encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
