"""Parity: one network, built on several backends from one seed, takes the same steps on each.

The first target is the reference. It is trained first, and its parameters after each step are kept
on the host; every other target is compared with them while it trains (``_runs``). If one differs,
the quantities of backpropagation are searched for the cause (``_causes``).
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from bp_xp import checks
from bp_xp._caller import named
from bp_xp.backends import Placement
from bp_xp.network import Network
from bp_xp.testing._causes import explain
from bp_xp.testing._runs import Other, Reference
from bp_xp.testing.targets import Target, default_targets, parse_target, probe_targets

__all__ = ["RTOL", "Build", "ParityReport", "ParityRow", "assert_parity"]

RTOL = {"float64": 1e-10, "float32": 1e-3}
"""The largest difference that passes, relative to the largest value of its tensor.

Each step adds a rounding, and training amplifies earlier ones. Over 100 steps, NumPy, PyTorch and
JAX come to differ by 1e-15 to 2e-14 in float64 (momentum, which adds up steps, is at the upper
end), by 2e-13 where RMSprop divides a small gradient by its own size, and by 7e-12 in a ReLU
network whose learning rate makes it jump. float32 has 5e8 times the rounding: the same networks
differ by 1e-7 to 1e-5, and by 6e-5 with RMSprop. Beyond that, a z that rounding takes across the
kink of a ReLU makes a difference of 1e-3 or more in one step, and a network that jumps has little
in common after 100 steps. Neither is the fault of a backend, as float64 shows; and only float64
shows an equation that is off by a millionth.
"""

_REFUSED = {
    "epochs": "steps= sets how long the runs are",
    "callbacks": "one object would watch several runs, and none can change a step",
    "checkpoint": "each run would overwrite the file of the previous one",
    "warm_start": "each run starts from the network that build returns",
}


class Build(Protocol):
    """Makes the network on a backend."""

    def __call__(self, *, backend: str, device: str) -> Network:
        """Return a new network there, with the same seed (or layers) at each call."""
        ...


# ---------------------------------------------------------------------------------------------
# The report


class ParityRow(NamedTuple):
    """The result for one target.

    Attributes:
        backend: the name of the library.
        device: the name of its device.
        version: the version of the library.
        dtype: the dtype of the network.
        steps: the steps compared; those taken, for the reference.
        epochs: the complete epochs among them, whose costs are compared as well.
        differences: the largest difference from the reference before the first step, and after
            each that was looked at; relative, as ``RTOL`` is. Empty for the reference.
        where: the step and the tensor of the largest difference.
        agrees: whether none of them is too large.
    """

    backend: str
    device: str
    version: str
    dtype: str
    steps: int
    epochs: int
    differences: tuple[float, ...] = ()
    where: str = ""
    agrees: bool = True

    @property
    def target(self) -> str:
        """The backend and the device as one name: ``"torch-cpu"``."""
        return f"{self.backend}-{self.device}"

    @property
    def difference(self) -> float:
        """The largest of the differences; 0 for the reference."""
        return max(self.differences, default=0.0)


@dataclass(frozen=True, repr=False)
class ParityReport:
    """How far apart the targets of a comparison are; prints as a table.

    Attributes:
        rows: one for each target, the reference first.
        rtol: the largest difference that passes.
    """

    rows: tuple[ParityRow, ...]
    rtol: float

    @property
    def difference(self) -> float:
        """The largest difference of any target from the reference."""
        return max(row.difference for row in self.rows)

    def __str__(self) -> str:
        head = ("backend", "device", "version", "dtype", "steps", "epochs", "difference", "where")
        reference, *others = self.rows
        lines = [head, (*_cells(reference), "", "the reference")]
        for row in others:
            fault = "" if row.agrees else "DIFFERS: "
            where = fault + row.where or "equal to the last bit"
            lines.append((*_cells(row), f"{row.difference:.1e}", where))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    __repr__ = __str__


def _cells(row: ParityRow) -> tuple[str, ...]:
    return row.backend, row.device, row.version, row.dtype, str(row.steps), str(row.epochs)


# ---------------------------------------------------------------------------------------------
# The comparison


def assert_parity(
    build: Build,
    x: Any,
    y: Any,
    *,
    backends: Sequence[str | Target] | None = None,
    steps: int = 100,
    every: int = 1,
    rtol: float | None = None,
    **fit_options: Any,
) -> ParityReport:
    """Check that a network takes the same steps on several backends.

    ``build`` makes the network on each target, :meth:`bp_xp.Network.fit` trains it with the
    target's own engine. The parameters are compared before the first step and after each step, and
    the mean cost after each complete epoch.

    The parameters of the reference after each step stay on the host: 8 (float32: 4) bytes per
    parameter and step. If parameters are compared after each step, an engine takes steps one by
    one, although it could take dozens together. ``every=50`` needs a fiftieth of the memory and
    lets engines take up to 50 together; then use ``every=1`` to find the step of a difference and
    its cause.

    Args:
        build: makes the network, called as ``build(backend=..., device=...)``; it must pass both
            on and set a seed, as in ``lambda **where: Network([2, 3, 1], seed=0, **where)``.
        x: inputs, shape (N, I), on the host.
        y: labels, shape (N,), or targets, shape (N, O), on the host.
        backends: the targets, two or more, such as ``["numpy", "torch", "torch-cuda:0"]``; the
            first is the reference. A backend without a device means its default device. It is an
            error if one does not work here. None takes all targets that bp_xp supports, that work
            here and have the network's dtype, with NumPy as the reference.
        steps: the number of steps to take; fewer if ``early_stopping`` ends the runs.
        every: compare after every this many steps; ``steps`` must be a multiple of it.
        rtol: the largest difference that passes, relative to the largest value that the tensor has
            had so far, or to a thousandth of its layer's largest value if that is more. None is
            ``RTOL`` for the network's dtype.
        fit_options: options of ``fit``, such as batch_size, optimizer, dropout, sample_weight; all
            except epochs, callbacks, checkpoint and warm_start. The runs share the objects, since
            an optimizer keeps its state only in the results of ``init`` and ``update``.

    Returns:
        A report with a row for each target. It prints as a table.

    Raises:
        AssertionError: a target differs. The message names the first step and tensor that differ,
            by how much, and the possible cause.
        ValueError: there are fewer than two targets, or an unknown one, a number is out of range,
            the networks are not the requested ones, or ``fit`` raises it.
        TypeError: an argument has the wrong type, or an option of ``fit`` cannot be used here.
        DivergenceError: the reference is no longer finite.
        ImportError, DeviceError: a target does not work here.

    Examples:
        >>> from bp_xp import Network
        >>> def build(**where):
        ...     return Network([2, 3, 1], dtype="float64", seed=0, **where)
        >>> x, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [[0], [1], [1], [0]]
        >>> report = assert_parity(build, x, y, backends=["numpy", "array_api_strict"], steps=10)
        >>> report.difference < 1e-14
        True
    """
    _check_build(build)
    steps = checks.check_integer(steps, "steps")
    every = checks.check_integer(every, "every")
    if steps % every:
        raise ValueError(
            f"{named('steps')} must be a multiple of {named('every')}, {every}, not {steps}."
        )
    for name in fit_options:
        if name in _REFUSED:
            raise TypeError(f"assert_parity does not take {name}: {_REFUSED[name]}.")
    if rtol is not None:
        rtol = checks.check_number(rtol, "rtol", least=0.0)
    places = _places(backends)
    first = _build(build, places[0])
    if backends is None:
        places = [one for one in places if one.library.has_dtype(first.dtype, one.device)]
    networks = [first, *(_build(build, placement) for placement in places[1:])]
    _check_alike(networks)
    dtype = networks[0].dtype
    rtol = RTOL[dtype] if rtol is None else rtol
    reference = Reference(networks[0], places[0], steps, every)
    pairs = zip(networks[1:], places[1:], strict=True)
    others = [Other(network, placement, reference, rtol) for network, placement in pairs]
    for run in (reference, *others):
        run.train(x, y, fit_options)
    report = ParityReport((_row(reference), *map(_compared_row, others)), rtol)
    if strayed := [other for other in others if other.fault]:
        lines = explain(strayed[0], x, y, fit_options)
        faults, seeds = {one.fault for one in strayed}, {network.seed for network in networks}
        if len(others) == len(strayed) > 1 and len(faults) == len(seeds) == 1:
            lines += ["", f"All others differ from {reference} there: it may be the one at fault."]
        raise AssertionError("\n".join([*lines, "", str(report)]))
    return report


def _row(run: Reference | Other) -> ParityRow:
    placement, dtype = run.placement, run.network.dtype
    version = placement.library.version()
    return ParityRow(placement.backend, placement.device_name, version, dtype, run.step, run.epochs)


def _compared_row(run: Other) -> ParityRow:
    return _row(run)._replace(
        differences=tuple(run.differences), where=run.fault or run.where, agrees=not run.fault
    )


def _places(backends: Any) -> list[Placement]:
    """Return the placements of the networks."""
    if backends is None:
        works, absent = probe_targets(default_targets())
        if len(works) < 2:
            reasons = "; ".join(f"{target}: {why}" for target, why in absent.items())
            raise ValueError(f"parity needs two targets that work here: {reasons}.")
        return list(works.values())
    if isinstance(backends, str) or not isinstance(backends, Sequence):
        raise TypeError(f"backends must be a list such as ['numpy', 'torch'], not {backends!r}.")
    if len(backends) < 2:
        raise ValueError(
            f"parity needs at least two targets, such as ['numpy', 'torch'], not {list(backends)}."
        )
    targets = [one if isinstance(one, Target) else parse_target(one) for one in backends]
    return [target.place() for target in targets]


def _check_build(build: Any) -> None:
    """Refuse a ``build`` that cannot be called with ``backend`` and ``device``."""
    came = f"{type(build).__name__}, which does not make a network"
    if callable(build) and not isinstance(build, Network):
        try:
            inspect.signature(build).bind(backend="", device="")
        except TypeError as error:
            came = f"one that can't be called that way: {error}"
        except ValueError:  # it has no readable signature
            return
        else:
            return
    raise TypeError(
        "build must be a function that takes backend= and device= and returns a Network, as in "
        f"lambda **where: Network([2, 3, 1], seed=0, **where), not {came}."
    )


def _build(build: Build, placement: Placement) -> Network:
    """Return the network that build makes on a target; refuse one that is somewhere else."""
    target = f"{placement.backend}-{placement.device_name}"
    try:
        network = build(backend=placement.backend, device=placement.device_name)
    except Exception as error:
        error.add_note(f"raised by build for {target}, in assert_parity")
        raise
    if not isinstance(network, Network):
        raise TypeError(f"build must return a Network, not {network!r}.")
    came = f"{network.backend}-{network.device}"
    if came != target:
        raise ValueError(
            f"build(backend={placement.backend!r}, device={placement.device_name!r}) returned a "
            f"network on {came}: let build pass both on, as in lambda **where: Network(sizes, "
            "seed=0, **where)."
        )
    return network


def _check_alike(networks: Sequence[Network]) -> None:
    """Refuse networks that cannot be compared."""
    first = networks[0]
    for network in networks[1:]:
        for what in ("sizes", "dtype"):
            if getattr(network, what) != getattr(first, what):
                raise ValueError(
                    f"build returned networks of different {what}: {getattr(first, what)!r} on "
                    f"{first.backend}, {getattr(network, what)!r} on {network.backend}."
                )
