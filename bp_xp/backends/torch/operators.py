"""A PyTorch step as a list of ATen operators: recorded, and combined.

Every PyTorch function ends in ATen operators, and a dispatch mode intercepts them. Sequences that
are equivalent to one PyTorch operation are combined:

- A product and the sum that includes it are one ``addmm``: A Wᵀ + b, and also W − η Δᵀ A (the
  descent in bp_xp/optim/optimizer.py), where η scales the smaller factor Δ and the gradient itself
  is never computed.
- 1 / (1 + exp(−max(z, limit))), the sigmoid in the standard's functions, is PyTorch's own sigmoid.
  Its form is that of bp_xp/math/activations.py, and a test checks that it still matches.
- A comparison writes numbers directly, without booleans in between.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bp_xp._trees import leaves_of
from bp_xp._typing import Array, Namespace
from bp_xp.engines.engine import Step
from bp_xp.engines.outside import Outside, heard_by
from bp_xp.engines.replay import CannotRecordError

__all__ = ["Call", "joined", "listen", "memory_of"]


# ---------------------------------------------------------------------------------------------
# Listen


@dataclass(eq=False)
class Call:
    """An operator that was called.

    Attributes:
        operator: one overload of an operator of ATen, such as ``aten.add_.Tensor``.
        inputs: its arguments, by position.
        options: its arguments by name.
        result: the tensor that it returned; of an operator in place, its first argument.
        number: the Python number from which it makes a tensor; None if it does not.
        outside: the function outside of PyTorch that the copy of a tensor represents, or None.
    """

    operator: Any
    inputs: Sequence[Any]
    options: dict[str, Any]
    result: Array
    number: float | None = None
    outside: Outside | None = None

    @property
    def in_place(self) -> bool:
        """Whether it writes to its first argument."""
        return bool(self.inputs) and self.result is self.inputs[0]

    @property
    def tensors(self) -> list[Array]:
        """Its arguments that are tensors."""
        import torch

        arguments = leaves_of([*self.inputs, *self.options.values()])
        return [one for one in arguments if isinstance(one, torch.Tensor)]

    @property
    def name(self) -> str:
        """The operator's name, without its overload."""
        return self.operator.overloadpacket.__name__

    def is_of(self, *overloads: str) -> bool:
        """Return whether the operator is one of these."""
        return str(self.operator).removeprefix("aten.") in overloads


def memory_of(tensor: Array) -> int:
    """Return a key that shows whether tensors share memory."""
    return tensor.untyped_storage().data_ptr()


# Ways around the operators: results computed with these values would look like constants.
_UNHEARD = {
    *("numpy", "__array__", "__array_wrap__", "__dlpack__", "tolist", "item"),
    *("apply_", "map_", "map2_", "data_ptr", "untyped_storage", "storage"),
}


