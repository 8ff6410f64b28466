import warnings

import numpy as np
import pytest
from helpers import assert_agrees, tolerance, widest

from bp_xp import to_numpy
from bp_xp.math.activations import ACTIVATIONS
from bp_xp.math.costs import COSTS
from bp_xp.math.metrics import METRICS, Metric, confusion_matrix, top_k
from bp_xp.math.model import Model
from bp_xp.training.arguments import metric_named
from bp_xp.training.evaluation import totals_of

OF_CLASS_1 = ["precision", "recall", "f1"]
CLASS_METRICS = ["accuracy", "balanced_accuracy", *OF_CLASS_1, *(f"{n}_macro" for n in OF_CLASS_1)]
NUMBER_METRICS = ["r2", "mae", "mse"]


def one_hot(labels, classes):
    if classes == 1:
        return np.asarray(labels, np.float64)[:, None]
    return np.eye(classes)[np.asarray(labels)]


def value(name, a, y, where, dtype=None, weights=None):
    """Return a metric as a number, having checked what kind of array it is."""
    dtype = dtype or widest(where)
    metric = metric_named(name)
    given = (a, y) if weights is None else (a, y, weights)
    placed = [where.asarray(np.asarray(part, dtype)) for part in given]
    before = [to_numpy(part).copy() for part in placed]
    options = {} if weights is None else {"weights": placed[2]}
    found = metric(placed[0], placed[1], **options, xp=where.xp)
    assert all(
        np.array_equal(to_numpy(p), b, equal_nan=True) for p, b in zip(placed, before, strict=True)
    )
    number = float(to_numpy(found))
    if np.isfinite(number):
        assert_agrees(found, number, where, dtype)
    return number


def matrix(a, y, where, dtype=None):
    dtype = dtype or widest(where)
    placed = [where.asarray(np.asarray(part, dtype)) for part in (a, y)]
    found = confusion_matrix(*placed, xp=where.xp)
    assert found.dtype == where.xp.int32
    return to_numpy(found)


# ---------------------------------------------------------------------------------------------
# By hand

# Class 0 told as 0, 0, 1; class 1 told as 1, 2; class 2 as 2; class 3 never occurs.
TRUE, TOLD = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]
BY_HAND = {
    "accuracy": 4 / 6,
    "balanced_accuracy": (2 / 3 + 1 / 2 + 1) / 3,
    "recall": (2 / 3 + 1 / 2 + 1) / 3,
    "precision": (1 + 1 / 2 + 1 / 2) / 3,
    "f1": (4 / 5 + 2 / 4 + 2 / 3) / 3,
}
BY_HAND |= {f"{name}_macro": BY_HAND[name] for name in OF_CLASS_1}


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_classes_are_judged_as_by_hand(where, dtype, name):
    found = value(name, 0.9 * one_hot(TOLD, 4), one_hot(TRUE, 4), where, dtype)
    assert found == pytest.approx(BY_HAND[name], rel=4 * float(np.finfo(dtype).eps))


def test_confusion_matrix_has_true_rows_and_told_columns(where, dtype):
    found = matrix(one_hot(TOLD, 4), one_hot(TRUE, 4), where, dtype)
    assert found.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_single_output_tells_class_1_above_a_half(where, dtype):
    a = [[0.2], [0.5], [0.51], [0.9], [0.4]]
    y = [[0.0], [0.0], [0.0], [1.0], [1.0]]
    assert matrix(a, y, where, dtype).tolist() == [[2, 1], [1, 1]]
    rel = 4 * float(np.finfo(dtype).eps)
    assert value("accuracy", a, y, where, dtype) == pytest.approx(3 / 5, rel=rel)
    assert value("precision", a, y, where, dtype) == pytest.approx(1 / 2, rel=rel)
    macro = value("precision_macro", a, y, where, dtype)
    assert macro == pytest.approx((2 / 3 + 1 / 2) / 2, rel=rel)
    assert value("top_1", a, y, where, dtype) == pytest.approx(3 / 5, rel=rel)
    assert value("top_2", a, y, where, dtype) == 1.0


