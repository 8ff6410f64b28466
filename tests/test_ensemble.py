"""An ensemble: each member is what it is alone."""

import pickle

import numpy as np
import pytest
from helpers import tolerance, widest

from bp_xp import (
    SGD,
    Adam,
    Callback,
    Checkpoint,
    CheckpointError,
    DivergenceError,
    Ensemble,
    Network,
    PerMember,
    ReduceOnPlateau,
    StepDecay,
    to_numpy,
)
from bp_xp.storage import ensemble_file
from bp_xp.storage.network_file import Section

MEMBERS, SIZES = 3, [5, 4, 3]
VALUES = ("cost", "accuracy", "validation_cost", "validation_accuracy")
HIDDEN_RATES = [0.0, 0.3, [0.2, 0.1]]  # the last one has a rate of the inputs as well

CASES = {
    "own order": {"optimizer": SGD(0.5)},
    "as they come": {"optimizer": SGD(0.5), "shuffle": False},
    "held out": {
        "optimizer": PerMember(Adam(rate) for rate in (0.1, 0.01, 0.2)),
        "validation_data": 0.3,
        "metrics": "f1",
        "dropout": 0.3,
    },
    "own terms": {
        "optimizer": PerMember(
            SGD(rate, momentum=mu) for rate, mu in ((0.1, 0.9), (0.01, 0.5), (0.2, 0.1))
        ),
        "dropout": PerMember(HIDDEN_RATES),
        "l1": PerMember([0.0, 0.1, 0.02]),
        "l2": PerMember([0.0, 0.1, [0.1, 0.2]]),
        "clip_norm": PerMember([None, 0.1, 1.0]),
        "clip_value": PerMember([0.01, None, 0.1]),
        "max_norm": PerMember([None, 1.0, 0.5]),
        "sample_weight": np.random.default_rng(1).random((MEMBERS, 23)),
        "validation_data": 0.3,
    },
    "own schedules": {
        "optimizer": PerMember(
            SGD(rate)
            for rate in (
                ReduceOnPlateau(0.9, monitor="cost", patience=1),
                0.1,
                StepDecay(0.5, 0.5, every=3),
            )
        )
    },
    "own rates by layer": {"optimizer": PerMember([SGD([0.1, 0.5]), SGD(0.2), SGD([0.3, 0.1])])},
    "own stops": {
        "optimizer": SGD(5.0),
        "epochs": 6,
        "early_stopping": PerMember([1, None, 2]),
        "validation_data": 0.3,
    },
    "frozen": {"optimizer": Adam(0.1), "trainable": [False, True], "l2": PerMember([0, 0.1, 1])},
}


@pytest.fixture
def samples(rng):
    """Inputs of shape (23, 5), and labels of three classes."""
    return rng.standard_normal((23, 5)), rng.integers(0, 3, 23)


def place_of(where):
    return {"backend": where.backend, "device": where.device_name, "dtype": widest(where)}


def of_member(value, k):
    if isinstance(value, PerMember):
        return value.values[k]
    return value[k] if isinstance(value, np.ndarray) else value


def parameters(network):
    return [to_numpy(part) for layer in network.layers for part in layer]


def assert_like_alone(ensemble, history, samples, options, *, rtol, **made):
    """Train each member alone, and compare everything that a run leaves."""
    for k, own in enumerate(history.members):
        network = Network(SIZES, seed=ensemble.seeds[k], **made)
        settings = {name: of_member(value, k) for name, value in options.items()}
        alone = network.fit(*samples, batch_size=4, progress=False, **settings)
        ended = (own.stopped, own.best_epoch, own.steps, len(own))
        assert ended == (alone.stopped, alone.best_epoch, alone.steps, len(alone))
        for record, wanted in zip(own, alone, strict=True):
            assert record.metrics.keys() == wanted.metrics.keys()
            for name in VALUES:
                value, other = getattr(record, name), getattr(wanted, name)
                assert value == (other and pytest.approx(other, rel=max(1e-9, rtol)))
        for part, other in zip(parameters(ensemble[k]), parameters(network), strict=True):
            np.testing.assert_allclose(part, other, rtol=rtol, atol=rtol)
        assert ensemble[k]._generator.bit_generator.state == network._generator.bit_generator.state


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_each_member_learns_as_alone(where, samples, options):
    made = {**place_of(where), "cost": "categorical_cross_entropy"}
    ensemble = Ensemble(SIZES, members=MEMBERS, seed=2, **made)
    given = {"epochs": 2} | options
    history = ensemble.fit(*samples, batch_size=4, progress=False, **given)
    # NumPy multiplies the matrices of a stack one by one, and rounds each as it does alone.
    rtol = 0.0 if where.backend == "numpy" else tolerance(widest(where), 1e-11)
    assert_like_alone(ensemble, history, samples, given, rtol=rtol, **made)


