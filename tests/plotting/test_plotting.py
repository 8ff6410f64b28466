import functools
import itertools
import sys
from types import MappingProxyType

import numpy as np
import pytest

from bp_xp import SGD, EpochRecord, History, Network, plotting, to_numpy
from bp_xp.datasets import load_digits
from bp_xp.inspection import FlowRecord, GradientFlow

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

from matplotlib import colors, pyplot  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Text  # noqa: E402

# NumPy, and a device that refuses every conversion to NumPy that is not asked for.
PLACES = [("numpy", "cpu"), ("array_api_strict", "device1")]
DIGITS = load_digits()
X, Y = DIGITS.x_test, DIGITS.y_test


@pytest.fixture(autouse=True)
def _nothing_stays_open_or_changed():
    pyplot.close("all")  # what other tests have drawn
    settings = dict(matplotlib.rcParams)
    yield
    left = pyplot.get_fignums()
    pyplot.close("all")
    assert left == []
    assert dict(matplotlib.rcParams) == settings


@pytest.fixture
def ax():
    return new_axes()


def new_axes(size=(6, 5)):
    return Figure(figsize=size, layout="constrained").add_subplot()


def draw(ax):
    """Draw the whole figure: what warns, fails or does not fit only shows then."""
    canvas = FigureCanvasAgg(ax.figure.canvas.figure)
    canvas.draw()
    return canvas.get_renderer()


def words(ax):
    return [text.get_text() for text in ax.texts]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def labels(texts):
    return [text.get_text() for text in texts]


@functools.cache
def run(backend="numpy", device="cpu"):
    """A network that reads most digits and not all, the digits on its device, and its training."""
    pytest.importorskip(backend)
    net = Network(
        [64, 12, 10],
        cost="categorical_cross_entropy",
        seed=0,
        backend=backend,
        device=device,
    )
    flow = GradientFlow(DIGITS.x_train[:50], DIGITS.y_train[:50])
    history = net.fit(
        DIGITS.x_train,
        DIGITS.y_train,
        epochs=3,
        optimizer=SGD(0.5),
        callbacks=[flow],
        progress=False,
    )
    return net, net.asarray(X), Y, history, flow


@functools.cache
def corner(backend="numpy", device="cpu"):
    """A network of two inputs."""
    net = Network(
        [2, 6, 3], cost="categorical_cross_entropy", seed=0, backend=backend, device=device
    )
    rng = np.random.default_rng(3)
    y = np.arange(90) % 3
    x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])[y] + rng.normal(0, 0.6, (90, 2))
    net.fit(x, y, epochs=20, optimizer=SGD(0.5), progress=False)
    return net, net.asarray(x), y


# Every function, on a place that a network computes in; those of one panel take ax, the others
# figure.
ONE_PANEL = {
    "confusion_matrix": lambda at, **to: plotting.confusion_matrix(*run(*at)[:3], **to),
    "first_layer_weights": lambda at, **to: plotting.first_layer_weights(run(*at)[0], **to),
    "misclassified": lambda at, **to: plotting.misclassified(*run(*at)[:3], **to),
    "network_graph": lambda at, **to: plotting.network_graph(
        run(*at)[0], run(*at)[1][:1, ...], Y[:1], **to
    ),
    "decision_regions": lambda at, **to: plotting.decision_regions(*corner(*at), **to),
}
PANELS = {
    "training_curves": lambda at, **to: plotting.training_curves(run(*at)[3], **to),
    "gradient_flow": lambda at, **to: plotting.gradient_flow(run(*at)[4], **to),
}
ALL = ONE_PANEL | PANELS


# ---------------------------------------------------------------------------------------------
# What all have in common


def test_every_public_function_is_tested():
    beside = {"column_importance", "sweep_curves", "sweep_heat_map"}  # in modules of their own
    assert set(ALL) | beside == set(plotting.__all__)


@pytest.mark.parametrize("at", PLACES, ids=str)
@pytest.mark.parametrize("name", ONE_PANEL)
def test_one_panel_is_drawn_on_the_axes_given_from_any_device(name, at, ax):
    assert ONE_PANEL[name](at, ax=ax) is ax
    assert ax.has_data()
    draw(ax)


@pytest.mark.parametrize("at", PLACES, ids=str)
@pytest.mark.parametrize("name", PANELS)
def test_several_panels_are_drawn_on_the_figure_given_from_any_device(name, at):
    figure, part = Figure(), Figure().subfigures()
    for where in (figure, part):
        axes = PANELS[name](at, figure=where)
        assert [ax.figure for ax in axes.values()] == [where] * len(axes)
        draw(next(iter(axes.values())))


@pytest.mark.parametrize("name", ALL)
def test_new_figure_is_one_of_pyplot_that_a_notebook_shows(name):
    drawn = ALL[name](PLACES[0])
    ax = next(iter(drawn.values())) if name in PANELS else drawn
    assert pyplot.get_fignums() == [ax.figure.number]
    draw(ax)
    pyplot.close(ax.figure)


