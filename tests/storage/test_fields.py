"""Files whose checksum is right, and whose content is not."""

import copy
import itertools
import math
import random

import numpy as np
import pytest
from safetensors.numpy import save

from bp_xp import (
    Adam,
    Checkpoint,
    CheckpointError,
    EarlyStopping,
    Network,
    ReduceOnPlateau,
    StopWhen,
)
from bp_xp.storage import tensors as tensor_files
from bp_xp.storage.network_file import read
from bp_xp.storage.tensors import read_tensors
from bp_xp.training.checkpoint import history_of

EPOCHS = 4


def train(checkpoint, **options):
    """Train a small network with all that leaves something in a checkpoint."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2)), np.arange(12) % 2
    return Network([2, 3, 1], cost="binary_cross_entropy", seed=1).fit(
        x,
        y,
        epochs=EPOCHS,
        batch_size=4,
        optimizer=Adam(ReduceOnPlateau(0.05, patience=1, monitor="validation_f1")),
        dropout=0.2,
        validation_data=(x, y),
        metrics=["f1", "r2"],
        early_stopping=EarlyStopping("validation_accuracy", patience=9),
        checkpoint=checkpoint,
        progress=False,
        **options,
    )


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Tensors and header of a run that stopped after the second of three steps of its epoch 3."""
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    steps = itertools.count(1)
    train(Checkpoint(path, every=1), callbacks=StopWhen(lambda: next(steps) == 8))
    tensors, header = read_tensors(path)
    assert [header["run"][name] for name in ("epoch", "place", "step")] == [3, 2, 8]
    assert header["run"]["best_epoch"] is not None
    return tensors, header


@pytest.fixture
def use(tmp_path):
    """Return a function that signs content again, and reads the file in every way."""
    path = tmp_path / "run.safetensors"

    def use(tensors, header):
        # write_tensors would refuse some of what is written here.
        path.write_bytes(save(tensors, {"bp_xp": tensor_files._record(tensors, header)}))
        content = read(path)
        Network.load(path)
        if content.run is not None:
            history_of(content.run)
        return train(Checkpoint(tmp_path / "again.safetensors", resume=path, overwrite=True))

    return use


def changed(header, place, value):
    """Return a copy of a header with another value at one place in it."""
    header = copy.deepcopy(header)
    *way, last = place
    part = header
    for key in way:
        part = part[key]
    part[last] = value
    return header


def test_what_is_changed_here_was_whole(content, use):
    assert len(use(*content)) == EPOCHS


# ---------------------------------------------------------------------------------------------
# Fields that lie

NO_COUNTS = (-1, 1.5, True, None, "1", [], {}, 2**53, 10**400)
NO_TEXT = (None, 3, [], {}, "")
NO_GENERATORS = (None, {}, [], "PCG64", 0)

LIES = {
    ("kind",): (None, 3, [], {}, "networks"),
    ("network",): (None, 3, [], {}, "network"),
    ("run",): (None, 3, [], {}, "run"),
    ("network", "sizes"): (None, 3, [], [2], [2, 3], [2, 3, True], [2, -3, 1], "231", [2, 3, "1"]),
    ("network", "activations"): (None, "sigmoid", [], ["sigmoid"], [1, 2], ["relu", "none"]),
    ("network", "cost"): (*NO_TEXT, "none"),
    ("network", "dtype"): (*NO_TEXT, "float16", "float64", "<f4"),
    ("network", "seed"): (-1, 1.5, True, None, "1", [], {}),
    ("network", "own"): (None, 3, [], {"activation sigmoid": 3}, {"cost mine": ["one"]}),
    ("network", "generator"): NO_GENERATORS,
    ("run", "order"): NO_GENERATORS,
    ("run", "begun"): NO_GENERATORS,
    ("network", "generator", "bit_generator"): (*NO_TEXT, "MT19937", "Generator"),
    ("network", "generator", "state"): (None, 3, [], {}),
    ("network", "generator", "state", "state"): (-1, 1.5, True, None, "1", 2**128),
    ("run", "order", "state", "inc"): (-1, 1.5, True, None, "1", 2**128),
    ("run", "begun", "has_uint32"): (-1, 0.0, None, 2, "0", False),
    ("run", "begun", "uinteger"): (-1, 1.5, None, 2**32, "0"),
    ("run", "epoch"): (*NO_COUNTS, 0, 2, 4),
    ("run", "place"): (*NO_COUNTS, 0, 1, 3),
    ("run", "step"): (*NO_COUNTS, 0, 3),
    ("run", "best_epoch"): (-1, 0, 3, 1.0, True, "1", []),
    ("run", "history"): (None, 3, "no", {}, [], [None, None], [3, 4], [{}, {}]),
    ("run", "history", 0, "epoch"): (*NO_COUNTS, 0, 2),
    ("run", "history", 1, "cost"): (None, "nan", math.nan, math.inf, True, [], {}, 10**400),
    ("run", "history", 0, "accuracy"): (None, "1", True, [], math.nan),
    ("run", "history", 1, "validation_cost"): (None, "low", [], math.nan),
    ("run", "history", 1, "validation_accuracy"): (None, "high", {}, "nan", "inf"),
    ("run", "history", 0, "seconds"): (None, -1.0, "1", math.inf),
    ("run", "history", 0, "samples_per_second"): (None, -1.0, "1", math.inf),
    ("run", "history", 1, "loss"): (0.5,),
    ("run", "history", 0, "metrics"): (None, 3, [], {}, {"validation_f1": 1.0}),
    ("run", "history", 1, "metrics", "validation_f1"): (None, "high", [], {}, [1.0]),
    ("run", "settings"): (None, 3, [], {}, "as ever"),
    ("run", "settings", "metrics"): (None, 3, "f1", {}, [], ["f1"], [1, 2]),
    ("run", "settings", "batch_size"): (None, 0, "4"),
    ("run", "settings", "optimizer"): (None, [], "adam", {}),
}


