"""The PyTorch engine: a step is recorded once, and replayed without autograd on the same memory.

The recorder listens where every PyTorch function ends up, at the operators of ATen, and puts some
of them together before it writes their lines (see :mod:`bp_xp.engines._replay`):

- A product and the sum that takes it in become one ``addmm``: A Wᵀ + b, and also W − η Δᵀ A, where
  η goes to the smaller factor Δ and the gradient itself is never made.
- ½ tanh ½z + ½, the sigmoid in the standard's functions, becomes PyTorch's own.

So results equal the plain loop's to rounding. On a CUDA device the steps of a chunk are captured
in a CUDA graph, which one call launches.
"""

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bp_xp._typing import Array, Namespace
from bp_xp.engines import _replay
from bp_xp.engines._base import Engine, Loop, Step
from bp_xp.engines._replay import CannotRecordError, Program, Tape

__all__ = ["ENGINE"]


# ---------------------------------------------------------------------------------------------
# Listen


@dataclass(eq=False)
class _Call:
    """An operator that was called.

    Attributes:
        operator: one overload of an operator of ATen, such as ``aten.add_.Tensor``.
        inputs: its arguments, by position.
        options: its arguments by name.
        result: the tensor that it returned; of an operator in place, its first argument.
    """

    operator: Any
    inputs: Sequence[Any]
    options: dict[str, Any]
    result: Array

    @property
    def in_place(self) -> bool:
        """Whether it writes to its first argument."""
        return self.result is self.inputs[0]

    @property
    def tensors(self) -> list[Array]:
        """Its arguments that are tensors."""
        import torch

        arguments = _replay.leaves_of([*self.inputs, *self.options.values()])
        return [one for one in arguments if isinstance(one, torch.Tensor)]

    @property
    def name(self) -> str:
        """The operator's name, without its overload."""
        return self.operator.overloadpacket.__name__

    def is_of(self, *overloads: str) -> bool:
        """Return whether the operator is one of these."""
        return str(self.operator).removeprefix("aten.") in overloads


def _memory(tensor: Array) -> int:
    """Return what tells whether tensors share memory."""
    return tensor.untyped_storage().data_ptr()