@pytest.mark.parametrize("name", ALL)
def test_missing_matplotlib_is_told_with_the_extra_that_installs_it(name, monkeypatch):
    run()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"bp_xp\[plot\]"):
        ALL[name](PLACES[0])


@pytest.mark.parametrize("name", ALL)
def test_what_can_not_be_drawn_on_is_refused(name):
    argument = "figure" if name in PANELS else "ax"
    with pytest.raises(TypeError, match=rf"{argument} must be .*matplotlib.*not an object of type"):
        ALL[name](PLACES[0], **{argument: [1, 2]})


@pytest.mark.parametrize(
    "call",
    [
        lambda: plotting.first_layer_weights("digits.safetensors"),
        lambda: plotting.misclassified(None, X, Y),
        lambda: plotting.decision_regions([[1.0]], X, Y),
        lambda: plotting.network_graph(run()[0].layers, X, Y),
    ],
)
def test_what_is_no_network_is_refused(call):
    with pytest.raises(TypeError, match=r"network must be a bp_xp\.Network, not a"):
        call()


# ---------------------------------------------------------------------------------------------
# training_curves


def record(epoch, cost, accuracy=None, validation_cost=None, validation_accuracy=None, **metrics):
    values = (cost, accuracy, validation_cost, validation_accuracy)
    return EpochRecord(epoch, *values, 0.1, 1e4, MappingProxyType(metrics))


def curves(*records, **history):
    axes = plotting.training_curves(History(list(records), **history), figure=Figure())
    draw(axes["cost"])
    return axes


def line_named(ax, label):
    (line,) = [line for line in ax.get_lines() if line.get_label() == label]
    return line


def test_curves_hold_training_and_validation_and_a_panel_for_each_metric():
    axes = curves(
        record(1, 2.0, 0.5, 2.2, 0.4, validation_f1=0.3),
        record(2, 1.0, 0.8, 1.5, 0.6, validation_f1=0.5),
    )
    assert list(axes) == ["cost", "accuracy", "validation_f1"]
    assert line_named(axes["cost"], "training").get_xydata().tolist() == [[1, 2.0], [2, 1.0]]
    assert line_named(axes["cost"], "validation").get_ydata().tolist() == [2.2, 1.5]
    assert line_named(axes["accuracy"], "training").get_ydata().tolist() == [0.5, 0.8]
    assert line_named(axes["accuracy"], "validation").get_ydata().tolist() == [0.4, 0.6]
    assert line_named(axes["validation_f1"], "validation").get_ydata().tolist() == [0.3, 0.5]
    assert legend_of(axes["cost"]) == ["training", "validation"]
    assert {ax.get_xlabel() for ax in axes.values()} == {"epoch"}
    assert axes["validation_f1"].get_ylabel() == "validation f1"


def test_a_part_of_the_data_has_one_color_in_all_panels():
    axes = curves(record(1, 2.0, 0.5, 2.2, 0.4, validation_f1=0.3))
    color = {
        part: {
            line.get_color()
            for ax in axes.values()
            for line in ax.get_lines()
            if part in line.get_label()
        }
        for part in ("training", "validation")
    }
    assert [len(one) for one in color.values()] == [1, 1]
    assert color["training"] != color["validation"]


def test_run_without_classes_and_validation_is_one_line():
    axes = curves(record(1, 2.0), record(2, 1.0))
    assert list(axes) == ["cost"]
    assert legend_of(axes["cost"]) == ["training"]


def test_accuracy_is_in_percent():
    axes = curves(record(1, 2.0, 0.5), record(2, 1.0, 0.75))
    assert all(label.endswith("%") for label in labels(axes["accuracy"].get_yticklabels()))


def test_best_epoch_is_marked_where_early_stopping_restored_one():
    records = [record(epoch, 1.0 / epoch, 0.5) for epoch in range(1, 6)]
    axes = curves(*records, best_epoch=3)
    for ax in axes.values():
        assert list(line_named(ax, "best epoch, 3").get_xdata()) == [3, 3]
    assert "best epoch, 3" in legend_of(axes["cost"])
    assert legend_of(curves(*records)["cost"]) == ["training"]


def test_one_epoch_is_a_dot_on_a_whole_number():
    axes = curves(record(1, 2.0, 0.5))
    for ax in axes.values():
        (line,) = ax.get_lines()
        assert line.get_marker() == "o"
        assert labels(ax.get_xticklabels()) == ["0", "1", "2"]


def test_long_run_has_lines_without_dots():
    axes = curves(*(record(epoch, 1.0) for epoch in range(1, 400)))
    assert axes["cost"].get_lines()[0].get_marker() in ("", "None")


@pytest.mark.parametrize(
    ("costs", "scale"),
    [
        ([2.0, 0.1], "linear"),
        ([2.0, 0.01], "log"),
        ([2.0, 0.0], "linear"),
        ([2.0, float("nan"), 0.001], "log"),
        ([float("inf"), float("inf")], "linear"),
    ],
)
def test_costs_that_fall_far_have_a_logarithmic_axis(costs, scale):
    axes = curves(*(record(i, cost) for i, cost in enumerate(costs, start=1)))
    assert axes["cost"].get_yscale() == scale