SPARSE = {
    "own order": {"optimizer": Adam(0.1), "dropout": HIDDEN_RATES[2]},
    "shared": {"shuffle": False},
    "held out": {"validation_data": 0.3, "early_stopping": 1, "class_weight": "balanced"},
}


@pytest.mark.parametrize("options", SPARSE.values(), ids=SPARSE)
def test_sparse_inputs_are_learned_as_alone(where, samples, options):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    x, y = samples
    x = scipy_sparse.csr_array(np.where(x > 0.0, x, 0.0))
    made = {**place_of(where), "cost": "categorical_cross_entropy"}
    ensemble = Ensemble(SIZES, members=MEMBERS, seed=2, **made)
    given = {"epochs": 2, "optimizer": SGD(0.5)} | options
    history = ensemble.fit(x, y, batch_size=4, progress=False, **given)
    rtol = 0.0 if where.backend == "numpy" else tolerance(widest(where), 1e-11)
    assert_like_alone(ensemble, history, (x, y), given, rtol=rtol, **made)
    close = {"rtol": tolerance(widest(where), 1e-11)}
    for read in (ensemble.outputs, ensemble.std):
        np.testing.assert_allclose(to_numpy(read(x)), to_numpy(read(x.toarray())), **close)
    measured = [ensemble.evaluate(inputs, y)["members"]["cost"] for inputs in (x, x.toarray())]
    np.testing.assert_allclose(*measured, **close)


