import gzip

import numpy as np
import pytest

from bp_xp.errors import DataFormatError
from bp_xp.tables import read_table


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def to_file(content, name="table.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
        return path

    return to_file


def rows(n, line):
    return "".join(
        f"{line}\n".format(i=i, half=i / 2, day=f"{i + 1:02d}", two=i % 2) for i in range(n)
    )


def listed(table):
    return {name: values.tolist() for name, values in table.items()}


SMALL = {"a": [1.0, 2.0], "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("a,b\n1,x\n2,y\n", "utf-8"),
        ("a,b\n1,x\n2,y", "utf-8-sig"),
        ("a;b\r\n1;x\r\n2;y\r\n", "utf-16"),
        ("a\tb\n1\tx\n2\ty\n", "utf-8"),
        ("a|b\r1|x\r2|y\r", "utf-8"),
        ('\n\n"a", b\n"1", x\n\n 2 ,"y"\n', "utf-8"),
        ("a,b\r\n1,x\n2,y\r\n", "utf-8"),
        ("a,b\n1,\tx\r2,y\r\n", "utf-16"),
    ],
    ids=["plain", "mark", "utf-16", "tabs", "bars", "quotes", "mixed ends", "mixed in utf-16"],
)
def test_usual_forms_of_one_table_are_read_alike(write, content, encoding):
    assert listed(read_table(write(content, encoding=encoding))) == SMALL


def test_gzip_and_names_with_wildcards_are_read(write):
    content = b"a,b\n1,x\n2,y\n"
    assert listed(read_table(write(gzip.compress(content), "t.csv.gz"))) == SMALL
    write(b"a,b\n3,z\n", "t1.csv")
    assert listed(read_table(write(content, "t[1].csv"))) == SMALL
    assert listed(read_table(write(content, "it's*.csv"))) == SMALL


def test_parquet_is_read(write, tmp_path):
    import duckdb

    path = tmp_path / "t.parquet"
    duckdb.connect().execute(
        "COPY (SELECT * FROM (VALUES (1, 'x', true, 1.5::DECIMAL(4, 1)), (NULL, NULL, false, 2)) "
        f"t(a, b, c, d)) TO '{path}' (FORMAT parquet)"
    )
    table = read_table(path)
    assert np.isnan(table["a"][1])
    assert [table[name].tolist() for name in "bcd"] == [["x", None], [True, False], [1.5, 2.0]]
    assert table["d"].dtype == np.float64
    with pytest.raises(DataFormatError, match="no whole Parquet file"):
        read_table(write(b"PAR1 nonsense PAR1", "u.parquet"))


def test_columns_are_numbers_dates_booleans_or_text(write):
    content = "n,iso,dotted,slash,flag,maybe,zip,word,none\n" + rows(
        14, "{half},2024-01-{day}T10:00,{day}.01.2024,{day}/01/2024,{two},true,0{i}234,w{i},"
    ).replace(",0,true", ",TRUE,").replace(",1,true", ",false,true")
    table = read_table(write(content))
    kinds = {name: values.dtype.kind for name, values in table.items()}
    assert kinds == dict.fromkeys(("n", "none"), "f") | dict.fromkeys(
        ("iso", "dotted", "slash"), "M"
    ) | {"flag": "b"} | dict.fromkeys(("maybe", "zip", "word"), "O")
    for name in ("iso", "dotted", "slash"):
        days = table[name].astype("datetime64[D]")
        assert days[0] == np.datetime64("2024-01-01")
        assert days[-1] == np.datetime64("2024-01-14")
    assert table["iso"][0] == np.datetime64("2024-01-01T10:00")
    assert table["flag"][:2].tolist() == [True, False]
    assert table["maybe"][:2].tolist() == [None, True]
    assert table["zip"][0] == "00234"
    assert read_table(write("zip,n\n 0123,1\n4567,9\n"))["zip"].tolist() == ["0123", "4567"]
    assert np.isnan(table["none"]).all()


def test_decimal_commas_and_thousands_are_numbers(write):
    table = read_table(write("a;b;c\n0,5;1.234,5;1\n-2;3;\n"))
    assert table["a"].tolist() == [0.5, -2.0]
    assert table["b"].tolist() == [1234.5, 3.0]
    assert np.isnan(table["c"][1])
    assert read_table(write('a,b\n1,"1,100"\n2,"12,000.5"\n'))["b"].tolist() == [1100, 12000.5]
    assert read_table(write("a;b\n1;1.500\n2;2.500\n"), decimal=",")["b"].tolist() == [1500, 2500]


def test_words_for_missing_are_missing(write):
    content = "a,b\n" + "".join(f"{word},x\n" for word in ("1", "NA", "?", "null", ""))
    assert np.isnan(read_table(write(content))["a"]).tolist() == [False] + [True] * 4
    table = read_table(write("a,b\n-,x\n1,NA\n"), missing_words=["-"])
    assert np.isnan(table["a"][0])
    assert table["b"].tolist() == ["x", "NA"]
    coded = read_table(write("a,b\n-9,x\n1,y\n"), missing_words=["-9"])
    assert np.isnan(coded["a"]).tolist() == [True, False]


def test_header_is_told_or_stated(write):
    assert listed(read_table(write("1,x\n2,y\n"))) == {"column 1": [1, 2], "column 2": ["x", "y"]}
    assert list(read_table(write("2019,2020\n1,2\n"), header=True)) == ["2019", "2020"]
    assert list(read_table(write("red,round\nblue,flat\n"), header=False)) == [
        "column 1",
        "column 2",
    ]
    assert list(read_table(write("a,,c\n1,2,3\n"))) == ["a", "column 2", "c"]


