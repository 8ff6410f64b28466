import gzip

import numpy as np
import pytest

from bp_xp.datasets import load_file
from bp_xp.datasets.stored import open_file
from bp_xp.errors import DataFormatError

X = np.arange(40, dtype=np.float64).reshape(20, 2) / 4
Y = np.arange(20) % 3


@pytest.fixture
def saved(tmp_path):
    """Saves arrays to a .npz file and returns its path."""

    def save(**arrays):
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays)
        return path

    return save


@pytest.fixture
def csv_path(tmp_path):
    path = tmp_path / "mine.csv"
    rows = [f"{y},{a},{b}" for (a, b), y in zip(X, Y, strict=True)]
    path.write_text("\n".join(["kind,width,height", *rows]))
    return path


def assert_is_split_of(data, x, y):
    """Every row is in one of the two parts, beside its label."""
    rows = np.column_stack(
        [np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])]
    )
    expected = np.column_stack([x, y])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))


def test_archive_of_x_and_y_is_split(saved):
    data = load_file(saved(x=X, y=Y))
    assert data.name == "mine"
    assert (data.x_train.dtype, data.y_train.dtype) == (np.float32, np.int64)
    assert (len(data.x_train), len(data.x_test)) == (16, 4)
    assert data.x_validation is None
    assert_is_split_of(data, X, Y)


def test_split_follows_from_the_seed_and_the_fraction(saved):
    path = saved(x=X, y=Y)
    first = load_file(path).x_test
    assert np.array_equal(load_file(path).x_test, first)
    assert not np.array_equal(load_file(path, seed=1).x_test, first)
    assert len(load_file(path, test_fraction=0.5).x_test) == 10


@pytest.mark.parametrize("fraction", [0, 1, 0.01, 0.99, -0.5, 2])
def test_fraction_that_leaves_a_part_empty_is_refused(saved, fraction):
    with pytest.raises(
        ValueError, match=f"of the 20 rows .* share of {fraction} .* another test_fr"
    ):
        load_file(saved(x=X, y=Y), test_fraction=fraction)


def test_archive_in_parts_is_taken_as_it_is(saved):
    parts = {"x_train": X, "y_train": Y, "x_test": X[:5], "y_test": Y[:5]}
    data = load_file(saved(**parts, names=np.array(["a", "b"])))
    assert np.array_equal(data.x_train, X)
    assert np.array_equal(data.y_test, Y[:5])
    assert data.x_validation is None
    data = load_file(saved(**parts, x_validation=X[:3], y_validation=Y[:3]))
    assert np.array_equal(data.x_validation, X[:3])
    assert np.array_equal(data.y_validation, Y[:3])


def test_bytes_are_taken_for_images(saved):
    images = np.array([[[0, 255]], [[51, 102]]], np.uint8)
    data = load_file(saved(x_train=images, y_train=[0, 1], x_test=images, y_test=[0, 1]))
    assert data.x_train.dtype == np.float32
    np.testing.assert_array_equal(data.x_train, np.array([[0, 1], [0.2, 0.4]], np.float32))


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([2, 0], np.array([2, 0])),
        ([2.0, 0.0], np.array([2, 0])),
        ([[2], [0]], np.array([2, 0])),
        ([True, False], np.array([1, 0])),
        ([0.5, 1], np.array([[0.5], [1]], np.float32)),
        ([-1, 1], np.array([[-1], [1]], np.float32)),
        ([[1, 0], [0, 1]], np.array([[1, 0], [0, 1]], np.float32)),
        ([[1.0], [0.0]], np.array([[1], [0]], np.float32)),
    ],
    ids=["ints", "whole", "column", "bools", "fractions", "signs", "one-hot", "float column"],
)
def test_whole_numbers_are_labels_and_others_targets(saved, y, expected):
    data = load_file(saved(x_train=X[:2], y_train=y, x_test=X[:2], y_test=y))
    for read in (data.y_train, data.y_test):
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)


def test_outputs_of_all_parts_are_of_one_kind(saved):
    path = saved(x_train=X[:2], y_train=[0.0, 1.0], x_test=X[:2], y_test=[0.5, 1.0])
    data = load_file(path)
    assert data.y_train.shape == data.y_test.shape == (2, 1)
    assert data.y_train.dtype == np.float32


def test_different_counts_are_refused(saved):
    with pytest.raises(DataFormatError, match=r"x has 20 rows, but y has 19"):
        load_file(saved(x=X, y=Y[1:]))


def test_parts_of_different_widths_are_refused(saved):
    with pytest.raises(DataFormatError, match=r"train \(20, 2\).*test \(20, 1\)"):
        load_file(saved(x_train=X, y_train=Y, x_test=X[:, :1], y_test=Y))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"a": X}, r"has the members \['a'\]: expected are x and y"),
        ({"x": X}, "a member x, but none named y"),
        ({"x_train": X, "y_train": Y}, "expected are"),
        ({"x_train": X, "y_train": Y, "y_test": Y}, "y_test, but none named x_test"),
        ({"x": X, "y": Y.astype(str)}, r"y holds <U\d+ of shape"),
        ({"x": X.astype(complex), "y": Y}, "x holds complex128"),
        ({"x": X[:0], "y": Y[:0]}, r"x holds float64 of shape \(0, 2\)"),
        ({"x": X[:, 0], "y": Y}, "Reshape your data"),
    ],
)
def test_archive_that_is_no_data_set_is_refused(saved, arrays, problem):
    path = saved(**arrays)
    with pytest.raises(DataFormatError, match=problem) as caught:
        load_file(path)
    assert str(path) in str(caught.value)


