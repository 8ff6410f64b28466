"""The training step: a pure function of arrays, and the rule that defines it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bp_xp._trees import forms_of, map_leaves
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.engines import Step
from bp_xp.math import dropout
from bp_xp.math.backprop import backpropagate
from bp_xp.math.freshness import returns_fresh
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization
from bp_xp.optim import Update
from bp_xp.training.reduction import Total, reduce_gradients

__all__ = ["Rule", "State", "make_step"]


class State(NamedTuple):
    """The state of a step, which changes from step to step.

    Attributes:
        layers: the parameters.
        optimizer: the optimizer's state.
        masks: dropout's state; empty without dropout.
        terms: in a stack of networks, the strengths and limits of ``rule.own_terms``, each an array
            with one for each network; otherwise empty.
    """

    layers: list[Layer]
    optimizer: Any
    masks: Any
    terms: Any = ()

    def of_rows(self, cut: Callable[[Array], Array]) -> "State":
        """Return the state of some networks of a stack; all share one counter of masks.

        Args:
            cut: takes their rows of an array; all share arrays without axes.
        """
        masks = self.masks and self.masks._replace(seed=cut(self.masks.seed))
        layers, optimizer, terms = map_leaves(cut, (self.layers, self.optimizer, self.terms))
        return State(layers, optimizer, masks, terms)


@dataclass(frozen=True)
class Rule:
    """Everything that defines a step, except arrays. Equal rules are compiled once.

    Attributes:
        model: what the network computes.
        update: the optimizer's step.
        regularization: penalties, dropout and limits.
        trainable: whether each layer learns; empty if all do.
        weighted: whether a mini-batch includes sample weights.
        given: the fields of the optimizer's state that come with a mini-batch; a schedule's
            learning rate is the last.
        total: sums the results of all processes; None on a single process.
        share: (rank, ranks): this process's rows of each mini-batch, for dropout.
        own_terms: the fields of the regularization that the state holds, since they differ between
            the networks of a stack.
    """

    model: Model
    update: Update
    regularization: Regularization
    trainable: tuple[bool, ...] = ()
    weighted: bool = False
    given: tuple[str, ...] = ()
    total: Total | None = None
    share: tuple[int, int] = (0, 1)
    own_terms: tuple[str, ...] = ()


def make_step(rule: Rule) -> Step:
    """Return the training step: (state, x, y, *extras, xp=xp) -> (state, zᴸ).

    Equal rules return the same step, so that an engine can reuse what it made for it.

    The extras are the sample weights, if any, and the fields in ``rule.given``. A layer that is not
    trainable keeps its bits: the optimizer and the regularization do not see it.
    """
    try:
        return _step_of(rule)
    except TypeError:  # a custom object without a hash
        return _step_of.__wrapped__(rule)


@functools.lru_cache(maxsize=64)
def _step_of(rule: Rule) -> Step:
    trainable = rule.trainable or (True,) * len(rule.model.activations)
    common_terms = rule.regularization.of_layers(trainable)
    fresh = returns_fresh(rule.update)

    def step(
        state: State, x: Array, y: Array, *extras: Array, xp: Namespace
    ) -> tuple[State, Array]:
        layers, optimizer, mask_state, own_terms = state
        terms = common_terms
        if rule.own_terms:
            own = dict(zip(rule.own_terms, own_terms, strict=True))
            terms = replace(rule.regularization, **own).of_layers(trainable)
        weights, values = (extras[0], extras[1:]) if rule.weighted else (None, extras)
        if rule.given:
            optimizer = _with_given(optimizer, dict(zip(rule.given, values, strict=True)))
        masks = None
        if rates := terms.dropout_rates:
            masks, mask_state = dropout.draw_masks(
                mask_state, rates, x.shape[-2], share=rule.share, xp=xp, dtype=x.dtype
            )
        gradients, z = backpropagate(
            rule.model,
            layers,
            x,
            y,
            weights=weights,
            masks=masks,
            trainable=trainable,
            of_sum=rule.total is not None,
            xp=xp,
        )
        if rule.total is not None:
            ones = xp.ones_like(y[..., 0]) if weights is None else weights
            weight = xp.sum(ones, axis=-1, keepdims=True)
            gradients = reduce_gradients(gradients, weight, rule.total, xp=xp)
        learning = [layer for layer, learns in zip(layers, trainable, strict=True) if learns]
        gradients = terms.shape_gradients(gradients, learning, xp=xp)
        before = forms_of([learning, optimizer])
        learning, optimizer = rule.update(learning, gradients, optimizer, xp=xp)
        _check_form(rule.update, before, [learning, optimizer], n_parameters=2 * len(learning))
        if not fresh:
            learning, optimizer = _each_its_own((learning, optimizer), xp=xp)
        learned = iter(terms.bound_parameters(learning, fresh=fresh, xp=xp))
        layers = [
            next(learned) if learns else layer
            for layer, learns in zip(layers, trainable, strict=True)
        ]
        if rule.given:
            own = {name: getattr(state.optimizer, name) for name in rule.given}
            optimizer = optimizer._replace(**own)
        return State(layers, optimizer, mask_state, own_terms), z

    return step


def _with_given(optimizer: Any, values: dict[str, Array]) -> Any:
    """Return an optimizer's state with the fields that come with a mini-batch."""
    for name, value in values.items():
        if isinstance(own := getattr(optimizer, name), list):  # one for each layer
            values[name] = [value[l, ...] for l in range(len(own))]  # noqa: E741
    return optimizer._replace(**values)


def _each_its_own(tree: Any, *, xp: Namespace) -> Any:
    """Return a nesting of arrays in which none occurs twice: repeated ones are copied.

    A custom optimizer may keep parameters in its state without a copy. The next step overwrites
    them.
    """
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        if not hasattr(leaf, "dtype") or id(leaf) not in seen:
            seen.add(id(leaf))
            return leaf
        # An operation that every engine can record.
        return xp.logical_or(leaf, leaf) if xp.isdtype(leaf.dtype, "bool") else leaf * 1

    return map_leaves(own, tree)


def _check_form(
    update: Update, before: Sequence[tuple[Any, Any]], after: Any, *, n_parameters: int
) -> None:
    """Refuse parameters or a state with other shapes or dtypes, from a custom optimizer."""
    name, found = getattr(update, "__qualname__", update), forms_of(after)
    if len(found) != len(before):
        raise ValueError(f"{name} returns {len(found)} arrays, but it was given {len(before)}.")
    for i, ((shape, dtype), form) in enumerate(zip(found, before, strict=True)):
        if (shape, dtype) != form:
            what = "a parameter" if i < n_parameters else "an array of its state"
            hint = " Beware of numpy.float64 numbers: they make arrays float64."
            raise ValueError(
                f"{name} returns {what} of shape {shape} and dtype {dtype}, but it was given "
                f"{form[0]} and {form[1]}.{hint if dtype != form[1] else ''}"
            )
