"""Sweeps of tables: each run is what a TableModel is on the rows of its fold alone."""

import json
from typing import Any

import numpy as np
import pytest

from bp_xp import SGD, CosineDecay, EarlyStopping, ReduceOnPlateau
from bp_xp.sweeps import making, runs
from bp_xp.tables import TableModel, sweep_table
from bp_xp.tables.columns import as_columns, take

N = 60
RNG = np.random.default_rng(5)
SIZE = RNG.uniform(20, 150, N)
TABLE = {
    "size": [None if i % 9 == 4 else float(v) for i, v in enumerate(SIZE)],
    "town": [None if i % 13 == 5 else str(t) for i, t in enumerate(RNG.choice(["Köln", "Ulm"], N))],
    "house": [f"h{i % 12}" for i in range(N)],
    "kind": ["large" if v > 100 else "middle" if v > 60 else "small" for v in SIZE],
    "rent": [float(12 * v + 300 + 0.5) for v in SIZE],
}
SHARED = {"hidden_layer_sizes": [6], "epochs": 3, "dtype": "float64", "drop": ["house"]}
PAIRS = [(np.arange(20, N), np.arange(20)), (np.arange(30), np.arange(30, 50))]


def on_plateau(rate, steps):
    return ReduceOnPlateau(rate, monitor="validation_cost")


def made(space, target: Any = "rent", table=TABLE, **settings):
    shared = {name: value for name, value in SHARED.items() if name not in space}
    return sweep_table(table, target, space, **{"progress": False, **shared, **settings})


def rows_of(table, rows):
    return take(as_columns(table), rows)


def assert_as_alone(found, target, pairs, table=TABLE, **shared):
    """Assert that each run is what a model is that knows the rows of its fold alone."""
    for run in found.runs:
        learned, judged = pairs[run.fold]
        model = TableModel(**{**SHARED, **shared, **found.settings[run.number]}, seed=run.seed)
        model.fit(rows_of(table, learned), target)
        assert model.history is not None
        np.testing.assert_allclose(run.curves["cost"], model.history["cost"], rtol=1e-9)
        alone = model.evaluate(rows_of(table, judged))
        assert run.scores == pytest.approx(alone, rel=1e-9)
        assert run.value(found.metric) == run.scores[found.metric]


@pytest.mark.parametrize("target", ["rent", "kind", ["rent", "size"]])
def test_each_run_is_what_its_model_is_alone(target):
    table = {**TABLE, "size": list(SIZE)}
    space = {"learning_rate": [0.006, 0.03], "scaling": ["robust", "minmax"], "batch_size": [16]}
    found = made(space, target, table, folds=PAIRS, seeds=[3, 4])
    assert len(found.runs) == 16
    assert found.metric == ("accuracy" if target == "kind" else "r2")
    assert_as_alone(found, target, PAIRS, table)
    best = TableModel(**SHARED | found.best, seed=3).fit(table, target)
    np.testing.assert_array_equal(found.best_model.predict(table), best.predict(table))
    assert found.best_network is found.best_model.network


def test_the_rows_that_judge_teach_a_fold_nothing():
    # What they hold would move median and quartiles, and add a category.
    strange = {name: list(values) for name, values in TABLE.items()}
    for row in PAIRS[0][1]:
        strange["size"][row] = None if row % 2 else 1e6
        strange["town"][row] = "Rome"
        strange["rent"][row] = -1e6
    one, other = (
        made({"l2": [0.01]}, table=table, folds=PAIRS[:1], refit=False).runs[0]
        for table in (TABLE, strange)
    )
    assert one.curves["cost"] == other.curves["cost"]
    assert one.scores != other.scores