def test_numbers_are_judged_as_by_hand(where, dtype):
    a, y = [[1.0, 0.0], [2.0, 4.0], [6.0, 2.0]], [[1.0, 1.0], [3.0, 3.0], [5.0, 2.0]]
    rel = 8 * float(np.finfo(dtype).eps)
    assert value("mae", a, y, where, dtype) == pytest.approx(4 / 6, rel=rel)
    assert value("mse", a, y, where, dtype) == pytest.approx(4 / 6, rel=rel)
    # Outputs: 1 − 2/8 and 1 − 2/2.
    assert value("r2", a, y, where, dtype) == pytest.approx((3 / 4 + 0) / 2, rel=rel)


# ---------------------------------------------------------------------------------------------
# As scikit-learn


def sklearn_value(name, a, y, weights=None):
    metrics = pytest.importorskip("sklearn.metrics")
    labels = [
        (part[:, 0] > 0.5).astype(int) if part.shape[1] == 1 else part.argmax(axis=1)
        for part in (y, a)
    ]
    weigh = {"sample_weight": weights}
    stem = name.removesuffix("_macro")
    average = "binary" if a.shape[1] <= 2 and stem == name else "macro"
    of_classes = {"average": average, "zero_division": 0} | weigh
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they warn of classes that do not occur
        match stem:
            case "accuracy":
                return metrics.accuracy_score(*labels, **weigh)
            case "balanced_accuracy":
                return metrics.balanced_accuracy_score(*labels, **weigh)
            case "precision":
                return metrics.precision_score(*labels, **of_classes)
            case "recall":
                return metrics.recall_score(*labels, **of_classes)
            case "f1":
                return metrics.f1_score(*labels, **of_classes)
            case "r2":
                return metrics.r2_score(y, a, **weigh)
            case "mae":
                return metrics.mean_absolute_error(y, a, **weigh)
            case "mse":
                return metrics.mean_squared_error(y, a, **weigh)
            case _:
                k = int(name.removeprefix("top_"))
                labeled = {"k": k, "labels": range(a.shape[1])}
                return metrics.top_k_accuracy_score(labels[0], a, **labeled, **weigh)


def class_cases():
    rng = np.random.default_rng(7)

    def case(n, classes, true=None, told=None):
        y = rng.integers(0, max(classes, 2), n) if true is None else np.full(n, true)
        if told is None:
            a = rng.random((n, classes))
        else:
            a = one_hot(np.full(n, told), classes) * 0.8 + 0.1
        return a, one_hot(y, classes)

    y = rng.integers(0, 4, 50)
    return {
        "many": case(500, 7),
        "two": case(60, 2),
        "one-output": case(60, 1),
        "absent": case(5, 12),
        "only-one-true": case(20, 4, true=2),
        "only-one-told": case(20, 4, told=1),
        "never-right": case(10, 3, true=0, told=2),
        "one-output-all-0": case(10, 1, true=0),
        "one-output-never-right": case(10, 1, true=1, told=0),
        "perfect": (one_hot(y, 4), one_hot(y, 4)),
        "one-sample": case(1, 3),
        "one-sample-right": case(1, 3, true=1, told=1),
        "one-sample-one-output": case(1, 1),
        "ties": (rng.integers(0, 3, (200, 5)) / 2.0, one_hot(rng.integers(0, 5, 200), 5)),
        "all-equal": (np.full((20, 3), 0.25), one_hot(rng.integers(0, 3, 20), 3)),
    }


CLASS_CASES = class_cases()


@pytest.mark.parametrize("case", CLASS_CASES)
@pytest.mark.parametrize("name", CLASS_METRICS)
def test_class_metrics_are_those_of_scikit_learn(where, name, case):
    a, y = CLASS_CASES[case]
    found, wanted = value(name, a, y, where), sklearn_value(name, a, y)
    assert found == pytest.approx(wanted, rel=tolerance(widest(where), 1e-14), abs=0)


@pytest.mark.parametrize("case", CLASS_CASES)
def test_confusion_matrix_is_that_of_scikit_learn(where, case):
    metrics = pytest.importorskip("sklearn.metrics")
    a, y = CLASS_CASES[case]
    labels = [part[:, 0] > 0.5 if part.shape[1] == 1 else part.argmax(axis=1) for part in (y, a)]
    wanted = metrics.confusion_matrix(*labels, labels=range(max(a.shape[1], 2)))
    assert np.array_equal(matrix(a, y, where), wanted)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_top_k_is_that_of_scikit_learn(where, k):
    a, y = CLASS_CASES["many"]
    assert value(f"top_{k}", a, y, where) == pytest.approx(
        sklearn_value(f"top_{k}", a, y), rel=tolerance(widest(where), 1e-15)
    )