def test_metric_that_is_no_number_leaves_a_gap():
    axes = curves(record(1, 1.0, validation_r2=float("nan")), record(2, 1.0, validation_r2=0.5))
    np.testing.assert_array_equal(axes["validation_r2"].get_lines()[0].get_ydata(), [np.nan, 0.5])


def test_name_of_a_metric_is_shown_as_it_is():
    ax = curves(record(1, 1.0, **{"validation_$x": 0.5}))["validation_$x"]
    assert ax.get_ylabel() == "validation $x"
    assert not ax.yaxis.label.get_parse_math()


def test_history_without_epochs_is_refused():
    with pytest.raises(ValueError, match="the history is empty"):
        plotting.training_curves(History())


@pytest.mark.parametrize("history", [None, [1.0, 0.5], {"cost": [1.0]}])
def test_what_is_no_history_is_refused(history):
    with pytest.raises(TypeError, match="history must be what fit returned"):
        plotting.training_curves(history)


# ---------------------------------------------------------------------------------------------
# gradient_flow


def flow_record(step, epoch, *layers, ratio=0.01):
    n = len(layers)
    return FlowRecord(step, epoch, layers, (ratio,) * n, (0.25,) * n, (0.5,) * n, layers)


def flow_of(*records):
    axes = plotting.gradient_flow(records, figure=Figure())
    draw(axes["dead"])
    return axes


def test_flow_has_a_line_for_each_layer_in_each_panel():
    flow = run()[4]
    axes = plotting.gradient_flow(flow, figure=Figure())
    assert list(axes) == ["gradient_norms", "update_ratios", "saturated", "dead"]
    for name, ax in axes.items():
        drawn = [line.get_ydata() for line in ax.get_lines()]
        np.testing.assert_array_equal(
            drawn, np.transpose([getattr(record, name) for record in flow.records])
        )
        assert ax.get_lines()[0].get_xdata().tolist() == [1, 2, 3]
    assert legend_of(axes["update_ratios"]) == ["layer 1", "layer 2"]


def test_norms_and_ratios_are_on_logarithmic_axes_and_shares_from_0_to_100_percent():
    axes = flow_of(flow_record(20, 1, 1e-6, 1.0), flow_record(40, 2, 1e-5, 2.0))
    assert [ax.get_yscale() for ax in axes.values()] == ["log", "log", "linear", "linear"]
    for name in ("saturated", "dead"):
        low, high = axes[name].get_ylim()
        assert low <= 0.0
        assert high >= 1.0