@pytest.mark.parametrize(
    ("place", "lie"),
    [
        pytest.param(place, lie, id=f"{'-'.join(map(str, place))}-{str(lie)[:20]}")
        for place, lies in LIES.items()
        for lie in lies
    ],
)
def test_a_field_that_lies_is_refused(content, use, place, lie):
    tensors, header = content
    with pytest.raises(CheckpointError, match=r"run\.safetensors"):
        use(tensors, changed(header, place, lie))


# ---------------------------------------------------------------------------------------------
# At random

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**53, 2**64, 2**128, -(2**63), 10**400),
    *(0.0, -0.5, 1.5, 1e308, math.nan, math.inf, -math.inf),
    *("", "1", "nan", "inf", "relu", "PCG64", "float64", "\x00", "σ" * 500),
    *([], [1], [None], {}, {"epoch": 1}, {"kind": "Adam"}, [[[[]]]]),
)


def parts_of(value, way=()):
    """Yield where there is something in nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield (*way, key)
        if isinstance(part, dict | list):
            yield from parts_of(part, (*way, key))


def change_header(header, chance):
    """Change a header at one place: another value, none at all, one more, or another's."""
    header = copy.deepcopy(header)
    places = list(parts_of(header))
    *way, last = chance.choice(places)
    part = header
    for key in way:
        part = part[key]
    what = chance.choice(["another", "another", "another", "none", "more", "moved", "nudged"])
    if what == "none":
        del part[last]
    elif what == "more" and isinstance(part, list):
        part.insert(last, chance.choice(VALUES))
    elif what == "more":
        part[chance.choice(["more", "layers", "state", ""])] = chance.choice(VALUES)
    elif what == "moved":
        other = header
        for key in chance.choice(places):
            other = other[key]
        part[last] = copy.deepcopy(other)
    elif what == "nudged" and type(part[last]) in (int, float):
        part[last] += chance.choice([-1, 1, 0.5])
    else:
        part[last] = chance.choice(VALUES)
    return header


def change_tensors(tensors, chance):
    """Change one of the tensors: its shape, dtype or name, or whether it is there."""
    tensors = dict(tensors)
    name = chance.choice(sorted(tensors))
    array = tensors[name]
    match chance.choice(["none", "name", "more", "shape", "longer", "dtype", "empty"]):
        case "none":
            del tensors[name]
        case "name":
            tensors[chance.choice([*tensors, "more", "state.99", "layers.7.W"])] = tensors.pop(name)
        case "more":
            tensors[chance.choice(["more", "state.30", "state.-1", "best.2.b"])] = array
        case "shape":
            tensors[name] = array.reshape((1, *array.shape[::-1]))
        case "longer":
            tensors[name] = np.concatenate([array.ravel(), array.ravel()])
        case "dtype":
            kinds = {"bool", "int8", "int64", "float32", "float64"} - {array.dtype.name}
            tensors[name] = array.astype(chance.choice(sorted(kinds)))
        case "empty":
            tensors[name] = array.ravel()[:0]
    return tensors


@pytest.mark.parametrize("part", range(10))
def test_what_is_changed_at_random_is_refused_or_works(content, use, part):
    refused = []
    for seed in range(50 * part, 50 * part + 50):
        chance = random.Random(seed)
        tensors, header = content
        if chance.random() < 0.75:
            header = change_header(header, chance)
        else:
            tensors = change_tensors(tensors, chance)
        try:
            assert len(use(tensors, header)) == EPOCHS, f"seed {seed}"
        except CheckpointError as error:
            refused.append(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert len(refused) > 25
    assert all("run.safetensors" in message for message in refused)
