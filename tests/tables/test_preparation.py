import datetime
import json

import numpy as np
import pytest

from bp_xp.storage.network_file import Section
from bp_xp.tables import Preparation

N = 60
RNG = np.random.default_rng(0)
TOWNS = ["Köln", "Ulm", "Bonn, Süd"]
TABLE = {
    "age": [None if i % 7 == 0 else 20.0 + i / 2 for i in range(N)],
    "town": [None if i % 11 == 0 else "Hof" if i == 5 else TOWNS[i % 3] for i in range(N)],
    "flag": [i % 2 == 0 for i in range(N)],
    "when": [datetime.date(2024, 1, 1) + datetime.timedelta(i) for i in range(N)],
    "row": [*range(100, 100 + N)],
    "note": [f"text {i}" for i in range(N)],
    "same": ["x"] * N,
    "none": [None] * N,
    "y": [i / 10 for i in range(N)],
}


@pytest.fixture(scope="module")
def preparation():
    return Preparation.learn(TABLE, ["y"])


def rows(*places, **changes):
    return {name: [values[i] for i in places] for name, values in TABLE.items()} | changes


def test_each_column_is_decided_and_told(preparation):
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in str(preparation).splitlines()}
    assert told == {
        "age": "number, with a column for what is missing",
        "town": "3 categories, rare and unseen ones together, with a column for what is missing",
        "flag": "2 categories",
        "when": "date, in days",
        "row": "left out: it numbers the rows",
        "note": "left out: 60 different texts in 60 rows",
        "same": "left out: the same in all rows",
        "none": "left out: nothing but missing values",
        "y": "target: regression of y; numbers with fractions",
    }
    assert len(preparation.features) == preparation.inputs(TABLE).shape[1] == 10