def test_one_setting_is_what_the_model_is_by_its_own_recipe():
    shared = {"progress": False, "folds": 2, "draws": None}
    found = sweep_table(TABLE, "rent", {"epochs": [4]}, drop=["house"], **shared)
    model = TableModel(epochs=4, drop=["house"], seed=0).fit(TABLE, "rent")
    np.testing.assert_array_equal(found.best_model.predict(TABLE), model.predict(TABLE))
    assert str(found.best_model.recipe) == str(model.recipe)
    assert found.best_model.card == model.card


def test_folds_with_as_many_columns_are_one_stack_and_others_are_apart(monkeypatch):
    stacks = []

    def counted(stack, problem, *more):
        stacks.append([run.fold for run in stack.runs])
        return runs.train_stack(stack, problem, *more)

    monkeypatch.setattr(making, "train_stack", counted)
    # In the first rows alone a town is missing: two folds of three have a column for that.
    town = [None if i < 9 else "Ulm" if i % 2 else "Köln" for i in range(N)]
    thirds = [np.arange(0, 20), np.arange(20, 40), np.arange(40, N)]
    pairs = [(np.setdiff1d(np.arange(N), judged), judged) for judged in thirds]
    table = {**TABLE, "size": list(SIZE), "town": town}
    found = made({"l2": [0.0, 0.1]}, table=table, folds=pairs, refit=False)
    assert sorted(stacks) == [[0, 0], [1, 2, 1, 2]]
    assert_as_alone(found, "rent", pairs, table)


def test_rows_held_out_choose_the_epoch_and_others_judge():
    space = {"validation_fraction": [0.0, 0.3]}
    more = {"learning_rate": 0.3, "epochs": 8, "patience": 2}
    found = made(space, folds=PAIRS, refit=False, **more)
    assert_as_alone(found, "rent", PAIRS, **more)
    assert {run.stopped for run in found.runs if run.number} == {"early"}


def test_settings_of_fit_and_of_the_optimizer_are_settings_too(tmp_path):
    space = {"optimizer": [SGD(0.1)], "momentum": [0.0, 0.5], "schedule": [CosineDecay]}
    found = made(space, folds=PAIRS[:1], clip_norm=0.5, batch_size=10, learning_rate=0.02)
    for run in found.runs:
        learned, _ = PAIRS[0]
        steps = 3 * 4
        rate, momentum = CosineDecay(0.02, steps=steps), found.settings[run.number]["momentum"]
        model = TableModel(**SHARED, batch_size=10, optimizer=SGD(rate, momentum), seed=0)
        model.fit(rows_of(TABLE, learned), "rent", clip_norm=0.5)
        assert model.history is not None
        np.testing.assert_allclose(run.curves["cost"], model.history["cost"], rtol=1e-9)
    optimizer = found.best_model.optimizer
    assert optimizer == SGD(CosineDecay(0.02, steps=3 * 6), found.best["momentum"])


@pytest.mark.parametrize(
    ("settings", "folds", "check"),
    [
        ({"split_by": "house"}, 4, "groups"),
        ({"split_by": "house"}, 0.25, "groups"),
        ({"split_last": True}, 3, "order"),
        ({"split_last": True}, 0.25, "order"),
        ({}, 3, "all"),
        ({}, 0.25, "classes"),
    ],
)
def test_folds_keep_groups_together_and_time_in_order(settings, folds, check, monkeypatch):
    seen = []
    prepare = TableModel._prepare

    def kept(self, columns, target, seed, fold=None):
        if fold is not None:
            seen.append(fold)
        return prepare(self, columns, target, seed, fold)

    monkeypatch.setattr(TableModel, "_prepare", kept)
    made({"l2": [0.1]}, "kind", folds=folds, refit=False, **settings, drop=[])
    assert len(seen) == (1 if isinstance(folds, float) else folds)
    for learned, judged in seen:
        assert not set(learned) & set(judged)
        if check == "groups":
            assert not {i % 12 for i in learned} & {i % 12 for i in judged}
        if check == "order":
            assert max(learned) < min(judged)
        if check == "classes":
            counts = [TABLE["kind"].count(kind) for kind in sorted(set(TABLE["kind"]))]
            share = np.unique(np.array(TABLE["kind"])[judged], return_counts=True)[1]
            assert np.abs(share - np.array(counts) / 4).max() <= 1
    if check == "all":
        assert sorted(np.concatenate([judged for _, judged in seen])) == list(range(N))


