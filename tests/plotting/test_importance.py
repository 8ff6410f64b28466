"""Pictures of what the columns of a table matter."""

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

from matplotlib.figure import Figure  # noqa: E402

from bp_xp.plotting import column_importance  # noqa: E402


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_the_largest_falls_are_drawn_the_largest_on_top(ax):
    falls = {f"column {i}": 0.01 * i for i in range(40)}
    assert column_importance(falls, score="accuracy", ax=ax) is ax
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert (len(names), names[0], names[-1]) == (30, "column 10", "column 39")
    assert "accuracy" in ax.get_xlabel()
    with pytest.raises(ValueError, match="no columns"):
        column_importance({}, ax=ax)