def test_numbers_are_standardized_and_missing_ones_are_the_median(preparation):
    x = dict(zip(preparation.features, preparation.inputs(TABLE).T, strict=True))
    age = np.array([np.nan if v is None else v for v in TABLE["age"]])
    there = ~np.isnan(age)
    np.testing.assert_allclose(x["age"][there].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(x["age"][there].std(), 1)
    expected = (np.median(age[there]) - age[there].mean()) / age[there].std()
    np.testing.assert_allclose(x["age"][~there], expected)
    assert x["age is missing"].tolist() == (~there).tolist()
    np.testing.assert_allclose(np.diff(x["when"]), 1 / np.arange(N).std())


def test_categories_have_places_for_the_rare_the_unseen_and_the_missing(preparation):
    table = rows(1, 1, 1, 1, town=["Ulm", "Hof", "nowhere", None])
    x = dict(zip(preparation.features, preparation.inputs(table).T, strict=True))
    assert x["town = Ulm"].tolist() == [1, 0, 0, 0]
    assert x["town is another"].tolist() == [0, 1, 1, 0]
    assert x["town is missing"].tolist() == [0, 0, 0, 1]
    assert "town = Hof" not in x
    # No weight was taught for an unseen value of a column without rare ones.
    table = rows(1, 1, flag=["perhaps", None])
    assert preparation.inputs(table)[:, preparation.features.index("flag = true")].tolist() == [
        0,
        0,
    ]


def test_years_do_not_number_the_rows():
    table = {"year": [*range(1950, 2025)], "id": [*range(1, 76)], "y": [i / 7 for i in range(75)]}
    preparation = Preparation.learn(table, ["y"])
    assert preparation.numbers.names == ("year",)
    assert preparation.left_out == {"id": "it numbers the rows"}


def test_no_rows_are_no_inputs(preparation):
    empty = {name: [] for name in TABLE}
    assert preparation.inputs(empty).shape == (0, 10)
    with pytest.raises(ValueError, match="needs a column 'when'"):
        preparation.inputs({"age": []})
    with pytest.raises(ValueError, match="no rows to learn from"):
        Preparation.learn(empty, ["y"])


def test_each_input_has_a_column_that_it_comes_from(preparation):
    assert len(preparation.sources) == len(preparation.features)
    for source, feature in zip(preparation.sources, preparation.features, strict=True):
        assert feature.split()[0] == source


def test_a_category_knows_what_it_held(preparation):
    held = {each.name: each.holds for each in preparation.categories}
    assert held == {"town": "text", "flag": "truth values"}
    table = {"age": TABLE["age"], "when": TABLE["when"], "flag": [None, True, False] * 20}
    others = Preparation.learn(table, {"y": TABLE["y"]}, categorical=list(table)).categories
    assert [each.holds for each in others] == ["numbers", "dates", "truth values"]


def test_dates_may_all_be_missing(preparation):
    one = preparation.inputs(rows(1, when=[None]))
    middle = np.median(preparation.inputs(TABLE)[:, preparation.features.index("when")])
    np.testing.assert_allclose(one[0, preparation.features.index("when")], middle, atol=1e-12)
    preparation.inputs(rows(1, age=np.array(["NaT"], "M8[us]")))


def test_columns_are_found_by_name(preparation):
    permuted = dict(reversed(TABLE.items())) | {"more": [1] * N}
    np.testing.assert_array_equal(preparation.inputs(permuted), preparation.inputs(TABLE))
    del permuted["town"], permuted["note"], permuted["y"]
    with pytest.raises(
        ValueError, match=r"needs a column 'town'; the table has the columns none, same"
    ):
        preparation.inputs(permuted)


def test_other_kinds_of_values_are_refused_by_row_and_column(preparation):
    with pytest.raises(ValueError, match=r"row 2, column 'age': 'old' is not a number"):
        preparation.inputs(rows(1, 2, age=["3", "old"]))
    with pytest.raises(ValueError, match=r"'when' held dates in training, and holds numbers"):
        preparation.inputs(rows(1, when=[5.0]))
    with pytest.raises(ValueError, match=r"row 1, column 'when': '31.5.24' is not .*parse_dates="):
        preparation.inputs(rows(1, when=["31.5.24"]))
    with pytest.raises(ValueError, match=r"'age' held numbers in training, and holds dates"):
        preparation.inputs(rows(1, age=[datetime.date(2024, 1, 1)]))
    with pytest.raises(ValueError, match=r"row 1, column 'age': 1e\+300 is too far"):
        preparation.inputs(rows(1, age=[1e300]))


def test_text_dates_are_dates_as_in_a_file(preparation):
    days = [datetime.datetime(2024, 1, 5), datetime.datetime(2024, 12, 31, 6, 30)]
    known = preparation.inputs(rows(1, 2, when=days))
    texts = ["2024-1-5", "2024-12-31 06:30"]
    np.testing.assert_array_equal(preparation.inputs(rows(1, 2, when=texts)), known)
    table = {"when": [*texts, None] * 8, "y": np.arange(24) + 0.5}
    assert Preparation.learn(table, ["y"]).numbers.dates == (True,)
    as_text = Preparation.learn(table, ["y"], categorical=["when"])
    assert as_text.categories[0].labels == tuple(texts[::-1] if texts[0] > texts[1] else texts)


def test_few_values_do_not_number_the_rows():
    table = {"once": [3] + [None] * 200, "row": np.arange(201), "a": [1, 2, 2] * 67}
    left_out = Preparation.learn(table, {"y": np.arange(201) + 0.5}).left_out
    assert left_out == {"once": "only one value in 201 rows", "row": "it numbers the rows"}


def test_names_that_are_no_columns_to_learn_from_are_told():
    table = {"size": [1, 2, 3], "rent": [1.5, 2.5, 4]}
    with pytest.raises(ValueError, match="drop names 'rent', which is the target"):
        Preparation.learn(table, ["rent"], drop=["rent"])
    with pytest.raises(ValueError, match="Did you mean 'size'"):
        Preparation.learn(table, ["rent"], drop=["siz"])
    with pytest.raises(ValueError, match="Did you mean 'rent'"):
        Preparation.learn(table, ["rentt"])


def test_only_training_rows_are_learned_from():
    table = {"a": [1.0, 2.0, 3.0, 1000.0], "b": ["x", "x", "x", "z"], "c": [0, 1, 0, 1]}
    preparation = Preparation.learn(table, {"y": [0.5, 1.5, 2.5, 99.0]}, rows=[0, 1, 2])
    assert preparation.numbers.center.tolist() == [2.0, 1 / 3]
    assert preparation.left_out == {"b": "the same in all rows"}
    np.testing.assert_allclose(preparation.targets.center, 1.5)


@pytest.mark.parametrize("scaling", ["standard", "minmax", "robust", "none"])
def test_scalings_are_as_they_are_called(scaling):
    values = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    table = {"a": values, "quarters": [0, 5, 5, 5, 5], "y": values + 0.5}
    x = Preparation.learn(table, ["y"], scaling=scaling).inputs(table).T
    robust = (values - 2) / 2
    expected = {
        "standard": (values - values.mean()) / values.std(),
        "minmax": values / 100,
        "robust": robust / np.sqrt(1 + (robust / 3) ** 2),
        "none": values,
    }
    np.testing.assert_allclose(x[0], expected[scaling])
    if scaling == "robust":  # all quartiles are 5: half the range
        assert x[1, 0] == pytest.approx(-2 / np.sqrt(1 + (2 / 3) ** 2))


@pytest.mark.parametrize("scaling", ["standard", "minmax", "robust"])
@pytest.mark.parametrize("size", [1e308, 1e-300])
def test_numbers_at_the_ends_of_float64_are_scaled(scaling, size):
    table = {"a": [-size, size, size / 2, 0.0], "y": [1.5, size, -size, 0.5]}
    preparation = Preparation.learn(table, ["y"], scaling=scaling, task="regression")
    x, y = preparation.inputs(table), preparation.outputs(table)
    assert np.abs(x).max() < 3
    assert np.ptp(x) > 0.5
    assert np.isfinite(y).all()
    decoded = preparation.targets.decode(y)
    np.testing.assert_allclose(decoded, table["y"], rtol=1e-12, atol=1e-12 * np.abs(decoded).max())


def test_every_decision_can_be_overridden():
    wishes = {"numeric": ["row"], "categorical": ["note", "age"], "drop": ["flag"]}
    preparation = Preparation.learn(TABLE, ["y"], **wishes)
    assert preparation.numbers.names == ("when", "row")
    assert [each.name for each in preparation.categories] == ["age", "town", "note"]
    assert preparation.left_out["flag"] == "as was asked for"


@pytest.mark.parametrize(
    ("target", "wishes", "message"),
    [
        (["z"], {}, "target needs a column 'z'; the table has"),
        (["y"], {"drop": ["z"]}, "drop names 'z'"),
        (["y"], {"drop": "age"}, "drop must be a list"),
        (["y"], {"drop": ["age"], "numeric": ["age"]}, "'age' is in both numeric and drop"),
        (["y"], {"numeric": ["note"]}, "row 1, column 'note': 'text 0' is not a number"),
        (["y"], {"task": "guess"}, "task must be one of"),
        (["y"], {"scaling": "log"}, "scaling must be one of"),
        (["age"], {}, r"row 1, column 'age': the target is missing, as in 9 of 60 rows"),
        (["same"], {}, "column 'same' holds 'x' in every row"),
        (["y", "flag"], {"task": "classification"}, "classes need one column, not 2"),
        (["y", "flag"], {"task": "multilabel"}, r"row 2, column 'y': 0.1 is neither 0 nor 1"),
        (["note"], {"task": "regression"}, "row 1, column 'note': 'text 0' is not a number"),
        (["y"], {"drop": ["age", "town", "flag", "when"]}, "no column is left"),
    ],
)
def test_what_does_not_fit_is_refused(target, wishes, message):
    with pytest.raises(ValueError, match=message):
        Preparation.learn(TABLE, target, **wishes)


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["b", "a"] * 10, "classification", ("a", "b")),
        ([True, False] * 10, "classification", (False, True)),
        ([1, -1] * 10, "classification", (-1, 1)),
        ([1, 2, 3, 4] * 5, "classification", (1, 2, 3, 4)),
        ([0.5, 1.5] * 10, "classification", (0.5, 1.5)),
        ([*range(4), 0.5] * 4, "regression", ()),
        ([*range(20)], "regression", ()),
        ([*range(5)] * 4, "regression", ()),
    ],
)
def test_task_is_decided_by_the_target(values, task, classes):
    targets = Preparation.learn({"x": np.arange(20.0) ** 2}, {"y": values}).targets
    assert (targets.task, targets.classes) == (task, classes)
    encoded = targets.encode({"y": np.array(values)})
    if classes:
        assert targets.decode(np.eye(len(classes))[encoded]).tolist() == values
        assert targets.class_values.dtype.kind == np.array(values).dtype.kind
    else:
        np.testing.assert_allclose(targets.decode(encoded), values, atol=1e-12)


