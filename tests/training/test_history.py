import math
import re

import pytest
from helpers import tolerance

from bp_xp import SGD, EpochRecord, History, Network
from bp_xp.optim.improvement import improvements, improves_upwards


@pytest.mark.parametrize(
    ("name", "upwards"),
    [
        ("accuracy", True),
        ("validation_accuracy", True),
        ("macro_f1", True),
        ("f1_score", True),
        ("validation_r2", True),
        ("precision", True),
        ("Recall", True),
        ("roc_auc", True),
        ("validation_top_5", True),
        ("cost", False),
        ("validation_cost", False),
        ("mae", False),
        ("mean_absolute_error", False),
        ("root mean squared error", False),
        ("log_loss", False),
    ],
)
def test_direction_is_told_by_the_words_of_the_name(name, upwards):
    assert improves_upwards(name) is upwards


@pytest.mark.parametrize("name", ["seconds", "", "recall_error", "inaccuracy", "terror"])
def test_a_name_that_does_not_tell_is_refused(name):
    with pytest.raises(ValueError, match=r"does not show whether higher is better"):
        improves_upwards(name)


@pytest.mark.parametrize(
    ("values", "upwards", "min_delta", "told"),
    [
        ([3.0, 2.0, 2.0, 2.5, 1.0], False, 0.0, [True, True, False, False, True]),
        ([0.5, 0.6, 0.55, 0.65], True, 0.0, [True, True, False, True]),
        # Small gains add up until they count.
        ([0.5, 0.53, 0.56, 0.61], True, 0.1, [True, False, False, True]),
        ([math.nan, 1.0, math.nan, 0.5], False, 0.0, [False, True, False, True]),
        ([], True, 0.0, []),
    ],
    ids=["downwards", "upwards", "min_delta", "nan", "none"],
)
def test_a_value_improves_when_it_beats_the_best_before(values, upwards, min_delta, told):
    assert list(improvements(values, upwards, min_delta)) == told


def test_history_holds_the_mean_cost_and_accuracy_before_each_step(make, data):
    x, y = data
    net = make([3, 4, 2], seed=1)
    before = net.evaluate(x, y)

    # One batch an epoch: the first record is the network at its start.
    history = net.fit(x, y, epochs=2, batch_size=23, optimizer=SGD(1.0), progress=False)

    assert history[0].cost == pytest.approx(before["cost"], rel=tolerance(net.dtype, 1e-13))
    assert history[0].accuracy == pytest.approx(before["accuracy"])
    assert history[1].cost < history[0].cost


def test_the_mean_over_an_epoch_weighs_a_short_batch_by_its_samples(make, data):
    x, y = data
    net = make([3, 2], seed=1)
    tiny = SGD(1e-300)  # nothing moves, so every batch meets the same network

    history = net.fit(x, y, epochs=1, batch_size=10, optimizer=tiny, progress=False)

    assert history[0].cost == pytest.approx(
        net.evaluate(x, y)["cost"], rel=tolerance(net.dtype, 1e-13)
    )


def test_history_is_a_sequence_of_records_and_columns(data):
    history = Network([3, 2], seed=0).fit(*data, epochs=3, progress=False)

    assert len(history) == 3
    assert [record.epoch for record in history] == history["epoch"] == [1, 2, 3]
    assert history["cost"] == [record.cost for record in history]
    assert history["validation_cost"] == [None] * 3
    assert history[-1] == history[1:][-1]
    assert all(record.seconds > 0 and record.samples_per_second > 0 for record in history)
    assert history.stopped == "epochs"
    assert str(history).count("\n") == 2
    with pytest.raises(KeyError, match="'loss': a record has epoch, cost"):
        history["loss"]


def test_a_record_prints_what_it_has():
    assert str(EpochRecord(3, 0.5, None, None, None, 1.0, 10.0)) == "epoch 3  cost 0.5000  1.00 s"
    assert str(History()) == ""


def test_a_notebook_shows_a_history_as_a_table(data):
    def largest(a, y, *, xp):
        return xp.max(a)

    history = Network([3, 2], seed=0).fit(
        *data, epochs=3, validation_data=data, metrics=["f1", largest], progress=False
    )
    shown = history._repr_html_()

    head = re.findall(r"<th>(.*?)</th>", shown)
    assert head == [
        *("epoch", "cost", "accuracy", "validation cost", "validation accuracy", "seconds"),
        *("samples per second", "validation f1", "validation largest"),
    ]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in shown.split("<tr>")[2:]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[1] for row in rows] == [f"{cost:.4f}" for cost in history["cost"]]
    assert [row[4] for row in rows] == [f"{v:.2%}" for v in history["validation_accuracy"]]
    assert [row[7] for row in rows] == [f"{value:.4f}" for value in history["validation_f1"]]
    assert "3 epochs, 3 steps, ended by: epochs" in shown


def test_a_table_leaves_out_what_no_record_has_and_escapes_names():
    record = EpochRecord(1, 0.5, None, None, None, 1.0, 10.0, {"validation_<b>": 1.0})
    shown = History([record])._repr_html_()
    assert "accuracy" not in shown
    assert "<b>" not in shown
    assert "validation &lt;b&gt;" in shown
    assert "0 epochs" in History()._repr_html_()


def test_a_long_table_is_cut_in_the_middle():
    records = [EpochRecord(n, 0.5, None, None, None, 1.0, 10.0) for n in range(1, 1001)]
    shown = History(records, best_epoch=7)._repr_html_()
    assert shown.count("<tr>") == 62
    assert "<td>1000</td>" in shown
    assert "<td>500</td>" not in shown
    assert "the best epoch is 7" in shown
