import numpy as np
import pytest

from bp_xp import Adam, CosineDecay
from bp_xp.tables import Recipe, TableModel
from bp_xp.tables.recipe import even_batch_size

RNG = np.random.default_rng(0)
X = RNG.standard_normal((130, 3))
Y = X[:, 0] * X[:, 1] + X[:, 2]
SMALL = {"hidden_layer_sizes": (8,), "seed": 0}


def test_rate_falls_to_the_end_of_the_run_and_batches_are_even():
    arguments = Recipe(epochs=10).fit_arguments(130)
    assert arguments["batch_size"] == 65
    assert arguments["optimizer"] == Adam(CosineDecay(0.006, steps=20))
    own = Recipe(optimizer="sgd", batch_size=200, l2=[0.1, 0.2]).fit_arguments(130)
    assert (own["optimizer"], own["batch_size"], own["l2"]) == ("sgd", 130, [0.1, 0.2])


def test_penalty_is_weaker_where_rows_are_many():
    found = [Recipe().fit_arguments(n)["l2"] for n in (1, 600, 1200, 3000, 10**6)]
    assert found == [0.01, 0.01, 0.005, 0.002, 0.002]


@pytest.mark.parametrize("most", [1, 2, 31, 128])
def test_no_mini_batch_is_much_smaller_than_the_others(most):
    for n_rows in range(1, 300):
        size = even_batch_size(n_rows, most)
        n_batches = -(-n_rows // size)
        assert 1 <= size <= most
        assert n_batches == -(-n_rows // most) or size == 1
        assert size * n_batches - n_rows < n_batches  # the last one lacks fewer rows than there are


def test_all_rows_are_trained_on_and_the_last_epoch_counts():
    model = TableModel(epochs=3, **SMALL).fit(X, Y)
    assert model.card.rows == {"training": 130, "validation": 0, "test": 0}
    assert len(model.held_out) == 0
    assert model.history[-1].validation_cost is None


def test_best_epoch_comes_back_where_rows_are_held_out():
    # So high a rate makes the cost rise again and again.
    held = {"validation_fraction": 0.3, "learning_rate": 0.5, "epochs": 20}
    model = TableModel(**held, **SMALL).fit(X, Y)
    costs = [record.validation_cost for record in model.history]
    assert len(costs) == 20
    assert model.history.best_epoch == 1 + int(np.argmin(costs)) < 20
    stopped = TableModel(**held, **SMALL, patience=2).fit(X, Y)
    assert len(stopped.history) < 20


def test_arguments_of_fit_change_the_recipe_for_once():
    model = TableModel(**SMALL).fit(X, Y, epochs=2)
    assert len(model.history) == 2
    same = TableModel(epochs=2, **SMALL).fit(X, Y)  # whose rate falls within two epochs as well
    np.testing.assert_array_equal(model.predict(X), same.predict(X))
    assert model.recipe.epochs == Recipe().epochs


def test_recipe_is_told_with_what_was_changed():
    assert TableModel().recipe == Recipe()
    assert str(Recipe()).startswith("recipe         dropout-cosine, version 1\n")
    told = str(TableModel((3,), optimizer="sgd", validation_fraction=0.2, patience=4).recipe)
    assert "with other hidden_layer_sizes, optimizer, validation_fraction, patience\n" in told
    assert "optimizer      sgd\n" in told
    assert "rows held out  0.2 of all, for the best epoch, patience 4 epochs" in told


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)) + "|initial"):
        TableModel(**wrong).fit(X, Y)
