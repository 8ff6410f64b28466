"""Sweeps: each run is what it is alone, and the table tells which settings are best."""

import csv
import math
import subprocess
import sys

import duckdb
import numpy as np
import pytest

from bp_xp import (
    SGD,
    Adam,
    CheckpointError,
    CosineDecay,
    EarlyStopping,
    Ensemble,
    LinearWarmUp,
    Network,
    ReduceOnPlateau,
    sweep,
)
from bp_xp.sweeps import Halving, SweepResult, SweepRun, making, runs
from bp_xp.sweeps.folds import held_out, make_folds
from bp_xp.sweeps.settings import sort_settings

SIZES = [5, 4, 3]
SHARED = {
    "sizes": SIZES,
    "cost": "categorical_cross_entropy",
    "dtype": "float64",
    "epochs": 3,
    "batch_size": 4,
}
# Rates, penalties and dropout go together; other shapes, kinds of step and lengths do not.
SPACES = [
    {"learning_rate": [0.5, 0.1], "l2": [0.0, 0.1], "dropout": [0.0, 0.3]},
    {"sizes": [[5, 3], [5, 4, 4, 3]], "learning_rate": [0.5]},
    {"optimizer": [Adam(0.1), SGD(0.1, 0.9)], "epochs": [2, 3], "early_stopping": [None, 1]},
]


def on_plateau(rate, steps):
    return ReduceOnPlateau(rate, monitor="validation_cost")


@pytest.fixture
def samples(rng):
    """Inputs of shape (23, 5), and labels of three classes."""
    return rng.standard_normal((23, 5)), rng.integers(0, 3, 23)


@pytest.fixture
def judged(rng):
    return rng.standard_normal((9, 5)), rng.integers(0, 3, 9)


def made(samples, space, **settings):
    return sweep(*samples, space, **{"progress": False, **SHARED, **settings})


def alone(samples, given, seed, **more):
    """Return a network trained alone, and its history."""
    settings = sort_settings(SHARED | given, len(samples[1]))
    network = Network(**settings.network, seed=seed)
    arguments = settings.common | settings.own | {"progress": False} | more
    return network, network.fit(*samples, optimizer=settings.optimizer, **arguments)


def assert_as_alone(table, samples, validation_data):
    for run in table.runs:
        given = table.settings[run.number]
        _, history = alone(samples, given, run.seed, validation_data=validation_data)
        assert run.stopped == history.stopped
        for name in ("cost", "accuracy", "validation_cost", "validation_accuracy"):
            assert run.curves[name] == history[name], (given, name)
        last = history[history.best_epoch - 1] if history.best_epoch else history[-1]
        assert run.value("validation_cost") == last.validation_cost


@pytest.mark.parametrize("share", [False, True])
def test_each_run_is_what_it_is_alone(samples, judged, share):
    validation_data = 0.3 if share else judged
    table = made(samples, SPACES, seeds=[3, 7], validation_data=validation_data, refit=False)
    assert len(table.settings) == 18
    assert len(table.runs) == 36
    assert [run.seed for run in table.runs[:2]] == [3, 7]
    assert_as_alone(table, samples, validation_data)


def test_folds_are_learned_and_judged_as_if_they_were_cut_out(samples):
    x, y = samples
    rates = {"learning_rate": [0.5, 0.1], "l2": [0.1]}
    table = made(samples, rates, folds=3, seeds=2, refit=False)
    assert len(table.runs) == 12
    judged_by = []
    for run in table.runs[:3]:
        assert run.fold == len(judged_by)
        judged_by.append(folds_of(samples, 3)[run.fold][1])
    assert sorted(np.concatenate(judged_by)) == list(range(23))
    for run in table.runs:
        learned, judged = folds_of(samples, 3)[run.fold]
        parts = (x[learned], y[learned])
        given = {"validation_data": (x[judged], y[judged])}
        _, history = alone(parts, table.settings[run.number], run.seed, **given)
        for name in ("cost", "validation_cost", "validation_accuracy"):
            np.testing.assert_allclose(run.curves[name], history[name], rtol=1e-12)


