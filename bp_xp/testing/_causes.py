"""Find and report why a run differs from the reference.

Both networks get the last parameters that agreed. One forward and backward pass over the mini-batch
of the step that went wrong shows which quantity of backpropagation is the first to differ. A wrong
σ affects every parameter after one step, but one quantity first.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bp_xp import checks
from bp_xp._caller import named
from bp_xp._typing import Array
from bp_xp.backends import to_numpy
from bp_xp.inspection import BackpropTrace
from bp_xp.math.initializers import restore_generator
from bp_xp.testing._runs import Difference, Other, Quantity, Reference, Values, difference

__all__ = ["explain"]

# In one pass from equal parameters nothing is amplified: libraries differ by some roundings.
_ROUNDINGS_OF_A_PASS = 100


def explain(run: Other, x: Any, y: Any, options: dict[str, Any]) -> list[str]:
    """Return the report on a run that differs, as lines.

    Args:
        run: the run; its network and that of the reference are changed.
        x: inputs, shape (N, I).
        y: labels, shape (N,), or targets, shape (N, O).
        options: those that ``fit`` was given.
    """
    lines = [f"{run} does not train as {run.reference} does ({run.network.dtype})."]
    if run.differing:
        first, *rest = run.differing
        when = f"after step {run.step}"
        if _of_costs(run) and run.every > 1:
            when = f"at the end of epoch {run.epochs}"
        lines += [
            f"The first difference is {when}, in {first.quantity}{_at(first)}:",
            *_values(run, first, "largest value so far", run.rtol),
        ]
        if rest:
            lines.append(f"  also too far apart: {', '.join(str(one.quantity) for one in rest)}")
        if run.step == 0 and not _of_costs(run):
            return [*lines, *_why_not_from_the_start(run)]
    elif run.error:
        lines.append(f"It {run.fault}, but the reference does not: {run.error}")
    else:
        return [*lines, f"Its parameters agree (rtol {run.rtol:g}), but it {run.fault}."]
    lines.append(f"  largest difference by step: {_growth(run)}")
    if run.every > 1 and not _of_costs(run):
        one = named("every", 1)
        return [*lines, f"Pass {one} to see which of {run.every} steps differs, and why."]
    return [*lines, *_why_from_a_step(run, to_numpy(x), to_numpy(y), options)]


def _of_costs(run: Other) -> bool:
    """Return whether the first difference is in the cost of an epoch, not in a parameter."""
    return bool(run.differing) and run.differing[0].quantity.layer == 0


def _why_not_from_the_start(run: Other) -> list[str]:
    seeds = run.reference.network.seed, run.network.seed
    if seeds[0] != seeds[1]:
        return [
            f"They start from different parameters; their seeds are {seeds[0]} and {seeds[1]}:",
            "let build use one seed, as in lambda **where: Network(sizes, seed=0, **where).",
        ]
    return [
        f"They start from different parameters, although both have the seed {seeds[0]}:",
        "look at build, and at any custom initializer.",
    ]


def _why_from_a_step(
    run: Other, x: np.ndarray, y: np.ndarray, options: dict[str, Any]
) -> list[str]:
    """Look for the cause in the step that went wrong, or in the costs of its epoch."""
    of_costs = not run.differing or _of_costs(run)
    since = of_costs and run.every > 1  # whether the steps since the last look agree is unknown
    if (not of_costs or since) and (drawn := _drawn_differently(run, options)):
        return drawn
    step, start = run.step, run.step if of_costs else run.step - 1
    rows = None if since else _rows_of(run.reference, step, len(x), options)
    samples = f"the mini-batch of step {step}"
    if rows is None:
        rows, samples = np.arange(len(x)), "all samples"
    equal = run.reference.parameters[start // run.every]
    tolerance = _ROUNDINGS_OF_A_PASS * float(np.finfo(run.network.dtype).eps)
    lines = [f"From the same parameters, those after step {start}, on {samples}:"]
    cause, kink = _search(run, equal, equal, (x, y), rows, tolerance=tolerance)
    if cause:
        return [*lines, *cause]
    if not kink:
        lines.append("all quantities of backpropagation agree.")
        if of_costs:
            how = "What differs is how costs are computed over many samples, or added up"
            one = named("every", 1)
            more = f", or a later step: pass {one} to see which." if since else "."
            return [*lines, how + more]
        _, kink = _search(run, equal, run.parameters[-2], (x, y), rows, tolerance=run.rtol)
        if kink:
            lines.append("From each network's own parameters, which agree within rtol:")
    besides = f"look at the other parts of a step: {', '.join(_besides(options))}."
    exact = "compare in float64, " if run.network.dtype == "float32" else ""
    larger = f"pass a larger {named('rtol')}"
    remedy = f"{exact}take fewer steps or a smaller learning rate, or {larger}."
    before, after = run.differences[-2:]
    if after <= tolerance:
        return [
            *lines,
            f"The difference is only rounding: raise {named('rtol')} to {tolerance:.1g}.",
        ]
    if kink:
        lines += [*kink, f"That is enough to separate the two runs: {remedy}"]
        besides = f"if that does not explain it, {besides}"
    elif before > after / 10:
        lines += ["The difference has grown over the steps.", f"If it is rounding, {remedy}"]
        besides = f"if it is not, {besides}"
    return [*lines, f"{besides[0].upper()}{besides[1:]}"]


def _drawn_differently(run: Other, options: dict[str, Any]) -> list[str]:
    """Return the message if the generators no longer draw the same numbers; empty if they do."""
    ours, theirs = run.reference.orders[len(run.orders) - 1], run.orders[-1]
    if ours == theirs or not (options.get("shuffle", True) or _term(options, "dropout")):
        return []
    seeds = run.reference.network.seed, run.network.seed
    why = "from one seed: look at what else draws from it, such as an initializer."
    if seeds[0] != seeds[1]:
        why = f"from the seeds {seeds[0]} and {seeds[1]}: let build use one seed."
    return [
        f"In epoch {len(run.orders)} they draw different random numbers for the order of samples",
        f"and the masks of dropout, {why}",
    ]


def _term(options: dict[str, Any], name: str) -> Any:
    """Return the regularization with a name, passed alone or in ``regularization``."""
    return options.get(name) or getattr(options.get("regularization"), name, None)


def _besides(options: dict[str, Any]) -> Iterator[str]:
    """Yield the parts of a step other than backpropagation, for the options that were given."""
    yield f"the optimizer {options.get('optimizer') or 'SGD(0.1)'}"
    for name in ("dropout", "l1", "l2", "clip_norm", "clip_value", "max_norm"):
        if _term(options, name):
            yield name
    for name in ("sample_weight", "class_weight", "trainable"):
        if options.get(name) is not None:
            yield name
    if options.get("shuffle", True):
        yield "the order of the samples on the device"
    yield "the engine that runs the steps"


def _rows_of(run: Reference, step: int, n: int, options: dict[str, Any]) -> np.ndarray | None:
    """Return which samples were in the mini-batch of a step; None if some are held out."""
    if isinstance(options.get("validation_data"), int | float):
        return None
    before, state = next(order for order in reversed(run.orders) if order[0] < step)
    shuffle = options.get("shuffle", True)
    order = restore_generator(state).permutation(n) if shuffle else np.arange(n)
    size = min(options.get("batch_size") or checks.check_batch_size(None, n), n)
    return order[(step - before - 1) * size :][:size]


# ---------------------------------------------------------------------------------------------
# One pass on both sides


def _search(
    run: Other,
    ours: Values,
    theirs: Values,
    data: tuple[np.ndarray, np.ndarray],
    rows: np.ndarray,
    *,
    tolerance: float,
) -> tuple[list[str], list[str]]:
    """Look for the first quantity that differs on some samples, from these parameters.

    Returns:
        What to say about it, if it exists, and about a z that rounding takes across a kink. Samples
        with such a z are left out of the search for anything else.
    """
    kink: list[str] = []
    while len(rows) and (
        found := _first_to_differ(run, ours, theirs, [part[rows] for part in data], tolerance)
    ):
        first = found.difference
        lines = [
            f"the first quantity to differ is {first.quantity}{_at(first, rows)}:",
            *_values(run, first, "largest value", tolerance),
            found.cause,
        ]
        if not found.kinks.any():
            return lines, kink
        kink = kink or lines
        rows = rows[~found.kinks]
    return [], kink


class _Found(NamedTuple):
    """The first quantity that differs.

    Attributes:
        difference: where, and by how much.
        cause: what computes it; or that z is at a kink.
        kinks: for each sample, whether it differs because z is at a kink, shape (N,).
    """

    difference: Difference
    cause: str
    kinks: np.ndarray


def _first_to_differ(
    run: Other,
    ours: Values,
    theirs: Values,
    batch: list[np.ndarray],
    tolerance: float,
) -> _Found | None:
    """Run both networks forward and back once; return the first difference, if there is one."""
    traces = []
    for network, values in ((run.reference.network, ours), (run.network, theirs)):
        arrays = list(values.values())
        network.layers = list(zip(arrays[::2], arrays[1::2], strict=True))
        traces.append(network.trace(*batch))
    n, outputs = len(batch[0]), float(np.abs(to_numpy(traces[0].layers[-1].a)).max())
    for (quantity, mine, cause), (_, other, _) in zip(*map(_quantities, traces), strict=True):
        mine, other = to_numpy(mine), to_numpy(other)
        # a − y can be as small as the rounding of a. So errors, and what is computed from them, are
        # also measured against the outputs; in the mean, each is divided by N.
        least = {"z": 0.0, "a": 0.0, "σ′(z)": 0.0, "∇ₐC": 1.0 / n, "δ": 1.0 / n}
        scale = max(float(np.abs(mine).max()), least.get(quantity.name, 1.0) * outputs)
        found = difference(quantity, mine, other, scale)
        if found.relative > tolerance:
            at_kink = quantity.name == "σ′(z)" and _at_a_kink(run, traces, found, scale * tolerance)
            return at_kink or _Found(found, f"Look at {cause}.", np.zeros(n, dtype=bool))
    return None


def _quantities(trace: BackpropTrace) -> Iterator[tuple[Quantity, Array, str]]:
    """Yield each quantity of one pass, in the order of computation, and what computes it."""
    cost, numbered = trace.model.cost.name, list(enumerate(trace.layers, start=1))
    names = [activation.name for activation in trace.model.activations]
    for l, layer in numbered:  # noqa: E741 - the book's index of layers
        yield Quantity("z", l), layer.z, "the weighted input z = a Wᵀ + b"
        yield Quantity("a", l), layer.a, f"σ of the activation {names[l - 1]!r}"
    yield Quantity("C"), trace.cost, f"the value of the cost {cost!r}"
    error = f"the error of the cost {cost!r}"
    if trace.nabla_a is not None:
        yield Quantity("∇ₐC"), trace.nabla_a, f"the gradient of the cost {cost!r}"
        error = "BP1, δᴸ = ∇ₐC ⊙ σ′(zᴸ)"
    for l, layer in reversed(numbered):  # noqa: E741
        if l < len(numbered) or trace.nabla_a is not None:  # a matched cost has no use for σ′(zᴸ)
            slope = f"σ′ of the activation {names[l - 1]!r}"
            yield Quantity("σ′(z)", l), layer.sigma_prime_z, slope
        yield Quantity("δ", l), layer.delta, error
        yield Quantity("∂C/∂W", l), layer.nabla_W, "BP4, ∂C/∂W = δᵀ a"
        yield Quantity("∂C/∂b", l), layer.nabla_b, "BP3, ∂C/∂b = Σₙ δₙ"
        error = "BP2, δˡ = (δˡ⁺¹ Wˡ⁺¹) ⊙ σ′(zˡ)"


def _at_a_kink(
    run: Other, traces: Sequence[BackpropTrace], found: Difference, tolerance: float
) -> _Found | None:
    """Return the finding if σ′ differs only because z does, by a rounding; otherwise None.

    In that case, the reference computes the same σ′ as the other side from the other side's z.
    """
    network, l = run.reference.network, found.quantity.layer  # noqa: E741
    activation = network.model.activations[l - 1]
    zs = [to_numpy(trace.layers[l - 1].z) for trace in traces]
    slopes = [to_numpy(trace.layers[l - 1].sigma_prime_z) for trace in traces]
    with run.reference.placement.active():
        z = network.asarray(zs[1])
        a = activation.sigma(z, xp=network.xp)
        expected = to_numpy(activation.sigma_prime(z, a, xp=network.xp))
    if not np.abs(expected - slopes[1]).max() <= tolerance:
        return None
    at = found.at[:2]
    cause = (
        f"There z is {zs[0][at]} and {zs[1][at]}: rounding takes it across a kink of "
        f"{activation.name!r}."
    )
    apart = np.abs(slopes[0] - slopes[1]) > tolerance
    return _Found(found, cause, np.asarray([sample.any() for sample in apart]))


# ---------------------------------------------------------------------------------------------
# As text


def _at(found: Difference, rows: np.ndarray | None = None) -> str:
    """Return where in an array; the samples of a mini-batch are given as rows of x."""
    if not found.at:
        return ""
    if rows is None or found.quantity.name in ("∂C/∂W", "∂C/∂b"):
        return f" at {list(found.at)}"
    sample, *neurons = found.at
    return f", row {rows[sample]} of x, neuron {' and '.join(map(str, neurons))}"


def _values(run: Other, found: Difference, scale: str, tolerance: float) -> list[str]:
    """Return both values, and by how much they differ."""
    gap = f"{found.absolute:.2e}, which is {found.relative:.1e} of the {scale}"
    if not math.isfinite(found.absolute):
        gap = "not finite"
    names = str(run.reference), str(run), "difference"
    texts = (*map(str, found.values), f"{gap} ({tolerance:.2g} passes)")
    width = max(map(len, names))
    return [f"  {name:{width}}  {text}" for name, text in zip(names, texts, strict=True)]


def _growth(run: Other) -> str:
    """Return the largest difference at some steps, including the last two."""
    last = len(run.differences) - 1
    chosen = {last} | {n for n in (0, 1, 10, 100, 1000, 10_000, last - 1) if 0 <= n < last}
    return ", ".join(f"{n * run.every}: {run.differences[n]:.1g}" for n in sorted(chosen))
