"""Pictures of sweeps."""

import numpy as np
import pytest

from bp_xp.sweeps import SweepResult, SweepRun

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from bp_xp import plotting  # noqa: E402


@pytest.fixture
def ax():
    return Figure(figsize=(6, 5), layout="constrained").add_subplot()


def draw(ax):
    FigureCanvasAgg(ax.figure).draw()


def table_of(settings, *runs):
    """Return a table of settings, with runs as (number, seed, accuracies)."""
    made = [
        SweepRun(
            number,
            seed,
            None,
            "epochs" if accuracies else "divergence",
            len(accuracies),
            {"accuracy": accuracies, "cost": accuracies} if accuracies else {},
        )
        for number, seed, accuracies in runs
    ]
    return SweepResult("accuracy", True, settings, made)


def test_curves_are_means_over_runs_within_bands(ax):
    table = table_of(
        [{"l2": 0.1}, {"l2": 0.5}],
        *[(0, 0, [0.2, 0.4]), (0, 1, [0.4, 0.8, 0.9]), (1, 0, [0.1]), (1, 1, [0.3])],
    )
    assert plotting.sweep_curves(table, ax=ax) is ax
    draw(ax)
    best, other = ax.get_lines()
    np.testing.assert_allclose(best.get_xydata(), [[1, 0.3], [2, 0.6], [3, 0.9]])
    np.testing.assert_allclose(other.get_xydata(), [[1, 0.2]])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.2)
    assert band[:, 1].max() == pytest.approx(0.9)
    assert all(tick.is_integer() for tick in ax.get_xticks().tolist())
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["l2 0.1", "l2 0.5"]


def test_of_many_settings_the_best_have_curves(ax):
    settings = [{"n": n} for n in range(9)]
    plotting.sweep_curves(table_of(settings, *[(n, 0, [n / 10]) for n in range(9)]), most=3, ax=ax)
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["n 8", "n 7", "n 6"]


def test_a_heat_map_shows_the_best_of_what_else_was_searched(ax):
    settings = [
        {"rate": rate, "l2": l2, "name": name}
        for rate in (0.5, 0.1)
        for l2 in (0.0, 0.2)
        for name in ("x", "y")
    ]
    values = [0.1, 0.2, 0.9, 0.3, 0.4, 0.5, None, None]
    runs = [(n, 0, [] if v is None else [v]) for n, v in enumerate(values)]
    plotting.sweep_heat_map(table_of(settings, *runs), ax=ax)
    draw(ax)
    # l2 from bottom to top, the rate from left to right.
    cells = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(cells, [[0.5, 0.2], [np.nan, 0.9]])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.1", "0.5"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rate", "l2")


def test_the_settings_of_a_heat_map_can_be_named(ax):
    settings = [{"a": a, "b": [a], "c": a} for a in (1, 2)]
    table = table_of(settings, (0, 0, [0.1]), (1, 0, [0.2]))
    plotting.sweep_heat_map(table, "c", "b", ax=ax)
    draw(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("c", "b")


def test_what_can_not_be_drawn_is_told(ax):
    one = table_of([{"l2": 0.1, "b": 1}, {"l2": 0.2, "b": 1}], (0, 0, [0.1]), (1, 0, [0.2]))
    with pytest.raises(ValueError, match="two settings"):
        plotting.sweep_heat_map(one, ax=ax)
    with pytest.raises(ValueError, match="'b' is not one of 'l2'"):
        plotting.sweep_heat_map(one, "l2", "b", ax=ax)
    with pytest.raises(ValueError, match="no curves"):
        plotting.sweep_curves(table_of([{}], (0, 0, [])), ax=ax)
    with pytest.raises(TypeError, match="sweep returned"):
        plotting.sweep_curves([], ax=ax)
