"""``trainable=``: some layers stay as they are, and the others learn as if they were all."""

import itertools

import numpy as np
import pytest
from helpers import assert_layers_agree, on_host

from bp_xp import SGD, Adam, AdamW, Checkpoint, CheckpointError, Network, to_numpy

SIZES = [3, 4, 5, 2]
CHOICES = [choice for choice in itertools.product([True, False], repeat=3) if 0 < sum(choice) < 3]
TERMS = {
    "none": {},
    "l2": {"l2": 0.3},
    "l2 by layer": {"l2": [0.1, 0.2, 0.4]},
    "l1 by layer": {"l1": [0.1, 0.0, 0.2]},
    "clip_norm": {"clip_norm": 0.05},
    "clip_value": {"clip_value": 0.02},
    "max_norm": {"max_norm": 0.4},
    "all": {"l1": 0.01, "l2": 0.1, "clip_norm": 0.1, "max_norm": 0.5},
}


def shaped(gradients, layers, l1=0.0, l2=0.0, clip_norm=None, clip_value=None, learns=(), **_):
    """Return gradients, as lists [dW, db], with the terms that are asked for."""
    l1, l2 = (
        [one for one, is_on in zip(by, learns, strict=True) if is_on]
        if isinstance(by, list)
        else [by] * len(layers)
        for by in (l1, l2)
    )
    for gradient, (W, _), one, two in zip(gradients, layers, l1, l2, strict=True):
        gradient[0] = gradient[0] + two * W + one * np.sign(W)
    if clip_value is not None:
        gradients = [[np.clip(g, -clip_value, clip_value) for g in pair] for pair in gradients]
    if clip_norm is not None:
        norm = np.sqrt(sum((g * g).sum() for pair in gradients for g in pair))
        gradients = [[g * min(1.0, clip_norm / norm) for g in pair] for pair in gradients]
    return gradients


def momentum(learning_rate, mu):
    velocity = {}

    def step(key, w, g):
        velocity[key] = mu * velocity.get(key, 0.0) + g
        return w - learning_rate * velocity[key]

    return step


def adamw(learning_rate, decay):
    means = {}

    def step(key, w, g):
        m, v, t = means.get(key, (0.0, 0.0, 0))
        m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, t + 1
        means[key] = m, v, t
        w = (1.0 - learning_rate * decay) * w
        return w - learning_rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return step


OPTIMIZERS = {
    "SGD with momentum": (SGD(0.3, momentum=0.9), lambda: momentum(0.3, 0.9)),
    "AdamW": (AdamW(0.05, weight_decay=0.2), lambda: adamw(0.05, 0.2)),
}


def learned_by_hand(net, x, y, steps, step, trainable, max_norm=None, **terms):
    """Return the layers after some steps of full batches, in which only some layers take part."""
    hand = Network.from_layers(on_host(net.layers), activation="tanh", dtype="float64")
    for _ in range(steps):
        gradients = [
            list(pair) for pair, on in zip(hand.backprop(x, y), trainable, strict=True) if on
        ]
        layers = [list(pair) for pair, on in zip(hand.layers, trainable, strict=True) if on]
        gradients = shaped(gradients, layers, learns=trainable, **terms)
        for l, (layer, gradient) in enumerate(zip(layers, gradients, strict=True)):  # noqa: E741
            layer[:] = [
                step((l, i), w, g) for i, (w, g) in enumerate(zip(layer, gradient, strict=True))
            ]
            if max_norm is not None:
                norms = np.linalg.norm(layer[0], axis=1, keepdims=True)
                layer[0] = layer[0] * np.minimum(1.0, max_norm / norms)
        moved = iter(layers)
        hand.layers = [
            next(moved) if on else old for old, on in zip(hand.layers, trainable, strict=True)
        ]
    return on_host(hand.layers)