SIGNALLING_NAN = np.array(0x7FF0_0000_0000_0001).view(np.float64)


@pytest.mark.parametrize("value", [np.nan, np.inf, SIGNALLING_NAN])
def test_missing_input_is_refused_unless_allowed(saved, value):
    x = X.copy()
    x[3, 1] = value
    path = saved(x=x, y=Y)
    with pytest.raises(DataFormatError, match=r"row 3, column 1 \(counted from 0\)"):
        load_file(path)
    data = load_file(path, missing="allow")
    assert np.sum(~np.isfinite(np.concatenate([data.x_train, data.x_test]))) == 1


def test_label_is_never_missing(saved):
    y = Y.astype(float)
    y[5] = np.nan
    with pytest.raises(DataFormatError, match=r"y, row 5"):
        load_file(saved(x=X, y=y), missing="allow")


def test_input_too_large_for_float32_is_refused(saved):
    x = X.copy()
    x[3, 1] = 1e300
    with pytest.raises(DataFormatError, match=r"row 3, column 1 .*: 1e\+300"):
        load_file(saved(x=x, y=Y), missing="allow")


def test_limit_on_expansion_is_passed_on(saved):
    with pytest.raises(DataFormatError, match="limit of 10"):
        load_file(saved(x=X, y=Y), max_bytes=10)


def test_table_has_its_labels_in_the_last_column(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, np.column_stack([X, Y]))
    assert_is_split_of(load_file(path), X, Y)


@pytest.mark.parametrize("column", ["kind", 0, -3])
def test_column_of_labels_is_chosen_by_name_or_number(csv_path, column):
    data = load_file(csv_path, target=column)
    assert data.y_train.dtype == np.int64
    assert_is_split_of(data, X, Y)


def test_default_column_of_a_csv_file_is_the_last(csv_path):
    data = load_file(csv_path)
    assert_is_split_of(data, np.column_stack([Y, X[:, 0]]), X[:, 1])


def test_tables_with_tabs_and_in_gzip_are_read_too(csv_path):
    text = csv_path.read_text()
    tabs, packed = csv_path.with_suffix(".tsv"), csv_path.with_suffix(".csv.gz")
    tabs.write_text(text.replace(",", "\t"))
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (tabs, packed):
        assert_is_split_of(load_file(path, target="kind"), X, Y)


@pytest.mark.parametrize("column", ["sort", 3, -4])
def test_column_that_is_not_there_is_refused(csv_path, column):
    with pytest.raises(ValueError, match=f"target is {column!r}.*(kind, width, height|3 columns)"):
        load_file(csv_path, target=column)


def test_name_that_two_columns_have_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b,a\n1,2,3\n4,5,6\n")
    with pytest.raises(DataFormatError, match="columns 1 and 3 are both called 'a'"):
        load_file(path, target="a")


def test_name_is_refused_where_columns_have_none(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, X)
    with pytest.raises(ValueError, match=r"target is 'kind'.*no names"):
        load_file(path, target="kind")


@pytest.mark.parametrize("table", [X[:, 0], X[:, :1]], ids=["one axis", "one column"])
def test_array_without_room_for_labels_is_refused(tmp_path, table):
    path = tmp_path / "mine.npy"
    np.save(path, table)
    with pytest.raises(DataFormatError, match="labels in one column"):
        load_file(path)


def test_missing_field_of_a_csv_file_reaches_the_inputs_when_allowed(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("1,2,0\n,3,1\n")
    with pytest.raises(DataFormatError, match="row 2, column 'column 1'"):
        load_file(path)
    data = load_file(path, missing="allow", test_fraction=0.5)
    assert np.isnan(np.concatenate([data.x_train, data.x_test])).sum() == 1


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.csv", "A.CSV"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        load_file(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'.pkl': pass a .npz, .npy or .csv file"):
        load_file(tmp_path / "a.pkl")


def test_unknown_word_for_missing_is_refused(saved):
    with pytest.raises(ValueError, match="pass 'refuse' or 'allow'"):
        load_file(saved(x=X, y=Y), missing="drop")  # pyright: ignore


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_error_in_a_file_of_targets_names_that_file(tmp_path, value):
    inputs, targets = tmp_path / "in.npy", tmp_path / "out.npy"
    y = Y.astype(float)
    y[5] = value
    np.save(inputs, X)
    for values, problem in ((y, r"row 5, column 0 \(counted"), (Y.astype(str), r"holds <U\d+")):
        np.save(targets, values)
        for load in (load_file, open_file):
            with pytest.raises(DataFormatError, match=rf"^\S*out\.npy\W* {problem}"):
                _all_targets(load(inputs, targets=targets, test_fraction=0.5))


def _all_targets(dataset):
    return dataset.y_train[0 : len(X)], dataset.y_test[0 : len(X)]


def test_a_table_in_text_counts_rows_and_columns_from_1(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("1,2,0\n3,1e300,1\n")
    with pytest.raises(DataFormatError, match=r"row 2, column 2: 1e\+300"):
        load_file(path)