def test_records_within_an_epoch_lie_where_they_were_taken():
    records = [flow_record(step, 1 + (step > 20), step / 10) for step in (10, 20, 30, 40)]
    (line,) = flow_of(*records)["gradient_norms"].get_lines()
    assert line.get_xydata().tolist() == [[0.5, 1.0], [1.0, 2.0], [1.5, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize("ratio", [float("inf"), 0.0])
def test_ratio_without_a_logarithm_leaves_a_gap(ratio):
    axes = flow_of(flow_record(20, 1, 1.0, ratio=ratio), flow_record(40, 2, 1.0))
    assert axes["update_ratios"].get_yscale() == "log"
    (line,) = axes["update_ratios"].get_lines()
    assert line.get_ydata()[1] == 0.01
    assert not np.isinf(line.get_ydata()).any()


def test_gradient_of_zero_everywhere_is_drawn_too():
    axes = flow_of(flow_record(20, 1, 0.0, 0.0), flow_record(40, 2, 0.0, 0.0))
    assert axes["gradient_norms"].get_yscale() == "linear"


def test_of_many_layers_some_are_named_from_the_first_to_the_last():
    axes = flow_of(flow_record(20, 1, *np.arange(1.0, 31.0)))
    named = legend_of(axes["update_ratios"])
    assert (named[0], named[-1]) == ("layer 1", "layer 30")
    assert len(named) <= 10
    sample = axes["update_ratios"].get_legend().get_lines()[-1]
    assert tuple(sample.get_color()) == tuple(axes["update_ratios"].get_lines()[-1].get_color())


def test_flow_without_records_is_refused():
    with pytest.raises(ValueError, match="flow has no records: give it to fit"):
        plotting.gradient_flow(GradientFlow(X, Y))


@pytest.mark.parametrize("flow", [None, [1.0], "flow", History([record(1, 1.0)])])
def test_what_is_no_flow_is_refused(flow):
    with pytest.raises(TypeError, match="flow must be a GradientFlow or its records"):
        plotting.gradient_flow(flow)


# ---------------------------------------------------------------------------------------------
# confusion_matrix


def test_cells_hold_counts_and_shares_of_the_true_class_and_zeros_stay_empty(ax):
    plotting.confusion_matrix([[6, 2, 0], [0, 10, 0], [3, 0, 0]], ax=ax)
    at = {text.get_position()[::-1]: text.get_text().split() for text in ax.texts}
    assert at == {
        (0, 0): ["6", "75.0%"],
        (0, 1): ["2", "25.0%"],
        (1, 1): ["10", "100.0%"],
        (2, 0): ["3", "100.0%"],
    }
    shares = ax.get_images()[0].get_array()
    np.testing.assert_array_equal(shares, [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0]])
    assert ax.get_title(loc="left") == "accuracy 76.19% of 21 samples"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")


def test_matrix_of_a_network_is_that_of_its_predictions(ax):
    net, x, y = run()[:3]
    plotting.confusion_matrix(net, x, y, ax=ax)
    expected = np.zeros((10, 10))
    np.add.at(expected, (y, net.predict(x)), 1)
    shares = ax.get_images()[0].get_array()
    np.testing.assert_allclose(shares, expected / expected.sum(axis=1, keepdims=True), rtol=1e-15)
    assert labels(ax.get_xticklabels()) == labels(ax.get_yticklabels()) == list("0123456789")


def test_targets_of_one_class_each_give_the_matrix_of_their_labels():
    net, x, y = run()[:3]
    drawn = [plotting.confusion_matrix(net, x, t, ax=new_axes()) for t in (y, np.eye(10)[y])]
    assert words(drawn[0]) == words(drawn[1])


def test_one_output_makes_two_classes(ax):
    net = Network([64, 1], cost="binary_cross_entropy", seed=0)
    plotting.confusion_matrix(net, X, Y % 2, ax=ax)
    assert labels(ax.get_xticklabels()) == ["0", "1"]


def test_class_without_samples_is_an_empty_row(ax):
    plotting.confusion_matrix([[2, 0], [0, 0]], ax=ax)
    assert ax.get_images()[0].get_array()[1].tolist() == [0, 0]


def test_matrix_of_no_samples_at_all_is_drawn(ax):
    draw(plotting.confusion_matrix([[0, 0], [0, 0]], ax=ax))
    assert words(ax) == []


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float64"])
def test_counts_of_any_dtype_are_drawn_without_overflow(ax, dtype):
    plotting.confusion_matrix(np.array([[200, 100], [0, 250]], dtype), ax=ax)
    assert ax.get_title(loc="left") == "accuracy 81.82% of 550 samples"


def test_shares_that_round_to_nothing_or_all_show_that_they_are_not(ax):
    plotting.confusion_matrix([[99_999, 1], [10, 9_990]], ax=ax)
    assert [text.split()[1] for text in words(ax)] == [">99.9%", "<0.1%", "0.1%", "99.9%"]


@pytest.mark.parametrize(("n", "count"), [(2, 3), (2, 98_765), (3, 3), (10, 98_765), (20, 98_765)])
def test_counts_can_be_read_and_stay_in_their_cells(n, count):
    ax = plotting.confusion_matrix(np.full((n, n), count))
    pyplot.close(ax.figure)
    sizes = []
    for shrink in (1.0, 0.6) if n < 20 else (1.0,):
        ax.figure.set_size_inches(shrink * ax.figure.get_size_inches())
        renderer = draw(ax)
        sizes.append(min(text.get_fontsize() for text in ax.texts))
        cell = ax.get_window_extent(renderer).width / n
        for text in ax.texts:
            box = text.get_window_extent(renderer)
            assert max(box.width, box.height) <= cell
    assert sizes[0] >= 5.0


def test_counts_shrink_with_their_cells_until_they_could_not_be_read(monkeypatch):
    ax = plotting.confusion_matrix(np.full((6, 6), 50), ax=Figure().add_subplot())
    drawn, draw_text = [], Text.draw

    def spy(text, renderer):
        drawn.append(text)
        draw_text(text, renderer)

    monkeypatch.setattr(Text, "draw", spy)
    sizes = []
    for inches in (6, 3, 1):
        ax.figure.set_size_inches(inches, inches)
        drawn.clear()
        draw(ax)
        sizes.append(ax.texts[0].get_fontsize() if ax.texts[0] in drawn else None)
    assert sizes[0] > sizes[1] >= 4.0
    assert sizes[2] is None


@pytest.mark.parametrize("n", [2, 10, 20])
def test_long_names_of_classes_do_not_overlap(n):
    names = [f"a long name of class {i:02}" for i in range(n)]
    ax = plotting.confusion_matrix(np.eye(n, dtype=int), class_names=names)
    renderer = draw(ax)
    assert labels(ax.get_yticklabels()) == names
    ticks = ax.get_xticklabels()
    if ticks[0].get_rotation() == 0:
        boxes = [tick.get_window_extent(renderer) for tick in ticks]
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    pyplot.close(ax.figure)


def test_names_are_shown_as_they_are_and_the_longest_are_cut(ax):
    names = ["$5 to $10", "_private", "x" * 100]
    plotting.confusion_matrix(np.eye(3, dtype=int), class_names=names, ax=ax)
    draw(ax)
    shown = labels(ax.get_xticklabels())
    assert shown[:2] == names[:2]
    assert shown[2].endswith("…")
    assert len(shown[2]) < 30
    assert not any(tick.get_parse_math() for tick in ax.get_xticklabels())


def test_names_of_classes_may_be_told_by_label():
    ax = Figure().add_subplot()
    names = {np.True_: "one", 0.0: "none", np.int8(2): "two"}
    plotting.confusion_matrix(np.eye(3, dtype=int), class_names=names, ax=ax)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["none", "one", "two"]
    with pytest.raises(ValueError, match="class_names has no name for class 1 of 3"):
        plotting.confusion_matrix(np.eye(3, dtype=int), class_names={0: "a", 2: "b", 3: "c"}, ax=ax)


def test_of_very_many_classes_some_are_named():
    ax = plotting.confusion_matrix(np.eye(200, dtype=int))
    assert len(ax.get_xticks()) <= 30
    pyplot.close(ax.figure)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 2, 3], [4, 5, 6]], r"must have shape \(K, K\) .* not \(2, 3\)"),
        ([1, 2], r"not \(2,\)"),
        ([[5]], r"not \(1, 1\)"),
        ([[0.5, 0.5], [0.1, 0.9]], "holds counts"),
        ([[1, -1], [0, 1]], "holds counts"),
        ([[1, np.nan], [0, 1]], "holds counts"),
        ([["a", "b"], ["c", "d"]], "holds counts"),
    ],
)
def test_matrix_that_holds_no_counts_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        plotting.confusion_matrix(matrix)