def test_what_is_measured_can_be_what_settings_are_judged_by(tmp_path):
    space = {"learning_rate": [0.006, 0.03]}
    more = {"folds": PAIRS, "metric": "mae", "metrics": ["mse"], "folder": tmp_path}
    found = made(space, **more)
    assert (found.metric, found.higher_is_better, found.curve) == ("mae", False, "validation_cost")
    assert set(found.runs[0].scores) == {"r2", "mae", "mse"}
    assert found.rows[0]["mae"] < found.rows[1]["mae"]
    # A rent is in the hundreds, and so is an error in its units.
    assert found.rows[0]["mae"] > 10
    again = made(space, **more)
    assert again.runs == found.runs
    loaded = TableModel.load(tmp_path / "best.safetensors")
    np.testing.assert_array_equal(loaded.predict(TABLE), found.best_model.predict(TABLE))
    # Other rows have nothing in common with these, whatever is prepared of them.
    files = set(tmp_path.glob("runs-*.json"))
    made(space, table={**TABLE, "rent": TABLE["rent"][::-1]}, **more)
    assert len(set(tmp_path.glob("runs-*.json")) - files) == len(files)
    assert all(json.loads(path.read_text()) for path in files)


def test_the_metric_is_recorded_in_epochs_where_it_has_no_units():
    assert made({"l2": [0.1]}, folds=PAIRS, refit=False).curve == "validation_r2"
    assert made({"l2": [0.1]}, "kind", folds=PAIRS, refit=False).curve == "validation_accuracy"
    several = made({"l2": [0.1]}, ["a", "b"], {**TABLE, "a": [0, 1] * 30, "b": [0, 1, 1] * 20})
    assert several.metric == "accuracy"


def test_settings_are_halved():
    rates = {"learning_rate": [1e-9, 0.03, 0.006, 1e-8]}
    found = made(rates, folds=PAIRS, epochs=4, halving=2)
    assert [row["stopped"] for row in found.rows] == ["epochs", *["dropped"] * 3]
    assert found.best_model is not None


@pytest.mark.parametrize(
    ("space", "settings", "error", "words"),
    [
        ({"hidden_layers": [[3]]}, {}, TypeError, "hidden_layer_sizes"),
        ({"early_stopping": [1]}, {}, TypeError, "no setting 'early_stopping'"),
        ({"early_stopping": [EarlyStopping()]}, {}, TypeError, "early_stopping"),
        ({"task": ["regression"]}, {}, ValueError, "task is the same for all"),
        ({"l2": [0.1]}, {"folds": 13, "split_by": "house"}, ValueError, "groups of 'house': there"),
        ({"l2": [0.1]}, {"folds": 1.5}, ValueError, "folds"),
        ({"l2": [0.1]}, {"folds": [(np.arange(N), [N])]}, ValueError, "has the row 60"),
        ({"l2": [0.1]}, {"metric": "accuracy", "folds": PAIRS}, ValueError, "not recorded"),
        ({"validation_fraction": [0.2]}, {"halving": 2}, ValueError, "validation_fraction"),
        ({"schedule": [on_plateau]}, {}, ValueError, "refit=False"),
        ({"momentum": [0.9]}, {}, ValueError, "not a setting of Adam"),
        ({"drop": ["size"]}, {}, ValueError, "drop must be a list"),
    ],
)
def test_what_can_not_be_meant_is_refused(space, settings, error, words):
    with pytest.raises(error, match=words):
        made(space, **settings)


def test_a_table_needs_its_target():
    with pytest.raises(ValueError, match="needs a column 'rnt'"):
        made({"l2": [0.1]}, "rnt")
