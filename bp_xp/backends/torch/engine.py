"""The PyTorch engine: a step is recorded once, and replayed without autograd on the same memory.

The operators of the step are recorded, and combined if that saves time, in
:mod:`bp_xp.backends.torch.operators`; here they become lines (see :mod:`bp_xp.engines.replay`).
Results equal the plain loop's to rounding. On a CUDA device the steps of a chunk are captured in a
CUDA graph, which one call launches.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from bp_xp._trees import forms_of, leaves_of, map_leaves
from bp_xp._typing import Array, Namespace
from bp_xp.backends.torch.operators import Call, joined, listen, memory_of
from bp_xp.engines import replay
from bp_xp.engines.engine import Engine, Loop, Step
from bp_xp.engines.replay import CannotRecordError, Lines, Program
from bp_xp.engines.report import Report

__all__ = ["ENGINE"]


# ---------------------------------------------------------------------------------------------
# Record


class _Writer:
    """Records calls as lines."""

    def __init__(self, lines: Lines, leaves: Sequence[Array], batch: Sequence[Array]) -> None:
        self.lines = lines
        self.names = {id(leaf): f"s{i}" for i, leaf in enumerate(leaves)}
        self.state = set(self.names.values())  # and views of it
        self.names |= {id(part): f"x{i}" for i, part in enumerate(batch)}

    def write(self, call: Call) -> None:
        """Write a line for a call."""
        if not any(id(one) in self.names for one in call.tensors):
            return  # it makes a constant
        if call.in_place:
            if id(call.result) not in self.names:
                raise CannotRecordError("a constant changes")
            method = getattr(type(call.result), call.name)
            self.lines.each.append(self.expression(method, call))
        elif call.outside is not None:
            self.write_outside(call)
        elif (base := self.base_of(call)) is not None:
            self.write_view(call, base)
        else:
            self.write_result(call)

    def base_of(self, call: Call) -> Array | None:
        """Return the argument that the result is a view of, or None if it is a new array."""
        memory = memory_of(call.result)
        return next((one for one in call.tensors if memory_of(one) == memory), None)

    def write_view(self, call: Call, base: Array) -> None:
        """Write a view, which is taken only once if its base does not move."""
        name = self.names.get(id(base), "")
        if name in self.lines.objects:
            self.names[id(call.result)] = self.lines.name("t", call.result)
            return
        of_state = name in self.state
        view = self.lines.write_view(self.expression(call.operator, call), of_batch=not of_state)
        self.names[id(call.result)] = view
        if of_state:
            self.state.add(view)

    def write_result(self, call: Call) -> None:
        """Write a call that makes an array, in its memory if it takes any."""
        function = _with_out(call)
        if function is None:
            self.names[id(call.result)] = name = f"r{len(self.lines.each)}"
            self.lines.each.append(f"{name} = {self.expression(call.operator, call)}")
        else:
            self.names[id(call.result)] = name = self.lines.name("t", call.result)
            self.lines.each.append(self.expression(function, call, out=name))

    def write_outside(self, call: Call) -> None:
        """Write a call of a function that is not an operator."""
        self.names[id(call.result)] = name = self.lines.name("t", call.result)
        copy = self.lines.function_name(type(call.result).copy_)
        outside, source = self.lines.name("f", call.outside), self.names[id(call.inputs[0])]
        self.lines.each.append(f"{copy}({name}, {outside}({source}))")

    def expression(self, function: Any, call: Call, out: str = "") -> str:
        """Return the text of a call."""
        types = [str(one.type) for one in call.operator._schema.arguments]
        arguments = [
            self.argument(one, type_, call) for one, type_ in zip(call.inputs, types, strict=False)
        ]
        arguments += [f"{name}={self.argument(v, '', call)}" for name, v in call.options.items()]
        arguments += [f"out={out}"] if out else []
        return f"{self.lines.function_name(function)}({', '.join(arguments)})"

    def argument(self, value: Any, type_: str, call: Call) -> str:
        """Return an argument in the form for a line."""
        import torch

        if id(value) in self.names:
            return self.names[id(value)]
        if isinstance(value, list | tuple) and any(id(one) in self.names for one in value):
            return f"[{', '.join(self.argument(one, '', call) for one in value)}]"
        dtypes = {one.dtype for one in call.tensors}
        if type_ == "Tensor" and isinstance(value, int | float) and dtypes == {call.result.dtype}:
            # PyTorch would make a tensor of a number at each call.
            value = torch.asarray(value, dtype=call.result.dtype)
        return self.lines.name("c", value)


def _with_out(call: Call) -> Callable[..., Any] | None:
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


def _record(step: Step, state: Any, batch: Sequence[Array], *, xp: Namespace) -> Program:
    """Take a step on copies and return its program."""
    import torch

    if not all(isinstance(leaf, torch.Tensor) for leaf in leaves_of(state)):
        raise CannotRecordError("the state holds more than tensors")
    with torch.inference_mode(False), torch.no_grad():  # inference would hide products in matmul
        state, batch = map_leaves(torch.clone, (state, batch))
        calls, new_state, z = listen(step, state, batch, xp=xp)
    leaves, new = list(leaves_of(state)), list(leaves_of(new_state))
    if forms_of(new) != forms_of(leaves):
        raise CannotRecordError("the state changes its form")

    lines = Lines()
    writer = _Writer(lines, leaves, batch)
    calls = joined(calls, [*new, z])
    for call in calls:
        writer.write(call)
    copy = lines.function_name(torch.Tensor.copy_)
    names = [writer.names.get(id(leaf), "") for leaf in new]
    lines.each.append(f"{copy}(z, {writer.names[id(z)]})")  # first: it may be of the old state
    lines.write_back(names, lambda to, from_: f"{copy}({to}, {from_})")
    run, text = lines.compile(len(leaves), len(batch))
    # Other processes may capture other chunks, and would wait for the sums of these.
    alone = all(call.outside is None for call in calls)
    in_graphs = alone and z.device.type == "cuda"
    return Program(_in_graphs(run, _capture) if in_graphs else run, z, text)


# ---------------------------------------------------------------------------------------------
# Replay

_Run = Callable[[Sequence[Array], Sequence[Array], Array], None]
"""Runs mini-batches, as :attr:`bp_xp.engines.replay.Program.run`."""


def _in_graphs(run: _Run, capture: Callable[..., Callable[[], None]]) -> _Run:
    """Return a function that does the same by launching all the steps of a chunk together.

    Args:
        run: runs mini-batches.
        capture: takes ``run`` and its arguments, and returns a function that repeats it in place.
    """
    graphs: dict[Any, tuple[list[int], Sequence[Array], Array, Callable[[], None]]] = {}

    def launch(leaves: Sequence[Array], batches: Sequence[Array], zs: Array) -> None:
        # A graph refers to arrays by address, so batches are copied to its addresses. If the state
        # has moved, for example by steps in the plain loop, the graph is no longer usable.
        addresses = [leaf.data_ptr() for leaf in leaves]
        if zs.shape not in graphs or graphs[zs.shape][0] != addresses:
            fixed, fixed_zs = [part.clone() for part in batches], zs.clone()
            graphs[zs.shape] = addresses, fixed, fixed_zs, capture(run, leaves, fixed, fixed_zs)
        _, fixed, fixed_zs, again = graphs[zs.shape]
        for there, part in zip(fixed, batches, strict=True):
            there.copy_(part)
        again()
        zs.copy_(fixed_zs)

    return launch


def _capture(
    run: _Run, leaves: Sequence[Array], batches: Sequence[Array], zs: Array
) -> Callable[[], None]:
    """Return a function that launches a CUDA graph of the steps, which are not taken yet."""
    import torch

    with torch.cuda.device(zs.device):
        # Kernels are loaded and cuBLAS is set up at their first use, which cannot be captured.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run([leaf.clone() for leaf in leaves], batches, zs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Another thread may train another network meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run(leaves, batches, zs)
    return graph.replay


def _new_loop(report: Report) -> Loop:
    replayed = replay.new_loop(_record, report)

    def loop(
        step: Step, state: Any, batches: Sequence[Array], *, xp: Namespace
    ) -> tuple[Any, Array]:
        import torch

        with torch.inference_mode():
            return replayed(step, state, batches, xp=xp)

    return loop


ENGINE = Engine(
    "torch",
    "a step is recorded once, and replayed without autograd on the same memory (on a GPU in a "
    "CUDA graph)",
    _new_loop,
    in_place=True,
)