@pytest.mark.parametrize(
    "options",
    [
        {"shared_order": True},
        {"rows": "bootstrap", "sample_weight": np.random.default_rng(1).random((MEMBERS, 23))},
        {"rows": np.arange(9), "validation_rows": np.arange(9, 23), "metrics": "f1"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_sparse_inputs_are_learned_as_dense_ones(samples, options):
    sparse = pytest.importorskip("scipy.sparse")
    x, y = samples
    made = {"cost": "categorical_cross_entropy", "dtype": "float64", "seed": 2}
    ensembles = [Ensemble(SIZES, members=MEMBERS, **made) for _ in range(2)]
    # So many steps that they are recorded.
    given = {"epochs": 20, "batch_size": 4, "optimizer": SGD(0.1), "progress": False} | options
    each = zip(ensembles, (x, sparse.csr_array(x)), strict=True)
    histories = [ensemble.fit(inputs, y, **given) for ensemble, inputs in each]
    assert histories[1].engine == "numpy"
    for part, other in zip(*map(parameters, ensembles), strict=True):
        np.testing.assert_allclose(part, other, rtol=0, atol=1e-12)
    assert histories[1][-1].metrics == pytest.approx(histories[0][-1].metrics)


def test_parts_of_the_samples_are_learned_as_alone(samples):
    x, y = samples
    made = {"cost": "categorical_cross_entropy", "dtype": "float64"}
    ensemble = Ensemble(SIZES, members=2, seed=2, **made)
    networks = [Network(SIZES, seed=seed, **made) for seed in ensemble.seeds]
    options = {"optimizer": Adam(0.1), "dropout": 0.2, "batch_size": 4}
    for part in (slice(0, 12), slice(8, 20)):
        record = ensemble.partial_fit(x[part], y[part], **options)
        records = [network.partial_fit(x[part], y[part], **options) for network in networks]
        assert record.cost == pytest.approx(np.mean([one.cost for one in records]))
    for k, network in enumerate(networks):
        for part, wanted in zip(parameters(ensemble[k]), parameters(network), strict=True):
            np.testing.assert_array_equal(part, wanted)


def test_members_that_a_compiled_program_takes_one_by_one_learn_as_alone(samples):
    pytest.importorskip("jax")
    made = {"backend": "jax", "device": "cpu", "cost": "categorical_cross_entropy"}
    x, y = np.tile(samples[0][:20], 500), samples[1][:20]  # a network fills the first cache
    ensemble = Ensemble([2500, 4, 3], members=2, seed=2, dtype="float32", **made)
    networks = list(ensemble)
    given = {"epochs": 2, "batch_size": 4, "optimizer": SGD(0.01), "progress": False}
    ensemble.fit(x, y, **given)
    for k, network in enumerate(networks):
        network.fit(x, y, **given)
        for part, other in zip(parameters(ensemble[k]), parameters(network), strict=True):
            np.testing.assert_array_equal(part, other)
    assert "mini-batches of 4 × 2500: 10 steps" in str(ensemble.explain())
    assert ensemble.explain().program.count("dot_general") == 5


def test_the_program_has_one_product_a_layer_and_pass_whatever_the_number_of_members(samples):
    def products(members):
        ensemble = Ensemble(SIZES, members=members, seed=0)
        ensemble.fit(*samples, batch_size=1, epochs=3, progress=False)
        return ensemble.explain().program.count("matmul(")

    assert products(2) == products(5) == 5  # forward 2, the error back 1, gradients 2


def test_a_member_that_diverges_leaves_and_changes_the_others_by_no_bit(samples, caplog):
    options = {"epochs": 3, "batch_size": 4, "progress": False}
    sound = Ensemble(SIZES, members=MEMBERS, seed=0, dtype="float64")
    sound.fit(*samples, **options)
    other = Ensemble(SIZES, members=MEMBERS, seed=0, dtype="float64")
    before = parameters(other[1])
    history = other.fit(*samples, l2=PerMember([0.0, 1e200, 0.0]), **options)
    assert [one.stopped for one in history.members] == ["epochs", "divergence", "epochs"]
    assert [len(one) for one in history.members] == [3, 0, 3]
    assert "member 1 leaves" in caplog.text
    for k in (0, 2):
        for part, wanted in zip(parameters(other[k]), parameters(sound[k]), strict=True):
            np.testing.assert_array_equal(part, wanted)
    for part, wanted in zip(parameters(other[1]), before, strict=True):
        np.testing.assert_array_equal(part, wanted)


def test_the_run_ends_in_an_error_where_every_member_diverges(samples):
    ensemble = Ensemble(SIZES, members=2, seed=0)
    with pytest.raises(DivergenceError, match="every member"):
        ensemble.fit(*samples, l2=1e200, progress=False)
    assert all(np.isfinite(part).all() for part in parameters(ensemble))


def test_members_that_share_an_order_learn_as_networks_that_are_given_it(samples, rng):
    weights = rng.random(23)
    ensemble = Ensemble(SIZES, members=2, seed=0, dtype="float64")
    networks = list(ensemble)
    given = {"sample_weight": weights, "epochs": 2, "batch_size": 4, "progress": False}
    ensemble.fit(*samples, shared_order=True, **given)
    for k, network in enumerate(networks):
        network._generator = np.random.default_rng(ensemble.seed)
        network.fit(*samples, **given)
        for part, wanted in zip(parameters(ensemble[k]), parameters(network), strict=True):
            np.testing.assert_array_equal(part, wanted)


def test_what_a_callback_assigns_counts_for_all_members(samples):
    ensemble = Ensemble(SIZES, members=2, seed=0)

    def zero(told, history):
        told.layers = [(0 * W, 0 * b) for W, b in told.layers]

    ensemble.fit(*samples, epochs=1, callbacks=zero, progress=False)
    assert all((part == 0).all() for part in parameters(ensemble))


def test_the_mean_tells_and_the_members_disagree(where, samples):
    x, y = samples
    made = {**place_of(where), "cost": "categorical_cross_entropy"}
    rtol = tolerance(widest(where), 1e-12)
    ensemble = Ensemble(SIZES, members=MEMBERS, seed=0, **made)
    outputs = np.stack([to_numpy(network(x)) for network in ensemble])
    mean = outputs.mean(axis=0)
    np.testing.assert_allclose(to_numpy(ensemble.outputs(x)), outputs, rtol=rtol)
    np.testing.assert_allclose(to_numpy(ensemble(x)), mean, rtol=rtol)
    np.testing.assert_allclose(to_numpy(ensemble.std(x)), outputs.std(axis=0), atol=rtol)
    np.testing.assert_array_equal(to_numpy(ensemble.predict(x)), mean.argmax(axis=1))
    found = ensemble.evaluate(x, y)
    assert found["cost"] == pytest.approx(-np.log(mean[range(23), y]).mean())
    assert found["accuracy"] == pytest.approx((mean.argmax(axis=1) == y).mean())
    each = [network.evaluate(x, y) for network in ensemble]
    np.testing.assert_allclose(found["members"]["cost"], [one["cost"] for one in each])
    entropy, shared = map(to_numpy, ensemble.uncertainty(x))
    wanted = -(mean * np.log(mean)).sum(axis=1)
    own = -(outputs * np.log(outputs)).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose(entropy, wanted, rtol=rtol)
    np.testing.assert_allclose(shared, wanted - own, atol=rtol)


def test_a_file_keeps_all_members_and_where_their_generators_are(tmp_path, samples):
    ensemble = Ensemble(SIZES, members=2, seed=0)
    options = {"epochs": 1, "progress": False}
    ensemble.fit(*samples, **options)
    again = Ensemble.load(ensemble.save(tmp_path / "ensemble.safetensors"))
    assert (again.seed, again.seeds) == (ensemble.seed, ensemble.seeds)
    ensemble.fit(*samples, **options)
    again.fit(*samples, **options)
    for part, wanted in zip(parameters(again), parameters(ensemble), strict=True):
        np.testing.assert_array_equal(part, wanted)
    with pytest.raises(CheckpointError, match=r"holds an ensemble, which Ensemble\.load reads"):
        Network.load(tmp_path / "ensemble.safetensors")


# ---------------------------------------------------------------------------------------------
# Rows of each member's own


def assert_equal(ensemble, networks):
    for k, network in enumerate(networks):
        for part, wanted in zip(parameters(ensemble[k]), parameters(network), strict=True):
            np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_member_that_learns_a_fold_is_the_network_that_is_given_it(samples, class_weight):
    x, y = samples
    folds = [(np.arange(23) % 3 != k, np.flatnonzero(np.arange(23) % 3 == k)) for k in (0, 1)]
    options = {"epochs": 3, "batch_size": 4, "early_stopping": 1, "progress": False}
    options["class_weight"] = class_weight
    ensemble = Ensemble(SIZES, members=2, seed=0, dtype="float64")
    networks = list(ensemble)
    history = ensemble.fit(
        x,
        y,
        rows=PerMember(learned for learned, _ in folds),
        validation_rows=PerMember(judged for _, judged in folds),
        **options,
    )
    for (learned, judged), network, own in zip(folds, networks, history.members, strict=True):
        alone = network.fit(
            x[learned], y[learned], validation_data=(x[judged], y[judged]), **options
        )
        assert own["validation_cost"] == alone["validation_cost"]
        assert own.best_epoch == alone.best_epoch
    assert_equal(ensemble, networks)


def test_bootstrap_samples_are_drawn_by_each_member(samples):
    x, y = samples
    ensemble = Ensemble(SIZES, members=2, seed=0, dtype="float64")
    networks = list(ensemble)
    ensemble.fit(x, y, rows="bootstrap", epochs=2, progress=False)
    for network in networks:
        rows = network._generator.integers(23, size=23)
        network.fit(x[rows], y[rows], epochs=2, progress=False)
    assert_equal(ensemble, networks)


# ---------------------------------------------------------------------------------------------
# Going on


@pytest.mark.parametrize("optimizer", [Adam(0.1), PerMember([Adam(0.1), Adam(0.2), Adam(0.3)])])
def test_a_warm_start_goes_on_with_the_members_that_are_taken(samples, optimizer):
    options = {"batch_size": 4, "dropout": 0.3, "progress": False, "warm_start": True}
    ensemble = Ensemble(SIZES, members=3, seed=0, dtype="float64")
    networks = [ensemble[0], ensemble[2]]
    ensemble.fit(*samples, epochs=2, optimizer=optimizer, **options)
    rest = pickle.loads(pickle.dumps(ensemble))[[0, 2]]
    own = [of_member(optimizer, k) for k in (0, 2)]
    rest.fit(*samples, epochs=1, optimizer=PerMember(own), **options)
    for network, rule in zip(networks, own, strict=True):
        network.fit(*samples, epochs=2, optimizer=rule, **options)
        network.fit(*samples, epochs=1, optimizer=rule, **options)
    assert_equal(rest, networks)
    with pytest.raises(ValueError, match="optimizer of the last call"):
        rest.fit(*samples, optimizer=Adam(0.5), **options)


def test_a_warm_start_is_refused_with_a_member_that_left(samples):
    options = {"epochs": 2, "progress": False, "warm_start": True}
    ensemble = Ensemble(SIZES, members=3, seed=0, dtype="float64")
    ensemble.fit(*samples, l2=PerMember([0.0, 1e200, 0.0]), **options)
    with pytest.raises(ValueError, match=r"members \[1\] left"):
        ensemble.fit(*samples, **options)
    assert len(ensemble[::2].fit(*samples, **options)) == 2


class Ends(Callback):
    """Ends a run after three epochs, or after fifteen steps."""

    def __init__(self, every):
        self.every = every or 0

    def on_epoch_end(self, network, history):
        return not self.every and len(history) == 3

    def on_steps(self, network, history, step):
        return step == 15


RESUMED = {
    "own": {
        "optimizer": PerMember(Adam(rate) for rate in (0.1, 0.01, 0.2)),
        "early_stopping": PerMember([1, 2, None]),
        "validation_data": 0.3,
        "dropout": PerMember([0.0, 0.3, 0.1]),
        "metrics": "f1",
    },
    "shared order": {"optimizer": SGD(0.5), "shared_order": True, "validation_data": 0.3},
    "rows": {"optimizer": "adam", "rows": "bootstrap", "validation_rows": [1, 2, 3]},
    "one diverges": {"optimizer": SGD(0.5), "l2": PerMember([0.0, 1e30, 0.0])},
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("every", [None, 5])
def test_a_run_that_is_resumed_is_the_one_that_never_ended(tmp_path, samples, options, every):
    def train(seed, **others):
        ensemble = Ensemble(SIZES, members=3, seed=seed, cost="categorical_cross_entropy")
        settings = {"epochs": 8, "batch_size": 4, "progress": False, **options}
        return ensemble, ensemble.fit(*samples, **settings, **others)

    path = tmp_path / "run.safetensors"
    whole, wanted = train(0)
    train(0, checkpoint=Checkpoint(path, every=every), callbacks=Ends(every))
    again, history = train(1, checkpoint=Checkpoint(path, resume=True))
    assert_equal(again, list(whole))
    assert [one._generator.bit_generator.state for one in again] == [
        one._generator.bit_generator.state for one in whole
    ]
    assert (again.seed, again.seeds) == (whole.seed, whole.seeds)
    for one, other in zip(history.members, wanted.members, strict=True):
        assert one["cost"] == other["cost"]
        assert (one.stopped, one.best_epoch, one.steps) == (
            other.stopped,
            other.best_epoch,
            other.steps,
        )
    assert history["cost"] == wanted["cost"]
    with pytest.raises(CheckpointError, match="batch_size was 4"):
        again.fit(
            *samples,
            batch_size=5,
            progress=False,
            checkpoint=Checkpoint(path, resume=True),
            **options,
        )


def test_what_is_kept_beside_a_run_is_in_its_checkpoint(tmp_path, samples):
    path = tmp_path / "run.safetensors"
    mine = {"mine": Section({"columns": ["a", "b"]}, {"scale": np.arange(2.0)})}
    kept = Checkpoint(path, sections=mine)
    Ensemble(SIZES, members=2).fit(*samples, epochs=1, progress=False, checkpoint=kept)
    found = ensemble_file.read(path).others["mine"]
    assert found.fields == mine["mine"].fields
    np.testing.assert_array_equal(found.tensors["scale"], np.arange(2.0))


def test_files_of_another_kind_are_refused_by_what_they_hold(tmp_path, samples, caplog):
    made = {"ensemble": Ensemble(SIZES, members=2), "net": Network(SIZES)}
    quiet = {"epochs": 1, "progress": False}
    for name, one in made.items():
        one.save(tmp_path / f"{name}.safetensors")
        for _ in range(2):  # so that there is the one before
            kept = Checkpoint(tmp_path / f"{name}-run.safetensors", overwrite=True)
            one.fit(*samples, **quiet, checkpoint=kept)
    refused = [
        (
            "net",
            "ensemble-run",
            r"ensemble-run\..* holds the run of an ensemble, which Ensemble\.load",
        ),
        ("net", "ensemble", r"holds an ensemble, which"),
        ("ensemble", "net-run", r"net-run\..* holds the run of a network, which Network\.load"),
        ("ensemble", "net", r"holds a network, which"),
        ("ensemble", "ensemble", r"holds an ensemble, not a run: pass .* checkpoint"),
    ]
    for name, file, message in refused:
        there = Checkpoint(tmp_path / f"{file}.safetensors", resume=True)
        with pytest.raises(CheckpointError, match=message):
            made[name].fit(*samples, **quiet, checkpoint=there)
    assert "the one before" not in caplog.text  # the file is whole
    with pytest.raises(CheckpointError, match="holds the run of a network"):
        Ensemble.load(tmp_path / "net-run.safetensors")
    with pytest.raises(FileNotFoundError, match=r"but net\.safetensors next to it"):
        Network.load(tmp_path / "net")


def test_members_are_named_by_numbers_lists_slices_and_masks():
    ensemble = Ensemble(SIZES, members=3, seed=0)
    for chosen in ([0, 2], slice(None, None, 2), [True, False, True], np.array([0, -1])):
        assert ensemble[chosen].seeds == (ensemble.seeds[0], ensemble.seeds[2])
    assert ensemble[-1].seed == ensemble.seeds[2]
    with pytest.raises(IndexError, match="no member 3 in an ensemble of 3"):
        ensemble[3]
    for chosen in (True, "0", [True, False], 0.5):
        with pytest.raises(TypeError, match="a mask of the 3 members"):
            ensemble[chosen]
    with pytest.raises(ValueError, match="at least one member"):
        ensemble[[]]


def test_networks_become_an_ensemble_that_goes_on_with_their_orders(samples):
    networks = [Network(SIZES, seed=k, dtype="float64") for k in (3, 5)]
    ensemble = Ensemble.from_networks(networks)
    ensemble.fit(*samples, epochs=1, progress=False)
    for k, network in enumerate(networks):
        network.fit(*samples, epochs=1, progress=False)
        for part, wanted in zip(parameters(ensemble[k]), parameters(network), strict=True):
            np.testing.assert_array_equal(part, wanted)
    with pytest.raises(TypeError, match="number 0 is Ensemble"):
        Ensemble.from_networks([ensemble])
    with pytest.raises(ValueError, match="the same model"):
        Ensemble.from_networks([networks[0], Network([5, 3], dtype="float64")])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": PerMember([SGD(0.1)])}, ValueError, "2 members"),
        ({"optimizer": PerMember([SGD(0.1), Adam()])}, ValueError, "the same kind of step"),
        ({"sample_weight": np.ones((3, 23))}, ValueError, "2 members"),
        ({"rows": PerMember([[0, 1], [2]])}, ValueError, "from 1 to 2"),
        ({"rows": [0, 23]}, ValueError, "there are 23 rows"),
        ({"rows": [0.5]}, ValueError, "numbers of rows"),
        ({"rows": "jackknife"}, ValueError, "'bootstrap'"),
        ({"rows": [0, 1], "validation_data": 0.5}, ValueError, "validation_rows"),
        ({"warm_start": 1}, TypeError, "True or False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_an_ensemble_is_refused(samples, options, error, message):
    with pytest.raises(error, match=message):
        Ensemble(SIZES, members=2, seed=0).fit(*samples, progress=False, **options)


def test_what_a_partial_fit_refuses_changes_nothing(samples):
    ensembles = [Ensemble(SIZES, members=2, seed=2) for _ in range(2)]
    for ensemble in ensembles:
        ensemble.partial_fit(*samples, optimizer=Adam(0.1))
    for _ in range(2):
        with pytest.raises(ValueError, match="continues with the optimizer"):
            ensembles[0].partial_fit(*samples)
    for ensemble in ensembles:
        ensemble.partial_fit(*samples, optimizer=Adam(0.1))
    for part, other in zip(*map(parameters, ensembles), strict=True):
        np.testing.assert_array_equal(part, other)


def test_what_an_ensemble_does_not_take_is_told(samples):
    ensemble = Ensemble(SIZES, members=2, seed=2)
    with pytest.raises(TypeError, match=r"argument 'distribute'.*Did you mean 'distributed'"):
        ensemble.fit(*samples, distribute="auto")
    for values in (3, "ab"):
        with pytest.raises(TypeError, match="list with the value of each member"):
            PerMember(values)


@pytest.mark.parametrize(
    "make",
    [SGD, Adam, lambda values: SGD(0.1, momentum=values)],
    ids=["SGD", "Adam", "momentum"],
)
def test_per_member_within_an_optimizer_is_told_to_go_around_it(make):
    with pytest.raises(TypeError, match=r"as in PerMember\(\[SGD\(0\.5\), SGD\(0\.1\)\]\)"):
        make(PerMember([0.1, 0.2]))