def bits(layer):
    return [to_numpy(part).tobytes() for part in layer]


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize(("optimizer", "by_hand"), OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("trainable", CHOICES, ids=str)
def test_frozen_layers_keep_their_bits_and_the_others_learn_as_if_alone(
    make, data, where, trainable, optimizer, by_hand, terms
):
    x, y = data
    net = make(SIZES, activation="tanh", seed=1)
    before = [bits(layer) for layer in net.layers]
    wanted = learned_by_hand(net, x, y, 3, by_hand(), trainable, **terms)

    net.fit(
        x, y, epochs=3, batch_size=23, shuffle=False, optimizer=optimizer,
        trainable=list(trainable), progress=False, **terms,
    )  # fmt: skip

    assert_layers_agree(net.layers, wanted, where, eps=512)
    for layer, old, learns in zip(net.layers, before, trainable, strict=True):
        assert (bits(layer) == old) is not learns


def test_dropout_reaches_frozen_layers_and_leaves_them_as_they_are(make, data):
    nets = [make(SIZES, seed=1) for _ in range(2)]
    before = bits(nets[0].layers[1])
    for net, dropout in zip(nets, (0.5, 0.0), strict=True):
        net.fit(*data, epochs=2, dropout=dropout, trainable=[True, False, True], progress=False)
        assert bits(net.layers[1]) == before
    assert bits(nets[0].layers[2]) != bits(nets[1].layers[2])


def test_all_layers_named_are_all_layers(make, data):
    nets = [make(SIZES, seed=1) for _ in range(2)]
    for net, trainable in zip(nets, (None, [True, True, True]), strict=True):
        net.fit(*data, epochs=2, trainable=trainable, progress=False)
    assert list(map(bits, nets[0].layers)) == list(map(bits, nets[1].layers))


@pytest.mark.parametrize(
    ("trainable", "error", "message"),
    [
        ([False, False, False], ValueError, "trainable is False for every layer"),
        ([True, False], ValueError, "one for each of the 3 layers, not 2"),
        ([True, False, 1], TypeError, "trainable must be True or False, not 1"),
        (False, TypeError, "a list of True and False, one for each of the 3 layers"),
    ],
)
def test_what_does_not_say_which_layers_learn_is_refused(data, trainable, error, message):
    net = Network(SIZES, seed=1)
    before = list(map(bits, net.layers))
    with pytest.raises(error, match=message):
        net.fit(*data, trainable=trainable)
    assert list(map(bits, net.layers)) == before


@pytest.mark.parametrize("now", [None, [True, False, True]], ids=["all", "others"])
def test_a_run_is_not_resumed_with_other_layers_frozen(data, tmp_path, now):
    path = tmp_path / "run.safetensors"
    settings = {"optimizer": Adam(0.01), "progress": False}
    Network(SIZES, seed=1).fit(
        *data, epochs=1, checkpoint=path, trainable=[False, True, True], **settings
    )
    message = r"trainable was \[False, True, True\] and is now"
    with pytest.raises(CheckpointError, match=message):
        Network(SIZES, seed=1).fit(
            *data, epochs=2, checkpoint=Checkpoint(path, resume=True), trainable=now, **settings
        )


def test_a_run_with_frozen_layers_is_resumed(make, data, tmp_path):
    path = tmp_path / "run.safetensors"
    settings = {"optimizer": Adam(0.01), "trainable": [True, False, True], "progress": False}
    whole, cut, again = (make(SIZES, seed=1) for _ in range(3))
    whole.fit(*data, epochs=4, **settings)
    cut.fit(*data, epochs=2, checkpoint=path, **settings)
    again.fit(*data, epochs=4, checkpoint=Checkpoint(path, resume=path), **settings)
    assert list(map(bits, again.layers)) == list(map(bits, whole.layers))


def test_a_warm_start_with_other_layers_frozen_is_refused(data):
    net = Network(SIZES, seed=1)
    net.partial_fit(*data, trainable=[True, False, True])
    with pytest.raises(ValueError, match=r"trainable=\[True, False, True\], not None"):
        net.partial_fit(*data)