def test_network_without_data_and_matrix_with_data_are_refused():
    with pytest.raises(TypeError, match="x and y are missing"):
        plotting.confusion_matrix(run()[0], X)
    with pytest.raises(TypeError, match="or a matrix of counts alone"):
        plotting.confusion_matrix(np.eye(2), X, Y)


def test_network_of_numbers_has_no_matrix():
    net = Network([64, 3], output_activation="identity")
    with pytest.raises(ValueError, match="needs targets that are one class each"):
        plotting.confusion_matrix(net, X, np.zeros((len(X), 3)))


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["a", "b"], ValueError, "class_names has 2 names, but there are 10 classes"),
        ("0123456789", TypeError, "class_names must be a list"),
        (10, TypeError, "class_names must be a list"),
    ],
)
def test_names_that_do_not_fit_the_classes_are_refused(names, kind, message):
    for function in (plotting.confusion_matrix, plotting.misclassified):
        with pytest.raises(kind, match=message):
            function(*run()[:3], class_names=names)


# ---------------------------------------------------------------------------------------------
# first_layer_weights


def image_at(ax, place):
    """Return the pixels within the frame of an image."""
    frame = ax.patches[place]
    left, top = (round(edge + 0.5) for edge in frame.get_xy())
    rows = slice(top, top + round(frame.get_height()))
    return ax.get_images()[0].get_array()[rows, left : left + round(frame.get_width())]


def test_each_neuron_is_the_image_of_its_weights(ax):
    net = run()[0]
    plotting.first_layer_weights(net, ax=ax)
    assert len(ax.patches) == 12
    for unit, W in enumerate(net.layers[0].W):
        np.testing.assert_array_equal(image_at(ax, unit).data, W.reshape(8, 8))
    assert words(ax) == [str(unit) for unit in range(12)]


def test_shape_makes_images_that_are_no_squares(ax):
    plotting.first_layer_weights(run()[0], (4, 16), ax=ax)
    assert image_at(ax, 11).shape == (4, 16)


def test_white_is_zero_and_a_few_large_weights_do_not_leave_the_rest_pale(ax):
    W = np.ones((4, 400))
    W[0, 0] = -1000.0
    net = Network.from_layers([(W, np.zeros(4))])
    plotting.first_layer_weights(net, ax=ax)
    low, high = ax.get_images()[0].get_clim()
    assert (low, high) == (-1.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_weights_that_are_all_alike_are_drawn(ax, value):
    net = Network.from_layers([(np.full((3, 4), value), np.zeros(3))])
    draw(plotting.first_layer_weights(net, ax=ax))
    low, high = ax.get_images()[0].get_clim()
    assert low == -high < 0


def test_so_many_neurons_are_shown_as_asked_for(ax):
    net = Network([16, 50, 2], seed=0)
    plotting.first_layer_weights(net, units=7, ax=ax)
    assert len(ax.patches) == 7
    assert "7 of 50 neurons" in ax.get_title(loc="left")


def test_numbers_of_neurons_stay_above_their_images_and_apart():
    ax = plotting.first_layer_weights(Network([784, 36, 10], seed=0))
    renderer = draw(ax)
    frames = [patch.get_window_extent(renderer) for patch in ax.patches]
    assert ax.texts[0].get_window_extent(renderer).y1 <= ax.get_window_extent(renderer).y1
    for text, own in zip(ax.texts, frames, strict=True):
        box = text.get_window_extent(renderer)
        assert box.y0 >= own.y1 - 1.0
        assert not any(box.overlaps(frame) for frame in frames if frame is not own)
    pyplot.close(ax.figure)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((8, 9), ValueError, "shape 8 × 9 has 72 pixels, but the network takes 64 inputs"),
        ((0, 64), ValueError, r"shape\[0\] must be at least 1"),
        ((8.0, 8.0), TypeError, r"shape\[0\] must be an integer"),
        (64, TypeError, "shape must be two numbers"),
        ((4, 4, 4), TypeError, "shape must be two numbers"),
    ],
)
def test_shape_that_does_not_fit_is_refused(shape, kind, message):
    for call in (
        lambda: plotting.first_layer_weights(run()[0], shape),
        lambda: plotting.misclassified(*run()[:3], shape),
    ):
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize("n_inputs", [1, 13, 65])
def test_inputs_that_make_no_square_need_a_shape(n_inputs):
    with pytest.raises(ValueError, match=rf"{n_inputs} inputs do not form a square.*1, {n_inputs}"):
        plotting.first_layer_weights(Network([n_inputs, 3], seed=0))


