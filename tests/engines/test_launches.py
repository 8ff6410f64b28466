"""How many launches a step takes, where matrix products are the library's."""

import numpy as np
import pytest
from steps import begin

from bp_xp import ACTIVATIONS, COSTS, SGD, Adam, AdamW
from bp_xp._trees import map_leaves
from bp_xp.engines.kernel import PRELUDE, write_kernel
from bp_xp.engines.launches import Product, list_launches
from bp_xp.engines.operations import list_operations
from bp_xp.math.model import Model
from bp_xp.math.regularization import Regularization


def launches_of(sizes, optimizer, *, batch=10, output="sigmoid", cost="quadratic", terms=None):
    hidden = (ACTIVATIONS["relu"],) * (len(sizes) - 2)
    model = Model(sizes, (*hidden, ACTIVATIONS[output]), COSTS[cost])
    step, state, batches = begin(model, optimizer, terms, "float32", steps=1, batch=batch)
    forms = map_leaves(lambda one: np.ones(one.shape, one.dtype), (state, [b[0] for b in batches]))
    return list_launches(list_operations(step, *forms))


DROPOUT = Regularization(dropout=(0.0, 0.5))


@pytest.mark.parametrize(
    ("launches", "products", "sizes", "options"),
    [
        (9, 5, (784, 30, 10), {"optimizer": SGD(0.1)}),
        (9, 5, (784, 30, 10), {"optimizer": SGD(0.1, momentum=0.9)}),
        (10, 5, (784, 30, 10), {"optimizer": Adam()}),
        (10, 5, (784, 30, 10), {"optimizer": AdamW()}),
        (11, 5, (784, 30, 10), {"optimizer": Adam(), "terms": DROPOUT}),
        # As [784, 512, 512, 10]: the number does not depend on the width.
        (14, 8, (78, 51, 51, 10), {"optimizer": SGD(0.1), "batch": 128}),
        (15, 8, (78, 51, 51, 10), {"optimizer": Adam(), "batch": 128}),
        (
            19,
            8,
            (78, 51, 51, 10),
            {"optimizer": Adam(), "output": "softmax", "cost": "categorical_cross_entropy"},
        ),
    ],
)
def test_a_step_takes_few_launches(launches, products, sizes, options):
    found = launches_of(sizes, **options)
    assert len(found) == launches
    assert sum(isinstance(one, Product) for one in found) == products


def test_a_launch_reads_nothing_that_a_later_one_writes_first():
    written = {f"{kind}{i}" for kind in "sxc" for i in range(100)}
    for one in launches_of((7, 6, 5, 3), Adam(), terms=Regularization(dropout=(0.1, 0.5, 0.5))):
        if isinstance(one, Product):
            assert {one.left.buffer, one.right.buffer} <= written
            written.add(one.out.buffer)
        else:
            outs = {operation.out.buffer for operation in one.operations}
            read = {view.buffer for operation in one.operations for view in operation.views}
            assert read - outs <= written
            written |= outs
            # What lives within a launch alone is known to no other.
            written = {name for name in written if name[0] != "t"}


def test_the_factors_of_a_product_are_views_of_their_buffers():
    first, *_ = (one for one in launches_of((7, 6, 3), SGD(0.1)) if isinstance(one, Product))
    assert (first.left.buffer, first.left.shape, first.left.strides) == ("x0", (10, 7), (7, 1))
    assert (first.right.buffer, first.right.shape, first.right.strides) == ("s0", (7, 6), (1, 7))
    assert str(first) == f"{first.out.buffer} = x0(10, 7) @ s0(7, 6)"


@pytest.mark.compiler
def test_nvrtc_compiles_the_kernel_of_each_launch_without_a_warning():
    nvrtc = pytest.importorskip("cupy.cuda").nvrtc
    try:
        nvrtc.getVersion()
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"NVRTC is not installed: {type(error).__name__}")
    defined = "#define BLOCK 256\n#define BLOCKS 1\n#define CLUSTERED 0\n"
    for one in launches_of((7, 6, 3), Adam(), terms=Regularization(l1=0.1, dropout=(0.1, 0.5))):
        if not isinstance(one, Product):
            source = write_kernel(one, threads=512).source
            program = nvrtc.createProgram(defined + PRELUDE + source, "kernel.cu", (), ())
            nvrtc.compileProgram(program, ("--std=c++17", "-Werror", "all-warnings"))