def test_a_schedule_is_made_for_the_steps_of_each_run(samples, tmp_path):
    space = {"schedule": [None, CosineDecay], "learning_rate": [0.5, 0.1], "warm_up": [0, 2]}
    table = made(samples, space, folds=3, epochs=2)
    x, y = samples
    for run in table.runs:
        learned, judged = folds_of(samples, 3)[run.fold]
        schedule, rate, warm_up = (table.settings[run.number][name] for name in space)
        steps = 2 * math.ceil(len(learned) / 4) - warm_up
        rate = rate if schedule is None else CosineDecay(rate, steps=steps)
        given = {"optimizer": SGD(LinearWarmUp(warm_up, rate) if warm_up else rate), "epochs": 2}
        parts = {"validation_data": (x[judged], y[judged])}
        _, history = alone((x[learned], y[learned]), given, 0, **parts)
        np.testing.assert_allclose(run.curves["cost"], history["cost"], rtol=1e-12)
    best = table.best
    rate, steps = best["learning_rate"], 2 * math.ceil(23 / 4) - best["warm_up"]
    rate = rate if best["schedule"] is None else CosineDecay(rate, steps=steps)
    rate = LinearWarmUp(best["warm_up"], rate) if best["warm_up"] else rate
    network, _ = alone(samples, {"optimizer": SGD(rate), "epochs": 2}, 0)
    np.testing.assert_array_equal(table.best_network(x), network(x))
    assert "CosineDecay  " in str(table)
    assert "CosineDecay," in table.to_csv(tmp_path / "table.csv").read_text()


def folds_of(samples, k):
    """Return the folds of a sweep with seed 0."""
    return make_folds(samples[1], k, np.random.default_rng(0))


def test_each_class_has_its_share_in_each_fold(rng):
    y = rng.permutation(np.repeat([0, 1, 2], [30, 12, 9]))
    for targets in (y, np.eye(3)[y]):
        for learned, judged in folds_of((None, targets), 3):
            assert np.bincount(y[judged]).tolist() == [10, 4, 3]
            assert sorted([*learned, *judged]) == list(range(51))


def test_folds_can_be_given(samples):
    pairs = [(np.arange(15), np.arange(15, 23)), (np.arange(8, 23), np.arange(8))]
    given = [pairs[0], tuple(np.isin(np.arange(23), rows) for rows in pairs[1])]  # masks
    table = made(samples, {"l2": [0.1]}, folds=given, epochs=5, early_stopping=1)
    x, y = samples
    for run, (learned, judged) in zip(table.runs, pairs, strict=True):
        given = {"validation_data": (x[judged], y[judged])}
        settings = {"l2": 0.1, "epochs": 5, "early_stopping": 1}
        _, history = alone((x[learned], y[learned]), settings, 0, **given)
        assert (run.stopped, run.epoch) == (history.stopped, history.best_epoch)
    # The network of the best settings has learned all samples, for as long as the runs did.
    epochs = round(np.mean([run.epoch for run in table.runs]))
    network, _ = alone(samples, {"l2": 0.1, "epochs": epochs}, 0)
    np.testing.assert_array_equal(table.best_network(x), network(x))


def test_halving_lets_the_best_go_on_as_if_nothing_had_been_dropped(samples, judged):
    rates = {"learning_rate": [1e-6, 0.1, 0.5, 1e-5, 1e200, 1.0], "l2": [0.2]}
    settings = {"seeds": 2, "validation_data": judged, "epochs": 8, "metric": "validation_cost"}
    settings |= {"refit": False, "activation": "relu", "optimizer": SGD(0.1, 0.9)}
    whole = made(samples, rates, **settings)
    halved = made(samples, rates, **settings, halving=2)
    lengths = [
        {len(run.curves.get("cost", ())) for run in halved.runs_of(row)} for row in halved.rows
    ]
    # 6 settings take an epoch, 3 take 2, 2 take 4, and 1 takes 8; one diverges immediately.
    assert lengths[:5] == [{8}, {4}, {2}, {1}, {1}]
    assert halved.rows[-1]["learning_rate"] == 1e200
    stopped = [row["stopped"] for row in halved.rows]
    assert stopped == ["epochs", *["dropped"] * 4, "divergence"]
    for run, same in zip(halved.runs, whole.runs, strict=True):
        for name, curve in run.curves.items():
            np.testing.assert_allclose(curve, same.curves[name][: len(curve)], rtol=1e-12)


def test_halving_holds_the_same_samples_out_from_rung_to_rung(samples):
    rates = {"learning_rate": [0.1, 0.5]}
    table = made(samples, rates, validation_data=0.3, epochs=4, halving=2, refit=False)
    last = next(run for run in table.runs if run.stopped == "epochs")
    learned, judged = held_out(samples[1], 0.3, np.random.default_rng(0))
    assert len(judged) == 7
    assert sorted([*learned, *judged]) == list(range(23))
    x, y = samples
    given = {"validation_data": (x[judged], y[judged])}
    settings = table.settings[last.number] | {"epochs": 4}
    _, history = alone((x[learned], y[learned]), settings, 0, **given)
    np.testing.assert_allclose(last.curves["validation_cost"], history["validation_cost"])


