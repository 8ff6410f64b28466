"""Samples that come in batches: from functions, loaders and lists, begun again at each epoch."""

import numpy as np
import pytest
from helpers import parameters, tolerance

from bp_xp import SGD, Adam, Callback, Checkpoint, Network, to_numpy
from bp_xp.sources import make_source

N, COLUMNS = 40, 5


@pytest.fixture
def samples(rng):
    """Inputs (40, 5) and labels of three classes."""
    return rng.standard_normal((N, COLUMNS)), rng.integers(0, 3, N)


class Batches:
    """A function that makes an iterator over batches, and counts how often it was called."""

    def __init__(self, *parts, size=8):
        self.batches = [tuple(one[k : k + size] for one in parts) for k in range(0, N, size)]
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return iter(self.batches)


def in_float64(sizes, **options):
    return Network(sizes, dtype="float64", **options)


def network(make=in_float64, **options):
    settings = {"cost": "categorical_cross_entropy", "seed": 3} | options
    return make([COLUMNS, 4, 3], **settings)


def fitted(x, y=None, make=in_float64, **options):
    net = network(make)
    options = {"epochs": 3, "optimizer": SGD(0.5), "progress": False} | options
    return net, net.fit(x, y, **options)


def in_memory(samples, make=in_float64, **options):
    """The run on the same rows in the same order."""
    return fitted(*samples, make, **({"shuffle": False, "batch_size": 8} | options))


def assert_same_run(one, other):
    (net, history), (twin, record) = one, other
    for some, others in zip(parameters(net), parameters(twin), strict=True):
        assert np.allclose(some, others, rtol=0, atol=tolerance(net.dtype, 0.0))
    assert history["cost"] == pytest.approx(record["cost"], rel=tolerance(net.dtype, 1e-14))
    assert history.steps == record.steps


# ---------------------------------------------------------------------------------------------
# The run


def test_a_function_that_yields_batches_gives_the_run_of_its_rows_in_order(samples, make):
    batches = Batches(*samples)
    assert_same_run(fitted(batches, make=make), in_memory(samples, make))
    assert batches.calls == 3  # what is begun to look at the first batch serves the first epoch


@pytest.mark.parametrize("size", [1, 3, 7, 40])
def test_mini_batches_are_cut_anew_where_a_size_is_named(samples, size):
    batches = Batches(*samples, size=size)
    assert_same_run(fitted(batches, batch_size=8), in_memory(samples))
    assert_same_run(fitted(batches), in_memory(samples, batch_size=size))


def test_batches_bring_weights_and_classes_have_theirs(samples, rng):
    weights = rng.integers(0, 2, N).astype(float)
    weights[:8] = 0.0  # a whole batch
    options = {"class_weight": {1: 3.0}}
    assert_same_run(
        fitted(Batches(*samples, weights), **options),
        in_memory(samples, sample_weight=weights, **options),
    )
    assert_same_run(fitted(Batches(*samples), **options), in_memory(samples, **options))


def test_a_list_of_batches_can_be_gone_through_again(samples):
    assert_same_run(fitted(Batches(*samples).batches), in_memory(samples))


def test_a_loader_of_pytorch_is_read_and_its_tensors_stay_tensors(samples, monkeypatch):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(*map(torch.from_numpy, samples))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    assert_same_run(fitted(loader), in_memory(samples))  # a network of NumPy has what it needs

    def on_torch(*arguments, **options):
        return Network(*arguments, backend="torch", dtype="float64", **options)

    wanted = in_memory(samples, on_torch)
    moved = []
    from_numpy = type(network(on_torch).placement.library).from_numpy
    monkeypatch.setattr(
        type(network(on_torch).placement.library),
        "from_numpy",
        lambda self, values, device: moved.append(values.shape) or from_numpy(self, values, device),
    )
    net, history = fitted(loader, make=on_torch)
    monkeypatch.undo()
    assert_same_run((net, history), wanted)
    assert not [shape for shape in moved if shape[-1:] == (COLUMNS,) and len(shape) == 3]