def _listen(step: Step, state: Any, x: Array, y: Array) -> tuple[list[_Call], Any, Array]:
    """Take a step; return the operators called, the new state and zᴸ."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: list[_Call] = []
    unsteady = {torch.Tag.data_dependent_output, torch.Tag.nondeterministic_seeded}

    class Listener(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # it would import torch.compile's machinery, which takes a second

        def __torch_dispatch__(self, operator, types, inputs=(), options=None):
            result = operator(*inputs, **(options or {}))
            call = _Call(operator, inputs, options or {}, result)
            if unsteady & set(operator.tags) or not isinstance(result, torch.Tensor):
                raise CannotRecordError(f"{operator} looks at values, or returns no tensor")
            if operator._schema.is_mutable and not call.in_place:
                raise CannotRecordError(f"{operator} writes to one of its arguments")
            calls.append(call)
            return result

    with Listener():
        return calls, *step(state, x, y)


# ---------------------------------------------------------------------------------------------
# Put together

_Life = Callable[[Any], list[_Call | None]]
"""Returns the calls that make and use a tensor, None for its use as a result of the step."""

_Rule = Callable[[_Call, _Life], tuple[list[_Call], list[_Call]] | None]
"""Returns calls that end with a given one, and fewer or quicker ones that do the same."""


def _joined(calls: list[_Call], results: Sequence[Array]) -> list[_Call]:
    """Return calls that do the same, to rounding, in less time."""

    def life(tensor: Any) -> list[_Call | None]:
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


def _may_wait(old: list[_Call], calls: list[_Call]) -> bool:
    """Return whether calls may as well be made when the last of them is."""
    memories = {_memory(one) for call in old for one in call.tensors}
    between = calls[calls.index(old[0]) + 1 : calls.index(old[-1])]
    return not any(
        call.in_place and call not in old and _memory(call.result) in memories for call in between
    )


def _sigmoid(last: _Call, life: _Life) -> tuple[list[_Call], list[_Call]] | None:
    """t = ½ z; a = tanh t; a *= ½; a += ½ is a sigmoid."""
    import torch

    match life(last.result):
        case [_Call() as bent, _Call() as shrunk, _Call() as raised, *_] if raised is last:
            old = [life(bent.inputs[0])[0], bent, shrunk, raised]
        case _:
            return None
    names = ("mul.Tensor", "tanh.default", "mul_.Tensor", "add_.Tensor")
    if not all(c is not None and c.is_of(n) for c, n in zip(old, names, strict=True)):
        return None
    halved = old[0]
    if life(halved.result) != [halved, bent] or any(c.inputs[1] != 0.5 for c in old if c != bent):
        return None
    return old, [_Call(torch.ops.aten.sigmoid.default, halved.inputs[:1], {}, bent.result)]


def _product_and_term(last: _Call, life: _Life) -> tuple[list[_Call], list[_Call]] | None:
    """g = p @ q; c + g is one operation, whether it goes to g, to c or to a new array."""
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
            return [product, last], [_Call(addmm.default, arguments, {}, last.result)]
    return None


def _scaled_step(last: _Call, life: _Life) -> tuple[list[_Call], list[_Call]] | None:
    """w -= k g is one operation; where g = p @ q, the smaller p is scaled."""
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
            scale = _Call(aten.mul.Tensor, (p, other), {}, torch.empty_like(p))
            step = _Call(aten.addmm_.default, (w, scale.result, q), {"alpha": -1}, w)
            return [product, scaled, last], [scale, step]
    return [scaled, last], [_Call(aten.addcmul_.default, (w, one, other), {"value": -1}, w)]


def _comparison(last: _Call, life: _Life) -> tuple[list[_Call], list[_Call]] | None:
    """A comparison can write numbers as well as truth values."""
    if not last.is_of("_to_copy.default") or set(last.options) != {"dtype"}:
        return None
    compared, *rest = life(last.inputs[0])
    if compared is None or rest != [last] or compared.name not in ("gt", "ge", "lt", "le"):
        return None
    return [compared, last], [replace(compared, result=last.result)]


def _subtraction_from_a_number(last: _Call, _: _Life) -> tuple[list[_Call], list[_Call]] | None:
    """1 - a by a function that takes its memory."""
    import torch

    if not last.is_of("rsub.Scalar") or last.options or len(last.inputs) != 2:
        return None
    a, number = last.inputs
    inputs = (torch.asarray(number, dtype=a.dtype), a)
    return [last], [_Call(torch.ops.aten.sub.Tensor, inputs, {}, last.result)]


_RULES: tuple[_Rule, ...] = (
    _sigmoid,
    _product_and_term,
    _scaled_step,
    _comparison,
    _subtraction_from_a_number,
)


# ---------------------------------------------------------------------------------------------
# Write down


class _Writer:
    """Writes calls down, as lines of a tape."""

    def __init__(self, tape: Tape, leaves: Sequence[Array], x: Array, y: Array) -> None:
        self.tape = tape
        self.names = {id(leaf): f"s{i}" for i, leaf in enumerate(leaves)}
        self.names |= {id(x): "x", id(y): "y"}
        self.state = set(self.names.values()) - {"x", "y"}  # and views of it

    def write(self, call: _Call) -> None:
        """Write a line for a call."""
        if not any(id(one) in self.names for one in call.tensors):
            return  # it makes a constant
        if call.in_place:
            if id(call.result) not in self.names:
                raise CannotRecordError("a constant changes")
            method = getattr(type(call.result), call.name)
            self.tape.each.append(self.expression(method, call))
        elif (base := self.base_of(call)) is not None:
            self.write_view(call, base)
        else:
            self.write_result(call)

    def base_of(self, call: _Call) -> Array | None:
        """Return the argument that the result is a view of, or None if it is an array anew."""
        memory = _memory(call.result)
        return next((one for one in call.tensors if _memory(one) == memory), None)

    def write_view(self, call: _Call, base: Array) -> None:
        """Write a view, which is taken once where its base stays where it is."""
        name = self.names.get(id(base), "")
        if name in self.tape.objects:
            self.names[id(call.result)] = self.tape.name("t", call.result)
            return
        of_state = name in self.state
        view = self.tape.view(self.expression(call.operator, call), of_batch=not of_state)
        self.names[id(call.result)] = view
        if of_state:
            self.state.add(view)

    def write_result(self, call: _Call) -> None:
        """Write a call that makes an array, in its memory if it takes any."""
        function = _with_out(call)
        if function is None:
            self.names[id(call.result)] = name = f"r{len(self.tape.each)}"
            self.tape.each.append(f"{name} = {self.expression(call.operator, call)}")
        else:
            self.names[id(call.result)] = name = self.tape.name("t", call.result)
            self.tape.each.append(self.expression(function, call, out=name))

    def expression(self, function: Any, call: _Call, out: str = "") -> str:
        """Return the text of a call."""
        types = [str(one.type) for one in call.operator._schema.arguments]
        arguments = [
            self.argument(one, type_, call)
            for one, type_ in zip(call.inputs, types, strict=False)
        ]
        arguments += [f"{name}={self.argument(v, '', call)}" for name, v in call.options.items()]
        arguments += [f"out={out}"] if out else []
        return f"{self.tape.function(function)}({', '.join(arguments)})"

    def argument(self, value: Any, type_: str, call: _Call) -> str:
        """Return an argument as it is written in a line."""
        import torch

        if id(value) in self.names:
            return self.names[id(value)]
        if isinstance(value, list | tuple) and any(id(one) in self.names for one in value):
            return f"[{', '.join(self.argument(one, '', call) for one in value)}]"
        dtypes = {one.dtype for one in call.tensors}
        if type_ == "Tensor" and isinstance(value, int | float) and dtypes == {call.result.dtype}:
            # PyTorch would make a tensor of a number at each call.
            value = torch.asarray(value, dtype=call.result.dtype)
        return self.tape.name("c", value)


def _with_out(call: _Call) -> Callable[..., Any] | None:
    """Return PyTorch's own function for an operator if it can write to given memory."""
    import torch

    function = getattr(torch, call.name, None)
    if not inspect.isbuiltin(function):
        return None
    out = torch.empty_like(call.result)
    try:
        function(*call.inputs, **call.options, out=out)
    except (TypeError, RuntimeError):
        return None
    return function