@pytest.mark.parametrize(
    ("halving", "n_settings", "epochs", "rungs"),
    [
        (Halving(3), 27, 30, [1, 3, 10, 30]),
        (Halving(2), 4, 8, [2, 4, 8]),
        (Halving(2, least_epochs=3), 16, 8, [4, 8]),
        (Halving(3), 1, 5, [5]),
        (Halving(4), 1000, 2, [2]),
    ],
)
def test_rungs_are_as_many_as_settings_and_epochs_allow(halving, n_settings, epochs, rungs):
    assert halving.rungs(n_settings, epochs) == rungs


def test_samples_count_by_their_weights(samples, judged):
    weights = np.arange(23.0)
    table = made(samples, {"l2": [0.1]}, validation_data=judged, sample_weight=weights)
    network, history = alone(samples, {"l2": 0.1}, 0, sample_weight=weights)
    assert table.runs[0].curves["cost"] == history["cost"]
    np.testing.assert_array_equal(table.best_network(judged[0]), network(judged[0]))


def test_runs_that_can_be_are_one_stack(samples, judged, monkeypatch):
    sizes = []

    def counted(stack, problem, *more):
        sizes.append(len(stack.runs))
        return runs.train_stack(stack, problem, *more)

    monkeypatch.setattr(making, "train_stack", counted)
    made(samples, SPACES, seeds=2, validation_data=judged, refit=False)
    # 8 settings of the first space; 2 shapes; Adam and SGD, for 2 and for 3 epochs each.
    assert sorted(sizes) == [2, 2, 4, 4, 4, 4, 16]


def test_the_best_settings_come_first_and_have_a_network(samples, judged):
    table = made(samples, {"learning_rate": [1e-6, 0.5]}, seeds=3, validation_data=judged)
    assert (table.metric, table.higher_is_better) == ("validation_accuracy", True)
    rows = table.rows
    values = [[run.value(table.metric) for run in table.runs_of(row_settings(row))] for row in rows]
    assert [row[table.metric] for row in rows] == [np.mean(own) for own in values]
    assert [row["validation_accuracy_std"] for row in rows] == [np.std(own) for own in values]
    assert rows[0][table.metric] >= rows[1][table.metric]
    assert table.best == row_settings(rows[0])
    network, _ = alone(samples, table.best, 0)
    np.testing.assert_array_equal(table.best_network(judged[0]), network(judged[0]))


def row_settings(row):
    return {"learning_rate": row["learning_rate"]}


def test_less_of_a_cost_is_better_and_a_direction_can_be_given(samples, judged):
    costs = {"validation_data": judged, "metric": "validation_cost", "refit": False}
    up = made(samples, {"learning_rate": [1e-6, 0.5]}, **costs, higher_is_better=True)
    down = made(samples, {"learning_rate": [1e-6, 0.5]}, **costs)
    assert [row["learning_rate"] for row in up.rows] == [
        row["learning_rate"] for row in down.rows[::-1]
    ]
    assert down.rows[0]["validation_cost"] < down.rows[1]["validation_cost"]


def test_a_run_that_diverges_has_its_place_in_the_table(samples, judged, caplog):
    rates = {"learning_rate": [1e200, 0.1]}
    table = made(samples, rates, seeds=2, validation_data=judged, activation="relu", l2=1e-3)
    best, last = table.rows
    assert table.best == {"learning_rate": 0.1}
    assert (best["diverged"], last["diverged"]) == (0, 2)
    assert math.isnan(last["validation_accuracy"])
    assert last["stopped"] == "divergence"
    assert "divergence" in str(table)
    assert "member" not in caplog.text


def test_where_all_diverge_there_is_no_network(samples, caplog):
    table = made(samples, {"learning_rate": [1e200]}, activation="relu", validation_data=0.2)
    assert table.best_network is None
    assert math.isnan(table.best_value)
    assert "all runs diverged" in caplog.text


def test_early_stopping_counts_the_network_that_it_goes_back_to(samples, judged):
    stops = [EarlyStopping("validation_cost", 1, restore_best=restore) for restore in (True, False)]
    table = made(
        samples, {"early_stopping": stops}, validation_data=judged, learning_rate=5.0, epochs=9
    )
    restored, left = table.runs
    assert restored.curves == left.curves
    assert restored.epoch < left.epoch == len(left.curves["cost"])


