import gzip
import logging

import numpy as np
import pytest

from bp_xp.datasets import stored_table
from bp_xp.datasets.reader import read_table
from bp_xp.datasets.stored_table import Coded, store_table
from bp_xp.errors import DataFormatError
from bp_xp.tables import TableModel
from bp_xp.tables.stored import StoredInputs, open_columns


@pytest.fixture(autouse=True)
def in_small_parts(monkeypatch, tmp_path):
    """Read few lines first, and few rows at once, into a folder that shall be empty again."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(stored_table, "_LINES_LOOKED_AT", 20)
    monkeypatch.setattr(stored_table, "_ROWS_AT_ONCE", 32)
    for module in ("columns", "statistics", "stored", "targets", "judging"):
        monkeypatch.setattr(f"bp_xp.tables.{module}.ROWS_AT_ONCE", 64)
    yield
    assert list(folder.iterdir()) == []


def rents(n=300, seed=0):
    """Return the lines of a table of all kinds of columns."""
    draw = np.random.default_rng(seed)
    lines = ["size, rooms,town,built,lift,note,zip,empty,rent,class"]
    for i in range(n):
        size = "" if i % 7 == 3 else f"{draw.normal(60, 20):.3f}"
        town = ["Ulm", '"Bonn, Rhein"', "Rome", "NA", "Oslo"][draw.integers(5)]
        built = f"{draw.integers(1950, 2020)}-0{draw.integers(1, 10)}-1{draw.integers(10)}"
        lift = ["true", "False", ""][draw.integers(3)]
        rent = f"{draw.normal(700, 99):.2f}"
        kind = ["low", "high"][int(draw.random() < 0.6)]
        lines.append(
            f"{size},{draw.integers(1, 6)} ,{town},{built},{lift},note {i},0{i:04},,{rent},{kind}"
        )
    return lines


def write(path, lines):
    path.write_text("\n".join([*lines, ""]))
    return path


def assert_same(stored, known):
    assert list(stored) == list(known)
    for name, values in known.items():
        kept = stored[name]
        if isinstance(kept, Coded):
            assert kept.tolist() == values.tolist(), name
        else:
            assert kept.dtype == values.dtype, name
            np.testing.assert_array_equal(kept, values)


def test_stored_table_is_what_is_read_into_memory(tmp_path):
    path = write(tmp_path / "rents.csv", rents())
    assert_same(store_table(path, text=["rooms"]), read_table(path, text=["rooms"]))


FILES = {
    "late text": ["a,b", *[f"{i},x" for i in range(50)], *["word,y"] * 10],
    "late padding": ["a,b", *[f"{i},1" for i in range(50)], "007,2"],
    "late quotes": ["a;b", *[f"{i};1,5" for i in range(50)], '7;"2.000,5"'],
    "late comma": ["a;b", *[f"{i};" for i in range(50)], *["7;2,5"] * 20],
    "grouped": ["a,b", *[f'"{i},000",2' for i in range(1, 50)]],
    "dates of the day": ["d,e", *[f"{i % 28 + 1}.02.2020,{i}" for i in range(50)], ",3"],
    "no header": [f"{i},{i * i},w" for i in range(50)],
    "blanks": ["a,b", *[f" {i} ,\t x " for i in range(50)], " NA ,?"],
    "truth": ["t,u", *["TRUE,false"] * 40, "false,"],
}


@pytest.mark.parametrize("lines", FILES.values(), ids=FILES)
def test_first_lines_decide_nothing_that_later_ones_do_not_bear_out(lines, tmp_path):
    path = write(tmp_path / "table.csv", lines)
    assert_same(store_table(path), read_table(path))


BROKEN = {
    "slip": ["a,b", *[f"{i},x" for i in range(90)], "word,y"],
    "late point": ["a;b", *[f"{i},5;{i}" for i in range(90)], "5.5;1"],
    "early comma": ["a;b", "1,5;2.5", *[f"{i};{i}.5" for i in range(90)]],
    "fields": ["a,b", *["1,2"] * 90, "1,2,3"],
    "infinite": ["a,b", *["1,2"] * 90, "1e999,3"],
    "date": ["a,b", *["2020-01-02,2"] * 90, "2020-31-02,3"],
    "underscore": ["a,b", *["1,2"] * 90, "1_000,3"],
    "twice": ["a,a", "1,2"],
    "no rows": ["a,b"],
}


@pytest.mark.parametrize("lines", BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_told_as_in_memory(lines, tmp_path):
    path = write(tmp_path / "table.csv", lines)
    with pytest.raises(DataFormatError) as in_memory:
        read_table(path)
    with pytest.raises(DataFormatError) as stored:
        store_table(path)
    assert str(stored.value) == str(in_memory.value)


def test_gzip_and_parquet_are_stored_too(tmp_path):
    import duckdb

    plain = write(tmp_path / "rents.csv", rents(100))
    known = read_table(plain)
    packed = tmp_path / "rents.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert_same(store_table(packed), known)
    parquet = tmp_path / "rents.parquet"
    duckdb.sql(f"COPY (FROM read_csv('{plain}')) TO '{parquet}'")
    stored, read = store_table(parquet), read_table(parquet)
    for name, values in read.items():
        if name == "built":
            assert stored[name].tolist() == values.astype("datetime64[us]").tolist()
        elif values.dtype.kind == "f":
            np.testing.assert_array_equal(stored[name], values)
        else:
            assert stored[name].tolist() == values.tolist()
    duckdb.sql(f"COPY (SELECT [1, 2] AS pair) TO '{parquet}'")
    with pytest.raises(DataFormatError, match=r"'pair': INTEGER.* is not numbers"):
        store_table(parquet)


def test_rows_keep_their_order_where_several_threads_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_table, "_ROWS_AT_ONCE", 1 << 15)
    path = tmp_path / "long.csv"
    path.write_text("a,b,c\n" + "".join(f"{i},{i % 7}x,{'filler' * 8}\n" for i in range(60_000)))
    stored = store_table(path)
    np.testing.assert_array_equal(stored["a"], np.arange(60_000))
    np.testing.assert_array_equal(stored["b"].codes, np.arange(60_000) % 7)


@pytest.mark.parametrize("target", ["rent", "class"])
@pytest.mark.parametrize("scaling", ["robust", "standard"])
def test_streamed_fit_with_a_whole_buffer_is_the_fit_in_memory(target, scaling, tmp_path):
    path = write(tmp_path / "rents.csv", rents())
    how = {"epochs": 2, "seed": 3, "scaling": scaling, "validation_fraction": 0.2}
    known = TableModel(**how).fit(path, target, stream=False)
    model = TableModel(**how).fit(path, target, stream=300)
    assert model.preparation.told == known.preparation.told
    np.testing.assert_array_equal(model.held_out, known.held_out)
    for mine, its in zip(model.network.layers, known.network.layers, strict=True):
        np.testing.assert_array_equal(mine.W, its.W)
    assert model.card.columns == known.card.columns
    assert model.card.targets == known.card.targets
    for part, values in known.card.metrics.items():
        assert model.card.metrics[part] == pytest.approx(values, rel=1e-12)
    small = TableModel(**how).fit(path, target, stream=60)
    assert small.history[-1].cost < 2 * known.history[-1].cost
    assert not np.array_equal(small.network.layers[0].W, known.network.layers[0].W)


def test_groups_and_labels_of_a_stored_table_are_those_in_memory(tmp_path):
    lines = [f"{line},{i % 2},{i % 3 % 2}" for i, line in enumerate(rents(120)[1:])]
    path = write(tmp_path / "rents.csv", ["a,b,c,d,e,f,g,h,i,j,left,right", *lines])
    how = {"epochs": 1, "seed": 0, "split_by": "b", "validation_fraction": 0.3, "drop": ["f"]}
    models = [
        TableModel(**how).fit(path, ["left", "right"], stream=stream) for stream in (False, 120)
    ]
    np.testing.assert_array_equal(models[0].held_out, models[1].held_out)
    assert models[0].card.metrics["training"] == pytest.approx(models[1].card.metrics["training"])


def test_large_file_is_read_in_parts_by_itself(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "rents.csv", rents(100))
    monkeypatch.setattr(stored_table, "_LARGE", 1000)
    with caplog.at_level(logging.INFO, "bp_xp"):
        model = TableModel(epochs=1, seed=0).fit(path, "rent")
    assert "rents.csv is read in parts: its columns take" in caplog.text
    whole = read_table(path)
    np.testing.assert_array_equal(model.predict(path), model.predict(whole))
    assert model.evaluate(path) == model.evaluate(whole)
    assert model.importance(path, repeats=1) == model.importance(whole, repeats=1)
    assert model.outside(path) == model.outside(whole)


def test_inputs_of_any_rows_are_those_in_memory(tmp_path):
    path = write(tmp_path / "rents.csv", rents(150))
    preparation = TableModel(epochs=1, seed=0).fit(path, "rent").preparation
    rows = np.random.default_rng(0).permutation(150)[:100]
    stored = StoredInputs(preparation, open_columns(path, stream=True)).at(rows)
    np.testing.assert_array_equal(stored[10:90], preparation.inputs(read_table(path))[rows[10:90]])
    assert stored.shape == (100, len(preparation.features))


def test_value_that_is_too_far_off_is_named_by_its_row(tmp_path):
    path = write(tmp_path / "table.csv", ["a,y", *[f"{i % 9},{i % 5}.5" for i in range(150)]])
    model = TableModel(epochs=1, scaling="standard", seed=0).fit(path, "y")
    write(path, ["a", *["3"] * 100, "1e300"])
    with pytest.raises(ValueError, match="row 101, column 'a': 1e\\+300 is too far"):
        StoredInputs(model.preparation, open_columns(path, stream=True)).check()


def test_too_many_texts_are_left_out_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_table, "_MOST_WORDS", 50)
    path = write(tmp_path / "rents.csv", rents(200))
    model = TableModel(epochs=1, seed=0).fit(path, "rent", stream=True)
    assert "different texts in 200 rows" in model.preparation.left_out["note"]
    with pytest.raises(ValueError, match="different texts are too many for categories"):
        TableModel(epochs=1, categorical=["note"]).fit(path, "rent", stream=True)


def test_table_in_memory_is_no_stream():
    with pytest.raises(TypeError, match="stream is for the path of a file: a dict is in memory"):
        TableModel().fit({"a": [1, 2]}, "a", stream=True)


def test_file_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = write(tmp_path / "rents.csv", rents(50))
    read = stored_table._Store.csv_columns

    def changed(*args):
        found = read(*args)
        write(path, rents(60))
        return found

    monkeypatch.setattr(stored_table._Store, "csv_columns", changed)
    with pytest.raises(OSError, match=r"rents\.csv changed while it was read"):
        store_table(path)


ENDS = {
    "disk": (OSError(28, "No space left on device"), OSError, "set TMPDIR to a folder with more"),
    "DuckDB's disk": (
        RuntimeError("IO Error: No space left"),
        OSError,
        "no room for the temporary",
    ),
    "Ctrl-C": (KeyboardInterrupt(), KeyboardInterrupt, None),
    "Ctrl-C in DuckDB": (RuntimeError("Query interrupted"), KeyboardInterrupt, None),
}


@pytest.mark.parametrize(("error", "kind", "message"), ENDS.values(), ids=ENDS)
def test_full_disk_and_interrupt_leave_nothing_behind(error, kind, message, tmp_path, monkeypatch):
    path = write(tmp_path / "rents.csv", rents(50))

    def fail(*_):
        raise error

    monkeypatch.setattr(stored_table._Store, "write", fail)
    with pytest.raises(kind, match=message):
        store_table(path)


@pytest.mark.parametrize("stream", [False, True])
def test_mistake_in_a_column_matters_only_if_it_is_used(tmp_path, stream):
    lines = ["size;k;y", *[f"{i},5;{i % 9};{i * 3}" for i in range(90)]]
    path = write(tmp_path / "slip.csv", [*lines, "5.5;1;9"])
    settings = {"epochs": 1, "seed": 0, "task": "regression"}
    message = r"row 91, column 'size': '5.5' is not a number.*pass categorical=\['size'\]"
    with pytest.raises(DataFormatError, match=message):
        TableModel(**settings).fit(path, "y", stream=stream)
    model = TableModel(**settings, drop=["size"]).fit(path, "y", stream=stream)
    assert model.preparation.left_out == {"size": "as was asked for"}
    assert model.evaluate(path) == model.evaluate(
        {n: read_table(path, text=["size"])[n] for n in "ky"}
    )
    sound = TableModel(**settings).fit(write(tmp_path / "sound.csv", lines), "y")
    with pytest.raises(DataFormatError, match=r"'5.5' is not a number. Correct it\.$"):
        sound.predict(path)
    with pytest.raises(ValueError, match="evaluate needs a column 'y'; the table has"):
        sound.evaluate({"size": [1], "k": [2]})


def test_messages_advise_a_table_that_fit_takes(tmp_path):
    path = write(
        tmp_path / "days.csv", ["d,y", *[f"0{1 + i % 9}/03/2020,{i}.5" for i in range(50)]]
    )
    with pytest.raises(DataFormatError, match=r"pass read_table\(path, day_first=True\)"):
        TableModel(epochs=1).fit(path, "y")
    model = TableModel(epochs=1, seed=0).fit(read_table(path, day_first=True), "y")
    assert model.preparation.numbers.dates == (True,)