def listen(
    step: Step, state: Any, batch: Sequence[Array], *, xp: Namespace
) -> tuple[list[Call], Any, Array]:
    """Take a step; return the operators called, the new state and zᴸ.

    Raises:
        CannotRecordError: the step does something that is not an operator, such as ``numpy.tanh``
            of a tensor.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: list[Call] = []
    unsteady = {torch.Tag.data_dependent_output, torch.Tag.nondeterministic_seeded}

    class Listener(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # it would import torch.compile's machinery, which takes a second

        def __torch_dispatch__(self, operator, types, inputs=(), options=None):
            result = operator(*inputs, **(options or {}))
            call = Call(operator, inputs, options or {}, result)
            if unsteady & set(operator.tags) or not isinstance(result, torch.Tensor):
                raise CannotRecordError(f"{operator} looks at values, or returns no tensor")
            if operator._schema.is_mutable and not call.in_place:
                raise CannotRecordError(f"{operator} writes to one of its arguments")
            calls.append(call)
            return result

    class Guard(TorchFunctionMode):
        def __torch_function__(self, function, types, inputs=(), options=None):
            if (name := getattr(function, "__name__", "")) in _UNHEARD:
                raise CannotRecordError(f"{name} takes values elsewhere, and no operator tells")
            result = function(*inputs, **(options or {}))
            last = calls[-1] if calls else None
            if last is not None and last.result is result and last.is_of("lift_fresh.default"):
                # As in asarray(0.5). Reading the number from the tensor would stall a GPU.
                last.number = inputs[0] if inputs and isinstance(inputs[0], float) else None
            return result

    def hear(function: Outside, array: Array) -> Array:
        result = array.clone()
        calls[-1].outside = function
        return result

    with Guard(), Listener(), heard_by(hear):
        return calls, *step(state, *batch, xp=xp)


# ---------------------------------------------------------------------------------------------
# Combine

_Life = Callable[[Any], list[Call | None]]
"""Returns the calls that make and use a tensor, None for its use as a result of the step."""

_Rule = Callable[[Call, _Life], tuple[list[Call], list[Call]] | None]
"""Returns calls that end with a given one, and fewer or quicker ones that do the same."""


def joined(calls: list[Call], results: Sequence[Array]) -> list[Call]:
    """Return calls that do the same, to rounding, in less time."""

    def life(tensor: Any) -> list[Call | None]:
        users = [c for c in calls if any(one is tensor for one in [c.result, *c.tensors])]
        return [*users, *(None for one in results if one is tensor)]

    for rule in _RULES:
        for last in calls:
            old, new = rule(last, life) or ([], [])
            if old and _may_wait(old, calls):
                calls = [
                    one
                    for call in calls
                    for one in (new if call is last else [] if call in old else [call])
                ]
    return calls


def _may_wait(old: list[Call], calls: list[Call]) -> bool:
    """Return whether calls can be delayed until the last of them."""
    memories = {memory_of(one) for call in old for one in call.tensors}
    between = calls[calls.index(old[0]) + 1 : calls.index(old[-1])]
    return not any(
        call.in_place and call not in old and memory_of(call.result) in memories for call in between
    )


def _sigmoid(last: Call, life: _Life) -> tuple[list[Call], list[Call]] | None:
    """Find the sigmoid of :mod:`bp_xp.math.activations`: 1 / (1 + exp(−max(z, limit)))."""
    import torch

    if not last.is_of("mul.Tensor") or not _is_number(last.inputs[1], 1.0):
        return None
    chain = [last]
    for name in (
        "reciprocal.default",
        "add_.Tensor",
        "exp.default",
        "neg.default",
        "maximum.default",
    ):
        # The addition in place is the second-to-last use of its tensor, and has no other tensor.
        made = [one for one in life(chain[0].inputs[0]) if one is not None and one.is_of(name)]
        if len(made) != 1:
            return None
        chain.insert(0, made[0])
    bounded, negated, bent, raised, inverted, _ = chain
    lives = [life(one.result) for one in (bounded, negated, bent, inverted)]
    if lives != [[bounded, negated], [negated, bent], [bent, raised, inverted], [inverted, last]]:
        return None
    z, limit = bounded.inputs
    number = None if (maker := life(limit)[0]) is None else maker.number
    furthest = math.log(torch.finfo(z.dtype).tiny)
    if not _is_number(raised.inputs[1], 1.0) or number is None or number > 0.999 * furthest:
        return None
    return chain, [Call(torch.ops.aten.sigmoid.default, (z,), {}, last.result)]


def _is_number(value: Any, number: float) -> bool:
    return isinstance(value, int | float) and value == number


def _product_and_term(last: Call, life: _Life) -> tuple[list[Call], list[Call]] | None:
    """Find g = p @ q; c + g, which is one operation, whether the sum is in g, in c or elsewhere."""
    import torch

    if not last.is_of("add.Tensor", "add_.Tensor") or len(last.tensors) != 2 or last.options:
        return None
    for g, term in itertools.permutations(last.inputs):
        product, *rest = life(g)
        if (
            product is not None
            and product.is_of("mm.default")
            and product.result is g
            and rest[0] is last
            and (last.result is g or len(rest) == 1)
            and last.result.shape == g.shape
            and g.dtype == term.dtype
        ):
            addmm = torch.ops.aten.addmm_ if last.result is term else torch.ops.aten.addmm
            arguments = (term, *product.inputs)
            return [product, last], [Call(addmm.default, arguments, {}, last.result)]
    return None


def _scaled_step(last: Call, life: _Life) -> tuple[list[Call], list[Call]] | None:
    """Find w -= k g, which is one operation; if g = p @ q, the smaller p is scaled."""
    import torch

    aten = torch.ops.aten
    if not last.is_of("sub_.Tensor") or len(last.tensors) != 2 or last.options:
        return None
    w, g = last.inputs
    *before, scaled, end = [None, *life(g)]
    if end is not last or scaled is None or not scaled.is_of("mul.Tensor", "mul_.Tensor"):
        return None
    if len(scaled.tensors) != 2 or w.shape != g.shape:
        return None
    one, other = scaled.inputs
    product = before[-1] if scaled.in_place and len(before) == 2 else None
    if product is not None and product.is_of("mm.default") and other.ndim == 0:
        p, q = product.inputs
        if p.numel() <= g.numel():
            scale = Call(aten.mul.Tensor, (p, other), {}, torch.empty_like(p))
            step = Call(aten.addmm_.default, (w, scale.result, q), {"alpha": -1}, w)
            return [product, scaled, last], [scale, step]
    return [scaled, last], [Call(aten.addcmul_.default, (w, one, other), {"value": -1}, w)]


def _comparison(last: Call, life: _Life) -> tuple[list[Call], list[Call]] | None:
    """Find a comparison converted to numbers, which it can write itself."""
    if not last.is_of("_to_copy.default") or set(last.options) != {"dtype"}:
        return None
    compared, *rest = life(last.inputs[0])
    if compared is None or rest != [last] or compared.name not in ("gt", "ge", "lt", "le"):
        return None
    return [compared, last], [replace(compared, result=last.result)]


def _subtraction_from_a_number(last: Call, _: _Life) -> tuple[list[Call], list[Call]] | None:
    """Find 1 - a, which another operator does in given memory."""
    import torch

    if not last.is_of("rsub.Scalar") or last.options or len(last.inputs) != 2:
        return None
    a, number = last.inputs
    inputs = (torch.asarray(number, dtype=a.dtype), a)
    return [last], [Call(torch.ops.aten.sub.Tensor, inputs, {}, last.result)]


_RULES: tuple[_Rule, ...] = (
    _sigmoid,
    _product_and_term,
    _scaled_step,
    _comparison,
    _subtraction_from_a_number,
)
