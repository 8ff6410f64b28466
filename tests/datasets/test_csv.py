import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bp_xp.datasets import load_csv
from bp_xp.errors import DataFormatError


@pytest.fixture
def write(tmp_path):
    """Writes a CSV file and returns its path."""

    def to_file(content: str | bytes):
        path = tmp_path / "table.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def test_names_in_the_first_line_are_told_from_numbers(write):
    table = load_csv(write("width, height\n1,2.5\n-3e2,4\n"))
    assert table.columns == ("width", "height")
    assert table.values.dtype == np.float64
    assert table.values.tolist() == [[1, 2.5], [-300, 4]]

    table = load_csv(write("1,2.5\n-3e2,4\n"))
    assert table.columns is None
    assert table.values.tolist() == [[1, 2.5], [-300, 4]]


def test_header_can_be_stated(write):
    path = write("2019,2020\n1,2\n")
    assert load_csv(path).values.shape == (2, 2)
    assert load_csv(path, header=True).columns == ("2019", "2020")
    with pytest.raises(DataFormatError, match="row 1, column 'column 1': 'a' is not a number"):
        load_csv(write("a,b\n1,2\n"), header=False)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa,b\r\n1,2\r\n",
        b"a,b\r1,2\r",
        b'"a","b"\n"1"," 2 "',
        b"\na,b\n\n1,2\n\n",
    ],
    ids=["spreadsheet", "old line ends", "quotes", "blank lines"],
)
def test_ways_to_write_one_table_are_read_alike(write, content):
    table = load_csv(write(content))
    assert table.columns == ("a", "b")
    assert table.values.tolist() == [[1, 2]]


def test_delimiter_is_found_or_stated(write):
    for delimiter in (None, ";"):
        path = write("1;2\n3;4")
        assert load_csv(path, delimiter=delimiter).values.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataFormatError, match="row 1, column '1;2': '3;4' is not a number"):
        load_csv(path, delimiter=",")


@pytest.mark.parametrize(
    ("field", "shown"),
    [("three", "'three'"), ("1_000", "'1_000'"), ("x" * 100, repr("x" * 40) + " ")],
)
def test_text_in_a_number_column_is_refused(write, field, shown):
    path = write(f"a,b\n1,2\n\n3,{field}\n")
    with pytest.raises(DataFormatError, match=r"row 2, column 'b'") as caught:
        load_csv(path, missing="allow")
    assert shown in str(caught.value)
    assert str(path) in str(caught.value)


def test_first_line_of_names_and_numbers_is_refused_with_a_way_out(write):
    path = write("id,2020\n1,2\n")
    with pytest.raises(DataFormatError, match=r"row 1, column 'column 1': 'id'.*header=True"):
        load_csv(path)
    assert load_csv(path, header=True).columns == ("id", "2020")


@pytest.mark.parametrize("field", ["", "  ", "nan", "NaN", "inf", "-inf", "1e999"])
def test_missing_value_is_refused_unless_allowed(write, field):
    path = write(f"a,b,c\n1,2,3\n4,{field},6\n")
    with pytest.raises(DataFormatError, match=r"row 2, column 'b'.*missing='allow'"):
        load_csv(path)
    values = load_csv(path, missing="allow").values
    assert not np.isfinite(values[1, 1])
    assert np.isnan(values[1, 1]) == ("inf" not in field and "e" not in field)
    assert values[:, [0, 2]].tolist() == [[1, 3], [4, 6]]


def test_unknown_word_for_missing_is_refused(write):
    with pytest.raises(ValueError, match="'alow': pass 'refuse' or 'allow'"):
        load_csv(write("1,2"), missing="alow")  # pyright: ignore


@pytest.mark.parametrize("content", ["", "\n\n", "a,b\n", "\ufeff"])
def test_table_without_data_is_refused(write, content):
    path = write(content)
    with pytest.raises(DataFormatError, match="no data rows") as caught:
        load_csv(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("separator", ["", ","], ids=["field", "line"])
def test_line_beyond_the_limit_is_refused(write, separator):
    path = write("1,2\n3," + f"4{separator}" * 2**21 + "4\n")
    with pytest.raises(DataFormatError, match=r"line 2: .*(limit of 2,097,152|fields)"):
        load_csv(path)


def test_nul_is_refused(write):
    with pytest.raises(DataFormatError, match="NUL"):
        load_csv(write(b"a,b\n1,2\n3,\x004\n"))


@pytest.mark.parametrize("line", ["5", "5,6,7", '"5\n6'])
def test_line_of_another_length_is_refused(write, line):
    with pytest.raises(DataFormatError, match=r"line [34]"):
        load_csv(write(f"1,2\n3,4\n{line}\n"))


def test_file_that_is_not_text_is_refused(write):
    assert load_csv(write("a,b\n1,2\n".encode("utf-16"))).values.tolist() == [[1, 2]]
    with pytest.raises(DataFormatError, match=r"not text in UTF-8"):
        load_csv(write(b"a,b\n1,2\n\xff,3\n"))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_csv(tmp_path / "nowhere.csv")
    assert str(tmp_path / "nowhere.csv") in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.text(alphabet='01.,-e\n\r"\0_ anif\ufeff') | st.binary())
def test_any_content_is_a_table_of_finite_numbers_or_refused(write, content):
    try:
        values = load_csv(write(content)).values
    except DataFormatError as error:
        assert "table.csv" in str(error)  # noqa: PT017
    else:
        assert values.size > 0
        assert np.isfinite(values).all()


def test_long_table_is_read_quickly(write):
    line = ",".join(f"{value:.6g}" for value in np.random.default_rng(0).random(65))
    path = write(f"{line}\n" * 20_000)
    started = time.perf_counter()
    assert load_csv(path).values.shape == (20_000, 65)
    # About 0.4 s; the bound only catches work that grows with the square of the rows.
    assert time.perf_counter() - started < 5
