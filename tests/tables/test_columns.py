import datetime
import decimal

import numpy as np
import pytest

from bp_xp.tables.columns import as_columns, as_values, labels_of, missing_in, numbers_of

DAY = datetime.date(2024, 5, 6)
CONTENT = {
    "n": [1.5, None, 3.0],
    "whole": [1, 2, 3],
    "flag": [True, False, True],
    "maybe": [True, None, False],
    "word": ["ä", None, "b"],
    "day": [DAY, None, DAY],
}


def frames():
    pandas = pytest.importorskip("pandas")
    yield "mapping", CONTENT
    yield "pandas", pandas.DataFrame(CONTENT)
    typed = pandas.DataFrame(CONTENT).convert_dtypes()
    typed["word"], typed["day"] = typed["word"].astype("category"), pandas.to_datetime(typed["day"])
    yield "pandas' own types", typed
    for library in ("polars", "pyarrow"):  # where they are installed
        try:
            module = __import__(library)
        except ImportError:
            continue
        yield library, getattr(module, "DataFrame", getattr(module, "table", None))(CONTENT)


@pytest.mark.parametrize(("name", "table"), list(frames()), ids=lambda value: str(value)[:12])
def test_every_kind_of_table_becomes_the_same_columns(name, table):
    columns = as_columns(table)
    assert {key: values.dtype.kind for key, values in columns.items()} == {
        **{"n": "f", "whole": "f", "flag": "b", "maybe": "O", "word": "O", "day": "M"}
    }
    for key in ("n", "maybe", "word", "day"):
        assert missing_in(columns[key]).tolist() == [False, True, False]
    assert columns["word"].tolist() == ["ä", None, "b"]
    assert labels_of(columns["maybe"]) == ["true", None, "false"]
    assert columns["day"][0] == np.datetime64("2024-05-06")


def test_array_has_numbered_columns():
    assert list(as_columns(np.zeros((2, 3)))) == ["column 1", "column 2", "column 3"]
    mixed = as_columns(np.array([[1, "x"], [None, "y"]], object))
    assert mixed["column 1"].dtype == np.float64
    assert mixed["column 2"].tolist() == ["x", "y"]


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        as_columns(np.zeros(3))
    with pytest.raises(ValueError, match=r"columns of the same length.*\[1, 2\]"):
        as_columns({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="no columns"):
        as_columns({})
    with pytest.raises(TypeError, match=r"row 2, column 'a': a dict is neither"):
        as_columns({"a": ["x", {}]})
    with pytest.raises(TypeError, match=r"a table is a data frame.*, not a set"):
        as_columns({1, 2})
    with pytest.raises(TypeError, match="complex128"):
        as_columns({"a": np.array([1j])})
    with pytest.raises(ValueError, match=r"column 'a' has shape \(2, 1\)"):
        as_columns({"a": np.zeros((2, 1))})


def test_frames_have_columns_called_by_numbers_but_none_twice():
    pandas = pytest.importorskip("pandas")
    assert list(as_columns(pandas.DataFrame([[1, 2]]))) == ["0", "1"]
    with pytest.raises(ValueError, match="two columns of the table have the same name"):
        as_columns(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_one_value_has_one_label_however_it_is_written():
    assert labels_of(np.array([1.0, 2.5, np.nan])) == ["1", "2.5", None]
    assert labels_of(as_values([1, "x", 2.0, True], "a")) == ["1", "x", "2", "true"]
    assert labels_of(np.array([True, False])) == ["true", "false"]
    assert labels_of(np.array([0.0, -0.0])) == ["0", "0"]


def test_dates_are_days_and_truth_is_one():
    days = as_values([datetime.datetime(1970, 1, 2, 12), None], "d")
    assert numbers_of(days, "d")[0] == 1.5
    assert np.isnan(numbers_of(days, "d")[1])
    listed = as_values([np.datetime64("1970-01-02"), None, np.datetime64("NaT")], "d")
    np.testing.assert_array_equal(numbers_of(listed, "d"), [1.0, np.nan, np.nan])
    zone = datetime.timezone(datetime.timedelta(hours=12))
    assert numbers_of(as_values([datetime.datetime(1970, 1, 2, tzinfo=zone)], "d"), "d") == [0.5]
    assert numbers_of(np.array([True, None, False], object), "f")[[0, 2]].tolist() == [1, 0]
    assert as_values([decimal.Decimal("1.5"), None], "d")[0] == 1.5


def test_text_and_infinity_are_no_numbers():
    assert numbers_of(np.array(["07", None], object), "zip")[0] == 7
    with pytest.raises(ValueError, match=r"row 2, column 'a': 'x' is not a number"):
        numbers_of(np.array(["1", "x"], object), "a")
    with pytest.raises(ValueError, match=r"row 2, column 'a': the number is infinite"):
        numbers_of(np.array([1.0, np.inf]), "a")