# ---------------------------------------------------------------------------------------------
# misclassified


def test_misclassified_samples_are_shown_with_the_most_confident_mistakes_first(ax):
    net, x, y = run()[:3]
    p = net.predict_proba(x)
    wrong = np.flatnonzero(p.argmax(axis=1) != y)
    wrong = wrong[np.argsort(-p[wrong].max(axis=1))][:5]
    plotting.misclassified(net, x, y, samples=5, ax=ax)
    assert len(ax.patches) == 5
    for place, (row, text) in enumerate(zip(wrong, words(ax), strict=True)):
        np.testing.assert_array_equal(image_at(ax, place).data, X[row].reshape(8, 8))
        told = p[row].argmax()
        assert text == f"{y[row]}\n→ {told}  {p[row, told]:.0%}"


def test_title_counts_the_misclassified(ax):
    net, x, y = run()[:3]
    wrong = int((net.predict(x) != y).sum())
    plotting.misclassified(net, x, y, ax=ax)
    assert f"{wrong} of 360 samples ({wrong / 360:.2%})" in ax.get_title(loc="left")


def test_where_nothing_is_misclassified_the_picture_says_so(ax):
    net, x = run()[:2]
    plotting.misclassified(net, x, net.predict(x), ax=ax)
    assert ax.get_title(loc="left") == "none of 360 samples is misclassified"
    assert not ax.get_images()
    draw(ax)


def test_names_stand_for_classes_and_targets_for_labels(ax):
    net, x, y = run()[:3]
    names = [f"${i}" for i in range(10)]
    plotting.misclassified(net, x, np.eye(10)[y], class_names=names, samples=1, ax=ax)
    true, told, _ = words(ax)[0].replace("→ ", "").split()
    assert {true, told} <= set(names)
    assert not ax.texts[0].get_parse_math()


def test_one_output_is_the_probability_of_class_one(ax):
    net = Network.from_layers([(np.zeros((1, 4)), [2.0])], cost="binary_cross_entropy")
    plotting.misclassified(net, np.zeros((3, 4)), [[1.0], [0.0], [1.0]], ax=ax)
    assert words(ax) == ["0\n→ 1  88%"]


def test_long_names_stay_apart():
    net, x, y = run()[:3]
    names = [f"a class with the name {i}" for i in range(10)]
    ax = plotting.misclassified(net, x, y, class_names=names)
    renderer = draw(ax)
    assert ax.texts[0].get_fontsize() >= 7.0
    boxes = [text.get_window_extent(renderer) for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    pyplot.close(ax.figure)


def test_samples_of_no_classes_are_refused():
    net = Network([4, 2], output_activation="identity")
    with pytest.raises(ValueError, match="needs targets that are one class each"):
        plotting.misclassified(net, np.zeros((3, 4)), np.zeros((3, 2)))


# ---------------------------------------------------------------------------------------------
# decision_regions


def region_at(ax, x):
    """Return the colors of the map at some points."""
    assert ax.get_images()[0].origin == "lower"
    paint = ax.get_images()[0].get_array()
    left, right, bottom, top = ax.get_images()[0].get_extent()
    column = (x[:, 0] - left) / (right - left) * (paint.shape[1] - 1)
    row = (x[:, 1] - bottom) / (top - bottom) * (paint.shape[0] - 1)
    return paint[row.round().astype(int), column.round().astype(int)]


def test_samples_lie_on_the_region_of_the_class_that_is_predicted_for_them(ax):
    net, x, y = corner()
    plotting.decision_regions(net, x, y, ax=ax)
    # The largest of red, green and blue tells the first three colors apart.
    hues = [np.array(colors.to_rgb(one)) for one in plotting._style.PALETTE[:3]]
    under = region_at(ax, x)
    told = net.predict(x)
    p = net.predict_proba(x).max(axis=1)
    for pixel, label, sure in zip(under, told, p, strict=True):
        if sure > 0.6:  # near a border a pixel may be the neighbor's
            tints = [(1.0 - pixel) @ (1.0 - hue) / np.linalg.norm(1.0 - hue) for hue in hues]
            assert np.argmax(tints) == label


def test_samples_are_drawn_by_class_and_the_misclassified_have_a_dark_rim(ax):
    net, x, y = corner()
    plotting.decision_regions(net, x, y, class_names=["$a$", "_b", "c"], ax=ax)
    wrong = net.predict(x) != y
    dark = [c for c in ax.collections if c.get_edgecolor().size and c.get_edgecolor()[0, 0] == 0]
    light = [c for c in ax.collections if c.get_edgecolor().size and c.get_edgecolor()[0, 0] == 1]
    for marks, rows in ((dark, wrong), (light, ~wrong)):
        drawn = np.concatenate([c.get_offsets() for c in marks if hasattr(c, "get_offsets")])
        np.testing.assert_array_equal(
            np.sort(drawn.data[:, 0]), np.sort(x[rows][:, 0].astype(np.float64))
        )
    assert legend_of(ax) == ["$a$", "_b", "c", "misclassified"]
    assert not ax.get_legend().get_texts()[0].get_parse_math()


def test_border_of_two_classes_goes_where_the_output_is_one_half(ax):
    net = Network.from_layers([([[1.0, 0.0]], [-0.25])], cost="binary_cross_entropy")
    x = np.array([[0.0, 0.0], [1.0, 1.0]])
    plotting.decision_regions(net, x, [0, 1], ax=ax)
    (border,) = [c for c in ax.collections if hasattr(c, "levels")]
    (path,) = border.get_paths()
    np.testing.assert_allclose(path.vertices[:, 0], 0.25, atol=1e-6)
    assert legend_of(ax) == ["0", "1"]


def test_one_number_is_a_map_with_targets_in_the_same_colors(ax):
    net = Network.from_layers([([[1.0, 2.0]], [0.0])], output_activation="identity")
    x, y = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), np.array([0.0, 9.0, 2.0])
    plotting.decision_regions(net, x, y, ax=ax)
    image, (marks,) = ax.get_images()[0], ax.collections
    assert image.get_clim() == marks.get_clim()
    assert image.get_clim()[1] == 9.0
    np.testing.assert_array_equal(marks.get_array(), y)
    np.testing.assert_allclose(region_at(ax, x), [0, 3, 2], atol=0.02)  # half a pixel