def test_how_long_runs_lasted_stands_beside_how_long_they_were_to_last(samples, judged, tmp_path):
    space = {"epochs": [20, 30], "early_stopping": [1]}
    table = made(samples, space, validation_data=judged, learning_rate=5.0, refit=False)
    assert {row["epochs"] for row in table.rows} == {20, 30}
    assert all(0 < row["epoch"] < 20 for row in table.rows)
    assert all(table.runs_of(row) for row in table.rows)
    with open(table.to_csv(tmp_path / "table.csv"), newline="") as file:
        header = next(csv.reader(file))
    assert len(set(header)) == len(header)


def test_finished_runs_are_not_made_again(samples, judged, tmp_path, monkeypatch):
    space = [{"learning_rate": [0.5, 0.1]}, {"sizes": [[5, 3]]}]
    whole = made(samples, space, seeds=2, validation_data=judged)
    once = runs.train_stack
    done = []

    def interrupted(stack, problem, *more):
        if done:
            raise KeyboardInterrupt
        done.append(len(stack.runs))
        return once(stack, problem, *more)

    monkeypatch.setattr(making, "train_stack", interrupted)
    folder = tmp_path / "runs"
    kept = {"seeds": 2, "validation_data": judged, "folder": folder}
    part = made(samples, space, **kept)
    assert not part.complete
    assert len(part.runs) == done[0] == 4
    assert "interrupted" in str(part)

    def counted(stack, problem, *more):
        done.append(len(stack.runs))
        return once(stack, problem, *more)

    monkeypatch.setattr(making, "train_stack", counted)
    resumed = made(samples, space, **kept)
    assert done == [4, 2]
    assert resumed.runs == whole.runs
    best = Network.load(folder / "best.safetensors")
    np.testing.assert_array_equal(best(judged[0]), whole.best_network(judged[0]))
    # A larger space needs its new runs alone; other samples have nothing in common.
    made(samples, [*space, {"learning_rate": [0.2]}], **kept)
    made((samples[0] + 1.0, samples[1]), {"sizes": [[5, 3]]}, **kept)
    assert done == [4, 2, 2, 2]


# Two stacks, of runs that differ in numbers; one run diverges.
HALVED = [
    {"learning_rate": [1e-6, 0.1, 0.5, 1e200], "l2": [0.2]},
    {"sizes": [[5, 3]], "learning_rate": [0.5, 0.01, 1.0, 0.3], "activation": ["relu"]},
]
HALVING = {"seeds": 2, "epochs": 8, "halving": 2, "optimizer": Adam(0.1), "dropout": 0.2}


def test_halving_goes_on_from_a_folder_as_if_nothing_had_happened(
    samples, judged, tmp_path, monkeypatch
):
    settings = HALVING | {"validation_data": judged}
    fit, epochs, stops = Ensemble.fit, [], {}

    def counted(self, *args, **kwargs):
        def count(network, history):
            epochs.append(history)
            if len(epochs) == stops.get("at"):
                raise KeyboardInterrupt

        return fit(self, *args, **kwargs, callbacks=count)

    monkeypatch.setattr(Ensemble, "fit", counted)
    whole = made(samples, HALVED, **settings)
    n_epochs = len(epochs)
    for stops["at"] in (3, 5, 3):
        epochs.clear()
        part = made(samples, HALVED, **settings, folder=tmp_path)
        assert not part.complete
        n_epochs -= len(epochs) - 1  # all but the one under way are kept
    stops.clear()
    epochs.clear()
    resumed = made(samples, HALVED, **settings, folder=tmp_path)
    assert len(epochs) == n_epochs
    epochs.clear()
    assert made(samples, HALVED, **settings, folder=tmp_path).runs == resumed.runs == whole.runs
    assert not epochs
    np.testing.assert_array_equal(resumed.best_network(judged[0]), whole.best_network(judged[0]))


@pytest.mark.process
def test_halving_goes_on_from_a_folder_in_processes_too(samples, judged, tmp_path):
    pytest.importorskip("joblib")
    settings = HALVING | {"validation_data": judged, "refit": False}
    whole, kept, again = (
        made(samples, HALVED, **settings, n_jobs=n_jobs, folder=folder)
        for n_jobs, folder in ((1, None), (2, tmp_path), (2, tmp_path))
    )
    assert whole.runs == kept.runs == again.runs


