"""Optimizers and schedules: how gradients move parameters, and how fast."""

from bp_xp.optim.adaptive import Adagrad, Adam, AdamW, RMSprop
from bp_xp.optim.descent import SGD
from bp_xp.optim.nadam import NAdam
from bp_xp.optim.optimizer import Optimizer, Update

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "NAdam",
    "Optimizer",
    "RMSprop",
    "Update",
]

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(0.1),
    "adagrad": Adagrad(),
    "rmsprop": RMSprop(),
    "adam": Adam(),
    "adamw": AdamW(),
    "nadam": NAdam(),
}
"""The built-in optimizers, by name, each with its defaults."""