def _record(step: Step, state: Any, x: Array, y: Array) -> Program:
    """Take a step on copies and return what was done."""
    import torch

    if not all(isinstance(leaf, torch.Tensor) for leaf in _replay.leaves_of(state)):
        raise CannotRecordError("the state holds more than tensors")
    with torch.inference_mode(False), torch.no_grad():  # inference would hide products in matmul
        state, x, y = _replay.map_leaves(torch.clone, (state, x, y))
        calls, new_state, z = _listen(step, state, x, y)
    leaves, new = list(_replay.leaves_of(state)), list(_replay.leaves_of(new_state))
    if len(new) != len(leaves):
        raise CannotRecordError("the state changes its form")

    tape = Tape()
    writer = _Writer(tape, leaves, x, y)
    for call in _joined(calls, [*new, z]):
        writer.write(call)
    copy = tape.function(torch.Tensor.copy_)
    names = [writer.names.get(id(leaf), "") for leaf in new]
    tape.write_back(names, lambda to, from_: f"{copy}({to}, {from_})")
    tape.each.append(f"{copy}(z, {writer.names[id(z)]})")
    return Program(tape.compile(len(leaves)), z)


# ---------------------------------------------------------------------------------------------
# Replay


def _new_loop() -> Loop:
    replay = _replay.new_loop(_record)

    def loop(step: Step, state: Any, xs: Array, ys: Array, *, xp: Namespace) -> tuple[Any, Array]:
        import torch

        with torch.inference_mode():
            return replay(step, state, xs, ys, xp=xp)

    return loop


ENGINE = Engine(_new_loop)