@pytest.mark.process
def test_a_run_is_known_again_in_another_process(tmp_path):
    code = f"""
from bp_xp import sweep
x, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 1]
settings = dict(sizes=[2, 2], epochs=1, refit=False, progress=False)
sweep(x, y, {{"learning_rate": [0.1]}}, folder={str(tmp_path)!r}, **settings)
"""
    exec(code, {})
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert len(list(tmp_path.glob("runs-*.json"))) == 1


def test_a_damaged_file_of_runs_is_told(samples, tmp_path):
    (tmp_path / "runs-1.json").write_text('{"a": {"epoch": 1}}')
    with pytest.raises(CheckpointError, match=r"runs-1\.json"):
        made(samples, {"learning_rate": [0.1]}, folder=tmp_path)


def test_settings_with_fewer_folds_come_after_those_with_all():
    ran = [(0, 0, 0.5), (0, 1, 0.5), (1, 0, 0.1), (2, 0, 0.4), (2, 1, 0.4)]
    table = SweepResult(
        "validation_cost",
        higher_is_better=False,
        settings=[{"l2": float(k)} for k in range(3)],
        runs=[
            SweepRun(number, 0, fold, "epochs", 1, {"validation_cost": [cost]})
            for number, fold, cost in ran
        ],
        complete=False,
    )
    assert [row["l2"] for row in table.rows] == [2.0, 0.0, 1.0]
    assert table.best == {"l2": 2.0}
    assert [row["runs"] for row in table.rows] == [2, 2, 1]
    assert "settings with fewer come after those with all" in str(table)


def test_ctrl_c_before_any_run_is_ctrl_c(samples, monkeypatch):
    def interrupted(stack, problem, *more):
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "train_stack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(samples, {"learning_rate": [0.1]})


@pytest.mark.process
def test_several_processes_make_the_same_runs(samples, judged):
    pytest.importorskip("joblib")
    here, spread = (
        made(samples, SPACES[:2], seeds=2, validation_data=judged, n_jobs=n) for n in (1, 2)
    )
    assert here.runs == spread.runs


def test_the_table_is_written_and_printed(samples, tmp_path):
    table = made(samples, {"l2": [0.0, 0.1], "activation": ["relu"]}, validation_data=0.2)
    table.to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["l2"]) for row in rows] == [row["l2"] for row in table.rows]
    assert [row["activation"] for row in rows] == ["relu", "relu"]
    lines = str(table).splitlines()
    assert len(lines) == 3
    assert "l2" in lines[0]
    assert "activation" not in lines[0]  # all have the same


def test_the_table_is_written_with_the_kinds_of_its_columns(tmp_path):
    def run(number, accuracy):
        stopped, epoch = ("epochs", 2) if accuracy else ("divergence", 0)
        return SweepRun(number, 0, None, stopped, epoch, {"accuracy": [0.0, accuracy]})

    settings = [
        {"n": 3, "rate": 0.1, "sizes": [5, 3], "on": True, "schedule": CosineDecay, "l2": None},
        {"n": 4, "rate": 1, "sizes": "ü", "on": False, "schedule": None, "l2": 0.5},
    ]
    table = SweepResult("accuracy", True, settings, [run(0, 0.25), run(1, 0.0)])
    path = table.to_parquet(tmp_path / "it's.parquet")
    rows = duckdb.read_parquet(str(path))
    assert list(zip(rows.columns, map(str, rows.types), strict=True))[:7] == [
        *(("n", "BIGINT"), ("rate", "DOUBLE"), ("sizes", "VARCHAR"), ("on", "BOOLEAN")),
        *(("schedule", "VARCHAR"), ("l2", "DOUBLE"), ("accuracy", "DOUBLE")),
    ]
    assert rows.fetchall() == [
        (3, 0.1, "[5, 3]", True, "CosineDecay", None, 0.25, 0.0, 1, 0, 2.0, "epochs"),
        (4, 1.0, "ü", False, None, 0.5, None, None, 1, 1, 0.0, "divergence"),
    ]
    with pytest.raises(OSError, match="no"):
        table.to_parquet(tmp_path / "no" / "table.parquet")


def test_settings_that_were_dropped_come_after_those_that_went_on():
    def run(number, stopped, *accuracies):
        curves = {"accuracy": accuracies, "cost": accuracies}
        return SweepRun(number, 0, None, stopped, len(accuracies), curves)

    table = SweepResult(
        "accuracy",
        True,
        [{"n": n} for n in range(4)],
        [
            run(0, "dropped", 0.9),
            run(1, "epochs", 0.1, 0.2, 0.3),
            run(2, "dropped", 0.1, 0.2),
            run(3, "divergence", 0.99),
        ],
    )
    assert [row["n"] for row in table.rows] == [1, 2, 0, 3]


