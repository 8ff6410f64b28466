"""A training step in few launches: the library's matrix products, and one kernel between them.

For networks that are too large for one kernel (:mod:`bp_xp.engines.kernel`), the library multiplies
matrices faster than a kernel written here. All other operations of a step are elementwise, or small
sums, and would wait for launches if each were one. Here everything between two products, or between
two barriers, is one launch: bias, σ and the error of the outputs; δ ⊙ σ′; the sums over samples,
the optimizer's rule for every parameter and the hashes of dropout.

A step of plain gradient descent with two layers, for example, is nine launches:

    x W¹ᵀ | z¹, a¹ | a¹ W²ᵀ | z², a², δ² | δ² W² | δ¹ | δ¹ᵀ x, δ²ᵀ a¹ | W¹, W², b¹, b²
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bp_xp.engines.kernel import phases_of
from bp_xp.engines.operations import PRODUCT, SUM, Operation, OperationList, View

__all__ = ["Product", "list_launches"]


@dataclass(frozen=True)
class Product:
    """A product of matrices, for the library.

    Attributes:
        out: the result, shape (..., N, O).
        left: the first factor, shape (..., N, K).
        right: the second, shape (..., K, O).
    """

    out: View
    left: View
    right: View

    @property
    def views(self) -> list[View]:
        """All three."""
        return [self.out, self.left, self.right]

    def __str__(self) -> str:
        left, right = self.left, self.right
        return f"{self.out.buffer} = {left.buffer}{left.shape} @ {right.buffer}{right.shape}"


def list_launches(step: OperationList) -> list[Product | OperationList]:
    """Return the launches of a step in order: products, and groups of operations for a kernel.

    The name of a temporary that is used by more than one launch begins with ``h``.
    """
    phases = phases_of(step.operations, alone=_is_product)
    launches: list[list[Operation]] = []
    for phase in range(max(phases) + 1):
        here = [one for one, at in zip(step.operations, phases, strict=True) if at == phase]
        launches += [[one] for one in here if _is_product(one)]
        if rest := [one for one in here if not _is_product(one)]:
            launches.append(rest)
    held = _held(launches)

    def kept(view: View) -> View:
        return replace(view, buffer=held.get(view.buffer, view.buffer))

    def kept_in(one: Operation) -> Operation:
        inputs = (kept(v) if isinstance(v, View) else v for v in one.inputs)
        return replace(one, out=kept(one.out), inputs=tuple(inputs))

    sizes = step.sizes | {new: step.sizes[old] for old, new in held.items()}
    dtypes = step.dtypes | {new: step.dtypes[old] for old, new in held.items()}
    return [
        _product(kept_in(ones[0]))
        if _is_product(ones[0])
        else replace(step, operations=[kept_in(one) for one in ones], sizes=sizes, dtypes=dtypes)
        for ones in launches
    ]


def _is_product(one: Operation) -> bool:
    return one.combine == SUM and one.expression == PRODUCT


def _product(one: Operation) -> Product:
    """Return the product equivalent to an operation over entries (..., i, j) and terms k."""
    left, right = one.views
    return Product(one.out, _without(left, -2), _transposed(_without(right, -3)))


def _without(view: View, axis: int) -> View:
    """Return a view without an axis along which nothing changes."""
    shape, strides = list(view.shape), list(view.strides)
    del shape[axis], strides[axis]
    return replace(view, shape=tuple(shape), strides=tuple(strides))


def _transposed(view: View) -> View:
    (*lead, rows, columns), (*others, down, along) = view.shape, view.strides
    return replace(view, shape=(*lead, columns, rows), strides=(*others, along, down))


def _held(launches: Sequence[Sequence[Operation]]) -> dict[str, str]:
    """Return new names for the temporaries that a product or more than one launch uses."""
    users: dict[str, set[int]] = {}
    for i, ones in enumerate(launches):
        for one in ones:
            for view in (*one.views, one.out):
                # The library computes a product, and has no access to temporaries of a kernel.
                users.setdefault(view.buffer, set()).update({i, -1} if _is_product(one) else {i})
    return {
        name: f"h{name[1:]}" for name, used in users.items() if name[0] == "t" and len(used) > 1
    }