def test_network_that_tells_one_class_everywhere_has_no_border(ax):
    net = Network.from_layers([(np.zeros((2, 2)), [5.0, 0.0])], cost="categorical_cross_entropy")
    draw(plotting.decision_regions(net, [[0.0, 0.0], [1.0, 1.0]], [0, 1], ax=ax))
    assert not any(hasattr(c, "levels") for c in ax.collections)


@pytest.mark.parametrize("x", [[[1.0, 2.0]], [[1.0, 0.0], [1.0, 3.0]]])
def test_samples_that_do_not_spread_have_some_room_around(ax, x):
    draw(plotting.decision_regions(corner()[0], x, [0] * len(x), ax=ax))
    assert ax.get_xlim() == (0.5, 1.5)


def test_names_beyond_the_palette_are_all_in_the_legend():
    net = Network([2, 12], cost="categorical_cross_entropy", seed=0)
    x = np.random.default_rng(0).normal(size=(60, 2))
    ax = plotting.decision_regions(net, x, np.arange(60) % 12)
    assert legend_of(ax)[:12] == [str(label) for label in range(12)]
    draw(ax)
    pyplot.close(ax.figure)


def test_regions_need_two_inputs_and_one_output_or_classes():
    with pytest.raises(ValueError, match="networks of two inputs: this one has 64"):
        plotting.decision_regions(run()[0], X, Y)
    net = Network([2, 3], output_activation="identity")
    with pytest.raises(ValueError, match="has 3 outputs that are not classes"):
        plotting.decision_regions(net, [[0.0, 1.0]], [[0.0, 1.0, 2.0]])


# ---------------------------------------------------------------------------------------------
# network_graph

SMALL = [([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]], [0.0, 0.1, 0.2]), ([[1.0, -1.0, 0.5]], [0.3])]


def small_network(**settings):
    return Network.from_layers(SMALL, **({"cost": "binary_cross_entropy"} | settings))


def test_graph_shows_activations_and_errors_of_the_sample(ax):
    net = small_network()
    plotting.network_graph(net, [[0.3, 1.5]], [1], ax=ax)
    trace, number = net.trace([[0.3, 1.5]], [1]), plotting._style.number
    shown = words(ax)
    assert {"0.30", "1.50"} <= set(shown)
    for layer in trace.layers:
        assert {number(a) for a in layer.a[0]} <= set(shown)
        assert {f"δ {number(delta)}" for delta in layer.delta[0]} <= set(shown)
    assert "y = 1.00" in shown
    assert {"2 inputs", "layer 1\n3 × sigmoid", "layer 2\n1 × sigmoid"} <= set(shown)
    assert ax.get_title(loc="left") == f"one sample, cost C = {float(trace.cost):.4g}"
    assert len(ax.patches) == 2 + 3 + 1