@pytest.mark.parametrize(
    ("space", "settings", "error", "words"),
    [
        ({"learning_rat": [0.1]}, {}, TypeError, "learning_rate"),
        ({"seed": [1]}, {}, TypeError, "as seeds"),
        ({"checkpoint": ["x"]}, {}, TypeError, "no setting 'checkpoint'"),
        ({"l2": [0.1]}, {"distributed": "mpi"}, TypeError, "no setting 'distributed'"),
        ({"momentum": [0.9]}, {"optimizer": "adam"}, ValueError, "not a setting of Adam"),
        ({"learning_rate": [-1.0]}, {}, ValueError, "above 0"),
        ({"schedule": ["cosine"]}, {}, TypeError, "such as CosineDecay"),
        (
            {"schedule": [CosineDecay], "learning_rate": [[0.1, 0.2]]},
            {},
            TypeError,
            "must be a num",
        ),
        ({"warm_up": [18]}, {}, ValueError, "none of the run's 18 steps"),
        ({"l2": [-1.0]}, {}, ValueError, "l2"),
        ({"l2": [0.1]}, {"sizes": [5]}, ValueError, "sizes"),
        ({"l2": [0.1]}, {"seeds": [1, 1]}, ValueError, "seeds"),
        ({"l2": [0.1]}, {"metric": "validation_accuracy"}, ValueError, "not recorded"),
        ({"l2": [0.1]}, {"folds": 2, "validation_data": 0.2}, ValueError, "not both"),
        ({"schedule": [on_plateau], "warm_up": [2]}, {"folds": 2}, ValueError, "refit=False"),
        ({"l2": [0.1]}, {"folds": 50}, ValueError, "23 samples"),
        ({"l2": [0.1]}, {"folds": [([0], [1]), ([0], [1, 23])]}, ValueError, "1 has the row 23"),
        ({"l2": [0.1]}, {"folds": [([0], [])]}, ValueError, "fold 0 has no rows"),
        ({"l2": [0.1]}, {"folds": [3]}, TypeError, "fold 0 must be a pair"),
        ({"l2": [0.1]}, {"folds": "5"}, TypeError, r"KFold\(3\).split"),
        ({"l2": [0.1]}, {"metric": "validation_acuracy"}, ValueError, "mean 'validation_accuracy'"),
        ({"epochs": [1, 2]}, {"halving": 2}, ValueError, "equal length"),
        ({"l2": [0.1]}, {"halving": 2, "early_stopping": 1}, ValueError, "early_stopping"),
    ],
)
def test_what_can_not_be_meant_is_refused(samples, space, settings, error, words):
    with pytest.raises(error, match=words):
        made(samples, space, **settings)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"activation": ["relu", "rellu"]}, "'rellu'"),
        ({"sizes": [SIZES, [7, 3]]}, "7 inputs, and x has 5 columns"),
        ({"epochs": [1, 0]}, "epochs"),
    ],
)
def test_the_last_value_is_refused_before_the_first_run(samples, monkeypatch, space, words):
    monkeypatch.delattr(Ensemble, "fit")
    with pytest.raises(ValueError, match=words):
        made(samples, space)


def test_a_file_is_no_folder(samples, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="pass a folder"):
        made(samples, {"l2": [0.1]}, folder=tmp_path / "file")


def test_a_table_has_a_sweep_of_its_own():
    with pytest.raises(TypeError, match="sweep_table"):
        sweep({"size": [1, 2]}, "size", {"l2": [0.1]})


def test_sizes_must_come_from_somewhere(samples):
    with pytest.raises(TypeError, match="sizes are missing"):
        sweep(*samples, {"l2": [0.1]}, progress=False)


def test_a_sweep_runs_where_its_networks_do(samples, judged, placement, dtype):
    where = {"backend": placement.backend_word, "device": placement.device_name}
    there = made(samples, SPACES[0], validation_data=judged, **where, dtype=dtype, refit=False)
    here = made(samples, SPACES[0], validation_data=judged, dtype=dtype, refit=False)
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    for one, other in zip(there.runs, here.runs, strict=True):
        np.testing.assert_allclose(one.curves["cost"], other.curves["cost"], rtol=tolerance)