def number_cases():
    rng = np.random.default_rng(8)
    y = rng.normal(size=(200, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, -3.0]
    constant = y.copy()
    constant[:, 1] = 0.5
    met = y + 0.1
    met[:, 1] = 0.5
    return {
        "close": (y + 0.1 * rng.normal(size=y.shape), y),
        "poor": (rng.normal(size=y.shape), y),
        "one-output": (y[:, :1] + 0.3, y[:, :1]),
        "perfect": (y, y),
        "constant-targets": (y, constant),
        "constant-targets-met": (met, constant),
        "two-samples": (y[2:4], y[:2]),
    }


NUMBER_CASES = number_cases()


@pytest.mark.parametrize("case", NUMBER_CASES)
@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_number_metrics_are_those_of_scikit_learn(where, name, case):
    a, y = NUMBER_CASES[case]
    assert value(name, a, y, where) == pytest.approx(
        sklearn_value(name, a, y), rel=tolerance(widest(where), 1e-12)
    )


def test_rounding_is_no_variance_of_constant_targets(where, dtype):
    # The mean of a thousand times 0.1 is not 0.1.
    y = np.full((1000, 1), 0.1)
    assert value("r2", y, y, where, dtype) == 1.0
    assert value("r2", y + 0.1, y, where, dtype) == 0.0


def test_r2_of_one_sample_is_nan(where):
    assert np.isnan(value("r2", [[1.0]], [[1.0]], where))
    assert value("mae", [[1.0]], [[3.0]], where) == 2.0


def test_scores_of_two_classes_are_those_of_class_1_and_not_their_mean(where):
    # 2 % positives, half of which are told, beside as many false alarms.
    y = np.zeros((1000, 1))
    a = np.zeros((1000, 1))
    y[:20] = 1.0
    a[10:30] = 1.0
    for columns in (lambda v: v, lambda v: np.concatenate([1.0 - v, v], axis=1)):
        for name in OF_CLASS_1:
            assert value(name, columns(a), columns(y), where) == pytest.approx(0.5)
            macro = value(f"{name}_macro", columns(a), columns(y), where)
            assert macro == pytest.approx((0.5 + 970 / 980) / 2)


# ---------------------------------------------------------------------------------------------
# Weights

WEIGHTED_CASES = ["many", "two", "one-output", "ties", "perfect", "never-right"]


@pytest.mark.parametrize(
    ("name", "case"),
    [
        *((name, case) for case in WEIGHTED_CASES for name in CLASS_METRICS),
        ("top_2", "many"),
    ],
)
def test_weighted_class_metrics_are_those_of_scikit_learn(where, name, case):
    a, y = CLASS_CASES[case]
    weights = np.random.default_rng(1).random(len(a)) ** 3 + 1e-3
    found = value(name, a, y, where, weights=weights)
    assert found == pytest.approx(
        sklearn_value(name, a, y, weights), rel=tolerance(widest(where), 1e-12), abs=0
    )


@pytest.mark.parametrize("case", NUMBER_CASES)
@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_weighted_number_metrics_are_those_of_scikit_learn(where, name, case):
    a, y = NUMBER_CASES[case]
    # With these, scikit-learn's mean of constant targets is not rounded.
    weights = np.random.default_rng(2).integers(1, 5, len(a)).astype(np.float64)
    found = value(name, a, y, where, weights=weights)
    assert found == pytest.approx(
        sklearn_value(name, a, y, weights), rel=tolerance(widest(where), 1e-12)
    )


@pytest.mark.parametrize("name", [*CLASS_METRICS, "top_2", *NUMBER_METRICS])
def test_a_weight_is_so_many_copies_of_a_sample(where, rng, name):
    y = one_hot([3, 0, 0, 1, 2, 1, 0, 2], 4)  # class 3 has one sample, of weight 0
    a = rng.random((8, 4)) * [1.0, 1.0, 1.0, 0.1]
    copies = np.array([0, 1, 2, 3, 1, 0, 4, 1])
    found = value(name, a, y, where, weights=copies)
    repeated = value(name, *(np.repeat(part, copies, axis=0) for part in (a, y)), where)
    assert found == pytest.approx(repeated, rel=tolerance(widest(where), 1e-13))


def test_the_one_sample_that_counts_has_no_variance(where):
    a, y = [[1.0], [2.0], [3.0]], [[1.0], [2.5], [7.0]]
    assert np.isnan(value("r2", a, y, where, weights=[0.0, 2.0, 0.0]))


def test_rounding_is_no_variance_of_constant_targets_with_weights(where, dtype):
    y = np.full((1000, 1), 0.1)
    y[0] = 5.0
    weights = np.full(1000, 0.3)
    weights[0] = 0.0
    assert value("r2", y, y, where, dtype, weights=weights) == 1.0
    assert value("r2", y + 0.1, y, where, dtype, weights=weights) == 0.0


def test_confusion_matrix_with_weights_holds_what_the_samples_weigh(where, dtype):
    given = 0.9 * one_hot(TOLD, 4), one_hot(TRUE, 4), np.array([1.0, 2.0, 4.0, 8.0, 0.5, 0.25])
    a, y, weights = (where.asarray(part, dtype) for part in given)
    wanted = [[3.0, 4.0, 0, 0], [0, 8.0, 0.5, 0], [0, 0, 0.25, 0], [0, 0, 0, 0]]
    assert_agrees(confusion_matrix(a, y, weights=weights, xp=where.xp), wanted, where, dtype)


def test_every_metric_of_bp_xp_takes_weights():
    assert all(metric.takes_weights for metric in (*METRICS.values(), top_k(3)))


def test_a_metric_that_takes_no_weights_says_so(where):
    metric = metric_named(lambda a, y, *, xp: xp.max(a))
    a = where.asarray([[1.0], [3.0]])
    assert not metric.takes_weights
    assert float(metric(a, a, xp=where.xp)) == 3.0
    with pytest.raises(ValueError, match="'<lambda>' takes no sample weights"):
        metric(a, a, weights=a[:, 0], xp=where.xp)


# ---------------------------------------------------------------------------------------------
# As in training


@pytest.mark.parametrize("case", CLASS_CASES)
def test_accuracy_is_that_of_training(where, case):
    a, y = CLASS_CASES[case]
    model = Model((1, a.shape[1]), (ACTIVATIONS["identity"],), COSTS["quadratic"])
    placed = [where.asarray(part) for part in (a, y)]
    right = to_numpy(totals_of(model, True, where.xp, *placed))[1]
    assert value("accuracy", a, y, where) == right / len(a)


@pytest.mark.parametrize("case", CLASS_CASES)
def test_top_1_is_the_accuracy_with_ties_as_well(where, case):
    a, y = CLASS_CASES[case]
    assert value("top_1", a, y, where) == value("accuracy", a, y, where)


def test_top_k_prefers_the_first_of_equal_outputs(where, dtype):
    a = np.full((4, 4), 0.25)
    y = one_hot([0, 1, 2, 3], 4)
    for k in (1, 2, 3, 4, 9):
        assert value(f"top_{k}", a, y, where, dtype) == min(k, 4) / 4


@pytest.mark.parametrize("k", [1, 3, 9])
def test_outputs_that_are_no_numbers_are_not_right(where, k):
    a = np.full((2, 3), np.nan)
    assert value(f"top_{k}", a, one_hot([1, 2], 3), where) == 0.0


@pytest.mark.parametrize("name", [*CLASS_METRICS, "top_2"])
def test_class_metrics_agree_under_jit(name):
    jax = pytest.importorskip("jax")
    a, y = CLASS_CASES["many"]
    metric = metric_named(name)
    compiled = jax.jit(lambda a, y: metric(a, y, xp=jax.numpy))
    assert float(compiled(a, y)) == pytest.approx(float(metric(a, y, xp=np)), rel=1e-15)


@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_number_metrics_agree_under_jit(name):
    jax = pytest.importorskip("jax")
    a, y = NUMBER_CASES["close"]
    metric = metric_named(name)
    compiled = jax.jit(lambda a, y: metric(a, y, xp=jax.numpy))
    assert float(compiled(a, y)) == pytest.approx(float(metric(a, y, xp=np)), rel=1e-13)


# ---------------------------------------------------------------------------------------------
# Many rows

ROWS = 100_003


@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_number_metrics_hold_in_float32_over_many_rows(where, rng, name):
    y = (rng.normal(size=(ROWS, 2)) + 30.0).astype(np.float32)
    a = (y + 0.3 * rng.normal(size=y.shape)).astype(np.float32)
    wanted = sklearn_value(name, a.astype(np.float64), y.astype(np.float64))
    assert value(name, a, y, where, "float32") == pytest.approx(wanted, rel=3e-6)


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_class_metrics_hold_in_float32_over_many_rows(where, rng, name):
    a = rng.random((ROWS, 3))
    y = one_hot(rng.integers(0, 3, ROWS), 3)
    assert value(name, a.astype(np.float32), y, where, "float32") == pytest.approx(
        sklearn_value(name, a.astype(np.float32), y), rel=1e-6
    )


def test_confusion_matrix_counts_every_one_of_many_rows(where, rng):
    a, y = rng.random((ROWS, 1)), np.ones((ROWS, 1))
    found = matrix(a, y, where, "float32")
    right = int((a.astype(np.float32) > 0.5).sum())
    assert found.tolist() == [[0, 0], [ROWS - right, right]]


# ---------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize("name", METRICS)
def test_table_names_each_metric_as_it_names_itself(name):
    assert METRICS[name].name == name
    assert metric_named(name) is METRICS[name]


def test_long_names_mean_the_short_ones():
    assert metric_named("mean_absolute_error") is METRICS["mae"]
    assert metric_named("mean_squared_error") is METRICS["mse"]


def test_top_k_is_known_by_name_for_any_k():
    assert metric_named("top_12").name == "top_12"
    assert metric_named("top_5") is top_k(5)  # so that a library compiles it once
    assert top_k(5).needs_classes
    assert top_k(5).higher_is_better


def test_directions_are_those_of_the_metrics():
    downwards = {"mae", "mse", "expected_calibration_error"}
    assert {name for name, m in METRICS.items() if not m.higher_is_better} == downwards
    assert {name for name, m in METRICS.items() if not m.needs_classes} == {"r2", "mae", "mse"}


def test_metric_stands_for_itself_and_a_function_for_a_metric(where):
    def worst(a, y, *, xp):
        return xp.max(xp.abs(a - y))

    metric = metric_named(worst)
    assert metric == Metric("worst", worst, needs_classes=False, higher_is_better=True)
    assert metric_named(metric) is metric
    assert value(worst, [[1.0], [4.0]], [[1.0], [2.0]], where) == 2.0


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("acuracy", "'accuracy'"), ("F1", "'f1'"), ("top5", "'top_5'"), ("top_0", "'top_5'")],
)
def test_unknown_name_is_told_what_there_is(wrong, hint):
    with pytest.raises(ValueError, match=f"unknown metric '{wrong}'") as caught:
        metric_named(wrong)
    message = str(caught.value)
    assert hint in message.partition("Did you mean")[2]
    assert all(repr(name) in message for name in METRICS)