def test_graph_has_a_line_for_each_weight_with_its_sign_and_size(ax):
    plotting.network_graph(small_network(), [[0.3, 1.5]], [1], ax=ax)
    first, second = ax.collections
    assert (len(first.get_segments()), len(second.get_segments())) == (6, 3)
    # Row by row of W: the lines into the first neuron come first.
    red, blue = (colors.to_rgb(c) for c in (plotting._style.POSITIVE, plotting._style.NEGATIVE))
    assert [tuple(c[:3]) for c in first.get_colors()[:2]] == [red, blue]
    assert first.get_linewidths()[5] == max(first.get_linewidths())
    ends = {tuple(map(tuple, segment)) for segment in np.round(first.get_segments(), 6).tolist()}
    assert ((0.0, 0.5), (2.3, 1.0)) in ends


def test_large_layers_are_shortened_with_an_ellipsis(ax):
    x = np.arange(64) / 64
    plotting.network_graph(run()[0], x, Y[0], units=4, ax=ax)
    assert words(ax).count("⋮") == 3
    assert len(ax.patches) == 3 * 4
    inputs = [text.get_text() for text in ax.texts if text.get_position()[0] == 0.0]
    number = plotting._style.number
    assert inputs[:4] == [number(value) for value in x[[0, 1, 62, 63]]]
    assert "64 inputs" in inputs


def test_odd_number_of_units_shows_one_more_of_the_first(ax):
    plotting.network_graph(Network([1, 9], seed=0), [[1.0]], np.zeros((1, 9)), units=3, ax=ax)
    heights = [text.get_position()[1] for text in ax.texts if text.get_text() == "⋮"]
    assert heights == [-0.5]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([[0.3, 1.5]], [1]),
        ([0.3, 1.5], 1),
        (np.array([0.3, 1.5]), np.int64(1)),
        ([0.3, 1.5], [[1.0]]),
    ],
)
def test_sample_may_have_the_dimension_of_samples_or_not(ax, x, y):
    plotting.network_graph(small_network(), x, y, ax=ax)
    assert "y = 1.00" in words(ax)


def test_targets_of_one_sample_may_be_a_vector(ax):
    net = Network([2, 3], seed=0)
    plotting.network_graph(net, [0.3, 1.5], [0.25, 0.5, 1.0], ax=ax)
    assert {"y = 0.25", "y = 0.50", "y = 1.00"} <= set(words(ax))


def test_softmax_and_zero_weights_are_drawn(ax):
    layers = [(np.zeros((3, 2)), np.zeros(3))]
    net = Network.from_layers(layers, cost="categorical_cross_entropy")
    draw(plotting.network_graph(net, [[0.0, 0.0]], [2], ax=ax))
    assert words(ax).count("0.33") == 3


def test_numbers_of_a_graph_stay_in_their_circles():
    net, x, y = run()[:3]
    ax = plotting.network_graph(net, x[:1], y[:1])
    renderer = draw(ax)
    circles = [patch.get_window_extent(renderer) for patch in ax.patches]
    for circle in circles:
        middle = (circle.x0 + circle.x1) / 2, (circle.y0 + circle.y1) / 2
        (text,) = [t for t in ax.texts if t.get_window_extent(renderer).contains(*middle)]
        # Of the widest, an activation such as 2.3e−5, the ends may touch the line.
        assert text.get_window_extent(renderer).width <= 1.05 * circle.width
    pyplot.close(ax.figure)


def test_graph_of_several_samples_is_refused():
    with pytest.raises(ValueError, match=r"x has 2 samples.*pass x\[:1\] and y\[:1\]"):
        plotting.network_graph(small_network(), [[0.3, 1.5]] * 2, [1, 0])


def test_graph_of_fewer_than_two_units_is_refused():
    with pytest.raises(ValueError, match="units must be at least 2"):
        plotting.network_graph(small_network(), [[0.3, 1.5]], [1], units=1)


# ---------------------------------------------------------------------------------------------
# Words


@pytest.mark.parametrize(
    "value", [0.0, 1.0, -1.0, 0.0999, 0.00999, -0.0099, 9.96, 99.6, 999.6, -12345.0, 3e-12, 1e300]
)
def test_numbers_are_short_and_right_to_one_percent(value):
    text = plotting._style.number(value)
    assert len(text) <= 7
    assert "-" not in text
    assert float(text.replace("−", "-")) == pytest.approx(value, rel=0.05 if "e" in text else 0.01)


@pytest.mark.parametrize(("paper", "ink"), [("white", "black"), ("#08306b", "white")])
def test_ink_is_seen_on_its_paper(paper, ink):
    assert plotting._style.ink_on(colors.to_rgba(paper)) == ink


def test_results_of_a_device_are_drawn_as_those_of_the_host():
    pytest.importorskip("array_api_strict")
    one, other = (ONE_PANEL["network_graph"](at, ax=new_axes()) for at in PLACES)
    assert words(one)[-3:] == words(other)[-3:]
    one, other = (ONE_PANEL["confusion_matrix"](at, ax=new_axes()) for at in PLACES)
    shares = [to_numpy(ax.get_images()[0].get_array()) for ax in (one, other)]
    # Sums are rounded in another order, which may tip a sample on a border.
    np.testing.assert_allclose(*shares, atol=0.06)
