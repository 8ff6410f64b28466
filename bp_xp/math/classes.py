"""Classes from outputs: probabilities and labels.

A single column is the probability of class 1, which is predicted if it is above ½; it makes two
classes.
"""

from bp_xp._typing import Array, Namespace

__all__ = ["labels", "probabilities"]


def probabilities(a: Array, *, xp: Namespace) -> Array:
    """Return the probability of each class, shape (N, K), for outputs of shape (N, O)."""
    return a if a.shape[-1] > 1 else xp.concat([1.0 - a, a], axis=-1)


def labels(a: Array, *, xp: Namespace) -> Array:
    """Return the predicted class of each sample, shape (N,): the first of equal outputs."""
    label = xp.argmax(a, axis=-1)
    return label if a.shape[-1] > 1 else xp.astype(a[..., 0] > 0.5, label.dtype)
