import math

import pytest

from bp_xp.training.history import improvements, improves_upwards


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
    with pytest.raises(ValueError, match=r"does not tell whether more is better"):
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
