import csv
import pickle
import re

import numpy as np
import pytest
from threads import on_ranks

from bp_xp import Adam, Network
from bp_xp.errors import CheckpointError
from bp_xp.tables import TableModel

N = 90
RNG = np.random.default_rng(5)
KINDS = ["groß, teuer", "mittel", "klein"]
SIZE = RNG.uniform(20, 150, N)
TOWN = RNG.choice(["Köln", "Ulm", "Bonn, Süd"], N)
TABLE = {
    "size": [None if i % 9 == 4 else round(float(v), 2) for i, v in enumerate(SIZE)],
    "town": [None if i % 13 == 5 else str(v) for i, v in enumerate(TOWN)],
    "garden": [bool(v) for v in SIZE > 70],
    "note": [f"note {i}" for i in range(N)],
}
KIND = [KINDS[0 if v > 100 else 1 if v > 60 else 2] for v in SIZE]
RENT = [round(float(v) * 12 + 300.5, 1) for v in SIZE]
FAST = {
    "hidden_layer_sizes": (16,),
    "optimizer": Adam(0.02),
    "epochs": 40,
    "batch_size": 32,
    "dropout": 0,
    "validation_fraction": 0.15,
    "seed": 0,
}


PLACES = TABLE | {"place": [f"place {i % 7}" for i in range(N)]}


def fitted(target=KIND, table=TABLE, **changes):
    return TableModel(**FAST | changes).fit(table, target=target)


def rows_of(*places, **changes):
    return {name: [values[i] for i in places] for name, values in TABLE.items()} | changes


@pytest.fixture(scope="module")
def model():
    return fitted()


@pytest.fixture(scope="module")
def rents():
    return fitted({"rent": RENT}, epochs=60)


def written(path, columns):
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return path


