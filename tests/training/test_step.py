import numpy as np
import pytest
from helpers import parameters, tolerance

import bp_xp
from bp_xp import SGD, Adagrad, Adam, AdamW, NAdam, Network, RMSprop, to_numpy
from bp_xp.engines import plain
from bp_xp.math import dropout
from bp_xp.math.regularization import Regularization
from bp_xp.training import evaluation
from bp_xp.training.step import Rule, State, make_step


def test_a_step_is_a_function_of_arrays_alone(where, target, data, dtype):
    """Nothing goes in but the state, x and y, and nothing is read back."""
    x, y = data
    net = Network([3, 2], backend=target.backend, device=target.device, dtype=dtype, seed=1)
    optimizer = SGD(0.1, momentum=0.5)
    step = make_step(Rule(net.model, optimizer.update, Regularization()))
    state = State(net.layers, optimizer.init(net.layers, placement=where, dtype=dtype), ())

    state, z = step(state, where.asarray(x, dtype), where.asarray(np.eye(2)[y], dtype), xp=where.xp)

    assert tuple(z.shape) == (23, 2)
    assert z.dtype == where.dtype(dtype)
    for layer in state[0]:
        assert where.library.owns(layer.W)
        assert layer.W.dtype == where.dtype(dtype)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, momentum=0.9, nesterov=True),
        Adagrad(0.1),
        RMSprop(0.1, momentum=0.9, centered=True),
        Adam(0.1, amsgrad=True),
        AdamW(0.1, decay_biases=False),
        NAdam(0.1),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_a_step_runs_where_nothing_can_be_read_back(optimizer):
    """PyTorch's meta device has shapes and no values: float(), bool() and int() fail on it."""
    torch = pytest.importorskip("torch")
    where = bp_xp.backends.place("meta", "torch")
    xp = where.xp
    model = Network([3, 4, 2], activation="elu", cost="categorical_cross_entropy", seed=0).model
    layers = [
        bp_xp.Layer(torch.empty((o, i), device="meta"), torch.empty(o, device="meta"))
        for i, o in ((3, 4), (4, 2))
    ]
    terms = Regularization(
        l1=0.1, l2=0.1, dropout=(0.1, 0.5), clip_norm=1.0, clip_value=1.0, max_norm=1.0
    )
    rule = Rule(model, optimizer.update, terms, weighted=True, given=("learning_rate",))
    masks = dropout.init_masks(terms.dropout, model.sizes, 6, 0, asarray=where.asarray)
    state = State(layers, optimizer.init(layers, placement=where, dtype="float32"), masks)
    shapes = ((5, 6, 3), (5, 6, 2), (5, 6), (5,))
    batches = [torch.empty(shape, device="meta") for shape in shapes]

    state, zs = plain.loop(make_step(rule), state, batches, xp=xp)
    totals = evaluation.totals_of(model, True, xp, zs, *batches[1:3])

    assert zs.shape == (5, 6, 2)
    assert totals.shape == (5, 3)
    assert totals.device.type == "meta"


def test_an_optimizer_that_changes_the_form_of_parameters_is_named(make, data):
    class Wide:
        def init(self, layers, *, placement, dtype):
            return ()

        def update(self, layers, gradients, state, *, xp):
            doubled = [(xp.concat([W, W], axis=1), b) for W, b in layers]
            return [bp_xp.Layer(*pair) for pair in doubled], state

    net = make([3, 2], seed=1)
    before = parameters(net)

    with pytest.raises(ValueError, match=r"Wide.update .* shape \(2, 6\)"):
        net.fit(*data, epochs=1, batch_size=23, optimizer=Wide(), progress=False)

    assert np.array_equal(parameters(net), before)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_keeps_its_velocity_from_step_to_step(make, data, nesterov):
    """On PyTorch, +v is v itself: a step that scales it in place would lose the velocity."""
    x, y = data
    net = make([3, 2], seed=1)
    (W, b), velocity = net.layers[0], 0.0
    W, b = to_numpy(W).copy(), to_numpy(b).copy()
    for _ in range(4):
        gradient = Network.from_layers([(W, b)], dtype="float64").backprop(x, y)[0]
        both = np.concatenate([gradient.W, gradient.b[:, None]], axis=1)
        velocity = 0.9 * velocity + both
        step = 0.1 * (both + 0.9 * velocity if nesterov else velocity)
        W, b = W - step[:, :-1], b - step[:, -1]

    optimizer = SGD(0.1, momentum=0.9, nesterov=nesterov)
    net.fit(x, y, epochs=4, batch_size=23, optimizer=optimizer, shuffle=False, progress=False)

    assert np.allclose(to_numpy(net.layers[0].W), W, rtol=tolerance(net.dtype, 1e-12), atol=0)
