"""Spaces of settings: grids, and draws from distributions."""

import numpy as np
import pytest

from bp_xp.sweeps import choice, integers, log_uniform, uniform
from bp_xp.sweeps.space import expand


def settings_of(space, draws=None, seed=0):
    return expand(space, draws, np.random.default_rng(seed))


def test_a_grid_has_each_value_beside_each_of_the_others():
    found = settings_of({"a": [1, 2], "b": np.array([0.5, 0.1]), "c": range(2)})
    assert len(found) == 8
    assert {(one["a"], one["b"], one["c"]) for one in found} == {
        (a, b, c) for a in (1, 2) for b in (0.5, 0.1) for c in (0, 1)
    }


def test_several_spaces_are_one_after_the_other():
    spaces = [{"a": [1, 2]}, {"b": [3]}]
    assert settings_of(spaces) == [{"a": 1}, {"a": 2}, {"b": 3}]
    assert [set(one) for one in settings_of(spaces, 2)] == [{"a"}, {"a"}, {"b"}]


def test_draws_are_of_their_distribution_and_repeat_with_their_seed():
    space = {
        "rate": log_uniform(1e-4, 1.0),
        "l2": uniform(0.0, 0.5),
        "n": integers(2, 4),
        "sizes": choice([[2, 1], [2, 3, 1]]),
        "name": ["x", "y", "z"],
    }
    found = settings_of(space, 600)
    assert found == settings_of(space, 600) != settings_of(space, 600, seed=1)
    rates = np.array([one["rate"] for one in found])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1.0
    assert abs(np.median(np.log10(rates)) + 2.0) < 0.25  # the middle in powers of ten
    assert abs(np.mean([one["l2"] for one in found]) - 0.25) < 0.03
    assert {one["n"] for one in found} == {2, 3, 4}
    assert {len(one["sizes"]) for one in found} == {2, 3}
    assert {one["name"] for one in found} == {"x", "y", "z"}


def test_of_lists_alone_no_settings_are_drawn_twice(caplog):
    space = {"a": [1, 2, 3], "b": [[1], [2]]}
    drawn = settings_of(space, 6)
    assert sorted(map(str, drawn)) == sorted(map(str, settings_of(space)))
    assert drawn == settings_of(space, 6) != settings_of(space, 6, seed=1)
    assert not caplog.messages
    assert sorted(map(str, settings_of(space, 7))) == sorted(map(str, drawn))
    assert "there are 6 settings" in caplog.text


@pytest.mark.parametrize(
    ("space", "draws", "error", "words"),
    [
        ({"a": log_uniform(0.1, 1)}, None, ValueError, "draws=20"),
        ({"a": []}, None, ValueError, "no value"),
        ({"a": 0.1}, None, TypeError, "list of values"),
        ({"a": "relu"}, 3, TypeError, "list of values"),
        (["a"], None, TypeError, "dictionary"),
        ({"a": [1]}, 0, ValueError, "draws"),
    ],
)
def test_what_is_no_space_is_refused(space, draws, error, words):
    with pytest.raises(error, match=words):
        settings_of(space, draws)


@pytest.mark.parametrize(
    "make", [lambda: log_uniform(0.0, 1.0), lambda: uniform(1, 1), lambda: integers(3, 2)]
)
def test_bounds_are_in_their_order(make):
    with pytest.raises(ValueError, match="must be"):
        make()