def test_quoted_separators_and_newlines_belong_to_the_field(write):
    table = read_table(write('ä,ß\n1,"Öl, ""extra"""\n2,"two\nlines"\n'))
    assert table["ß"].tolist() == ['Öl, "extra"', "two\nlines"]


MANY = 12_000
BAD = {
    "empty": ("", "no data rows"),
    "blank": ("\n\n", "no data rows"),
    "header only": ("a,b\n", "no data rows below its header"),
    "short line": (f"a,b\n{rows(30, '1,2')}5\n1,2\n", r"line 32: 1 fields.*first line has 2"),
    "late long line": (f"a,b\n{rows(MANY, '1,2')}5,6,7\n", rf"line {MANY + 2}: 3 fields"),
    "comma in a name": ("a,b\n1,Öl, extra\n", r"line 2: 3 fields.*put quotes around"),
    "name twice": ("a,b,a\n1,2,3\n", r"line 1: columns 1 and 3 are both called 'a'"),
    "late text": (
        f"a,b\n{rows(9999, '{i},{half}')}5,oops\n{rows(9, '1,2')}",
        r"row 10000, column 'b': 'oops' is not a number.*text=\['b'\]",
    ),
    "late text below no header": (
        f"1,2\n{rows(30, '{i},{half}')}5,oops\n",
        r"row 32, column 'column 2': 'oops' is not a number",
    ),
    "two styles of dates": (
        f"d\n{rows(14, '2024-01-{day}')}31.01.2024\n",
        r"row 15, column 'd': '31.01.2024' is not a date in the style year-month-day",
    ),
    "days or months": ("d\n01/02/2024\n03/04/2024\n", r"column 'd': no date.*day_first=True"),
    "infinite": ("a,b\n1,1e308\n2,1e400\n", r"row 2, column 'b': the number is infinite"),
    "late point": (
        f"a;b\n{rows(99, '{i},5;{i}')}5.5;1\n",
        r"row 100, column 'a': '5.5' is not a number",
    ),
    "early comma": (
        f"a;b;c\n1,5;2.5;3\n{rows(99, '{i};{half};{i}')}",
        r"row 1, column 'a': '1,5' is not a number",
    ),
    "Excel": (b"PK\x03\x04\x14\x00\x06\x00\x08", "is an Excel file or another zip.*save the sheet"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Excel file.*save the sheet as CSV"),
    "Parquet": (b"PAR1\x15\x04", r"is a Parquet file: .*\.parquet"),
    "JSON": ('[\n  {"a": 1, "b": 2}\n]', "is JSON: convert it to CSV"),
    "open quote": ('a,b\n1,"open\n2,3\n', r"line 2: a quote"),
    "quote in a field": ('a,b\n1,"x" y\n', r"line 2: a quote"),
    "NUL": ("a,b\n1,\x002\n", "NUL"),
    "late NUL": (f"a,b\n{rows(300_000, '1,2')}3,\x004\n", r"row 300001: it holds NUL"),
    "latin-1": ("Größe,b\n1,2\n".encode("latin-1"), r"line 1: not text in UTF-8.*'latin-1'"),
    "mixed encodings": ("a,b\n1,Köln\n".encode() + "2,Köln\n".encode("latin-1"), r"line 3: not"),
    "late latin-1": (b"a,b\n" + b"1,x\n" * 300_000 + b"2,K\xf6ln\n", r"line 300002: not text"),
    "no text": (bytes(range(128, 256)), "not text"),
    "giant line": (b"a,b\n1," + b"x" * 3_000_000 + b"\n", r"line 2: .*the limit of 2,097,152"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_table_is_refused_in_one_line(write, case):
    content, message = BAD[case]
    path = write(content)
    with pytest.raises(DataFormatError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gzip_that_is_none_or_cut_is_refused(write):
    with pytest.raises(DataFormatError, match="can't be unpacked"):
        read_table(write("a,b\n1,2\n", "t.csv.gz"))
    with pytest.raises(DataFormatError, match="can't be unpacked"):
        read_table(write(gzip.compress(b"a,b\n1,2\n" * 99)[:-12], "t.csv.gz"))


def test_what_was_refused_can_be_asked_for(write):
    late = BAD["late text"][0]
    assert read_table(write(late), text=["b"])["b"][9999] == "oops"
    days = BAD["days or months"][0]
    for day_first, month in ((True, 2), (False, 1)):
        found = read_table(write(days), day_first=day_first)["d"][0]
        assert found.astype("datetime64[M]") == np.datetime64(f"2024-0{month}")
    latin = BAD["latin-1"][0]
    assert list(read_table(write(latin), encoding="latin-1")) == ["Größe", "b"]


@pytest.mark.parametrize(
    "options",
    [{"decimal": ";"}, {"encoding": "cp1252"}, {"separator": ""}, {"text": ["nowhere"]}],
    ids=lambda options: next(iter(options)),
)
def test_argument_that_can_not_be_is_refused(write, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        read_table(write("a,b\n1,2\n"), **options)


def test_header_alone_is_a_table_where_that_is_allowed(write):
    assert listed(read_table(write("a,b\n"), allow_empty=True)) == {"a": [], "b": []}
    with pytest.raises(DataFormatError, match="no data rows"):
        read_table(write(""), allow_empty=True)


def test_missing_file_is_named(tmp_path):
    for name in ("nowhere.csv", "nowhere.parquet"):
        with pytest.raises(FileNotFoundError, match=name):
            read_table(tmp_path / name)