def test_validation_data_may_come_in_batches(samples, make):
    batches = Batches(*samples, size=7)
    one = fitted(batches, make=make, batch_size=8, validation_data=batches, metrics="f1_macro")[1]
    other = in_memory(samples, make, validation_data=samples, metrics="f1_macro")[1]
    for name in ("validation_cost", "validation_accuracy", "validation_f1_macro"):
        assert one[name] == pytest.approx(other[name], rel=tolerance(network(make).dtype, 1e-13))


def test_batches_are_evaluated_and_predicted(samples, make):
    net, batches = network(make), Batches(*samples, size=7)
    wanted = net.evaluate(*samples, metrics="f1_macro")
    assert net.evaluate(batches, metrics="f1_macro") == pytest.approx(wanted)
    assert np.array_equal(to_numpy(net.predict(batches)), to_numpy(net.predict(samples[0])))
    inputs = [x for x, _ in batches.batches]
    assert np.array_equal(
        to_numpy(net.predict(lambda: iter(inputs))), to_numpy(net.predict(samples[0]))
    )


class StopAt(Callback):
    def __init__(self, step):
        self.every = step

    def on_steps(self, network, history, step):
        return True


@pytest.mark.parametrize("step", [1, 4, 5, 6, 12])
def test_a_run_goes_on_at_any_step_with_equal_bits(samples, tmp_path, monkeypatch, step):
    from bp_xp.engines import replay

    monkeypatch.setattr(replay, "_STEPS_BEFORE", 8)  # some by the plain loop, others replayed
    options = {"optimizer": Adam(0.05), "dropout": 0.2}
    whole = fitted(Batches(*samples), **options)
    path = tmp_path / "run.safetensors"
    kept = Checkpoint(path, every=step)
    fitted(Batches(*samples), checkpoint=kept, callbacks=[StopAt(step)], **options)

    again = fitted(Batches(*samples), checkpoint=Checkpoint(path, resume=True), **options)

    assert all(map(np.array_equal, parameters(again[0]), parameters(whole[0])))
    assert again[1]["cost"] == whole[1]["cost"]


# ---------------------------------------------------------------------------------------------
# What is refused


