"""Training steps to run on engines: a model, every optimizer, states and mini-batches."""

import numpy as np
from helpers import random_layers, to_device, widest

from bp_xp import ACTIVATIONS, COSTS, SGD, Adagrad, Adam, AdamW, Layer, NAdam, RMSprop
from bp_xp._trees import leaves_of, map_leaves
from bp_xp.backends import place
from bp_xp.math import dropout
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.training.step import Rule, State, make_step

HERE = place("cpu")
SIZES, BATCH = (4, 5, 3), 6
MODEL = Model(SIZES, (ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]), COSTS["quadratic"])
TERMS = Regularization(
    l1=0.1, l2=0.1, dropout=(0.1, 0.5), clip_norm=1.0, clip_value=1.0, max_norm=1.0
)
RULES = {
    "plain": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "adagrad": Adagrad(0.1),
    "adagrad-decay": Adagrad(0.1, learning_rate_decay=0.05, initial_accumulator=0.3, epsilon=1e-6),
    "rmsprop": RMSprop(0.1),
    "rmsprop-momentum": RMSprop(0.1, alpha=0.9, momentum=0.8, epsilon=1e-5),
    "rmsprop-centered": RMSprop(0.1, centered=True),
    "rmsprop-centered-momentum": RMSprop(0.1, momentum=0.8, centered=True),
    "adam": Adam(0.1),
    "adam-numbers": Adam(0.1, beta1=0.7, beta2=0.95, epsilon=1e-3),
    "amsgrad": Adam(0.1, beta2=0.7, amsgrad=True),
    "adamw": AdamW(0.1, weight_decay=0.2),
    "adamw-weights": AdamW(0.1, weight_decay=0.2, decay_biases=False),
    "nadam": NAdam(0.1),
    "nadam-numbers": NAdam(0.1, beta1=0.7, beta2=0.95, epsilon=1e-3, momentum_decay=0.5),
    "adamw-amsgrad": AdamW(0.1, beta2=0.7, amsgrad=True, weight_decay=0.2),
}
DESCENTS = {
    "plain": SGD(0.5),
    "momentum": SGD(0.1, momentum=0.9),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
}


class Own:
    """An optimizer of a user's, from a function of (parameter, gradient, memory, xp)."""

    def __init__(self, rule):
        self.rule = rule

    def init(self, layers, *, placement, dtype):
        return [Layer(1.0 * W, 1.0 * b) for W, b in layers]

    def update(self, layers, gradients, state, *, xp):
        moved, memory = [], []
        for layer, gradient, old in zip(layers, gradients, state, strict=True):
            pairs = [self.rule(*three, xp) for three in zip(layer, gradient, old, strict=True)]
            moved.append(Layer(*(pair[0] for pair in pairs)))
            memory.append(Layer(*(pair[1] for pair in pairs)))
        return moved, memory


def begin(
    model,
    optimizer,
    terms=None,
    dtype=None,
    *,
    where=HERE,
    steps=12,
    batch=BATCH,
    weighted=False,
    scheduled=False,
):
    """Return a step, its state and mini-batches for some steps, the same on every library."""
    dtype = dtype or widest(where)
    terms = terms or Regularization()
    rng = np.random.default_rng(5)
    layers = to_device(random_layers(model.sizes, rng), where, dtype)
    masks = ()
    if terms.dropout:
        masks = dropout.init_masks(terms.dropout, model.sizes, batch, 0, asarray=where.asarray)
    state = State(layers, optimizer.init(layers, placement=where, dtype=dtype), masks)
    batches = [
        rng.normal(size=(steps, batch, model.sizes[0])),
        rng.dirichlet(np.ones(model.sizes[-1]), size=(steps, batch)),
    ]
    batches += [rng.random((steps, batch))] if weighted else []
    batches += [np.linspace(0.1, 0.0, steps)] if scheduled else []
    given = ("learning_rate",) if scheduled else ()
    step = make_step(Rule(model, optimizer.update, terms, weighted=weighted, given=given))
    return step, state, [where.asarray(part, dtype) for part in batches]


def copied(tree):
    """Return a nesting of NumPy arrays with copies of them."""
    return map_leaves(np.copy, tree)


def pairs_of(*trees):
    """Return corresponding arrays of nestings that have the same form."""
    return list(zip(*map(leaves_of, trees), strict=True))