def test_classes_are_told_by_their_names(model):
    predicted = model.predict(TABLE)
    assert set(predicted) <= set(KINDS)
    measures = model.evaluate(TABLE, KIND)
    assert set(measures) == {"accuracy", "balanced_accuracy", "f1_macro"}
    assert measures["accuracy"] == pytest.approx(np.mean(predicted == np.array(KIND)))
    assert measures["accuracy"] == model.score(TABLE, KIND) > 0.8
    assert model.classes_.tolist() == sorted(KINDS)
    probabilities = model.predict_proba(TABLE)
    assert probabilities.shape == (N, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    by_name = model.predict_proba(TABLE, as_columns=True)
    np.testing.assert_array_equal(by_name["groß, teuer"], probabilities[:, 0])


def test_numbers_are_told_in_their_units(rents):
    predicted = rents.predict(TABLE)
    measures = rents.evaluate(TABLE, RENT)
    rent = np.array(RENT)
    assert measures["mae"] == pytest.approx(np.abs(predicted - rent).mean())
    residual = ((predicted - rent) ** 2).sum() / ((rent - rent.mean()) ** 2).sum()
    assert measures["r2"] == pytest.approx(1 - residual) == rents.score(TABLE, RENT)
    assert measures["r2"] > 0.6
    with pytest.raises(ValueError, match="without probabilities: use predict"):
        rents.predict_proba(TABLE)


@pytest.mark.parametrize(
    "labels", [[-1, 1], [1, 2, 3], [False, True], ["0", "1"]], ids=["signs", "K", "bool", "text"]
)
def test_labels_of_any_kind_come_back_as_they_were(labels):
    y = np.array(labels)[np.searchsorted([60, 100][: len(labels) - 1], SIZE)]
    model = fitted(y, epochs=20)
    assert model.predict(TABLE).dtype.kind == y.dtype.kind
    assert model.score(TABLE, y) > 0.6


def test_several_targets_are_told_at_once():
    two = fitted({"large": SIZE > 100, "in Ulm": TOWN == "Ulm"})
    assert two.predict(TABLE).shape == two.predict_proba(TABLE).shape == (N, 2)
    assert two.classes_.tolist() == ["large", "in Ulm"]
    measures = two.evaluate(TABLE, {"large": SIZE > 100, "in Ulm": TOWN == "Ulm"})
    assert measures["accuracy"] > 0.7
    assert measures["f1_macro"] > 0.5
    numbers = fitted(np.stack([SIZE, 3 - SIZE], axis=1))
    assert numbers.predict(TABLE).shape == (N, 2)


def test_target_is_a_column_or_values(model, tmp_path):
    whole = TABLE | {"kind": KIND}
    for table, target in (
        (whole, "kind"),
        (whole, ["kind"]),
        (TABLE, np.array(KIND)),
        (written(tmp_path / "t.csv", whole), "kind"),
    ):
        other = TableModel(**FAST).fit(table, target=target)
        np.testing.assert_array_equal(other.predict_proba(TABLE), model.predict_proba(TABLE))
    named_like_columns = ["size", "town"] * (N // 2)
    assert TableModel(**FAST).fit(TABLE, named_like_columns).classes_.tolist() == ["size", "town"]
    # evaluate finds the target's column on its own
    assert other.evaluate(whole) == model.evaluate(TABLE, KIND)


def test_a_file_holds_all_that_prediction_needs(model, rents, tmp_path):
    reversed_table = dict(reversed(TABLE.items())) | {"more": ["x"] * N}
    del reversed_table["note"]  # which was left out
    reversed_table["town"] = ["nowhere", *reversed_table["town"][1:]]
    file = written(tmp_path / "new.csv", reversed_table)
    for each, kind in ((model, "classes"), (rents, "numbers")):
        path = each.save(tmp_path / f"{kind}.safetensors")
        again = TableModel.load(path)
        np.testing.assert_array_equal(again.predict(TABLE), each.predict(TABLE))
        np.testing.assert_array_equal(again.predict(file), each.predict(reversed_table))
        assert str(again.preparation) == str(each.preparation)
        network = Network.load(path)
        x = each.preparation.inputs(TABLE)
        np.testing.assert_array_equal(network.feedforward(x), each.network.feedforward(x))
    del reversed_table["size"]
    with pytest.raises(ValueError, match="the model needs a column 'size'"):
        again.predict(reversed_table)


def test_file_of_a_network_alone_is_refused(tmp_path):
    path = Network([2, 1]).save(tmp_path / "net.safetensors")
    with pytest.raises(
        CheckpointError, match=r"net.safetensors can't be read as a model of tab.*Network.load"
    ):
        TableModel.load(path)


def test_preparation_of_another_network_is_refused(model, tmp_path):
    other = pickle.loads(pickle.dumps(model))
    other.network = Network([3, 2], output_activation="softmax", cost="categorical_cross_entropy")
    with pytest.raises(CheckpointError, match=r"does not fit its sizes \[3, 2\]"):
        TableModel.load(other.save(tmp_path / "net"))


def test_rows_held_out_choose_the_epoch(model):
    assert len(model.history) <= 40
    assert model.history[-1].validation_cost is not None
    everything = fitted(validation_fraction=0.0)
    assert everything.history[-1].validation_cost is None
    # The scale is learned from the others alone.
    assert everything.preparation.numbers.scale != model.preparation.numbers.scale


def test_one_seed_gives_one_model(model):
    np.testing.assert_array_equal(fitted().predict_proba(TABLE), model.predict_proba(TABLE))
    drawn = fitted(seed=None, epochs=2)
    again = fitted(seed=drawn.network.seed, epochs=2)
    np.testing.assert_array_equal(again.predict_proba(TABLE), drawn.predict_proba(TABLE))
    np.testing.assert_array_equal(again.held_out, drawn.held_out)


def test_processes_share_a_run_and_hold_out_the_same_rows():
    rng = np.random.default_rng(0)
    table, target = {"size": rng.random(60), "age": rng.random(60)}, rng.integers(0, 2, 60)

    def fitted(distributed=None, seed=None):
        model = TableModel((4,), epochs=3, dtype="float64", seed=seed)
        return model.fit(table, target, distributed=distributed)

    models = on_ranks(2, fitted)
    alone = fitted(seed=models[0].network.seed)
    for model in models:
        np.testing.assert_array_equal(model.held_out, alone.held_out)
        np.testing.assert_allclose(model.predict_proba(table), alone.predict_proba(table))


def test_rows_are_held_out_by_groups_or_by_order():
    by_town = fitted(split_by="place", epochs=1, validation_fraction=0.3, table=PLACES)
    held, place = by_town.held_out, np.array(PLACES["place"])
    assert 0 < len(held) < N
    assert not set(place[held]) & set(np.delete(place, held))
    assert "place" in by_town.preparation.left_out
    last = fitted(split_last=True, epochs=1, validation_fraction=0.3)
    assert last.held_out.tolist() == [*range(N - 27, N)]
    for wrong, message in (
        ({"split_by": "nowhere"}, "split_by needs a column 'nowhere'"),
        ({"split_by": "town"}, "row 6, column 'town': the group is missing"),
        ({"split_by": "same"}, "the same group in all rows"),
        ({"split_by": "place", "split_last": True}, "two ways to hold rows out"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted(table=PLACES | {"same": ["x"] * N}, **wrong)


def test_no_rows_get_no_predictions(model, rents):
    empty = {name: [] for name in TABLE}
    assert model.predict(empty).shape == rents.predict(empty).shape == (0,)
    assert model.predict_proba(empty).shape == (0, 3)
    with pytest.raises(ValueError, match="no rows to evaluate"):
        rents.evaluate(empty | {"rent": []})


def test_card_tells_what_was_seen_and_what_leaves_it(model, rents, tmp_path):
    again = TableModel.load(rents.save(tmp_path / "rents"))
    for card in (rents.card, again.card):
        assert card.rows == {"training": 76, "validation": 14, "test": 0}
        assert card.columns["size"]["missing"] == sum(v is None for v in TABLE["size"])
        assert card.targets["rent"]["highest"] == max(RENT)
        held = {name: [values[i] for i in rents.held_out] for name, values in TABLE.items()}
        found = rents.evaluate(held, {"rent": np.array(RENT)[rents.held_out]})
        assert card.metrics["validation"] == pytest.approx(found)
    assert again.card == rents.card
    assert model.card.targets["target"]["counts"] == {kind: KIND.count(kind) for kind in KINDS}
    told = str(rents.card)
    assert "76 for training, 14 for validation" in told
    assert re.search(r"town +Bonn, Süd \d+, Köln \d+, Ulm \d+, 7 missing", told)
    table = rows_of(0, 1, 2, size=[1000, 50, -1], town=["Rom", None, "Ulm"])
    outside = again.outside(table)
    assert outside["town"] == "1 value unseen: Rom"
    assert outside["size"].startswith("2 values outside ")
    assert again.outside(TABLE) == {}


def test_importance_is_the_fall_of_the_score_without_a_column(rents):
    falls = rents.importance(TABLE, {"rent": RENT})
    assert list(falls) == ["size", *list(falls)[1:]]
    assert set(falls) == {"size", "town", "garden"}
    assert falls["size"] > 0.3 > abs(falls["town"])
    assert falls == rents.importance(TABLE, {"rent": RENT})


def test_checkpoint_is_a_model_too(tmp_path):
    path = tmp_path / "run.safetensors"
    model = TableModel(**FAST | {"epochs": 3}).fit(TABLE, KIND, checkpoint=path)
    last = TableModel.load(path)
    assert last.predict_proba(TABLE).shape == (N, 3)
    assert str(last.preparation) == str(model.preparation)


def test_further_metrics_are_measured(model, rents):
    assert "precision_macro" in model.evaluate(TABLE, KIND, metrics="precision_macro")
    assert rents.evaluate(TABLE, {"rent": RENT}, metrics=["mse"])["mse"] > 1
    with pytest.raises(ValueError, match="'f1' is for classes"):
        rents.evaluate(TABLE, {"rent": RENT}, metrics=["f1"])


def test_categories_in_a_file_are_text_whatever_they_look_like(tmp_path):
    rooms = {"room": ["7", "8", "12b"] * 30, "n": list(range(90)), "kind": ["x", "y", "z"] * 30}
    train = written(tmp_path / "rooms.csv", rooms)
    model = TableModel(**FAST, categorical=["room"], drop=["n"]).fit(train, "kind")
    new = {"room": ["7.0", *["8"] * 18, "12b"]}  # 12b would be a slip in a column of numbers
    assert model.outside(written(tmp_path / "new.csv", new)) == {}
    predicted = model.predict(tmp_path / "new.csv")
    assert predicted.tolist() == ["x", *["y"] * 18, "z"]


def test_model_runs_on_other_libraries(model, placement):
    where = {"device": placement.device_name, "backend": placement.backend_word}
    moved = model.to(**where)
    assert moved.network.placement.library == placement.library
    expected = model.predict_proba(TABLE)
    np.testing.assert_allclose(moved.predict_proba(TABLE), expected, rtol=1e-4, atol=1e-6)
    assert moved.predict(TABLE).tolist() == model.predict(TABLE).tolist()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "target is missing"),
        ("kind", "target needs a column 'kind'"),
        (KIND[1:], "target has 89 values, and the table 90 rows"),
        ([*KIND[1:], None], "row 90, column 'target': the target is missing"),
        (["x"] * N, "nothing to distinguish"),
    ],
    ids=["none", "no column", "too few", "missing", "one class"],
)
def test_target_that_does_not_fit_is_refused(target, message):
    with pytest.raises(ValueError, match=message):
        TableModel().fit(TABLE, target)


def test_too_few_rows_to_hold_any_out_are_refused():
    with pytest.raises(
        ValueError, match=r"validation_fraction=0.15 of 2 rows.*validation_frac.*=0"
    ):
        TableModel(validation_fraction=0.15).fit({"a": [1.0, 2.0]}, ["x", "y"])


def test_nothing_is_told_before_anything_is_learned(tmp_path):
    model = TableModel()
    for ask in (model.predict, model.predict_proba, model.evaluate, model.save):
        with pytest.raises(ValueError, match="learned nothing yet: call fit"):
            ask(TABLE)
    with pytest.raises(ValueError, match="learned nothing yet"):
        model.to("cpu")


def test_parameters_are_read_and_set():
    model = TableModel((3,), seed=1)
    assert model.get_params()["hidden_layer_sizes"] == (3,)
    assert repr(model.set_params(epochs=4)) == (
        "TableModel(hidden_layer_sizes=(3,), epochs=4, seed=1)"
    )
    with pytest.raises(ValueError, match="'eta' is not one of the parameters hidden_layer_sizes"):
        model.set_params(eta=1)


def test_scikit_learns_tools_take_it():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import cross_validate

    frame, y = pandas.DataFrame(TABLE), pandas.Series(KIND, name="kind")
    fast = FAST | {"validation_fraction": 0}  # half of the rows are few
    model = TableModel(**fast, task="classification")
    assert is_classifier(clone(model))
    assert not is_classifier(TableModel(task="regression"))
    scores = cross_validate(model, frame, y, cv=2, scoring=["accuracy", "roc_auc_ovr"])
    assert scores["test_accuracy"].min() > 0.6
    assert scores["test_roc_auc_ovr"].min() > 0.7
    assert cross_validate(TableModel(**fast), frame, y, cv=2)["test_score"].min() > 0.5