class Once:
    """Begins again where it has ended."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


class Boastful(list):
    def __len__(self):
        return super().__len__() + 2


def test_what_can_not_begin_again_is_refused_with_the_remedy(samples):
    batches = Batches(*samples)
    for one in (batches(), (batch for batch in batches.batches)):
        with pytest.raises(TypeError, match=r"x is an iterator .*pass the function that makes it"):
            fitted(one)
    with pytest.raises(TypeError, match="validation_data is an iterator"):
        fitted(batches, validation_data=batches())
    with pytest.raises(ValueError, match="x yielded no batches when it was restarted"):
        fitted(Once(batches.batches))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: iter(()), ValueError, "x yielded no batches: there is nothing"),
        (lambda: 3, TypeError, "iterable of batches .*, not int"),
        (lambda: [np.zeros((4, COLUMNS))], TypeError, "batch 0: it must be .* not a ndarray"),
        (lambda: [(1, 2, 3, 4)], TypeError, "batch 0: it must be .* not a tuple of 4"),
        (np.zeros((4, COLUMNS)), TypeError, "y is missing"),
        ("x.npy", TypeError, "Is it a path"),
        (3, TypeError, "iterable of batches .*, not int"),
    ],
)
def test_what_yields_no_batches_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        fitted(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :3], y), "x has 3 features"),
        (lambda x, y: (x, y[:2]), "y has 2 rows but the samples have 8"),
        (lambda x, y: (np.where(x == x[5, 2], np.nan, x), y), "x contains NaN.* row 5, column 2"),
        (lambda x, y: (x, y + 7), "label . at row 0 of y"),
        (lambda x, y: (x.astype("float32"), y), r"\(float32, 2\), \(int64, 1\), but batch 0 had"),
        (lambda x, y: (x, np.eye(3)[y]), r"\(float64, 2\), but batch 0 had"),
        (lambda x, y: (x, y, np.ones(8)), "all batches must be alike"),
        (lambda x, y: (x, y, y, y), "must be"),
        (lambda x, y: (x[:0], y[:0]), "x has 0 sample"),
    ],
)
def test_a_batch_that_is_not_like_the_first_is_named_by_its_number(samples, change, message):
    batches = Batches(*samples).batches
    batches[3] = change(*batches[3])
    with pytest.raises((ValueError, TypeError), match=f"^x, batch 3: .*{message}"):
        fitted(batches)


def test_targets_that_are_no_classes_after_some_that_are_are_refused(samples):
    x, y = samples
    batches = Batches(x, np.eye(3)[y]).batches
    batches[2] = (batches[2][0], np.full((8, 3), 1 / 3))
    with pytest.raises(ValueError, match="batch 2: y has targets that are not one class each"):
        fitted(batches)


def test_an_epoch_that_ends_early_is_refused(samples, tmp_path):
    batches = Batches(*samples)
    with pytest.raises(ValueError, match=r"x ended after 5 batches, but its len\(\) is 7"):
        fitted(Boastful(batches.batches))
    path = tmp_path / "run.safetensors"
    fitted(batches, checkpoint=Checkpoint(path, every=4), callbacks=[StopAt(4)])
    with pytest.raises(ValueError, match="x ended after 16 rows, but the resumed run had"):
        fitted(batches.batches[:2], checkpoint=Checkpoint(path, resume=True))


def test_batches_bring_their_targets(samples):
    with pytest.raises(TypeError, match=r"x yields batches \(x, y\), .* leave y out"):
        fitted(Batches(*samples), samples[1])


def test_two_shares_begin_each_by_itself(samples):
    net, batches = network(), Batches(*samples)
    source = make_source(net.model, batches, None, placement=net.placement, dtype=net.dtype)
    shares = [source.share(rank, 2) for rank in range(2)]
    rows = [sum(len(part[0]) for part in share.blocks(8)) for share in shares]
    assert rows == [N // 2, N // 2]
    assert batches.calls == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample_weight": np.ones(N)}, TypeError, "batches have weights"),
        ({"class_weight": "balanced"}, ValueError, "pass a dictionary"),
        ({"class_weight": {9: 1.0}}, ValueError, "class_weight has the label 9"),
        ({"validation_data": 0.2}, ValueError, "read when needed"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_options_that_need_all_samples_are_refused(samples, options, error, message):
    with pytest.raises(error, match=message):
        fitted(Batches(*samples), **options)


# ---------------------------------------------------------------------------------------------
# Lists, loaders of others, and what is wrong with them


def test_a_list_of_batches_is_taken_wherever_batches_are(samples):
    x, y = samples
    batches = [(x[k : k + 8], y[k : k + 8]) for k in range(0, N, 8)]
    net, history = fitted(x, y, validation_data=batches)
    assert_same_run((net, history), fitted(x, y, validation_data=lambda: iter(batches)))
    assert history["validation_cost"] == pytest.approx(
        fitted(x, y, validation_data=(x, y))[1]["validation_cost"]
    )
    np.testing.assert_array_equal(net.predict(batches), net.predict(x))
    # Two parts that are no tuples are inputs and targets.
    assert fitted(x, y, validation_data=[x, y])[1]["validation_cost"] == pytest.approx(
        history["validation_cost"]
    )


def test_tensors_on_a_cpu_are_predicted_from(samples):
    torch = pytest.importorskip("torch")
    x, _ = samples
    net = network()
    batches = [(torch.from_numpy(x[:8]),), torch.from_numpy(x[8:])]
    np.testing.assert_array_equal(net.predict(lambda: iter(batches)), net.predict(x))


def test_batches_of_no_weight_have_no_mean(samples):
    weightless = Batches(*samples, np.zeros(N))
    for use in (
        lambda: fitted(weightless),
        lambda: network().evaluate(weightless),
        lambda: fitted(*samples, validation_data=weightless),
    ):
        with pytest.raises(ValueError, match="weight is zero for every sample"):
            use()


def test_nothing_to_predict_from_is_told():
    with pytest.raises(ValueError, match="x yielded no batches"):
        network().predict(lambda: iter([]))