def test_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match=r"such as 'top_5'\.$"):
        metric_named("zzz")


@pytest.mark.parametrize("wrong", [3, None, ["accuracy"]])
def test_what_is_no_metric_is_refused(wrong):
    with pytest.raises(TypeError, match="a metric is one of"):
        metric_named(wrong)


@pytest.mark.parametrize(
    ("k", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_top_k_takes_whole_numbers_from_one(k, error):
    with pytest.raises(error, match="k must be"):
        top_k(k)


def test_calibration_error_is_the_gap_of_confidence_and_accuracy_in_each_bin(where, rng):
    a = rng.dirichlet([1.0] * 3, 200)
    y = np.eye(3)[rng.integers(0, 3, 200)]
    weights = rng.random(200)
    confidence, right = a.max(axis=1), a.argmax(axis=1) == y.argmax(axis=1)
    bins = np.ceil(confidence * 15).astype(int)
    wanted = sum(
        weights[bins == b].sum()
        * abs(
            np.average(right[bins == b], weights=weights[bins == b])
            - np.average(confidence[bins == b], weights=weights[bins == b])
        )
        for b in np.unique(bins)
    )
    metric = METRICS["expected_calibration_error"]
    found = metric(*map(where.asarray, (a, y)), weights=where.asarray(weights), xp=where.xp)
    assert float(found) == pytest.approx(wanted / weights.sum())