def test_doubtful_task_says_how_to_say_otherwise():
    for values, other in (([1, 2, 3] * 20, "regression"), ([*range(15)] * 4, "classification")):
        preparation = Preparation.learn({"x": np.arange(60.0) ** 2}, {"y": values})
        assert f"task='{other}'" in str(preparation)
        assert preparation.targets.task != other
        asked = Preparation.learn({"x": np.arange(60.0) ** 2}, {"y": values}, task=other)
        assert asked.targets.task == other


def test_several_targets_are_labels_or_numbers():
    table = {"x": [1.0, 2.0, 3.0], "a": [0, 1, 1], "b": [True, False, True], "c": [1.0, 5.0, 9.0]}
    labels = Preparation.learn(table, ["a", "b"])
    assert labels.targets.task == "multilabel"
    assert labels.outputs(table).tolist() == [[0, 1], [1, 0], [1, 1]]
    numbers = Preparation.learn(table, ["a", "c"])
    assert numbers.targets.task == "regression"
    decoded = numbers.targets.decode(numbers.outputs(table))
    np.testing.assert_allclose(decoded, [[0, 1], [1, 5], [1, 9]], atol=1e-12)


def test_unknown_class_is_refused_by_row():
    preparation = Preparation.learn({"x": [1, 2, 4], "y": ["a", "b", "a"]}, ["y"])
    message = r"row 2, column 'y': 'c' is not one of the classes 'a', 'b'"
    with pytest.raises(ValueError, match=message):
        preparation.outputs({"y": ["a", "c"]})


def test_a_file_keeps_all_of_it(preparation):
    section = preparation.to_section()
    kept = Section(json.loads(json.dumps(section.fields)), section.tensors)
    back = Preparation.from_section(kept)
    assert str(back) == str(preparation)
    np.testing.assert_array_equal(back.inputs(TABLE), preparation.inputs(TABLE))
    np.testing.assert_array_equal(back.outputs(TABLE), preparation.outputs(TABLE))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda fields, tensors: fields.update(version=2),
        lambda fields, tensors: fields["numbers"].update(dates=[True]),
        lambda fields, tensors: fields["numbers"].update(scaling="log"),
        lambda fields, tensors: fields["targets"].update(task="guess"),
        lambda fields, tensors: fields["targets"].update(task="classification"),
        lambda fields, tensors: fields.update(order=[]),
        lambda fields, tensors: fields.pop("categories"),
        lambda fields, tensors: fields["categories"][0].update(more=1),
        lambda fields, tensors: tensors["scale"].fill(0.0),
        lambda fields, tensors: tensors["center"].fill(np.nan),
        lambda fields, tensors: tensors.pop("target.scale"),
    ],
)
def test_section_that_is_not_whole_is_refused(preparation, spoil):
    section = preparation.to_section()
    fields = json.loads(json.dumps(section.fields))
    tensors = {name: values.copy() for name, values in section.tensors.items()}
    spoil(fields, tensors)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Preparation.from_section(Section(fields, tensors))
